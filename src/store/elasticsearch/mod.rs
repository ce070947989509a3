//! The Elasticsearch store: an alias in a cluster.
//!
//! [`address`], [`bulk`], [`query`], [`live`], [`error_class`], [`mapping`] and [`state`] are pure; only [`client`] speaks
//! HTTP. The methods of [`Elasticsearch`] that read and write documents are in this file; those that create and inspect the
//! index behind the alias are in [`index`], and [`purge`] removes tombstones.

mod address;
pub mod bulk;
mod client;
mod error_class;
mod index;
mod live;
pub mod mapping;
mod purge;
mod query;
pub mod state;

use std::fmt;

use elasticsearch::http::Method;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value};

use self::address::Address;
use self::client::{Body, Client, RequestTimeout};
use self::error_class::{ErrorClass, OVERLOAD};
pub use self::index::{Counts, SEVERAL_INDICES};
use self::live::Selection;
use self::query::ReadBody;
use super::{Acceptance, Blocked, Error, ErrorKind, Hit, Query, Settings, Stored, Target, Write, WriteOutcome};

/// An alias in a cluster.
pub struct Elasticsearch {
    client: Client,
    alias: String,
    /// The address without credentials.
    name: String,
    acceptance: Acceptance,
}

/// Whether a request reads or writes. A missing index is an error to a reader and a pause to a writer.
#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

impl Elasticsearch {
    /// See [`super::Store::open`].
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        // The error does not quote the address: a text that cannot be parsed may hold a password anywhere.
        let address = Address::parse(settings.address.expose_secret())
            .map_err(|reason| Error::new(&"(address)", ErrorKind::Address(reason)))?;
        let client = Client::new(&address, settings)?;
        let name = format!("{}{}", address.base, address.alias);
        Ok(Self { client, name, alias: address.alias, acceptance: Acceptance::new(settings.accept_earlier) })
    }

    /// See [`super::Store::acceptance`].
    pub fn acceptance(&self) -> &Acceptance {
        &self.acceptance
    }

    /// See [`super::Store::write`].
    pub async fn write(&self, batch: &[Write]) -> Result<Vec<WriteOutcome>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let encoding = self.client.vector_encoding().await.map_err(|error| self.failed(&error, Access::Write))?;
        let body = bulk::body(batch, encoding).map_err(|error| self.error(ErrorKind::Refused(error.to_string())))?;
        let path = format!("{}/_bulk?require_alias=true&filter_path={}", self.alias, bulk::FILTER_PATH);
        let response = self
            .client
            .send(Method::Post, &path, Body::Lines(body.into()), RequestTimeout::Change)
            .await
            .map_err(|error| self.failed(&error, Access::Write))?;
        bulk::read(&response, batch).map_err(|error| self.unreadable(&error, &response))
    }

    /// See [`super::Store::get`]. Sees writes at once, unlike a search.
    pub async fn get(&self, id: &str) -> Result<Option<Stored>, Error> {
        #[derive(Deserialize)]
        struct Response {
            docs: [Item; 1],
        }
        #[derive(Deserialize)]
        struct Item {
            #[serde(rename = "_source")]
            source: Option<Map<String, Value>>,
            error: Option<ItemError>,
        }
        #[derive(Deserialize)]
        struct ItemError {
            #[serde(rename = "type")]
            kind: String,
            reason: Option<String>,
        }
        // A multi-get of one document: the id is part of the body and need not be encoded for a path.
        let path = format!("{}/_mget?_source_excludes=image_vector", self.alias);
        let body = Body::Json(serde_json::json!({ "ids": [id] }));
        let response = self.client.json::<Response>(Method::Post, &path, body, RequestTimeout::Lookup).await;
        let Response { docs: [item] } = response.map_err(|error| self.failed(&error, Access::Read))?;
        match item.error {
            None => item.source.map(query::stored).transpose().map_err(|error| self.unreadable(&error, &[])),
            Some(ItemError { kind, reason }) => {
                // An item has no status; only a missing index is distinguished from other errors.
                let status = if kind == "index_not_found_exception" { 404 } else { 503 };
                let error = client::Error::Reported { status, kind, reason: reason.unwrap_or_default() };
                Err(self.failed(&error, Access::Read))
            }
        }
    }

    /// See [`super::Store::search`].
    pub async fn search(&self, query: &Query) -> Result<Vec<Hit>, Error> {
        let stored;
        let vector = match &query.target {
            Target::Embedding(embedding) => embedding.as_slice(),
            Target::Id(id) => {
                let response = self.post_search(query::vector_of(id)).await?;
                let found = query::vector(&response).map_err(|error| self.unreadable(&error, &response))?;
                stored = found.ok_or_else(|| self.error(ErrorKind::UnknownId(id.clone())))?;
                stored.as_slice()
            }
        };
        if let Some(reason) = query::refusal(query, vector) {
            return Err(self.error(ErrorKind::Refused(reason)));
        }
        let response = self.post_search(query::search(query, vector)).await?;
        query::hits(query, &response).map_err(|error| self.unreadable(&error, &response))
    }

    /// See [`super::Store::count`].
    pub async fn count(&self) -> Result<u64, Error> {
        self.count_of(&self.alias, Selection::Live).await
    }

    /// See [`super::Store::count_tombstones`].
    pub async fn count_tombstones(&self) -> Result<u64, Error> {
        self.count_of(&self.alias, Selection::Tombstones).await
    }

    async fn count_of(&self, name: &str, selection: Selection) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Count {
            count: u64,
        }
        let path = format!("{name}/_count?filter_path=count");
        let body = Body::Json(ReadBody::all(selection).into_json());
        let response = self.client.json::<Count>(Method::Post, &path, body, RequestTimeout::Search).await;
        Ok(response.map_err(|error| self.failed(&error, Access::Read))?.count)
    }

    /// See [`super::Store::list`].
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Stored>, Error> {
        let response = self.post_search(query::list(after, limit)).await?;
        query::page(&response).map_err(|error| match error {
            query::Unreadable::Json(error) => self.unreadable(&error, &response),
            error @ query::Unreadable::Vector { .. } => self.error(ErrorKind::Io(error.to_string())),
        })
    }

    /// Sends a search. A response of some shards only is an error, not a shorter list of hits.
    async fn post_search(&self, body: ReadBody) -> Result<bytes::Bytes, Error> {
        let path = format!("{}/_search?allow_partial_search_results=false", self.alias);
        let body = Body::Json(body.into_json());
        let response = self.client.send(Method::Post, &path, body, RequestTimeout::Search).await;
        response.map_err(|error| self.failed(&error, Access::Read))
    }

    fn unreadable(&self, error: &dyn std::error::Error, response: &[u8]) -> Error {
        self.failed(&client::unexpected_response(200, error, response), Access::Read)
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(self, kind)
    }

    /// What the failure of a whole request means.
    fn failed(&self, error: &client::Error, access: Access) -> Error {
        let reason = error.to_string();
        let (status, class) = match error {
            client::Error::NoResponse(_) | client::Error::Timeout(_) | client::Error::Truncated(_) => {
                return self.error(ErrorKind::Unavailable(reason));
            }
            client::Error::Reported { status, kind, reason } => (*status, ErrorClass::of(*status, kind, reason)),
            // Size and credentials are checked by proxies, too: their status counts.
            client::Error::UnexpectedResponse { status: status @ (401 | 403 | 413), .. } => {
                (*status, ErrorClass::of(*status, "", ""))
            }
            client::Error::UnexpectedResponse { status, .. } => (*status, ErrorClass::Busy),
        };
        self.error(match (class, access) {
            (ErrorClass::TooLarge, _) => ErrorKind::TooLarge,
            (ErrorClass::Blocked(Blocked::IndexMissing), Access::Read) => ErrorKind::Missing,
            (ErrorClass::Blocked(cause), _) => ErrorKind::Blocked { cause, reason },
            // Only a 400 is about the content of the request; 404, 405 and the like are about its path.
            (ErrorClass::Refused, _) if status == 400 => ErrorKind::Refused(reason),
            (ErrorClass::Busy, _) if status == OVERLOAD => ErrorKind::Busy(reason),
            (ErrorClass::Refused | ErrorClass::Busy | ErrorClass::Conflict, _) => ErrorKind::Unavailable(reason),
        })
    }
}

/// The address without credentials.
impl fmt::Display for Elasticsearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
