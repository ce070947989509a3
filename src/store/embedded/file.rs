//! Connections to the file: what it must be, how it is made, and what a failure means.

use std::collections::TryReserveError;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::matrix::Matrix;
use crate::model::manifest::Manifest;
use crate::store::{Blocked, Error, Origin};

/// Says in the file's header whose it is: "imgd".
const APPLICATION_ID: i32 = 0x696d_6764;
/// The version of [`SCHEMA`], which is in the header, too.
const FORMAT: i32 = 1;
/// How long SQLite waits for another process's transaction. A batch of 500 takes a fraction of a second; longer than
/// this, and somebody holds the file open in a transaction.
const PATIENCE: Duration = Duration::from_secs(10);

/// `seq` numbers the batches. A row has that of the batch that wrote it last, by which a reader finds what it has not
/// seen; a row of `tombstones` keeps an older write of its id from bringing it back, however late that comes, so they
/// are kept for ever (some 50 bytes each). The vector is little-endian float32 and comes last, because SQLite walks
/// through a long row from the front.
const SCHEMA: &str = "
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    model TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    mapping_version INTEGER NOT NULL,
    dims INTEGER NOT NULL CHECK (dims > 0),
    seq INTEGER NOT NULL
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
CREATE TABLE tombstones (
    id TEXT PRIMARY KEY NOT NULL,
    seq INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstones_seq ON tombstones (seq);
";

/// Where the file is.
pub(super) struct Location {
    /// As it was given, for people.
    given: PathBuf,
    /// Absolute, so that it means a file to SQLite whatever it is: `:memory:` would not.
    path: PathBuf,
}

/// A connection to a file that is a store.
pub(super) struct File {
    pub(super) connection: Connection,
    pub(super) origin: Origin,
    /// Values in a vector.
    pub(super) dims: usize,
    /// What searches read; empty in a connection that does not search.
    pub(super) matrix: Matrix,
    identity: Identity,
}

/// Device and inode: a connection stays with its file when another one takes its place.
type Identity = (u64, u64);

/// Why a step failed, before the store's name is added.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("no memory for the vectors: {0}")]
    Memory(#[from] TryReserveError),
    #[error("document {id:?} is damaged: {reason}")]
    Damaged { id: String, reason: String },
    #[error("{0}")]
    Refused(String),
    #[error("there is no document {0:?} with a vector")]
    UnknownId(String),
}

/// A connection that is made when it is needed and kept.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<File>>);

impl Slot {
    /// Works with the file, one caller at a time; `None` where it does not exist. After a failure of SQLite or a panic
    /// the next call starts afresh.
    pub(super) fn with<T>(
        &self,
        location: &Location,
        work: impl FnOnce(&mut File) -> Result<T, Failure>,
    ) -> Result<Option<T>, Error> {
        // What a panic left behind was taken out below and is gone.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let file = kept.take().filter(|file| location.identity().is_ok_and(|now| now == Some(file.identity)));
        let Some(mut file) = file.map_or_else(|| location.connect(), |file| Ok(Some(file)))? else { return Ok(None) };
        let result = work(&mut file);
        if matches!(result, Ok(_) | Err(Failure::Refused(_) | Failure::UnknownId(_))) {
            *kept = Some(file);
        }
        result.map(Some).map_err(|failure| location.error(failure))
    }
}

/// What a SQLite file is.
enum Nature {
    /// Nothing yet.
    Empty,
    Store {
        origin: Origin,
        dims: usize,
    },
    Newer(i32),
    Foreign,
}

impl Location {
    pub(super) fn new(path: &Path) -> Result<Self, Error> {
        let absolute = std::path::absolute(path)
            .map_err(|error| Error::Address { store: format!("sqlite:{}", path.display()), reason: error.to_string() });
        Ok(Self { given: path.to_owned(), path: absolute? })
    }

    /// Connects to the store; `None` where there is no file or an empty one.
    fn connect(&self) -> Result<Option<File>, Error> {
        let Some(identity) = self.identity().map_err(|error| self.io(&error))? else { return Ok(None) };
        self.check_size()?;
        let opened = self.open(OpenFlags::empty()).and_then(|mut connection| {
            let nature = Nature::of(&connection.transaction()?)?;
            Ok((connection, nature))
        });
        let (connection, nature) = opened.map_err(|error| self.error(error.into()))?;
        let Some((origin, dims)) = self.accept(nature)? else { return Ok(None) };
        Ok(Some(File { connection, origin, dims, matrix: Matrix::new(dims), identity }))
    }

    /// Makes the store where it is missing, and the folders above it. The tables come in one transaction, so whoever
    /// looks in between or after a crash finds an empty file, which counts as missing.
    pub(super) fn create(&self, model: &Manifest) -> Result<(), Error> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(|error| self.io(&error))?;
        }
        self.check_size()?;
        let made = self.open(OpenFlags::SQLITE_OPEN_CREATE).and_then(|mut connection| {
            // A look first: nothing is changed in a file that is something else.
            let nature = Nature::of(&connection.transaction()?)?;
            let Nature::Empty = nature else { return Ok(nature) };
            prepare(&connection)?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if let Nature::Empty = Nature::of(&transaction)? {
                fill(&transaction, &Origin::new(model), model.dims)?;
            }
            let nature = Nature::of(&transaction)?;
            transaction.commit()?;
            Ok(nature)
        });
        let nature = made.map_err(|error| self.error(error.into()))?;
        match self.accept(nature)? {
            Some((origin, _)) => origin.check(model, self),
            None => Err(Error::Io { store: self.to_string(), reason: "it stayed empty".to_owned() }),
        }
    }

    /// Refuses a file that is too short to be a database: SQLite takes it for an empty one. Only the size is asked for,
    /// because to open and close the file here would take away the locks that this process's other connections hold on
    /// it (POSIX locks; "How To Corrupt An SQLite Database File", section 2.2).
    fn check_size(&self) -> Result<(), Error> {
        /// The least page size of SQLite.
        const LEAST: u64 = 512;
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_file() && (1..LEAST).contains(&metadata.len()) => {
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
        connection.busy_timeout(PATIENCE)?;
        // In WAL mode the commit is synced only with FULL.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // In KiB: enough for the inner pages of the id index of some million documents.
        connection.pragma_update(None, "cache_size", -32 * 1024)?;
        // A large batch makes the log grow; it need not stay so.
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        Ok(connection)
    }

    fn accept(&self, nature: Nature) -> Result<Option<(Origin, usize)>, Error> {
        let mismatch = |what, found: String, expected: String, advice: &str| {
            Err(Error::Mismatch { store: self.to_string(), what, found, expected, advice: advice.to_owned() })
        };
        match nature {
            Nature::Empty => Ok(None),
            Nature::Store { origin, dims } => Ok(Some((origin, dims))),
            Nature::Newer(found) => {
                mismatch("its format", found.to_string(), format!("at most {FORMAT}"), "use a newer imgdex")
            }
            Nature::Foreign => mismatch(
                "the file",
                "a SQLite database of another program".to_owned(),
                "a store of imgdex".to_owned(),
                "name another file",
            ),
        }
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn io(&self, error: &io::Error) -> Error {
        Error::Io { store: self.to_string(), reason: error.to_string() }
    }

    /// What a failure means to the store's user.
    fn error(&self, failure: Failure) -> Error {
        let (store, reason) = (self.to_string(), failure.to_string());
        let code = match failure {
            Failure::Refused(reason) => return Error::Refused { store, reason },
            Failure::UnknownId(id) => return Error::UnknownId { store, id },
            Failure::Memory(_) => return Error::Unavailable { store, reason },
            Failure::Damaged { .. } => return Error::Io { store, reason },
            Failure::Sqlite(error) => error.sqlite_error_code(),
        };
        match code {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
                Error::Unavailable { store, reason: format!("another process is writing to it: {reason}") }
            }
            Some(ErrorCode::OutOfMemory) => Error::Unavailable { store, reason },
            Some(ErrorCode::DiskFull) => Error::Blocked { store, cause: Blocked::WriteBlock, reason },
            Some(ErrorCode::ReadOnly) => {
                let advice =
                    "even reading needs write permission for the file and its folder, where SQLite keeps its log";
                Error::Blocked { store, cause: Blocked::WriteBlock, reason: format!("{reason}; {advice}") }
            }
            Some(ErrorCode::PermissionDenied) => Error::Blocked { store, cause: Blocked::Unauthorized, reason },
            Some(ErrorCode::TooBig) => Error::TooLarge { store },
            _ => Error::Io { store, reason },
        }
    }
}

/// `sqlite:PATH`, as it was given.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{}", self.given.display())
    }
}

impl Nature {
    /// Looks at the header and the tables in one transaction, or another process could make the store in between.
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
        transaction.query_row("SELECT model, fingerprint, mapping_version, dims FROM meta", [], |row| {
            let origin = Origin { model: row.get(0)?, fingerprint: row.get(1)?, mapping_version: row.get(2)? };
            Ok(Self::Store { origin, dims: row.get::<_, u32>(3)? as usize })
        })
    }
}

/// Sets what is set once, in an empty file.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    // A document of 512 features takes about 2.4 KB: three in a page, where the default of 4 KB holds one.
    connection.pragma_update(None, "page_size", 8192)?;
    // SQLite does not wait for locks in this statement, and another process may be making the same store.
    let deadline = Instant::now() + PATIENCE;
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

fn fill(transaction: &Transaction<'_>, origin: &Origin, dims: usize) -> rusqlite::Result<()> {
    transaction.execute_batch(SCHEMA)?;
    transaction.execute(
        "INSERT INTO meta (one, model, fingerprint, mapping_version, dims, seq) VALUES (1, ?1, ?2, ?3, ?4, 0)",
        (&origin.model, &origin.fingerprint, origin.mapping_version, dims as i64),
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)
}
