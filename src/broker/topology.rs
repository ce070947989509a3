//! The exchange and queues, and their declaration.
//!
//! Producers publish to a direct exchange, or through the default exchange, into one work queue. A message whose processing
//! failed is published to a retry queue. There is one retry queue per delay, because a time-to-live acts only at the head
//! of a queue: messages with different delays in one queue would wait for each other. When the time-to-live has passed the
//! broker moves the message back to the work queue. The dead-letter queue has no consumer; `imgdex dlq` reads it. The
//! quarantine queue holds messages that were redelivered too often; they are processed one at a time.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use super::error::{Error, is_access_refusal, is_precondition_failure};
use crate::excerpt::excerpt;

/// Redeliveries before a quorum queue drops or dead-letters a message by itself: never, because the quarantine decides
/// what is poison. The largest positive value means "never" on every server. RabbitMQ 3.10 accepts -1 and then drops the
/// message at the first requeue; without the argument the limit is 20 since 4.0.
const DELIVERY_LIMIT: i64 = i32::MAX as i64;
/// Longest delay that a queue's time-to-live in milliseconds can express (an unsigned 32-bit number).
const MAX_DELAY_SECONDS: u32 = u32::MAX / 1000;
/// Longest name in AMQP.
const MAX_NAME_BYTES: usize = 255;

/// The exchange and queues that belong to one work queue.
#[derive(Clone, Debug)]
pub struct Topology {
    exchange: ShortString,
    queue: ShortString,
    dead: ShortString,
    quarantine: ShortString,
    retries: Vec<RetryTier>,
}

/// A queue in which messages wait for a fixed time before they are retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryTier {
    pub delay: Duration,
    pub queue: ShortString,
}

impl Topology {
    /// Names everything after the work queue: `QUEUE.retry.SECONDS` for each delay, `QUEUE.dead`, `QUEUE.suspects`.
    ///
    /// # Errors
    /// [`Error::Topology`] for a name or delay that the broker would refuse.
    pub fn new(exchange: &str, queue: &str, delays: &[u32]) -> Result<Self, Error> {
        if delays.is_empty() {
            return Err(Error::Topology("at least one retry delay is needed".to_owned()));
        }
        if !delays.is_sorted_by(|a, b| a < b) {
            return Err(Error::Topology(format!("retry delays must rise, these do not: {delays:?}")));
        }
        if let Some(delay) = delays.iter().find(|&&delay| delay == 0 || delay > MAX_DELAY_SECONDS) {
            return Err(Error::Topology(format!(
                "retry delay {delay} is out of range 1..={MAX_DELAY_SECONDS} seconds"
            )));
        }
        let retries = delays
            .iter()
            .map(|&seconds| {
                let queue = name(&format!("{queue}.retry.{seconds}"))?;
                Ok(RetryTier { delay: Duration::from_secs(seconds.into()), queue })
            })
            .collect::<Result<_, Error>>()?;
        let [dead, quarantine] = ["dead", "suspects"].map(|suffix| name(&format!("{queue}.{suffix}")));
        Ok(Self { exchange: name(exchange)?, queue: name(queue)?, dead: dead?, quarantine: quarantine?, retries })
    }

    /// The exchange that producers publish to, with the queue's name as routing key.
    pub(super) fn exchange(&self) -> &ShortString {
        &self.exchange
    }

    pub fn queue(&self) -> &ShortString {
        &self.queue
    }

    /// The dead-letter queue, `QUEUE.dead`.
    pub fn dead(&self) -> &ShortString {
        &self.dead
    }

    /// The queue of messages that are processed one at a time, `QUEUE.suspects`.
    pub fn quarantine(&self) -> &ShortString {
        &self.quarantine
    }

    /// The retry queues, by rising delay. Never empty.
    pub fn retries(&self) -> &[RetryTier] {
        &self.retries
    }

    /// The retry queue for a message that failed `attempts` times before. The delay rises with the attempts and is at
    /// least `after`, or the longest delay if no queue has such a long one.
    pub(super) fn retry_tier(&self, attempts: u32, after: Option<Duration>) -> &RetryTier {
        let last = self.retries.len() - 1;
        let by_attempts = last.min(attempts as usize);
        let at_least = after.unwrap_or_default();
        let by_delay = self.retries.iter().position(|tier| tier.delay >= at_least).unwrap_or(last);
        &self.retries[by_attempts.max(by_delay)]
    }

    /// Declares everything. A user who may not declare gets a check that everything exists instead.
    pub(super) async fn declare(&self, connection: &lapin::Connection) -> Result<(), Error> {
        // A refused declaration closes its channel, so it gets a channel of its own.
        let channel = connection.create_channel().await?;
        match self.declare_on(&channel, false).await {
            Ok(()) => {}
            Err(DeclareError { error, .. }) if is_access_refusal(&error) => {
                tracing::info!(%error, "this user may not declare queues; checking that they exist");
                let channel = connection.create_channel().await?;
                return Ok(self.declare_on(&channel, true).await?);
            }
            Err(failed) => return Err(failed.into()),
        }
        // A channel that does not close cleanly ends with its connection.
        let _ = channel.close(200, "declared".into()).await;
        Ok(())
    }

    async fn declare_on(&self, channel: &Channel, passive: bool) -> Result<(), DeclareError> {
        let exchange = ExchangeDeclareOptions { durable: true, passive, ..Default::default() };
        channel
            .exchange_declare(self.exchange.clone(), ExchangeKind::Direct, exchange, FieldTable::default())
            .await
            .map_err(|error| DeclareError { what: "exchange", name: self.exchange.clone(), error })?;
        let queue = QueueDeclareOptions { durable: true, passive, ..Default::default() };
        for (name, arguments) in self.queues() {
            channel.queue_declare(name.clone(), queue, arguments).await.map_err(|error| DeclareError {
                what: "queue",
                name: name.clone(),
                error,
            })?;
        }
        if !passive {
            let (queue, key) = (self.queue.clone(), self.queue.clone());
            channel
                .queue_bind(queue, self.exchange.clone(), key, QueueBindOptions::default(), FieldTable::default())
                .await
                .map_err(|error| DeclareError { what: "queue", name: self.queue.clone(), error })?;
        }
        Ok(())
    }

    /// Every queue with its arguments. Retry queues come first: when the work queue exists, so do the queues it depends on.
    fn queues(&self) -> Vec<(ShortString, FieldTable)> {
        let retries = self.retries.iter().map(|tier| (tier.queue.clone(), self.retry_arguments(tier)));
        let plain = [&self.dead, &self.quarantine, &self.queue].map(|name| (name.clone(), quorum()));
        retries.chain(plain).collect()
    }

    fn retry_arguments(&self, tier: &RetryTier) -> FieldTable {
        let mut arguments = quorum();
        let text = |text: &str| AMQPValue::LongString(text.into());
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(tier.delay.as_millis() as i64));
        arguments.insert("x-dead-letter-exchange".into(), text(""));
        arguments.insert("x-dead-letter-routing-key".into(), text(self.queue.as_str()));
        // At-least-once needs reject-publish; without it the broker silently falls back to at-most-once.
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments
    }
}

/// A declaration that failed.
struct DeclareError {
    /// `queue` or `exchange`.
    what: &'static str,
    name: ShortString,
    error: lapin::Error,
}

impl From<DeclareError> for Error {
    fn from(DeclareError { what, name, error }: DeclareError) -> Self {
        let (name, reason) = (name.to_string(), error.to_string());
        if is_precondition_failure(&error) {
            Self::Different { what, name, reason }
        } else if error.is_amqp_error() {
            Self::Declare { what, name, reason }
        } else {
            Self::Lost(reason)
        }
    }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    arguments
}

/// The number of ready messages in a queue.
pub(super) async fn message_count(channel: &Channel, queue: ShortString) -> lapin::Result<u64> {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    Ok(channel.queue_declare(queue, passive, FieldTable::default()).await?.message_count().into())
}

fn name(text: &str) -> Result<ShortString, Error> {
    if text.is_empty() || text.starts_with("amq.") {
        return Err(Error::Topology(format!("{text:?} cannot name a queue or exchange of ours")));
    }
    ShortString::try_new(text).map_err(|_| {
        let (length, start) = (text.len(), excerpt(text, 40));
        Error::Topology(format!("the name {start:?}... has {length} bytes, more than {MAX_NAME_BYTES}"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn seconds(topology: &Topology, attempts: u32, after: Option<u64>) -> u64 {
        topology.retry_tier(attempts, after.map(Duration::from_secs)).delay.as_secs()
    }

    #[test]
    fn delays_rise_with_the_attempts_and_stay_at_the_last() {
        let topology = Topology::new("imgdex", "q", &[5, 30, 120]).unwrap();
        let delays = [0, 1, 2, 3, u32::MAX].map(|attempts| seconds(&topology, attempts, None));
        assert_eq!(delays, [5, 30, 120, 120, 120]);
    }

    #[test]
    fn a_requested_delay_lengthens_the_retry_delay_up_to_the_last_tier_and_never_shortens_it() {
        let topology = Topology::new("imgdex", "q", &[5, 30, 120]).unwrap();
        assert_eq!(seconds(&topology, 0, Some(5)), 5);
        assert_eq!(seconds(&topology, 0, Some(6)), 30);
        assert_eq!(seconds(&topology, 0, Some(3600)), 120);
        assert_eq!(seconds(&topology, 2, Some(1)), 120);
    }

    #[test]
    fn names_and_delays_that_the_broker_would_refuse_are_refused_before() {
        for (exchange, queue, delays) in [
            ("imgdex", "", &[5][..]),
            ("", "q", &[5]),
            ("amq.direct", "q", &[5]),
            ("imgdex", "q", &[]),
            ("imgdex", "q", &[0]),
            ("imgdex", "q", &[30, 5]),
            ("imgdex", "q", &[5, 5]),
            ("imgdex", "q", &[u32::MAX]),
            ("imgdex", &"q".repeat(250), &[5]),
        ] {
            assert!(Topology::new(exchange, queue, delays).is_err(), "{exchange:?} {queue:?} {delays:?}");
        }
    }
}
