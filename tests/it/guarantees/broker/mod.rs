//! Sessions with the broker: restarts, dead sockets, overdue acknowledgements, retries, missing and full queues.

mod breaks;
mod dead_letters;
mod delays;
mod restarts;
mod rolling;
mod silence;

use lapin::options::{BasicGetOptions, BasicNackOptions};

use crate::support::rabbit::{Rabbit, number_header};
use crate::support::scrape::Scrape;

/// A small prefetch, so that few messages fill it.
const PREFETCH: usize = 16;
const FEW_AT_A_TIME: [&str; 6] = ["--model", "stub", "--prefetch", "16", "--bulk-items", "4"];

/// How many sessions have ended in this way.
fn ended(end: &'static str) -> impl Fn(&Scrape) -> u64 {
    move |scrape| scrape.value("broker_sessions_total", &[("end", end)])
}

fn indexed(scrape: &Scrape) -> u64 {
    scrape.outcome("indexed")
}

fn in_flight(scrape: &Scrape) -> u64 {
    scrape.value("inflight_messages", &[])
}

/// The causes of present pauses.
fn pauses(scrape: &Scrape) -> Vec<String> {
    scrape.by("paused", "cause").into_keys().collect()
}

/// Requeues all messages of the work queue. Returns the smallest of their delivery counts.
async fn requeue_all(rabbit: &Rabbit, messages: u32) -> i64 {
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
