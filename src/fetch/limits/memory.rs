//! Memory for bodies: so many bytes for all fetches of a process together.
//!
//! A body reserves memory piece by piece as it grows, and releases it when it is dropped, which is after decoding. So a
//! host holds no more than it has sent: one that announces much and drips holds little.
//!
//! Reserved piece by piece, the budget could be used up by bodies that all wait for more of it. So there is one
//! overdraft: the body that has waited longest grows without the budget, up to the largest image, until it is dropped.
//! Hence one body can always grow, and all together never hold more than the budget and one image. The alternatives are
//! worse: to reserve the whole image at the start would trust an announcement, or reserve the largest image for each;
//! to drop one body in favour of another would fetch it twice.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

pub(in crate::fetch) struct MemoryBudget {
    bytes: Arc<Semaphore>,
    overdraft: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// The memory of one body.
pub(in crate::fetch) struct Reservation {
    budget: Arc<MemoryBudget>,
    /// The part that counts against the budget.
    reserved: Option<OwnedSemaphorePermit>,
    /// Where present, the body grows without the budget.
    overdraft: Option<OwnedSemaphorePermit>,
    held: usize,
}

impl MemoryBudget {
    /// The metrics show how many bytes are held.
    pub(in crate::fetch) fn new(bytes: u64, metrics: Arc<Metrics>) -> Self {
        let permits = usize::try_from(bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { bytes: Arc::new(Semaphore::new(permits)), overdraft: Arc::new(Semaphore::new(1)), metrics }
    }

    /// An empty reservation.
    pub(in crate::fetch) fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), reserved: None, overdraft: None, held: 0 }
    }
}

impl Reservation {
    pub(in crate::fetch) fn metrics(&self) -> &Metrics {
        &self.budget.metrics
    }

    /// Reserves so many bytes more. Waits while the budget is used up. Cancelled, it has reserved nothing.
    pub(in crate::fetch) async fn grow(&mut self, bytes: usize) {
        if self.overdraft.is_none() {
            let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
            let (budget, overdraft) = (Arc::clone(&self.budget.bytes), Arc::clone(&self.budget.overdraft));
            // Both queues are first come, first served. The semaphores are never closed, so each wait ends with a permit.
            tokio::select! {
                biased;
                permit = budget.acquire_many_owned(wanted) => match (&mut self.reserved, permit.ok()) {
                    (Some(reserved), Some(permit)) => reserved.merge(permit),
                    (reserved, permit) => *reserved = permit,
                },
                overdraft = overdraft.acquire_owned() => self.overdraft = overdraft.ok(),
            }
        }
        self.held += bytes;
        self.budget.metrics.hold_bytes(signed(bytes));
    }

    /// Releases all but so many bytes.
    pub(in crate::fetch) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.held.saturating_sub(bytes);
        self.held -= surplus;
        self.budget.metrics.hold_bytes(-signed(surplus));
        // With the overdraft, less than that may be reserved.
        drop(self.reserved.as_mut().and_then(|reserved| reserved.split(surplus.min(reserved.num_permits()))));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.metrics.hold_bytes(-signed(self.held));
    }
}

/// A length for the gauge; no allocation is longer than `isize::MAX`.
fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    fn budget(bytes: u64) -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget::new(bytes, Arc::new(Metrics::new("test", "test").unwrap())))
    }

    /// A reservation of so many bytes, got without waiting.
    fn holding(budget: &Arc<MemoryBudget>, bytes: usize) -> Reservation {
        let mut reservation = budget.reservation();
        assert!(reservation.grow(bytes).now_or_never().is_some(), "{bytes} bytes are not there");
        reservation
    }

    fn left(budget: &MemoryBudget) -> usize {
        budget.bytes.available_permits()
    }

    #[test]
    fn dropped_and_surplus_bytes_are_released() {
        let budget = budget(100);
        let mut first = holding(&budget, 70);
        first.grow(20).now_or_never().unwrap();
        first.shrink_to(40);
        assert_eq!((left(&budget), budget.metrics.held_bytes()), (60, 40));
        drop(first);
        assert_eq!((left(&budget), budget.metrics.held_bytes()), (100, 0));
    }

    #[test]
    fn one_grows_without_the_budget_and_the_others_wait_in_turn() {
        let budget = budget(100);
        let (mut a, mut b, mut c) = (holding(&budget, 40), holding(&budget, 30), holding(&budget, 30));
        // The first to find nothing left grows, again and again.
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
    fn a_cancelled_wait_leaves_nothing_behind() {
        let budget = budget(10);
        let (a, mut b) = (holding(&budget, 10), budget.reservation());
        b.grow(1).now_or_never().unwrap();
        let mut c = budget.reservation();
        assert!(c.grow(5).now_or_never().is_none());
        drop((a, b, c));
        assert_eq!((left(&budget), budget.overdraft.available_permits(), budget.metrics.held_bytes()), (10, 1, 0));
    }

    #[test]
    fn bytes_held_on_the_overdraft_do_not_return_to_the_budget() {
        let budget = budget(10);
        let mut a = holding(&budget, 10);
        a.grow(90).now_or_never().unwrap();
        a.shrink_to(95);
        assert_eq!((left(&budget), budget.metrics.held_bytes()), (5, 95));
        drop(a);
        assert_eq!((left(&budget), budget.overdraft.available_permits(), budget.metrics.held_bytes()), (10, 1, 0));
    }
}
