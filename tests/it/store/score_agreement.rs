//! Both stores find the same ten best as numpy in float64, with the same scores.
//!
//! `tests/fixtures/agreement.py` describes the vectors and makes the fixture.

use std::collections::BTreeMap;

use imgdex::testing::Embedding;
use imgdex::testing::Mode;
use imgdex::testing::model::Manifest;
use imgdex::testing::store::{Query, Settings, Store, Target, Write, WriteOutcome};
use serde::Deserialize;

use crate::support::documents;
use crate::support::elasticsearch::Alias;

const COUNT: u64 = 5000;
const DIMS: usize = 512;
const CLUSTERS: u64 = 250;
const NEAR_DUPLICATE: u64 = COUNT + 4;

#[derive(Deserialize)]
struct Fixture {
    first_values: Vec<f64>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    query: u64,
    mode: Mode,
    hits: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    n: u64,
    raw: f64,
    score: f64,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../fixtures/agreement.json")).unwrap()
}

/// Outputs of splitmix64 (Steele, Lea, Flood 2014) started at `seed`, as 24-bit integers.
fn splitmix64(seed: u64) -> impl Iterator<Item = u64> {
    (1..).map(move |step: u64| {
        let z = seed.wrapping_add(step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) >> 40
    })
}

fn integers(n: u64) -> Vec<u64> {
    let own = splitmix64((n + 1) << 40).take(DIMS);
    if n == NEAR_DUPLICATE {
        return integers(42).into_iter().zip(own).map(|(value, noise)| value + noise % 65_536).collect();
    }
    let base = splitmix64((n % CLUSTERS) << 32);
    base.zip(own).map(|(base, own)| if own % 4 == 0 { 0 } else { (3 * base + own) >> 2 }).collect()
}

fn vector(n: u64) -> Embedding {
    let values = integers(n);
    let norm = (values.iter().map(|value| value * value).sum::<u64>() as f64).sqrt();
    Embedding::from_unit(values.into_iter().map(|value| (value as f64 / norm) as f32).collect()).unwrap()
}

fn document(n: u64) -> Write {
    Write::Put(Box::new(documents::document(format!("{n:04}"), vector(n))))
}

async fn fill(store: &Store) {
    store.create(&Manifest::find("vgg16").unwrap()).await.unwrap();
    let ids: Vec<u64> = (0..COUNT).collect();
    for batch in ids.chunks(500) {
        let batch: Vec<_> = batch.iter().map(|&n| document(n)).collect();
        let written = store.write(&batch).await.unwrap();
        assert!(written.iter().all(|one| *one == WriteOutcome::Indexed), "{written:?}");
    }
}

/// The least of the neighbouring scores in the fixture are 4e-5 apart, so no tie may excuse another order.
async fn agrees(store: &Store) {
    const TOLERANCE: f64 = 1e-5;
    let close = |found: f64, expected: f64| (found - expected).abs() <= TOLERANCE * expected.abs();
    for case in fixture().cases {
        let query = Query {
            target: Target::Embedding(vector(case.query)),
            mode: case.mode,
            k: case.hits.len(),
            min_similarity: None,
            collection: None,
            filters: BTreeMap::new(),
            approximate: false,
        };
        let hits = store.search(&query).await.unwrap();
        let found: Vec<_> = hits.iter().map(|hit| hit.id.clone()).collect();
        let expected: Vec<_> = case.hits.iter().map(|hit| format!("{:04}", hit.n)).collect();
        assert_eq!(found, expected, "{store}, {:?} of {}", case.mode, case.query);
        for (hit, expected) in hits.iter().zip(&case.hits) {
            let (found, expected) = (hit.measure, (expected.score, case.mode.measure(expected.raw)));
            let place = format!("{store}, {:?} of {}: {hit:?}, expected {expected:?}", case.mode, case.query);
            assert!(close(found.score, expected.0), "{place}");
            assert!(close(found.distance, expected.1.distance), "{place}");
            assert!(close(found.similarity, expected.1.similarity), "{place}");
        }
    }
}

#[test]
fn the_vectors_are_those_of_the_fixture_script() {
    let expected = fixture().first_values;
    let found: Vec<_> = vector(0).as_slice()[..expected.len()].iter().map(|&value| f64::from(value)).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn elasticsearch_agrees_with_numpy() {
    let alias = Alias::new();
    let store = alias.open();
    fill(&store).await;
    alias.refresh().await;
    agrees(&store).await;
}

#[tokio::test]
async fn the_embedded_store_agrees_with_numpy() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("sqlite:{}", folder.path().join("store.db").display());
    let settings =
        Settings { address: address.into(), api_key: None, ca: None, allow_plain_http: false, accept_earlier: false };
    let store = Store::open(&settings).unwrap();
    fill(&store).await;
    agrees(&store).await;
}
