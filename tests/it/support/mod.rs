//! What the tests share: one file per subject.

/// A scripted Elasticsearch.
pub mod bulk_stub;
pub mod dns;
pub mod http;
pub mod images;
pub mod poll;
pub mod process;
pub mod rabbit;
pub mod scrape;
