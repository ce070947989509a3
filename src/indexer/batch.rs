//! When a batch is sent, and the outcome of each of its writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;

use super::breaker::{Breaker, Evidence, Fault};
use super::concurrency::ConcurrencyLimit;
use super::error::Error;
use super::pending::PendingWrite;
use super::settings::Settings;
use crate::backpressure::backoff::Backoff;
use crate::metrics::{BulkItem, BulkStatus, Metrics, RetryCause};
use crate::outcome::Outcome;
use crate::store::elasticsearch::bulk;
use crate::store::{self, ErrorKind, Store, Write, WriteOutcome};

/// Bounds of the delay before a batch is sent again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How long a refusal waits for evidence. Where fewer documents than needed are written in this time, no queue is
/// emptied quickly, and the breaker's window records them in any case.
const EVIDENCE_WAIT: Duration = Duration::from_secs(10);

/// Collects writes into batches and sends them to one store.
pub(super) struct Batcher {
    store: Arc<Store>,
    settings: Settings,
    metrics: Arc<Metrics>,
    breaker: Arc<Breaker>,
    limit: ConcurrencyLimit,
    tasks: TaskTracker,
}

/// What to do with the writes of a batch that have no outcome after one request.
enum Next {
    /// Send them again after a delay.
    Retry(Vec<PendingWrite>, RetryReason),
    /// Send them as two batches at once: one item may be at fault, or the whole is too large.
    Split(Vec<PendingWrite>),
    /// Every write has its outcome.
    Done,
}

struct RetryReason {
    text: String,
    /// Whether the store failed on these items alone, rather than on the whole request.
    of_items: bool,
}

/// A write that the store refused for its content.
struct RefusedWrite {
    pending: PendingWrite,
    kind: String,
    reason: String,
}

impl Batcher {
    pub(super) fn new(
        store: Arc<Store>,
        settings: Settings,
        metrics: Arc<Metrics>,
        breaker: Arc<Breaker>,
        tasks: TaskTracker,
    ) -> Self {
        let limit = ConcurrencyLimit::new(settings.in_flight);
        metrics.bulk_concurrency(settings.in_flight);
        Self { store, settings, metrics, breaker, limit, tasks }
    }

    /// Collects and sends batches until all senders of `intake` are dropped.
    pub(super) async fn run(self: Arc<Self>, mut intake: mpsc::Receiver<PendingWrite>) {
        let in_flight = Arc::new(Semaphore::new(self.settings.in_flight));
        while let Some(first) = intake.recv().await {
            let batch = self.collect(first, &mut intake).await;
            // Awaiting the permit is the back-pressure: while all are in use, callers wait in the channel.
            let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
            let batcher = Arc::clone(&self);
            self.tasks.spawn(async move {
                batcher.write(batch).await;
                drop(permit);
            });
        }
    }

    /// Adds to the first write until the batch is full or its linger time is up.
    async fn collect(&self, first: PendingWrite, intake: &mut mpsc::Receiver<PendingWrite>) -> Vec<PendingWrite> {
        let Settings { linger, max_items, max_bytes, .. } = self.settings;
        let deadline = Instant::now() + linger;
        let mut bytes = bulk::estimated_bytes(&first.write);
        let mut batch = vec![first];
        while batch.len() < max_items && bytes < max_bytes {
            match timeout_at(deadline, intake.recv()).await {
                Ok(Some(pending)) => {
                    bytes += bulk::estimated_bytes(&pending.write);
                    batch.push(pending);
                }
                Ok(None) | Err(_) => break,
            }
        }
        batch
    }

    /// Sends a batch until each of its writes has its own outcome, or its time is up.
    async fn write(self: &Arc<Self>, batch: Vec<PendingWrite>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut last = RetryReason { text: "earlier batches waited for it".to_owned(), of_items: false };
        let mut open = vec![batch];
        while let Some(batch) = open.pop() {
            let batch = self.give_up_overdue(batch, &last);
            if batch.is_empty() {
                continue;
            }
            match self.send(batch).await {
                Next::Done => {}
                Next::Split(mut first) => {
                    let second = first.split_off(first.len() / 2);
                    open.extend([second, first]);
                }
                Next::Retry(batch, reason) => {
                    let (items, delay) = (batch.len(), backoff.next_delay());
                    tracing::warn!(items, reason = %reason.text, ?delay, "the store did not take a batch; retrying");
                    self.metrics.retry(RetryCause::Store);
                    last = reason;
                    sleep(delay.min(time_left(&batch))).await;
                    open.push(batch);
                }
            }
        }
    }

    /// Replies to the writes whose time is up, and leaves out those whose callers have gone.
    fn give_up_overdue(&self, batch: Vec<PendingWrite>, last: &RetryReason) -> Vec<PendingWrite> {
        let now = Instant::now();
        let (overdue, open): (Vec<_>, Vec<_>) =
            batch.into_iter().filter(|w| !w.caller.reply.is_closed()).partition(|w| w.caller.deadline <= now);
        if !overdue.is_empty() {
            let (items, reason) = (overdue.len(), &last.text);
            tracing::error!(items, %reason, "the store did not take writes in time; their messages are requeued");
        }
        let accepted = self.breaker.accepted();
        for pending in overdue {
            let (held, reason) = (self.settings.hold, last.text.clone());
            let error = if last.of_items && accepted > pending.caller.accepted_before {
                Error::Failed { held, reason }
            } else {
                Error::Unavailable { held, reason }
            };
            self.reply(pending, BulkItem::GivenUp, Err(error));
        }
        open
    }

    async fn send(self: &Arc<Self>, batch: Vec<PendingWrite>) -> Next {
        let slot = self.limit.slot().await;
        let (writes, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.write, w.caller)).unzip();
        let result = self.store.write(&writes).await;
        drop(slot);
        self.metrics.bulk_request(bulk_status(&result));
        self.adapt(&result);
        let batch = writes.into_iter().zip(callers).map(|(write, caller)| PendingWrite { write, caller }).collect();
        match result {
            Ok(written) => self.settle(batch, written),
            Err(error) => self.request_failed(batch, &error),
        }
    }

    /// Lowers the concurrency limit where the store asks for it, raises it where the store takes requests.
    fn adapt(&self, result: &Result<Vec<WriteOutcome>, store::Error>) {
        let limit = match result {
            Err(error) if matches!(error.kind, ErrorKind::Busy(_)) => self.limit.overloaded(),
            Ok(written) if written.iter().any(|w| matches!(w, WriteOutcome::Busy { overload: true, .. })) => {
                self.limit.overloaded()
            }
            Ok(_) => self.limit.succeeded(),
            Err(_) => return,
        };
        self.metrics.bulk_concurrency(limit);
    }

    /// For a batch whose request failed as a whole.
    fn request_failed(self: &Arc<Self>, batch: Vec<PendingWrite>, error: &store::Error) -> Next {
        match &error.kind {
            ErrorKind::TooLarge => match split(batch) {
                Ok(next) => next,
                Err(pending) => {
                    self.reply(pending, BulkItem::Rejected, Err(Error::TooLarge));
                    Next::Done
                }
            },
            ErrorKind::Refused(reason) => match split(batch) {
                Ok(next) => next,
                Err(pending) => {
                    let mark = self.breaker.record([Evidence::Refused(WHOLE_REQUEST.to_owned())]);
                    let (kind, reason) = (WHOLE_REQUEST.to_owned(), reason.clone());
                    self.settle_refused(mark, vec![RefusedWrite { pending, kind, reason }]);
                    Next::Done
                }
            },
            ErrorKind::Blocked { reason, .. } => self.store_blocked(batch, reason.clone()),
            ErrorKind::Busy(_) => Next::Retry(batch, RetryReason { text: error.to_string(), of_items: false }),
            ErrorKind::Unavailable(_)
            | ErrorKind::Io(_)
            | ErrorKind::Missing
            | ErrorKind::Mismatch { .. }
            | ErrorKind::UnknownId(_)
            | ErrorKind::Address(_) => {
                self.breaker.request_check();
                Next::Retry(batch, RetryReason { text: error.to_string(), of_items: false })
            }
        }
    }

    /// Gives each write its own outcome; those that met a busy or blocked store remain.
    fn settle(self: &Arc<Self>, batch: Vec<PendingWrite>, written: Vec<WriteOutcome>) -> Next {
        let items = batch.iter().zip(&written);
        let mark = self.breaker.record(items.filter_map(|(pending, written)| evidence(&pending.write, written)));
        let (mut busy, mut blocked, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let mut last_reason = String::new();
        for (pending, written) in batch.into_iter().zip(written) {
            match written {
                WriteOutcome::Indexed => self.reply(pending, BulkItem::Indexed, Ok(Outcome::Indexed)),
                WriteOutcome::Deleted => self.reply(pending, BulkItem::Deleted, Ok(Outcome::Deleted)),
                WriteOutcome::Stale => match pending.write {
                    Write::Put(_) => self.reply(pending, BulkItem::Stale, Ok(Outcome::Stale)),
                    Write::Delete(_) => self.reply(pending, BulkItem::StaleDeletion, Ok(Outcome::StaleDeletion)),
                },
                WriteOutcome::Rejected { kind, reason } => refused.push(RefusedWrite { pending, kind, reason }),
                WriteOutcome::Blocked { reason, .. } => {
                    last_reason = reason;
                    blocked.push(pending);
                }
                WriteOutcome::Busy { reason, .. } => {
                    self.metrics.bulk_item(BulkItem::Busy);
                    last_reason = reason;
                    busy.push(pending);
                }
            }
        }
        if !refused.is_empty() {
            self.settle_refused(mark, refused);
        }
        let of_items = blocked.is_empty();
        if !blocked.is_empty()
            && let Next::Retry(waiting, _) = self.store_blocked(blocked, last_reason.clone())
        {
            busy.extend(waiting);
        }
        if busy.is_empty() { Next::Done } else { Next::Retry(busy, RetryReason { text: last_reason, of_items }) }
    }

    /// The store takes no writes at all: the batch waits for it, or fails at once.
    fn store_blocked(&self, batch: Vec<PendingWrite>, reason: String) -> Next {
        self.breaker.request_check();
        if self.settings.hold_blocked {
            for _ in &batch {
                self.metrics.bulk_item(BulkItem::Blocked);
            }
            return Next::Retry(batch, RetryReason { text: reason, of_items: false });
        }
        for pending in batch {
            self.reply(pending, BulkItem::Blocked, Err(Error::Paused { reason: reason.clone() }));
        }
        Next::Done
    }

    /// Finds out whose fault each refusal is. Runs beside the other batches, which are the evidence.
    fn settle_refused(self: &Arc<Self>, mark: u64, refused: Vec<RefusedWrite>) {
        let (batcher, deadline) = (Arc::clone(self), Instant::now() + EVIDENCE_WAIT);
        self.tasks.spawn(async move {
            let mut again = Vec::new();
            for RefusedWrite { mut pending, kind, reason } in refused {
                let open = batcher.breaker.fault(mark, &kind).is_none();
                match batcher.breaker.await_fault(mark, &kind, deadline).await {
                    Fault::Store => {
                        batcher.breaker.trip(&pending.write, &reason);
                        let reason = format!("nearly all documents are refused: {kind}: {reason}");
                        batcher.reply(pending, BulkItem::Rejected, Err(Error::Paused { reason }));
                    }
                    // Only later documents were accepted: the mapping may have been corrected in between.
                    Fault::Document if open && !pending.caller.retried => {
                        pending.caller.retried = true;
                        again.push(pending);
                    }
                    Fault::Document => {
                        batcher.reply(pending, BulkItem::Rejected, Err(Error::Rejected { kind, reason }));
                    }
                }
            }
            batcher.write(again).await;
        });
    }

    fn reply(&self, pending: PendingWrite, item: BulkItem, result: Result<Outcome, Error>) {
        self.metrics.bulk_item(item);
        // The caller may have gone; the write stays.
        let _ = pending.caller.reply.send(result);
    }
}

fn bulk_status<T>(result: &Result<T, store::Error>) -> BulkStatus {
    match result.as_ref().map_err(|error| &error.kind) {
        Ok(_) => BulkStatus::Ok,
        Err(ErrorKind::TooLarge) => BulkStatus::TooLarge,
        Err(ErrorKind::Refused(_)) => BulkStatus::Refused,
        Err(ErrorKind::Blocked { .. }) => BulkStatus::Blocked,
        Err(
            ErrorKind::Busy(_)
            | ErrorKind::Unavailable(_)
            | ErrorKind::Io(_)
            | ErrorKind::Missing
            | ErrorKind::Mismatch { .. }
            | ErrorKind::UnknownId(_)
            | ErrorKind::Address(_),
        ) => BulkStatus::Failed,
    }
}

/// The kind of refusal of a single write whose whole request was refused.
const WHOLE_REQUEST: &str = "request";

/// What the outcome of a write tells about the store. A tombstone has few fields: that it is accepted tells nothing about the
/// mapping of the others.
fn evidence(write: &Write, written: &WriteOutcome) -> Option<Evidence> {
    match (write, written) {
        (Write::Put(_), WriteOutcome::Indexed | WriteOutcome::Stale) => Some(Evidence::Accepted),
        (_, WriteOutcome::Rejected { kind, .. }) => Some(Evidence::Refused(kind.clone())),
        _ => None,
    }
}

/// A batch is split; a single write, as the error, is at fault itself.
fn split(mut batch: Vec<PendingWrite>) -> Result<Next, PendingWrite> {
    match batch.pop() {
        Some(only) if batch.is_empty() => Err(only),
        Some(last) => {
            batch.push(last);
            Ok(Next::Split(batch))
        }
        None => Ok(Next::Done),
    }
}

/// Until the first write of a batch is overdue.
fn time_left(batch: &[PendingWrite]) -> Duration {
    let first = batch.iter().map(|pending| pending.caller.deadline).min();
    first.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()))
}
