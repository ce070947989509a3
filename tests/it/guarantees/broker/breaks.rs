//! Guarantees 12 and 13: a session that ends with messages in flight is followed by another. Acknowledgements of the ended
//! session are skipped and counted.

use std::time::{Duration, Instant};

use super::{ended, in_flight, indexed};
use crate::support::elasticsearch;
use crate::support::flow::{Flow, sorted};
use crate::support::poll;
use crate::support::report::{report, scaled};
use crate::support::service::Service;
use crate::support::tcp_faults::Relay;

#[tokio::test]
async fn an_overdue_acknowledgement_costs_a_session_and_no_message() {
    // In ms. The broker looks for overdue acknowledgements at each tick of a channel, by default once a minute.
    let service = Service::rabbitmq_with("{consumer_timeout, 3000}, {channel_tick_interval, 1000}").await;
    let flow = Flow::at(&service.url(), elasticsearch::url()).await;
    flow.create_index("stub").await;
    let rounds = scaled(1, 10);
    let (held, good) = (flow.images.urls("held", 1), flow.images.urls("good", rounds));
    flow.publish(&held, &[]).await;
    let mut worker = flow.worker().await;

    // The message is redelivered each time, and others pass it.
    let mut longest = Duration::ZERO;
    for (before, url) in good.iter().enumerate() {
        let closed = before as u64 + 1;
        worker.until("closed channels", closed, |scrape| ended("lost")(scrape).min(closed)).await;
        let start = Instant::now();
        flow.rabbit.publish(url).await;
        worker.until("messages indexed", closed, indexed).await;
        longest = longest.max(start.elapsed());
    }
    assert!(worker.log().contains("PRECONDITION_FAILED"), "{}", worker.log());
    flow.images.release();
    worker.until("messages indexed", rounds as u64 + 1, indexed).await;
    worker.until("messages in flight", 0, in_flight).await;

    let scrape = worker.scrape().await;
    let (lost, stale) = (ended("lost")(&scrape), scrape.value("stale_acks_total", &[]));
    report(
        12,
        format!(
            "{lost} channels closed over an overdue acknowledgement: another message indexed within {longest:.1?} each time"
        ),
    );
    assert!(stale >= lost, "{stale} stale acknowledgements in {lost} lost sessions");
    assert_eq!(scrape.outcome("dead"), 0);
    assert_eq!(flow.indexed_urls().await, sorted([held, good].concat()));
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
}

#[tokio::test]
async fn acknowledgements_of_a_session_that_was_reset_are_skipped_and_counted() {
    // How many images a host is asked for at once while it has not answered yet.
    const HELD: u64 = 4;
    let mut flow = Flow::start().await;
    let relay = Relay::start(&flow.rabbit.url).await;
    flow.rabbit.given = Some(relay.url.to_string());
    let urls = flow.images.urls("held", HELD as usize);
    flow.publish(&urls, &[]).await;
    let mut worker = flow.worker().await;

    // More redeliveries than quarantine a message.
    let resets = scaled(6, 20);
    for reset in 1..=resets {
        poll::until_equal("held requests", reset * HELD, async || flow.images.requests("held") as u64).await;
        relay.reset();
        worker.until("stale acknowledgements", reset * HELD, |scrape| scrape.value("stale_acks_total", &[])).await;
        // The ended session keeps no message in flight.
        worker.until("messages in flight", HELD, in_flight).await;
    }
    flow.images.release();
    worker.until("messages indexed", HELD, indexed).await;

    let scrape = worker.scrape().await;
    report(13, format!("{resets} resets under {HELD} messages in flight: {} stale acknowledgements", resets * HELD));
    assert_eq!(scrape.value("stale_acks_total", &[]), resets * HELD);
    assert_eq!(scrape.outcome("returned"), resets * HELD);
    assert_eq!((scrape.outcome("retried"), scrape.outcome("dead")), (0, 0), "a message was quarantined");
    assert_eq!(flow.indexed_urls().await, sorted(urls));
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
}
