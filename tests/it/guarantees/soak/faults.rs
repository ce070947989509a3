//! Making the plan come true: each party by itself, all at the same time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::plan::{End, Event, StoreFault};
use crate::support::accounting::Books;
use crate::support::flow::Flow;
use crate::support::process::Worker;
use crate::support::proxy::{Fate, Proxy};
use crate::support::scrape::Scrape;
use crate::support::service::Service;

/// Seconds that a worker has to stop: less than a slow image takes.
const FLAGS: [&str; 4] = ["--model", "stub", "--drain-deadline", "1"];
/// Between two looks at a worker's books.
const LOOK: Duration = Duration::from_millis(250);
/// No fault begins so shortly before the end.
const TAIL: Duration = Duration::from_secs(10);

/// The time that a run has, and what happened in it.
pub struct Log {
    begun: Instant,
    until: Instant,
    counts: RefCell<BTreeMap<String, u64>>,
}

impl Log {
    /// Of a run that begins now.
    pub fn new(length: Duration) -> Self {
        let begun = Instant::now();
        Self { begun, until: begun + length, counts: RefCell::default() }
    }

    /// When the run ends.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// When a fault begins after this pause; `None` where it would be too late.
    fn after(&self, pause: Duration) -> Option<Instant> {
        Some(Instant::now() + pause).filter(|at| *at + TAIL < self.until)
    }

    /// A fault begins.
    fn note<F: Display>(&self, party: &str, Event { fault, lasts, .. }: &Event<F>) {
        let (now, lasts) = (self.begun.elapsed().as_secs_f64(), lasts.as_secs_f64());
        println!("{now:7.1} s  {party} {fault} for {lasts:.1} s");
        *self.counts.borrow_mut().entry(format!("{party} {fault}")).or_default() += 1;
    }
}

impl Display for Log {
    /// How often there was which fault.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.counts.borrow().iter().map(|(fault, count)| format!("{count} x {fault}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// One worker after the other at the same post.
pub struct Post {
    number: usize,
    worker: Worker,
    /// The last look at the present worker.
    last: Option<Scrape>,
    /// Of those before.
    counts: Counts,
    /// What those before have logged.
    log: String,
}

/// What the workers of a post have counted, as far as it was looked at before they ended.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub scrapes: u64,
    pub deliveries: u64,
    pub sessions: u64,
    pub stale_acks: u64,
}

impl Post {
    pub async fn new(number: usize, flow: &Flow) -> Self {
        let worker = flow.worker_with(&FLAGS).await;
        Self { number, worker, last: None, counts: Counts::default(), log: String::new() }
    }

    /// Lets one worker after the other meet its fate.
    pub async fn live(&mut self, events: &[Event<End>], log: &Log, flow: &Flow) {
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

    /// A worker that had died by itself would not answer.
    async fn watch(&mut self, until: Instant) {
        while Instant::now() < until {
            self.look().await;
            sleep(LOOK).await;
        }
    }

    /// Whether the worker has nothing in its hands. Its books balance whenever they are looked at.
    pub async fn is_idle(&mut self) -> bool {
        self.look().await.value("inflight_messages", &[]) == 0
    }

    async fn stop(&mut self) {
        assert_eq!(self.worker.terminate().await, Some(0), "the worker did not stop in order");
    }

    /// Stops the last worker in order. What all workers of this post have counted.
    pub async fn finish(mut self) -> Counts {
        self.stop().await;
        self.close();
        self.counts
    }

    async fn look(&mut self) -> &Scrape {
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

impl Drop for Post {
    /// Of a failed test, the logs of all workers: too much to be printed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let file = format!("{}/soak-worker-{}.log", env!("CARGO_TARGET_TMPDIR"), self.number);
            let written = std::fs::write(&file, format!("{}{}", self.log, self.worker.log()));
            eprintln!("all workers of post {}: {file} ({written:?})", self.number);
        }
    }
}

impl Counts {
    /// Those of both posts.
    pub fn plus(self, other: Self) -> Self {
        Self {
            scrapes: self.scrapes + other.scrapes,
            deliveries: self.deliveries + other.deliveries,
            sessions: self.sessions + other.sessions,
            stale_acks: self.stale_acks + other.stale_acks,
        }
    }
}

/// What befalls RabbitMQ.
pub async fn broker(events: &[Event<End>], log: &Log, broker: &Service) {
    for event in events {
        let Some(at) = log.after(event.pause) else { break };
        sleep_until(at).await;
        log.note("RabbitMQ", event);
        away(broker, event.fault, event.lasts).await;
    }
}

/// Elasticsearch, the proxy through which the workers reach it, and what must be known of both.
pub struct StoreParty<'a> {
    pub server: &'a Service,
    pub proxy: &'a Proxy,
    pub flow: &'a Flow,
    pub books: &'a RefCell<Books>,
}

impl StoreParty<'_> {
    /// What befalls Elasticsearch.
    pub async fn live(&self, events: &[Event<StoreFault>], log: &Log) {
        for event in events {
            let Some(at) = log.after(event.pause) else { break };
            sleep_until(at).await;
            log.note("Elasticsearch", event);
            self.suffer(event.fault, event.lasts).await;
        }
    }

    async fn suffer(&self, fault: StoreFault, lasts: Duration) {
        match fault {
            StoreFault::Away(end) => {
                // In between, the proxy answers for a server that has stopped, and refuses connections for one that is dead.
                if let End::Killed = end {
                    self.proxy.down();
                }
                away(self.server, end, lasts).await;
                if let End::Killed = end {
                    self.proxy.up();
                }
                self.books.borrow_mut().deletions_forgotten();
            }
            StoreFault::Blocked(block) => {
                self.set(block, json!(true)).await;
                sleep(lasts).await;
                self.set(block, Value::Null).await;
            }
            StoreFault::Refusing(status) => self.bulks_meet(Fate::Status(status), lasts).await,
            StoreFault::Silent => self.bulks_meet(Fate::HoldAnswer, lasts).await,
        }
    }

    async fn bulks_meet(&self, fate: Fate, lasts: Duration) {
        self.proxy.bulks_meet(fate);
        sleep(lasts).await;
        self.proxy.bulks_meet(Fate::Forward);
        self.proxy.forget();
    }

    async fn set(&self, block: &str, value: Value) {
        let settings = json!({format!("index.blocks.{block}"): value});
        let (status, answer) = self.flow.alias.request(Method::PUT, "/_settings", Some(settings)).await;
        assert_eq!(status, 200, "{block}: {answer}");
    }
}

async fn away(service: &Service, end: End, lasts: Duration) {
    match end {
        End::Killed => service.kill(),
        End::Stopped => service.stop().await,
    }
    sleep(lasts).await;
    service.start().await;
}
