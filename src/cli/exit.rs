//! How commands end: the exit codes, and which failure has which.

use std::process::ExitCode;

use crate::model::weights;
use crate::store::ErrorKind;
use crate::transfer::import;
use crate::{broker, extract, model, store, worker};

/// How a command ends; the numbers are part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All done.
    Done = 0,
    /// Some items failed; each was named.
    ItemsFailed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong.
    Config = 64,
    /// A service is not available.
    Unavailable = 69,
    /// Reading or writing failed.
    Io = 74,
}

/// Why a command could not do its work: a message for the user, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The exit code.
    pub exit: Exit,
    /// What happened, to what, and what to do.
    pub message: String,
}

impl Error {
    /// An error with its exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Standard output was closed by its reader: not a failure, and nothing to print.
    pub(super) fn reader_gone() -> Self {
        Self::new(Exit::Done, "")
    }

    pub(super) fn is_reader_gone(&self) -> bool {
        self.exit == Exit::Done
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        let exit = match &error.kind {
            ErrorKind::Address(_) | ErrorKind::Mismatch { .. } => Exit::Config,
            ErrorKind::Unavailable(_)
            | ErrorKind::Busy(_)
            | ErrorKind::TooLarge
            | ErrorKind::Blocked { .. }
            | ErrorKind::Missing => Exit::Unavailable,
            ErrorKind::Refused(_) => Exit::Usage,
            ErrorKind::UnknownId(_) => Exit::ItemsFailed,
            ErrorKind::Io(_) => Exit::Io,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<broker::Error> for Error {
    fn from(error: broker::Error) -> Self {
        let exit = match &error {
            broker::Error::Address { .. } | broker::Error::Topology(_) => Exit::Config,
            broker::Error::Certificate { .. } => Exit::Io,
            broker::Error::Connect { .. }
            | broker::Error::Different { .. }
            | broker::Error::Declare { .. }
            | broker::Error::Lost(_) => Exit::Unavailable,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<import::Error> for Error {
    fn from(error: import::Error) -> Self {
        match error {
            import::Error::Store(error) => error.into(),
            import::Error::NotTaken { .. } => Self::new(Exit::Unavailable, error.to_string()),
        }
    }
}

/// Instructions that the machine lacks were asked for; all else is a matter of files.
impl From<model::Error> for Error {
    fn from(error: model::Error) -> Self {
        let exit = if matches!(error, model::Error::Unavailable(_)) { Exit::Config } else { Exit::Io };
        Self::new(exit, error.to_string())
    }
}

impl From<extract::LoadError> for Error {
    fn from(error: extract::LoadError) -> Self {
        match error {
            extract::LoadError::Model(error) => error.into(),
            extract::LoadError::Panicked(_) | extract::LoadError::Thread(_) => Self::new(Exit::Io, error.to_string()),
        }
    }
}

impl From<worker::run::Error> for Error {
    fn from(error: worker::run::Error) -> Self {
        use worker::run::Error::{Decode, Fetch, Listen, Metrics, Model, Signals, WarmUp};
        match error {
            // From making the fetcher: a setting is unusable, or a file that it names.
            Fetch(error) => Self::new(Exit::Config, error.to_string()),
            Model(error) => error.into(),
            Listen { .. } => Self::new(Exit::Io, format!("--admin-listen {error}")),
            Decode(_) | Metrics(_) | Signals(_) | WarmUp(_) => Self::new(Exit::Io, error.to_string()),
        }
    }
}

impl From<weights::Error> for Error {
    fn from(error: weights::Error) -> Self {
        let exit = match &error {
            weights::Error::Download { .. } => Exit::Unavailable,
            weights::Error::Missing { .. }
            | weights::Error::Damaged { .. }
            | weights::Error::Io { .. }
            | weights::Error::TooLarge { .. }
            | weights::Error::Malformed { .. }
            | weights::Error::Foreign { .. } => Exit::Io,
        };
        Self::new(exit, error.to_string())
    }
}
