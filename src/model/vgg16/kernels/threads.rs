//! The threads of a forward pass.
//!
//! They go through the layers together: within a layer each takes the next piece of work, and none goes on before all have
//! finished. That is a few dozen meetings in some milliseconds, so they wait for each other spinning. Who has waited for long
//! goes to sleep: the thread that it waits for may have lost its CPU to others, and finds one free then. None is tied to a
//! CPU: that gains nothing on an idle machine, and takes this way out on a busy one.

use std::hint::spin_loop;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// How long to spin before sleeping: a few times what it takes to wake, and much less than a scheduler's time slice.
const SPINNING: Duration = Duration::from_micros(250);
/// Rounds between two looks at the clock.
const SPINS: u32 = 16;

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
    /// How many sleep.
    asleep: Mutex<usize>,
    wake: Condvar,
}

impl Meeting {
    /// Wakes all, after a change of what they wait for: who has not seen the change sleeps already, or will see it when this
    /// gives back the lock.
    fn wake(&self) {
        if *self.asleep() > 0 {
            self.wake.notify_all();
        }
    }

    fn asleep(&self) -> MutexGuard<'_, usize> {
        self.asleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the others have come, too.
    fn is_over(&self, round: usize) -> bool {
        assert!(!self.broken.load(Ordering::Acquire), "another thread of the forward pass panicked");
        self.round.load(Ordering::Acquire) != round
    }
}

/// Nobody waits for a thread that panicked.
struct BreakOnPanic<'a>(&'a Meeting);

impl Drop for BreakOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
            self.0.wake();
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

    /// How many of the others wait asleep.
    #[cfg(test)]
    pub(super) fn others_asleep(&self) -> usize {
        *self.meeting.asleep()
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
            meeting.wake();
            return;
        }
        let arrived = Instant::now();
        while arrived.elapsed() < SPINNING {
            for _ in 0..SPINS {
                if meeting.is_over(round) {
                    return;
                }
                spin_loop();
            }
        }
        let mut asleep = meeting.asleep();
        *asleep += 1;
        while !meeting.is_over(round) {
            asleep = meeting.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
        *asleep -= 1;
    }
}
