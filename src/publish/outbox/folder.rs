//! A folder of records with a queue beside them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use super::{Failure, Item, Lag, Next, Outbox, Work};
use crate::sqlite::Format;
use crate::{Digest, Error, ErrorKind, Fault, Result};

const OPERATION: &str = "keep the queue of what to publish";

/// The queue's file, in the folder of the records.
const QUEUE: &str = "publish.sqlite";

/// The queue's file: `alPQ`.
const FORMAT: Format = Format { application: 0x616c_5051, version: 1, tables: TABLES };

const TABLES: &str = "
    CREATE TABLE records (
        id INTEGER PRIMARY KEY,
        folder TEXT NOT NULL UNIQUE,
        record TEXT NOT NULL,
        decided_at INTEGER NOT NULL,
        added_ms INTEGER NOT NULL,
        due_ms INTEGER,
        tries INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        fault TEXT,
        done_ms INTEGER
    ) STRICT;
    CREATE INDEX due ON records (due_ms, added_ms) WHERE done_ms IS NULL;
";

/// How deep records are looked for under the folder.
const DEPTH: usize = 4;

/// Records in a folder, each in a folder of its own, and a queue of those that are not
/// published yet: `publish.sqlite` beside them. A folder that is itself a record is one.
///
/// One process publishes from it at a time; others may look at it.
#[derive(Debug, Clone)]
pub struct FolderOutbox {
    folder: PathBuf,
    connection: Arc<Mutex<Connection>>,
}

/// A record in the queue, as `albedo publish status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuedRecord {
    /// Its folder, from the queue's.
    pub folder: String,
    /// Its digest.
    pub record: Digest,
    /// When it was put in, in milliseconds since the Unix epoch.
    pub added_ms: u64,
    /// When it was published.
    pub done_ms: Option<u64>,
    /// When it is tried next; none if it is published, or if somebody has to act first.
    pub due_ms: Option<u64>,
    /// How often publishing it has failed.
    pub tries: u32,
    /// The last failure.
    pub error: Option<String>,
    /// Who has to act on it.
    pub fault: Option<String>,
}

/// While it lives, no other process publishes from the folder.
#[derive(Debug)]
pub(in crate::publish) struct Draining {
    _lock: File,
}

impl FolderOutbox {
    /// Opens the queue of the records in `folder`, which is made if there is none.
    ///
    /// # Errors
    /// The operator's: there is no such folder, it cannot be written to, or the file is
    /// another program's or a newer albedo's.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let path = folder.join(QUEUE);
        if !folder.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, OPERATION, "there is no such folder")
                .with_fault(Fault::Operator)
                .with("path", folder.display())
                .with_hint("give the folder that holds the records"));
        }
        let failed = |error| sqlite(&path, error);
        let mut connection = Connection::open(&path).map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(10)).map_err(failed)?;
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").map_err(failed)?;
        let behavior = rusqlite::TransactionBehavior::Immediate;
        let transaction = connection.transaction_with_behavior(behavior).map_err(failed)?;
        if let Err(message) = FORMAT.make_or_check(&transaction).map_err(failed)? {
            return Err(Error::new(ErrorKind::DataInvalid, OPERATION, message)
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint("move it away: it is made again, and what is published already is found"));
        }
        transaction.commit().map_err(failed)?;
        Ok(Self { folder, connection: Arc::new(Mutex::new(connection)) })
    }

    /// Puts every record under the folder that is not in the queue yet into it; gives how
    /// many are new. A folder whose duel has not ended has no record, and is passed over.
    ///
    /// # Errors
    /// A folder cannot be read; a `record.digest` is malformed.
    pub fn scan(&self) -> Result<u64> {
        let mut found = Vec::new();
        find(&self.folder, DEPTH, &mut found)?;
        found.sort();
        let now_ms = now_ms();
        let mut new = 0;
        for folder in found {
            let path = folder.join("record.digest");
            let io = |error| Error::io("read the record", &path, error);
            let text = fs::read_to_string(&path).map_err(io)?;
            let digest: Digest = text
                .lines()
                .next()
                .unwrap_or_default()
                .parse()
                .map_err(|error: Error| error.with("path", path.display()))?;
            let made = fs::metadata(&path).and_then(|metadata| metadata.modified()).map_err(io)?;
            let decided_at = made.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let name = folder.strip_prefix(&self.folder).unwrap_or(&folder);
            let Some(name) = name.to_str() else {
                return Err(Error::new(ErrorKind::Unsupported, OPERATION, "the folder's name is not UTF-8")
                    .with("path", folder.display()));
            };
            new += self.with(|connection| {
                connection.execute(
                    "INSERT INTO records (folder, record, decided_at, added_ms, due_ms) VALUES (?1, ?2, ?3, ?4, ?4)
                     ON CONFLICT (folder) DO UPDATE SET record = ?2, decided_at = ?3, added_ms = ?4, due_ms = ?4,
                     tries = 0, error = NULL, fault = NULL, done_ms = NULL WHERE record <> ?2",
                    params![name, digest.to_string(), decided_at, now_ms],
                )
            })? as u64;
        }
        Ok(new)
    }

    /// Everything in the queue, the newest first, at most `most`.
    ///
    /// # Errors
    /// The file's.
    pub fn list(&self, most: u32) -> Result<Vec<QueuedRecord>> {
        self.with(|connection| {
            let mut query = connection.prepare(
                "SELECT folder, record, added_ms, done_ms, due_ms, tries, error, fault FROM records
                 ORDER BY done_ms IS NOT NULL, id DESC LIMIT ?1",
            )?;
            let rows = query.query_map([most], |row| {
                Ok(QueuedRecord {
                    folder: row.get(0)?,
                    record: digest(row, 1)?,
                    added_ms: row.get(2)?,
                    done_ms: row.get(3)?,
                    due_ms: row.get(4)?,
                    tries: row.get(5)?,
                    error: row.get(6)?,
                    fault: row.get(7)?,
                })
            })?;
            rows.collect()
        })
    }

    /// How many records are published, and how many there are.
    ///
    /// # Errors
    /// The file's.
    pub fn counts(&self) -> Result<(u64, u64)> {
        self.with(|connection| {
            connection.query_row("SELECT count(done_ms), count(*) FROM records", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        })
    }

    /// Makes everything that waits due now, also what somebody had to act for; gives how
    /// many.
    ///
    /// # Errors
    /// The file's.
    pub fn retry(&self) -> Result<u64> {
        let now_ms = now_ms();
        let changed = self.with(|connection| {
            connection.execute("UPDATE records SET due_ms = ?1, tries = 0 WHERE done_ms IS NULL", [now_ms])
        })?;
        Ok(changed as u64)
    }

    /// Keeps other processes from publishing from the folder.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], the operator's: another process does.
    pub(in crate::publish) fn lock(&self) -> Result<Draining> {
        let path = self.folder.join("publish.lock");
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(|error| Error::io(OPERATION, &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Draining { _lock: file }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(ErrorKind::Conflict, OPERATION, "another process publishes from this folder")
                    .with_fault(Fault::Operator)
                    .with("path", self.folder.display())
                    .with_hint("wait until it ends"))
            }
            Err(TryLockError::Error(error)) => Err(Error::io(OPERATION, &path, error)),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(&connection).map_err(|error| sqlite(&self.folder.join(QUEUE), error))
    }

    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&this)).await;
        done.map_err(|error| Error::bug(OPERATION, error.to_string()))?
    }
}

#[async_trait]
impl Outbox for FolderOutbox {
    async fn next(&self, now_ms: u64) -> Result<Next> {
        self.blocking(move |this| {
            this.with(|connection| {
                let first = connection.query_row(
                    "SELECT id, folder, decided_at, added_ms, due_ms, tries FROM records
                     WHERE done_ms IS NULL AND due_ms IS NOT NULL ORDER BY due_ms > ?1, CASE WHEN due_ms > ?1 THEN
                     due_ms ELSE added_ms END, id LIMIT 1",
                    [now_ms],
                    |row| {
                        let due_ms: u64 = row.get(4)?;
                        if due_ms > now_ms {
                            return Ok(Next::Later(due_ms));
                        }
                        let folder: String = row.get(1)?;
                        let folder = if folder.is_empty() { this.folder.clone() } else { this.folder.join(folder) };
                        let work = Work::Record { folder, submission: None, decided_at: row.get(2)? };
                        Ok(Next::Due(Item { id: row.get(0)?, work, added_ms: row.get(3)?, tries: row.get(5)? }))
                    },
                );
                Ok(first.optional()?.unwrap_or(Next::Nothing))
            })
        })
        .await
    }

    async fn done(&self, id: u64, now_ms: u64) -> Result<()> {
        self.blocking(move |this| {
            this.with(|connection| {
                connection.execute(
                    "UPDATE records SET done_ms = ?2, due_ms = NULL, error = NULL, fault = NULL WHERE id = ?1",
                    params![id, now_ms],
                )
            })
            .map(drop)
        })
        .await
    }

    async fn failed(&self, id: u64, failure: &Failure, _: u64) -> Result<()> {
        let Failure { message, fault, again_ms } = failure.clone();
        self.blocking(move |this| {
            this.with(|connection| {
                connection.execute(
                    "UPDATE records SET due_ms = ?2, tries = tries + 1, error = ?3, fault = ?4 WHERE id = ?1",
                    params![id, again_ms, message, fault.to_string()],
                )
            })
            .map(drop)
        })
        .await
    }

    async fn lag(&self, _: u64) -> Result<Lag> {
        self.blocking(|this| {
            this.with(|connection| {
                connection.query_row(
                    "SELECT count(*), count(*) - count(due_ms), min(added_ms) FROM records WHERE done_ms IS NULL",
                    [],
                    |row| Ok(Lag { waiting: row.get(0)?, stopped: row.get(1)?, oldest_ms: row.get(2)? }),
                )
            })
        })
        .await
    }
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error: Error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}

/// Folders under `folder` that hold a record.
fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if folder.join("record.digest").is_file() {
        // One with a manifest is a published copy: the bucket may be in the folder.
        if !folder.join("manifest.json").is_file() {
            found.push(folder.to_owned());
        }
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    let failed = |error| Error::io("look for records", folder, error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A link could lead back up.
        if entry.file_type().map_err(failed)?.is_dir() {
            find(&entry.path(), depth - 1, found)?;
        }
    }
    Ok(())
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn sqlite(path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let (kind, fault, hint) = match error.sqlite_error_code() {
        Some(Code::NotADatabase | Code::DatabaseCorrupt) => (
            ErrorKind::DataInvalid,
            Fault::Operator,
            "move the file away: it is made again, and what is published already is found",
        ),
        Some(Code::PermissionDenied | Code::ReadOnly | Code::CannotOpen) => {
            (ErrorKind::Unavailable, Fault::Operator, "check the permissions of the file and its folder")
        }
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => {
            (ErrorKind::Unavailable, Fault::Infrastructure, "another process is writing: try again")
        }
        Some(Code::DiskFull) => (ErrorKind::ResourceExhausted, Fault::Infrastructure, "free some space"),
        _ => (ErrorKind::Unexpected, Fault::Bug, "report this"),
    };
    Error::new(kind, OPERATION, error.to_string())
        .with_fault(fault)
        .with("path", path.display())
        .with_hint(hint)
        .with_source(error)
}
