//! `imgdex export`.

use std::io;
use std::path::PathBuf;

use clap::Args;

use crate::cli::args::StoreArgs;
use crate::cli::progress::Progress;
use crate::cli::{Error, Exit, output, setup};
use crate::store::{self, ErrorKind};
use crate::transfer::export::Counts;
use crate::transfer::{self, export};

/// Export documents with their vectors, and deletions, so that a copy brings nothing back.
#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// File to write, ending in .ndjson; - for standard output
    file: PathBuf,
}

/// Runs the command. Where the store cannot be read or the file cannot be written, no file is left behind.
pub async fn run(args: ExportArgs) -> Result<Exit, Error> {
    transfer::check_name(&args.file).map_err(|reason| Error::new(Exit::Usage, reason))?;
    let store = setup::store(&args.store)?;
    let meta = store.meta().await?.ok_or_else(|| store::Error::new(&store, ErrorKind::Missing))?;
    let total = store.count().await?;
    let name = if args.file.as_os_str() == "-" { "standard output".into() } else { args.file.display().to_string() };
    let unwritable = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::reader_gone(),
        _ => Error::new(Exit::Io, format!("{name}: {error}")),
    };
    let file = export::Output::create(&args.file).map_err(unwritable)?;
    let mut progress = Progress::start(Some(total), "documents");
    let exported = export::run(&store, meta, file, || progress.advance()).await.map_err(|error| match error {
        export::Error::Store(error) => error.into(),
        export::Error::Write(error) => unwritable(error),
    })?;
    let seconds = progress.finish().as_secs_f64();
    let Counts { documents, tombstones } = exported;
    let deletions = if tombstones > 0 { format!(", with {tombstones} deletions") } else { String::new() };
    let file = args.file.display();
    output::note(format_args!("{documents} exported{deletions} in {seconds:.1} s: {store} to {file}"));
    Ok(Exit::Done)
}
