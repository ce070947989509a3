//! Sessions with the broker: restarts, dead sockets, cancelled consumers, missing queues, rolling restarts.

/// Sessions that are broken off: a channel closed over an overdue acknowledgement, a connection that is reset.
mod breaks;
/// Retries that wait, and messages that overtake them.
mod delays;
/// Retry and dead-letter queues that are missing, or refuse messages.
mod letters;
/// Restarts of the broker.
mod restarts;
/// Rolling restarts of the workers.
mod rolling;
/// A peer that falls silent while its socket stays open.
mod silence;

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
