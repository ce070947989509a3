//! What happens when. Drawn from the seed before anything starts: the same seed gives the same schedule again.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

/// Milliseconds before a worker's next fault, and how long it is away then.
const WORKER: (Range<u64>, Range<u64>) = (6_000..14_000, 0..2_000);
/// The same for the broker. It takes about ten seconds to start besides.
const BROKER: (Range<u64>, Range<u64>) = (30_000..45_000, 0..3_000);
/// The same for Elasticsearch. It takes some 20 seconds to start besides.
const STORE: (Range<u64>, Range<u64>) = (10_000..18_000, 2_000..6_000);
/// No fault begins so shortly before the end.
const TAIL: Duration = Duration::from_secs(5);

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
    /// When it begins, after the start of the load.
    pub at: Duration,
    /// What.
    pub fault: F,
    /// How long it lasts before it is mended.
    pub lasts: Duration,
}

/// The faults of each party, in order. A party that is still busy with one when the next is due has it right after.
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
            workers: [(); 2].map(|()| events(rng.fork(), length, &workers, WORKER)),
            broker: events(rng.fork(), length, &ends, BROKER),
            store: events(rng.fork(), length, &store, STORE),
            load: rng.fork(),
        }
    }
}

/// Draws from a shuffled deck that is renewed when it is used up, so that a short run has one of each too.
fn events<F: Copy>(
    mut rng: Rng,
    length: Duration,
    deck: &[F],
    (pause, lasts): (Range<u64>, Range<u64>),
) -> Vec<Event<F>> {
    let (mut at, mut cards, mut events) = (Duration::ZERO, Vec::new(), Vec::new());
    loop {
        at += Duration::from_millis(rng.u64(pause.clone()));
        if at + TAIL > length {
            return events;
        }
        if cards.is_empty() {
            cards = deck.to_vec();
            rng.shuffle(&mut cards);
        }
        let lasts = Duration::from_millis(rng.u64(lasts.clone()));
        events.extend(cards.pop().map(|fault| Event { at, fault, lasts }));
    }
}

/// A fault of anyone, for people.
struct Line {
    at: Duration,
    who: &'static str,
    fault: String,
    lasts: Duration,
}

impl Plan {
    /// How often there is which fault.
    pub fn tally(&self) -> String {
        let mut counts = BTreeMap::<String, u64>::new();
        for line in self.lines() {
            *counts.entry(format!("{} {}", line.who, line.fault)).or_default() += 1;
        }
        let counts: Vec<_> = counts.iter().map(|(fault, count)| format!("{count} x {fault}")).collect();
        counts.join(", ")
    }

    /// All faults in the order of time.
    fn lines(&self) -> Vec<Line> {
        let [first, second] = &self.workers;
        let workers = lines("worker 0", first).chain(lines("worker 1", second));
        let servers = lines("RabbitMQ", &self.broker).chain(lines("Elasticsearch", &self.store));
        let mut lines: Vec<_> = workers.chain(servers).collect();
        lines.sort_by_key(|line| line.at);
        lines
    }
}

fn lines<F: fmt::Display>(who: &'static str, events: &[Event<F>]) -> impl Iterator<Item = Line> {
    events.iter().map(move |event| Line { at: event.at, who, fault: event.fault.to_string(), lasts: event.lasts })
}

impl fmt::Display for Plan {
    /// One line for each fault, in the order of time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().iter().try_for_each(|Line { at, who, fault, lasts }| {
            writeln!(f, "{:7.1} s  {who} {fault} for {:.1} s", at.as_secs_f64(), lasts.as_secs_f64())
        })
    }
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
