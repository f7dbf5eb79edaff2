//! Writing the canonical record: the same duel gives the same bytes.

use super::blobs::BlobIndex;
use super::{FORMAT, RecordLine, TextRef};
use crate::digest::{Digest, canonical_json};
use crate::error::Result;

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

/// The digest of the duel: SHA-256 over
/// `albedo record 1\n{sha256 of record.jsonl}\n{sha256 of record.blobs}\n`.
pub(super) fn root_digest(format: u32, lines: &[u8], blobs: &[u8]) -> Digest {
    Digest::of(format!("albedo record {format}\n{}\n{}\n", Digest::of(lines), Digest::of(blobs)))
}

/// Collects the lines and texts of a record in plan order.
#[derive(Debug, Default)]
pub struct RecordBuilder {
    lines: Vec<u8>,
    blobs: Vec<u8>,
    index: BlobIndex,
}

impl RecordBuilder {
    /// Adds a line.
    pub fn line(&mut self, line: &RecordLine) -> Result<()> {
        self.lines.append(&mut canonical_json(line)?);
        self.lines.push(b'\n');
        Ok(())
    }

    /// Adds a text; what a line names it by.
    pub fn text(&mut self, text: &str) -> TextRef {
        self.index.append(text, &mut self.blobs);
        TextRef::of(text)
    }

    /// The finished record.
    pub fn finish(self) -> CanonicalRecord {
        let digest = root_digest(FORMAT, &self.lines, &self.blobs);
        CanonicalRecord { lines: self.lines, blobs: self.blobs, digest }
    }
}
