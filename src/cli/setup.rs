//! From arguments to the parts of a pipeline: store, model, fetcher, decoder.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::args::{BrokerArgs, FetchArgs, ModelArgs, StoreArgs};
use super::{Error, Exit};
use crate::broker::{self, topology::Topology};
use crate::decode::{self, Decoder};
use crate::embedder::{self, Embedder};
use crate::embedding::Embedding;
use crate::extract::{Extractor, Priority};
use crate::fetch::{self, Fetcher};
use crate::machine::cores;
use crate::metrics::Metrics;
use crate::model::manifest::{DEFAULT_MODEL, Manifest};
use crate::sources::{Source, Sources};
use crate::store::elasticsearch::mapping;
use crate::store::{self, ErrorKind, Store, StoreMeta};

/// Longest that one image may take to decode: the largest allowed takes a few seconds.
const DECODE_TIMEOUT: Duration = Duration::from_secs(30);

/// The folder of the default store and the weights: `$XDG_DATA_HOME/imgdex`, else `~/.local/share/imgdex`.
pub fn data_folder() -> Result<PathBuf, Error> {
    user_folder("XDG_DATA_HOME", ".local/share").ok_or_else(|| {
        let message = "neither XDG_DATA_HOME nor HOME is set, so there is no data folder; pass --store and --model-dir";
        Error::new(Exit::Config, message)
    })
}

/// The folder of the configuration file: `$XDG_CONFIG_HOME/imgdex`, else `~/.config/imgdex`; `None` without a home.
pub fn config_folder() -> Option<PathBuf> {
    user_folder("XDG_CONFIG_HOME", ".config")
}

/// The XDG rule: the variable where it holds an absolute path, else a folder below the home.
fn user_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home))).map(|folder| folder.join("imgdex"))
}

/// Opens the store of the arguments, without connecting to it.
pub fn store(args: &StoreArgs) -> Result<Store, Error> {
    let address = match &args.store {
        Some(address) => address.clone(),
        None => default_store()?,
    };
    Ok(Store::open(&store::Settings {
        address: address.into(),
        api_key: args.es_api_key.clone().map(SecretString::from),
        ca: args.es_ca.clone(),
        allow_plain_http: args.allow_plain_http,
    })?)
}

fn default_store() -> Result<String, Error> {
    Ok(format!("sqlite:{}", data_folder()?.join("imgdex.db").display()))
}

/// The model of a store that must exist: the one that it remembers, which `--model` may confirm but not change.
pub async fn model_of(store: &Store, args: &ModelArgs) -> Result<Manifest, Error> {
    match store.meta().await? {
        Some(meta) => remembered(&meta, store, args),
        None => Err(store::Error::new(store, ErrorKind::Missing).into()),
    }
}

/// The model of a store that may be missing where it is embedded; an index in Elasticsearch is only ever made by
/// `imgdex mappings apply`.
pub async fn model_for_write(store: &Store, args: &ModelArgs) -> Result<Manifest, Error> {
    match (store, store.meta().await?) {
        (_, Some(meta)) => remembered(&meta, store, args),
        (Store::Embedded(_), None) => chosen_model(args),
        (Store::Elasticsearch(_), None) => Err(store::Error::new(store, ErrorKind::Missing).into()),
    }
}

/// Makes an embedded store where it is missing. Called when all else is ready, so that no empty store is left behind by
/// a command that could not start.
pub async fn ensure_embedded(store: &Store, model: &Manifest) -> Result<(), Error> {
    if matches!(store, Store::Embedded(_)) {
        store.create(model).await?;
    }
    Ok(())
}

/// The model that `--model` names, for commands without a store and for new stores.
pub fn chosen_model(args: &ModelArgs) -> Result<Manifest, Error> {
    find_model(args.model.as_deref().unwrap_or(DEFAULT_MODEL))
}

fn find_model(name: &str) -> Result<Manifest, Error> {
    Manifest::find(name).map_err(|error| Error::new(Exit::Config, error.to_string()))
}

fn remembered(meta: &StoreMeta, store: &Store, args: &ModelArgs) -> Result<Manifest, Error> {
    let name = args.model.as_ref().unwrap_or(&meta.model);
    let model = find_model(name)?;
    meta.check(&model, mapping::CURRENT_VERSION, store)?;
    Ok(model)
}

/// The folder with the weights: `--model-dir`, else the data folder.
pub fn model_folder(args: &ModelArgs) -> Result<PathBuf, Error> {
    args.model_dir.clone().map_or_else(data_folder, Ok)
}

/// A model that cannot be used: instructions that the machine lacks were asked for, all else is a matter of files.
#[allow(clippy::needless_pass_by_value)] // For `map_err`.
pub fn model_failed(error: crate::model::Error) -> Error {
    let exit = if matches!(error, crate::model::Error::Unavailable(_)) { Exit::Config } else { Exit::Io };
    Error::new(exit, error.to_string())
}

/// Loads a model and starts its thread.
pub async fn extractor(model: &Manifest, args: &ModelArgs, metrics: Arc<Metrics>) -> Result<Extractor, Error> {
    let (manifest, folder, compute) = (model.clone(), model_folder(args)?, args.compute());
    // Reading and checking the weights takes a while, and may not stall the tasks that share this thread.
    let loaded = tokio::task::spawn_blocking(move || crate::model::load::load(&manifest, &folder, &compute)).await;
    let network = loaded
        .map_err(|error| Error::new(Exit::Io, format!("loading the model failed: {error}")))?
        .map_err(model_failed)?;
    Extractor::start(network, metrics)
        .map_err(|error| Error::new(Exit::Io, format!("the model thread did not start: {error}")))
}

/// The way from images to embeddings, for commands that a user runs on own files.
pub async fn embedder(
    manifest: &Manifest,
    model: &ModelArgs,
    fetch: &FetchArgs,
    metrics: Arc<Metrics>,
) -> Result<Embedder, Error> {
    let fetcher = Arc::new(fetcher(fetch, true, Arc::clone(&metrics))?);
    let decoder = decoder(fetch, manifest);
    let extractor = extractor(manifest, model, Arc::clone(&metrics)).await?;
    Ok(Embedder::new(fetcher, decoder, extractor, metrics))
}

/// The embedding of a source's image, or the reason why there is none.
pub async fn embed(embedder: &Embedder, source: &Source, priority: Priority) -> Result<Embedding, String> {
    let url = source.url.as_ref().filter(|_| source.reference.op.as_deref() != Some("delete"));
    let url = url.ok_or("this line names no image to embed")?;
    let image = async { embedder.embed(embedder.fetch(url).await?, priority).await };
    image.await.map(|image| image.embedding).map_err(|error: embedder::Error| error.to_string())
}

/// The sources that the arguments stand for.
pub fn sources(arguments: Vec<OsString>) -> Result<Sources, Error> {
    Sources::find(arguments).map_err(|error| Error::new(Exit::Io, error.to_string()))
}

/// The fetch stage. `local_files`: whether `file:` URLs are read, as only commands on a user's own files may.
pub fn fetcher(args: &FetchArgs, local_files: bool, metrics: Arc<Metrics>) -> Result<Fetcher, Error> {
    let settings = fetch::Settings {
        allow_nets: args.allow_net.clone(),
        allow_ports: args.allow_port.clone(),
        allow_hosts: args.allow_host.clone(),
        deny_hosts: args.deny_host.clone(),
        max_bytes: args.max_image_bytes,
        max_bytes_held: args.max_inflight_bytes,
        // A command has nobody to come back later.
        defer: !local_files,
        local_files,
        host_auth: host_auth(args)?,
        ca_file: args.fetch_ca.clone(),
        name_servers: args.name_server.clone(),
        ..fetch::Settings::default()
    };
    Fetcher::new(&settings, metrics).map_err(|error| Error::new(Exit::Config, error.to_string()))
}

fn host_auth(args: &FetchArgs) -> Result<HashMap<String, SecretString>, Error> {
    let Some(path) = &args.host_auth_file else { return Ok(HashMap::new()) };
    let unusable = |why: String| Error::new(Exit::Config, format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    fetch::access::credentials::parse(&text).map_err(|error| unusable(error.to_string()))
}

/// The decode stage, sampling images as the model needs them.
pub fn decoder(args: &FetchArgs, model: &Manifest) -> Decoder {
    let settings = decode::Settings {
        max_pixels: args.max_image_pixels,
        allow_tiff: args.allow_tiff,
        permits: cores(),
        timeout: DECODE_TIMEOUT,
    };
    Decoder::new(settings, model.sampling())
}

/// The broker of the arguments, checked and not connected to.
pub fn broker(args: &BrokerArgs, command: &str) -> Result<broker::Settings, Error> {
    let settings = broker::Settings {
        address: args.amqp.clone().into(),
        ca: args.amqp_ca.clone(),
        topology: Topology::new(&args.exchange, &args.queue, &args.retry_delays)?,
        connection_name: format!("imgdex {command} {}", env!("CARGO_PKG_VERSION")),
    };
    settings.check()?;
    Ok(settings)
}

/// The metrics of a process that computes features with the model of this name.
pub fn metrics(model: &str, args: &ModelArgs) -> Result<Arc<Metrics>, Error> {
    Metrics::new(model, args.compute().kernel_name())
        .map(Arc::new)
        .map_err(|error| Error::new(Exit::Io, format!("the metrics could not be declared: {error}")))
}
