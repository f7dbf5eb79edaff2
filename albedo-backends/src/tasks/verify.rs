//! Hashing a shard once: what was hashed is remembered in a marker file.

use std::fs::{self, File, Metadata};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use albedo_core::digest::Hasher;
use albedo_core::files::{open_file, read_at};
use albedo_core::{CallContext, Digest, Error, ErrorKind, Fault, Result};
use serde::{Deserialize, Serialize};

use super::READ;
use super::manifest::ShardEntry;

/// Bytes hashed between two looks at the call context.
const BLOCK: usize = 1 << 20;

/// What changes when a file's bytes are changed by usual means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    pub(super) size: u64,
    inode: u64,
    /// Seconds and nanoseconds of the last change of the bytes.
    modified: [i64; 2],
    /// Seconds and nanoseconds of the last change of bytes or metadata, which
    /// `touch` cannot set back.
    changed: [i64; 2],
}

impl Stamp {
    pub(super) fn of(file: &File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| Error::io(READ, path, error))?;
        if metadata.is_file() { Ok(Self::new(&metadata)) } else { Err(not_a_file(path)) }
    }

    #[cfg(unix)]
    fn new(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            size: metadata.size(),
            inode: metadata.ino(),
            modified: [metadata.mtime(), metadata.mtime_nsec()],
            changed: [metadata.ctime(), metadata.ctime_nsec()],
        }
    }

    /// Enough to see a change while a shard is hashed, not to believe a marker.
    #[cfg(not(unix))]
    fn new(metadata: &Metadata) -> Self {
        let modified = metadata.modified().unwrap_or(std::time::UNIX_EPOCH);
        let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let modified = [modified.as_secs() as i64, i64::from(modified.subsec_nanos())];
        Self { size: metadata.len(), inode: 0, modified, changed: modified }
    }
}

fn not_a_file(path: &Path) -> Error {
    Error::new(ErrorKind::DataInvalid, READ, "the shard is no regular file")
        .with_fault(Fault::Operator)
        .with("path", path.display())
}

/// A marker file: these bytes had this digest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    sha256: Digest,
    stamp: Stamp,
}

/// Checks size and digest of `file`, whose stamp is `stamp`, against `entry`.
/// What a marker in `folder` vouches for is not hashed again; a folder that
/// cannot be written only costs the hashing.
///
/// # Errors
/// [`ErrorKind::DigestMismatch`], naming the shard, what is expected and what
/// is found.
pub(super) fn verify(
    entry: &ShardEntry,
    folder: &Path,
    file: &File,
    path: &Path,
    stamp: Stamp,
    cx: &CallContext,
) -> Result<()> {
    let mismatch = |message: &str| {
        Error::new(ErrorKind::DigestMismatch, READ, message)
            .with_fault(Fault::Operator)
            .with("shard", &entry.name)
            .with("path", path.display())
    };
    let remedy = "fetch the shard again";
    if let Some(bytes) = entry.bytes.filter(|&bytes| bytes != stamp.size) {
        return Err(mismatch("the shard has not the manifest's size")
            .with("expected bytes", bytes)
            .with("found", stamp.size)
            .with_hint(remedy));
    }
    let Some(sha256) = entry.sha256 else { return Ok(()) };
    let marker = Marker { sha256, stamp };
    let marker_path = folder.join(format!("{}.json", entry.name));
    if read_marker(&marker_path).is_some_and(|found| found == marker) {
        return Ok(());
    }
    let found = digest(file, path, cx)?;
    if found != sha256 {
        return Err(mismatch("the shard has not the manifest's sha256")
            .with("expected", sha256)
            .with("found", found)
            .with_hint(remedy));
    }
    if Stamp::of(file, path)? != stamp {
        return Err(mismatch("the shard was written to while it was hashed").with_hint("try again"));
    }
    // Without the marker the next process hashes the shard again, no more.
    let _ = write_marker(&marker_path, &marker);
    Ok(())
}

fn read_marker(path: &Path) -> Option<Marker> {
    // Elsewhere a stamp can be set back, and what it vouches for is hashed again.
    if !cfg!(unix) {
        return None;
    }
    serde_json::from_reader(BufReader::new(open_file(READ, path).ok()?)).ok()
}

fn write_marker(path: &Path, marker: &Marker) -> io::Result<()> {
    let folder = path.parent().map(PathBuf::from).unwrap_or_default();
    fs::create_dir_all(&folder)?;
    let mut file = tempfile::NamedTempFile::new_in(&folder)?;
    serde_json::to_writer(&mut file, marker)?;
    file.persist(path)?;
    Ok(())
}

fn digest(file: &File, path: &Path, cx: &CallContext) -> Result<Digest> {
    let (mut hasher, mut block, mut position) = (Hasher::default(), vec![0; BLOCK], 0);
    loop {
        cx.check(READ)?;
        match read_at(file, &mut block, position) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => {
                hasher.update(&block[..read]);
                position += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(READ, path, error)),
        }
    }
}
