//! Sessions, receipts, publishing, topology. Knows no images.
//!
//! [`session`] keeps one consuming session after the other alive; each delivery becomes a [`receipt::Receipt`], which
//! alone acknowledges it; [`suspects`] hands out one at a time what was delivered again and again; [`topology`] says which queues there are; [`publish`] is the producer's side; [`dead`] looks into
//! queues, and replays or removes dead letters.

pub mod dead;
pub mod headers;
pub mod publish;
pub mod receipt;
pub mod session;
pub mod suspects;
pub mod topology;

use std::path::PathBuf;
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionBuilder, ConnectionProperties, ErrorKind};
use secrecy::{ExposeSecret, SecretString};

use topology::Topology;

/// How long a connection may take to be made: TCP, TLS and the AMQP handshake together.
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
        uri.query.connection_timeout.get_or_insert(CONNECT_TIMEOUT.as_millis() as u64);
        Ok(uri)
    }

    /// Connects. The library's own recovery stays off: it covers connection errors only, so a session that lost its
    /// channel or its consumer would look alive.
    async fn connect(&self) -> Result<Connection, Error> {
        let uri = self.uri()?;
        let broker = format!("{}://{}:{}/{}", uri.scheme, uri.authority.host, uri.authority.port, uri.vhost);
        let cert_chain = match &self.ca {
            None => None,
            Some(path) => Some(
                tokio::fs::read_to_string(path)
                    .await
                    .map_err(|source| Error::Certificate { path: path.clone(), source })?,
            ),
        };
        let failed = |reason: String| Error::Connect { broker: broker.clone(), reason };
        let runtime = lapin::runtime::default_runtime().map_err(|error| failed(error.to_string()))?;
        let builder = ConnectionBuilder::new_with_runtime(runtime)
            .with_uri(uri)
            .with_tls_config(OwnedTLSConfig { identity: None, cert_chain })
            .with_properties(
                ConnectionProperties::default().with_connection_name(self.connection_name.as_str().into()),
            );
        match tokio::time::timeout(CONNECT_TIMEOUT, builder.connect()).await {
            Ok(result) => result.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed(format!("no session within {CONNECT_TIMEOUT:?}"))),
        }
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
