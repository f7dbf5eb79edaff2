//! Verifying signatures of both schemes.

use super::{PublicKey, Scheme, Signature};
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "verify a signature";

/// The context in which Substrate signs with sr25519.
const CONTEXT: &[u8] = b"substrate";

impl PublicKey {
    /// Verifies that `signature` is this key's signature over `message`. Ed25519
    /// is verified strictly: keys and nonces of small order are refused.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if it is not, or if the key is no key of its
    /// scheme.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<()> {
        let verified = match self.scheme {
            Scheme::Ed25519 => {
                let key = ed25519_dalek::VerifyingKey::from_bytes(&self.bytes)
                    .map_err(|error| self.invalid("the bytes are no ed25519 key").with_source(error))?;
                let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
                key.verify_strict(message, &signature).is_ok()
            }
            Scheme::Sr25519 => {
                let key = schnorrkel::PublicKey::from_bytes(&self.bytes)
                    .map_err(|_| self.invalid("the bytes are no sr25519 key"))?;
                schnorrkel::Signature::from_bytes(&signature.0)
                    .is_ok_and(|signature| key.verify_simple(CONTEXT, message, &signature).is_ok())
            }
        };
        if verified { Ok(()) } else { Err(self.invalid("the signature is not this key's over these bytes")) }
    }

    fn invalid(&self, message: &str) -> Error {
        Error::new(ErrorKind::DataInvalid, OPERATION, message).with("key", self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(digits: &str) -> [u8; N] {
        super::super::read_hex(digits).expect("hexadecimal digits")
    }

    /// The key and signature are changed in every bit, and the message.
    fn only_the_true_one_verifies(key: PublicKey, message: &[u8], signature: Signature) {
        key.verify(message, &signature).expect("the signature is true");
        for bit in 0..512 {
            let mut altered = signature;
            altered.0[bit / 8] ^= 1 << (bit % 8);
            assert!(key.verify(message, &altered).is_err(), "bit {bit} of the signature");
        }
        for bit in 0..256 {
            let mut altered = key;
            altered.bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(altered.verify(message, &signature).is_err(), "bit {bit} of the key");
        }
        assert!(key.verify(&[message, b"!"].concat(), &signature).is_err());
    }

    #[test]
    fn ed25519_verifies_the_published_vectors() {
        // RFC 8032, section 7.1, tests 1 and 3.
        for (key, message, signature) in [
            (
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                &[][..],
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b\
                 d25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                &[0xaf, 0x82],
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659\
                 4a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let key = PublicKey { scheme: Scheme::Ed25519, bytes: bytes(key) };
            only_the_true_one_verifies(key, message, Signature(bytes(signature)));
        }
    }

    #[test]
    fn sr25519_verifies_what_schnorrkel_signs_in_the_context_of_substrate() {
        let pair = schnorrkel::MiniSecretKey::from_bytes(&[7; 32])
            .expect("a seed")
            .expand_to_keypair(schnorrkel::ExpansionMode::Ed25519);
        let message = b"a message";
        let signature = Signature(pair.sign_simple(CONTEXT, message).to_bytes());
        let key = PublicKey { scheme: Scheme::Sr25519, bytes: pair.public.to_bytes() };
        only_the_true_one_verifies(key, message, signature);
        // Another context, another scheme.
        let elsewhere = Signature(pair.sign_simple(b"elsewhere", message).to_bytes());
        assert!(key.verify(message, &elsewhere).is_err());
        assert!(PublicKey { scheme: Scheme::Ed25519, ..key }.verify(message, &signature).is_err());
    }

    #[test]
    fn a_key_of_small_order_signs_nothing() {
        // The neutral element verifies any message under a lax verifier.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let key = PublicKey { scheme: Scheme::Ed25519, bytes: neutral };
        assert!(key.verify(b"anything", &Signature(signature)).is_err());
    }
}
