//! Sessions, receipts, publishing, topology. Knows no images.
//!
//! [`consumer`] keeps one consuming session after the other alive; each delivery becomes a [`receipt::Receipt`], which
//! alone acknowledges it; [`quarantine`] hands out one at a time what was delivered again and again; [`topology`] says which
//! queues there are; [`publish`] is the producer's side; [`browse`] looks into queues, and replays or removes dead letters.
//! All of them hold the broker by a `connection`.

pub mod browse;
mod connection;
pub mod consumer;
pub mod headers;
pub mod publish;
pub mod quarantine;
pub mod receipt;
pub mod session;
pub mod topology;

use std::path::PathBuf;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::uri::AMQPUri;
use secrecy::{ExposeSecret, SecretString};

use topology::Topology;

/// How long a connection may take to be made, where the address names no `connection_timeout`: TCP, TLS and the AMQP
/// handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Seconds between heartbeats where the address names none: a dead peer is noticed within two of them, and a busy
/// machine still answers in time.
const HEARTBEAT_SECONDS: u16 = 20;
/// How long the broker may take to answer a request or to confirm a message. A confirm waits for a majority of the
/// queue's replicas, and is held back while the broker is short of memory or disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the broker is and what is declared on it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `amqp(s)://user:pass@host:port/vhost`.
    pub address: SecretString,
    /// PEM file with the broker's certificate authority.
    pub ca: Option<PathBuf>,
    /// The exchange and queues.
    pub topology: Topology,
    /// The connection's name in the broker's management page.
    pub connection_name: String,
}

/// Why the broker could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be understood. Names no part of it, for it may hold a password.
    #[error("the broker's address is not of the form amqp(s)://user:pass@host:port/vhost: {reason}")]
    Address {
        /// What is wrong with it.
        reason: String,
    },
    /// An exchange or queue name, or a delay, that the broker would refuse.
    #[error("{0}")]
    Topology(String),
    /// The certificate authority cannot be read.
    #[error("{path}: {source}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The broker cannot be reached, or refuses the user.
    #[error("broker {broker}: {reason}")]
    Connect {
        /// Host, port and virtual host.
        broker: String,
        /// What happened.
        reason: String,
    },
    /// A queue or exchange exists with other arguments.
    #[error(
        "{what} {name:?} exists with other arguments: {reason}; delete it once it is empty, or choose another name with \
         --queue or --exchange"
    )]
    Different {
        /// Queue or exchange.
        what: &'static str,
        /// Its name.
        name: String,
        /// The broker's words.
        reason: String,
    },
    /// A queue or exchange cannot be declared.
    #[error("{what} {name:?} cannot be declared: {reason}")]
    Declare {
        /// Queue or exchange.
        what: &'static str,
        /// Its name.
        name: String,
        /// The broker's words.
        reason: String,
    },
    /// The connection or channel ended.
    #[error("the session with the broker ended: {0}")]
    Lost(String),
}

impl From<lapin::Error> for Error {
    fn from(error: lapin::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl Settings {
    /// Checks the address without connecting.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn check(&self) -> Result<(), Error> {
        self.uri().map(drop)
    }

    /// Connects and leaves again, to see whether the broker answers and takes the credentials. Declares nothing.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), Error> {
        let connection = self.connect().await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    fn uri(&self) -> Result<AMQPUri, Error> {
        let mut uri: AMQPUri =
            self.address.expose_secret().parse().map_err(|reason: String| Error::Address { reason })?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        Ok(uri)
    }

    /// The broker's certificate authority, where one is given.
    async fn ca_certificates(&self) -> Result<Option<String>, Error> {
        let Some(path) = &self.ca else { return Ok(None) };
        let read = tokio::fs::read_to_string(path).await;
        read.map(Some).map_err(|source| Error::Certificate { path: path.clone(), source })
    }
}

/// Whether the broker refused a declaration because the thing exists with other arguments.
fn is_precondition_failure(error: &lapin::Error) -> bool {
    soft_error(error).is_some_and(|kind| *kind == AMQPSoftError::PRECONDITIONFAILED)
}

/// Whether the broker refused a declaration because this user may not declare.
fn is_access_refusal(error: &lapin::Error) -> bool {
    soft_error(error).is_some_and(|kind| *kind == AMQPSoftError::ACCESSREFUSED)
}

fn soft_error(error: &lapin::Error) -> Option<&AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(protocol) => match protocol.kind() {
            AMQPErrorKind::Soft(kind) => Some(kind),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}
