//! Settings to the parts that several commands use: the store with its model, the embedder, the sources.

use std::ffi::OsString;
use std::sync::Arc;

use super::args::{FetchArgs, ModelArgs, StoreArgs};
use super::settings::find_model;
use super::{Error, Exit};
use crate::decode::Decoder;
use crate::embedder::{self, Embedder};
use crate::embedding::Embedding;
use crate::extract::{Extractor, Priority};
use crate::fetch::{self, Fetcher};
use crate::metrics::Metrics;
use crate::model::manifest::Manifest;
use crate::sources::{Source, Sources};
use crate::store::{self, ErrorKind, Store, StoreMeta};

/// Opens the store of the arguments, without connecting to it.
pub fn store(args: &StoreArgs) -> Result<Store, Error> {
    Ok(Store::open(&args.settings()?)?)
}

/// The model of a store that must exist: the one that it records, which `--model` may confirm but not change.
pub async fn model_of(store: &Store, args: &ModelArgs) -> Result<Manifest, Error> {
    match store.meta().await? {
        Some(meta) => recorded(&meta, store, args),
        None => Err(store::Error::new(store, ErrorKind::Missing).into()),
    }
}

/// The model of a store that may be missing where it is embedded; only `imgdex mappings apply` creates an index in
/// Elasticsearch.
pub async fn model_for_write(store: &Store, args: &ModelArgs) -> Result<Manifest, Error> {
    match (store, store.meta().await?) {
        (_, Some(meta)) => {
            let model = recorded(&meta, store, args)?;
            store.check_writable(&model).await?;
            Ok(model)
        }
        (Store::Embedded(_), None) => args.manifest(),
        (Store::Elasticsearch(_), None) => Err(store::Error::new(store, ErrorKind::Missing).into()),
    }
}

/// Creates an embedded store where it is missing. Called when all else is ready, so that a command that could not start leaves
/// no empty store behind.
pub async fn ensure_embedded(store: &Store, model: &Manifest) -> Result<(), Error> {
    if matches!(store, Store::Embedded(_)) {
        store.create(model).await?;
    }
    Ok(())
}

fn recorded(meta: &StoreMeta, store: &Store, args: &ModelArgs) -> Result<Manifest, Error> {
    let model = find_model(args.model.as_ref().unwrap_or(&meta.model))?;
    store.check_meta(meta, &model)?;
    Ok(model)
}

/// The metrics of a command that computes features with the model of this name.
pub fn metrics(model: &str, args: &ModelArgs) -> Result<Arc<Metrics>, Error> {
    Metrics::new(model, args.compute().kernel_name())
        .map(Arc::new)
        .map_err(|error| Error::new(Exit::Io, format!("the metrics could not be declared: {error}")))
}

/// The way from images to embeddings, for commands that a user runs on own files.
pub async fn embedder(
    model: &Manifest,
    model_args: &ModelArgs,
    fetch_args: &FetchArgs,
    metrics: Arc<Metrics>,
) -> Result<Embedder, Error> {
    let fetcher = fetcher(&fetch_args.fetch_for_command()?, Arc::clone(&metrics))?;
    let decoder = Decoder::new(fetch_args.decode(), model.sampling(), Arc::clone(&metrics));
    let (folder, compute) = (model_args.folder()?, model_args.compute());
    let extractor = Extractor::load(model, &folder, &compute, Arc::clone(&metrics)).await?;
    Ok(Embedder::new(Arc::new(fetcher), decoder, extractor, metrics))
}

/// The fetch stage. A failure is that of a setting, or of a file that it names.
pub fn fetcher(settings: &fetch::Settings, metrics: Arc<Metrics>) -> Result<Fetcher, Error> {
    Fetcher::new(settings, metrics).map_err(|error| Error::new(Exit::Config, error.to_string()))
}

/// The embedding of a source's image, or the reason why there is none.
pub async fn embed(embedder: &Embedder, source: &Source, priority: Priority) -> Result<Embedding, String> {
    let url = source.url.as_ref().filter(|_| !source.reference.is_deletion());
    let url = url.ok_or("this line names no image to embed")?;
    let image = async { embedder.embed(embedder.fetch(url).await?, priority).await };
    image.await.map(|image| image.embedding).map_err(|error: embedder::Error| error.to_string())
}

/// The sources that the arguments stand for.
pub fn sources(arguments: Vec<OsString>) -> Result<Sources, Error> {
    Sources::find(arguments).map_err(|error| Error::new(Exit::Io, error.to_string()))
}
