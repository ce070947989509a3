//! What a message in one of our queues says about itself: the reference in its body, and the headers of its failures.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::broker::browse::QueuedMessage;
use crate::broker::headers;
use crate::message::{self, Envelope};

/// One dead letter, as printed.
#[derive(Clone, Debug, Serialize)]
pub struct Letter {
    /// The document's id; `body:` and the beginning of the body's SHA-256 where the body is no reference.
    pub id: String,
    pub url: Option<String>,
    /// The reason code.
    pub reason: Option<String>,
    /// The last error.
    pub error: Option<String>,
    pub status: Option<u64>,
    pub attempts: Option<u64>,
    pub first_error_ms: Option<u64>,
    pub last_error_ms: Option<u64>,
    pub bytes: usize,
}

impl Letter {
    /// Reads what a message in one of our queues says about itself.
    pub fn of(found: &QueuedMessage) -> Self {
        let reference = message::parse(&Envelope { body: found.body.clone(), ..Envelope::default() }).ok();
        let number = |name| found.header(name).and_then(|text| text.parse().ok());
        Self {
            id: reference.as_ref().map_or_else(|| body_id(&found.body), |reference| reference.id.clone()),
            url: reference.and_then(|reference| reference.url).map(String::from),
            reason: found.header(headers::REASON),
            error: found.header(headers::ERROR),
            status: number(headers::STATUS),
            attempts: number(headers::ATTEMPTS),
            first_error_ms: number(headers::FIRST_ERROR_MS),
            last_error_ms: number(headers::LAST_ERROR_MS),
            bytes: found.body.len(),
        }
    }
}

fn body_id(body: &[u8]) -> String {
    let digest = format!("{:x}", Sha256::digest(body));
    format!("body:{}", &digest[..16])
}
