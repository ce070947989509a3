//! Deletions as documents: they are not among the live ones, are carried by copies, and are purged by age.

use imgdex::testing::message::MAX_VERSION;
use imgdex::testing::now_ms;
use imgdex::testing::store::{Revision, Store, Stored, Tombstone, WriteOutcome};
use reqwest::Method;
use serde_json::{Value, json};

use super::StoreInTest;
use crate::support::documents::{deletion, deletion_at, live, put};
use crate::support::elasticsearch::{self, Alias, request, settings};
use crate::support::process::{Finished, run};
use crate::support::proxy::{Handling, Proxy};

const HOUR: u64 = 3_600_000;

async fn revision(store: &StoreInTest, id: &str) -> Option<Revision> {
    store.open.get(id).await.unwrap().map(|stored| stored.revision())
}

impl StoreInTest {
    async fn command(&self, arguments: &[&str]) -> Finished {
        run(&[arguments, &["--store", &self.address]].concat(), "").await
    }

    async fn prune(&self, flags: &[&str]) -> Finished {
        self.command(&[&["mappings", "prune", "--tombstones"], flags].concat()).await
    }
}

#[tokio::test]
async fn a_deleted_image_is_listed_as_a_tombstone_and_is_in_no_count_or_search() {
    for store in StoreInTest::both().await {
        store.open.write(&[put("a", 1), put("b", 1), put("c", 1), deletion_at("b", 2, 77)]).await.unwrap();
        store.refresh().await;
        let listed = store.open.list(None, 10).await.unwrap();
        let expected =
            Tombstone { id: "b".to_owned(), version: 2, collection: "default".to_owned(), deleted_at_ms: 77 };
        assert_eq!(listed[1], Stored::Deleted(expected.clone()), "{}", store.open);
        assert_eq!(store.open.get("b").await.unwrap(), Some(Stored::Deleted(expected)));
        let ids: Vec<_> = live(listed).into_iter().map(|document| document.id).collect();
        assert_eq!(ids, ["a", "c"]);
        assert_eq!((store.open.count().await.unwrap(), store.open.count_tombstones().await.unwrap()), (2, 1));
        // A page may consist of tombstones alone.
        assert_eq!(store.open.list(Some("a"), 1).await.unwrap().len(), 1);

        for flags in [&["--id", "a"][..], &["--id", "a", "--approximate"]] {
            let found = store.command(&[&["search", "--output", "json"], flags].concat()).await;
            let hits: Value = serde_json::from_str(&found.stdout).unwrap();
            let ids: Vec<_> = hits.as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap()).collect();
            assert_eq!(ids, ["c"], "{}: {found:?}", store.open);
        }
        let found = store.command(&["search", "--id", "b"]).await;
        assert_eq!(found.code, Some(1), "{found:?}");
        assert!(found.stderr.contains("no document \"b\""), "{found:?}");
        let status = store.command(&["mappings", "status", "--output", "json"]).await;
        let status: Value = serde_json::from_str(&status.stdout).unwrap();
        assert_eq!((&status[0]["documents"], &status[0]["tombstones"]), (&json!(2), &json!(1)), "{status}");
    }
}

#[tokio::test]
async fn a_copy_brings_no_deleted_image_back() {
    let folder = tempfile::tempdir().unwrap();
    let [from_elasticsearch, from_embedded] = StoreInTest::both().await;
    let [to_elasticsearch, to_embedded] = StoreInTest::both().await;
    for (n, (from, to)) in [(&from_elasticsearch, &to_embedded), (&from_embedded, &to_elasticsearch)].iter().enumerate()
    {
        from.open.write(&[put("a", 1), put("b", 1), deletion_at("b", 5, 77)]).await.unwrap();
        from.refresh().await;
        let file = folder.path().join(format!("{n}.ndjson")).display().to_string();
        let exported = from.command(&["export", &file]).await;
        assert_eq!(exported.code, Some(0), "{exported:?}");
        assert!(exported.stderr.contains("1 exported, with 1 deletions"), "{exported:?}");
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["imgdex_export"], &lines[0]["tombstones"]), (&json!(2), &json!(true)));
        assert_eq!(lines[2], json!({"id": "b", "version": 5, "collection": "default", "deleted_at_ms": 77}));

        // The copy has an older version of the deleted image, and one more.
        to.open.write(&[put("b", 4), put("c", 1)]).await.unwrap();
        let imported = to.command(&["import", &file]).await;
        assert_eq!(imported.code, Some(0), "{imported:?}");
        assert!(imported.stderr.contains("1 imported, 1 deleted, 0 older"), "{imported:?}");
        assert_eq!(revision(to, "b").await, Some(Revision::Deletion(5)));
        assert_eq!(to.open.write(&[put("b", 5)]).await.unwrap(), [WriteOutcome::Stale]);
        // An old export, without deletions, brings nothing back either.
        let old = text.replace("\"imgdex_export\":2,\"tombstones\":true", "\"imgdex_export\":1");
        assert_ne!(old, text);
        std::fs::write(&file, old).unwrap();
        assert_eq!(to.command(&["import", &file]).await.code, Some(0));
        assert_eq!(revision(to, "c").await, Some(Revision::Upsert(1)));
    }
}

#[tokio::test]
async fn old_deletions_are_purged_and_only_those() {
    for store in StoreInTest::both().await {
        let now = now_ms();
        let deletions = [
            deletion_at("old", 5, now - 800 * HOUR),
            deletion_at("young", 5, now - 700 * HOUR),
            deletion_at("back", 5, now - 800 * HOUR),
            // Nothing can replace it, and Elasticsearch has no version after it.
            deletion_at("largest", MAX_VERSION, now - 800 * HOUR),
        ];
        store.open.write(&[put("live", 5)]).await.unwrap();
        store.open.write(&deletions).await.unwrap();
        store.open.write(&[put("back", 6)]).await.unwrap();

        let pruned = store.prune(&[]).await;
        assert_eq!(pruned.code, Some(0), "{pruned:?}");
        assert!(pruned.stdout.starts_with("1 deletions older than 30days 1h forgotten, 2 remembered"), "{pruned:?}");
        assert_eq!(revision(&store, "old").await, None);
        assert_eq!(revision(&store, "largest").await, Some(Revision::Deletion(MAX_VERSION)));
        assert_eq!(revision(&store, "young").await, Some(Revision::Deletion(5)));
        assert_eq!(revision(&store, "back").await, Some(Revision::Upsert(6)));
        assert_eq!(revision(&store, "live").await, Some(Revision::Upsert(5)));
        // The version of the deletion is forgotten, too: the very next one is taken, and what is older.
        assert_eq!(store.open.write(&[put("old", 6)]).await.unwrap(), [WriteOutcome::Indexed], "{}", store.open);
        assert_eq!(store.open.write(&[put("young", 5)]).await.unwrap(), [WriteOutcome::Stale]);

        let too_early = store.prune(&["--older-than", "29d"]).await;
        assert_eq!(too_early.code, Some(2), "{too_early:?}");
        assert!(too_early.stderr.contains("less than the retention of 30days"), "{too_early:?}");
        assert_eq!(store.prune(&["--older-than", "29d", "--retention", "29d"]).await.code, Some(0));
        assert_eq!(revision(&store, "young").await, None);
        store.open.write(&[deletion("young", 9)]).await.unwrap();
        assert_eq!(store.prune(&["--older-than", "0s", "--force"]).await.code, Some(0));
        assert_eq!(revision(&store, "young").await, None);

        // Nothing to do, and nothing named.
        assert!(store.prune(&[]).await.stdout.starts_with("0 deletions"));
        assert_eq!(store.command(&["mappings", "prune"]).await.code, Some(2));
    }
}

#[tokio::test]
async fn a_purge_takes_pages_and_leaves_the_index_s_settings_as_they_were() {
    const COUNT: usize = 2_500;
    let [store, _] = StoreInTest::both().await;
    let alias = store.alias.as_ref().unwrap();
    let gc_deletes = async || {
        let (_, settings) = alias.request(Method::GET, "/_settings?flat_settings=true", None).await;
        settings.as_object().unwrap().values().next().unwrap()["settings"]["index.gc_deletes"].clone()
    };
    let set =
        async |value: Value| alias.request(Method::PUT, "/_settings", Some(json!({"index.gc_deletes": value}))).await;
    for (before, after) in [
        (json!("1h"), json!("1h")),
        (json!("90s"), json!("90s")),
        (json!(null), json!(null)),
        (json!("0s"), json!("1h")),
    ] {
        set(before.clone()).await;
        let deletions: Vec<_> = (0..COUNT).map(|n| deletion(&format!("{n}"), 1)).collect();
        store.open.write(&deletions).await.unwrap();
        assert_eq!(store.open.purge_tombstones(now_ms()).await.unwrap(), COUNT as u64);
        assert_eq!(store.open.count_tombstones().await.unwrap(), 0);
        assert_eq!(gc_deletes().await, after, "{before}");
    }
    // Left by a purge that was killed; there is nothing else to do.
    set(json!("0s")).await;
    assert_eq!(store.open.purge_tombstones(now_ms()).await.unwrap(), 0);
    assert_eq!(gc_deletes().await, json!("1h"));
}

/// An image that comes back between the look and the removal stays.
#[tokio::test]
async fn a_purge_removes_only_what_it_has_seen() {
    let [store, _] = StoreInTest::both().await;
    let proxy = Proxy::start(elasticsearch::url());
    let purging = Store::open(&settings(proxy.store(&store.alias.as_ref().unwrap().name))).unwrap();
    store.open.write(&[deletion("back", 5), deletion("later", 5), deletion("gone", 5)]).await.unwrap();
    proxy.handle_bulks(Handling::HoldRequest);
    let purge = tokio::spawn(async move { purging.purge_tombstones(now_ms()).await });
    proxy.until_held().await;
    store.open.write(&[put("back", 6), deletion("later", 7)]).await.unwrap();
    proxy.release().await;
    assert_eq!(purge.await.unwrap().unwrap(), 1);
    assert_eq!(revision(&store, "back").await, Some(Revision::Upsert(6)));
    assert_eq!(revision(&store, "later").await, Some(Revision::Deletion(7)));
    assert_eq!(revision(&store, "gone").await, None);
}

/// Another program may write into the index. What it writes is not a tombstone because it lacks a vector or a URL, and is never
/// purged, whatever it lacks.
#[tokio::test]
async fn documents_of_another_writer_are_no_tombstones() {
    let [store, _] = StoreInTest::both().await;
    let alias = store.alias.as_ref().unwrap();
    let vector = [[0.0_f32; 511].as_slice(), &[1.0]].concat();
    let without_vector = json!({"id": "w", "url": "https://h/w", "version": 1, "collection": "c", "indexed_at": 1});
    let without_url = json!({"id": "u", "version": 1, "image_vector": vector});
    let without_both = json!({"id": "n", "version": 1, "collection": "c", "indexed_at": 1, "width": 7});
    for source in [&without_vector, &without_url, &without_both] {
        let path = format!("/_create/{}", source["id"].as_str().unwrap());
        assert_eq!(alias.request(Method::PUT, &path, Some(source.clone())).await.0, 201);
    }
    store.open.write(&[put("a", 1)]).await.unwrap();
    store.refresh().await;
    assert_eq!((store.open.count().await.unwrap(), store.open.count_tombstones().await.unwrap()), (3, 0));
    assert_eq!(live(store.open.list(None, 10).await.unwrap()).len(), 4);
    for id in ["w", "u", "n"] {
        assert!(store.open.get(id).await.unwrap().unwrap().live().is_some(), "{id}");
    }
    let found = store.command(&["search", "--id", "a", "--output", "json"]).await;
    assert!(found.stdout.contains("\"u\""), "{found:?}");
    assert_eq!(store.open.purge_tombstones(now_ms()).await.unwrap(), 0);
    for id in ["w", "u", "n"] {
        assert!(store.open.get(id).await.unwrap().is_some(), "{id}");
    }
}

#[tokio::test]
async fn nothing_is_purged_from_an_index_of_another_program() {
    let alias = Alias::new();
    let body = json!({"aliases": {&alias.name: {}}});
    assert_eq!(request(Method::PUT, &format!("{}-v1", alias.name), Some(body)).await.0, 200);
    let source = json!({"id": "a", "version": 1, "collection": "c", "indexed_at": 1});
    assert_eq!(alias.request(Method::PUT, "/_create/a", Some(source)).await.0, 201);
    let pruned = run(&["mappings", "prune", "--tombstones", "--store", &alias.address()], "").await;
    assert_eq!(pruned.code, Some(64), "{pruned:?}");
    assert!(pruned.stderr.contains("was not made by imgdex"), "{pruned:?}");
    assert_eq!(alias.request(Method::GET, "/_doc/a", None).await.0, 200);
}
