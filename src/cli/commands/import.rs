//! `imgdex import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;

use super::export::check_name;
use crate::cli::args::{ModelArgs, StoreArgs};
use crate::cli::progress::Progress;
use crate::cli::{Error, Exit, output, setup};
use crate::model::manifest::Manifest;
use crate::sources;
use crate::store::{Document, Origin, Store, Write, Written};
use crate::transfer::ndjson::{self, FORMAT, Header};

/// Documents per write.
const BATCH: usize = 500;

/// Import documents from an export.
#[derive(Args, Debug)]
pub struct ImportArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// File of an export, ending in .ndjson; - for standard input
    file: PathBuf,
}

/// What became of the documents.
#[derive(Default)]
struct Counts {
    imported: u64,
    stale: u64,
    failed: u64,
}

/// Runs the command.
///
/// # Errors
/// When the file or the store cannot be used. Documents that fail are named on standard error and do not stop the others.
pub async fn run(args: ImportArgs) -> Result<Exit, Error> {
    check_name(&args.file)?;
    let name = args.file.display().to_string();
    let unreadable = |error: io::Error| Error::new(Exit::Io, format!("{name}: {error}"));
    let reader: Box<dyn BufRead> = if args.file == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(&args.file).map_err(unreadable)?))
    };
    let mut lines = Lines { reader, number: 0 };
    let first = lines.next().transpose().map_err(unreadable)?.and_then(Result::ok).unwrap_or_default();
    let origin = header(&first).map_err(|reason| Error::new(Exit::Io, format!("{name}: {reason}")))?;

    // The documents' model, and no other: a store that is made here is made for it.
    let model = ModelArgs { model: Some(origin.model.clone()), ..ModelArgs::default() };
    let store = setup::store(&args.store)?;
    let manifest = setup::model_for_write(&store, &model).await?;
    origin.check(&manifest, &name)?;
    setup::ensure_embedded(&store, &manifest).await?;

    let mut import =
        Import { store, manifest, progress: Progress::start(None, "documents"), counts: Counts::default() };
    let mut batch = Vec::with_capacity(BATCH);
    let mut broken = None;
    while let Some(line) = lines.next() {
        let document = match line {
            Ok(line) => line.and_then(|line| ndjson::read(&line, import.manifest.dims).map_err(|e| e.to_string())),
            Err(error) => {
                // What was read until here is imported all the same.
                broken = Some(unreadable(error));
                break;
            }
        };
        match document {
            Ok(document) => batch.push(document),
            Err(reason) => import.failed(&format!("{name}, line {}", lines.number), &reason),
        }
        if batch.len() == BATCH {
            import.write(std::mem::take(&mut batch)).await?;
        }
    }
    import.write(batch).await?;
    let Import { store, progress, counts: Counts { imported, stale, failed }, .. } = import;
    let seconds = progress.finish().as_secs_f64();
    output::note(format_args!(
        "{imported} imported, {stale} older than stored, {failed} failed in {seconds:.1} s: {name} to {store}"
    ));
    match broken {
        Some(error) => Err(error),
        None if failed == 0 => Ok(Exit::Done),
        None => Ok(Exit::ItemsFailed),
    }
}

/// The lines of a file, none of which may be longer than any document is.
struct Lines {
    reader: Box<dyn BufRead>,
    /// The number of the last line, from 1.
    number: u64,
}

impl Lines {
    /// The next line; the inner error is the line's own fault.
    fn next(&mut self) -> Option<io::Result<Result<String, String>>> {
        self.number += 1;
        match sources::read_line(&mut self.reader) {
            Ok(line) => line.map(|line| Ok(line.map_err(ToOwned::to_owned))),
            Err(error) => Some(Err(error)),
        }
    }
}

fn header(line: &str) -> Result<Origin, String> {
    let header: Header = serde_json::from_str(line)
        .map_err(|error| format!("this is not an export of imgdex, which begins with a header line: {error}"))?;
    if header.imgdex_export > FORMAT {
        return Err(format!(
            "the export's format is {}, newer than {FORMAT}; use a newer imgdex",
            header.imgdex_export
        ));
    }
    Ok(header.origin)
}

struct Import {
    store: Store,
    manifest: Manifest,
    progress: Progress,
    counts: Counts,
}

impl Import {
    async fn write(&mut self, batch: Vec<Document>) -> Result<(), Error> {
        let writes: Vec<_> = batch.into_iter().map(|document| Write::Put(Box::new(document))).collect();
        let written = self.store.write(&writes).await?;
        for (write, written) in writes.iter().zip(written) {
            let (Write::Put(document), written) = (write, written) else { continue };
            match written {
                Written::Indexed => self.counts.imported += 1,
                Written::Stale => self.counts.stale += 1,
                Written::Rejected { kind, reason } => self.failed(&document.id, &format!("{kind}: {reason}")),
                // The rest would fare no better, and importing all of it again is safe.
                Written::Busy { reason, .. } | Written::Blocked { reason, .. } => {
                    let message = format!("{}: {reason}; importing again is safe", self.store);
                    return Err(Error::new(Exit::Unavailable, message));
                }
                Written::Deleted => self.failed(&document.id, "the store answered with a deletion"),
            }
            self.progress.advance();
        }
        Ok(())
    }

    fn failed(&mut self, name: &str, reason: &str) {
        self.counts.failed += 1;
        self.progress.print(format_args!("failed: {name}: {reason}"));
    }
}
