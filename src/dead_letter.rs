//! A dead letter or waiting retry as `dlq` and `why` print it: the reference in its body, and the headers of its failures.

use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::broker::browse::QueuedMessage;
use crate::broker::headers;
use crate::clock::now_ms;
use crate::message::{self, Envelope, Operation};

/// One dead letter, as printed. Times are in ms since the epoch, `bytes` is the size of the body.
#[derive(Clone, Debug, Serialize)]
pub struct Letter {
    /// The document's id, or `body:` and the beginning of the body's SHA-256 if the body is no reference.
    pub id: String,
    pub url: Option<String>,
    /// The code of a [`Reason`](crate::outcome::Reason).
    pub reason: Option<String>,
    pub error: Option<String>,
    pub status: Option<u64>,
    pub attempts: Option<u64>,
    pub first_error_ms: Option<u64>,
    pub last_error_ms: Option<u64>,
    pub bytes: usize,
    /// How old an upsert is, as a worker will see it when the letter is replayed.
    #[serde(skip)]
    pub upsert_age: Option<Duration>,
}

impl Letter {
    pub fn of(message: &QueuedMessage) -> Self {
        let number = |name| message.header(name).and_then(|text| text.parse().ok());
        let now_ms = now_ms();
        let envelope = Envelope {
            body: message.body.clone(),
            published_ms: message.published_ms(),
            first_received_ms: number(headers::FIRST_RECEIVED_MS).unwrap_or(now_ms),
            readmitted_ms: number(headers::READMITTED_MS),
            ..Envelope::default()
        };
        let reference = message::parse(&envelope).ok();
        let is_upsert = reference.as_ref().is_some_and(|reference| reference.operation == Operation::Upsert);
        Self {
            id: reference.as_ref().map_or_else(|| body_id(&message.body), |reference| reference.id.clone()),
            url: reference.and_then(|reference| reference.url).map(String::from),
            reason: message.header(headers::REASON),
            error: message.header(headers::ERROR),
            status: number(headers::STATUS),
            attempts: number(headers::ATTEMPTS),
            first_error_ms: number(headers::FIRST_ERROR_MS),
            last_error_ms: number(headers::LAST_ERROR_MS),
            bytes: message.body.len(),
            upsert_age: is_upsert.then(|| envelope.age(now_ms)),
        }
    }
}

fn body_id(body: &[u8]) -> String {
    let digest = format!("{:x}", Sha256::digest(body));
    format!("body:{}", &digest[..16])
}
