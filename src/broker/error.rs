//! Why the broker could not be used.

use std::path::PathBuf;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be parsed. The text repeats no part of it: it may hold a password.
    #[error("the broker's address is not of the form amqp(s)://user:pass@host:port/vhost: {reason}")]
    Address { reason: String },
    /// The broker would refuse the name of an exchange or queue, or a delay.
    #[error("{0}")]
    Topology(String),
    /// The file with the certificate authority cannot be read.
    #[error("{path}: {source}")]
    Certificate { path: PathBuf, source: std::io::Error },
    /// The broker cannot be reached, or refuses the user.
    #[error("broker {broker}: {reason}")]
    Connect {
        /// Scheme, host, port and virtual host.
        broker: String,
        reason: String,
    },
    /// A queue or exchange exists with other arguments.
    #[error(
        "{what} {name:?} exists with other arguments: {reason}; delete it once it is empty, or choose another name with \
         --queue or --exchange"
    )]
    Different {
        /// `queue` or `exchange`.
        what: &'static str,
        name: String,
        reason: String,
    },
    /// A queue or exchange cannot be declared.
    #[error("{what} {name:?} cannot be declared: {reason}")]
    Declare {
        /// `queue` or `exchange`.
        what: &'static str,
        name: String,
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

/// Whether the broker refused a declaration because the queue or exchange exists with other arguments.
pub(super) fn is_precondition_failure(error: &lapin::Error) -> bool {
    soft_error(error).is_some_and(|kind| *kind == AMQPSoftError::PRECONDITIONFAILED)
}

/// Whether the broker refused a declaration because this user may not declare.
pub(super) fn is_access_refusal(error: &lapin::Error) -> bool {
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
