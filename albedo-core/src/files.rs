//! A model's files: a listing with ranged reads, wherever they are.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Reach, Result};

/// A listing of a model's files and ranged reads of them, so that headers and
/// small files can be inspected before gigabytes are fetched.
#[async_trait]
pub trait ModelFiles: Debug + Send + Sync + 'static {
    /// What the listing stands for. A hub's own listing is
    /// [`Provenance::Published`]; in doubt it is a copy.
    fn provenance(&self) -> Provenance {
        Provenance::Copy
    }

    /// All files, in byte order of their names.
    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>>;

    /// Bytes `range` of file `name`, exactly that many.
    ///
    /// # Errors
    /// No such file; the range reaches past its end.
    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>>;

    /// The parts of file `name` that the listing vouches for one by one. In their
    /// order they are the file. Empty where only the whole file has a digest.
    ///
    /// # Behavior
    /// Reading the range of exactly one part gives bytes that have the part's
    /// digest, or an error.
    ///
    /// # Errors
    /// No such file.
    async fn parts(&self, _name: &str, _cx: &CallContext) -> Result<Vec<FilePart>> {
        Ok(Vec::new())
    }

    /// Asks the store whether it still has all that the listing names, and reads as
    /// little of it as shows that: an owner may delete a file and leave the listing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], not infrastructure's, if the store itself says that it
    /// does not have something. What asking meets: an outage is no such answer.
    async fn present(&self, _cx: &CallContext) -> Result<()> {
        Ok(())
    }

    /// Compares all ranges read so far with bytes that have the digests of the
    /// listing. Admission calls it before it rejects a submission: a hub may answer
    /// a read of a range with anything, and what it answered convicts nobody.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`], infrastructure's: the bytes were others. What
    /// reading them meets.
    async fn prove(&self, _cx: &CallContext) -> Result<()> {
        Ok(())
    }

    /// Brings all files to this machine, compares every byte with the digests of
    /// the listing and the ranges read before with the bytes that came, and reads
    /// from there from now on. Admission calls it before screens read whole weights.
    ///
    /// # Errors
    /// As [`ModelFiles::prove`]; what the disk meets.
    async fn hold(&self, _cx: &CallContext) -> Result<()> {
        Ok(())
    }
}

/// One part of a file that a listing vouches for ([`ModelFiles::parts`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePart {
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

/// What the names and sizes of a listing stand for, and so whose fault a file
/// is that is missing or ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// What the contestant handed in, as the store that holds it says: a file
    /// that is cut short was handed in so.
    Published,
    /// A copy of ours, which a download may have left incomplete.
    Copy,
}

/// Reads bytes of `file` from `offset` on into `bytes`, as many as one read of the
/// operating system gives, and tells how many; 0 at the end. Readers share a file
/// in this way, since none has a position.
///
/// # Errors
/// The operating system's; [`io::ErrorKind::Unsupported`] where it has no such
/// read.
pub fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    positioned(file, bytes, offset)
}

#[cfg(unix)]
fn positioned(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(windows)]
fn positioned(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, offset)
}

#[cfg(not(any(unix, windows)))]
fn positioned(_: &File, _: &mut [u8], _: u64) -> io::Result<usize> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no reads by position"))
}

/// A file from a position on. Each reader has a position of its own, so that any number of
/// them share a file, which [`io::Read`] for [`File`] does not allow.
///
/// ```
/// # use std::io::Read;
/// # let path = std::env::temp_dir().join(format!("albedo-tail-{}", std::process::id()));
/// # std::fs::write(&path, "king and challenger")?;
/// let file = std::fs::File::open(&path)?;
/// let (mut one, mut other) = (String::new(), String::new());
/// albedo_core::files::Tail::new(&file, 9).read_to_string(&mut one)?;
/// albedo_core::files::Tail::new(&file, 9).read_to_string(&mut other)?;
/// assert_eq!([one, other], ["challenger"; 2]);
/// # std::fs::remove_file(&path)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tail<F> {
    file: F,
    position: u64,
}

impl<F: Deref<Target = File>> Tail<F> {
    /// `file` from byte `position` on.
    pub fn new(file: F, position: u64) -> Self {
        Self { file, position }
    }
}

impl<F: Deref<Target = File>> Read for Tail<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = read_at(&self.file, buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// Reads as many bytes of `file` from `offset` on as `bytes` has room for.
///
/// # Errors
/// As [`read_at`]; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
pub fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match read_at(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Opens the regular file `path`, or what it links to, for reading. Nothing else is
/// opened: a pipe would wait for its other end, a device may do anything.
///
/// # Errors
/// The operating system's; [`ErrorKind::DataInvalid`] for what is no regular file.
pub fn open_file(operation: &str, path: &Path) -> Result<File> {
    let io = |error| Error::io(operation, path, error);
    let regular = |about: &fs::Metadata| match about.is_file() {
        true => Ok(()),
        false if about.is_dir() => Err(Error::io(operation, path, io::ErrorKind::IsADirectory.into())),
        false => Err(Error::new(ErrorKind::DataInvalid, operation, "it is no regular file")
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with("path", path.display())
            .with_hint("put a file in the place of the pipe, socket or device")),
    };
    regular(&fs::metadata(path).map_err(io)?)?;
    let file = File::open(path).map_err(io)?;
    // It may have been replaced meanwhile.
    regular(&file.metadata().map_err(io)?)?;
    Ok(file)
}

/// All bytes of the regular file at `path`, which has at most `most`.
///
/// # Errors
/// As [`open_file`]; [`ErrorKind::DataInvalid`] if the file is larger.
pub(crate) fn read_bounded(operation: &str, path: &Path, most: u64) -> Result<Vec<u8>> {
    let io = |error| Error::io(operation, path, error);
    let too_large = || {
        Error::new(ErrorKind::DataInvalid, operation, "the file is larger than albedo reads")
            .with("path", path.display())
            .with("most bytes", most)
    };
    let file = open_file(operation, path)?;
    if file.metadata().map_err(io)?.len() > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    file.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
}

/// Who leaves a file of that name in folders, if it is none of a model's: operating
/// systems, desktops, notebooks, editors, network file systems and download tools.
///
/// ```
/// use albedo_core::files::leftover;
///
/// assert_eq!(leftover("._model.safetensors"), Some("macOS"));
/// assert_eq!(leftover(".ipynb_checkpoints/config-checkpoint.json"), Some("a notebook"));
/// assert_eq!(leftover("model.safetensors"), None);
/// ```
pub fn leftover(name: &str) -> Option<&'static str> {
    /// Names of files and folders.
    const NAMES: [(&str, &str); 33] = [
        (".DS_Store", "macOS"),
        (".localized", "macOS"),
        (".apdisk", "macOS"),
        (".AppleDouble", "macOS"),
        (".AppleDB", "macOS"),
        (".AppleDesktop", "macOS"),
        (".LSOverride", "macOS"),
        (".Spotlight-V100", "macOS"),
        (".Trashes", "macOS"),
        (".fseventsd", "macOS"),
        (".TemporaryItems", "macOS"),
        (".DocumentRevisions-V100", "macOS"),
        ("__MACOSX", "macOS"),
        ("Thumbs.db", "Windows"),
        ("ehthumbs.db", "Windows"),
        ("desktop.ini", "Windows"),
        ("Desktop.ini", "Windows"),
        ("$RECYCLE.BIN", "Windows"),
        ("System Volume Information", "Windows"),
        ("lost+found", "the file system"),
        (".snapshot", "the file system"),
        (".directory", "a desktop"),
        (".Trash", "a desktop"),
        ("@eaDir", "a network storage"),
        (".ipynb_checkpoints", "a notebook"),
        (".virtual_documents", "a notebook"),
        ("__pycache__", "Python"),
        (".git", "Git"),
        (".svn", "Subversion"),
        (".hg", "Mercurial"),
        (".idea", "an editor"),
        (".vscode", "an editor"),
        (".stfolder", "a synchroniser"),
    ];
    const BEGINNINGS: [(&str, &str); 6] = [
        ("._", "macOS"),
        (".nfs", "a network file system"),
        (".fuse_hidden", "a file system in user space"),
        (".smbdelete", "a network file system"),
        (".Trash-", "a desktop"),
        (".~lock.", "an office program"),
    ];
    // Hubs keep their books below a folder of this name; programs keep others there.
    if name.starts_with(".cache/huggingface/") || name.starts_with(".huggingface/") {
        return Some("a download tool");
    }
    name.split('/').find_map(|part| {
        let named = NAMES.iter().find(|(known, _)| *known == part);
        let begins = BEGINNINGS.iter().find(|(known, _)| part.starts_with(known));
        named.or(begins).map(|(_, who)| *who)
    })
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileEntry {
    /// Path relative to the model's root, `/` between parts.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, if the listing states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// What it is, if it is no regular file: a pipe, a link out of the folder. Its bytes
    /// are never read, and it counts as empty. Only a listing of what was handed in has
    /// such entries; in a copy of ours they are an error of our storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub special: Option<String>,
}

impl FileEntry {
    /// A file of `size` bytes whose digest nobody vouches for.
    pub fn new(name: impl Into<String>, size: u64) -> Self {
        Self { name: name.into(), size, sha256: None, special: None }
    }

    /// What is no regular file, and what it is instead.
    pub fn special(name: impl Into<String>, what: impl Into<String>) -> Self {
        Self { special: Some(what.into()), ..Self::new(name, 0) }
    }

    /// The same file, vouched for.
    #[must_use]
    pub fn with_sha256(self, sha256: Digest) -> Self {
        Self { sha256: Some(sha256), ..self }
    }
}

#[cfg(test)]
pub(crate) mod memory;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
        assert!(made.success());
        std::os::unix::fs::symlink(&pipe, folder.path().join("link")).expect("linked");
        for path in [pipe, folder.path().join("link"), "/dev/zero".into()] {
            let error = open_file("read", &path).expect_err("no file");
            assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator), "{error}");
        }
        assert!(open_file("read", folder.path()).expect_err("a folder").to_string().contains("directory"));
        fs::write(folder.path().join("file"), "x").expect("written");
        open_file("read", &folder.path().join("file")).expect("a file");
    }

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, [7; 10]).expect("writes");
        assert_eq!(read_bounded("read", &path, 10).expect("fits"), [7; 10]);
        let error = read_bounded("read", &path, 9).expect_err("too large").to_string();
        assert!(error.contains("larger than albedo reads"), "{error}");
        let error = read_bounded("read", folder.path(), 9).expect_err("a folder").to_string();
        assert!(error.contains("directory"), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn a_device_and_a_pipe_are_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let [device, pipe] = ["device", "pipe"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink("/dev/zero", &device).expect("links");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("runs");
        assert!(made.success());
        for path in [device, pipe] {
            let error = read_bounded("read", &path, 9).expect_err("not a file").to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
    }

    #[test]
    fn what_systems_leave_is_told_from_what_models_have() {
        for name in [
            ".DS_Store",
            "._model-00001-of-00002.safetensors",
            "__MACOSX/._config.json",
            "sub/.DS_Store",
            ".nfs000000000123",
            ".fuse_hidden0000",
            ".Trash-1000/files/x",
            ".git/config",
            ".cache/huggingface/download/config.json.metadata",
            "lost+found/x",
            "@eaDir/config.json",
        ] {
            assert!(leftover(name).is_some(), "{name}");
        }
        for name in ["config.json", ".gitattributes", "modeling.py", ".cache/x", ".hidden", "a._b", "Thumbs"]
        {
            assert_eq!(leftover(name), None, "{name}");
        }
    }

    #[test]
    fn a_file_is_read_by_position() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("writes");
        let mut bytes = [0; 3];
        read_exact_at(&file, &mut bytes, 4).expect("reads");
        assert_eq!(&bytes, b"456");
        read_exact_at(&file, &mut bytes, 7).expect("reads to the end");
        assert_eq!(&bytes, b"789");
        let error = read_exact_at(&file, &mut bytes, 8).expect_err("past the end");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        read_exact_at(&file, &mut [], 99).expect("nothing is asked for");
        assert_eq!(read_at(&file, &mut bytes, 10).expect("the end"), 0);
    }
}
