//! Removes tombstones that are no longer needed.
//!
//! Each one is deleted only in the state in which it was found (`if_seq_no`), so that an image that came back meanwhile stays.
//! Elasticsearch remembers the version after such a deletion, one above the tombstone's, for `index.gc_deletes`: for that time
//! it would refuse the upsert of the next version, as a producer that counts 1, 2, 3 may send it. So the setting is zero
//! meanwhile. Tombstones do not need it. It protects the deletions of earlier releases alone, which remove documents.

use std::time::Duration;

use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::bulk::{FILTER_PATH, ItemResult};
use super::client::{self, Body, RequestTimeout};
use super::query::{self, FoundTombstone};
use super::{Access, Elasticsearch, mapping};
use crate::store::Error;

/// Tombstones per request.
const PAGE: usize = 1000;
/// How long Elasticsearch may take to notice that a deletion is older than zero seconds: its clock for that purpose ticks
/// every 200 ms.
const FORGETTING: Duration = Duration::from_secs(1);
const GC_DELETES: &str = "index.gc_deletes";
/// The setting while tombstones are removed.
const NEVER: &str = "0s";

impl Elasticsearch {
    /// See [`crate::store::Store::purge_tombstones`].
    pub async fn purge_tombstones(&self, before_ms: u64) -> Result<u64, Error> {
        self.refresh().await?;
        let mut page = self.old_tombstones(before_ms, None).await?;
        let (now, remembered) = self.gc_deletes().await?;
        if page.is_empty() {
            if now != remembered {
                self.set_gc_deletes(&remembered).await?;
            }
            return Ok(0);
        }
        self.set_gc_deletes(&NEVER.into()).await?;
        let purged = async {
            let mut purged = 0;
            while let Some(last) = page.last().map(|tombstone| tombstone.id.clone()) {
                purged += self.remove(&page).await?;
                page = self.old_tombstones(before_ms, Some(&last)).await?;
            }
            sleep(FORGETTING).await;
            self.refresh().await?;
            Ok(purged)
        };
        let purged = purged.await;
        // Also after a failure.
        self.set_gc_deletes(&remembered).await?;
        purged
    }

    async fn old_tombstones(&self, before_ms: u64, after: Option<&str>) -> Result<Vec<FoundTombstone>, Error> {
        let response = self.post_search(query::old_tombstones(before_ms, after, PAGE)).await?;
        query::found_tombstones(&response).map_err(|error| self.unreadable(&error, &response))
    }

    /// Deletes the tombstones that are still as they were found; returns how many.
    async fn remove(&self, tombstones: &[FoundTombstone]) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Response<'a> {
            #[serde(borrow)]
            items: Vec<Item<'a>>,
        }
        #[derive(Deserialize)]
        struct Item<'a> {
            #[serde(borrow)]
            delete: ItemResult<'a>,
        }
        let lines: Vec<_> = tombstones.iter().map(|tombstone| action(tombstone).to_string() + "\n").collect();
        let path = format!("_bulk?filter_path={FILTER_PATH}");
        let body = Body::Lines(lines.concat().into());
        let response = self.client.send(Method::Post, &path, body, RequestTimeout::Change).await;
        let response = response.map_err(|error| self.failed(&error, Access::Write))?;
        let Response { items } =
            serde_json::from_slice(&response).map_err(|error| self.unreadable(&error, &response))?;
        let mut removed = 0;
        for Item { delete: ItemResult { status, error } } in items {
            match status {
                200 => removed += 1,
                // Replaced or removed meanwhile.
                404 | 409 => {}
                status => {
                    let kind = error.as_ref().map(|error| error.kind.to_string()).unwrap_or_default();
                    let reason = error.and_then(|error| error.reason).unwrap_or_default().into_owned();
                    return Err(self.failed(&client::Error::Reported { status, kind, reason }, Access::Write));
                }
            }
        }
        Ok(removed)
    }

    async fn refresh(&self) -> Result<(), Error> {
        let path = format!("{}/_refresh", self.alias);
        let refreshed = self.client.send(Method::Post, &path, Body::Empty, RequestTimeout::Change).await;
        refreshed.map(drop).map_err(|error| self.failed(&error, Access::Read))
    }

    /// The index's own setting, `null` where it has none, and what it should be: the same, but that of the mapping where an
    /// earlier purge was stopped before it could restore it.
    async fn gc_deletes(&self) -> Result<(Value, Value), Error> {
        let path = format!("{}/_settings?flat_settings=true", self.alias);
        let found = self.client.json::<Value>(Method::Get, &path, Body::Empty, RequestTimeout::Lookup).await;
        let found = found.map_err(|error| self.failed(&error, Access::Read))?;
        let index = found.as_object().and_then(|indices| indices.values().next());
        let setting = index.map_or(Value::Null, |index| index["settings"][GC_DELETES].clone());
        if setting != NEVER {
            return Ok((setting.clone(), setting));
        }
        let mapping = mapping::current().map_err(|error| self.unreadable(&error, &[]))?;
        Ok((setting, mapping["settings"]["index"]["gc_deletes"].clone()))
    }

    async fn set_gc_deletes(&self, value: &Value) -> Result<(), Error> {
        let path = format!("{}/_settings", self.alias);
        let set = self.change(Method::Put, &path, json!({ GC_DELETES: value })).await;
        set.map_err(|error| self.failed(&error, Access::Write))
    }
}

fn action(tombstone: &FoundTombstone) -> Value {
    let FoundTombstone { index, id, seq_no, primary_term } = tombstone;
    json!({ "delete": { "_index": index, "_id": id, "if_seq_no": seq_no, "if_primary_term": primary_term } })
}
