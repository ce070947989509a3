//! Publishing: the publisher of the library, and `imgdex publish`.

use std::collections::BTreeMap;

use imgdex::testing::broker::{Publisher, Refused};
use imgdex::testing::now_ms;
use imgdex::testing::store::Store;
use lapin::types::FieldTable;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::documents::{deletion, put};
use crate::support::elasticsearch::{model, settings};
use crate::support::process::{Finished, run};
use crate::support::rabbit::{Rabbit, body};

/// More than are unconfirmed at once.
const MANY: u32 = 600;

/// `imgdex publish` with the test's queue.
async fn publish(rabbit: &Rabbit, arguments: &[&str], stdin: &str) -> Finished {
    let mut all = vec!["publish".to_owned()];
    all.extend(rabbit.flags());
    all.extend(arguments.iter().map(ToString::to_string));
    run(&all, stdin).await
}

/// Removes the binding, so that the exchange has no queue for what is published.
async fn unbind(rabbit: &Rabbit) {
    let (queue, exchange) = (rabbit.queue.as_str(), rabbit.exchange.as_str());
    let channel = rabbit.channel().await;
    channel.queue_unbind(queue.into(), exchange.into(), queue.into(), FieldTable::default()).await.unwrap();
}

#[tokio::test]
async fn what_is_accepted_is_in_the_queue_persistent_and_dated() {
    let rabbit = Rabbit::new(&[1]).await;
    let mut publisher = Publisher::connect(rabbit.settings()).await.unwrap();
    for number in 0..MANY {
        let body = number.to_string();
        assert_eq!(publisher.send(body.clone(), body.as_bytes()).await.unwrap(), None);
    }
    assert_eq!(publisher.flush().await.unwrap(), []);
    assert_eq!(publisher.accepted(), u64::from(MANY));
    publisher.close().await;
    assert_eq!(rabbit.ready(&rabbit.queue).await, MANY);
    let first = rabbit.take(&rabbit.queue).await.unwrap();
    assert_eq!(body(&first), "0");
    assert_eq!(*first.properties.delivery_mode(), Some(2));
    assert_eq!(first.properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert!(first.properties.timestamp().unwrap().abs_diff(now_ms() / 1000) < 120);
}

#[tokio::test]
async fn unroutable_messages_are_reported_and_not_counted() {
    let rabbit = Rabbit::new(&[1]).await;
    let mut publisher = Publisher::connect(rabbit.settings()).await.unwrap();
    publisher.send("first".to_owned(), b"first").await.unwrap();
    assert_eq!(publisher.flush().await.unwrap(), []);
    unbind(&rabbit).await;
    publisher.send("second".to_owned(), b"second").await.unwrap();
    match publisher.flush().await.unwrap().as_slice() {
        [Refused { name, reason }] => {
            assert_eq!(name, "second");
            assert!(reason.contains("no queue took it") && reason.contains("NO_ROUTE"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(publisher.accepted(), 1);
    // The count is right although the broker confirms several at once.
    for number in 0..20 {
        publisher.send(number.to_string(), b"lost").await.unwrap();
    }
    assert_eq!(publisher.flush().await.unwrap().len(), 20);
    assert_eq!(publisher.accepted(), 1);
    publisher.close().await;
    assert_eq!(rabbit.ready(&rabbit.queue).await, 1);
}

#[tokio::test]
async fn the_command_says_how_many_were_accepted() {
    let rabbit = Rabbit::new(&[1]).await;
    let before = now_ms();
    let lines = "http://a.example/2.png\n# a comment\n\nHTTP://A.example:80/3.png#top\n";
    let flags = ["--collection", "cats", "--metadata", "k=v", "http://a.example/1.png", "-"];
    let finished = publish(&rabbit, &flags, lines).await;
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "3 accepted, 0 refused\n"), "{finished:?}");
    assert_eq!(finished.stderr, "");
    let messages = rabbit.take_all(&rabbit.queue, 3).await;
    let mut last = before - 1;
    for (number, message) in (1..).zip(&messages) {
        let mut reference: Value = serde_json::from_slice(&message.data).unwrap();
        let version = reference["version"].take().as_u64().unwrap();
        assert!(version > last && version < now_ms() + 1000, "version {version} after {last}");
        last = version;
        let url = format!("http://a.example/{number}.png");
        assert_eq!(reference, json!({"url": url, "version": null, "collection": "cats", "metadata": {"k": "v"}}));
    }
}

#[tokio::test]
async fn refused_lines_are_named_with_their_reasons_and_do_not_stop_the_rest() {
    let rabbit = Rabbit::new(&[1]).await;
    let folder = tempfile::tempdir().unwrap();
    let (image, list) = (folder.path().join("cat.png"), folder.path().join("list.txt"));
    std::fs::write(&image, b"png").unwrap();
    let lines = [
        r#"{"url": "http://a.example/1.png", "id": "one", "version": 7, "later": true}"#,
        r#"{"url": "#,
        "missing.png",
        "file:///tmp/dog.png",
        "ftp://a.example/1.png",
        "http://",
        r#"{"url": "http://a.example/2.png", "op": "replace"}"#,
        r#"{"id": "gone", "op": "delete", "version": 8}"#,
        "http://a.example/3.png",
    ];
    std::fs::write(&list, lines.join("\n")).unwrap();
    let (image, folder, list) = (image.to_str().unwrap(), folder.path().to_str().unwrap(), list.to_str().unwrap());
    let finished = publish(&rabbit, &[image, folder, list, "absent.png"], "").await;
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), "3 accepted, 9 refused\n"), "{finished:?}");
    for (name, reason) in [
        (image, "a local file cannot be published"),
        (folder, "a local file cannot be published"),
        (r#"{"url":"#, "not a valid reference"),
        ("missing.png", "No such file"),
        ("file:///tmp/dog.png", "a local file cannot be published"),
        ("ftp://a.example/1.png", "\"ftp\" is not fetched"),
        ("http://", "invalid url"),
        ("http://a.example/2.png", "unknown op \"replace\""),
        ("absent.png", "No such file"),
    ] {
        let named = |line: &str| line.starts_with(&format!("imgdex: {name}: ")) && line.contains(reason);
        assert!(finished.stderr.lines().any(named), "{name}: {reason} is not in\n{}", finished.stderr);
    }
    assert_eq!(finished.stderr.lines().count(), 9, "{}", finished.stderr);
    let messages = rabbit.take_all(&rabbit.queue, 3).await;
    let references: Vec<Value> = messages.iter().map(|m| serde_json::from_slice(&m.data).unwrap()).collect();
    let versions: BTreeMap<_, _> = references.iter().map(|r| (r["id"].as_str(), r["version"].as_u64())).collect();
    assert_eq!(versions[&Some("one")], Some(7));
    assert_eq!(versions[&Some("gone")], Some(8));
    assert!(versions[&None] > Some(8), "{versions:?}");
}

/// Deletions at the stored version: a producer may count 1, 2, 3, and the time would bar its later versions for ever.
#[tokio::test]
async fn the_command_deletes_at_the_stored_version() {
    let rabbit = Rabbit::new(&[1]).await;
    let folder = tempfile::tempdir().unwrap();
    let address = format!("sqlite:{}", folder.path().join("store.db").display());
    let store = Store::open(&settings(address.as_str())).unwrap();
    let missing = publish(&rabbit, &["--delete", "http://a.example/1.png", "--store", &address], "").await;
    assert_eq!(missing.code, Some(69), "{missing:?}");
    assert!(
        missing.stderr.contains("does not exist") && missing.stderr.contains("pass --store, or --version"),
        "{missing:?}"
    );

    store.create(&model()).await.unwrap();
    store.write(&[put("known", 3), deletion("gone", 4)]).await.unwrap();
    let lines = [
        json!({"id": "known"}),
        json!({"id": "gone"}),
        json!({"id": "unknown"}),
        json!({"id": "unknown", "version": 9}),
        json!({"url": "http://a.example/1.png"}),
    ];
    let lines = lines.map(|line| line.to_string()).join("\n");
    let finished = publish(&rabbit, &["--delete", "-", "--store", &address], &lines).await;
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), "2 accepted, 2 refused\n"), "{finished:?}");
    for said in
        ["deletion at version 3", "deleted already, at version 4", "does not know it, so there is nothing to delete"]
    {
        assert!(finished.stderr.contains(said), "{said}: {finished:?}");
    }
    let published = async |expected| {
        let messages = rabbit.take_all(&rabbit.queue, expected).await;
        let bodies = messages.iter().map(|message| serde_json::from_slice::<Value>(&message.data).unwrap());
        bodies.map(|body| (body["id"].clone(), body["op"].clone(), body["version"].clone())).collect::<Vec<_>>()
    };
    let delete = json!("delete");
    let expected = [(json!("known"), delete.clone(), json!(3)), (json!("unknown"), delete.clone(), json!(9))];
    assert_eq!(published(2).await, expected);

    // With a version no store is needed.
    let flags = ["--delete", "--version", "12", "http://a.example/1.png", "--store", "sqlite:/nowhere/x.db"];
    assert_eq!(publish(&rabbit, &flags, "").await.code, Some(0));
    assert_eq!(published(1).await, [(Value::Null, delete, json!(12))]);
}

#[tokio::test]
async fn a_broker_that_is_down_or_has_another_queue_is_exit_code_69() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let amqp = format!("amqp://user:secret@{closed}/%2f");
    let finished = run(&["publish", "--amqp", &amqp, "http://a.example/1.png"], "").await;
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(69), ""), "{finished:?}");
    assert!(finished.stderr.contains(&closed.to_string()), "{}", finished.stderr);
    assert!(!finished.stderr.contains("secret"), "{}", finished.stderr);

    let rabbit = Rabbit::new(&[1]).await;
    let options = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    let name = rabbit.retry(1);
    rabbit.channel().await.queue_declare(name.as_str().into(), options, FieldTable::default()).await.unwrap();
    let finished = publish(&rabbit, &["http://a.example/1.png"], "").await;
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(69), ""), "{finished:?}");
    assert!(finished.stderr.contains(&format!("queue {name:?} exists with other arguments")), "{}", finished.stderr);
}

#[tokio::test]
async fn a_bad_address_is_exit_code_64_and_its_password_is_not_shown() {
    let finished = run(&["publish", "--amqp", "http://user:secret@host/", "http://a.example/1.png"], "").await;
    assert_eq!(finished.code, Some(64), "{finished:?}");
    assert!(!finished.stderr.contains("secret"), "{}", finished.stderr);
}
