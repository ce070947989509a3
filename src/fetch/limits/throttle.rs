//! A brake for what would go round: where nearly every fetch is refused because its host is busy or has failed, there is nothing
//! useful to do, and refusing quickly would only send the whole queue through the retry queues as fast as the broker goes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// So many of the last 64 fetches must have been refused: nine in ten.
const NEARLY_ALL: u32 = 58;
/// The longest that a refusal is held back then. Drawn evenly, so that not all go on at once.
const LONGEST: Duration = Duration::from_secs(5);

/// What became of the last 64 fetches: a bit for each, set where it was refused.
#[derive(Debug, Default)]
pub(in crate::fetch) struct Brake(Mutex<u64>);

impl Brake {
    /// Records a fetch. How long its refusal should be held back.
    pub(in crate::fetch) fn record(&self, refused: bool) -> Duration {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = *last << 1 | u64::from(refused);
        if refused && last.count_ones() >= NEARLY_ALL { LONGEST.mul_f64(fastrand::f64()) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    #[test]
    fn only_where_nearly_all_is_refused_is_anything_held_back() {
        let brake = Brake::default();
        let held = |fetches: Range<u32>, refused: fn(u32) -> bool| {
            fetches.filter(|&number| !brake.record(refused(number)).is_zero()).count()
        };
        assert_eq!(held(0..1000, |number| number % 10 < 8), 0, "eight in ten are refused");
        assert!(held(0..1000, |_| true) > 900);
        assert_eq!(held(0..1000, |_| false), 0);
    }
}
