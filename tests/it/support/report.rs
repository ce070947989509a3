//! Counts and figures of the guarantees: reduced in `make test`, full in `make guarantees`, which prints what is reported here.

use std::fmt::Display;
use std::io::Write;

/// A count or duration: the first in `make test`, the second in `make guarantees`.
pub fn scaled<T>(reduced: T, full: T) -> T {
    if std::env::var_os("IMGDEX_TEST_FULL").is_some() { full } else { reduced }
}

/// Prints what a test has counted, and adds it to the report of `make guarantees`.
pub fn report(guarantee: u8, counted: impl Display) {
    let test = std::thread::current().name().unwrap_or("unknown").to_owned();
    let line = format!("{guarantee}\t{test}\t{counted}\n");
    print!("{line}");
    if let Some(file) = std::env::var_os("IMGDEX_TEST_REPORT") {
        // One write of one line: tests report at the same time.
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}
