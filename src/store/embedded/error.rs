//! Why an operation on the file failed, before the store's name is added.

use std::collections::TryReserveError;

use rusqlite::ErrorCode;

use crate::store::{Blocked, ErrorKind};

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("no memory for the vectors: {0}")]
    Memory(#[from] TryReserveError),
    #[error("document {id:?} is damaged: {reason}")]
    Damaged { id: String, reason: String },
    #[error("{0}")]
    Refused(String),
    #[error("there is no document {0:?} with a vector")]
    UnknownId(String),
}

/// What each failure means to a user of the store.
impl From<Error> for ErrorKind {
    fn from(error: Error) -> Self {
        let reason = error.to_string();
        match error {
            Error::Refused(reason) => Self::Refused(reason),
            Error::UnknownId(id) => Self::UnknownId(id),
            Error::Memory(_) => Self::Unavailable(reason),
            Error::Damaged { .. } => Self::Io(reason),
            Error::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
                    Self::Unavailable(format!("another process is writing to it: {reason}"))
                }
                Some(ErrorCode::OutOfMemory) => Self::Unavailable(reason),
                Some(ErrorCode::DiskFull) => Self::Blocked { cause: Blocked::WriteBlock, reason },
                Some(ErrorCode::ReadOnly) => {
                    let advice =
                        "even reading needs write permission for the file and its folder, where SQLite keeps its log";
                    Self::Blocked { cause: Blocked::WriteBlock, reason: format!("{reason}; {advice}") }
                }
                Some(ErrorCode::PermissionDenied) => Self::Blocked { cause: Blocked::Unauthorized, reason },
                Some(ErrorCode::TooBig) => Self::TooLarge,
                _ => Self::Io(reason),
            },
        }
    }
}
