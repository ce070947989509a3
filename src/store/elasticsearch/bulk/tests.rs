#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;

use super::*;
use crate::embedding::Embedding;
use crate::store::Blocked;

fn document(id: &str, values: &[f32]) -> Document {
    Document {
        id: id.to_owned(),
        url: "https://example.org/a.jpg".to_owned(),
        collection: "default".to_owned(),
        version: 7,
        width: 640,
        height: 480,
        bytes: 1234,
        format: "jpeg".to_owned(),
        content_sha256: "ab".to_owned(),
        indexed_at_ms: 1_700_000_000_000,
        metadata: json!({ "title": "a \"quoted\"\nline" }).as_object().unwrap().clone(),
        embedding: Some(Embedding::from_unit(values.to_vec()).unwrap()),
    }
}

fn put() -> Write {
    Write::Put(Box::new(document("a", &[0.6, 0.8])))
}

fn delete() -> Write {
    let (id, collection) = ("gone".to_owned(), "default".to_owned());
    Write::Delete(Tombstone { id, version: 9, collection, deleted_at_ms: 1_700_000_000_000 })
}

fn lines(encoding: VectorEncoding) -> Vec<Value> {
    let body = body(&[put(), delete()], encoding).unwrap();
    assert_eq!(body.last(), Some(&b'\n'));
    let text = std::str::from_utf8(&body).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn one_action_per_write_with_external_versions() {
    let lines = lines(VectorEncoding::Decimals);
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0], json!({ "index": { "_id": "a", "version": 7, "version_type": "external_gte" } }));
    assert_eq!(lines[2], json!({ "index": { "_id": "gone", "version": 10, "version_type": "external" } }));
    let tombstone = json!({ "id": "gone", "version": 9, "collection": "default", "indexed_at": 1_700_000_000_000_u64 });
    assert_eq!(lines[3], tombstone);
    let expected = json!({
        "id": "a", "url": "https://example.org/a.jpg", "collection": "default", "version": 7, "width": 640,
        "height": 480, "bytes": 1234, "format": "jpeg", "content_sha256": "ab", "indexed_at": 1_700_000_000_000_u64,
        "metadata": { "title": "a \"quoted\"\nline" }, "image_vector": lines[1]["image_vector"],
    });
    assert_eq!(lines[1], expected);
}

#[test]
fn decimals_are_the_shortest_that_give_the_same_float() {
    let values = [0.1_f32, 0.3, 1.0e-7, 0.948_683_3];
    let body = body(&[Write::Put(Box::new(document("a", &values)))], VectorEncoding::Decimals).unwrap();
    let text = String::from_utf8(body).unwrap();
    assert!(text.contains("\"image_vector\":[0.1,0.3,1e-7,0.9486833]"), "{text}");
}

#[test]
fn base64_is_of_big_endian_floats() {
    let text = lines(VectorEncoding::Base64)[1]["image_vector"].as_str().unwrap().to_owned();
    // Python: base64.b64encode(struct.pack('>2f', 0.6, 0.8))
    assert_eq!(text, "PxmZmj9MzM0=");
}

#[test]
fn a_document_without_vector_or_metadata_leaves_the_fields_out() {
    let mut document = document("a", &[1.0]);
    document.embedding = None;
    document.metadata.clear();
    let body = body(&[Write::Put(Box::new(document))], VectorEncoding::Base64).unwrap();
    let text = String::from_utf8(body).unwrap();
    assert!(!text.contains("image_vector") && !text.contains("metadata"), "{text}");
}

fn outcomes(item: &Value) -> [WriteOutcome; 2] {
    let response = json!({ "items": [item, item] }).to_string();
    read(response.as_bytes(), &[put(), delete()]).unwrap().try_into().unwrap()
}

fn outcome(item: &Value) -> WriteOutcome {
    let [put, deletion] = outcomes(item);
    assert_eq!(put, deletion, "{item}");
    put
}

#[test]
fn good_items() {
    for status in [200, 201] {
        assert_eq!(outcomes(&json!({ "index": { "status": status } })), [WriteOutcome::Indexed, WriteOutcome::Deleted]);
    }
    let conflict = json!({ "index": { "status": 409, "error": { "type": "version_conflict_engine_exception" } } });
    assert_eq!(outcome(&conflict), WriteOutcome::Stale);
}

#[test]
fn failed_items() {
    let item =
        |status: u16, kind: &str| json!({ "index": { "status": status, "error": { "type": kind, "reason": "r" } } });
    let blocked = |cause, kind: &str| WriteOutcome::Blocked { cause, reason: format!("{kind}: r") };
    for (status, kind, expected) in [
        (
            400,
            "document_parsing_exception",
            WriteOutcome::Rejected { kind: "document_parsing_exception".into(), reason: "r".into() },
        ),
        (429, "cluster_block_exception", blocked(Blocked::WriteBlock, "cluster_block_exception")),
        (403, "cluster_block_exception", blocked(Blocked::WriteBlock, "cluster_block_exception")),
        (404, "index_not_found_exception", blocked(Blocked::IndexMissing, "index_not_found_exception")),
        (403, "security_exception", blocked(Blocked::Unauthorized, "security_exception")),
        (
            429,
            "es_rejected_execution_exception",
            WriteOutcome::Busy { overload: true, reason: "429 es_rejected_execution_exception: r".into() },
        ),
        (
            503,
            "unavailable_shards_exception",
            WriteOutcome::Busy { overload: false, reason: "503 unavailable_shards_exception: r".into() },
        ),
    ] {
        assert_eq!(outcome(&item(status, kind)), expected, "{status} {kind}");
    }
}

#[test]
fn the_cause_completes_the_reason() {
    let item = json!({ "index": { "status": 400, "error": {
        "type": "document_parsing_exception", "reason": "failed to parse field [image_vector]",
        "caused_by": { "reason": "zero magnitude" } } } });
    let reason = "failed to parse field [image_vector]: zero magnitude".to_owned();
    assert_eq!(outcome(&item), WriteOutcome::Rejected { kind: "document_parsing_exception".into(), reason });
}

#[test]
fn a_status_without_error_is_never_success() {
    for item in [
        json!({ "index": { "status": 404 } }),
        json!({ "index": { "status": 500 } }),
        json!({ "index": { "status": 202 } }),
    ] {
        assert!(matches!(outcome(&item), WriteOutcome::Busy { .. }), "{item}");
    }
}

#[test]
fn a_response_that_cannot_be_matched_with_the_writes_is_an_error() {
    let read = |response: &str| read(response.as_bytes(), &[put(), delete()]);
    let good = r#"{"items":[{"index":{"status":201}},{"index":{"status":200}}]}"#;
    assert_eq!(read(good).unwrap(), [WriteOutcome::Indexed, WriteOutcome::Deleted]);
    for end in 0..good.len() {
        assert!(matches!(read(&good[..end]), Err(Error::Unreadable(_))), "{}", &good[..end]);
    }
    assert!(matches!(read("<html>502</html>"), Err(Error::Unreadable(_))));
    assert!(matches!(read("{}"), Err(Error::Unreadable(_))));
    assert!(matches!(read(r#"{"items":[{"index":{"status":201}}]}"#), Err(Error::Count { sent: 2, answered: 1 })));
    let other = r#"{"items":[{"delete":{"status":200}},{"index":{"status":201}}]}"#;
    assert!(matches!(read(other), Err(Error::Unreadable(_))));
}
