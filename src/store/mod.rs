//! Documents, hits, and the two places they are kept.

pub mod elasticsearch;
pub mod embedded;
mod error;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::error::{Blocked, Error};
use crate::distance::{Measure, Mode};
use crate::embedding::Embedding;
use crate::model::manifest::Manifest;

/// One stored image; in this form also a line of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Unique in its store, across collections.
    pub id: String,
    /// Where the image is.
    pub url: String,
    /// The collection it belongs to.
    pub collection: String,
    /// Orders writes of one id.
    pub version: u64,
    /// Width of the image in pixels, as stored in the file.
    pub width: u32,
    /// Height of the image in pixels, as stored in the file.
    pub height: u32,
    /// Size of the image file in bytes.
    pub bytes: u64,
    /// `jpeg`, `png`, ...
    pub format: String,
    /// SHA-256 of the image file, hexadecimal.
    pub content_sha256: String,
    /// When the document was made, in ms since the epoch.
    pub indexed_at_ms: u64,
    /// Whatever the producer sent along.
    pub metadata: Map<String, Value>,
    /// The features; absent in a document read without them.
    pub embedding: Option<Embedding>,
}

/// One write.
#[derive(Clone, Debug)]
pub enum Write {
    /// Store the document, unless a newer version is there.
    Put(Box<Document>),
    /// Remove the document, unless a newer version is there.
    Delete {
        /// The document's id.
        id: String,
        /// The deletion's version.
        version: u64,
    },
}

/// What became of one write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Durable.
    Indexed,
    /// Gone, or was not there.
    Deleted,
    /// A newer version is stored.
    Stale,
    /// Refused for what it holds.
    Rejected {
        /// The store's error type.
        kind: String,
        /// The store's reason.
        reason: String,
    },
    /// Not now: too busy, or a shard is not available.
    Busy {
        /// Whether the store has too much to do (429), so that fewer requests at a time help.
        overload: bool,
        /// The store's reason.
        reason: String,
    },
    /// The whole index does not take writes.
    Blocked {
        /// Why.
        cause: Blocked,
        /// The store's reason.
        reason: String,
    },
}

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

/// What to search for.
#[derive(Clone, Debug)]
pub struct Query {
    /// The image, by its features or by the id of its document.
    pub target: Target,
    /// How vectors are compared.
    pub mode: Mode,
    /// How many hits at most.
    pub k: usize,
    /// Leave out hits whose similarity is below.
    pub min_similarity: Option<f64>,
    /// Only this collection.
    pub collection: Option<String>,
    /// Only documents whose metadata has these values, each compared as text. Keys name nested fields with dots.
    pub filters: BTreeMap<String, String>,
    /// Let the store use an approximate index, then rescore exactly.
    pub approximate: bool,
}

/// What hits are compared with.
#[derive(Clone, Debug)]
pub enum Target {
    /// Features of a query image.
    Embedding(Embedding),
    /// A stored document, which is itself left out of the hits.
    Id(String),
}

/// One answer to a query, as printed in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// 1 is the nearest.
    pub rank: usize,
    /// The document's id.
    pub id: String,
    /// Where the image is.
    pub url: String,
    /// Its collection.
    pub collection: String,
    /// Score, distance and similarity.
    #[serde(flatten)]
    pub measure: Measure,
    /// Whatever the producer sent along.
    pub metadata: Map<String, Value>,
}

/// What a store remembers about the model and mapping it was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The model's name in the catalogue.
    pub model: String,
    /// The fingerprint of its manifest.
    pub fingerprint: String,
    /// The mapping's version.
    pub mapping_version: u32,
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

impl Origin {
    /// What a store made now for this model remembers.
    pub fn new(model: &Manifest) -> Self {
        Self {
            model: model.name.clone(),
            fingerprint: model.fingerprint(),
            mapping_version: crate::mappings::CURRENT_VERSION,
        }
    }

    /// Compares what a store remembers with what is needed.
    ///
    /// # Errors
    /// [`Error::Mismatch`].
    pub fn check(&self, model: &Manifest, store: &impl std::fmt::Display) -> Result<(), Error> {
        let expected = Self::new(model);
        let mismatch = |what, found: &str, expected: &str, advice: &str| {
            Err(Error::Mismatch {
                store: store.to_string(),
                what,
                found: found.to_owned(),
                expected: expected.to_owned(),
                advice: advice.to_owned(),
            })
        };
        if self.model != expected.model {
            let advice = format!("pass --model {}, or use another store", self.model);
            return mismatch("its model", &self.model, &expected.model, &advice);
        }
        if self.fingerprint != expected.fingerprint {
            let advice = "its vectors were made with other weights or another preprocessing; index the images again";
            return mismatch("its model's fingerprint", &self.fingerprint, &expected.fingerprint, advice);
        }
        if self.mapping_version != expected.mapping_version {
            let (found, expected) = (self.mapping_version.to_string(), expected.mapping_version.to_string());
            return mismatch("its mapping version", &found, &expected, "use the imgdex release that made it");
        }
        Ok(())
    }
}

/// Now, in ms since the epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}
