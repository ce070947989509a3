//! Batches of writes behind one `async fn`: when to flush, and which item is tried again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::message::ImageReference;
use crate::metrics::{BulkItem, Metrics};
use crate::pipeline::Outcome;
use crate::store::{self, Blocked, Document, Store, Write, Written};

/// When a batch is flushed, and how long it is tried.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most writes in one batch.
    pub max_items: usize,
    /// Most bytes in one batch, estimated; a fraction of the 100 MB that Elasticsearch takes, to bound memory.
    pub max_bytes: usize,
    /// How long the first write of a batch waits for company.
    pub linger: Duration,
    /// Most batches on their way at once.
    pub in_flight: usize,
    /// How long a write is tried again before its message is given back.
    pub hold: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_items: 500,
            max_bytes: 8 << 20,
            linger: Duration::from_millis(100),
            in_flight: 2,
            hold: Duration::from_mins(1),
        }
    }
}

/// Why a write is not durable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refuses this document for what it holds.
    #[error("the store refused the document: {kind}: {reason}")]
    Rejected {
        /// The store's error type.
        kind: String,
        /// The store's reason.
        reason: String,
    },
    /// The document alone is more than the store takes in one request.
    #[error("the document is larger than the store takes in one request")]
    TooLarge,
    /// The store did not take it for as long as it was tried.
    #[error("the store did not take the document for {held:?}: {reason}")]
    Unavailable {
        /// How long it was tried.
        held: Duration,
        /// The last reason.
        reason: String,
    },
    /// The store takes no writes at all.
    #[error("the store takes no writes: {reason}")]
    Paused {
        /// Why.
        cause: Blocked,
        /// The store's reason.
        reason: String,
    },
    /// A look-up failed.
    #[error(transparent)]
    Lookup(store::Error),
    /// The indexer has ended.
    #[error("the indexer has stopped")]
    Stopped,
}

/// Collects writes into batches and sends them.
pub struct Indexer {
    requests: mpsc::Sender<Request>,
    store: Arc<Store>,
    tasks: TaskTracker,
}

struct Request {
    write: Write,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

impl Indexer {
    /// Starts the task that collects batches.
    pub fn start(store: Arc<Store>, settings: Settings, metrics: Arc<Metrics>) -> Self {
        // One batch may gather while others are on their way.
        let (requests, intake) = mpsc::channel(settings.max_items);
        let tasks = TaskTracker::new();
        let flusher = Flusher { store: Arc::clone(&store), settings, metrics };
        tasks.spawn(collect(intake, flusher, tasks.clone()));
        Self { requests, store, tasks }
    }

    /// Stores a document.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(&self, document: Document) -> Result<Outcome, Error> {
        self.write(Write::Put(Box::new(document))).await
    }

    /// Removes a document.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, id: String, version: u64) -> Result<Outcome, Error> {
        self.write(Write::Delete { id, version }).await
    }

    /// Whether the store has this reference with this content already.
    ///
    /// # Errors
    /// [`Error::Lookup`].
    pub async fn holds(&self, reference: &ImageReference, content_sha256: &str) -> Result<bool, Error> {
        let stored = self.store.get(&reference.id).await.map_err(Error::Lookup)?;
        Ok(stored.is_some_and(|document| {
            document.content_sha256 == content_sha256
                && document.collection == reference.collection
                && document.metadata == reference.metadata
                && reference.url.as_ref().is_some_and(|url| url.as_str() == document.url)
        }))
    }

    /// Waits until everything handed over is settled.
    pub async fn finish(self) {
        drop(self.requests);
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn write(&self, write: Write) -> Result<Outcome, Error> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { write, answer }).await.map_err(|_| Error::Stopped)?;
        answered.await.map_err(|_| Error::Stopped)?
    }
}

async fn collect(mut intake: mpsc::Receiver<Request>, flusher: Flusher, tasks: TaskTracker) {
    let flusher = Arc::new(flusher);
    let slots = Arc::new(Semaphore::new(flusher.settings.in_flight));
    while let Some(first) = intake.recv().await {
        let batch = gather(first, &mut intake, &flusher.settings).await;
        // Awaiting the slot is the back-pressure: while all are taken, callers wait in the channel.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let flusher = Arc::clone(&flusher);
        tasks.spawn(async move {
            flusher.flush(batch).await;
            drop(slot);
        });
    }
}

/// Takes company for the first write until the batch is full or its time is up.
async fn gather(first: Request, intake: &mut mpsc::Receiver<Request>, settings: &Settings) -> Vec<Request> {
    let deadline = Instant::now() + settings.linger;
    let mut bytes = first.write.estimated_bytes();
    let mut batch = vec![first];
    while batch.len() < settings.max_items && bytes < settings.max_bytes {
        match timeout_at(deadline, intake.recv()).await {
            Ok(Some(request)) => {
                bytes += request.write.estimated_bytes();
                batch.push(request);
            }
            Ok(None) | Err(_) => break,
        }
    }
    batch
}

struct Flusher {
    store: Arc<Store>,
    settings: Settings,
    metrics: Arc<Metrics>,
}

/// What to do with the writes of a batch that are still open after one request.
enum Next {
    /// Send them again after a delay.
    Again(Vec<Request>, String),
    /// Send them as two batches at once: one item may be to blame, or the whole is too large.
    Halves(Vec<Request>),
    /// Nothing is open.
    Done,
}

impl Flusher {
    /// Sends a batch until each of its writes has its own answer.
    async fn flush(&self, batch: Vec<Request>) {
        let deadline = Instant::now() + self.settings.hold;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut open = vec![batch];
        while let Some(batch) = open.pop() {
            match self.send(batch).await {
                Next::Done => {}
                Next::Halves(mut first) => {
                    let second = first.split_off(first.len() / 2);
                    open.extend([second, first]);
                }
                Next::Again(batch, reason) => {
                    let delay = backoff.next_delay();
                    if Instant::now() + delay > deadline {
                        self.give_up(batch, &reason);
                        continue;
                    }
                    tracing::warn!(items = batch.len(), %reason, ?delay, "the store is not taking a batch; trying again");
                    tokio::time::sleep(delay).await;
                    open.push(batch);
                }
            }
        }
    }

    async fn send(&self, batch: Vec<Request>) -> Next {
        let (writes, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|r| (r.write, r.answer)).unzip();
        let result = self.store.write(&writes).await;
        self.metrics.bulk_request(result.as_ref().err());
        let requests = writes.into_iter().zip(answers).map(|(write, answer)| Request { write, answer });
        match result {
            Ok(written) => self.settle(requests.collect(), written),
            Err(store::Error::TooLarge { .. }) => self.halve(requests.collect(), || Error::TooLarge),
            Err(store::Error::Refused { reason, .. }) => self
                .halve(requests.collect(), || Error::Rejected { kind: "request".to_owned(), reason: reason.clone() }),
            Err(store::Error::Blocked { cause, reason, .. }) => {
                for request in requests {
                    self.answer(request, BulkItem::Blocked, Err(Error::Paused { cause, reason: reason.clone() }));
                }
                Next::Done
            }
            Err(
                error @ (store::Error::Unavailable { .. }
                | store::Error::Io { .. }
                | store::Error::Missing { .. }
                | store::Error::Mismatch { .. }
                | store::Error::UnknownId { .. }
                | store::Error::Address { .. }),
            ) => Next::Again(requests.collect(), error.to_string()),
        }
    }

    /// Gives each write its own fate; those that met a busy store stay open.
    fn settle(&self, requests: Vec<Request>, written: Vec<Written>) -> Next {
        let mut busy = Vec::new();
        let mut last_reason = String::new();
        for (request, written) in requests.into_iter().zip(written) {
            match written {
                Written::Indexed => self.answer(request, BulkItem::Indexed, Ok(Outcome::Indexed)),
                Written::Deleted => self.answer(request, BulkItem::Deleted, Ok(Outcome::Deleted)),
                Written::Stale => self.answer(request, BulkItem::Stale, Ok(Outcome::Stale)),
                Written::Rejected { kind, reason } => {
                    self.answer(request, BulkItem::Rejected, Err(Error::Rejected { kind, reason }));
                }
                Written::Blocked { cause, reason } => {
                    self.answer(request, BulkItem::Blocked, Err(Error::Paused { cause, reason }));
                }
                Written::Busy { reason } => {
                    self.metrics.bulk_item(BulkItem::Busy);
                    last_reason = reason;
                    busy.push(request);
                }
            }
        }
        if busy.is_empty() { Next::Done } else { Next::Again(busy, last_reason) }
    }

    /// A batch goes on as two; a single write is to blame itself.
    fn halve(&self, mut requests: Vec<Request>, blame: impl Fn() -> Error) -> Next {
        match requests.pop() {
            Some(only) if requests.is_empty() => {
                self.answer(only, BulkItem::Rejected, Err(blame()));
                Next::Done
            }
            Some(last) => {
                requests.push(last);
                Next::Halves(requests)
            }
            None => Next::Done,
        }
    }

    fn give_up(&self, requests: Vec<Request>, reason: &str) {
        tracing::error!(items = requests.len(), %reason, "the store did not take a batch in time; giving its messages back");
        for request in requests {
            let error = Error::Unavailable { held: self.settings.hold, reason: reason.to_owned() };
            self.answer(request, BulkItem::GivenUp, Err(error));
        }
    }

    fn answer(&self, request: Request, item: BulkItem, result: Result<Outcome, Error>) {
        self.metrics.bulk_item(item);
        // The caller may have gone; the write stands all the same.
        let _ = request.answer.send(result);
    }
}

impl Write {
    /// About how many bytes this write adds to a bulk request.
    fn estimated_bytes(&self) -> usize {
        /// Action line, field names and numbers of a document without its variable parts.
        const FIXED: usize = 600;
        match self {
            Self::Delete { id, .. } => FIXED + id.len(),
            Self::Put(document) => {
                let metadata: usize = document.metadata.iter().map(|(k, v)| k.len() + json_bytes(v)).sum();
                // Base64 of float32 takes 16/3 bytes per value, shortest decimals about 12.
                let vector = document.embedding.as_ref().map_or(0, |e| e.dims() * 12);
                FIXED + document.id.len() + document.url.len() + metadata + vector
            }
        }
    }
}

fn json_bytes(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(values) => values.iter().map(json_bytes).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + 3 + json_bytes(v)).sum::<usize>() + 2,
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}
