//! A write that waits for its outcome.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::Error;
use crate::outcome::Outcome;
use crate::store::Write;

pub(super) struct PendingWrite {
    pub(super) write: Write,
    pub(super) caller: Caller,
}

pub(super) struct Caller {
    pub(super) reply: oneshot::Sender<Result<Outcome, Error>>,
    /// When the write is given up. Runs from the call, so that waiting behind other batches counts.
    pub(super) deadline: Instant,
    /// How many documents the store had accepted at the call, to know later whether it accepted others.
    pub(super) accepted_before: u64,
    /// Refused once already, and sent again because it was not clear whose fault that was.
    pub(super) retried: bool,
}
