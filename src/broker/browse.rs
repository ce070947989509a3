//! Reads the messages of a queue, and keeps, replays or removes each of them.
//!
//! Browsing takes messages without acknowledging them and requeues them with `basic.nack`. A quorum queue keeps their
//! order. Brokers before 4.3 count it as a delivery, which our queues allow without a limit that could be reached.

use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::{AMQPValue, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::time::timeout;

use super::confirm::{PublishOutcome, publish_to_queue};
use super::connection::{ANSWER_TIMEOUT, Connection, Settings};
use super::error::Error;
use super::headers;
use super::topology::message_count;
use crate::clock::now_ms;

/// A connection for browsing the queues of a topology.
pub struct QueueBrowser {
    settings: Settings,
    connection: Connection,
    publisher: Channel,
}

/// A message that was read from a queue.
#[derive(Clone, Debug)]
pub struct QueuedMessage {
    /// The body, as published.
    pub body: Vec<u8>,
    /// The producer's properties, with the headers of [`headers`](mod@headers) beside the producer's.
    pub properties: BasicProperties,
}

/// What happens to a message that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It stays in its queue.
    Keep,
    /// It goes back to the work queue without its history of failures.
    Replay,
    /// The same, and its age counts from now on.
    Readmit,
    /// It is removed.
    Purge,
}

/// How many messages were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Browsed {
    /// Messages read.
    pub seen: u64,
    /// Messages that were in the queue at the start and were not read.
    pub rest: u64,
}

impl QueueBrowser {
    /// Connects, and declares the topology.
    pub async fn connect(settings: Settings) -> Result<Self, Error> {
        let (connection, publisher) = settings.connect_to_publish().await?;
        Ok(Self { settings, connection, publisher })
    }

    /// How many messages of a queue are ready.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn count(&self, queue: &ShortString) -> Result<u64, Error> {
        let channel = self.connection.create_channel().await?;
        let ready = message_count(&channel, queue.clone()).await?;
        channel.close(200, "counted".into()).await?;
        Ok(ready)
    }

    /// Reads the messages of a queue, the oldest first, and does with each what `decide` returns. Reads at most `limit`,
    /// and none that arrives after the start. A replayed message is removed only after the broker has confirmed its copy.
    ///
    /// # Errors
    /// [`Error::Lost`]. Messages that were not decided stay in the queue.
    pub async fn browse(
        &self,
        queue: &ShortString,
        limit: u64,
        mut decide: impl FnMut(&QueuedMessage) -> Disposition + Send,
    ) -> Result<Browsed, Error> {
        let channel = self.connection.create_channel().await?;
        let ready = message_count(&channel, queue.clone()).await?;
        let mut browsed = Browsed { seen: 0, rest: ready };
        let mut last_kept = None;
        while browsed.seen < ready.min(limit) {
            // Another client may have taken the remaining ones.
            let Some(BasicGetMessage { delivery, .. }) =
                channel.basic_get(queue.clone(), BasicGetOptions::default()).await?
            else {
                browsed.rest = browsed.seen;
                break;
            };
            browsed.seen += 1;
            let message = QueuedMessage { body: delivery.data, properties: delivery.properties };
            let remove = match decide(&message) {
                Disposition::Keep => false,
                Disposition::Purge => true,
                Disposition::Replay => {
                    self.replay(&message, None).await?;
                    true
                }
                Disposition::Readmit => {
                    self.replay(&message, Some(now_ms())).await?;
                    true
                }
            };
            if remove {
                channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
            } else {
                last_kept = Some(delivery.delivery_tag);
            }
        }
        if let Some(tag) = last_kept {
            channel.basic_nack(tag, BasicNackOptions { multiple: true, requeue: true }).await?;
        }
        // The close completes after the broker has processed everything that was sent on the channel.
        channel.close(200, "browsed".into()).await?;
        browsed.rest -= browsed.seen;
        Ok(browsed)
    }

    /// Publishes a message to the work queue with the producer's own properties, and waits for the confirm.
    async fn replay(&self, message: &QueuedMessage, readmitted_ms: Option<u64>) -> Result<(), Error> {
        let queue = self.settings.topology.queue();
        let properties = headers::replay_properties(&message.properties, readmitted_ms);
        let publishing = publish_to_queue(&self.publisher, queue, &message.body, &properties);
        match timeout(ANSWER_TIMEOUT, publishing).await {
            Ok(Ok(PublishOutcome::Accepted)) => Ok(()),
            Ok(Ok(PublishOutcome::Refused | PublishOutcome::Unroutable { .. } | PublishOutcome::Unknown)) => {
                Err(Error::Lost(format!("queue {queue} did not take the message")))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::Lost(format!("queue {queue} did not confirm within {ANSWER_TIMEOUT:?}"))),
        }
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.connection.close_settled().await;
    }
}

impl QueuedMessage {
    /// When it was published, in ms since the epoch, where the broker or the producer has set that.
    pub fn published_ms(&self) -> Option<u64> {
        headers::published_ms(&self.properties)
    }

    /// One of the headers of [`headers`](mod@headers), as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let value = self.properties.headers().as_ref()?.inner().get(name)?;
        match value {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            AMQPValue::Boolean(flag) => Some(flag.to_string()),
            other => headers::number(other).map(|number| number.to_string()),
        }
    }
}
