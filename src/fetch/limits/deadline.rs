//! The time limits of one fetch. The host's time runs while the fetch waits for the host; the fetch's own waiting time
//! runs while it waits for a free request slot or for memory.
//!
//! Only the host's time can count as a failure of the host. When the own waiting time is up, the fetch is deferred,
//! which counts as no failure.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::fetch::error::{Error, NoAnswer};
use crate::fetch::settings::Timeouts;

/// The phase that the time-out of the whole fetch names.
const WHOLE: &str = "complete image";

/// What is left of the time of one fetch, redirects and the second try included.
pub(in crate::fetch) struct Deadline {
    /// The host's time.
    total: Duration,
    left: Duration,
    /// The most own waiting time; `None`: no limit.
    max_wait: Option<Duration>,
    waited: Duration,
}

impl Deadline {
    pub(in crate::fetch) fn start(timeouts: &Timeouts, max_wait: Option<Duration>) -> Self {
        Self { total: timeouts.total, left: timeouts.total, max_wait, waited: Duration::ZERO }
    }

    /// Waits for the host, at most for `limit` and for what the fetch has left.
    ///
    /// # Errors
    /// [`NoAnswer::Timeout`], which names the phase, or the whole image where the time of the whole fetch is up.
    pub(in crate::fetch) async fn on_host_time<T>(
        &mut self,
        host: &str,
        (phase, limit): (&'static str, Duration),
        work: impl Future<Output = T>,
    ) -> Result<T, NoAnswer> {
        let (phase, limit, allowed) =
            if self.left < limit { (WHOLE, self.total, self.left) } else { (phase, limit, limit) };
        let start = Instant::now();
        let result = timeout(allowed, work).await;
        self.left = self.left.saturating_sub(start.elapsed());
        result.map_err(|_| NoAnswer::Timeout { host: host.to_owned(), phase, limit })
    }

    /// Sleeps on the host's time.
    ///
    /// # Errors
    /// [`NoAnswer::Timeout`] when the time of the whole fetch is up before.
    pub(in crate::fetch) async fn pause(&mut self, host: &str, pause: Duration) -> Result<(), NoAnswer> {
        self.on_host_time(host, (WHOLE, self.total), tokio::time::sleep(pause)).await
    }

    /// Waits for a resource of this process.
    ///
    /// # Errors
    /// [`Error::Busy`] when the own waiting time is up.
    pub(in crate::fetch) async fn on_own_time<T>(
        &mut self,
        host: &str,
        what: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        let result = match self.max_wait {
            Some(max_wait) => timeout(max_wait.saturating_sub(self.waited), work).await.ok(),
            None => Some(work.await),
        };
        self.waited += start.elapsed();
        result.ok_or_else(|| Error::Busy { host: host.to_owned(), what })
    }

    /// The own waiting time so far.
    pub(in crate::fetch) fn waited(&self) -> Duration {
        self.waited
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_mins(1);

    fn deadline(total: Duration, max_wait: Option<Duration>) -> Deadline {
        Deadline::start(&Timeouts { total, ..Timeouts::default() }, max_wait)
    }

    #[tokio::test]
    async fn the_host_is_not_charged_for_the_own_waiting_time() {
        let mut deadline = deadline(LONG, None);
        deadline.on_own_time("a", "a request slot", sleep(MOMENT)).await.unwrap();
        assert!(deadline.waited() >= MOMENT && deadline.left == LONG, "{:?} left", deadline.left);
        let waited = deadline.waited();
        deadline.on_host_time("a", ("answer", LONG), sleep(MOMENT)).await.unwrap();
        assert!(deadline.waited() == waited && deadline.left + MOMENT <= LONG, "{:?} left", deadline.left);
    }

    #[tokio::test]
    async fn each_phase_has_its_limit_and_all_of_them_together() {
        let mut deadline = deadline(LONG, None);
        let late = deadline.on_host_time("a", ("answer", MOMENT), pending::<()>()).await;
        assert!(matches!(late, Err(NoAnswer::Timeout { phase: "answer", limit: MOMENT, .. })), "{late:?}");
        deadline.left = MOMENT;
        let late = deadline.on_host_time("a", ("answer", LONG), pending::<()>()).await;
        assert!(matches!(late, Err(NoAnswer::Timeout { phase: WHOLE, limit: LONG, .. })), "{late:?}");
        assert_eq!(deadline.left, Duration::ZERO);
        assert!(deadline.pause("a", MOMENT).await.is_err());
    }

    #[tokio::test]
    async fn all_own_waiting_times_together_have_a_limit() {
        let mut deadline = deadline(LONG, Some(LONG));
        deadline.on_own_time("a", "a request slot", ready(())).await.unwrap();
        deadline.waited = LONG;
        for _ in 0..2 {
            let busy = deadline.on_own_time("a", "memory", pending::<()>()).await;
            assert!(matches!(busy, Err(Error::Busy { what: "memory", .. })), "{busy:?}");
        }
        assert_eq!(deadline.left, LONG);
    }
}
