//! The headers of a message in retry and dead-letter queues. Pure.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::outcome::Reason;

/// How many times processing has failed for the message's own reasons.
pub const ATTEMPTS: &str = "x-imgdex-attempts";
/// When a worker first received the message, in ms since the epoch.
pub const FIRST_RECEIVED_MS: &str = "x-imgdex-first-received-ms";
/// When an operator last put the message back into the work queue although it had expired, in ms since the epoch.
pub const READMITTED_MS: &str = "x-imgdex-readmitted-ms";
/// When processing first failed, in ms since the epoch.
pub const FIRST_ERROR_MS: &str = "x-imgdex-first-error-ms";
/// When processing last failed, in ms since the epoch.
pub const LAST_ERROR_MS: &str = "x-imgdex-last-error-ms";
/// The last error, for people.
pub const ERROR: &str = "x-imgdex-error";
/// The HTTP status of the image host, if it answered.
pub const STATUS: &str = "x-imgdex-status";
/// The reason code of a dead letter.
pub const REASON: &str = "x-imgdex-reason";
/// The version of the worker that dead-lettered.
pub const WORKER_VERSION: &str = "x-imgdex-worker-version";
/// The per-message time-to-live that the producer set. It is moved here because as a property it would expire a dead
/// letter.
pub const EXPIRATION: &str = "x-imgdex-expiration";
/// The `user-id` that the producer set. It is moved here because the broker refuses the property from another user.
pub const USER_ID: &str = "x-imgdex-user-id";
/// Present if the producer's headers were too large to be forwarded with ours.
pub const HEADERS_DROPPED: &str = "x-imgdex-headers-dropped";

/// When the broker took the message, in ms since the epoch; set by RabbitMQ's interceptor
/// `message_interceptors.incoming.set_header_timestamp`, from 3.12 on.
const TIMESTAMP_IN_MS: &str = "timestamp_in_ms";
/// How often a quorum queue has requeued the message; the broker sets it. It counts consumers that ended with the message
/// unsettled, and in some versions `basic.nack` too.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// Longest error text in a header.
const MAX_ERROR_BYTES: usize = 1024;
/// Largest headers of a producer that are forwarded, serialised: with ours they must fit one frame, commonly 128 KiB, or
/// the broker closes the connection.
const MAX_HEADERS_BYTES: usize = 64 * 1024;
/// Headers that are always forwarded, if they are numbers: they order the message and say how old it is.
const TIMES: [&str; 2] = [TIMESTAMP_IN_MS, READMITTED_MS];
/// Headers that are not forwarded: those that route further copies of a published message, and the broker's count, which
/// would be read as the count of the next queue.
const NOT_FORWARDED: [&str; 3] = ["CC", "BCC", DELIVERY_COUNT];
/// Persistent: the message survives a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;

/// What our headers say about a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    /// [`ATTEMPTS`]; 0 for a new message.
    pub(super) attempts: u32,
    /// [`FIRST_RECEIVED_MS`], if a worker has forwarded the message before.
    pub(super) first_received_ms: Option<u64>,
    /// When it was published: see [`published_ms`].
    pub(super) published_ms: Option<u64>,
    /// [`READMITTED_MS`], if an operator has put it back.
    pub(super) readmitted_ms: Option<u64>,
    /// [`FIRST_ERROR_MS`], if it has failed before.
    pub(super) first_error_ms: Option<u64>,
    /// How often its queue has requeued it.
    pub(super) delivery_count: u64,
}

impl History {
    /// Reads our headers. Values of another type or sign count as absent.
    pub(super) fn read(properties: &BasicProperties) -> Self {
        let number = |name| properties.headers().as_ref().and_then(|headers| number(headers.inner().get(name)?));
        Self {
            attempts: number(ATTEMPTS).map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
            first_received_ms: number(FIRST_RECEIVED_MS),
            published_ms: published_ms(properties),
            readmitted_ms: number(READMITTED_MS),
            first_error_ms: number(FIRST_ERROR_MS),
            delivery_count: number(DELIVERY_COUNT).unwrap_or_default(),
        }
    }

    /// Whether the message is neither a retry nor a redelivery that the broker counts.
    pub(super) fn is_first_delivery(&self) -> bool {
        self.first_received_ms.is_none() && self.attempts == 0 && self.delivery_count == 0
    }

    /// When a worker first received the message: now, at `received_ms`, unless the header has an earlier time.
    pub(super) fn first_received(&self, received_ms: u64) -> u64 {
        self.first_received_ms.unwrap_or(received_ms)
    }
}

/// When a message was published, in ms since the epoch: the broker's own time where it sets that, else the producer's
/// timestamp. AMQP means seconds; many clients set milliseconds or less. No second of a message has more than eleven
/// digits, and a version a thousand times too large would hide every later one, so the unit follows from the magnitude.
/// Zero means that a client sets what it does not know.
pub(super) fn published_ms(properties: &BasicProperties) -> Option<u64> {
    /// In the year 5138.
    const LAST_SECOND: u64 = 100_000_000_000;
    let known = |time: &u64| *time > 0;
    let headers = properties.headers().as_ref();
    let by_broker = headers.and_then(|headers| number(headers.inner().get(TIMESTAMP_IN_MS)?)).filter(known);
    let by_producer = properties.timestamp().filter(known);
    let by_producer = by_producer.map(|time| if time < LAST_SECOND { time * 1000 } else { time });
    let mut time = by_broker.or(by_producer)?;
    while time >= LAST_SECOND * 1000 {
        time /= 1000;
    }
    Some(time)
}

/// The value of a numeric header, if it is an integer that is not negative.
pub(super) fn number(value: &AMQPValue) -> Option<u64> {
    let number = match value {
        AMQPValue::ShortShortInt(n) => i64::from(*n),
        AMQPValue::ShortShortUInt(n) => i64::from(*n),
        AMQPValue::ShortInt(n) => i64::from(*n),
        AMQPValue::ShortUInt(n) => i64::from(*n),
        AMQPValue::LongInt(n) => i64::from(*n),
        AMQPValue::LongUInt(n) => i64::from(*n),
        AMQPValue::LongLongInt(n) => *n,
        _ => return None,
    };
    u64::try_from(number).ok()
}

/// One more failure of a message, for its headers.
#[derive(Clone, Debug)]
pub(super) struct Failed<'a> {
    pub(super) history: &'a History,
    /// Whether it counts as one of the message's attempts.
    pub(super) counts: bool,
    /// When this worker received the message, in ms since the epoch.
    pub(super) received_ms: u64,
    pub(super) now_ms: u64,
    /// The error, for people.
    pub(super) error: &'a str,
    /// The HTTP status of the image host, if it answered.
    pub(super) status: Option<u16>,
    /// The reason, for a dead letter.
    pub(super) reason: Option<Reason>,
}

impl Failed<'_> {
    /// The properties of the copy in a retry or dead-letter queue: the producer's own, with our headers beside the
    /// producer's.
    pub(super) fn properties(&self, original: &BasicProperties) -> BasicProperties {
        let mut headers = forwarded_headers(original);
        let text = |text: &str| AMQPValue::LongString(text.into());
        let mut set = |name: &'static str, value| {
            headers.insert(ShortString::from(name), value);
        };
        set(ATTEMPTS, long(u64::from(self.history.attempts.saturating_add(self.counts.into()))));
        set(FIRST_RECEIVED_MS, long(self.history.first_received(self.received_ms)));
        set(FIRST_ERROR_MS, long(self.history.first_error_ms.unwrap_or(self.now_ms)));
        set(LAST_ERROR_MS, long(self.now_ms));
        set(ERROR, text(&self.error[..self.error.floor_char_boundary(MAX_ERROR_BYTES)]));
        if let Some(status) = self.status {
            set(STATUS, long(status.into()));
        }
        if let Some(reason) = self.reason {
            set(REASON, text(reason.code()));
            set(WORKER_VERSION, text(env!("CARGO_PKG_VERSION")));
        }
        if let Some(expiration) = original.expiration() {
            set(EXPIRATION, text(expiration.as_str()));
        }
        if let Some(user) = original.user_id() {
            set(USER_ID, text(user.as_str()));
        }
        without_expiration_and_user(original).with_headers(headers).with_delivery_mode(PERSISTENT)
    }
}

/// The properties of a copy in another queue that adds no failure.
pub(super) fn forward_properties(original: &BasicProperties, first_received_ms: u64) -> BasicProperties {
    let mut headers = forwarded_headers(original);
    headers.insert(FIRST_RECEIVED_MS.into(), long(first_received_ms));
    without_expiration_and_user(original).with_headers(headers).with_delivery_mode(PERSISTENT)
}

/// The producer's headers that a copy keeps.
fn forwarded_headers(original: &BasicProperties) -> FieldTable {
    let mut headers = FieldTable::default();
    let theirs = original.headers().clone().unwrap_or_default();
    let size = serde_json::to_vec(&theirs).map_or(usize::MAX, |json| json.len());
    let dropped = size > MAX_HEADERS_BYTES;
    if dropped {
        headers.insert(HEADERS_DROPPED.into(), AMQPValue::Boolean(true));
    }
    for (name, value) in &theirs {
        let is_forwarded = if dropped {
            TIMES.contains(&name.as_str()) && number(value).is_some()
        } else {
            !NOT_FORWARDED.contains(&name.as_str())
        };
        if is_forwarded {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers
}

fn long(number: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The headers of a failure, which a replayed message starts without.
const FAILURES: [&str; 7] = [ATTEMPTS, FIRST_ERROR_MS, LAST_ERROR_MS, ERROR, STATUS, REASON, WORKER_VERSION];

/// The properties of a dead letter that goes back to the work queue: without its failures, but with the time of its first
/// receipt, which may be its version. `readmitted_ms` is when an operator decided that its age does not matter.
pub(super) fn replay_properties(dead: &BasicProperties, readmitted_ms: Option<u64>) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &dead.headers().clone().unwrap_or_default() {
        if !FAILURES.contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if let Some(now_ms) = readmitted_ms {
        headers.insert(READMITTED_MS.into(), long(now_ms));
    }
    without_expiration_and_user(dead).with_headers(headers).with_delivery_mode(PERSISTENT)
}

/// Copies all other properties, because a property can be set and not unset.
fn without_expiration_and_user(original: &BasicProperties) -> BasicProperties {
    let mut copy = BasicProperties::default();
    macro_rules! keep {
        ($($property:ident => $with:ident),+ $(,)?) => {
            $(if let Some(value) = original.$property().clone() { copy = copy.$with(value); })+
        };
    }
    keep! {
        content_type => with_content_type,
        content_encoding => with_content_encoding,
        priority => with_priority,
        correlation_id => with_correlation_id,
        reply_to => with_reply_to,
        message_id => with_message_id,
        timestamp => with_timestamp,
        kind => with_type,
        app_id => with_app_id,
    }
    copy
}

#[cfg(test)]
mod tests;
