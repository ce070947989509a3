//! `imgdex mappings`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::args::{RetentionArgs, StoreArgs, duration};
use crate::cli::output::{self, OutputArgs, Table};
use crate::cli::settings::find_model;
use crate::cli::{Error, Exit, setup};
use crate::clock::now_ms;
use crate::model::manifest::{DEFAULT_MODEL, Manifest};
use crate::store::elasticsearch::state::Index;
use crate::store::elasticsearch::{Counts, SEVERAL_INDICES, mapping};
use crate::store::{self, ErrorKind, Store, StoreMeta};

/// Create and inspect the index of a store.
#[derive(Args, Debug)]
pub struct MappingsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Print what the store was made for, and whether it can be used
    Status(Common),
    /// Create the index, its alias and the template that guards the alias; on SQLite, the file
    Apply(Common),
    /// Remove what is no longer needed: deletions that are older than any message may be
    Prune(Prune),
}

#[derive(Args, Debug)]
struct Prune {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Forget deletions
    #[arg(long, required = true)]
    tombstones: bool,
    /// Only those made longer ago than this [default: the retention and one hour more, for what is being processed]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Forget also deletions that are younger than the retention, so that an older message may bring an image back
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
struct Common {
    #[command(flatten)]
    store: StoreArgs,
    /// The model that the store is or was made for [default: the model that the store records, else vgg16]
    #[arg(long, env = "IMGDEX_MODEL")]
    model: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// One index of a store, as printed.
#[derive(Serialize)]
struct Record {
    store: String,
    /// The index behind the alias; a SQLite file has none.
    index: Option<String>,
    write_index: bool,
    documents: u64,
    /// Deletions that are remembered.
    tombstones: u64,
    model: Option<String>,
    fingerprint: Option<String>,
    mapping_version: Option<u32>,
    blocks: Vec<String>,
    /// What keeps it from being used; empty when all is well.
    problems: Vec<String>,
}

const UNGUARDED: &str = "the template that guards the alias is missing: run `imgdex mappings apply`";

/// Runs the command.
pub async fn run(args: MappingsArgs) -> Result<Exit, Error> {
    match args.action {
        Action::Status(common) => status(&setup::store(&common.store)?, &common).await,
        Action::Apply(common) => {
            let store = setup::store(&common.store)?;
            store.create(&model(&store, &common).await?).await?;
            status(&store, &common).await
        }
        Action::Prune(args) => prune(args).await,
    }
}

/// How much longer than the retention tombstones are kept: a message that is just young enough may take a while, and clocks
/// differ.
const MARGIN: Duration = Duration::from_hours(1);

async fn prune(args: Prune) -> Result<Exit, Error> {
    let Prune { store, retention: RetentionArgs { retention }, older_than, force, .. } = args;
    let older_than = older_than.unwrap_or(retention.saturating_add(MARGIN));
    let age = humantime::format_duration(older_than);
    if older_than < retention && !force {
        let message = format!(
            "--older-than {age} is less than the retention of {}, for which workers apply messages: one of them may bring an \
             image back; lower --retention everywhere, or pass --force",
            humantime::format_duration(retention)
        );
        return Err(Error::new(Exit::Usage, message));
    }
    let store = setup::store(&store)?;
    // Nothing is removed from an index of another program.
    let meta = store.meta().await?.ok_or_else(|| store::Error::new(&store, ErrorKind::Missing))?;
    store.check_writable(&find_model(&meta.model)?).await?;
    let before_ms = now_ms().saturating_sub(u64::try_from(older_than.as_millis()).unwrap_or(u64::MAX));
    let pruned = store.purge_tombstones(before_ms).await?;
    let left = store.count_tombstones().await?;
    output::last_line(format_args!("{pruned} deletions older than {age} forgotten, {left} remembered: {store}"))?;
    Ok(Exit::Done)
}

/// The model to create for: the one asked for, else the one that is there, so that applying twice changes nothing.
async fn model(store: &Store, common: &Common) -> Result<Manifest, Error> {
    let name = match &common.model {
        Some(name) => name.clone(),
        None => store.meta().await?.map_or_else(|| DEFAULT_MODEL.to_owned(), |meta| meta.model),
    };
    find_model(&name)
}

async fn status(store: &Store, common: &Common) -> Result<Exit, Error> {
    let records = match store {
        Store::Embedded(_) => embedded(store, common).await?,
        Store::Elasticsearch(elasticsearch) => {
            let status = elasticsearch.status().await?;
            let guard = (!status.guarded).then_some(UNGUARDED);
            let writable = status.indices.iter().any(|(index, _)| index.takes_writes);
            let unwritable = (!writable).then_some("the alias has no write index");
            let several = (status.indices.len() > 1).then_some(SEVERAL_INDICES);
            let records = status.indices.into_iter().map(|(index, counts)| {
                let mut record = record(store, index, counts, common);
                record.problems.extend(guard.into_iter().chain(unwritable).chain(several).map(ToOwned::to_owned));
                record
            });
            records.collect()
        }
    };
    if records.is_empty() {
        return Err(store::Error::new(store, ErrorKind::Missing).into());
    }
    output::records(common.output.format(), &records, || table(&records))?;
    let problems: Vec<_> = records.iter().flat_map(|record| &record.problems).collect();
    for problem in &problems {
        output::note(format_args!("imgdex: {store}: {problem}"));
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::ItemsFailed })
}

async fn embedded(store: &Store, common: &Common) -> Result<Vec<Record>, Error> {
    let Some(meta) = store.meta().await? else { return Ok(Vec::new()) };
    let problems = meta_problem(&meta, store, common).into_iter().collect();
    Ok(vec![Record {
        store: store.to_string(),
        index: None,
        write_index: true,
        documents: store.count().await?,
        tombstones: store.count_tombstones().await?,
        model: Some(meta.model),
        fingerprint: Some(meta.fingerprint),
        mapping_version: Some(meta.mapping_version),
        blocks: Vec::new(),
        problems,
    }])
}

fn record(store: &Store, index: Index, counts: Counts, common: &Common) -> Record {
    let Counts { documents, tombstones } = counts;
    let mut problems: Vec<_> = match &index.meta {
        Some(meta) => meta_problem(meta, store, common).into_iter().collect(),
        None => vec![format!("{} was not made by imgdex: its _meta has no model", index.name)],
    };
    let is_current = index.meta.as_ref().is_none_or(|meta| meta.mapping_version == mapping::CURRENT_VERSION);
    for difference in index.differences.iter().filter(|_| is_current) {
        let (part, found, expected) = (&difference.part, &difference.found, &difference.expected);
        problems.push(format!("{}: {part} is {found}, expected {expected}", index.name));
    }
    if !index.blocks.is_empty() {
        problems.push(format!("{} has blocks: {}", index.name, index.blocks.join(", ")));
    }
    Record {
        store: store.to_string(),
        write_index: index.takes_writes,
        documents,
        tombstones,
        model: index.meta.as_ref().map(|meta| meta.model.clone()),
        fingerprint: index.meta.as_ref().map(|meta| meta.fingerprint.clone()),
        mapping_version: index.meta.as_ref().map(|meta| meta.mapping_version),
        blocks: index.blocks,
        index: Some(index.name),
        problems,
    }
}

/// Why the store does not fit the model asked for, or the catalogue's model of the name that it records.
fn meta_problem(meta: &StoreMeta, store: &Store, common: &Common) -> Option<String> {
    match Manifest::find(common.model.as_ref().unwrap_or(&meta.model)) {
        Ok(model) => store.check_meta(meta, &model).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

fn table(records: &[Record]) -> Table {
    /// Enough of a fingerprint to tell two apart.
    const FINGERPRINT: usize = 12;
    let mut table = Table::new(
        &["store", "index", "write", "documents", "deletions", "model", "fingerprint", "mapping", "blocks", "state"],
        &[3, 4, 7],
    );
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for record in records {
        table.row([
            record.store.clone(),
            or_dash(record.index.clone()),
            if record.write_index { "yes" } else { "no" }.to_owned(),
            record.documents.to_string(),
            record.tombstones.to_string(),
            or_dash(record.model.clone()),
            or_dash(record.fingerprint.as_ref().map(|text| text.chars().take(FINGERPRINT).collect())),
            or_dash(record.mapping_version.map(|version| version.to_string())),
            or_dash((!record.blocks.is_empty()).then(|| record.blocks.join(","))),
            if record.problems.is_empty() { "ok" } else { "not usable" }.to_owned(),
        ]);
    }
    table
}
