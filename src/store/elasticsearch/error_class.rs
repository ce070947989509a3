//! Classes of the errors that Elasticsearch reports: one pure table for bulk items and whole requests.
//!
//! The error's type decides before the status, because one status has several meanings: 429 is a full queue
//! (`es_rejected_execution_exception`), which is transient, or the flood stage (`cluster_block_exception`), which lasts
//! until the disk has space again.

use crate::store::Blocked;

/// The class of an error, which decides how it is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorClass {
    /// A newer version is stored.
    Conflict,
    /// The index takes no writes until it is repaired.
    Blocked(Blocked),
    /// Transient.
    Busy,
    /// Too many bytes.
    TooLarge,
    /// The request or document itself is invalid.
    Refused,
}

/// The status of an overloaded server, unless the error's type is a block.
pub(super) const OVERLOAD: u16 = 429;

/// The start of Elasticsearch's reason where an alias has no write index. The error's type is the general
/// `illegal_argument_exception` (checked on 8.16.3 and 9.4.3), so without this check every document of a queue would be
/// refused as invalid.
const NO_WRITE_INDEX: &str = "no write index is defined for alias";

impl ErrorClass {
    /// The class of a status, an error type and a reason.
    pub(super) fn of(status: u16, kind: &str, reason: &str) -> Self {
        match (status, kind) {
            // Before the blocks: a cluster that is electing a master reports a `cluster_block_exception`, too.
            (503, _) => Self::Busy,
            (_, "cluster_block_exception" | "index_closed_exception") => Self::Blocked(Blocked::WriteBlock),
            (_, "index_not_found_exception") => Self::Blocked(Blocked::IndexMissing),
            (_, "illegal_argument_exception") if reason.starts_with(NO_WRITE_INDEX) => {
                Self::Blocked(Blocked::IndexMissing)
            }
            (401 | 403, _) => Self::Blocked(Blocked::Unauthorized),
            (409, "version_conflict_engine_exception") => Self::Conflict,
            (413, _) => Self::TooLarge,
            // A 409 of another type is a conflict between two changes to the cluster.
            (408 | 409 | 425 | 429, _) => Self::Busy,
            (400..=499, _) => Self::Refused,
            _ => Self::Busy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        use Blocked::{IndexMissing, Unauthorized, WriteBlock};
        use ErrorClass::{Busy, Conflict, Refused, TooLarge};
        for (status, kind, expected) in [
            (400, "document_parsing_exception", Refused),
            (400, "strict_dynamic_mapping_exception", Refused),
            (400, "illegal_argument_exception", Refused),
            (400, "index_closed_exception", ErrorClass::Blocked(WriteBlock)),
            (401, "security_exception", ErrorClass::Blocked(Unauthorized)),
            (403, "security_exception", ErrorClass::Blocked(Unauthorized)),
            (403, "", ErrorClass::Blocked(Unauthorized)),
            (403, "cluster_block_exception", ErrorClass::Blocked(WriteBlock)),
            (404, "index_not_found_exception", ErrorClass::Blocked(IndexMissing)),
            (404, "resource_not_found_exception", Refused),
            (408, "", Busy),
            (409, "version_conflict_engine_exception", Conflict),
            (409, "", Busy),
            (413, "", TooLarge),
            (429, "cluster_block_exception", ErrorClass::Blocked(WriteBlock)),
            (429, "es_rejected_execution_exception", Busy),
            (429, "circuit_breaking_exception", Busy),
            (429, "", Busy),
            (500, "illegal_state_exception", Busy),
            (502, "", Busy),
            (503, "unavailable_shards_exception", Busy),
            (503, "cluster_block_exception", Busy),
            (504, "", Busy),
            (302, "", Busy),
        ] {
            assert_eq!(ErrorClass::of(status, kind, "x"), expected, "{status} {kind}");
        }
    }

    #[test]
    fn an_alias_without_write_index_is_not_the_document_s_fault() {
        let reason = "no write index is defined for alias [images]. The write index may be explicitly disabled";
        let class = ErrorClass::of(400, "illegal_argument_exception", reason);
        assert_eq!(class, ErrorClass::Blocked(Blocked::IndexMissing));
    }
}
