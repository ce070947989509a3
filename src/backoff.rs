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
    /// A fresh sequence. `base` bounds the first delay, `cap` every delay.
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

    /// Draws the next delay.
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

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff::new(Duration::from_hours(1), Duration::MAX);
        for _ in 0..100 {
            assert!(backoff.next_delay() <= Duration::MAX);
        }
    }
}
