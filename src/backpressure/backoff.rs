//! Exponential back-off with full jitter.

use std::time::Duration;

/// Delays that double from `base` to `cap`, each drawn evenly from zero to its bound.
///
/// Full jitter spreads clients that failed together over the whole interval, so that a recovering server is not met by
/// a synchronised wave (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// `base` bounds the first delay, `cap` every delay.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0 }
    }

    /// How many delays were drawn since the start or the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// The upper bound of the next delay.
    pub fn bound(&self) -> Duration {
        // 2^30 times any base passes every sensible cap; beyond that the shift itself would overflow.
        self.base.saturating_mul(1 << self.attempt.min(30)).min(self.cap)
    }

    pub fn next_delay(&mut self) -> Duration {
        let bound = self.bound();
        self.attempt = self.attempt.saturating_add(1);
        bound.mul_f64(fastrand::f64())
    }

    /// Starts again at `base`, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_cap_and_delays_stay_below_them() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for expected in [100, 200, 400, 800, 1000, 1000] {
            let bound = backoff.bound();
            assert_eq!(bound, Duration::from_millis(expected));
            assert!(backoff.next_delay() <= bound);
        }
        backoff.reset();
        assert_eq!(backoff.bound(), Duration::from_millis(100));
    }

    /// Durations of any size, each order of magnitude as likely as another.
    fn any_duration() -> Duration {
        let nanos = fastrand::u128(..) >> fastrand::u32(34..128);
        Duration::from_nanos_u128(nanos.min(Duration::MAX.as_nanos()))
    }

    #[test]
    fn for_any_bounds_no_delay_is_above_them_and_they_never_shrink() {
        fastrand::seed(5);
        for _ in 0..2_000 {
            let (base, cap) = (any_duration(), any_duration());
            let mut backoff = Backoff::new(base, cap);
            let mut before = Duration::ZERO;
            for attempt in 0..40 {
                assert_eq!(backoff.attempts(), attempt);
                let bound = backoff.bound();
                assert!(before <= bound && bound <= cap, "{base:?} to {cap:?}, attempt {attempt}: {bound:?}");
                let delay = backoff.next_delay();
                assert!(delay <= bound, "{base:?} to {cap:?}, attempt {attempt}: {delay:?} of {bound:?}");
                before = bound;
            }
        }
    }

    #[test]
    fn bounds_double_and_end_at_the_cap_for_every_sensible_pair() {
        fastrand::seed(5);
        for _ in 0..2_000 {
            let base = Duration::from_millis(fastrand::u64(1..=3_600_000));
            let cap = base + Duration::from_millis(fastrand::u64(..=86_400_000));
            let (mut backoff, mut expected) = (Backoff::new(base, cap), base);
            for attempt in 0..40 {
                assert_eq!(backoff.bound(), expected, "{base:?} to {cap:?}, attempt {attempt}");
                backoff.next_delay();
                expected = (expected * 2).min(cap);
            }
            assert_eq!(expected, cap);
        }
    }

    #[test]
    fn delays_are_spread_evenly_over_their_whole_interval() {
        const DRAWS: u32 = 20_000;
        fastrand::seed(5);
        let bound = Duration::from_secs(10);
        let mut backoff = Backoff::new(bound, bound);
        let delays: Vec<_> = (0..DRAWS).map(|_| backoff.next_delay()).collect();
        let mean = delays.iter().sum::<Duration>() / DRAWS;
        // 10 s / sqrt(12 * DRAWS) is 20 ms: five standard deviations.
        assert!(mean.abs_diff(bound / 2) < Duration::from_millis(100), "{mean:?}");
        for tenth in 0..10 {
            let within = delays.iter().filter(|delay| delay.as_secs() == tenth).count();
            assert!((1_800..2_200).contains(&within), "{within} of {DRAWS} within second {tenth}");
        }
    }

    #[test]
    fn a_minute_is_filled_by_few_attempts() {
        fastrand::seed(5);
        let (cap, hold) = (Duration::from_secs(10), Duration::from_mins(1));
        for _ in 0..2_000 {
            let mut backoff = Backoff::new(Duration::from_millis(100), cap);
            let (mut waited, mut most) = (Duration::ZERO, Duration::ZERO);
            while waited <= hold {
                most += backoff.bound();
                waited += backoff.next_delay();
                assert!(waited <= most && most <= cap * backoff.attempts(), "{waited:?} of {most:?}");
            }
            // Half the cap on average: about 12, and 7 on the way there.
            assert!((8..=45).contains(&backoff.attempts()), "{} attempts", backoff.attempts());
        }
    }
}
