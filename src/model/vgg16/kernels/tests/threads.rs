//! Barriers, also with a thread that panics.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::super::threads::{Threads, Worker};

const THREADS: usize = 5;

fn five_threads() -> Threads {
    Threads::new(NonZeroUsize::new(THREADS)).unwrap()
}

#[test]
fn each_item_is_handed_out_once_and_done_when_all_pass_the_barrier() {
    let (threads, done) = (five_threads(), AtomicUsize::new(0));
    threads.run(|worker| {
        for round in 1..=20 {
            while worker.next_item() < 100 {
                done.fetch_add(1, Ordering::Relaxed);
            }
            worker.barrier();
            assert_eq!(done.load(Ordering::Relaxed), 100 * round);
            worker.barrier();
        }
    });
}

/// Waits until all others sleep.
fn arrive_last(worker: &Worker<'_>) {
    while worker.others_asleep() < THREADS - 1 {
        thread::yield_now();
    }
}

#[test]
fn the_last_thread_to_arrive_wakes_the_sleeping_ones() {
    let (threads, arrived) = (five_threads(), AtomicUsize::new(0));
    threads.run(|worker| {
        for last in 0..THREADS {
            if worker.index() == last {
                arrive_last(worker);
            }
            worker.barrier();
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(arrived.into_inner(), THREADS * THREADS);
}

#[test]
fn a_panic_ends_the_wait_of_the_others_and_the_next_run_is_complete() {
    let threads = five_threads();
    let panics = |asleep: bool| {
        let broken = catch_unwind(AssertUnwindSafe(|| {
            threads.run(|worker| {
                if worker.index() == 2 {
                    if asleep {
                        arrive_last(worker);
                    }
                    panic!("on purpose");
                }
                worker.barrier();
            });
        }));
        assert!(broken.is_err());
    };
    panics(false);
    panics(true);
    let arrived = AtomicUsize::new(0);
    threads.run(|worker| {
        arrived.fetch_add(1, Ordering::Relaxed);
        worker.barrier();
    });
    assert_eq!(arrived.into_inner(), THREADS);
}
