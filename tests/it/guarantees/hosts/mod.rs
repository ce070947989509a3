//! Slow and hostile hosts, hostile images, and the memory that they may cost.

/// A store that takes nothing, and a long queue: memory stays as it is, and the queue drains by itself.
mod backlog;
/// Files that are no images, or images that are bent on using up the machine.
mod bombs;
/// Hosts and images that are out for harm, each of which costs one dead letter.
mod hostile;
/// Many large images at once.
mod large;
/// Hosts that drip, and those beside them.
mod slow;

use crate::support::poll;
use crate::support::process::Worker;

/// Memory that a process has, in bytes: `VmRSS` at this moment, `VmHWM` at its peak.
fn resident(worker: &Worker, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Waits until so many messages are indexed, however long that takes, as long as it goes on.
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
