//! How much is read of a folder that anybody may have made.

use std::io::Read;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::files::open_file;

/// The longest line of a record or journal, in bytes. A reply of 32,768 tokens with
/// ids, gaps and log-probabilities has about 1.2 MB.
pub(super) const MAX_LINE: u64 = 16 << 20;

/// The largest `record.jsonl`, in bytes: 10,000 samples with replies of 1,024 tokens
/// take about 250 MB.
pub(super) const MAX_LINES: u64 = 512 << 20;

/// The largest `record.blobs`, in bytes: 10,000 samples with prompts of 16,384 tokens
/// take about 700 MB.
pub(super) const MAX_BLOBS: u64 = 1 << 30;

/// The largest `record.digest`, in bytes.
pub(super) const MAX_DIGEST: u64 = 1 << 10;

/// The largest record of a submission that was not admitted, in bytes: its evidence is
/// any JSON, which takes some twenty times the memory of its text.
pub(super) const MAX_FORFEIT: u64 = 16 << 20;

/// All bytes of the regular file at `path`, which has at most `most`.
///
/// # Errors
/// As [`open_file`]; [`ErrorKind::DataInvalid`] if the file is larger.
pub(super) fn read_bounded(operation: &str, path: &Path, most: u64) -> Result<Vec<u8>> {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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
}
