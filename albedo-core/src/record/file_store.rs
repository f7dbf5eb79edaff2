//! A folder that holds one duel.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::blobs::BlobIndex;
use super::chain::{Chain, JournalKey};
use super::journal::{index_blobs, read_events, whole_lines};
use super::reader::{BLOBS, DIGEST, LINES};
use super::store::missing;
use super::{Digests, JournalEntry, JournalEvent, Record, RecordPart, RecordStore, TextRef};
use crate::clock::unix_ms;
use crate::digest::Digest;
use crate::durable::{is_refusal, lock, sync_folder, synced};
use crate::error::{Error, ErrorKind, Fault, Reach, Result};
use crate::files::open_file;

/// A folder: see the table in [`crate::record`]. One process at a time: the
/// journal is locked while the store lives.
///
/// Who can write to the folder can alter its journal. With a [`JournalKey`] that is
/// found; without one, the record of a duel that was resumed says that nothing vouches
/// for its journal.
///
/// Appends are committed in groups: a writer thread takes all that are waiting,
/// writes and syncs the texts, then the lines, and acknowledges them together.
/// The record grows beside the journal under names that end in `.partial`.
///
/// ```
/// use albedo_core::{CallContext, FileStore, Record};
///
/// # #[cfg(feature = "conformance")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> albedo_core::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let (cx, store) = (CallContext::new(), FileStore::create(folder.join("duel"))?);
/// let duel = albedo_core::testing::small_duel().plan(&store, &cx).await?;
/// let report = duel.run(&store, &cx).await?;
/// assert_eq!(Some(Record::open(store.folder())?.digest), report.record);
///
/// // Another process, or this one later, goes on with the folder.
/// store.close().await?;
/// let store = FileStore::resume(folder.join("duel"))?;
/// assert_eq!(duel.run(&store, &cx).await?, report);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "conformance"))]
/// # fn main() {}
/// ```
#[derive(Debug)]
pub struct FileStore {
    folder: PathBuf,
    chained: bool,
    foreign: Option<u64>,
    commands: Option<mpsc::SyncSender<Command>>,
    writer: Option<JoinHandle<()>>,
}

/// Commands that may wait for the writer.
const QUEUE: usize = 1024;

impl FileStore {
    /// A store in `folder`, which is created; it must not hold a journal yet.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the folder holds a journal; the operating
    /// system's answer otherwise.
    pub fn create(folder: impl Into<PathBuf>) -> Result<Self> {
        Self::create_with(folder.into(), None)
    }

    /// A store as [`FileStore::create`] makes it, whose journal's lines are chained to
    /// `anchor` under `key`: only with that key can they be written or altered unseen.
    ///
    /// # Errors
    /// As [`FileStore::create`].
    pub fn create_keyed(folder: impl Into<PathBuf>, key: JournalKey, anchor: Digest) -> Result<Self> {
        Self::create_with(folder.into(), Some(Chain::new(key, anchor)))
    }

    fn create_with(folder: PathBuf, chain: Option<Chain>) -> Result<Self> {
        let operation = "create the record's folder";
        fs::create_dir_all(&folder).map_err(|error| Error::io(operation, &folder, error))?;
        let path = folder.join(JOURNAL);
        let journal = open().create_new(true).open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::new(ErrorKind::Conflict, operation, "it already holds a duel")
                    .with_fault(Fault::Operator)
                    .with("path", path.display())
                    .with_hint("resume it, or choose another folder")
            }
            _ => refused(operation, &path, error),
        })?;
        let started = lock(LOCK, &journal, &path).and_then(|()| Self::start(folder, journal, chain, true));
        if started.is_err() {
            // Nothing was written: the folder can be used once the cause is mended.
            let _ = fs::remove_file(&path);
        }
        started
    }

    /// The store in `folder` that an earlier process left, to go on with. A torn
    /// last line and a torn last text are cut off; nothing else is changed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no journal, [`ErrorKind::Conflict`]
    /// if another process has it open, [`ErrorKind::Unsupported`] if a newer
    /// albedo wrote it, [`ErrorKind::DataInvalid`] if its texts are malformed.
    pub fn resume(folder: impl Into<PathBuf>) -> Result<Self> {
        Self::resume_with(folder.into(), None)
    }

    /// The store that [`FileStore::create_keyed`] began, under the same key and anchor.
    /// [`FileStore::foreign`] says whether somebody else wrote in the journal; if so,
    /// the next line takes it over as it is, and the record of the duel will say so.
    ///
    /// # Errors
    /// As [`FileStore::resume`].
    pub fn resume_keyed(folder: impl Into<PathBuf>, key: JournalKey, anchor: Digest) -> Result<Self> {
        Self::resume_with(folder.into(), Some(Chain::new(key, anchor)))
    }

    fn resume_with(folder: PathBuf, mut chain: Option<Chain>) -> Result<Self> {
        let path = folder.join(JOURNAL);
        require_file("resume the duel", &path)?;
        let journal = open().open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, "resume the duel", "the folder holds no journal")
                    .with("path", path.display())
                    .with_hint("check the folder's name")
            }
            _ => refused("resume the duel", &path, error),
        })?;
        lock(LOCK, &journal, &path)?;
        cut(&journal, whole_lines(&journal, &path, chain.as_mut())?, &path)?;
        let chained = chain.as_ref().is_some_and(Chain::holds);
        Self::start(folder, journal, chain, chained)
    }

    /// The first line of the journal, from 1, that was not written under the key that
    /// the store was resumed with; none if there is no such line, or no key.
    pub fn foreign(&self) -> Option<u64> {
        self.foreign
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits until all that was handed over is written, and lets go of the folder.
    /// Dropping the store does the same, and blocks its thread meanwhile.
    ///
    /// # Errors
    /// A bug: the writer has panicked.
    pub async fn close(mut self) -> Result<()> {
        self.commands = None;
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || writer.join()).await;
        match joined {
            Ok(Ok(())) => Ok(()),
            _ => Err(self.gone()),
        }
    }

    fn start(folder: PathBuf, journal: File, chain: Option<Chain>, chained: bool) -> Result<Self> {
        let foreign = chain.as_ref().and_then(Chain::broken);
        let path = folder.join(JOURNAL_BLOBS);
        require_file("open the journal's texts", &path)?;
        let blobs = open()
            .create(true)
            .open(&path)
            .map_err(|error| refused("open the journal's texts", &path, error))?;
        let index = index_blobs(&blobs, &path)?;
        cut(&blobs, index.end(), &path)?;
        sync_folder(&folder).map_err(|error| Error::io("sync the record's folder", &folder, error))?;
        let writer =
            Writer { folder: folder.clone(), journal, blobs, index, chain, record: None, failed: None };
        let (commands, waiting) = mpsc::sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("albedo-journal".into())
            .spawn(move || writer.run(&waiting))
            .map_err(|error| Error::io("start the journal's writer", &folder, error))?;
        Ok(Self { folder, chained, foreign, commands: Some(commands), writer: Some(writer) })
    }

    async fn send(&self, command: Command) -> Result<()> {
        let Some(commands) = &self.commands else { return Err(self.gone()) };
        match commands.try_send(command) {
            Ok(()) => Ok(()),
            Err(mpsc::TrySendError::Full(command)) => {
                let commands = commands.clone();
                tokio::task::spawn_blocking(move || commands.send(command))
                    .await
                    .map_err(|_| self.gone())?
                    .map_err(|_| self.gone())
            }
            Err(mpsc::TrySendError::Disconnected(_)) => Err(self.gone()),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (done, answer) = oneshot::channel();
        self.send(command(done)).await?;
        answer.await.map_err(|_| self.gone())?
    }

    fn gone(&self) -> Error {
        Error::bug("write the journal", "its writer has stopped").with("path", self.folder.display())
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already failed its commands.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl RecordStore for FileStore {
    async fn stored(&self) -> Result<Vec<JournalEvent>> {
        self.ask(Command::Stored).await
    }

    async fn chained(&self) -> Result<bool> {
        Ok(self.chained)
    }

    async fn published(&self) -> Result<Option<Record>> {
        let folder = self.folder.clone();
        let read = tokio::task::spawn_blocking(move || Record::open(&folder)).await;
        match read.map_err(|_| self.gone())? {
            Ok(record) => Ok(Some(record)),
            // Gone, cut short or altered.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::DigestMismatch | ErrorKind::DataInvalid
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn text(&self, text: &TextRef) -> Result<String> {
        let text = *text;
        self.ask(|done| Command::Text(text, done)).await
    }

    async fn append(&self, event: JournalEvent, texts: Vec<String>) -> Result<()> {
        let entry = JournalEntry { time_ms: unix_ms(), event };
        let line = serde_json::to_vec(&entry)
            .map_err(|error| Error::bug("write the journal", error.to_string()).with_source(error))?;
        self.ask(|done| Command::Append(Append { line, texts, done })).await
    }

    async fn begin(&self) -> Result<()> {
        self.send(Command::Begin).await
    }

    async fn extend(&self, part: RecordPart) -> Result<()> {
        self.send(Command::Extend(part)).await
    }

    async fn publish(&self, digests: &Digests) -> Result<()> {
        let digests = *digests;
        self.ask(|done| Command::Publish(digests, done)).await
    }
}

pub(super) const JOURNAL: &str = "journal.jsonl";
const JOURNAL_BLOBS: &str = "journal.blobs";

const LOCK: &str = "lock the journal";

type Reply<T> = oneshot::Sender<Result<T>>;

enum Command {
    Append(Append),
    Stored(Reply<Vec<JournalEvent>>),
    Text(TextRef, Reply<String>),
    Begin,
    Extend(RecordPart),
    Publish(Digests, Reply<()>),
}

struct Append {
    /// A JSON object.
    line: Vec<u8>,
    texts: Vec<String>,
    done: Reply<()>,
}

struct Writer {
    folder: PathBuf,
    journal: File,
    blobs: File,
    index: BlobIndex,
    chain: Option<Chain>,
    /// The record in the making: lines and blobs.
    record: Option<[File; 2]>,
    /// The first error of a write: nothing is written after it.
    failed: Option<Error>,
}

impl Writer {
    fn run(mut self, commands: &mpsc::Receiver<Command>) {
        let mut group = Vec::new();
        while let Ok(first) = commands.recv() {
            let mut next = Some(first);
            while let Some(Command::Append(append)) = next {
                group.push(append);
                next = commands.try_recv().ok();
            }
            self.append(&mut group);
            if let Some(command) = next {
                self.handle(command);
            }
        }
        if self.record.take().is_some() {
            // Never published: a duel that is void, or will go on.
            for name in [LINES, BLOBS] {
                let _ = fs::remove_file(partial(&self.folder, name));
            }
        }
    }

    /// Writes `group` and acknowledges it. A caller may have been cancelled; its
    /// line stays.
    fn append(&mut self, group: &mut Vec<Append>) {
        if group.is_empty() {
            return;
        }
        let (mut blobs, mut lines) = (Vec::new(), Vec::new());
        for append in &mut *group {
            for text in &append.texts {
                self.index.append(text, &mut blobs);
            }
            match &mut self.chain {
                Some(chain) => chain.seal(&mut append.line),
                None => append.line.push(b'\n'),
            }
            lines.append(&mut append.line);
        }
        self.try_write(JOURNAL_BLOBS, |writer| write_synced(&mut writer.blobs, &blobs));
        self.try_write(JOURNAL, |writer| write_synced(&mut writer.journal, &lines));
        for append in group.drain(..) {
            let _ = append.done.send(self.state());
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Append(append) => self.append(&mut vec![append]),
            Command::Stored(done) => {
                let _ = done.send(self.stored());
            }
            Command::Text(text, done) => {
                let _ = done.send(self.text(&text));
            }
            Command::Begin => self.try_write(&format!("{LINES}.partial"), |writer| {
                let create = |name| File::create(partial(&writer.folder, name));
                writer.record = Some([create(LINES)?, create(BLOBS)?]);
                Ok(())
            }),
            Command::Extend(part) => {
                for (index, name, bytes) in [(0, LINES, &part.lines), (1, BLOBS, &part.blobs)] {
                    self.try_write(&format!("{name}.partial"), |writer| match &mut writer.record {
                        Some(files) => files[index].write_all(bytes),
                        None => Err(io::Error::other("no record was begun")),
                    });
                }
            }
            Command::Publish(digests, done) => {
                self.try_write(DIGEST, |writer| writer.publish(&digests));
                let _ = done.send(self.state());
            }
        }
    }

    /// Runs `write` on file `name` unless an earlier write has failed.
    fn try_write(&mut self, name: &str, write: impl FnOnce(&mut Self) -> io::Result<()>) {
        if self.failed.is_none()
            && let Err(error) = write(self)
        {
            let path = self.folder.join(name);
            let error = Error::io("write the journal or the record", &path, error);
            self.failed = Some(error.with_fault(Fault::Infrastructure).with_reach(Reach::Duel));
        }
    }

    fn state(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn stored(&mut self) -> Result<Vec<JournalEvent>> {
        let path = self.folder.join(JOURNAL);
        self.journal.rewind().map_err(|error| Error::io("read the journal", &path, error))?;
        read_events(&self.journal, &self.index, &path)
    }

    fn text(&mut self, text: &TextRef) -> Result<String> {
        let path = self.folder.join(JOURNAL_BLOBS);
        let position = self.index.position(text).ok_or_else(|| missing(text))?;
        let mut bytes = vec![0; text.bytes as usize];
        self.blobs
            .seek(SeekFrom::Start(position))
            .and_then(|_| self.blobs.read_exact(&mut bytes))
            .map_err(|error| Error::io("read the journal's texts", &path, error))?;
        String::from_utf8(bytes).ok().filter(|read| Digest::of(read) == text.sha256).ok_or_else(|| {
            Error::new(
                ErrorKind::DigestMismatch,
                "read the journal's texts",
                "a text does not have its digest",
            )
            .with("path", path.display())
            .with("byte", position)
        })
    }

    /// The digest last: a record without one is not published.
    fn publish(&mut self, digests: &Digests) -> io::Result<()> {
        let Some([lines, blobs]) = self.record.take() else {
            return Err(io::Error::other("no record was begun"));
        };
        let mut digest = File::create(partial(&self.folder, DIGEST))?;
        digest.write_all(digests.to_string().as_bytes())?;
        for (file, name) in [(blobs, BLOBS), (lines, LINES), (digest, DIGEST)] {
            synced(file.sync_all())?;
            fs::rename(partial(&self.folder, name), self.folder.join(name))?;
        }
        sync_folder(&self.folder)
    }
}

fn open() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    options
}

/// Refuses a journal that is a pipe or a device: opening it may wait for ever.
fn require_file(operation: &'static str, path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(about) if !about.is_file() && !about.is_dir() => open_file(operation, path).map(drop),
        _ => Ok(()),
    }
}

/// Why a file cannot be opened to be appended to.
fn refused(operation: &'static str, path: &Path, error: io::Error) -> Error {
    if !is_refusal(&error) {
        return Error::io(operation, path, error);
    }
    Error::new(
        ErrorKind::Unsupported,
        operation,
        format!("the file system does not append to files: {error}"),
    )
    .with_fault(Fault::Operator)
    .with_reach(Reach::Duel)
    .with("path", path.display())
    .with_hint("keep duels on a local disk, and copy the folder when the duel has ended")
    .with_source(error)
}

/// Cuts off what is torn behind the first `length` bytes.
fn cut(file: &File, length: u64, path: &Path) -> Result<()> {
    let cut = || {
        if file.metadata()?.len() > length {
            file.set_len(length)?;
            synced(file.sync_all())?;
        }
        Ok(())
    };
    cut().map_err(|error| Error::io("cut off a torn line", path, error))
}

fn write_synced(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    file.write_all(bytes)?;
    synced(file.sync_data())
}

fn partial(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.partial"))
}

#[cfg(test)]
mod tests;
