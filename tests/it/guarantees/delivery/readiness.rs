//! Guarantee 22: `/ready` says what is missing, `/live` answers as long as the process works, and a worker that is not ready
//! consumes nothing.

use std::time::Duration;

use crate::support::elasticsearch;
use crate::support::flow::Flow;
use crate::support::poll;
use crate::support::process::{Worker, run};
use crate::support::proxy::Proxy;
use crate::support::report::{report, scaled};
use crate::support::service::Service;

/// Runs an action while `/live` is requested repeatedly. Returns how often it was.
async fn alive_throughout(worker: &Worker, action: impl Future<Output = ()>) -> u64 {
    let live = async || assert_eq!(worker.get("/live").await.0, 200);
    poll::throughout(action, Duration::from_millis(20), live).await.1
}

/// Checks that the process was started once: it has bound its address once.
fn assert_started_once(worker: &Worker) {
    assert_eq!(worker.log().matches("listening on ").count(), 1, "{}", worker.log());
}

#[tokio::test]
async fn a_worker_is_alive_and_not_ready_while_elasticsearch_is_down() {
    let (flow, proxy) = Flow::behind_a_proxy().await;
    let mut worker = flow.worker().await;
    worker.until_ready().await;
    let outages = scaled(1, 5);
    let alive = alive_throughout(&worker, async {
        for outage in 0..outages {
            proxy.down();
            worker.until_not_ready("store", &["no answer"]).await;
            assert_eq!(worker.scrape().await.by("paused", "cause"), [("unavailable".to_owned(), 1)].into());
            // While consumption is paused, messages stay in the queue.
            flow.publish(&[flow.images.url(&format!("/good/{outage}"))], &[]).await;
            flow.rabbit.until_ready(&flow.rabbit.queue, 1).await;
            proxy.up();
            worker.until_ready().await;
            flow.until_documents(outage + 1).await;
        }
    });
    let requests = alive.await;
    assert_started_once(&worker);
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    report(
        22,
        format!("{outages} outages of Elasticsearch: not ready, then ready; /live 200 {requests} times of {requests}"),
    );
}

#[tokio::test]
async fn a_worker_is_alive_and_not_ready_while_both_services_are_down() {
    let broker = Service::rabbitmq().await;
    let mut flow = Flow::at(&broker.url(), elasticsearch::url()).await;
    flow.create_index("stub").await;
    let proxy = Proxy::start(elasticsearch::url());
    flow.store = proxy.store(&flow.alias.name);
    let mut worker = flow.worker().await;
    worker.until_ready().await;
    let alive = alive_throughout(&worker, async {
        let conditions = async || {
            let (status, report) = worker.ready().await;
            ["broker", "store"].map(|name| status == 200 || report["conditions"][name]["ready"] == true)
        };
        proxy.down();
        // In flight when the broker goes down too.
        flow.publish(&flow.images.urls("good", 1), &[]).await;
        poll::until_equal("the store's condition", false, async || conditions().await[1]).await;
        broker.stop().await;
        poll::until_equal("both conditions", [false, false], conditions).await;
        proxy.up();
        broker.start().await;
        worker.until_ready().await;
    });
    let requests = alive.await;
    flow.rabbit.reconnect().await;
    flow.publish(&flow.images.urls("good", 3), &[]).await;
    flow.until_documents(3).await;
    flow.until_settled(&worker).await;
    assert_started_once(&worker);
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    report(
        22,
        format!(
            "RabbitMQ and Elasticsearch down and back: not ready, then ready; /live 200 {requests} times of {requests}"
        ),
    );
}

#[tokio::test]
async fn a_worker_waits_for_its_index_and_dead_letters_nothing() {
    // With --model the worker knows its model; without, it asks the index.
    for flags in [&["--model", "stub"][..], &[]] {
        let flow = Flow::without_index().await;
        flow.publish(&flow.images.urls("good", 6), &[]).await;
        let mut worker = flow.worker_with(flags).await;
        worker.until_not_ready("store", &["does not exist", "imgdex mappings apply", &flow.alias.name]).await;
        worker.until_connected().await;
        assert_eq!(worker.get("/live").await.0, 200);
        assert_eq!(worker.scrape().await.by("paused", "cause"), [("index_missing".to_owned(), 1)].into());
        assert_eq!(worker.scrape().await.value("messages_received_total", &[]), 0);
        assert_eq!(flow.rabbit.ready(&flow.rabbit.queue).await, 6);

        let applied = run(&["mappings", "apply", "--store", &flow.alias.address(), "--model", "stub"], "").await;
        assert_eq!(applied.code, Some(0), "{applied:?}");
        worker.until_ready().await;
        worker.until("messages indexed", 6, |scrape| scrape.outcome("indexed")).await;
        let scrape = worker.scrape().await;
        assert!(scrape.by("paused", "cause").is_empty());
        assert_eq!(scrape.value("build_info", &[("model", "stub")]), 1);
        assert_eq!(flow.documents().await, 6);
        assert_eq!(worker.terminate().await, Some(0));
        flow.assert_all_queues_empty().await;
    }
}

#[tokio::test]
async fn a_worker_starts_while_the_services_are_down_and_ends_at_sigterm() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (amqp, store) = (format!("amqp://user:secret@{closed}/%2f"), format!("http://user:secret@{closed}/images"));
    let listen = ["--log", "info", "--admin-listen", "127.0.0.1:0"];
    let flags = ["worker", "--amqp", &amqp, "--store", &store, "--model", "stub"];
    let mut worker = Worker::start(&[&flags[..], &listen].concat()).await;
    worker.until_not_ready("store", &[&closed.to_string()]).await;
    let broker =
        async || worker.ready().await.1["conditions"]["broker"]["reason"].to_string().contains("Connection refused");
    poll::until_equal("the reason of the broker", true, broker).await;
    assert_eq!(worker.get("/live").await.0, 200);
    let ready = worker.ready().await;
    assert_eq!(worker.terminate().await, Some(0));
    for text in [worker.log(), ready.1.to_string()] {
        assert!(!text.contains("secret"), "{text}");
    }
}
