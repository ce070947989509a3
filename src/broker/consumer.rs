//! One consuming session after the other, for as long as the process lives.
//!
//! A session is connect, declare, qos, consume. Whatever ends it (a lost connection, a closed channel, a consumer that
//! the broker cancelled, an acknowledgement that went nowhere) is handled in one way: its receipts become stale, and the
//! next session begins after a jittered delay. The pipeline behind it never notices.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Event};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::quarantine::Quarantine;
use super::receipt::Receipt;
use super::session::{End, Generation, Session};
use super::{ANSWER_TIMEOUT, Settings};
use crate::backpressure::backoff::Backoff;
use crate::health::Condition;
use crate::metrics::Metrics;

/// Bounds of the delay before the next session.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// Longest delay: a broker that comes back is found within it, and a crowd of workers comes spread over it.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// How long a session must last for its end to count as a new trouble, not as more of the old.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// How long the end of a session waits for what is left to be sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The label values of `imgdex_paused` that are about the broker: there is no session, or a queue is missing or refuses messages.
const NO_SESSION: &str = "broker";
const QUEUES: &str = "queues";

/// A consumer that survives its sessions.
pub struct Consumer {
    deliveries: mpsc::UnboundedReceiver<Receipt>,
    quarantine: Quarantine,
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
        let quarantine = Quarantine::new(sessions, gate.clone());
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
        Self { deliveries, quarantine, stopping, closing, supervisor: tokio::spawn(supervisor.run()) }
    }

    /// The next delivery, whichever session it comes from.
    pub async fn next(&mut self) -> Option<Receipt> {
        self.deliveries.recv().await
    }

    /// The messages that are to be processed alone.
    pub fn quarantine(&self) -> Quarantine {
        self.quarantine.clone()
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
        self.set_condition(Some((NO_SESSION, "connecting".to_owned())));
        let mut generation = Generation { number: 0, last_loss: None };
        loop {
            generation.number += 1;
            let started = Instant::now();
            let closing = self.closing.clone();
            let end = tokio::select! {
                end = self.connect_and_run(generation) => end,
                // Covers connecting and declaring; a running session sees it first and ends in order.
                () = closing_overdue(&closing) => Arc::new(End::Stopped),
            };
            self.metrics.session_ended(end.label());
            self.set_condition(Some((pause_cause(&end), end.to_string())));
            if self.closing.is_cancelled() {
                return;
            }
            if !matches!(*end, End::Connect(_) | End::Topology(_)) {
                generation.last_loss = Some(Instant::now());
            }
            if started.elapsed() > STABLE_AFTER {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            tracing::warn!(generation = generation.number, reason = %end, ?delay, "no session with the broker; trying again");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.closing.cancelled() => return,
            }
        }
    }

    async fn connect_and_run(&self, generation: Generation) -> Arc<End> {
        let connection = match self.settings.connect().await {
            Ok(connection) => Arc::new(connection),
            Err(error) => return Arc::new(End::Connect(error)),
        };
        let end = match self.open_session(&connection, generation).await {
            Ok((channel, session)) => self.run_session(&connection, &channel, &session).await,
            Err(end) => Arc::new(end),
        };
        // A connection that is gone already cannot be closed, and need not be.
        let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "session over".into())).await;
        end
    }

    /// Declares everything, and opens the channels.
    async fn open_session(
        &self,
        connection: &Arc<Connection>,
        generation: Generation,
    ) -> Result<(Channel, Arc<Session>), End> {
        let topology = &self.settings.topology;
        let declared = timeout(ANSWER_TIMEOUT, topology.declare(connection)).await;
        declared.map_err(|_| End::no_answer())?.map_err(End::Topology)?;
        let channels = timeout(ANSWER_TIMEOUT, async {
            let channel = connection.create_channel().await?;
            channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
            let session = Session::open(generation, connection, topology.clone(), Arc::clone(&self.metrics)).await?;
            Ok::<_, End>((channel, Arc::new(session)))
        });
        channels.await.map_err(|_| End::no_answer())?
    }

    /// The session's life, from the first delivery to the last receipt.
    async fn run_session(&self, connection: &Connection, channel: &Channel, session: &Arc<Session>) -> Arc<End> {
        tracing::info!(generation = session.generation(), queue = %session.topology().queue(), "session with the broker");
        let _ = self.current.send_replace(Some(Arc::clone(session)));
        let end = tokio::select! {
            end = self.consume_while_open(channel, session) => end,
            end = first_error(connection.events_listener()) => end,
            end = self.report_refusals(session) => end,
        };
        let _ = self.current.send_replace(None);
        // Something else may have ended it before.
        session.end(end);
        let end = session.ended().await;
        self.set_condition(Some((pause_cause(&end), end.to_string())));
        // What is on its way back to the queue still goes out.
        session.requeues().close();
        let _ = timeout(CLOSE_TIMEOUT, session.requeues().wait()).await;
        end
    }

    /// Says whether the queues take what is published to them, until the session ends.
    async fn report_refusals(&self, session: &Session) -> End {
        let mut refusals = session.refusals();
        loop {
            let reason = match &**refusals.borrow_and_update() {
                [] => None,
                [queue, more @ ..] => {
                    let waiting = more.len() + 1;
                    Some(format!("queue {queue} refuses messages; kept until there is room: {waiting}"))
                }
            };
            self.set_condition(reason.map(|reason| (QUEUES, reason)));
            if refusals.changed().await.is_err() {
                return End::Stopped;
            }
        }
    }

    /// Consumes whenever the gate is open, until something ends the session.
    async fn consume_while_open(&self, channel: &Channel, session: &Arc<Session>) -> End {
        let (mut gate, stopping) = (self.gate.clone(), self.stopping.clone());
        loop {
            let opens = async {
                if stopping.is_cancelled() || gate.wait_for(|open| *open).await.is_err() {
                    // Nothing will open it any more.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                _ = session.ended() => return End::Stopped,
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
        let queue = session.topology().queue().clone();
        let tag = ShortString::default();
        let consuming = channel.basic_consume(queue, tag, BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = match timeout(ANSWER_TIMEOUT, consuming).await {
            Ok(Ok(consumer)) => consumer,
            Ok(Err(error)) => return ControlFlow::Break(error.into()),
            Err(_) => return ControlFlow::Break(End::no_answer()),
        };
        tracing::info!(generation = session.generation(), "consuming");
        let mut gate = self.gate.clone();
        let ours = loop {
            tokio::select! {
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => self.deliver(Receipt::new(delivery, Arc::clone(session))),
                    Some(Err(error)) => return ControlFlow::Break(error.into()),
                    None => return ControlFlow::Break(End::Cancelled),
                },
                _ = session.ended() => return ControlFlow::Break(End::Stopped),
                () = self.stopping.cancelled() => break consumer.tag(),
                () = gate_closed(&mut gate) => break consumer.tag(),
            }
        };
        tracing::info!(generation = session.generation(), "no longer consuming");
        let cancelling = timeout(ANSWER_TIMEOUT, channel.basic_cancel(ours, BasicCancelOptions::default()));
        match cancelling.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return ControlFlow::Break(error.into()),
            Err(_) => return ControlFlow::Break(End::no_answer()),
        }
        // What arrived before the broker knew.
        while let Some(Ok(delivery)) = consumer.next().await {
            self.deliver(Receipt::new(delivery, Arc::clone(session)));
        }
        ControlFlow::Continue(())
    }

    /// Says what keeps the worker from working, and the pause that it is counted as, or that nothing does.
    fn set_condition(&self, hindrance: Option<(&'static str, String)>) {
        for cause in [NO_SESSION, QUEUES] {
            self.metrics.paused(cause, hindrance.as_ref().is_some_and(|(present, _)| *present == cause));
        }
        // The condition before says nothing new.
        let _ = self.connected.send_replace(hindrance.map_or(Ok(()), |(_, reason)| Err(reason)));
    }

    fn deliver(&self, receipt: Receipt) {
        // Nobody takes deliveries any more while the process stops; the receipt that comes back gives its message back.
        drop(self.deliveries.send(receipt));
    }
}

/// The pause that lasts from a session's end until the next one.
fn pause_cause(end: &End) -> &'static str {
    match end {
        End::Topology(_) => QUEUES,
        End::Connect(_) | End::Lost(_) | End::Cancelled | End::Ack(_) | End::Publish(_) | End::Stopped => NO_SESSION,
    }
}

/// Completes when the gate closes.
async fn gate_closed(gate: &mut watch::Receiver<bool>) {
    // Whoever held the gate is gone: as good as closed.
    let _ = gate.wait_for(|open| !*open).await;
}

/// Completes when the session has had its time to end in order.
async fn closing_overdue(closing: &CancellationToken) {
    closing.cancelled().await;
    tokio::time::sleep(2 * CLOSE_TIMEOUT).await;
}

/// Completes at the first error of the connection, also while nothing is consumed.
async fn first_error(events: impl Stream<Item = Event>) -> End {
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
