//! Dead letters and the state of an image from the command line: `imgdex dlq`, `imgdex why`.

use imgdex::testing::broker::headers;
use serde_json::{Value, json};

use crate::support::documents::deletion;
use crate::support::flow::Flow;
use crate::support::process::{Finished, run};
use crate::support::rabbit::{body, number_header, text_header};

impl Flow {
    async fn command(&self, arguments: &[&str]) -> Finished {
        let flags = self.rabbit.flags();
        let all: Vec<_> = arguments.iter().map(ToString::to_string).chain(flags).collect();
        run(&all, "").await
    }

    /// The ids and reasons that `imgdex dlq list` prints.
    async fn listed(&self, flags: &[&str]) -> Vec<(String, String)> {
        let finished = self.command(&[&["dlq", "list"], flags].concat()).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let letters = finished.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        letters.map(|letter| (text(&letter["id"]), text(&letter["reason"]))).collect()
    }

    async fn why(&self, id: &str, flags: &[&str]) -> Finished {
        let store = self.alias.address();
        self.command(&[&["why", "--store", &store, id], flags].concat()).await
    }
}

/// A queue after a worker has processed two missing images, a body that is no reference, and two good images.
async fn processed() -> Flow {
    let flow = Flow::start().await;
    let good = flow.images.urls("good", 2);
    let line = |id: &str, url: &str| json!({"id": id, "url": url, "version": 5}).to_string();
    let missing = |n: u8| line(&format!("missing-{n}"), &format!("{}?{n}", flow.images.url("/missing")));
    flow.publish(&[line("good-0", &good[0]), missing(0), missing(1), line("good-1", &good[1])], &[]).await;
    flow.rabbit.publish("no URL").await;
    let mut worker = flow.worker().await;
    worker.until("messages dead-lettered", 3, |scrape| scrape.outcome("dead")).await;
    worker.until("messages indexed", 2, |scrape| scrape.outcome("indexed")).await;
    assert_eq!(worker.terminate().await, Some(0));
    flow.rabbit.until_ready(&flow.rabbit.dead(), 3).await;
    flow
}

fn reasons(letters: &[(String, String)]) -> Vec<&str> {
    let mut reasons: Vec<_> = letters.iter().map(|(_, reason)| reason.as_str()).collect();
    reasons.sort_unstable();
    reasons
}

#[tokio::test]
async fn listing_and_showing_change_nothing() {
    let flow = processed().await;
    for _ in 0..3 {
        let letters = flow.listed(&[]).await;
        assert_eq!(reasons(&letters), ["host_refused", "host_refused", "invalid_message"]);
    }
    let invalid = flow.listed(&["--reason", "invalid_message"]).await;
    assert_eq!(invalid.len(), 1);
    assert!(invalid[0].0.starts_with("body:"), "{invalid:?}");

    let shown = flow.command(&["dlq", "show", "missing-1"]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["letter"]["status"], 404);
    assert_eq!(shown["headers"][headers::ATTEMPTS], "3");
    assert!(shown["body"].as_str().unwrap().contains("missing-1"));
    let absent = flow.command(&["dlq", "show", "unknown"]).await;
    assert_eq!(absent.code, Some(1), "{absent:?}");

    let limited = flow.command(&["dlq", "list", "--limit", "1"]).await;
    assert_eq!(limited.stdout.lines().count(), 1);
    assert!(limited.stderr.contains("read 1 messages; 2 more were not read"), "{limited:?}");

    let letters = flow.rabbit.take_all(&flow.rabbit.dead(), 3).await;
    assert!(letters.iter().all(|letter| number_header(&letter.properties, headers::ATTEMPTS).is_some()));
}

#[tokio::test]
async fn why_finds_an_image_in_every_state() {
    let flow = processed().await;
    let good = flow.why("good-0", &[]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.stdout.contains("indexed, version 5, with stub, "), "{good:?}");
    let dead = flow.why("missing-0", &[]).await;
    assert_eq!(dead.code, Some(0), "{dead:?}");
    assert!(dead.stdout.contains("dead-lettered (host_refused)") && dead.stdout.contains("answered 404"), "{dead:?}");
    flow.alias.open().write(&[deletion("good-1", 6)]).await.unwrap();
    let deleted = flow.why("good-1", &[]).await;
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    assert!(deleted.stdout.contains("deleted, version 6, Thu, 01 Jan 1970 00:00:00 GMT"), "{deleted:?}");
    let unknown = flow.why("unknown", &[]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("\"unknown\" is unknown"), "{unknown:?}");
    let beyond = flow.why("unknown", &["--limit", "2"]).await;
    assert!(beyond.stdout.contains("not among 2 messages; 1 more were not searched"), "{beyond:?}");
    flow.rabbit.until_ready(&flow.rabbit.dead(), 3).await;
}

#[tokio::test]
async fn a_replayed_letter_has_no_attempts_and_a_purged_one_is_gone() {
    let flow = processed().await;
    assert_eq!(flow.command(&["dlq", "replay"]).await.code, Some(2), "a selection is required");
    assert_eq!(flow.command(&["dlq", "purge", "--all", "--reason", "host_refused"]).await.code, Some(2));
    assert_eq!(flow.command(&["dlq", "purge", "--reason", "weather"]).await.code, Some(2));
    assert_eq!(flow.command(&["dlq", "replay", "--id", "unknown"]).await.code, Some(1));
    flow.rabbit.until_ready(&flow.rabbit.dead(), 3).await;

    let replayed = flow.command(&["dlq", "replay", "--id", "missing-0"]).await;
    assert_eq!((replayed.code, replayed.stdout.as_str()), (Some(0), "1 replayed\n"), "{replayed:?}");
    flow.rabbit.until_ready(&flow.rabbit.dead(), 2).await;
    let message = flow.rabbit.take(&flow.rabbit.queue).await.unwrap();
    assert!(body(&message).contains("missing-0"));
    assert_eq!(number_header(&message.properties, headers::ATTEMPTS), None);
    assert_eq!(text_header(&message.properties, headers::REASON), None);
    assert!(number_header(&message.properties, headers::FIRST_RECEIVED_MS).is_some());

    let purged = flow.command(&["dlq", "purge", "--reason", "invalid_message"]).await;
    assert_eq!((purged.code, purged.stdout.as_str()), (Some(0), "1 removed\n"), "{purged:?}");
    flow.rabbit.until_ready(&flow.rabbit.dead(), 1).await;

    // The host still refuses, so it is dead-lettered again, with its attempts counted from zero.
    let replayed = flow.command(&["dlq", "replay", "--all"]).await;
    assert_eq!(replayed.stdout, "1 replayed\n", "{replayed:?}");
    let worker = flow.worker().await;
    worker.until("messages dead-lettered", 1, |scrape| scrape.outcome("dead")).await;
    let letters = flow.rabbit.take_all(&flow.rabbit.dead(), 1).await;
    assert_eq!(number_header(&letters[0].properties, headers::ATTEMPTS), Some(3));
    drop(worker);
}
