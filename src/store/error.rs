//! Why a store does not do what it is asked for.

/// Why an index takes no writes at all, until somebody or something mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Flood stage, or a block set by hand.
    WriteBlock,
    /// The index or alias is missing, or the alias has no write index.
    IndexMissing,
    /// 401 or 403.
    Unauthorized,
    /// Nearly all documents are refused, for one reason.
    Refusals,
}

/// Why a request to a store failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's address cannot be understood.
    #[error("store {store:?}: {reason}; expected sqlite:PATH or http(s)://host:port/ALIAS")]
    Address {
        /// The address without credentials.
        store: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer, a server error, or an answer that is not one.
    #[error("{store}: {reason}")]
    Unavailable {
        /// The store, without credentials.
        store: String,
        /// What happened.
        reason: String,
    },
    /// The store has too much to do now (429); fewer requests at a time help.
    #[error("{store}: {reason}")]
    Busy {
        /// The store, without credentials.
        store: String,
        /// Its reason.
        reason: String,
    },
    /// The request as a whole was too large (413).
    #[error("{store}: the request is too large")]
    TooLarge {
        /// The store.
        store: String,
    },
    /// The request as a whole was refused (400); in a batch, one item may be to blame.
    #[error("{store}: refused: {reason}")]
    Refused {
        /// The store.
        store: String,
        /// Its reason.
        reason: String,
    },
    /// No writes are taken at all.
    #[error("{store}: {reason}")]
    Blocked {
        /// The store.
        store: String,
        /// Why.
        cause: Blocked,
        /// Its reason.
        reason: String,
    },
    /// There is no such index, alias or file.
    #[error("{store} does not exist; create it with `imgdex mappings apply --store {store}`")]
    Missing {
        /// The store.
        store: String,
    },
    /// The store was made for another model, another mapping, or by a newer imgdex.
    #[error("{store}: {what} is {found}, but {expected} is needed; {advice}")]
    Mismatch {
        /// The store.
        store: String,
        /// What does not match.
        what: &'static str,
        /// What the store has.
        found: String,
        /// What this command needs.
        expected: String,
        /// What to do.
        advice: String,
    },
    /// Query by the id of a document that is not stored, or has no vector.
    #[error("{store}: there is no document {id:?} with a vector")]
    UnknownId {
        /// The store.
        store: String,
        /// The id.
        id: String,
    },
    /// The file cannot be read or written, or is damaged.
    #[error("{store}: {reason}")]
    Io {
        /// The store.
        store: String,
        /// What happened.
        reason: String,
    },
}
