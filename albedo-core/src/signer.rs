//! Signing keys: who signs, a public key, and a signature.

use std::fmt::{self, Debug};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Fault, Result};

// Its own tests need it whichever features are asked for.
#[cfg(any(test, feature = "signatures"))]
mod key_file;
#[cfg(any(test, feature = "signatures"))]
mod verify;

#[cfg(any(test, feature = "signatures"))]
pub use key_file::KeyFile;

/// Signs bytes with one key. The secret stays with the implementation.
pub trait Signer: Debug + Send + Sync + 'static {
    /// The signature scheme.
    fn scheme(&self) -> Scheme;

    /// The public key, 32 bytes in both schemes.
    fn public_key(&self) -> [u8; 32];

    /// Signs `message` as it is: the caller puts into it what separates one use
    /// of the key from another. An sr25519 signature is made in the context
    /// `substrate`, and is different every time.
    ///
    /// # Errors
    /// Whatever keeps the key from being used.
    fn sign(&self, message: &[u8]) -> Result<Signature>;

    /// The public key with its scheme.
    fn key(&self) -> PublicKey {
        PublicKey { scheme: self.scheme(), bytes: self.public_key() }
    }
}

/// A signature scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Schnorr signatures on Ristretto25519, as Substrate uses them.
    Sr25519,
    /// Edwards-curve signatures (RFC 8032).
    Ed25519,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sr25519 => "sr25519",
            Self::Ed25519 => "ed25519",
        })
    }
}

/// A public key; `ed25519:` or `sr25519:` and 64 hexadecimal digits as text.
/// With the feature `signatures` it verifies signatures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey {
    /// The scheme that the key is of.
    pub scheme: Scheme,
    /// The key's bytes as its scheme encodes them.
    pub bytes: [u8; 32],
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        write_hex(&self.bytes, f)
    }
}

impl Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let key = text.split_once(':').and_then(|(scheme, digits)| {
            let scheme = match scheme {
                "sr25519" => Scheme::Sr25519,
                "ed25519" => Scheme::Ed25519,
                _ => return None,
            };
            Some(Self { scheme, bytes: read_hex(digits)? })
        });
        key.ok_or_else(|| {
            Error::new(ErrorKind::DataInvalid, "read a public key", "the text is not a public key")
                .with_fault(Fault::Operator)
                .with("text", text.chars().take(100).collect::<String>())
                .with_hint("write `ed25519:` or `sr25519:` and 64 hexadecimal digits")
        })
    }
}

/// A signature: 64 bytes in both schemes, 128 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature(pub [u8; 64]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        signature.to_string()
    }
}

impl TryFrom<String> for Signature {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        read_hex(&text).map(Self).ok_or_else(|| {
            Error::new(ErrorKind::DataInvalid, "read a signature", "it is not 128 hexadecimal digits")
        })
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_a_signature_read_what_they_write() {
        let key = PublicKey { scheme: Scheme::Sr25519, bytes: [0xab; 32] };
        assert_eq!(key.to_string(), format!("sr25519:{}", "ab".repeat(32)));
        assert_eq!(key.to_string().parse::<PublicKey>().expect("a key"), key);
        let signature = Signature([7; 64]);
        let text = serde_json::to_string(&signature).expect("JSON");
        assert_eq!(serde_json::from_str::<Signature>(&text).expect("a signature"), signature);
        for wrong in ["", "ed25519", "ed25519:00", "rsa:00", &format!("ed25519:{}", "é".repeat(32))] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
            assert!(Signature::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
