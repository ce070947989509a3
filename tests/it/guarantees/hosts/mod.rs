//! Slow and malicious hosts, malicious images, and bounds of memory.

mod backlog;
mod bombs;
mod hostile;
mod large;
mod slow;

use crate::support::poll;
use crate::support::process::Worker;

/// Resident memory in bytes: `VmRSS` at this moment, `VmHWM` at its peak.
fn resident(worker: &Worker, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

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
