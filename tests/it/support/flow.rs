//! What a worker needs: queues in a real RabbitMQ, an index in a real Elasticsearch, a web server of images.

use std::collections::BTreeMap;

use imgdex::testing::model::Manifest;
use imgdex::testing::store::Revision;
use reqwest::Method;
use serde_json::{Value, json};

use super::images::Images;
use super::poll;
use super::process::{Finished, Worker, run};
use super::proxy::Proxy;
use super::rabbit::{self, Rabbit};
use super::scrape::Scrape;
use crate::support::elasticsearch::{self, Alias};

/// Documents in one search.
const PAGE: usize = 1000;
/// The fields of a tombstone: it has no others.
const TOMBSTONE: [&str; 4] = ["collection", "id", "indexed_at", "version"];

/// What the index has under an id: an image, or without a URL the tombstone of a deleted one.
pub struct Found {
    pub version: u64,
    pub url: Option<String>,
}

impl Found {
    /// Whether it is a document or a deletion, and at which version.
    pub fn revision(&self) -> Revision {
        if self.url.is_some() { Revision::Upsert(self.version) } else { Revision::Deletion(self.version) }
    }
}

/// Queues, index and web server of one test.
pub struct Flow {
    pub rabbit: Rabbit,
    pub alias: Alias,
    pub images: Images,
    /// The address for workers: that of the alias, or of a proxy before it.
    pub store: String,
}

impl Flow {
    /// Queues, and an index for the stub model.
    pub async fn start() -> Self {
        let flow = Self::without_index().await;
        flow.create_index("stub").await;
        flow
    }

    /// Queues only.
    pub async fn without_index() -> Self {
        Self::at(&rabbit::url(), elasticsearch::url()).await
    }

    /// Queues only, in any servers.
    pub async fn at(broker: &str, elasticsearch: String) -> Self {
        let rabbit = Rabbit::declared_at(broker, &[1, 2]).await;
        let alias = Alias::at(elasticsearch);
        let store = alias.address();
        Self { rabbit, alias, images: Images::start().await, store }
    }

    /// With an index, and a proxy in front of Elasticsearch.
    pub async fn behind_a_proxy() -> (Self, Proxy) {
        let (mut flow, proxy) = (Self::start().await, Proxy::start(elasticsearch::url()));
        flow.store = proxy.store(&flow.alias.name);
        (flow, proxy)
    }

    /// Creates the index, for a model.
    pub async fn create_index(&self, model: &str) {
        self.alias.open().create(&Manifest::find(model).unwrap()).await.unwrap();
    }

    /// A worker with the stub model.
    pub async fn worker(&self) -> Worker {
        self.worker_with(&["--model", "stub"]).await
    }

    /// A worker with these flags, besides those for queues, index and web server.
    pub async fn worker_with(&self, flags: &[&str]) -> Worker {
        let port = self.images.port().to_string();
        let fixed = ["worker", "--log", "info,imgdex=debug", "--admin-listen", "127.0.0.1:0", "--store", &self.store];
        let fetching = ["--allow-net", "127.0.0.0/8", "--allow-port", &port];
        let all = fixed.iter().chain(&fetching).chain(flags).map(ToString::to_string);
        Worker::start(&all.chain(self.rabbit.flags()).collect::<Vec<_>>()).await
    }

    /// Runs `imgdex publish` with these lines.
    pub async fn publish(&self, lines: &[impl AsRef<str>], flags: &[&str]) -> Finished {
        let all = ["publish", "-"].iter().chain(flags).map(ToString::to_string).chain(self.rabbit.flags());
        let lines: Vec<_> = lines.iter().map(AsRef::as_ref).collect();
        let finished = run(&all.collect::<Vec<_>>(), &lines.join("\n")).await;
        let expected = format!("{} accepted, 0 refused\n", lines.len());
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), expected.as_str()), "{finished:?}");
        finished
    }

    /// How many documents of images there are, after a refresh. Tombstones are none.
    pub async fn documents(&self) -> u64 {
        self.alias.refresh().await;
        let (status, answer) = self.alias.request(Method::POST, "/_count", Some(json!({"query": live()}))).await;
        assert_eq!(status, 200, "{answer}");
        answer["count"].as_u64().unwrap()
    }

    /// Waits until there are this many documents.
    pub async fn until_documents(&self, expected: u64) {
        poll::until_equal("documents", expected, async || self.documents().await).await;
    }

    /// Waits until all queues but that of the dead letters are empty, and the worker has nothing in flight. Returns its
    /// metrics at that moment.
    pub async fn until_settled(&self, worker: &Worker) -> Scrape {
        poll::until("everything is settled", async || {
            // Twice: a message that moves between queues may be in none of them when each is asked. In this case it is
            // received in between.
            let received = worker.scrape().await.value("messages_received_total", &[]);
            let mut waiting = self.waiting().await;
            let scrape = worker.scrape().await;
            let in_flight = scrape.value("inflight_messages", &[]);
            let moved = scrape.value("messages_received_total", &[]) - received;
            waiting += self.waiting().await;
            if (waiting, in_flight, moved) == (0, 0, 0) {
                Ok(scrape)
            } else {
                Err(format!("{waiting} wait, {in_flight} in flight, {moved} received meanwhile"))
            }
        })
        .await
    }

    /// Messages in all queues but that of the dead letters.
    async fn waiting(&self) -> u64 {
        let mut ready = 0;
        for queue in self.rabbit.queues().iter().filter(|queue| **queue != self.rabbit.dead()) {
            ready += u64::from(self.rabbit.ready(queue).await);
        }
        ready
    }

    /// Every document of an image without its vector, by URL. Tombstones are none.
    pub async fn sources(&self) -> Vec<Value> {
        self.alias.refresh().await;
        let path = "/_search?size=10000&_source_excludes=image_vector";
        let (status, answer) = self.alias.request(Method::POST, path, Some(json!({"query": live()}))).await;
        assert_eq!(status, 200, "{answer}");
        let hits = answer["hits"]["hits"].as_array().unwrap();
        let mut sources: Vec<_> = hits.iter().map(|hit| hit["_source"].clone()).collect();
        sources.sort_by_key(|source| source["url"].as_str().unwrap().to_owned());
        sources
    }

    /// The URLs of all documents, sorted.
    pub async fn indexed_urls(&self) -> Vec<String> {
        self.sources().await.iter().map(|source| source["url"].as_str().unwrap().to_owned()).collect()
    }

    /// Everything in the index by id, tombstones included. Checks that `_id` is the id in the document, that ids are unique,
    /// that `_version` leaves a tombstone its place above the image of the same version, and that a tombstone is nothing else.
    pub async fn stored(&self) -> BTreeMap<String, Found> {
        self.alias.refresh().await;
        let mut stored = BTreeMap::new();
        loop {
            let mut search =
                json!({"size": PAGE, "sort": ["id"], "version": true, "_source": {"excludes": ["image_vector"]}});
            if let Some((last, _)) = stored.last_key_value() {
                search["search_after"] = json!([last]);
            }
            let (status, answer) = self.alias.request(Method::POST, "/_search", Some(search)).await;
            assert_eq!(status, 200, "{answer}");
            let hits = answer["hits"]["hits"].as_array().unwrap();
            for hit in hits {
                let source = &hit["_source"];
                assert_eq!(hit["_id"], source["id"]);
                let url = source.get("url").map(|url| url.as_str().unwrap().to_owned());
                let found = Found { version: source["version"].as_u64().unwrap(), url };
                assert_eq!(hit["_version"], found.version + u64::from(found.url.is_none()), "{hit}");
                if found.url.is_none() {
                    assert!(
                        source.as_object().unwrap().keys().all(|field| TOMBSTONE.contains(&field.as_str())),
                        "{hit}"
                    );
                }
                let id = source["id"].as_str().unwrap().to_owned();
                assert!(stored.insert(id, found).is_none(), "two documents have the id {}", source["id"]);
            }
            if hits.len() < PAGE {
                return stored;
            }
        }
    }

    /// Checks that all queues are empty, that of the dead letters included. To be called when no worker runs.
    pub async fn assert_all_queues_empty(&self) {
        for queue in self.rabbit.queues() {
            assert_eq!(self.rabbit.ready(&queue).await, 0, "messages in {queue}");
        }
        self.rabbit.assert_nothing_left().await;
    }
}

/// The query for documents of images.
fn live() -> Value {
    json!({"exists": {"field": "url"}})
}

/// Sorts URLs.
pub fn sorted(mut urls: Vec<String>) -> Vec<String> {
    urls.sort();
    urls
}
