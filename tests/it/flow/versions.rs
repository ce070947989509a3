//! One image is one document, and the newest word about it counts.

use serde_json::json;

use crate::support::flow::Flow;

#[tokio::test]
async fn publishing_twice_gives_one_document() {
    let flow = Flow::start().await;
    let urls = flow.images.urls("good", 5);
    flow.publish(&urls, &[]).await;
    flow.publish(&urls, &["--metadata", "seen=again"]).await;
    let worker = flow.worker().await;
    worker.until("messages settled", 10, |scrape| scrape.outcome("indexed") + scrape.outcome("stale")).await;
    assert_eq!(flow.documents().await, 5);
    // Whichever of the two was written first, the later one is what remains.
    assert!(flow.sources().await.iter().all(|source| source["metadata"] == json!({"seen": "again"})));
}

#[tokio::test]
async fn a_deletion_deletes_and_what_is_older_does_not_come_back() {
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

    // By URL, and of something that is not there.
    flow.publish(&[kept, flow.images.url("/good/2")], &["--delete"]).await;
    worker.until("messages deleted", 3, |scrape| scrape.outcome("deleted")).await;
    assert_eq!(flow.indexed_urls().await, [gone]);
    assert_eq!(flow.rabbit.ready(&flow.rabbit.dead()).await, 0);
}
