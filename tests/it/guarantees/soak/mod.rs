//! All faults at once, at random from a seed.
//!
//! `IMGDEX_SOAK_SECONDS` is the duration (120), `IMGDEX_SOAK_SEED` the seed (1); `make soak` sets both.

mod faults;
mod load;
mod plan;
mod replays;
mod sender;

use std::cell::RefCell;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::accounting::Ledger;
use crate::support::flow::Flow;
use crate::support::proxy::Proxy;
use crate::support::report::report;
use crate::support::service::Service;
use faults::{Counts, Log, StoreFaults, WorkerSlot};
use plan::Plan;
use replays::Replays;

/// The default duration.
const SECONDS: u64 = 120;
/// The default seed.
const SEED: u64 = 1;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

#[tokio::test]
async fn under_random_faults_everything_published_is_indexed_or_dead_lettered_once() {
    let seconds = setting("IMGDEX_SOAK_SECONDS").unwrap_or(SECONDS);
    let seed = setting("IMGDEX_SOAK_SEED").unwrap_or(SEED);
    let plan = Plan::draw(seed, Duration::from_secs(seconds));
    let run = format!("{seconds} s from seed {seed}");
    println!("{run}:");

    let (broker, store) = tokio::join!(Service::rabbitmq(), Service::elasticsearch());
    let mut flow = Flow::at(&broker.url(), store.url()).await;
    flow.create_index("stub").await;
    // Elasticsearch remembers its own deletions for a shorter time than any message waits: what stands must not rest on them.
    flow.alias.set(json!({"index.gc_deletes": "1s"})).await;
    let proxy = Proxy::start(store.url());
    flow.store = proxy.store(&flow.alias.name);
    let ledger = RefCell::new(Ledger::default());
    let (mut first, mut second) = (WorkerSlot::new(0, &flow).await, WorkerSlot::new(1, &flow).await);

    let store_faults = StoreFaults { server: &store, proxy: &proxy, flow: &flow };
    let mut replays = Replays::new(&flow, &ledger, plan.replays);
    let log = Log::new(Duration::from_secs(seconds));
    let ((messages, again), ..) = tokio::join!(
        load::publish(&flow, plan.load, &ledger, log.until()),
        first.run(&plan.workers[0], &log, &flow),
        second.run(&plan.workers[1], &log, &flow),
        faults::broker(&plan.broker, &log, &broker),
        store_faults.run(&plan.store, &log),
        replays.run(&log),
    );
    let faults_over = Instant::now();
    let (old, replayed) = replays.finish().await;
    // The test's own connection has ended with its broker.
    flow.rabbit.reconnect().await;
    let mut ledger = ledger.into_inner();
    let idle = async || first.is_idle().await && second.is_idle().await;
    let balance = ledger.until_balanced(&flow, idle).await;
    let drained = faults_over.elapsed();

    let counts = first.finish().await.plus(second.finish().await);
    flow.assert_all_queues_empty().await;

    let (images, others) = ledger.published();
    let Counts { scrapes, deliveries, sessions, stale_acks } = counts;
    report(1, format!("{run}: {messages} messages, {again} of them published again; {log}: nothing lost"));
    report(2, format!("{run}: {images} images and {others} messages that are none: {balance}"));
    report(
        3,
        format!(
            "{run}: {old} images whose old letters were replayed ({replayed} letters) after a deletion or newer version: none came back"
        ),
    );
    report(13, format!("{run}: {stale_acks} stale acknowledgements in {sessions} sessions"));
    report(24, format!("{run}: {deliveries} deliveries reconcile in {scrapes} scrapes; drained in {drained:.1?}"));
}
