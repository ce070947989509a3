//! Who may send a request now: so many per host, so many in all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The limits, and the hosts that are being asked at this moment.
pub(super) struct Turns {
    per_host: usize,
    /// Only hosts that someone waits for or talks to: the last to leave removes the entry, so that a crawl over millions
    /// of hosts does not grow it.
    hosts: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    all: Arc<Semaphore>,
}

/// A turn, over when dropped. The permits go before the place, which counts who else uses the host's entry.
pub(super) struct Turn {
    _of_all: Option<OwnedSemaphorePermit>,
    _of_host: Option<OwnedSemaphorePermit>,
    _place: Place,
}

/// A user of a host's entry, waiting or served.
struct Place {
    hosts: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    host: String,
}

impl Turns {
    /// At least one at a time, whatever is asked for: with none, nothing would ever be fetched.
    pub(super) fn new(per_host: usize, all: usize) -> Self {
        let all = Arc::new(Semaphore::new(all.clamp(1, Semaphore::MAX_PERMITS)));
        Self { per_host: per_host.clamp(1, Semaphore::MAX_PERMITS), hosts: Arc::default(), all }
    }

    /// Waits for a turn at a host. The host's permit comes first, so that whoever waits for a slow host keeps nothing from
    /// the others.
    pub(super) async fn take(&self, host: &str) -> Turn {
        let (semaphore, place) = self.enter(host);
        // The semaphores are never closed, which is the only way to get no permit.
        let of_host = semaphore.acquire_owned().await.ok();
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok();
        Turn { _of_all: of_all, _of_host: of_host, _place: place }
    }

    fn enter(&self, host: &str) -> (Arc<Semaphore>, Place) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = hosts.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.per_host)));
        (Arc::clone(entry), Place { hosts: Arc::clone(&self.hosts), host: host.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        // One reference is the map's own; each waiter and each permit has another, taken under this lock.
        if hosts.get(&self.host).is_some_and(|entry| Arc::strong_count(entry) == 1) {
            hosts.remove(&self.host);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    fn known_hosts(turns: &Turns) -> usize {
        turns.hosts.lock().unwrap().len()
    }

    #[tokio::test]
    async fn a_host_gets_so_many_at_a_time_and_others_are_not_held_up() {
        let turns = Turns::new(1, 3);
        let first = turns.take("a").await;
        let mut second = pin!(turns.take("a"));
        assert!(second.as_mut().now_or_never().is_none());
        let _other = turns.take("b").await;
        drop(first);
        second.await;
    }

    #[tokio::test]
    async fn waiting_for_a_busy_host_takes_no_place_among_all() {
        let turns = Turns::new(1, 2);
        let _busy = turns.take("slow").await;
        let mut waiting = pin!(turns.take("slow"));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(turns.take("quick").now_or_never().is_some());
    }

    #[tokio::test]
    async fn all_hosts_share_a_limit() {
        let turns = Turns::new(5, 2);
        let first = turns.take("a").await;
        let _second = turns.take("b").await;
        let mut third = pin!(turns.take("c"));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.now_or_never().is_some());
    }

    #[tokio::test]
    async fn hosts_are_forgotten_when_the_last_user_leaves_or_gives_up() {
        let turns = Turns::new(1, 10);
        let first = turns.take("a").await;
        {
            let mut second = pin!(turns.take("a"));
            assert!(second.as_mut().now_or_never().is_none());
            assert_eq!(known_hosts(&turns), 1);
        }
        assert_eq!(known_hosts(&turns), 1);
        drop(first);
        assert_eq!(known_hosts(&turns), 0);
    }

    #[tokio::test]
    async fn the_entry_stays_while_someone_waits() {
        let turns = Turns::new(1, 10);
        let first = turns.take("a").await;
        let mut second = pin!(turns.take("a"));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        assert_eq!(known_hosts(&turns), 1);
        let second = second.await;
        assert!(turns.take("a").now_or_never().is_none(), "a new entry would have let a second one in");
        drop(second);
        assert_eq!(known_hosts(&turns), 0);
    }
}
