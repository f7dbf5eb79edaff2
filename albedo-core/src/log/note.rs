//! Signed notes (C2SP signed-note): a text, and the signatures of keys with names.

use base64ct::{Base64, Encoding};

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::signer::{PublicKey, Scheme, Signature, Signer};

/// Most bytes of a note.
pub(super) const MAX_BYTES: u64 = 64 << 10;

/// Most signatures of a note.
const MAX_SIGNATURES: usize = 64;

/// A text with signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// The text with its last newline.
    pub(super) text: String,
    signatures: Vec<Line>,
}

/// A signature by a key that its name and its number name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    name: String,
    key_id: [u8; 4],
    signature: Vec<u8>,
}

impl Note {
    /// Signs `text`, which ends with a newline, as the key `name`.
    pub(super) fn sign(text: String, name: &str, signer: &dyn Signer) -> Result<Self> {
        let signature = signer.sign(text.as_bytes())?.0.to_vec();
        let key_id = key_id(name, &signer.key());
        Ok(Self { text, signatures: vec![Line { name: name.to_owned(), key_id, signature }] })
    }

    /// Verifies the signature of the key `name`.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if the note has no signature of that key, or one
    /// that is not the key's.
    pub(super) fn verify(&self, name: &str, key: &PublicKey) -> Result<()> {
        let id = key_id(name, key);
        let mut of_key =
            self.signatures.iter().filter(|line| line.name == name && line.key_id == id).peekable();
        if of_key.peek().is_none() {
            return Err(invalid("it is not signed by the key").with("name", name).with("key", key));
        }
        of_key.try_for_each(|line| {
            let bytes = line.signature[..].try_into().map_err(|_| invalid("a signature has not 64 bytes"))?;
            key.verify(self.text.as_bytes(), &Signature(bytes))
        })
    }

    /// Reads a note.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if it is malformed.
    pub(super) fn parse(note: &str) -> Result<Self> {
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(invalid("it has a control character"));
        }
        let (text, signatures) = note.rsplit_once("\n\n").ok_or_else(|| invalid("it has no signatures"))?;
        let signatures = signatures.strip_suffix('\n').ok_or_else(|| invalid("its last line has no end"))?;
        let signatures = signatures.split('\n').map(Line::parse).collect::<Result<Vec<_>>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(invalid(format!("it has more than {MAX_SIGNATURES} signatures")));
        }
        Ok(Self { text: format!("{text}\n"), signatures })
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|Line { name, key_id, signature }| {
            writeln!(f, "\u{2014} {name} {}", Base64::encode_string(&[key_id, &signature[..]].concat()))
        })
    }
}

impl Line {
    fn parse(line: &str) -> Result<Self> {
        let wrong = || invalid("a signature line is malformed");
        let (name, signature) =
            line.strip_prefix("\u{2014} ").and_then(|line| line.split_once(' ')).ok_or_else(wrong)?;
        check_name(name)?;
        let bytes = Base64::decode_vec(signature).map_err(|_| wrong())?;
        let (key_id, signature) = bytes.split_first_chunk().ok_or_else(wrong)?;
        Ok(Self { name: name.to_owned(), key_id: *key_id, signature: signature.to_vec() })
    }
}

/// Checks the name of a key or a log.
///
/// # Errors
/// The operator's: it is empty, or has a space or a plus.
pub(super) fn check_name(name: &str) -> Result<()> {
    let wrong = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if !name.is_empty() && name.len() <= 255 && !name.contains(wrong) {
        return Ok(());
    }
    let message = "the name is empty or too long, or has a space or a plus";
    Err(Error::new(ErrorKind::ConfigInvalid, "name the log", message)
        .with_fault(Fault::Operator)
        .with("name", name.chars().take(300).collect::<String>())
        .with_hint("take the address that the log is served at without its scheme, as `example.com/log`"))
}

/// The key as programs for signed notes take it: name, number and key with its
/// kind, with a plus between them.
pub(super) fn verifier_text(name: &str, key: &PublicKey) -> String {
    let id = u32::from_be_bytes(key_id(name, key));
    format!("{name}+{id:08x}+{}", Base64::encode_string(&encoded(key)))
}

/// The first four bytes of the SHA-256 of name, newline, kind and key.
fn key_id(name: &str, key: &PublicKey) -> [u8; 4] {
    let hash = Digest::of([name.as_bytes(), b"\n", &encoded(key)].concat());
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

/// The key after the byte of its kind. Of sr25519 the specification knows nothing:
/// its kind is the one reserved for others, with a name.
fn encoded(key: &PublicKey) -> Vec<u8> {
    let kind: &[u8] = match key.scheme {
        Scheme::Ed25519 => &[0x01],
        Scheme::Sr25519 => b"\xffalbedo sr25519",
    };
    [kind, &key.bytes].concat()
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, "read a signed note", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::KeyFile;

    fn decode<const N: usize>(text: &str) -> [u8; N] {
        Base64::decode_vec(text).expect("base 64").try_into().expect("a key")
    }

    #[test]
    fn the_note_of_go_is_read_verified_and_written() {
        // The key and the note of the documentation of Go's package note.
        let encoded: [u8; 33] = decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
        let key = PublicKey { scheme: Scheme::Ed25519, bytes: *encoded.last_chunk().expect("32 bytes") };
        let name = "PeterNeumann";
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        assert_eq!(verifier_text(name, &key), text);
        let note = "If you think cryptography is the answer to your problem,\n\
            then you don't know what your problem is.\n\n\
            \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let read = Note::parse(note).expect("reads");
        read.verify(name, &key).expect("is signed");
        assert_eq!(read.to_string(), note);
        assert!(read.verify("Peter", &key).is_err());
        let altered = Note::parse(&note.replace("answer", "Answer")).expect("reads");
        assert!(altered.verify(name, &key).expect_err("altered").to_string().contains("signature is not"));
    }

    #[test]
    fn a_note_of_either_scheme_is_its_own_key_s() {
        let key = KeyFile::from_seed(&[3; 32]);
        let note = Note::sign("a text\n\nof two parts\n".into(), "example.com/log", &key).expect("signs");
        let read = Note::parse(&note.to_string()).expect("reads");
        assert_eq!(read, note);
        read.verify("example.com/log", &key.key()).expect("is signed");
        assert!(read.verify("example.com/log", &KeyFile::from_seed(&[4; 32]).key()).is_err());
        let sr25519 = PublicKey { scheme: Scheme::Sr25519, ..key.key() };
        assert!(read.verify("example.com/log", &sr25519).is_err(), "the scheme is part of the key's number");
    }

    #[test]
    fn malformed_notes_are_refused() {
        for note in [
            "",
            "text\n",
            "text\n\n",
            "text\n\nno signature\n",
            "text\n\n\u{2014} name\n",
            "text\n\n\u{2014} name AAA=\n",
            "text\n\n\u{2014} na+me AAAAAAAA\n",
            "text\n\n\u{2014} name AAAAAAAA",
            "te\rxt\n\n\u{2014} name AAAAAAAA\n",
        ] {
            assert!(Note::parse(note).is_err(), "{note:?}");
        }
        assert!(
            check_name("a b").is_err() && check_name("").is_err() && check_name("example.com/log").is_ok()
        );
    }
}
