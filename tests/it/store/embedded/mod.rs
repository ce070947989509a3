//! The embedded store: versions, batches, pages, refused and damaged files.

mod formats;
mod processes;
mod search;

use std::fs;
use std::path::{Path, PathBuf};

use imgdex::testing::Embedding;
use imgdex::testing::model::Manifest;
use imgdex::testing::store::{Document, Error, ErrorKind, Revision, Settings, Store, Stored, Write, WriteOutcome};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::support::documents::{deletion, live};

const DIMS: usize = 512;

fn model() -> Manifest {
    Manifest::find("vgg16").unwrap()
}

fn open(path: &Path) -> Store {
    let address = format!("sqlite:{}", path.display());
    Store::open(&Settings {
        address: address.into(),
        api_key: None,
        ca: None,
        allow_plain_http: false,
        accept_earlier: false,
    })
    .unwrap()
}

/// A new store, its file, and its folder, which is removed when dropped.
async fn created() -> (Store, PathBuf, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/store.db");
    let store = open(&path);
    store.create(&model()).await.unwrap();
    (store, path, folder)
}

/// A vector at this angle (in quarter turns) from the first axis, in the plane of the first two.
fn vector(angle: f32) -> Embedding {
    let (sin, cos) = (angle * std::f32::consts::FRAC_PI_2).sin_cos();
    let mut values = vec![0.0; DIMS];
    (values[0], values[1]) = (cos.max(0.0), sin);
    Embedding::normalize(values).unwrap()
}

fn document(id: &str, version: u64, angle: f32) -> Document {
    Document {
        id: id.to_owned(),
        url: format!("https://example.org/{id}"),
        collection: "default".to_owned(),
        version,
        width: 640,
        height: 480,
        bytes: 12_345,
        format: "jpeg".to_owned(),
        content_sha256: "0".repeat(64),
        indexed_at_ms: 1_700_000_000_000,
        metadata: Map::new(),
        embedding: Some(vector(angle)),
    }
}

fn put(id: &str, version: u64) -> Write {
    Write::Put(Box::new(document(id, version, 0.5)))
}

/// The result of SQLite's integrity check.
fn integrity(path: &Path) -> String {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_document_is_read_as_it_was_written() {
    let (store, path, _folder) = created().await;
    let mut written = document("ä/'\"%\0 id", 7, 0.25);
    let metadata = r#"{"a": {"b": [1, 1.5, null, "x"]}, "big": 18446744073709551615, "é'\"": "\u0000"}"#;
    written.metadata = serde_json::from_str::<Map<String, Value>>(metadata).unwrap();
    let bare = Document { embedding: None, ..document("bare", u64::MAX >> 1, 0.0) };
    let batch = [Write::Put(Box::new(written.clone())), Write::Put(Box::new(bare.clone()))];
    assert_eq!(store.write(&batch).await.unwrap(), [WriteOutcome::Indexed, WriteOutcome::Indexed]);

    // Also by another connection, as after a restart.
    for store in [store, open(&path)] {
        let found = store.get(&written.id).await.unwrap().and_then(Stored::live).unwrap();
        assert_eq!(found, Document { embedding: None, ..written.clone() });
        assert_eq!(store.get("absent").await.unwrap(), None);
        assert_eq!(store.count().await.unwrap(), 2);
        assert_eq!(live(store.list(None, 10).await.unwrap()), [bare.clone(), written.clone()]);
    }
    assert_eq!(integrity(&path), "ok");
}

/// The rule itself is tested in `order`, for both stores.
#[tokio::test]
async fn connections_and_batches_see_what_was_written_before() {
    use WriteOutcome::{Deleted, Indexed, Stale};
    let (store, path, _folder) = created().await;
    let steps = [
        (put("a", 5), Indexed),
        (put("a", 4), Stale),
        (put("a", 5), Indexed),
        (deletion("a", 4), Stale),
        (put("a", 6), Indexed),
        (deletion("a", 6), Deleted),
        (deletion("a", 6), Stale),
        (put("a", 6), Stale),
        (put("a", 7), Indexed),
        (deletion("a", 9), Deleted),
        (deletion("never", 3), Deleted),
        (put("never", 3), Stale),
        (put("never", 4), Indexed),
        (put("zero", 0), Indexed),
    ];
    // One write at a time, each by another connection.
    for (write, expected) in &steps {
        let written = open(&path).write(std::slice::from_ref(write)).await.unwrap();
        assert_eq!(written, std::slice::from_ref(expected), "{write:?}");
    }
    assert_eq!(store.get("a").await.unwrap().unwrap().revision(), Revision::Deletion(9));
    assert_eq!(store.get("never").await.unwrap().unwrap().revision(), Revision::Upsert(4));
    assert_eq!(store.count().await.unwrap(), 2);

    // All writes in one batch.
    let (store, _path, _folder) = created().await;
    let (batch, expected): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
    assert_eq!(store.write(&batch).await.unwrap(), expected);
    assert_eq!(store.count().await.unwrap(), 2);
    assert_eq!(store.write(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_bad_document_fails_alone() {
    let (store, _path, _folder) = created().await;
    let narrow =
        Document { embedding: Some(Embedding::normalize(vec![1.0; 3]).unwrap()), ..document("narrow", 1, 0.0) };
    let batch = [put("good", 1), Write::Put(Box::new(narrow)), put("late", u64::MAX), deletion("late", u64::MAX)];
    let written = store.write(&batch).await.unwrap();
    assert_eq!(written[0], WriteOutcome::Indexed);
    let WriteOutcome::Rejected { reason, .. } = &written[1] else { panic!("{written:?}") };
    assert!(reason.contains("3 values") && reason.contains("512"), "{reason}");
    assert!(matches!(&written[2..], [WriteOutcome::Rejected { .. }, WriteOutcome::Rejected { .. }]), "{written:?}");
    assert_eq!(store.count().await.unwrap(), 1);
}

#[tokio::test]
async fn pages_are_ordered_by_bytes_and_end_empty() {
    let (store, _path, _folder) = created().await;
    let ids = ["b", "a", "é", "B", "a\0", "aa", "10", "9", "😀", "z"];
    let batch: Vec<_> = ids.iter().map(|id| put(id, 1)).collect();
    store.write(&batch).await.unwrap();
    let mut found: Vec<String> = Vec::new();
    loop {
        let page = store.list(found.last().map(String::as_str), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        let page = live(page);
        assert!(page.iter().all(|document| document.embedding.is_some()));
        found.extend(page.into_iter().map(|document| document.id));
    }
    let mut expected = ids;
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(store.list(None, 0).await.unwrap(), []);
}

#[tokio::test]
async fn a_missing_store_is_an_error_until_it_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sub/store.db");
    let store = open(&path);
    assert_eq!(store.meta().await.unwrap(), None);
    assert!(matches!(store.count().await, Err(Error { kind: ErrorKind::Missing, .. })));
    assert!(matches!(store.check(&model()).await, Err(Error { kind: ErrorKind::Missing, .. })));
    let Err(Error { kind: ErrorKind::Blocked { cause, .. }, .. }) = store.write(&[put("a", 1)]).await else {
        panic!("written")
    };
    assert_eq!(cause, imgdex::testing::store::Blocked::IndexMissing);
    assert!(!path.parent().unwrap().exists(), "reading creates nothing");

    // An empty file, as a kill during creation leaves it.
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(store.meta().await.unwrap(), None);
    store.create(&model()).await.unwrap();
    store.create(&model()).await.unwrap();
    store.check(&model()).await.unwrap();
    assert_eq!(store.count().await.unwrap(), 0);

    // A store notices when its open file is removed or replaced.
    store.write(&[put("a", 1)]).await.unwrap();
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert!(matches!(store.write(&[put("a", 1)]).await, Err(Error { kind: ErrorKind::Blocked { .. }, .. })));
    store.create(&model()).await.unwrap();
    assert_eq!(store.count().await.unwrap(), 0);

    assert!(matches!(store_at("").await, Err(Error { kind: ErrorKind::Address(_), .. })));
}

async fn store_at(path: &str) -> Result<(), Error> {
    let address = format!("sqlite:{path}").into();
    Store::open(&Settings { address, api_key: None, ca: None, allow_plain_http: false, accept_earlier: false })?
        .count()
        .await
        .map(|_| ())
}

#[tokio::test]
async fn another_model_is_refused() {
    let (store, path, _folder) = created().await;
    let other = Manifest::find("vgg16-keras").unwrap();
    for result in [store.check(&other).await, store.create(&other).await, open(&path).create(&other).await] {
        let error = result.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Mismatch { what: "its model", .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("sqlite:{}: its model is vgg16", path.display())), "{error}");
    }
    store.check(&model()).await.unwrap();
}

/// Checks that every operation on this file is refused, and leaves it as it was.
async fn refuses(path: &Path, expected: &str) {
    let before = fs::read(path).unwrap();
    let store = open(path);
    let errors = [
        store.meta().await.unwrap_err(),
        store.create(&model()).await.unwrap_err(),
        store.count().await.unwrap_err(),
        store.write(&[put("a", 1)]).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error.kind, ErrorKind::Mismatch { .. } | ErrorKind::Io(_)), "{error:?}");
        let message = error.to_string();
        assert!(message.starts_with(&store.to_string()) && message.contains(expected), "{message}");
    }
    assert_eq!(fs::read(path).unwrap(), before, "it was changed");
}

#[tokio::test]
async fn files_of_other_programs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for contents in ["x", &"Dear diary. ".repeat(1000)] {
        fs::write(&path, contents).unwrap();
        refuses(&path, "not a database").await;
    }
    fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE notes (text)").unwrap();
    refuses(&path, "another program").await;

    let (_store, path, _folder) = created().await;
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 3").unwrap();
    refuses(&path, "use a newer imgdex").await;

    let error = open(folder.path()).count().await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Io(_)), "a folder: {error:?}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_no_panic() {
    let (store, path, folder) = created().await;
    let batch: Vec<_> = (0..300).map(|n| put(&format!("{n:03}"), 1)).collect();
    store.write(&batch).await.unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    for (at, length) in
        [1, 100, 5000, 8192, 30_000, 8192 * 40, whole.len() - 8192, whole.len() - 1].into_iter().enumerate()
    {
        // Each file has its own name, so that no log of another one is used.
        let path = folder.path().join(format!("cut-{at}"));
        fs::write(&path, &whole[..length]).unwrap();
        let store = open(&path);
        let results = [
            store.count().await.map(|_| ()),
            store.list(None, 1000).await.map(|_| ()),
            store.search(&search::query(vector(0.1))).await.map(|_| ()),
            store.write(&[put("299", 2), deletion("000", 2)]).await.map(|_| ()),
        ];
        for error in results.into_iter().filter_map(Result::err) {
            assert!(matches!(error.kind, ErrorKind::Io(_)), "{length}: {error:?}");
            refused += 1;
        }
    }
    assert!(refused >= 8, "only {refused} failures");

    // A vector that another program has damaged.
    let connection = rusqlite::Connection::open(&path).unwrap();
    for blob in ["zeroblob(2048)", "zeroblob(7)"] {
        connection.execute(&format!("UPDATE documents SET vector = {blob} WHERE id = '007'"), []).unwrap();
        let store = open(&path);
        for result in
            [store.list(None, 1000).await.map(|_| ()), store.search(&search::query(vector(0.1))).await.map(|_| ())]
        {
            let message = result.unwrap_err().to_string();
            assert!(message.contains("\"007\""), "{message}");
        }
    }
}
