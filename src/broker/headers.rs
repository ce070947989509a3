//! The headers that travel with a message through retries and into the dead letters. Pure.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::outcome::Reason;

/// How many times processing has failed for the message's own reasons.
pub const ATTEMPTS: &str = "x-imgdex-attempts";
/// When a worker first received the message, in ms since the epoch.
pub const FIRST_RECEIVED_MS: &str = "x-imgdex-first-received-ms";
/// When processing first failed, in ms since the epoch.
pub const FIRST_ERROR_MS: &str = "x-imgdex-first-error-ms";
/// When processing last failed, in ms since the epoch.
pub const LAST_ERROR_MS: &str = "x-imgdex-last-error-ms";
/// The last error, for people.
pub const ERROR: &str = "x-imgdex-error";
/// The HTTP status of the image host, where it answered.
pub const STATUS: &str = "x-imgdex-status";
/// The reason code of a dead letter.
pub const REASON: &str = "x-imgdex-reason";
/// The version of the worker that dead-lettered.
pub const WORKER_VERSION: &str = "x-imgdex-worker-version";
/// The per-message time-to-live that the producer set; kept here, for in the property it would delete a dead letter.
pub const EXPIRATION: &str = "x-imgdex-expiration";
/// The user that the producer stated; kept here, for the broker refuses the property from anyone else.
pub const USER_ID: &str = "x-imgdex-user-id";
/// Present where the producer's headers were too large to be sent on with ours.
pub const HEADERS_DROPPED: &str = "x-imgdex-headers-dropped";

/// How often a quorum queue has taken the message back from a consumer, by the broker itself. It counts ends of consumers,
/// and in some versions what was given back too.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// Longest error text in a header.
const MAX_ERROR_BYTES: usize = 1024;
/// Largest headers of a producer that are sent on, serialised: with ours they must fit one frame, commonly 128 KiB, or
/// the broker closes the connection.
const MAX_HEADERS_BYTES: usize = 64 * 1024;
/// Headers that are not sent on: those that route copies of a message wherever it is published, and the broker's own,
/// which would be taken for the count of the next queue.
const NOT_FORWARDED: [&str; 3] = ["CC", "BCC", DELIVERY_COUNT];
/// Persistent: the message survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// What our headers say about a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// [`ATTEMPTS`]; 0 for a fresh message.
    pub attempts: u32,
    /// [`FIRST_RECEIVED_MS`], where a worker has seen the message before.
    pub first_received_ms: Option<u64>,
    /// [`FIRST_ERROR_MS`], where it has failed before.
    pub first_error_ms: Option<u64>,
    /// How often its queue has taken it back from a consumer.
    pub delivery_count: u64,
}

impl History {
    /// Reads our headers. Values of another type or sign are taken as absent.
    pub fn read(properties: &BasicProperties) -> Self {
        let number = |name| properties.headers().as_ref().and_then(|headers| number(headers.inner().get(name)?));
        Self {
            attempts: number(ATTEMPTS).map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
            first_received_ms: number(FIRST_RECEIVED_MS),
            first_error_ms: number(FIRST_ERROR_MS),
            delivery_count: number(DELIVERY_COUNT).unwrap_or_default(),
        }
    }

    /// When a worker first received the message, where one receives it at `received_ms`.
    pub fn first_received(&self, received_ms: u64) -> u64 {
        self.first_received_ms.unwrap_or(received_ms)
    }
}

/// A header's value, where it is a number of ours.
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

/// One more failure of a message, to be written into its headers.
#[derive(Clone, Debug)]
pub struct Failed<'a> {
    /// What earlier workers wrote.
    pub history: &'a History,
    /// Whether it counts as one of the message's tries.
    pub counts: bool,
    /// When this worker received the message, in ms since the epoch.
    pub received_ms: u64,
    /// Now, in ms since the epoch.
    pub now_ms: u64,
    /// The error, for people.
    pub error: &'a str,
    /// The HTTP status of the image host, where it answered.
    pub status: Option<u16>,
    /// The reason, for a dead letter.
    pub reason: Option<Reason>,
}

impl Failed<'_> {
    /// The properties under which the message goes to a retry queue or the dead letters: the producer's own, with our
    /// headers beside the producer's.
    pub fn properties(&self, original: &BasicProperties) -> BasicProperties {
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

/// The properties under which a message moves to another queue without having failed.
pub(super) fn forward_properties(original: &BasicProperties, first_received_ms: u64) -> BasicProperties {
    let mut headers = forwarded_headers(original);
    headers.insert(FIRST_RECEIVED_MS.into(), long(first_received_ms));
    without_expiration_and_user(original).with_headers(headers).with_delivery_mode(PERSISTENT)
}

/// The headers of a message that are sent on with it.
fn forwarded_headers(original: &BasicProperties) -> FieldTable {
    let mut headers = FieldTable::default();
    let theirs = original.headers().clone().unwrap_or_default();
    let size = serde_json::to_vec(&theirs).map_or(usize::MAX, |json| json.len());
    if size > MAX_HEADERS_BYTES {
        headers.insert(HEADERS_DROPPED.into(), AMQPValue::Boolean(true));
        return headers;
    }
    for (name, value) in &theirs {
        if !NOT_FORWARDED.contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers
}

fn long(number: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Headers that tell of failures, which a replayed message has not had.
const FAILURES: [&str; 7] = [ATTEMPTS, FIRST_ERROR_MS, LAST_ERROR_MS, ERROR, STATUS, REASON, WORKER_VERSION];

/// The properties under which a dead letter goes back to the work queue: without its failures, but with the time of its
/// first receipt, which may be its version.
pub(super) fn replay_properties(dead: &BasicProperties) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &dead.headers().clone().unwrap_or_default() {
        if !FAILURES.contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    without_expiration_and_user(dead).with_headers(headers).with_delivery_mode(PERSISTENT)
}

/// Properties can be set, not unset: copies all but the two.
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn failed(history: &History) -> Failed<'_> {
        let reason = Some(Reason::HostRefused);
        Failed { history, counts: true, received_ms: 10, now_ms: 20, error: "no", status: Some(404), reason }
    }

    fn header(properties: &BasicProperties, name: &str) -> Option<AMQPValue> {
        properties.headers().as_ref()?.inner().get(name).cloned()
    }

    #[test]
    fn a_first_failure_starts_the_history_and_a_second_continues_it() {
        let fresh = History::read(&BasicProperties::default());
        assert_eq!(fresh, History::default());
        let once = failed(&fresh).properties(&BasicProperties::default());
        let history = History::read(&once);
        assert_eq!(
            history,
            History { attempts: 1, first_received_ms: Some(10), first_error_ms: Some(20), delivery_count: 0 }
        );
        let later = Failed { received_ms: 30, now_ms: 40, ..failed(&history) };
        let twice = later.properties(&once);
        assert_eq!(History::read(&twice), History { attempts: 2, ..history });
        assert_eq!(header(&twice, LAST_ERROR_MS), Some(AMQPValue::LongLongInt(40)));
    }

    #[test]
    fn a_failure_that_does_not_count_is_noted_all_the_same() {
        let fresh = History::default();
        let noted = Failed { counts: false, ..failed(&fresh) }.properties(&BasicProperties::default());
        let expected = History { first_received_ms: Some(10), first_error_ms: Some(20), ..fresh };
        assert_eq!(History::read(&noted), expected);
        assert_eq!(header(&noted, ERROR), Some(AMQPValue::LongString("no".into())));
    }

    #[test]
    fn a_dead_letter_says_why() {
        let properties = failed(&History::default()).properties(&BasicProperties::default());
        assert_eq!(header(&properties, REASON), Some(AMQPValue::LongString("host_refused".into())));
        assert_eq!(header(&properties, STATUS), Some(AMQPValue::LongLongInt(404)));
        assert_eq!(header(&properties, ERROR), Some(AMQPValue::LongString("no".into())));
        assert_eq!(header(&properties, WORKER_VERSION), Some(AMQPValue::LongString(env!("CARGO_PKG_VERSION").into())));
    }

    #[test]
    fn properties_and_headers_of_the_producer_stay_except_those_that_would_harm() {
        let mut headers = FieldTable::default();
        headers.insert("trace".into(), AMQPValue::LongString("abc".into()));
        headers.insert("CC".into(), AMQPValue::LongString("elsewhere".into()));
        let original = BasicProperties::default()
            .with_headers(headers)
            .with_timestamp(7)
            .with_type("image".into())
            .with_content_type("application/json".into())
            .with_expiration("1000".into())
            .with_user_id("producer".into())
            .with_delivery_mode(1);
        let properties = failed(&History::default()).properties(&original);
        assert_eq!(*properties.timestamp(), Some(7));
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "image");
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(header(&properties, "trace"), Some(AMQPValue::LongString("abc".into())));
        assert_eq!(header(&properties, "CC"), None);
        assert_eq!(*properties.expiration(), None);
        assert_eq!(header(&properties, EXPIRATION), Some(AMQPValue::LongString("1000".into())));
        assert_eq!(*properties.user_id(), None);
        assert_eq!(header(&properties, USER_ID), Some(AMQPValue::LongString("producer".into())));
    }

    #[test]
    fn headers_that_would_not_fit_a_frame_are_left_out_and_long_errors_cut() {
        let mut headers = FieldTable::default();
        headers.insert("big".into(), AMQPValue::LongString("x".repeat(MAX_HEADERS_BYTES).into()));
        let original = BasicProperties::default().with_headers(headers);
        let error = "é".repeat(MAX_ERROR_BYTES);
        let history = History::default();
        let properties = Failed { error: &error, ..failed(&history) }.properties(&original);
        assert_eq!(header(&properties, "big"), None);
        assert_eq!(header(&properties, HEADERS_DROPPED), Some(AMQPValue::Boolean(true)));
        let Some(AMQPValue::LongString(cut)) = header(&properties, ERROR) else { panic!("no error header") };
        assert_eq!(cut.len(), MAX_ERROR_BYTES);
    }

    #[test]
    fn foreign_values_in_our_headers_count_as_absent() {
        for value in [AMQPValue::LongString("3".into()), AMQPValue::LongLongInt(-1), AMQPValue::Void] {
            let mut headers = FieldTable::default();
            headers.insert(ATTEMPTS.into(), value);
            assert_eq!(History::read(&BasicProperties::default().with_headers(headers)), History::default());
        }
    }

    #[test]
    fn the_broker_s_count_of_one_queue_does_not_travel_to_the_next() {
        let mut headers = FieldTable::default();
        headers.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(7));
        headers.insert("trace".into(), AMQPValue::LongString("abc".into()));
        let original = BasicProperties::default().with_headers(headers);
        assert_eq!(History::read(&original).delivery_count, 7);
        let history = History::default();
        for properties in [failed(&history).properties(&original), forward_properties(&original, 5)] {
            assert_eq!(History::read(&properties).delivery_count, 0);
            assert!(header(&properties, "trace").is_some());
        }
        assert_eq!(History::read(&forward_properties(&original, 5)).first_received_ms, Some(5));
    }
}
