//! Who may send a request now: so many per host, so many in all.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use crate::fetch::Error;
use crate::fetch::limits::host_health::{Advice, Ending, Pace};

/// How often whoever waits asks whether that is still advised.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How many hosts there may be before those that have become forgettable are looked for.
const FEW_HOSTS: usize = 1000;

/// The limits, and the hosts that are being asked at this moment.
pub(in crate::fetch) struct Turns {
    /// Whether who would wait for long is turned away.
    put_off: bool,
    hosts: Arc<Mutex<Hosts>>,
    all: Arc<Semaphore>,
}

/// Only hosts that someone waits for or talks to, and those whose trouble is remembered for a while: a crawl over millions
/// of hosts does not grow it.
struct Hosts {
    per_host: usize,
    by_name: HashMap<String, Host>,
    tickets: u64,
}

struct Host {
    /// Has as many permits, taken or free, as `permits` says: what the pace allows, once turns that are too many have ended.
    turns: Arc<Semaphore>,
    permits: usize,
    serving: usize,
    /// The tickets of those that wait, in order of their arrival.
    waiting: BTreeSet<u64>,
    pace: Pace,
}

/// A turn, over when dropped.
pub(in crate::fetch) struct Turn {
    _of_all: Option<OwnedSemaphorePermit>,
    place: Place,
}

/// A place at a host, waiting or served.
struct Place {
    hosts: Arc<Mutex<Hosts>>,
    host: String,
    ticket: u64,
    /// The turn; `None` while waiting.
    served: Option<Served>,
}

struct Served {
    since: Instant,
    permit: Option<OwnedSemaphorePermit>,
    ending: Ending,
}

impl Turns {
    /// At least one at a time, whatever is asked for: with none, nothing would ever be fetched.
    pub(in crate::fetch) fn new(per_host: usize, all: usize, put_off: bool) -> Self {
        let [per_host, all] = [per_host, all].map(|turns| turns.clamp(1, Semaphore::MAX_PERMITS));
        let hosts = Hosts { per_host, by_name: HashMap::new(), tickets: 0 };
        Self { put_off, hosts: Arc::new(Mutex::new(hosts)), all: Arc::new(Semaphore::new(all)) }
    }

    /// Waits for a turn at a host. The host's permit comes first, so that whoever waits for a slow host keeps nothing from
    /// the others.
    ///
    /// # Errors
    /// [`Error::Busy`] and [`Error::Failing`], where those that would wait for long are put off.
    pub(in crate::fetch) async fn take(&self, host: &str) -> Result<Turn, Error> {
        let (turns, mut place) = self.enter(host);
        let permits = async {
            // The semaphores are never closed, which is the only way to get no permit.
            let of_host = turns.acquire_owned().await.ok();
            (of_host, Arc::clone(&self.all).acquire_owned().await.ok())
        };
        let mut permits = std::pin::pin!(permits);
        loop {
            self.advise(&place)?;
            tokio::select! {
                biased;
                (of_host, of_all) = &mut permits => {
                    place.begin(of_host);
                    return Ok(Turn { _of_all: of_all, place });
                }
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    fn enter(&self, name: &str) -> (Arc<Semaphore>, Place) {
        let now = Instant::now();
        let mut hosts = lock(&self.hosts);
        hosts.tickets += 1;
        let (ticket, per_host) = (hosts.tickets, hosts.per_host);
        let host = hosts.by_name.entry(name.to_owned()).or_insert_with(|| Host::new(now, per_host));
        host.waiting.insert(ticket);
        let place = Place { hosts: Arc::clone(&self.hosts), host: name.to_owned(), ticket, served: None };
        (Arc::clone(&host.turns), place)
    }

    fn advise(&self, place: &Place) -> Result<(), Error> {
        if !self.put_off {
            return Ok(());
        }
        match place.advice() {
            None | Some(Advice::Wait) => Ok(()),
            Some(Advice::Later) => Err(Error::Busy { host: place.host.clone(), what: "a turn" }),
            Some(Advice::Failed(turns)) => Err(Error::Failing { host: place.host.clone(), turns }),
        }
    }
}

impl Turn {
    /// Ends the turn, and says what became of it.
    pub(in crate::fetch) fn end(mut self, ending: Ending) {
        if let Some(served) = &mut self.place.served {
            served.ending = ending;
        }
    }
}

impl Place {
    fn advice(&self) -> Option<Advice> {
        let mut hosts = lock(&self.hosts);
        let host = hosts.by_name.get_mut(&self.host)?;
        let ahead = host.waiting.range(..self.ticket).count();
        Some(host.pace.advise(Instant::now(), host.serving, ahead))
    }

    fn begin(&mut self, permit: Option<OwnedSemaphorePermit>) {
        let since = Instant::now();
        self.served = Some(Served { since, permit, ending: Ending::Ours });
        if let Some(host) = lock(&self.hosts).by_name.get_mut(&self.host) {
            host.waiting.remove(&self.ticket);
            host.serving += 1;
            host.pace.begin(since, host.serving);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut hosts = lock(&self.hosts);
        if let Some(host) = hosts.by_name.get_mut(&self.host) {
            host.waiting.remove(&self.ticket);
            if let Some(served) = self.served.take() {
                host.end(now, served);
            }
            if !host.is_needed(now) {
                hosts.by_name.remove(&self.host);
            }
        }
        if hosts.by_name.len() > FEW_HOSTS {
            hosts.by_name.retain(|_, host| host.is_needed(now));
        }
    }
}

impl Host {
    fn new(now: Instant, per_host: usize) -> Self {
        let pace = Pace::unknown(now, per_host);
        let permits = pace.turns();
        Self { turns: Arc::new(Semaphore::new(permits)), permits, serving: 0, waiting: BTreeSet::new(), pace }
    }

    /// Ends a turn, and adds or withdraws permits as the pace then allows.
    fn end(&mut self, now: Instant, Served { since, permit, ending }: Served) {
        self.serving -= 1;
        self.pace.end(now, since, ending, self.serving + self.waiting.len());
        let allowed = self.pace.turns();
        if self.permits > allowed
            && let Some(permit) = permit
        {
            permit.forget();
            self.permits -= 1;
        }
        self.permits -= self.turns.forget_permits(self.permits.saturating_sub(allowed));
        self.turns.add_permits(allowed.saturating_sub(self.permits));
        self.permits = self.permits.max(allowed);
    }

    fn is_needed(&self, now: Instant) -> bool {
        self.serving > 0 || !self.waiting.is_empty() || self.pace.matters(now)
    }
}

fn lock(hosts: &Mutex<Hosts>) -> MutexGuard<'_, Hosts> {
    hosts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
