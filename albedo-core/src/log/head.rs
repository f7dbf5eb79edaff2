//! The signed head of a log (C2SP tlog-checkpoint).

use std::fmt;

use base64ct::{Base64, Encoding};

use super::note::{Note, check_name};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::signer::{PublicKey, Signer};

/// The most entries of a log. Source: albedo; the arithmetic of trees stays far inside 64
/// bits, whatever a head says.
const MAX_SIZE: u64 = 1 << 48;

/// What a log's key says of the log at one time: its name, how many entries it
/// has, and the hash of its tree. Its text is a signed note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The log's name, which is the name of its key too.
    pub origin: String,
    /// How many entries.
    pub size: u64,
    /// The hash of the tree: 32 bytes that can be anchored anywhere.
    pub root: Digest,
    note: Note,
}

impl Head {
    /// Signs the head of the log `origin`.
    ///
    /// # Errors
    /// A name with a space or a plus; the signer's.
    pub fn sign(origin: &str, size: u64, root: Digest, signer: &dyn Signer) -> Result<Self> {
        check_name(origin)?;
        let text = format!("{origin}\n{size}\n{}\n", encode(&root));
        let note = Note::sign(text, origin, signer)?;
        Ok(Self { origin: origin.to_owned(), size, root, note })
    }

    /// Reads a head. Its signatures are not verified.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if it is malformed.
    pub fn parse(text: &str) -> Result<Self> {
        let note = Note::parse(text)?;
        let mut lines = note.text.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(invalid("it has fewer than three lines"));
        };
        check_name(origin).map_err(|_| invalid("its first line is not the name of a log"))?;
        let number =
            size.parse::<u64>().ok().filter(|number| number.to_string() == size && *number <= MAX_SIZE);
        let size = number.ok_or_else(|| invalid("its second line is not a size"))?;
        let root = decode(root).ok_or_else(|| invalid("its third line is not a hash"))?;
        if lines.any(str::is_empty) {
            return Err(invalid("it has an empty line"));
        }
        Ok(Self { origin: origin.to_owned(), size, root, note })
    }

    /// Verifies that `key` has signed the head under the log's name.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if it has not.
    pub fn verify(&self, key: &PublicKey) -> Result<()> {
        self.note.verify(&self.origin, key)
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}

/// A hash in base 64, as heads and proofs write it.
pub(super) fn encode(hash: &Digest) -> String {
    Base64::encode_string(hash.as_bytes())
}

pub(super) fn decode(text: &str) -> Option<Digest> {
    let bytes: [u8; 32] = Base64::decode_vec(text).ok()?.try_into().ok()?;
    Some(Digest::from(bytes))
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, "read the head of a log", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::KeyFile;

    #[test]
    fn a_head_reads_what_it_writes_and_is_its_own_key_s() {
        let key = KeyFile::from_seed(&[1; 32]);
        let head = Head::sign("example.com/log", 7, Digest::of("tree"), &key).expect("signs");
        let text = head.to_string();
        assert!(text.starts_with("example.com/log\n7\n"), "{text}");
        assert_eq!(Head::parse(&text).expect("reads"), head);
        head.verify(&key.key()).expect("is signed");
        assert!(head.verify(&KeyFile::from_seed(&[2; 32]).key()).is_err());
        let altered = Head::parse(&text.replace("\n7\n", "\n8\n")).expect("reads");
        assert!(altered.verify(&key.key()).is_err());
        for other in ["\n07\n", "\n-1\n", "\n", "\n18446744073709551615\n", "\n9223372036854775809\n"] {
            let wrong = text.replace("\n7\n", other);
            assert!(Head::parse(&wrong).is_err(), "{wrong}");
        }
        assert!(Head::sign("a log", 0, Digest::of(""), &key).is_err());
    }
}
