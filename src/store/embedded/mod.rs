//! The embedded store: SQLite on disk, an exact scan in memory.
//!
//! The file is the truth; a search reads a copy of its vectors that `matrix` keeps in memory and brings up to date
//! before every search, from the same snapshot of the file that its answer is made of. So writes of this process and of
//! others are seen at once, and every answer is one moment of the store.
//!
//! | part | what it is |
//! |---|---|
//! | `file` | connections: the schema, what a file is, what a failure means |
//! | `rows` | the SQL of documents |
//! | `matrix` | the vectors in memory, with what filters look at |
//! | `terms` | metadata as Elasticsearch's `flattened` field has it |
//! | `search` | the nearest rows: scanned in float32, decided in float64 |
//! | `scan` | the vector kernels; the only unsafe code |

mod file;
mod matrix;
mod rows;
mod scan;
mod search;
mod terms;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use self::file::{Location, Slot};
use super::{Blocked, Document, Error, Hit, Origin, Query, Write, Written};
use crate::model::manifest::Manifest;

/// A SQLite file.
///
/// Everything that touches it runs on Tokio's threads for blocking work. A call that is dropped runs to its end there; a
/// batch is then written as a whole all the same.
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    location: Location,
    /// SQLite has one writer at a time; waiting for it here is fairer than SQLite's sleeping.
    writer: Slot,
    /// For look-ups, which need not wait for a search.
    reader: Slot,
    /// For searches, one after the other: each uses all cores and is bound by the memory.
    searcher: Slot,
}

impl Embedded {
    /// See [`super::Store::open`].
    ///
    /// # Errors
    /// [`Error::Address`] for a path that cannot be made absolute: an empty one, or a relative one without a current
    /// folder.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let location = Location::new(path)?;
        let (writer, reader, searcher) = (Slot::default(), Slot::default(), Slot::default());
        Ok(Self { inner: Arc::new(Inner { location, writer, reader, searcher }) })
    }

    /// See [`super::Store::origin`]. An empty file is a store that does not exist yet.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a file of another program or a newer imgdex; see [`Error`] for the rest.
    pub async fn origin(&self) -> Result<Option<Origin>, Error> {
        self.blocking(|inner| inner.reader.with(&inner.location, |file| Ok(file.origin.clone()))).await
    }

    /// See [`super::Store::create`]. Makes the folders above it, too.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where the file is something else; see [`Error`] for the rest.
    pub async fn create(&self, model: &Manifest) -> Result<(), Error> {
        let model = model.clone();
        self.blocking(move |inner| inner.location.create(&model)).await
    }

    /// See [`super::Store::write`]. The batch is one transaction: when this returns, all of it is on the disk, or, after
    /// an error, none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn write(&self, batch: &[Write]) -> Result<Vec<Written>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let batch = batch.to_vec();
        self.blocking(move |inner| {
            let written = inner.writer.with(&inner.location, |file| rows::write(file, &batch))?;
            // To a writer a missing store is a pause, as in Elasticsearch: whoever makes it ends the pause.
            written.ok_or_else(|| Error::Blocked {
                store: inner.location.to_string(),
                cause: Blocked::IndexMissing,
                reason: "the file does not exist".to_owned(),
            })
        })
        .await
    }

    /// See [`super::Store::get`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, id: &str) -> Result<Option<Document>, Error> {
        let id = id.to_owned();
        self.blocking(move |inner| inner.read(&inner.reader, |file| rows::get(file, &id))).await
    }

    /// See [`super::Store::search`]. Always exact, `approximate` or not.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn search(&self, query: &Query) -> Result<Vec<Hit>, Error> {
        let query = query.clone();
        self.blocking(move |inner| inner.read(&inner.searcher, |file| search::hits(file, &query))).await
    }

    /// See [`super::Store::count`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn count(&self) -> Result<u64, Error> {
        self.blocking(|inner| inner.read(&inner.reader, |file| rows::count(file))).await
    }

    /// See [`super::Store::page`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn page(&self, after: Option<&str>, size: usize) -> Result<Vec<Document>, Error> {
        let after = after.map(ToOwned::to_owned);
        self.blocking(move |inner| inner.read(&inner.reader, |file| rows::page(file, after.as_deref(), size))).await
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
            Err(cancelled) => Err(Error::Unavailable { store: self.to_string(), reason: cancelled.to_string() }),
        })
    }
}

impl Inner {
    fn read<T>(&self, slot: &Slot, work: impl FnOnce(&mut file::File) -> Result<T, file::Failure>) -> Result<T, Error> {
        let found = slot.with(&self.location, work)?;
        found.ok_or_else(|| Error::Missing { store: self.location.to_string() })
    }
}

impl fmt::Display for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.location.fmt(f)
    }
}
