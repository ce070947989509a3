//! What the receipts of one session share: whether it is open, why it ended, and publishing to our own queues.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lapin::types::ShortString;
use lapin::{BasicProperties, Channel};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::confirm::{PublishOutcome, confirming_channel, publish_to_queue};
use super::connection::{ANSWER_TIMEOUT, Connection};
use super::error::Error;
use super::topology::Topology;
use crate::backpressure::backoff::Backoff;
use crate::metrics::{Metrics, SessionEnd};

/// Bounds of the delay before a message that a queue refused is published again.
const REPUBLISH_DELAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How long after a lost session the delivery counts may include its messages: the broker requeued them at the head of
/// the queue, so they are in flight again soon.
const COUNTS_UNRELIABLE_FOR: Duration = Duration::from_mins(10);

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
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

    pub(super) fn kind(&self) -> SessionEnd {
        match self {
            Self::Connect(_) => SessionEnd::Connect,
            Self::Topology(_) => SessionEnd::Topology,
            Self::Lost(_) => SessionEnd::Lost,
            Self::Cancelled => SessionEnd::Cancelled,
            Self::Ack(_) => SessionEnd::Ack,
            Self::Publish(_) => SessionEnd::Publish,
            Self::Stopped => SessionEnd::Stopped,
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

/// The place of a session among those of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generation {
    /// Counted from 1.
    pub(super) number: u64,
    /// When the last earlier session ended that may have had messages in flight.
    pub(super) last_loss: Option<Instant>,
}

/// One session, as its receipts see it.
pub(super) struct Session {
    generation: Generation,
    /// The first reason is kept. Setting it wakes the session's loop.
    ended: watch::Sender<Option<Arc<End>>>,
    /// One confirmed publish at a time: the broker may confirm several at once, and then the client cannot tell which of
    /// them was returned as unroutable. A wrong guess would lose a message.
    publisher: Mutex<Channel>,
    /// For counting and taking messages of the quarantine queue.
    pub(super) quarantine: Channel,
    /// For opening more channels. Weak: the session's loop owns the connection, and a receipt does not keep it open.
    connection: Weak<Connection>,
    topology: Topology,
    /// The queues that refuse messages: one entry for each message that waits for room.
    refusals: watch::Sender<Vec<ShortString>>,
    /// Requeues in progress.
    requeues: TaskTracker,
    names_version: NamesVersion,
    metrics: Arc<Metrics>,
}

/// Whether a body names its version, so that the time of its receipt does not order it.
pub type NamesVersion = fn(&[u8]) -> bool;

impl Session {
    /// Opens the session's channels except the one that consumes.
    pub(super) async fn open(
        generation: Generation,
        connection: &Arc<Connection>,
        topology: Topology,
        names_version: NamesVersion,
        metrics: Arc<Metrics>,
    ) -> lapin::Result<Self> {
        Ok(Self {
            generation,
            ended: watch::Sender::new(None),
            publisher: Mutex::new(confirming_channel(connection).await?),
            quarantine: connection.create_channel().await?,
            connection: Arc::downgrade(connection),
            topology,
            refusals: watch::Sender::default(),
            requeues: TaskTracker::new(),
            names_version,
            metrics,
        })
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.number
    }

    /// Whether a delivery count can be read as a count of workers that crashed with the message in flight. The broker also
    /// requeues the messages of a session that a living worker lost, so a worker that lost one recently does not rely on
    /// the count. A message that does crash workers is recognised by the next worker, which has lost no session.
    pub(super) fn delivery_count_is_reliable(&self) -> bool {
        self.generation.last_loss.is_none_or(|loss| loss.elapsed() > COUNTS_UNRELIABLE_FOR)
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn requeues(&self) -> &TaskTracker {
        &self.requeues
    }

    pub(super) fn names_version(&self, body: &[u8]) -> bool {
        (self.names_version)(body)
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the session has not ended, so that its deliveries can be acknowledged.
    pub(super) fn is_open(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Ends the session. Later reasons are consequences of the first and are dropped.
    pub(super) fn end(&self, end: End) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(Arc::new(end));
            }
            first
        });
    }

    /// Completes when the session has ended, with the reason.
    pub(super) async fn ended(&self) -> Arc<End> {
        let ended = self.ended.subscribe().wait_for(Option::is_some).await.map(|end| end.clone());
        // The sender lives as long as `self`, so waiting cannot fail.
        ended.ok().flatten().unwrap_or_else(|| Arc::new(End::Stopped))
    }

    /// The queues that refuse messages now, and every change of them.
    pub(super) fn refusals(&self) -> watch::Receiver<Vec<ShortString>> {
        self.refusals.subscribe()
    }

    /// Publishes to one of our queues and waits for the confirm; returns whether the message was accepted. While the queue
    /// refuses the message it is kept and published again. An unroutable or unconfirmed message ends the session, and the
    /// next session declares the queue again.
    pub(super) async fn publish(&self, queue: ShortString, body: &[u8], properties: BasicProperties) -> bool {
        let mut backoff = Backoff::new(REPUBLISH_DELAY.0, REPUBLISH_DELAY.1);
        let mut refused = None;
        loop {
            let failure = match self.try_publish(&queue, body, &properties).await {
                Ok(PublishOutcome::Accepted) => return true,
                Ok(PublishOutcome::Refused) => None,
                Ok(PublishOutcome::Unroutable { .. }) => Some(format!("queue {queue} is missing")),
                Ok(PublishOutcome::Unknown) => Some("the channel has no confirms".to_owned()),
                Err(reason) => Some(reason),
            };
            if let Some(reason) = failure {
                self.end(End::Publish(reason));
                return false;
            }
            refused.get_or_insert_with(|| RefusalGuard::new(&self.refusals, queue.clone()));
            tokio::select! {
                () = sleep(backoff.next_delay()) => {}
                _ = self.ended() => return false,
            }
        }
    }

    async fn try_publish(
        &self,
        queue: &ShortString,
        body: &[u8],
        properties: &BasicProperties,
    ) -> Result<PublishOutcome, String> {
        let mut channel = self.publisher.lock().await;
        let publishing = timeout(ANSWER_TIMEOUT, async {
            let outcome = publish_to_queue(&channel, queue, body, properties).await?;
            if let (PublishOutcome::Refused, Some(connection)) = (&outcome, self.connection.upgrade()) {
                // RabbitMQ 3.10 keeps refusing on a channel for as long as the queue is no shorter, even after its limit
                // was removed.
                *channel = confirming_channel(&connection).await?;
            }
            Ok::<_, lapin::Error>(outcome)
        });
        match publishing.await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {ANSWER_TIMEOUT:?}")),
        }
    }
}

/// Lists a message among the refused ones for as long as it waits for room in a queue.
struct RefusalGuard<'a> {
    refusals: &'a watch::Sender<Vec<ShortString>>,
    queue: ShortString,
}

impl<'a> RefusalGuard<'a> {
    fn new(refusals: &'a watch::Sender<Vec<ShortString>>, queue: ShortString) -> Self {
        tracing::warn!(%queue, "the queue refuses a message, which is kept until there is room");
        refusals.send_modify(|queues| queues.push(queue.clone()));
        Self { refusals, queue }
    }
}

impl Drop for RefusalGuard<'_> {
    fn drop(&mut self) {
        self.refusals.send_modify(|queues| {
            if let Some(index) = queues.iter().position(|queue| *queue == self.queue) {
                queues.swap_remove(index);
            }
        });
    }
}
