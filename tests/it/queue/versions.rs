//! Where the version of a message comes from, and that it is made once.

use std::time::Duration;

use imgdex::testing::broker::headers;
use imgdex::testing::now_ms;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use super::receipts::Subject;
use crate::support::flow::Flow;
use crate::support::poll;
use crate::support::rabbit::{Rabbit, number_header, text_header};

/// A message as many clients send it: nothing orders it.
const BARE: &str = r#"{"id": "a", "url": "http://h/a"}"#;

async fn first_received(rabbit: &Rabbit) -> Option<i64> {
    let message = rabbit.take(&rabbit.queue).await.unwrap();
    number_header(&message.properties, headers::FIRST_RECEIVED_MS)
}

#[tokio::test]
async fn a_message_that_only_its_receipt_orders_keeps_the_time_of_the_first_one() {
    let rabbit = Rabbit::declared(&[1]).await;
    let before = now_ms();
    rabbit.publish(BARE).await;
    let mut subject = Subject::start(&rabbit, 10, true);
    let receipt = subject.next().await;
    let first = receipt.first_received_ms();
    assert!((before..=now_ms()).contains(&first));
    drop(receipt);
    for _ in 0..2 {
        let again = subject.next().await;
        assert!(now_ms() > first);
        assert_eq!(again.first_received_ms(), first);
        drop(again);
    }
    subject.close().await;
    assert_eq!(first_received(&rabbit).await, Some(first as i64));
}

#[tokio::test]
async fn a_message_that_is_received_and_not_begun_keeps_its_time_too() {
    let rabbit = Rabbit::declared(&[1]).await;
    rabbit.publish(BARE).await;
    let before = now_ms() as i64;
    let subject = Subject::start(&rabbit, 10, true);
    poll::until("the message is received", async || match subject.scrape().value("messages_received_total", &[]) {
        0 => Err("nothing".to_owned()),
        _ => Ok(()),
    })
    .await;
    subject.close().await;
    assert!(first_received(&rabbit).await.is_some_and(|first| (before..=now_ms() as i64).contains(&first)));
}

/// It stays at the head of its queue, as the broker requeues it.
#[tokio::test]
async fn a_message_with_an_order_of_its_own_is_requeued_as_it_is() {
    let rabbit = Rabbit::declared(&[1]).await;
    let stamped = |value| {
        let mut headers = FieldTable::default();
        headers.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(value));
        BasicProperties::default().with_headers(headers)
    };
    for (body, properties) in [
        (r#"{"id": "a", "url": "http://h/a", "version": 1}"#, BasicProperties::default()),
        (BARE, BasicProperties::default().with_timestamp(1_764_054_000)),
        (BARE, stamped(1_764_054_000_123)),
    ] {
        rabbit.publish_with(body.as_bytes(), properties).await;
        let mut subject = Subject::start(&rabbit, 10, true);
        drop(subject.next().await);
        subject.close().await;
        assert_eq!(first_received(&rabbit).await, None, "{body}");
    }
}

/// Two messages of one image without any order: the older one comes back from a worker that stops.
#[tokio::test]
async fn an_older_message_that_is_requeued_does_not_win_over_a_newer_one() {
    let flow = Flow::start().await;
    let (held, good) = (flow.images.url("/held/0"), flow.images.url("/good/1"));
    let message = |url: &str| json!({"id": "x", "url": url}).to_string();
    let mut first = flow.worker_with(&["--model", "stub", "--drain-deadline", "1"]).await;
    flow.rabbit.publish(&message(&held)).await;
    first.until("messages in flight", 1, |scrape| scrape.value("inflight_messages", &[])).await;
    let second = flow.worker().await;
    second.until_ready().await;
    // One of the workers takes it; it has its own time of receipt.
    flow.rabbit.publish(&message(&good)).await;
    flow.until_documents(1).await;
    assert_eq!(first.terminate().await, Some(0));
    flow.images.release();
    second.until("stale messages", 1, |scrape| scrape.outcome("stale")).await;
    assert_eq!(flow.indexed_urls().await, [good]);
    let scrape = second.scrape().await;
    assert!(scrape.value("messages_without_order_total", &[]) >= 1);
}

/// Many clients send milliseconds where AMQP means seconds. Such a version must not hide every later one.
#[tokio::test]
async fn milliseconds_and_seconds_order_the_messages_of_one_image() {
    let flow = Flow::start().await;
    let worker = flow.worker().await;
    let url = flow.images.url("/good/0");
    let send = async |body: serde_json::Value, timestamp| {
        flow.rabbit
            .publish_with(body.to_string().as_bytes(), BasicProperties::default().with_timestamp(timestamp))
            .await;
    };
    let now = now_ms() / 1000;
    send(json!({"id": "ms", "url": url}), (now - 3) * 1000).await;
    worker.until("messages indexed", 1, |scrape| scrape.outcome("indexed")).await;
    send(json!({"id": "ms", "url": url, "metadata": {"rev": 2}}), now - 2).await;
    worker.until("messages indexed", 2, |scrape| scrape.outcome("indexed")).await;
    assert_eq!(flow.sources().await[0]["version"], (now - 2) * 1000);
    send(json!({"id": "ms", "op": "delete"}), (now - 1) * 1_000_000).await;
    worker.until("messages deleted", 1, |scrape| scrape.outcome("deleted")).await;
    assert_eq!(flow.documents().await, 0);
    send(json!({"id": "ms", "op": "delete"}), now - 1).await;
    worker.until("deletions known", 1, |scrape| scrape.outcome("stale_deletion")).await;
    assert_eq!(worker.scrape().await.value("messages_without_order_total", &[]), 0);
}

#[tokio::test]
async fn a_deletion_that_nothing_orders_is_refused() {
    let flow = Flow::start().await;
    let worker = flow.worker().await;
    flow.rabbit.publish(&json!({"id": "x", "op": "delete"}).to_string()).await;
    worker.until("dead letters", 1, |scrape| scrape.outcome("dead")).await;
    let [letter] = flow.rabbit.take_all(&flow.rabbit.dead(), 1).await.try_into().ok().unwrap();
    assert_eq!(text_header(&letter.properties, headers::REASON).as_deref(), Some("invalid_message"));
    let error = text_header(&letter.properties, headers::ERROR).unwrap();
    assert!(error.contains("needs a version, or its message a timestamp"), "{error}");
    assert_eq!(worker.scrape().await.value("messages_without_order_total", &[]), 1);
}

/// A message may wait for longer than deletions are remembered.
#[tokio::test]
async fn an_upsert_older_than_the_retention_is_dead_lettered_and_replayed_by_force_alone() {
    let flow = Flow::start().await;
    let day = Duration::from_hours(24).as_secs();
    let url = flow.images.url("/good/0");
    let upsert = json!({"id": "old", "url": url, "version": 1}).to_string();
    let days_ago = |days| BasicProperties::default().with_timestamp(now_ms() / 1000 - days * day);
    let mut worker = flow.worker().await;
    flow.rabbit.publish_with(upsert.as_bytes(), days_ago(31)).await;
    flow.rabbit.publish_with(json!({"id": "b", "url": url, "version": 1}).to_string().as_bytes(), days_ago(29)).await;
    // A deletion is never too old.
    flow.rabbit
        .publish_with(json!({"id": "c", "op": "delete", "version": 1}).to_string().as_bytes(), days_ago(400))
        .await;
    let scrape = worker.until("dead letters", 1, |scrape| scrape.outcome("dead")).await;
    worker.until("messages settled", 3, |scrape| scrape.value("messages_total", &[])).await;
    assert_eq!(worker.scrape().await.outcome("deleted"), 1, "{scrape:?}");
    assert_eq!(worker.terminate().await, Some(0));
    assert_eq!(flow.documents().await, 1);

    let dlq = async |flags: &[&str]| {
        let all: Vec<_> = ["dlq"].iter().chain(flags).map(ToString::to_string).chain(flow.rabbit.flags()).collect();
        crate::support::process::run(&all, "").await
    };
    let listed = dlq(&["list", "--reason", "expired"]).await;
    assert!(listed.stdout.contains("\"old\"") && listed.stdout.contains("deletions are remembered for"), "{listed:?}");
    for which in [["--id", "old"].as_slice(), &["--all"], &["--reason", "expired"]] {
        let refused = dlq(&[&["replay"], which].concat()).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), "0 replayed\n"), "{refused:?}");
        assert!(refused.stderr.contains("1 not replayed") && refused.stderr.contains("--force"), "{refused:?}");
    }
    let longer = dlq(&["replay", "--all", "--retention", "32d"]).await;
    assert_eq!(longer.code, Some(0), "{longer:?}");
    // The worker's retention is what counts there.
    let mut worker = flow.worker().await;
    worker.until("dead letters", 1, |scrape| scrape.outcome("dead")).await;
    assert_eq!(worker.terminate().await, Some(0));

    let forced = dlq(&["replay", "--all", "--force"]).await;
    assert_eq!((forced.code, forced.stdout.as_str()), (Some(0), "1 replayed\n"), "{forced:?}");
    let worker = flow.worker().await;
    worker.until("messages indexed", 1, |scrape| scrape.outcome("indexed")).await;
    assert_eq!(flow.documents().await, 2);
}
