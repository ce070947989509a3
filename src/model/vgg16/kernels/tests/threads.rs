//! Threads that meet, and one that does not come.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::super::threads::{Member, Team};

const THREADS: usize = 5;

fn team() -> Team {
    Team::new(NonZeroUsize::new(THREADS)).unwrap()
}

#[test]
fn work_is_handed_out_once_and_done_when_all_have_met() {
    let (team, done) = (team(), AtomicUsize::new(0));
    team.run(|member| {
        for round in 1..=20 {
            while member.take() < 100 {
                done.fetch_add(1, Ordering::Relaxed);
            }
            member.meet();
            assert_eq!(done.load(Ordering::Relaxed), 100 * round);
            member.meet();
        }
    });
}

/// Comes last, when all others have fallen asleep over it.
fn come_last(member: &Member<'_>) {
    while member.others_asleep() < THREADS - 1 {
        thread::yield_now();
    }
}

#[test]
fn sleepers_are_woken_by_the_last_to_come() {
    let (team, met) = (team(), AtomicUsize::new(0));
    team.run(|member| {
        for last in 0..THREADS {
            if member.index() == last {
                come_last(member);
            }
            member.meet();
            met.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(met.into_inner(), THREADS * THREADS);
}

#[test]
fn nobody_waits_for_a_thread_that_panicked_and_the_next_run_is_whole() {
    let team = team();
    let panics = |asleep: bool| {
        let broken = catch_unwind(AssertUnwindSafe(|| {
            team.run(|member| {
                if member.index() == 2 {
                    if asleep {
                        come_last(member);
                    }
                    panic!("as it was told");
                }
                member.meet();
            });
        }));
        assert!(broken.is_err());
    };
    panics(false);
    panics(true);
    let met = AtomicUsize::new(0);
    team.run(|member| {
        met.fetch_add(1, Ordering::Relaxed);
        member.meet();
    });
    assert_eq!(met.into_inner(), THREADS);
}
