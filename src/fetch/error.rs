//! Why an image could not be fetched.

use std::time::Duration;

/// The phase of a fetch before anything is said.
pub(super) const CONNECTION: &str = "connection";

/// Why the bytes could not be had. Messages redact a URL's query.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither http nor https.
    #[error("scheme {scheme:?} is not fetched; http and https are")]
    Scheme {
        /// The scheme found.
        scheme: String,
    },
    /// `user:password@` in the URL.
    #[error("a URL with user info is refused; configure credentials per host instead")]
    UserInfo,
    /// No host.
    #[error("the URL has no host")]
    NoHost,
    /// A `file:` URL where local files are not read.
    #[error("local files are read only by index, embed and search")]
    LocalFile,
    /// Neither 80 nor 443, nor allowed.
    #[error("port {port} is refused; allow it with --allow-port {port}")]
    Port {
        /// The port.
        port: u16,
    },
    /// The host is denied, or not among those allowed.
    #[error("host {host:?} is refused by the allow and deny lists")]
    Host {
        /// The host.
        host: String,
    },
    /// The address may not be reached.
    #[error("{host:?} is at {address}, {class}; allow its network with --allow-net")]
    Address {
        /// The host.
        host: String,
        /// Its address.
        address: std::net::IpAddr,
        /// Which block the address is in.
        class: &'static str,
    },
    /// A redirect too many, without a target, or to a place that may not follow.
    #[error("redirect refused: {reason}")]
    Redirect {
        /// What is wrong with it.
        reason: String,
    },
    /// The name does not exist (NXDOMAIN).
    #[error("host {host:?} does not exist")]
    UnknownHost {
        /// The host.
        host: String,
    },
    /// The name could not be resolved now.
    #[error("host {host:?} could not be resolved: {reason}")]
    Resolve {
        /// The host.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// No connection.
    #[error("no connection to {host:?}: {reason}")]
    Connect {
        /// The host.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// A phase took too long.
    #[error("{host:?}: no {phase} within {limit:?}")]
    Timeout {
        /// The host.
        host: String,
        /// What was waited for.
        phase: &'static str,
        /// For how long.
        limit: Duration,
    },
    /// It was not the host's fault: the fetch would have waited too long for something of our own. Only where fetches
    /// may be put off.
    #[error("{host:?} was not asked, or not to the end: {what} was not free in time")]
    Busy {
        /// The host.
        host: String,
        /// What was waited for.
        what: &'static str,
    },
    /// The host was not asked because it has failed all others lately. Only where fetches may be put off.
    #[error("{host:?} brought nothing in its last {turns} turns; until it does, it is tried by one fetch at a time")]
    Failing {
        /// The host.
        host: String,
        /// How many fetches it failed in a row.
        turns: u32,
    },
    /// Neither the host's fault nor the message's: most of many hosts cannot be reached now.
    #[error("most image hosts cannot be reached, as if the network were down: {reason}")]
    Offline {
        /// What happened to this one, or to the last one tried.
        reason: String,
    },
    /// The transfer broke off or was not HTTP.
    #[error("{host:?}: the transfer failed: {reason}")]
    Broken {
        /// The host.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// Not a success.
    #[error("{host:?} answered {status}")]
    Status {
        /// The host.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The host's wish, capped.
        retry_after: Option<Duration>,
    },
    /// The body is too large.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The most that is allowed.
        limit: u64,
    },
    /// A content encoding that is not understood.
    #[error("content encoding {encoding:?} is not understood")]
    Encoding {
        /// The encoding.
        encoding: String,
    },
    /// A local file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A setting or this machine's set-up is unusable; only [`super::Fetcher::new`] says so.
    #[error("fetching cannot be set up: {reason}")]
    Setup {
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Whether there was something at the host's place that could be talked to; `None` where it was not tried.
    pub(super) fn reached_host(&self) -> Option<bool> {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::Timeout { phase: CONNECTION, .. } => Some(false),
            // A name server has answered.
            Self::UnknownHost { .. }
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::Status { .. }
            | Self::TooLarge { .. }
            | Self::Encoding { .. } => Some(true),
            Self::Scheme { .. }
            | Self::UserInfo
            | Self::NoHost
            | Self::LocalFile
            | Self::Port { .. }
            | Self::Host { .. }
            | Self::Address { .. }
            | Self::Redirect { .. }
            | Self::Busy { .. }
            | Self::Failing { .. }
            | Self::Offline { .. }
            | Self::File { .. }
            | Self::Setup { .. } => None,
        }
    }

    /// Whether a host was asked and did not answer, or not to the end.
    pub(super) fn is_no_answer(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. }
                | Self::Resolve { .. }
                | Self::Connect { .. }
                | Self::Broken { .. }
                | Self::Status { status: 500..=599, .. }
        )
    }
}
