//! Batches of writes behind one `async fn`.
//!
//! Reading order: [`Indexer`] here; `batch`, when a batch is sent and which item is tried again; `concurrency`, how many
//! requests are on their way at once; [`breaker`], who is to blame for what is refused.

mod batch;
pub mod breaker;
mod concurrency;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::batch::Flusher;
use self::breaker::Breaker;
use crate::message::ImageReference;
use crate::metrics::Metrics;
use crate::outcome::Outcome;
use crate::store::{self, Document, Store, Write};

/// When a batch is flushed, and how long it is tried.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most writes in one batch.
    pub max_items: usize,
    /// Most bytes in one batch, estimated; a fraction of the 100 MB that Elasticsearch takes, to bound memory.
    pub max_bytes: usize,
    /// How long the first write of a batch waits for company.
    pub linger: Duration,
    /// Most batches that are being written at once; fewer while the store has too much to do.
    pub in_flight: usize,
    /// How long a write waits for a store that does not take it, before its message is given back.
    pub hold: Duration,
    /// Whether a store that takes no writes at all (a block, a missing index) is waited for like one that is busy. A
    /// worker does; a command tells its user at once.
    pub hold_blocked: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_items: 500,
            max_bytes: 8 << 20,
            linger: Duration::from_millis(100),
            in_flight: 2,
            hold: Duration::from_mins(1),
            hold_blocked: false,
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
    /// The store fails on this document, and takes others.
    #[error("the store failed on this document for {held:?} while it took others: {reason}")]
    Failed {
        /// How long it was tried.
        held: Duration,
        /// The last reason.
        reason: String,
    },
    /// The store takes no writes at all, or refuses nearly all documents.
    #[error("the store takes no writes: {reason}")]
    Paused {
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
    hold: Duration,
    breaker: Arc<Breaker>,
    tasks: TaskTracker,
}

/// A write, and who waits for its outcome.
struct Request {
    write: Write,
    caller: Caller,
}

struct Caller {
    answer: oneshot::Sender<Result<Outcome, Error>>,
    /// When it is given up. Runs from the call, so that waiting behind other batches counts.
    deadline: Instant,
    /// How many documents the store had taken by then, to know later whether it took others.
    taken_before: u64,
    /// Refused once already, and sent again because it was not clear who was to blame.
    second_try: bool,
}

impl Indexer {
    /// Starts the task that collects batches.
    pub fn start(store: Arc<Store>, settings: Settings, metrics: Arc<Metrics>) -> Self {
        // One batch may gather while others are on their way.
        let (requests, intake) = mpsc::channel(settings.max_items);
        let (tasks, hold, breaker) = (TaskTracker::new(), settings.hold, Arc::<Breaker>::default());
        let flusher = Flusher::new(Arc::clone(&store), settings, metrics, Arc::clone(&breaker), tasks.clone());
        tasks.spawn(Arc::new(flusher).collect(intake));
        Self { requests, store, hold, breaker, tasks }
    }

    /// What has been learned about the store.
    pub fn breaker(&self) -> Arc<Breaker> {
        Arc::clone(&self.breaker)
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
        let (deadline, taken_before) = (Instant::now() + self.hold, self.breaker.taken());
        let caller = Caller { answer, deadline, taken_before, second_try: false };
        self.requests.send(Request { write, caller }).await.map_err(|_| Error::Stopped)?;
        answered.await.map_err(|_| Error::Stopped)?
    }
}
