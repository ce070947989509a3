//! The embedded store: SQLite on disk, an exact scan in memory.
//!
//! A search scans a copy of the file's vectors that `matrix` keeps in memory. Before every search the copy is brought up
//! to date from the same snapshot of the file that the hits are read from. So each search sees all committed writes, of
//! this process and of others, and its hits are of one state of the store.
//!
//! | part | what it is |
//! |---|---|
//! | `file` | connections: the schema, and what a file has to be |
//! | `error` | what a failure means |
//! | `rows` | the SQL of documents and tombstones |
//! | `matrix` | the vectors in memory, with the terms that filters compare |
//! | `terms` | metadata by the rules of Elasticsearch's `flattened` field |
//! | `search` | the nearest rows: scanned in float32, decided in float64 |
//! | `scan` | the vector kernels; the only unsafe code |

mod error;
mod file;
mod matrix;
mod rows;
mod scan;
mod search;
mod terms;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use self::file::{ConnectionSlot, File, Location};
use self::search::Searcher;
use super::{Acceptance, Blocked, Error, ErrorKind, Hit, Query, StoreMeta, Stored, Write, WriteOutcome};
use crate::model::manifest::Manifest;

/// A SQLite file.
///
/// All access runs on Tokio's threads for blocking work. A call whose future is dropped still runs to its end there, so a
/// batch is always written as a whole.
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    location: Location,
    /// SQLite has one writer at a time. Waiting for this lock is fairer than SQLite's own waiting, which polls.
    writer: ConnectionSlot,
    /// For look-ups, which need not wait for a search.
    reader: ConnectionSlot,
    /// For searches, one after the other: each uses all cores and is bound by the memory.
    searcher: ConnectionSlot<Searcher>,
}

impl Embedded {
    /// See [`super::Store::open`].
    ///
    /// # Errors
    /// [`ErrorKind::Address`] for a path that cannot be made absolute: an empty one, or a relative one without a current
    /// folder.
    pub fn open(path: &Path, accept_earlier: bool) -> Result<Self, Error> {
        let location = Location::new(path, Acceptance::new(accept_earlier))?;
        let (writer, reader, searcher) = Default::default();
        Ok(Self { inner: Arc::new(Inner { location, writer, reader, searcher }) })
    }

    /// See [`super::Store::acceptance`].
    pub fn acceptance(&self) -> &Acceptance {
        self.inner.location.acceptance()
    }

    /// See [`super::Store::meta`]. An empty file is a store that does not exist yet.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] for a file of another program or a newer imgdex.
    pub async fn meta(&self) -> Result<Option<StoreMeta>, Error> {
        self.blocking(|inner| inner.reader.with(&inner.location, |file| Ok(file.meta.clone()))).await
    }

    /// See [`super::Store::create`]. Creates the folders above the file, too.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] where the file is something else.
    pub async fn create(&self, model: &Manifest, mapping_version: u32) -> Result<(), Error> {
        let model = model.clone();
        self.blocking(move |inner| inner.location.create(&model, mapping_version)).await
    }

    /// See [`super::Store::write`]. The batch is one transaction: on success all of it is on the disk, on an error
    /// nothing.
    pub async fn write(&self, batch: &[Write]) -> Result<Vec<WriteOutcome>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let batch = batch.to_vec();
        self.blocking(move |inner| inner.change(|file| rows::write(file, &batch))).await
    }

    /// See [`super::Store::get`].
    pub async fn get(&self, id: &str) -> Result<Option<Stored>, Error> {
        let id = id.to_owned();
        self.blocking(move |inner| inner.read(&inner.reader, |file| rows::get(file, &id))).await
    }

    /// See [`super::Store::search`]. Always exact, `approximate` or not.
    pub async fn search(&self, query: &Query) -> Result<Vec<Hit>, Error> {
        let query = query.clone();
        self.blocking(move |inner| inner.read(&inner.searcher, |searcher| searcher.hits(&query))).await
    }

    /// See [`super::Store::count`].
    pub async fn count(&self) -> Result<u64, Error> {
        self.blocking(|inner| inner.read(&inner.reader, |file| rows::count(file))).await
    }

    /// See [`super::Store::count_tombstones`].
    pub async fn count_tombstones(&self) -> Result<u64, Error> {
        self.blocking(|inner| inner.read(&inner.reader, |file| rows::count_tombstones(file))).await
    }

    /// See [`super::Store::purge_tombstones`].
    pub async fn purge_tombstones(&self, before_ms: u64) -> Result<u64, Error> {
        self.blocking(move |inner| inner.change(|file| rows::purge_tombstones(file, before_ms))).await
    }

    /// See [`super::Store::list`].
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>, Error> {
        let after = after.map(ToOwned::to_owned);
        self.blocking(move |inner| inner.read(&inner.reader, |file| rows::list(file, after.as_deref(), limit))).await
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let result = tokio::task::spawn_blocking(move || work(&inner)).await;
        result.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(Error::new(self, ErrorKind::Unavailable(cancelled.to_string()))),
        })
    }
}

impl Inner {
    fn read<C: From<File>, T>(
        &self,
        slot: &ConnectionSlot<C>,
        work: impl FnOnce(&mut C) -> Result<T, error::Error>,
    ) -> Result<T, Error> {
        slot.with(&self.location, work)?.ok_or_else(|| self.location.error(ErrorKind::Missing))
    }

    /// As in Elasticsearch, a missing store pauses a writer until the store is created.
    fn change<T>(&self, work: impl FnOnce(&mut File) -> Result<T, error::Error>) -> Result<T, Error> {
        self.writer.with(&self.location, work)?.ok_or_else(|| {
            let reason = "the file does not exist".to_owned();
            self.location.error(ErrorKind::Blocked { cause: Blocked::IndexMissing, reason })
        })
    }
}

impl fmt::Display for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.location.fmt(f)
    }
}
