//! Bodies of messages.

use imgdex::testing::message::{
    self, Envelope, ImageReference, MAX_COLLECTION_BYTES, MAX_ID_BYTES, MAX_METADATA_BYTES, MAX_METADATA_DEPTH,
    MAX_URL_BYTES, MAX_VERSION, Operation, VersionSource, WireReference,
};
use serde_json::Value;
use url::Url;

/// The longest error that a person would read, and that fits a header.
const LONGEST_ERROR: usize = 1024;
/// The longest name of a message in a log, in characters.
const LONGEST_NAME: usize = 200;
/// A password or token that no input has.
const SECRET: &str = "Hush-4711-xyzzy";

/// A body is a reference within the limits, which comes back the same when it is sent again, or is refused with a short
/// reason. Its name in a log is short and gives no secret away.
pub fn check(body: &[u8]) {
    for published_ms in [None, Some(u64::MAX)] {
        let envelope =
            Envelope { body: body.to_vec(), published_ms, first_received_ms: 1_700_000_000_000, ..Envelope::default() };
        match message::parse(&envelope) {
            Ok(reference) => {
                is_within_limits(&reference);
                // Around drive letters a file URL may change when it is read again. No worker fetches it.
                if reference.url.as_ref().is_none_or(|url| url.scheme() != "file") {
                    comes_back_the_same(reference);
                }
            }
            Err(error) => {
                let text = error.to_string();
                assert!(!text.is_empty() && text.len() <= LONGEST_ERROR, "{} bytes: {text}", text.len());
            }
        }
    }
    assert!(message::name(body).chars().count() <= LONGEST_NAME);
    if let Ok(text) = std::str::from_utf8(body) {
        is_named_without_secrets(text);
    }
}

fn is_within_limits(reference: &ImageReference) {
    let ImageReference { id, url, operation, version, collection, metadata, .. } = reference;
    assert!((1..=MAX_ID_BYTES).contains(&id.len()), "{id:?}");
    assert!((1..=MAX_COLLECTION_BYTES).contains(&collection.len()), "{collection:?}");
    assert!(*version <= MAX_VERSION);
    assert!(serde_json::to_vec(metadata).is_ok_and(|json| json.len() <= MAX_METADATA_BYTES));
    assert!(metadata.is_empty() || depth(&Value::Object(metadata.clone())) <= MAX_METADATA_DEPTH);
    match url {
        Some(url) => assert!(url.as_str().len() <= MAX_URL_BYTES, "{} bytes", url.as_str().len()),
        None => assert_eq!(*operation, Operation::Delete),
    }
}

/// The most brackets open at once in a value's JSON.
fn depth(value: &Value) -> usize {
    match value {
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or_default(),
        Value::Array(array) => 1 + array.iter().map(depth).max().unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn comes_back_the_same(reference: ImageReference) {
    if let Some(url) = &reference.url {
        assert_eq!(message::canonical_url(url.as_str()).as_ref(), Ok(url));
    }
    let wire = WireReference {
        id: Some(reference.id.clone()),
        url: reference.url.as_ref().map(Url::to_string),
        op: serde_json::to_value(reference.operation).ok().and_then(|op| op.as_str().map(str::to_owned)),
        version: Some(reference.version.into()),
        collection: Some(reference.collection.clone()),
        metadata: Some(reference.metadata.clone()),
        ..WireReference::default()
    };
    let body = serde_json::to_vec(&wire).unwrap_or_default();
    let again = message::parse(&Envelope { body, ..Envelope::default() });
    let version_source = VersionSource::Body;
    assert_eq!(again, Ok(ImageReference { unknown_fields: Vec::new(), version_source, ..reference }));
}

/// Hides a secret where URLs have theirs, in a body that is a bare URL, one in JSON, and in JSON that is cut off.
fn is_named_without_secrets(text: &str) {
    if text.contains(SECRET) {
        return;
    }
    let user_info = text.replacen("://", &format!("://user:{SECRET}@"), 1);
    let query = format!("{text}?token={SECRET}");
    for url in [user_info, query] {
        let json = serde_json::json!({ "url": url }).to_string();
        for body in [url.as_str(), &json, &json[..json.len() - 1]] {
            let name = message::name(body.as_bytes());
            assert!(!name.contains(SECRET) || !is_secret_in(body), "{body:?} is named {name:?}");
        }
    }
}

/// Whether the secret stands where a URL has one. In what is no URL, a person would still read it as one.
fn is_secret_in(body: &str) -> bool {
    match message::read(body.as_bytes()) {
        Ok(WireReference { id: Some(_), .. }) => false,
        Ok(WireReference { url: Some(url), .. }) => Url::parse(&url).map_or(true, |url| {
            !url.has_authority() || url.password() == Some(SECRET) || url.query().is_some_and(|q| q.contains(SECRET))
        }),
        Ok(_) | Err(_) => true,
    }
}
