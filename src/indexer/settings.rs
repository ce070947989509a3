//! When a batch is sent, and how long it is tried.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Most writes in one batch.
    pub max_items: usize,
    /// Most bytes in one batch, estimated; a fraction of the 100 MB that Elasticsearch takes, to bound memory.
    pub max_bytes: usize,
    /// How long the first write of a batch waits for more.
    pub linger: Duration,
    /// Most batches that are sent or wait for a retry. At most so many requests run at once; fewer while the store is overloaded.
    pub in_flight: usize,
    /// How long a write waits for a store that does not take it, before its message is requeued.
    pub hold: Duration,
    /// Whether a store that takes no writes at all (a block, a missing index) is waited for like one that is busy. A
    /// worker waits; a command fails at once.
    pub hold_blocked: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_items: 500,
            max_bytes: 8 << 20,
            linger: Duration::from_millis(100),
            in_flight: 2,
            hold: Duration::from_mins(1),
            hold_blocked: false,
        }
    }
}
