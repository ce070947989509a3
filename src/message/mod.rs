//! The wire format of an image reference.
//!
//! A body is a JSON object `{"id"?, "url", "op"?, "version"?, "collection"?, "metadata"?}`, a bare URL, or a CloudEvents
//! structured envelope whose `data` is either of these. Published as `deploy/image-reference.schema.json`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use url::Url;

use crate::excerpt::excerpt;

/// Longest document id in bytes: Elasticsearch refuses a whole bulk request for one longer id.
pub const MAX_ID_BYTES: usize = 512;
/// Longest URL in bytes; longer ones are refused by common servers too.
pub const MAX_URL_BYTES: usize = 8192;
pub const MAX_COLLECTION_BYTES: usize = 256;
/// Largest metadata object, serialised as JSON.
pub const MAX_METADATA_BYTES: usize = 32 * 1024;
/// Deepest nesting of metadata; a `flattened` field refuses more than 20 levels, and the whole document with it.
pub const MAX_METADATA_DEPTH: usize = 16;
/// Largest version: external versions in Elasticsearch are non-negative 64-bit signed integers, the last one reserved.
pub const MAX_VERSION: u64 = i64::MAX as u64 - 1;
/// Longest excerpt of a producer's text in an error or a log, in characters.
const LONGEST_QUOTE: usize = 200;
/// The `op` of a deletion.
const DELETE: &str = "delete";
/// The collection of a reference without one.
pub const DEFAULT_COLLECTION: &str = "default";

/// The input of the pipeline: a body, and what the broker knows about its delivery.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    /// The body, exactly as delivered.
    pub body: Vec<u8>,
    /// When it was published, in ms since the epoch, where the broker or the producer has set that.
    pub published_ms: Option<u64>,
    /// When a worker first received this message, in ms since the epoch; kept in a header through retries.
    pub first_received_ms: u64,
    /// When an operator last put it back into the queue although it had expired.
    pub readmitted_ms: Option<u64>,
    /// How many times processing this message has failed for its own reasons.
    pub attempts: u32,
}

impl Envelope {
    /// How long ago the message came into being, as far as that is known: published, first received, or put back by an
    /// operator who takes responsibility for its age.
    pub fn age(&self, now_ms: u64) -> Duration {
        let oldest =
            self.published_ms.map_or(self.first_received_ms, |published| published.min(self.first_received_ms));
        Duration::from_millis(now_ms.saturating_sub(self.readmitted_ms.map_or(oldest, |again| again.max(oldest))))
    }
}

/// What a reference asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Fetch, embed and store the image.
    #[default]
    Upsert,
    /// Remove the document.
    Delete,
}

/// A checked reference: every field is within the limits above.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageReference {
    /// The document id: the message's `id`, else [`derived_id`] of collection and URL.
    pub id: String,
    /// Where the image is, in canonical form. A deletion by id has none.
    pub url: Option<Url>,
    pub operation: Operation,
    /// Orders writes of one id: a write is dropped if the stored document has a newer version.
    pub version: u64,
    /// Where the version is from.
    pub version_source: VersionSource,
    pub collection: String,
    /// Stored with the document and returned with every hit.
    pub metadata: Map<String, Value>,
    /// Names of unknown fields, which are counted and otherwise ignored.
    pub unknown_fields: Vec<String>,
}

/// Where a version is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionSource {
    /// The body's `version`.
    Body,
    /// The time of publishing.
    Published,
    /// The time of the first receipt, for want of anything else: it orders a message by when it happened to be delivered.
    FirstReceipt,
}

/// Why a body is not a reference. Always the message's own fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither JSON nor text.
    #[error("the body is not UTF-8 text")]
    NotText,
    #[error("the body is empty")]
    Empty,
    /// Starts like JSON but is not a valid reference.
    #[error("the body is not a valid reference: {0}")]
    Json(String),
    /// The beginning of an unknown `op`.
    #[error("unknown op {0:?}; known: upsert, delete")]
    UnknownOperation(String),
    /// An upsert without a `url`, or a delete without `id` and `url`.
    #[error("an upsert needs a url, a delete an id or a url")]
    MissingTarget,
    #[error("invalid url: {0}")]
    Url(String),
    #[error("{field} is {found} {unit}, more than {limit}")]
    TooLarge { field: &'static str, found: usize, limit: usize, unit: &'static str },
    #[error("{0} is empty")]
    EmptyField(&'static str),
    /// The beginning of a `version` that is out of range.
    #[error("version {0} is out of range 0..=9223372036854775806")]
    Version(String),
}

/// The JSON form, as producers write it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WireReference {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Absent means upsert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// The version in any order-preserving unit; milliseconds since the epoch by convention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Value>,
    /// Absent means [`DEFAULT_COLLECTION`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// All other fields of the object.
    #[serde(flatten, skip_serializing)]
    pub unknown: Map<String, Value>,
}

impl WireReference {
    pub fn is_deletion(&self) -> bool {
        self.op.as_deref() == Some(DELETE)
    }

    /// Makes it a deletion.
    pub fn delete(&mut self) {
        self.op = Some(DELETE.to_owned());
    }
}

/// Reads and checks a reference.
///
/// # Errors
/// Every [`Error`] is permanent: the same body fails again.
pub fn parse(envelope: &Envelope) -> Result<ImageReference, Error> {
    let wire = read(&envelope.body)?;
    let unversioned = match envelope.published_ms {
        Some(published) => (published, VersionSource::Published),
        None => (envelope.first_received_ms, VersionSource::FirstReceipt),
    };
    check(wire, unversioned)
}

/// Whether a body names its version, so that it does not matter when it is received.
pub fn names_version(body: &[u8]) -> bool {
    read(body).is_ok_and(|wire| wire.version.is_some())
}

/// Reads the body without checking the fields' values: a JSON object, a CloudEvents envelope or a bare URL.
///
/// # Errors
/// [`Error::NotText`], [`Error::Empty`] or [`Error::Json`].
pub fn read(body: &[u8]) -> Result<WireReference, Error> {
    let text = std::str::from_utf8(body).map_err(|_| Error::NotText)?;
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(Error::Empty);
    }
    if !text.starts_with(['{', '[', '"']) {
        return Ok(bare_url(text));
    }
    let value: Value = serde_json::from_str(text).map_err(|e| not_json(&e))?;
    match unwrap_cloud_event(value) {
        Value::String(url) => Ok(bare_url(url.trim())),
        value => serde_json::from_value(value).map_err(|e| not_json(&e)),
    }
}

/// Cut, because `serde_json` quotes a whole string if it expected another type.
fn not_json(error: &serde_json::Error) -> Error {
    Error::Json(quote(&error.to_string()))
}

fn quote(text: &str) -> String {
    excerpt(text, LONGEST_QUOTE)
}

fn bare_url(url: &str) -> WireReference {
    WireReference { url: Some(url.to_owned()), ..WireReference::default() }
}

/// CloudEvents 1.0, structured mode: the context attribute `specversion` marks the envelope, `data` holds the payload.
fn unwrap_cloud_event(value: Value) -> Value {
    match value {
        Value::Object(mut object) if object.contains_key("specversion") && object.contains_key("data") => {
            object.remove("data").unwrap_or_default()
        }
        other => other,
    }
}

fn version(value: &Value) -> Result<u64, Error> {
    value.as_u64().filter(|&v| v <= MAX_VERSION).ok_or_else(|| Error::Version(quote(&value.to_string())))
}

/// Checks the values of a reference, and fills in absent ones; `unversioned` is the version of one that names none.
pub fn check(wire: WireReference, unversioned: (u64, VersionSource)) -> Result<ImageReference, Error> {
    let (version, version_source) = match &wire.version {
        Some(value) => (version(value)?, VersionSource::Body),
        None => (unversioned.0.min(MAX_VERSION), unversioned.1),
    };
    let operation = match wire.op.as_deref() {
        None | Some("upsert") => Operation::Upsert,
        Some(DELETE) => Operation::Delete,
        Some(other) => return Err(Error::UnknownOperation(quote(other))),
    };
    let url = wire.url.as_deref().map(canonical_url).transpose()?;
    if url.is_none() && (operation == Operation::Upsert || wire.id.is_none()) {
        return Err(Error::MissingTarget);
    }
    let collection = wire.collection.unwrap_or_else(|| DEFAULT_COLLECTION.to_owned());
    bounded("collection", &collection, MAX_COLLECTION_BYTES)?;
    let id = match (wire.id, &url) {
        (Some(id), _) => id,
        (None, Some(url)) => derived_id(&collection, url),
        (None, None) => return Err(Error::MissingTarget),
    };
    bounded("id", &id, MAX_ID_BYTES)?;
    let metadata = wire.metadata.unwrap_or_default();
    check_metadata(&metadata)?;
    let unknown_fields = wire.unknown.into_iter().map(|(name, _)| name).collect();
    Ok(ImageReference { id, url, operation, version, version_source, collection, metadata, unknown_fields })
}

/// The name of a message in a log: its id, else its URL, else its beginning, without the parts of a URL that may be secret
/// (user, password, query).
pub fn name(body: &[u8]) -> String {
    let name = match read(body) {
        Ok(WireReference { id: Some(id), .. }) => id,
        Ok(WireReference { url: Some(url), .. }) => match Url::parse(&url) {
            Ok(url) if url.has_authority() => without_secrets(url).into(),
            _ => without_likely_secrets(&url),
        },
        Ok(_) | Err(_) => without_likely_secrets(&String::from_utf8_lossy(body)),
    };
    quote(&name)
}

fn without_secrets(mut url: Url) -> Url {
    // Both fail only for URLs that cannot have a user or password.
    let _ = (url.set_username(""), url.set_password(None));
    if url.query().is_some() {
        url.set_query(Some("..."));
    }
    url.set_fragment(None);
    url
}

/// For text that does not parse and may contain a URL: a query begins with a question mark, and user and password end with
/// an `@`.
fn without_likely_secrets(text: &str) -> String {
    let (text, query) = text.split_once('?').map_or((text, ""), |(text, _)| (text, "?..."));
    let (user, text) = text.rsplit_once('@').map_or(("", text), |(_, text)| ("...@", text));
    [user, text, query].concat()
}

fn bounded(field: &'static str, value: &str, limit: usize) -> Result<(), Error> {
    if value.is_empty() {
        return Err(Error::EmptyField(field));
    }
    within(field, value.len(), limit, "bytes")
}

fn within(field: &'static str, found: usize, limit: usize, unit: &'static str) -> Result<(), Error> {
    if found > limit { Err(Error::TooLarge { field, found, limit, unit }) } else { Ok(()) }
}

fn check_metadata(metadata: &Map<String, Value>) -> Result<(), Error> {
    let depth = 1 + metadata.values().map(depth).max().unwrap_or(0);
    within("metadata", depth, MAX_METADATA_DEPTH, "levels deep")?;
    let size = serde_json::to_vec(metadata).map_err(|e| not_json(&e))?.len();
    within("metadata", size, MAX_METADATA_BYTES, "bytes")
}

/// Levels of nesting below a value. `serde_json` refuses input deeper than 128, which bounds the recursion.
fn depth(value: &Value) -> usize {
    match value {
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        Value::Array(array) => 1 + array.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Parses a URL and brings it into the form that ids are derived from: scheme and host in lower case, no default port,
/// an empty path as `/` (all done by the WHATWG parser), no fragment.
///
/// # Errors
/// [`Error::Url`], [`Error::TooLarge`] or [`Error::EmptyField`].
pub fn canonical_url(text: &str) -> Result<Url, Error> {
    bounded("url", text, MAX_URL_BYTES)?;
    let mut url = Url::parse(text).map_err(|e| Error::Url(e.to_string()))?;
    url.set_fragment(None);
    // Percent-encoding and IDNA can lengthen it.
    within("url", url.as_str().len(), MAX_URL_BYTES, "bytes")?;
    Ok(url)
}

/// The id of a document whose reference has none: SHA-256 over collection and canonical URL, in hexadecimal.
///
/// The collection's length goes first, so that no two pairs share a preimage.
pub fn derived_id(collection: &str, url: &Url) -> String {
    let mut hash = Sha256::new();
    hash.update((collection.len() as u64).to_be_bytes());
    hash.update(collection);
    hash.update(url.as_str());
    format!("{:x}", hash.finalize())
}

#[cfg(test)]
mod tests;
