//! The indexer with a scripted Elasticsearch: each item of a batch has its own outcome.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use imgdex::testing::Embedding;
use imgdex::testing::Metrics;
use imgdex::testing::Outcome;
use imgdex::testing::indexer::{Error, Indexer, Settings};
use imgdex::testing::store::{Document, Settings as StoreSettings, Store};

use crate::support::documents;
use crate::support::elasticsearch_stub::{Answer, ElasticsearchStub};

fn document(id: &str) -> Document {
    documents::document(id.to_owned(), Embedding::normalize(vec![1.0; 512]).unwrap())
}

fn indexer(stub: &ElasticsearchStub, settings: Settings) -> Indexer {
    let settings_of_store = StoreSettings {
        address: stub.store().into(),
        api_key: None,
        ca: None,
        allow_plain_http: false,
        accept_earlier: false,
    };
    let store = Store::open(&settings_of_store).unwrap();
    Indexer::start(Arc::new(store), settings, Arc::new(Metrics::new("stub", "stub").unwrap()))
}

/// Puts all documents at once. Returns the outcome of each, by id.
async fn put_all(indexer: Indexer, ids: &[&str]) -> BTreeMap<String, Result<Outcome, Error>> {
    let indexer = Arc::new(indexer);
    let puts = ids.iter().map(|id| {
        let indexer = Arc::clone(&indexer);
        let document = document(id);
        tokio::spawn(async move { (document.id.clone(), indexer.put(document).await) })
    });
    let mut outcomes = BTreeMap::new();
    for put in puts.collect::<Vec<_>>() {
        let (id, outcome) = put.await.unwrap();
        outcomes.insert(id, outcome);
    }
    outcomes
}

/// A full batch is flushed at once, so that the requests do not depend on timing.
fn batch_of(items: usize) -> Settings {
    Settings { max_items: items, linger: Duration::from_secs(20), ..Settings::default() }
}

#[tokio::test]
async fn only_items_that_a_busy_store_refused_are_sent_again() {
    let stub = ElasticsearchStub::start(|round, ids| {
        Answer::Items(
            ids.iter()
                .map(|id| match (id.as_str(), round) {
                    ("refused", _) => 400,
                    ("stale", _) => 409,
                    ("busy", 0) => 429,
                    ("unavailable", 0 | 1) => 503,
                    _ => 201,
                })
                .collect(),
        )
    })
    .await;
    let outcomes = put_all(indexer(&stub, batch_of(5)), &["fine", "refused", "stale", "busy", "unavailable"]).await;

    for indexed in ["fine", "busy", "unavailable"] {
        assert!(matches!(outcomes[indexed], Ok(Outcome::Indexed)), "{indexed}: {:?}", outcomes[indexed]);
    }
    assert!(matches!(outcomes["stale"], Ok(Outcome::Stale)));
    assert!(matches!(&outcomes["refused"], Err(Error::Rejected { kind, .. }) if kind == "document_parsing_exception"));

    let mut requests = stub.requests();
    for ids in &mut requests {
        ids.sort();
    }
    assert_eq!(requests[1..], [vec!["busy".to_owned(), "unavailable".to_owned()], vec!["unavailable".to_owned()]]);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_split_until_it_fits() {
    let stub = ElasticsearchStub::start(|_, ids| {
        if ids.len() > 2 || ids.contains(&"huge".to_owned()) {
            Answer::Request(413)
        } else {
            Answer::Items(vec![201; ids.len()])
        }
    })
    .await;
    let outcomes = put_all(indexer(&stub, batch_of(8)), &["a", "b", "c", "d", "huge", "e", "f", "g"]).await;

    assert!(matches!(outcomes["huge"], Err(Error::TooLarge)), "{:?}", outcomes["huge"]);
    let indexed = outcomes.values().filter(|outcome| matches!(outcome, Ok(Outcome::Indexed))).count();
    assert_eq!(indexed, 7);
}

#[tokio::test]
async fn a_refused_request_is_bisected_to_its_culprit() {
    let stub = ElasticsearchStub::start(|_, ids| {
        if ids.contains(&"culprit".to_owned()) { Answer::Request(400) } else { Answer::Items(vec![201; ids.len()]) }
    })
    .await;
    let outcomes = put_all(indexer(&stub, batch_of(4)), &["a", "b", "culprit", "c"]).await;

    for (id, outcome) in outcomes {
        if id == "culprit" {
            assert!(matches!(outcome, Err(Error::Rejected { .. })), "{outcome:?}");
        } else {
            assert!(matches!(outcome, Ok(Outcome::Indexed)), "{id}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn after_an_unusable_answer_all_items_are_sent_again() {
    let stub = ElasticsearchStub::start(|round, ids| match round {
        0 => Answer::Truncated,
        1 => Answer::Request(503),
        // One item too few: which of them is missing cannot be known.
        2 => Answer::Items(vec![201; ids.len() - 1]),
        _ => Answer::Items(vec![201; ids.len()]),
    })
    .await;
    let outcomes = put_all(indexer(&stub, batch_of(3)), &["a", "b", "c"]).await;

    assert!(outcomes.values().all(|outcome| matches!(outcome, Ok(Outcome::Indexed))), "{outcomes:?}");
    let sizes: Vec<_> = stub.requests().iter().map(Vec::len).collect();
    assert_eq!(sizes, [3, 3, 3, 3]);
}

#[tokio::test]
async fn a_write_is_held_no_longer_than_the_setting() {
    let stub = ElasticsearchStub::start(|_, _| Answer::Request(503)).await;
    let settings = Settings { hold: Duration::from_millis(300), ..batch_of(1) };
    let outcomes = put_all(indexer(&stub, settings), &["a"]).await;
    assert!(matches!(outcomes["a"], Err(Error::Unavailable { .. })), "{:?}", outcomes["a"]);
}
