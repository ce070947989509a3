//! Why an image could not be fetched.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// Most characters of a URL's or a response's text that an error quotes.
pub(super) const MAX_QUOTE: usize = 64;

/// The phase of a fetch before the request is sent.
pub(super) const CONNECTION: &str = "connection";

/// Why a fetch failed. Messages name a URL by its host only: the rest may hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A redirect too many, without a target, or to a URL that may not follow.
    #[error("redirect refused: {reason}")]
    Redirect { reason: String },
    /// The name does not exist (NXDOMAIN).
    #[error("host {host:?} does not exist")]
    UnknownHost { host: String },
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// Not the host's fault: the fetch would have waited too long for a resource of this process. Only where
    /// [`super::Settings::defer`] is set.
    #[error("{host:?} was not asked, or not to the end: {what} was not free in time")]
    Busy { host: String, what: &'static str },
    /// The host was not asked because all requests to it failed lately. Only where [`super::Settings::defer`] is set.
    #[error("{host:?} did not answer its last {failures} requests; until it does, one request at a time tries it")]
    Failing {
        host: String,
        /// How many requests in a row failed.
        failures: u32,
    },
    /// Neither the host's fault nor the message's: most of many hosts cannot be reached now.
    #[error("most image hosts cannot be reached, as if the network were down: {reason}")]
    Offline {
        /// Why this host could not be reached, or the last one that was tried.
        reason: String,
    },
    /// Not a success.
    #[error("{host:?} answered {status}")]
    Status {
        host: String,
        status: u16,
        /// The response's `Retry-After`, capped.
        retry_after: Option<Duration>,
    },
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("content encoding {encoding:?} is not understood")]
    Encoding { encoding: String },
    /// A local file cannot be read.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// A setting or the configuration of this machine is unusable; returned by [`super::Fetcher::new`] only.
    #[error("fetching cannot be set up: {reason}")]
    Setup { reason: String },
}

/// Which rule refuses a URL or the address behind it.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("scheme {scheme:?} is not fetched; http and https are")]
    Scheme { scheme: String },
    /// `user:password@` in the URL.
    #[error("a URL with user info is refused; configure credentials per host instead")]
    UserInfo,
    #[error("the URL has no host")]
    NoHost,
    /// A `file:` URL where local files are not read.
    #[error("local files are read only by index, embed and search")]
    LocalFile,
    /// Neither 80 nor 443, nor allowed.
    #[error("port {port} is refused; allow it with --allow-port {port}")]
    Port { port: u16 },
    /// The host is denied, or not among those allowed.
    #[error("host {host:?} is refused by the allow and deny lists")]
    Host { host: String },
    #[error("{host:?} is at {address}, {class}; allow its network with --allow-net")]
    Address {
        host: String,
        address: IpAddr,
        /// Which block the address is in.
        class: &'static str,
    },
}

/// How a host failed to answer, or to complete its answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The name could not be resolved now.
    #[error("host {host:?} could not be resolved: {reason}")]
    Resolve { host: String, reason: String },
    #[error("no connection to {host:?}: {reason}")]
    Connect { host: String, reason: String },
    #[error("{host:?}: no {phase} within {limit:?}")]
    Timeout { host: String, phase: &'static str, limit: Duration },
    /// The transfer broke off or was not HTTP.
    #[error("{host:?}: the transfer failed: {reason}")]
    Broken { host: String, reason: String },
}

impl Error {
    /// Whether anything at the host's address could be talked to; `None` where it was not tried.
    pub(super) fn reached_host(&self) -> Option<bool> {
        match self {
            Self::NoAnswer(
                NoAnswer::Resolve { .. } | NoAnswer::Connect { .. } | NoAnswer::Timeout { phase: CONNECTION, .. },
            ) => Some(false),
            // A name server has answered.
            Self::UnknownHost { .. }
            | Self::NoAnswer(NoAnswer::Timeout { .. } | NoAnswer::Broken { .. })
            | Self::Status { .. }
            | Self::TooLarge { .. }
            | Self::Encoding { .. } => Some(true),
            Self::Refused(_)
            | Self::Redirect { .. }
            | Self::Busy { .. }
            | Self::Failing { .. }
            | Self::Offline { .. }
            | Self::File { .. }
            | Self::Setup { .. } => None,
        }
    }

    /// Whether a host was asked and failed: no complete answer, or a 5xx status.
    pub(super) fn is_host_failure(&self) -> bool {
        matches!(self, Self::NoAnswer(_) | Self::Status { status: 500..=599, .. })
    }
}

/// The host as errors name it: the part of a URL that holds no secret.
pub(super) fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}
