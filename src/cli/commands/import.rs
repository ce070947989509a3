//! `imgdex import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::{ModelArgs, StoreArgs};
use crate::cli::progress::Progress;
use crate::cli::{Error, Exit, output, setup};
use crate::sources::Failed;
use crate::store::check_meta;
use crate::transfer::check_name;
use crate::transfer::import::{self, Counts, Export};

/// Import documents from an export.
#[derive(Args, Debug)]
pub struct ImportArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// File of an export, ending in .ndjson; - for standard input
    file: PathBuf,
}

/// Runs the command. Documents that fail are named on standard error and do not stop the others.
pub async fn run(args: ImportArgs) -> Result<Exit, Error> {
    check_name(&args.file).map_err(|reason| Error::new(Exit::Usage, reason))?;
    let name = args.file.display().to_string();
    let unreadable = |error: io::Error| Error::new(Exit::Io, format!("{name}: {error}"));
    let reader: Box<dyn BufRead + Send> = if args.file == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(&args.file).map_err(unreadable)?))
    };
    let export = Export::open(reader).map_err(unreadable)?;
    let export = export.map_err(|reason| Error::new(Exit::Io, format!("{name}: {reason}")))?;

    // The documents' model, and no other: a store that is made here is made for it.
    let model = ModelArgs { model: Some(export.meta.model.clone()), ..ModelArgs::default() };
    let store = setup::store(&args.store)?;
    let manifest = setup::model_for_write(&store, &model).await?;
    check_meta(&export.meta, &manifest, store.acceptance(), &name)?;
    setup::ensure_embedded(&store, &manifest).await?;

    let mut progress = Progress::start(None, "documents");
    let mut report = |result: Result<(), &Failed>| progress.report(result);
    let (counts, broken) = import::run(export, &store, manifest.dims, &name, &mut report).await?;
    let Counts { imported, deleted, stale, failed } = counts;
    let deletions = if deleted > 0 { format!("{deleted} deleted, ") } else { String::new() };
    let seconds = progress.finish().as_secs_f64();
    output::note(format_args!(
        "{imported} imported, {deletions}{stale} older than stored, {failed} failed in {seconds:.1} s: {name} to {store}"
    ));
    match broken {
        Some(error) => Err(unreadable(error)),
        None if failed == 0 => Ok(Exit::Done),
        None => Ok(Exit::ItemsFailed),
    }
}
