//! The Elasticsearch store: an alias in a cluster.
//!
//! [`address`], [`bulk`], [`query`] and [`error_class`] are pure; [`client`] alone speaks HTTP; [`index`] creates and
//! inspects the index behind the alias. This file is what the worker and the searches use.

pub mod address;
pub mod bulk;
pub mod client;
pub mod error_class;
pub mod index;
pub mod mapping;
pub mod query;
pub mod state;

use std::fmt;

use elasticsearch::http::Method;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::Value;

use self::address::Address;
use self::client::{Body, Client, Patience};
use self::error_class::{Meaning, OVERLOAD};
use self::query::Stored;
use super::{Blocked, Document, Error, Hit, Query, Settings, Target, Write, Written};
use crate::embedding::Embedding;

/// An alias in a cluster.
pub struct Elasticsearch {
    client: Client,
    alias: String,
    /// The address without credentials.
    name: String,
}

/// Whether a request reads or writes: a missing index pauses a writer and is an error to a reader.
#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

impl Elasticsearch {
    /// See [`super::Store::open`].
    ///
    /// # Errors
    /// See [`super::Store::open`].
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        // Without the address: what cannot be parsed may hold a password anywhere.
        let unusable = |reason| Error::Address { store: "(address)".to_owned(), reason };
        let address = Address::parse(settings.address.expose_secret()).map_err(unusable)?;
        let client = Client::new(&address, settings)?;
        Ok(Self { client, name: format!("{}{}", address.base, address.alias), alias: address.alias })
    }

    /// See [`super::Store::write`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn write(&self, batch: &[Write]) -> Result<Vec<Written>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let form = self.client.vector_form().await.map_err(|error| self.failed(&error, Access::Write))?;
        let body = bulk::body(batch, form)
            .map_err(|error| Error::Refused { store: self.to_string(), reason: error.to_string() })?;
        let path = format!("{}/_bulk?require_alias=true&filter_path={}", self.alias, bulk::FILTER_PATH);
        let answer = self
            .client
            .send(Method::Post, &path, Body::Lines(body.into()), Patience::Change)
            .await
            .map_err(|error| self.failed(&error, Access::Write))?;
        bulk::read(&answer, batch, &self.alias).map_err(|error| self.unreadable(&error, &answer))
    }

    /// See [`super::Store::get`]. Sees writes at once, unlike a search.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, id: &str) -> Result<Option<Document>, Error> {
        #[derive(Deserialize)]
        struct Docs {
            docs: [Doc; 1],
        }
        #[derive(Deserialize)]
        struct Doc {
            #[serde(rename = "_source")]
            source: Option<Stored>,
            error: Option<Cause>,
        }
        #[derive(Deserialize)]
        struct Cause {
            #[serde(rename = "type")]
            kind: String,
            reason: Option<String>,
        }
        // Several documents at once, of which one is asked for: the id need not be made fit for a path.
        let path = format!("{}/_mget?_source_excludes=image_vector", self.alias);
        let body = Body::Json(serde_json::json!({ "ids": [id] }));
        let answer = self.client.json::<Docs>(Method::Post, &path, body, Patience::Lookup).await;
        let Docs { docs: [doc] } = answer.map_err(|error| self.failed(&error, Access::Read))?;
        match doc.error {
            None => Ok(doc.source.map(Document::from)),
            Some(Cause { kind, reason }) => {
                // The item has no status of its own; only a missing index is told apart.
                let status = if kind == "index_not_found_exception" { 404 } else { 503 };
                let error = client::Error::Reported { status, kind, reason: reason.unwrap_or_default() };
                Err(self.failed(&error, Access::Read))
            }
        }
    }

    /// See [`super::Store::search`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn search(&self, query: &Query) -> Result<Vec<Hit>, Error> {
        let stored;
        let vector = match &query.target {
            Target::Embedding(embedding) => embedding.as_slice(),
            Target::Id(id) => {
                let answer = self.ask(query::vector_of(id)).await?;
                let found = query::vector(&answer).map_err(|error| self.unreadable(&error, &answer))?;
                stored = found.ok_or_else(|| Error::UnknownId { store: self.to_string(), id: id.clone() })?;
                stored.as_slice()
            }
        };
        if let Some(reason) = query::refusal(query, vector) {
            return Err(Error::Refused { store: self.to_string(), reason });
        }
        let answer = self.ask(query::search(query, vector)).await?;
        query::hits(query, &answer).map_err(|error| self.unreadable(&error, &answer))
    }

    /// See [`super::Store::count`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn count(&self) -> Result<u64, Error> {
        self.count_of(&self.alias).await
    }

    async fn count_of(&self, name: &str) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Count {
            count: u64,
        }
        let path = format!("{name}/_count?filter_path=count");
        let answer = self.client.json::<Count>(Method::Get, &path, Body::Empty, Patience::Search).await;
        Ok(answer.map_err(|error| self.failed(&error, Access::Read))?.count)
    }

    /// See [`super::Store::page`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn page(&self, after: Option<&str>, size: usize) -> Result<Vec<Document>, Error> {
        let answer = self.ask(query::page(after, size)).await?;
        let documents = query::documents(&answer).map_err(|error| self.unreadable(&error, &answer))?;
        let checked = documents.into_iter().map(|(mut document, vector)| {
            let embedding = vector.map(Embedding::from_unit).transpose().map_err(|error| Error::Io {
                store: self.to_string(),
                reason: format!("document {:?}: {error}", document.id),
            })?;
            document.embedding = embedding;
            Ok(document)
        });
        checked.collect()
    }

    /// Searches; an answer of some shards only is a failure, not a shorter list of hits.
    async fn ask(&self, body: Value) -> Result<bytes::Bytes, Error> {
        let path = format!("{}/_search?allow_partial_search_results=false", self.alias);
        let answer = self.client.send(Method::Post, &path, Body::Json(body), Patience::Search).await;
        answer.map_err(|error| self.failed(&error, Access::Read))
    }

    fn unreadable(&self, error: &dyn std::error::Error, answer: &[u8]) -> Error {
        self.failed(&client::foreign(200, error, answer), Access::Read)
    }

    /// What the failure of a whole request means.
    fn failed(&self, error: &client::Error, access: Access) -> Error {
        let store = self.to_string();
        let reason = error.to_string();
        let (status, meaning) = match error {
            client::Error::NoAnswer(_) | client::Error::Timeout(_) | client::Error::Truncated(_) => {
                return Error::Unavailable { store, reason };
            }
            client::Error::Reported { status, kind, reason } => (*status, Meaning::of(*status, kind, reason)),
            // A proxy's word counts for what proxies judge: size and credentials.
            client::Error::Foreign { status: status @ (401 | 403 | 413), .. } => {
                (*status, Meaning::of(*status, "", ""))
            }
            client::Error::Foreign { status, .. } => (*status, Meaning::Busy),
        };
        match (meaning, access) {
            (Meaning::TooLarge, _) => Error::TooLarge { store },
            (Meaning::Blocked(Blocked::IndexMissing), Access::Read) => Error::Missing { store },
            (Meaning::Blocked(cause), _) => Error::Blocked { store, cause, reason },
            // Only a 400 is about what was sent; 404, 405 and the like are about where it went.
            (Meaning::Refused, _) if status == 400 => Error::Refused { store, reason },
            (Meaning::Busy, _) if status == OVERLOAD => Error::Busy { store, reason },
            (Meaning::Refused | Meaning::Busy | Meaning::Conflict, _) => Error::Unavailable { store, reason },
        }
    }
}

/// The address without credentials.
impl fmt::Display for Elasticsearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
