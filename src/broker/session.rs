//! One consuming session after the other, for as long as the process lives.
//!
//! A session is connect, declare, qos, consume. Whatever ends it (a lost connection, a closed channel, a consumer that
//! the broker cancelled, an acknowledgement that went nowhere) is handled in one way: its receipts become stale, and the
//! next session begins after a jittered delay. The pipeline behind it never notices.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::receipt::Receipt;
use super::suspects::Suspects;
use super::topology::Topology;
use super::{ANSWER_TIMEOUT, Error, Settings};
use crate::backoff::Backoff;
use crate::metrics::Metrics;

/// Bounds of the delay before the next session.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// Longest delay: a broker that comes back is found within it.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// How long a session must last for its end to count as a new trouble, not as more of the old.
const SETTLED_DOWN: Duration = Duration::from_secs(30);
/// How long the end of a session waits for what is left to be sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// The label of `imgdex_broker_sessions_total`.
    fn label(&self) -> &'static str {
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

/// What the receipts of one session share.
pub(super) struct Session {
    generation: u64,
    /// The first reason wins; whoever sets it wakes the session's loop.
    over: watch::Sender<Option<Arc<End>>>,
    /// Confirmed publishes go one at a time: the broker may confirm several at once, and then the client cannot tell
    /// which of them came back as unroutable. Mistaking that would lose a message.
    publisher: Mutex<Channel>,
    /// For looking at the suspects and taking one.
    pub(super) suspects: Channel,
    topology: Topology,
    /// Messages on their way back to the queue.
    settling: TaskTracker,
    metrics: Arc<Metrics>,
}

impl Session {
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn settling(&self) -> &TaskTracker {
        &self.settling
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

    async fn ended(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.over.subscribe().wait_for(Option::is_some).await;
    }

    /// Publishes to one of our queues and waits for the broker's confirm. Where there is none the session ends, and
    /// the next one declares the queue again.
    pub(super) async fn publish(&self, queue: ShortString, body: &[u8], properties: BasicProperties) -> bool {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let channel = self.publisher.lock().await;
        let confirmed = timeout(ANSWER_TIMEOUT, async {
            channel.basic_publish(ShortString::default(), queue.clone(), options, body, properties).await?.await
        });
        let trouble = match confirmed.await {
            Ok(Ok(Confirmation::Ack(None))) => return true,
            Ok(Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))) => format!("queue {queue} is missing"),
            Ok(Ok(Confirmation::Nack(None))) => format!("queue {queue} refused it"),
            Ok(Ok(Confirmation::NotRequested)) => "the channel has no confirms".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANSWER_TIMEOUT:?}"),
        };
        self.end(End::Publish(trouble));
        false
    }
}

/// Whether a condition of readiness is met, or why not.
pub type Condition = Result<(), String>;

/// A consumer that survives its sessions.
pub struct Consumer {
    deliveries: mpsc::UnboundedReceiver<Receipt>,
    suspects: Suspects,
    /// Cancelled: no more deliveries. The session stays, for acknowledgements.
    stopping: CancellationToken,
    /// Cancelled: the session ends.
    closing: CancellationToken,
    supervisor: JoinHandle<()>,
}

impl Consumer {
    /// Starts connecting, and declares the topology at once; consumes only while `gate` is true. `connected` says
    /// whether there is a session. At most `prefetch` deliveries are unsettled at any moment.
    pub fn start(
        settings: Settings,
        prefetch: u16,
        gate: watch::Receiver<bool>,
        connected: watch::Sender<Condition>,
        metrics: Arc<Metrics>,
    ) -> Self {
        // The bound is the prefetch count: the broker sends no more before some are settled.
        let (sender, deliveries) = mpsc::unbounded_channel();
        let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
        let (current, sessions) = watch::channel(None);
        let suspects = Suspects::new(sessions, gate.clone());
        let supervisor = Supervisor {
            settings,
            prefetch,
            gate,
            connected,
            metrics,
            deliveries: sender,
            current,
            stopping: stopping.clone(),
            closing: closing.clone(),
        };
        Self { deliveries, suspects, stopping, closing, supervisor: tokio::spawn(supervisor.run()) }
    }

    /// The next delivery, whichever session it comes from.
    pub async fn next(&mut self) -> Option<Receipt> {
        self.deliveries.recv().await
    }

    /// The messages that are to be processed alone.
    pub fn suspects(&self) -> Suspects {
        self.suspects.clone()
    }

    /// Stops consuming and gives back what was delivered and not yet taken by [`Self::next`]. Receipts already taken
    /// can still be settled.
    pub fn stop(&mut self) {
        self.stopping.cancel();
        self.deliveries.close();
        while self.deliveries.try_recv().is_ok() {}
    }

    /// Ends the session after [`Self::stop`]; the broker takes back what is not settled.
    pub async fn close(self) {
        self.closing.cancel();
        // An error would be a panic in the supervisor, after which the session is over too.
        let _ = self.supervisor.await;
    }
}

struct Supervisor {
    settings: Settings,
    prefetch: u16,
    gate: watch::Receiver<bool>,
    connected: watch::Sender<Condition>,
    metrics: Arc<Metrics>,
    deliveries: mpsc::UnboundedSender<Receipt>,
    /// The session that lives now.
    current: watch::Sender<Option<Arc<Session>>>,
    stopping: CancellationToken,
    closing: CancellationToken,
}

impl Supervisor {
    async fn run(self) {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        for generation in 1.. {
            let started = Instant::now();
            let closing = self.closing.clone();
            let end = tokio::select! {
                end = self.session(generation) => end,
                // Covers connecting and declaring; a running session sees it first and ends in order.
                () = closed_for_longer(&closing) => Arc::new(End::Stopped),
            };
            self.metrics.session_ended(end.label());
            self.say(Err(end.to_string()));
            if self.closing.is_cancelled() {
                return;
            }
            if started.elapsed() > SETTLED_DOWN {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            tracing::warn!(generation, reason = %end, ?delay, "no session with the broker; trying again");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.closing.cancelled() => return,
            }
        }
    }

    async fn session(&self, generation: u64) -> Arc<End> {
        match self.open(generation).await {
            Err(end) => Arc::new(end),
            Ok((connection, channel, session)) => {
                tracing::info!(generation, queue = %session.topology.queue(), "session with the broker");
                self.say(Ok(()));
                let _ = self.current.send_replace(Some(Arc::clone(&session)));
                let end = self.hold(&connection, &channel, &session).await;
                let _ = self.current.send_replace(None);
                // What is on its way back goes out while the session still counts.
                session.settling.close();
                let _ = timeout(CLOSE_TIMEOUT, session.settling.wait()).await;
                session.end(end);
                // A connection that is gone already cannot be closed, and need not be.
                let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "session over".into())).await;
                session.over.borrow().clone().unwrap_or_else(|| Arc::new(End::Stopped))
            }
        }
    }

    async fn open(&self, generation: u64) -> Result<(Connection, Channel, Arc<Session>), End> {
        let connection = self.settings.connect().await.map_err(End::Connect)?;
        let declared = timeout(ANSWER_TIMEOUT, self.settings.topology.declare(&connection)).await;
        declared.map_err(|_| no_answer())?.map_err(End::Topology)?;
        let channels = timeout(ANSWER_TIMEOUT, async {
            let channel = connection.create_channel().await?;
            channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
            let publisher = connection.create_channel().await?;
            publisher.confirm_select(ConfirmSelectOptions::default()).await?;
            let suspects = connection.create_channel().await?;
            Ok::<_, End>((channel, publisher, suspects))
        });
        let (channel, publisher, suspects) = channels.await.map_err(|_| no_answer())??;
        let session = Session {
            generation,
            over: watch::Sender::new(None),
            publisher: Mutex::new(publisher),
            suspects,
            topology: self.settings.topology.clone(),
            settling: TaskTracker::new(),
            metrics: Arc::clone(&self.metrics),
        };
        Ok((connection, channel, Arc::new(session)))
    }

    /// Consumes whenever the gate is open, until something ends the session.
    async fn hold(&self, connection: &Connection, channel: &Channel, session: &Arc<Session>) -> End {
        let mut trouble = std::pin::pin!(trouble(connection.events_listener()));
        let (mut gate, stopping) = (self.gate.clone(), self.stopping.clone());
        loop {
            let opens = async {
                if stopping.is_cancelled() || gate.wait_for(|open| *open).await.is_err() {
                    // Nothing will open it any more.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                end = &mut trouble => return end,
                () = session.ended() => return End::Stopped,
                () = self.closing.cancelled() => return End::Stopped,
                () = stopping.cancelled(), if !stopping.is_cancelled() => {}
                () = opens => match self.consume(channel, session).await {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(end) => return end,
                },
            }
        }
    }

    /// Consumes until the gate closes or the process stops, which leaves the session alive, or until the session ends.
    async fn consume(&self, channel: &Channel, session: &Arc<Session>) -> ControlFlow<End> {
        let queue = session.topology.queue().clone();
        let tag = ShortString::default();
        let consuming = channel.basic_consume(queue, tag, BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = match timeout(ANSWER_TIMEOUT, consuming).await {
            Ok(Ok(consumer)) => consumer,
            Ok(Err(error)) => return ControlFlow::Break(error.into()),
            Err(_) => return ControlFlow::Break(no_answer()),
        };
        tracing::info!(generation = session.generation, "consuming");
        let mut gate = self.gate.clone();
        let ours = loop {
            tokio::select! {
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => self.deliver(Receipt::new(delivery, Arc::clone(session))),
                    Some(Err(error)) => return ControlFlow::Break(error.into()),
                    None => return ControlFlow::Break(End::Cancelled),
                },
                () = session.ended() => return ControlFlow::Break(End::Stopped),
                () = self.stopping.cancelled() => break consumer.tag(),
                () = closed(&mut gate) => break consumer.tag(),
            }
        };
        tracing::info!(generation = session.generation, "no longer consuming");
        let cancelling = timeout(ANSWER_TIMEOUT, channel.basic_cancel(ours, BasicCancelOptions::default()));
        match cancelling.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return ControlFlow::Break(error.into()),
            Err(_) => return ControlFlow::Break(no_answer()),
        }
        // What arrived before the broker knew.
        while let Some(Ok(delivery)) = consumer.next().await {
            self.deliver(Receipt::new(delivery, Arc::clone(session)));
        }
        ControlFlow::Continue(())
    }

    fn say(&self, connected: Condition) {
        // The condition before says nothing new.
        let _ = self.connected.send_replace(connected);
    }

    fn deliver(&self, receipt: Receipt) {
        // Nobody takes deliveries any more while the process stops; the receipt that comes back gives its message back.
        drop(self.deliveries.send(receipt));
    }
}

pub(super) fn no_answer() -> End {
    End::Lost(format!("no answer within {ANSWER_TIMEOUT:?}"))
}

/// Completes when the gate closes.
async fn closed(gate: &mut watch::Receiver<bool>) {
    // Whoever held the gate is gone: as good as closed.
    let _ = gate.wait_for(|open| !*open).await;
}

/// Completes when the session has had its time to end in order.
async fn closed_for_longer(closing: &CancellationToken) {
    closing.cancelled().await;
    tokio::time::sleep(2 * CLOSE_TIMEOUT).await;
}

/// Completes at the first error of the connection, also while nothing is consumed.
async fn trouble(events: impl Stream<Item = Event>) -> End {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::Error(error) => return error.into(),
            Event::ConnectionBlocked(reason) => {
                tracing::warn!(%reason, "the broker takes no messages; retries and dead letters wait");
            }
            _ => {}
        }
    }
    End::Lost("the connection is gone".to_owned())
}
