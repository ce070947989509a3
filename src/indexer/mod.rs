//! Batches of writes behind one `async fn`.
//!
//! Reading order: [`Indexer`] here; `batch`, when a batch is sent and which item is tried again; `concurrency`, how
//! many requests are in flight at once; [`breaker`], whose fault a refused document is.

mod batch;
pub mod breaker;
mod concurrency;
mod error;
mod pending;
mod settings;

pub use error::Error;
pub use settings::Settings;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::batch::Batcher;
use self::breaker::Breaker;
use self::pending::{Caller, PendingWrite};
use crate::message::ImageReference;
use crate::metrics::Metrics;
use crate::outcome::Outcome;
use crate::store::{Document, Store, Stored, Tombstone, Write};

/// Collects writes into batches and sends them.
pub struct Indexer {
    pending: mpsc::Sender<PendingWrite>,
    store: Arc<Store>,
    hold: Duration,
    breaker: Arc<Breaker>,
    tasks: TaskTracker,
}

impl Indexer {
    /// Starts the task that collects batches.
    pub fn start(store: Arc<Store>, settings: Settings, metrics: Arc<Metrics>) -> Self {
        // One batch may be collected while others are in flight.
        let (pending, intake) = mpsc::channel(settings.max_items);
        let (tasks, hold, breaker) = (TaskTracker::new(), settings.hold, Arc::<Breaker>::default());
        let batcher = Batcher::new(Arc::clone(&store), settings, metrics, Arc::clone(&breaker), tasks.clone());
        tasks.spawn(Arc::new(batcher).run(intake));
        Self { pending, store, hold, breaker, tasks }
    }

    pub fn breaker(&self) -> Arc<Breaker> {
        Arc::clone(&self.breaker)
    }

    /// Stores a document.
    pub async fn put(&self, document: Document) -> Result<Outcome, Error> {
        self.write(Write::Put(Box::new(document))).await
    }

    /// Replaces a document by a tombstone.
    pub async fn delete(&self, tombstone: Tombstone) -> Result<Outcome, Error> {
        self.write(Write::Delete(tombstone)).await
    }

    /// The version of the live document with this id.
    ///
    /// # Errors
    /// [`Error::Lookup`].
    pub async fn stored_version(&self, id: &str) -> Result<Option<u64>, Error> {
        Ok(self.live(id).await?.map(|document| document.version))
    }

    /// Whether the stored document has this content already, and the reference's collection, metadata and URL.
    ///
    /// # Errors
    /// [`Error::Lookup`].
    pub async fn is_unchanged(&self, reference: &ImageReference, content_sha256: &str) -> Result<bool, Error> {
        Ok(self.live(&reference.id).await?.is_some_and(|document| {
            document.content_sha256 == content_sha256
                && document.collection == reference.collection
                && document.metadata == reference.metadata
                && reference.url.as_ref().is_some_and(|url| url.as_str() == document.url)
        }))
    }

    /// Waits until every pending write has its outcome.
    pub async fn finish(self) {
        drop(self.pending);
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn live(&self, id: &str) -> Result<Option<Document>, Error> {
        Ok(self.store.get(id).await.map_err(Error::Lookup)?.and_then(Stored::live))
    }

    async fn write(&self, write: Write) -> Result<Outcome, Error> {
        let (reply, outcome) = oneshot::channel();
        let (deadline, accepted_before) = (Instant::now() + self.hold, self.breaker.accepted());
        let caller = Caller { reply, deadline, accepted_before, retried: false };
        self.pending.send(PendingWrite { write, caller }).await.map_err(|_| Error::Stopped)?;
        outcome.await.map_err(|_| Error::Stopped)?
    }
}
