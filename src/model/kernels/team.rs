//! The threads of a forward pass.
//!
//! They go through the layers together: within a layer each takes the next piece of work, and none goes on before all have
//! finished. That is a few dozen meetings in some milliseconds, so they wait for each other spinning, not sleeping.

use std::hint::spin_loop;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// Rounds of spinning before the CPU is offered to others: there may be fewer of them than threads.
const SPINS: u32 = 20_000;

pub(super) struct Team {
    pool: ThreadPool,
    /// Two runs at a time would wait for each other for ever: each could have some of the threads.
    running: Mutex<()>,
}

impl Team {
    /// `threads` compute; `None` takes as many as are granted to the process.
    pub(super) fn new(threads: Option<NonZeroUsize>) -> Result<Self, ThreadPoolBuildError> {
        let threads = threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("compute-{i}")).build()?;
        Ok(Self { pool, running: Mutex::new(()) })
    }

    pub(super) fn size(&self) -> usize {
        self.pool.current_num_threads()
    }

    pub(super) fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// Runs the same work on every thread.
    ///
    /// # Panics
    /// When one of them does.
    pub(super) fn run(&self, work: impl Fn(&Member<'_>) + Sync) {
        let _alone = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let meeting = Meeting { size: self.size(), ..Meeting::default() };
        self.pool.broadcast(|context| {
            let member = Member { index: context.index(), meeting: &meeting };
            let _broken = BreakOnPanic(&meeting);
            work(&member);
        });
    }
}

#[derive(Default)]
struct Meeting {
    size: usize,
    arrived: AtomicUsize,
    /// How many meetings there were.
    round: AtomicUsize,
    /// The next piece of work before the next meeting.
    next: AtomicUsize,
    /// A thread will not come any more.
    broken: AtomicBool,
}

/// Nobody waits for a thread that panicked.
struct BreakOnPanic<'a>(&'a Meeting);

impl Drop for BreakOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
        }
    }
}

/// One of the threads.
pub(super) struct Member<'a> {
    index: usize,
    meeting: &'a Meeting,
}

impl Member<'_> {
    /// Which of them.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// How many they are.
    pub(super) fn team(&self) -> usize {
        self.meeting.size
    }

    /// Takes the next piece of work: its number since the last meeting.
    pub(super) fn take(&self) -> usize {
        self.meeting.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits for the others. What they have written is visible then, and the pieces of work are counted afresh.
    ///
    /// # Panics
    /// When another thread panicked.
    pub(super) fn meet(&self) {
        let meeting = self.meeting;
        let round = meeting.round.load(Ordering::Acquire);
        if meeting.arrived.fetch_add(1, Ordering::AcqRel) + 1 == meeting.size {
            meeting.arrived.store(0, Ordering::Relaxed);
            meeting.next.store(0, Ordering::Relaxed);
            meeting.round.store(round + 1, Ordering::Release);
            return;
        }
        let mut spins = 0;
        while meeting.round.load(Ordering::Acquire) == round {
            assert!(!meeting.broken.load(Ordering::Acquire), "another thread of the forward pass panicked");
            if spins < SPINS {
                spins += 1;
                spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}
