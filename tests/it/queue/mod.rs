//! Queues, receipts and publishing, with a real RabbitMQ.

mod publish;
mod receipts;
mod versions;

use imgdex::testing::broker::Error;
use imgdex::testing::broker::Publisher;
use lapin::options::{BasicGetOptions, BasicNackOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use serde_json::{Value, json};

use crate::support::rabbit::{Rabbit, body};

/// More than the 20 that RabbitMQ 4 allows by default.
const MANY: usize = 30;

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

/// The arguments of each queue, independent of the code under test.
fn expected(rabbit: &Rabbit) -> Vec<(String, Vec<(&'static str, AMQPValue)>)> {
    let plain = || {
        let unlimited = AMQPValue::LongLongInt(2_147_483_647);
        vec![("x-queue-type", text("quorum")), ("x-delivery-limit", unlimited)]
    };
    let retry = |seconds: i64| {
        let mut arguments = plain();
        arguments.extend([
            ("x-message-ttl", AMQPValue::LongLongInt(seconds * 1000)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(&rabbit.queue)),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ]);
        arguments
    };
    vec![
        (rabbit.retry(1), retry(1)),
        (rabbit.retry(2), retry(2)),
        (rabbit.dead(), plain()),
        (rabbit.suspects(), plain()),
        (rabbit.queue.clone(), plain()),
    ]
}

fn as_json(arguments: &[(&str, AMQPValue)]) -> Value {
    let value = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => json!(text.to_string()),
        AMQPValue::LongLongInt(number) => json!(number),
        other => panic!("unexpected {other:?}"),
    };
    arguments
        .iter()
        .map(|(name, argument)| ((*name).to_owned(), value(argument)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test]
async fn the_topology_is_declared_exactly() {
    let rabbit = Rabbit::declared(&[1, 2]).await;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    for (queue, arguments) in expected(&rabbit) {
        // The broker accepts a second declaration only if it is the same.
        let same = rabbit.channel().await.queue_declare(queue.as_str().into(), durable, table(&arguments)).await;
        assert!(same.is_ok(), "{queue}: {same:?}");
        let mut other = arguments.clone();
        other[0].1 = text("classic");
        let other = rabbit.channel().await.queue_declare(queue.as_str().into(), durable, table(&other)).await;
        assert!(other.is_err(), "{queue} is declared as a classic one too");
        let found = Rabbit::management(&format!("queues/%2F/{queue}")).await;
        if let Some(found) = found {
            assert_eq!(found["arguments"], as_json(&arguments), "{queue}");
            assert_eq!(found["durable"], true, "{queue}");
        }
    }
    let exchange = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let name = rabbit.exchange.as_str();
    let channel = rabbit.channel().await;
    channel.exchange_declare(name.into(), ExchangeKind::Direct, exchange, FieldTable::default()).await.unwrap();
    if let Some(bindings) = Rabbit::management(&format!("exchanges/%2F/{name}/bindings/source")).await {
        let bindings: Vec<_> =
            bindings.as_array().unwrap().iter().map(|b| (&b["destination"], &b["routing_key"])).collect();
        let queue = json!(rabbit.queue);
        assert_eq!(bindings, [(&queue, &queue)]);
    }
}

#[tokio::test]
async fn declaring_again_changes_nothing_and_loses_nothing() {
    let rabbit = Rabbit::declared(&[1]).await;
    rabbit.publish("kept").await;
    Publisher::connect(rabbit.settings()).await.unwrap().close().await;
    assert_eq!(body(&rabbit.take(&rabbit.queue).await.unwrap()), "kept");
}

#[tokio::test]
async fn a_queue_that_exists_with_other_arguments_is_named_and_left_alone() {
    for number in 0..3 {
        let rabbit = Rabbit::new(&[1]).await;
        let name = &rabbit.queues()[number];
        let classic = table(&[("x-queue-type", text("classic"))]);
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let channel = rabbit.channel().await;
        channel.queue_declare(name.as_str().into(), options, classic.clone()).await.unwrap();
        match Publisher::connect(rabbit.settings()).await.err() {
            Some(Error::Different { what: "queue", name: found, .. }) => assert_eq!(found, *name),
            other => panic!("{name}: {other:?}"),
        }
        channel.queue_declare(name.as_str().into(), options, classic).await.unwrap();
        if name != &rabbit.queue {
            // Only this queue was declared before the refusal.
            let passive = QueueDeclareOptions { passive: true, ..Default::default() };
            let channel = rabbit.channel().await;
            let work = channel.queue_declare(rabbit.queue.as_str().into(), passive, FieldTable::default()).await;
            assert!(work.is_err(), "the work queue was made although {name} cannot be used");
        }
    }
}

#[tokio::test]
async fn an_exchange_of_another_type_is_named() {
    let rabbit = Rabbit::new(&[1]).await;
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let channel = rabbit.channel().await;
    let name = rabbit.exchange.as_str();
    channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await.unwrap();
    match Publisher::connect(rabbit.settings()).await.err() {
        Some(Error::Different { what: "exchange", name: found, .. }) => assert_eq!(found, name),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn no_number_of_requeues_loses_a_message() {
    let rabbit = Rabbit::declared(&[1]).await;
    for queue in [rabbit.queue.clone(), rabbit.dead()] {
        if queue == rabbit.queue {
            rabbit.publish("kept").await;
        } else {
            let channel = rabbit.channel().await;
            let options = lapin::options::BasicPublishOptions::default();
            let properties = BasicProperties::default();
            channel.basic_publish("".into(), queue.as_str().into(), options, b"kept", properties).await.unwrap();
        }
        for _ in 0..MANY {
            rabbit.until_ready(&queue, 1).await;
            let channel = rabbit.channel().await;
            let message = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
            let requeue = BasicNackOptions { requeue: true, ..Default::default() };
            message.delivery.acker.nack(requeue).await.unwrap();
            channel.close(200, "done".into()).await.unwrap();
        }
        let kept = rabbit.take_all(&queue, 1).await;
        assert_eq!(body(&kept[0]), "kept");
    }
}
