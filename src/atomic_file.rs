//! Files that appear under their name as a whole or not at all, also after a power cut.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// A file that is being written beside its final name. Dropped before [`Self::commit`], it leaves nothing behind.
pub struct AtomicFile {
    writer: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl AtomicFile {
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut builder = Builder::new();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{name}.");
        builder.prefix(&prefix).suffix(".part");
        // As other new files: what the umask leaves of it. Packed weights and exports are for other users, too.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        Ok(Self { writer: BufWriter::new(builder.tempfile_in(folder(path))?), path: path.to_owned() })
    }

    /// Gives the file its name, in place of one that has it already. An error may come after that, from making the name durable.
    pub fn commit(self) -> io::Result<()> {
        let file = self.writer.into_inner()?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        // The name is durable when the folder is.
        File::open(folder(&self.path))?.sync_all()
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Writes a file out of its parts.
pub fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.commit()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_there_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let names = || fs::read_dir(folder.path()).unwrap().count();

        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half of it").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(names(), 0);

        write(&path, &[b"old"]).unwrap();
        write(&path, &[b"all", b" of it"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"all of it");
        assert_eq!(names(), 1);
        assert!(write(&folder.path().join("missing/file"), &[b""]).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_may_be_read_by_whom_the_umask_allows() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        write(&folder.path().join("ours"), &[b""]).unwrap();
        fs::write(folder.path().join("common"), b"").unwrap();
        assert_eq!(mode("ours"), mode("common"));
    }
}
