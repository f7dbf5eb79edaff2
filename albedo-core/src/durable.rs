//! Writing to a disk so that a crash leaves either the old or the new: as far as the file
//! system offers it. Some of those over a network or in user space do not sync folders,
//! do not lock files, or do not append to them.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::error::{Error, ErrorKind, Fault, Reach, Result};

/// Replaces the file at `path` by one of `bytes` in one step. They are written and synced
/// at `beside` first, which is in the same folder.
///
/// # Errors
/// A write or the rename fails. A sync that the file system refuses is no error.
pub fn replace(path: &Path, beside: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(beside)?;
    io::Write::write_all(&mut file, bytes)?;
    synced(file.sync_all())?;
    std::fs::rename(beside, path)?;
    // A name alone is one of the working folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    sync_folder(folder.unwrap_or(Path::new(".")))
}

/// Syncs what stands in `folder`: new, renamed and deleted files.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        Ok(folder) => synced(folder.sync_all()),
        // Not every system opens folders; files in it were created all the same.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory) =>
        {
            Ok(())
        }
        Err(error) => synced(Err(error)),
    }
}

/// What came of a sync. Where the file system does not offer it, a crash of the machine
/// may lose the last writes; nothing else can be done about that.
///
/// # Errors
/// The sync failed for another reason.
pub fn synced(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_refusal(&error) => Ok(()),
        result => result,
    }
}

/// Locks `file`, which is at `path`, against other processes while it is open.
///
/// # Errors
/// [`ErrorKind::Conflict`] if another process has locked it; [`ErrorKind::Unsupported`] if
/// the file system has no locks.
pub fn lock(operation: &str, file: &File, path: &Path) -> Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Error::new(ErrorKind::Conflict, operation, "another process has it open")
            .with_fault(Fault::Infrastructure)
            .with("path", path.display())
            .with_hint("wait until it ends, or end it"),
        TryLockError::Error(error) if is_refusal(&error) => {
            Error::new(ErrorKind::Unsupported, operation, "the file system does not lock files")
                .with_fault(Fault::Operator)
                .with_reach(Reach::Duel)
                .with("path", path.display())
                .with_hint("use a folder on a local disk, or mount this file system with locks")
                .with_source(error)
        }
        TryLockError::Error(error) => Error::io(operation, path, error),
    })
}

/// Whether the file system says that it does not do such a thing at all.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    /// `EBADF` of a folder that is open for reading, and `ENOLCK`, on Linux and the
    /// BSDs; they have no kind of their own.
    const CODES: [i32; 3] = [9, 37, 77];
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
        || error.raw_os_error().is_some_and(|code| CODES.contains(&code))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let [path, beside] = ["file", "file.new"].map(|name| folder.path().join(name));
        for bytes in ["one", "the other"] {
            replace(&path, &beside, bytes.as_bytes()).expect("replaces");
            assert_eq!(fs::read_to_string(&path).expect("reads"), bytes);
            assert!(!beside.exists());
        }
    }

    #[test]
    fn a_sync_that_is_not_offered_is_none_and_every_other_failure_is_one() {
        let code = io::Error::from_raw_os_error;
        for refusal in [io::ErrorKind::Unsupported.into(), io::ErrorKind::InvalidInput.into(), code(9)] {
            synced(Err(refusal)).expect("goes on");
        }
        // EIO, ENOSPC, EDQUOT and EROFS of Linux.
        for failure in [5, 28, 122, 30] {
            synced(Err(code(failure))).expect_err("what was written may be lost");
        }
    }
}
