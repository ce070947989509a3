//! What is published: images of good and bad hosts, in several versions and in any order, and messages that must be
//! dead-lettered. Versions are said by the message, by the broker, by the client's clock, or by nothing.

use std::cell::RefCell;
use std::time::Duration;

use fastrand::Rng;
use imgdex::testing::now_ms;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::sender::{Message, Sender};
use crate::support::accounting::Ledger;
use crate::support::flow::Flow;
use crate::support::images::Images;

/// Messages in one batch, and the time between batches: 20 messages a second.
const BATCH: usize = 10;
const INTERVAL: Duration = Duration::from_millis(500);
/// Messages among which the next is drawn: versions of an image overtake each other within the pool.
const POOL: usize = 60;
/// The seconds since messages that are older than deletions are remembered: 40 days.
const EXPIRED: u64 = 40 * 24 * 3600;

/// The expected outcome of a message.
enum Expected {
    /// A version of an image; without a URL its deletion.
    Image { id: String, version: u64, url: Option<String> },
    /// The only message about an image, of no known version.
    WithoutOrder { id: String, url: String },
    /// A dead letter.
    Broken(&'static str),
}

/// What says which message about an image is newer. The versions of an image are counted in steps.
#[derive(Clone, Copy)]
enum Order {
    /// The message.
    Version,
    /// The broker, which sets a header when it takes a message; from this millisecond on.
    Broker(u64),
    /// The client's timestamp, in seconds or in milliseconds, as clients do; from this second on.
    Client(u64),
}

/// Draws messages.
struct Source<'a> {
    rng: Rng,
    images: &'a Images,
    pool: Vec<(Message, Expected)>,
    /// Numbers of ids and URLs.
    next: u64,
}

/// Publishes until this moment. Returns the numbers of messages, and of those that were published again.
pub async fn publish(flow: &Flow, rng: Rng, ledger: &RefCell<Ledger>, until: Instant) -> (u64, u64) {
    let mut source = Source { rng, images: &flow.images, pool: Vec::new(), next: 0 };
    let mut sender = Sender::new(flow);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while ticks.tick().await < until {
        let (batch, expected): (Vec<_>, Vec<_>) = (0..BATCH).map(|_| source.draw()).unzip();
        for (message, expected) in batch.iter().zip(&expected) {
            expected.record(message, &mut ledger.borrow_mut());
        }
        sender.send(&batch).await;
    }
    let sent = (sender.messages, sender.again);
    sender.close().await;
    sent
}

impl Expected {
    fn record(&self, message: &Message, ledger: &mut Ledger) {
        match self {
            Self::Image { id, version, url } => ledger.image(id, *version, url.as_deref()),
            Self::WithoutOrder { id, url } => ledger.image_without_order(id, url),
            Self::Broken(reason) => ledger.broken(&message.body, reason),
        }
    }
}

impl Source<'_> {
    /// The next message.
    fn draw(&mut self) -> (Message, Expected) {
        while self.pool.len() < POOL {
            match self.rng.u32(0..100) {
                0..18 => self.broken(),
                18..26 => self.without_order(),
                26..55 => self.versions(1, false),
                kind => {
                    let versions = self.rng.u64(2..=5);
                    self.versions(versions, kind < 85);
                }
            }
        }
        self.pool.swap_remove(self.rng.usize(0..self.pool.len()))
    }

    /// The versions of one image, some of them twice. A deletion is one of them, or has the version of one of them.
    fn versions(&mut self, count: u64, deleted: bool) {
        let id = format!("image-{}", self.number());
        let order = match self.rng.u32(0..5) {
            0..3 => Order::Version,
            3 => Order::Broker(now_ms()),
            _ => Order::Client(now_ms() / 1000),
        };
        let deletion = deleted.then(|| self.rng.u64(1..=count));
        let of_equal_version = self.rng.bool();
        for step in 1..=count {
            if deletion == Some(step) {
                self.about(&id, order, step, None);
                if !of_equal_version {
                    continue;
                }
            }
            let kind = ["good", "good", "good", "good", "slow", "busy", "reset"][self.rng.usize(0..7)];
            let url = self.url(kind);
            for _ in 0..if self.rng.u32(0..5) == 0 { 2 } else { 1 } {
                self.about(&id, order, step, Some(&url));
            }
        }
    }

    /// A message about an image; without a URL its deletion.
    fn about(&mut self, id: &str, order: Order, step: u64, url: Option<&str>) {
        let mut body = match url {
            Some(url) => json!({"id": id, "url": url}),
            None => json!({"id": id, "op": "delete"}),
        };
        let (version, properties) = match order {
            Order::Version => {
                body["version"] = step.into();
                (step, None)
            }
            Order::Broker(ms) => {
                let mut headers = FieldTable::default();
                let stamp = i64::try_from(ms + step).unwrap();
                headers.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(stamp));
                // The client's clock says something else, which does not count.
                let clock = ms / 1000 - self.rng.u64(0..3600);
                (ms + step, Some(BasicProperties::default().with_headers(headers).with_timestamp(clock)))
            }
            Order::Client(seconds) => {
                let seconds = seconds + step;
                let timestamp = if self.rng.bool() { seconds } else { seconds * 1000 };
                (seconds * 1000, Some(BasicProperties::default().with_timestamp(timestamp)))
            }
        };
        let expected = Expected::Image { id: id.to_owned(), version, url: url.map(ToOwned::to_owned) };
        self.pool.push((Message { body: body.to_string(), properties }, expected));
    }

    /// An image of which nothing says the version. Its deletion, which nothing orders either, must not be done.
    fn without_order(&mut self) {
        let kind = ["good", "slow", "busy"][self.rng.usize(0..3)];
        let (id, url) = (format!("image-{}", self.number()), self.url(kind));
        let mut push = |body: serde_json::Value, expected| {
            let properties = Some(BasicProperties::default());
            self.pool.push((Message { body: body.to_string(), properties }, expected));
        };
        if self.rng.bool() {
            push(json!({"id": id, "op": "delete"}), Expected::Broken("invalid_message"));
        }
        push(json!({"id": id, "url": url}), Expected::WithoutOrder { id, url });
    }

    fn broken(&mut self) {
        let number = self.number();
        let (mut properties, id) = (None, format!("image-{number}"));
        let (body, reason) = match self.rng.u32(0..7) {
            0 => (format!(r#"{{"id": "{id}", "url": "#), "invalid_message"),
            1 => (format!("http://10.0.0.1/{number}.png"), "refused_address"),
            2 => (self.url("text"), "not_an_image"),
            3 => (self.url("half"), "malformed_image"),
            4 => (self.url("missing"), "host_refused"),
            5 => {
                properties = Some(BasicProperties::default());
                (json!({"id": id, "op": "delete"}).to_string(), "invalid_message")
            }
            _ => {
                properties = Some(BasicProperties::default().with_timestamp(now_ms() / 1000 - EXPIRED));
                (json!({"id": id, "url": self.url("good")}).to_string(), "expired")
            }
        };
        self.pool.push((Message { body, properties }, Expected::Broken(reason)));
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
