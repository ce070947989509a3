//! Guarantees 4, 5, 8 and 9: each item of a bulk request has its own outcome; 429, 413 and lasting errors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use imgdex::testing::broker::headers;
use lapin::message::Delivery;
use serde_json::json;

use crate::support::elasticsearch_stub::{Answer, ElasticsearchStub};
use crate::support::flow::Flow;
use crate::support::process::Worker;
use crate::support::rabbit::{body, text_header};
use crate::support::report::{report, scaled};

/// Queues whose worker writes to the scripted Elasticsearch.
async fn flow_into(stub: &ElasticsearchStub) -> Flow {
    let mut flow = Flow::without_index().await;
    flow.store = stub.store();
    flow
}

/// Publishes good images with these ids.
async fn publish(flow: &Flow, ids: &[String]) {
    let urls = flow.images.urls("good", ids.len());
    let lines: Vec<_> = ids.iter().zip(urls).map(|(id, url)| json!({ "id": id, "url": url }).to_string()).collect();
    flow.publish(&lines, &[]).await;
}

fn ids(kind: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{kind}-{number}")).collect()
}

fn reason(letter: &Delivery) -> String {
    text_header(&letter.properties, headers::REASON).unwrap()
}

async fn until_settled(worker: &Worker, outcomes: &[(&str, usize)]) {
    for (outcome, count) in outcomes {
        worker.until(&format!("messages {outcome}"), *count as u64, |scrape| scrape.outcome(outcome)).await;
    }
    worker.until("messages in flight", 0, |scrape| scrape.value("inflight_messages", &[])).await;
}

#[tokio::test]
async fn each_item_has_its_own_outcome_and_only_what_failed_is_sent_again() {
    const KINDS: [&str; 5] = ["fine", "busy", "refused", "stale", "unavailable"];
    let each = scaled(10, 100);
    // By the kind of item and the number of attempts: 201 | 429 201 | 400 | 409 | 503 503 201.
    let seen = std::sync::Mutex::new(BTreeMap::<String, usize>::new());
    let stub = ElasticsearchStub::start(move |_, ids| {
        let mut seen = seen.lock().unwrap();
        let statuses = ids.iter().map(|id| {
            let times = seen.entry(id.clone()).or_default();
            *times += 1;
            match (id.split('-').next().unwrap(), *times) {
                ("busy", 1) => 429,
                ("refused", _) => 400,
                ("stale", _) => 409,
                ("unavailable", 1 | 2) => 503,
                _ => 201,
            }
        });
        Answer::Items(statuses.collect())
    })
    .await;
    let flow = flow_into(&stub).await;
    // Each batch has items of each kind.
    let mixed: Vec<_> = (0..each).flat_map(|n| KINDS.map(|kind| format!("{kind}-{n}"))).collect();
    publish(&flow, &mixed).await;
    let mut worker = flow.worker().await;
    until_settled(&worker, &[("indexed", 3 * each), ("stale", each), ("dead", each)]).await;

    let mut sent = BTreeMap::<String, usize>::new();
    for id in stub.requests().into_iter().flatten() {
        *sent.entry(id).or_default() += 1;
    }
    for (id, times) in &sent {
        let expected = match id.split('-').next().unwrap() {
            "fine" | "stale" => 1..=1,
            "busy" => 2..=2,
            "unavailable" => 3..=3,
            // Twice where its batch did not show whether the item or the index is to blame.
            _refused => 1..=2,
        };
        assert!(expected.contains(times), "{id} was sent {times} times");
    }
    assert_eq!(sent.len(), mixed.len());
    let letters = flow.rabbit.take_all(&flow.rabbit.dead(), each as u32).await;
    assert!(letters.iter().all(|letter| reason(letter) == "document_rejected" && body(letter).contains("refused-")));
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    let total: usize = sent.values().sum();
    report(4, format!("{} items of five outcomes: {total} sent, only those that failed more than once", mixed.len()));
}

#[tokio::test]
async fn a_store_that_keeps_failing_is_tried_for_a_bounded_time() {
    let broken = Arc::new(AtomicBool::new(true));
    let answer = Arc::clone(&broken);
    let stub = ElasticsearchStub::start(move |_, ids| {
        if answer.load(Ordering::SeqCst) { Answer::Request(503) } else { Answer::Items(vec![201; ids.len()]) }
    })
    .await;
    let flow = flow_into(&stub).await;
    publish(&flow, &ids("a", 5)).await;
    let start = Instant::now();
    let worker = flow.worker_with(&["--model", "stub", "--hold", "2"]).await;
    worker.until("messages requeued", 5, |scrape| scrape.outcome("returned").min(5)).await;
    let held = start.elapsed();
    let retries = worker.scrape().await.value("retries_total", &[("cause", "store")]);
    assert!(retries > 0, "no retry is counted");
    broken.store(false, Ordering::SeqCst);
    until_settled(&worker, &[("indexed", 5)]).await;
    assert_eq!(flow.rabbit.ready(&flow.rabbit.dead()).await, 0);
    report(5, format!("held for 2 s: requeued {held:.1?} after the start, {retries} retries counted, 0 dead-lettered"));
}

#[tokio::test]
async fn a_storm_of_429_shrinks_the_requests_at_once_and_they_grow_again() {
    const MOST: usize = 8;
    let messages = scaled(300, 3000);
    let stormy = Arc::new(AtomicBool::new(true));
    let answer = Arc::clone(&stormy);
    // Whole requests and single items in turn.
    let stub = ElasticsearchStub::start(move |round, ids| match (answer.load(Ordering::SeqCst), round % 2) {
        (true, 0) => Answer::Request(429),
        (true, _) => Answer::Items(vec![429; ids.len()]),
        (false, _) => Answer::Items(vec![201; ids.len()]),
    })
    .await;
    let flow = flow_into(&stub).await;
    publish(&flow, &ids("a", messages)).await;
    let most = MOST.to_string();
    let flags = ["--model", "stub", "--bulks-in-flight", &most, "--bulk-items", "4"];
    let mut worker = flow.worker_with(&flags).await;
    let at_once = |scrape: &crate::support::scrape::Scrape| scrape.value("bulk_concurrency", &[]);
    worker.until("requests at once", 1, at_once).await;
    let during = stub.requests().len();
    stormy.store(false, Ordering::SeqCst);
    until_settled(&worker, &[("indexed", messages)]).await;
    assert_eq!(at_once(&worker.scrape().await), MOST as u64, "requests at once after the storm");
    assert_eq!(worker.scrape().await.outcome("dead"), 0);
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    let after = stub.requests().len() - during;
    report(
        8,
        format!(
            "{messages} documents: from {MOST} requests at once to 1 after {during} in the storm, {MOST} again after {after} more"
        ),
    );
}

#[tokio::test]
async fn a_request_that_is_too_large_is_split_and_one_document_alone_is_dead_lettered() {
    const FITS: usize = 3;
    let stub = ElasticsearchStub::start(|_, ids| {
        if ids.len() > FITS || ids.iter().any(|id| id.starts_with("huge")) {
            Answer::Request(413)
        } else {
            Answer::Items(vec![201; ids.len()])
        }
    })
    .await;
    let flow = flow_into(&stub).await;
    let (fine, huge) = (ids("fine", scaled(60, 600)), ids("huge", scaled(1, 5)));
    publish(&flow, &[&fine[..30], &huge, &fine[30..]].concat()).await;
    let mut worker = flow.worker().await;
    until_settled(&worker, &[("indexed", fine.len()), ("dead", huge.len())]).await;
    let letters = flow.rabbit.take_all(&flow.rabbit.dead(), huge.len() as u32).await;
    assert!(letters.iter().all(|letter| reason(letter) == "document_too_large" && body(letter).contains("huge-")));
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    let requests = stub.requests().len();
    report(9, format!("{} indexed and {} dead-lettered in {requests} requests", fine.len(), huge.len()));
}

/// One refused document is no evidence against the index, and it is not retried for ever.
#[tokio::test]
async fn one_refused_document_on_a_quiet_queue_is_dead_lettered() {
    let stub = ElasticsearchStub::start(|_, ids| Answer::Items(vec![400; ids.len()])).await;
    let flow = flow_into(&stub).await;
    publish(&flow, &ids("refused", 1)).await;
    let worker = flow.worker().await;
    until_settled(&worker, &[("dead", 1)]).await;
    assert!(worker.scrape().await.by("paused", "cause").is_empty());
    assert_eq!(stub.requests().len(), 2, "it was tried once more before it was dead-lettered");
}

/// The store fails on one document and takes the others.
#[tokio::test]
async fn a_document_that_the_store_fails_on_is_dead_lettered_after_its_budget() {
    let stub = ElasticsearchStub::start(|_, ids| {
        Answer::Items(ids.iter().map(|id| if id.starts_with("cursed") { 503 } else { 201 }).collect())
    })
    .await;
    let flow = flow_into(&stub).await;
    publish(&flow, &ids("cursed", 1)).await;
    let worker = flow.worker_with(&["--model", "stub", "--hold", "1"]).await;
    let mut fine = 0;
    // Other documents succeed, so that the worker sees that the failure is this document's.
    while worker.scrape().await.outcome("dead") == 0 {
        publish(&flow, &[format!("fine-{fine}")]).await;
        fine += 1;
        worker.until("messages indexed", fine, |scrape| scrape.outcome("indexed")).await;
        assert!(fine < 200, "it is not dead-lettered");
    }
    let letters = flow.rabbit.take_all(&flow.rabbit.dead(), 1).await;
    assert_eq!(reason(&letters[0]), "store_failed");
    assert_eq!(worker.scrape().await.value("retries_total", &[("cause", "store_failed")]), 5);
}
