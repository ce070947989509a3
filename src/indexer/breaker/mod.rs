//! Whose fault a refused document is: its own, or the store's.
//!
//! A document with a field that the mapping does not take is its producer's fault and is dead-lettered. But with a
//! wrong mapping, or a broken ingest pipeline, every document is refused, and a whole queue would be dead-lettered. So
//! a refusal waits for the outcomes of other documents. Where the store is at fault, the breaker trips: nothing is
//! dead-lettered, consumption pauses, and a few of the refused documents are tried again until one is accepted.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::backpressure::window::Window;
use crate::store::Write;

/// How many of the last documents are judged.
const WINDOW: usize = 50;
/// So many refusals of one kind in a window are the store's fault: nine in ten.
const TRIP_AT: usize = WINDOW * 9 / 10;
/// How many refused documents are kept for trying again. More than one: a single one may be at fault itself.
const SAMPLES: usize = 5;
/// How long samples are used. Afterwards the queue is tried, with fresh documents.
const SAMPLES_LIFE: Duration = Duration::from_mins(10);

/// The outcome of a document's write, as far as it tells about the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Stored, or older than the stored version.
    Accepted,
    /// Refused with this type of error.
    Refused(String),
}

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Document,
    /// Nearly all documents are refused for this reason.
    Store,
}

/// The breaker, shared by the batches in flight and by `worker::gate`, which pauses consumption.
#[derive(Debug, Default)]
pub struct Breaker {
    state: watch::Sender<State>,
    check_requested: Notify,
}

#[derive(Debug, Default)]
struct State {
    recent: Window<Evidence, WINDOW>,
    /// How many documents were recorded since the last reset.
    recorded: u64,
    /// How many documents were ever accepted.
    accepted: u64,
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
    fn is_expired(&self) -> bool {
        self.since.elapsed() >= SAMPLES_LIFE
    }
}

impl State {
    fn record(&mut self, evidence: Evidence) {
        self.accepted += u64::from(evidence == Evidence::Accepted);
        self.recorded += 1;
        self.recent.push(evidence);
    }

    /// Whose fault a refusal of this kind is, judged by the whole window, and by the documents that were recorded with
    /// it or after it: since `mark` documents were recorded. `None` while that is open.
    fn fault(&self, mark: u64, kind: &str) -> Option<Fault> {
        if self.recent.count(|item| matches!(item, Evidence::Refused(found) if found == kind)) >= TRIP_AT {
            return Some(Fault::Store);
        }
        // After a reset the mark may lie ahead of the number of recorded documents.
        let since =
            usize::try_from(self.recorded.saturating_sub(mark)).unwrap_or(usize::MAX).min(self.recent.iter().len());
        let accepted = self.recent.iter().rev().take(since).filter(|&item| *item == Evidence::Accepted).count();
        // One in ten accepted, or a whole window without a decision.
        (accepted * 10 >= since.max(1) || since >= WINDOW).then_some(Fault::Document)
    }
}

impl Breaker {
    /// Asks for a check of the store, which may take no writes, so that consumption pauses before more messages wait.
    pub fn request_check(&self) {
        self.check_requested.notify_one();
    }

    /// Completes at the next request for a check; at once where there was one since the last call.
    pub async fn check_requested(&self) {
        self.check_requested.notified().await;
    }

    /// The refused documents, while the breaker is tripped and they are fresh enough to be tried.
    pub fn tripped(&self) -> Option<Tripped> {
        self.state.borrow().tripped.clone().filter(|tripped| !tripped.is_expired())
    }

    /// Closes the breaker and forgets the evidence: a sample was accepted.
    pub fn reset(&self) {
        self.state.send_modify(|state| *state = State { accepted: state.accepted, ..State::default() });
    }

    /// Records the documents of one request. Returns the mark for judging the refusals among them.
    pub(super) fn record(&self, evidence: impl IntoIterator<Item = Evidence>) -> u64 {
        let mut mark = 0;
        self.state.send_modify(|state| {
            mark = state.recorded;
            evidence.into_iter().for_each(|item| state.record(item));
        });
        mark
    }

    /// How many documents were ever accepted.
    pub(super) fn accepted(&self) -> u64 {
        self.state.borrow().accepted
    }

    /// Whose fault a refusal of this kind is, as far as that is clear.
    pub(super) fn fault(&self, mark: u64, kind: &str) -> Option<Fault> {
        self.state.borrow().fault(mark, kind)
    }

    /// Whose fault a refusal of this kind is; waits for evidence until the deadline.
    pub(super) async fn await_fault(&self, mark: u64, kind: &str, deadline: Instant) -> Fault {
        let mut state = self.state.subscribe();
        let mut fault = None;
        let decided = state.wait_for(|state| {
            fault = state.fault(mark, kind);
            fault.is_some()
        });
        // A time-out leaves no evidence against the store. The sender lives as long as `self`.
        let _ = timeout_at(deadline, decided).await;
        fault.unwrap_or(Fault::Document)
    }

    /// Opens the breaker where it is closed, and keeps the refused document as a sample.
    pub(super) fn trip(&self, refused: &Write, reason: &str) {
        self.state.send_modify(|state| {
            if state.tripped.as_ref().is_some_and(Tripped::is_expired) {
                state.tripped = None;
            }
            let tripped = state.tripped.get_or_insert_with(|| {
                tracing::error!(%reason, "nearly all documents are refused for one reason, which is the store's fault");
                Tripped { samples: Vec::new(), reason: reason.to_owned(), since: Instant::now() }
            });
            if tripped.samples.len() < SAMPLES {
                tripped.samples.push(refused.clone());
            }
        });
        self.request_check();
    }
}

#[cfg(test)]
mod tests;
