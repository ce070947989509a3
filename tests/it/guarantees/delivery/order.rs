//! Guarantees 2 and 3: one image is one document, and its highest version stays, in any order of delivery.

use std::collections::BTreeMap;

use imgdex::testing::Failure;
use imgdex::testing::Verdict;
use imgdex::testing::fetch;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::flow::Flow;
use crate::support::process::run;
use crate::support::report::{report, scaled};

/// The versions of each image. Its deletion is between two of them or above all.
const UPSERTS: [u64; 5] = [10, 20, 30, 40, 50];
const NEWEST: u64 = 50;

fn line(id: &str, url: &str, op: &str, version: u64) -> String {
    json!({"id": id, "url": url, "op": op, "version": version}).to_string()
}

/// The messages about image `n`. Every second image ends deleted.
fn messages_about(flow: &Flow, n: usize) -> Vec<String> {
    let (id, url) = (id(n), flow.images.url(&format!("/good/{n}")));
    let deleted = if ends_deleted(n) { NEWEST + 5 } else { UPSERTS[n / 2 % UPSERTS.len()] - 5 };
    let upserts = UPSERTS.map(|version| line(&id, &url, "upsert", version));
    upserts.into_iter().chain([line(&id, &url, "delete", deleted)]).collect()
}

fn id(n: usize) -> String {
    format!("image-{n}")
}

fn ends_deleted(n: usize) -> bool {
    n.is_multiple_of(2)
}

#[tokio::test]
async fn the_highest_version_stays_in_any_order() {
    let flow = Flow::start().await;
    let (count, seed) = (scaled(30, 300), fastrand::u64(..));
    println!("seed {seed}");
    let mut messages: Vec<_> = (0..count).flat_map(|n| messages_about(&flow, n)).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut messages);

    // Small batches, so that the messages about one image are spread over all workers.
    let mut workers = Vec::new();
    for _ in 0..4 {
        let worker = flow.worker_with(&["--model", "stub", "--prefetch", "16", "--bulk-items", "4"]).await;
        worker.until_ready().await;
        workers.push(worker);
    }
    flow.publish(&messages, &[]).await;
    // One worker is killed: its messages are redelivered after newer ones.
    let mut killed = workers.pop().unwrap();
    killed.until("messages settled", 1, |scrape| scrape.value("messages_total", &[]).min(1)).await;
    killed.kill();

    let (mut settled, mut stale) = (0, 0);
    for worker in &workers {
        let scrape = flow.until_settled(worker).await;
        settled += scrape.value("messages_total", &[]);
        stale += scrape.outcome("stale");
        assert_eq!(scrape.outcome("dead"), 0);
    }
    let versions: BTreeMap<_, _> = flow
        .sources()
        .await
        .iter()
        .map(|source| (source["id"].as_str().unwrap().to_owned(), source["version"].as_u64().unwrap()))
        .collect();
    let expected = (0..count).filter(|&n| !ends_deleted(n)).map(|n| (id(n), NEWEST)).collect();
    assert_eq!(versions, expected);
    for mut worker in workers {
        assert_eq!(worker.terminate().await, Some(0));
    }
    flow.assert_all_queues_empty().await;
    report(
        3,
        format!(
            "{count} ids, {} messages in the order of seed {seed} over 4 workers of which 1 was killed ({settled} settled by \
             the others, {stale} stale): {} at their highest version, {} deleted",
            messages.len(),
            versions.len(),
            count - versions.len()
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

/// The longest time of a message in retry queues by default: each of its attempts in each of the queues.
async fn longest_wait_seconds() -> u64 {
    let failure = Failure::Embed(fetch::Error::Status { host: String::new(), status: 503, retry_after: None }.into());
    let Verdict::Retry { budget, .. } = failure.verdict() else { panic!("503 should be retried") };
    let shown = run(&["config", "show", "--output", "ndjson"], "").await;
    let settings = shown.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let delays = settings.into_iter().find(|setting| setting["setting"] == "retry_delays").unwrap();
    let delays = delays["value"].as_str().unwrap().split(',').map(|seconds| seconds.parse::<u64>().unwrap());
    delays.sum::<u64>() * u64::from(budget)
}

#[tokio::test]
async fn deletions_are_remembered_for_longer_than_a_message_can_wait() {
    let flow = Flow::start().await;
    let (status, settings) = flow.alias.request(Method::GET, "/_settings?flat_settings=true", None).await;
    assert_eq!(status, 200, "{settings}");
    let indices: Vec<_> = settings.as_object().unwrap().values().collect();
    let [index] = indices[..] else { panic!("one index expected: {settings}") };
    let remembered = index["settings"]["index.gc_deletes"].as_str().unwrap();
    let hours: u64 =
        remembered.strip_suffix('h').unwrap_or_else(|| panic!("{remembered} is not in hours")).parse().unwrap();
    let (remembered, wait) = (hours * 3600, longest_wait_seconds().await);
    assert!(remembered >= 2 * wait, "deletions are remembered for {remembered} s, a message may wait for {wait} s");
    report(3, format!("deletions are remembered for {remembered} s; retry queues hold a message for at most {wait} s"));
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
    worker.until("stale messages", 1, |scrape| scrape.outcome("stale")).await;
    assert_eq!(flow.documents().await, 2);

    flow.publish(&[versioned("delete", 6)], &[]).await;
    worker.until("messages deleted", 1, |scrape| scrape.outcome("deleted")).await;
    assert_eq!(flow.indexed_urls().await, [kept.as_str()]);

    flow.publish(&[versioned("upsert", 5)], &[]).await;
    worker.until("stale messages", 2, |scrape| scrape.outcome("stale")).await;
    assert_eq!(flow.indexed_urls().await, [kept.as_str()]);

    flow.publish(&[versioned("upsert", 7)], &[]).await;
    worker.until("messages indexed", 3, |scrape| scrape.outcome("indexed")).await;
    assert_eq!(flow.indexed_urls().await, [kept.clone(), gone.clone()]);

    // Deletions by URL, one of them of an image that is not indexed.
    flow.publish(&[kept, flow.images.url("/good/2")], &["--delete"]).await;
    worker.until("messages deleted", 3, |scrape| scrape.outcome("deleted")).await;
    assert_eq!(flow.indexed_urls().await, [gone]);
    assert_eq!(flow.rabbit.ready(&flow.rabbit.dead()).await, 0);
}
