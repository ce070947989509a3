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
    let expected = History { attempts: 1, first_received_ms: Some(10), first_error_ms: Some(20), ..History::default() };
    assert_eq!(history, expected);
    let later = Failed { received_ms: 30, now_ms: 40, ..failed(&history) };
    let twice = later.properties(&once);
    assert_eq!(History::read(&twice), History { attempts: 2, ..history });
    assert_eq!(header(&twice, LAST_ERROR_MS), Some(AMQPValue::LongLongInt(40)));
}

#[test]
fn a_failure_that_does_not_count_is_still_recorded() {
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
fn properties_and_headers_of_the_producer_are_kept_except_harmful_ones() {
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
fn headers_that_would_not_fit_a_frame_are_dropped_and_long_errors_cut() {
    let mut headers = FieldTable::default();
    headers.insert("big".into(), AMQPValue::LongString("x".repeat(MAX_HEADERS_BYTES).into()));
    headers.insert(TIMESTAMP_IN_MS.into(), AMQPValue::LongLongInt(1_764_054_000_123));
    let original = BasicProperties::default().with_headers(headers);
    let error = "é".repeat(MAX_ERROR_BYTES);
    let history = History::default();
    let properties = Failed { error: &error, ..failed(&history) }.properties(&original);
    assert_eq!(header(&properties, "big"), None);
    // Without it the message would have another version.
    assert_eq!(published_ms(&properties), Some(1_764_054_000_123));
    assert_eq!(header(&properties, HEADERS_DROPPED), Some(AMQPValue::Boolean(true)));
    let Some(AMQPValue::LongString(cut)) = header(&properties, ERROR) else { panic!("no error header") };
    assert_eq!(cut.len(), MAX_ERROR_BYTES);
}

#[test]
fn invalid_values_in_our_headers_count_as_absent() {
    for value in [AMQPValue::LongString("3".into()), AMQPValue::LongLongInt(-1), AMQPValue::Void] {
        let mut headers = FieldTable::default();
        headers.insert(ATTEMPTS.into(), value);
        assert_eq!(History::read(&BasicProperties::default().with_headers(headers)), History::default());
    }
}

#[test]
fn the_delivery_count_of_one_queue_is_not_forwarded_to_the_next() {
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

#[test]
fn the_unit_of_a_timestamp_follows_from_its_magnitude() {
    let timestamp = |time| published_ms(&BasicProperties::default().with_timestamp(time));
    assert_eq!(timestamp(1_764_054_000), Some(1_764_054_000_000));
    // Milliseconds, as of many clients; then micro- and nanoseconds.
    assert_eq!(timestamp(1_764_054_000_123), Some(1_764_054_000_123));
    assert_eq!(timestamp(1_764_054_000_123_456), Some(1_764_054_000_123));
    assert_eq!(timestamp(1_764_054_000_123_456_789), Some(1_764_054_000_123));
    assert_eq!(timestamp(1), Some(1_000));
    assert_eq!(timestamp(0), None);
    // In 5138 at the latest.
    assert!(timestamp(u64::MAX).unwrap() < 100_000_000_000_000);
    assert_eq!(timestamp(99_999_999_999), Some(99_999_999_999_000));
    assert_eq!(published_ms(&BasicProperties::default()), None);
}

#[test]
fn the_broker_s_own_time_goes_before_the_producer_s_timestamp() {
    let stamped = |value| {
        let mut headers = FieldTable::default();
        headers.insert(TIMESTAMP_IN_MS.into(), value);
        published_ms(&BasicProperties::default().with_timestamp(7).with_headers(headers))
    };
    assert_eq!(stamped(AMQPValue::LongLongInt(1_764_054_000_123)), Some(1_764_054_000_123));
    assert_eq!(stamped(AMQPValue::LongString("1764054000123".into())), Some(7_000));
    assert_eq!(stamped(AMQPValue::LongLongInt(0)), Some(7_000));
}

#[test]
fn a_replayed_message_keeps_its_times_and_loses_its_failures() {
    let mut headers = FieldTable::default();
    headers.insert(TIMESTAMP_IN_MS.into(), AMQPValue::LongLongInt(1_764_054_000_123));
    let dead = failed(&History::default()).properties(&BasicProperties::default().with_headers(headers));
    let again = History::read(&replay_properties(&dead, None));
    let expected = History { first_received_ms: Some(10), published_ms: Some(1_764_054_000_123), ..History::default() };
    assert_eq!(again, expected);
    let forced = History::read(&replay_properties(&dead, Some(99)));
    assert_eq!(forced, History { readmitted_ms: Some(99), ..expected });
    // It is in force until the message is settled.
    let retried = failed(&forced).properties(&replay_properties(&dead, Some(99)));
    assert_eq!(History::read(&retried).readmitted_ms, Some(99));
}
