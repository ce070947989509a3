//! Checks store and network: messages are consumed only while both are usable.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::backpressure::backoff::Backoff;
use crate::fetch::Fetcher;
use crate::health::Condition;
use crate::indexer::breaker::Breaker;
use crate::metrics::{Metrics, PauseCause};
use crate::model::manifest::Manifest;
use crate::store::{self, Blocked, ErrorKind, Store, WriteOutcome};

/// How often a usable store is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Bounds of the delay between checks of a store that is not usable.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The causes of a pause for which the store is to blame.
const STORE_CAUSES: [PauseCause; 6] = [
    PauseCause::IndexMissing,
    PauseCause::Mismatch,
    PauseCause::WriteBlock,
    PauseCause::Unauthorized,
    PauseCause::Refusals,
    PauseCause::Unavailable,
];

/// Checks the store and the network for as long as the process lives, and at once when the indexer or the fetcher requests
/// it. Opens and closes the gate accordingly.
pub struct GateKeeper {
    pub store: Arc<Store>,
    /// The model that the store must be made for.
    pub model: Manifest,
    /// Opened by the indexer when the store refuses nearly all documents.
    pub breaker: Arc<Breaker>,
    /// Knows whether the network reaches any image host.
    pub fetcher: Arc<Fetcher>,
    /// Whether messages are consumed: `true` is open.
    pub gate: watch::Sender<bool>,
    /// For `/ready`.
    pub store_condition: watch::Sender<Condition>,
    /// For `/ready`.
    pub network_condition: watch::Sender<Condition>,
    /// For `imgdex_paused`.
    pub metrics: Arc<Metrics>,
}

impl GateKeeper {
    pub async fn run(self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let (store, network) = tokio::join!(self.check_store(), self.fetcher.check_network());
            let usable = store.is_ok() && network.is_ok();
            self.gate.send_if_modified(|open| std::mem::replace(open, usable) != usable);
            set_pause_cause(&self.metrics, store.as_ref().err().map(pause_cause));
            self.metrics.paused(PauseCause::Network, network.is_err());
            set_condition("store", &self.store_condition, store.map_err(|error| error.to_string()));
            set_condition("network", &self.network_condition, network.map_err(|error| error.to_string()));
            if usable {
                backoff.reset();
                tokio::select! {
                    () = sleep(CHECK_INTERVAL) => {}
                    () = self.breaker.check_requested() => {}
                    () = self.fetcher.outage() => {}
                }
            } else {
                // Requests for a check are not awaited here: the next check is due anyway.
                sleep(backoff.next_delay()).await;
            }
        }
    }

    /// Checks that the store exists, is made for this model, accepts writes, and does not refuse nearly all documents.
    async fn check_store(&self) -> Result<(), store::Error> {
        self.store.check_writable(&self.model).await?;
        let Some(tripped) = self.breaker.tripped() else { return Ok(()) };
        let written = self.store.write(&tripped.samples).await?;
        let taken = |written: &WriteOutcome| {
            matches!(written, WriteOutcome::Indexed | WriteOutcome::Deleted | WriteOutcome::Stale)
        };
        if written.iter().any(taken) {
            self.breaker.reset();
            return Ok(());
        }
        let reason = format!("nearly all documents are refused, the last ones with: {}", tripped.reason);
        Err(store::Error::new(&*self.store, ErrorKind::Blocked { cause: Blocked::Refusals, reason }))
    }
}

/// The model that the store was made for, once the store answers. Until then the condition has the reason.
pub async fn await_model(store: &Store, condition: &watch::Sender<Condition>, metrics: &Metrics) -> Manifest {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let found = match store.meta().await {
            Ok(Some(meta)) => {
                Manifest::find(&meta.model).map_err(|error| (PauseCause::Mismatch, format!("{store}: {error}")))
            }
            Ok(None) => {
                let error = store::Error::new(store, ErrorKind::Missing);
                Err((pause_cause(&error), error.to_string()))
            }
            Err(error) => Err((pause_cause(&error), error.to_string())),
        };
        match found {
            Ok(model) => return model,
            Err((cause, reason)) => {
                set_pause_cause(metrics, Some(cause));
                set_condition("store", condition, Err(reason));
            }
        }
        sleep(backoff.next_delay()).await;
    }
}

/// The cause of the pause while the store answers with this error.
fn pause_cause(error: &store::Error) -> PauseCause {
    match &error.kind {
        ErrorKind::Missing | ErrorKind::Blocked { cause: Blocked::IndexMissing, .. } => PauseCause::IndexMissing,
        ErrorKind::Blocked { cause: Blocked::WriteBlock, .. } => PauseCause::WriteBlock,
        ErrorKind::Blocked { cause: Blocked::Unauthorized, .. } => PauseCause::Unauthorized,
        ErrorKind::Blocked { cause: Blocked::Refusals, .. } => PauseCause::Refusals,
        ErrorKind::Mismatch { .. } => PauseCause::Mismatch,
        ErrorKind::Unavailable(_)
        | ErrorKind::Busy(_)
        | ErrorKind::TooLarge
        | ErrorKind::Refused(_)
        | ErrorKind::Address(_)
        | ErrorKind::UnknownId(_)
        | ErrorKind::Io(_) => PauseCause::Unavailable,
    }
}

fn set_pause_cause(metrics: &Metrics, present: Option<PauseCause>) {
    for cause in STORE_CAUSES {
        metrics.paused(cause, present == Some(cause));
    }
}

/// Updates a condition, and logs a change.
fn set_condition(what: &str, condition: &watch::Sender<Condition>, state: Condition) {
    condition.send_if_modified(|old| {
        if *old == state {
            return false;
        }
        match &state {
            Ok(()) => tracing::info!("the {what} is usable"),
            Err(reason) => tracing::warn!(%reason, "the {what} is not usable; waiting for it"),
        }
        *old = state;
        true
    });
}
