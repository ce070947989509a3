//! When a batch is sent, and what becomes of each of its writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;

use super::breaker::{Blame, Breaker, Evidence};
use super::concurrency::Limit;
use super::{Error, Request, Settings};
use crate::backpressure::backoff::Backoff;
use crate::metrics::{BulkItem, BulkStatus, Metrics};
use crate::outcome::Outcome;
use crate::store::elasticsearch::bulk;
use crate::store::{self, ErrorKind, Store, Write, WriteOutcome};

/// Bounds of the delay before a batch is sent again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How long a refusal waits for evidence. Where fewer documents than needed come by in this time, a queue cannot be
/// drained quickly, and the breaker's window sees them all the same.
const JUDGING: Duration = Duration::from_secs(10);

/// Sends batches to one store.
pub(super) struct Flusher {
    store: Arc<Store>,
    settings: Settings,
    metrics: Arc<Metrics>,
    breaker: Arc<Breaker>,
    limit: Limit,
    tasks: TaskTracker,
}

/// What to do with the writes of a batch that are still open after one request.
enum Next {
    /// Send them again after a delay.
    Again(Vec<Request>, Trouble),
    /// Send them as two batches at once: one item may be to blame, or the whole is too large.
    Halves(Vec<Request>),
    /// Nothing is open.
    Done,
}

/// Why writes are sent again.
struct Trouble {
    reason: String,
    /// Whether the store failed on these items alone, rather than on the whole request.
    of_items: bool,
}

/// A write that the store refused for what it holds.
struct Refused {
    request: Request,
    kind: String,
    reason: String,
}

impl Flusher {
    pub(super) fn new(
        store: Arc<Store>,
        settings: Settings,
        metrics: Arc<Metrics>,
        breaker: Arc<Breaker>,
        tasks: TaskTracker,
    ) -> Self {
        let limit = Limit::new(settings.in_flight);
        metrics.bulk_concurrency(settings.in_flight);
        Self { store, settings, metrics, breaker, limit, tasks }
    }

    /// Gathers batches and sends them, until nobody is left who could hand over a write.
    pub(super) async fn collect(self: Arc<Self>, mut intake: mpsc::Receiver<Request>) {
        let slots = Arc::new(Semaphore::new(self.settings.in_flight));
        while let Some(first) = intake.recv().await {
            let batch = self.gather(first, &mut intake).await;
            // Awaiting the slot is the back-pressure: while all are taken, callers wait in the channel.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let flusher = Arc::clone(&self);
            self.tasks.spawn(async move {
                flusher.flush(batch).await;
                drop(slot);
            });
        }
    }

    /// Takes company for the first write until the batch is full or its time is up.
    async fn gather(&self, first: Request, intake: &mut mpsc::Receiver<Request>) -> Vec<Request> {
        let Settings { linger, max_items, max_bytes, .. } = self.settings;
        let deadline = Instant::now() + linger;
        let mut bytes = bulk::estimated_bytes(&first.write);
        let mut batch = vec![first];
        while batch.len() < max_items && bytes < max_bytes {
            match timeout_at(deadline, intake.recv()).await {
                Ok(Some(request)) => {
                    bytes += bulk::estimated_bytes(&request.write);
                    batch.push(request);
                }
                Ok(None) | Err(_) => break,
            }
        }
        batch
    }

    /// Sends a batch until each of its writes has its own answer, or its time is up.
    async fn flush(self: &Arc<Self>, batch: Vec<Request>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut trouble = Trouble { reason: "earlier batches waited for it".to_owned(), of_items: false };
        let mut open = vec![batch];
        while let Some(batch) = open.pop() {
            let batch = self.give_up_overdue(batch, &trouble);
            if batch.is_empty() {
                continue;
            }
            match self.send(batch).await {
                Next::Done => {}
                Next::Halves(mut first) => {
                    let second = first.split_off(first.len() / 2);
                    open.extend([second, first]);
                }
                Next::Again(batch, why) => {
                    let delay = backoff.next_delay();
                    let reason = &why.reason;
                    tracing::warn!(items = batch.len(), %reason, ?delay, "the store is not taking a batch; trying again");
                    self.metrics.retry("store");
                    trouble = why;
                    sleep(delay.min(time_left(&batch))).await;
                    open.push(batch);
                }
            }
        }
    }

    /// Answers the writes whose time is up, and leaves out those whose callers have gone.
    fn give_up_overdue(&self, batch: Vec<Request>, trouble: &Trouble) -> Vec<Request> {
        let now = Instant::now();
        let (overdue, open): (Vec<_>, Vec<_>) =
            batch.into_iter().filter(|r| !r.caller.answer.is_closed()).partition(|r| r.caller.deadline <= now);
        if !overdue.is_empty() {
            let (items, reason) = (overdue.len(), &trouble.reason);
            tracing::error!(items, %reason, "the store did not take writes in time; giving their messages back");
        }
        let taken = self.breaker.taken();
        for request in overdue {
            let (held, reason) = (self.settings.hold, trouble.reason.clone());
            let error = if trouble.of_items && taken > request.caller.taken_before {
                Error::Failed { held, reason }
            } else {
                Error::Unavailable { held, reason }
            };
            self.answer(request, BulkItem::GivenUp, Err(error));
        }
        open
    }

    async fn send(self: &Arc<Self>, batch: Vec<Request>) -> Next {
        let place = self.limit.place().await;
        let (writes, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|r| (r.write, r.caller)).unzip();
        let result = self.store.write(&writes).await;
        drop(place);
        self.metrics.bulk_request(bulk_status(&result));
        self.adapt(&result);
        let requests = writes.into_iter().zip(callers).map(|(write, caller)| Request { write, caller }).collect();
        match result {
            Ok(written) => self.settle(requests, written),
            Err(error) => self.failed(requests, &error),
        }
    }

    /// Fewer requests at once where the store asks for it, more where it takes them.
    fn adapt(&self, result: &Result<Vec<WriteOutcome>, store::Error>) {
        let limit = match result {
            Err(error) if matches!(error.kind, ErrorKind::Busy(_)) => self.limit.overloaded(),
            Ok(written) if written.iter().any(|w| matches!(w, WriteOutcome::Busy { overload: true, .. })) => {
                self.limit.overloaded()
            }
            Ok(_) => self.limit.taken(),
            Err(_) => return,
        };
        self.metrics.bulk_concurrency(limit);
    }

    /// What becomes of a batch whose request failed as a whole.
    fn failed(self: &Arc<Self>, requests: Vec<Request>, error: &store::Error) -> Next {
        match &error.kind {
            ErrorKind::TooLarge => match halves(requests) {
                Ok(next) => next,
                Err(only) => {
                    self.answer(only, BulkItem::Rejected, Err(Error::TooLarge));
                    Next::Done
                }
            },
            ErrorKind::Refused(reason) => match halves(requests) {
                Ok(next) => next,
                Err(request) => {
                    let mark = self.breaker.record([Evidence::Refused(WHOLE_REQUEST.to_owned())]);
                    let (kind, reason) = (WHOLE_REQUEST.to_owned(), reason.clone());
                    self.judge(mark, vec![Refused { request, kind, reason }]);
                    Next::Done
                }
            },
            ErrorKind::Blocked { reason, .. } => self.blocked(requests, reason.clone()),
            ErrorKind::Busy(_) => Next::Again(requests, Trouble { reason: error.to_string(), of_items: false }),
            ErrorKind::Unavailable(_)
            | ErrorKind::Io(_)
            | ErrorKind::Missing
            | ErrorKind::Mismatch { .. }
            | ErrorKind::UnknownId(_)
            | ErrorKind::Address(_) => {
                self.breaker.doubt();
                Next::Again(requests, Trouble { reason: error.to_string(), of_items: false })
            }
        }
    }

    /// Gives each write its own fate; those that met a busy or blocked store stay open.
    fn settle(self: &Arc<Self>, requests: Vec<Request>, written: Vec<WriteOutcome>) -> Next {
        let mark = self.breaker.record(requests.iter().zip(&written).filter_map(|(r, w)| evidence(&r.write, w)));
        let (mut busy, mut blocked, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let mut last_reason = String::new();
        for (request, written) in requests.into_iter().zip(written) {
            match written {
                WriteOutcome::Indexed => self.answer(request, BulkItem::Indexed, Ok(Outcome::Indexed)),
                WriteOutcome::Deleted => self.answer(request, BulkItem::Deleted, Ok(Outcome::Deleted)),
                WriteOutcome::Stale => self.answer(request, BulkItem::Stale, Ok(Outcome::Stale)),
                WriteOutcome::Rejected { kind, reason } => refused.push(Refused { request, kind, reason }),
                WriteOutcome::Blocked { reason, .. } => {
                    last_reason = reason;
                    blocked.push(request);
                }
                WriteOutcome::Busy { reason, .. } => {
                    self.metrics.bulk_item(BulkItem::Busy);
                    last_reason = reason;
                    busy.push(request);
                }
            }
        }
        if !refused.is_empty() {
            self.judge(mark, refused);
        }
        let of_items = blocked.is_empty();
        if !blocked.is_empty()
            && let Next::Again(waiting, _) = self.blocked(blocked, last_reason.clone())
        {
            busy.extend(waiting);
        }
        if busy.is_empty() { Next::Done } else { Next::Again(busy, Trouble { reason: last_reason, of_items }) }
    }

    /// The store takes no writes at all: waits for it, or says so.
    fn blocked(&self, requests: Vec<Request>, reason: String) -> Next {
        self.breaker.doubt();
        if self.settings.hold_blocked {
            for _ in &requests {
                self.metrics.bulk_item(BulkItem::Blocked);
            }
            return Next::Again(requests, Trouble { reason, of_items: false });
        }
        for request in requests {
            self.answer(request, BulkItem::Blocked, Err(Error::Paused { reason: reason.clone() }));
        }
        Next::Done
    }

    /// Finds out who is to blame for what was refused, while other batches go on: they are the evidence.
    fn judge(self: &Arc<Self>, mark: u64, refused: Vec<Refused>) {
        let (flusher, deadline) = (Arc::clone(self), Instant::now() + JUDGING);
        self.tasks.spawn(async move {
            let mut again = Vec::new();
            for Refused { mut request, kind, reason } in refused {
                let open = flusher.breaker.blame(mark, &kind).is_none();
                match flusher.breaker.await_blame(mark, &kind, deadline).await {
                    Blame::Index => {
                        flusher.breaker.trip(&request.write, &reason);
                        let reason = format!("nearly all documents are refused: {kind}: {reason}");
                        flusher.answer(request, BulkItem::Rejected, Err(Error::Paused { reason }));
                    }
                    // Only later documents speak against it: perhaps the index was mended in between.
                    Blame::Document if open && !request.caller.second_try => {
                        request.caller.second_try = true;
                        again.push(request);
                    }
                    Blame::Document => {
                        flusher.answer(request, BulkItem::Rejected, Err(Error::Rejected { kind, reason }));
                    }
                }
            }
            flusher.flush(again).await;
        });
    }

    fn answer(&self, request: Request, item: BulkItem, result: Result<Outcome, Error>) {
        self.metrics.bulk_item(item);
        // The caller may have gone; the write stands all the same.
        let _ = request.caller.answer.send(result);
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

/// What the fate of a write tells about the index. A deletion is taken under any mapping.
fn evidence(write: &Write, written: &WriteOutcome) -> Option<Evidence> {
    match (write, written) {
        (Write::Put(_), WriteOutcome::Indexed | WriteOutcome::Stale) => Some(Evidence::Taken),
        (_, WriteOutcome::Rejected { kind, .. }) => Some(Evidence::Refused(kind.clone())),
        _ => None,
    }
}

/// A batch goes on as two; a single write is to blame itself.
fn halves(mut requests: Vec<Request>) -> Result<Next, Request> {
    match requests.pop() {
        Some(only) if requests.is_empty() => Err(only),
        Some(last) => {
            requests.push(last);
            Ok(Next::Halves(requests))
        }
        None => Ok(Next::Done),
    }
}

/// Until the first write of a batch is overdue.
fn time_left(batch: &[Request]) -> Duration {
    let first = batch.iter().map(|request| request.caller.deadline).min();
    first.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()))
}
