//! SQLite files: opened, recognised and written in one way.
//!
//! A file says which program made it and in which version, only its owner may
//! read it, and every change is a transaction that leaves nothing behind if it
//! fails.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use albedo_core::{Error, ErrorKind, Fault, Result, durable};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

/// How long a writer of a shared file waits for another.
const BUSY: Duration = Duration::from_secs(10);

/// What a file holds.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// What messages call it.
    pub name: &'static str,
    /// Marks the file as albedo's (`PRAGMA application_id`).
    pub application: i64,
    /// Version of the tables (`PRAGMA user_version`).
    pub version: i64,
    /// The statements that make the tables of a new file, in the oldest version that
    /// is still opened.
    pub tables: &'static str,
    /// The statements that bring a file from each version to the next, up to
    /// `version`. A script that was released never changes.
    pub upgrades: &'static [&'static str],
    /// Whether one process alone may have it open.
    pub exclusive: bool,
}

/// An open file, or a database in memory.
///
/// ```
/// use albedo_chain::database::{Database, Format};
///
/// const FORMAT: Format = Format {
///     name: "guest book",
///     application: 0x6775_6573,
///     version: 1,
///     tables: "CREATE TABLE guests (name TEXT NOT NULL) STRICT;",
///     upgrades: &[],
///     exclusive: true,
/// };
/// // A path in place of `None` names a file.
/// let book = Database::open(None, FORMAT)?;
/// book.write("sign the guest book", |transaction| {
///     transaction.execute("INSERT INTO guests VALUES ('Ada')", [])?;
///     Ok(())
/// })?;
/// let guests: i64 = book.read("count the guests", |transaction| {
///     Ok(transaction.query_row("SELECT count(*) FROM guests", [], |row| row.get(0))?)
/// })?;
/// assert_eq!(guests, 1);
/// # Ok::<(), albedo_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Database {
    format: Format,
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// Why a transaction was rolled back; `?` makes one of either error.
#[derive(Debug)]
pub enum Trouble {
    /// SQLite's error, which [`Database`] turns into an [`Error`].
    Sqlite(rusqlite::Error),
    /// The caller's own.
    Refused(Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// What a file was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Empty,
    /// Ours, in this version.
    Version(i64),
}

impl Format {
    /// The oldest version that is opened.
    const fn oldest(&self) -> i64 {
        self.version - self.upgrades.len() as i64
    }

    /// What `connection` has open at `path`, which is only read.
    fn found(&self, connection: &Connection, operation: &str, path: &Path) -> Result<Found> {
        let failed = |error| sqlite(*self, operation, path, error);
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(failed);
        let tables = number("SELECT count(*) FROM sqlite_schema")?;
        let (application, version) = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
        let invalid = |message: String, hint: &str| {
            Err(Error::new(ErrorKind::DataInvalid, operation, message)
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint(hint))
        };
        match (tables, application, version) {
            (0, 0, 0) => Ok(Found::Empty),
            (_, application, _) if application != self.application => {
                invalid("it is another program's database".into(), "name another file")
            }
            (_, _, version) if version < self.oldest() || version > self.version => {
                let message = format!("its format is {version}, this program reads {}", self.version);
                invalid(message, "use the program that wrote it")
            }
            (_, _, version) => Ok(Found::Version(version)),
        }
    }

    /// The statements that a file lacks.
    fn lacks(&self, found: Found) -> impl Iterator<Item = &'static str> {
        let (made, skip) = match found {
            Found::Empty => (Some(self.tables), 0),
            Found::Version(version) => (None, (version - self.oldest()) as usize),
        };
        made.into_iter().chain(self.upgrades.iter().skip(skip).copied())
    }
}

impl Database {
    /// Opens the file, and makes it if it does not exist, readable for its
    /// owner only; `None` is memory. A file of an earlier version gets the
    /// upgrades, all or none. A write waits up to 10 s for another process; on
    /// an exclusive file it does not wait.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`], the file untouched, if it is not of this
    /// format or of a newer version; [`ErrorKind::Conflict`] if it is exclusive
    /// and another process has it.
    pub fn open(path: Option<&Path>, format: Format) -> Result<Self> {
        let operation = format!("open the {}", format.name);
        let shown = path.map_or_else(|| PathBuf::from(":memory:"), Path::to_owned);
        let failed = |error| sqlite(format, &operation, &shown, error);
        let mut connection = match path {
            None => Connection::open_in_memory(),
            Some(path) => {
                make(path).map_err(|error| Error::io(&operation, path, error))?;
                Connection::open(path)
            }
        }
        .map_err(failed)?;
        let busy = if format.exclusive { Duration::ZERO } else { BUSY };
        connection.busy_timeout(busy).map_err(failed)?;
        if format.exclusive {
            // A second process is refused at once, for as long as this one lives.
            let settings = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = EXTRA;";
            connection.execute_batch(settings).map_err(failed)?;
        } else {
            // Looked at before: the write-ahead log is a change of the file.
            format.found(&connection, &operation, &shown)?;
            let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;";
            connection.execute_batch(settings).map_err(failed)?;
        }
        connection.execute_batch("PRAGMA foreign_keys = ON;").map_err(failed)?;
        let behavior = TransactionBehavior::Exclusive;
        let transaction = connection.transaction_with_behavior(behavior).map_err(failed)?;
        let found = format.found(&transaction, &operation, &shown)?;
        for script in format.lacks(found) {
            transaction.execute_batch(script).map_err(failed)?;
        }
        if found != Found::Version(format.version) {
            let Format { application, version, .. } = format;
            transaction
                .execute_batch(&format!(
                    "PRAGMA application_id = {application}; PRAGMA user_version = {version};"
                ))
                .map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(Self { format, path: shown, connection: Mutex::new(connection) })
    }

    /// Opens a file that exists, only to read it, beside a process that writes it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; as [`Database::open`], and an earlier version is
    /// refused too.
    pub fn open_to_read(path: &Path, format: Format) -> Result<Self> {
        let operation = format!("open the {}", format.name);
        std::fs::metadata(path).map_err(|error| Error::io(&operation, path, error))?;
        let failed = |error| sqlite(format, &operation, path, error);
        let connection =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        if format.found(&connection, &operation, path)? != Found::Version(format.version) {
            let message = format!("its format is earlier than {}, which this program reads", format.version);
            return Err(Error::new(ErrorKind::DataInvalid, &operation, message)
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint("start the program that writes it once: it brings the file up to date"));
        }
        Ok(Self { format, path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// Where the file is; `:memory:` if it is none.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads every page of the file.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if one is damaged.
    pub fn check(&self) -> Result<()> {
        let operation = format!("check the {}", self.format.name);
        let checked = self.connection().query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        match self.said(&operation, checked.map_err(Trouble::from))?.as_str() {
            "ok" => Ok(()),
            damage => Err(Error::new(ErrorKind::DataInvalid, &operation, format!("it is damaged: {damage}"))
                .with_fault(Fault::Operator)
                .with("path", self.path.display())
                .with_hint("restore the file from a backup")),
        }
    }

    /// Writes a whole copy of the file as it is now to the new file `to`, while others
    /// may write it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if `to` exists; what the disk meets.
    pub fn backup(&self, to: &Path) -> Result<()> {
        let operation = format!("back the {} up", self.format.name);
        let refused = |message: &str| {
            Error::new(ErrorKind::Conflict, &operation, message)
                .with_fault(Fault::Operator)
                .with("path", to.display())
                .with_hint("name a file that does not exist yet")
        };
        if to.exists() {
            return Err(refused("the file exists"));
        }
        let Some(text) = to.to_str() else { return Err(refused("the file's name is not UTF-8")) };
        // It exists before it has content, so that nobody but its owner ever reads it.
        make(to).map_err(|error| Error::io(&operation, to, error))?;
        let written = self.connection().execute("VACUUM INTO ?1", [text]);
        if written.is_err() {
            // Half a backup is none.
            let _ = std::fs::remove_file(to);
        }
        self.said(&operation, written.map_err(Trouble::from))?;
        let synced = std::fs::File::open(to).and_then(|file| durable::synced(file.sync_all()));
        synced.map_err(|error| Error::io(&operation, to, error))
    }

    /// Runs `work` in a transaction while nobody else writes; nothing of it
    /// stays if it fails.
    ///
    /// # Errors
    /// Whatever `work` returns; what SQLite says, with what to do.
    pub fn write<T>(
        &self,
        operation: &str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble>,
    ) -> Result<T> {
        let mut connection = self.connection();
        let behavior = if self.format.exclusive {
            TransactionBehavior::Exclusive
        } else {
            TransactionBehavior::Immediate
        };
        let done =
            connection.transaction_with_behavior(behavior).map_err(Trouble::from).and_then(|transaction| {
                let value = work(&transaction)?;
                transaction.commit()?;
                Ok(value)
            });
        self.said(operation, done)
    }

    /// [`Database::write`] on a thread that may block: SQLite waits for the
    /// disk within a transaction.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub async fn write_async<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T> {
        let database = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || database.write(operation, work));
        done.await.map_err(|error| Error::bug(operation, error.to_string()))?
    }

    /// Runs `work`, which sees one state and changes nothing.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub fn read<T>(
        &self,
        operation: &str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble>,
    ) -> Result<T> {
        let mut connection = self.connection();
        let done = connection.transaction().map_err(Trouble::from).and_then(|transaction| work(&transaction));
        self.said(operation, done)
    }

    /// [`Database::read`] on a thread that may block.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub async fn read_async<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T> {
        let database = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || database.read(operation, work));
        done.await.map_err(|error| Error::bug(operation, error.to_string()))?
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said<T>(&self, operation: &str, done: Result<T, Trouble>) -> Result<T> {
        done.map_err(|trouble| match trouble {
            Trouble::Refused(error) => error,
            Trouble::Sqlite(error) => sqlite(self.format, operation, &self.path, error),
        })
    }
}

/// The error of a column that does not hold what was written there.
pub fn damaged(column: usize, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, error.into())
}

/// Makes the file unless it exists, so that nobody but its owner ever reads it.
fn make(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn sqlite(format: Format, operation: &str, path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let code = error.sqlite_error_code();
    let (kind, fault, hint) = match (&error, code) {
        (rusqlite::Error::FromSqlConversionFailure(..), _)
        | (_, Some(Code::NotADatabase | Code::DatabaseCorrupt)) => {
            (ErrorKind::DataInvalid, Fault::Operator, "restore the file from a backup")
        }
        (_, Some(Code::PermissionDenied | Code::ReadOnly | Code::CannotOpen)) => {
            (ErrorKind::Unavailable, Fault::Operator, "check the permissions of the file and its folder")
        }
        (_, Some(Code::DatabaseBusy | Code::DatabaseLocked)) if format.exclusive => {
            (ErrorKind::Conflict, Fault::Operator, "another process has it open: end that one first")
        }
        (_, Some(Code::DatabaseBusy | Code::DatabaseLocked)) => {
            (ErrorKind::Unavailable, Fault::Infrastructure, "another process is writing: try again")
        }
        (_, Some(Code::DiskFull | Code::SystemIoFailure)) => (
            ErrorKind::ResourceExhausted,
            Fault::Infrastructure,
            "free some space, check the disk and try again",
        ),
        _ => (ErrorKind::Unexpected, Fault::Bug, "report this"),
    };
    Error::new(kind, operation, error.to_string())
        .with_fault(fault)
        .with("path", path.display())
        .with_hint(hint)
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format {
        name: "thing",
        application: 0x7465_7374,
        version: 2,
        tables: "CREATE TABLE things (name TEXT NOT NULL) STRICT;",
        upgrades: &[],
        exclusive: true,
    };

    #[test]
    fn upgrades_run_once_each_and_all_or_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sqlite");
        let shared = Format { exclusive: false, ..FORMAT };
        drop(Database::open(Some(&path), shared).expect("made"));
        let before = std::fs::read(&path).expect("reads");
        let broken = Format {
            version: 4,
            upgrades: &["CREATE TABLE more (x INTEGER) STRICT;", "CREATE TABEL no (x INTEGER);"],
            ..shared
        };
        Database::open(Some(&path), broken).expect_err("the second upgrade is no SQL");
        let old = Database::open_to_read(&path, Format { version: 3, ..broken }).expect_err("is earlier");
        assert!(old.to_string().contains("earlier than 3"), "{old}");
        assert_eq!(std::fs::read(&path).expect("reads"), before, "nothing of the first is left");
        let upgraded = Format { version: 3, upgrades: &["CREATE TABLE more (x INTEGER) STRICT;"], ..shared };
        for _ in 0..2 {
            let database = Database::open(Some(&path), upgraded).expect("upgrades");
            database
                .write("add", |transaction| Ok(transaction.execute("INSERT INTO more VALUES (1)", [])?))
                .expect("the table is there");
        }
        let newer = std::fs::read(&path).expect("reads");
        for open in [Database::open_to_read(&path, shared), Database::open(Some(&path), shared)] {
            let error = open.expect_err("it is newer");
            assert!(error.to_string().contains("its format is 3"), "{error}");
        }
        assert_eq!(std::fs::read(&path).expect("reads"), newer, "untouched");
    }

    #[test]
    fn others_read_and_copy_a_shared_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sqlite");
        let shared = Format { exclusive: false, ..FORMAT };
        let missing = Database::open_to_read(&path, shared).expect_err("is not there");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let writer = Database::open(Some(&path), shared).expect("made");
        let reader = Database::open_to_read(&path, shared).expect("opens");
        let add = |database: &Database| {
            database
                .write("add", |transaction| Ok(transaction.execute("INSERT INTO things VALUES ('x')", [])?))
        };
        add(&writer).expect("writes");
        add(&reader).expect_err("only reads");
        let copy = folder.path().join("copy.sqlite");
        reader.backup(&copy).expect("copied");
        assert_eq!(reader.backup(&copy).expect_err("it exists").kind(), ErrorKind::Conflict);
        let count = Database::open(Some(&copy), shared).expect("opens").read("count", |transaction| {
            Ok(transaction.query_row("SELECT count(*) FROM things", [], |row| row.get::<_, i64>(0))?)
        });
        assert_eq!(count.expect("counted"), 1);
        writer.check().expect("whole");
    }

    #[test]
    fn a_file_of_something_else_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sqlite");
        drop(Database::open(Some(&path), FORMAT).expect("made"));
        let open = |format| Database::open(Some(&path), format).expect_err("refused");
        let later = open(Format { version: 1, ..FORMAT });
        assert!(later.to_string().contains("its format is 2, this program reads 1"), "{later}");
        let other = open(Format { application: 5, ..FORMAT });
        assert_eq!(other.kind(), ErrorKind::DataInvalid, "{other}");
        std::fs::write(&path, [0xff; 5000]).expect("written");
        assert_eq!(open(FORMAT).kind(), ErrorKind::DataInvalid);
        let missing = folder.path().join("no/such/folder");
        let error = Database::open(Some(&missing), FORMAT).expect_err("no folder");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator));
    }

    #[test]
    fn a_failed_transaction_leaves_nothing() {
        let database = Database::open(None, FORMAT).expect("made");
        let count = || {
            database.read("count", |transaction| {
                Ok(transaction.query_row("SELECT count(*) FROM things", [], |row| row.get::<_, i64>(0))?)
            })
        };
        let failed = database.write("add", |transaction| -> Result<(), Trouble> {
            transaction.execute("INSERT INTO things VALUES ('x')", [])?;
            Err(Error::bug("add", "no").into())
        });
        assert!(failed.is_err());
        assert_eq!(count().expect("counted"), 0);
    }

    #[test]
    fn a_full_disk_is_said_and_loses_nothing() {
        let database = Database::open(None, FORMAT).expect("made");
        database.connection().execute_batch("PRAGMA max_page_count = 10").expect("limited");
        let add = |name: String| {
            database.write("add", move |transaction| {
                transaction.execute("INSERT INTO things VALUES (?1)", [name])?;
                Ok(())
            })
        };
        add("before".into()).expect("fits");
        let error = add("x".repeat(1 << 20)).expect_err("full");
        let expected = (ErrorKind::ResourceExhausted, Fault::Infrastructure);
        assert_eq!((error.kind(), error.fault()), expected, "{error}");
        assert!(error.to_string().contains("free some space"), "{error}");
        add("after".into()).expect("fits");
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sqlite");
        drop(Database::open(Some(&path), FORMAT).expect("made"));
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
