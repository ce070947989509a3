//! Guarantees 2 and 3: one image is one document, its highest version stays, and of equal versions the deletion, in any order of
//! delivery.

use std::collections::BTreeMap;

use imgdex::testing::store::Revision;
use reqwest::Method;
use serde_json::json;

use crate::support::elasticsearch::Alias;
use crate::support::flow::{Flow, Found};
use crate::support::poll;
use crate::support::process::{Worker, run};
use crate::support::rabbit;
use crate::support::report::{report, scaled};
use crate::support::service::Service;

/// The versions of each image. It is deleted between two of them, at one of them, or above all.
const UPSERTS: [u64; 5] = [10, 20, 30, 40, 50];
const NEWEST: u64 = 50;

/// A message about an image.
#[derive(Clone)]
struct Message {
    id: String,
    url: String,
    revision: Revision,
}

impl Message {
    fn line(&self) -> String {
        match self.revision {
            Revision::Upsert(version) => line(&self.id, &self.url, "upsert", version),
            Revision::Deletion(version) => line(&self.id, &self.url, "delete", version),
        }
    }
}

fn line(id: &str, url: &str, op: &str, version: u64) -> String {
    json!({"id": id, "url": url, "op": op, "version": version}).to_string()
}

/// The messages about image `n`: each of its versions once, and a deletion in one of five places.
fn messages_about(flow: &Flow, n: usize) -> Vec<Message> {
    let one_of_them = UPSERTS[n / 5 % UPSERTS.len()];
    let deleted = [NEWEST + 5, NEWEST, one_of_them, one_of_them - 5, 0][n % 5];
    let revisions = UPSERTS.map(Revision::Upsert).into_iter().chain([Revision::Deletion(deleted)]);
    let (id, url) = (format!("image-{n}"), flow.images.url(&format!("/good/{n}")));
    revisions.map(|revision| Message { id: id.clone(), url: url.clone(), revision }).collect()
}

/// The messages about this many images, in the order of the seed.
fn shuffled(flow: &Flow, count: usize, seed: u64) -> Vec<Message> {
    println!("seed {seed}");
    let mut messages: Vec<_> = (0..count).flat_map(|n| messages_about(flow, n)).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut messages);
    messages
}

/// What stands under each id when all these messages are done: the rule, applied to one after the other.
fn outcome(messages: &[Message]) -> BTreeMap<String, Revision> {
    let mut outcome = BTreeMap::new();
    for Message { id, revision, .. } in messages {
        let stands = outcome.entry(id.clone()).or_insert(*revision);
        if revision.replaces(*stands) {
            *stands = *revision;
        }
    }
    outcome
}

/// What the index has under each id.
async fn revisions(flow: &Flow) -> BTreeMap<String, Revision> {
    flow.stored().await.into_iter().map(|(id, found)| (id, found.revision())).collect()
}

fn deleted(outcome: &BTreeMap<String, Revision>) -> usize {
    outcome.values().filter(|revision| matches!(revision, Revision::Deletion(_))).count()
}

async fn publish(flow: &Flow, messages: &[Message]) {
    flow.publish(&messages.iter().map(Message::line).collect::<Vec<_>>(), &[]).await;
}

/// Workers with small batches, so that the messages about one image are spread over all of them.
async fn workers(flow: &Flow) -> Vec<Worker> {
    let mut workers = Vec::new();
    for _ in 0..4 {
        let worker = flow.worker_with(&["--model", "stub", "--prefetch", "16", "--bulk-items", "4"]).await;
        worker.until_ready().await;
        workers.push(worker);
    }
    workers
}

/// The sum of a metric over workers that have nothing to do.
async fn settled(flow: &Flow, workers: &[Worker], outcomes: &[&str]) -> u64 {
    let mut sum = 0;
    for worker in workers {
        let scrape = flow.until_settled(worker).await;
        assert_eq!(scrape.outcome("dead"), 0);
        sum += outcomes.iter().map(|outcome| scrape.outcome(outcome)).sum::<u64>();
    }
    sum
}

#[tokio::test]
async fn the_highest_version_stays_in_any_order() {
    let flow = Flow::start().await;
    let (count, seed) = (scaled(30, 300), fastrand::u64(..));
    let messages = shuffled(&flow, count, seed);
    let mut workers = workers(&flow).await;
    publish(&flow, &messages).await;
    // One worker is killed: its messages are redelivered after newer ones.
    let mut killed = workers.pop().unwrap();
    killed.until("messages settled", 1, |scrape| scrape.value("messages_total", &[]).min(1)).await;
    killed.kill();

    let stale = settled(&flow, &workers, &["stale", "stale_deletion"]).await;
    let stands = outcome(&messages);
    assert_eq!(revisions(&flow).await, stands);
    for mut worker in workers {
        assert_eq!(worker.terminate().await, Some(0));
    }
    flow.assert_all_queues_empty().await;
    report(
        3,
        format!(
            "{count} ids, {} messages in the order of seed {seed} over 4 workers of which 1 was killed ({stale} stale): \
             all as the rule says, {} of them deleted",
            messages.len(),
            deleted(&stands)
        ),
    );
}

/// Waits until Elasticsearch has forgotten the versions of everything that it has itself deleted up to now: a document that it
/// deletes here can be written at a lower version than that of its deletion.
async fn until_deletions_are_forgotten(alias: &Alias) {
    let control = async |method: Method, version: u64, expected: &[u16]| {
        let path = format!("/_doc/control?version={version}&version_type=external");
        let document = json!({"id": "control", "collection": "control", "version": version, "indexed_at": 0});
        let document = (method == Method::PUT).then_some(document);
        let (status, answer) = alias.request(method, &path, document).await;
        assert!(expected.contains(&status), "{answer}");
        status
    };
    control(Method::PUT, 2, &[201]).await;
    control(Method::DELETE, 3, &[200]).await;
    poll::until_equal("a write of a lower version", 201, async || control(Method::PUT, 1, &[201, 409]).await).await;
    control(Method::DELETE, 4, &[200]).await;
}

#[tokio::test]
async fn deletions_outlive_what_elasticsearch_remembers_of_its_own() {
    let service = Service::elasticsearch().await;
    let flow = Flow::at(&rabbit::url(), service.url()).await;
    flow.create_index("stub").await;
    flow.alias.set(json!({"index.gc_deletes": "1s"})).await;
    let (count, seed) = (scaled(40, 300), fastrand::u64(..));
    let messages = shuffled(&flow, count, seed);
    let workers = workers(&flow).await;
    publish(&flow, &messages).await;
    let before_the_kill = async || {
        let mut settled = 0;
        for worker in &workers {
            settled += worker.scrape().await.value("messages_total", &[]);
        }
        settled
    };
    // In the middle of deletions, equal versions and everything else.
    poll::at_once("a third of the messages settled", async || before_the_kill().await >= messages.len() as u64 / 3)
        .await;
    service.kill();
    let before_the_kill = before_the_kill().await;
    assert!(before_the_kill < messages.len() as u64, "nothing was left for after the kill");
    service.start().await;

    settled(&flow, &workers, &[]).await;
    let stands = outcome(&messages);
    assert_eq!(revisions(&flow).await, stands);

    // Elasticsearch remembers none of its own deletions any more, and what is older than each image arrives once more.
    until_deletions_are_forgotten(&flow.alias).await;
    let is_old = |message: &&Message| {
        matches!(message.revision, Revision::Upsert(_)) && !message.revision.replaces(stands[&message.id])
    };
    let late: Vec<_> = messages.iter().filter(is_old).cloned().collect();
    let stale_before = settled(&flow, &workers, &["stale"]).await;
    publish(&flow, &late).await;
    let stale = settled(&flow, &workers, &["stale"]).await - stale_before;
    assert_eq!(revisions(&flow).await, stands);
    assert_eq!(stale, late.len() as u64);
    for mut worker in workers {
        assert_eq!(worker.terminate().await, Some(0));
    }
    flow.assert_all_queues_empty().await;
    report(
        3,
        format!(
            "{count} ids, {} messages in the order of seed {seed} over 4 workers, gc_deletes 1 s, Elasticsearch killed when \
             {before_the_kill} were settled: all as the rule says, {} of them deleted; of {} older upserts after that all stale",
            messages.len(),
            deleted(&stands),
            late.len(),
        ),
    );
}

#[tokio::test]
async fn a_deleted_image_does_not_come_back_from_a_retry_queue() {
    // Two queues before one index, so that the deletions overtake the waiting messages on any machine.
    let (flow, mut fast) = (Flow::start().await, Flow::without_index().await);
    fast.store.clone_from(&flow.store);
    // One id is in the index when its deletion comes, one is not. Both deletions must be remembered.
    let (known, unknown) = ("known", "unknown");
    let url = |n: usize, kind: &str| flow.images.url(&format!("/{kind}/{n}"));
    let mut worker = flow.worker().await;
    flow.publish(&[line(known, &url(0, "good"), "upsert", 1)], &[]).await;
    worker.until("messages indexed", 1, |scrape| scrape.outcome("indexed")).await;
    // Their host fails once, so they wait for a retry.
    flow.publish(&[line(known, &url(0, "busy"), "upsert", 2), line(unknown, &url(1, "busy"), "upsert", 2)], &[]).await;
    worker.until("messages to be retried", 2, |scrape| scrape.outcome("retried")).await;
    assert_eq!(worker.terminate().await, Some(0));

    let other = fast.worker().await;
    fast.publish(&[known, unknown].map(|id| line(id, &url(0, "good"), "delete", 3)), &[]).await;
    other.until("messages deleted", 2, |scrape| scrape.outcome("deleted")).await;
    assert_eq!(flow.documents().await, 0);

    flow.rabbit.until_ready(&flow.rabbit.queue, 2).await;
    let worker = flow.worker().await;
    worker.until("stale messages", 2, |scrape| scrape.outcome("stale")).await;
    assert_eq!(flow.documents().await, 0);
    flow.publish(&[line(known, &url(0, "good"), "upsert", 4)], &[]).await;
    worker.until("messages indexed", 1, |scrape| scrape.outcome("indexed")).await;
    assert_eq!(flow.documents().await, 1);
    report(3, "2 deletions overtook upserts that waited for a retry; neither image came back");
}

#[tokio::test]
async fn publishing_twice_gives_one_document() {
    let flow = Flow::start().await;
    let urls = flow.images.urls("good", 5);
    flow.publish(&urls, &[]).await;
    flow.publish(&urls, &["--metadata", "seen=again"]).await;
    let worker = flow.worker().await;
    worker.until("messages settled", 10, |scrape| scrape.outcome("indexed") + scrape.outcome("stale")).await;
    assert_eq!(flow.documents().await, 5);
    // The later version remains, in either order of writing.
    assert!(flow.sources().await.iter().all(|source| source["metadata"] == json!({"seen": "again"})));
}

#[tokio::test]
async fn a_deletion_deletes_and_older_versions_stay_deleted() {
    let flow = Flow::start().await;
    let worker = flow.worker().await;
    let (kept, gone) = (flow.images.url("/good/0"), flow.images.url("/good/1"));
    let versioned = |op: &str, version: u64| json!({"id": "x", "url": gone, "op": op, "version": version}).to_string();
    flow.publish(&[kept.clone(), versioned("upsert", 5)], &[]).await;
    worker.until("messages indexed", 2, |scrape| scrape.outcome("indexed")).await;
    assert_eq!(flow.documents().await, 2);

    flow.publish(&[versioned("delete", 4)], &[]).await;
    worker.until("stale deletions", 1, |scrape| scrape.outcome("stale_deletion")).await;
    assert_eq!(flow.documents().await, 2);

    flow.publish(&[versioned("delete", 6)], &[]).await;
    worker.until("messages deleted", 1, |scrape| scrape.outcome("deleted")).await;
    assert_eq!(flow.indexed_urls().await, [kept.as_str()]);

    flow.publish(&[versioned("upsert", 5)], &[]).await;
    worker.until("stale messages", 1, |scrape| scrape.outcome("stale")).await;
    assert_eq!(flow.indexed_urls().await, [kept.as_str()]);

    flow.publish(&[versioned("upsert", 7)], &[]).await;
    worker.until("messages indexed", 3, |scrape| scrape.outcome("indexed")).await;
    assert_eq!(flow.indexed_urls().await, [kept.clone(), gone.clone()]);

    // Of equal versions the deletion stands, whichever comes last.
    flow.publish(&[versioned("delete", 7)], &[]).await;
    worker.until("messages deleted", 2, |scrape| scrape.outcome("deleted")).await;
    flow.publish(&[versioned("upsert", 7)], &[]).await;
    worker.until("stale messages", 2, |scrape| scrape.outcome("stale")).await;
    assert_eq!(flow.indexed_urls().await, [kept.as_str()]);
    assert_eq!(flow.rabbit.ready(&flow.rabbit.dead()).await, 0);
}

#[tokio::test]
async fn a_deletion_by_url_is_at_the_stored_version() {
    let flow = Flow::start().await;
    let worker = flow.worker().await;
    let [kept, gone, unknown] = [0, 1, 2].map(|n| flow.images.url(&format!("/good/{n}")));
    let versioned = |url: &str, version: u64| json!({"url": url, "version": version}).to_string();
    flow.publish(&[versioned(&kept, 5), versioned(&gone, 5)], &[]).await;
    worker.until("messages indexed", 2, |scrape| scrape.outcome("indexed")).await;

    flow.publish(std::slice::from_ref(&gone), &["--delete", "--store", &flow.store]).await;
    worker.until("messages deleted", 1, |scrape| scrape.outcome("deleted")).await;
    assert_eq!(flow.indexed_urls().await, [kept.as_str()]);
    // A deletion at the time of the clock would bar the next version of a producer who counts 1, 2, 3.
    flow.publish(&[versioned(&gone, 5)], &[]).await;
    worker.until("stale messages", 1, |scrape| scrape.outcome("stale")).await;
    flow.publish(&[versioned(&gone, 6)], &[]).await;
    worker.until("messages indexed", 3, |scrape| scrape.outcome("indexed")).await;
    assert_eq!(flow.indexed_urls().await, [kept.as_str(), &gone]);

    // What is not stored has no version.
    let delete = ["publish", "--delete", "--store", &flow.store, &unknown].map(ToOwned::to_owned);
    let refused = run(&delete.into_iter().chain(flow.rabbit.flags()).collect::<Vec<_>>(), "").await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), "0 accepted, 1 refused\n"), "{refused:?}");
    assert_eq!(flow.stored().await.len(), 2);
    // Unless the command says one: an upsert may be on its way.
    flow.publish(std::slice::from_ref(&unknown), &["--delete", "--version", "7"]).await;
    worker.until("messages deleted", 2, |scrape| scrape.outcome("deleted")).await;
    flow.publish(&[versioned(&unknown, 7)], &[]).await;
    worker.until("stale messages", 2, |scrape| scrape.outcome("stale")).await;
    assert_eq!(flow.indexed_urls().await, [kept, gone]);
    let tombstone = |found: &&Found| found.url.is_none();
    assert_eq!(flow.stored().await.values().filter(tombstone).map(|found| found.version).collect::<Vec<_>>(), [7]);
}
