#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::pin::pin;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::*;

/// As a command has it: fetches wait as long as it takes.
fn waiting_limiter(per_host: usize, all: usize) -> RequestLimiter {
    RequestLimiter::new(per_host, all, false)
}

/// As a worker has it.
fn deferring_limiter(per_host: usize) -> RequestLimiter {
    RequestLimiter::new(per_host, 1000, true)
}

fn known_hosts(limiter: &RequestLimiter) -> usize {
    lock(&limiter.hosts).by_name.len()
}

fn waiting(limiter: &RequestLimiter, host: &str) -> usize {
    lock(&limiter.hosts).by_name.get(host).map_or(0, |host| host.waiting.len())
}

fn acquire_at_once(limiter: &RequestLimiter, host: &str) -> RequestPermit {
    limiter.acquire(host).now_or_never().expect("a slot is free").unwrap()
}

#[tokio::test]
async fn a_host_has_its_limit_and_does_not_hold_up_others() {
    let limiter = waiting_limiter(1, 3);
    let first = acquire_at_once(&limiter, "a");
    let mut second = pin!(limiter.acquire("a"));
    assert!(second.as_mut().now_or_never().is_none());
    let _other = acquire_at_once(&limiter, "b");
    drop(first);
    second.await.unwrap();
}

#[tokio::test]
async fn waiting_for_a_busy_host_takes_nothing_from_the_common_limit() {
    let limiter = waiting_limiter(1, 2);
    let _busy = acquire_at_once(&limiter, "slow");
    let mut waiting = pin!(limiter.acquire("slow"));
    assert!(waiting.as_mut().now_or_never().is_none());
    acquire_at_once(&limiter, "quick");
}

#[tokio::test]
async fn all_hosts_share_a_limit() {
    let limiter = waiting_limiter(4, 2);
    let first = acquire_at_once(&limiter, "a");
    let _second = acquire_at_once(&limiter, "b");
    let mut third = pin!(limiter.acquire("c"));
    assert!(third.as_mut().now_or_never().is_none());
    drop(first);
    assert!(third.now_or_never().is_some());
}

#[tokio::test]
async fn hosts_are_forgotten_when_the_last_fetch_ends_or_gives_up() {
    let limiter = waiting_limiter(1, 10);
    let first = acquire_at_once(&limiter, "a");
    {
        let mut second = pin!(limiter.acquire("a"));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(known_hosts(&limiter), 1);
    }
    assert_eq!(known_hosts(&limiter), 1);
    drop(first);
    assert_eq!(known_hosts(&limiter), 0);
}

#[tokio::test]
async fn the_entry_stays_while_a_fetch_waits() {
    let limiter = waiting_limiter(1, 10);
    let first = acquire_at_once(&limiter, "a");
    let mut second = pin!(limiter.acquire("a"));
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    assert_eq!(known_hosts(&limiter), 1);
    let second = second.await;
    assert!(limiter.acquire("a").now_or_never().is_none(), "a new entry would have let a second one in");
    drop(second);
    assert_eq!(known_hosts(&limiter), 0);
}

#[tokio::test]
async fn nothing_waits_for_a_host_that_answers_nothing() {
    let limiter = deferring_limiter(2);
    let _held = [acquire_at_once(&limiter, "drip"), acquire_at_once(&limiter, "drip")];
    // A fetch that comes while the host may still be quick waits a moment, a later one not at all.
    assert!(limiter.acquire("drip").now_or_never().is_none());
    for result in join_all((0..50).map(|_| limiter.acquire("drip"))).await {
        assert!(matches!(result, Err(Error::Busy { what: "a request slot", .. })));
    }
    assert!(matches!(limiter.acquire("drip").now_or_never(), Some(Err(Error::Busy { .. }))));
    assert_eq!(waiting(&limiter, "drip"), 0);
}

/// One request that takes so long and is answered.
async fn request(limiter: &RequestLimiter, took: Duration) -> Result<(), Error> {
    let permit = limiter.acquire("a").await?;
    sleep(took).await;
    permit.end(RequestOutcome::Answered);
    Ok(())
}

#[tokio::test]
async fn any_number_may_wait_for_a_quick_host() {
    let limiter = deferring_limiter(2);
    for result in join_all((0..300).map(|_| request(&limiter, Duration::from_millis(5)))).await {
        result.unwrap();
    }
}

#[tokio::test]
async fn the_last_to_come_are_deferred_where_a_host_is_slow() {
    let limiter = deferring_limiter(1);
    let results = join_all((0..40).map(|_| request(&limiter, Duration::from_millis(300)))).await;
    assert!(results[0].is_ok() && results[1].is_ok(), "{results:?}");
    assert!(results[20..].iter().all(Result::is_err), "{results:?}");
}

#[tokio::test]
async fn a_failed_host_is_tried_by_one_request_at_a_time_until_it_recovers() {
    let limiter = deferring_limiter(16);
    let drips: Vec<_> = (0..4).map(|_| acquire_at_once(&limiter, "drip")).collect();
    assert!(limiter.acquire("drip").now_or_never().is_none(), "more requests than an unknown host may have");
    sleep(Duration::from_secs(2)).await;
    for permit in drips {
        permit.end(RequestOutcome::Failed);
    }
    assert_eq!(known_hosts(&limiter), 1, "remembered, though it is idle");

    let trial = acquire_at_once(&limiter, "drip");
    assert!(matches!(limiter.acquire("drip").now_or_never(), Some(Err(Error::Failing { failures: 4, .. }))));
    trial.end(RequestOutcome::Answered);
    let _as_before: Vec<_> = (0..4).map(|_| acquire_at_once(&limiter, "drip")).collect();
}

#[tokio::test]
async fn a_host_that_answers_gets_its_full_limit_and_no_more() {
    let limiter = deferring_limiter(6);
    for _ in 0..10 {
        acquire_at_once(&limiter, "quick").end(RequestOutcome::Answered);
    }
    assert_eq!(known_hosts(&limiter), 0);
    let mut held = vec![acquire_at_once(&limiter, "quick")];
    for _ in 0..10 {
        acquire_at_once(&limiter, "quick").end(RequestOutcome::Answered);
    }
    held.extend((0..5).map(|_| acquire_at_once(&limiter, "quick")));
    assert!(limiter.acquire("quick").now_or_never().is_none(), "more than six at once");
    drop(held);
}

#[tokio::test]
async fn hosts_whose_failures_are_long_past_are_forgotten() {
    let limiter = deferring_limiter(1);
    let past = |number: usize| (number.to_string(), Host::new(Instant::now(), 1));
    lock(&limiter.hosts).by_name = (0..=FEW_HOSTS).map(past).collect();
    acquire_at_once(&limiter, "another");
    assert_eq!(known_hosts(&limiter), 0);
}
