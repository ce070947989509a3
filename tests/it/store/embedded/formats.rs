//! Files of earlier releases.

use std::path::Path;

use imgdex::testing::now_ms;
use imgdex::testing::store::{Revision, Stored, WriteOutcome};

use super::{model, open, put, search, vector};
use crate::support::documents::live;

/// Format 1, as its release wrote it, with a document and a deletion.
const FORMAT_1: &str = "
PRAGMA journal_mode = WAL;
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    model TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    mapping_version INTEGER NOT NULL,
    dims INTEGER NOT NULL CHECK (dims > 0),
    seq INTEGER NOT NULL
) STRICT;
CREATE TABLE documents (
    id TEXT PRIMARY KEY NOT NULL,
    seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    url TEXT NOT NULL,
    collection TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    format TEXT NOT NULL,
    content_sha256 TEXT NOT NULL,
    indexed_at_ms INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    vector BLOB
) STRICT;
CREATE INDEX documents_seq ON documents (seq);
CREATE TABLE tombstones (
    id TEXT PRIMARY KEY NOT NULL,
    seq INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstones_seq ON tombstones (seq);
INSERT INTO documents VALUES
    ('kept', 1, 5, 'https://h/kept', 'default', 1, 1, 1, 'png', '00', 7, '{}', NULL);
INSERT INTO tombstones VALUES ('gone', 2, 5);
PRAGMA application_id = 1768777572;
PRAGMA user_version = 1;
";

fn create_format_1(path: &Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch(FORMAT_1).unwrap();
    let sql = "INSERT INTO meta VALUES (1, ?1, ?2, 1, ?3, 2)";
    connection.execute(sql, (&model().name, &model().fingerprint(), model().dims as i64)).unwrap();
}

#[tokio::test]
async fn a_store_of_format_1_keeps_its_documents_and_deletions() {
    let folder = tempfile::tempdir().unwrap();
    for by_create in [false, true] {
        let path = folder.path().join(format!("{by_create}.db"));
        create_format_1(&path);
        let before = now_ms();
        let store = open(&path);
        if by_create {
            store.create(&model()).await.unwrap();
        }
        store.check(&model()).await.unwrap();
        assert_eq!(store.get("kept").await.unwrap().map(|stored| stored.revision()), Some(Revision::Upsert(5)));
        let Some(Stored::Deleted(gone)) = store.get("gone").await.unwrap() else { panic!("the deletion is lost") };
        assert_eq!((gone.version, gone.collection.as_str()), (5, ""));
        // How long it is kept counts from now, since nothing says when it was made.
        assert!((before..=now_ms() + 1).contains(&gone.deleted_at_ms), "{before} {gone:?}");
        assert_eq!(
            store.write(&[put("gone", 5), put("gone", 6)]).await.unwrap(),
            [WriteOutcome::Stale, WriteOutcome::Indexed]
        );
        assert_eq!(live(store.list(None, 9).await.unwrap()).len(), 2);
        assert_eq!(store.search(&search::query(vector(0.5))).await.unwrap().len(), 1);
        // A process of the earlier release that had the file open goes on with its own statement.
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute("INSERT OR REPLACE INTO tombstones (id, seq, version) VALUES ('late', 9, 5)", []).unwrap();
        assert_eq!(store.purge_tombstones(before).await.unwrap(), 0);
        assert_eq!(store.get("late").await.unwrap().map(|stored| stored.revision()), Some(Revision::Deletion(5)));
        // Another connection finds it up to date.
        assert_eq!(open(&path).count().await.unwrap(), 2);
    }
}
