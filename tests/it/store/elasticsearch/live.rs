//! Every request that reads documents says which ones it is about: live ones, tombstones, or both.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use imgdex::testing::Mode;
use imgdex::testing::now_ms;
use imgdex::testing::store::{Query, Store, Target};
use serde_json::{Value, json};

use super::{put, query};
use crate::support::documents::deletion;
use crate::support::elasticsearch::{self, Alias, settings};
use crate::support::process::run;
use crate::support::proxy::{Handling, Proxy};

/// The ends of paths that read documents by a query.
const READING: [&str; 2] = ["_search", "_count"];
/// All that Elasticsearch has for reading documents, besides reading one by its id.
const KNOWN: [&str; 12] = [
    "_search",
    "_count",
    "_msearch",
    "_mget",
    "_doc",
    "_source",
    "_async_search",
    "_pit",
    "_sql",
    "_esql",
    "_eql",
    "_termvectors",
];

fn live() -> Value {
    let either = json!([{ "exists": { "field": "url" } }, { "exists": { "field": "image_vector" } }]);
    json!({ "bool": { "should": either, "minimum_should_match": 1 } })
}

/// What a body is about, by the filter of its query.
fn selection(body: &Value) -> Option<&'static str> {
    let query = body.pointer("/query/script_score/query").unwrap_or(&body["query"]);
    let filters = query["bool"]["filter"].as_array()?;
    let has = |clause: &Value| filters.contains(clause);
    match () {
        () if has(&live()) => Some("live"),
        () if filters.iter().any(is_of_tombstones) => Some("tombstones"),
        () if has(&json!({ "exists": { "field": "id" } })) => Some("both"),
        () => None,
    }
}

fn is_of_tombstones(clause: &Value) -> bool {
    let lacks = clause["bool"]["must_not"].as_array();
    let field = |field: &str| json!({ "exists": { "field": field } });
    lacks.is_some_and(|lacks| lacks.contains(&field("url")) && lacks.contains(&field("image_vector")))
}

#[tokio::test]
async fn every_request_that_reads_documents_says_which_ones() {
    let (alias, store) = Alias::created().await;
    store.write(&[put("a", 1), put("b", 1), deletion("c", 2)]).await.unwrap();
    alias.refresh().await;
    let (proxy, seen) = (Proxy::start(elasticsearch::url()), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&seen);
    proxy.script(move |request| {
        let path = request.target.split('?').next().unwrap_or_default().to_owned();
        log.lock().unwrap().push((path, request.body.clone()));
        Handling::Forward
    });
    let address = proxy.store(&alias.name);
    let store = Store::open(&settings(address.clone())).unwrap();

    // Each way to read: the face of the store, and the commands.
    for approximate in [false, true] {
        store.search(&Query { approximate, ..query(1, Mode::Cosine) }).await.unwrap();
    }
    store.search(&Query { target: Target::Id("a".to_owned()), ..query(1, Mode::L1) }).await.unwrap();
    store.get("a").await.unwrap();
    store.count().await.unwrap();
    store.count_tombstones().await.unwrap();
    store.list(None, 10).await.unwrap();
    store.purge_tombstones(now_ms()).await.unwrap();
    let file = tempfile::tempdir().unwrap();
    let export = file.path().join("e.ndjson").display().to_string();
    for command in [&["search", "--id", "a"][..], &["mappings", "status"], &["doctor"], &["export", &export]] {
        run(&[command, &["--store", &address]].concat(), "").await;
    }

    let seen = seen.lock().unwrap();
    let mut about = Vec::new();
    for (path, body) in seen.iter() {
        if READING.iter().any(|end| path.ends_with(end)) {
            let body: Value = serde_json::from_slice(body).unwrap();
            let found = selection(&body).unwrap_or_else(|| panic!("{path} does not say which documents: {body}"));
            about.push(found);
        }
    }
    let count = |what| about.iter().filter(|found| **found == what).count();
    assert!(count("live") >= 8 && count("tombstones") >= 4 && count("both") >= 3, "{about:?}");
}

/// A new way to read documents has to be added to the test above.
#[test]
fn there_are_no_other_ways_to_read_documents() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/elasticsearch");
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            for api in KNOWN.iter().filter(|api| line.contains(&format!("/{api}"))) {
                found.push((path.file_name().unwrap().to_str().unwrap().to_owned(), (*api).to_owned()));
            }
        }
    }
    found.sort();
    let expected = [("mod.rs", "_count"), ("mod.rs", "_mget"), ("mod.rs", "_search")];
    assert_eq!(found, expected.map(|(file, api)| (file.to_owned(), api.to_owned())));
}
