//! Accounting for what a test publishes: each image must be at its newest version in the index or the tombstone of its deletion,
//! each broken message a dead letter with its reason.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use imgdex::testing::broker::headers;
use lapin::message::Delivery;

use super::flow::{Flow, Found};
use super::poll;
use super::rabbit::{body, text_header};

/// For all messages to be settled. A broker that was killed needs three minutes to repeat an unconfirmed move out of a
/// retry queue.
pub const TIMEOUT: Duration = Duration::from_mins(5);
/// Differences that are shown.
const SHOWN: usize = 50;

/// What was published, and the dead letters found so far.
#[derive(Default)]
pub struct Ledger {
    /// The newest version of each image, by id.
    images: BTreeMap<String, Newest>,
    /// The reason expected of each message that cannot become a document, by its body.
    broken: BTreeMap<String, &'static str>,
    /// The same of messages whose dead letters the test replays. At the end none, one or several of each may be left.
    replayed: BTreeMap<String, &'static str>,
    /// The reason of each dead letter, by the message's body.
    letters: BTreeMap<String, Vec<String>>,
}

#[derive(Clone)]
struct Newest {
    /// `None` if nothing but the receipt of its one message says it.
    version: Option<u64>,
    /// `None` after a deletion.
    url: Option<String>,
}

/// The state of all that was published.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Images at their newest version.
    pub current: u64,
    /// Images whose newest is a deletion, each a tombstone at that version.
    pub deleted: u64,
    /// Dead-lettered messages, by reason.
    pub dead: BTreeMap<String, u64>,
    /// Dead letters beyond the first of a message. A worker that ends between confirm and acknowledgement repeats it.
    pub repeated: u64,
    /// Everything that is not as it should be.
    pub differences: Vec<String>,
}

impl Ledger {
    /// Records a message about an image; without a URL it is a deletion. The highest version is the newest, and of equal ones
    /// the deletion. Said here once more, so that the program's own rule is not its own judge.
    pub fn image(&mut self, id: &str, version: u64, url: Option<&str>) {
        let newest = Newest { version: Some(version), url: url.map(ToOwned::to_owned) };
        let known = self.images.entry(id.to_owned()).or_insert_with(|| newest.clone());
        let place = |newest: &Newest| (newest.version, newest.url.is_none());
        match place(&newest).cmp(&place(known)) {
            Ordering::Less => {}
            Ordering::Equal => {
                assert_eq!(newest.url, known.url, "{id}: which of two equal messages stands is not determined");
            }
            Ordering::Greater => *known = newest,
        }
    }

    /// Records the only message about an image that takes effect. Nothing in it says its version.
    pub fn image_without_order(&mut self, id: &str, url: &str) {
        let known = self.images.insert(id.to_owned(), Newest { version: None, url: Some(url.to_owned()) });
        assert!(known.is_none(), "{id}: which of two messages without an order stands is not determined");
    }

    /// Records a message that must be dead-lettered.
    pub fn broken(&mut self, body: &str, reason: &'static str) {
        self.broken.insert(body.to_owned(), reason);
    }

    /// Records a message that must be dead-lettered, and whose dead letters the test replays.
    pub fn replayed(&mut self, body: &str, reason: &'static str) {
        self.replayed.insert(body.to_owned(), reason);
    }

    /// How many images and broken messages were published.
    pub fn published(&self) -> (u64, u64) {
        (self.images.len() as u64, self.broken.len() as u64)
    }

    /// Waits until all queues but that of the dead letters are empty and there are no differences. `idle` says whether the
    /// workers have no message in flight.
    pub async fn until_balanced(&mut self, flow: &Flow, mut idle: impl AsyncFnMut() -> bool) -> Balance {
        poll::until_within("published and found are the same", TIMEOUT, async || {
            if !idle().await {
                return Err("a worker is busy".to_owned());
            }
            for queue in flow.rabbit.queues().iter().filter(|queue| **queue != flow.rabbit.dead()) {
                match flow.rabbit.ready(queue).await {
                    0 => {}
                    waiting => return Err(format!("{waiting} messages wait in {queue}")),
                }
            }
            flow.rabbit.drain(&flow.rabbit.dead()).await.iter().for_each(|letter| self.letter(letter));
            let balance = self.compare(&flow.stored().await);
            if balance.differences.is_empty() { Ok(balance) } else { Err(balance.to_string()) }
        })
        .await
    }

    /// Records a dead letter.
    pub fn letter(&mut self, letter: &Delivery) {
        let reason = text_header(&letter.properties, headers::REASON).unwrap_or_default();
        self.letters.entry(body(letter)).or_default().push(reason);
    }

    fn compare(&self, stored: &BTreeMap<String, Found>) -> Balance {
        let mut balance = Balance::default();
        for (body, reasons) in self.letters.iter().filter(|(body, _)| !self.broken.contains_key(*body)) {
            match self.replayed.get(body) {
                Some(expected) if reasons.iter().all(|reason| reason == expected) => {
                    balance.repeated += reasons.len() as u64;
                }
                Some(expected) => {
                    balance.differences.push(format!("{body} is dead-lettered as {reasons:?}, not {expected}"));
                }
                None => balance.differences.push(format!("{body} is healthy, but was dead-lettered: {reasons:?}")),
            }
        }
        let unknown = stored.keys().filter(|id| !self.images.contains_key(*id));
        balance.differences.extend(unknown.map(|id| format!("{id} was not published, but is in the index")));
        for (body, expected) in &self.broken {
            balance.count_broken(body, expected, self.letters.get(body).map_or(&[], Vec::as_slice));
        }
        for (id, newest) in &self.images {
            balance.count_image(id, newest, stored.get(id));
        }
        balance
    }
}

impl Balance {
    fn count_broken(&mut self, body: &str, expected: &str, reasons: &[String]) {
        match reasons {
            [] => self.differences.push(format!("{body} is lost: it should be dead-lettered as {expected}")),
            [_, again @ ..] if reasons.iter().all(|reason| reason == expected) => {
                *self.dead.entry(expected.to_owned()).or_default() += 1;
                self.repeated += again.len() as u64;
            }
            others => self.differences.push(format!("{body} is dead-lettered as {others:?}, not {expected}")),
        }
    }

    fn count_image(&mut self, id: &str, newest: &Newest, found: Option<&Found>) {
        match found {
            Some(found) if found.url == newest.url && newest.version.is_none_or(|version| version == found.version) => {
                match newest.url {
                    Some(_) => self.current += 1,
                    None => self.deleted += 1,
                }
            }
            Some(found) => {
                let found = shown(Some(found.version), found.url.as_deref());
                self.differences.push(format!("{id} is {found}, not {newest}"));
            }
            None => self.differences.push(format!("{id} is not in the index, it should be {newest}")),
        }
    }
}

fn shown(version: Option<u64>, url: Option<&str>) -> String {
    let version = version.map_or("any version".to_owned(), |version| format!("version {version}"));
    url.map_or_else(|| format!("deleted at {version}"), |url| format!("{url} at {version}"))
}

impl fmt::Display for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(self.version, self.url.as_deref()))
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { current, deleted, dead, repeated, differences } = self;
        let dead_in_all: u64 = dead.values().sum();
        write!(f, "{current} indexed, {deleted} deleted, {dead_in_all} dead-lettered {dead:?}, ")?;
        write!(f, "{repeated} dead letters repeated, {} differences", differences.len())?;
        differences.iter().take(SHOWN).try_for_each(|difference| write!(f, "\n  {difference}"))
    }
}
