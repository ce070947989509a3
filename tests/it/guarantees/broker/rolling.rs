//! Guarantee 17: a message may be requeued any number of times.

use super::{in_flight, requeue_all};
use crate::support::flow::{Flow, sorted};
use crate::support::report::{report, scaled};
use crate::support::scrape::Scrape;

const HELD: u64 = 16;
/// Deliveries after which RabbitMQ 4 drops or dead-letters a message by default.
const USUAL_LIMIT: i64 = 20;

#[tokio::test]
async fn rolling_restarts_dead_letter_nothing() {
    let flow = Flow::start().await;
    let urls = flow.images.urls("held", HELD as usize);
    flow.publish(&urls, &[]).await;
    let mut counted = 0;
    while counted <= USUAL_LIMIT {
        counted = requeue_all(&flow.rabbit, HELD as u32).await;
    }

    let any_in_flight = |scrape: &Scrape| in_flight(scrape).min(1);
    let flags = ["--model", "stub", "--drain-deadline", "1"];
    let mut old = flow.worker_with(&flags).await;
    old.until("messages in flight", 1, any_in_flight).await;
    let restarts = scaled(4, 25);
    for _ in 0..restarts {
        // The next worker starts before the last one stops.
        let new = flow.worker_with(&flags).await;
        new.until_ready().await;
        assert_eq!(old.terminate().await, Some(0));
        new.until("messages in flight", 1, any_in_flight).await;
        old = new;
    }
    assert_eq!(old.terminate().await, Some(0));
    assert_eq!(flow.rabbit.ready(&flow.rabbit.dead()).await, 0);

    flow.images.release();
    let mut last = flow.worker().await;
    flow.until_documents(HELD).await;
    last.until("messages in flight", 0, in_flight).await;
    report(
        17,
        format!(
            "{HELD} messages requeued {counted} times each, then held over {restarts} rolling restarts: all indexed, no dead letter"
        ),
    );
    assert_eq!(flow.indexed_urls().await, sorted(urls));
    assert_eq!(last.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
}
