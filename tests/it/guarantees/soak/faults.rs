//! Runs the schedule: each process has its own faults, all at the same time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::plan::{End, Event, StoreFault};
use crate::support::flow::Flow;
use crate::support::process::Worker;
use crate::support::proxy::{Handling, Proxy};
use crate::support::scrape::Scrape;
use crate::support::service::Service;

/// The drain deadline is shorter than a slow image takes.
const FLAGS: [&str; 4] = ["--model", "stub", "--drain-deadline", "1"];
/// Between two scrapes of a worker.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(250);
/// No fault begins in this time before the end.
const TAIL: Duration = Duration::from_secs(10);
/// For a deletion to come by, before Elasticsearch ends. There may be no broker to deliver one.
const CATCH: Duration = Duration::from_secs(5);

/// The duration of a run, and its faults so far.
pub struct Log {
    begun: Instant,
    until: Instant,
    counts: RefCell<BTreeMap<String, u64>>,
}

impl Log {
    /// For a run that begins now.
    pub fn new(length: Duration) -> Self {
        let begun = Instant::now();
        Self { begun, until: begun + length, counts: RefCell::default() }
    }

    /// When the run ends.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// The moment after this pause; `None` where a fault would be too late.
    pub fn after(&self, pause: Duration) -> Option<Instant> {
        Some(Instant::now() + pause).filter(|at| *at + TAIL < self.until)
    }

    /// Prints and counts a fault.
    fn note<F: Display>(&self, process: &str, Event { fault, lasts, .. }: &Event<F>) {
        let (now, lasts) = (self.begun.elapsed().as_secs_f64(), lasts.as_secs_f64());
        println!("{now:7.1} s  {process} {fault} for {lasts:.1} s");
        self.count(format!("{process} {fault}"));
    }

    fn count(&self, what: String) {
        *self.counts.borrow_mut().entry(what).or_default() += 1;
    }
}

impl Display for Log {
    /// How often each fault happened.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.counts.borrow().iter().map(|(fault, count)| format!("{count} x {fault}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// A sequence of workers: each is started after the end of the one before.
pub struct WorkerSlot {
    number: usize,
    worker: Worker,
    /// The last scrape of the present worker.
    last: Option<Scrape>,
    /// Those of the workers before.
    counts: Counts,
    /// The logs of the workers before.
    log: String,
}

/// What the workers of a slot have counted, up to their last scrapes.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub scrapes: u64,
    pub deliveries: u64,
    pub sessions: u64,
    pub stale_acks: u64,
}

impl WorkerSlot {
    pub async fn new(number: usize, flow: &Flow) -> Self {
        let worker = flow.worker_with(&FLAGS).await;
        Self { number, worker, last: None, counts: Counts::default(), log: String::new() }
    }

    /// Ends one worker after the other.
    pub async fn run(&mut self, events: &[Event<End>], log: &Log, flow: &Flow) {
        for event in events {
            let Some(at) = log.after(event.pause) else { break };
            self.watch(at).await;
            log.note("worker", event);
            match event.fault {
                End::Killed => self.worker.kill(),
                End::Stopped => self.stop().await,
            }
            sleep(event.lasts).await;
            let next = flow.worker_with(&FLAGS).await;
            self.close();
            self.worker = next;
        }
        self.watch(log.until()).await;
    }

    /// Scrapes the worker until this moment. A worker that has crashed does not answer.
    async fn watch(&mut self, until: Instant) {
        while Instant::now() < until {
            self.scrape().await;
            sleep(SCRAPE_INTERVAL).await;
        }
    }

    /// Whether the worker has no message in flight.
    pub async fn is_idle(&mut self) -> bool {
        self.scrape().await.value("inflight_messages", &[]) == 0
    }

    async fn stop(&mut self) {
        assert_eq!(self.worker.terminate().await, Some(0), "the worker did not drain");
    }

    /// Stops the last worker. Returns the counts of all workers of this slot.
    pub async fn finish(mut self) -> Counts {
        self.stop().await;
        self.close();
        self.counts
    }

    async fn scrape(&mut self) -> &Scrape {
        self.counts.scrapes += 1;
        self.last.insert(self.worker.scrape().await)
    }

    fn close(&mut self) {
        if let Some(last) = self.last.take() {
            self.counts.deliveries += last.value("messages_received_total", &[]);
            self.counts.sessions += last.value("broker_sessions_total", &[]);
            self.counts.stale_acks += last.value("stale_acks_total", &[]);
        }
        self.log.push_str(&self.worker.log());
    }
}

impl Drop for WorkerSlot {
    /// Writes the logs of all workers of a failed test into a file, since they are too long to be printed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let file = format!("{}/soak-worker-{}.log", env!("CARGO_TARGET_TMPDIR"), self.number);
            let written = std::fs::write(&file, format!("{}{}", self.log, self.worker.log()));
            eprintln!("all workers of slot {}: {file} ({written:?})", self.number);
        }
    }
}

impl Counts {
    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            scrapes: self.scrapes + other.scrapes,
            deliveries: self.deliveries + other.deliveries,
            sessions: self.sessions + other.sessions,
            stale_acks: self.stale_acks + other.stale_acks,
        }
    }
}

/// Restarts RabbitMQ as planned.
pub async fn broker(events: &[Event<End>], log: &Log, broker: &Service) {
    for event in events {
        let Some(at) = log.after(event.pause) else { break };
        sleep_until(at).await;
        log.note("RabbitMQ", event);
        end_of(broker, event.fault).await;
        sleep(event.lasts).await;
        broker.start().await;
    }
}

/// Elasticsearch with the proxy in front of it.
pub struct StoreFaults<'a> {
    pub server: &'a Service,
    pub proxy: &'a Proxy,
    pub flow: &'a Flow,
}

impl StoreFaults<'_> {
    /// Runs the faults of Elasticsearch.
    pub async fn run(&self, events: &[Event<StoreFault>], log: &Log) {
        for event in events {
            let Some(at) = log.after(event.pause) else { break };
            sleep_until(at).await;
            log.note("Elasticsearch", event);
            if let StoreFault::Restarted(_) = event.fault
                && self.catch_a_deletion().await
            {
                log.count(format!("Elasticsearch {} with a deletion unanswered", event.fault));
            }
            self.inject(event.fault, event.lasts).await;
        }
    }

    /// Waits until Elasticsearch has written a deletion, and holds its answer. Whether one came by.
    async fn catch_a_deletion(&self) -> bool {
        self.proxy.script(|request| {
            if request.is_bulk() && deletes(&request.body) { Handling::HoldAnswer } else { Handling::Forward }
        });
        timeout(CATCH, self.proxy.until_held()).await.is_ok()
    }

    async fn inject(&self, fault: StoreFault, lasts: Duration) {
        match fault {
            StoreFault::Restarted(end) => {
                // Meanwhile the proxy answers 502 for a server that was stopped, and refuses connections for one that was killed.
                if let End::Killed = end {
                    self.proxy.down();
                }
                end_of(self.server, end).await;
                self.proxy.handle_bulks(Handling::Forward);
                self.proxy.drop_held();
                sleep(lasts).await;
                self.server.start().await;
                if let End::Killed = end {
                    self.proxy.up();
                }
            }
            StoreFault::Blocked(block) => {
                self.set(block, json!(true)).await;
                sleep(lasts).await;
                self.set(block, Value::Null).await;
            }
            StoreFault::Refusing(status) => self.handle_bulks(Handling::Status(status), lasts).await,
            StoreFault::Silent => self.handle_bulks(Handling::HoldAnswer, lasts).await,
        }
    }

    async fn handle_bulks(&self, handling: Handling, lasts: Duration) {
        self.proxy.handle_bulks(handling);
        sleep(lasts).await;
        self.proxy.handle_bulks(Handling::Forward);
        self.proxy.drop_held();
    }

    async fn set(&self, block: &str, value: Value) {
        self.flow.alias.set(json!({format!("index.blocks.{block}"): value})).await;
    }
}

/// Whether a bulk request has a tombstone in it: a document without a URL.
fn deletes(body: &[u8]) -> bool {
    let documents = body.split(|byte| *byte == b'\n').skip(1).step_by(2).filter(|line| !line.is_empty());
    documents.map(|line| serde_json::from_slice::<Value>(line).unwrap()).any(|document| document.get("url").is_none())
}

async fn end_of(service: &Service, end: End) {
    match end {
        End::Killed => service.kill(),
        End::Stopped => service.stop().await,
    }
}
