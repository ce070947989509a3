//! Why sessions end.

use std::fmt;

use crate::broker::Error;

/// Why a session ended.
#[derive(Debug)]
pub enum End {
    /// There was no connection.
    Connect(Error),
    /// The exchange and queues could not be declared.
    Topology(Error),
    /// The connection or a channel was lost.
    Lost(String),
    /// The broker cancelled the consumer: its queue was deleted, or moved, or an acknowledgement was overdue.
    Cancelled,
    /// An acknowledgement did not reach the broker.
    Ack(String),
    /// A retry or dead letter was not confirmed.
    Publish(String),
    /// The process is stopping.
    Stopped,
}

impl End {
    /// The label of `imgdex_broker_sessions_total`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Topology(_) => "topology",
            Self::Lost(_) => "lost",
            Self::Cancelled => "cancelled",
            Self::Ack(_) => "ack",
            Self::Publish(_) => "publish",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) | Self::Topology(error) => error.fmt(f),
            Self::Lost(reason) => write!(f, "the session was lost: {reason}"),
            Self::Cancelled => f.write_str("the broker cancelled the consumer"),
            Self::Ack(reason) => write!(f, "an acknowledgement did not reach the broker: {reason}"),
            Self::Publish(reason) => write!(f, "a retry or dead letter was not confirmed: {reason}"),
            Self::Stopped => f.write_str("stopping"),
        }
    }
}

impl From<lapin::Error> for End {
    fn from(error: lapin::Error) -> Self {
        Self::Lost(error.to_string())
    }
}
