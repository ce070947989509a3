#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::pin::pin;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::*;

/// Turns that are waited for as long as it takes.
fn patient(per_host: usize, all: usize) -> Turns {
    Turns::new(per_host, all, false)
}

/// Turns as a worker has them.
fn impatient(per_host: usize) -> Turns {
    Turns::new(per_host, 1000, true)
}

fn known_hosts(turns: &Turns) -> usize {
    lock(&turns.hosts).by_name.len()
}

fn waiting(turns: &Turns, host: &str) -> usize {
    lock(&turns.hosts).by_name.get(host).map_or(0, |host| host.waiting.len())
}

/// A turn that must be there at once.
fn at_once(turns: &Turns, host: &str) -> Turn {
    turns.take(host).now_or_never().expect("a turn is free").unwrap()
}

#[tokio::test]
async fn a_host_gets_so_many_at_a_time_and_others_are_not_held_up() {
    let turns = patient(1, 3);
    let first = at_once(&turns, "a");
    let mut second = pin!(turns.take("a"));
    assert!(second.as_mut().now_or_never().is_none());
    let _other = at_once(&turns, "b");
    drop(first);
    second.await.unwrap();
}

#[tokio::test]
async fn waiting_for_a_busy_host_takes_no_place_among_all() {
    let turns = patient(1, 2);
    let _busy = at_once(&turns, "slow");
    let mut waiting = pin!(turns.take("slow"));
    assert!(waiting.as_mut().now_or_never().is_none());
    at_once(&turns, "quick");
}

#[tokio::test]
async fn all_hosts_share_a_limit() {
    let turns = patient(4, 2);
    let first = at_once(&turns, "a");
    let _second = at_once(&turns, "b");
    let mut third = pin!(turns.take("c"));
    assert!(third.as_mut().now_or_never().is_none());
    drop(first);
    assert!(third.now_or_never().is_some());
}

#[tokio::test]
async fn hosts_are_forgotten_when_the_last_user_leaves_or_gives_up() {
    let turns = patient(1, 10);
    let first = at_once(&turns, "a");
    {
        let mut second = pin!(turns.take("a"));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(known_hosts(&turns), 1);
    }
    assert_eq!(known_hosts(&turns), 1);
    drop(first);
    assert_eq!(known_hosts(&turns), 0);
}

#[tokio::test]
async fn the_entry_stays_while_someone_waits() {
    let turns = patient(1, 10);
    let first = at_once(&turns, "a");
    let mut second = pin!(turns.take("a"));
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    assert_eq!(known_hosts(&turns), 1);
    let second = second.await;
    assert!(turns.take("a").now_or_never().is_none(), "a new entry would have let a second one in");
    drop(second);
    assert_eq!(known_hosts(&turns), 0);
}

#[tokio::test]
async fn a_host_that_serves_nobody_has_nobody_waiting() {
    let turns = impatient(2);
    let _held = [at_once(&turns, "drip"), at_once(&turns, "drip")];
    // Who comes while the host may still be quick waits a moment, who comes later not at all.
    assert!(turns.take("drip").now_or_never().is_none());
    for result in join_all((0..50).map(|_| turns.take("drip"))).await {
        assert!(matches!(result, Err(Error::Busy { what: "a turn", .. })));
    }
    assert!(matches!(turns.take("drip").now_or_never(), Some(Err(Error::Busy { .. }))));
    assert_eq!(waiting(&turns, "drip"), 0);
}

/// One visit that takes so long and brings an answer.
async fn visit(turns: &Turns, took: Duration) -> Result<(), Error> {
    let turn = turns.take("a").await?;
    sleep(took).await;
    turn.end(Ending::Answer);
    Ok(())
}

#[tokio::test]
async fn a_quick_host_may_have_everybody_waiting() {
    let turns = impatient(2);
    for result in join_all((0..300).map(|_| visit(&turns, Duration::from_millis(5)))).await {
        result.unwrap();
    }
}

#[tokio::test]
async fn those_that_came_last_are_turned_away_where_a_host_is_slow() {
    let turns = impatient(1);
    let results = join_all((0..40).map(|_| visit(&turns, Duration::from_millis(300)))).await;
    assert!(results[0].is_ok() && results[1].is_ok(), "{results:?}");
    assert!(results[20..].iter().all(Result::is_err), "{results:?}");
}

#[tokio::test]
async fn a_host_that_fails_every_turn_keeps_one_of_them_until_it_recovers() {
    let turns = impatient(16);
    let drips: Vec<_> = (0..4).map(|_| at_once(&turns, "drip")).collect();
    assert!(turns.take("drip").now_or_never().is_none(), "more turns than an unknown host has");
    sleep(Duration::from_secs(2)).await;
    for turn in drips {
        turn.end(Ending::Nothing);
    }
    assert_eq!(known_hosts(&turns), 1, "remembered, though nobody is there");

    let trial = at_once(&turns, "drip");
    assert!(matches!(turns.take("drip").now_or_never(), Some(Err(Error::Failing { turns: 4, .. }))));
    trial.end(Ending::Answer);
    let _as_before: Vec<_> = (0..4).map(|_| at_once(&turns, "drip")).collect();
}

#[tokio::test]
async fn a_host_that_answers_gets_all_its_turns_and_no_more() {
    let turns = impatient(6);
    for _ in 0..10 {
        at_once(&turns, "quick").end(Ending::Answer);
    }
    assert_eq!(known_hosts(&turns), 0);
    let mut held = vec![at_once(&turns, "quick")];
    for _ in 0..10 {
        at_once(&turns, "quick").end(Ending::Answer);
    }
    held.extend((0..5).map(|_| at_once(&turns, "quick")));
    assert!(turns.take("quick").now_or_never().is_none(), "more than six at once");
    drop(held);
}

#[tokio::test]
async fn many_hosts_whose_trouble_is_long_past_are_forgotten() {
    let turns = impatient(1);
    let past = |number: usize| (number.to_string(), Host::new(Instant::now(), 1));
    lock(&turns.hosts).by_name = (0..=FEW_HOSTS).map(past).collect();
    at_once(&turns, "another");
    assert_eq!(known_hosts(&turns), 0);
}
