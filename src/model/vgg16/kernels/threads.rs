//! The threads of a forward pass.
//!
//! They compute one layer at a time: within a layer each takes the next item of work, and a barrier separates the layers. That is
//! a few dozen barriers in some milliseconds, so threads spin while they wait. A thread that has waited for long goes to sleep: the
//! thread that it waits for may have lost its CPU to others, and then finds this one free. No thread is pinned to a CPU: that gains
//! nothing on an idle machine, and on a busy one it would leave a thread without a CPU to move to.

use std::hint::spin_loop;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// How long to spin before sleeping: a few times as long as a wake-up, and much less than a scheduler's time slice.
const SPINNING: Duration = Duration::from_micros(250);
/// Spins between two readings of the clock.
const SPINS: u32 = 16;

pub(super) struct Threads {
    pool: ThreadPool,
    /// Two runs at a time would deadlock: each could hold some of the threads.
    running: Mutex<()>,
}

impl Threads {
    /// `None` takes as many as are granted to the process.
    pub(super) fn new(threads: Option<NonZeroUsize>) -> Result<Self, ThreadPoolBuildError> {
        let threads = threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("compute-{i}")).build()?;
        Ok(Self { pool, running: Mutex::new(()) })
    }

    pub(super) fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    pub(super) fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// Runs the same function on every thread.
    ///
    /// # Panics
    /// When one of them panics.
    pub(super) fn run(&self, work: impl Fn(&Worker<'_>) + Sync) {
        let _only_run = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let barrier = Barrier { workers: self.count(), ..Barrier::default() };
        self.pool.broadcast(|context| {
            let worker = Worker { index: context.index(), barrier: &barrier };
            let _broken = BreakOnPanic(&barrier);
            work(&worker);
        });
    }
}

#[derive(Default)]
struct Barrier {
    workers: usize,
    arrived: AtomicUsize,
    /// How many times all have arrived.
    round: AtomicUsize,
    /// The next item of work before the next barrier.
    next: AtomicUsize,
    /// A thread has panicked and will not arrive.
    broken: AtomicBool,
    /// How many threads sleep.
    asleep: Mutex<usize>,
    wake: Condvar,
}

impl Barrier {
    /// Wakes the sleeping threads after a change that they wait for. A thread that has not seen the change either sleeps already, or
    /// sees it when it gets the lock.
    fn wake(&self) {
        if *self.asleep() > 0 {
            self.wake.notify_all();
        }
    }

    fn asleep(&self) -> MutexGuard<'_, usize> {
        self.asleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all have arrived.
    fn is_over(&self, round: usize) -> bool {
        assert!(!self.broken.load(Ordering::Acquire), "another thread of the forward pass panicked");
        self.round.load(Ordering::Acquire) != round
    }
}

/// Ends the wait of the others when a thread panics.
struct BreakOnPanic<'a>(&'a Barrier);

impl Drop for BreakOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
            self.0.wake();
        }
    }
}

/// One of the threads, in a run.
pub(super) struct Worker<'a> {
    index: usize,
    barrier: &'a Barrier,
}

impl Worker<'_> {
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// How many threads run.
    pub(super) fn count(&self) -> usize {
        self.barrier.workers
    }

    /// How many of the others sleep.
    #[cfg(test)]
    pub(super) fn others_asleep(&self) -> usize {
        *self.barrier.asleep()
    }

    /// The number of the next item of work, counted from the last barrier.
    pub(super) fn next_item(&self) -> usize {
        self.barrier.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits for the others. What they have written is visible then, and items of work are counted from 0 again.
    ///
    /// # Panics
    /// When another thread panicked.
    pub(super) fn barrier(&self) {
        let barrier = self.barrier;
        let round = barrier.round.load(Ordering::Acquire);
        if barrier.arrived.fetch_add(1, Ordering::AcqRel) + 1 == barrier.workers {
            barrier.arrived.store(0, Ordering::Relaxed);
            barrier.next.store(0, Ordering::Relaxed);
            barrier.round.store(round + 1, Ordering::Release);
            barrier.wake();
            return;
        }
        let arrived = Instant::now();
        while arrived.elapsed() < SPINNING {
            for _ in 0..SPINS {
                if barrier.is_over(round) {
                    return;
                }
                spin_loop();
            }
        }
        let mut asleep = barrier.asleep();
        *asleep += 1;
        while !barrier.is_over(round) {
            asleep = barrier.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
        *asleep -= 1;
    }
}
