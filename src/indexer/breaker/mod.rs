//! Who is to blame for a refused document: the document, or the index.
//!
//! A document with a field that the mapping does not take is its producer's fault and goes to the dead letters. But with
//! a wrong mapping, or a broken ingest pipeline, every document is refused, and a queue would be drained into the dead
//! letters. So refusals are held until others show who is to blame; where it is the index, the breaker trips: nothing is
//! dead-lettered, consuming rests, and a few of the refused documents are tried again until one is taken.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::store::Write;

/// Over how many documents is judged.
const WINDOW: usize = 50;
/// So many refusals of one kind in a window are the index's fault: nine in ten.
const TRIP_AT: usize = WINDOW * 9 / 10;
/// How many refused documents are kept for trying again. More than one: a single one may be at fault itself.
const SAMPLES: usize = 5;
/// How long samples are good for. Afterwards the queue is tried: with fresh documents, and before Elasticsearch forgets
/// the deletions (`index.gc_deletes`) that keep an old sample from coming back.
const SAMPLES_LIFE: Duration = Duration::from_mins(10);

/// What became of a document, as far as it tells about its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Taken, or older than what is there.
    Taken,
    /// Refused with this type of error.
    Refused(String),
}

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The document's own.
    Document,
    /// The index's: nearly all documents are refused for this reason.
    Index,
}

/// The last documents, oldest first.
#[derive(Debug, Default)]
struct Window {
    items: VecDeque<Evidence>,
    /// How many were ever recorded.
    recorded: u64,
}

impl Window {
    fn record(&mut self, evidence: Evidence) {
        self.recorded += 1;
        self.items.push_back(evidence);
        if self.items.len() > WINDOW {
            self.items.pop_front();
        }
    }

    /// Who is to blame for a refusal of this kind, judged by the whole window and by what came with it or after it: since
    /// `mark` documents were recorded. `None` while that is open.
    fn blame(&self, mark: u64, kind: &str) -> Option<Blame> {
        let refused = self.items.iter().filter(|item| matches!(item, Evidence::Refused(found) if found == kind));
        if refused.count() >= TRIP_AT {
            return Some(Blame::Index);
        }
        // After a reset the mark may lie ahead of what is recorded.
        let since = usize::try_from(self.recorded.saturating_sub(mark)).unwrap_or(usize::MAX).min(self.items.len());
        let taken = self.items.iter().rev().take(since).filter(|&item| *item == Evidence::Taken).count();
        // One in ten taken, or a whole window without a verdict.
        (taken * 10 >= since.max(1) || since >= WINDOW).then_some(Blame::Document)
    }
}

/// The breaker, shared by the batches on their way and by whoever decides about consuming.
#[derive(Debug)]
pub struct Breaker {
    state: watch::Sender<State>,
    /// The store may take no writes.
    doubt: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many documents were ever taken.
    taken: u64,
    window: Window,
    tripped: Option<Tripped>,
}

/// Documents that were refused when the breaker tripped.
#[derive(Clone, Debug)]
pub struct Tripped {
    /// To be tried again.
    pub samples: Vec<Write>,
    /// Why they were refused.
    pub reason: String,
    since: Instant,
}

impl Tripped {
    fn is_old(&self) -> bool {
        self.since.elapsed() >= SAMPLES_LIFE
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: watch::Sender::new(State::default()), doubt: Notify::new() }
    }
}

impl Breaker {
    /// Says that the store may take no writes, so that consuming rests before more messages wait.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Completes at the next doubt; at once where there was one since the last call.
    pub async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// The refused documents, while the breaker is tripped and they are fresh enough to be tried.
    pub fn tripped(&self) -> Option<Tripped> {
        self.state.borrow().tripped.clone().filter(|tripped| !tripped.is_old())
    }

    /// Documents are taken again, or are worth another try: starts afresh.
    pub fn reset(&self) {
        self.state.send_modify(|state| *state = State { taken: state.taken, ..State::default() });
    }

    /// Records what became of the documents of one request. Returns the mark for judging those among them.
    pub(super) fn record(&self, evidence: impl IntoIterator<Item = Evidence>) -> u64 {
        let mut mark = 0;
        self.state.send_modify(|state| {
            mark = state.window.recorded;
            for item in evidence {
                state.taken += u64::from(item == Evidence::Taken);
                state.window.record(item);
            }
        });
        mark
    }

    /// How many documents were ever taken.
    pub(super) fn taken(&self) -> u64 {
        self.state.borrow().taken
    }

    /// Who is to blame for a refusal of this kind, as far as that is clear.
    pub(super) fn blame(&self, mark: u64, kind: &str) -> Option<Blame> {
        self.state.borrow().window.blame(mark, kind)
    }

    /// Who is to blame for a refusal of this kind; waits for evidence until the deadline.
    pub(super) async fn await_blame(&self, mark: u64, kind: &str, deadline: Instant) -> Blame {
        let mut state = self.state.subscribe();
        let mut blame = None;
        let decided = state.wait_for(|state| {
            blame = state.window.blame(mark, kind);
            blame.is_some()
        });
        // Neither time-out nor an end of the sender, which lives as long as `self`, leaves evidence against the index.
        let _ = timeout_at(deadline, decided).await;
        blame.unwrap_or(Blame::Document)
    }

    /// Trips, with a refused document and the reason.
    pub(super) fn trip(&self, refused: &Write, reason: &str) {
        self.state.send_modify(|state| {
            if state.tripped.as_ref().is_some_and(Tripped::is_old) {
                state.tripped = None;
            }
            let tripped = state.tripped.get_or_insert_with(|| {
                tracing::error!(%reason, "nearly all documents are refused for one reason: the index is to blame");
                Tripped { samples: Vec::new(), reason: reason.to_owned(), since: Instant::now() }
            });
            if tripped.samples.len() < SAMPLES {
                tripped.samples.push(refused.clone());
            }
        });
        self.doubt();
    }
}

#[cfg(test)]
mod tests;
