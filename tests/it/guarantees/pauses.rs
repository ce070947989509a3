//! Guarantee 7: while a service is down, consumption pauses, nothing is dead-lettered, and work resumes afterwards.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::dns::{NameServer, Reply};
use crate::support::elasticsearch::request;
use crate::support::flow::{Flow, sorted};
use crate::support::proxy::Handling;
use crate::support::report::{report, scaled};

/// Messages before, during and after each pause.
fn load() -> usize {
    scaled(40, 400)
}

/// A pause of consumption, as the worker reports it.
struct Pause<'a> {
    cause: &'static str,
    /// Words of its reason in `/ready`.
    words: &'a [&'a str],
}

/// Starts a pause while messages are processed, checks the paused worker, ends the pause, and checks that nothing is lost.
async fn pause_and_resume(flow: &Flow, pause: Pause<'_>, begin: impl AsyncFnOnce(), end: impl AsyncFnOnce()) {
    let Pause { cause, words } = pause;
    // Documents are held for less time than some pauses last, so that some are written and some requeued.
    let mut worker = flow.worker_with(&["--model", "stub", "--hold", "3"]).await;
    worker.until_ready().await;
    let urls = flow.images.urls("good", 3 * load());
    let (before, rest) = urls.split_at(load());
    flow.publish(before, &[]).await;
    worker.until("the first documents", 1, |scrape| scrape.outcome("indexed").min(1)).await;
    begin().await;
    flow.publish(&rest[..load()], &[]).await;
    worker.until(&format!("pauses for {cause}"), 1, |scrape| scrape.value("paused", &[("cause", cause)])).await;
    worker.until_not_ready("store", words).await;
    assert_eq!(worker.get("/live").await.0, 200);
    // Paused: what was in flight is requeued.
    worker.until("messages in flight", 0, |scrape| scrape.value("inflight_messages", &[])).await;
    flow.publish(&rest[load()..], &[]).await;
    assert_eq!(flow.rabbit.ready(&flow.rabbit.dead()).await, 0, "dead letters while {cause}");
    end().await;

    worker
        .until("documents indexed", urls.len() as u64, |scrape| scrape.outcome("indexed") + scrape.outcome("stale"))
        .await;
    worker.until_ready().await;
    let scrape = worker.scrape().await;
    assert!(scrape.by("paused", "cause").is_empty(), "{:?}", scrape.by("paused", "cause"));
    assert_eq!((scrape.outcome("dead"), scrape.outcome("retried")), (0, 0));
    assert_eq!(flow.indexed_urls().await, sorted(urls));
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    let returned = scrape.outcome("returned");
    report(7, format!("{cause}: {} published, 0 lost, 0 dead-lettered, {returned} requeued meanwhile", 3 * load()));
}

async fn set(flow: &Flow, setting: &str, value: Value) {
    let (status, answer) = flow.alias.request(Method::PUT, "/_settings", Some(json!({ setting: value }))).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_write_block_pauses_and_drops_nothing() {
    for block in ["write", "read_only_allow_delete"] {
        let flow = Flow::start().await;
        let setting = format!("index.blocks.{block}");
        let pause = Pause { cause: "write_block", words: &["has the block", block] };
        let end = async || set(&flow, &setting, Value::Null).await;
        pause_and_resume(&flow, pause, async || set(&flow, &setting, true.into()).await, end).await;
    }
}

#[tokio::test]
async fn a_missing_alias_pauses_and_drops_nothing() {
    let flow = Flow::start().await;
    let alias = &flow.alias.name;
    let change = async |action: &str| {
        let target = json!({ "index": format!("{alias}-v1"), "alias": alias });
        let actions = json!({ "actions": [{ action: target }] });
        let (status, answer) = request(Method::POST, "_aliases", Some(actions)).await;
        assert_eq!(status, 200, "{answer}");
    };
    let pause = Pause { cause: "index_missing", words: &["does not exist", "imgdex mappings apply"] };
    let end = async || {
        let target = json!({ "index": format!("{alias}-v1"), "alias": alias, "is_write_index": true });
        let (status, answer) = request(Method::POST, "_aliases", Some(json!({ "actions": [{ "add": target }] }))).await;
        assert_eq!(status, 200, "{answer}");
    };
    pause_and_resume(&flow, pause, async || change("remove").await, end).await;
}

#[tokio::test]
async fn refused_credentials_pause_and_drop_nothing() {
    for status in [401, 403] {
        let (flow, proxy) = Flow::behind_a_proxy().await;
        let pause = Pause { cause: "unauthorized", words: &[&status.to_string()] };
        let begin = async || proxy.script(move |_| Handling::Status(status));
        pause_and_resume(&flow, pause, begin, async || proxy.script(|_| Handling::Forward)).await;
    }
}

#[tokio::test]
async fn a_store_that_is_gone_pauses_and_drops_nothing() {
    let (flow, proxy) = Flow::behind_a_proxy().await;
    let pause = Pause { cause: "unavailable", words: &["no answer"] };
    pause_and_resume(&flow, pause, async || proxy.down(), async || proxy.up()).await;
}

/// Every document is refused with 400, as by a mapping that does not fit.
#[tokio::test]
async fn an_index_that_refuses_everything_pauses_and_drops_nothing() {
    let flow = Flow::start().await;
    let pause = Pause { cause: "refusals", words: &["nearly all documents are refused", "pipeline"] };
    let begin = async || set(&flow, "index.default_pipeline", "missing".into()).await;
    let end = async || set(&flow, "index.default_pipeline", Value::Null).await;
    pause_and_resume(&flow, pause, begin, end).await;
}

/// A block that is shorter than `--hold` costs no second fetch.
#[tokio::test]
async fn a_short_block_is_waited_out_without_requeueing() {
    let flow = Flow::start().await;
    let mut worker = flow.worker().await;
    worker.until_ready().await;
    set(&flow, "index.blocks.write", true.into()).await;
    let urls = flow.images.urls("good", 20);
    flow.publish(&urls, &[]).await;
    worker.until("pauses", 1, |scrape| scrape.value("paused", &[("cause", "write_block")])).await;
    worker.until("messages in flight", 20, |scrape| scrape.value("inflight_messages", &[])).await;
    set(&flow, "index.blocks.write", Value::Null).await;
    worker.until("documents indexed", 20, |scrape| scrape.outcome("indexed")).await;
    let scrape = worker.scrape().await;
    assert_eq!((scrape.outcome("returned"), flow.images.requests("good")), (0, 20));
    assert!(scrape.value("retries_total", &[("cause", "store")]) > 0);
    assert_eq!(flow.indexed_urls().await, sorted(urls));
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
}

/// When most of many hosts cannot be resolved at once, the cause is the network, not the hosts.
#[tokio::test]
async fn name_servers_that_fail_pause_and_drop_nothing() {
    const HOSTS: usize = 10;
    let flow = Flow::start().await;
    let fine = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&fine);
    let names = NameServer::start(move |_, _| {
        if answers.load(Ordering::SeqCst) { Reply::Addresses(vec![Ipv4Addr::LOCALHOST]) } else { Reply::Failure }
    })
    .await;
    let (port, load) = (flow.images.port(), 3 * load());
    let urls = (0..load).map(|n| format!("http://host-{}.example:{port}/good/{n}", n % HOSTS));
    let urls: Vec<_> = urls.collect();
    flow.publish(&urls, &[]).await;
    let mut worker = flow.worker_with(&["--model", "stub", "--name-server", &names.address.to_string()]).await;
    worker.until("pauses for the network", 1, |scrape| scrape.value("paused", &[("cause", "network")])).await;
    worker.until_not_ready("network", &["most image hosts cannot be reached"]).await;
    assert_eq!(worker.get("/live").await.0, 200);
    worker.until("messages in flight", 0, |scrape| scrape.value("inflight_messages", &[])).await;
    fine.store(true, Ordering::SeqCst);

    worker.until("documents indexed", load as u64, |scrape| scrape.outcome("indexed")).await;
    worker.until_ready().await;
    let scrape = worker.scrape().await;
    assert_eq!((scrape.outcome("dead"), scrape.value("paused", &[])), (0, 0));
    assert_eq!(flow.indexed_urls().await, sorted(urls));
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    report(7, format!("network: {load} published, 0 lost, 0 dead-lettered, {} retried", scrape.outcome("retried")));
}
