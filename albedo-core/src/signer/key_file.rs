//! A signing key in a file.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use super::{Scheme, Signature, Signer};
use crate::error::{Error, ErrorKind, Fault, Result};

const OPERATION: &str = "read the signing key";

/// Most bytes of a key's file.
const MAX_BYTES: u64 = 16 << 10;

/// An ed25519 key from a file in PKCS #8, PEM (RFC 8410), as
/// `openssl genpkey -algorithm ed25519 -out FILE` makes one. Its memory is
/// wiped when it is dropped.
pub struct KeyFile(SigningKey);

impl KeyFile {
    /// Reads the key in `path`, which only its owner may read or write
    /// (mode 0600 or less, where the system has modes).
    ///
    /// # Errors
    /// The operator's: there is no such file, it is no regular file, others may
    /// read it, or it holds no ed25519 key. No error holds any part of the key.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |error| Error::io(OPERATION, path, error).with_fault(Fault::Operator);
        let wrong = |message: &str| {
            Error::new(ErrorKind::DataInvalid, OPERATION, message)
                .with_fault(Fault::Operator)
                .with("path", path.display())
        };
        // Opening a pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(wrong("it is no regular file"));
        }
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if others_may_use(&metadata) {
            return Err(wrong("other users may read or write the file")
                .with_hint(format!("run `chmod 600 {}`", path.display())));
        }
        let mut pem = Zeroizing::new(String::new());
        file.take(MAX_BYTES).read_to_string(&mut pem).map_err(io)?;
        let key = SigningKey::from_pkcs8_pem(&pem).map_err(|_| {
            wrong("it holds no ed25519 key in PKCS #8, PEM")
                .with_hint("make one with `openssl genpkey -algorithm ed25519 -out FILE`")
        })?;
        Ok(Self(key))
    }

    /// The key of a 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Writes the key to the new file `path`, as [`KeyFile::open`] reads it: in PKCS #8,
    /// PEM, for its owner alone.
    ///
    /// # Errors
    /// The operating system's; the file exists.
    pub fn save_new(&self, path: &Path) -> Result<()> {
        const SAVE: &str = "save the signing key";
        let io = |error| Error::io(SAVE, path, error);
        let pem = self.0.to_pkcs8_pem(LineEnding::LF);
        let pem = pem.map_err(|error| Error::bug(SAVE, error.to_string()))?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(io)?;
        file.write_all(pem.as_bytes()).and_then(|()| crate::durable::synced(file.sync_all())).map_err(io)
    }
}

impl Signer for KeyFile {
    fn scheme(&self) -> Scheme {
        Scheme::Ed25519
    }

    fn public_key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    fn sign(&self, message: &[u8]) -> Result<Signature> {
        Ok(Signature(self.0.sign(message).to_bytes()))
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyFile").field(&self.key()).finish()
    }
}

#[cfg(unix)]
fn others_may_use(metadata: &Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0
}

#[cfg(not(unix))]
fn others_may_use(_: &Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl genpkey -algorithm ed25519`, and its public key by
    /// `openssl pkey -pubout`.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEILiCsg1iAN4VcGeofra1Px0MV3IpgShmd2CiuHaeYhUi\n\
        -----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "9924a7ed1ea32f0a45ac50081e90d01f2061191894e26fb97cb565e55557283a";

    fn write(path: &Path, text: &[u8], mode: u32) {
        std::fs::write(path, text).expect("writes");
        #[cfg(unix)]
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("sets");
        let _ = mode;
    }

    #[test]
    fn a_key_that_openssl_made_signs_and_is_never_printed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key.pem");
        write(&path, PEM.as_bytes(), 0o600);
        let key = KeyFile::open(&path).expect("a key");
        assert_eq!(key.key().to_string(), format!("ed25519:{PUBLIC}"));
        key.key().verify(b"text", &key.sign(b"text").expect("signs")).expect("verifies");
        assert_eq!(format!("{key:?}"), format!("KeyFile(ed25519:{PUBLIC})"));
    }

    #[test]
    fn a_key_that_is_saved_reads_back_and_replaces_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key.pem");
        let key = KeyFile::from_seed(&[7; 32]);
        key.save_new(&path).expect("saves");
        assert_eq!(KeyFile::open(&path).expect("reads").public_key(), key.public_key());
        KeyFile::from_seed(&[8; 32]).save_new(&path).expect_err("there is one");
        assert_eq!(KeyFile::open(&path).expect("reads").public_key(), key.public_key());
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key.pem");
        let secret = PEM.lines().nth(1).expect("a line").trim();
        for (text, mode, words) in [
            (PEM.as_bytes(), 0o640, "other users may read"),
            (PEM.as_bytes(), 0o602, "chmod 600"),
            (&PEM.as_bytes()[..60], 0o600, "no ed25519 key"),
            (b"", 0o600, "openssl genpkey"),
            (b"\xff", 0o600, "UTF-8"),
        ] {
            write(&path, text, mode);
            let error = KeyFile::open(&path).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.fault(), Fault::Operator);
            assert!(!format!("{error:?}").contains(secret), "{error:?}");
        }
        assert!(KeyFile::open(folder.path()).expect_err("a folder").to_string().contains("no regular file"));
        assert_eq!(KeyFile::open(&folder.path().join("none")).expect_err("none").kind(), ErrorKind::NotFound);
    }
}
