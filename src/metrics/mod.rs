//! Every metric of the program, declared once.
//!
//! Prefix `imgdex_`, base units, and no label whose values come from outside.

mod labels;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use strum::VariantArray;

pub use self::labels::{BulkItem, BulkStatus, PauseCause, RetryCause, SessionEnd, Settled, Stage};
use crate::outcome::{KillCause, Reason};

/// Latency buckets in seconds: from a loopback fetch to the longest time-out.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Age buckets in seconds: from fresh to a day's backlog.
const AGES: [f64; 9] = [0.1, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 21_600.0, 86_400.0];

/// The metrics of one process.
pub struct Metrics {
    registry: Registry,
    build_info: IntGaugeVec,
    /// Held while a delivery's counters change together and while they are read, so that every scrape reconciles:
    /// received = sum of outcomes + in flight.
    ledger: Mutex<()>,
    received: IntCounter,
    settled: IntCounterVec,
    in_flight: IntGauge,
    in_flight_bytes: IntGauge,
    dead_letters: IntCounterVec,
    retries: IntCounterVec,
    stages: HistogramVec,
    fetch_bytes: IntCounter,
    decoder_killed: IntCounterVec,
    extract_batch: Histogram,
    bulk_requests: IntCounterVec,
    bulk_items: IntCounterVec,
    bulk_concurrency: IntGauge,
    sessions: IntCounterVec,
    stale_acks: IntCounter,
    unknown_fields: IntCounter,
    without_order: IntCounter,
    paused: IntGaugeVec,
    age: Histogram,
}

impl Metrics {
    /// Declares every metric. `model` and `kernel` become labels of `imgdex_build_info`.
    pub fn new(model: &str, kernel: &str) -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("imgdex".into()), None)?;
        let build_info = IntGaugeVec::new(
            Opts::new("build_info", "Version, model and kernel of this process; always 1."),
            &["version", "model", "kernel"],
        )?;
        registry.register(Box::new(build_info.clone()))?;
        let metrics = Self {
            ledger: Mutex::new(()),
            received: counter(&registry, "messages_received_total", "Deliveries received.")?,
            settled: counters(&registry, "messages_total", "Deliveries settled, by outcome.", "outcome")?,
            in_flight: gauge(&registry, "inflight_messages", "Deliveries received and not yet settled.")?,
            in_flight_bytes: gauge(&registry, "inflight_bytes", "Memory of fetched images at this moment.")?,
            dead_letters: counters(&registry, "dead_letters_total", "Messages dead-lettered, by reason.", "reason")?,
            retries: counters(&registry, "retries_total", "Attempts that are made again, by cause.", "cause")?,
            stages: histograms(&registry, "stage_duration_seconds", "Time spent in each stage.", "stage")?,
            fetch_bytes: counter(&registry, "fetch_bytes_total", "Bytes of images fetched.")?,
            decoder_killed: counters(
                &registry,
                "decoder_killed_total",
                "Processes killed while they decoded an image, by cause.",
                "cause",
            )?,
            extract_batch: histogram(
                &registry,
                "extract_batch_size",
                "Images in one forward pass.",
                (1..=8).map(f64::from).collect(),
            )?,
            bulk_requests: counters(&registry, "bulk_requests_total", "Batches sent, by status.", "status")?,
            bulk_items: counters(&registry, "bulk_items_total", "Items of batches, by outcome.", "outcome")?,
            bulk_concurrency: gauge(
                &registry,
                "bulk_concurrency",
                "Batches that may be on their way to the store at once; fewer while it has too much to do.",
            )?,
            sessions: counters(&registry, "broker_sessions_total", "Broker sessions ended, by end.", "end")?,
            stale_acks: counter(&registry, "stale_acks_total", "Settlements skipped because their session had ended.")?,
            unknown_fields: counter(
                &registry,
                "unknown_fields_total",
                "Message fields that this version does not know.",
            )?,
            without_order: counter(
                &registry,
                "messages_without_order_total",
                "Deliveries with neither a version nor a timestamp, which are ordered by when they were first received.",
            )?,
            paused: gauges(&registry, "paused", "1 while consuming is paused, by cause.", "cause")?,
            age: histogram(
                &registry,
                "message_age_seconds",
                "Age of messages at their first receipt, where the broker or the producer has set a timestamp.",
                AGES.to_vec(),
            )?,
            registry,
            build_info,
        };
        metrics.identify(model, kernel);
        metrics.declare_label_values();
        Ok(metrics)
    }

    /// Sets the labels of `imgdex_build_info` anew, for a process that learns its model only from its store.
    pub fn identify(&self, model: &str, kernel: &str) {
        self.build_info.reset();
        self.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), model, kernel]).set(1);
    }

    /// Makes every label value visible from the start: a rate over a counter that appears late misses its first step.
    fn declare_label_values(&self) {
        declare::<Settled>(&self.settled);
        declare::<RetryCause>(&self.retries);
        declare::<SessionEnd>(&self.sessions);
        declare::<BulkStatus>(&self.bulk_requests);
        declare::<BulkItem>(&self.bulk_items);
        declare::<KillCause>(&self.decoder_killed);
        for reason in Reason::VARIANTS {
            self.dead_letters.with_label_values(&[reason.code()]);
        }
        for stage in Stage::VARIANTS {
            self.stages.with_label_values(&[name(stage)]);
        }
    }

    /// Counts a delivery in. Pair with exactly one [`Self::settled`].
    pub fn received(&self) {
        let _ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        self.received.inc();
        self.in_flight.inc();
    }

    /// Counts a delivery out.
    pub fn settled(&self, how: Settled) {
        let _ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        self.settled.with_label_values(&[name(how)]).inc();
        self.in_flight.dec();
    }

    /// How many deliveries are in flight.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// Adds to, or with a negative number takes from, the bytes held.
    pub fn hold_bytes(&self, bytes: i64) {
        self.in_flight_bytes.add(bytes);
    }

    /// The bytes held.
    pub fn held_bytes(&self) -> i64 {
        self.in_flight_bytes.get()
    }

    /// Counts a dead letter.
    pub fn dead_letter(&self, reason: Reason) {
        self.dead_letters.with_label_values(&[reason.code()]).inc();
    }

    /// Counts an attempt that is made again.
    pub fn retry(&self, cause: RetryCause) {
        self.retries.with_label_values(&[name(cause)]).inc();
    }

    /// Records the time of a stage, whether it succeeds or fails.
    pub async fn timed<T>(&self, stage: Stage, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = work.await;
        self.stage(stage, start.elapsed());
        result
    }

    /// Records the time of a stage.
    pub fn stage(&self, stage: Stage, elapsed: Duration) {
        self.stages.with_label_values(&[name(stage)]).observe(elapsed.as_secs_f64());
    }

    /// Counts bytes that were fetched.
    pub fn fetched(&self, bytes: u64) {
        self.fetch_bytes.inc_by(bytes);
    }

    /// Records the size of a forward pass.
    pub fn extract_batch(&self, images: usize) {
        self.extract_batch.observe(images as f64);
    }

    /// Counts a batch that was sent.
    pub fn bulk_request(&self, status: BulkStatus) {
        self.bulk_requests.with_label_values(&[name(status)]).inc();
    }

    /// Counts a process that was killed while it decoded an image.
    pub fn decoder_killed(&self, cause: KillCause) {
        self.decoder_killed.with_label_values(&[name(cause)]).inc();
    }

    /// Counts one item of a batch.
    pub fn bulk_item(&self, item: BulkItem) {
        self.bulk_items.with_label_values(&[name(item)]).inc();
    }

    /// Sets how many batches may be on their way at once.
    pub fn bulk_concurrency(&self, batches: usize) {
        self.bulk_concurrency.set(i64::try_from(batches).unwrap_or(i64::MAX));
    }

    /// Counts the end of a broker session.
    pub fn session_ended(&self, end: SessionEnd) {
        self.sessions.with_label_values(&[name(end)]).inc();
    }

    /// Counts a settlement that was skipped because its session had ended.
    pub fn stale_ack(&self) {
        self.stale_acks.inc();
    }

    /// Counts fields that a message had and this version does not know.
    pub fn unknown_fields(&self, count: usize) {
        self.unknown_fields.inc_by(count as u64);
    }

    /// Counts a delivery that only its receipt orders.
    pub fn message_without_order(&self) {
        self.without_order.inc();
    }

    /// Marks a cause of pausing as present or gone.
    pub fn paused(&self, cause: PauseCause, paused: bool) {
        self.paused.with_label_values(&[name(cause)]).set(i64::from(paused));
    }

    /// Records the age of a message at its first receipt.
    pub fn message_age(&self, age: Duration) {
        self.age.observe(age.as_secs_f64());
    }

    /// The Prometheus text format, in one consistent state.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let families = {
            let _ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            self.registry.gather()
        };
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

/// A label value as it is exported.
fn name(value: impl Into<&'static str>) -> &'static str {
    value.into()
}

fn declare<L: VariantArray + Copy + Into<&'static str>>(counters: &IntCounterVec) {
    for &value in L::VARIANTS {
        counters.with_label_values(&[name(value)]);
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let metric = IntCounter::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    let metric = IntCounterVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let metric = IntGauge::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauges(registry: &Registry, name: &str, help: &str, label: &str) -> prometheus::Result<IntGaugeVec> {
    let metric = IntGaugeVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: Vec<f64>) -> prometheus::Result<Histogram> {
    let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histograms(registry: &Registry, name: &str, help: &str, label: &str) -> prometheus::Result<HistogramVec> {
    let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), &[label])?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
