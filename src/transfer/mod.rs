//! Documents out of a store and into one, as files.

pub mod export;
pub mod import;
pub mod ndjson;

use std::path::Path;

/// Refuses names whose format is none that is written or read; `-` is standard input or output.
pub fn check_name(file: &Path) -> Result<(), String> {
    let known = file == Path::new("-") || file.extension().is_some_and(|found| found.eq_ignore_ascii_case("ndjson"));
    if known {
        return Ok(());
    }
    Err(format!("{}: the name of the file must end in .ndjson, or be - for standard input or output", file.display()))
}
