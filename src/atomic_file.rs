//! Files that are there as a whole or not at all, also after a power cut.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file out of its parts, and gives it its name when it is complete.
///
/// # Errors
/// When that fails; nothing is left behind then.
pub fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    // Nobody else's name: in containers all processes have the same number.
    let partial = path.with_extension(format!("{:016x}.part", RandomState::new().hash_one(path)));
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let write = || {
        let mut file = File::create_new(&partial)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&partial, path)?;
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&partial)))
}
