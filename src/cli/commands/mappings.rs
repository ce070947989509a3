//! `imgdex mappings`.

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::args::StoreArgs;
use crate::cli::output::{self, OutputArgs, Table};
use crate::cli::settings::find_model;
use crate::cli::{Error, Exit, setup};
use crate::model::manifest::{DEFAULT_MODEL, Manifest};
use crate::store::elasticsearch::mapping;
use crate::store::elasticsearch::state::Index;
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
    }
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
            let records = status.indices.into_iter().map(|(index, documents)| {
                let mut record = record(store, index, documents, common);
                record.problems.extend(guard.into_iter().chain(unwritable).map(ToOwned::to_owned));
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
        model: Some(meta.model),
        fingerprint: Some(meta.fingerprint),
        mapping_version: Some(meta.mapping_version),
        blocks: Vec::new(),
        problems,
    }])
}

fn record(store: &Store, index: Index, documents: u64, common: &Common) -> Record {
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
        Ok(model) => store::check_meta(meta, &model, store).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

fn table(records: &[Record]) -> Table {
    /// Enough of a fingerprint to tell two apart.
    const FINGERPRINT: usize = 12;
    let mut table = Table::new(
        &["store", "index", "write", "documents", "model", "fingerprint", "mapping", "blocks", "state"],
        &[3, 6],
    );
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for record in records {
        table.row([
            record.store.clone(),
            or_dash(record.index.clone()),
            if record.write_index { "yes" } else { "no" }.to_owned(),
            record.documents.to_string(),
            or_dash(record.model.clone()),
            or_dash(record.fingerprint.as_ref().map(|text| text.chars().take(FINGERPRINT).collect())),
            or_dash(record.mapping_version.map(|version| version.to_string())),
            or_dash((!record.blocks.is_empty()).then(|| record.blocks.join(","))),
            if record.problems.is_empty() { "ok" } else { "not usable" }.to_owned(),
        ]);
    }
    table
}
