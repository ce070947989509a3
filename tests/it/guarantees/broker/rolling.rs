//! Guarantee 17: giving a message back says nothing against it, however often it happens.

use super::{give_back, in_flight};
use crate::support::flow::{Flow, sorted};
use crate::support::report::{report, scaled};
use crate::support::scrape::Scrape;

const HELD: u64 = 16;
/// Deliveries after which RabbitMQ 4 drops a message or dead-letters it, where a queue says nothing.
const USUAL_LIMIT: i64 = 20;

#[tokio::test]
async fn rolling_restarts_dead_letter_nothing() {
    let flow = Flow::start().await;
    let urls = flow.images.urls("held", HELD as usize);
    flow.publish(&urls, &[]).await;
    let mut counted = 0;
    while counted <= USUAL_LIMIT {
        counted = give_back(&flow.rabbit, HELD as u32).await;
    }

    let in_hand = |scrape: &Scrape| in_flight(scrape).min(1);
    let hasty = ["--model", "stub", "--drain-deadline", "1"];
    let mut old = flow.worker_with(&hasty).await;
    old.until("a message in hand", 1, in_hand).await;
    let restarts = scaled(4, 25);
    for _ in 0..restarts {
        // The next worker is there before the one before it goes.
        let new = flow.worker_with(&hasty).await;
        new.until_ready().await;
        assert_eq!(old.terminate().await, Some(0));
        new.until("a message in hand", 1, in_hand).await;
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
            "{HELD} messages given back {counted} times each, then held over {restarts} rolling restarts: all indexed, no dead letter"
        ),
    );
    assert_eq!(flow.indexed_urls().await, sorted(urls));
    assert_eq!(last.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
}
