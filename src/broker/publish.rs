//! The producer's side: confirmed, mandatory, pipelined.

use std::collections::VecDeque;

use lapin::{BasicProperties, Channel, PublisherConfirm};
use tokio::time::timeout;

use super::confirm::{PublishOutcome, mandatory};
use super::connection::{ANSWER_TIMEOUT, Connection, Settings};
use super::error::Error;
use super::headers::PERSISTENT;
use crate::clock::now_ms;

/// Messages that are sent and not yet confirmed: enough to hide a confirm's round trip and disk write.
const WINDOW: usize = 256;

/// Publishes messages to the work queue through the exchange.
pub struct Publisher {
    settings: Settings,
    connection: Connection,
    channel: Channel,
    /// Sent and not yet confirmed, under the caller's names; oldest first.
    window: VecDeque<(String, PublisherConfirm)>,
    accepted: u64,
}

/// A message that no queue accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The caller's name for it, or its body where the broker returned it.
    pub name: String,
    pub reason: String,
}

impl Publisher {
    /// Connects and declares the topology, so that the queue exists before the first message.
    pub async fn connect(settings: Settings) -> Result<Self, Error> {
        let (connection, channel) = settings.connect_to_publish().await?;
        Ok(Self { settings, connection, channel, window: VecDeque::new(), accepted: 0 })
    }

    /// Sends one message. While the window is full, first waits for the oldest confirm, and returns that message if it was
    /// refused.
    ///
    /// # Errors
    /// [`Error::Lost`]: messages that were sent and not confirmed may or may not have arrived.
    pub async fn send(&mut self, name: String, body: &[u8]) -> Result<Option<Refused>, Error> {
        let refused = if self.window.len() == WINDOW { self.confirm_oldest().await? } else { None };
        let (exchange, queue) = (self.settings.topology.exchange(), self.settings.topology.queue());
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_timestamp(now_ms() / 1000);
        let confirm =
            self.channel.basic_publish(exchange.clone(), queue.clone(), mandatory(), body, properties).await?;
        self.window.push_back((name, confirm));
        Ok(refused)
    }

    /// Waits until every message is confirmed, and returns the refused ones.
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

    /// How many messages were accepted; final after [`Self::flush`].
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.connection.close_settled().await;
    }

    async fn confirm_oldest(&mut self) -> Result<Option<Refused>, Error> {
        let Some((name, confirm)) = self.window.pop_front() else { return Ok(None) };
        let confirmation = match timeout(ANSWER_TIMEOUT, confirm).await {
            Ok(result) => result?,
            Err(_) => return Err(Error::Lost(format!("{name}: not confirmed within {ANSWER_TIMEOUT:?}"))),
        };
        match confirmation.into() {
            PublishOutcome::Accepted => {
                self.accepted += 1;
                Ok(None)
            }
            PublishOutcome::Refused => Ok(Some(Refused { name, reason: "the broker refused it".to_owned() })),
            // The body names the message, because the return may be another one's. The count is right either way.
            PublishOutcome::Unroutable { reply_text, body } => Ok(Some(Refused {
                name: String::from_utf8_lossy(&body).into_owned(),
                reason: format!("no queue took it: {reply_text}"),
            })),
            PublishOutcome::Unknown => Err(Error::Lost("the channel has no confirms".to_owned())),
        }
    }
}
