//! Deliveries to `process` to receipts; drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::backoff::Backoff;
use crate::broker::receipt::{Cause, Receipt};
use crate::broker::session::Consumer;
use crate::fetch;
use crate::message;
use crate::metrics::{Metrics, Stage};
use crate::model::manifest::Manifest;
use crate::pipeline::{Failure, Pipeline, Verdict};
use crate::server::health::Condition;
use crate::store::{self, Blocked, Store};

/// How often a store that answers is looked at again.
const STORE_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Bounds of the delay before a store that does not answer is asked again.
const STORE_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Longest that a message is kept before it is given back: the broker delivers it again at once, and while the store is
/// down that would be a loop as fast as the network.
const LONGEST_GIVE_BACK_DELAY: Duration = Duration::from_secs(5);

/// The label values of `imgdex_paused`.
const PAUSES: [&str; 5] = ["index_missing", MISMATCH, "write_block", "unauthorized", "unavailable"];
const MISMATCH: &str = "mismatch";

/// What the tasks of one worker share.
struct Shared {
    pipeline: Pipeline,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    /// Told when a message is given back: the store may be why.
    doubt: Arc<Notify>,
}

/// Processes deliveries until `stop`, then finishes what is in flight, gives back the rest, and closes the session, all
/// within `drain_deadline`.
pub async fn run(
    mut consumer: Consumer,
    pipeline: Pipeline,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    doubt: Arc<Notify>,
    drain_deadline: Duration,
) {
    let shared = Arc::new(Shared { pipeline, metrics, stop: stop.clone(), doubt });
    let tasks = TaskTracker::new();
    let abandon = CancellationToken::new();
    while let Some(Some(receipt)) = stop.run_until_cancelled(consumer.next()).await {
        let (shared, abandon) = (Arc::clone(&shared), abandon.clone());
        // Abandoned, a task drops its receipt, which gives the message back.
        tasks.spawn(async move { abandon.run_until_cancelled(shared.handle(receipt)).await });
    }

    let deadline = Instant::now() + drain_deadline;
    // Kept for giving back and closing.
    let reserve = (drain_deadline / 5).min(Duration::from_secs(3));
    consumer.stop();
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
        let start = Instant::now();
        let envelope = receipt.envelope();
        let result = self.pipeline.process(&envelope).await;
        self.metrics.stage(Stage::Total, start.elapsed());
        match result {
            Ok(outcome) => receipt.done(outcome).await,
            Err(failure) => {
                // Whatever is logged from here on says which image it is about.
                let span = tracing::warn_span!("message", image = message::name(&envelope.body));
                self.fail(receipt, &failure).instrument(span).await;
            }
        }
    }

    async fn fail(&self, receipt: Receipt, failure: &Failure) {
        let verdict = failure.verdict();
        if verdict == Verdict::GiveBack {
            tracing::warn!(%failure, "giving a message back");
            self.doubt.notify_one();
            let delay = LONGEST_GIVE_BACK_DELAY.mul_f64(fastrand::f64());
            self.stop.run_until_cancelled(sleep(delay)).await;
        }
        receipt.fail(verdict, cause(failure)).await;
    }
}

fn cause(failure: &Failure) -> Cause {
    let status = match failure {
        Failure::Fetch(fetch::Error::Status { status, .. }) => Some(*status),
        _ => None,
    };
    Cause { error: failure.to_string(), status }
}

/// Checks the store for as long as the process lives, and at once when `doubt` arises. Consuming begins when the store is
/// there, made for this model and takes writes, and rests while it is not.
pub async fn watch_store(
    store: Arc<Store>,
    model: Manifest,
    gate: watch::Sender<bool>,
    condition: watch::Sender<Condition>,
    metrics: Arc<Metrics>,
    doubt: Arc<Notify>,
) {
    let mut backoff = Backoff::new(STORE_RETRY.0, STORE_RETRY.1);
    loop {
        let state = store.check_writable(&model).await;
        let delay = if state.is_ok() {
            backoff.reset();
            STORE_CHECK_INTERVAL
        } else {
            backoff.next_delay()
        };
        gate.send_if_modified(|open| std::mem::replace(open, state.is_ok()) != state.is_ok());
        show_pause(&metrics, state.as_ref().err().map(pause));
        let fine = state.is_ok();
        tell(&condition, state.map_err(|error| error.to_string()));
        if fine {
            // Doubts of a store that is known to rest are none.
            tokio::select! { () = sleep(delay) => {}, () = doubt.notified() => {} }
        } else {
            sleep(delay).await;
        }
    }
}

/// The model that the store was made for, once it answers. Until then the condition says why not.
pub async fn await_model(store: &Store, condition: &watch::Sender<Condition>, metrics: &Metrics) -> Manifest {
    let mut backoff = Backoff::new(STORE_RETRY.0, STORE_RETRY.1);
    loop {
        let found = match store.origin().await {
            Ok(Some(origin)) => Manifest::find(&origin.model).map_err(|error| (MISMATCH, format!("{store}: {error}"))),
            Ok(None) => {
                let error = store::Error::Missing { store: store.to_string() };
                Err((pause(&error), error.to_string()))
            }
            Err(error) => Err((pause(&error), error.to_string())),
        };
        match found {
            Ok(model) => return model,
            Err((cause, reason)) => {
                show_pause(metrics, Some(cause));
                tell(condition, Err(reason));
            }
        }
        sleep(backoff.next_delay()).await;
    }
}

/// Why consuming rests while the store says this.
fn pause(error: &store::Error) -> &'static str {
    match error {
        store::Error::Missing { .. } | store::Error::Blocked { cause: Blocked::IndexMissing, .. } => "index_missing",
        store::Error::Blocked { cause: Blocked::WriteBlock, .. } => "write_block",
        store::Error::Blocked { cause: Blocked::Unauthorized, .. } => "unauthorized",
        store::Error::Mismatch { .. } => MISMATCH,
        store::Error::Unavailable { .. }
        | store::Error::TooLarge { .. }
        | store::Error::Refused { .. }
        | store::Error::Address { .. }
        | store::Error::UnknownId { .. }
        | store::Error::Io { .. } => "unavailable",
    }
}

fn show_pause(metrics: &Metrics, present: Option<&str>) {
    for cause in PAUSES {
        metrics.paused(cause, present == Some(cause));
    }
}

/// Updates a condition, and logs it where it changed.
fn tell(condition: &watch::Sender<Condition>, state: Condition) {
    condition.send_if_modified(|old| {
        if *old == state {
            return false;
        }
        match &state {
            Ok(()) => tracing::info!("the store is there and fits"),
            Err(reason) => tracing::warn!(%reason, "the store cannot be used; waiting for it"),
        }
        *old = state;
        true
    });
}
