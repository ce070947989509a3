//! Publishes until the broker has confirmed: by the program's own publisher, or like other clients, which choose their
//! properties.

use std::time::Duration;

use imgdex::testing::broker::{Error, Publisher};
use lapin::BasicProperties;
use tokio::time::{sleep, timeout};

use crate::support::flow::Flow;
use crate::support::rabbit::Client;

/// The pause before a publisher connects again.
const RECONNECT: Duration = Duration::from_millis(500);
/// For the broker to take a connection, or to confirm a batch. One that ends may leave either open.
pub const ANSWER: Duration = Duration::from_secs(30);

/// What is published.
pub struct Message {
    pub body: String,
    /// Those of another client; without them the program's own publisher sets its timestamp.
    pub properties: Option<BasicProperties>,
}

/// The connections of a producer, and how much it published.
pub struct Sender<'a> {
    flow: &'a Flow,
    own: Option<Publisher>,
    other: Option<Client>,
    /// Different messages, each of them confirmed.
    pub messages: u64,
    /// Messages that were published again because they were not confirmed.
    pub again: u64,
}

impl<'a> Sender<'a> {
    /// Connects when there is something to publish.
    pub fn new(flow: &'a Flow) -> Self {
        Self { flow, own: None, other: None, messages: 0, again: 0 }
    }

    /// Publishes these messages, and again what was not confirmed, as a producer must. Connects again when the broker restarts.
    pub async fn send(&mut self, batch: &[Message]) {
        let (own, other): (Vec<_>, Vec<_>) = batch.iter().partition(|message| message.properties.is_none());
        while !own.is_empty() && self.send_own(&own).await.is_err() {
            // Without a publisher nothing was sent.
            self.again += self.own.take().map_or(0, |_| own.len() as u64);
            sleep(RECONNECT).await;
        }
        while !other.is_empty() && !matches!(timeout(ANSWER, self.send_other(&other)).await, Ok(Ok(()))) {
            self.again += self.other.take().map_or(0, |_| other.len() as u64);
            sleep(RECONNECT).await;
        }
        self.messages += batch.len() as u64;
    }

    async fn send_own(&mut self, batch: &[&Message]) -> Result<(), Error> {
        let publisher = match &mut self.own {
            Some(publisher) => publisher,
            none => none.insert(Publisher::connect(self.flow.rabbit.settings()).await?),
        };
        let mut refused = Vec::new();
        for message in batch {
            refused.extend(publisher.send(message.body.clone(), message.body.as_bytes()).await?);
        }
        refused.extend(publisher.flush().await?);
        refused.first().map_or(Ok(()), |refused| Err(Error::Lost(refused.reason.clone())))
    }

    async fn send_other(&mut self, batch: &[&Message]) -> Result<(), String> {
        let client = match &self.other {
            Some(client) => client,
            None => self.other.insert(self.flow.rabbit.client().await.map_err(|error| error.to_string())?),
        };
        let publish =
            |message: &&Message| (message.body.clone().into(), message.properties.clone().unwrap_or_default());
        client.publish(&self.flow.rabbit.queue, batch.iter().map(publish)).await
    }

    /// Closes the connections.
    pub async fn close(self) {
        if let Some(publisher) = self.own {
            publisher.close().await;
        }
        if let Some(client) = self.other {
            client.close().await;
        }
    }
}
