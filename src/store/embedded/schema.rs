//! The file: made at once and complete, recognised, opened.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::Failure;
use crate::store::{Error, Origin};

/// "imgx", which tells this program's files from other SQLite files.
const APPLICATION_ID: i32 = 0x696d_6778;

/// Counts changes of the schema below.
const FORMAT: i32 = 1;

/// How long a writer waits for another process's transaction: far longer than any of this program takes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// One row per id that was ever stored. A deletion leaves the row as a tombstone without a URL, so that an older upsert
/// which arrives late does not bring the image back. `change` grows with every write: readers ask for what is newer than
/// what they have.
const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE documents (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        change INTEGER NOT NULL,
        version INTEGER NOT NULL,
        url TEXT,
        collection TEXT,
        width INTEGER,
        height INTEGER,
        bytes INTEGER,
        format TEXT,
        content_sha256 TEXT,
        indexed_at_ms INTEGER,
        metadata TEXT,
        vector BLOB
    ) STRICT;
    CREATE INDEX documents_by_change ON documents (change);
";

/// Opens an existing file.
pub(super) fn open(path: &Path) -> Result<Connection, Failure> {
    if !path.try_exists()? {
        return Err(Error::Missing { store: name(path) }.into());
    }
    if path.is_dir() {
        return Err(Failure::Damaged("this is a folder; name a file in it".to_owned()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection)?;
    recognise(path, &connection)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> Result<(), Failure> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // A commit is on the disk when it returns, the WAL's last frames included.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    Ok(())
}

fn recognise(path: &Path, connection: &Connection) -> Result<(), Failure> {
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if application != APPLICATION_ID {
        return Err(Failure::Damaged("this SQLite file is of another program; name another one".to_owned()));
    }
    let format: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if format == FORMAT {
        return Ok(());
    }
    Err(Failure::Known(Error::Mismatch {
        store: name(path),
        what: "its file format",
        found: format.to_string(),
        expected: FORMAT.to_string(),
        advice: "use the imgdex release that made it".to_owned(),
    }))
}

fn name(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// Makes the file where it is missing. It appears under its name only when it is complete.
pub(super) fn create(path: &Path, origin: &Origin, dims: usize) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.part", std::process::id()));
    let partial = Path::new(&partial);
    let result = fill(partial, origin, dims).and_then(|()| {
        // A link, not a rename, which would replace the store that another process made meanwhile.
        match std::fs::hard_link(partial, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(std::fs::File::open(folder)?.sync_all()?),
        }
    });
    std::fs::remove_file(partial)?;
    result
}

fn fill(path: &Path, origin: &Origin, dims: usize) -> Result<(), Failure> {
    // Left by a process of the same number that was killed.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let connection = Connection::open(path)?;
    prepare(&connection)?;
    connection.execute_batch(SCHEMA)?;
    for (key, value) in [
        ("model", origin.model.clone()),
        ("fingerprint", origin.fingerprint.clone()),
        ("mapping_version", origin.mapping_version.to_string()),
        ("dims", dims.to_string()),
    ] {
        connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, value))?;
    }
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", FORMAT)?;
    // Kept in the file: every later connection uses it.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.close().map_err(|(_, error)| error.into())
}

/// The model and mapping that the file was made for.
pub(super) fn origin(connection: &Connection) -> Result<Origin, Failure> {
    Ok(Origin {
        model: meta(connection, "model")?,
        fingerprint: meta(connection, "fingerprint")?,
        mapping_version: number(connection, "mapping_version")?,
    })
}

/// The length of the vectors.
pub(super) fn dims(connection: &Connection) -> Result<usize, Failure> {
    number(connection, "dims")
}

fn meta(connection: &Connection, key: &str) -> Result<String, Failure> {
    let value = connection.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0)).optional()?;
    value.ok_or_else(|| Failure::Damaged(format!("the file does not say its {key}")))
}

fn number<T: std::str::FromStr>(connection: &Connection, key: &str) -> Result<T, Failure> {
    meta(connection, key)?.parse().map_err(|_| Failure::Damaged(format!("the file's {key} is not a number")))
}
