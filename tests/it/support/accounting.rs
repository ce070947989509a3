//! Accounting for what a test publishes: each image must be at its newest version in the index, each broken message a dead
//! letter with its reason.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use imgdex::testing::broker::headers;
use lapin::message::Delivery;
use reqwest::Method;
use serde_json::{Value, json};

use super::flow::Flow;
use super::poll;
use super::rabbit::{body, text_header};

/// For all messages to be settled. A broker that was killed needs three minutes to repeat an unconfirmed move out of a
/// retry queue.
const TIMEOUT: Duration = Duration::from_mins(5);
/// Documents in one search.
const PAGE: usize = 1000;
/// Differences that are shown.
const SHOWN: usize = 50;

/// What was published, and the dead letters found so far.
#[derive(Default)]
pub struct Ledger {
    /// The newest version of each image, by id.
    images: BTreeMap<String, Newest>,
    /// The reason expected of each message that cannot become a document, by its body.
    broken: BTreeMap<String, &'static str>,
    /// The reason of each dead letter, by the message's body.
    letters: BTreeMap<String, Vec<String>>,
}

struct Newest {
    version: u64,
    /// `None` after a deletion.
    url: Option<String>,
    /// Whether Elasticsearch has forgotten the version of this deletion.
    forgotten: bool,
}

/// The state of all that was published.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Images at their newest version.
    pub current: u64,
    /// Images that are deleted, as they should be.
    pub deleted: u64,
    /// Images that an older message brought back after Elasticsearch had forgotten the deletion.
    pub revived: u64,
    /// Dead-lettered messages, by reason.
    pub dead: BTreeMap<String, u64>,
    /// Dead letters beyond the first of a message. A worker that ends between confirm and acknowledgement repeats it.
    pub repeated: u64,
    /// Everything that is not as it should be.
    pub differences: Vec<String>,
}

/// A document of the index.
struct Found {
    version: u64,
    url: String,
}

impl Ledger {
    /// Records a message about an image; without a URL it is a deletion.
    pub fn image(&mut self, id: &str, version: u64, url: Option<&str>) {
        let newest = Newest { version, url: url.map(ToOwned::to_owned), forgotten: false };
        let known =
            self.images.entry(id.to_owned()).or_insert_with(|| Newest { version: 0, url: None, forgotten: false });
        if version >= known.version {
            *known = newest;
        }
    }

    /// Records a message that must be dead-lettered.
    pub fn broken(&mut self, body: &str, reason: &'static str) {
        self.broken.insert(body.to_owned(), reason);
    }

    /// Records a restart of Elasticsearch. It forgets the versions of deletions (mappings/README.md), so that an older message
    /// that is delivered later may bring an image back.
    pub fn deletions_forgotten(&mut self) {
        self.images.values_mut().filter(|newest| newest.url.is_none()).for_each(|newest| newest.forgotten = true);
    }

    /// How many images and broken messages were published.
    pub fn published(&self) -> (u64, u64) {
        (self.images.len() as u64, self.broken.len() as u64)
    }

    /// Waits until all queues but that of the dead letters are empty and there are no differences. `idle` says whether the
    /// workers have no message in flight.
    pub async fn until_balanced(&mut self, flow: &Flow, mut idle: impl AsyncFnMut() -> bool) -> Balance {
        poll::until_within("published and found are the same", TIMEOUT, async || {
            if !idle().await {
                return Err("a worker is busy".to_owned());
            }
            for queue in flow.rabbit.queues().iter().filter(|queue| **queue != flow.rabbit.dead()) {
                match flow.rabbit.ready(queue).await {
                    0 => {}
                    waiting => return Err(format!("{waiting} messages wait in {queue}")),
                }
            }
            self.record(&flow.rabbit.drain(&flow.rabbit.dead()).await);
            let balance = self.compare(&documents(flow).await);
            if balance.differences.is_empty() { Ok(balance) } else { Err(balance.to_string()) }
        })
        .await
    }

    /// Records dead letters.
    fn record(&mut self, letters: &[Delivery]) {
        for letter in letters {
            let reason = text_header(&letter.properties, headers::REASON).unwrap_or_default();
            self.letters.entry(body(letter)).or_default().push(reason);
        }
    }

    fn compare(&self, documents: &BTreeMap<String, Found>) -> Balance {
        let mut balance = Balance::default();
        let healthy = self.letters.iter().filter(|(body, _)| !self.broken.contains_key(*body));
        let difference =
            |(body, reasons): (&String, &Vec<String>)| format!("{body} is healthy, but was dead-lettered: {reasons:?}");
        balance.differences.extend(healthy.map(difference));
        let unknown = documents.keys().filter(|id| !self.images.contains_key(*id));
        balance.differences.extend(unknown.map(|id| format!("{id} was not published, but is in the index")));
        for (body, expected) in &self.broken {
            balance.count_broken(body, expected, self.letters.get(body).map_or(&[], Vec::as_slice));
        }
        for (id, newest) in &self.images {
            balance.count_image(id, newest, documents.get(id));
        }
        balance
    }
}

impl Balance {
    fn count_broken(&mut self, body: &str, expected: &str, reasons: &[String]) {
        match reasons {
            [] => self.differences.push(format!("{body} is lost: it should be dead-lettered as {expected}")),
            [_, again @ ..] if reasons.iter().all(|reason| reason == expected) => {
                *self.dead.entry(expected.to_owned()).or_default() += 1;
                self.repeated += again.len() as u64;
            }
            others => self.differences.push(format!("{body} is dead-lettered as {others:?}, not {expected}")),
        }
    }

    fn count_image(&mut self, id: &str, newest: &Newest, found: Option<&Found>) {
        match (&newest.url, found) {
            (Some(url), Some(found)) if found.version == newest.version && found.url == *url => self.current += 1,
            (Some(_), Some(found)) => {
                let (found_at, newest) = (found.version, newest.version);
                self.differences.push(format!("{id} is at version {found_at} ({}), not {newest}", found.url));
            }
            (Some(url), None) => {
                self.differences.push(format!("{id} version {} ({url}) is not in the index", newest.version));
            }
            (None, None) => self.deleted += 1,
            (None, Some(found)) if newest.forgotten && found.version < newest.version => self.revived += 1,
            (None, Some(found)) => {
                let (found_at, deleted) = (found.version, newest.version);
                self.differences.push(format!("{id} was deleted at version {deleted}, but is at {found_at}"));
            }
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { current, deleted, revived, dead, repeated, differences } = self;
        let dead_in_all: u64 = dead.values().sum();
        write!(f, "{current} indexed, {deleted} deleted, {revived} revived, {dead_in_all} dead-lettered {dead:?}, ")?;
        write!(f, "{repeated} dead letters repeated, {} differences", differences.len())?;
        differences.iter().take(SHOWN).try_for_each(|difference| write!(f, "\n  {difference}"))
    }
}

/// Every document, by id. Checks that `_id` is the id in the document, and that ids are unique.
async fn documents(flow: &Flow) -> BTreeMap<String, Found> {
    flow.alias.refresh().await;
    let mut documents = BTreeMap::new();
    loop {
        let mut query = json!({"size": PAGE, "sort": ["id"], "_source": ["id", "version", "url"]});
        if let Some((last, _)) = documents.last_key_value() {
            query["search_after"] = json!([last]);
        }
        let (status, answer) = flow.alias.request(Method::POST, "/_search", Some(query)).await;
        assert_eq!(status, 200, "{answer}");
        let hits = answer["hits"]["hits"].as_array().unwrap();
        for hit in hits {
            let source = &hit["_source"];
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            assert_eq!(hit["_id"], source["id"]);
            let found = Found { version: source["version"].as_u64().unwrap(), url: text(&source["url"]) };
            let id = text(&source["id"]);
            assert!(documents.insert(id, found).is_none(), "two documents have the id {}", source["id"]);
        }
        if hits.len() < PAGE {
            return documents;
        }
    }
}
