//! The Elasticsearch store with a real server, and with answers that a real one gives rarely.

mod indexer;
mod live;

use std::collections::BTreeMap;
use std::time::Duration;

use imgdex::testing::Embedding;
use imgdex::testing::Mode;
use imgdex::testing::store::{
    Blocked, Document, Error, ErrorKind, Query, Revision, Store, Stored, Target, Write, WriteOutcome,
};
use reqwest::Method;
use serde_json::json;
use strum::VariantArray;

use crate::support::documents::{deletion, live};
use crate::support::elasticsearch::{Alias, model, request, settings};
use crate::support::elasticsearch_stub::{Answer, ElasticsearchStub};

fn embedding(seed: u64) -> Embedding {
    let mut random = fastrand::Rng::with_seed(seed);
    Embedding::normalize((0..512).map(|_| random.f32()).collect()).unwrap()
}

fn document(id: &str, version: u64, seed: u64) -> Document {
    Document {
        id: id.to_owned(),
        url: format!("https://example.org/{id}.jpg"),
        collection: "cats".to_owned(),
        version,
        width: 640,
        height: 480,
        bytes: 12_345,
        format: "jpeg".to_owned(),
        content_sha256: "0f".repeat(32),
        indexed_at_ms: 1_700_000_000_000,
        metadata: json!({ "author": { "name": "Ann" }, "tags": ["a", "b"], "n": 7 }).as_object().unwrap().clone(),
        embedding: Some(embedding(seed)),
    }
}

fn put(id: &str, version: u64) -> Write {
    Write::Put(Box::new(document(id, version, version)))
}

fn query(seed: u64, mode: Mode) -> Query {
    Query {
        target: Target::Embedding(embedding(seed)),
        mode,
        k: 3,
        min_similarity: None,
        collection: None,
        filters: BTreeMap::new(),
        approximate: false,
    }
}

async fn found(store: &Store, query: &Query) -> Vec<String> {
    store.search(query).await.unwrap().into_iter().map(|hit| hit.id).collect()
}

#[tokio::test]
async fn an_index_is_created_once_and_records_its_model() {
    let alias = Alias::new();
    let store = alias.open();
    assert_eq!(store.meta().await.unwrap(), None);
    assert!(matches!(store.check(&model()).await, Err(Error { kind: ErrorKind::Missing, .. })));
    store.create(&model()).await.unwrap();
    store.create(&model()).await.unwrap();
    store.check(&model()).await.unwrap();
    assert_eq!(store.count().await.unwrap(), 0);

    let other = imgdex::testing::model::Manifest::find("vgg16-keras").unwrap();
    let error = store.create(&other).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Mismatch { .. }) && error.to_string().contains("vgg16-keras"), "{error}");
    assert!(matches!(store.check(&other).await, Err(Error { kind: ErrorKind::Mismatch { .. }, .. })));
}

#[tokio::test]
async fn an_own_index_without_its_alias_is_used() {
    let (alias, store) = Alias::created().await;
    let remove = json!({ "actions": [{ "remove": { "index": format!("{}-v1", alias.name), "alias": alias.name } }] });
    request(Method::POST, "_aliases", Some(remove)).await;
    assert_eq!(store.meta().await.unwrap(), None);
    store.create(&model()).await.unwrap();
    store.check(&model()).await.unwrap();
    assert_eq!(store.write(&[put("a", 1)]).await.unwrap(), [WriteOutcome::Indexed]);
}

#[tokio::test]
async fn an_index_of_another_program_is_refused() {
    let alias = Alias::new();
    request(Method::PUT, &alias.name, Some(json!({}))).await;
    let error = alias.open().create(&model()).await.unwrap_err();
    assert!(
        matches!(error.kind, ErrorKind::Mismatch { .. }) && error.to_string().contains("an index of that name"),
        "{error}"
    );

    let alias = Alias::new();
    let index = format!("{}-v1", alias.name);
    request(Method::PUT, &index, Some(json!({ "aliases": { &alias.name: {} } }))).await;
    let error = alias.open().check(&model()).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Mismatch { .. }) && error.to_string().contains(&index), "{error}");
}

#[tokio::test]
async fn every_write_has_its_own_outcome() {
    let (_alias, store) = Alias::created().await;
    let first = [put("a", 5), put("b", 5), deletion("never", 1)];
    assert_eq!(
        store.write(&first).await.unwrap(),
        [WriteOutcome::Indexed, WriteOutcome::Indexed, WriteOutcome::Deleted]
    );
    // The same upsert again is written, the same deletion stands already.
    assert_eq!(store.write(&first).await.unwrap(), [WriteOutcome::Indexed, WriteOutcome::Indexed, WriteOutcome::Stale]);
    let mut bad = document("bad", 1, 1);
    bad.metadata.insert("a\0".to_owned(), json!(1));
    let second = [put("a", 4), put("a", 6), deletion("b", 7), Write::Put(Box::new(bad)), put("b", 6), deletion("b", 6)];
    let written = store.write(&second).await.unwrap();
    assert_eq!(written[..3], [WriteOutcome::Stale, WriteOutcome::Indexed, WriteOutcome::Deleted]);
    assert!(
        matches!(&written[3], WriteOutcome::Rejected { kind, .. } if kind == "document_parsing_exception"),
        "{written:?}"
    );
    assert_eq!(written[4..], [WriteOutcome::Stale, WriteOutcome::Stale]);
    assert_eq!(store.get("a").await.unwrap().unwrap().revision(), Revision::Upsert(6));
    assert_eq!(store.get("b").await.unwrap().unwrap().revision(), Revision::Deletion(7));
    assert_eq!(store.write(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_document_is_read_as_it_was_written() {
    let (alias, store) = Alias::created().await;
    let mut expected = document("ein/bild \"ä\"?", 7, 3);
    store.write(&[Write::Put(Box::new(expected.clone()))]).await.unwrap();
    alias.refresh().await;
    assert_eq!(live(store.list(None, 10).await.unwrap()), [expected.clone()]);
    expected.embedding = None;
    assert_eq!(store.get(&expected.id).await.unwrap().and_then(Stored::live), Some(expected));
    assert_eq!(store.get("unknown").await.unwrap(), None);
}

#[tokio::test]
async fn pages_have_all_documents_in_the_order_of_ids() {
    let (alias, store) = Alias::created().await;
    let writes: Vec<_> = (0..25).rev().map(|n| put(&format!("d{n:02}"), 1)).collect();
    store.write(&writes).await.unwrap();
    alias.refresh().await;
    let mut ids = Vec::new();
    loop {
        let page = store.list(ids.last().map(String::as_str), 10).await.unwrap();
        if page.is_empty() {
            break;
        }
        ids.extend(live(page).into_iter().map(|document| document.id));
    }
    assert_eq!(ids, (0..25).map(|n| format!("d{n:02}")).collect::<Vec<_>>());
    assert_eq!(store.count().await.unwrap(), 25);
}

#[tokio::test]
async fn the_largest_message_is_indexed() {
    let (_alias, store) = Alias::created().await;
    let mut largest = document(&"i".repeat(512), i64::MAX as u64 - 1, 1);
    largest.url = format!("https://example.org/{}", "u".repeat(20_000));
    largest.collection = "c".repeat(256);
    largest.metadata = json!({ "value": "v".repeat(32_700) }).as_object().unwrap().clone();
    let mut key = document("key", 1, 2);
    key.metadata = json!({ "k".repeat(32_000): "v".repeat(700) }).as_object().unwrap().clone();
    let mut deep = document("deep", 1, 3);
    deep.metadata = (1..16).fold(json!("bottom"), |inner, _| json!({ "x": inner })).as_object().unwrap().clone();
    let batch = [largest, key, deep].map(|document| Write::Put(Box::new(document)));
    assert_eq!(
        store.write(&batch).await.unwrap(),
        [WriteOutcome::Indexed, WriteOutcome::Indexed, WriteOutcome::Indexed]
    );
}

#[tokio::test]
async fn searches_find_the_nearest_in_every_mode_exactly_and_approximately() {
    let (alias, store) = Alias::created().await;
    let mut writes: Vec<_> = (0..50).map(|n| put(&format!("d{n}"), n)).collect();
    let mut without = document("without", 1, 1);
    without.embedding = None;
    writes.push(Write::Put(Box::new(without)));
    store.write(&writes).await.unwrap();
    alias.refresh().await;
    for &mode in Mode::VARIANTS {
        let mut query = query(7, mode);
        query.k = 60;
        let hits = store.search(&query).await.unwrap();
        assert_eq!(hits.len(), 50, "documents without a vector are no hits");
        assert_eq!((hits[0].id.as_str(), hits[0].rank), ("d7", 1));
        assert!((hits[0].measure.similarity - 1.0).abs() < 1e-9, "{mode:?} {:?}", hits[0].measure);
        assert_eq!(hits[0].metadata["author"]["name"], "Ann");
        assert!(hits.windows(2).all(|pair| pair[0].measure.score >= pair[1].measure.score));

        // The similarity of a hit, as printed, keeps this hit and cuts off the next.
        query.min_similarity = Some(hits[4].measure.similarity);
        assert_eq!(store.search(&query).await.unwrap(), hits[..5]);

        query.min_similarity = None;
        query.approximate = true;
        match mode {
            Mode::L1 => assert!(matches!(store.search(&query).await, Err(Error { kind: ErrorKind::Refused(_), .. }))),
            _ => assert_eq!(store.search(&query).await.unwrap(), hits),
        }
    }
}

#[tokio::test]
async fn filters_narrow_and_the_image_itself_is_left_out() {
    let (alias, store) = Alias::created().await;
    let mut dog = document("dog", 1, 10);
    dog.collection = "dogs".to_owned();
    dog.metadata = json!({ "author": { "name": "Bob" } }).as_object().unwrap().clone();
    store.write(&[put("one", 1), put("two", 2), Write::Put(Box::new(dog))]).await.unwrap();
    alias.refresh().await;

    for approximate in [false, true] {
        let mut query = query(1, Mode::Cosine);
        query.approximate = approximate;
        query.target = Target::Id("one".to_owned());
        let mut ids = found(&store, &query).await;
        ids.sort_unstable();
        assert_eq!(ids, ["dog", "two"]);
        query.collection = Some("cats".to_owned());
        assert_eq!(found(&store, &query).await, ["two"]);
        query.collection = None;
        for (key, value, expected) in
            [("author.name", "Bob", "dog"), ("tags", "b", "two"), ("n", "7", "two"), ("author.name", "Ann", "two")]
        {
            query.filters = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            assert_eq!(found(&store, &query).await, [expected], "{key}={value}");
        }
        query.filters.insert("tags".to_owned(), "zzz".to_owned());
        assert!(found(&store, &query).await.is_empty());
    }

    let mut query = query(1, Mode::Cosine);
    query.target = Target::Id("unknown".to_owned());
    assert!(matches!(store.search(&query).await, Err(Error { kind: ErrorKind::UnknownId(_), .. })));
    query.target = Target::Embedding(Embedding::from_unit([vec![-1.0], vec![0.0; 511]].concat()).unwrap());
    assert_eq!(found(&store, &query).await.len(), 3, "an opposite direction is far, not an error");
    query.mode = Mode::Dot;
    assert!(matches!(store.search(&query).await, Err(Error { kind: ErrorKind::Refused(_), .. })));
}

#[tokio::test]
async fn a_block_or_a_missing_alias_blocks_the_writes_and_rejects_none() {
    let (alias, store) = Alias::created().await;
    let index = format!("{}-v1", alias.name);
    let batch = [put("a", 1), deletion("a", 2)];
    for (block, cause) in [("read_only_allow_delete", Blocked::WriteBlock), ("write", Blocked::WriteBlock)] {
        let set = |value| json!({ "index": { "blocks": { block: value } } });
        request(Method::PUT, &format!("{index}/_settings"), Some(set(json!(true)))).await;
        for written in store.write(&batch[..1]).await.unwrap() {
            assert!(
                matches!(&written, WriteOutcome::Blocked { cause: found, .. } if *found == cause),
                "{block}: {written:?}"
            );
        }
        request(Method::PUT, &format!("{index}/_settings"), Some(set(json!(null)))).await;
        assert_eq!(store.write(&[put("a", 1)]).await.unwrap(), [WriteOutcome::Indexed], "{block}");
    }

    let write_index =
        |flag: bool| json!({ "actions": [{ "add": { "index": index, "alias": alias.name, "is_write_index": flag } }] });
    request(Method::POST, "_aliases", Some(write_index(false))).await;
    let written = store.write(&batch).await.unwrap();
    assert!(
        written.iter().all(|w| matches!(w, WriteOutcome::Blocked { cause: Blocked::IndexMissing, .. })),
        "{written:?}"
    );

    request(Method::DELETE, &index, None).await;
    for batch in [&batch[..1], &batch[1..]] {
        let written = store.write(batch).await.unwrap();
        assert!(matches!(written[..], [WriteOutcome::Blocked { cause: Blocked::IndexMissing, .. }]), "{written:?}");
    }
    let (status, _) = request(Method::GET, &alias.name, None).await;
    assert_eq!(status, 404, "the template kept the deletion from creating an index");
    assert!(matches!(store.search(&query(1, Mode::L2)).await, Err(Error { kind: ErrorKind::Missing, .. })));
    assert!(matches!(store.get("a").await, Err(Error { kind: ErrorKind::Missing, .. })));
}

/// An image that is deleted in the index that takes the writes would still be found in the other one.
#[tokio::test]
async fn an_alias_of_several_indices_is_not_written_to() {
    let (alias, store) = Alias::created().await;
    assert!(store.check_writable(&model()).await.is_ok());
    let (first, second) = (format!("{}-v1", alias.name), format!("{}-v0", alias.name));
    let (_, created) = request(Method::GET, &first, None).await;
    let body = json!({ "mappings": created[&first]["mappings"], "aliases": { &alias.name: {} } });
    assert_eq!(request(Method::PUT, &second, Some(body)).await.0, 200);
    let error = store.check_writable(&model()).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Mismatch { .. }), "{error:?}");
    for part in [first.as_str(), second.as_str(), "remove all but one"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let (code, out, _) = mappings("status", &alias.address(), &[]);
    assert_eq!(code, 1, "{out}");
    request(Method::DELETE, &second, None).await;
    assert!(store.check_writable(&model()).await.is_ok());
}

#[tokio::test]
async fn an_answer_that_says_nothing_about_the_items_is_an_error_of_the_request() {
    const ONE: &str = r#"{"items":[{"index":{"status":201}}]}"#;
    let reported = r#"{"error":{"type":"x","reason":"y"},"status":400}"#;
    for ((status, body, missing), expected) in [
        (("200 OK", ONE, 10), "Unavailable: broke off"),
        (("200 OK", r#"{"items":[{"index":{"sta"#, 0), "Unavailable: not one of Elasticsearch"),
        (("200 OK", "<html>busy</html>", 0), "Unavailable: not one of Elasticsearch"),
        (("200 OK", ONE, 0), "Unavailable: 2 items has 1"),
        (("413 Too Large", "<html></html>", 0), "TooLarge: "),
        (("400 Bad Request", reported, 0), "Refused: x: y"),
        (("400 Bad Request", "<html></html>", 0), "Unavailable: "),
        (("401 Unauthorized", "", 0), "Blocked: "),
        (("403 Forbidden", reported, 0), "Blocked: "),
        (("404 Not Found", reported, 0), "Unavailable: "),
        (("429 Too Many", reported, 0), "Busy: 429"),
        (("503 Unavailable", "", 0), "Unavailable: 503"),
    ] {
        let stub = ElasticsearchStub::start(move |_, _| Answer::Raw { status, body, missing }).await;
        let store = Store::open(&settings(stub.store())).unwrap();
        let error = store.write(&[put("a", 1), deletion("b", 1)]).await.unwrap_err();
        let (class, part) = expected.split_once(": ").unwrap();
        assert!(format!("{:?}", error.kind).starts_with(class), "{status} {body}: {error:?}");
        assert!(error.to_string().contains(part), "{status} {body}: {error}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_named_without_its_password() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = Store::open(&settings(format!("http://elastic:hunter2@{free}/images"))).unwrap();
    let asking = tokio::time::timeout(Duration::from_secs(5), store.meta());
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unavailable(_)), "{error:?}");
    let shown = format!("{error} {error:?} {store}");
    assert!(shown.contains(&free.to_string()) && !shown.contains("hunter2"), "{shown}");
}

/// Runs `imgdex mappings` and returns exit code, standard output and standard error.
fn mappings(action: &str, store: &str, more: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_imgdex"))
        .args(["mappings", action, "--store", store, "--output", "ndjson"])
        .args(more)
        .env_clear()
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn mappings_are_applied_and_reported_by_the_command() {
    let alias = Alias::new();
    let address = alias.address();
    let (code, _, error) = mappings("status", &address, &[]);
    assert!(code == 69 && error.contains("mappings apply"), "{code} {error}");
    for _ in 0..2 {
        let (code, output, error) = mappings("apply", &address, &["--model", "vgg16-keras"]);
        assert_eq!(code, 0, "{error}");
        let record: serde_json::Value = serde_json::from_str(&output).unwrap();
        assert_eq!(record["index"], format!("{}-v1", alias.name));
        assert_eq!((&record["model"], &record["problems"]), (&json!("vgg16-keras"), &json!([])));
    }
    // The model of the index is used, not the default.
    assert_eq!(mappings("apply", &address, &[]).0, 0);
    let (code, _, error) = mappings("apply", &address, &["--model", "vgg16"]);
    assert!(code == 64 && error.contains("vgg16-keras"), "{code} {error}");
    let (code, output, error) = mappings("status", &address, &["--model", "vgg16"]);
    assert!(code == 1 && error.contains("vgg16-keras") && output.contains("problems"), "{code} {error}");

    request(Method::PUT, &format!("{}-v1/_block/write", alias.name), None).await;
    request(Method::DELETE, &format!("_index_template/imgdex-{}", alias.name), None).await;
    let (code, output, error) = mappings("status", &address, &[]);
    assert!(code == 1 && error.contains("blocks: write") && error.contains("template"), "{code} {error}");
    assert!(output.contains(r#""blocks":["write"]"#), "{output}");
}

#[tokio::test]
async fn a_server_that_is_down_is_reported_by_the_command() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for action in ["apply", "status"] {
        let (code, output, error) = mappings(action, &format!("http://{free}/images"), &[]);
        assert!(code == 69 && output.is_empty() && error.contains(&free.to_string()), "{action} {code} {error}");
    }
}
