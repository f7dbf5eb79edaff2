//! Writing a page to open in a browser.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use crate::{Error, ErrorKind, Fault, Result};

const OPERATION: &str = "write the report";

/// Refuses to replace a file at `path` that is no page of `generator`, which a page names near
/// its beginning.
pub(super) fn spare(path: &Path, generator: &str) -> Result<()> {
    let mut beginning = Vec::new();
    match File::open(path).and_then(|file| file.take(4 << 10).read_to_end(&mut beginning)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(OPERATION, path, error)),
        Ok(_) if beginning.is_empty() || String::from_utf8_lossy(&beginning).contains(&mark(generator)) => {
            Ok(())
        }
        Ok(_) => Err(Error::new(ErrorKind::Conflict, OPERATION, "the file is there, and is no report")
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with_hint("name another one with `--out FILE`")),
    }
}

/// Writes a file in one step, and returns its size in bytes: who reads it meanwhile has the
/// old one.
pub(super) fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<u64> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let beside = path.with_file_name(name);
    let written = (|| {
        let mut file = BufWriter::new(File::create(&beside)?);
        content(&mut file)?;
        let bytes = file.into_inner().map_err(io::IntoInnerError::into_error)?.metadata()?.len();
        std::fs::rename(&beside, path)?;
        Ok(bytes)
    })();
    if written.is_err() {
        // What is left of it helps nobody; the error of the write is the one to tell.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn mark(generator: &str) -> String {
    format!("content=\"{generator}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "content=\"albedo record report\"";

    #[test]
    fn only_a_report_is_replaced_and_a_failed_write_leaves_the_old_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report.html");
        assert!(spare(&path, "albedo record report").is_ok(), "there is none yet");
        std::fs::write(&path, "<p>my notes").expect("writes");
        let error = spare(&path, "albedo record report").expect_err("another file").to_string();
        assert!(error.contains("--out FILE"), "{error}");
        std::fs::write(&path, format!("<meta name=\"generator\" {MARK}>")).expect("writes");
        assert!(spare(&path, "albedo record report").is_ok());
        assert!(spare(&path, "albedo distil report").is_err(), "it is another report");

        let failed = write(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("no space"))
        });
        assert!(failed.is_err());
        assert!(std::fs::read_to_string(&path).expect("reads").contains(MARK), "the old one is there");
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1, "nothing is left beside it");
        assert_eq!(write(&path, |out| out.write_all(b"whole")).expect("writes"), 5);
    }
}
