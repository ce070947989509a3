//! What happens. Drawn from the seed before anything starts: the same seed gives each party the same faults in the same
//! order. How far they get, and what meets what, depends on how quickly servers start.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

/// Milliseconds that a worker has before a fault, and how long it is away then.
const WORKER: (Range<u64>, Range<u64>) = (5_000..12_000, 0..2_000);
/// The same for the broker. It takes about ten seconds to start besides.
const BROKER: (Range<u64>, Range<u64>) = (25_000..40_000, 0..3_000);
/// The same for Elasticsearch. It takes some 20 seconds to start besides.
const STORE: (Range<u64>, Range<u64>) = (6_000..10_000, 2_000..5_000);

/// How a process ends.
#[derive(Clone, Copy)]
pub enum End {
    /// SIGKILL.
    Killed,
    /// SIGTERM, or the server's own way to stop.
    Stopped,
}

/// What happens to Elasticsearch.
#[derive(Clone, Copy)]
pub enum StoreFault {
    /// The server ends and is started again.
    Away(End),
    /// The index takes no writes under this block.
    Blocked(&'static str),
    /// Bulk requests are answered with this status.
    Refusing(u16),
    /// Bulk requests are done, but their answers do not arrive.
    Silent,
}

/// A fault of one party.
pub struct Event<F> {
    /// How long after the one before was mended it begins.
    pub pause: Duration,
    /// What.
    pub fault: F,
    /// How long it lasts before it is mended.
    pub lasts: Duration,
}

/// The faults of each party, in order: enough for the time, and more than enough where mending takes long.
pub struct Plan {
    pub workers: [Vec<Event<End>>; 2],
    pub broker: Vec<Event<End>>,
    pub store: Vec<Event<StoreFault>>,
    /// Decides what is published.
    pub load: Rng,
}

impl Plan {
    /// Draws a plan.
    pub fn draw(seed: u64, length: Duration) -> Self {
        let mut rng = Rng::with_seed(seed);
        let ends = [End::Killed, End::Stopped];
        // A worker that is killed is the rule, one that stops in order the exception.
        let workers = [End::Killed, End::Killed, End::Stopped];
        let store = [
            StoreFault::Away(End::Killed),
            StoreFault::Away(End::Stopped),
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
        }
    }
}

/// Draws from a shuffled deck that is renewed when it is used up, so that a short run has one of each too.
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
            Self::Away(end) => end.fmt(f),
            Self::Blocked(block) => write!(f, "blocked ({block})"),
            Self::Refusing(status) => write!(f, "answering {status}"),
            Self::Silent => f.write_str("losing answers"),
        }
    }
}
