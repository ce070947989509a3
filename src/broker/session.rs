//! What the receipts of one session share: whether it lives, why it ended, and publishing to our own queues.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::connection::Connection;
use super::topology::Topology;
use super::{ANSWER_TIMEOUT, Error};
use crate::backpressure::backoff::Backoff;
use crate::metrics::Metrics;

/// Bounds of the delay before a message that a queue refused is offered again.
const REPUBLISH_DELAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How long the end of a session may be why messages were taken back: they are at the head of the queue then, and in hand
/// again soon.
const LOSS_AFFECTS_COUNTS: Duration = Duration::from_mins(10);

/// Why a session ended.
#[derive(Debug)]
pub enum End {
    /// There was no connection.
    Connect(Error),
    /// The exchange and queues could not be declared.
    Topology(Error),
    /// The connection or a channel was lost.
    Lost(String),
    /// The broker cancelled the consumer: its queue was deleted, or moved, or an acknowledgement was overdue.
    Cancelled,
    /// An acknowledgement did not reach the broker.
    Ack(String),
    /// A retry or dead letter was not confirmed.
    Publish(String),
    /// The process is stopping.
    Stopped,
}

impl End {
    pub(super) fn no_answer() -> Self {
        Self::Lost(format!("no answer within {ANSWER_TIMEOUT:?}"))
    }

    /// The label of `imgdex_broker_sessions_total`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Topology(_) => "topology",
            Self::Lost(_) => "lost",
            Self::Cancelled => "cancelled",
            Self::Ack(_) => "ack",
            Self::Publish(_) => "publish",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) | Self::Topology(error) => error.fmt(f),
            Self::Lost(reason) => write!(f, "the session was lost: {reason}"),
            Self::Cancelled => f.write_str("the broker cancelled the consumer"),
            Self::Ack(reason) => write!(f, "an acknowledgement did not reach the broker: {reason}"),
            Self::Publish(reason) => write!(f, "a retry or dead letter was not confirmed: {reason}"),
            Self::Stopped => f.write_str("stopping"),
        }
    }
}

impl From<lapin::Error> for End {
    fn from(error: lapin::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Which of this process' sessions one is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generation {
    /// Counted from 1.
    pub(super) number: u64,
    /// When the last one before it ended that had messages in hand.
    pub(super) last_loss: Option<Instant>,
}

/// One session, as its receipts see it.
pub(super) struct Session {
    generation: Generation,
    /// The first reason wins; whoever sets it wakes the session's loop.
    over: watch::Sender<Option<Arc<End>>>,
    /// Confirmed publishes go one at a time: the broker may confirm several at once, and then the client cannot tell
    /// which of them came back as unroutable. Mistaking that would lose a message.
    publisher: Mutex<Channel>,
    /// For looking at the suspects and taking one.
    pub(super) quarantine: Channel,
    /// For other channels. The session's loop holds it: whoever still has a receipt keeps no connection alive.
    connection: Weak<Connection>,
    topology: Topology,
    /// The queues that refuse messages: one entry for each message that waits for room.
    refusals: watch::Sender<Vec<ShortString>>,
    /// Messages on their way back to the queue.
    requeues: TaskTracker,
    metrics: Arc<Metrics>,
}

/// What became of a message that was published to one of our queues.
enum Published {
    Confirmed,
    /// The queue is there and takes no messages.
    Refused,
    /// There is no telling, or no such queue.
    Lost(String),
}

impl Session {
    /// Opens the session's channels, but for the one that consumes.
    pub(super) async fn open(
        generation: Generation,
        connection: &Arc<Connection>,
        topology: Topology,
        metrics: Arc<Metrics>,
    ) -> lapin::Result<Self> {
        Ok(Self {
            generation,
            over: watch::Sender::new(None),
            publisher: Mutex::new(publisher(connection).await?),
            quarantine: connection.create_channel().await?,
            connection: Arc::downgrade(connection),
            topology,
            refusals: watch::Sender::default(),
            requeues: TaskTracker::new(),
            metrics,
        })
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.number
    }

    /// Whether messages that the broker has taken back were in the hands of workers that died, as far as can be known.
    /// Messages of a lost session are taken back too, while the worker lives. One that has lost a session lately therefore
    /// suspects nobody: if a message ends it, the next worker has lost none.
    pub(super) fn delivery_count_is_reliable(&self) -> bool {
        self.generation.last_loss.is_none_or(|loss| loss.elapsed() > LOSS_AFFECTS_COUNTS)
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn requeues(&self) -> &TaskTracker {
        &self.requeues
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the session still lives, so that acknowledgements have a meaning.
    pub(super) fn is_current(&self) -> bool {
        self.over.borrow().is_none()
    }

    /// Ends the session. Later reasons are consequences of the first.
    pub(super) fn end(&self, end: End) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            if first {
                *over = Some(Arc::new(end));
            }
            first
        });
    }

    /// Why the session ended, once it has.
    pub(super) async fn ended(&self) -> Arc<End> {
        let over = self.over.subscribe().wait_for(Option::is_some).await.map(|end| end.clone());
        // The sender lives as long as `self`, so waiting cannot fail.
        over.ok().flatten().unwrap_or_else(|| Arc::new(End::Stopped))
    }

    /// The queues that refuse messages now, and every change of them.
    pub(super) fn refusals(&self) -> watch::Receiver<Vec<ShortString>> {
        self.refusals.subscribe()
    }

    /// Publishes to one of our queues and waits for the broker's confirm. While the queue refuses the message it is
    /// kept, and offered again. Where there is no confirm the session ends, and the next one declares the queue again.
    pub(super) async fn publish(&self, queue: ShortString, body: &[u8], properties: BasicProperties) -> bool {
        let mut backoff = Backoff::new(REPUBLISH_DELAY.0, REPUBLISH_DELAY.1);
        let mut refused = None;
        loop {
            match self.try_publish(queue.clone(), body, properties.clone()).await {
                Published::Confirmed => return true,
                Published::Lost(reason) => {
                    self.end(End::Publish(reason));
                    return false;
                }
                Published::Refused => {}
            }
            refused.get_or_insert_with(|| Refusal::new(&self.refusals, queue.clone()));
            tokio::select! {
                () = sleep(backoff.next_delay()) => {}
                _ = self.ended() => return false,
            }
        }
    }

    async fn try_publish(&self, queue: ShortString, body: &[u8], properties: BasicProperties) -> Published {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let mut channel = self.publisher.lock().await;
        let offered = timeout(ANSWER_TIMEOUT, async {
            let confirm =
                channel.basic_publish(ShortString::default(), queue.clone(), options, body, properties).await?;
            let confirmation = confirm.await?;
            if let (Confirmation::Nack(None), Some(connection)) = (&confirmation, self.connection.upgrade()) {
                // RabbitMQ 3.10 goes on refusing on a channel for as long as the queue is no shorter, although its limit
                // may be gone.
                *channel = publisher(&connection).await?;
            }
            Ok::<_, lapin::Error>(confirmation)
        });
        Published::Lost(match offered.await {
            Ok(Ok(Confirmation::Ack(None))) => return Published::Confirmed,
            Ok(Ok(Confirmation::Nack(None))) => return Published::Refused,
            Ok(Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))) => format!("queue {queue} is missing"),
            Ok(Ok(Confirmation::NotRequested)) => "the channel has no confirms".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANSWER_TIMEOUT:?}"),
        })
    }
}

/// A channel whose messages the broker confirms.
async fn publisher(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// A message that waits for room in a queue, for as long as this is held.
struct Refusal<'a> {
    refusals: &'a watch::Sender<Vec<ShortString>>,
    queue: ShortString,
}

impl<'a> Refusal<'a> {
    fn new(refusals: &'a watch::Sender<Vec<ShortString>>, queue: ShortString) -> Self {
        tracing::warn!(%queue, "the queue refuses a message, which is kept until there is room");
        refusals.send_modify(|queues| queues.push(queue.clone()));
        Self { refusals, queue }
    }
}

impl Drop for Refusal<'_> {
    fn drop(&mut self) {
        self.refusals.send_modify(|queues| {
            if let Some(place) = queues.iter().position(|queue| *queue == self.queue) {
                queues.swap_remove(place);
            }
        });
    }
}
