//! Why a store cannot do what is asked of it.

use std::fmt;

/// Why an index takes no writes at all until that is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Flood stage, or a block set by an administrator.
    WriteBlock,
    /// The index or alias is missing, or the alias has no write index.
    IndexMissing,
    /// 401 or 403.
    Unauthorized,
    /// Nearly all documents are refused, for one reason.
    Refusals,
}

/// A request to a store that failed as a whole.
#[derive(Debug)]
pub struct Error {
    /// The store's address, without credentials.
    pub store: String,
    pub kind: ErrorKind,
}

/// Why a request to a store failed as a whole.
#[derive(Debug)]
pub enum ErrorKind {
    /// The store's address cannot be parsed or used.
    Address(String),
    /// No response, a server error, or a response that is not Elasticsearch's.
    Unavailable(String),
    /// The store is overloaded (429); fewer concurrent requests help.
    Busy(String),
    /// The request as a whole was too large (413).
    TooLarge,
    /// The request as a whole was refused (400). In a batch, one item may be the cause.
    Refused(String),
    /// No writes are taken at all.
    Blocked {
        cause: Blocked,
        /// In the store's words.
        reason: String,
    },
    /// The index, alias or file does not exist.
    Missing,
    /// The store was made for another model, another mapping, or by a newer imgdex.
    Mismatch {
        /// What does not match.
        what: &'static str,
        found: String,
        expected: String,
        /// What the user can do.
        advice: String,
    },
    /// The document of a query by id is not stored, or has no vector.
    UnknownId(String),
    /// A file cannot be read or written, or a document is damaged.
    Io(String),
}

impl Error {
    pub fn new(store: &impl fmt::Display, kind: ErrorKind) -> Self {
        Self { store: store.to_string(), kind }
    }
}

impl ErrorKind {
    pub(super) fn mismatch(
        what: &'static str,
        found: impl Into<String>,
        expected: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::Mismatch { what, found: found.into(), expected: expected.into(), advice: advice.into() }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorKind::{Address, Blocked, Busy, Io, Mismatch, Missing, Refused, TooLarge, Unavailable, UnknownId};
        let store = &self.store;
        match &self.kind {
            Address(reason) => {
                write!(f, "store {store:?}: {reason}; expected sqlite:PATH or http(s)://host:port/ALIAS")
            }
            Unavailable(reason) | Busy(reason) | Blocked { reason, .. } | Io(reason) => write!(f, "{store}: {reason}"),
            TooLarge => write!(f, "{store}: the request is too large"),
            Refused(reason) => write!(f, "{store}: refused: {reason}"),
            Missing => write!(f, "{store} does not exist; create it with `imgdex mappings apply --store {store}`"),
            Mismatch { what, found, expected, advice } => {
                write!(f, "{store}: {what} is {found}, expected {expected}; {advice}")
            }
            UnknownId(id) => write!(f, "{store}: there is no document {id:?} with a vector"),
        }
    }
}
