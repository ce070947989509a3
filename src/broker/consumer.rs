//! One consuming session after the other, for as long as the process lives.
//!
//! A session is connect, declare, qos, consume. Every end of a session (a lost connection, a closed channel, a consumer that
//! the broker cancelled, a failed acknowledgement) is handled in one way: its receipts become stale, and the next session
//! begins after a jittered delay. The pipeline is not involved.

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

use super::connection::{ANSWER_TIMEOUT, Connection, Settings};
use super::quarantine::Quarantine;
use super::receipt::Receipt;
use super::session::{End, Generation, NamesVersion, Session};
use crate::backpressure::backoff::Backoff;
use crate::health::Condition;
use crate::metrics::{Metrics, PauseCause};

/// Bounds of the delay before the next session.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// Longest delay: a broker that restarts is found within it, and many workers reconnect spread over it.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// How long a session must last for the delays to start at the shortest again.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// How long the end of a session waits for pending requeues, and for the connection to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A consumer that outlives its sessions.
pub struct Consumer {
    deliveries: mpsc::UnboundedReceiver<Receipt>,
    quarantine: Quarantine,
    /// Cancelled: no more deliveries. The session stays open for acknowledgements.
    stopping: CancellationToken,
    /// Cancelled: the session ends.
    closing: CancellationToken,
    supervisor: JoinHandle<()>,
}

impl Consumer {
    /// Starts connecting, and declares the topology at once; consumes only while `gate` is true. `condition` is met while
    /// there is a session and no queue refuses messages. At most `prefetch` deliveries are unsettled at any moment.
    pub fn start(
        settings: Settings,
        prefetch: u16,
        names_version: NamesVersion,
        gate: watch::Receiver<bool>,
        condition: watch::Sender<Condition>,
        metrics: Arc<Metrics>,
    ) -> Self {
        // Bounded by the prefetch count: the broker delivers no more before some are settled.
        let (sender, deliveries) = mpsc::unbounded_channel();
        let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
        let (current, sessions) = watch::channel(None);
        let quarantine = Quarantine::new(sessions, gate.clone());
        let supervisor = Supervisor {
            settings,
            prefetch,
            names_version,
            gate,
            condition,
            metrics,
            deliveries: sender,
            current,
            stopping: stopping.clone(),
            closing: closing.clone(),
        };
        Self { deliveries, quarantine, stopping, closing, supervisor: tokio::spawn(supervisor.run()) }
    }

    /// The next delivery, of the current or a later session.
    pub async fn next(&mut self) -> Option<Receipt> {
        self.deliveries.recv().await
    }

    pub fn quarantine(&self) -> Quarantine {
        self.quarantine.clone()
    }

    /// Stops consuming, and requeues deliveries that [`Self::next`] has not returned. Receipts already returned can still
    /// be settled.
    pub fn stop(&mut self) {
        self.stopping.cancel();
        self.deliveries.close();
        while self.deliveries.try_recv().is_ok() {}
    }

    /// Ends the session after [`Self::stop`]; the broker requeues unsettled messages.
    pub async fn close(self) {
        self.closing.cancel();
        // An error would be a panic in the supervisor, which ends the session too.
        let _ = self.supervisor.await;
    }
}

struct Supervisor {
    settings: Settings,
    prefetch: u16,
    names_version: NamesVersion,
    gate: watch::Receiver<bool>,
    condition: watch::Sender<Condition>,
    metrics: Arc<Metrics>,
    deliveries: mpsc::UnboundedSender<Receipt>,
    /// The session that is open now.
    current: watch::Sender<Option<Arc<Session>>>,
    stopping: CancellationToken,
    closing: CancellationToken,
}

impl Supervisor {
    async fn run(self) {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        self.set_condition(Some((PauseCause::Broker, "connecting".to_owned())));
        let mut generation = Generation { number: 0, last_loss: None };
        loop {
            generation.number += 1;
            let started = Instant::now();
            let closing = self.closing.clone();
            let end = tokio::select! {
                end = self.connect_and_run(generation) => end,
                // Interrupts connecting and declaring. A running session reacts to `closing` by itself, and sooner.
                () = closing_overdue(&closing) => Arc::new(End::Stopped),
            };
            self.metrics.session_ended(end.kind());
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
            tracing::warn!(generation = generation.number, reason = %end, ?delay, "no session with the broker; connecting again");
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
        // A lost connection cannot be closed, and need not be.
        let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "session over".into())).await;
        end
    }

    /// Declares the topology, and opens the channels.
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
            let (topology, metrics) = (topology.clone(), Arc::clone(&self.metrics));
            let session = Session::open(generation, connection, topology, self.names_version, metrics).await?;
            Ok::<_, End>((channel, Arc::new(session)))
        });
        channels.await.map_err(|_| End::no_answer())?
    }

    /// Runs an open session from its first delivery to its last requeue.
    async fn run_session(&self, connection: &Connection, channel: &Channel, session: &Arc<Session>) -> Arc<End> {
        tracing::info!(generation = session.generation(), queue = %session.topology().queue(), "session with the broker");
        let _ = self.current.send_replace(Some(Arc::clone(session)));
        let end = tokio::select! {
            end = self.consume_while_open(channel, session) => end,
            end = first_error(connection.events_listener()) => end,
            end = self.report_refusals(session) => end,
        };
        let _ = self.current.send_replace(None);
        // A receipt may have ended it before; the first reason is the one reported.
        session.end(end);
        let end = session.ended().await;
        self.set_condition(Some((pause_cause(&end), end.to_string())));
        // Pending requeues are still sent.
        session.requeues().close();
        let _ = timeout(CLOSE_TIMEOUT, session.requeues().wait()).await;
        // The answer comes after the broker has seen all that was sent before it. Without it the end of the connection may overtake
        // acknowledgements, and the broker would redeliver messages that are done.
        let _ = timeout(CLOSE_TIMEOUT, channel.basic_qos(self.prefetch, BasicQosOptions::default())).await;
        end
    }

    /// Keeps the condition up to date with the queues that refuse messages.
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
            self.set_condition(reason.map(|reason| (PauseCause::Queues, reason)));
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
                    // The gate will not open any more.
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
        let consumer_tag = loop {
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
        let cancelling = timeout(ANSWER_TIMEOUT, channel.basic_cancel(consumer_tag, BasicCancelOptions::default()));
        match cancelling.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return ControlFlow::Break(error.into()),
            Err(_) => return ControlFlow::Break(End::no_answer()),
        }
        // Messages that were delivered before the broker processed the cancel.
        while let Some(Ok(delivery)) = consumer.next().await {
            self.deliver(Receipt::new(delivery, Arc::clone(session)));
        }
        ControlFlow::Continue(())
    }

    /// Sets the current cause of a pause and its reason, or that there is none, in metrics and readiness.
    fn set_condition(&self, pause: Option<(PauseCause, String)>) {
        for cause in [PauseCause::Broker, PauseCause::Queues] {
            self.metrics.paused(cause, pause.as_ref().is_some_and(|(present, _)| *present == cause));
        }
        let _ = self.condition.send_replace(pause.map_or(Ok(()), |(_, reason)| Err(reason)));
    }

    fn deliver(&self, receipt: Receipt) {
        // While the process stops the channel is closed; dropping the returned receipt requeues its message.
        drop(self.deliveries.send(receipt));
    }
}

/// The cause of the pause from a session's end until the next session.
fn pause_cause(end: &End) -> PauseCause {
    match end {
        End::Topology(_) => PauseCause::Queues,
        End::Connect(_) | End::Lost(_) | End::Cancelled | End::Ack(_) | End::Publish(_) | End::Stopped => {
            PauseCause::Broker
        }
    }
}

/// Completes when the gate closes.
async fn gate_closed(gate: &mut watch::Receiver<bool>) {
    // An error means that the sender is dropped, which counts as closed.
    let _ = gate.wait_for(|open| !*open).await;
}

/// Completes when an open session would have had its time to end in order.
async fn closing_overdue(closing: &CancellationToken) {
    closing.cancelled().await;
    tokio::time::sleep(2 * CLOSE_TIMEOUT).await;
}

/// Completes at the first error of the connection, also while consumption is paused.
async fn first_error(events: impl Stream<Item = Event>) -> End {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::Error(error) => return error.into(),
            Event::ConnectionBlocked(reason) => {
                tracing::warn!(%reason, "the broker blocks publishing; retries and dead letters wait");
            }
            _ => {}
        }
    }
    End::Lost("the connection is gone".to_owned())
}
