//! What is published: images of good and bad hosts, in several versions and in any order, and messages that must be
//! dead-lettered.

use std::cell::RefCell;
use std::time::Duration;

use fastrand::Rng;
use imgdex::testing::broker::Error;
use imgdex::testing::broker::Publisher;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::support::accounting::Ledger;
use crate::support::flow::Flow;
use crate::support::images::Images;

/// Messages in one batch, and the time between batches: 20 messages a second.
const BATCH: usize = 10;
const INTERVAL: Duration = Duration::from_millis(500);
/// Messages among which the next is drawn: versions of an image overtake each other within the pool.
const POOL: usize = 60;
/// The pause before a publisher connects again.
const RECONNECT: Duration = Duration::from_millis(500);

/// How much was published.
#[derive(Default)]
pub struct Load {
    /// Different messages, each of them confirmed.
    pub messages: u64,
    /// Messages that were published again because they were not confirmed.
    pub again: u64,
}

/// A message, and its expected outcome.
struct Message {
    body: String,
    expected: Expected,
}

enum Expected {
    /// A version of an image; without a URL its deletion.
    Image { id: String, version: u64, url: Option<String> },
    /// A dead letter.
    Broken(&'static str),
}

/// Draws messages.
struct Source<'a> {
    rng: Rng,
    images: &'a Images,
    pool: Vec<Message>,
    /// Numbers of ids and URLs.
    next: u64,
}

/// Publishes until this moment, and connects again when the broker restarts.
pub async fn publish(flow: &Flow, rng: Rng, ledger: &RefCell<Ledger>, until: Instant) -> Load {
    let mut source = Source { rng, images: &flow.images, pool: Vec::new(), next: 0 };
    let mut load = Load::default();
    let mut publisher = None;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while ticks.tick().await < until {
        let batch: Vec<_> = (0..BATCH).map(|_| source.draw()).collect();
        for message in &batch {
            message.record(&mut ledger.borrow_mut());
        }
        // A producer must publish again what is not confirmed.
        while send(flow, &mut publisher, &batch).await.is_err() {
            // Without a publisher nothing was sent.
            load.again += publisher.take().map_or(0, |_| BATCH as u64);
            sleep(RECONNECT).await;
        }
        load.messages += BATCH as u64;
    }
    if let Some(publisher) = publisher {
        publisher.close().await;
    }
    load
}

async fn send(flow: &Flow, publisher: &mut Option<Publisher>, batch: &[Message]) -> Result<(), Error> {
    let publisher = match publisher {
        Some(publisher) => publisher,
        none => none.insert(Publisher::connect(flow.rabbit.settings()).await?),
    };
    let mut refused = Vec::new();
    for message in batch {
        refused.extend(publisher.send(message.body.clone(), message.body.as_bytes()).await?);
    }
    refused.extend(publisher.flush().await?);
    refused.first().map_or(Ok(()), |refused| Err(Error::Lost(refused.reason.clone())))
}

impl Message {
    fn record(&self, ledger: &mut Ledger) {
        match &self.expected {
            Expected::Image { id, version, url } => ledger.image(id, *version, url.as_deref()),
            Expected::Broken(reason) => ledger.broken(&self.body, reason),
        }
    }
}

impl Source<'_> {
    /// The next message.
    fn draw(&mut self) -> Message {
        while self.pool.len() < POOL {
            match self.rng.u32(0..100) {
                0..20 => self.broken(),
                20..60 => self.versions(1, false),
                kind => {
                    let versions = self.rng.u64(2..=5);
                    self.versions(versions, kind < 75);
                }
            }
        }
        self.pool.swap_remove(self.rng.usize(0..self.pool.len()))
    }

    /// The versions of one image. One of them may be a deletion.
    fn versions(&mut self, count: u64, deleted: bool) {
        let id = format!("image-{}", self.number());
        let deletion = deleted.then(|| self.rng.u64(1..=count));
        for version in 1..=count {
            let kind = ["good", "good", "good", "good", "slow", "busy", "reset"][self.rng.usize(0..7)];
            let url = (deletion != Some(version)).then(|| self.url(kind));
            let body = match &url {
                Some(url) => json!({"id": id, "version": version, "url": url}),
                None => json!({"id": id, "version": version, "op": "delete"}),
            };
            self.pool
                .push(Message { body: body.to_string(), expected: Expected::Image { id: id.clone(), version, url } });
        }
    }

    fn broken(&mut self) {
        let number = self.number();
        let (body, reason) = match self.rng.u32(0..5) {
            0 => (format!(r#"{{"id": "image-{number}", "url": "#), "invalid_message"),
            1 => (format!("http://10.0.0.1/{number}.png"), "refused_address"),
            2 => (self.url("text"), "not_an_image"),
            3 => (self.url("half"), "malformed_image"),
            _ => (self.url("missing"), "host_refused"),
        };
        self.pool.push(Message { body, expected: Expected::Broken(reason) });
    }

    /// A URL that no other message has.
    fn url(&mut self, kind: &str) -> String {
        let number = self.number();
        self.images.url(&format!("/{kind}/{number}"))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}
