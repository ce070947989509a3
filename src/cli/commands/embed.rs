//! `imgdex embed`.

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use crate::cli::args::{FetchArgs, ModelArgs};
use crate::cli::{Error, Exit, output, setup};
use crate::embedding::Embedding;
use crate::extract::{MAX_BATCH, Priority};
use crate::sources;

/// Images in flight at once: one batch in the network, and the next one in fetching and decoding.
const AHEAD: usize = 2 * MAX_BATCH;

/// Print the features of images.
#[derive(Args, Debug)]
pub struct EmbedArgs {
    /// How features are printed
    // Not `IMGDEX_OUTPUT`, whose words are others.
    #[arg(long, env = "IMGDEX_EMBED_OUTPUT", value_enum, default_value_t = Form::Ndjson)]
    output: Form,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    fetch: FetchArgs,
    #[arg(required = true, value_name = "SOURCE", help = sources::HELP, long_help = sources::LONG_HELP)]
    sources: Vec<OsString>,
}

/// How features are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// One object per line: `{"source": "...", "embedding": [...]}`
    Ndjson,
    /// One `NumPy` array, float32, a row per image; stderr names the row of each source
    Npy,
}

/// One line of output.
#[derive(Serialize)]
struct Line<'a> {
    source: &'a str,
    embedding: &'a [f32],
}

/// Runs the command.
pub async fn run(args: EmbedArgs) -> Result<Exit, Error> {
    let manifest = args.model.manifest()?;
    let metrics = setup::metrics(&manifest.name, &args.model)?;
    let embedder = setup::embedder(&manifest, &args.model, &args.fetch, metrics).await?;
    let found = stream::unfold(setup::sources(args.sources)?, async |mut sources| {
        let item = sources.next().await?;
        Some((item, sources))
    });
    let results = found.map(async |item| match item {
        Ok(source) => {
            let result = setup::embed(&embedder, &source, Priority::Ingest).await;
            (source.name, result)
        }
        Err(failed) => (failed.name, Err(failed.reason)),
    });
    // Results come in the order of the sources, whichever is ready first.
    let mut results = std::pin::pin!(results.buffered(AHEAD));
    let mut printer = Printer::new(args.output, manifest.dims);
    let mut failures = 0usize;
    while let Some((source, result)) = results.next().await {
        match result {
            Ok(embedding) => match printer.print(&source, &embedding) {
                // The reader has closed the pipe, so no more features are computed.
                Err(error) if error.is_reader_gone() => return Ok(exit(failures)),
                result => result?,
            },
            Err(reason) => {
                failures += 1;
                output::note(format_args!("failed: {source}: {reason}"));
            }
        }
    }
    match printer.finish() {
        Err(error) if !error.is_reader_gone() => Err(error),
        _ => Ok(exit(failures)),
    }
}

fn exit(failures: usize) -> Exit {
    if failures == 0 { Exit::Done } else { Exit::ItemsFailed }
}

/// Prints embeddings in one of the forms.
enum Printer {
    Ndjson,
    /// The header of an array says how many rows follow, which is known at the end: the rows wait, 2 KiB each.
    Npy {
        dims: usize,
        rows: Vec<u8>,
    },
}

impl Printer {
    fn new(form: Form, dims: usize) -> Self {
        match form {
            Form::Ndjson => Self::Ndjson,
            Form::Npy => Self::Npy { dims, rows: Vec::new() },
        }
    }

    fn print(&mut self, source: &str, embedding: &Embedding) -> Result<(), Error> {
        match self {
            Self::Ndjson => output::json_line(&Line { source, embedding: embedding.as_slice() }),
            Self::Npy { dims, rows } => {
                output::note(format_args!("row {}: {source}", rows.len() / (*dims * size_of::<f32>())));
                rows.extend(embedding.as_slice().iter().flat_map(|value| value.to_le_bytes()));
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<(), Error> {
        match self {
            Self::Ndjson => Ok(()),
            Self::Npy { dims, rows } => {
                output::bytes(&npy_header(rows.len() / (dims * size_of::<f32>()), dims))?;
                output::bytes(&rows)
            }
        }
    }
}

/// The header of a `.npy` file of version 1.0: magic, version, length, a Python dictionary padded with spaces to a
/// multiple of 64 bytes (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    const PREFIX: usize = 10;
    let mut dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let padding = 63 - (PREFIX + dictionary.len()) % 64;
    dictionary.extend(std::iter::repeat_n(' ', padding));
    dictionary.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((dictionary.len() as u16).to_le_bytes());
    header.extend(dictionary.bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_header_is_a_multiple_of_64_bytes_and_says_its_own_length() {
        for rows in [0, 1, 9, 10, 12_345_678] {
            let header = npy_header(rows, 512);
            assert_eq!(header.len() % 64, 0);
            assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])), header.len() - 10);
            assert_eq!(header.last(), Some(&b'\n'));
        }
    }
}
