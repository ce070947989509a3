//! Which of two writes stands: one rule, and both stores keep it.

use std::collections::BTreeMap;

use fastrand::Rng;
use imgdex::testing::message::MAX_VERSION;
use imgdex::testing::store::Revision::{Deletion, Upsert};
use imgdex::testing::store::{Revision, Write, WriteOutcome};

use super::StoreInTest;
use crate::support::documents::{deletion, put};
use crate::support::report::{report, scaled};

fn write(id: &str, revision: Revision) -> Write {
    match revision {
        Deletion(version) => deletion(id, version),
        Upsert(version) => put(id, version),
    }
}

/// What each write of these should come to, given what stands, which is brought up to date.
fn expected(stands: &mut BTreeMap<String, Revision>, batch: &[(String, Revision)]) -> Vec<WriteOutcome> {
    let outcomes = batch.iter().map(|(id, new)| {
        if stands.get(id).is_some_and(|stored| !new.replaces(*stored)) {
            return WriteOutcome::Stale;
        }
        stands.insert(id.clone(), *new);
        if let Upsert(_) = new { WriteOutcome::Indexed } else { WriteOutcome::Deleted }
    });
    outcomes.collect()
}

/// Sends batches, and checks each outcome, and in the end what stands.
async fn keeps_the_rule(store: &StoreInTest, batches: &[Vec<(String, Revision)>]) {
    let mut stands = BTreeMap::new();
    for batch in batches {
        let writes: Vec<_> = batch.iter().map(|(id, revision)| write(id, *revision)).collect();
        let found = store.open.write(&writes).await.unwrap();
        assert_eq!(found, expected(&mut stands, batch), "{}: {batch:?}", store.open);
    }
    for (id, revision) in &stands {
        let found = store.open.get(id).await.unwrap().map(|stored| stored.revision());
        assert_eq!(found, Some(*revision), "{}: {id}", store.open);
    }
    store.refresh().await;
    let live = stands.values().filter(|revision| matches!(revision, Upsert(_))).count();
    assert_eq!(store.open.count().await.unwrap(), live as u64);
    assert_eq!(store.open.count_tombstones().await.unwrap(), (stands.len() - live) as u64);
}

/// Every pair of an upsert or a deletion at these versions, one after the other.
fn pairs() -> [Vec<(String, Revision)>; 2] {
    let versions = [0, 1, 2, 7, MAX_VERSION - 1, MAX_VERSION];
    let all: Vec<_> = versions.iter().flat_map(|&version| [Upsert(version), Deletion(version)]).collect();
    let of = |first: bool| {
        let pairs = all.iter().flat_map(|&a| all.iter().map(move |&b| (a, b)));
        pairs.map(|(a, b)| (format!("{a:?} {b:?}"), if first { a } else { b })).collect()
    };
    [of(true), of(false)]
}

/// Histories of ids in batches of any size, with several writes of one id in a batch.
fn histories(rng: &mut Rng, ids: usize) -> Vec<Vec<(String, Revision)>> {
    let mut all: Vec<_> = (0..ids)
        .flat_map(|id| {
            (0..rng.usize(2..9))
                .map(|_| {
                    let version = rng.u64(0..5);
                    (format!("id-{id}"), if rng.bool() { Upsert(version) } else { Deletion(version) })
                })
                .collect::<Vec<_>>()
        })
        .collect();
    rng.shuffle(&mut all);
    let mut batches = Vec::new();
    while !all.is_empty() {
        let rest = all.split_off(rng.usize(1..=50).min(all.len()));
        batches.push(std::mem::replace(&mut all, rest));
    }
    batches
}

#[tokio::test]
async fn both_stores_keep_the_rule_for_every_pair_of_writes() {
    for store in StoreInTest::both().await {
        keeps_the_rule(&store, &pairs()).await;
    }
}

#[tokio::test]
async fn both_stores_keep_the_rule_for_any_history() {
    let (ids, seed) = (scaled(200, 5_000), fastrand::u64(..));
    println!("seed {seed}");
    let batches = histories(&mut Rng::with_seed(seed), ids);
    for store in StoreInTest::both().await {
        keeps_the_rule(&store, &batches).await;
    }
    let writes: usize = batches.iter().map(Vec::len).sum();
    report(3, format!("{writes} upserts and deletions of {ids} ids end alike in both stores (seed {seed})"));
}

/// The end does not depend on the order of arrival.
#[test]
fn any_order_of_arrival_has_the_same_end() {
    let mut rng = Rng::with_seed(5);
    for _ in 0..1_000 {
        let mut history: Vec<_> = histories(&mut rng, 1).concat();
        let mut first = BTreeMap::new();
        expected(&mut first, &history);
        rng.shuffle(&mut history);
        let mut second = BTreeMap::new();
        expected(&mut second, &history);
        assert_eq!(first, second, "{history:?}");
    }
}
