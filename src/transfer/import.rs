//! Documents of an export into a store.

use std::io::{self, BufRead};

use super::ndjson::{self, FORMAT, Header};
use crate::sources::{Failed, Report, read_line};
use crate::store::{self, Store, StoreMeta, Write, WriteOutcome};

/// Documents per write.
const BATCH: usize = 500;

/// How many documents ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub imported: u64,
    /// Deletions that were taken over.
    pub deleted: u64,
    /// Not written, because the store has a newer version, or this same deletion.
    pub stale: u64,
    pub failed: u64,
}

/// Why an import stopped. Importing all of it again is safe.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The store takes no writes: the next documents would fail too.
    #[error("{store}: {reason}; importing again is safe")]
    NotTaken { store: String, reason: String },
}

/// The file of an export whose header has been read.
pub struct Export {
    lines: Lines,
    pub meta: StoreMeta,
}

impl Export {
    /// Reads the header; the inner error says why this is no export.
    pub fn open(reader: Box<dyn BufRead + Send>) -> io::Result<Result<Self, String>> {
        let mut lines = Lines { reader, number: 0 };
        let first = lines.next().transpose()?.and_then(Result::ok).unwrap_or_default();
        Ok(header(&first).map(|meta| Self { lines, meta }))
    }
}

/// Writes every document and tombstone into a store whose vectors have `dims` values. `name` is that of the file, for reports. The second
/// result is the error that ended the reading, before which everything was imported.
pub async fn run(
    export: Export,
    store: &Store,
    dims: usize,
    name: &str,
    report: Report<'_>,
) -> Result<(Counts, Option<io::Error>), Error> {
    let Export { mut lines, .. } = export;
    let mut import = Import { store, report, counts: Counts::default() };
    let mut batch = Vec::with_capacity(BATCH);
    let mut broken = None;
    while let Some(line) = lines.next() {
        let write = match line {
            Ok(line) => line.and_then(|line| ndjson::read(&line, dims).map_err(|error| error.to_string())),
            Err(error) => {
                broken = Some(error);
                break;
            }
        };
        match write {
            Ok(write) => batch.push(write),
            Err(reason) => import.failed(format!("{name}, line {}", lines.number), reason),
        }
        if batch.len() == BATCH {
            import.write(std::mem::take(&mut batch)).await?;
        }
    }
    import.write(batch).await?;
    Ok((import.counts, broken))
}

/// The lines of a file, none of which may be longer than any document is.
struct Lines {
    reader: Box<dyn BufRead + Send>,
    /// The number of the last line, from 1.
    number: u64,
}

impl Lines {
    /// The next line; the inner error is the line's own fault.
    fn next(&mut self) -> Option<io::Result<Result<String, String>>> {
        self.number += 1;
        match read_line(&mut self.reader) {
            Ok(line) => line.map(|line| Ok(line.map_err(ToOwned::to_owned))),
            Err(error) => Some(Err(error)),
        }
    }
}

fn header(line: &str) -> Result<StoreMeta, String> {
    let header: Header = serde_json::from_str(line)
        .map_err(|error| format!("this is not an export of imgdex, which begins with a header line: {error}"))?;
    if header.imgdex_export > FORMAT {
        return Err(format!(
            "the export's format is {}, newer than {FORMAT}; use a newer imgdex",
            header.imgdex_export
        ));
    }
    Ok(header.meta)
}

struct Import<'a> {
    store: &'a Store,
    report: Report<'a>,
    counts: Counts,
}

impl Import<'_> {
    async fn write(&mut self, batch: Vec<Write>) -> Result<(), Error> {
        let written = self.store.write(&batch).await?;
        for (write, written) in batch.iter().zip(written) {
            match written {
                WriteOutcome::Indexed => self.counts.imported += 1,
                WriteOutcome::Deleted => self.counts.deleted += 1,
                WriteOutcome::Stale => self.counts.stale += 1,
                WriteOutcome::Rejected { kind, reason } => {
                    self.failed(write.id().to_owned(), format!("{kind}: {reason}"));
                    continue;
                }
                WriteOutcome::Busy { reason, .. } | WriteOutcome::Blocked { reason, .. } => {
                    return Err(Error::NotTaken { store: self.store.to_string(), reason });
                }
            }
            (self.report)(Ok(()));
        }
        Ok(())
    }

    fn failed(&mut self, name: String, reason: String) {
        self.counts.failed += 1;
        (self.report)(Err(&Failed { name, reason }));
    }
}
