//! How many bulk requests may be in flight at once: fewer while the store is overloaded, then more again.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::backpressure::semaphore::{Permit, ResizableSemaphore};

/// Additive increase, multiplicative decrease: halved at each response that asks for less, one more after as many
/// successes as there are slots. Workers that share a store thereby come to equal shares of its capacity (Chiu and
/// Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989).
pub(super) struct ConcurrencyLimit {
    slots: ResizableSemaphore,
    max: usize,
    /// Since the last change of the limit.
    successes: Mutex<usize>,
}

impl ConcurrencyLimit {
    /// Starts with `max` slots, and never has more.
    pub(super) fn new(max: usize) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        Self { slots: ResizableSemaphore::new(max), max, successes: Mutex::new(0) }
    }

    /// Waits for a slot; first come, first served.
    pub(super) async fn slot(&self) -> Permit {
        self.slots.acquire().await
    }

    /// The store took a request. Returns the number of slots.
    pub(super) fn succeeded(&self) -> usize {
        let mut successes = self.successes.lock().unwrap_or_else(PoisonError::into_inner);
        *successes += 1;
        let limit = self.slots.size();
        if limit == self.max || *successes < limit {
            return limit;
        }
        *successes = 0;
        self.slots.resize(limit + 1);
        limit + 1
    }

    /// The store is overloaded. Returns the number of slots.
    pub(super) fn overloaded(&self) -> usize {
        let mut successes = self.successes.lock().unwrap_or_else(PoisonError::into_inner);
        *successes = 0;
        let limit = (self.slots.size() / 2).max(1);
        self.slots.resize(limit);
        limit
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use futures_util::FutureExt;

    use super::*;

    fn free_slots(limit: &ConcurrencyLimit) -> usize {
        std::iter::from_fn(|| limit.slot().now_or_never()).collect::<Vec<_>>().len()
    }

    #[test]
    fn halves_down_to_one_and_grows_back_to_the_maximum() {
        let limit = ConcurrencyLimit::new(8);
        assert_eq!([(); 5].map(|()| limit.overloaded()), [4, 2, 1, 1, 1]);
        assert_eq!(free_slots(&limit), 1);
        // One slot more after one success, then after two, three, ...
        let grown: Vec<_> = (0..40).map(|_| limit.succeeded()).collect();
        assert_eq!(grown[..6], [2, 2, 3, 3, 3, 4]);
        assert_eq!(grown[39], 8);
        assert_eq!(free_slots(&limit), 8);
    }
}
