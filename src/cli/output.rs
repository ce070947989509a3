//! Results on standard output: tables for people, JSON for programs.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use clap::Args;
use serde::Serialize;

use super::args::OutputFormat;
use super::{Error, Exit};

/// How results are printed.
#[derive(Args, Clone, Debug)]
pub struct OutputArgs {
    /// How results are printed [default: table on a terminal, ndjson otherwise]
    #[arg(long, env = "IMGDEX_OUTPUT", value_enum)]
    pub output: Option<OutputFormat>,
}

impl OutputArgs {
    /// The format of `--output`, else a table on a terminal and NDJSON elsewhere.
    pub fn format(&self) -> OutputFormat {
        let suitable = if io::stdout().is_terminal() { OutputFormat::Table } else { OutputFormat::Ndjson };
        self.output.unwrap_or(suitable)
    }
}

/// Prints one line. A closed pipe is an [`Error`] with the exit code of success and no message: the reader has seen enough.
pub fn line(text: impl Display) -> Result<(), Error> {
    written(writeln!(io::stdout(), "{text}"))
}

/// Prints one value as a line of JSON.
pub fn json_line(value: &impl Serialize) -> Result<(), Error> {
    line(to_json(value)?)
}

/// Prints the last line of a command. A closed pipe is no error here: the exit code is that of the command's work.
pub fn last_line(text: impl Display) -> Result<(), Error> {
    unless_gone(writeln!(io::stdout(), "{text}"))
}

/// Prints a line on standard error. A failure to do so cannot be reported anywhere.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints bytes as they are.
pub fn bytes(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Prints records, the whole output of a command: a table, one JSON array, or one JSON object per line.
pub fn records<T: Serialize>(format: OutputFormat, records: &[T], table: impl FnOnce() -> Table) -> Result<(), Error> {
    match format {
        OutputFormat::Table => unless_gone(write!(io::stdout(), "{}", table())),
        OutputFormat::Json => last_line(serde_json::to_string_pretty(records).map_err(unprintable)?),
        OutputFormat::Ndjson => {
            let lines = records.iter().map(to_json).collect::<Result<Vec<_>, _>>()?;
            unless_gone(lines.iter().try_for_each(|line| writeln!(io::stdout(), "{line}")))
        }
    }
}

/// A value as one line of JSON.
pub fn to_json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(unprintable)
}

fn unprintable(error: impl Display) -> Error {
    Error::new(Exit::Io, format!("the result cannot be written as JSON: {error}"))
}

fn unless_gone(result: io::Result<()>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => written(other),
    }
}

fn written(result: io::Result<()>) -> Result<(), Error> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::reader_gone(),
        _ => Error::new(Exit::Io, format!("standard output: {error}")),
    })
}

/// Rows under a heading, in columns that are as wide as their widest cell.
pub struct Table {
    rows: Vec<Vec<String>>,
    /// Columns of numbers are aligned to the right.
    right: &'static [usize],
}

impl Table {
    /// A table with these headings, whose columns at the indices `right` are aligned to the right.
    pub fn new(headings: &[&str], right: &'static [usize]) -> Self {
        Self { rows: vec![headings.iter().map(ToString::to_string).collect()], right }
    }

    /// Adds a row. Control characters become spaces, so that no stored text can steer a terminal.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| cell.replace(char::is_control, " ")).collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut text = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                let (before, after) = if self.right.contains(&column) { (&*padding, "") } else { ("", &*padding) };
                text.extend([before, cell, after, "  "]);
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_are_gone() {
        let mut table = Table::new(&["rank", "url"], &[0]);
        table.row(["1".to_owned(), "é\u{1b}[31m".to_owned()]);
        table.row(["10".to_owned(), "longer".to_owned()]);
        assert_eq!(table.to_string(), "rank  url\n   1  é [31m\n  10  longer\n");
    }
}
