//! Which fetch may send a request now: so many per host, so many in all.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use crate::backpressure::semaphore::{Permit, ResizableSemaphore};
use crate::fetch::error::Error;
use crate::fetch::limits::host_health::{Admission, HostHealth, RequestOutcome};

/// How often a waiting fetch checks whether it is still admitted.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// With more hosts than this, those that need no entry any more are looked for.
const FEW_HOSTS: usize = 1000;

/// Limits the requests of all fetches of a process.
pub(in crate::fetch) struct RequestLimiter {
    /// Whether fetches that would wait for long are refused.
    defer: bool,
    hosts: Arc<Mutex<Hosts>>,
    all: Arc<Semaphore>,
}

/// Holds only hosts with running or waiting fetches, and hosts with recent failures: a crawl over millions of hosts
/// does not grow it.
struct Hosts {
    max_per_host: usize,
    by_name: HashMap<String, Host>,
    last_ticket: u64,
}

struct Host {
    /// As large as the limit of `health`.
    slots: ResizableSemaphore,
    running: usize,
    /// The numbers of the waiting tickets, in order of arrival.
    waiting: BTreeSet<u64>,
    health: HostHealth,
}

/// One request may be sent; ends when dropped.
pub(in crate::fetch) struct RequestPermit {
    _of_all: Option<OwnedSemaphorePermit>,
    ticket: Ticket,
}

/// A fetch in the entry of its host: waiting, or with a running request. Leaves when dropped.
struct Ticket {
    hosts: Arc<Mutex<Hosts>>,
    host: String,
    number: u64,
    /// `None` while waiting.
    running: Option<Running>,
}

struct Running {
    since: Instant,
    _permit: Permit,
    outcome: RequestOutcome,
}

impl RequestLimiter {
    /// Limits below one are taken as one: with none, nothing would ever be fetched.
    pub(in crate::fetch) fn new(max_per_host: usize, max_in_all: usize, defer: bool) -> Self {
        let [max_per_host, max_in_all] = [max_per_host, max_in_all].map(|max| max.clamp(1, Semaphore::MAX_PERMITS));
        let hosts = Hosts { max_per_host, by_name: HashMap::new(), last_ticket: 0 };
        Self { defer, hosts: Arc::new(Mutex::new(hosts)), all: Arc::new(Semaphore::new(max_in_all)) }
    }

    /// Waits until a request may be sent to a host. The host's slot is taken first, so that a fetch that waits for a
    /// slow host takes nothing from the other hosts.
    ///
    /// # Errors
    /// [`Error::Busy`] and [`Error::Failing`], where fetches that would wait for long are deferred.
    pub(in crate::fetch) async fn acquire(&self, host: &str) -> Result<RequestPermit, Error> {
        let (slot, mut ticket) = self.enter(host);
        let permits = async {
            // The semaphore is never closed, which is the only way to get no permit.
            (slot.await, Arc::clone(&self.all).acquire_owned().await.ok())
        };
        let mut permits = std::pin::pin!(permits);
        loop {
            self.check_admission(&ticket)?;
            tokio::select! {
                biased;
                (slot, of_all) = &mut permits => {
                    ticket.start(slot);
                    return Ok(RequestPermit { _of_all: of_all, ticket });
                }
                () = sleep(CHECK_INTERVAL) => {}
            }
        }
    }

    /// Queues for a slot at the host. Returns the slot once it is free, and the ticket.
    fn enter(&self, name: &str) -> (impl Future<Output = Permit> + use<>, Ticket) {
        let now = Instant::now();
        let mut hosts = lock(&self.hosts);
        hosts.last_ticket += 1;
        let (number, max_per_host) = (hosts.last_ticket, hosts.max_per_host);
        let host = hosts.by_name.entry(name.to_owned()).or_insert_with(|| Host::new(now, max_per_host));
        host.waiting.insert(number);
        let ticket = Ticket { hosts: Arc::clone(&self.hosts), host: name.to_owned(), number, running: None };
        (host.slots.acquire(), ticket)
    }

    fn check_admission(&self, ticket: &Ticket) -> Result<(), Error> {
        if !self.defer {
            return Ok(());
        }
        match ticket.admission() {
            Admission::Admitted => Ok(()),
            Admission::Deferred => Err(Error::Busy { host: ticket.host.clone(), what: "a request slot" }),
            Admission::HostFailed(failures) => Err(Error::Failing { host: ticket.host.clone(), failures }),
        }
    }
}

impl RequestPermit {
    /// Ends the request with its outcome. A permit that is only dropped counts as [`RequestOutcome::Aborted`].
    pub(in crate::fetch) fn end(mut self, outcome: RequestOutcome) {
        if let Some(running) = &mut self.ticket.running {
            running.outcome = outcome;
        }
    }
}

impl Ticket {
    fn admission(&self) -> Admission {
        let mut hosts = lock(&self.hosts);
        // The entry stays while it has a ticket.
        let Some(host) = hosts.by_name.get_mut(&self.host) else { return Admission::Admitted };
        let ahead = host.waiting.range(..self.number).count();
        host.health.admission(Instant::now(), host.running, ahead)
    }

    fn start(&mut self, permit: Permit) {
        let since = Instant::now();
        self.running = Some(Running { since, _permit: permit, outcome: RequestOutcome::Aborted });
        if let Some(host) = lock(&self.hosts).by_name.get_mut(&self.host) {
            host.waiting.remove(&self.number);
            host.running += 1;
            host.health.request_started(since, host.running);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut hosts = lock(&self.hosts);
        if let Some(host) = hosts.by_name.get_mut(&self.host) {
            host.waiting.remove(&self.number);
            if let Some(running) = self.running.take() {
                host.request_ended(now, running);
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
    fn new(now: Instant, max_per_host: usize) -> Self {
        let health = HostHealth::new(now, max_per_host);
        Self { slots: ResizableSemaphore::new(health.limit()), running: 0, waiting: BTreeSet::new(), health }
    }

    /// The permit of `running` is released after the slots have their new number, so that it vanishes where they are
    /// too many.
    fn request_ended(&mut self, now: Instant, running: Running) {
        self.running -= 1;
        self.health.request_ended(now, running.since, running.outcome, self.running + self.waiting.len());
        self.slots.resize(self.health.limit());
        drop(running);
    }

    fn is_needed(&self, now: Instant) -> bool {
        self.running > 0 || !self.waiting.is_empty() || self.health.has_recent_failures(now)
    }
}

fn lock(hosts: &Mutex<Hosts>) -> MutexGuard<'_, Hosts> {
    hosts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
