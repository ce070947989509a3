//! What the tests share: servers, stubs, faults, and the program as a child process.

pub mod accounting;
pub mod bombs;
pub mod decoders;
pub mod dns;
pub mod documents;
pub mod elasticsearch;
pub mod elasticsearch_stub;
pub mod flow;
pub mod http;
pub mod images;
pub mod management;
pub mod poll;
pub mod process;
pub mod proxy;
pub mod rabbit;
pub mod report;
pub mod scrape;
pub mod service;
pub mod tcp_faults;
pub mod usage;

/// The folder that `models/fetch.sh` fills.
pub fn model_folder() -> std::path::PathBuf {
    let variable = |name| std::env::var_os(name).map(std::path::PathBuf::from);
    let data = || variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
    variable("IMGDEX_MODEL_DIR").or_else(|| Some(data()?.join("imgdex"))).unwrap()
}
