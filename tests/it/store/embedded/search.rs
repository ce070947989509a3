//! Searches of the embedded store: filters, order, refusals, and changes by other connections.

use std::collections::BTreeMap;

use imgdex::testing::Embedding;
use imgdex::testing::Mode;
use imgdex::testing::now_ms;
pub use imgdex::testing::store::Query;
use imgdex::testing::store::{Document, Error, ErrorKind, Store, Target, Write};
use strum::VariantArray;

use super::{created, document, open, vector};
use crate::support::documents::deletion;

/// All documents, by their cosine.
pub fn query(embedding: Embedding) -> Query {
    Query {
        target: Target::Embedding(embedding),
        mode: Mode::Cosine,
        k: 100,
        min_similarity: None,
        collection: None,
        filters: BTreeMap::new(),
        approximate: false,
    }
}

pub async fn ids(store: &Store, query: &Query) -> Vec<String> {
    let hits = store.search(query).await.unwrap();
    assert!(hits.iter().enumerate().all(|(at, hit)| hit.rank == at + 1));
    hits.into_iter().map(|hit| hit.id).collect()
}

async fn write(store: &Store, documents: impl IntoIterator<Item = Document>) {
    let batch: Vec<_> = documents.into_iter().map(|document| Write::Put(Box::new(document))).collect();
    store.write(&batch).await.unwrap();
}

type Change = fn(&mut Query);

#[tokio::test]
async fn searches_are_narrowed_by_filters_similarity_and_ids() {
    let (store, _path, _folder) = created().await;
    let with = |id: &str, angle: f32, collection: &str, metadata: &str| Document {
        collection: collection.to_owned(),
        metadata: serde_json::from_str(metadata).unwrap(),
        ..document(id, 1, angle)
    };
    write(
        &store,
        [
            with("a", 0.0, "default", r#"{"n": 1, "tags": ["x", "y"]}"#),
            with("b", 0.1, "default", r#"{"n": 2, "tags": "x", "deep": {"er": true}}"#),
            with("c", 0.21, "other", r#"{"n": 1, "deep.er": true}"#),
            with("d", 1.0, "other", "{}"),
            // The same vector as b, stored later: ties are ordered by id.
            with("aa", 0.1, "default", "{}"),
            Document { embedding: None, ..with("bare", 0.0, "default", r#"{"n": 1}"#) },
        ],
    )
    .await;
    let cases: [(&str, Change, &[&str]); 17] = [
        ("all with a vector", |_| {}, &["a", "aa", "b", "c", "d"]),
        ("k", |q| q.k = 2, &["a", "aa"]),
        ("no k", |q| q.k = 0, &[]),
        ("a collection", |q| q.collection = Some("other".to_owned()), &["c", "d"]),
        ("an unknown collection", |q| q.collection = Some("otherwise".to_owned()), &[]),
        ("a number as text", |q| q.filters = filters(&[("n", "1")]), &["a", "c"]),
        ("an element of an array", |q| q.filters = filters(&[("tags", "x")]), &["a", "b"]),
        ("a nested key", |q| q.filters = filters(&[("deep.er", "true")]), &["b", "c"]),
        ("all filters", |q| q.filters = filters(&[("n", "1"), ("tags", "y")]), &["a"]),
        ("a key that is SQL", |q| q.filters = filters(&[("n') OR 1=1 --", "1")]), &[]),
        ("filter and k", |q| (q.filters, q.k) = (filters(&[("tags", "x")]), 1), &["a"]),
        ("the least similarity", |q| q.min_similarity = Some(0.97), &["a", "aa", "b", "c"]),
        ("no similarity", |q| q.min_similarity = Some(0.0), &["a", "aa", "b", "c", "d"]),
        ("more than there is", |q| q.min_similarity = Some(1.1), &[]),
        ("itself left out", |q| q.target = Target::Id("b".to_owned()), &["aa", "a", "c", "d"]),
        ("approximate is exact", |q| (q.approximate, q.mode) = (true, Mode::L1), &["a", "aa", "b", "c", "d"]),
        (
            "all at once",
            |q| {
                q.target = Target::Id("a".to_owned());
                q.collection = Some("default".to_owned());
                q.filters = filters(&[("tags", "x")]);
                q.min_similarity = Some(0.9);
            },
            &["b"],
        ),
    ];
    for (name, change, expected) in cases {
        for &mode in Mode::VARIANTS {
            let mut query = query(vector(0.0));
            query.mode = mode;
            change(&mut query);
            // The bounds above are for the two modes whose similarity is (1 + cosine) / 2.
            if query.min_similarity.is_some_and(|least| least > 0.0) && matches!(mode, Mode::L1 | Mode::L2) {
                continue;
            }
            assert_eq!(ids(&store, &query).await, expected, "{name}, {mode:?}");
        }
    }

    let hits = store.search(&query(vector(0.0))).await.unwrap();
    assert_eq!((hits[3].url.as_str(), hits[3].collection.as_str()), ("https://example.org/c", "other"));
    assert_eq!(hits[3].metadata["n"], 1);
    assert!((hits[0].measure.distance).abs() < 1e-12, "{:?}", hits[0]);
}

fn filters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn unknown_ids_and_unsuitable_vectors_are_refused() {
    let (store, _path, _folder) = created().await;
    write(&store, [Document { embedding: None, ..document("bare", 1, 0.0) }]).await;
    for id in ["bare", "absent"] {
        let error = store.search(&Query { target: Target::Id(id.to_owned()), ..query(vector(0.0)) }).await.unwrap_err();
        assert!(matches!(&error.kind, ErrorKind::UnknownId(found) if found == id), "{error:?}");
    }
    let negative = Embedding::normalize((0..512).map(|n| if n == 7 { -1.0 } else { 1.0 }).collect()).unwrap();
    let error = store.search(&Query { mode: Mode::Dot, ..query(negative.clone()) }).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Refused(_)), "{error:?}");
    assert_eq!(store.search(&query(negative)).await.unwrap(), []);
    let narrow = Embedding::normalize(vec![1.0; 3]).unwrap();
    assert!(matches!(store.search(&query(narrow)).await, Err(Error { kind: ErrorKind::Refused(_), .. })));
}

/// A search sees each write at once, by any connection.
#[tokio::test]
async fn each_change_is_seen_by_the_next_search() {
    let (store, path, _folder) = created().await;
    let other = open(&path);
    let all = query(vector(0.0));
    assert!(ids(&store, &all).await.is_empty());
    for writer in [&store, &other] {
        write(writer, ["a", "b", "c", "d"].map(|id| document(id, 1, 0.5))).await;
        assert_eq!(ids(&store, &all).await, ["a", "b", "c", "d"]);
        // The first row is deleted, the last takes its place, a third moves ahead, and a new one is added.
        let moved = Write::Put(Box::new(document("c", 2, 0.0)));
        let new = Write::Put(Box::new(document("e", 2, 0.1)));
        writer.write(&[deletion("a", 2), moved, new]).await.unwrap();
        assert_eq!(ids(&store, &all).await, ["c", "e", "b", "d"]);
        assert_eq!(ids(&store, &Query { target: Target::Id("e".to_owned()), ..all.clone() }).await, ["c", "b", "d"]);
        // A document that loses its vector is no hit, but stays.
        let bare = Document { embedding: None, ..document("b", 3, 0.0) };
        write(writer, [bare]).await;
        assert_eq!(ids(&store, &all).await, ["c", "e", "d"]);
        assert_eq!(store.count().await.unwrap(), 4);
        writer.write(&["a", "b", "c", "d", "e"].map(|id| deletion(id, 3))).await.unwrap();
        assert!(ids(&store, &all).await.is_empty());
        // For the next writer.
        assert_eq!(writer.purge_tombstones(now_ms()).await.unwrap(), 5);
    }
}

/// The tombstone by which it would have learned of the deletion is gone.
#[tokio::test]
async fn a_reader_that_is_behind_a_purge_reads_everything_again() {
    let (store, path, _folder) = created().await;
    let (other, all) = (open(&path), query(vector(0.0)));
    write(&other, ["a", "b", "c"].map(|id| document(id, 1, 0.5))).await;
    assert_eq!(ids(&store, &all).await, ["a", "b", "c"]);
    other.write(&[deletion("a", 2)]).await.unwrap();
    assert_eq!(other.purge_tombstones(now_ms()).await.unwrap(), 1);
    assert_eq!(ids(&store, &all).await, ["b", "c"]);

    // One that is not behind goes on from where it was, and one that is behind twice.
    write(&other, [document("d", 1, 0.5)]).await;
    assert_eq!(ids(&store, &all).await, ["b", "c", "d"]);
    for (id, version) in [("b", 2), ("c", 2)] {
        other.write(&[deletion(id, version)]).await.unwrap();
        assert_eq!(other.purge_tombstones(now_ms()).await.unwrap(), 1);
    }
    write(&other, [document("e", 1, 0.5)]).await;
    assert_eq!(ids(&store, &all).await, ["d", "e"]);
}
