//! How fast documents go into Elasticsearch: `bulk STORE COUNT` writes that many through the worker's own path and prints
//! documents per second and CPU time of this process per document. For tests/bench/bulk.py.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use imgdex::testing::Embedding;
use imgdex::testing::Metrics;
use imgdex::testing::Outcome;
use imgdex::testing::indexer::{Indexer, Settings};
use imgdex::testing::store::{self, Document, Store};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const DIMS: usize = 512;
/// As the peer is set: 500 documents a request, two requests at a time.
const BATCH: usize = 500;
const REQUESTS: usize = 2;

fn document(number: u64, random: &mut fastrand::Rng) -> Document {
    Document {
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
        embedding: Some(Embedding::normalize((0..DIMS).map(|_| random.f32()).collect()).unwrap()),
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.cast_unsigned())
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().expect("STORE");
    let count: u64 = arguments.next().expect("COUNT").parse().expect("COUNT is a number");
    let settings = store::Settings {
        address: address.into(),
        api_key: None,
        ca: None,
        allow_plain_http: false,
        accept_earlier: false,
    };
    let store = Arc::new(Store::open(&settings).unwrap());
    let mut random = fastrand::Rng::with_seed(7);
    let documents: Vec<_> = (0..count).map(|number| document(number, &mut random)).collect();

    let metrics = Arc::new(Metrics::new("vgg16", "none").unwrap());
    let settings = Settings { max_items: BATCH, in_flight: REQUESTS, ..Settings::default() };
    let indexer = Indexer::start(store, settings, metrics);
    let (started, cpu_before) = (Instant::now(), cpu());
    let outcomes =
        stream::iter(documents).map(|document| indexer.put(document)).buffer_unordered(BATCH * (REQUESTS + 1));
    let refused = outcomes.filter(|outcome| std::future::ready(!matches!(outcome, Ok(Outcome::Indexed)))).count().await;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu().saturating_sub(cpu_before));
    assert_eq!(refused, 0, "documents were refused");
    let per_document = cpu.as_secs_f64() * 1000.0 / count as f64;
    println!("{{\"docs_per_s\": {:.0}, \"cpu_ms_per_doc\": {per_document:.4}}}", count as f64 / seconds);
}
