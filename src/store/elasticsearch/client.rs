//! HTTP to Elasticsearch, and nothing but HTTP: the only place that speaks it. No request is repeated here; callers see
//! every failure.

use std::fmt::Write as _;
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
use super::bulk::VectorForm;
use crate::store::{self, Settings};

/// How long a request may take, from connecting to the last byte of the answer.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Looking something up.
    Lookup,
    /// A search, which reads every vector.
    Search,
    /// A bulk request, or a change to the cluster.
    Change,
}

impl Patience {
    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Lookup => 10,
            // Elasticsearch scans some ten million vectors in this time.
            Self::Search => 30,
            // Twice the time that Elasticsearch itself waits for its master.
            Self::Change => 60,
        })
    }
}

/// What is sent besides method and path.
pub enum Body {
    /// Nothing.
    Empty,
    /// One JSON value.
    Json(serde_json::Value),
    /// Lines of JSON, as for a bulk request.
    Lines(Bytes),
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or none that lasted until the answer began.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// Not done in time.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// The connection ended within the answer.
    #[error("the answer broke off: {0}")]
    Truncated(String),
    /// An answer that is not Elasticsearch's, from a proxy perhaps.
    #[error("the answer with status {status} is not one of Elasticsearch: {reason}; it begins {excerpt:?}")]
    Foreign {
        /// The HTTP status.
        status: u16,
        /// What is wrong with it.
        reason: String,
        /// How it begins.
        excerpt: String,
    },
    /// Elasticsearch reports an error.
    #[error("{status} {kind}: {reason}")]
    Reported {
        /// The HTTP status.
        status: u16,
        /// The error's type.
        kind: String,
        /// The error's reason.
        reason: String,
    },
}

impl Error {
    /// Whether the request reached something that does not serve this path to this user. 401 is no such answer: with
    /// wrong credentials nothing is served.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Reported { status, .. } | Self::Foreign { status, .. }
            if (400..500).contains(status) && ![401, 408, 429].contains(status))
    }
}

/// A connection pool to one cluster. Deliberately without `Debug`: it holds credentials.
pub struct Client {
    transport: Transport,
    vector_form: OnceCell<VectorForm>,
}

impl Client {
    /// Makes a client; connects to nothing.
    ///
    /// Proxies from the environment are not used: the rule about secrets over plain HTTP could not be kept.
    ///
    /// # Errors
    /// [`store::Error::Address`] where credentials are malformed or would be exposed, [`store::Error::Io`] where the
    /// certificate authority cannot be read.
    pub fn new(address: &Address, settings: &Settings) -> Result<Self, store::Error> {
        let store = address.base.to_string();
        let refuse = |reason: &str| store::Error::Address { store: store.clone(), reason: reason.to_owned() };
        let credentials = credentials(address, settings.api_key.as_ref()).map_err(|reason| refuse(&reason))?;
        if credentials.is_some() && address.exposes_secrets() && !settings.allow_plain_http {
            return Err(refuse(
                "an API key or password would go over plain HTTP to another host; use https, or pass --allow-plain-http",
            ));
        }
        let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(address.base.clone())).disable_proxy();
        if let Some(credentials) = credentials {
            builder = builder.auth(credentials);
        }
        if let Some(file) = &settings.ca {
            let unreadable = |reason: String| store::Error::Io {
                store: store.clone(),
                reason: format!("the certificate authority {}: {reason}", file.display()),
            };
            let pem = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
            if !pem.windows(PEM.len()).any(|window| window == PEM) {
                return Err(unreadable("is not a PEM file with a certificate".to_owned()));
            }
            let authority = Certificate::from_pem(&pem).map_err(|error| unreadable(chain(&error)))?;
            builder = builder.cert_validation(CertificateValidation::Full(authority));
        }
        let transport = builder
            .build()
            .map_err(|error| store::Error::Io { store, reason: format!("the HTTP client: {}", chain(&error)) })?;
        Ok(Self { transport, vector_form: OnceCell::new() })
    }

    /// Sends a request and waits for the whole answer with a status of success.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send(&self, method: Method, path: &str, body: Body, patience: Patience) -> Result<Bytes, Error> {
        let limit = patience.limit();
        let (body, content_type) = match body {
            Body::Empty => (None, "application/json"),
            Body::Json(value) => (Some(Bytes::from(value.to_string())), "application/json"),
            Body::Lines(lines) => (Some(lines), "application/x-ndjson"),
        };
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        let sent = self.transport.send(method, path, headers, None::<&()>, body, Some(limit)).await;
        let response = sent
            .map_err(|error| if error.is_timeout() { Error::Timeout(limit) } else { Error::NoAnswer(chain(&error)) })?;
        let status = response.status_code();
        let body = response.bytes().await.map_err(|error| {
            if error.is_timeout() { Error::Timeout(limit) } else { Error::Truncated(chain(&error)) }
        })?;
        if status.is_success() { Ok(body) } else { Err(reported(status.as_u16(), &body)) }
    }

    /// Sends a request and reads the answer as JSON of a known shape.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
        patience: Patience,
    ) -> Result<T, Error> {
        let answer = self.send(method, path, body, patience).await?;
        serde_json::from_slice(&answer).map_err(|error| foreign(200, &error, &answer))
    }

    /// The cheapest form of a vector that every node of the cluster takes, asked for once.
    ///
    /// Base64 came with 9.3; 8.16.3 refuses it, 9.4.3 takes it (both tried). Decimals work everywhere, so they serve
    /// clusters that do not tell their version: serverless, behind a proxy that lets only some paths through, or with an
    /// API key without the `monitor` privilege.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn vector_form(&self) -> Result<VectorForm, Error> {
        let form = self.vector_form.get_or_try_init(|| async {
            // The oldest node decides: during an upgrade a primary shard may lie on any of them.
            let path = "_nodes/_all/_none?filter_path=nodes.*.version";
            match self.json::<Nodes>(Method::Get, path, Body::Empty, Patience::Lookup).await {
                Ok(nodes) => Ok(nodes.vector_form()),
                Err(error) if error.is_refusal() => {
                    tracing::info!(%error, "the cluster does not tell its version; writing vectors as decimals");
                    Ok(VectorForm::Decimals)
                }
                Err(error) => Err(error),
            }
        });
        form.await.copied()
    }
}

const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn credentials(address: &Address, api_key: Option<&SecretString>) -> Result<Option<Credentials>, String> {
    match (&address.basic, api_key) {
        (Some(_), Some(_)) => Err("both an API key and a user are given; one of them must go".to_owned()),
        (None, None) => Ok(None),
        (Some((user, password)), None) => {
            Ok(Some(Credentials::Basic(user.clone(), password.expose_secret().to_owned())))
        }
        (None, Some(key)) => {
            // Files end in a newline, which would not do in a header.
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
    fn vector_form(&self) -> VectorForm {
        let oldest = self.nodes.values().map(|node| major_minor(&node.version)).min().flatten();
        if oldest >= Some((9, 3)) { VectorForm::Base64 } else { VectorForm::Decimals }
    }
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[derive(Deserialize)]
struct Failure {
    error: Cause,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Cause {
    Typed {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        reason: Option<String>,
        #[serde(default)]
        root_cause: Vec<Root>,
    },
    Text(String),
}

#[derive(Deserialize)]
struct Root {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    reason: Option<String>,
}

/// Reads an error's body. The root cause, where there is one, says more than "all shards failed".
fn reported(status: u16, body: &[u8]) -> Error {
    match serde_json::from_slice::<Failure>(body) {
        Ok(Failure { error: Cause::Text(reason) }) => Error::Reported { status, kind: String::new(), reason },
        Ok(Failure { error: Cause::Typed { kind, reason, root_cause } }) => {
            let (kind, reason) = root_cause.into_iter().next().map_or((kind, reason), |root| (root.kind, root.reason));
            Error::Reported { status, kind, reason: reason.unwrap_or_default() }
        }
        Err(error) => foreign(status, &error, body),
    }
}

/// An answer that does not have the shape that Elasticsearch gives it.
pub fn foreign(status: u16, reason: &dyn std::error::Error, body: &[u8]) -> Error {
    let excerpt = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
    Error::Foreign { status, reason: reason.to_string(), excerpt }
}

/// An error with its causes: the outermost one seldom says what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {part}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_oldest_node_decides_the_form_of_vectors() {
        for (versions, expected) in [
            (&["9.4.3"][..], VectorForm::Base64),
            (&["9.3.0", "10.0.0"], VectorForm::Base64),
            (&["9.4.3", "9.2.8"], VectorForm::Decimals),
            (&["8.16.3"], VectorForm::Decimals),
            (&["unknown", "9.4.3"], VectorForm::Decimals),
            (&[], VectorForm::Decimals),
        ] {
            let node = |version: &&str| ((*version).to_owned(), Node { version: (*version).to_owned() });
            let nodes = Nodes { nodes: versions.iter().map(node).collect() };
            assert_eq!(nodes.vector_form(), expected, "{versions:?}");
        }
    }

    #[test]
    fn the_root_cause_is_reported() {
        let body = br#"{"error":{"root_cause":[{"type":"script_exception","reason":"runtime error"}],
            "type":"search_phase_execution_exception","reason":"all shards failed"},"status":400}"#;
        assert_eq!(reported(400, body).to_string(), "400 script_exception: runtime error");
        assert_eq!(reported(405, br#"{"error":"no POST","status":405}"#).to_string(), "405 : no POST");
        assert!(matches!(reported(502, b"<html>"), Error::Foreign { status: 502, .. }));
    }

    fn open(address: &str, api_key: Option<&str>, allow_plain_http: bool) -> Result<Client, store::Error> {
        let settings =
            Settings { address: address.into(), api_key: api_key.map(Into::into), ca: None, allow_plain_http };
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
