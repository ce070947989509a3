//! Guarantee 14: a message that crashes the worker is dead-lettered, and no other one with it.

use imgdex::testing::broker::headers;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::support::flow::{Flow, sorted};
use crate::support::poll;
use crate::support::process::Worker;
use crate::support::rabbit::{body, header, number_header, text_header};
use crate::support::report::{report, scaled};

/// Two more than quarantine a message, and one less than dead-letters it.
const KILLS: usize = 4 + 2;
/// Crashes that one message may cause: four until it is quarantined, and three alone until it is dead-lettered.
const MOST_CRASHES: usize = 4 + 3;

/// Waits for dead letters, and restarts the worker after each crash. Returns the number of crashes.
async fn until_dead_letters(flow: &Flow, worker: &mut Worker, expected: u32) -> usize {
    let mut crashes = 0;
    poll::until("the dead letters", async || {
        if !worker.runs() {
            crashes += 1;
            *worker = flow.worker().await;
        }
        let letters = flow.rabbit.ready(&flow.rabbit.dead()).await;
        if letters == expected { Ok(()) } else { Err(format!("there are {letters}, after {crashes} crashes")) }
    })
    .await;
    crashes
}

#[tokio::test]
async fn a_message_that_crashes_the_worker_is_processed_alone_and_dead_lettered_and_no_other() {
    let flow = Flow::start().await;
    let deadly = scaled(1, 3);
    let good = flow.images.urls("good", 40);
    flow.publish(&good[..20], &[]).await;
    let mut table = FieldTable::default();
    table.insert("trace".into(), AMQPValue::LongString("abc".into()));
    for url in flow.images.urls("deadly", deadly) {
        flow.rabbit.publish_with(url.as_bytes(), BasicProperties::default().with_headers(table.clone())).await;
    }
    flow.publish(&good[20..], &[]).await;

    let mut worker = flow.worker().await;
    let crashes = until_dead_letters(&flow, &mut worker, deadly as u32).await;
    assert!(crashes > 0 && crashes <= MOST_CRASHES * deadly, "{crashes} crashes");
    flow.until_documents(good.len() as u64).await;
    worker.until("messages in flight", 0, |scrape| scrape.value("inflight_messages", &[])).await;
    assert_eq!(flow.indexed_urls().await, sorted(good));

    let letters = flow.rabbit.take_all(&flow.rabbit.dead(), deadly as u32).await;
    let bodies: Vec<_> = letters.iter().map(body).collect();
    assert_eq!(sorted(bodies), flow.images.urls("deadly", deadly));
    for letter in &letters {
        assert_eq!(text_header(&letter.properties, headers::REASON).as_deref(), Some("poison"));
        assert_eq!(text_header(&letter.properties, "trace").as_deref(), Some("abc"));
        let error = text_header(&letter.properties, headers::ERROR).unwrap();
        assert!(error.contains("3 workers crashed while this message alone was in flight"), "{error}");
        for name in [headers::FIRST_RECEIVED_MS, headers::FIRST_ERROR_MS, headers::LAST_ERROR_MS] {
            assert!(number_header(&letter.properties, name).is_some(), "{name}");
        }
        assert!(header(&letter.properties, headers::WORKER_VERSION).is_some());
    }
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    report(14, format!("{deadly} deadly messages: {crashes} crashes, {deadly} dead letters, 40 neighbours indexed"));
}

/// Some brokers count requeues as deliveries. They are no evidence against a message.
#[tokio::test]
async fn a_sound_message_that_was_in_flight_at_many_kills_is_indexed() {
    let flow = Flow::start().await;
    let urls = flow.images.urls("held", 6);
    flow.publish(&urls, &[]).await;
    for _ in 0..KILLS {
        let mut worker = flow.worker().await;
        poll::until("messages in flight", async || match worker.scrape().await.value("inflight_messages", &[]) {
            0 => Err("there is none".to_owned()),
            _ => Ok(()),
        })
        .await;
        worker.kill();
    }
    flow.images.release();
    let mut worker = flow.worker().await;
    flow.until_documents(urls.len() as u64).await;
    worker.until("messages in flight", 0, |scrape| scrape.value("inflight_messages", &[])).await;
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    report(14, format!("{KILLS} kills over {} sound messages: all indexed, none dead-lettered", urls.len()));
}
