//! Dead letters, and whatever else waits in our queues: looking, putting back, removing.
//!
//! A look takes messages without acknowledging them and gives them back with `basic.nack`. A quorum queue keeps their
//! order. Brokers before 4.3 count it as a delivery, which our queues allow without a limit that could be reached.

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::time::timeout;

use super::connection::Connection;
use super::headers;
use super::{ANSWER_TIMEOUT, Error, Settings};

/// A connection for looking into the queues of a topology.
pub struct QueueBrowser {
    settings: Settings,
    connection: Connection,
    publisher: Channel,
}

/// A message that was found in a queue.
#[derive(Clone, Debug)]
pub struct QueuedMessage {
    /// The body, as published.
    pub body: Vec<u8>,
    /// The producer's properties, with the headers of [`headers`](mod@headers) beside the producer's.
    pub properties: BasicProperties,
}

/// What is to be done with a message that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It stays.
    Keep,
    /// It goes back to the work queue, as if it had never failed.
    Replay,
    /// It goes for good.
    Purge,
}

/// How far a look went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Browsed {
    /// Messages looked at.
    pub seen: u64,
    /// Messages that were in the queue when the look began and were not looked at.
    pub rest: u64,
}

impl QueueBrowser {
    /// Connects, and declares the topology where it is missing.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn connect(settings: Settings) -> Result<Self, Error> {
        let connection = settings.connect().await?;
        settings.topology.declare(&connection).await?;
        let publisher = connection.create_channel().await?;
        publisher.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { settings, connection, publisher })
    }

    /// How many messages are ready in a queue.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn count(&self, queue: &ShortString) -> Result<u64, Error> {
        let channel = self.connection.create_channel().await?;
        let waiting = waiting(&channel, queue).await?;
        channel.close(200, "counted".into()).await?;
        Ok(waiting)
    }

    /// Looks at the messages of a queue, the oldest first, at most `limit` and none that arrives meanwhile, and does with
    /// each what `decide` says; `Err` from it ends the look. A replayed message is removed only when the broker has
    /// confirmed its copy.
    ///
    /// # Errors
    /// [`Error::Lost`]; what was not decided stays where it is.
    pub async fn browse(
        &self,
        queue: &ShortString,
        limit: u64,
        mut decide: impl FnMut(&QueuedMessage) -> Disposition + Send,
    ) -> Result<Browsed, Error> {
        let channel = self.connection.create_channel().await?;
        let waiting = waiting(&channel, queue).await?;
        let mut browsed = Browsed { seen: 0, rest: waiting };
        let mut kept = None;
        while browsed.seen < waiting.min(limit) {
            // Somebody else may have taken the rest.
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
                    self.replay(&message).await?;
                    true
                }
            };
            if remove {
                channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await?;
            } else {
                kept = Some(delivery.delivery_tag);
            }
        }
        if let Some(tag) = kept {
            channel.basic_nack(tag, BasicNackOptions { multiple: true, requeue: true }).await?;
        }
        // Closing waits for the broker to have taken what was sent on the channel.
        channel.close(200, "looked".into()).await?;
        browsed.rest -= browsed.seen;
        Ok(browsed)
    }

    /// Publishes a message to the work queue with the producer's own properties, and waits for the confirm.
    async fn replay(&self, message: &QueuedMessage) -> Result<(), Error> {
        let (queue, options) =
            (self.settings.topology.queue(), BasicPublishOptions { mandatory: true, ..Default::default() });
        let properties = headers::replay_properties(&message.properties);
        let publisher = &self.publisher;
        let confirmed = timeout(ANSWER_TIMEOUT, async {
            publisher
                .basic_publish(ShortString::default(), queue.clone(), options, &message.body, properties)
                .await?
                .await
        });
        let confirmation = confirmed
            .await
            .map_err(|_| Error::Lost(format!("queue {queue} did not confirm within {ANSWER_TIMEOUT:?}")))??;
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
                Err(Error::Lost(format!("queue {queue} did not take the message")))
            }
        }
    }

    /// Closes the connection.
    pub async fn close(self) {
        // Everything is settled by now; a connection that does not close cleanly changes nothing.
        let _ = timeout(ANSWER_TIMEOUT, self.connection.close(200, "done".into())).await;
    }
}

async fn waiting(channel: &Channel, queue: &ShortString) -> Result<u64, Error> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let found = channel.queue_declare(queue.clone(), options, FieldTable::default()).await?;
    Ok(found.message_count().into())
}

impl QueuedMessage {
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
