//! Proofs that stand for themselves.

use std::fmt;

use base64ct::{Base64, Encoding};
use serde::Serialize;

use super::head::{Head, decode, encode};
use super::merkle::{leaf_hash, verify_consistency, verify_inclusion};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::signer::PublicKey;

const MAGIC: &str = "c2sp.org/tlog-proof@v1";

/// That an entry is in a log; its text (C2SP tlog-proof) has the entry as its
/// extra data and the log's head at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// The entry's place, from 0.
    pub index: u64,
    /// The entry.
    pub entry: Vec<u8>,
    /// The hashes from the entry's sibling up.
    pub path: Vec<Digest>,
    /// The head that it is proved under.
    pub head: Head,
}

impl InclusionProof {
    /// Verifies that the log whose head `key` has signed has the entry.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if that is not proved.
    pub fn verify(&self, key: &PublicKey) -> Result<()> {
        self.check(Some(key))
    }

    /// As [`InclusionProof::verify`]. Without a key, it is not known who signed the head.
    ///
    /// # Errors
    /// As [`InclusionProof::verify`].
    pub fn check(&self, key: Option<&PublicKey>) -> Result<()> {
        let Self { index, entry, path, head } = self;
        if let Some(key) = key {
            head.verify(key)?;
        }
        verify_inclusion(leaf_hash(entry), *index, head.size, head.root, path)
    }

    /// Reads a proof. It is not verified.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if it is malformed.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |message: &str| Error::new(ErrorKind::DataInvalid, "read an inclusion proof", message);
        let (proof, head) = text.split_once("\n\n").ok_or_else(|| wrong("it has no head"))?;
        let mut lines = proof.lines();
        if lines.next() != Some(MAGIC) {
            return Err(wrong("its first line is not that of such a proof"));
        }
        let entry = lines.next().and_then(|line| line.strip_prefix("extra "));
        let entry =
            entry.and_then(|text| Base64::decode_vec(text).ok()).ok_or_else(|| wrong("it has no entry"))?;
        let index =
            lines.next().and_then(|line| line.strip_prefix("index ")).and_then(|text| text.parse().ok());
        let index = index.ok_or_else(|| wrong("it has no index"))?;
        let path =
            lines.map(decode).collect::<Option<_>>().ok_or_else(|| wrong("a line of it is no hash"))?;
        Ok(Self { index, entry, path, head: Head::parse(head)? })
    }
}

impl fmt::Display for InclusionProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, entry, path, head } = self;
        writeln!(f, "{MAGIC}\nextra {}\nindex {index}", Base64::encode_string(entry))?;
        path.iter().try_for_each(|hash| writeln!(f, "{}", encode(hash)))?;
        write!(f, "\n{head}")
    }
}

/// That a log begins with what it was once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// How many entries it had.
    pub size: u64,
    /// The hash of its tree then.
    pub root: Digest,
    /// The hashes, as RFC 6962 orders them.
    pub path: Vec<Digest>,
    /// The head that it is proved under.
    pub head: Head,
}

impl ConsistencyProof {
    /// Verifies that the log whose head `key` has signed begins with what `held`, a
    /// head of the same log and key, stated.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if that is not proved.
    pub fn verify(&self, held: &Head, key: &PublicKey) -> Result<()> {
        held.verify(key)?;
        self.head.verify(key)?;
        if held.origin != self.head.origin {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                "verify a consistency proof",
                "the heads are of two logs",
            )
            .with("one", &held.origin)
            .with("other", &self.head.origin));
        }
        verify_consistency((held.size, held.root), (self.head.size, self.head.root), &self.path)
    }

    pub(super) fn check(&self) -> Result<()> {
        verify_consistency((self.size, self.root), (self.head.size, self.head.root), &self.path)
    }
}

impl Serialize for ConsistencyProof {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { size, root, path, head } = self;
        serde_json::json!({
            "old_size": size,
            "old_root": encode(root),
            "path": path.iter().map(encode).collect::<Vec<_>>(),
            "checkpoint": head.to_string(),
        })
        .serialize(serializer)
    }
}
