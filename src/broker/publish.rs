//! The producer's side: confirmed, mandatory, pipelined.

use std::collections::VecDeque;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::time::timeout;

use super::connection::Connection;
use super::{ANSWER_TIMEOUT, Error, Settings};
use crate::clock::now_ms;

/// Messages on their way to the broker and not yet confirmed: enough to hide a confirm's round trip and disk write.
const WINDOW: usize = 256;
/// Persistent: the message survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// Publishes messages to the work queue through the exchange.
pub struct Publisher {
    settings: Settings,
    connection: Connection,
    channel: Channel,
    /// What is sent and not yet confirmed, by the caller's names; oldest first.
    window: VecDeque<(String, PublisherConfirm)>,
    accepted: u64,
}

/// A message that no queue took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The caller's name for it, or its body where the broker sent it back.
    pub name: String,
    /// The broker's reason.
    pub reason: String,
}

impl Publisher {
    /// Connects and declares the topology, so that nothing is published to nowhere.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn connect(settings: Settings) -> Result<Self, Error> {
        let connection = settings.connect().await?;
        settings.topology.declare(&connection).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { settings, connection, channel, window: VecDeque::new(), accepted: 0 })
    }

    /// Sends one message. Where too many are not confirmed, waits for the oldest of them, and returns it if it was
    /// refused.
    ///
    /// # Errors
    /// [`Error::Lost`]: what was sent and not confirmed may or may not have arrived.
    pub async fn send(&mut self, name: String, body: &[u8]) -> Result<Option<Refused>, Error> {
        let refused = if self.window.len() == WINDOW { self.confirm_oldest().await? } else { None };
        let topology = &self.settings.topology;
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_timestamp(now_ms() / 1000);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let confirm = self
            .channel
            .basic_publish(topology.exchange().clone(), topology.queue().clone(), options, body, properties)
            .await?;
        self.window.push_back((name, confirm));
        Ok(refused)
    }

    /// Waits for everything sent to be confirmed, and returns what was refused.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn flush(&mut self) -> Result<Vec<Refused>, Error> {
        let mut refused = Vec::new();
        while !self.window.is_empty() {
            refused.extend(self.confirm_oldest().await?);
        }
        Ok(refused)
    }

    /// How many messages a queue took; final after [`Self::flush`].
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Closes the connection.
    pub async fn close(self) {
        // Everything is confirmed by now; a connection that does not close cleanly changes nothing.
        let _ = timeout(ANSWER_TIMEOUT, self.connection.close(200, "done".into())).await;
    }

    async fn confirm_oldest(&mut self) -> Result<Option<Refused>, Error> {
        let Some((name, confirm)) = self.window.pop_front() else { return Ok(None) };
        let confirmation = match timeout(ANSWER_TIMEOUT, confirm).await {
            Ok(result) => result?,
            Err(_) => return Err(Error::Lost(format!("{name}: not confirmed within {ANSWER_TIMEOUT:?}"))),
        };
        match confirmation {
            Confirmation::Ack(None) => {
                self.accepted += 1;
                Ok(None)
            }
            Confirmation::Nack(None) => Ok(Some(Refused { name, reason: "the broker refused it".to_owned() })),
            // The broker may confirm several messages at once, and the client library then hands a returned one out
            // with another's confirm: its body says which one it is, and the count comes out the same.
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => Ok(Some(Refused {
                name: String::from_utf8_lossy(&returned.data).into_owned(),
                reason: format!("no queue took it: {}", returned.reply_text),
            })),
            Confirmation::NotRequested => Err(Error::Lost("the channel has no confirms".to_owned())),
        }
    }
}
