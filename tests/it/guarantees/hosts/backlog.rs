//! Guarantee 6: a long queue before a store that is down costs no memory, and drains once the store is up.

use std::time::{Duration, Instant};

use super::{mib, until_indexed};
use crate::support::decoders::resident_with_decoders;
use crate::support::flow::Flow;
use crate::support::poll;
use crate::support::proxy::Handling;
use crate::support::report::{report, scaled};

const PREFETCH: u64 = 80;
/// Freed memory that an allocator may keep.
const NOISE: u64 = 24 << 20;
/// The pause between two scrapes.
const PAUSE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_long_queue_before_a_store_that_is_down_costs_no_memory_and_drains_afterwards() {
    let messages = scaled(2_000, 100_000);
    let outage = Duration::from_secs(scaled(6, 300));
    let (flow, proxy) = Flow::behind_a_proxy().await;
    flow.publish(&flow.images.urls("good", messages), &[]).await;
    proxy.handle_bulks(Handling::Status(503));
    let mut worker = flow.worker_with(&["--model", "stub", "--prefetch", &PREFETCH.to_string()]).await;
    worker.until("messages in flight", PREFETCH, |scrape| scrape.value("inflight_messages", &[])).await;

    let mut memory = Vec::new();
    let mut most_in_flight = 0;
    poll::throughout(tokio::time::sleep(outage), PAUSE, async || {
        memory.push(resident_with_decoders(worker.pid()));
        most_in_flight = most_in_flight.max(worker.scrape().await.value("inflight_messages", &[]));
        assert_eq!(flow.rabbit.ready(&flow.rabbit.dead()).await, 0, "dead letters while the store is down");
    })
    .await;
    assert!(most_in_flight <= PREFETCH, "{most_in_flight} messages were in flight");
    // The first tenth of the time is the start-up.
    let steady = &memory[memory.len() / 10..];
    let (start, middle, end) = (steady[0], steady[steady.len() / 2], steady[steady.len() - 1]);
    let most = *steady.iter().max().unwrap();
    assert!(most <= start + NOISE, "memory grew from {} to {} MiB", mib(start), mib(most));
    let scrape = worker.scrape().await;
    assert_eq!((scrape.outcome("indexed"), scrape.outcome("dead")), (0, 0));
    // In a long outage messages are requeued so often that some are quarantined.
    let quarantined = scrape.value("retries_total", &[("cause", "suspect")]);
    assert_eq!(scrape.outcome("retried"), quarantined);

    proxy.handle_bulks(Handling::Forward);
    let start_of_drain = Instant::now();
    until_indexed(&worker, messages as u64).await;
    let drained = start_of_drain.elapsed();
    let after = resident_with_decoders(worker.pid());
    assert!(after <= most + NOISE, "memory grew from {} to {} MiB while the queue drained", mib(most), mib(after));
    flow.until_documents(messages as u64).await;
    assert_eq!(worker.scrape().await.outcome("dead"), 0);
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    report(
        6,
        format!(
            "{messages} messages before a store that answered 503 for {} s: at most {most_in_flight} in flight, {} MiB resident \
             at the start, {} in the middle, {} at the end; {quarantined} quarantined; drained within {:.1} s, then {} MiB; 0 lost, \
             0 dead-lettered",
            outage.as_secs(),
            mib(start),
            mib(middle),
            mib(end),
            drained.as_secs_f64(),
            mib(after)
        ),
    );
}
