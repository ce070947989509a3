//! `imgdex index`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::cli::args::{FetchArgs, ModelArgs, OutputFormat, StoreArgs};
use crate::cli::output::{self, OutputArgs};
use crate::cli::progress::Progress;
use crate::cli::{Error, Exit, setup};
use crate::clock::now_ms;
use crate::embedder::Embedder;
use crate::indexer::{self, Indexer};
use crate::message::{self, Envelope, WireReference};
use crate::outcome::{Outcome, Verdict};
use crate::pipeline::{Failure, Pipeline};
use crate::shutdown;
use crate::sources::{self, Failed, Item, Sources};

/// Images on their way at once: two batches in the network or before it, and a batch on its way to the store.
const IN_FLIGHT: usize = 32;

/// Documents in one write: less than are on their way, so that the network goes on meanwhile.
const BATCH: usize = 16;

/// Index images into a store.
#[derive(Args, Debug)]
pub struct IndexArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    fetch: FetchArgs,
    /// The collection of sources that name none
    #[arg(long, env = "IMGDEX_COLLECTION")]
    collection: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[arg(required = true, value_name = "SOURCE", help = sources::HELP, long_help = sources::LONG_HELP)]
    sources: Vec<OsString>,
}

/// What became of the sources.
#[derive(Default, Serialize)]
struct Summary {
    store: String,
    model: String,
    indexed: u64,
    unchanged: u64,
    deleted: u64,
    /// Not written, because the store has a newer version.
    stale: u64,
    failed: u64,
    seconds: f64,
}

/// What became of one source.
type Settled = Result<Outcome, Failure>;

/// Runs the command.
///
/// # Errors
/// When the store or the model cannot be used. Images that fail are named on standard error and do not stop the others.
pub async fn run(args: IndexArgs) -> Result<Exit, Error> {
    let store = Arc::new(setup::store(&args.store)?);
    let model = setup::model_of_new_or_existing(&store, &args.model).await?;
    let metrics = setup::metrics(&model.name, &args.model)?;
    let fetcher = setup::fetcher(&args.fetch, true, Arc::clone(&metrics))?;
    let extractor = setup::extractor(&model, &args.model, Arc::clone(&metrics)).await?;
    setup::create_where_embedded(&store, &model).await?;
    let stop =
        shutdown::on_signal().map_err(|error| Error::new(Exit::Io, format!("signals cannot be handled: {error}")))?;

    let settings = indexer::Settings { max_items: BATCH, ..indexer::Settings::default() };
    let indexer = Indexer::start(Arc::clone(&store), settings, Arc::clone(&metrics));
    let decoder = setup::decoder(&args.fetch, &model);
    let embedder = Embedder::new(Arc::new(fetcher), decoder, extractor, Arc::clone(&metrics));
    let run = Run {
        pipeline: Arc::new(Pipeline::new(embedder, indexer, metrics).skip_unchanged(true)),
        collection: args.collection,
        summary: Summary { store: store.to_string(), model: model.name.clone(), ..Summary::default() },
        progress: Progress::start(count(&args.sources).await, "images"),
        last_version: 0,
        names: HashMap::new(),
        broken: None,
    };
    let Run { pipeline, mut summary, progress, broken, .. } = run.all(setup::sources(args.sources)?, &stop).await;
    summary.seconds = progress.finish().as_millis() as f64 / 1000.0;
    // Every task has ended, so this is the last owner; what it wrote was durable when the tasks ended.
    if let Some(pipeline) = Arc::into_inner(pipeline) {
        pipeline.finish().await;
    }
    report(&summary, args.output.format())?;
    match broken {
        Some(error) => Err(error),
        None if stop.is_cancelled() => {
            output::note(format_args!("imgdex: interrupted; the same command goes on where this one stopped"));
            Ok(Exit::ItemsFailed)
        }
        None if summary.failed > 0 => Ok(Exit::ItemsFailed),
        None => Ok(Exit::Done),
    }
}

/// How many sources there are. Reading folders takes a while, and may not stall the tasks that share this thread.
async fn count(sources: &[OsString]) -> Option<u64> {
    let sources = sources.to_vec();
    task::spawn_blocking(move || sources::count(sources)).await.ok().flatten()
}

/// The sources on their way, and what became of those before.
struct Run {
    pipeline: Arc<Pipeline>,
    collection: Option<String>,
    summary: Summary,
    progress: Progress,
    /// The version of the last source that named none.
    last_version: u64,
    /// The sources on their way, by their task.
    names: HashMap<task::Id, String>,
    /// Why no more sources are taken: something fails that is not theirs.
    broken: Option<Error>,
}

impl Run {
    /// Takes sources until there are no more, a signal stops it or the store breaks; what is in flight is finished.
    async fn all(mut self, mut sources: Sources, stop: &CancellationToken) -> Self {
        let mut tasks = JoinSet::new();
        loop {
            let taking = tasks.len() < IN_FLIGHT && self.broken.is_none() && !stop.is_cancelled();
            tokio::select! {
                biased;
                Some(done) = tasks.join_next_with_id() => self.settle(done),
                () = stop.cancelled(), if taking => {}
                item = sources.next(), if taking => match item {
                    Some(item) => self.start(item, &mut tasks),
                    None => break,
                },
                else => break,
            }
        }
        while let Some(done) = tasks.join_next_with_id().await {
            self.settle(done);
        }
        self
    }

    fn start(&mut self, item: Item, tasks: &mut JoinSet<Settled>) {
        match item {
            Ok(mut source) => {
                if source.reference.collection.is_none() {
                    source.reference.collection.clone_from(&self.collection);
                }
                if source.reference.version.is_none() {
                    // Two sources of one id end as they were given, whichever is ready first.
                    self.last_version = now_ms().max(self.last_version + 1);
                    source.reference.version = Some(self.last_version.into());
                }
                let (pipeline, reference) = (Arc::clone(&self.pipeline), source.reference);
                let task = tasks.spawn(async move { process(&pipeline, &reference).await });
                self.names.insert(task.id(), source.name);
            }
            Err(Failed { name, reason }) => self.failed(&name, &reason),
        }
    }

    fn settle(&mut self, done: Result<(task::Id, Settled), task::JoinError>) {
        let id = done.as_ref().map_or_else(task::JoinError::id, |(id, _)| *id);
        let name = self.names.remove(&id).unwrap_or_default();
        let result = match done {
            Ok((_, result)) => result,
            Err(panic) => return self.failed(&name, &format!("its task ended early: {panic}")),
        };
        let counter = match &result {
            Ok(Outcome::Indexed) => &mut self.summary.indexed,
            Ok(Outcome::Unchanged) => &mut self.summary.unchanged,
            Ok(Outcome::Deleted) => &mut self.summary.deleted,
            Ok(Outcome::Stale) => &mut self.summary.stale,
            Err(failure) => {
                // Nothing is wrong with this source: the next ones would fare no better.
                if failure.verdict() == Verdict::GiveBack && self.broken.is_none() {
                    let message = format!("stopped: {failure}; the same command goes on where this one stopped");
                    self.broken = Some(Error::new(self.exit_of(failure), message));
                }
                return self.failed(&name, &failure.to_string());
            }
        };
        *counter += 1;
        self.progress.advance();
    }

    /// What is broken: a service, or this machine.
    fn exit_of(&self, failure: &Failure) -> Exit {
        let is_service = matches!(failure, Failure::Index(_)) && !self.summary.store.starts_with("sqlite:");
        if is_service { Exit::Unavailable } else { Exit::Io }
    }

    fn failed(&mut self, name: &str, reason: &str) {
        self.summary.failed += 1;
        self.progress.print(format_args!("failed: {name}: {reason}"));
        self.progress.advance();
    }
}

/// Walks one source through the pipeline.
async fn process(pipeline: &Pipeline, reference: &WireReference) -> Settled {
    let body = serde_json::to_vec(reference).map_err(|error| message::Error::Json(error.to_string()))?;
    pipeline.process(&Envelope { body, first_received_ms: now_ms(), ..Envelope::default() }).await
}

fn report(summary: &Summary, format: OutputFormat) -> Result<(), Error> {
    match format {
        OutputFormat::Table => output::last_line(summary),
        OutputFormat::Json | OutputFormat::Ndjson => output::last_line(output::to_json(summary)?),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, model, indexed, unchanged, deleted, stale, failed, seconds } = self;
        write!(f, "{indexed} indexed, {unchanged} unchanged, {failed} failed")?;
        for (count, what) in [(deleted, "deleted"), (stale, "older than stored")] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        write!(f, " in {seconds:.1} s: {store} ({model})")
    }
}
