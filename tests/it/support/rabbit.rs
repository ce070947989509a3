//! The real RabbitMQ of the tests, and queues in it that no other test uses.

use std::sync::atomic::{AtomicU32, Ordering};

use imgdex::testing::broker::Publisher;
use imgdex::testing::broker::Settings;
use imgdex::testing::broker::Topology;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm};
use reqwest::{Method, Response};
use serde_json::Value;

use super::poll;

/// The broker's address.
pub fn url() -> String {
    std::env::var("IMGDEX_TEST_AMQP_URL")
        .expect("IMGDEX_TEST_AMQP_URL is not set: run `make test`, which starts a RabbitMQ, or point it at one")
}

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.unwrap()
}

/// Another client than the program, on a connection of its own. It chooses its properties.
pub struct Client {
    connection: Connection,
    channel: Channel,
}

impl Client {
    /// Publishes to a queue, and waits until the broker has confirmed every message.
    pub async fn publish(
        &self,
        queue: &str,
        messages: impl Iterator<Item = (Vec<u8>, BasicProperties)>,
    ) -> Result<(), String> {
        let text = |error: lapin::Error| error.to_string();
        let mut sent = Vec::new();
        for (body, properties) in messages {
            sent.push(send(&self.channel, queue, &body, properties).await.map_err(text)?);
        }
        for confirm in sent {
            match confirm.await.map_err(text)? {
                Confirmation::Ack(None) => {}
                other => return Err(format!("{queue} took no message: {other:?}")),
            }
        }
        Ok(())
    }

    /// Takes all ready messages out of a queue. Those that were handed over may come again when there is an error.
    pub async fn take(&self, queue: &str, mut taken: impl FnMut(Delivery)) -> lapin::Result<()> {
        while let Some(message) = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await? {
            let acker = message.delivery.acker.clone();
            taken(message.delivery);
            acker.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    /// Closes the connection.
    pub async fn close(self) {
        let _ = self.connection.close(200, "done".into()).await;
    }
}

/// Publishes to a queue through the default exchange.
async fn send(
    channel: &Channel,
    queue: &str,
    body: &[u8],
    properties: BasicProperties,
) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    channel.basic_publish("".into(), queue.into(), options, body, properties.with_delivery_mode(2)).await
}

/// An exchange and its queues, deleted when the test ends, and a connection beside the code under test.
pub struct Rabbit {
    connection: Connection,
    /// The broker's address.
    pub url: String,
    /// The address for the program, where it is another one: of a relay, of another user.
    pub given: Option<String>,
    /// The exchange.
    pub exchange: String,
    /// The work queue.
    pub queue: String,
    delays: Vec<u32>,
}

impl Rabbit {
    /// Names only; nothing is declared. Retry delays are in seconds.
    pub async fn new(delays: &[u32]) -> Self {
        Self::new_at(&url(), delays).await
    }

    async fn new_at(url: &str, delays: &[u32]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed), fastrand::u32(..));
        let queue = format!("test-{}-{}-{:x}", unique.0, unique.1, unique.2);
        Self {
            connection: connect(url).await,
            url: url.to_owned(),
            given: None,
            exchange: format!("{queue}.exchange"),
            queue,
            delays: delays.to_vec(),
        }
    }

    /// Declared by the code under test.
    pub async fn declared(delays: &[u32]) -> Self {
        Self::declared_at(&url(), delays).await
    }

    /// The same, in any broker.
    pub async fn declared_at(url: &str, delays: &[u32]) -> Self {
        let rabbit = Self::new_at(url, delays).await;
        rabbit.declare().await;
        rabbit
    }

    /// Declares what is missing.
    pub async fn declare(&self) {
        Publisher::connect(self.settings()).await.unwrap().close().await;
    }

    /// The dead-letter queue.
    pub fn dead(&self) -> String {
        format!("{}.dead", self.queue)
    }

    /// A retry queue.
    pub fn retry(&self, seconds: u32) -> String {
        format!("{}.retry.{seconds}", self.queue)
    }

    /// The queue of messages that are processed alone.
    pub fn suspects(&self) -> String {
        format!("{}.suspects", self.queue)
    }

    /// All queues.
    pub fn queues(&self) -> Vec<String> {
        let retries = self.delays.iter().map(|&seconds| self.retry(seconds));
        retries.chain([self.dead(), self.suspects(), self.queue.clone()]).collect()
    }

    /// Settings for the library.
    pub fn settings(&self) -> Settings {
        Settings {
            address: self.url.as_str().into(),
            ca: None,
            topology: Topology::new(&self.exchange, &self.queue, &self.delays).unwrap(),
            connection_name: self.queue.clone(),
        }
    }

    /// Flags for the command line.
    pub fn flags(&self) -> Vec<String> {
        let delays: Vec<_> = self.delays.iter().map(u32::to_string).collect();
        let url = self.given.as_ref().unwrap_or(&self.url);
        let flags = ["--amqp", url, "--queue", &self.queue, "--exchange", &self.exchange];
        let delays = ["--retry-delays", &delays.join(",")].map(ToOwned::to_owned);
        flags.map(ToOwned::to_owned).into_iter().chain(delays).collect()
    }

    /// A new channel, since the broker closes a channel when it refuses a method.
    pub async fn channel(&self) -> Channel {
        self.connection.create_channel().await.unwrap()
    }

    /// Connects again, after a restart of the broker.
    pub async fn reconnect(&mut self) {
        self.connection = connect(&self.url).await;
    }

    /// A client with a connection of its own, which fails when the broker ends.
    pub async fn client(&self) -> lapin::Result<Client> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Client { connection, channel })
    }

    /// Publishes to the work queue through the default exchange.
    pub async fn publish_with(&self, body: &[u8], properties: BasicProperties) {
        let channel = self.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let confirm = send(&channel, &self.queue, body, properties).await;
        assert_eq!(confirm.unwrap().await.unwrap(), Confirmation::Ack(None), "{} took no message", self.queue);
        channel.close(200, "done".into()).await.unwrap();
    }

    /// The same, without properties.
    pub async fn publish(&self, body: &str) {
        self.publish_with(body.as_bytes(), BasicProperties::default()).await;
    }

    /// How many messages of a queue are ready for a consumer.
    pub async fn ready(&self, queue: &str) -> u32 {
        let channel = self.channel().await;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        queue.message_count()
    }

    /// Waits until this many messages of a queue are ready for a consumer.
    pub async fn until_ready(&self, queue: &str, expected: u32) {
        poll::until_equal(&format!("ready messages in {queue}"), expected, async || self.ready(queue).await).await;
    }

    /// Takes a message out of a queue.
    pub async fn take(&self, queue: &str) -> Option<Delivery> {
        let channel = self.channel().await;
        let message = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap()?.delivery;
        message.acker.ack(BasicAckOptions::default()).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
        Some(message)
    }

    /// Takes this many messages out of a queue, and checks that there are no more.
    pub async fn take_all(&self, queue: &str, expected: u32) -> Vec<Delivery> {
        self.until_ready(queue, expected).await;
        let messages = self.drain(queue).await;
        assert_eq!(messages.len(), expected as usize, "messages in {queue}");
        messages
    }

    /// Checks that the work queue is empty. A message that is published after a consumer has closed comes after those that
    /// this consumer requeued.
    pub async fn assert_nothing_left(&self) {
        const MARKER: &str = "marker";
        self.publish(MARKER).await;
        let left: Vec<_> = self.drain(&self.queue).await.iter().map(body).collect();
        assert_eq!(left, [MARKER]);
    }

    /// Takes all ready messages out of a queue.
    pub async fn drain(&self, queue: &str) -> Vec<Delivery> {
        let channel = self.channel().await;
        let mut messages = Vec::new();
        while let Some(message) = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap() {
            message.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
            messages.push(message.delivery);
        }
        channel.close(200, "done".into()).await.unwrap();
        messages
    }

    /// Deletes a queue with its messages.
    pub async fn delete(&self, queue: &str) {
        let channel = self.channel().await;
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
        channel.close(200, "done".into()).await.unwrap();
    }

    /// An object of the management plugin's API; `None` where the tests have no plugin.
    pub async fn management(path: &str) -> Option<Value> {
        let answer = management(Method::GET, path).await?;
        assert_eq!(answer.status(), 200, "{path}");
        Some(serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }

    /// Closes the connection that consumes from the work queue; `false` where the tests have no management plugin.
    pub async fn close_connection(&self) -> bool {
        let path = format!("queues/%2F/{}", self.queue);
        if Self::management(&path).await.is_none() {
            return false;
        }
        // The plugin learns of consumers with a delay.
        poll::until("a connection is closed", async || {
            let queue = Self::management(&path).await.unwrap();
            for consumer in queue["consumer_details"].as_array().into_iter().flatten() {
                let Some(name) = consumer["channel_details"]["connection_name"].as_str() else { continue };
                let name = name.replace(' ', "%20").replace('>', "%3E");
                let answer = management(Method::DELETE, &format!("connections/{name}")).await.unwrap();
                if answer.status() == 204 {
                    return Ok(());
                }
            }
            Err(queue["consumer_details"].to_string())
        })
        .await;
        true
    }
}

async fn management(method: Method, path: &str) -> Option<Response> {
    let base = std::env::var("IMGDEX_TEST_MANAGEMENT_URL").ok().filter(|url| !url.is_empty())?;
    let url = format!("{}/api/{path}", base.trim_end_matches('/'));
    let request = reqwest::Client::new().request(method, url).basic_auth("guest", Some("guest"));
    Some(request.send().await.unwrap())
}

impl Drop for Rabbit {
    /// On a thread of its own, because the runtime of the test may be ending.
    fn drop(&mut self) {
        let (url, queues, exchange) = (self.url.clone(), self.queues(), self.exchange.clone());
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let connection = connect(&url).await;
                for queue in queues {
                    let channel = connection.create_channel().await.unwrap();
                    let _ = channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await;
                }
                let channel = connection.create_channel().await.unwrap();
                let _ = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await;
                let _ = connection.close(200, "done".into()).await;
            });
        });
        // A failed cleaning must not hide the test's own failure.
        let _ = cleaning.join();
    }
}

/// A message's body as text.
pub fn body(message: &Delivery) -> String {
    String::from_utf8_lossy(&message.data).into_owned()
}

/// A header of a message.
pub fn header(properties: &BasicProperties, name: &str) -> Option<AMQPValue> {
    properties.headers().as_ref()?.inner().get(name).cloned()
}

/// A header that holds text.
pub fn text_header(properties: &BasicProperties, name: &str) -> Option<String> {
    match header(properties, name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        other => panic!("{name} is {other:?}, not text"),
    }
}

/// A header that holds a number.
pub fn number_header(properties: &BasicProperties, name: &str) -> Option<i64> {
    match header(properties, name)? {
        AMQPValue::LongLongInt(number) => Some(number),
        other => panic!("{name} is {other:?}, not a number"),
    }
}
