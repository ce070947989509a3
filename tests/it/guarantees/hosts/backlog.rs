//! A store that takes nothing, and a long queue: memory stays as it is, and the queue drains by itself.

use std::time::{Duration, Instant};

use super::{mib, resident};
use crate::support::flow::Flow;
use crate::support::poll;
use crate::support::process::Worker;
use crate::support::proxy::Fate;
use crate::support::report::{report, scaled};

const PREFETCH: u64 = 80;
/// What an allocator may do with memory that was freed, and a log of this process.
const NOISE: u64 = 24 << 20;

/// What was seen while the store was down.
#[derive(Default)]
struct Seen {
    memory: Vec<u64>,
    most_in_flight: u64,
}

/// Looks at the worker for so long.
async fn watch(worker: &Worker, flow: &Flow, how_long: Duration) -> Seen {
    let (start, mut seen) = (Instant::now(), Seen::default());
    while start.elapsed() < how_long {
        seen.memory.push(resident(worker, "VmRSS"));
        seen.most_in_flight = seen.most_in_flight.max(worker.scrape().await.value("inflight_messages", &[]));
        assert_eq!(flow.rabbit.ready(&flow.rabbit.dead()).await, 0, "dead letters while the store is down");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    seen
}

/// Waits until the queue has drained, however long that takes, as long as it goes on.
async fn drain(worker: &Worker, messages: u64) {
    let mut indexed = 0;
    while indexed < messages {
        indexed = poll::until("further documents", async || {
            let now = worker.scrape().await.outcome("indexed");
            if now > indexed { Ok(now) } else { Err(format!("{now} of {messages}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_long_queue_before_a_store_that_is_down_costs_no_memory_and_drains_by_itself() {
    let messages = scaled(2_000, 100_000);
    let outage = Duration::from_secs(scaled(6, 300));
    let (flow, proxy) = Flow::behind_a_proxy().await;
    flow.publish(&flow.images.urls("good", messages), &[]).await;
    proxy.bulks_meet(Fate::Status(503));
    let mut worker = flow.worker_with(&["--model", "stub", "--prefetch", &PREFETCH.to_string()]).await;
    worker.until("messages in flight", PREFETCH, |scrape| scrape.value("inflight_messages", &[])).await;

    let seen = watch(&worker, &flow, outage).await;
    assert!(seen.most_in_flight <= PREFETCH, "{} messages were in flight", seen.most_in_flight);
    // After a tenth of the time everything has happened once.
    let steady = &seen.memory[seen.memory.len() / 10..];
    let (start, middle, end) = (steady[0], steady[steady.len() / 2], steady[steady.len() - 1]);
    let most = *steady.iter().max().unwrap();
    assert!(most <= start + NOISE, "memory grew from {} to {} MiB", mib(start), mib(most));
    let scrape = worker.scrape().await;
    assert_eq!((scrape.outcome("indexed"), scrape.outcome("dead"), scrape.outcome("retried")), (0, 0, 0));

    proxy.bulks_meet(Fate::Forward);
    let begin = Instant::now();
    drain(&worker, messages as u64).await;
    let drained = begin.elapsed();
    let after = resident(&worker, "VmRSS");
    assert!(after <= most + NOISE, "memory grew from {} to {} MiB while the queue drained", mib(most), mib(after));
    flow.until_documents(messages as u64).await;
    assert_eq!(worker.scrape().await.outcome("dead"), 0);
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    report(
        6,
        format!(
            "{messages} messages before a store that answered 503 for {} s: at most {} in flight, {} MiB resident at the \
             start, {} in the middle, {} at the end; drained within {:.1} s, then {} MiB; 0 lost, 0 dead-lettered",
            outage.as_secs(),
            seen.most_in_flight,
            mib(start),
            mib(middle),
            mib(end),
            drained.as_secs_f64(),
            mib(after)
        ),
    );
}
