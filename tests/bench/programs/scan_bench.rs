//! How fast the embedded store searches: `scan_bench COUNT` fills a store with that many vectors of 512 values, and prints
//! the memory's read bandwidth and the time of `Store::search` per mode. For `tests/bench/scan_peers.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::thread;
use std::time::Instant;

use imgdex::testing::Embedding;
use imgdex::testing::Mode;
use imgdex::testing::model::Manifest;
use imgdex::testing::store::{Document, Query, Settings, Store, Target, Write, WriteOutcome};
use strum::VariantArray;

const DIMS: usize = 512;
const BATCH: u64 = 1000;
/// Of the buffer whose reading gives the bandwidth: far beyond what any cache holds.
const BYTES: usize = 1 << 30;
const RUNS: usize = 20;
const K: usize = 10;

fn embedding(random: &mut fastrand::Rng) -> Embedding {
    Embedding::normalize((0..DIMS).map(|_| random.f32()).collect()).unwrap()
}

fn document(number: u64, random: &mut fastrand::Rng) -> Write {
    Write::Put(Box::new(Document {
        id: format!("{number:08}"),
        url: format!("https://example.org/images/{number}.jpg"),
        collection: "default".to_owned(),
        version: 1,
        width: 500,
        height: 375,
        bytes: 40_000,
        format: "jpeg".to_owned(),
        content_sha256: "0".repeat(64),
        indexed_at_ms: 0,
        metadata: serde_json::Map::new(),
        embedding: Some(embedding(random)),
    }))
}

/// GB/s at which all threads together read memory: the best of the runs, so that what follows is not flattered.
fn bandwidth(threads: usize) -> f64 {
    let buffer: Vec<u64> = (0..(BYTES / size_of::<u64>()) as u64).collect();
    let share = buffer.len().div_ceil(threads);
    let run = || {
        let started = Instant::now();
        thread::scope(|scope| {
            for part in buffer.chunks(share) {
                scope.spawn(|| {
                    // Independent sums, which the compiler turns into vectors.
                    let mut sums = [0u64; 32];
                    for values in part.as_chunks::<32>().0 {
                        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
                    }
                    black_box(sums);
                });
            }
        });
        BYTES as f64 / started.elapsed().as_secs_f64() / 1e9
    };
    (0..RUNS).map(|_| run()).fold(0.0, f64::max)
}

#[tokio::main]
async fn main() {
    let count: u64 = std::env::args().nth(1).expect("COUNT").parse().expect("COUNT is a number");
    let threads = thread::available_parallelism().unwrap().get();
    let bandwidth_before = bandwidth(threads);

    let folder = std::env::temp_dir().join(format!("imgdex-scan-bench-{}", std::process::id()));
    let address = format!("sqlite:{}", folder.join("store.db").display()).into();
    let store =
        Store::open(&Settings { address, api_key: None, ca: None, allow_plain_http: false, accept_earlier: false })
            .unwrap();
    store.create(&Manifest::find("vgg16").unwrap()).await.unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let started = Instant::now();
    for first in (0..count).step_by(BATCH as usize) {
        let batch: Vec<_> = (first..count.min(first + BATCH)).map(|number| document(number, &mut random)).collect();
        let written = store.write(&batch).await.unwrap();
        assert!(written.iter().all(|one| *one == WriteOutcome::Indexed), "documents were refused");
    }
    let write_s = started.elapsed().as_secs_f64();

    let mut query = Query {
        target: Target::Embedding(embedding(&mut random)),
        mode: Mode::Cosine,
        k: K,
        min_similarity: None,
        collection: None,
        filters: BTreeMap::new(),
        approximate: false,
    };
    let started = Instant::now();
    assert_eq!(store.search(&query).await.unwrap().len(), K);
    let load_s = started.elapsed().as_secs_f64();

    let mut modes = serde_json::Map::new();
    for &mode in Mode::VARIANTS {
        query.mode = mode;
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let started = Instant::now();
            black_box(store.search(&query).await.unwrap());
            times.push(started.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        modes.insert(<&str>::from(mode).to_owned(), times[RUNS / 2].into());
    }
    let bandwidth = bandwidth_before.max(bandwidth(threads));
    std::fs::remove_dir_all(&folder).unwrap();
    let figures = serde_json::json!({
        "threads": threads, "gb_per_s": bandwidth, "write_s": write_s, "first_search_s": load_s, "search_ms": modes,
    });
    println!("{figures}");
}
