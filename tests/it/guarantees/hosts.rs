//! Slow and hostile hosts, hostile images, and the memory that they may cost.

/// A store that takes nothing, and a long queue: memory stays as it is, and the queue drains by itself.
mod backlog;
/// Many large images at once.
mod large;
/// Hosts that drip, and those beside them.
mod slow;

use std::time::Duration;

use crate::support::process::Worker;

/// Memory that a process has, in bytes: `VmRSS` at this moment, `VmHWM` at its peak.
fn resident(worker: &Worker, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Tells a story, and meanwhile looks at something again and again.
async fn throughout<T>(story: impl Future<Output = T>, mut look: impl AsyncFnMut()) -> T {
    let looking = async {
        loop {
            look().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! { told = story => told, never = looking => never }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
