//! The store of earlier submissions: digests, fingerprints, sketches and answers in
//! an append-only `SQLite` file, in the order in which they were first seen.
//!
//! The file is private (mode 0600): who reads it can tell how near a model may
//! come. It has one writer and any number of readers (write-ahead log); rows
//! can be added, never changed or removed, which the database itself enforces.

use std::fs::OpenOptions;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use albedo_core::{BuildContext, Digest, Error, ErrorKind, Fault, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, TransactionBehavior, params};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::evidence::to_value;
use super::fingerprint::print::Fingerprint;
use super::lineage::sketch::Sketch;

mod answers;
mod labels;
mod tables;

pub(crate) use answers::Answered;
pub use answers::{Question, QuestionSet, StoredAnswers, StoredSet};
use tables::{APPLICATION, FORMAT};

/// How long a writer waits for another.
const BUSY: Duration = Duration::from_secs(10);

/// The largest corpus of the Python system that is imported, in bytes: a
/// fingerprint of 400 tensors has 120 kB.
const MAX_IMPORT_BYTES: u64 = 4 << 30;

/// The store; see the [module](self).
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// A submission to remember.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// What findings call it: repository and digest, or a folder.
    pub label: String,
    /// Who submitted it; empty if nobody did.
    pub hotkey: String,
    /// The chain's block that it was committed in.
    pub block: Option<u64>,
    /// Digest of its parameters; `None` for what was imported.
    pub parameters: Option<Digest>,
    /// Its fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// Its sketch.
    pub sketch: Option<Sketch>,
    /// The prints of its tensors ([`Digests::prints`](super::digest::Digests::prints));
    /// empty where they were not taken.
    pub tensors: Vec<u64>,
}

/// A stored submission, as far as an exact copy needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position in the order of first sight.
    pub id: i64,
    /// As [`Submission::label`].
    pub label: String,
    /// As [`Submission::block`].
    pub block: Option<u64>,
}

/// A stored fingerprint.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredFingerprint {
    /// As [`Submission::label`].
    pub label: String,
    /// Digest of the parameters, where it is known.
    pub parameters: Option<Digest>,
    /// The fingerprint.
    pub fingerprint: Fingerprint,
}

/// A stored sketch.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSketch {
    /// Where it is in the store.
    pub entry: Entry,
    /// Digest of the parameters.
    pub parameters: Option<Digest>,
    /// The sketch.
    pub sketch: Sketch,
}

impl Store {
    /// Makes a new, empty store that only its owner may read.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the file exists; a folder that cannot be
    /// written.
    pub fn create(path: &Path) -> Result<Self> {
        const OPERATION: &str = "create the store";
        private(OpenOptions::new().write(true).create_new(true)).open(path).map_err(|error| {
            match error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    Error::new(ErrorKind::Conflict, OPERATION, "the file exists")
                        .with_fault(Fault::Operator)
                        .with("path", path.display())
                }
                _ => Error::io(OPERATION, path, error),
            }
        })?;
        let connection = connect(path)?;
        tables::furnish(&connection).map_err(|error| sqlite(OPERATION, path, error))?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// Opens an existing store. An empty file becomes one: the process that made it was interrupted.
    ///
    /// # Errors
    /// No such file; [`ErrorKind::DataInvalid`] for a file that is no store, is
    /// damaged or of a later format; one that others may read.
    pub fn open(path: &Path) -> Result<Self> {
        const OPERATION: &str = "open the store";
        let metadata = std::fs::metadata(path).map_err(|error| Error::io(OPERATION, path, error))?;
        let invalid = |message: String, hint: &str| {
            Err(Error::new(ErrorKind::DataInvalid, OPERATION, message)
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint(hint))
        };
        if !metadata.is_file() {
            return invalid("it is no regular file".into(), "name the store's file");
        }
        if !is_private(&metadata) {
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, "others than its owner may read it")
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint("chmod 600 the file"));
        }
        let connection = connect(path)?;
        let failed = |error| sqlite(OPERATION, path, error);
        if tables::is_empty(&connection).map_err(failed)? {
            tables::furnish(&connection).map_err(failed)?;
        }
        let pragma = |name: &str| {
            connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).map_err(failed)
        };
        if pragma("application_id")? != APPLICATION {
            return invalid("it is another program's database".into(), "name a store that albedo made");
        }
        let format = pragma("user_version")?;
        if !(1..=FORMAT).contains(&format) {
            let message = format!("its format is {format}, this program reads {FORMAT}");
            return invalid(message, "use the program that wrote it");
        }
        let check: String =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if check != "ok" {
            return invalid(format!("it is damaged: {check}"), "restore it from a backup");
        }
        if format < FORMAT {
            tables::upgrade(&connection).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// Opens the store, or makes it if there is none.
    pub fn open_or_create(path: &Path) -> Result<Self> {
        if path.exists() { Self::open(path) } else { Self::create(path) }
    }

    /// Opens the store that a screen's setting `store` names, on a thread that
    /// may block: checking a large file takes a while.
    ///
    /// # Errors
    /// As [`Store::open`]; cancellation.
    pub(crate) async fn at(path: Option<PathBuf>, cx: &BuildContext<'_>) -> Result<Option<Arc<Self>>> {
        const OPERATION: &str = "open the store";
        let Some(path) = path.map(|path| cx.path(path)) else { return Ok(None) };
        let opened = cx.call().run(OPERATION, tokio::task::spawn_blocking(move || Self::open(&path)));
        let opened = opened.await?.map_err(|error| Error::bug(OPERATION, error.to_string()))?;
        opened.map(|store| Some(Arc::new(store)))
    }

    /// Adds a submission at the end. One whose parameters are there already is
    /// not added again: who came first stays first. Its label is kept beside the first one
    /// ([`Store::own`]) if it has a block. What is known of it now and was not
    /// then (a sketch of this format, the prints of its tensors) is added to it.
    pub fn add(&self, submission: &Submission) -> Result<Entry> {
        const OPERATION: &str = "add to the store";
        let json = |value: &Fingerprint| {
            serde_json::to_vec(value).map_err(|error| Error::bug(OPERATION, error.to_string()))
        };
        let fingerprint = submission.fingerprint.as_ref().map(json).transpose()?;
        let sketch = submission.sketch.as_ref().map(encode).transpose()?;
        let failed = |error| sqlite(OPERATION, &self.path, error);
        let mut connection = self.lock();
        // What is asked has to hold until the rows are there: nobody else writes in between.
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        if let Some(sketch) = &submission.sketch
            && let Some(anchor) = anchor(&transaction).map_err(failed)?
            && anchor != sketch.anchor
        {
            return Err(Error::new(
                ErrorKind::Conflict,
                OPERATION,
                "the sketch is aligned to another anchor",
            )
            .with_fault(Fault::Operator)
            .with("store", anchor.short())
            .with("sketch", sketch.anchor.short())
            .with_hint("sketch the model with the store's anchor"));
        }
        let known = match submission.parameters {
            Some(parameters) => by_parameters(&transaction, parameters).map_err(failed)?,
            None => None,
        };
        let entry = if let Some(known) = known {
            labels::add(&transaction, &known, submission).map_err(failed)?;
            known
        } else {
            let row = params![
                submission.label,
                submission.hotkey,
                submission.block.map(|block| block as i64),
                submission.parameters.as_ref().map(|digest| digest.as_bytes().as_slice()),
                fingerprint,
            ];
            let sql = "INSERT INTO entries (label, hotkey, block, parameters, fingerprint)
                       VALUES (?1, ?2, ?3, ?4, ?5)";
            transaction.execute(sql, row).map_err(failed)?;
            let id = transaction.last_insert_rowid();
            Entry { id, label: submission.label.clone(), block: submission.block }
        };
        if let (Some(sketch), Some(bytes)) = (&submission.sketch, sketch) {
            let anchor = sketch.anchor.as_bytes().as_slice();
            let row = params![entry.id, anchor, bytes];
            let sql = "INSERT OR IGNORE INTO sketches (entry, anchor, sketch) VALUES (?1, ?2, ?3)";
            transaction.execute(sql, row).map_err(failed)?;
        }
        if !submission.tensors.is_empty() {
            let prints: Vec<u8> = submission.tensors.iter().flat_map(|print| print.to_le_bytes()).collect();
            let sql = "INSERT OR IGNORE INTO tensors (entry, prints) VALUES (?1, ?2)";
            transaction.execute(sql, params![entry.id, prints]).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(entry)
    }

    /// Notes that the model of these parameters is a king, whom miners train from.
    pub fn add_king(&self, parameters: Digest) -> Result<()> {
        let added = tables::add_king(&self.lock(), parameters);
        added.map_err(|error| sqlite("add a king to the store", &self.path, error))
    }

    /// The sketches of the submissions that are kings, the latest king first.
    pub(crate) fn kings(&self) -> Result<Vec<StoredSketch>> {
        let sql = "SELECT e.id, e.label, e.block, e.parameters, s.anchor, s.sketch
                   FROM kings k JOIN entries e ON e.parameters = k.parameters
                   JOIN sketches s ON s.entry = e.id ORDER BY k.id DESC";
        self.select(sql, stored_sketch)
    }

    /// The first submission with these parameters.
    pub fn by_parameters(&self, parameters: Digest) -> Result<Option<Entry>> {
        by_parameters(&self.lock(), parameters).map_err(|error| sqlite(READ, &self.path, error))
    }

    /// The anchor that the sketches are aligned to; `None` without sketches.
    pub fn anchor(&self) -> Result<Option<Digest>> {
        anchor(&self.lock()).map_err(|error| sqlite(READ, &self.path, error))
    }

    /// Submissions in all.
    pub fn len(&self) -> Result<u64> {
        self.lock()
            .query_row("SELECT count(*) FROM entries", [], |row| row.get::<_, i64>(0))
            .map(|count| count as u64)
            .map_err(|error| sqlite(READ, &self.path, error))
    }

    /// Whether it has no submission.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Every fingerprint, in the order of first sight.
    pub fn fingerprints(&self) -> Result<Vec<StoredFingerprint>> {
        let sql =
            "SELECT label, parameters, fingerprint FROM entries WHERE fingerprint IS NOT NULL ORDER BY id";
        self.select(sql, |row| {
            let bytes: Vec<u8> = row.get(2)?;
            let read = serde_json::from_slice(&bytes).map_err(|error| damaged(2, error));
            Ok(StoredFingerprint { label: row.get(0)?, parameters: digest(row, 1)?, fingerprint: read? })
        })
    }

    /// Every sketch of this format, in the order of first sight.
    pub fn sketches(&self) -> Result<Vec<StoredSketch>> {
        self.sketches_after(0, u32::MAX)
    }

    /// The first `most` sketches of this format behind entry `entry`, in the order of first
    /// sight. One has up to 256 KiB: a caller that needs all of them reads a few at a time.
    pub(crate) fn sketches_after(&self, entry: i64, most: u32) -> Result<Vec<StoredSketch>> {
        let sql = format!(
            "SELECT e.id, e.label, e.block, e.parameters, s.anchor, s.sketch
             FROM entries e JOIN sketches s ON s.entry = e.id
             WHERE e.id > {entry} ORDER BY e.id LIMIT {most}"
        );
        self.select(&sql, stored_sketch)
    }

    /// Submissions whose sketch is of an earlier format, and is compared with nothing.
    /// Adding the model again brings it to this one.
    pub fn outdated(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM entries e
                   WHERE e.sketch IS NOT NULL AND NOT EXISTS (SELECT 1 FROM sketches s WHERE s.entry = e.id)";
        let counts = self.select(sql, |row| row.get::<_, i64>(0))?;
        Ok(counts.first().copied().unwrap_or(0) as u64)
    }

    /// The prints of the tensors of every submission that has them, in the order of first
    /// sight.
    pub fn tensors(&self) -> Result<Vec<(Entry, Vec<u64>)>> {
        let sql = "SELECT e.id, e.label, e.block, t.prints
                   FROM entries e JOIN tensors t ON t.entry = e.id ORDER BY e.id";
        self.select(sql, |row| {
            let bytes: Vec<u8> = row.get(3)?;
            let (prints, rest) = bytes.as_chunks::<8>();
            if !rest.is_empty() {
                return Err(damaged(3, "a print has not 8 bytes"));
            }
            Ok((entry(row)?, prints.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()))
        })
    }

    /// Adds the fingerprints of the Python system's corpus file, an object from
    /// `repository@digest` to fingerprint, in the file's order; gives their
    /// number.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] for another format; nothing is added then.
    pub fn import_python(&self, path: &Path) -> Result<usize> {
        const OPERATION: &str = "import the corpus";
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_IMPORT_BYTES).read_to_end(&mut bytes))
            .map_err(|error| Error::io(OPERATION, path, error))?;
        let invalid = |message: String| {
            let error = Error::new(ErrorKind::DataInvalid, OPERATION, message).with_fault(Fault::Operator);
            error.with("path", path.display())
        };
        let Corpus(entries) = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        for (label, fingerprint) in &entries {
            fingerprint.check().map_err(|error| invalid(error.message().to_owned()).with("entry", label))?;
        }
        let mut connection = self.lock();
        let failed = |error| sqlite(OPERATION, &self.path, error);
        let transaction = connection.transaction().map_err(failed)?;
        for (label, fingerprint) in &entries {
            let json =
                serde_json::to_vec(fingerprint).map_err(|error| Error::bug(OPERATION, error.to_string()))?;
            transaction
                .execute(
                    "INSERT INTO entries (label, hotkey, fingerprint) VALUES (?1, ?2, ?3)",
                    params![label, fingerprint.hotkey, json],
                )
                .map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(entries.len())
    }

    fn select<T>(&self, sql: &str, read: impl Fn(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>> {
        let connection = self.lock();
        let rows = connection.prepare(sql).and_then(|mut statement| {
            statement.query_map([], |row| read(row))?.collect::<rusqlite::Result<Vec<T>>>()
        });
        rows.map_err(|error| sqlite(READ, &self.path, error))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings that a screen with a setting `store` is identified by: whether
/// it has a store, not where that lies.
pub(crate) fn identified(config: &impl Serialize, has_store: bool) -> Result<Value> {
    let mut settings = to_value(config)?;
    settings["store"] = json!(has_store);
    Ok(settings)
}

const READ: &str = "read the store";

/// A file that `options` make is its owner's alone.
#[cfg(unix)]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

#[cfg(unix)]
fn is_private(metadata: &std::fs::Metadata) -> bool {
    let others = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077;
    others == 0
}

#[cfg(not(unix))]
compile_error!("the store of submissions is private by Unix permissions: build without the screens here");

fn connect(path: &Path) -> Result<Connection> {
    const OPERATION: &str = "open the store";
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .map_err(|error| sqlite(OPERATION, path, error))?;
    connection.busy_timeout(BUSY).map_err(|error| sqlite(OPERATION, path, error))?;
    Ok(connection)
}

fn by_parameters(connection: &Connection, parameters: Digest) -> rusqlite::Result<Option<Entry>> {
    let sql = "SELECT id, label, block FROM entries WHERE parameters = ?1 ORDER BY id LIMIT 1";
    connection.query_row(sql, [parameters.as_bytes().as_slice()], entry).optional()
}

fn anchor(connection: &Connection) -> rusqlite::Result<Option<Digest>> {
    let sql = "SELECT anchor FROM sketches ORDER BY entry LIMIT 1";
    connection.query_row(sql, [], |row| digest(row, 0)).optional().map(Option::flatten)
}

fn stored_sketch(row: &Row<'_>) -> rusqlite::Result<StoredSketch> {
    let (anchor, bytes): (Option<Digest>, Vec<u8>) = (digest(row, 4)?, row.get(5)?);
    let sketch = anchor.and_then(|anchor| decode(anchor, &bytes));
    let sketch = sketch.ok_or_else(|| damaged(5, "the sketch is malformed"))?;
    Ok(StoredSketch { entry: entry(row)?, parameters: digest(row, 3)?, sketch })
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let block: Option<i64> = row.get(2)?;
    Ok(Entry { id: row.get(0)?, label: row.get(1)?, block: block.map(|block| block as u64) })
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Digest>> {
    let Some(bytes) = row.get::<_, Option<Vec<u8>>>(column)? else { return Ok(None) };
    let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| damaged(column, "a digest has not 32 bytes"))?;
    Ok(Some(bytes.into()))
}

fn damaged(column: usize, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, error.into())
}

/// Side and names as a line of JSON, then the numbers as little-endian `f32`.
fn encode(sketch: &Sketch) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(&(sketch.side, &sketch.tensors))
        .map_err(|error| Error::bug("write a sketch", error.to_string()))?;
    bytes.push(b'\n');
    bytes.extend(sketch.values.iter().flat_map(|value| value.to_le_bytes()));
    Ok(bytes)
}

fn decode(anchor: Digest, bytes: &[u8]) -> Option<Sketch> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (side, tensors): (usize, Vec<String>) = serde_json::from_slice(&bytes[..end]).ok()?;
    let (values, rest) = bytes[end + 1..].as_chunks::<4>();
    let expected = tensors.len().checked_mul(side)?.checked_mul(side)?;
    (rest.is_empty() && values.len() == expected).then(|| Sketch {
        anchor,
        side,
        tensors,
        values: values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
    })
}

fn sqlite(operation: &str, path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let (kind, fault, hint) = match (&error, error.sqlite_error_code()) {
        (rusqlite::Error::FromSqlConversionFailure(..), _)
        | (_, Some(Code::NotADatabase | Code::DatabaseCorrupt)) => {
            (ErrorKind::DataInvalid, Fault::Operator, "restore the store from a backup")
        }
        (_, Some(Code::PermissionDenied | Code::ReadOnly | Code::CannotOpen)) => {
            (ErrorKind::Unavailable, Fault::Operator, "check the permissions of the file and its folder")
        }
        (_, Some(Code::DatabaseBusy | Code::DatabaseLocked)) => {
            (ErrorKind::Unavailable, Fault::Infrastructure, "another process is writing: try again")
        }
        (_, Some(Code::DiskFull)) => {
            (ErrorKind::ResourceExhausted, Fault::Infrastructure, "free some space and try again")
        }
        _ => (ErrorKind::Unexpected, Fault::Bug, "report this"),
    };
    Error::new(kind, operation, error.to_string())
        .with_fault(fault)
        .with("path", path.display())
        .with_hint(hint)
        .with_source(error)
}

/// The Python system's corpus, in the order of its file.
struct Corpus(Vec<(String, Fingerprint)>);

impl<'de> Deserialize<'de> for Corpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Corpus;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of fingerprints")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Corpus, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Corpus(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests;
