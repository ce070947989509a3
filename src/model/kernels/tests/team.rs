//! Threads that meet, and one that does not come.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::team::Team;

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

#[test]
fn nobody_waits_for_a_thread_that_panicked_and_the_next_run_is_whole() {
    let team = team();
    let broken = catch_unwind(AssertUnwindSafe(|| {
        team.run(|member| {
            assert_ne!(member.index(), 2, "as it was told");
            member.meet();
        });
    }));
    assert!(broken.is_err());
    let met = AtomicUsize::new(0);
    team.run(|member| {
        met.fetch_add(1, Ordering::Relaxed);
        member.meet();
    });
    assert_eq!(met.into_inner(), THREADS);
}
