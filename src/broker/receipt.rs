//! One delivery and the duty to settle it. Nothing else acknowledges deliveries.

use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use lapin::types::ShortString;
use tokio::runtime::Handle;

use super::headers::{self, Failed, History};
use super::session::{End, Session};
use crate::clock::now_ms;
use crate::metrics::{RetryCause, Settled};
use crate::outcome::{Outcome, Reason, Verdict};

/// A delivery that is not settled yet. Dropping it requeues the message: an early return, a panic and a cancelled task
/// lose nothing.
pub struct Receipt {
    delivery: Delivery,
    /// The session whose channel delivered it: it can only be acknowledged there.
    session: Arc<Session>,
    history: History,
    received_ms: u64,
    /// Taken from the quarantine queue.
    is_quarantined: bool,
    settled: bool,
}

/// Why a message failed, for the headers of its retry or dead letter.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The error, for people.
    pub error: String,
    /// The HTTP status of the image host, if it answered.
    pub status: Option<u16>,
}

/// A verdict whose budget is accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    DeadLetter(Reason),
    Retry(Option<Duration>),
    AwaitHost(Duration),
    Defer,
    Requeue,
}

/// The delivery count from which a message is quarantined. Restarts and pauses of the store requeue messages too, so a
/// message that reaches it is not dead-lettered, only processed alone.
const QUARANTINE_AFTER: u64 = 4;
/// The number of crashes with only this message in flight from which it is dead-lettered. More than one, because a worker
/// may be killed for another reason.
const POISON_AFTER: u64 = 3;

/// The time between two moments in ms since the epoch; zero if clocks disagree on their order.
fn between(earlier_ms: u64, later_ms: u64) -> Duration {
    Duration::from_millis(later_ms.saturating_sub(earlier_ms))
}

/// Applies a verdict to a message that failed `attempts` times before, the first time `failing_for` ago.
fn step(verdict: Verdict, attempts: u32, failing_for: Duration) -> Step {
    match verdict {
        Verdict::DeadLetter(reason) => Step::DeadLetter(reason),
        Verdict::Retry { reason, budget, .. } if attempts.saturating_add(1) > budget => Step::DeadLetter(reason),
        Verdict::Retry { after, .. } => Step::Retry(after),
        Verdict::AwaitHost { reason, longest, .. } if failing_for > longest => Step::DeadLetter(reason),
        Verdict::AwaitHost { after, .. } => Step::AwaitHost(after),
        Verdict::Defer => Step::Defer,
        Verdict::Requeue => Step::Requeue,
    }
}

impl Receipt {
    pub(super) fn new(delivery: Delivery, session: Arc<Session>) -> Self {
        session.metrics().received();
        let history = History::read(&delivery.properties);
        let received_ms = now_ms();
        // Only of a first delivery: the age of a retry or redelivery says nothing about the backlog.
        if let Some(sent_ms) = history.published_ms
            && history.is_first_delivery()
            && !delivery.redelivered
        {
            session.metrics().message_age(between(sent_ms, received_ms));
        }
        Self { delivery, session, history, received_ms, is_quarantined: false, settled: false }
    }

    /// The receipt of a message that was taken from the quarantine queue.
    pub(super) fn quarantined(delivery: Delivery, session: Arc<Session>) -> Self {
        let mut receipt = Self::new(delivery, session);
        receipt.is_quarantined = true;
        receipt
    }

    /// Whether the message was redelivered so often that it must be processed alone.
    pub fn needs_quarantine(&self) -> bool {
        !self.is_quarantined
            && self.session.delivery_count_is_reliable()
            && self.history.delivery_count >= QUARANTINE_AFTER
    }

    /// How many workers crashed with only this message in flight, if they are enough to dead-letter it.
    pub fn crash_count(&self) -> Option<u64> {
        let is_poison = self.is_quarantined
            && self.session.delivery_count_is_reliable()
            && self.history.delivery_count >= POISON_AFTER;
        is_poison.then_some(self.history.delivery_count)
    }

    /// Moves the message to the quarantine queue.
    pub async fn quarantine(mut self) {
        let queue = self.session.topology().quarantine().clone();
        tracing::warn!(delivery_count = self.history.delivery_count, %queue, "redelivered too often; to be processed alone");
        self.retry(queue, self.forward_properties(), RetryCause::Suspect).await;
    }

    /// The number of the session that delivered the message.
    pub fn generation(&self) -> u64 {
        self.session.generation()
    }

    /// The body, exactly as delivered.
    pub fn body(&self) -> &[u8] {
        &self.delivery.data
    }

    /// When the message was published, in ms since the epoch, where the broker or the producer has set that.
    pub fn published_ms(&self) -> Option<u64> {
        self.history.published_ms
    }

    /// When an operator last put the message back although it had expired.
    pub fn readmitted_ms(&self) -> Option<u64> {
        self.history.readmitted_ms
    }

    /// When a worker first received the message, in ms since the epoch.
    pub fn first_received_ms(&self) -> u64 {
        self.history.first_received(self.received_ms)
    }

    /// How many times processing the message has failed for its own reasons.
    pub fn attempts(&self) -> u32 {
        self.history.attempts
    }

    /// Completes when the session has ended. The broker then redelivers the message, so processing it here any further
    /// would be done twice, by more tasks than the prefetch count allows.
    pub async fn session_ended(&self) {
        let _ = self.session.ended().await;
    }

    /// Acknowledges a message whose outcome is durable.
    pub async fn done(mut self, outcome: Outcome) {
        self.ack(match outcome {
            Outcome::Indexed | Outcome::Unchanged => Settled::Indexed,
            Outcome::Deleted => Settled::Deleted,
            Outcome::Stale => Settled::Stale,
            Outcome::StaleDeletion => Settled::StaleDeletion,
        })
        .await;
    }

    /// Performs the verdict on a message that failed. The broker confirms the copy for a retry or dead-letter queue before
    /// the original is acknowledged. Without that confirm the original is redelivered.
    pub async fn fail(mut self, verdict: Verdict, cause: Cause) {
        let now_ms = now_ms();
        let failing_for = self.history.first_error_ms.map_or(Duration::ZERO, |first| between(first, now_ms));
        match step(verdict, self.history.attempts, failing_for) {
            Step::Requeue => {}
            Step::Defer => self.defer(&cause, now_ms).await,
            Step::Retry(after) => {
                let queue = self.session.topology().retry_tier(self.history.attempts, after).queue.clone();
                tracing::info!(error = cause.error, %queue, attempts = self.history.attempts, "trying again later");
                let cause_label = match verdict {
                    Verdict::Retry { reason: Reason::StoreFailed, .. } => RetryCause::StoreFailed,
                    _ => RetryCause::Host,
                };
                let failed = self.failed(&cause, now_ms);
                self.retry(queue, failed.properties(&self.delivery.properties), cause_label).await;
            }
            Step::AwaitHost(after) => {
                let queue = self.session.topology().retry_tier(0, Some(after)).queue.clone();
                tracing::debug!(error = cause.error, %queue, "waiting for the image host to recover");
                let failed = Failed { counts: false, ..self.failed(&cause, now_ms) };
                self.retry(queue, failed.properties(&self.delivery.properties), RetryCause::Host).await;
            }
            Step::DeadLetter(reason) => {
                let queue = self.session.topology().dead().clone();
                tracing::warn!(error = cause.error, reason = reason.code(), "dead-lettering");
                let failed = Failed { reason: Some(reason), ..self.failed(&cause, now_ms) };
                let properties = failed.properties(&self.delivery.properties);
                if self.republish(queue, properties, Settled::Dead).await {
                    self.session.metrics().dead_letter(reason);
                }
            }
        }
    }

    /// Lets the message wait for about as long as it has waited already, so that a message that is deferred repeatedly
    /// comes back less and less often.
    async fn defer(&mut self, cause: &Cause, now_ms: u64) {
        let waited = between(self.first_received_ms(), now_ms);
        let queue = self.session.topology().retry_tier(0, Some(waited)).queue.clone();
        tracing::debug!(reason = cause.error, %queue, "deferring a message");
        self.retry(queue, self.forward_properties(), RetryCause::Busy).await;
    }

    /// Moves the message to a queue from which it is processed again.
    async fn retry(&mut self, queue: ShortString, properties: BasicProperties, cause: RetryCause) {
        if self.republish(queue, properties, Settled::Retried).await {
            self.session.metrics().retry(cause);
        }
    }

    /// Publishes a copy to another queue, and acknowledges the original once the broker has confirmed the copy.
    async fn republish(&mut self, queue: ShortString, properties: BasicProperties, how: Settled) -> bool {
        self.session.publish(queue, &self.delivery.data, properties).await && self.ack(how).await
    }

    /// The failure, for the headers of a copy.
    fn failed<'a>(&'a self, cause: &'a Cause, now_ms: u64) -> Failed<'a> {
        Failed {
            history: &self.history,
            counts: true,
            received_ms: self.received_ms,
            now_ms,
            error: &cause.error,
            status: cause.status,
            reason: None,
        }
    }

    /// Whether the time of this delivery orders the message: nothing in it does, and no header says when it was first received.
    fn is_ordered_by_receipt(&self) -> bool {
        let History { first_received_ms, published_ms, .. } = self.history;
        first_received_ms.is_none() && published_ms.is_none() && !self.session.names_version(self.body())
    }

    /// The properties of a copy in another queue that adds no failure.
    fn forward_properties(&self) -> BasicProperties {
        headers::forward_properties(&self.delivery.properties, self.first_received_ms())
    }

    /// Acknowledges the message. `false` if its session has ended: the broker redelivers the message, which the document's
    /// version makes harmless.
    async fn ack(&mut self, how: Settled) -> bool {
        let acked = self.session.is_open()
            && match self.delivery.acker.ack(BasicAckOptions::default()).await {
                Ok(true) => true,
                Ok(false) => {
                    self.session.end(End::Ack("the channel takes no acknowledgements".to_owned()));
                    false
                }
                Err(error) => {
                    self.session.end(End::Ack(error.to_string()));
                    false
                }
            };
        if !acked {
            self.session.metrics().stale_ack();
        }
        self.settled = true;
        self.session.metrics().settled(if acked { how } else { Settled::Returned });
        acked
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let metrics = self.session.metrics();
        metrics.settled(Settled::Returned);
        let panicking = std::thread::panicking();
        if panicking {
            tracing::error!("processing a message panicked; requeueing it");
            metrics.retry(RetryCause::Panic);
        }
        if !self.session.is_open() {
            metrics.stale_ack();
            return;
        }
        // Outside a runtime the process is ending, and the broker requeues everything when the connection closes.
        let Ok(runtime) = Handle::try_current() else { return };
        let (acker, session) = (self.delivery.acker.clone(), Arc::clone(&self.session));
        // A quarantined message that did not crash the worker moves back to the work queue, with a delivery count of zero.
        // A requeue would raise the count as a crash does; after a panic it should. A message that is ordered by its receipt
        // takes the time of this first one along, or its next delivery would look newer than what came in between.
        let moved = (self.is_quarantined && !panicking) || self.is_ordered_by_receipt();
        let moved = moved.then(|| (std::mem::take(&mut self.delivery.data), self.forward_properties()));
        let requeue = async move {
            let requeued = if let Some((body, properties)) = moved {
                let queue = session.topology().queue().clone();
                session.publish(queue, &body, properties).await
                    && matches!(acker.ack(BasicAckOptions::default()).await, Ok(true))
            } else {
                let options = BasicNackOptions { requeue: true, ..Default::default() };
                matches!(acker.nack(options).await, Ok(true))
            };
            if !requeued {
                session.end(End::Ack("a message could not be requeued".to_owned()));
            }
        };
        self.session.requeues().spawn_on(requeue, &runtime);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_message_is_dead_lettered_when_its_budget_of_retries_is_used_up() {
        let verdict = Verdict::Retry { reason: Reason::HostFailed, budget: 2, after: None };
        for failing_for in [Duration::ZERO, Duration::MAX] {
            let step = |attempts| step(verdict, attempts, failing_for);
            assert_eq!((step(0), step(1)), (Step::Retry(None), Step::Retry(None)));
            assert_eq!(step(2), Step::DeadLetter(Reason::HostFailed));
            assert_eq!(step(u32::MAX), Step::DeadLetter(Reason::HostFailed));
        }
    }

    #[test]
    fn a_message_is_dead_lettered_when_its_host_was_awaited_for_too_long() {
        let (longest, after) = (Duration::from_mins(1), Duration::from_secs(5));
        let verdict = Verdict::AwaitHost { reason: Reason::HostFailed, longest, after };
        for attempts in [0, u32::MAX] {
            assert_eq!(step(verdict, attempts, longest), Step::AwaitHost(after));
            assert_eq!(step(verdict, attempts, longest * 2), Step::DeadLetter(Reason::HostFailed));
        }
    }

    #[test]
    fn other_verdicts_do_not_depend_on_the_history() {
        for (attempts, failing_for) in [(0, Duration::ZERO), (9, Duration::MAX)] {
            assert_eq!(step(Verdict::Requeue, attempts, failing_for), Step::Requeue);
            assert_eq!(step(Verdict::Defer, attempts, failing_for), Step::Defer);
            let verdict = Verdict::DeadLetter(Reason::NotAnImage);
            assert_eq!(step(verdict, attempts, failing_for), Step::DeadLetter(Reason::NotAnImage));
        }
    }
}
