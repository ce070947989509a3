//! Whose time passes during a fetch: the host's while the host is waited for, our own while our turn or our memory is.
//!
//! A host is blamed for its own time alone. Where our own is up, the fetch is put off, which is nobody's failure.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::fetch::{Error, Timeouts};

/// What a time-out of the whole fetch is said to miss.
const WHOLE: &str = "complete image";

/// The time of one fetch, redirects and the second try included.
pub(in crate::fetch) struct Clock {
    /// All the time that the host has, and what is left of it.
    total: Duration,
    left: Duration,
    /// What is left of the time in which the fetch waits for its turns and for memory; `None` where it waits as long as it
    /// takes.
    patience: Option<Duration>,
    waited: Duration,
}

impl Clock {
    pub(in crate::fetch) fn start(timeouts: &Timeouts, patience: Option<Duration>) -> Self {
        Self { total: timeouts.total, left: timeouts.total, patience, waited: Duration::ZERO }
    }

    /// Waits for the host, at most for `limit` and for what the fetch has left.
    ///
    /// # Errors
    /// [`Error::Timeout`], which names the phase, or the whole image where that is what is late.
    pub(in crate::fetch) async fn of_host<T>(
        &mut self,
        host: &str,
        (phase, limit): (&'static str, Duration),
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let (phase, limit, allowed) =
            if self.left < limit { (WHOLE, self.total, self.left) } else { (phase, limit, limit) };
        let start = Instant::now();
        let result = timeout(allowed, work).await;
        self.left = self.left.saturating_sub(start.elapsed());
        result.map_err(|_| Error::Timeout { host: host.to_owned(), phase, limit })
    }

    /// Leaves the host alone for a while, within the time that it has.
    ///
    /// # Errors
    /// [`Error::Timeout`] where that would be up.
    pub(in crate::fetch) async fn pause(&mut self, host: &str, pause: Duration) -> Result<(), Error> {
        self.of_host(host, (WHOLE, self.total), tokio::time::sleep(pause)).await
    }

    /// Waits for something of our own.
    ///
    /// # Errors
    /// [`Error::Busy`] where it takes too long.
    pub(in crate::fetch) async fn of_ours<T>(
        &mut self,
        host: &str,
        what: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        let result = match self.patience {
            Some(patience) => timeout(patience.saturating_sub(self.waited), work).await.ok(),
            None => Some(work.await),
        };
        self.waited += start.elapsed();
        result.ok_or_else(|| Error::Busy { host: host.to_owned(), what })
    }

    /// How long our own was waited for so far.
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

    fn clock(total: Duration, patience: Option<Duration>) -> Clock {
        Clock::start(&Timeouts { total, ..Timeouts::default() }, patience)
    }

    #[tokio::test]
    async fn the_host_is_not_charged_for_our_own_time() {
        let mut clock = clock(LONG, None);
        clock.of_ours("a", "a turn", sleep(MOMENT)).await.unwrap();
        assert!(clock.waited() >= MOMENT && clock.left == LONG, "{:?} left", clock.left);
        let waited = clock.waited();
        clock.of_host("a", ("answer", LONG), sleep(MOMENT)).await.unwrap();
        assert!(clock.waited() == waited && clock.left + MOMENT <= LONG, "{:?} left", clock.left);
    }

    #[tokio::test]
    async fn each_phase_has_its_limit_and_all_of_them_together() {
        let mut clock = clock(LONG, None);
        let late = clock.of_host("a", ("answer", MOMENT), pending::<()>()).await;
        assert!(matches!(late, Err(Error::Timeout { phase: "answer", limit: MOMENT, .. })), "{late:?}");
        clock.left = MOMENT;
        let late = clock.of_host("a", ("answer", LONG), pending::<()>()).await;
        assert!(matches!(late, Err(Error::Timeout { phase: WHOLE, limit: LONG, .. })), "{late:?}");
        assert_eq!(clock.left, Duration::ZERO);
        assert!(clock.pause("a", MOMENT).await.is_err());
    }

    #[tokio::test]
    async fn our_own_is_waited_for_so_long_in_all() {
        let mut clock = clock(LONG, Some(LONG));
        clock.of_ours("a", "a turn", ready(())).await.unwrap();
        clock.waited = LONG;
        for _ in 0..2 {
            let busy = clock.of_ours("a", "memory", pending::<()>()).await;
            assert!(matches!(busy, Err(Error::Busy { what: "memory", .. })), "{busy:?}");
        }
        assert_eq!(clock.left, LONG);
    }
}
