//! Elasticsearch's answers to bulk requests.

use imgdex::testing::store::bulk;
use imgdex::testing::store::{Document, Write, WriteOutcome};
use serde_json::{Map, Value};

const ALIAS: &str = "images";

/// An answer that is taken has one item per write, and no item makes a write succeed that did not.
pub fn check(answer: &[u8]) {
    for writes in [vec![], vec![put()], vec![delete()], vec![put(), delete(), put()]] {
        if let Ok(written) = bulk::read(answer, &writes, ALIAS) {
            assert_eq!(written.len(), writes.len());
        }
    }
    // Strings that are not looked at may hold anything.
    let Ok(value) = serde_json::from_str::<Value>(&String::from_utf8_lossy(answer)) else { return };
    let items = value["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    // The writes that this would be the answer to.
    let writes: Vec<Write> =
        items.iter().map(|item| if item.get("delete").is_some() { delete() } else { put() }).collect();
    if let Ok(written) = bulk::read(answer, &writes, ALIAS) {
        assert_eq!(written.len(), items.len());
        for (item, written) in items.iter().zip(&written) {
            is_no_more_than_said(item, written);
        }
    }
    for writes in [&[writes.as_slice(), &[put()]].concat(), writes.get(1..).unwrap_or(&[delete()])] {
        assert!(bulk::read(answer, writes, ALIAS).is_err());
    }
}

/// What became of the write, read once more and in another way.
fn is_no_more_than_said(item: &Value, written: &WriteOutcome) {
    let (fate, is_put) = match (&item["index"], &item["delete"]) {
        (fate @ Value::Object(_), Value::Null) => (fate, true),
        (Value::Null, fate @ Value::Object(_)) => (fate, false),
        _ => panic!("taken for an item: {item}"),
    };
    let (status, error) = (fate["status"].as_u64(), &fate["error"]);
    let fine = match written {
        WriteOutcome::Indexed => is_put && error.is_null() && matches!(status, Some(200 | 201)),
        WriteOutcome::Deleted => {
            let elsewhere = fate["_index"].as_str().is_some_and(|index| index != ALIAS);
            !is_put && error.is_null() && (status == Some(200) || status == Some(404) && elsewhere)
        }
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
    Write::Delete { id: "gone".to_owned(), version: 9 }
}
