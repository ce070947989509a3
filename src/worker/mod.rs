//! Runs [`Pipeline::process`] on each delivery and settles its receipt; drains on stop.
//!
//! [`gate`] decides when messages are consumed at all.

pub mod gate;
pub mod run;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::RwLock;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::broker::consumer::Consumer;
use crate::broker::quarantine::Quarantine;
use crate::broker::receipt::{Cause, Receipt};
use crate::message::{self, Envelope};
use crate::metrics::{Metrics, Stage};
use crate::outcome::{Reason, Verdict};
use crate::pipeline::{Failure, Pipeline};

/// Longest delay before a message is requeued: the broker redelivers it at once, so while the store is down the message
/// would otherwise loop as fast as the network.
const LONGEST_REQUEUE_DELAY: Duration = Duration::from_secs(5);
/// The broker's own limit on an acknowledgement, after which it closes the channel: the default of `consumer_timeout`.
pub const ACK_TIMEOUT: Duration = Duration::from_mins(30);
/// Longest that a message is processed before it is requeued: well within [`ACK_TIMEOUT`], and far beyond the limits of the
/// stages.
const PROCESS_TIMEOUT: Duration = Duration::from_mins(14);

/// What the tasks of one worker share.
struct Shared {
    pipeline: Pipeline,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    /// Locked for reading while a message is processed among others, for writing while one is processed alone.
    alone: RwLock<()>,
}

/// Processes deliveries until `stop`, then finishes messages in flight, requeues unfinished ones, and closes the session,
/// all within `drain_deadline`.
pub async fn process_deliveries(
    mut consumer: Consumer,
    pipeline: Pipeline,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    drain_deadline: Duration,
) {
    let shared = Arc::new(Shared { pipeline, metrics, stop: stop.clone(), alone: RwLock::default() });
    let tasks = TaskTracker::new();
    let abandon = CancellationToken::new();
    let one_by_one = Arc::clone(&shared).run_quarantine(consumer.quarantine(), tasks.clone(), abandon.clone());
    let one_by_one = tokio::spawn(stop.clone().run_until_cancelled_owned(one_by_one));
    while let Some(Some(receipt)) = stop.run_until_cancelled(consumer.next()).await {
        let (shared, abandon) = (Arc::clone(&shared), abandon.clone());
        // An abandoned task drops its receipt, which requeues the message.
        tasks.spawn(async move { abandon.run_until_cancelled(shared.handle(receipt)).await });
    }

    let deadline = Instant::now() + drain_deadline;
    // Reserved for requeueing and closing.
    let reserve = (drain_deadline / 5).min(Duration::from_secs(3));
    consumer.stop();
    // Ends with `stop`; a message that it has begun is among the tasks.
    let _ = one_by_one.await;
    tasks.close();
    tracing::info!(in_flight = tasks.len(), deadline = ?drain_deadline, "draining");
    if timeout_at(deadline - reserve, tasks.wait()).await.is_err() {
        tracing::warn!(in_flight = tasks.len(), "the drain deadline is near; requeueing unfinished messages");
        abandon.cancel();
        tasks.wait().await;
    }
    let closed = timeout_at(deadline, consumer.close()).await;
    let finished = match Arc::into_inner(shared) {
        Some(shared) => timeout_at(deadline, shared.pipeline.finish()).await,
        None => Ok(()),
    };
    if closed.is_ok() && finished.is_ok() {
        tracing::info!("drained");
    } else {
        tracing::warn!("the drain deadline has passed; the broker redelivers unacknowledged messages");
    }
}

impl Shared {
    async fn handle(&self, receipt: Receipt) {
        if receipt.needs_quarantine() {
            let span = tracing::warn_span!("message", image = message::name(receipt.body()));
            return receipt.quarantine().instrument(span).await;
        }
        let among_others = self.alone.read().await;
        if let Some((receipt, failure)) = self.process(receipt).await {
            drop(among_others);
            self.fail(receipt, &failure).await;
        }
    }

    /// Processes quarantined messages, one at a time.
    async fn run_quarantine(self: Arc<Self>, quarantine: Quarantine, tasks: TaskTracker, abandon: CancellationToken) {
        loop {
            quarantine.until_ready().await;
            let (shared, quarantine, abandon) = (Arc::clone(&self), quarantine.clone(), abandon.clone());
            let handling = async move { abandon.run_until_cancelled(shared.handle_quarantined(&quarantine)).await };
            // A task of its own, like every message: a panic ends no other task.
            let _ = tasks.spawn(handling).await;
        }
    }

    async fn handle_quarantined(&self, quarantine: &Quarantine) {
        // Locked before the message is taken: a crash requeues every message in flight.
        let alone = self.alone.write().await;
        let Some(receipt) = quarantine.take().await else { return };
        if let Some(crashes) = receipt.crash_count() {
            let error = format!("{crashes} workers crashed while this message alone was in flight");
            let span = tracing::warn_span!("message", image = message::name(receipt.body()));
            let verdict = Verdict::DeadLetter(Reason::Poison);
            drop(alone);
            return receipt.fail(verdict, Cause { error, status: None }).instrument(span).await;
        }
        if let Some((receipt, failure)) = self.process(receipt).await {
            // The queue that it is published to may refuse it for a long time.
            drop(alone);
            self.fail(receipt, &failure).await;
        }
    }

    /// Takes a message through the pipeline, and acknowledges it if that succeeds.
    async fn process(&self, receipt: Receipt) -> Option<(Receipt, Failure)> {
        let start = Instant::now();
        let envelope = envelope(&receipt);
        let result = tokio::select! {
            result = timeout(PROCESS_TIMEOUT, self.pipeline.process(&envelope)) => result,
            // The broker redelivers the message, perhaps to another worker.
            () = receipt.session_ended() => return None,
        };
        let Ok(result) = result else {
            let image = message::name(&envelope.body);
            tracing::error!(image, limit = ?PROCESS_TIMEOUT, "processing timed out; requeueing the message");
            return None;
        };
        self.metrics.stage(Stage::Total, start.elapsed());
        match result {
            Ok(outcome) => {
                receipt.done(outcome).await;
                None
            }
            Err(failure) => Some((receipt, failure)),
        }
    }

    async fn fail(&self, receipt: Receipt, failure: &Failure) {
        // Names the image in every log line from here on.
        let span = tracing::warn_span!("message", image = message::name(receipt.body()));
        let verdict = failure.verdict();
        let failing = async {
            if verdict == Verdict::Requeue {
                tracing::warn!(%failure, "requeueing a message");
                let delay = LONGEST_REQUEUE_DELAY.mul_f64(fastrand::f64());
                self.stop.run_until_cancelled(sleep(delay)).await;
            }
            receipt.fail(verdict, cause(failure)).await;
        };
        failing.instrument(span).await;
    }
}

fn cause(failure: &Failure) -> Cause {
    Cause { error: failure.to_string(), status: failure.http_status() }
}

/// The message as the pipeline sees it.
fn envelope(receipt: &Receipt) -> Envelope {
    Envelope {
        body: receipt.body().to_vec(),
        published_ms: receipt.published_ms(),
        first_received_ms: receipt.first_received_ms(),
        readmitted_ms: receipt.readmitted_ms(),
        attempts: receipt.attempts(),
    }
}
