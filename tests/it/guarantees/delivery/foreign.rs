//! Guarantee 21: an index that is not for this program is refused and left as it is.

use imgdex::testing::model::Manifest;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::elasticsearch::request;
use crate::support::flow::Flow;
use crate::support::process::run;
use crate::support::report::report;

/// What must not change.
#[derive(Debug, PartialEq)]
struct Contents {
    /// Aliases, mapping and settings.
    index: Value,
    documents: Value,
    template: u16,
}

/// Creates an index where the worker's would be. Returns its name, and words that the refusal must contain.
async fn create(flow: &Flow, what: &str) -> (String, &'static [&'static str]) {
    let alias = &flow.alias.name;
    let index = format!("{alias}-v1");
    match what {
        "another model" => {
            flow.create_index("vgg16").await;
            (index, &["its model is vgg16", "--model vgg16"])
        }
        "another fingerprint" => {
            flow.create_index("stub").await;
            change_meta(&index, "fingerprint", "0123".into()).await;
            (index, &["fingerprint is 0123", "index the images again"])
        }
        "an earlier fingerprint" => {
            flow.create_index("stub").await;
            change_meta(&index, "fingerprint", earlier_fingerprint().into()).await;
            (index, &["an earlier release made it with the same model", "--accept-earlier-decoder"])
        }
        "another mapping version" => {
            flow.create_index("stub").await;
            change_meta(&index, "mapping_version", 999.into()).await;
            (index, &["mapping version is 999", "use the imgdex release that made it"])
        }
        "a changed mapping" => {
            flow.create_index("stub").await;
            put(&format!("{index}/_mapping"), json!({"dynamic": "true"})).await;
            (index, &["dynamic: true", "was changed"])
        }
        "not made by imgdex" => {
            put(&index, json!({"aliases": {alias: {}}})).await;
            (index, &["was not made by imgdex", "use another alias"])
        }
        _an_index_of_the_alias_s_name => {
            put(alias, json!({})).await;
            (alias.clone(), &["an index of that name", "choose another alias"])
        }
    }
}

/// An index with its alias, documents and template.
async fn contents(flow: &Flow, index: &str) -> Contents {
    let get = async |path: String| request(Method::GET, &path, None).await;
    let (status, itself) = get(index.to_owned()).await;
    assert_eq!(status, 200, "{itself}");
    let (_, found) = get(format!("{index}/_search?version=true&seq_no_primary_term=true")).await;
    let (template, _) = get(format!("_index_template/imgdex-{}", flow.alias.name)).await;
    Contents { index: itself, documents: found["hits"]["hits"].clone(), template }
}

async fn put(path: &str, body: Value) {
    let (status, answer) = request(Method::PUT, path, Some(body)).await;
    assert!(status < 300, "{path}: {status} {answer}");
}

/// Changes one field of the index's `_meta`.
async fn change_meta(index: &str, key: &str, value: Value) {
    let (_, mapping) = request(Method::GET, &format!("{index}/_mapping"), None).await;
    let mut meta = mapping[index]["mappings"]["_meta"].clone();
    meta[key] = value;
    put(&format!("{index}/_mapping"), json!({"_meta": meta})).await;
}

/// Of the stub, in the release before.
fn earlier_fingerprint() -> String {
    Manifest::find("stub").unwrap().earlier.remove(0).fingerprint
}

const CASES: [&str; 7] = [
    "another model",
    "another fingerprint",
    "an earlier fingerprint",
    "another mapping version",
    "a changed mapping",
    "not made by imgdex",
    "an index of the alias's name",
];

#[tokio::test]
async fn a_foreign_index_is_refused_and_left_as_it_is() {
    for what in CASES {
        let flow = Flow::without_index().await;
        let (index, words) = create(&flow, what).await;
        put(&format!("{index}/_doc/theirs?refresh=true"), json!({"id": "theirs"})).await;
        let before = contents(&flow, &index).await;
        assert_eq!(before.documents[0]["_id"], "theirs", "{what}");

        let (store, image) = (flow.alias.address(), flow.images.url("/good/0"));
        flow.publish(std::slice::from_ref(&image), &[]).await;
        let mut worker = flow.worker().await;
        worker.until_not_ready("store", words).await;
        worker.until_connected().await;
        let scrape = worker.scrape().await;
        assert_eq!(scrape.by("paused", "cause"), [("mismatch".to_owned(), 1)].into(), "{what}");
        assert_eq!(scrape.value("messages_received_total", &[]), 0, "{what}");
        assert_eq!(worker.get("/live").await.0, 200);
        assert_eq!(worker.terminate().await, Some(0));

        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/baseline-444.jpg");
        let common = ["--store", &store, "--model", "stub"];
        for command in [&["mappings", "apply"][..], &["index", file]] {
            let refused = run(&[command, &common].concat(), "").await;
            assert_eq!(refused.code, Some(64), "{what}: {command:?}: {refused:?}");
            assert!(words.iter().all(|word| refused.stderr.contains(word)), "{what}: {command:?}: {refused:?}");
        }
        assert_eq!(contents(&flow, &index).await, before, "{what}");
        assert_eq!(flow.rabbit.take_all(&flow.rabbit.queue, 1).await.len(), 1, "{what}");
    }
    let count = CASES.len();
    report(
        21,
        format!("{count} foreign indices: refused with the reason by worker, mappings apply and index; none changed"),
    );
}

#[tokio::test]
async fn an_index_of_the_earlier_decoder_is_used_where_that_is_accepted() {
    const FLAG: &str = "--accept-earlier-decoder";
    let flow = Flow::without_index().await;
    let (index, _) = create(&flow, "an earlier fingerprint").await;
    flow.publish(&[flow.images.url("/good/0")], &[]).await;
    let mut worker = flow.worker_with(&[FLAG]).await;
    flow.until_documents(1).await;
    assert_eq!(worker.log().matches("the store holds vectors of an earlier release").count(), 1, "{}", worker.log());
    assert_eq!(worker.terminate().await, Some(0));

    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/baseline-444.jpg");
    let address = flow.alias.address();
    let search = ["search", "--store", &address, file];
    assert_eq!(run(&search, "").await.code, Some(64));
    for command in [&search[..], &["index", "--store", &address, file]] {
        let accepted = run(&[command, &[FLAG]].concat(), "").await;
        assert_eq!(accepted.code, Some(0), "{command:?}: {accepted:?}");
        assert_eq!(accepted.stderr.matches("the store holds vectors of an earlier release").count(), 1, "{accepted:?}");
    }
    // The index stays what it is.
    let (_, mapping) = request(Method::GET, &format!("{index}/_mapping"), None).await;
    assert_eq!(mapping[&index]["mappings"]["_meta"]["fingerprint"], earlier_fingerprint());
}
