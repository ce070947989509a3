//! HTTP to Elasticsearch. No other module sends requests to it. No request is retried here; callers see every failure.

use std::time::Duration;

use bytes::Bytes;
use elasticsearch::auth::Credentials;
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::Method;
use elasticsearch::http::headers::{CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::address::Address;
use super::bulk::VectorEncoding;
use crate::error_chain::with_causes;
use crate::excerpt::excerpt;
use crate::store::{self, ErrorKind, Settings};

/// How long a request may take, from connecting to the last byte of the response.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestTimeout {
    /// A request that reads little.
    Lookup,
    /// A search, which reads every vector.
    Search,
    /// A bulk request, or a change to the cluster.
    Change,
}

impl RequestTimeout {
    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Lookup => 10,
            // Elasticsearch scans about ten million vectors in this time.
            Self::Search => 30,
            // Twice the time that Elasticsearch itself waits for its master.
            Self::Change => 60,
        })
    }
}

/// The body of a request.
pub(super) enum Body {
    Empty,
    Json(serde_json::Value),
    /// NDJSON, as of a bulk request.
    Lines(Bytes),
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No connection, or the connection ended before the response began.
    #[error("no answer: {0}")]
    NoResponse(String),
    /// The response was not complete in time.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// The connection ended within the response.
    #[error("the answer broke off: {0}")]
    Truncated(String),
    /// A response that does not have the shape that Elasticsearch gives it, perhaps of a proxy.
    #[error("the answer with status {status} is not one of Elasticsearch: {reason}; it begins {excerpt:?}")]
    UnexpectedResponse {
        status: u16,
        /// Why the body cannot be read.
        reason: String,
        /// The start of the body.
        excerpt: String,
    },
    /// Elasticsearch reports an error.
    #[error("{status} {kind}: {reason}")]
    Reported {
        status: u16,
        /// The error's type.
        kind: String,
        reason: String,
    },
}

impl Error {
    /// Whether the server, or a proxy, does not serve this path to this user. 401 does not count: with wrong credentials
    /// no path is served.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Reported { status, .. } | Self::UnexpectedResponse { status, .. }
            if (400..500).contains(status) && ![401, 408, 429].contains(status))
    }
}

/// A connection pool to one cluster. Deliberately without `Debug`: it holds credentials.
pub(super) struct Client {
    transport: Transport,
    vector_encoding: OnceCell<VectorEncoding>,
}

impl Client {
    /// Makes a client without connecting.
    ///
    /// Proxies from the environment are not used: a proxy could carry secrets over plain HTTP.
    ///
    /// # Errors
    /// [`ErrorKind::Address`] where credentials are malformed or would be exposed, [`ErrorKind::Io`] where the
    /// certificate authority cannot be read.
    pub(super) fn new(address: &Address, settings: &Settings) -> Result<Self, store::Error> {
        let failed = |kind| store::Error::new(&address.base, kind);
        let credentials =
            credentials(address, settings.api_key.as_ref()).map_err(|reason| failed(ErrorKind::Address(reason)))?;
        if credentials.is_some() && address.exposes_secrets() && !settings.allow_plain_http {
            let reason = "an API key or password would go over plain HTTP to another host; use https, or pass --allow-plain-http";
            return Err(failed(ErrorKind::Address(reason.to_owned())));
        }
        let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(address.base.clone())).disable_proxy();
        if let Some(credentials) = credentials {
            builder = builder.auth(credentials);
        }
        if let Some(file) = &settings.ca {
            let unreadable = |reason: String| {
                failed(ErrorKind::Io(format!("the certificate authority {}: {reason}", file.display())))
            };
            let pem = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
            if !pem.windows(PEM.len()).any(|window| window == PEM) {
                return Err(unreadable("is not a PEM file with a certificate".to_owned()));
            }
            let authority = Certificate::from_pem(&pem).map_err(|error| unreadable(with_causes(&error)))?;
            builder = builder.cert_validation(CertificateValidation::Full(authority));
        }
        let transport = builder
            .build()
            .map_err(|error| failed(ErrorKind::Io(format!("the HTTP client: {}", with_causes(&error)))))?;
        Ok(Self { transport, vector_encoding: OnceCell::new() })
    }

    /// Sends a request and reads the whole body of the response. A status other than success is an error.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        timeout: RequestTimeout,
    ) -> Result<Bytes, Error> {
        let limit = timeout.limit();
        let (body, content_type) = match body {
            Body::Empty => (None, "application/json"),
            Body::Json(value) => (Some(Bytes::from(value.to_string())), "application/json"),
            Body::Lines(lines) => (Some(lines), "application/x-ndjson"),
        };
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        let sent = self.transport.send(method, path, headers, None::<&()>, body, Some(limit)).await;
        let response = sent.map_err(|error| {
            if error.is_timeout() { Error::Timeout(limit) } else { Error::NoResponse(with_causes(&error)) }
        })?;
        let status = response.status_code();
        let body = response.bytes().await.map_err(|error| {
            if error.is_timeout() { Error::Timeout(limit) } else { Error::Truncated(with_causes(&error)) }
        })?;
        if status.is_success() { Ok(body) } else { Err(reported(status.as_u16(), &body)) }
    }

    /// Sends a request and parses the response's body.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
        timeout: RequestTimeout,
    ) -> Result<T, Error> {
        let response = self.send(method, path, body, timeout).await?;
        serde_json::from_slice(&response).map_err(|error| unexpected_response(200, &error, &response))
    }

    /// The cheapest encoding of vectors that every node of the cluster accepts, requested once.
    ///
    /// Base64 is accepted from 9.3 on; 8.16.3 refuses it, 9.4.3 accepts it (both tried). Every version accepts decimals,
    /// so they are used where the version cannot be read: serverless, a proxy that passes only some paths, an API key
    /// without the `monitor` privilege.
    pub(super) async fn vector_encoding(&self) -> Result<VectorEncoding, Error> {
        let encoding = self.vector_encoding.get_or_try_init(|| async {
            // The oldest node decides: during an upgrade a primary shard may be on any node.
            let path = "_nodes/_all/_none?filter_path=nodes.*.version";
            match self.json::<Nodes>(Method::Get, path, Body::Empty, RequestTimeout::Lookup).await {
                Ok(nodes) => Ok(nodes.vector_encoding()),
                Err(error) if error.is_refusal() => {
                    tracing::info!(%error, "the cluster's version cannot be read; writing vectors as decimals");
                    Ok(VectorEncoding::Decimals)
                }
                Err(error) => Err(error),
            }
        });
        encoding.await.copied()
    }
}

const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn credentials(address: &Address, api_key: Option<&SecretString>) -> Result<Option<Credentials>, String> {
    match (&address.basic, api_key) {
        (Some(_), Some(_)) => Err("both an API key and a user are given; remove one of them".to_owned()),
        (None, None) => Ok(None),
        (Some((user, password)), None) => {
            Ok(Some(Credentials::Basic(user.clone(), password.expose_secret().to_owned())))
        }
        (None, Some(key)) => {
            // A key read from a file ends in a newline, which no header may have.
            let key = key.expose_secret().trim();
            let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=-_".contains(c);
            if key.is_empty() || !key.chars().all(is_base64) {
                return Err("the API key is not in its encoded form, base64 of id:key".to_owned());
            }
            Ok(Some(Credentials::EncodedApiKey(key.to_owned())))
        }
    }
}

#[derive(Deserialize)]
struct Nodes {
    #[serde(default)]
    nodes: std::collections::BTreeMap<String, Node>,
}

#[derive(Deserialize)]
struct Node {
    version: String,
}

impl Nodes {
    fn vector_encoding(&self) -> VectorEncoding {
        let oldest = self.nodes.values().map(|node| major_minor(&node.version)).min().flatten();
        if oldest >= Some((9, 3)) { VectorEncoding::Base64 } else { VectorEncoding::Decimals }
    }
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ReportedError,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ReportedError {
    Typed {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        reason: Option<String>,
        #[serde(default)]
        root_cause: Vec<RootCause>,
    },
    Text(String),
}

#[derive(Deserialize)]
struct RootCause {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    reason: Option<String>,
}

/// Reads an error's body. The root cause is used where there is one, because the outer error may be "all shards failed".
fn reported(status: u16, body: &[u8]) -> Error {
    match serde_json::from_slice(body) {
        Ok(ErrorBody { error: ReportedError::Text(reason) }) => Error::Reported { status, kind: String::new(), reason },
        Ok(ErrorBody { error: ReportedError::Typed { kind, reason, root_cause } }) => {
            let (kind, reason) = root_cause.into_iter().next().map_or((kind, reason), |root| (root.kind, root.reason));
            Error::Reported { status, kind, reason: reason.unwrap_or_default() }
        }
        Err(error) => unexpected_response(status, &error, body),
    }
}

/// The error for a response that does not have the shape that Elasticsearch gives it.
pub(super) fn unexpected_response(status: u16, reason: &dyn std::error::Error, body: &[u8]) -> Error {
    const MAX_CHARS: usize = 120;
    // Cut before it is read as text: the response may be large.
    let start = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_CHARS)]);
    let excerpt = excerpt(&start, MAX_CHARS);
    Error::UnexpectedResponse { status, reason: reason.to_string(), excerpt }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_oldest_node_decides_the_encoding_of_vectors() {
        for (versions, expected) in [
            (&["9.4.3"][..], VectorEncoding::Base64),
            (&["9.3.0", "10.0.0"], VectorEncoding::Base64),
            (&["9.4.3", "9.2.8"], VectorEncoding::Decimals),
            (&["8.16.3"], VectorEncoding::Decimals),
            (&["unknown", "9.4.3"], VectorEncoding::Decimals),
            (&[], VectorEncoding::Decimals),
        ] {
            let node = |version: &&str| ((*version).to_owned(), Node { version: (*version).to_owned() });
            let nodes = Nodes { nodes: versions.iter().map(node).collect() };
            assert_eq!(nodes.vector_encoding(), expected, "{versions:?}");
        }
    }

    #[test]
    fn the_root_cause_is_reported() {
        let body = br#"{"error":{"root_cause":[{"type":"script_exception","reason":"runtime error"}],
            "type":"search_phase_execution_exception","reason":"all shards failed"},"status":400}"#;
        assert_eq!(reported(400, body).to_string(), "400 script_exception: runtime error");
        assert_eq!(reported(405, br#"{"error":"no POST","status":405}"#).to_string(), "405 : no POST");
        assert!(matches!(reported(502, b"<html>"), Error::UnexpectedResponse { status: 502, .. }));
    }

    fn open(address: &str, api_key: Option<&str>, allow_plain_http: bool) -> Result<Client, store::Error> {
        let settings = Settings {
            address: address.into(),
            api_key: api_key.map(Into::into),
            ca: None,
            allow_plain_http,
            accept_earlier: false,
        };
        Client::new(&Address::parse(address).unwrap(), &settings)
    }

    #[test]
    fn secrets_do_not_go_over_plain_http_to_another_host() {
        assert!(open("http://user:hunter2@es.example/images", None, true).is_ok());
        assert!(open("https://user:hunter2@es.example/images", None, false).is_ok());
        assert!(open("http://user:hunter2@127.0.0.1/images", None, false).is_ok());
        assert!(open("http://es.example/images", None, false).is_ok());
        for (address, key) in
            [("http://user:hunter2@es.example/images", None), ("http://es.example/images", Some("aHVudGVyMg=="))]
        {
            let error = open(address, key, false).err().unwrap().to_string();
            assert!(error.contains("plain HTTP") && !error.contains("hunter2") && !error.contains("aHVu"), "{error}");
        }
    }

    #[test]
    fn malformed_keys_are_refused_without_showing_them() {
        for key in ["", "id:hunter2", "hunter2\nx"] {
            let error = open("https://es.example/images", Some(key), false).err().unwrap().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(open("https://es.example/images", Some("aHVudGVyMg==\n"), false).is_ok());
        assert!(open("https://u:p@es.example/images", Some("aHVudGVyMg=="), false).is_err());
    }

    #[test]
    fn an_unreadable_authority_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let settings = Settings {
            address: "https://es.example/images".into(),
            api_key: None,
            ca: Some(file.clone()),
            allow_plain_http: false,
            accept_earlier: false,
        };
        let address = Address::parse("https://es.example/images").unwrap();
        let open = || Client::new(&address, &settings).err().map(|error| error.to_string());
        assert!(open().unwrap().contains("ca.pem"));
        std::fs::write(&file, "not a certificate").unwrap();
        assert!(open().unwrap().contains("PEM"));
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n").unwrap();
        assert!(open().is_some());
    }
}
