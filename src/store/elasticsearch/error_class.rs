//! What a failure that Elasticsearch reports means: one pure table for bulk items and whole requests.
//!
//! The error's type decides before the status, because one status has several meanings: 429 is a full queue
//! (`es_rejected_execution_exception`), which passes, or the flood stage (`cluster_block_exception`), which stays until
//! there is room on the disk.

use crate::store::Blocked;

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A newer version is stored.
    Conflict,
    /// Nothing can be written until somebody or something mends the index.
    Blocked(Blocked),
    /// Passes by itself.
    Busy,
    /// Too many bytes.
    TooLarge,
    /// The request or document itself is wrong.
    Refused,
}

/// The status that asks for fewer requests, where it does not tell of a block.
pub const OVERLOAD: u16 = 429;

/// How Elasticsearch begins the reason of an `illegal_argument_exception` where an alias has no write index. It has
/// no type of its own (checked on 8.16.3 and 9.4.3), and without this look a whole queue would be refused as bad documents.
const NO_WRITE_INDEX: &str = "no write index is defined for alias";

impl Meaning {
    /// The meaning of a status, an error type and a reason.
    pub fn of(status: u16, kind: &str, reason: &str) -> Self {
        match (status, kind) {
            // Before the blocks: a cluster without a master reports a `cluster_block_exception` too, and elects one.
            (503, _) => Self::Busy,
            (_, "cluster_block_exception" | "index_closed_exception") => Self::Blocked(Blocked::WriteBlock),
            (_, "index_not_found_exception") => Self::Blocked(Blocked::IndexMissing),
            (_, "illegal_argument_exception") if reason.starts_with(NO_WRITE_INDEX) => {
                Self::Blocked(Blocked::IndexMissing)
            }
            (401 | 403, _) => Self::Blocked(Blocked::Unauthorized),
            (409, "version_conflict_engine_exception") => Self::Conflict,
            (413, _) => Self::TooLarge,
            // A conflict of another kind is between two changes to the cluster.
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
        use Meaning::{Busy, Conflict, Refused, TooLarge};
        for (status, kind, expected) in [
            (400, "document_parsing_exception", Refused),
            (400, "strict_dynamic_mapping_exception", Refused),
            (400, "illegal_argument_exception", Refused),
            (400, "index_closed_exception", Meaning::Blocked(WriteBlock)),
            (401, "security_exception", Meaning::Blocked(Unauthorized)),
            (403, "security_exception", Meaning::Blocked(Unauthorized)),
            (403, "", Meaning::Blocked(Unauthorized)),
            (403, "cluster_block_exception", Meaning::Blocked(WriteBlock)),
            (404, "index_not_found_exception", Meaning::Blocked(IndexMissing)),
            (404, "resource_not_found_exception", Refused),
            (408, "", Busy),
            (409, "version_conflict_engine_exception", Conflict),
            (409, "", Busy),
            (413, "", TooLarge),
            (429, "cluster_block_exception", Meaning::Blocked(WriteBlock)),
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
            assert_eq!(Meaning::of(status, kind, "x"), expected, "{status} {kind}");
        }
    }

    #[test]
    fn an_alias_without_write_index_is_not_the_document_s_fault() {
        let reason = "no write index is defined for alias [images]. The write index may be explicitly disabled";
        let meaning = Meaning::of(400, "illegal_argument_exception", reason);
        assert_eq!(meaning, Meaning::Blocked(Blocked::IndexMissing));
    }
}
