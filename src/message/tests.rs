#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;

fn envelope(body: impl AsRef<[u8]>) -> Envelope {
    Envelope { body: body.as_ref().to_vec(), first_received_ms: 1_700_000_000_123, ..Envelope::default() }
}

fn parsed(body: &Value) -> Result<ImageReference, Error> {
    parse(&envelope(body.to_string()))
}

#[test]
fn a_bare_url_is_a_whole_message() {
    let reference = parse(&envelope("  https://Example.COM:443/a.jpg#top\n")).unwrap();
    assert_eq!(reference.url.unwrap().as_str(), "https://example.com/a.jpg");
    assert_eq!(reference.operation, Operation::Upsert);
    assert_eq!(reference.collection, "default");
    assert_eq!(reference.version, 1_700_000_000_123);
}

#[test]
fn every_field_is_read() {
    let reference = parsed(&json!({
        "id": "a", "url": "http://h/x", "op": "upsert", "version": 7, "collection": "c",
        "metadata": {"k": {"n": 1}}, "colour": "red"
    }))
    .unwrap();
    assert_eq!(reference.id, "a");
    assert_eq!(reference.version, 7);
    assert_eq!(reference.collection, "c");
    assert_eq!(Value::Object(reference.metadata), json!({"k": {"n": 1}}));
    assert_eq!(reference.unknown_fields, ["colour"]);
}

#[test]
fn a_cloud_event_is_unwrapped() {
    for data in [json!({"id": "a", "url": "http://h/x"}), json!("http://h/x")] {
        let event = json!({"specversion": "1.0", "type": "t", "source": "s", "id": "event-1", "data": data});
        let reference = parsed(&event).unwrap();
        assert_eq!(reference.url.unwrap().as_str(), "http://h/x");
        assert_ne!(reference.id, "event-1");
        assert!(reference.unknown_fields.is_empty());
    }
}

#[test]
fn ids_are_derived_from_collection_and_canonical_url() {
    let id = |body: Value| parsed(&body).unwrap().id;
    let plain = id(json!({"url": "http://h"}));
    assert_eq!(plain.len(), 64);
    assert_eq!(plain, id(json!({"url": "HTTP://H:80/#f"})));
    assert_ne!(plain, id(json!({"url": "http://h/x"})));
    assert_ne!(plain, id(json!({"url": "http://h", "collection": "c"})));
}

#[test]
fn the_version_comes_from_the_message_else_the_timestamp_else_the_first_receipt() {
    let mut envelope = envelope("http://h/");
    assert_eq!(parse(&envelope).unwrap().version, 1_700_000_000_123);
    assert_eq!(parse(&envelope).unwrap().version_source, VersionSource::FirstReceipt);
    envelope.published_ms = Some(12_000);
    assert_eq!(parse(&envelope).unwrap().version, 12_000);
    assert_eq!(parse(&envelope).unwrap().version_source, VersionSource::Published);
    assert!(!names_version(&envelope.body));
    envelope.body = br#"{"url": "http://h/", "version": 0}"#.to_vec();
    assert_eq!(parse(&envelope).unwrap().version, 0);
    assert_eq!(parse(&envelope).unwrap().version_source, VersionSource::Body);
    assert!(names_version(&envelope.body));
}

#[test]
fn the_age_of_a_message_counts_from_its_oldest_time_or_from_when_it_was_readmitted() {
    let age = |published_ms, first_received_ms, readmitted_ms| {
        Envelope { published_ms, first_received_ms, readmitted_ms, ..Envelope::default() }.age(10_000).as_millis()
    };
    assert_eq!(age(None, 9_000, None), 1_000);
    assert_eq!(age(Some(7_000), 9_000, None), 3_000);
    // The producer's clock is ahead.
    assert_eq!(age(Some(20_000), 9_000, None), 1_000);
    assert_eq!(age(Some(7_000), 9_000, Some(9_500)), 500);
    assert_eq!(age(None, 11_000, None), 0);
}

#[test]
fn a_hostile_timestamp_stays_in_range() {
    let envelope = Envelope { published_ms: Some(u64::MAX), ..envelope("http://h/") };
    assert_eq!(parse(&envelope).unwrap().version, MAX_VERSION);
}

#[test]
fn a_delete_needs_an_id_or_a_url() {
    assert_eq!(parsed(&json!({"op": "delete", "id": "a"})).unwrap().operation, Operation::Delete);
    assert_eq!(parsed(&json!({"op": "delete", "url": "http://h/"})).unwrap().operation, Operation::Delete);
    assert_eq!(parsed(&json!({"op": "delete"})), Err(Error::MissingTarget));
    assert_eq!(parsed(&json!({"id": "a"})), Err(Error::MissingTarget));
}

#[test]
fn bad_bodies_are_refused_with_their_reason() {
    assert_eq!(parse(&envelope("")), Err(Error::Empty));
    assert_eq!(parse(&envelope(" \n")), Err(Error::Empty));
    assert_eq!(parse(&envelope([0xff, 0xfe])), Err(Error::NotText));
    assert!(matches!(parse(&envelope("{")), Err(Error::Json(_))));
    assert!(matches!(parse(&envelope("[]")), Err(Error::Json(_))));
    assert!(matches!(parse(&envelope("not a url")), Err(Error::Url(_))));
    assert_eq!(parsed(&json!({"url": "http://h/", "op": "upssert"})), Err(Error::UnknownOperation("upssert".into())));
    assert!(matches!(parsed(&json!({"url": "http://h/", "metadata": 3})), Err(Error::Json(_))));
    assert!(matches!(parsed(&json!({"url": 3})), Err(Error::Json(_))));
}

#[test]
fn versions_outside_the_range_of_elasticsearch_are_refused() {
    for version in [json!(-1), json!(1.5), json!("7"), json!(u64::MAX), json!(i64::MAX)] {
        let result = parsed(&json!({"url": "http://h/", "version": version}));
        assert!(matches!(result, Err(Error::Version(_))), "{version}: {result:?}");
    }
    assert_eq!(parsed(&json!({"url": "http://h/", "version": MAX_VERSION})).unwrap().version, MAX_VERSION);
}

#[test]
fn sizes_are_limited() {
    let too_large = |body: Value, field: &str| {
        let result = parsed(&body);
        assert!(matches!(&result, Err(Error::TooLarge { field: f, .. }) if *f == field), "{field}: {result:?}");
    };
    too_large(json!({"url": "http://h/", "id": "x".repeat(513)}), "id");
    assert!(parsed(&json!({"url": "http://h/", "id": "x".repeat(512)})).is_ok());
    too_large(json!({"url": format!("http://h/{}", "x".repeat(9000))}), "url");
    // Each of its bytes becomes three in canonical form.
    too_large(json!({"url": format!("http://h/{}", "é".repeat(2000))}), "url");
    too_large(json!({"url": "http://h/", "collection": "x".repeat(257)}), "collection");
    too_large(json!({"url": "http://h/", "metadata": {"k": "x".repeat(40_000)}}), "metadata");
    let deep = (0..20).fold(json!(1), |inner, _| json!({"k": inner}));
    too_large(json!({"url": "http://h/", "metadata": deep}), "metadata");
    assert_eq!(parsed(&json!({"url": "http://h/", "id": ""})), Err(Error::EmptyField("id")));
}

#[test]
fn errors_quote_the_beginning_of_what_was_sent() {
    let long = "x".repeat(100_000);
    for field in ["id", "url", "op", "version", "metadata"] {
        let mut body = json!({"url": "http://h/"});
        body[field] = if field == "metadata" { json!(long) } else { json!([long]) };
        let text = parsed(&body).unwrap_err().to_string();
        assert!(text.len() < 300, "{field}: {} bytes", text.len());
    }
    assert!(parsed(&json!({"url": "http://h/", "op": long})).unwrap_err().to_string().len() < 300);
}

#[test]
fn numbers_in_metadata_come_back_as_they_were_sent() {
    for number in ["1.2643574704949807e-5", "9.921812466079743e82", "5e-324", "1.7976931348623157e308", "-0.0"] {
        let reference = parse(&envelope(format!(r#"{{"url":"http://h/","metadata":{{"n":{number}}}}}"#))).unwrap();
        assert_eq!(reference.metadata["n"].as_f64(), Some(number.parse::<f64>().unwrap()), "{number}");
    }
}

#[test]
fn json_nested_past_the_parser_s_limit_is_an_error_and_not_a_crash() {
    let body = format!("{{\"url\":\"http://h/\",\"metadata\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(parse(&envelope(body)), Err(Error::Json(_))));
}

#[test]
fn a_log_names_a_message_without_its_credentials() {
    for (body, expected) in [
        (r#"{"id": "a", "url": "https://h/x"}"#, "a"),
        ("https://user:secret@h/x.png?token=1", "https://h/x.png?..."),
        (r#"{"url": "https://h/x"}"#, "https://h/x"),
        ("{broken", "{broken"),
        // A token may also follow a number sign.
        ("https://h/x#token=1", "https://h/x"),
        // Not a URL or not a reference: secrets are removed where a URL has them.
        ("https://user:secret@[h/x?token=1", "...@[h/x?..."),
        ("blob:https://user:secret@h/x", "...@h/x"),
        (r#"{"url": "https://user:secret@h/x?token=1""#, r"...@h/x?..."),
        (r#"{"url": "https://h/x?token=1", "metadata": 3}"#, r#"{"url": "https://h/x?..."#),
    ] {
        assert_eq!(name(body.as_bytes()), expected);
    }
    assert_eq!(name(&[b'x'; 1000]).len(), 200);
}
