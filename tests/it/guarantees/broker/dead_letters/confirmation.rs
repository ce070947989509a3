//! Guarantee 15: a retry or dead letter is confirmed before its message is acknowledged. Without a confirm the message is
//! kept.

use serde_json::json;

use crate::guarantees::broker::{FEW_AT_A_TIME, PREFETCH, ended, in_flight, indexed, pauses, requeue_all};
use crate::support::flow::{Flow, sorted};
use crate::support::management::Resource;
use crate::support::poll;
use crate::support::process::Worker;
use crate::support::rabbit::{Rabbit, body};
use crate::support::report::report;

fn dead(scrape: &crate::support::scrape::Scrape) -> u64 {
    scrape.outcome("dead")
}

/// Bodies that are no references.
fn broken(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("no URL {number}")).collect()
}

async fn publish_all(flow: &Flow, bodies: &[String]) {
    for body in bodies {
        flow.rabbit.publish(body).await;
    }
}

/// Takes the dead letters, and checks that they are these.
async fn take_letters(flow: &Flow, expected: Vec<String>) {
    let letters = flow.rabbit.take_all(&flow.rabbit.dead(), expected.len() as u32).await;
    assert_eq!(sorted(letters.iter().map(body).collect()), sorted(expected));
}

/// Waits until the worker is paused for its queues, and the reason contains all these words.
async fn until_queues_pause(worker: &Worker, words: &[&str]) {
    poll::until("a pause for the queues", async || {
        let ((status, ready), pauses) = (worker.ready().await, pauses(&worker.scrape().await));
        let reason = ready["conditions"]["broker"]["reason"].as_str().unwrap_or_default();
        let complete = words.iter().all(|word| reason.contains(word));
        if status == 503 && complete && pauses == ["queues"] {
            Ok(())
        } else {
            Err(format!("{status} {ready} {pauses:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_queue_deleted_under_a_worker_is_declared_again_and_nothing_is_lost() {
    let flow = Flow::start().await;
    let mut worker = flow.worker().await;
    worker.until_ready().await;
    let urls = [flow.images.urls("good", 10), flow.images.urls("busy", 1)].concat();
    for queue in [flow.rabbit.dead(), flow.rabbit.retry(2)] {
        flow.rabbit.delete(&queue).await;
    }
    publish_all(&flow, &broken(0, 3)).await;
    flow.publish(&urls, &[]).await;
    worker.until("messages dead-lettered", 3, dead).await;
    worker.until("messages indexed", 11, indexed).await;
    let sessions = ended("publish")(&worker.scrape().await);
    report(
        15,
        format!(
            "two queues deleted under a worker: {sessions} sessions ended, 3 dead letters and 11 documents, none lost"
        ),
    );
    assert!((1..=2).contains(&sessions), "{sessions} sessions ended");
    assert_eq!(flow.indexed_urls().await, sorted(urls));
    assert_eq!(worker.terminate().await, Some(0));
    take_letters(&flow, broken(0, 3)).await;
    flow.assert_all_queues_empty().await;
}

#[tokio::test]
async fn a_full_dead_letter_queue_keeps_its_messages_and_lets_others_pass() {
    const ROOM: usize = 3;
    const FIRST: usize = 8;
    const ALL: usize = 30;
    /// Requeues after which a message is processed alone.
    const QUARANTINED: i64 = 5;
    let flow = Flow::start().await;
    let limit = json!({"max-length": ROOM, "overflow": "reject-publish"});
    let pattern = format!("^{}$", flow.rabbit.dead().replace('.', "\\."));
    let policy = json!({"pattern": pattern, "definition": limit, "apply-to": "queues"});
    let Some(policy) = Resource::put(&format!("policies/%2F/{}", flow.rabbit.queue), policy).await else {
        println!("not tested: it takes the management plugin (IMGDEX_TEST_MANAGEMENT_URL)");
        return;
    };
    let effective = async || {
        let queue = Rabbit::management(&format!("queues/%2F/{}", flow.rabbit.dead())).await.unwrap();
        queue["effective_policy_definition"].clone()
    };
    poll::until_equal("the limit of the queue", limit, effective).await;

    // Some letters are refused, one of a message that is processed alone. Other messages pass them.
    publish_all(&flow, &broken(0, 1)).await;
    while requeue_all(&flow.rabbit, 1).await < QUARANTINED {}
    publish_all(&flow, &broken(1, FIRST)).await;
    let urls = flow.images.urls("good", 30);
    flow.publish(&urls[..10], &[]).await;
    let mut worker = flow.worker_with(&FEW_AT_A_TIME).await;
    worker.until("messages indexed", 10, indexed).await;
    worker.until("messages dead-lettered or in flight", FIRST as u64, |scrape| dead(scrape) + in_flight(scrape)).await;
    until_queues_pause(&worker, &[&flow.rabbit.dead(), "refuses"]).await;
    flow.publish(&urls[10..20], &[]).await;
    worker.until("messages indexed", 20, indexed).await;

    // When all messages in flight wait for the dead-letter queue, consumption pauses.
    publish_all(&flow, &broken(FIRST, ALL)).await;
    flow.publish(&urls[20..], &[]).await;
    // The message that is processed alone is in flight besides.
    let most = PREFETCH as u64 + 1;
    worker.until("messages in flight", most, in_flight).await;
    until_queues_pause(&worker, &[&flow.rabbit.dead(), "refuses", &most.to_string()]).await;
    let scrape = worker.scrape().await;
    let lettered = dead(&scrape);
    assert!((1..=ROOM as u64 + 1).contains(&lettered), "{lettered} dead letters in a queue for {ROOM}");
    let received = scrape.value("messages_received_total", &[]);
    assert_eq!(received, 1 + 20 + lettered + most, "a message was redelivered");

    // With room in the queue, consumption resumes.
    drop(policy);
    worker.until("messages dead-lettered", ALL as u64, dead).await;
    worker.until("messages indexed", 30, indexed).await;
    worker.until_ready().await;
    let scrape = worker.scrape().await;
    assert!(pauses(&scrape).is_empty());
    assert_eq!(scrape.value("broker_sessions_total", &[]), 0, "a session ended");
    report(
        15,
        format!(
            "a dead-letter queue with room for {ROOM}: {ALL} messages kept until there was room, 20 others indexed meanwhile"
        ),
    );
    assert_eq!(flow.indexed_urls().await, sorted(urls));
    assert_eq!(worker.terminate().await, Some(0));
    take_letters(&flow, broken(0, ALL)).await;
    flow.assert_all_queues_empty().await;
}

#[tokio::test]
async fn a_missing_queue_that_the_user_may_not_declare_is_waited_for() {
    let mut flow = Flow::start().await;
    let user = flow.rabbit.queue.clone();
    let Some(_user) = Resource::put(&format!("users/{user}"), json!({"password": "secret", "tags": ""})).await else {
        println!("not tested: it takes the management plugin (IMGDEX_TEST_MANAGEMENT_URL)");
        return;
    };
    let permissions = json!({"configure": "^$", "write": ".*", "read": ".*"});
    let _permissions = Resource::put(&format!("permissions/%2F/{user}"), permissions).await;
    let mut given = url::Url::parse(&flow.rabbit.url).unwrap();
    given.set_username(&user).unwrap();
    given.set_password(Some("secret")).unwrap();
    flow.rabbit.given = Some(given.into());

    let mut worker = flow.worker().await;
    worker.until_ready().await;
    flow.rabbit.delete(&flow.rabbit.dead()).await;
    publish_all(&flow, &broken(0, 1)).await;
    let refused = format!("queue \"{}\" cannot be declared", flow.rabbit.dead());
    until_queues_pause(&worker, &[&refused, "NOT_FOUND"]).await;
    let urls = flow.images.urls("good", 1);
    flow.rabbit.publish(&urls[0]).await;
    flow.rabbit.until_ready(&flow.rabbit.queue, 2).await;
    assert_eq!(dead(&worker.scrape().await), 0);

    flow.rabbit.declare().await;
    worker.until("messages dead-lettered", 1, dead).await;
    worker.until("messages indexed", 1, indexed).await;
    worker.until_ready().await;
    assert!(pauses(&worker.scrape().await).is_empty());
    report(15, "a dead-letter queue missing and not to be declared: nothing lost, resumed once it was declared");
    assert_eq!(worker.terminate().await, Some(0));
    take_letters(&flow, broken(0, 1)).await;
    flow.assert_all_queues_empty().await;
}
