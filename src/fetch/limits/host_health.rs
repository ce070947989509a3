//! How many requests a host may have at once, and whether waiting for it makes sense, judged by its recent requests.
//! Pure: the time is an argument.
//!
//! A worker has a fixed number of messages in flight. Those that wait for one slow host, or are being answered by it,
//! are unavailable to all other hosts. Fixed numbers cannot bound both, so the bounds follow how the host does:
//!
//! - A host earns its request limit: a few at first, one more with each answer, half as many after each slow failure. A
//!   host that drips never holds more than a few messages; a quick one has its full limit after two round trips.
//! - No more fetches wait for a host than it has answered lately: by Little's law, they wait about as long as "lately"
//!   is. A quick object store may have any number waiting; a host that drips has none. Further fetches are deferred to
//!   a retry queue, which counts as no failure.
//! - A host that failed several requests in a row has failed. One fetch at a time tries whether it has recovered. The
//!   others are refused at once, which counts neither as their failure nor as an attempt.

use std::time::Duration;

use tokio::time::Instant;

/// Requests at once at a host that has not answered yet.
const INITIAL_LIMIT: usize = 4;
/// "Lately" is the present span and the one before.
const SPAN: Duration = Duration::from_secs(2);
/// How long any fetch may wait after the last free slot was taken: a host that has just got many requests had no time
/// to answer.
const GRACE: Duration = Duration::from_secs(1);
/// A failure counts only if it took so long: a quick one holds up no message.
const SLOW: Duration = Duration::from_secs(2);
/// Slow failures in a row after which a host has failed.
const FAILED_AFTER: u32 = 4;
/// How long failures are remembered while the host is not asked for: longer than messages wait for their retry.
const REMEMBERED: Duration = Duration::from_mins(5);

/// The recent requests of one host.
#[derive(Debug)]
pub(in crate::fetch) struct HostHealth {
    /// How many requests it may have at once.
    limit: usize,
    max_limit: usize,
    /// When the present span began.
    span_start: Instant,
    /// Requests that were answered in the present span, and in the one before.
    answered: [usize; 2],
    /// Slow failures since the last answer.
    consecutive_failures: u32,
    last_end: Instant,
    /// When the last free slot was taken; `None` while one is free.
    full_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fetch) enum RequestOutcome {
    /// The host answered, if only with a refusal.
    Answered,
    /// It did not answer, or not completely.
    Failed,
    /// The request was ended on this side.
    Aborted,
}

/// Whether a fetch may send a request to a host, or wait until it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fetch) enum Admission {
    Admitted,
    /// Too many wait already: try again later.
    Deferred,
    /// The host has failed this many requests in a row.
    HostFailed(u32),
}

impl HostHealth {
    /// A host that has not been asked yet.
    pub(in crate::fetch) fn new(now: Instant, max_limit: usize) -> Self {
        Self {
            limit: INITIAL_LIMIT.min(max_limit),
            max_limit,
            span_start: now,
            answered: [0, 0],
            consecutive_failures: 0,
            last_end: now,
            full_since: None,
        }
    }

    /// How many requests the host may have at once.
    pub(in crate::fetch) fn limit(&self) -> usize {
        self.limit
    }

    /// For a fetch with `running` requests and `ahead` waiting fetches before it.
    pub(in crate::fetch) fn admission(&mut self, now: Instant, running: usize, ahead: usize) -> Admission {
        if self.consecutive_failures >= FAILED_AFTER {
            let is_trial = running + ahead < self.limit;
            return if is_trial { Admission::Admitted } else { Admission::HostFailed(self.consecutive_failures) };
        }
        let in_grace = self.full_since.is_none_or(|since| now.duration_since(since) < GRACE);
        if in_grace || ahead < self.answered_lately(now) { Admission::Admitted } else { Admission::Deferred }
    }

    /// A request was sent; with it, so many are running.
    pub(in crate::fetch) fn request_started(&mut self, now: Instant, running: usize) {
        if running >= self.limit {
            self.full_since.get_or_insert(now);
        }
    }

    /// A request ended that was sent at `since`; so many others are running or waiting.
    pub(in crate::fetch) fn request_ended(
        &mut self,
        now: Instant,
        since: Instant,
        outcome: RequestOutcome,
        others: usize,
    ) {
        self.last_end = now;
        match outcome {
            RequestOutcome::Aborted => {}
            RequestOutcome::Failed if now.duration_since(since) >= SLOW => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                self.limit = (self.limit / 2).max(1);
            }
            RequestOutcome::Failed | RequestOutcome::Answered => {
                self.consecutive_failures = 0;
                self.limit = (self.limit + 1).min(self.max_limit);
                self.answered_lately(now);
                self.answered[0] += 1;
            }
        }
        if others < self.limit {
            self.full_since = None;
        }
    }

    /// Whether an idle host has recent failures, which are to be remembered.
    pub(in crate::fetch) fn has_recent_failures(&self, now: Instant) -> bool {
        self.consecutive_failures > 0 && now.duration_since(self.last_end) < REMEMBERED
    }

    fn answered_lately(&mut self, now: Instant) -> usize {
        let spans = now.duration_since(self.span_start).as_millis() / SPAN.as_millis();
        if spans > 0 {
            self.answered = [0, if spans == 1 { self.answered[0] } else { 0 }];
            self.span_start += SPAN * u32::try_from(spans).unwrap_or(u32::MAX);
        }
        self.answered[0] + self.answered[1]
    }
}

#[cfg(test)]
mod tests {
    use super::Admission::{Admitted, Deferred, HostFailed};
    use super::RequestOutcome::{Aborted, Answered, Failed};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MAX_LIMIT: usize = 16;

    /// A host without a free slot.
    fn full(now: Instant) -> HostHealth {
        let mut health = HostHealth::new(now, MAX_LIMIT);
        health.request_started(now, INITIAL_LIMIT);
        health
    }

    #[test]
    fn the_limit_grows_with_answers_and_shrinks_with_slow_failures() {
        let now = Instant::now() + 60 * SECOND;
        let mut health = HostHealth::new(now, MAX_LIMIT);
        for expected in [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 16] {
            assert_eq!(health.limit(), expected);
            health.request_ended(now, now - SECOND, Answered, 0);
        }
        health.request_ended(now, now - SLOW, Aborted, 0);
        for expected in [16, 8, 4, 2, 1, 1] {
            assert_eq!(health.limit(), expected);
            health.request_ended(now, now - SLOW, Failed, 0);
        }
        assert_eq!(HostHealth::new(now, 1).limit(), 1);
    }

    #[test]
    fn as_many_may_wait_as_were_answered_lately() {
        let mut now = Instant::now();
        let mut health = full(now);
        assert_eq!(health.admission(now, 4, 1000), Admitted, "it had no time to answer yet");
        now += GRACE;
        assert_eq!(health.admission(now, 4, 0), Deferred);
        for _ in 0..10 {
            health.request_ended(now, now, Answered, MAX_LIMIT);
        }
        assert_eq!((health.admission(now, 14, 9), health.admission(now, 14, 10)), (Admitted, Deferred));
        // One span later they still count, two spans later they do not.
        now += SPAN;
        assert_eq!(health.admission(now, 14, 9), Admitted);
        now += SPAN;
        assert_eq!(health.admission(now, 14, 0), Deferred);
        // A free slot may be taken, and starts a new grace for the fetches behind it.
        health.request_ended(now, now - SECOND, Aborted, 13);
        assert_eq!(health.admission(now, 13, 0), Admitted);
        health.request_started(now, 14);
        assert_eq!(health.admission(now, 14, 3), Admitted);
    }

    #[test]
    fn a_host_has_failed_after_consecutive_failures_until_it_answers() {
        let now = Instant::now() + 60 * SECOND;
        let mut health = full(now - SLOW);
        for others in (1..FAILED_AFTER as usize).rev() {
            health.request_ended(now, now - SLOW, Failed, others);
        }
        health.request_ended(now, now - SLOW, Aborted, 0);
        assert_eq!(health.admission(now, 0, 0), Admitted);
        health.request_ended(now, now - SLOW, Failed, 0);
        assert_eq!((health.admission(now, 0, 0), health.admission(now, 0, 1)), (Admitted, HostFailed(FAILED_AFTER)));
        health.request_ended(now, now - SECOND, Failed, 0);
        assert_eq!(health.admission(now, 1, 0), Admitted, "a quick failure counts as an answer");
    }

    #[test]
    fn only_failures_are_remembered_and_not_for_ever() {
        let now = Instant::now() + 60 * SECOND;
        let mut health = HostHealth::new(now, MAX_LIMIT);
        health.request_ended(now, now - SLOW, Answered, 0);
        assert!(!health.has_recent_failures(now));
        health.request_ended(now, now - SLOW, Failed, 0);
        assert!(health.has_recent_failures(now + REMEMBERED - SECOND) && !health.has_recent_failures(now + REMEMBERED));
    }

    #[test]
    fn counts_are_of_the_present_span_and_the_one_before() {
        let start = Instant::now();
        let mut health = HostHealth::new(start, MAX_LIMIT);
        let counts = [0, 1, 2, 3, 4, 5, 6].map(|seconds| {
            let now = start + seconds * SECOND;
            health.request_ended(now, now, Answered, 0);
            health.answered_lately(now)
        });
        assert_eq!(counts, [1, 2, 3, 4, 3, 4, 3]);
        assert_eq!(health.answered_lately(start + 1000 * SECOND), 0);
    }
}
