//! `imgdex export`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::StoreArgs;
use crate::cli::progress::Progress;
use crate::cli::{Error, Exit, output, setup};
use crate::store::{self, Store};
use crate::transfer::ndjson::{FORMAT, Header};

/// Documents per page: about 4 MB of JSON.
const PAGE: usize = 500;

/// Export documents with their vectors.
#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// File to write, ending in .ndjson; - for standard output
    file: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// When the store cannot be read or the file cannot be written; then no file is left behind.
pub async fn run(args: ExportArgs) -> Result<Exit, Error> {
    check_name(&args.file)?;
    let store = setup::store(&args.store)?;
    let origin = store.origin().await?.ok_or_else(|| store::Error::Missing { store: store.to_string() })?;
    let total = store.count().await?;
    let mut output = Output::create(&args.file)?;
    output.line(&Header { imgdex_export: FORMAT, origin })?;
    let mut progress = Progress::start(Some(total), "documents");
    let exported = documents(&store, &mut output, &mut progress).await?;
    output.finish()?;
    let seconds = progress.finish().as_secs_f64();
    output::note(format_args!("{exported} exported in {seconds:.1} s: {store} to {}", args.file.display()));
    Ok(Exit::Done)
}

/// Refuses names whose format is none that is written or read.
///
/// # Errors
/// When the name neither ends in `.ndjson` nor is `-`.
pub fn check_name(file: &Path) -> Result<(), Error> {
    let known = file == Path::new("-") || file.extension().is_some_and(|found| found.eq_ignore_ascii_case("ndjson"));
    if known {
        return Ok(());
    }
    let message = format!("{}: the format is told by the name, which must end in .ndjson (or be -)", file.display());
    Err(Error::new(Exit::Usage, message))
}

async fn documents(store: &Store, output: &mut Output, progress: &mut Progress) -> Result<u64, Error> {
    let mut exported = 0;
    let mut after: Option<String> = None;
    loop {
        let page = store.page(after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(exported) };
        after = Some(last.id.clone());
        for document in page {
            output.line(&document)?;
            progress.advance();
            exported += 1;
        }
    }
}

/// Where an export goes: a file appears under its name only when it is complete.
enum Output {
    Standard(BufWriter<io::Stdout>),
    File { writer: BufWriter<File>, partial: Partial, path: PathBuf },
}

/// An unfinished file, removed unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Renamed away, it is not there any more.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Output {
    fn create(path: &Path) -> Result<Self, Error> {
        if path == Path::new("-") {
            return Ok(Self::Standard(BufWriter::new(io::stdout())));
        }
        let mut name = path.as_os_str().to_owned();
        name.push(OsString::from(format!(".{}.part", std::process::id())));
        let partial = Partial(name.into());
        let file = File::create_new(&partial.0).map_err(|error| failed(&partial.0, &error))?;
        Ok(Self::File { writer: BufWriter::new(file), partial, path: path.to_owned() })
    }

    fn line(&mut self, value: &impl serde::Serialize) -> Result<(), Error> {
        let (writer, path): (&mut dyn Write, &Path) = match self {
            Self::Standard(writer) => (writer, Path::new("standard output")),
            Self::File { writer, path, .. } => (writer, path),
        };
        let mut line = serde_json::to_vec(value).map_err(|error| failed(path, &error.into()))?;
        line.push(b'\n');
        writer.write_all(&line).map_err(|error| failed(path, &error))
    }

    fn finish(self) -> Result<(), Error> {
        match self {
            Self::Standard(mut writer) => writer.flush().map_err(|error| failed(Path::new("standard output"), &error)),
            Self::File { writer, partial, path } => {
                let file = writer.into_inner().map_err(|error| failed(&path, error.error()))?;
                let renamed = file.sync_all().and_then(|()| std::fs::rename(&partial.0, &path));
                renamed.map_err(|error| failed(&path, &error))
            }
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::reader_gone();
    }
    Error::new(Exit::Io, format!("{}: {error}", path.display()))
}
