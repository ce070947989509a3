//! Descriptors, threads and memory of a process, as Linux counts them.

use std::fmt;
use std::fs;

/// The resources of a process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Open files and sockets.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Connections to the broker, abandoned ones included: the client library has a thread for each.
    pub connections: usize,
    /// Resident memory in MiB.
    pub memory: usize,
}

impl Usage {
    /// The resources of a running process.
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| -> usize {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            threads: number("Threads:"),
            connections: threads_named(pid, "lapin-io-loop"),
            memory: number("VmRSS:") / 1024,
        }
    }

    /// Whether this is at most `before` and `noise`.
    pub fn is_within(&self, before: &Self, noise: &Self) -> bool {
        self.descriptors <= before.descriptors + noise.descriptors
            && self.threads <= before.threads + noise.threads
            && self.connections <= before.connections + noise.connections
            && self.memory <= before.memory + noise.memory
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, threads, connections, memory } = self;
        write!(f, "{descriptors} descriptors, {threads} threads ({connections} for the broker), {memory} MiB")
    }
}

fn threads_named(pid: u32, name: &str) -> usize {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // Threads may end while they are counted.
    let names = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}
