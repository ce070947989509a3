//! Confirmed publishing, and what a publisher confirm means.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};

/// What became of a message that was published `mandatory` on a channel in confirm mode.
pub(super) enum PublishOutcome {
    /// `basic.ack` alone: the message is stored in every queue that it was routed to.
    Accepted,
    /// `basic.nack`: the queue exists and refuses the message, most often because it has reached its length limit and
    /// overflows with `reject-publish`. Publishing again can succeed.
    Refused,
    /// `basic.return`: no queue is bound for the routing key, or the queue does not exist. The broker acknowledges such a
    /// message nevertheless, so an ack by itself does not mean that the message is stored.
    ///
    /// The returned message may belong to another confirm of the same channel: the broker may confirm several messages at
    /// once, and the client library then pairs a return with any of them. `body` tells which message it is.
    Unroutable { reply_text: ShortString, body: Vec<u8> },
    /// The channel is not in confirm mode: the outcome is unknown.
    Unknown,
}

impl From<Confirmation> for PublishOutcome {
    fn from(confirmation: Confirmation) -> Self {
        match confirmation {
            Confirmation::Ack(None) => Self::Accepted,
            Confirmation::Nack(None) => Self::Refused,
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                Self::Unroutable { reply_text: returned.reply_text, body: returned.delivery.data }
            }
            Confirmation::NotRequested => Self::Unknown,
        }
    }
}

/// A channel in confirm mode.
pub(super) async fn confirming_channel(connection: &lapin::Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// The options of every publish: without `mandatory` the broker drops an unroutable message and acknowledges it.
pub(super) fn mandatory() -> BasicPublishOptions {
    BasicPublishOptions { mandatory: true, ..Default::default() }
}

/// Publishes to one queue through the default exchange, and waits for the confirm.
pub(super) async fn publish_to_queue(
    channel: &Channel,
    queue: &ShortString,
    body: &[u8],
    properties: &BasicProperties,
) -> lapin::Result<PublishOutcome> {
    let exchange = ShortString::default();
    let confirm = channel.basic_publish(exchange, queue.clone(), mandatory(), body, properties.clone()).await?;
    Ok(confirm.await?.into())
}
