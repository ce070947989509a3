//! One request and its response.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, LOCATION, RETRY_AFTER};
use reqwest::{Certificate, Client, RequestBuilder, StatusCode, redirect};
use url::Url;

use super::access::credentials::Credentials;
use super::access::guard::Guard;
use super::access::resolver::{GuardedResolver, Unresolved};
use super::error::{CONNECTION, Error, MAX_QUOTE, NoAnswer, host_of};
use super::limits::body::Body;
use super::limits::deadline::Deadline;
use super::limits::host_health::RequestOutcome;
use super::limits::per_host::RequestLimiter;
use super::retry_after;
use super::settings::{Settings, Timeouts};
use crate::error_chain::{causes, innermost_cause};
use crate::excerpt::excerpt;

/// The formats that are decoded come first; hosts that negotiate then do not send AVIF or HTML.
const ACCEPTED: &str = "image/jpeg, image/png, image/webp, image/gif, image/bmp, */*;q=0.1";

/// How long an unused connection is kept: long enough for the next image of the same host, short enough that a crawl
/// over many hosts does not collect sockets.
const IDLE_CONNECTION: Duration = Duration::from_secs(15);

/// The resource that a body waits for.
const MEMORY: &str = "memory";

/// A host that was left waiting for longer than this is not blamed for hanging up: some servers wait no longer for a
/// client.
const HANG_UP: Duration = Duration::from_secs(1);

/// An HTTP client that keeps to the guard and the request limits.
pub(super) struct HttpClient {
    client: Client,
    guard: Arc<Guard>,
    credentials: Credentials,
    limiter: RequestLimiter,
    timeouts: Timeouts,
}

pub(super) enum Response {
    /// The whole body.
    Body(Bytes),
    /// The `Location` of a redirect.
    Redirect(Vec<u8>),
}

impl HttpClient {
    /// # Errors
    /// [`Error::Setup`] when a setting is unusable.
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        let guard = Arc::new(Guard::new(settings)?);
        let connect = settings.timeouts.connect;
        let resolver = GuardedResolver::new(Arc::clone(&guard), &settings.name_servers, connect);
        let mut client = Client::builder()
            .user_agent(concat!("imgdex/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(connect)
            .pool_max_idle_per_host(settings.per_host)
            .pool_idle_timeout(IDLE_CONNECTION)
            .dns_resolver(Arc::new(resolver));
        for authority in authorities(settings)? {
            client = client.add_root_certificate(authority);
        }
        let client = client.build().map_err(|error| Error::Setup { reason: reason(&error) })?;
        Ok(Self {
            client,
            guard,
            credentials: Credentials::new(&settings.host_auth)?,
            limiter: RequestLimiter::new(settings.per_host, settings.concurrency, settings.defer),
            timeouts: settings.timeouts,
        })
    }

    /// Requests one URL and reads its body into `body`. `at_origin` says whether credentials may be sent.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::File`] and [`Error::Offline`].
    pub(super) async fn request(
        &self,
        url: &Url,
        at_origin: bool,
        body: Body,
        deadline: &mut Deadline,
    ) -> Result<Response, Error> {
        self.guard.check(url)?;
        let host = host_of(url);
        let permit = deadline.on_own_time(&host, "a request slot", self.limiter.acquire(&host)).await??;
        let result = self.send(&host, self.get(url, at_origin), body, deadline).await;
        permit.end(match &result {
            Err(Error::Busy { .. }) => RequestOutcome::Aborted,
            Err(error) if error.is_host_failure() => RequestOutcome::Failed,
            Ok(_) | Err(_) => RequestOutcome::Answered,
        });
        result
    }

    fn get(&self, url: &Url, at_origin: bool) -> RequestBuilder {
        let request = self.client.get(url.clone()).header(ACCEPT, ACCEPTED);
        match self.credentials.for_url(url).filter(|_| at_origin) {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }

    async fn send(
        &self,
        host: &str,
        request: RequestBuilder,
        body: Body,
        deadline: &mut Deadline,
    ) -> Result<Response, Error> {
        let sent = deadline.on_host_time(host, ("answer", self.timeouts.headers), request.send()).await?;
        let response = sent.map_err(|error| self.failed(host, &error))?;
        match response.status() {
            StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => {
                self.read(host, response, body, deadline).await
            }
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => location(&response),
            status => {
                let retry_after = retry_after(&response);
                Err(Error::Status { host: host.to_owned(), status: status.as_u16(), retry_after })
            }
        }
    }

    async fn read(
        &self,
        host: &str,
        mut response: reqwest::Response,
        mut body: Body,
        deadline: &mut Deadline,
    ) -> Result<Response, Error> {
        // The client decodes gzip and removes its header; an encoding that is left is another one, or gzip twice.
        if let Some(encoding) = response.headers().get(CONTENT_ENCODING).filter(|&value| value != "identity") {
            return Err(Error::Encoding {
                encoding: excerpt(&String::from_utf8_lossy(encoding.as_bytes()), MAX_QUOTE),
            });
        }
        if let Some(length) = response.content_length() {
            body.announce(length)?;
        }
        let waited_before = deadline.waited();
        loop {
            match deadline.on_host_time(host, ("further data", self.timeouts.idle), response.chunk()).await? {
                Ok(Some(piece)) => deadline.on_own_time(host, MEMORY, body.push(&piece)).await??,
                Ok(None) => return Ok(Response::Body(body.finish())),
                // A host that hangs up because this side did not read has not failed.
                Err(_) if deadline.waited() > waited_before + HANG_UP => {
                    return Err(Error::Busy { host: host.to_owned(), what: MEMORY });
                }
                Err(error) => return Err(self.failed(host, &error)),
            }
        }
    }

    fn failed(&self, host: &str, error: &reqwest::Error) -> Error {
        let host = host.to_owned();
        if let Some(unresolved) = causes(error).find_map(|cause| cause.downcast_ref::<Unresolved>()) {
            return unresolved.clone().into_error(host);
        }
        let failure = match (error.is_connect(), error.is_timeout()) {
            (true, true) => NoAnswer::Timeout { host, phase: CONNECTION, limit: self.timeouts.connect },
            (true, false) => NoAnswer::Connect { host, reason: reason(error) },
            (false, _) => NoAnswer::Broken { host, reason: reason(error) },
        };
        failure.into()
    }
}

fn authorities(settings: &Settings) -> Result<Vec<Certificate>, Error> {
    let Some(path) = &settings.ca_file else { return Ok(Vec::new()) };
    let unusable = |why: String| Error::Setup { reason: format!("{}: {why}", path.display()) };
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable("no certificate in PEM form".into())),
        Err(error) => Err(unusable(reason(&error))),
    }
}

fn location(response: &reqwest::Response) -> Result<Response, Error> {
    match response.headers().get(LOCATION) {
        Some(target) => Ok(Response::Redirect(target.as_bytes().to_vec())),
        None => Err(Error::Redirect { reason: format!("{} without a target", response.status().as_u16()) }),
    }
}

fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    retry_after::parse(value, SystemTime::now())
}

/// The innermost cause alone. The error itself says "error sending request" and repeats the URL with its query.
fn reason(error: &reqwest::Error) -> String {
    innermost_cause(error).unwrap_or_else(|| "no further reason".to_owned())
}
