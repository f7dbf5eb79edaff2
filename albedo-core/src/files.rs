//! A model's files: a listing with ranged reads, wherever they are.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::Result;

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

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileEntry {
    /// Path relative to the model's root, `/` between parts.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, where whoever lists them vouches for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
}

impl FileEntry {
    /// A file of `size` bytes whose digest nobody vouches for.
    pub fn new(name: impl Into<String>, size: u64) -> Self {
        Self { name: name.into(), size, sha256: None }
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
