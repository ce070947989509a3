//! Ready is truthful: a worker takes nothing from the queue before it can put it somewhere.

use crate::support::flow::Flow;
use crate::support::poll;
use crate::support::process::{Worker, run};

#[tokio::test]
async fn a_worker_waits_for_its_index_and_dead_letters_nothing() {
    // With --model the worker knows what it waits for; without, it asks the index.
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
async fn a_worker_starts_while_the_services_are_down_and_ends_when_told() {
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
