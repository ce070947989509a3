//! The wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in ms since the epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}

/// Versions for references that name none: the time in ms, and always greater than the one before, so that two references
/// to one image are ordered as they were given.
#[derive(Debug, Default)]
pub struct VersionClock {
    last: u64,
}

impl VersionClock {
    pub fn next_version(&mut self) -> u64 {
        self.last = now_ms().max(self.last + 1);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_even_within_a_millisecond() {
        let mut clock = VersionClock::default();
        let versions: Vec<_> = (0..1000).map(|_| clock.next_version()).collect();
        assert!(versions[0] >= now_ms() - 60_000);
        assert!(versions.is_sorted_by(|a, b| a < b));
    }
}
