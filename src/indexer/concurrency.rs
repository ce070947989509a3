//! How many requests may be on their way to the store at once: fewer while it has too much to do, then more again.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Additive increase, multiplicative decrease: halved at each answer that asks for less, one more after as many answers
/// as there are places. Workers that share a store thereby come to equal shares of what it can do (Chiu and Jain,
/// "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989).
pub(super) struct Limit {
    places: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
    most: usize,
}

struct State {
    /// Places at this moment; at least one.
    limit: usize,
    /// Answers since the last change of the limit.
    answers: usize,
    /// Places that are taken and vanish when they become free.
    surplus: usize,
}

/// A place, free again when dropped.
pub(super) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    state: Arc<Mutex<State>>,
}

impl Limit {
    /// Starts with `most` places, and never has more.
    pub(super) fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let state = State { limit: most, answers: 0, surplus: 0 };
        Self { places: Arc::new(Semaphore::new(most)), state: Arc::new(Mutex::new(state)), most }
    }

    /// Waits for a place; first come, first served.
    pub(super) async fn place(&self) -> Place {
        // The semaphore is never closed, which is the only way to get no permit.
        let permit = Arc::clone(&self.places).acquire_owned().await.ok();
        Place { permit, state: Arc::clone(&self.state) }
    }

    /// The store took a request. Returns the places there are now.
    pub(super) fn taken(&self) -> usize {
        let mut state = lock(&self.state);
        state.answers += 1;
        if state.limit < self.most && state.answers >= state.limit {
            state.limit += 1;
            state.answers = 0;
            if state.surplus > 0 {
                state.surplus -= 1;
            } else {
                self.places.add_permits(1);
            }
        }
        state.limit
    }

    /// The store has too much to do. Returns the places there are now.
    pub(super) fn overloaded(&self) -> usize {
        let mut state = lock(&self.state);
        let fewer = (state.limit / 2).max(1);
        let gone = state.limit - fewer;
        state.surplus += gone - self.places.forget_permits(gone);
        state.limit = fewer;
        state.answers = 0;
        fewer
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.surplus > 0
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
            state.surplus -= 1;
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use futures_util::FutureExt;

    use super::*;

    /// How many places can be taken now.
    fn free(limit: &Limit) -> usize {
        let mut places = Vec::new();
        while let Some(place) = limit.place().now_or_never() {
            places.push(place);
        }
        places.len()
    }

    #[test]
    fn halves_down_to_one_and_grows_back_to_the_most() {
        let limit = Limit::new(8);
        assert_eq!([(); 5].map(|()| limit.overloaded()), [4, 2, 1, 1, 1]);
        assert_eq!(free(&limit), 1);
        // One place more after one answer, then after two, three, ...
        let grown: Vec<_> = (0..40).map(|_| limit.taken()).collect();
        assert_eq!(grown[..6], [2, 2, 3, 3, 3, 4]);
        assert_eq!(grown[39], 8);
        assert_eq!(free(&limit), 8);
    }

    #[test]
    fn places_that_are_taken_vanish_when_they_become_free() {
        let limit = Limit::new(4);
        let taken: Vec<_> = (0..4).map(|_| limit.place().now_or_never().unwrap()).collect();
        limit.overloaded();
        limit.overloaded();
        assert_eq!(free(&limit), 0);
        let mut taken = taken.into_iter();
        for expected in [0, 0, 0, 1] {
            drop(taken.next());
            assert_eq!(free(&limit), expected);
        }
    }

    #[test]
    fn growing_again_takes_back_what_was_to_vanish() {
        let limit = Limit::new(4);
        let taken: Vec<_> = (0..4).map(|_| limit.place().now_or_never().unwrap()).collect();
        limit.overloaded();
        for _ in 0..10 {
            limit.taken();
        }
        drop(taken);
        assert_eq!(free(&limit), 4);
    }
}
