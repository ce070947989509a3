//! Deliveries to `process` to receipts; drain.
//!
//! [`gate`] decides when there are deliveries at all.

pub mod gate;

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

/// Longest that a message is kept before it is given back: the broker delivers it again at once, and while the store is
/// down that would be a loop as fast as the network.
const LONGEST_GIVE_BACK_DELAY: Duration = Duration::from_secs(5);
/// The broker's own limit on an acknowledgement, after which it closes the channel: `consumer_timeout`, 30 minutes unless
/// it is configured otherwise.
pub const ACK_TIMEOUT: Duration = Duration::from_mins(30);
/// Longest that a message is processed before it is given back: well within [`ACK_TIMEOUT`], and far beyond what the stages'
/// own limits allow.
const LONGEST_HANDLING: Duration = Duration::from_mins(14);

/// What the tasks of one worker share.
struct Shared {
    pipeline: Pipeline,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    /// Read while a message is processed among others, written while one is processed alone.
    exclusive: RwLock<()>,
}

/// Processes deliveries until `stop`, then finishes what is in flight, gives back the rest, and closes the session, all
/// within `drain_deadline`.
pub async fn run(
    mut consumer: Consumer,
    pipeline: Pipeline,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    drain_deadline: Duration,
) {
    let shared = Arc::new(Shared { pipeline, metrics, stop: stop.clone(), exclusive: RwLock::default() });
    let tasks = TaskTracker::new();
    let abandon = CancellationToken::new();
    let one_by_one = Arc::clone(&shared).run_quarantine(consumer.quarantine(), tasks.clone(), abandon.clone());
    let one_by_one = tokio::spawn(stop.clone().run_until_cancelled_owned(one_by_one));
    while let Some(Some(receipt)) = stop.run_until_cancelled(consumer.next()).await {
        let (shared, abandon) = (Arc::clone(&shared), abandon.clone());
        // Abandoned, a task drops its receipt, which gives the message back.
        tasks.spawn(async move { abandon.run_until_cancelled(shared.handle(receipt)).await });
    }

    let deadline = Instant::now() + drain_deadline;
    // Kept for giving back and closing.
    let reserve = (drain_deadline / 5).min(Duration::from_secs(3));
    consumer.stop();
    // Ends with `stop`; what it has begun is among the tasks.
    let _ = one_by_one.await;
    tasks.close();
    tracing::info!(in_flight = tasks.len(), deadline = ?drain_deadline, "draining");
    if timeout_at(deadline - reserve, tasks.wait()).await.is_err() {
        tracing::warn!(in_flight = tasks.len(), "the drain deadline is near; giving back what is not finished");
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
        tracing::warn!("the drain deadline has passed; the broker delivers again what was not acknowledged");
    }
}

impl Shared {
    /// One message, from delivery to settlement.
    async fn handle(&self, receipt: Receipt) {
        if receipt.needs_quarantine() {
            let span = tracing::warn_span!("message", image = message::name(receipt.body()));
            return receipt.quarantine().instrument(span).await;
        }
        let exclusive = self.exclusive.read().await;
        if let Some((receipt, failure)) = self.process(receipt).await {
            drop(exclusive);
            self.fail(receipt, &failure).await;
        }
    }

    /// Messages that were delivered again and again, each of them alone.
    async fn run_quarantine(self: Arc<Self>, quarantine: Quarantine, tasks: TaskTracker, abandon: CancellationToken) {
        loop {
            quarantine.waiting().await;
            let (shared, quarantine, abandon) = (Arc::clone(&self), quarantine.clone(), abandon.clone());
            let alone = async move { abandon.run_until_cancelled(shared.handle_quarantined(&quarantine)).await };
            // A task of its own, like every message: a panic ends no more than this.
            let _ = tasks.spawn(alone).await;
        }
    }

    async fn handle_quarantined(&self, quarantine: &Quarantine) {
        // Before it is taken: whoever is in hand when a worker dies is suspected of it.
        let alone = self.exclusive.write().await;
        let Some(receipt) = quarantine.take().await else { return };
        if let Some(deaths) = receipt.crash_count() {
            let error = format!("{deaths} workers died while this message alone was in their hands");
            let span = tracing::warn_span!("message", image = message::name(receipt.body()));
            let verdict = Verdict::DeadLetter(Reason::Poison);
            drop(alone);
            return receipt.fail(verdict, Cause { error, status: None }).instrument(span).await;
        }
        if let Some((receipt, failure)) = self.process(receipt).await {
            // The queue that it goes to may have no room for long.
            drop(alone);
            self.fail(receipt, &failure).await;
        }
    }

    /// Walks a message through the pipeline, and acknowledges it where that succeeds.
    async fn process(&self, receipt: Receipt) -> Option<(Receipt, Failure)> {
        let start = Instant::now();
        let envelope = envelope(&receipt);
        let result = tokio::select! {
            result = timeout(LONGEST_HANDLING, self.pipeline.process(&envelope)) => result,
            // Somebody else is given the message now.
            () = receipt.session_ended() => return None,
        };
        let Ok(result) = result else {
            let image = message::name(&envelope.body);
            tracing::error!(image, limit = ?LONGEST_HANDLING, "no outcome in time; giving the message back");
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
        // Whatever is logged from here on says which image it is about.
        let span = tracing::warn_span!("message", image = message::name(receipt.body()));
        let verdict = failure.verdict();
        let failing = async {
            if verdict == Verdict::Requeue {
                tracing::warn!(%failure, "giving a message back");
                let delay = LONGEST_GIVE_BACK_DELAY.mul_f64(fastrand::f64());
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
        timestamp: receipt.timestamp(),
        first_received_ms: receipt.first_received_ms(),
        attempts: receipt.attempts(),
    }
}
