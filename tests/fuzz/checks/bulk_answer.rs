//! Elasticsearch's answers to bulk requests.

use imgdex::testing::store::bulk;
use imgdex::testing::store::{Document, Tombstone, Write, WriteOutcome};
use serde_json::{Map, Value};

/// An answer that is taken has one item per write, and no item makes a write succeed that did not.
pub fn check(answer: &[u8]) {
    for writes in [vec![], vec![put()], vec![delete()], vec![put(), delete(), put()]] {
        if let Ok(written) = bulk::read(answer, &writes) {
            assert_eq!(written.len(), writes.len());
        }
    }
    // Strings that are not looked at may hold anything.
    let Ok(value) = serde_json::from_str::<Value>(&String::from_utf8_lossy(answer)) else { return };
    let items = value["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Writes that this could be the answer to: an answer does not tell an upsert from a deletion.
    let writes: Vec<Write> = (0..items.len()).map(|n| if n % 2 == 0 { put() } else { delete() }).collect();
    if let Ok(written) = bulk::read(answer, &writes) {
        assert_eq!(written.len(), items.len());
        for ((item, write), written) in items.iter().zip(&writes).zip(&written) {
            is_no_more_than_said(item, matches!(write, Write::Put(_)), written);
        }
    }
    for writes in [&[writes.as_slice(), &[put()]].concat(), writes.get(1..).unwrap_or(&[delete()])] {
        assert!(bulk::read(answer, writes).is_err());
    }
}

/// What became of the write, read once more and in another way.
fn is_no_more_than_said(item: &Value, is_put: bool, written: &WriteOutcome) {
    let fate = &item["index"];
    assert!(fate.is_object(), "taken for an item: {item}");
    let (status, error) = (fate["status"].as_u64(), &fate["error"]);
    let fine = match written {
        WriteOutcome::Indexed => is_put && error.is_null() && matches!(status, Some(200 | 201)),
        WriteOutcome::Deleted => !is_put && error.is_null() && matches!(status, Some(200 | 201)),
        WriteOutcome::Stale => status == Some(409) && error["type"] == "version_conflict_engine_exception",
        WriteOutcome::Rejected { kind, .. } => {
            error["type"] == kind.as_str() && matches!(status, Some(400..=499)) && status != Some(429)
        }
        WriteOutcome::Busy { reason, .. } | WriteOutcome::Blocked { reason, .. } => !reason.is_empty(),
    };
    assert!(fine, "{item} was taken for {written:?}");
}

fn put() -> Write {
    Write::Put(Box::new(Document {
        id: "a".to_owned(),
        url: "https://example.org/a.jpg".to_owned(),
        collection: "default".to_owned(),
        version: 7,
        width: 640,
        height: 480,
        bytes: 1234,
        format: "jpeg".to_owned(),
        content_sha256: "ab".to_owned(),
        indexed_at_ms: 0,
        metadata: Map::new(),
        embedding: None,
    }))
}

fn delete() -> Write {
    let (id, collection) = ("gone".to_owned(), "default".to_owned());
    Write::Delete(Tombstone { id, version: 9, collection, deleted_at_ms: 0 })
}
