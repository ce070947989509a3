//! `imgdex index`.

use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tokio::task;

use crate::cli::args::{FetchArgs, ModelArgs, OutputFormat, StoreArgs};
use crate::cli::output::{self, OutputArgs};
use crate::cli::progress::Progress;
use crate::cli::{Error, Exit, setup};
use crate::indexer::{self, Indexer};
use crate::ingest::{self, Counts, Ended};
use crate::pipeline::{Failure, Input, Pipeline};
use crate::shutdown;
use crate::sources::{self, Failed};
use crate::store::Store;

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
#[derive(Serialize)]
struct Summary {
    store: String,
    model: String,
    #[serde(flatten)]
    counts: Counts,
    seconds: f64,
}

/// Runs the command. Images that fail are named on standard error and do not stop the others.
pub async fn run(args: IndexArgs) -> Result<Exit, Error> {
    let store = Arc::new(setup::store(&args.store)?);
    let model = setup::model_for_write(&store, &args.model).await?;
    let metrics = setup::metrics(&model.name, &args.model)?;
    let embedder = setup::embedder(&model, &args.model, &args.fetch, Arc::clone(&metrics)).await?;
    setup::ensure_embedded(&store, &model).await?;
    let stop =
        shutdown::on_signal().map_err(|error| Error::new(Exit::Io, format!("signals cannot be handled: {error}")))?;

    let settings = indexer::Settings { max_items: ingest::BATCH, ..indexer::Settings::default() };
    let indexer = Indexer::start(Arc::clone(&store), settings, Arc::clone(&metrics));
    let pipeline = Pipeline::new(embedder, indexer, metrics, Input::Command);
    let mut progress = Progress::start(count(&args.sources).await, "images");
    let mut report = |result: Result<(), &Failed>| progress.report(result);
    let sources = setup::sources(args.sources)?;
    let Ended { counts, broken } = ingest::run(pipeline, sources, args.collection, &stop, &mut report).await;
    let seconds = progress.finish().as_millis() as f64 / 1000.0;
    let summary = Summary { store: store.to_string(), model: model.name, counts, seconds };
    match args.output.format() {
        OutputFormat::Table => output::last_line(&summary)?,
        OutputFormat::Json | OutputFormat::Ndjson => output::last_line(output::to_json(&summary)?)?,
    }
    match broken {
        Some(failure) => {
            let message = format!("stopped: {failure}; repeat the command to index the rest");
            Err(Error::new(exit_of(&failure, &store), message))
        }
        None if stop.is_cancelled() => {
            output::note(format_args!("imgdex: interrupted; repeat the command to index the rest"));
            Ok(Exit::ItemsFailed)
        }
        None if counts.failed > 0 => Ok(Exit::ItemsFailed),
        None => Ok(Exit::Done),
    }
}

/// How many sources there are. Reading folders takes a while, and may not stall the tasks that share this thread.
async fn count(sources: &[OsString]) -> Option<u64> {
    let sources = sources.to_vec();
    task::spawn_blocking(move || sources::count(sources)).await.ok().flatten()
}

/// What is broken: a service, or this machine.
fn exit_of(failure: &Failure, store: &Store) -> Exit {
    match (failure, store) {
        (Failure::Index(_), Store::Elasticsearch(_)) => Exit::Unavailable,
        _ => Exit::Io,
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, model, counts, seconds } = self;
        let Counts { indexed, unchanged, deleted, stale, failed } = counts;
        write!(f, "{indexed} indexed, {unchanged} unchanged, {failed} failed")?;
        for (count, what) in [(deleted, "deleted"), (stale, "older than stored")] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        write!(f, " in {seconds:.1} s: {store} ({model})")
    }
}
