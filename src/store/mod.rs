//! Documents, tombstones and hits, and the two stores that keep them.

mod document;
pub mod elasticsearch;
mod embedded;
mod error;
mod meta;
mod query;
mod revision;
mod settings;

use secrecy::ExposeSecret;

pub use self::document::{Document, Stored, Tombstone, Write, WriteOutcome};
use self::elasticsearch::mapping;
pub use self::error::{Blocked, Error, ErrorKind};
pub use self::meta::{Acceptance, StoreMeta};
pub use self::query::{Hit, Query, Target, check_mode};
pub use self::revision::Revision;
pub use self::settings::Settings;
use crate::model::manifest::Manifest;

/// Refuses the store or export that has this metadata where it was made for another model, or for another mapping than
/// this release writes.
pub fn check_meta(
    meta: &StoreMeta,
    model: &Manifest,
    acceptance: &Acceptance,
    owner: &impl std::fmt::Display,
) -> Result<(), Error> {
    meta.check(model, mapping::CURRENT_VERSION, acceptance, owner)
}

/// Where documents are kept.
pub enum Store {
    /// A SQLite file, searched in memory.
    Embedded(embedded::Embedded),
    /// An alias in an Elasticsearch cluster.
    Elasticsearch(elasticsearch::Elasticsearch),
}

impl Store {
    /// Opens a store by its address. Neither connects nor creates anything: [`Self::check`] and [`Self::create`] do.
    ///
    /// # Errors
    /// [`ErrorKind::Address`], or [`ErrorKind::Io`] where a named file (the certificate authority) cannot be read.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        match settings.address.expose_secret().split_once(':') {
            Some(("sqlite", path)) => {
                Ok(Self::Embedded(embedded::Embedded::open(path.as_ref(), settings.accept_earlier)?))
            }
            Some(("http" | "https", _)) => Ok(Self::Elasticsearch(elasticsearch::Elasticsearch::open(settings)?)),
            _ => Err(Error::new(&"(address)", ErrorKind::Address("unknown scheme".to_owned()))),
        }
    }

    /// The model and mapping that the store was made for; `None` for a store that does not exist yet.
    pub async fn meta(&self) -> Result<Option<StoreMeta>, Error> {
        match self {
            Self::Embedded(store) => store.meta().await,
            Self::Elasticsearch(store) => store.meta().await,
        }
    }

    /// Creates the store for a model where it is missing: the file, or the index, template and alias.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] where it exists for something else.
    pub async fn create(&self, model: &Manifest) -> Result<(), Error> {
        match self {
            Self::Embedded(store) => store.create(model, mapping::CURRENT_VERSION).await,
            Self::Elasticsearch(store) => store.create(model).await,
        }
    }

    /// Refuses a store that is missing or was made for another model or mapping. To be called before the first write
    /// and the first search.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] or [`ErrorKind::Mismatch`], or any failure to find out.
    pub async fn check(&self, model: &Manifest) -> Result<(), Error> {
        let meta = self.meta().await?.ok_or_else(|| Error::new(self, ErrorKind::Missing))?;
        self.check_meta(&meta, model)
    }

    /// Refuses the store, which has this metadata, as [`check_meta`] does.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`].
    pub fn check_meta(&self, meta: &StoreMeta, model: &Manifest) -> Result<(), Error> {
        check_meta(meta, model, self.acceptance(), self)
    }

    /// What it was opened to accept.
    pub fn acceptance(&self) -> &Acceptance {
        match self {
            Self::Embedded(store) => store.acceptance(),
            Self::Elasticsearch(store) => store.acceptance(),
        }
    }

    /// Refuses a store that takes no writes now, besides what [`Self::check`] refuses.
    ///
    /// # Errors
    /// As [`Self::check`], and [`ErrorKind::Blocked`].
    pub async fn check_writable(&self, model: &Manifest) -> Result<(), Error> {
        match self {
            Self::Embedded(_) => self.check(model).await,
            Self::Elasticsearch(store) => store.check_writable(model).await,
        }
    }

    /// Writes a batch. The result has one entry per write, in order.
    ///
    /// # Errors
    /// When the batch as a whole was not processed; sending it again is safe.
    pub async fn write(&self, batch: &[Write]) -> Result<Vec<WriteOutcome>, Error> {
        match self {
            Self::Embedded(store) => store.write(batch).await,
            Self::Elasticsearch(store) => store.write(batch).await,
        }
    }

    /// What is stored under an id, without its vector.
    pub async fn get(&self, id: &str) -> Result<Option<Stored>, Error> {
        match self {
            Self::Embedded(store) => store.get(id).await,
            Self::Elasticsearch(store) => store.get(id).await,
        }
    }

    /// The nearest documents, best first; ties by id.
    pub async fn search(&self, query: &Query) -> Result<Vec<Hit>, Error> {
        match self {
            Self::Embedded(store) => store.search(query).await,
            Self::Elasticsearch(store) => store.search(query).await,
        }
    }

    /// The number of live documents.
    pub async fn count(&self) -> Result<u64, Error> {
        match self {
            Self::Embedded(store) => store.count().await,
            Self::Elasticsearch(store) => store.count().await,
        }
    }

    /// The number of tombstones.
    pub async fn count_tombstones(&self) -> Result<u64, Error> {
        match self {
            Self::Embedded(store) => store.count_tombstones().await,
            Self::Elasticsearch(store) => store.count_tombstones().await,
        }
    }

    /// At most `limit` documents, with their vectors, and tombstones, together ordered by id, after the given id. An empty
    /// list is the end.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>, Error> {
        match self {
            Self::Embedded(store) => store.list(after, limit).await,
            Self::Elasticsearch(store) => store.list(after, limit).await,
        }
    }

    /// Removes the tombstones made before a time, in ms since the epoch, for good. One that is replaced meanwhile is kept, and
    /// one at the largest version, after which Elasticsearch has no other. Returns how many were removed.
    ///
    /// An older write that still arrives afterwards brings its image back.
    pub async fn purge_tombstones(&self, before_ms: u64) -> Result<u64, Error> {
        match self {
            Self::Embedded(store) => store.purge_tombstones(before_ms).await,
            Self::Elasticsearch(store) => store.purge_tombstones(before_ms).await,
        }
    }
}

/// The store's address, without credentials.
impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded(store) => store.fmt(f),
            Self::Elasticsearch(store) => store.fmt(f),
        }
    }
}
