//! `imgdex search`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::cli::args::{FetchArgs, ModelArgs, StoreArgs, key_value};
use crate::cli::output::{self, OutputArgs, Table};
use crate::cli::{Error, Exit, setup};
use crate::distance::Mode;
use crate::embedding::Embedding;
use crate::extract::Priority;
use crate::model::manifest::Manifest;
use crate::sources;
use crate::store::{self, Hit, Query, Target};

/// Search for images that look like one.
#[derive(Args, Debug)]
pub struct SearchArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    fetch: FetchArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// How vectors are compared
    #[arg(long, env = "IMGDEX_MODE", value_enum, default_value_t = Mode::Cosine)]
    mode: Mode,
    /// How many hits at most
    #[arg(short, long, env = "IMGDEX_K", value_name = "N", default_value_t = 10)]
    k: usize,
    /// Leave out hits whose similarity (0 to 1) is below
    #[arg(long, env = "IMGDEX_MIN_SIMILARITY", value_name = "X", value_parser = similarity)]
    min_similarity: Option<f64>,
    /// Only this collection
    #[arg(long, env = "IMGDEX_COLLECTION")]
    collection: Option<String>,
    /// Only documents whose metadata has this value; a dot in the key names a nested field (repeatable)
    #[arg(long, env = "IMGDEX_FILTER", value_name = "KEY=VALUE", value_parser = key_value)]
    filter: Vec<(String, String)>,
    /// Let Elasticsearch find candidates by its kNN index, then rescore them exactly; the embedded store is always exact
    #[arg(long, env = "IMGDEX_APPROXIMATE", value_parser = BoolishValueParser::new())]
    approximate: bool,
    /// Search with a stored document, which is itself left out
    #[arg(long, conflicts_with = "image")]
    id: Option<String>,
    /// Image file or URL
    #[arg(required_unless_present = "id", value_name = "IMAGE|URL")]
    image: Option<OsString>,
}

fn similarity(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        Ok(_) | Err(_) => Err("a similarity is a number from 0 to 1".to_owned()),
    }
}

/// Runs the command.
pub async fn run(args: SearchArgs) -> Result<Exit, Error> {
    let store = setup::store(&args.store)?;
    let model = setup::model_of(&store, &args.model).await?;
    store::check_mode(args.mode, &model).map_err(|message| Error::new(Exit::Usage, message))?;
    let target = match (&args.id, &args.image) {
        (Some(id), _) => Target::Id(id.clone()),
        (None, Some(image)) => Target::Embedding(embed(&args, &model, image).await?),
        // Ruled out by the parser.
        (None, None) => return Err(Error::new(Exit::Usage, "an image or --id is needed")),
    };
    let query = Query {
        target,
        mode: args.mode,
        k: args.k,
        min_similarity: args.min_similarity,
        collection: args.collection,
        filters: filters(args.filter)?,
        approximate: args.approximate,
    };
    let hits = store.search(&query).await?;
    if hits.is_empty() {
        output::note(format_args!("imgdex: no hits in {store}"));
    }
    output::records(args.output.format(), &hits, || table(&hits))?;
    Ok(Exit::Done)
}

/// One value for each key: two would contradict each other or say the same.
fn filters(pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Error> {
    let mut filters = BTreeMap::new();
    for (key, value) in pairs {
        if filters.get(&key).is_some_and(|other| *other != value) {
            return Err(Error::new(Exit::Usage, format!("--filter names {key:?} twice, with different values")));
        }
        filters.insert(key, value);
    }
    Ok(filters)
}

/// The features of the query image.
async fn embed(args: &SearchArgs, model: &Manifest, image: &OsString) -> Result<Embedding, Error> {
    let name = image.to_string_lossy().into_owned();
    let unusable = |exit, reason: &dyn std::fmt::Display| Error::new(exit, format!("{name}: {reason}"));
    let path = Path::new(image);
    if image == "-" || path.is_dir() || sources::is_list(path) {
        return Err(unusable(Exit::Usage, &"a search takes one image file or URL"));
    }
    let item = setup::sources(vec![image.clone()])?.next().await;
    let source = match item {
        Some(Ok(source)) => source,
        Some(Err(failed)) => return Err(Error::new(Exit::ItemsFailed, failed.to_string())),
        None => return Err(unusable(Exit::ItemsFailed, &"there is no image")),
    };
    let metrics = setup::metrics(&model.name, &args.model)?;
    let embedder = setup::embedder(model, &args.model, &args.fetch, metrics).await?;
    setup::embed(&embedder, &source, Priority::Search).await.map_err(|reason| unusable(Exit::ItemsFailed, &reason))
}

fn table(hits: &[Hit]) -> Table {
    let mut table = Table::new(&["rank", "similarity", "distance", "score", "collection", "id", "url"], &[0, 1, 2, 3]);
    for hit in hits {
        table.row([
            hit.rank.to_string(),
            format!("{:.4}", hit.measure.similarity),
            format!("{:.4}", hit.measure.distance),
            format!("{:.4}", hit.measure.score),
            hit.collection.clone(),
            shortened(&hit.id),
            hit.url.clone(),
        ]);
    }
    table
}

/// A derived id is 64 digits long, of which a person needs the first ones; JSON has them all.
fn shortened(id: &str) -> String {
    match id.char_indices().nth(40) {
        Some(_) => id.chars().take(12).chain("...".chars()).collect(),
        None => id.to_owned(),
    }
}
