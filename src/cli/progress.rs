//! The progress of a command on standard error: a bar with rate and remaining time on a terminal, a line every ten seconds
//! elsewhere.

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

use super::output;
use crate::sources::Failed;

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

const KNOWN: &str = "{bar:30} {pos}/{len} {unit}, {per_sec}, {eta} left {msg}";
const UNKNOWN: &str = "{spinner} {pos} {unit}, {per_sec} {msg}";

/// The progress of one command.
pub struct Progress {
    bar: ProgressBar,
    unit: &'static str,
    started: Instant,
    /// When the last line was printed; `None` on a terminal, which has the bar.
    line: Option<Instant>,
}

impl Progress {
    /// Starts at zero of `total`, where that is known. `unit` is what is counted, in the plural.
    pub fn start(total: Option<u64>, unit: &'static str) -> Self {
        let started = Instant::now();
        if !io::stderr().is_terminal() {
            let bar = ProgressBar::hidden();
            bar.set_length(total.unwrap_or(0));
            return Self { bar, unit, started, line: Some(started) };
        }
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let template = if total.is_some() { KNOWN } else { UNKNOWN };
        // The templates are constants, and a malformed one only costs the looks.
        if let Ok(style) = ProgressStyle::with_template(&template.replace("{unit}", unit)) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, unit, started, line: None }
    }

    /// Counts one more.
    pub fn advance(&mut self) {
        self.bar.inc(1);
        let due = self.line.is_some_and(|last| last.elapsed() >= LINE_INTERVAL);
        if due {
            self.line = Some(Instant::now());
            output::note(self.describe());
        }
    }

    /// Counts an item that ended; prints the name and reason of one that failed.
    pub fn report(&mut self, result: Result<(), &Failed>) {
        if let Err(failed) = result {
            self.print(format_args!("failed: {failed}"));
        }
        self.advance();
    }

    /// Prints a line without disturbing the bar.
    pub fn print(&self, text: impl Display) {
        self.bar.suspend(|| output::note(text));
    }

    /// Removes the bar and returns the elapsed time.
    pub fn finish(self) -> Duration {
        self.bar.finish_and_clear();
        self.started.elapsed()
    }

    fn describe(&self) -> String {
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let rate = done as f64 / self.started.elapsed().as_secs_f64();
        let unit = self.unit;
        if total < done || total == 0 {
            return format!("{done} {unit}, {rate:.1} a second");
        }
        let left = Duration::try_from_secs_f64((total - done) as f64 / rate).unwrap_or(Duration::MAX);
        format!("{done} of {total} {unit}, {rate:.1} a second, {} left", HumanDuration(left))
    }
}

/// The progress of a download.
pub struct Bytes {
    bar: ProgressBar,
    line: Option<Instant>,
}

impl Bytes {
    /// Prints the URL, and starts at zero.
    pub fn start(url: &str) -> Self {
        output::note(format_args!("fetching {url}"));
        if !io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), line: Some(Instant::now()) };
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left") {
            bar.set_style(style);
        }
        Self { bar, line: None }
    }

    /// Shows the number of bytes so far, and the total where it is known.
    pub fn at(&mut self, bytes: u64, total: Option<u64>) {
        self.bar.set_length(total.unwrap_or(bytes));
        self.bar.set_position(bytes);
        if self.line.is_some_and(|last| last.elapsed() >= LINE_INTERVAL) {
            self.line = Some(Instant::now());
            let of = total.map(|total| format!(" of {}", HumanBytes(total))).unwrap_or_default();
            output::note(format_args!("{}{of}", HumanBytes(bytes)));
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
