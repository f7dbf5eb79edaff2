//! Packed blobs: texts by digest, each once, one after the other in one file.
//!
//! An entry is the line `{sha256} {bytes}\n`, the text, and `\n`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};

/// A text kept as a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TextRef {
    /// Digest of its UTF-8 bytes.
    pub sha256: Digest,
    /// Its length in bytes.
    pub bytes: u64,
}

impl TextRef {
    /// The reference of `text`.
    pub fn of(text: &str) -> Self {
        Self { sha256: Digest::of(text), bytes: text.len() as u64 }
    }

    /// The first line of the text's entry, without its end.
    fn head(&self) -> String {
        format!("{} {}", self.sha256, self.bytes)
    }
}

/// Which texts a file holds, and where.
#[derive(Debug, Default)]
pub(super) struct BlobIndex {
    positions: BTreeMap<TextRef, u64>,
    end: u64,
}

impl BlobIndex {
    /// Appends the entry of `text` to `out` unless the file holds it.
    pub(super) fn append(&mut self, text: &str, out: &mut Vec<u8>) -> TextRef {
        let reference = TextRef::of(text);
        if self.position(&reference).is_none() {
            let head = reference.head();
            out.extend_from_slice(head.as_bytes());
            out.push(b'\n');
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
            self.insert(reference);
        }
        reference
    }

    /// Notes that the entry of `text` is the next of the file.
    pub(super) fn insert(&mut self, text: TextRef) {
        let body = self.end + text.head().len() as u64 + 1;
        self.positions.insert(text, body);
        self.end = body + text.bytes + 1;
    }

    /// Where the text itself begins.
    pub(super) fn position(&self, text: &TextRef) -> Option<u64> {
        self.positions.get(text).copied()
    }

    /// Length of the file.
    pub(super) fn end(&self) -> u64 {
        self.end
    }
}

/// Reads the first line of an entry, without its end.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] if it is not what [`TextRef::head`] writes.
pub(super) fn read_head(head: &[u8]) -> Result<TextRef> {
    let read = || {
        let (digest, bytes) = std::str::from_utf8(head).ok()?.split_once(' ')?;
        Some(TextRef { sha256: digest.parse().ok()?, bytes: bytes.parse().ok()? })
    };
    read().filter(|text| text.head().as_bytes() == head).ok_or_else(|| {
        Error::new(ErrorKind::DataInvalid, "read the blobs", "an entry's first line is malformed")
    })
}

/// All texts of a blob file in its order, each checked against its digest.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] or [`ErrorKind::DigestMismatch`] with the byte
/// position of the bad entry.
pub(super) fn read_blobs(file: &[u8]) -> Result<Vec<(TextRef, String)>> {
    let mut texts = Vec::new();
    let mut rest = file;
    while !rest.is_empty() {
        let position = file.len() - rest.len();
        let bad = |kind, message: &str| Error::new(kind, "read the blobs", message).with("byte", position);
        let invalid = |message: &str| bad(ErrorKind::DataInvalid, message);
        let line = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or_else(|| invalid("an entry has no first line"))?;
        let reference = read_head(&rest[..line]).map_err(|error| error.with("byte", position))?;
        let body = &rest[line + 1..];
        let length = usize::try_from(reference.bytes).unwrap_or(usize::MAX);
        if body.get(length) != Some(&b'\n') {
            return Err(invalid("an entry is cut short"));
        }
        let text = std::str::from_utf8(&body[..length]).map_err(|_| invalid("an entry is not UTF-8"))?;
        if Digest::of(text) != reference.sha256 {
            return Err(bad(ErrorKind::DigestMismatch, "a text does not have its digest")
                .with("digest", reference.sha256));
        }
        texts.push((reference, text.to_owned()));
        rest = &body[length + 1..];
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_reads_back_once(texts in proptest::collection::vec(".{0,40}", 0..8)) {
            let (mut index, mut file) = (BlobIndex::default(), Vec::new());
            for text in texts.iter().chain(&texts) {
                index.append(text, &mut file);
            }
            let read = read_blobs(&file).expect("well-formed");
            prop_assert_eq!(index.end(), file.len() as u64);
            let distinct: BTreeSet<_> = texts.iter().collect();
            prop_assert_eq!(read.len(), distinct.len());
            for (reference, text) in read {
                prop_assert!(distinct.contains(&text));
                let position = index.position(&reference).expect("packed") as usize;
                prop_assert_eq!(&file[position..position + text.len()], text.as_bytes());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_blobs(&bytes);
        }
    }

    #[test]
    fn an_altered_text_is_found() {
        let (mut index, mut file) = (BlobIndex::default(), Vec::new());
        index.append("hello", &mut file);
        let position = file.len() - 2;
        file[position] = b'O';
        assert_eq!(read_blobs(&file).expect_err("altered").kind(), ErrorKind::DigestMismatch);
    }

    #[test]
    fn only_one_spelling_of_a_length_is_read() {
        let digest = Digest::of("hello");
        for head in [format!("{digest} 05"), format!("{digest} +5"), format!("sha256:{digest} 5")] {
            assert!(read_blobs(format!("{head}\nhello\n").as_bytes()).is_err(), "{head}");
        }
    }
}
