//! Packed blobs: texts by digest, each once, one after the other in one file.
//!
//! An entry is the line `{sha256} {bytes}\n`, the text, and `\n`.

use std::collections::{BTreeMap, BTreeSet};

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
}

/// Which texts a file already holds.
#[derive(Debug, Default)]
pub(crate) struct BlobIndex(BTreeSet<Digest>);

impl BlobIndex {
    /// Appends the entry of `text` to `out` unless the file holds it.
    pub(crate) fn append(&mut self, text: &str, out: &mut Vec<u8>) {
        let reference = TextRef::of(text);
        if self.0.insert(reference.sha256) {
            out.extend_from_slice(format!("{} {}\n", reference.sha256, reference.bytes).as_bytes());
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
        }
    }
}

/// All texts of a blob file, each checked against its digest.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] or [`ErrorKind::DigestMismatch`] with the byte
/// position of the bad entry.
pub(crate) fn read_blobs(file: &[u8]) -> Result<BTreeMap<Digest, String>> {
    let mut texts = BTreeMap::new();
    let mut rest = file;
    while !rest.is_empty() {
        let position = file.len() - rest.len();
        let invalid = |message: &str| {
            Error::new(ErrorKind::DataInvalid, "read the blobs", message).with("byte", position)
        };
        let line = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or_else(|| invalid("an entry has no first line"))?;
        let head =
            std::str::from_utf8(&rest[..line]).map_err(|_| invalid("an entry's first line is not text"))?;
        let (digest, length) =
            head.split_once(' ').ok_or_else(|| invalid("an entry's first line is malformed"))?;
        let digest: Digest = digest.parse()?;
        let length: usize = length.parse().map_err(|_| invalid("an entry's length is no number"))?;
        let body = &rest[line + 1..];
        if body.len() <= length || body[length] != b'\n' {
            return Err(invalid("an entry is cut short"));
        }
        let text = std::str::from_utf8(&body[..length]).map_err(|_| invalid("an entry is not UTF-8"))?;
        if Digest::of(text) != digest {
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                "read the blobs",
                "a text does not have its digest",
            )
            .with("byte", position)
            .with("digest", digest));
        }
        texts.insert(digest, text.to_owned());
        rest = &body[length + 1..];
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
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
            let distinct: BTreeSet<_> = texts.iter().collect();
            prop_assert_eq!(read.len(), distinct.len());
            for text in &texts {
                prop_assert_eq!(&read[&TextRef::of(text).sha256], text);
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
}
