//! Writing the canonical record: the same duel gives the same bytes.

use std::fmt;

use super::blobs::BlobIndex;
use super::{FORMAT, RecordLine, TextRef};
use crate::digest::{Digest, Hasher, canonical_json};
use crate::error::{Error, ErrorKind, Result};

/// The two files of a record and their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalRecord {
    /// `record.jsonl`.
    pub lines: Vec<u8>,
    /// `record.blobs`.
    pub blobs: Vec<u8>,
    /// The digest of the duel.
    pub digest: Digest,
}

/// Digests of a record's two files. `Display` is `record.digest`: the digest of
/// the duel, then the three lines that it is the SHA-256 of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// The record's format.
    pub format: u32,
    /// Digest of `record.jsonl`.
    pub lines: Digest,
    /// Digest of `record.blobs`.
    pub blobs: Digest,
}

impl Digests {
    /// The digest of the duel.
    pub fn root(&self) -> Digest {
        Digest::of(self.manifest())
    }

    /// Reads `record.digest`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a newer format,
    /// [`ErrorKind::DataInvalid`] for anything but what `Display` writes.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let operation = "read the record's digest";
        let invalid = || {
            Error::new(ErrorKind::DataInvalid, operation, "it is not a digest and the three lines under it")
        };
        let text = std::str::from_utf8(file).map_err(|_| invalid())?;
        let (root, manifest) = text.split_once('\n').ok_or_else(invalid)?;
        if root != Digest::of(manifest).to_string() {
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                operation,
                "its first line is not the digest of the others",
            ));
        }
        let parse = || {
            let mut lines = manifest.lines();
            let format = lines.next()?.strip_prefix("albedo record ")?.parse().ok()?;
            let mut digest = |name| lines.next()?.strip_suffix(name)?.parse().ok();
            Some(Self { format, lines: digest("  record.jsonl")?, blobs: digest("  record.blobs")? })
        };
        let digests = parse().ok_or_else(invalid)?;
        check_format(digests.format)?;
        if digests.to_string() == text { Ok(digests) } else { Err(invalid()) }
    }

    fn manifest(&self) -> String {
        let Self { format, lines, blobs } = self;
        format!("albedo record {format}\n{lines}  record.jsonl\n{blobs}  record.blobs\n")
    }
}

impl fmt::Display for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.root(), self.manifest())
    }
}

/// Whether this build knows `format`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it does not.
pub(super) fn check_format(format: u32) -> Result<()> {
    if (1..=FORMAT).contains(&format) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "read the record",
        "it has a format that this albedo does not know",
    )
    .with("format", format)
    .with("known", format!("1 to {FORMAT}"))
    .with_hint("update albedo"))
}

/// The next bytes of a record's two files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordPart {
    /// Of `record.jsonl`.
    pub lines: Vec<u8>,
    /// Of `record.blobs`.
    pub blobs: Vec<u8>,
}

/// Writes the lines and texts of a record in plan order, and digests them as
/// they pass by.
#[derive(Debug, Default)]
pub struct RecordBuilder {
    part: RecordPart,
    index: BlobIndex,
    lines: Hasher,
    blobs: Hasher,
}

impl RecordBuilder {
    /// Adds a line.
    pub fn line(&mut self, line: &RecordLine) -> Result<()> {
        self.part.lines.append(&mut canonical_json(line)?);
        self.part.lines.push(b'\n');
        Ok(())
    }

    /// Adds a text; what a line names it by.
    pub fn text(&mut self, text: &str) -> TextRef {
        self.index.append(text, &mut self.part.blobs)
    }

    /// Bytes that [`RecordBuilder::take`] would give.
    pub fn pending(&self) -> usize {
        self.part.lines.len() + self.part.blobs.len()
    }

    /// What was added since the last call.
    pub fn take(&mut self) -> RecordPart {
        self.lines.update(&self.part.lines);
        self.blobs.update(&self.part.blobs);
        std::mem::take(&mut self.part)
    }

    /// The last part, and the digests of all parts.
    pub fn finish(mut self) -> (RecordPart, Digests) {
        let part = self.take();
        (part, Digests { format: FORMAT, lines: self.lines.finish(), blobs: self.blobs.finish() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_file_reads_back_and_any_altered_byte_is_found() {
        let digests = Digests { format: FORMAT, lines: Digest::of("a"), blobs: Digest::of("b") };
        let file = digests.to_string();
        assert_eq!(Digests::parse(file.as_bytes()).ok(), Some(digests));
        for position in 0..file.len() {
            let mut altered = file.clone().into_bytes();
            altered[position] ^= 1;
            assert!(Digests::parse(&altered).is_err(), "{position}");
        }
        assert!(Digests::parse(format!("{file}\n").as_bytes()).is_err());
        let newer = Digests { format: FORMAT + 1, ..digests };
        let error = Digests::parse(newer.to_string().as_bytes()).expect_err("newer");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
