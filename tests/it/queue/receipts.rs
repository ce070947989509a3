//! Deliveries and their receipts: acknowledge, requeue, retry and dead-letter, also after the end of a session.

use std::sync::Arc;
use std::time::Duration;

use imgdex::testing::Condition;
use imgdex::testing::Metrics;
use imgdex::testing::broker::Consumer;
use imgdex::testing::broker::headers;
use imgdex::testing::broker::{Cause, Receipt};
use imgdex::testing::message;
use imgdex::testing::now_ms;
use imgdex::testing::{Outcome, Reason, Verdict};
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{table, text};
use crate::support::poll::{soon, until_equal};
use crate::support::rabbit::{Rabbit, body, header, number_header, text_header};
use crate::support::scrape::Scrape;

/// A consumer with its channels.
pub(super) struct Subject {
    consumer: Consumer,
    metrics: Arc<Metrics>,
    gate: watch::Sender<bool>,
    connected: watch::Receiver<Condition>,
}

impl Subject {
    pub(super) fn start(rabbit: &Rabbit, prefetch: u16, open: bool) -> Self {
        let metrics = Arc::new(Metrics::new("test", "test").unwrap());
        let (gate, opened) = watch::channel(open);
        let (connecting, connected) = watch::channel(Err("connecting".to_owned()));
        let names_version = message::names_version;
        let consumer =
            Consumer::start(rabbit.settings(), prefetch, names_version, opened, connecting, Arc::clone(&metrics));
        Self { consumer, metrics, gate, connected }
    }

    pub(super) async fn next(&mut self) -> Receipt {
        soon("a delivery", self.consumer.next()).await.unwrap()
    }

    /// The next deliveries, in order of their bodies.
    async fn take(&mut self, count: usize) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        while receipts.len() < count {
            receipts.push(self.next().await);
        }
        receipts.sort_by_key(body_of);
        receipts
    }

    pub(super) fn scrape(&self) -> Scrape {
        let scrape = Scrape::of(&self.metrics);
        scrape.reconcile();
        scrape
    }

    /// Stops the consumer and waits for the end of the session. Returns the metrics.
    pub(super) async fn close(mut self) -> Scrape {
        self.consumer.stop();
        soon("the session's end", self.consumer.close()).await;
        let scrape = Scrape::of(&self.metrics);
        scrape.reconcile();
        scrape
    }
}

fn body_of(receipt: &Receipt) -> String {
    String::from_utf8(receipt.body().to_vec()).unwrap()
}

fn cause(error: &str) -> Cause {
    Cause { error: error.to_owned(), status: None }
}

const DEAD: Verdict = Verdict::DeadLetter(Reason::NotAnImage);

fn retry(budget: u32, after: Option<Duration>) -> Verdict {
    Verdict::Retry { reason: Reason::HostFailed, budget, after }
}

#[tokio::test]
async fn a_dropped_receipt_requeues_its_message_and_a_finished_one_does_not() {
    let rabbit = Rabbit::new(&[1]).await;
    let mut subject = Subject::start(&rabbit, 10, true);
    soon("the queue", subject.connected.wait_for(Result::is_ok)).await.unwrap();
    rabbit.publish("a").await;
    drop(subject.next().await);
    let again = subject.next().await;
    assert_eq!(body_of(&again), "a");
    let handling = tokio::spawn(async move {
        let _held = again;
        panic!("a bug in a stage");
    });
    assert!(handling.await.unwrap_err().is_panic());
    subject.next().await.fail(Verdict::Requeue, cause("not its fault")).await;
    let last = subject.next().await;
    assert_eq!((body_of(&last), last.generation(), last.attempts()), ("a".to_owned(), 1, 0));
    last.done(Outcome::Indexed).await;
    let scrape = subject.close().await;
    assert_eq!((scrape.outcome("returned"), scrape.outcome("indexed")), (3, 1));
    assert_eq!(scrape.by("retries_total", "cause"), [("panic".to_owned(), 1)].into());
    rabbit.assert_nothing_left().await;
}

#[tokio::test]
async fn a_receipt_of_an_ended_session_settles_nothing_and_a_missing_dead_letter_queue_loses_nothing() {
    let rabbit = Rabbit::declared(&[1]).await;
    rabbit.publish("a").await;
    rabbit.publish("b").await;
    let mut subject = Subject::start(&rabbit, 10, true);
    let [a, b] = subject.take(2).await.try_into().ok().unwrap();
    rabbit.delete(&rabbit.dead()).await;
    // The dead letter has no queue: the session ends, and the next one redelivers both messages.
    b.fail(DEAD, cause("no image")).await;
    a.done(Outcome::Indexed).await;
    assert_eq!(subject.scrape().value("stale_acks_total", &[]), 2);
    let [a, b] = subject.take(2).await.try_into().ok().unwrap();
    assert_eq!([body_of(&a), body_of(&b)], ["a", "b"]);
    assert_eq!((a.generation(), b.generation()), (2, 2));
    a.done(Outcome::Indexed).await;
    b.fail(DEAD, cause("no image")).await;
    let scrape = subject.close().await;
    let outcomes = ["returned", "indexed", "dead"].map(|outcome| scrape.outcome(outcome));
    assert_eq!((outcomes, scrape.value("stale_acks_total", &[])), ([2, 1, 1], 2));
    let ends = [("publish".to_owned(), 1), ("stopped".to_owned(), 1)];
    assert_eq!(scrape.by("broker_sessions_total", "end"), ends.into());
    rabbit.assert_nothing_left().await;
    assert_eq!(body(&rabbit.take_all(&rabbit.dead(), 1).await[0]), "b");
}

#[tokio::test]
async fn a_deleted_queue_is_declared_and_consumed_again() {
    let rabbit = Rabbit::declared(&[1]).await;
    rabbit.publish("a").await;
    let mut subject = Subject::start(&rabbit, 10, true);
    let a = subject.next().await;
    rabbit.delete(&rabbit.queue).await;
    soon("the session's end", subject.connected.wait_for(Result::is_err)).await.unwrap();
    soon("the next session", subject.connected.wait_for(Result::is_ok)).await.unwrap();
    a.done(Outcome::Indexed).await;
    rabbit.publish("b").await;
    let b = subject.next().await;
    assert_eq!((body_of(&b), b.generation()), ("b".to_owned(), 2));
    b.done(Outcome::Deleted).await;
    let scrape = subject.close().await;
    assert_eq!((scrape.outcome("deleted"), scrape.value("stale_acks_total", &[])), (1, 1));
    assert_eq!(scrape.value("broker_sessions_total", &[("end", "cancelled")]), 1);
    rabbit.assert_nothing_left().await;
}

#[tokio::test]
async fn a_dead_letter_has_the_message_and_the_reason() {
    let rabbit = Rabbit::declared(&[1]).await;
    let body = b"not text: \xff\x00";
    let properties = BasicProperties::default()
        .with_headers(table(&[("trace", text("abc")), ("CC", AMQPValue::FieldArray(vec![text("elsewhere")].into()))]))
        .with_content_type("image/reference".into())
        .with_correlation_id("c-1".into())
        .with_timestamp(now_ms() / 1000 - 100)
        .with_expiration("3600000".into());
    rabbit.publish_with(body, properties).await;
    let before = now_ms();
    let mut subject = Subject::start(&rabbit, 10, true);
    let failure = Cause { error: "host \"h\" answered 410".to_owned(), status: Some(410) };
    subject.next().await.fail(Verdict::DeadLetter(Reason::HostRefused), failure).await;
    let scrape = subject.close().await;
    assert_eq!(scrape.by("dead_letters_total", "reason"), [("host_refused".to_owned(), 1)].into());
    assert_eq!(scrape.value("message_age_seconds_count", &[]), 1);
    assert!(scrape.value("message_age_seconds_sum", &[]) >= 100);
    rabbit.assert_nothing_left().await;

    let [dead] = rabbit.take_all(&rabbit.dead(), 1).await.try_into().unwrap();
    assert_eq!(dead.data, body);
    let properties = &dead.properties;
    let text_of = |name| text_header(properties, name).unwrap();
    assert_eq!(text_of("trace"), "abc");
    assert_eq!(text_of(headers::REASON), "host_refused");
    assert_eq!(text_of(headers::ERROR), "host \"h\" answered 410");
    assert_eq!(text_of(headers::WORKER_VERSION), env!("CARGO_PKG_VERSION"));
    assert_eq!(text_of(headers::EXPIRATION), "3600000");
    assert_eq!(number_header(properties, headers::STATUS), Some(410));
    assert_eq!(number_header(properties, headers::ATTEMPTS), Some(1));
    assert_eq!(header(properties, "CC"), None);
    for name in [headers::FIRST_RECEIVED_MS, headers::FIRST_ERROR_MS, headers::LAST_ERROR_MS] {
        let at = number_header(properties, name).unwrap() as u64;
        assert!((before..=now_ms()).contains(&at), "{name} is {at}");
    }
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "image/reference");
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "c-1");
    assert_eq!((properties.expiration(), *properties.delivery_mode()), (&None, Some(2)));
}

#[tokio::test]
async fn retries_wait_longer_each_time_and_keep_their_history() {
    // The second delay is longer than the test.
    let rabbit = Rabbit::declared(&[1, 3600]).await;
    rabbit.publish_with(b"a", BasicProperties::default().with_headers(table(&[("trace", text("abc"))]))).await;
    let mut subject = Subject::start(&rabbit, 10, true);
    let first = subject.next().await;
    let received = first.first_received_ms();
    first.fail(retry(5, None), Cause { error: "busy".to_owned(), status: Some(503) }).await;
    let second = subject.next().await;
    let history = (second.attempts(), second.first_received_ms());
    assert_eq!((body_of(&second), history), ("a".to_owned(), (1, received)));
    second.fail(retry(5, None), cause("busy again")).await;
    rabbit.until_ready(&rabbit.retry(3600), 1).await;

    // Other messages overtake it. The host's Retry-After counts at the first retry already.
    rabbit.publish("b").await;
    let b = subject.next().await;
    assert_eq!(body_of(&b), "b");
    b.fail(retry(5, Some(Duration::from_mins(1))), cause("come later")).await;
    let scrape = subject.close().await;
    assert_eq!((scrape.outcome("retried"), scrape.value("retries_total", &[("cause", "host")])), (3, 3));
    rabbit.assert_nothing_left().await;

    let waiting = rabbit.take_all(&rabbit.retry(3600), 2).await;
    assert_eq!([body(&waiting[0]), body(&waiting[1])], ["a", "b"]);
    let (a, b) = (&waiting[0].properties, &waiting[1].properties);
    assert_eq!((number_header(a, headers::ATTEMPTS), number_header(b, headers::ATTEMPTS)), (Some(2), Some(1)));
    assert_eq!(number_header(a, headers::FIRST_RECEIVED_MS), Some(received as i64));
    assert_eq!(text_header(a, headers::ERROR).unwrap(), "busy again");
    assert_eq!(text_header(a, "trace").unwrap(), "abc");
    assert!(number_header(a, headers::FIRST_ERROR_MS) < number_header(a, headers::LAST_ERROR_MS));
    assert_eq!(text_header(a, headers::REASON), None);
}

#[tokio::test]
async fn a_message_without_attempts_left_is_dead_lettered() {
    let rabbit = Rabbit::declared(&[1]).await;
    let attempts = table(&[(headers::ATTEMPTS, AMQPValue::LongLongInt(2))]);
    rabbit.publish_with(b"a", BasicProperties::default().with_headers(attempts)).await;
    let mut subject = Subject::start(&rabbit, 10, true);
    subject.next().await.fail(retry(2, None), cause("busy")).await;
    let scrape = subject.close().await;
    assert_eq!(scrape.by("dead_letters_total", "reason"), [("host_failed".to_owned(), 1)].into());
    let dead = rabbit.take_all(&rabbit.dead(), 1).await;
    assert_eq!(number_header(&dead[0].properties, headers::ATTEMPTS), Some(3));
    rabbit.assert_nothing_left().await;
}

#[tokio::test]
async fn deliveries_are_limited_by_the_prefetch_count_and_by_the_gate() {
    let rabbit = Rabbit::declared(&[1]).await;
    for number in 0..5 {
        rabbit.publish(&number.to_string()).await;
    }
    let mut subject = Subject::start(&rabbit, 2, false);
    soon("the session", subject.connected.wait_for(Result::is_ok)).await.unwrap();
    assert_eq!(subject.scrape().value("messages_received_total", &[]), 0);
    assert_eq!(rabbit.ready(&rabbit.queue).await, 5);
    subject.gate.send_replace(true);
    let [first, second] = subject.take(2).await.try_into().ok().unwrap();
    assert_eq!(rabbit.ready(&rabbit.queue).await, 3);

    // The closed gate ends deliveries, not the session: messages in flight are settled. The broker counts a consumer until
    // its last message is settled.
    subject.gate.send_replace(false);
    let queue = rabbit.queue.as_str();
    first.done(Outcome::Indexed).await;
    drop(second);
    until_equal("consumers", 0, async || {
        // Deliveries from before the broker knew of the cancellation.
        while let Ok(early) = timeout(Duration::from_millis(10), subject.consumer.next()).await {
            drop(early);
        }
        consumers(&rabbit, queue).await
    })
    .await;
    rabbit.until_ready(queue, 4).await;
    subject.gate.send_replace(true);
    let third = subject.next().await;
    assert_eq!(third.generation(), 1);

    // Stopping requeues deliveries that the test has not received. Messages in flight are settled.
    until_equal("deliveries", 2, async || subject.scrape().value("inflight_messages", &[])).await;
    subject.consumer.stop();
    rabbit.until_ready(queue, 3).await;
    third.done(Outcome::Indexed).await;
    let scrape = subject.close().await;
    assert_eq!((scrape.outcome("indexed"), scrape.value("inflight_messages", &[])), (2, 0));
    rabbit.publish("marker").await;
    assert_eq!(rabbit.take_all(queue, 4).await.len(), 4);
}

async fn consumers(rabbit: &Rabbit, queue: &str) -> u32 {
    let channel = rabbit.channel().await;
    let passive = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
    let found = channel.queue_declare(queue.into(), passive, lapin::types::FieldTable::default()).await.unwrap();
    channel.close(200, "done".into()).await.unwrap();
    found.consumer_count()
}
