//! The pipeline fed from sources instead of deliveries: what `imgdex index` runs.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::{VersionClock, now_ms};
use crate::message::{self, Envelope, WireReference};
use crate::outcome::{Outcome, Verdict};
use crate::pipeline::{Failure, Pipeline};
use crate::sources::{Failed, Item, Report, Source, Sources};

/// Images in flight at once: two batches in the network or before it, and a batch on its way to the store.
const IN_FLIGHT: usize = 32;
/// Documents in one write: fewer than are in flight, so that the network computes during a write.
pub const BATCH: usize = 16;

/// How many sources ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub indexed: u64,
    pub unchanged: u64,
    pub deleted: u64,
    /// Not written, because the store has a newer version.
    pub stale: u64,
    pub failed: u64,
}

/// How a run ended.
pub struct Ended {
    pub counts: Counts,
    /// The failure that stopped the run: one that is not the fault of its source, so that the next sources would fail too.
    pub broken: Option<Failure>,
}

/// What became of one source.
type Processed = Result<Outcome, Failure>;

/// Takes sources until there are no more, `stop` is cancelled or the store breaks. What is in flight is finished.
///
/// `collection` is that of sources that name none.
pub async fn run(
    pipeline: Pipeline,
    mut sources: Sources,
    collection: Option<String>,
    stop: &CancellationToken,
    report: Report<'_>,
) -> Ended {
    let mut run = Run {
        pipeline: Arc::new(pipeline),
        collection,
        counts: Counts::default(),
        versions: VersionClock::default(),
        names: HashMap::new(),
        broken: None,
        report,
    };
    let mut tasks = JoinSet::new();
    loop {
        let taking = tasks.len() < IN_FLIGHT && run.broken.is_none() && !stop.is_cancelled();
        tokio::select! {
            biased;
            Some(done) = tasks.join_next_with_id() => run.settle(done),
            () = stop.cancelled(), if taking => {}
            item = sources.next(), if taking => match item {
                // A deletion of what is stored now comes after what was given before it, and before what is given after it.
                Some(item) if deletes_what_is_stored(&item) => {
                    run.drain(&mut tasks).await;
                    run.start(item, &mut tasks);
                    run.drain(&mut tasks).await;
                }
                Some(item) => run.start(item, &mut tasks),
                None => break,
            },
            else => break,
        }
    }
    run.drain(&mut tasks).await;
    let Run { pipeline, counts, broken, .. } = run;
    // Every task has ended, so this is the last owner; what it wrote was durable when the tasks ended.
    if let Some(pipeline) = Arc::into_inner(pipeline) {
        pipeline.finish().await;
    }
    Ended { counts, broken }
}

struct Run<'a> {
    pipeline: Arc<Pipeline>,
    collection: Option<String>,
    counts: Counts,
    versions: VersionClock,
    /// The sources in flight, by their task.
    names: HashMap<task::Id, String>,
    broken: Option<Failure>,
    report: Report<'a>,
}

impl Run<'_> {
    fn start(&mut self, item: Item, tasks: &mut JoinSet<Processed>) {
        match item {
            Ok(Source { name, mut reference, .. }) => {
                if reference.collection.is_none() {
                    reference.collection.clone_from(&self.collection);
                }
                // Two sources of one id end in the order in which they were given, whichever is ready first.
                if !reference.is_deletion() {
                    reference.version.get_or_insert_with(|| self.versions.next_version().into());
                }
                let pipeline = Arc::clone(&self.pipeline);
                let task = tasks.spawn(async move { process(&pipeline, &reference).await });
                self.names.insert(task.id(), name);
            }
            Err(failed) => self.failed(&failed),
        }
    }

    async fn drain(&mut self, tasks: &mut JoinSet<Processed>) {
        while let Some(done) = tasks.join_next_with_id().await {
            self.settle(done);
        }
    }

    fn settle(&mut self, done: Result<(task::Id, Processed), task::JoinError>) {
        let id = done.as_ref().map_or_else(task::JoinError::id, |(id, _)| *id);
        let name = self.names.remove(&id).unwrap_or_default();
        let result = match done {
            Ok((_, result)) => result,
            Err(panic) => {
                return self.failed(&Failed { name, reason: format!("its task ended early: {panic}") });
            }
        };
        let counter = match result {
            Ok(Outcome::Indexed) => &mut self.counts.indexed,
            Ok(Outcome::Unchanged) => &mut self.counts.unchanged,
            Ok(Outcome::Deleted) => &mut self.counts.deleted,
            Ok(Outcome::Stale | Outcome::StaleDeletion) => &mut self.counts.stale,
            Err(failure) => {
                self.failed(&Failed { name, reason: failure.to_string() });
                if failure.verdict() == Verdict::Requeue {
                    self.broken.get_or_insert(failure);
                }
                return;
            }
        };
        *counter += 1;
        (self.report)(Ok(()));
    }

    fn failed(&mut self, failed: &Failed) {
        self.counts.failed += 1;
        (self.report)(Err(failed));
    }
}

/// Whether a source deletes its image at the version that the store has when its turn comes.
fn deletes_what_is_stored(item: &Item) -> bool {
    item.as_ref().is_ok_and(|source| source.reference.is_deletion() && source.reference.version.is_none())
}

async fn process(pipeline: &Pipeline, reference: &WireReference) -> Processed {
    let body = serde_json::to_vec(reference).map_err(|error| message::Error::Json(error.to_string()))?;
    pipeline.process(&Envelope { body, first_received_ms: now_ms(), ..Envelope::default() }).await
}
