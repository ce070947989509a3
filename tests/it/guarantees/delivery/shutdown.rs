//! Guarantee 18: SIGTERM finishes what the deadline allows and requeues the rest.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::flow::{Flow, sorted};
use crate::support::poll;
use crate::support::process::Worker;
use crate::support::proxy::{Handling, Proxy};
use crate::support::report::report;

/// A worker whose prefetch is full of messages that wait for Elasticsearch.
struct Full {
    flow: Flow,
    proxy: Proxy,
    worker: Worker,
    urls: Vec<String>,
}

const PREFETCH: usize = 80;
/// Messages that stay in the queue.
const WAITING: usize = 40;

impl Full {
    async fn start(drain_deadline: &str) -> Self {
        let (flow, proxy) = Flow::behind_a_proxy().await;
        proxy.handle_bulks(Handling::HoldRequest);
        let urls = flow.images.urls("good", PREFETCH + WAITING);
        flow.publish(&urls, &[]).await;
        let prefetch = PREFETCH.to_string();
        let flags = ["--model", "stub", "--prefetch", &prefetch, "--drain-deadline", drain_deadline];
        let worker = flow.worker_with(&flags).await;
        let in_flight = |scrape: &crate::support::scrape::Scrape| scrape.value("inflight_messages", &[]);
        worker.until("messages in flight", PREFETCH as u64, in_flight).await;
        poll::until_equal("images fetched", PREFETCH, async || flow.images.requests("good")).await;
        proxy.until_held().await;
        Self { flow, proxy, worker, urls }
    }

    /// Lets another worker do the rest, and checks that every image is indexed once.
    async fn finish(self) -> Flow {
        self.proxy.handle_bulks(Handling::Forward);
        let mut second = self.flow.worker().await;
        self.flow.until_documents(self.urls.len() as u64).await;
        self.flow.until_settled(&second).await;
        assert_eq!(second.terminate().await, Some(0));
        assert_eq!(self.flow.indexed_urls().await, sorted(self.urls));
        self.flow.assert_all_queues_empty().await;
        self.flow
    }
}

#[tokio::test]
async fn sigterm_finishes_a_full_prefetch_and_consumes_no_more() {
    let mut full = Full::start("50").await;
    full.worker.send_sigterm();
    full.worker.until_logged("no longer consuming").await;
    full.proxy.handle_bulks(Handling::Forward);
    full.proxy.release().await;
    assert_eq!(full.worker.ended().await, Some(0));
    full.flow.rabbit.until_ready(&full.flow.rabbit.queue, WAITING as u32).await;
    assert_eq!(full.flow.documents().await, PREFETCH as u64);

    let flow = full.finish().await;
    assert_eq!(flow.images.requests("good"), PREFETCH + WAITING, "an image was fetched twice");
    report(
        18,
        format!("{PREFETCH} messages in flight at SIGTERM: all done, {WAITING} left in the queue, none duplicated"),
    );
}

#[tokio::test]
async fn sigterm_requeues_what_elasticsearch_does_not_take_in_time() {
    let mut full = Full::start("3").await;
    let (start, all) = (Instant::now(), (PREFETCH + WAITING) as u32);
    assert_eq!(full.worker.terminate().await, Some(0));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "a drain of 3 s took {took:?}");
    full.flow.rabbit.until_ready(&full.flow.rabbit.queue, all).await;
    assert_eq!(full.flow.documents().await, 0);
    full.proxy.drop_held();
    full.finish().await;
    report(
        18,
        format!("{PREFETCH} messages held by Elasticsearch at SIGTERM: all requeued after {took:.1?}, exit code 0"),
    );
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let mut full = Full::start("50").await;
    full.worker.send_sigterm();
    full.worker.until_logged("draining").await;
    full.worker.send_sigterm();
    assert_eq!(full.worker.ended().await, Some(130));
    full.proxy.drop_held();
    full.finish().await;
    report(18, "a second SIGTERM ended the drain with exit code 130, and nothing was lost");
}

#[tokio::test]
async fn sigterm_while_the_index_is_blocked_requeues_everything() {
    let flow = Flow::start().await;
    let block = async |blocked: Value| {
        let change = json!({"index.blocks.read_only_allow_delete": blocked});
        let (status, answer) = flow.alias.request(Method::PUT, "/_settings", Some(change)).await;
        assert_eq!(status, 200, "{answer}");
    };
    let mut worker = flow.worker_with(&["--model", "stub", "--drain-deadline", "3"]).await;
    worker.until_ready().await;
    block(true.into()).await;
    let urls = flow.images.urls("good", 20);
    flow.publish(&urls, &[]).await;
    let refused = |scrape: &crate::support::scrape::Scrape| scrape.value("bulk_items_total", &[("outcome", "blocked")]);
    worker.until("refused documents", 1, |scrape| refused(scrape).min(1)).await;
    assert_eq!(worker.terminate().await, Some(0));
    flow.rabbit.until_ready(&flow.rabbit.queue, 20).await;
    block(Value::Null).await;

    let mut second = flow.worker().await;
    flow.until_documents(20).await;
    flow.until_settled(&second).await;
    assert_eq!(second.terminate().await, Some(0));
    assert_eq!(flow.indexed_urls().await, sorted(urls));
    flow.assert_all_queues_empty().await;
    report(18, "20 messages under a write block at SIGTERM: all requeued, none dead-lettered, all indexed afterwards");
}

/// How many images a host is asked for at once while it has not answered yet.
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
async fn sigterm_requeues_what_the_deadline_does_not_allow() {
    let flow = Flow::start().await;
    let (good, held) = (flow.images.urls("good", 12), flow.images.urls("held", AT_ONCE));
    flow.publish(&good, &[]).await;
    let mut worker = flow.worker_with(&["--model", "stub", "--drain-deadline", "2"]).await;
    worker.until("messages indexed", 12, |scrape| scrape.outcome("indexed")).await;
    flow.publish(&held, &[]).await;
    poll::until_equal("held requests", AT_ONCE, async || flow.images.requests("held")).await;
    assert_eq!(worker.terminate().await, Some(0));
    assert!(worker.log().contains("requeueing unfinished messages"), "{}", worker.log());
    flow.rabbit.until_ready(&flow.rabbit.queue, AT_ONCE as u32).await;
    assert_eq!(flow.indexed_urls().await, sorted(good.clone()));

    flow.images.release();
    let mut second = flow.worker().await;
    second.until("messages indexed", AT_ONCE as u64, |scrape| scrape.outcome("indexed")).await;
    assert_eq!(flow.indexed_urls().await, sorted([good, held].concat()));
    assert_eq!(second.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
}
