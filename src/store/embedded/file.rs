//! Connections to the file: its schema, how it is created, and what it has to be.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::error::Error;
use crate::model::manifest::Manifest;
use crate::store::{self, Acceptance, ErrorKind, StoreMeta};

/// SQLite's `application_id` in the file's header: "imgd".
const APPLICATION_ID: i32 = 0x696d_6764;
/// The version of [`SCHEMA`], kept as `user_version` in the header.
const FORMAT: i32 = 2;
/// How long SQLite waits for another process's transaction. A batch of 500 takes a fraction of a second, so a process
/// that holds the lock for longer than this does not write batches.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// With [`TOMBSTONES`] the whole schema. `seq` numbers the batches. Each row has the number of the batch that wrote it last, by which a reader finds the rows
/// that it has not seen. A row of `tombstones` keeps an older write of its id from restoring the document; an id is in one
/// of the two tables at most. `purged_seq` is the highest `seq` of a tombstone that was purged: a reader that has not read
/// so far does not learn of that deletion any more. The vector is little-endian float32 and the last column, because SQLite
/// reads a long row from its start.
const SCHEMA: &str = "
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    model TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    mapping_version INTEGER NOT NULL,
    dims INTEGER NOT NULL CHECK (dims > 0),
    seq INTEGER NOT NULL,
    purged_seq INTEGER NOT NULL
) STRICT;
CREATE TABLE documents (
    id TEXT PRIMARY KEY NOT NULL,
    seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    url TEXT NOT NULL,
    collection TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    format TEXT NOT NULL,
    content_sha256 TEXT NOT NULL,
    indexed_at_ms INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    vector BLOB
) STRICT;
CREATE INDEX documents_seq ON documents (seq);
";

/// The defaults are for a process of an earlier release that had the file open when its format changed.
const TOMBSTONES: &str = "
CREATE TABLE tombstones (
    id TEXT PRIMARY KEY NOT NULL,
    seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    collection TEXT NOT NULL DEFAULT '',
    deleted_at_ms INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstones_seq ON tombstones (seq);
";

/// From format 1, which knew neither purging nor when a tombstone was made: its age counts from the change of the format.
/// Its collection is not known.
fn from_format_1(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "ALTER TABLE meta ADD COLUMN purged_seq INTEGER NOT NULL DEFAULT 0;
         DROP INDEX tombstones_seq;
         ALTER TABLE tombstones RENAME TO tombstones_1;",
    )?;
    transaction.execute_batch(TOMBSTONES)?;
    transaction.execute_batch(
        "INSERT INTO tombstones (id, seq, version) SELECT id, seq, version FROM tombstones_1;
         DROP TABLE tombstones_1;",
    )
}

/// The path of the file.
pub(super) struct Location {
    /// As the user gave it, for messages.
    given: PathBuf,
    /// Absolute, so that SQLite takes every name for a file: `:memory:` alone would not be one.
    path: PathBuf,
    acceptance: Acceptance,
}

/// A connection to a file that is a store.
pub(super) struct File {
    pub(super) connection: Connection,
    pub(super) meta: StoreMeta,
    /// Values in a vector.
    pub(super) dims: usize,
}

/// Device and inode of the file behind a connection. A connection stays with its file when another file takes its name.
type Identity = (u64, u64);

/// A connection that is opened on first use and kept, as a [`File`] or as something made from one.
pub(super) struct ConnectionSlot<C = File>(Mutex<Option<(Identity, C)>>);

impl<C> Default for ConnectionSlot<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: From<File>> ConnectionSlot<C> {
    /// Runs `work` on the connection, one caller at a time; `None` where the file does not exist. After a failure of
    /// SQLite or a panic the next call opens a new connection.
    pub(super) fn with<T>(
        &self,
        location: &Location,
        work: impl FnOnce(&mut C) -> Result<T, Error>,
    ) -> Result<Option<T>, store::Error> {
        // A connection is taken out while it is in use, so a panic leaves nothing behind a poisoned lock.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = kept.take().filter(|(identity, _)| location.identity().is_ok_and(|now| now == Some(*identity)));
        let opened = match current {
            Some(current) => Some(current),
            None => location.connect()?.map(|(identity, file)| (identity, C::from(file))),
        };
        let Some((identity, mut connection)) = opened else { return Ok(None) };
        let result = work(&mut connection);
        if matches!(result, Ok(_) | Err(Error::Refused(_) | Error::UnknownId(_))) {
            *kept = Some((identity, connection));
        }
        result.map(Some).map_err(|error| location.error(error.into()))
    }
}

/// What a SQLite file is.
enum FileKind {
    /// An empty database, which counts as missing.
    Empty,
    Store {
        meta: StoreMeta,
        dims: usize,
    },
    /// A store of an earlier [`FORMAT`].
    Older,
    /// A store of a later [`FORMAT`].
    Newer(i32),
    /// A database of another program.
    Foreign,
}

impl Location {
    pub(super) fn new(path: &Path, acceptance: Acceptance) -> Result<Self, store::Error> {
        let absolute = std::path::absolute(path).map_err(|error| {
            store::Error::new(&format_args!("sqlite:{}", path.display()), ErrorKind::Address(error.to_string()))
        });
        Ok(Self { given: path.to_owned(), path: absolute?, acceptance })
    }

    pub(super) fn acceptance(&self) -> &Acceptance {
        &self.acceptance
    }

    /// Connects to the store; `None` where there is no file or an empty one.
    fn connect(&self) -> Result<Option<(Identity, File)>, store::Error> {
        let Some(identity) = self.identity().map_err(|error| self.io(&error))? else { return Ok(None) };
        self.check_size()?;
        let opened = self.open(OpenFlags::empty()).and_then(|mut connection| {
            let kind = FileKind::of(&connection.transaction()?)?;
            let kind = if let FileKind::Older = kind { upgrade(&mut connection)? } else { kind };
            Ok((connection, kind))
        });
        let (connection, kind) = opened.map_err(|error| self.sqlite(error))?;
        let accepted = self.accept(kind)?;
        Ok(accepted.map(|(meta, dims)| (identity, File { connection, meta, dims })))
    }

    /// Creates the store where it is missing, and the folders above it. One transaction makes the tables, so a reader in
    /// between, or after a crash, finds an empty file, which counts as missing.
    pub(super) fn create(&self, model: &Manifest, mapping_version: u32) -> Result<(), store::Error> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(|error| self.io(&error))?;
        }
        self.check_size()?;
        let created = self.open(OpenFlags::SQLITE_OPEN_CREATE).and_then(|mut connection| {
            // Read first: a file of another kind must not be changed.
            let kind = FileKind::of(&connection.transaction()?)?;
            match kind {
                FileKind::Empty => {}
                FileKind::Older => return upgrade(&mut connection),
                FileKind::Store { .. } | FileKind::Newer(_) | FileKind::Foreign => return Ok(kind),
            }
            prepare(&connection)?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if let FileKind::Empty = FileKind::of(&transaction)? {
                create_tables(&transaction, &StoreMeta::new(model, mapping_version), model.dims)?;
            }
            let kind = FileKind::of(&transaction)?;
            transaction.commit()?;
            Ok(kind)
        });
        let kind = created.map_err(|error| self.sqlite(error))?;
        match self.accept(kind)? {
            Some((meta, _)) => meta.check(model, mapping_version, &self.acceptance, self),
            None => Err(self.error(ErrorKind::Io("it stayed empty".to_owned()))),
        }
    }

    /// Refuses a file that is too short to be a database: SQLite takes it for an empty one. Only the size is looked up.
    /// Opening and closing the file here would drop the locks that this process's other connections hold on it (POSIX
    /// locks; "How To Corrupt An SQLite Database File", section 2.2).
    fn check_size(&self) -> Result<(), store::Error> {
        /// The smallest page size of SQLite.
        const SMALLEST: u64 = 512;
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_file() && (1..SMALLEST).contains(&metadata.len()) => {
                Err(self.io(&io::Error::other("file is not a database; name another one")))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io(&error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn open(&self, more: OpenFlags) -> rusqlite::Result<Connection> {
        // Each connection is used by one thread at a time, so SQLite need not lock it.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // In WAL mode the commit is synced only with FULL.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // In KiB: enough for the inner pages of the id index of some million documents.
        connection.pragma_update(None, "cache_size", -32 * 1024)?;
        // A large batch makes the log grow; this truncates it afterwards.
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        Ok(connection)
    }

    fn accept(&self, kind: FileKind) -> Result<Option<(StoreMeta, usize)>, store::Error> {
        let mismatch = match kind {
            FileKind::Empty => return Ok(None),
            FileKind::Store { meta, dims } => return Ok(Some((meta, dims))),
            FileKind::Older => {
                return Err(self.error(ErrorKind::Io("its format could not be brought up to date".to_owned())));
            }
            FileKind::Newer(found) => {
                let (found, expected) = (found.to_string(), format!("at most {FORMAT}"));
                ErrorKind::mismatch("its format", found, expected, "use a newer imgdex")
            }
            FileKind::Foreign => {
                let found = "a SQLite database of another program";
                ErrorKind::mismatch("the file", found, "a store of imgdex", "name another file")
            }
        };
        Err(self.error(mismatch))
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn io(&self, error: &io::Error) -> store::Error {
        self.error(ErrorKind::Io(error.to_string()))
    }

    fn sqlite(&self, error: rusqlite::Error) -> store::Error {
        self.error(Error::from(error).into())
    }

    pub(super) fn error(&self, kind: ErrorKind) -> store::Error {
        store::Error::new(self, kind)
    }
}

/// `sqlite:PATH`, as the user gave it.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{}", self.given.display())
    }
}

impl FileKind {
    /// Reads the header and the tables in one transaction, or another process could create the store in between.
    fn of(transaction: &Transaction<'_>) -> rusqlite::Result<Self> {
        let header = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        let (application, format) = (header("application_id")?, header("user_version")?);
        if application != APPLICATION_ID {
            let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            let empty = application == 0 && format == 0 && tables == 0;
            return Ok(if empty { Self::Empty } else { Self::Foreign });
        }
        if format > FORMAT {
            return Ok(Self::Newer(format));
        }
        if format < FORMAT {
            return Ok(Self::Older);
        }
        transaction.query_row("SELECT model, fingerprint, mapping_version, dims FROM meta", [], |row| {
            let meta = StoreMeta { model: row.get(0)?, fingerprint: row.get(1)?, mapping_version: row.get(2)? };
            Ok(Self::Store { meta, dims: row.get::<_, u32>(3)? as usize })
        })
    }
}

/// Sets the page size and the journal mode, which are set once, in an empty file.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    // A document of 512 features takes about 2.4 KB: three in a page, where the default of 4 KB holds one.
    connection.pragma_update(None, "page_size", 8192)?;
    // SQLite does not wait for locks in this statement, and another process may be creating the same store.
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                let reason = format!("this file system does not allow a write-ahead log; SQLite offers {mode:?}");
                return Err(rusqlite::Error::ToSqlConversionFailure(reason.into()));
            }
        }
    }
}

/// Brings a store of an earlier format up to date, in one transaction; another process may do the same at the same moment.
/// Earlier releases refuse it from then on.
fn upgrade(connection: &mut Connection) -> rusqlite::Result<FileKind> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let FileKind::Older = FileKind::of(&transaction)? {
        from_format_1(&transaction)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
    }
    let kind = FileKind::of(&transaction)?;
    transaction.commit()?;
    Ok(kind)
}

fn create_tables(transaction: &Transaction<'_>, meta: &StoreMeta, dims: usize) -> rusqlite::Result<()> {
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(TOMBSTONES)?;
    transaction.execute(
        "INSERT INTO meta (one, model, fingerprint, mapping_version, dims, seq, purged_seq) \
         VALUES (1, ?1, ?2, ?3, ?4, 0, 0)",
        (&meta.model, &meta.fingerprint, meta.mapping_version, dims as i64),
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)
}
