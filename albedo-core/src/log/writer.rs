//! Writing a log.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Entry;
use super::files::read_file;
use super::head::Head;
use super::merkle::{Leaves, empty_root, leaf_hash};
use super::note;
use super::reader::subtree;
use super::tiles::{
    CHECKPOINT, Kind, Tile, WIDTH, invalid, read_entries, read_hashes, tile_of, write_entries, write_hashes,
};
use crate::digest::Digest;
use crate::durable::{self, replace, sync_folder};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::signer::Signer;

const OPERATION: &str = "append to the log";

/// The file that keeps a second writer away; not part of the log.
const LOCK: &str = ".lock";

/// Appends to a log in a folder. One process at a time: the folder is locked while
/// the writer lives. Its calls block their thread for the disk.
///
/// # Behavior
/// - All tiles are on the disk before the head that covers them, which replaces the
///   last one in one step. A process that is killed leaves the log as it was or as
///   it was to be; what it wrote beyond the head counts for nothing, and is written
///   over.
/// - Nothing that a head covers is ever changed. A partial tile is deleted once the
///   full one stands under a head.
///
/// ```
/// use std::sync::Arc;
///
/// use albedo_core::log::{Entry, FolderLog, Forfeited, Log, LogWriter};
/// use albedo_core::signer::KeyFile;
/// use albedo_core::{CallContext, Digest, Signer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> albedo_core::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let key = Arc::new(KeyFile::from_seed(&[7; 32]));
/// let mut writer = LogWriter::open(folder, Some("example.com/log"), key.clone())?;
/// let entry = Entry::Forfeited(Forfeited { record: Digest::of("record"), submission: None });
/// writer.append(&[entry.clone()])?;
///
/// let cx = CallContext::new();
/// let log = Log::open(Arc::new(FolderLog::new(folder)), Some(&key.key()), &cx).await?;
/// let proof = log.prove_inclusion(0, &cx).await?;
/// proof.verify(&key.key())?;
/// assert_eq!(Entry::parse(&proof.entry)?, entry);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LogWriter {
    folder: PathBuf,
    signer: Arc<dyn Signer>,
    head: Head,
    _lock: File,
}

/// A change of the log's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Writes a file beside its place, and moves it there in one step; it is on the
    /// disk then.
    Write(String, Vec<u8>),
    /// Deletes the partial versions of a tile.
    Delete(String),
}

impl LogWriter {
    /// Opens the log in `folder`, signed by `signer`'s key. A folder without a log
    /// gets one of the name `origin`, which should be the address that it will be
    /// served at without its scheme.
    ///
    /// # Errors
    /// The operator's: there is no log and no name for one, the log has another name
    /// or another key, or another process writes to it. [`ErrorKind::DataInvalid`] if
    /// the log is not what its head states.
    pub fn open(folder: &Path, origin: Option<&str>, signer: Arc<dyn Signer>) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|error| Error::io(OPERATION, folder, error))?;
        let lock = lock(folder)?;
        let operator = |kind, message: &str| Error::new(kind, OPERATION, message).with_fault(Fault::Operator);
        let head = match (read_file(&folder.join(CHECKPOINT), note::MAX_BYTES)?, origin) {
            (Some(bytes), origin) => {
                let text = String::from_utf8(bytes).map_err(|_| invalid("its `checkpoint` is not UTF-8"))?;
                let head = Head::parse(&text)?;
                if let Some(origin) = origin.filter(|origin| *origin != head.origin) {
                    return Err(operator(ErrorKind::ConfigInvalid, "the log has another name")
                        .with("name", &head.origin)
                        .with("given", origin));
                }
                head.verify(&signer.key()).map_err(|_| {
                    operator(ErrorKind::ConfigInvalid, "the log's head is not signed by this key")
                        .with("key", signer.key())
                        .with_hint("a log has one key: give the one that it began with, or begin another log")
                })?;
                head
            }
            (None, Some(origin)) => {
                if folder.join("tile").exists() {
                    return Err(invalid("its `checkpoint` is missing")
                        .with("path", folder.display())
                        .with_hint(
                            "restore it: a log that begins anew contradicts the heads that others hold",
                        ));
                }
                let head = Head::sign(origin, 0, empty_root(), &*signer)?;
                Step::Write(CHECKPOINT.into(), head.to_string().into_bytes()).take(folder)?;
                head
            }
            (None, None) => {
                return Err(operator(ErrorKind::NotFound, "the folder holds no log")
                    .with("path", folder.display())
                    .with_hint("give the log a name, and it is begun"));
            }
        };
        let writer = Self { folder: folder.to_owned(), signer, head, _lock: lock };
        writer.check_root()?;
        Ok(writer)
    }

    /// The newest head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Appends `entries` in one step, and gives the head that covers them.
    ///
    /// # Errors
    /// An entry that is too long; what the disk or the signer meets. The log is as it
    /// was then, or as it was to be if only the last deletions failed.
    pub fn append(&mut self, entries: &[Entry]) -> Result<&Head> {
        let entries: Vec<_> = entries.iter().map(Entry::to_bytes).collect::<Result<_>>()?;
        if !entries.is_empty() {
            let (steps, head) = self.steps(&entries)?;
            for step in steps {
                step.take(&self.folder)?;
            }
            self.head = head;
        }
        Ok(&self.head)
    }

    /// The steps that append `entries`, and the head that they lead to.
    pub(super) fn steps(&self, entries: &[Vec<u8>]) -> Result<(Vec<Step>, Head)> {
        let old = self.head.size;
        let size = old + entries.len() as u64;
        let (mut writes, mut full) = (Vec::new(), Vec::new());
        let mut tile_written = |tile: Tile, bytes: Vec<u8>| {
            writes.push(Step::Write(tile.path(), bytes));
            if tile.is_full() {
                full.push(Step::Delete(tile.partial_folder()));
            }
        };

        let mut bundle = match Tile::of(Kind::Entries, old / WIDTH, old) {
            Some(tile) => read_entries(&self.file(tile)?, tile.width)?,
            None => Vec::new(),
        };
        bundle.extend_from_slice(entries);
        for (index, bundle) in (old / WIDTH..).zip(bundle.chunks(WIDTH as usize)) {
            let tile = Tile { kind: Kind::Entries, index, width: bundle.len() as u64 };
            tile_written(tile, write_entries(bundle));
        }

        let mut hashes: Vec<_> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        let mut edge = Vec::new();
        for level in 0.. {
            let first = old.checked_shr(8 * level).unwrap_or(0);
            let mut tiles = match Tile::of(Kind::Hashes(level), first / WIDTH, old) {
                Some(tile) => self.tile(tile)?,
                None => Vec::new(),
            };
            tiles.append(&mut hashes);
            for (index, tile) in (first / WIDTH..).zip(tiles.chunks(WIDTH as usize)) {
                let place = Tile { kind: Kind::Hashes(level), index, width: tile.len() as u64 };
                // What is there already has not changed.
                if Tile::of(place.kind, index, old) != Some(place) {
                    tile_written(place, write_hashes(tile));
                }
            }
            let (complete, rest) = tiles.as_chunks::<{ WIDTH as usize }>();
            hashes = complete.iter().map(|tile| subtree(tile)).collect();
            edge.push(rest.to_vec());
            if size.checked_shr(8 * (level + 1)).unwrap_or(0) == 0 {
                break;
            }
        }
        let head = Head::sign(&self.head.origin, size, edge_root(&edge), &*self.signer)?;
        let checkpoint = Step::Write(CHECKPOINT.into(), head.to_string().into_bytes());
        Ok(([writes, vec![checkpoint], full].concat(), head))
    }

    /// Checks the tiles that new entries are added to.
    fn check_root(&self) -> Result<()> {
        let size = self.head.size;
        let mut nodes = Vec::new();
        for node in (Leaves { start: 0, end: size }).nodes() {
            let found = tile_of(node, size);
            let (tile, range) =
                found.ok_or_else(|| Error::bug(OPERATION, format!("{node:?} is not in the log")))?;
            nodes.push(subtree(&self.tile(tile)?[range]));
        }
        if Leaves::hash(&nodes) == self.head.root {
            return Ok(());
        }
        Err(invalid("its tiles do not have the hash that its head states")
            .with("path", self.folder.display()))
    }

    fn tile(&self, tile: Tile) -> Result<Vec<Digest>> {
        read_hashes(&self.file(tile)?, tile.width).map_err(|error| error.with("file", tile.path()))
    }

    fn file(&self, tile: Tile) -> Result<Vec<u8>> {
        read_file(&self.folder.join(tile.path()), tile.max_bytes())?
            .ok_or_else(|| invalid("a file of the log is missing").with("file", tile.path()))
    }
}

/// The root from the hashes of the unfinished tile of every level.
fn edge_root(edge: &[Vec<Digest>]) -> Digest {
    let mut nodes = Vec::new();
    for level in edge.iter().rev() {
        let mut rest = &level[..];
        while !rest.is_empty() {
            let (complete, after) = rest.split_at(1 << rest.len().ilog2());
            nodes.push(subtree(complete));
            rest = after;
        }
    }
    Leaves::hash(&nodes)
}

impl Step {
    pub(super) fn take(&self, folder: &Path) -> Result<()> {
        let failed = |path: &Path, error| Error::io(OPERATION, path, error);
        match self {
            Self::Write(path, bytes) => {
                let path = folder.join(path);
                let parent = path.parent().unwrap_or(folder);
                fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
                let beside = path.with_extension("new");
                let written = replace(&path, &beside, bytes).and_then(|()| {
                    // The folders above may be new.
                    let mut folders = parent.ancestors().skip(1).take_while(|at| at.starts_with(folder));
                    folders.try_for_each(sync_folder)
                });
                written.map_err(|error| failed(&path, error))
            }
            Self::Delete(path) => match fs::remove_dir_all(folder.join(path)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(failed(&folder.join(path), error))
                }
                _ => Ok(()),
            },
        }
    }
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|error| Error::io(OPERATION, &path, error))?;
    durable::lock(OPERATION, &file, &path)?;
    Ok(file)
}

#[cfg(test)]
impl Step {
    /// Whether the step writes the file at `path`.
    pub(super) fn writes(&self, path: &str) -> bool {
        matches!(self, Self::Write(written, _) if written == path)
    }

    /// Takes half of the step.
    pub(super) fn tear(&self, folder: &Path) {
        if let Self::Write(path, bytes) = self {
            let beside = folder.join(path).with_extension("new");
            fs::create_dir_all(beside.parent().unwrap_or(folder)).unwrap();
            fs::write(beside, &bytes[..bytes.len() / 2]).unwrap();
        }
    }
}
