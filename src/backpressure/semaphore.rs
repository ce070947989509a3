//! A semaphore whose size changes while its permits are in use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// First come, first served. Growing takes effect at once; shrinking too for permits that are free, and for permits in
/// use as they are released.
pub struct ResizableSemaphore {
    permits: Arc<Semaphore>,
    size: Arc<Mutex<Size>>,
}

struct Size {
    /// How many permits there should be.
    target: usize,
    /// How many there are, free or in use; above the target until enough of those in use are released.
    existing: usize,
}

/// Released when dropped.
pub struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    size: Arc<Mutex<Size>>,
}

impl ResizableSemaphore {
    /// # Panics
    /// Above [`Semaphore::MAX_PERMITS`].
    pub fn new(size: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(size)),
            size: Arc::new(Mutex::new(Size { target: size, existing: size })),
        }
    }

    pub fn size(&self) -> usize {
        lock(&self.size).target
    }

    /// Waits for a permit. The future borrows nothing.
    pub fn acquire(&self) -> impl Future<Output = Permit> + use<> {
        let (permits, size) = (Arc::clone(&self.permits), Arc::clone(&self.size));
        async move {
            // The semaphore is never closed, which is the only way to get no permit.
            let permit = permits.acquire_owned().await.ok();
            Permit { permit, size }
        }
    }

    /// # Panics
    /// Above [`Semaphore::MAX_PERMITS`].
    pub fn resize(&self, target: usize) {
        let mut size = lock(&self.size);
        size.target = target;
        if size.existing < target {
            self.permits.add_permits(target - size.existing);
            size.existing = target;
        } else {
            size.existing -= self.permits.forget_permits(size.existing - target);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Released under the lock, so that a concurrent `resize` sees it either in use or free.
        let mut size = lock(&self.size);
        let Some(permit) = self.permit.take() else { return };
        if size.existing > size.target {
            permit.forget();
            size.existing -= 1;
        } else {
            drop(permit);
        }
    }
}

fn lock(size: &Mutex<Size>) -> MutexGuard<'_, Size> {
    size.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::FutureExt;

    use super::*;

    fn take(semaphore: &ResizableSemaphore) -> Vec<Permit> {
        std::iter::from_fn(|| semaphore.acquire().now_or_never()).collect()
    }

    #[test]
    fn permits_in_use_vanish_when_they_are_released() {
        let semaphore = ResizableSemaphore::new(4);
        let mut permits = take(&semaphore);
        semaphore.resize(2);
        semaphore.resize(1);
        assert_eq!(take(&semaphore).len(), 0);
        for expected in [0, 0, 0, 1] {
            permits.pop();
            assert_eq!(take(&semaphore).len(), expected);
        }
    }

    #[test]
    fn free_permits_vanish_at_once() {
        let semaphore = ResizableSemaphore::new(4);
        let permit = semaphore.acquire().now_or_never().unwrap();
        semaphore.resize(2);
        assert_eq!(take(&semaphore).len(), 1);
        drop(permit);
        assert_eq!((take(&semaphore).len(), semaphore.size()), (2, 2));
    }

    #[test]
    fn growing_keeps_permits_that_were_to_vanish() {
        let semaphore = ResizableSemaphore::new(4);
        let permits = take(&semaphore);
        semaphore.resize(1);
        semaphore.resize(3);
        assert_eq!(take(&semaphore).len(), 0);
        drop(permits);
        assert_eq!(take(&semaphore).len(), 3);
        semaphore.resize(5);
        assert_eq!(take(&semaphore).len(), 5);
    }

    #[test]
    fn a_larger_semaphore_admits_those_that_wait() {
        let semaphore = ResizableSemaphore::new(1);
        let _permit = semaphore.acquire().now_or_never().unwrap();
        let mut waiting = std::pin::pin!(semaphore.acquire());
        assert!(waiting.as_mut().now_or_never().is_none());
        semaphore.resize(2);
        assert!(waiting.now_or_never().is_some());
    }
}
