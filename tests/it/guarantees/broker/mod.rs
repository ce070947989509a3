//! Sessions with the broker: restarts, dead sockets, cancelled consumers, missing queues, rolling restarts.

/// Sessions that are broken off: a channel closed over an overdue acknowledgement, a connection that is reset.
mod breaks;
/// Retry and dead-letter queues that are missing, or refuse messages.
mod dead_letters;
/// Retries that wait, and messages that overtake them.
mod delays;
/// Restarts of the broker.
mod restarts;
/// Rolling restarts of the workers.
mod rolling;
/// A peer that falls silent while its socket stays open.
mod silence;

use lapin::options::{BasicGetOptions, BasicNackOptions};

use crate::support::rabbit::{Rabbit, number_header};
use crate::support::scrape::Scrape;

/// As few messages at a time as a worker can do with.
const PREFETCH: usize = 16;
const FEW_AT_A_TIME: [&str; 6] = ["--model", "stub", "--prefetch", "16", "--bulk-items", "4"];

/// How many sessions have ended so.
fn ended(end: &'static str) -> impl Fn(&Scrape) -> u64 {
    move |scrape| scrape.value("broker_sessions_total", &[("end", end)])
}

fn indexed(scrape: &Scrape) -> u64 {
    scrape.outcome("indexed")
}

fn in_flight(scrape: &Scrape) -> u64 {
    scrape.value("inflight_messages", &[])
}

/// The pauses that last.
fn pauses(scrape: &Scrape) -> Vec<String> {
    scrape.by("paused", "cause").into_keys().collect()
}

/// Takes all messages out of the work queue and gives them back; how often the broker has counted that before, at least.
async fn give_back(rabbit: &Rabbit, messages: u32) -> i64 {
    let channel = rabbit.channel().await;
    let (mut tag, mut least) = (0, i64::MAX);
    for _ in 0..messages {
        let message = channel.basic_get(rabbit.queue.as_str().into(), BasicGetOptions::default()).await.unwrap();
        let delivery = message.expect("a message is missing").delivery;
        tag = delivery.delivery_tag;
        least = least.min(number_header(&delivery.properties, "x-delivery-count").unwrap_or_default());
    }
    channel.basic_nack(tag, BasicNackOptions { multiple: true, requeue: true }).await.unwrap();
    channel.close(200, "done".into()).await.unwrap();
    rabbit.until_ready(&rabbit.queue, messages).await;
    least
}
