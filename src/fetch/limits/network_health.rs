//! Whether the network has failed, rather than the hosts: no name server answers, or no host can be connected to.
//!
//! A host that cannot be reached uses up the attempts that its messages have. But where most of many hosts cannot be
//! reached at the same time, the fault is on this side. Then no attempt is counted, consumption pauses, and a few of
//! the hosts are tried until one can be reached.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use url::Url;

use crate::backpressure::window::Window;
use crate::fetch::error::host_of;

/// How many of the last fetches are judged.
const WINDOW: usize = 50;
/// So many of them must have reached no host: nine in ten.
const OUTAGE_AT: usize = WINDOW * 9 / 10;
/// And that at so many hosts; with fewer, the fault is theirs.
const MIN_HOSTS: usize = 5;

/// The last fetches of one process.
#[derive(Debug, Default)]
pub(in crate::fetch) struct NetworkHealth {
    recent: Mutex<Recent>,
    outage_began: Notify,
}

type Recent = Window<FetchRecord, WINDOW>;

#[derive(Debug)]
struct FetchRecord {
    url: Url,
    /// Whether something was there to talk to, at the host's address.
    reached: bool,
}

impl NetworkHealth {
    /// Records a fetch. Returns whether there is an outage now.
    pub(in crate::fetch) fn record(&self, url: &Url, reached: bool) -> bool {
        let mut recent = self.recent();
        let before = is_outage(&recent);
        recent.push(FetchRecord { url: url.clone(), reached });
        let outage = is_outage(&recent);
        if outage && !before {
            tracing::error!("most of many image hosts cannot be reached: the network or its name servers fail");
            self.outage_began.notify_one();
        }
        outage
    }

    /// Completes when an outage begins; at once where one has begun since the last call.
    pub(in crate::fetch) async fn outage_began(&self) {
        self.outage_began.notified().await;
    }

    /// During an outage: one URL of each host that could not be reached lately, for a few hosts.
    pub(in crate::fetch) fn unreachable(&self) -> Vec<Url> {
        let recent = self.recent();
        if !is_outage(&recent) {
            return Vec::new();
        }
        let mut hosts = HashSet::new();
        let failed = recent.iter().rev().filter(|record| !record.reached && hosts.insert(host_of(&record.url)));
        failed.take(MIN_HOSTS).map(|record| record.url.clone()).collect()
    }

    /// Ends an outage: forgets the fetches that showed it.
    pub(in crate::fetch) fn reset(&self) {
        *self.recent() = Recent::default();
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_outage(recent: &Recent) -> bool {
    let failed = || recent.iter().filter(|record| !record.reached);
    failed().count() >= OUTAGE_AT
        && failed().map(|record| host_of(&record.url)).collect::<HashSet<_>>().len() >= MIN_HOSTS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use futures_util::FutureExt;

    use super::*;

    /// Records so many fetches from so many hosts in turn.
    fn record(network: &NetworkHealth, fetches: usize, hosts: usize, reached: bool) -> bool {
        let url = |number: usize| Url::parse(&format!("http://host-{}.example/{number}", number % hosts)).unwrap();
        (0..fetches).map(|number| network.record(&url(number), reached)).last().unwrap()
    }

    #[test]
    fn many_hosts_that_cannot_be_reached_are_an_outage() {
        let network = NetworkHealth::default();
        assert!(!record(&network, 50, 9, true));
        assert!(!record(&network, OUTAGE_AT - 1, 9, false));
        assert!(network.unreachable().is_empty() && network.outage_began().now_or_never().is_none());
        assert!(record(&network, 1, 9, false));
        assert!(network.outage_began().now_or_never().is_some());
        let hosts: HashSet<_> = network.unreachable().iter().map(host_of).collect();
        assert_eq!(hosts.len(), MIN_HOSTS);
        network.reset();
        assert!(network.unreachable().is_empty());
    }

    #[test]
    fn a_few_unreachable_hosts_are_no_outage() {
        let network = NetworkHealth::default();
        assert!(!record(&network, 200, MIN_HOSTS - 1, false));
    }

    #[test]
    fn with_one_in_five_reached_there_is_no_outage() {
        let network = NetworkHealth::default();
        let outages = (0..200).filter(|number| record(&network, 1, 1, number % 5 == 0)).count();
        assert_eq!(outages, 0);
    }
}
