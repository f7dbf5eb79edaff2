//! Key pairs, and the phrases that they come from.

use std::fmt;

use albedo_core::chain::Hotkey;
use albedo_core::{Error, ErrorKind, Fault, Result, Scheme, Signature, Signer};
use bip39::Mnemonic;
use ed25519_dalek::Signer as _;
use schnorrkel::{ExpansionMode, MiniSecretKey};
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::address::address;

/// The context in which Substrate signs with sr25519.
const CONTEXT: &[u8] = b"substrate";

/// Rounds of PBKDF2 from a phrase's entropy to a seed (substrate-bip39).
const PBKDF2_ROUNDS: u32 = 2048;

/// A secret key and its public half.
pub struct Keypair {
    secret: Secret,
    /// What it was made from, as far as the file tells; needed to write one.
    pub(super) seed: Option<Zeroizing<[u8; 32]>>,
    pub(super) phrase: Option<Phrase>,
}

/// Both wipe themselves when they are dropped.
enum Secret {
    Sr25519(schnorrkel::Keypair),
    Ed25519(ed25519_dalek::SigningKey),
}

/// The words that a key can be made from again.
#[derive(Clone)]
pub struct Phrase(Zeroizing<String>);

impl Keypair {
    /// A new key, and its phrase of 12 words.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn generate(scheme: Scheme) -> Result<Self> {
        const OPERATION: &str = "make a key";
        let mut entropy = Zeroizing::new([0; 16]);
        getrandom::fill(&mut *entropy)
            .map_err(|error| Error::new(ErrorKind::Unavailable, OPERATION, error.to_string()))?;
        let words =
            Mnemonic::from_entropy(&*entropy).map_err(|error| Error::bug(OPERATION, error.to_string()))?;
        Self::from_phrase(&Phrase(Zeroizing::new(words.to_string())), scheme)
    }

    /// The key of a phrase of 12 to 24 English words (BIP 39), as Substrate
    /// derives it.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`], which does not repeat the phrase.
    pub fn from_phrase(phrase: &Phrase, scheme: Scheme) -> Result<Self> {
        const OPERATION: &str = "read the phrase of a key";
        let words = phrase.0.split_whitespace().collect::<Vec<_>>().join(" ");
        let words = Zeroizing::new(words.to_lowercase());
        let mnemonic = Mnemonic::parse_normalized(&words).map_err(|error| {
            let message = match error {
                bip39::Error::BadWordCount(count) => format!("{count} words, not 12, 15, 18, 21 or 24"),
                bip39::Error::UnknownWord(index) => format!("word {} is not of the English list", index + 1),
                bip39::Error::InvalidChecksum => {
                    "its checksum is wrong: a word is mistaken or misplaced".into()
                }
                _ => "it is no phrase of English words".into(),
            };
            Error::new(ErrorKind::DataInvalid, OPERATION, message).with_fault(Fault::Operator)
        })?;
        let (entropy, length) = mnemonic.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let mut seed = Zeroizing::new([0; 64]);
        pbkdf2::pbkdf2_hmac::<Sha512>(&entropy[..length], b"mnemonic", PBKDF2_ROUNDS, &mut *seed);
        let mut half = Zeroizing::new([0; 32]);
        half.copy_from_slice(&seed[..32]);
        let mut pair = Self::from_seed(&half, scheme)?;
        pair.phrase = Some(Phrase(words));
        Ok(pair)
    }

    /// The key of a 32-byte seed.
    ///
    /// # Errors
    /// None in practice: every seed has a key.
    pub fn from_seed(seed: &[u8; 32], scheme: Scheme) -> Result<Self> {
        let secret = match scheme {
            Scheme::Sr25519 => Secret::Sr25519(
                MiniSecretKey::from_bytes(seed)
                    .map_err(|error| Error::bug("read the seed of a key", error.to_string()))?
                    .expand_to_keypair(ExpansionMode::Ed25519),
            ),
            Scheme::Ed25519 => Secret::Ed25519(ed25519_dalek::SigningKey::from_bytes(seed)),
        };
        Ok(Self { secret, seed: Some(Zeroizing::new(*seed)), phrase: None })
    }

    /// The sr25519 key of its 64 secret bytes, of which no phrase is known.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] for bytes that are no key.
    pub fn from_secret(bytes: &[u8; 64]) -> Result<Self> {
        let secret = schnorrkel::SecretKey::from_bytes(bytes).map_err(|_| {
            Error::new(ErrorKind::DataInvalid, "read a secret key", "the bytes are no sr25519 key")
                .with_fault(Fault::Operator)
        })?;
        Ok(Self { secret: Secret::Sr25519(secret.to_keypair()), seed: None, phrase: None })
    }

    /// The phrase, if the key was made from one.
    pub fn phrase(&self) -> Option<&Phrase> {
        self.phrase.as_ref()
    }

    /// The SS58 address.
    pub fn address(&self) -> String {
        address(&self.public_key())
    }

    /// The SS58 address, as the name of a participant.
    pub fn hotkey(&self) -> Hotkey {
        Hotkey(self.address())
    }

    /// The secret bytes as keyfiles hold them: 64 of an sr25519 key, and seed
    /// and public key of an ed25519 key.
    pub(super) fn secret_bytes(&self) -> Zeroizing<[u8; 64]> {
        Zeroizing::new(match &self.secret {
            Secret::Sr25519(pair) => pair.secret.to_bytes(),
            Secret::Ed25519(key) => key.to_keypair_bytes(),
        })
    }
}

impl Signer for Keypair {
    fn scheme(&self) -> Scheme {
        match self.secret {
            Secret::Sr25519(_) => Scheme::Sr25519,
            Secret::Ed25519(_) => Scheme::Ed25519,
        }
    }

    fn public_key(&self) -> [u8; 32] {
        match &self.secret {
            Secret::Sr25519(pair) => pair.public.to_bytes(),
            Secret::Ed25519(key) => key.verifying_key().to_bytes(),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Signature> {
        Ok(Signature(match &self.secret {
            Secret::Sr25519(pair) => pair.sign_simple(CONTEXT, message).to_bytes(),
            Secret::Ed25519(key) => key.sign(message).to_bytes(),
        }))
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keypair")
            .field("scheme", &self.scheme())
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

impl Phrase {
    /// A phrase as somebody wrote it down; it is checked where it is used.
    pub fn new(words: impl Into<String>) -> Self {
        Self(Zeroizing::new(words.into()))
    }

    /// The words: for the one who has to write them down.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phrase(…)")
    }
}
