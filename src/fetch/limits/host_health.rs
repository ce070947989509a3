//! How a host has been doing lately: how many may ask it at once, and whether it is worth waiting for. Pure: the time comes
//! from outside.
//!
//! A worker has a fixed number of messages in hand. Those that are with one slow host, or wait for it, are missing to all the
//! others, so both have to be bounded, by how the host does rather than by numbers alone:
//!
//! - A host earns its turns: a few at first, one more with each answer, half as many after each that took long and brought
//!   nothing. A host that drips never holds more than a few messages; a quick one has all its turns after two round trips.
//! - No more fetches wait for a host than it has lately served: by Little's law, they wait about as long as "lately" is. A
//!   quick object store may have any number waiting; a host that drips has none. What is turned away goes to a retry queue,
//!   and nobody is blamed for that.
//! - A host whose turns brought nothing one after the other has failed. One fetch at a time tries whether it recovers, and the
//!   others are told so, which is neither their fault nor a try of theirs.

use std::time::Duration;

use tokio::time::Instant;

/// Turns of a host that has not answered yet.
const FIRST_TURNS: usize = 4;
/// "Lately" is the present one of these and the one before.
const LATELY: Duration = Duration::from_secs(2);
/// How long anyone may wait after the last free turn was taken: a host that has just got much to do had no time to serve.
const GRACE: Duration = Duration::from_secs(1);
/// A turn that brought nothing counts only if it took so long: a quick refusal holds nobody up.
const LONG: Duration = Duration::from_secs(2);
/// Fruitless turns in a row after which a host has failed.
const FAILED_AFTER: u32 = 4;
/// How long fruitless turns are remembered when nobody asks for the host: longer than messages wait for their retry.
const MEMORY: Duration = Duration::from_mins(5);

/// What a host has done.
#[derive(Debug)]
pub(in crate::fetch) struct Pace {
    /// How many turns it may have at once, and at most.
    turns: usize,
    most: usize,
    /// When the present span began.
    span: Instant,
    /// Turns that led to an answer in the present span, and in the one before.
    served: [usize; 2],
    /// Turns that took long and brought nothing, since the last answer.
    fruitless: u32,
    last_end: Instant,
    /// When the last free turn was taken; `None` while one is free.
    full_since: Option<Instant>,
}

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fetch) enum Ending {
    /// The host answered, if only that it refuses.
    Answer,
    /// It did not, or not to the end.
    Nothing,
    /// It was not the host that ended it.
    Ours,
}

/// What whoever wants a turn, or waits for one, should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fetch) enum Advice {
    /// Take it, or wait for it.
    Wait,
    /// Come again later.
    Later,
    /// The host has failed: so many turns in a row brought nothing.
    Failed(u32),
}

impl Pace {
    /// A host of which nothing is known, and its most turns at once.
    pub(in crate::fetch) fn unknown(now: Instant, most: usize) -> Self {
        let turns = FIRST_TURNS.min(most);
        Self { turns, most, span: now, served: [0, 0], fruitless: 0, last_end: now, full_since: None }
    }

    /// How many may ask the host at once.
    pub(in crate::fetch) fn turns(&self) -> usize {
        self.turns
    }

    /// The advice for one before whom `serving` others have a turn and `ahead` others wait.
    pub(in crate::fetch) fn advise(&mut self, now: Instant, serving: usize, ahead: usize) -> Advice {
        if self.fruitless >= FAILED_AFTER {
            return if serving + ahead < self.turns { Advice::Wait } else { Advice::Failed(self.fruitless) };
        }
        let fresh = self.full_since.is_none_or(|since| now.duration_since(since) < GRACE);
        if fresh || ahead < self.lately(now) { Advice::Wait } else { Advice::Later }
    }

    /// A turn began; so many are taken now.
    pub(in crate::fetch) fn begin(&mut self, now: Instant, serving: usize) {
        if serving >= self.turns {
            self.full_since.get_or_insert(now);
        }
    }

    /// A turn ended that began at `since`; so many others have one or wait for one.
    pub(in crate::fetch) fn end(&mut self, now: Instant, since: Instant, ending: Ending, others: usize) {
        self.last_end = now;
        match ending {
            Ending::Ours => {}
            Ending::Nothing if now.duration_since(since) >= LONG => {
                self.fruitless = self.fruitless.saturating_add(1);
                self.turns = (self.turns / 2).max(1);
            }
            Ending::Nothing | Ending::Answer => {
                self.fruitless = 0;
                self.turns = (self.turns + 1).min(self.most);
                self.lately(now);
                self.served[0] += 1;
            }
        }
        if others < self.turns {
            self.full_since = None;
        }
    }

    /// Whether there is something to remember of a host that nobody asks for.
    pub(in crate::fetch) fn matters(&self, now: Instant) -> bool {
        self.fruitless > 0 && now.duration_since(self.last_end) < MEMORY
    }

    /// How many were served lately.
    fn lately(&mut self, now: Instant) -> usize {
        let spans = now.duration_since(self.span).as_millis() / LATELY.as_millis();
        if spans > 0 {
            self.served = [0, if spans == 1 { self.served[0] } else { 0 }];
            self.span += LATELY * u32::try_from(spans).unwrap_or(u32::MAX);
        }
        self.served[0] + self.served[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MOST: usize = 16;

    /// A host all of whose turns are taken.
    fn full(now: Instant) -> Pace {
        let mut pace = Pace::unknown(now, MOST);
        pace.begin(now, FIRST_TURNS);
        pace
    }

    #[test]
    fn turns_are_earned_by_answers_and_lost_by_silence() {
        let now = Instant::now() + 60 * SECOND;
        let mut pace = Pace::unknown(now, MOST);
        for expected in [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 16] {
            assert_eq!(pace.turns(), expected);
            pace.end(now, now - SECOND, Ending::Answer, 0);
        }
        pace.end(now, now - LONG, Ending::Ours, 0);
        for expected in [16, 8, 4, 2, 1, 1] {
            assert_eq!(pace.turns(), expected);
            pace.end(now, now - LONG, Ending::Nothing, 0);
        }
        assert_eq!(Pace::unknown(now, 1).turns(), 1);
    }

    #[test]
    fn as_many_may_wait_as_were_served_lately() {
        let mut now = Instant::now();
        let mut pace = full(now);
        assert_eq!(pace.advise(now, 4, 1000), Advice::Wait, "it had no time to serve yet");
        now += GRACE;
        assert_eq!(pace.advise(now, 4, 0), Advice::Later);
        for _ in 0..10 {
            pace.end(now, now, Ending::Answer, MOST);
        }
        assert_eq!((pace.advise(now, 14, 9), pace.advise(now, 14, 10)), (Advice::Wait, Advice::Later));
        // A moment later they still count, two spans later no more.
        now += LATELY;
        assert_eq!(pace.advise(now, 14, 9), Advice::Wait);
        now += LATELY;
        assert_eq!(pace.advise(now, 14, 0), Advice::Later);
        // A free turn may be taken, and gives a new grace to those behind it.
        pace.end(now, now - SECOND, Ending::Ours, 13);
        assert_eq!(pace.advise(now, 13, 0), Advice::Wait);
        pace.begin(now, 14);
        assert_eq!(pace.advise(now, 14, 3), Advice::Wait);
    }

    #[test]
    fn a_host_fails_when_turn_after_turn_brought_nothing_until_one_brings_something() {
        let now = Instant::now() + 60 * SECOND;
        let mut pace = full(now - LONG);
        for others in (1..FAILED_AFTER as usize).rev() {
            pace.end(now, now - LONG, Ending::Nothing, others);
        }
        pace.end(now, now - LONG, Ending::Ours, 0);
        assert_eq!(pace.advise(now, 0, 0), Advice::Wait);
        pace.end(now, now - LONG, Ending::Nothing, 0);
        assert_eq!((pace.advise(now, 0, 0), pace.advise(now, 0, 1)), (Advice::Wait, Advice::Failed(FAILED_AFTER)));
        pace.end(now, now - SECOND, Ending::Nothing, 0);
        assert_eq!(pace.advise(now, 1, 0), Advice::Wait, "a quick refusal is an answer too");
    }

    #[test]
    fn only_trouble_is_remembered_and_not_for_ever() {
        let now = Instant::now() + 60 * SECOND;
        let mut pace = Pace::unknown(now, MOST);
        pace.end(now, now - LONG, Ending::Answer, 0);
        assert!(!pace.matters(now));
        pace.end(now, now - LONG, Ending::Nothing, 0);
        assert!(pace.matters(now + MEMORY - SECOND) && !pace.matters(now + MEMORY));
    }

    #[test]
    fn counts_are_of_the_present_span_and_the_one_before() {
        let start = Instant::now();
        let mut pace = Pace::unknown(start, MOST);
        let counts = [0, 1, 2, 3, 4, 5, 6].map(|seconds| {
            let now = start + seconds * SECOND;
            pace.end(now, now, Ending::Answer, 0);
            pace.lately(now)
        });
        assert_eq!(counts, [1, 2, 3, 4, 3, 4, 3]);
        assert_eq!(pace.lately(start + 1000 * SECOND), 0);
    }
}
