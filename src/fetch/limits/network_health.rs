//! Whether it is the network that fails, rather than the hosts: no name server answers, or nothing can be connected to.
//!
//! A host that cannot be reached uses up the tries that its messages have, and so it should. But where most of many hosts
//! cannot be reached all at once, it is our own side that is cut off; then nobody's tries count, consuming rests, and a few
//! of the hosts are tried until one answers.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use url::Url;

use crate::fetch::host;

/// Over how many fetches is judged.
const WINDOW: usize = 50;
/// So many of them must have reached no host: nine in ten.
const UNREACHABLE: usize = WINDOW * 9 / 10;
/// And that of so many hosts, or it is theirs.
const HOSTS: usize = 5;

/// The last fetches of one process.
#[derive(Debug, Default)]
pub(in crate::fetch) struct Outage {
    recent: Mutex<VecDeque<Fetched>>,
    begins: Notify,
}

/// A fetch that is over.
#[derive(Debug)]
struct Fetched {
    url: Url,
    /// Whether its host was reached at all.
    reached: bool,
}

impl Outage {
    /// Records a fetch. Whether there is an outage now.
    pub(in crate::fetch) fn record(&self, url: &Url, reached: bool) -> bool {
        let mut recent = self.recent();
        let before = is_outage(&recent);
        recent.push_back(Fetched { url: url.clone(), reached });
        if recent.len() > WINDOW {
            recent.pop_front();
        }
        let outage = is_outage(&recent);
        if outage && !before {
            tracing::error!("most of many image hosts cannot be reached: the network or its name servers fail");
            self.begins.notify_one();
        }
        outage
    }

    /// Completes when an outage begins; at once where one has begun since the last call.
    pub(in crate::fetch) async fn begins(&self) {
        self.begins.notified().await;
    }

    /// While there is an outage: a URL of each host that could not be reached lately, a few of them.
    pub(in crate::fetch) fn unreachable(&self) -> Vec<Url> {
        let recent = self.recent();
        if !is_outage(&recent) {
            return Vec::new();
        }
        let mut hosts = HashSet::new();
        let lost = recent.iter().rev().filter(|fetched| !fetched.reached && hosts.insert(host(&fetched.url)));
        lost.take(HOSTS).map(|fetched| fetched.url.clone()).collect()
    }

    /// The outage is over: starts afresh.
    pub(in crate::fetch) fn end(&self) {
        self.recent().clear();
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Fetched>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_outage(recent: &VecDeque<Fetched>) -> bool {
    let lost = || recent.iter().filter(|fetched| !fetched.reached);
    lost().count() >= UNREACHABLE && lost().map(|fetched| host(&fetched.url)).collect::<HashSet<_>>().len() >= HOSTS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use futures_util::FutureExt;

    use super::*;

    /// Records so many fetches from so many hosts in turn.
    fn record(outage: &Outage, fetches: usize, hosts: usize, reached: bool) -> bool {
        let url = |number: usize| Url::parse(&format!("http://host-{}.example/{number}", number % hosts)).unwrap();
        (0..fetches).map(|number| outage.record(&url(number), reached)).last().unwrap()
    }

    #[test]
    fn many_hosts_that_cannot_be_reached_are_an_outage() {
        let outage = Outage::default();
        assert!(!record(&outage, 50, 9, true));
        assert!(!record(&outage, UNREACHABLE - 1, 9, false));
        assert!(outage.unreachable().is_empty() && outage.begins().now_or_never().is_none());
        assert!(record(&outage, 1, 9, false));
        assert!(outage.begins().now_or_never().is_some());
        let hosts: HashSet<_> = outage.unreachable().iter().map(host).collect();
        assert_eq!(hosts.len(), HOSTS);
        outage.end();
        assert!(outage.unreachable().is_empty());
    }

    #[test]
    fn a_few_hosts_are_their_own_fault() {
        let outage = Outage::default();
        assert!(!record(&outage, 200, HOSTS - 1, false));
    }

    #[test]
    fn some_that_are_reached_speak_against_it() {
        let outage = Outage::default();
        let reached = (0..200).map(|number| record(&outage, 1, 1, number % 5 == 0)).filter(|&found| found).count();
        assert_eq!(reached, 0);
    }
}
