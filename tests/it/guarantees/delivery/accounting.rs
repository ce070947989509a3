//! What is published is a document or a dead letter with its reason, and the metrics count the same.

use std::collections::BTreeMap;

use imgdex::testing::broker::headers;
use serde_json::json;

use crate::support::flow::{Flow, sorted};
use crate::support::rabbit::{body, number_header, text_header};

const GOOD: usize = 40;

#[tokio::test]
async fn every_message_becomes_a_document_or_a_dead_letter_with_its_reason() {
    let flow = Flow::start().await;
    let good = flow.images.urls("good", GOOD);
    let tagged = flow.images.url("/good/1000");
    let busy = flow.images.url("/busy/0");
    flow.publish(&good, &["--collection", "cats"]).await;
    let reference = json!({
        "id": "one", "url": tagged, "version": 7, "collection": "dogs", "metadata": {"author": {"name": "Ann"}},
        "colour": "red",
    });
    flow.publish(std::slice::from_ref(&busy), &[]).await;
    flow.rabbit.publish(&reference.to_string()).await;

    let [missing, page, text, half] = ["/missing", "/page", "/text", "/half"].map(|path| flow.images.url(path));
    let broken = [
        (missing.as_str(), "host_refused"),
        (&page, "unsupported_format"),
        (&text, "not_an_image"),
        (&half, "malformed_image"),
        ("http://10.0.0.1/a.png", "refused_address"),
        ("http://[::ffff:169.254.169.254]/", "refused_address"),
        ("http://127.0.0.1:1/", "refused_address"),
        ("http://user@127.0.0.1/", "refused_address"),
        ("file:///etc/hostname", "refused_address"),
        ("ftp://127.0.0.1/a.png", "refused_address"),
        (r#"{"url": "#, "invalid_message"),
        (r#"{"url": "http://127.0.0.1/", "op": "replace"}"#, "invalid_message"),
        ("no URL", "invalid_message"),
    ];
    for (message, _) in broken {
        flow.rabbit.publish(message).await;
    }

    let mut worker = flow.worker().await;
    worker.until_ready().await;
    let (indexed, dead) = (good.len() as u64 + 2, broken.len() as u64);
    worker.until("messages dead-lettered", dead, |scrape| scrape.outcome("dead")).await;
    worker.until("messages indexed", indexed, |scrape| scrape.outcome("indexed")).await;

    // One document per image, with the fields of its message.
    let urls = flow.indexed_urls().await;
    assert_eq!(urls, sorted(good.iter().chain([&tagged, &busy]).cloned().collect()));
    let sources = flow.sources().await;
    let one = sources.iter().find(|source| source["url"] == tagged).unwrap();
    assert_eq!((&one["id"], &one["collection"], &one["version"]), (&json!("one"), &json!("dogs"), &json!(7)));
    assert_eq!(one["metadata"], json!({"author": {"name": "Ann"}}));
    assert_eq!(sources.iter().filter(|source| source["collection"] == "cats").count(), GOOD);
    assert!(sources.iter().all(|source| source["width"].as_u64() > Some(0) && source["format"].is_string()));

    // One dead letter per broken message, as it was published.
    let letters = flow.rabbit.take_all(&flow.rabbit.dead(), dead as u32).await;
    let reason = |name: &str, letter: &lapin::message::Delivery| text_header(&letter.properties, name).unwrap();
    let reasons: BTreeMap<_, _> =
        letters.iter().map(|letter| (body(letter), reason(headers::REASON, letter))).collect();
    assert_eq!(reasons, broken.map(|(message, reason)| (message.to_owned(), reason.to_owned())).into());
    let letter = letters.iter().find(|letter| body(letter) == missing).unwrap();
    assert_eq!(number_header(&letter.properties, headers::STATUS), Some(404));
    assert_eq!(number_header(&letter.properties, headers::ATTEMPTS), Some(3));
    assert!(reason(headers::ERROR, letter).contains("answered 404"));

    // The metrics count the same. 404 is retried twice, 503 once.
    let scrape = worker.scrape().await;
    let outcomes: Vec<_> = scrape.by("messages_total", "outcome").into_iter().collect();
    let expected = [("dead", dead), ("indexed", indexed), ("retried", 3)].map(|(name, n)| (name.to_owned(), n));
    assert_eq!(outcomes, expected);
    assert_eq!(scrape.value("messages_received_total", &[]), indexed + dead + 3);
    assert_eq!(scrape.value("inflight_messages", &[]), 0);
    assert_eq!(scrape.value("inflight_bytes", &[]), 0);
    assert_eq!(scrape.value("unknown_fields_total", &[]), 1);
    assert_eq!(scrape.value("bulk_items_total", &[("outcome", "indexed")]), indexed);
    assert_eq!(scrape.value("extract_batch_size_sum", &[]), indexed + 1, "the images, and one to warm up");
    let mut by_reason = BTreeMap::<String, u64>::new();
    for (_, reason) in broken {
        *by_reason.entry(reason.to_owned()).or_default() += 1;
    }
    assert_eq!(scrape.by("dead_letters_total", "reason"), by_reason);

    assert_eq!(worker.get("/live").await.0, 200);
    assert_eq!(worker.ready().await.0, 200);
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
}

/// The documented metrics of a worker, with their labels. `search_*` belong to the search service.
const METRICS: [(&str, &[&str]); 17] = [
    ("build_info", &["kernel", "model", "version"]),
    ("messages_received_total", &[]),
    ("messages_total", &["outcome"]),
    ("messages_without_order_total", &[]),
    ("dead_letters_total", &["reason"]),
    ("retries_total", &["cause"]),
    ("inflight_messages", &[]),
    ("inflight_bytes", &[]),
    ("stage_duration_seconds", &["stage"]),
    ("fetch_bytes_total", &[]),
    ("extract_batch_size", &[]),
    ("bulk_requests_total", &["status"]),
    ("bulk_items_total", &["outcome"]),
    ("broker_sessions_total", &["end"]),
    ("stale_acks_total", &[]),
    ("paused", &["cause"]),
    ("message_age_seconds", &[]),
];

#[tokio::test]
async fn every_documented_metric_is_exported_and_a_deleted_queue_is_consumed_again() {
    let flow = Flow::start().await;
    let worker = flow.worker().await;
    worker.until_ready().await;
    flow.publish(&[flow.images.url("/busy/0")], &[]).await;
    worker.until("messages indexed", 1, |scrape| scrape.outcome("indexed")).await;
    flow.rabbit.delete(&flow.rabbit.queue).await;
    worker.until("sessions ended", 1, |scrape| scrape.value("broker_sessions_total", &[("end", "cancelled")])).await;
    worker.until_ready().await;
    flow.publish(&[flow.images.url("/good/0")], &[]).await;
    worker.until("messages indexed", 2, |scrape| scrape.outcome("indexed")).await;

    let scrape = worker.scrape().await;
    for (name, labels) in METRICS {
        assert!(scrape.has(name, labels), "imgdex_{name} with the labels {labels:?} is not on /metrics");
    }
    for stage in ["fetch", "decode", "extract", "index", "total"] {
        assert!(scrape.value("stage_duration_seconds_count", &[("stage", stage)]) >= 2, "stage {stage}");
    }
    let build = [("version", env!("CARGO_PKG_VERSION")), ("model", "stub")];
    assert_eq!(scrape.value("build_info", &build), 1);
    assert!(scrape.value("fetch_bytes_total", &[]) > 0);
    assert!(scrape.by("paused", "cause").is_empty(), "consuming is not paused");
}
