//! Where journal and record go: a folder, or memory.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::blobs::BlobIndex;
use super::{CanonicalRecord, JournalEvent};
use crate::digest::canonical_json;
use crate::error::{Error, ErrorKind, Fault, Result};

/// A line of `journal.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What happened.
    pub event: JournalEvent,
}

/// Keeps one duel's journal and record.
#[async_trait]
pub trait RecordStore: Debug + Send + Sync + 'static {
    /// Appends `event` and the texts that it names; returns once they survive a
    /// crash as well as this store can promise.
    ///
    /// # Errors
    /// What is not acknowledged must not be used. After an error the store
    /// takes nothing more.
    async fn append(&self, event: JournalEvent, texts: Vec<String>) -> Result<()>;

    /// Publishes the canonical record, whole or not at all.
    async fn publish(&self, record: &CanonicalRecord) -> Result<()>;
}

/// A folder: see the table in [`crate::record`]. One process at a time: the
/// journal is locked while the store lives.
///
/// Appends are committed in groups: a writer thread takes all that are waiting,
/// writes and syncs the texts, then the lines, and acknowledges them together.
#[derive(Debug)]
pub struct FileStore {
    folder: PathBuf,
    appends: Option<mpsc::SyncSender<Append>>,
    writer: Option<JoinHandle<()>>,
}

struct Append {
    line: Vec<u8>,
    texts: Vec<String>,
    done: oneshot::Sender<Result<()>>,
}

/// Appends that may wait for the writer.
const QUEUE: usize = 1024;

impl FileStore {
    /// A store in `folder`, which is created; it must not hold a journal yet.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the folder holds a journal; the operating
    /// system's answer otherwise.
    pub fn create(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let operation = "create the record's folder";
        fs::create_dir_all(&folder).map_err(|error| Error::io(operation, &folder, error))?;
        let create = |name: &str| {
            let path = folder.join(name);
            OpenOptions::new().create_new(true).append(true).open(&path).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    Error::new(ErrorKind::Conflict, operation, "it already holds a duel")
                        .with("path", path.display())
                        .with_hint("choose another folder with `--out`")
                }
                _ => Error::io(operation, &path, error),
            })
        };
        let journal = create("journal.jsonl")?;
        journal.try_lock().map_err(|error| {
            Error::new(ErrorKind::Conflict, operation, format!("another process holds the journal: {error}"))
                .with("path", folder.display())
        })?;
        let writer = Writer {
            path: folder.clone(),
            journal,
            blobs: create("journal.blobs")?,
            index: BlobIndex::default(),
        };
        sync_folder(&folder)?;
        let (appends, waiting) = mpsc::sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("albedo-journal".into())
            .spawn(move || writer.run(&waiting))
            .map_err(|error| Error::io("start the journal's writer", &folder, error))?;
        Ok(Self { folder, appends: Some(appends), writer: Some(writer) })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.appends = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already failed its appends.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl RecordStore for FileStore {
    async fn append(&self, event: JournalEvent, texts: Vec<String>) -> Result<()> {
        let gone = || {
            Error::bug("append to the journal", "its writer has stopped").with("path", self.folder.display())
        };
        // For people: nothing is computed from it.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line = canonical_json(&JournalEntry { time_ms: since_epoch.as_millis() as u64, event })?;
        line.push(b'\n');
        let (done, acknowledged) = oneshot::channel();
        let append = Append { line, texts, done };
        let Some(appends) = &self.appends else { return Err(gone()) };
        match appends.try_send(append) {
            Ok(()) => {}
            Err(mpsc::TrySendError::Full(append)) => {
                let appends = appends.clone();
                tokio::task::spawn_blocking(move || appends.send(append))
                    .await
                    .map_err(|_| gone())?
                    .map_err(|_| gone())?;
            }
            Err(mpsc::TrySendError::Disconnected(_)) => return Err(gone()),
        }
        acknowledged.await.map_err(|_| gone())?
    }

    async fn publish(&self, record: &CanonicalRecord) -> Result<()> {
        let (folder, record) = (self.folder.clone(), record.clone());
        let publish = move || {
            // The digest last: a record without one is not published.
            replace(&folder, "record.blobs", &record.blobs)?;
            replace(&folder, "record.jsonl", &record.lines)?;
            replace(&folder, "record.digest", format!("{}\n", record.digest).as_bytes())
        };
        tokio::task::spawn_blocking(publish)
            .await
            .map_err(|error| Error::bug("publish the record", error.to_string()))?
    }
}

struct Writer {
    path: PathBuf,
    journal: File,
    blobs: File,
    index: BlobIndex,
}

impl Writer {
    fn run(mut self, appends: &mpsc::Receiver<Append>) {
        while let Ok(first) = appends.recv() {
            let group: Vec<_> = std::iter::once(first).chain(appends.try_iter()).collect();
            let written = self.write(&group);
            let failed = written.is_err();
            for append in group {
                let result = written.as_ref().map_err(|error| self.failure(error)).copied();
                // The caller may have been cancelled; the line stays.
                let _ = append.done.send(result);
            }
            if failed {
                return;
            }
        }
    }

    fn write(&mut self, group: &[Append]) -> io::Result<()> {
        let (mut blobs, mut lines) = (Vec::new(), Vec::new());
        for append in group {
            append.texts.iter().for_each(|text| self.index.append(text, &mut blobs));
            lines.extend_from_slice(&append.line);
        }
        if !blobs.is_empty() {
            self.blobs.write_all(&blobs)?;
            self.blobs.sync_data()?;
        }
        self.journal.write_all(&lines)?;
        self.journal.sync_data()
    }

    fn failure(&self, error: &io::Error) -> Error {
        let copy = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
        Error::io("append to the journal", &self.path, copy).with_fault(Fault::Infrastructure)
    }
}

fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (path, partial) = (folder.join(name), folder.join(format!("{name}.partial")));
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    write().map_err(|error| Error::io("write the record", &path, error))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::io("sync the record's folder", folder, error))
}

/// Memory: for tests, and for callers that only want the verdict.
#[derive(Debug, Default)]
pub struct MemoryStore {
    journal: Mutex<Vec<JournalEvent>>,
    record: Mutex<Option<CanonicalRecord>>,
}

impl MemoryStore {
    /// The journal so far.
    pub fn journal(&self) -> Vec<JournalEvent> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The record, once published.
    pub fn record(&self) -> Option<CanonicalRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl RecordStore for MemoryStore {
    async fn append(&self, event: JournalEvent, _: Vec<String>) -> Result<()> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        Ok(())
    }

    async fn publish(&self, record: &CanonicalRecord) -> Result<()> {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
