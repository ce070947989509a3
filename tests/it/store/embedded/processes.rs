//! The embedded store over kills in the middle of a write, and with two processes at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use imgdex::testing::store::{Store, Write, WriteOutcome};

use super::{created, document, integrity, model, open, search, vector};
use crate::support::documents::{deletion, live};
use crate::support::poll;

const BATCH: u64 = 20;
const STORE: &str = "IMGDEX_TEST_EMBEDDED_STORE";
const FIRST: &str = "IMGDEX_TEST_EMBEDDED_FIRST";

/// Batch `n`: new documents, and the deletion of one of the batch before.
fn batch(n: u64) -> Vec<Write> {
    let new = (0..BATCH).map(|at| Write::Put(Box::new(document(&format!("{n:06}-{at:02}"), n + 1, 0.5))));
    let old = n.checked_sub(1).map(|before| deletion(&format!("{before:06}-00"), n + 1));
    new.chain(old).collect()
}

/// Writes batches until it is killed. The tests below run it as a child process; elsewhere it does nothing.
#[tokio::test]
async fn child() {
    let (Ok(path), Ok(first)) = (std::env::var(STORE), std::env::var(FIRST)) else { return };
    let (store, acknowledged) = (open(Path::new(&path)), acknowledged(Path::new(&path)));
    for n in first.parse().unwrap().. {
        let written = store.write(&batch(n)).await.unwrap();
        assert!(written.iter().all(|one| matches!(one, WriteOutcome::Indexed | WriteOutcome::Deleted)), "{written:?}");
        let next = acknowledged.with_extension("next");
        fs::write(&next, n.to_string()).unwrap();
        fs::rename(&next, &acknowledged).unwrap();
    }
}

/// The file in which the child records the last acknowledged batch.
fn acknowledged(store: &Path) -> PathBuf {
    store.with_extension("acknowledged")
}

struct Writer(Child);

impl Writer {
    fn start(store: &Path, first: u64) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["store::embedded::processes::child", "--exact"]).env(STORE, store).env(FIRST, first.to_string());
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }

    async fn reaches(&mut self, store: &Path, n: u64) {
        poll::until("the writer's progress", async || {
            if let Some(status) = self.0.try_wait().unwrap() {
                panic!("the writer ended: {status}");
            }
            let last = last_acknowledged(store);
            last.filter(|last| *last >= n).map(|_| ()).ok_or_else(|| format!("{last:?} instead of {n}"))
        })
        .await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn last_acknowledged(store: &Path) -> Option<u64> {
    fs::read_to_string(acknowledged(store)).ok().map(|text| text.parse().unwrap())
}

/// The ids of batches 0 to n.
fn expected(n: u64) -> Vec<String> {
    let ids = (0..=n).flat_map(|batch| (0..BATCH).map(move |at| (batch, at)));
    ids.filter(|(batch, at)| *at > 0 || *batch == n).map(|(batch, at)| format!("{batch:06}-{at:02}")).collect()
}

async fn all(store: &Store) -> Vec<String> {
    let documents = live(store.list(None, usize::MAX).await.unwrap());
    documents.into_iter().map(|document| document.id).collect()
}

#[tokio::test]
async fn a_kill_leaves_whole_batches_and_all_that_were_acknowledged() {
    let (store, path, _folder) = created().await;
    let mut first = 0;
    for round in 0..6 {
        let mut writer = Writer::start(&path, first);
        writer.reaches(&path, first + 3 + round).await;
        drop(writer);
        let found = all(&store).await;
        // One batch more may have been written without an acknowledgement.
        let last = last_acknowledged(&path).unwrap();
        let stands = [last, last + 1].into_iter().find(|n| found == expected(*n));
        let Some(stands) = stands else { panic!("after batch {last}: {found:?}") };
        assert_eq!(integrity(&path), "ok");
        let mut hits = search::ids(&store, &search::Query { k: usize::MAX, ..search::query(vector(0.0)) }).await;
        hits.sort();
        assert_eq!(hits, found);
        first = stands + 1;
    }
}

#[tokio::test]
async fn two_processes_write_and_search_at_once() {
    let (store, path, _folder) = created().await;
    let mut writer = Writer::start(&path, 0);
    let everything = search::Query { k: usize::MAX, ..search::query(vector(0.0)) };
    let mut seen = 0;
    for n in 0..30 {
        writer.reaches(&path, 2 * n).await;
        // The hits have all batches that were acknowledged before the search, as a whole, and our own document.
        let before = last_acknowledged(&path).unwrap();
        let own = format!("own-{n:02}");
        let written = store.write(&[Write::Put(Box::new(document(&own, 1, 0.0)))]).await.unwrap();
        assert_eq!(written, [WriteOutcome::Indexed]);
        let mut hits = search::ids(&store, &everything).await;
        assert!(hits.contains(&own));
        hits.retain(|id| !id.starts_with("own-"));
        hits.sort();
        // Nothing is deleted of the last batch only.
        let batches = (hits.len() as u64 - 1) / (BATCH - 1);
        assert_eq!(hits, expected(batches - 1));
        assert!(batches > before && batches >= seen, "{batches} after {before} and {seen}");
        seen = batches;
    }
}

#[tokio::test]
async fn stores_that_are_created_at_once_are_one() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/store.db");
        let makers: Vec<_> = (0..8)
            .map(|_| {
                let store = open(&path);
                tokio::spawn(async move {
                    store.create(&model()).await?;
                    store.check(&model()).await
                })
            })
            .collect();
        for maker in makers {
            maker.await.unwrap().unwrap();
        }
        assert_eq!(open(&path).count().await.unwrap(), 0);
    }
}
