//! Slows refusals down while nearly every fetch is refused because its host is busy or has failed. Refusing at once
//! would only send the whole queue through the retry queues as fast as the broker delivers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::backpressure::window::Window;

const WINDOW: usize = 64;
/// So many of the window must have been refused: nine in ten.
const NEARLY_ALL: usize = 58;
/// The longest that a refusal is then delayed. Drawn evenly from zero, so that the delayed fetches do not continue all
/// at once.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Whether each of the last fetches was refused.
#[derive(Debug, Default)]
pub(in crate::fetch) struct Throttle(Mutex<Window<bool, WINDOW>>);

impl Throttle {
    /// Records a fetch. Returns how long its refusal is to be delayed.
    pub(in crate::fetch) fn record(&self, refused: bool) -> Duration {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push(refused);
        let nearly_all = recent.count(|&refused| refused) >= NEARLY_ALL;
        if refused && nearly_all { MAX_DELAY.mul_f64(fastrand::f64()) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    #[test]
    fn refusals_are_delayed_only_while_nearly_all_fetches_are_refused() {
        let throttle = Throttle::default();
        let delayed = |fetches: Range<u32>, refused: fn(u32) -> bool| {
            fetches.filter(|&number| !throttle.record(refused(number)).is_zero()).count()
        };
        assert_eq!(delayed(0..1000, |number| number % 10 < 8), 0, "eight in ten are refused");
        assert!(delayed(0..1000, |_| true) > 900);
        assert_eq!(delayed(0..1000, |_| false), 0);
    }
}
