//! Memory for bodies: so many bytes for all fetches of a process together.
//!
//! A body takes from the budget piece by piece as it grows, and gives back when it is dropped, which is after decoding. So
//! a host holds no more than it has sent: one that announces much and drips holds little.
//!
//! Taken piece by piece, the budget could be used up by bodies that all wait for more of it. So there is one overdraft:
//! whoever has waited longest goes on without the budget, up to the largest image, until its body is dropped. Hence one
//! body can always grow, and all together never hold more than the budget and one image. The other ways to that are worse:
//! reserving the whole image at the start means to believe an announcement, or to reserve the largest image for each;
//! giving up a body to make room for another means to fetch it twice.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// What is left of the budget.
pub(in crate::fetch) struct Budget {
    bytes: Arc<Semaphore>,
    overdraft: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// What one body holds.
pub(in crate::fetch) struct Share {
    budget: Arc<Budget>,
    /// The part that was taken from the budget.
    taken: Option<OwnedSemaphorePermit>,
    /// Present where the rest needs none.
    overdraft: Option<OwnedSemaphorePermit>,
    held: usize,
}

impl Budget {
    /// A budget of which nothing is taken. What is held is shown in the metrics.
    pub(in crate::fetch) fn new(bytes: u64, metrics: Arc<Metrics>) -> Self {
        let permits = usize::try_from(bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { bytes: Arc::new(Semaphore::new(permits)), overdraft: Arc::new(Semaphore::new(1)), metrics }
    }

    /// The share of a new body.
    pub(in crate::fetch) fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), taken: None, overdraft: None, held: 0 }
    }
}

impl Share {
    pub(in crate::fetch) fn metrics(&self) -> &Metrics {
        &self.budget.metrics
    }

    /// Takes so many bytes more, and waits for them where the budget is used up. Cancelled, it has taken nothing.
    pub(in crate::fetch) async fn grow(&mut self, bytes: usize) {
        if self.overdraft.is_none() {
            let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
            let (budget, overdraft) = (Arc::clone(&self.budget.bytes), Arc::clone(&self.budget.overdraft));
            // Both queues are first come, first served. The semaphores are never closed, which alone gives no permit.
            tokio::select! {
                biased;
                taken = budget.acquire_many_owned(wanted) => match (&mut self.taken, taken.ok()) {
                    (Some(before), Some(taken)) => before.merge(taken),
                    (before, taken) => *before = taken,
                },
                overdraft = overdraft.acquire_owned() => self.overdraft = overdraft.ok(),
            }
        }
        self.held += bytes;
        self.budget.metrics.hold_bytes(signed(bytes));
    }

    /// Gives back all but so many bytes.
    pub(in crate::fetch) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.held.saturating_sub(bytes);
        self.held -= surplus;
        self.budget.metrics.hold_bytes(-signed(surplus));
        // On an overdraft the budget may have given less than that.
        drop(self.taken.as_mut().and_then(|taken| taken.split(surplus.min(taken.num_permits()))));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.metrics.hold_bytes(-signed(self.held));
    }
}

/// A length as the gauge takes it; no allocation is longer than `isize::MAX`.
fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    fn budget(bytes: u64) -> Arc<Budget> {
        Arc::new(Budget::new(bytes, Arc::new(Metrics::new("test", "test").unwrap())))
    }

    /// A share that has got so much without waiting.
    fn holding(budget: &Arc<Budget>, bytes: usize) -> Share {
        let mut share = budget.share();
        assert!(share.grow(bytes).now_or_never().is_some(), "{bytes} bytes are not there");
        share
    }

    fn left(budget: &Budget) -> usize {
        budget.bytes.available_permits()
    }

    #[test]
    fn what_is_dropped_or_too_much_comes_back() {
        let budget = budget(100);
        let mut first = holding(&budget, 70);
        first.grow(20).now_or_never().unwrap();
        first.shrink_to(40);
        assert_eq!((left(&budget), budget.metrics.held_bytes()), (60, 40));
        drop(first);
        assert_eq!((left(&budget), budget.metrics.held_bytes()), (100, 0));
    }

    #[test]
    fn one_goes_on_without_the_budget_and_the_others_wait_in_turn() {
        let budget = budget(100);
        let (mut a, mut b, mut c) = (holding(&budget, 40), holding(&budget, 30), holding(&budget, 30));
        // The first to find nothing left goes on, again and again.
        for _ in 0..3 {
            a.grow(50).now_or_never().unwrap();
        }
        assert_eq!(budget.metrics.held_bytes(), 250);
        {
            let (mut of_b, mut of_c) = (pin!(b.grow(10)), pin!(c.grow(10)));
            assert!(of_b.as_mut().now_or_never().is_none() && of_c.as_mut().now_or_never().is_none());
            drop(a);
            // 40 bytes and the overdraft are free again.
            assert!(of_b.now_or_never().is_some() && of_c.now_or_never().is_some());
        }
        assert_eq!((left(&budget), budget.overdraft.available_permits()), (20, 1));
    }

    #[test]
    fn who_gives_up_waiting_leaves_nothing_behind() {
        let budget = budget(10);
        let (a, mut b) = (holding(&budget, 10), budget.share());
        b.grow(1).now_or_never().unwrap();
        let mut c = budget.share();
        assert!(c.grow(5).now_or_never().is_none());
        drop((a, b, c));
        assert_eq!((left(&budget), budget.overdraft.available_permits(), budget.metrics.held_bytes()), (10, 1, 0));
    }

    #[test]
    fn what_was_held_on_the_overdraft_comes_back_as_overdraft() {
        let budget = budget(10);
        let mut a = holding(&budget, 10);
        a.grow(90).now_or_never().unwrap();
        a.shrink_to(95);
        assert_eq!((left(&budget), budget.metrics.held_bytes()), (5, 95));
        drop(a);
        assert_eq!((left(&budget), budget.overdraft.available_permits(), budget.metrics.held_bytes()), (10, 1, 0));
    }
}
