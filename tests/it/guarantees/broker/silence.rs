//! Guarantee 11: a peer that is silent while its socket is open is noticed within two heartbeats.

use std::time::{Duration, Instant};

use super::{ended, indexed, pauses};
use crate::support::flow::Flow;
use crate::support::report::{report, scaled};
use crate::support::tcp_faults::{Direction, Relay, Transfer};
use crate::support::usage::Usage;

const HEARTBEAT: Duration = Duration::from_secs(2);
/// The client checks twice in a heartbeat, the broker once. A busy machine takes longer to see the end of the session.
const SLACK: Duration = Duration::from_secs(5);

/// A flow whose worker reaches the broker through a relay.
async fn behind_relay() -> (Flow, Relay) {
    let mut flow = Flow::start().await;
    let relay = Relay::start(&flow.rabbit.url).await;
    let settings = format!("heartbeat={}&connection_timeout=1000", HEARTBEAT.as_secs());
    flow.rabbit.given = Some(format!("{}?{settings}", relay.url));
    (flow, relay)
}

/// Blocks these directions under a consuming worker, then frees them. Reports how long the worker took to notice each.
async fn silence(directions: &[Direction]) {
    let (flow, relay) = behind_relay().await;
    let urls = flow.images.urls("good", 2);
    flow.publish(&urls[..1], &[]).await;
    let worker = flow.worker().await;
    worker.until("messages indexed", 1, indexed).await;

    let start = Instant::now();
    for &direction in directions {
        relay.set(direction, Transfer::Blocked);
    }
    worker.until("lost sessions", 1, ended("lost")).await;
    let noticed = start.elapsed();
    assert!(noticed < 2 * HEARTBEAT + SLACK, "{directions:?}: noticed after {noticed:?}");
    let (status, ready) = worker.ready().await;
    assert_eq!((status, &ready["conditions"]["broker"]["ready"]), (503, &false.into()), "{ready}");
    assert_eq!(pauses(&worker.scrape().await), ["broker"]);

    // Attempts to connect that are never answered leave nothing behind.
    let attempts = scaled(4, 25);
    for attempt in 1..=attempts {
        worker.until("attempts to connect", attempt, |scrape| ended("connect")(scrape).min(attempt)).await;
    }
    let usage = Usage::of(worker.pid());
    assert!(usage.connections <= 2, "{usage} after {attempts} attempts to connect");

    let start = Instant::now();
    for &direction in directions {
        relay.set(direction, Transfer::Immediate);
    }
    flow.rabbit.publish(&urls[1]).await;
    worker.until("messages indexed", 2, indexed).await;
    let again = start.elapsed();
    report(
        11,
        format!(
            "{directions:?} silent, heartbeat {HEARTBEAT:?}: noticed after {noticed:.1?}; consuming {again:.1?} after its end; \
             {attempts} attempts meanwhile, and then {usage}"
        ),
    );
    assert_eq!(flow.documents().await, 2);
}

#[tokio::test]
async fn a_silent_peer_is_noticed_within_two_heartbeats() {
    tokio::join!(silence(&[Direction::Up, Direction::Down]), silence(&[Direction::Down]), silence(&[Direction::Up]));
}

#[tokio::test]
async fn a_slow_connection_is_not_taken_for_a_silent_one() {
    const MESSAGES: u64 = 90;
    let (flow, relay) = behind_relay().await;
    let worker = flow.worker().await;
    worker.until_ready().await;
    let urls = flow.images.urls("good", MESSAGES as usize);
    // A message takes some 300 bytes.
    relay.set(Direction::Down, Transfer::Throttled(2000));
    relay.set(Direction::Up, Transfer::Delayed(Duration::from_millis(100)));
    let start = Instant::now();
    for url in &urls {
        flow.rabbit.publish(url).await;
    }
    worker.until("messages indexed", MESSAGES, indexed).await;
    let elapsed = start.elapsed();
    assert!(elapsed > 2 * HEARTBEAT, "{MESSAGES} messages came within {elapsed:?}: the connection was not slow");
    assert_eq!(worker.scrape().await.value("broker_sessions_total", &[]), 0, "a session ended");
    report(11, format!("a connection of 2 kB/s: {MESSAGES} messages in {elapsed:.1?} in one session"));
}

#[tokio::test]
async fn a_half_closed_socket_is_noticed_at_once() {
    let (flow, relay) = behind_relay().await;
    let worker = flow.worker().await;
    worker.until_ready().await;
    for (direction, loss) in [(Direction::Down, 1), (Direction::Up, 2)] {
        let start = Instant::now();
        relay.set(direction, Transfer::HalfClosed);
        worker.until("lost sessions", loss, ended("lost")).await;
        let noticed = start.elapsed();
        relay.set(direction, Transfer::Immediate);
        flow.rabbit.publish(&flow.images.url(&format!("/good/{loss}"))).await;
        worker.until("messages indexed", loss, indexed).await;
        assert!(noticed < SLACK, "{direction:?} half-closed: noticed after {noticed:?}");
        report(
            11,
            format!(
                "{direction:?} half-closed: noticed after {noticed:.1?}, consuming again after {:.1?}",
                start.elapsed()
            ),
        );
    }
}
