//! Guarantees 1 and 2: a worker that is killed loses no message and makes no second document.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::flow::{Flow, sorted};
use crate::support::poll;
use crate::support::process::Worker;
use crate::support::proxy::{Handling, Proxy};
use crate::support::report::{report, scaled};
use crate::support::scrape::Scrape;

/// How far the messages of a worker have come when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// An image is fetched.
    Fetched,
    /// Features are computed.
    Embedded,
    /// A bulk request is sent. Elasticsearch writes it after the worker is dead.
    Sent,
    /// Elasticsearch has written, but its answer has not arrived.
    Answered,
    /// The answer has arrived, and the messages are about to be acknowledged.
    BeforeAck,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Fetched, Self::Embedded, Self::Sent, Self::Answered, Self::BeforeAck];

    /// What the proxy does with bulk requests before a kill at this stage.
    fn bulks(self) -> Handling {
        match self {
            Self::Fetched | Self::Embedded | Self::Sent => Handling::HoldRequest,
            Self::Answered | Self::BeforeAck => Handling::HoldAnswer,
        }
    }
}

/// Messages that are published before each kill: less than a batch, so that all are in one request.
const FRESH: usize = 6;

/// A worker that is killed again and again, and what was counted.
struct Killing {
    flow: Flow,
    proxy: Proxy,
    published: Vec<String>,
    /// By stage: the number of kills, and of messages that were redelivered after them.
    kills: BTreeMap<Stage, (u64, u64)>,
}

fn embedded(scrape: &Scrape) -> u64 {
    scrape.value("stage_duration_seconds_count", &[("stage", "extract")])
}

impl Killing {
    async fn start() -> Self {
        let (flow, proxy) = Flow::behind_a_proxy().await;
        Self { flow, proxy, published: Vec::new(), kills: BTreeMap::new() }
    }

    /// A worker that has finished what was redelivered after the last kill.
    async fn worker(&mut self, last: Option<Stage>) -> Worker {
        self.proxy.handle_bulks(Handling::Forward);
        let worker = self.flow.worker().await;
        self.flow.until_documents(self.published.len() as u64).await;
        let scrape = self.flow.until_settled(&worker).await;
        if let Some(last) = last {
            let (kills, again) = self.kills.entry(last).or_default();
            (*kills, *again) = (*kills + 1, *again + scrape.value("messages_received_total", &[]));
        }
        worker
    }

    /// Kills the worker when new messages have come to this stage.
    async fn kill_at(&mut self, stage: Stage, mut worker: Worker) {
        let fetched = self.flow.images.requests("good");
        let embedded_before = embedded(&worker.scrape().await);
        self.proxy.handle_bulks(stage.bulks());
        self.publish().await;
        match stage {
            Stage::Fetched => {
                poll::at_once("a fetched image", async || self.flow.images.requests("good") > fetched).await;
            }
            Stage::Embedded => {
                let more = async || embedded(&worker.scrape().await) > embedded_before;
                poll::at_once("features", more).await;
            }
            Stage::Sent | Stage::Answered => self.proxy.until_held().await,
            Stage::BeforeAck => {
                self.proxy.until_held().await;
                self.proxy.handle_bulks(Handling::Forward);
                self.proxy.release().await;
            }
        }
        worker.kill();
        match stage {
            Stage::Sent => self.proxy.release().await,
            _ => self.proxy.drop_held(),
        }
    }

    async fn publish(&mut self) {
        let start = self.published.len();
        for number in start..start + FRESH {
            let url = self.flow.images.url(&format!("/good/{number}"));
            self.flow.rabbit.publish(&url).await;
            self.published.push(url);
        }
    }
}

#[tokio::test]
async fn sigkill_at_each_stage_loses_and_duplicates_nothing() {
    let mut killing = Killing::start().await;
    let mut last = None;
    for stage in Stage::ALL.into_iter().cycle().take(scaled(10, 200)) {
        let worker = killing.worker(last).await;
        killing.kill_at(stage, worker).await;
        last = Some(stage);
    }
    let mut worker = killing.worker(last).await;
    assert_eq!(worker.terminate().await, Some(0));

    let Killing { flow, published, kills, .. } = killing;
    assert_eq!(flow.indexed_urls().await, sorted(published.clone()));
    flow.assert_all_queues_empty().await;
    let (total, again) = kills.values().fold((0, 0), |sum, kill| (sum.0 + kill.0, sum.1 + kill.1));
    let each: Vec<_> = kills.iter().map(|(stage, (count, again))| format!("{stage:?} {count}/{again}")).collect();
    report(
        1,
        format!(
            "{total} kills, {} images, {again} redelivered (stage kills/redelivered: {}): 0 lost, 0 duplicated",
            published.len(),
            each.join(", ")
        ),
    );
}

/// Runs a worker, and kills it when it has settled `enough` messages, or all.
async fn short_life(flow: &Flow, enough: u64) {
    let mut worker = flow.worker().await;
    poll::until("messages settled", async || {
        let settled = worker.scrape().await.value("messages_total", &[]);
        let waiting = flow.rabbit.ready(&flow.rabbit.queue).await;
        if settled >= enough || waiting == 0 { Ok(()) } else { Err(format!("{settled}, and {waiting} wait")) }
    })
    .await;
    worker.kill();
}

#[tokio::test]
async fn published_three_times_with_kills_in_between_each_reference_is_one_document() {
    let flow = Flow::start().await;
    let count = scaled(200, 1000);
    let (urls, enough) = (flow.images.urls("good", count), count as u64 / 3);
    let mut kills = 0;
    for round in 1..=3 {
        flow.publish(&urls, &["--metadata", &format!("round={round}")]).await;
        short_life(&flow, enough).await;
        kills += 1;
    }
    while flow.rabbit.ready(&flow.rabbit.queue).await > 0 {
        short_life(&flow, enough).await;
        kills += 1;
    }
    let mut last = flow.worker().await;
    flow.until_documents(count as u64).await;
    flow.until_settled(&last).await;
    assert_eq!(last.terminate().await, Some(0));

    let sources = flow.sources().await;
    let indexed: Vec<_> = sources.iter().map(|source| source["url"].as_str().unwrap().to_owned()).collect();
    assert_eq!(indexed, sorted(urls));
    assert!(sources.iter().all(|source| source["metadata"] == json!({"round": "3"})), "an older version remains");
    flow.assert_all_queues_empty().await;
    report(
        2,
        format!("{count} references published 3 times over {kills} kills: {count} documents, all of the last round"),
    );
}
