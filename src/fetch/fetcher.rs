//! The fetch stage: the second try, redirects, and the watch over the network.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use url::Url;

use super::error::{Error, NoAnswer, Refusal, host_of};
use super::file;
use super::limits::body::Body;
use super::limits::deadline::Deadline;
use super::limits::memory::MemoryBudget;
use super::limits::network_health::NetworkHealth;
use super::limits::throttle::Throttle;
use super::redirect::Redirects;
use super::request::{HttpClient, Response};
use super::settings::{Settings, Timeouts};
use crate::backpressure::backoff::Backoff;
use crate::metrics::{Metrics, RetryCause};

/// How often a fetch is tried in one go: once more, for a lost packet or a backend that restarts. Longer outages are
/// left to the retry queues, where a message takes no place in a worker.
const TRIES: u32 = 2;
/// Bounds of the delay before the second try.
const RETRY_BASE: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(1);
/// The longest `Retry-After` that is waited out in one go.
const SHORT_RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long a fetch waits in all for request slots and memory before it is deferred. As long as a host may be silent: a
/// host that is left waiting for longer may hang up.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The fetch stage.
pub struct Fetcher {
    client: HttpClient,
    memory: Arc<MemoryBudget>,
    network: NetworkHealth,
    throttle: Throttle,
    metrics: Arc<Metrics>,
    max_bytes: u64,
    local_files: bool,
    timeouts: Timeouts,
    max_wait: Option<Duration>,
}

impl Fetcher {
    /// Builds the HTTP client.
    ///
    /// # Errors
    /// [`Error::Setup`] when a setting is unusable. A machine without a usable resolver is no error here: local files
    /// and literal addresses need none, so each look-up fails instead.
    pub fn new(settings: &Settings, metrics: Arc<Metrics>) -> Result<Self, Error> {
        let &Settings { max_bytes, max_bytes_held, defer, local_files, timeouts, .. } = settings;
        if max_bytes_held < max_bytes {
            let reason = format!(
                "all images together may take {max_bytes_held} bytes, which is less than one may have, {max_bytes}; raise \
                 --max-inflight-bytes or lower --max-image-bytes"
            );
            return Err(Error::Setup { reason });
        }
        Ok(Self {
            client: HttpClient::new(settings)?,
            memory: Arc::new(MemoryBudget::new(max_bytes_held, Arc::clone(&metrics))),
            network: NetworkHealth::default(),
            throttle: Throttle::default(),
            metrics,
            max_bytes,
            local_files,
            timeouts,
            max_wait: defer.then_some(MAX_WAIT),
        })
    }

    /// Fetches the body behind a URL. The bytes count as held until the last reference to them is dropped.
    pub async fn get(&self, url: &Url) -> Result<Bytes, Error> {
        if url.scheme() == "file" {
            return if self.local_files { file::read(url, self.body()).await } else { Err(Refusal::LocalFile.into()) };
        }
        let result = self.fetch(url).await;
        let refused = matches!(result, Err(Error::Busy { .. } | Error::Failing { .. }));
        tokio::time::sleep(self.throttle.record(refused)).await;
        let Some(reached) = result.as_ref().map_or_else(Error::reached_host, |_| Some(true)) else { return result };
        let outage = self.network.record(url, reached);
        result.map_err(|error| if outage && !reached { Error::Offline { reason: error.to_string() } } else { error })
    }

    /// Completes when an outage of the network begins: most of many hosts cannot be reached.
    pub async fn outage(&self) {
        self.network.outage_began().await;
    }

    /// Checks whether the network is usable. During an outage it tries some of the unreachable hosts.
    ///
    /// # Errors
    /// [`Error::Offline`] while none of them can be reached.
    pub async fn check_network(&self) -> Result<(), Error> {
        let mut reason = None;
        for url in self.network.unreachable() {
            match self.fetch(&url).await {
                Err(error) if error.reached_host() != Some(true) => reason = Some(error.to_string()),
                _ => {
                    self.network.reset();
                    return Ok(());
                }
            }
        }
        reason.map_or(Ok(()), |reason| Err(Error::Offline { reason }))
    }

    async fn fetch(&self, url: &Url) -> Result<Bytes, Error> {
        let mut deadline = Deadline::start(&self.timeouts, self.max_wait);
        // Boxed: the future of a request is large, and every message would carry it through all stages.
        Box::pin(self.fetch_with_retry(url, &mut deadline)).await
    }

    async fn fetch_with_retry(&self, url: &Url, deadline: &mut Deadline) -> Result<Bytes, Error> {
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        let mut first = None;
        loop {
            let error = match (self.follow_redirects(url, deadline).await, first) {
                (Ok(bytes), _) => return Ok(bytes),
                // A second try that was not made does not undo the failure of the first.
                (Err(Error::Busy { .. } | Error::Failing { .. }), Some(first)) => first,
                (Err(error), _) => error,
            };
            let Some(Retry { cause, after }) = Retry::of(&error).filter(|_| backoff.attempts() + 1 < TRIES) else {
                return Err(error);
            };
            self.metrics.retry(cause);
            deadline.pause(&host_of(url), after + backoff.next_delay()).await?;
            first = Some(error);
        }
    }

    /// The HTTP client follows no redirects itself, so that every target passes the same checks as the first URL.
    async fn follow_redirects(&self, url: &Url, deadline: &mut Deadline) -> Result<Bytes, Error> {
        let mut redirects = Redirects::start(url);
        loop {
            let (url, at_origin) = (redirects.current(), redirects.at_origin());
            match self.client.request(url, at_origin, self.body(), deadline).await? {
                Response::Body(bytes) => return Ok(bytes),
                Response::Redirect(location) => redirects.follow(&location)?,
            }
        }
    }

    fn body(&self) -> Body {
        Body::new(self.max_bytes, &self.memory)
    }
}

/// A second try within the same fetch.
struct Retry {
    /// The label of `imgdex_retries_total`.
    cause: RetryCause,
    /// How long the host asked to wait.
    after: Duration,
}

impl Retry {
    /// `None` where a second try is not worth it.
    fn of(error: &Error) -> Option<Self> {
        let at_once = |cause| Some(Self { cause, after: Duration::ZERO });
        match error {
            Error::NoAnswer(NoAnswer::Resolve { .. }) => at_once(RetryCause::FetchResolve),
            Error::NoAnswer(NoAnswer::Connect { .. }) => at_once(RetryCause::FetchConnect),
            Error::NoAnswer(NoAnswer::Broken { .. }) => at_once(RetryCause::FetchBroken),
            Error::Status { status: 408 | 425 | 429 | 500..=599, retry_after, .. } => {
                let after = retry_after.unwrap_or_default();
                (after <= SHORT_RETRY_AFTER).then_some(Self { cause: RetryCause::FetchStatus, after })
            }
            // A time-out has already used up its share of the time; the rest is final.
            _ => None,
        }
    }
}
