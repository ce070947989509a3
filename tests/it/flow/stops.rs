//! However a worker ends, nothing is lost and nothing is there twice.

use crate::support::flow::{Flow, sorted};
use crate::support::poll;

/// As many as a host is asked for at once while it has not answered yet.
const AT_ONCE: usize = 4;

#[tokio::test]
async fn sigterm_finishes_what_the_deadline_allows() {
    let flow = Flow::start().await;
    let urls = flow.images.urls("slow", AT_ONCE);
    flow.publish(&urls, &[]).await;
    let mut worker = flow.worker_with(&["--model", "stub", "--drain-deadline", "50"]).await;
    worker.until("messages in flight", AT_ONCE as u64, |scrape| scrape.value("inflight_messages", &[])).await;
    poll::until("the first requests", async || match flow.images.requests("slow") {
        0 => Err("there are none".to_owned()),
        _ => Ok(()),
    })
    .await;
    assert_eq!(worker.terminate().await, Some(0));
    assert!(worker.log().contains("drained"), "{}", worker.log());
    assert_eq!(flow.indexed_urls().await, sorted(urls));
    assert_eq!(flow.images.requests("slow"), AT_ONCE, "an image was fetched twice");
    flow.assert_all_queues_empty().await;
}

#[tokio::test]
async fn sigterm_gives_back_what_the_deadline_does_not_allow() {
    let flow = Flow::start().await;
    let (good, held) = (flow.images.urls("good", 12), flow.images.urls("held", AT_ONCE));
    flow.publish(&good, &[]).await;
    let mut worker = flow.worker_with(&["--model", "stub", "--drain-deadline", "2"]).await;
    worker.until("messages indexed", 12, |scrape| scrape.outcome("indexed")).await;
    flow.publish(&held, &[]).await;
    poll::until_equal("held requests", AT_ONCE, async || flow.images.requests("held")).await;
    assert_eq!(worker.terminate().await, Some(0));
    assert!(worker.log().contains("giving back what is not finished"), "{}", worker.log());
    flow.rabbit.until_ready(&flow.rabbit.queue, AT_ONCE as u32).await;
    assert_eq!(flow.indexed_urls().await, sorted(good.clone()));

    flow.images.release();
    let mut second = flow.worker().await;
    second.until("messages indexed", AT_ONCE as u64, |scrape| scrape.outcome("indexed")).await;
    assert_eq!(flow.indexed_urls().await, sorted([good, held].concat()));
    assert_eq!(second.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
}
