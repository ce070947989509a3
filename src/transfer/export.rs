//! All documents of a store, with their vectors, and its tombstones, to a file.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::ndjson::{FORMAT, Header, Line};
use crate::atomic_file::AtomicFile;
use crate::store::{self, Store, StoreMeta, Stored};

/// Documents per page: about 4 MB of JSON.
const PAGE: usize = 500;

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// Where an export goes.
pub enum Output {
    Standard(BufWriter<io::Stdout>),
    /// A file that appears under its name when it is complete.
    File(AtomicFile),
}

impl Output {
    /// `-` is standard output.
    pub fn create(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Standard(BufWriter::new(io::stdout())));
        }
        Ok(Self::File(AtomicFile::create(path)?))
    }

    fn line(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        match self {
            Self::Standard(writer) => writer.write_all(&line),
            Self::File(file) => file.write_all(&line),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Standard(mut writer) => writer.flush(),
            Self::File(file) => file.commit(),
        }
    }
}

/// How much was exported.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub documents: u64,
    pub tombstones: u64,
}

/// Writes a header, every document and every tombstone, and calls `report` for each document.
pub async fn run(
    store: &Store,
    meta: StoreMeta,
    mut output: Output,
    mut report: impl FnMut(),
) -> Result<Counts, Error> {
    output.line(&Header { imgdex_export: FORMAT, tombstones: true, meta })?;
    let mut exported = Counts::default();
    let mut after: Option<String> = None;
    loop {
        let page = store.list(after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id().to_owned());
        for stored in page {
            output.line(&Line::from(&stored))?;
            match stored {
                Stored::Live(_) => {
                    exported.documents += 1;
                    report();
                }
                Stored::Deleted(_) => exported.tombstones += 1,
            }
        }
    }
    output.finish()?;
    Ok(exported)
}
