//! The schedule of faults, drawn from the seed before the start. The same seed gives each process the same faults in the same
//! order. How many of them happen, and which coincide, depends on how quickly servers start.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

/// Milliseconds before a fault of a worker, and until the next worker starts.
const WORKER: (Range<u64>, Range<u64>) = (5_000..12_000, 0..2_000);
/// The same for the broker, which takes about ten seconds to start.
const BROKER: (Range<u64>, Range<u64>) = (25_000..40_000, 0..3_000);
/// The same for Elasticsearch, which takes some 20 seconds to start.
const STORE: (Range<u64>, Range<u64>) = (6_000..10_000, 2_000..5_000);

/// How a process ends.
#[derive(Clone, Copy)]
pub enum End {
    /// SIGKILL.
    Killed,
    /// SIGTERM, or the server's own command.
    Stopped,
}

/// A fault of Elasticsearch.
#[derive(Clone, Copy)]
pub enum StoreFault {
    /// The server ends and is started again.
    Restarted(End),
    /// The index takes no writes under this block.
    Blocked(&'static str),
    /// Bulk requests are answered with this status.
    Refusing(u16),
    /// Bulk requests are done, but their answers do not arrive.
    Silent,
}

/// A fault of one process.
pub struct Event<F> {
    /// From the end of the fault before.
    pub pause: Duration,
    /// The fault.
    pub fault: F,
    /// How long it lasts.
    pub lasts: Duration,
}

/// The faults of each process, in order: at least enough for the duration.
pub struct Plan {
    pub workers: [Vec<Event<End>>; 2],
    pub broker: Vec<Event<End>>,
    pub store: Vec<Event<StoreFault>>,
    /// Draws what is published.
    pub load: Rng,
    /// Draws when old letters are replayed.
    pub replays: Rng,
}

impl Plan {
    /// Draws a plan.
    pub fn draw(seed: u64, length: Duration) -> Self {
        let mut rng = Rng::with_seed(seed);
        let ends = [End::Killed, End::Stopped];
        // Two kills for each SIGTERM.
        let workers = [End::Killed, End::Killed, End::Stopped];
        let store = [
            StoreFault::Restarted(End::Killed),
            StoreFault::Restarted(End::Stopped),
            StoreFault::Blocked("write"),
            StoreFault::Blocked("read_only_allow_delete"),
            StoreFault::Refusing(429),
            StoreFault::Refusing(503),
            StoreFault::Silent,
        ];
        Self {
            workers: [(); 2].map(|()| events(rng.fork(), length, &workers, &WORKER)),
            broker: events(rng.fork(), length, &ends, &BROKER),
            store: events(rng.fork(), length, &store, &STORE),
            load: rng.fork(),
            replays: rng.fork(),
        }
    }
}

/// Draws from a shuffled deck, which is renewed when it is used up: a short run has each fault too.
fn events<F: Copy>(mut rng: Rng, length: Duration, deck: &[F], times: &(Range<u64>, Range<u64>)) -> Vec<Event<F>> {
    let (mut time, mut cards, mut events) = (Duration::ZERO, Vec::new(), Vec::new());
    while time < length {
        if cards.is_empty() {
            cards = deck.to_vec();
            rng.shuffle(&mut cards);
        }
        let [pause, lasts] = [&times.0, &times.1].map(|range| Duration::from_millis(rng.u64(range.clone())));
        time += pause + lasts;
        events.extend(cards.pop().map(|fault| Event { pause, fault, lasts }));
    }
    events
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::Stopped => "stopped",
        })
    }
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restarted(end) => end.fmt(f),
            Self::Blocked(block) => write!(f, "blocked ({block})"),
            Self::Refusing(status) => write!(f, "answering {status}"),
            Self::Silent => f.write_str("losing answers"),
        }
    }
}
