//! Documents, hits, and the two places they are kept.

mod document;
pub mod elasticsearch;
pub mod embedded;
mod error;
mod meta;
mod query;

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

pub use self::document::{Document, Write, Written};
pub use self::error::{Blocked, Error};
pub use self::meta::Origin;
pub use self::query::{Hit, Query, Target};
use crate::model::manifest::Manifest;

/// Where documents are kept.
pub enum Store {
    /// A SQLite file, searched in memory.
    Embedded(embedded::Embedded),
    /// An alias in an Elasticsearch cluster.
    Elasticsearch(elasticsearch::Elasticsearch),
}

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `sqlite:PATH` or `http(s)://[user:pass@]host:port/ALIAS`.
    pub address: SecretString,
    /// API key for Elasticsearch.
    pub api_key: Option<SecretString>,
    /// PEM file with the certificate authority of Elasticsearch.
    pub ca: Option<PathBuf>,
    /// Whether credentials may go over plain HTTP to another host.
    pub allow_plain_http: bool,
}

impl Store {
    /// Opens a store by its address. Neither connects nor creates anything: [`Self::check`] and [`Self::create`] do.
    ///
    /// # Errors
    /// [`Error::Address`], or [`Error::Io`] where a named file (the certificate authority) cannot be read.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        match settings.address.expose_secret().split_once(':') {
            Some(("sqlite", path)) => Ok(Self::Embedded(embedded::Embedded::open(path.as_ref())?)),
            Some(("http" | "https", _)) => Ok(Self::Elasticsearch(elasticsearch::Elasticsearch::open(settings)?)),
            _ => Err(Error::Address { store: "(address)".to_owned(), reason: "unknown scheme".to_owned() }),
        }
    }

    /// The model and mapping the store was made for; `None` for a store that does not exist yet.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn origin(&self) -> Result<Option<Origin>, Error> {
        match self {
            Self::Embedded(store) => store.origin().await,
            Self::Elasticsearch(store) => store.origin().await,
        }
    }

    /// Creates the store for a model where it is missing: the file, or the index, template and alias.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where it exists for something else.
    pub async fn create(&self, model: &Manifest) -> Result<(), Error> {
        match self {
            Self::Embedded(store) => store.create(model).await,
            Self::Elasticsearch(store) => store.create(model).await,
        }
    }

    /// Refuses a store that is missing or was made for another model or mapping. To be called before the first write
    /// and the first search.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Mismatch`], or any failure to find out.
    pub async fn check(&self, model: &Manifest) -> Result<(), Error> {
        match self.origin().await? {
            None => Err(Error::Missing { store: self.to_string() }),
            Some(origin) => origin.check(model, self),
        }
    }

    /// Refuses a store that takes no writes now, besides what [`Self::check`] refuses.
    ///
    /// # Errors
    /// As [`Self::check`], and [`Error::Blocked`].
    pub async fn check_writable(&self, model: &Manifest) -> Result<(), Error> {
        match self {
            Self::Embedded(_) => self.check(model).await,
            Self::Elasticsearch(store) => store.check_writable(model).await,
        }
    }

    /// Writes a batch. The answer has one entry per write, in order.
    ///
    /// # Errors
    /// When the batch as a whole was not processed; sending it again is safe.
    pub async fn write(&self, batch: &[Write]) -> Result<Vec<Written>, Error> {
        match self {
            Self::Embedded(store) => store.write(batch).await,
            Self::Elasticsearch(store) => store.write(batch).await,
        }
    }

    /// Reads one document without its vector.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, id: &str) -> Result<Option<Document>, Error> {
        match self {
            Self::Embedded(store) => store.get(id).await,
            Self::Elasticsearch(store) => store.get(id).await,
        }
    }

    /// The nearest documents, best first; ties by id.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn search(&self, query: &Query) -> Result<Vec<Hit>, Error> {
        match self {
            Self::Embedded(store) => store.search(query).await,
            Self::Elasticsearch(store) => store.search(query).await,
        }
    }

    /// How many documents are stored.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn count(&self) -> Result<u64, Error> {
        match self {
            Self::Embedded(store) => store.count().await,
            Self::Elasticsearch(store) => store.count().await,
        }
    }

    /// Documents with their vectors, ordered by id, after the given one: a page of an export. An empty page is the end.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn page(&self, after: Option<&str>, size: usize) -> Result<Vec<Document>, Error> {
        match self {
            Self::Embedded(store) => store.page(after, size).await,
            Self::Elasticsearch(store) => store.page(after, size).await,
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
