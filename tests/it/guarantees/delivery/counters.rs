//! Guarantee 24: received = settled + in flight, in every scrape.

use std::time::Duration;

use serde_json::json;

use crate::support::flow::Flow;
use crate::support::poll;
use crate::support::process::Worker;
use crate::support::proxy::{Handling, Proxy, Request};
use crate::support::report::{report, scaled};
use crate::support::scrape::Scrape;

const OUTCOMES: [&str; 7] = ["indexed", "deleted", "stale", "stale_deletion", "dead", "retried", "returned"];

/// Deletions in each round.
const MANY: usize = 300;

/// Publishes messages of every outcome. Each round has other images.
async fn publish(flow: &Flow, round: usize) {
    let url = |path: &str, n: usize| flow.images.url(&format!("/{path}/{}", round * 100 + n));
    let about = |n: usize, op: &str, version: u64| {
        json!({"id": format!("{round}-{n}"), "url": url("good", n), "op": op, "version": version}).to_string()
    };
    let mut lines: Vec<_> = (0..20).map(|n| about(n, "upsert", 2)).collect();
    lines.extend((0..4).map(|n| about(n, "upsert", 1)));
    lines.extend((4..8).map(|n| about(n, "delete", 3)));
    // Deletions are quick, so that many messages are settled between scrapes.
    lines.extend((100..100 + MANY).map(|n| about(n, "delete", 3)));
    // The same deletions again.
    lines.extend((4..8).map(|n| about(n, "delete", 3)));
    lines.extend((0..2).flat_map(|n| [url("busy", n), url("missing", n), url("page", n)]));
    flow.publish(&lines, &[]).await;
    flow.rabbit.publish("no URL").await;
}

fn sessions(scrape: &Scrape) -> u64 {
    scrape.value("broker_sessions_total", &[])
}

/// Ends a session with messages in flight. In every second round the queue is deleted; in the others the connection is
/// closed, where the tests can close it.
async fn end_session(flow: &Flow, worker: &Worker, round: usize) {
    let before = sessions(&worker.scrape().await);
    if round.is_multiple_of(2) || !flow.rabbit.close_connection().await {
        flow.rabbit.delete(&flow.rabbit.queue).await;
    }
    worker.until("another session", 1, |scrape| sessions(scrape).saturating_sub(before).min(1)).await;
}

async fn load(flow: &Flow, proxy: &Proxy, worker: &Worker, rounds: usize) {
    for round in 0..rounds {
        worker.until_ready().await;
        publish(flow, round).await;
        poll::at_once("a bulk request", async || proxy.bulks() > round).await;
        proxy.handle_bulks(Handling::HoldRequest);
        publish(flow, rounds + round).await;
        proxy.until_held().await;
        end_session(flow, worker, round).await;
        // Every fifth bulk request is sent again.
        let busy = |request: &Request| request.is_bulk() && request.bulks_before.is_multiple_of(5);
        proxy.script(move |request| if busy(request) { Handling::Status(429) } else { Handling::Forward });
        proxy.release().await;
    }
    worker.until_ready().await;
    // The second time every deletion is known. Those of the rounds may have ended with their queue.
    for _ in 0..2 {
        publish(flow, 0).await;
        flow.until_settled(worker).await;
    }
}

/// Checks that no counter is less than before.
fn follows(before: &Scrape, now: &Scrape) {
    let [old, new] = [before, now].map(|scrape| OUTCOMES.map(|outcome| scrape.outcome(outcome)));
    assert!(old.iter().zip(new).all(|(old, new)| *old <= new), "{old:?} and then {new:?}");
    let [old, new] = [before, now].map(|scrape| scrape.value("messages_received_total", &[]));
    assert!(old <= new, "received {old} and then {new}");
}

#[tokio::test]
async fn counters_reconcile_in_every_scrape() {
    let (flow, proxy) = Flow::behind_a_proxy().await;
    // Small batches, so that there are many.
    let worker = flow.worker_with(&["--model", "stub", "--prefetch", "16", "--bulk-items", "4"]).await;
    let rounds = scaled(4, 30);
    let mut last = worker.scrape().await;
    let scraping = poll::throughout(load(&flow, &proxy, &worker, rounds), Duration::ZERO, async || {
        // `scrape` checks that the counters reconcile.
        let scrape = worker.scrape().await;
        follows(&last, &scrape);
        last = scrape;
    });
    let ((), scrapes) = scraping.await;

    let scrape = worker.scrape().await;
    let outcomes = scrape.by("messages_total", "outcome");
    assert_eq!(outcomes.len(), OUTCOMES.len(), "not every outcome was met: {outcomes:?}");
    assert_eq!(scrape.value("inflight_messages", &[]), 0);
    assert_eq!(scrape.value("messages_received_total", &[]), outcomes.values().sum::<u64>());
    let ends = scrape.by("broker_sessions_total", "end");
    report(24, format!("{scrapes} scrapes, all reconcile, over sessions ended {ends:?} and outcomes {outcomes:?}"));
}
