//! URL to bytes, within limits and only from addresses that may be reached.
//!
//! Reading order: [`Fetcher::get`] here, what one request may do (`request`), where a redirect may lead (`redirect`), and the
//! rules themselves: [`access::guard`] for URLs, [`access::address`] for IP addresses, applied to names by `resolver` at the moment of
//! connecting.
//!
//! What is shared has its bounds: `per_host` at a host, with `host_health` to say whether waiting for one makes sense, and the memory
//! for bodies, `memory`. `deadline` tells the time spent on those from the time that the host takes, and `network_health` a network that
//! is cut off from hosts that fail. `throttle` keeps what is refused from going round too fast.

pub mod access;
mod error;
mod file;
mod limits;
mod redirect;
mod request;
mod retry_after;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use url::Url;

pub use error::Error;

use crate::backpressure::backoff::Backoff;
use crate::metrics::Metrics;
use limits::body::Held;
use limits::deadline::Clock;
use limits::memory::Budget;
use limits::network_health::Outage;
use limits::throttle::Brake;
use redirect::Trail;
use request::{Answer, Exchange};

/// How often a fetch is tried in one go: once more, for the lost packet and the restarting backend. Everything longer is
/// the retry queues' business, which hold no worker meanwhile.
const TRIES: u32 = 2;
/// Bounds of the wait before the second try.
const RETRY_BASE: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(1);
/// The longest `Retry-After` that is waited out in one go.
const SHORT_RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long a fetch waits in all for its turns and for memory before it is put off. As long as a host may be silent: where
/// we are silent for longer, it may hang up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What may be fetched, and within which limits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Networks that may be reached although they are private or local.
    pub allow_nets: Vec<ipnet::IpNet>,
    /// Ports besides 80 and 443.
    pub allow_ports: Vec<u16>,
    /// Only these hosts and their subdomains; empty: any.
    pub allow_hosts: Vec<String>,
    /// Never these hosts and their subdomains.
    pub deny_hosts: Vec<String>,
    /// Largest body in bytes, after decompression.
    pub max_bytes: u64,
    /// Most bytes of all bodies together, until they are decoded; one body may exceed it. At least `max_bytes`.
    pub max_bytes_held: u64,
    /// Whether a fetch that would wait for long is refused with [`Error::Busy`] or [`Error::Failing`], for a caller that
    /// comes back later and meanwhile has others to fetch.
    pub put_off: bool,
    /// Whether `file:` URLs are read: only for commands that a user runs on own files.
    pub local_files: bool,
    /// How long each phase may take.
    pub timeouts: Timeouts,
    /// Most requests at one host at a time; a host earns them by answering.
    pub per_host: usize,
    /// Requests at all hosts together.
    pub concurrency: usize,
    /// Values of the `Authorization` header by origin, see [`access::credentials`].
    pub host_auth: HashMap<String, SecretString>,
    /// PEM file with certificate authorities that are trusted besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Name servers to ask instead of the system's.
    pub name_servers: Vec<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allow_nets: Vec::new(),
            allow_ports: Vec::new(),
            allow_hosts: Vec::new(),
            deny_hosts: Vec::new(),
            max_bytes: 32 << 20,
            // Some eighty images of the size that cameras make.
            max_bytes_held: 256 << 20,
            put_off: false,
            local_files: false,
            timeouts: Timeouts::default(),
            // What browsers and CDNs are used to, doubled because one object store commonly serves everything.
            per_host: 16,
            // Above any sensible prefetch; bounds sockets where many hosts are slow at once.
            concurrency: 256,
            host_auth: HashMap::new(),
            ca_file: None,
            name_servers: Vec::new(),
        }
    }
}

/// How long each phase of a fetch may take. Only a host's own time counts, not that which we keep it waiting.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Name look-up, TCP and TLS.
    pub connect: Duration,
    /// From the request's start, connecting included, to the end of the response headers.
    pub headers: Duration,
    /// Between two pieces of the body.
    pub idle: Duration,
    /// All of it: redirects, the second try.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), headers: seconds(10), idle: seconds(10), total: seconds(30) }
    }
}

/// The fetch stage.
pub struct Fetcher {
    exchange: Exchange,
    budget: Arc<Budget>,
    outage: Outage,
    brake: Brake,
    settings: Settings,
    metrics: Arc<Metrics>,
}

impl Fetcher {
    /// Builds the HTTP client.
    ///
    /// # Errors
    /// [`Error::Setup`] when a setting is unusable. A machine without a usable resolver is no such case: local files and
    /// literal addresses need none, so each look-up fails instead.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, Error> {
        let Settings { max_bytes, max_bytes_held, .. } = settings;
        if max_bytes_held < max_bytes {
            let reason = format!(
                "all images together may take {max_bytes_held} bytes, which is less than one may have, {max_bytes}; raise \
                 --max-inflight-bytes or lower --max-image-bytes"
            );
            return Err(Error::Setup { reason });
        }
        let budget = Arc::new(Budget::new(max_bytes_held, Arc::clone(&metrics)));
        Ok(Self {
            exchange: Exchange::new(&settings)?,
            budget,
            outage: Outage::default(),
            brake: Brake::default(),
            settings,
            metrics,
        })
    }

    /// Fetches the body behind a URL. The bytes count as held until the last reference to them is dropped.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, url: &Url) -> Result<Bytes, Error> {
        if url.scheme() == "file" {
            return if self.settings.local_files { file::read(url, self.body()).await } else { Err(Error::LocalFile) };
        }
        let result = self.fetch(url).await;
        let refused = matches!(result, Err(Error::Busy { .. } | Error::Failing { .. }));
        tokio::time::sleep(self.brake.record(refused)).await;
        let Some(reached) = result.as_ref().map_or_else(Error::reached_host, |_| Some(true)) else { return result };
        let outage = self.outage.record(url, reached);
        result.map_err(|error| if outage && !reached { Error::Offline { reason: error.to_string() } } else { error })
    }

    /// Completes when an outage of the network begins: most of many hosts cannot be reached.
    pub async fn outage(&self) {
        self.outage.begins().await;
    }

    /// Whether the network is usable. During an outage some of the hosts are tried.
    ///
    /// # Errors
    /// [`Error::Offline`] while none of them can be reached.
    pub async fn check_network(&self) -> Result<(), Error> {
        let mut reason = None;
        for url in self.outage.unreachable() {
            match self.fetch(&url).await {
                Err(error) if error.reached_host() != Some(true) => reason = Some(error.to_string()),
                _ => {
                    self.outage.end();
                    return Ok(());
                }
            }
        }
        reason.map_or(Ok(()), |reason| Err(Error::Offline { reason }))
    }

    async fn fetch(&self, url: &Url) -> Result<Bytes, Error> {
        let patience = self.settings.put_off.then_some(PATIENCE);
        let mut clock = Clock::start(&self.settings.timeouts, patience);
        // Apart, for a request is large and every message would carry it through all stages.
        Box::pin(self.persist(url, &mut clock)).await
    }

    /// Tries again what commonly works the second time.
    async fn persist(&self, url: &Url, clock: &mut Clock) -> Result<Bytes, Error> {
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        let mut first = None;
        loop {
            let error = match (self.follow(url, clock).await, first) {
                (Ok(bytes), _) => return Ok(bytes),
                // That there was no second try does not undo the failure of the first.
                (Err(Error::Busy { .. } | Error::Failing { .. }), Some(first)) => first,
                (Err(error), _) => error,
            };
            let Some(Again { cause, after }) = Again::after(&error).filter(|_| backoff.attempts() + 1 < TRIES) else {
                return Err(error);
            };
            self.metrics.retry(cause);
            clock.pause(&host(url), after + backoff.next_delay()).await?;
            first = Some(error);
        }
    }

    /// Follows redirects by hand, so that every hop passes the same checks as the first.
    async fn follow(&self, url: &Url, clock: &mut Clock) -> Result<Bytes, Error> {
        let mut trail = Trail::new(url);
        loop {
            match self.exchange.request(trail.here(), trail.at_origin(), self.body(), clock).await? {
                Answer::Body(bytes) => return Ok(bytes),
                Answer::Redirect(location) => trail.follow(&location)?,
            }
        }
    }

    fn body(&self) -> Held {
        Held::new(self.settings.max_bytes, &self.budget)
    }
}

/// A second try: what it is counted as, and how long the host asked to wait.
struct Again {
    cause: &'static str,
    after: Duration,
}

impl Again {
    /// Whether a second try within the same fetch is worth it.
    fn after(error: &Error) -> Option<Self> {
        let now = |cause| Some(Self { cause, after: Duration::ZERO });
        match error {
            Error::Resolve { .. } => now("fetch_resolve"),
            Error::Connect { .. } => now("fetch_connect"),
            Error::Broken { .. } => now("fetch_broken"),
            Error::Status { status: 408 | 425 | 429 | 500..=599, retry_after, .. } => {
                let after = retry_after.unwrap_or_default();
                (after <= SHORT_RETRY_AFTER).then_some(Self { cause: "fetch_status", after })
            }
            // Whatever was slow has already used up its share of the time; the rest is final.
            _ => None,
        }
    }
}

/// The beginning of what a stranger sent, as errors quote it: they end up in headers of dead letters.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 64;
    text.chars().take(LONGEST).collect()
}

/// The host as errors name it: the part of a URL that holds no secret.
fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}
