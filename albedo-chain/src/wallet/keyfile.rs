//! Keyfiles: JSON, plain or encrypted.
//!
//! An encrypted file is `$NACL`, a nonce of 24 bytes, and the JSON in a NaCl
//! secret box (XSalsa20-Poly1305). Its key is Argon2i v1.3 of the password with
//! 8 passes over 512 MiB and a salt that all of Bittensor's files share.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use albedo_core::{Error, ErrorKind, Fault, Result, Scheme, Signer};
use argon2::{Algorithm, Argon2, Params, Version};
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::key::{Keypair, Phrase};
use crate::address::address;

/// What an encrypted file begins with.
const NACL: &[u8] = b"$NACL";

/// What files of the older ways of encrypting begin with, and their names.
const OLD: [(&[u8], &str); 2] = [(b"$ANSIBLE_VAULT", "ansible-vault"), (b"gAAAAA", "Fernet")];

/// The salt of every encrypted keyfile (bittensor-wallet's `NACL_SALT`).
const SALT: [u8; 16] = *b"\x13\x71\x83\xdf\xf1\x5a\x09\xbc\x9c\x90\xb5\x51\x87\x39\xe9\xb1";

/// libsodium's `OPSLIMIT_SENSITIVE` of Argon2i.
const PASSES: u32 = 8;

/// libsodium's `MEMLIMIT_SENSITIVE`, in KiB.
const MEMORY: u32 = 512 * 1024;

/// The largest keyfile that is read, in bytes: they have about 500.
const MAX_BYTES: u64 = 64 << 10;

/// The password of a keyfile.
pub struct Password(Zeroizing<String>);

/// What a public keyfile holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeyfile {
    /// The public key.
    pub public_key: [u8; 32],
    /// Its scheme.
    pub scheme: Scheme,
}

impl PublicKeyfile {
    /// The SS58 address.
    pub fn address(&self) -> String {
        address(&self.public_key)
    }
}

/// Reads the secret key in the file at `path`.
///
/// # Errors
/// [`ErrorKind::Unavailable`], the operator's, for a file that others may read
/// and for an encrypted one without or with the wrong password;
/// [`ErrorKind::DataInvalid`] for what is no keyfile;
/// [`ErrorKind::Unsupported`] for the older ways of encrypting.
pub fn read(path: &Path, password: Option<&Password>) -> Result<Keypair> {
    const OPERATION: &str = "read the keyfile";
    let bytes = load(OPERATION, path)?;
    check_mode(OPERATION, path)?;
    let failed = |error: Error| error.with("path", path.display());
    let Some(sealed) = bytes.strip_prefix(NACL) else {
        return parse(&bytes).map_err(failed);
    };
    let denied = |message: &str, hint: &str| {
        failed(Error::new(ErrorKind::Unavailable, OPERATION, message))
            .with_fault(Fault::Operator)
            .with_hint(hint)
    };
    let Some(password) = password else {
        return Err(denied("it is encrypted", "give its password"));
    };
    let Some((nonce, sealed)) = sealed.split_first_chunk::<24>().filter(|(_, sealed)| sealed.len() > 16)
    else {
        return Err(failed(
            Error::new(ErrorKind::DataInvalid, OPERATION, "it is cut short").with_fault(Fault::Operator),
        ));
    };
    let json = cipher(password)?
        .decrypt(&Nonce::from(*nonce), sealed)
        .map_err(|_| denied("the password is wrong, or the file is damaged", "check the password"))?;
    parse(&Zeroizing::new(json)).map_err(failed)
}

/// Whether the keyfile at `path` needs a password.
///
/// # Errors
/// A file that cannot be read.
pub fn is_encrypted(path: &Path) -> Result<bool> {
    let bytes = load("read the keyfile", path)?;
    Ok(bytes.starts_with(NACL) || OLD.iter().any(|(start, _)| bytes.starts_with(start)))
}

/// Reads the public key in the file at `path`: a public keyfile, or a plain
/// secret one.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] for what is neither.
pub fn read_public(path: &Path) -> Result<PublicKeyfile> {
    const OPERATION: &str = "read the public key";
    let bytes = load(OPERATION, path)?;
    let invalid = |message: String| {
        Error::new(ErrorKind::DataInvalid, OPERATION, message)
            .with_fault(Fault::Operator)
            .with("path", path.display())
    };
    let json: Json = serde_json::from_slice(&bytes).map_err(|error| invalid(place(&error)))?;
    let key = json.public().map_err(invalid)?.ok_or_else(|| invalid("it has no public key".into()))?;
    Ok(PublicKeyfile { public_key: key, scheme: json.scheme().map_err(invalid)? })
}

/// Writes the secret key to a new file that only its owner may read.
///
/// # Errors
/// [`ErrorKind::Conflict`] if the file exists: keys are never overwritten.
pub fn write(path: &Path, pair: &Keypair, password: Option<&Password>) -> Result<()> {
    let mut json = Json::public_of(pair);
    json.private_key = Some(hex(&*pair.secret_bytes()));
    json.secret_seed = pair.seed.as_ref().map(|seed| hex(&**seed));
    json.secret_phrase = pair.phrase().map(|phrase| phrase.reveal().to_owned());
    let plain = json.text()?;
    let Some(password) = password else { return create(path, &plain) };
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce)
        .map_err(|error| Error::new(ErrorKind::Unavailable, "encrypt the keyfile", error.to_string()))?;
    let sealed = cipher(password)?
        .encrypt(&Nonce::from(nonce), &**plain)
        .map_err(|error| Error::bug("encrypt the keyfile", error.to_string()))?;
    create(path, &[NACL, &nonce, &sealed].concat())
}

/// Writes the public key to a new file.
///
/// # Errors
/// As [`write()`].
pub fn write_public(path: &Path, pair: &Keypair) -> Result<()> {
    create(path, &Json::public_of(pair).text()?)
}

impl Password {
    /// A password as it was typed. One line break at its end is not part of
    /// it: editors and shells add one.
    pub fn new(text: impl Into<String>) -> Self {
        let mut text = Zeroizing::new(text.into());
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Self(text)
    }

    /// The password in the file at `path`.
    ///
    /// # Errors
    /// A file that cannot be read, or that others may read.
    pub fn read(path: &Path) -> Result<Self> {
        const OPERATION: &str = "read the password";
        let bytes = load(OPERATION, path)?;
        check_mode(OPERATION, path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            Error::new(ErrorKind::DataInvalid, OPERATION, "it is not UTF-8")
                .with_fault(Fault::Operator)
                .with("path", path.display())
        })?;
        Ok(Self::new(text))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A keyfile's JSON. Everything but the public key is optional in the files of
/// one or the other program.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_phrase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_seed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ss58_address: Option<String>,
    /// 0 is ed25519, 1 and absence sr25519.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crypto_type: Option<u8>,
}

impl Drop for Json {
    fn drop(&mut self) {
        for secret in [&mut self.private_key, &mut self.secret_phrase, &mut self.secret_seed] {
            secret.zeroize();
        }
    }
}

impl Json {
    fn public_of(pair: &Keypair) -> Self {
        let key = hex(&pair.public_key());
        let mut json = Self::default();
        json.account_id = Some(key.clone());
        json.public_key = Some(key);
        json.ss58_address = Some(pair.address());
        json.crypto_type = Some(match pair.scheme() {
            Scheme::Ed25519 => 0,
            Scheme::Sr25519 => 1,
        });
        json
    }

    fn text(&self) -> Result<Zeroizing<Vec<u8>>> {
        let text = serde_json::to_vec(self);
        Ok(Zeroizing::new(text.map_err(|error| Error::bug("write the keyfile", error.to_string()))?))
    }

    fn scheme(&self) -> Result<Scheme, String> {
        match self.crypto_type {
            None | Some(1) => Ok(Scheme::Sr25519),
            Some(0) => Ok(Scheme::Ed25519),
            Some(other) => Err(format!("`cryptoType` {other} is neither 0 (ed25519) nor 1 (sr25519)")),
        }
    }

    fn public(&self) -> Result<Option<[u8; 32]>, String> {
        let key = self.public_key.as_ref().or(self.account_id.as_ref());
        key.map(|key| unhex("publicKey", key).map(|key| *key)).transpose()
    }
}

/// The key in the bytes of a plain keyfile.
///
/// # Errors
/// As [`read`]; they never repeat what the file holds.
pub fn parse(bytes: &[u8]) -> Result<Keypair> {
    const OPERATION: &str = "read the keyfile";
    let invalid =
        |message: String| Error::new(ErrorKind::DataInvalid, OPERATION, message).with_fault(Fault::Operator);
    for (start, method) in OLD {
        if bytes.starts_with(start) {
            let message = format!("it is encrypted with {method}, an old way");
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, message)
                .with_fault(Fault::Operator)
                .with_hint("open it with btcli once, which encrypts it anew"));
        }
    }
    let json: Json = serde_json::from_slice(bytes).map_err(|error| invalid(place(&error)))?;
    let scheme = json.scheme().map_err(invalid)?;
    let mut pair = if let Some(seed) = &json.secret_seed {
        Keypair::from_seed(&*unhex("secretSeed", seed).map_err(invalid)?, scheme)?
    } else if let Some(phrase) = &json.secret_phrase {
        Keypair::from_phrase(&Phrase::new(phrase.clone()), scheme)?
    } else if let Some(key) = &json.private_key {
        match scheme {
            Scheme::Sr25519 => Keypair::from_secret(&*unhex("privateKey", key).map_err(invalid)?)?,
            Scheme::Ed25519 => {
                let bytes = unhex::<64>("privateKey", key).map_err(invalid)?;
                let mut seed = Zeroizing::new([0; 32]);
                seed.copy_from_slice(&bytes[..32]);
                Keypair::from_seed(&seed, scheme)?
            }
        }
    } else {
        return Err(invalid("it has no secret: it may be a public keyfile".into()));
    };
    if let (None, Some(phrase)) = (&pair.phrase, &json.secret_phrase) {
        pair.phrase = Some(Phrase::new(phrase.clone()));
    }
    match json.public().map_err(invalid)? {
        Some(public) if public != pair.public_key() => {
            Err(invalid("its public key does not belong to its secret".into()))
        }
        _ => Ok(pair),
    }
}

fn cipher(password: &Password) -> Result<XSalsa20Poly1305> {
    const OPERATION: &str = "derive the key of a keyfile";
    let bug = |error: argon2::Error| Error::bug(OPERATION, error.to_string());
    let params = Params::new(MEMORY, PASSES, 1, Some(32)).map_err(bug)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2i, Version::V0x13, params)
        .hash_password_into(password.0.as_bytes(), &SALT, &mut *key)
        .map_err(bug)?;
    Ok(XSalsa20Poly1305::new(&(*key).into()))
}

fn load(operation: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error| Error::io(operation, path, error);
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::new(ErrorKind::DataInvalid, operation, "it is too large for a key")
            .with_fault(Fault::Operator)
            .with("path", path.display()));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn check_mode(operation: &str, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).map_err(|error| Error::io(operation, path, error))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Error::new(ErrorKind::Unavailable, operation, "others than its owner may read it")
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with_hint("chmod 600 the file"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_: &str, _: &Path) -> Result<()> {
    Ok(())
}

fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    const OPERATION: &str = "write the keyfile";
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(path),
        _ => Error::io(OPERATION, path, error),
    })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Part of a key is none, and would be in the way of the next try.
        let _ = fs::remove_file(path);
        Error::io(OPERATION, path, error)
    })
}

/// There is a key at `path`.
pub(super) fn exists(path: &Path) -> Error {
    Error::new(ErrorKind::Conflict, "write the keyfile", "the file exists, and keys are never overwritten")
        .with_fault(Fault::Operator)
        .with("path", path.display())
        .with_hint("choose another name, or move the file away")
}

/// Where JSON is wrong, without what it holds.
fn place(error: &serde_json::Error) -> String {
    format!("it is no keyfile: wrong JSON at line {}, column {}", error.line(), error.column())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `N` bytes; errors name the field, not its value.
fn unhex<const N: usize>(field: &str, text: &str) -> Result<Zeroizing<[u8; N]>, String> {
    let invalid = || format!("`{field}` is not {N} bytes in hexadecimal");
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    if digits.len() != 2 * N {
        return Err(invalid());
    }
    let mut bytes = Zeroizing::new([0; N]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(invalid);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(bytes)
}
