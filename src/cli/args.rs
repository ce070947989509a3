//! Arguments that several commands share. Every flag is also an environment variable `IMGDEX_` + its name.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::machine;
use crate::model::compute::{Compute, KernelChoice, PlanChoice};

/// The heading in the help for the arguments of every command.
const GENERAL: &str = "General options";

/// A broker on this machine with the settings of its package.
const DEFAULT_BROKER: &str = "amqp://127.0.0.1:5672/%2f";

/// Arguments of every command.
#[derive(Args, Clone, Debug)]
pub struct GlobalArgs {
    /// Log level on stderr: error, warn, info, debug, trace, or a filter such as `imgdex=debug`
    /// [default: info for worker, warn otherwise]
    #[arg(long, global = true, help_heading = GENERAL, env = "IMGDEX_LOG")]
    pub log: Option<String>,
    /// Log format
    #[arg(long, global = true, help_heading = GENERAL, env = "IMGDEX_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Configuration file [default: imgdex.toml in the configuration folder, where it exists]
    #[arg(long, global = true, help_heading = GENERAL, env = "IMGDEX_CONFIG", value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
}

/// The format of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people; the default on a terminal.
    Table,
    /// One JSON document.
    Json,
    /// One JSON object per line; the default elsewhere.
    Ndjson,
}

/// Where documents are kept.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// `sqlite:PATH` or `http(s)://[user:pass@]host:port/ALIAS` [default: sqlite: under the data folder]
    #[arg(long, env = "IMGDEX_STORE", hide_env_values = true)]
    pub store: Option<String>,
    /// API key for Elasticsearch (base64 of id:key)
    #[arg(long, env = "IMGDEX_ES_API_KEY", hide_env_values = true)]
    pub es_api_key: Option<String>,
    /// PEM file with the certificate authority of Elasticsearch
    #[arg(long, env = "IMGDEX_ES_CA", value_name = "FILE")]
    pub es_ca: Option<std::path::PathBuf>,
    /// Allow an API key or password over plain HTTP to a host other than this one
    #[arg(long, env = "IMGDEX_ALLOW_PLAIN_HTTP", value_parser = BoolishValueParser::new())]
    pub allow_plain_http: bool,
    /// Use a store whose vectors an earlier release made, which decoded JPEG a little differently
    #[arg(long, env = "IMGDEX_ACCEPT_EARLIER_DECODER", value_parser = BoolishValueParser::new())]
    pub accept_earlier_decoder: bool,
}

/// How features are computed.
#[derive(Args, Clone, Debug, Default)]
pub struct ModelArgs {
    /// The model of a new store, and of `embed`: vgg16 or vgg16-keras; an existing store has its own
    #[arg(long, env = "IMGDEX_MODEL")]
    pub model: Option<String>,
    /// Folder with the weights [default: the data folder]
    #[arg(long, env = "IMGDEX_MODEL_DIR", value_name = "DIR")]
    pub model_dir: Option<std::path::PathBuf>,
    /// Compute threads [default: the cores that the cgroup grants]
    #[arg(long, env = "IMGDEX_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// The CPU instructions to compute features with
    #[arg(long, env = "IMGDEX_KERNEL", value_enum, default_value_t)]
    pub kernel: KernelChoice,
    /// Compute features in the least time or with the least memory
    #[arg(long, env = "IMGDEX_PLAN", value_enum, default_value_t)]
    pub plan: PlanChoice,
    /// Keep packed weights in memory only, and write no file of them
    #[arg(long, env = "IMGDEX_NO_PACKED_FILE", value_parser = BoolishValueParser::new())]
    pub no_packed_file: bool,
}

impl ModelArgs {
    /// The settings of the network.
    pub fn compute(&self) -> Compute {
        let Self { kernel, plan, threads, no_packed_file, .. } = *self;
        Compute { kernel, plan, threads, no_packed_file }
    }

    /// How many threads compute.
    pub fn thread_count(&self) -> usize {
        self.threads.map_or_else(machine::cores, NonZeroUsize::get)
    }
}

/// Which images may be fetched and decoded.
#[derive(Args, Clone, Debug)]
pub struct FetchArgs {
    /// Private or local network that may be reached (repeatable)
    #[arg(long, env = "IMGDEX_ALLOW_NET", value_name = "CIDR", value_delimiter = ',')]
    pub allow_net: Vec<IpNet>,
    /// Port that may be reached besides 80 and 443 (repeatable)
    #[arg(long, env = "IMGDEX_ALLOW_PORT", value_name = "N", value_delimiter = ',')]
    pub allow_port: Vec<u16>,
    /// Only these hosts and their subdomains (repeatable)
    #[arg(long, env = "IMGDEX_ALLOW_HOST", value_name = "HOST", value_delimiter = ',')]
    pub allow_host: Vec<String>,
    /// Never these hosts and their subdomains (repeatable)
    #[arg(long, env = "IMGDEX_DENY_HOST", value_name = "HOST", value_delimiter = ',')]
    pub deny_host: Vec<String>,
    /// Name server to ask for image hosts instead of the system's: ADDRESS:PORT (repeatable)
    #[arg(long, env = "IMGDEX_NAME_SERVER", value_name = "ADDRESS", value_delimiter = ',')]
    pub name_server: Vec<SocketAddr>,
    /// TOML file with credentials of image hosts: lines `"https://HOST" = "Bearer ..."`
    #[arg(long, env = "IMGDEX_HOST_AUTH_FILE", value_name = "FILE")]
    pub host_auth_file: Option<std::path::PathBuf>,
    /// PEM file with certificate authorities that image hosts may use besides the public ones
    #[arg(long, env = "IMGDEX_FETCH_CA", value_name = "FILE")]
    pub fetch_ca: Option<std::path::PathBuf>,
    /// Largest image file in bytes
    #[arg(long, env = "IMGDEX_MAX_IMAGE_BYTES", value_name = "N", default_value_t = 32 << 20)]
    pub max_image_bytes: u64,
    /// Largest sum of all image files that are fetched and not yet decoded, in bytes; one file may exceed it
    #[arg(long, env = "IMGDEX_MAX_INFLIGHT_BYTES", value_name = "N", default_value_t = 256 << 20)]
    pub max_inflight_bytes: u64,
    /// Largest number of pixels of an image
    #[arg(long, env = "IMGDEX_MAX_IMAGE_PIXELS", value_name = "N", default_value_t = 100_000_000)]
    pub max_image_pixels: u64,
    /// Decode TIFF too
    #[arg(long, env = "IMGDEX_ALLOW_TIFF", value_parser = BoolishValueParser::new())]
    pub allow_tiff: bool,
    /// Decode a JPEG whose file ends too early if at most so many per cent of the image are missing; the missing part is grey
    #[arg(long, env = "IMGDEX_ACCEPT_TRUNCATED", value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=100))]
    pub accept_truncated: u8,
}

/// The broker, its exchange and its queues.
#[derive(Args, Clone, Debug)]
pub struct BrokerArgs {
    /// The broker: `amqp(s)://user:pass@host:port/vhost`
    #[arg(long, env = "IMGDEX_AMQP", hide_env_values = true, default_value = DEFAULT_BROKER)]
    pub amqp: String,
    /// The work queue; its retry queues are NAME.retry.SECONDS, its dead-letter queue NAME.dead
    #[arg(long, env = "IMGDEX_QUEUE", default_value = "imgdex.images")]
    pub queue: String,
    /// The exchange
    #[arg(long, env = "IMGDEX_EXCHANGE", default_value = "imgdex")]
    pub exchange: String,
    /// Seconds that a message waits before its first, second, ... retry; one queue each
    #[arg(
        long,
        env = "IMGDEX_RETRY_DELAYS",
        value_name = "SECONDS",
        value_delimiter = ',',
        default_value = "5,30,120"
    )]
    pub retry_delays: Vec<u32>,
    /// PEM file with the certificate authority of the broker
    #[arg(long, env = "IMGDEX_AMQP_CA", value_name = "FILE")]
    pub amqp_ca: Option<std::path::PathBuf>,
}

/// How long deletions are remembered.
#[derive(Args, Clone, Copy, Debug)]
pub struct RetentionArgs {
    /// How long deletions are remembered, the same for all commands: an upsert that is older is not applied, and dead-lettered
    /// as `expired`
    #[arg(long, env = "IMGDEX_RETENTION", value_name = "DURATION", default_value = "30d", value_parser = retention)]
    pub retention: Duration,
}

fn retention(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a retention of zero would refuse every image".to_owned()),
        retention => Ok(retention),
    }
}

/// Parses `30d`, `12h`, `90s` and the like.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; expected a duration such as 30d, 12h or 90s"))
}

impl BrokerArgs {
    /// Whether `--amqp` has its default value.
    pub fn is_default(&self) -> bool {
        self.amqp == DEFAULT_BROKER
    }
}

/// Parses `KEY=VALUE`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form KEY=VALUE")),
    }
}
