//! Slow and malicious hosts, malicious images, and bounds of memory.

mod backlog;
mod bombs;
mod decoders;
mod hostile;
mod large;
mod slow;

use crate::support::poll;
use crate::support::process::Worker;

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Waits until this many messages are indexed. The time-out is for one further document, not for all.
async fn until_indexed(worker: &Worker, messages: u64) {
    let mut indexed = 0;
    while indexed < messages {
        indexed = poll::until("further documents", async || {
            let now = worker.scrape().await.outcome("indexed");
            if now > indexed { Ok(now) } else { Err(format!("{now} of {messages}")) }
        })
        .await;
    }
}
