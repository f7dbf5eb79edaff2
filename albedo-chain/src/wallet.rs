//! Wallets as Bittensor keeps them: a folder with a coldkey, which owns, and
//! hotkeys, which sign for it.
//!
//! ```text
//! NAME/coldkey          the owner's secret, encrypted as a rule
//! NAME/coldkeypub.txt   its public half
//! NAME/hotkeys/HOTKEY   a signing key's secret, plain as a rule
//! NAME/hotkeys/HOTKEYpub.txt
//! ```
//!
//! Files of `btcli`, `bittensor-wallet` and `bittensor-core` are read, and what
//! is written here they read. Secrets are wiped from memory when they are
//! dropped, and never printed.

use std::path::{Path, PathBuf};

use albedo_core::{Error, ErrorKind, Fault, Result, Signer};

mod key;
mod keyfile;

pub use key::{Keypair, Phrase};
pub use keyfile::{Password, PublicKeyfile, is_encrypted, parse, read, read_public, write, write_public};

/// A wallet's folder.
///
/// ```
/// use albedo_chain::wallet::{self, Keypair, Wallet};
/// use albedo_core::Scheme;
///
/// let folder = tempfile::tempdir().unwrap();
/// let wallet = Wallet::new(folder.path(), "miner")?;
/// let pair = Keypair::generate(Scheme::Sr25519)?;
/// wallet.create_hotkey("default", &pair, None)?;
///
/// assert_eq!(wallet.hotkeys()?, ["default"]);
/// let read = wallet::read(&wallet.hotkey("default")?, None)?;
/// assert_eq!(read.address(), pair.address());
/// // A key is never overwritten.
/// assert!(wallet.create_hotkey("default", &pair, None).is_err());
/// # Ok::<(), albedo_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wallet {
    folder: PathBuf,
}

impl Wallet {
    /// The wallet `name` in the folder `root` (Bittensor's own is
    /// `~/.bittensor/wallets`). Nothing is read yet.
    ///
    /// # Errors
    /// A name that would leave the folder.
    pub fn new(root: &Path, name: &str) -> Result<Self> {
        Ok(Self { folder: root.join(file_name("wallet", name)?) })
    }

    /// The wallet's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of the coldkey's secret.
    pub fn coldkey(&self) -> PathBuf {
        self.folder.join("coldkey")
    }

    /// The file of the coldkey's public half.
    pub fn coldkey_public(&self) -> PathBuf {
        self.folder.join("coldkeypub.txt")
    }

    /// The file of a hotkey's secret.
    ///
    /// # Errors
    /// A name that would leave the folder.
    pub fn hotkey(&self, name: &str) -> Result<PathBuf> {
        Ok(self.folder.join("hotkeys").join(file_name("hotkey", name)?))
    }

    /// The file of a hotkey's public half.
    ///
    /// # Errors
    /// A name that would leave the folder.
    pub fn hotkey_public(&self, name: &str) -> Result<PathBuf> {
        Ok(self.folder.join("hotkeys").join(format!("{}pub.txt", file_name("hotkey", name)?)))
    }

    /// The names of the hotkeys, sorted.
    ///
    /// # Errors
    /// A folder that cannot be listed; one that does not exist has none.
    pub fn hotkeys(&self) -> Result<Vec<String>> {
        let folder = self.folder.join("hotkeys");
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("list the hotkeys", &folder, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Error::io("list the hotkeys", &folder, error))?;
            let name = entry.file_name().into_string();
            names
                .extend(name.into_iter().filter(|name| !name.ends_with("pub.txt") && entry.path().is_file()));
        }
        names.sort();
        Ok(names)
    }

    /// The public half of the hotkey `name`: of its public file, else of its secret one if that is
    /// not encrypted.
    ///
    /// # Errors
    /// As [`read_public`]; [`ErrorKind::NotFound`], the operator's, if there is no public file and the
    /// secret one is encrypted.
    pub fn read_hotkey_public(&self, name: &str) -> Result<PublicKeyfile> {
        let (secret, public) = (self.hotkey(name)?, self.hotkey_public(name)?);
        if public.exists() {
            return read_public(&public);
        }
        if is_encrypted(&secret)? {
            let message = "the public file is missing, and the secret one is encrypted";
            return Err(Error::new(ErrorKind::NotFound, "read the public key", message)
                .with_fault(Fault::Operator)
                .with("public", public.display())
                .with("secret", secret.display())
                .with_hint(format!(
                    "restore `{name}pub.txt`, or move the secret aside and run `albedo wallet regenerate \
                     --hotkey {name}`"
                )));
        }
        read_public(&secret)
    }

    /// Writes `pair` as the coldkey, with its public half. A public file of the same key may be
    /// there already.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if there is one: keys are never overwritten. Then, and if a write
    /// fails, the wallet is as it was.
    pub fn create_coldkey(&self, pair: &Keypair, password: Option<&Password>) -> Result<()> {
        make_folder(&self.folder)?;
        create(&self.coldkey(), &self.coldkey_public(), pair, password)
    }

    /// Writes `pair` as the hotkey `name`, with its public half. A public file of the same key may
    /// be there already.
    ///
    /// # Errors
    /// As [`Wallet::create_coldkey`].
    pub fn create_hotkey(&self, name: &str, pair: &Keypair, password: Option<&Password>) -> Result<()> {
        let (secret, public) = (self.hotkey(name)?, self.hotkey_public(name)?);
        make_folder(&self.folder.join("hotkeys"))?;
        create(&secret, &public, pair, password)
    }
}

/// Writes both halves of a key, or neither. What is there already is looked at before a secret is
/// written whose phrase would then be lost.
fn create(secret: &Path, public: &Path, pair: &Keypair, password: Option<&Password>) -> Result<()> {
    if secret.exists() {
        return Err(keyfile::exists(secret));
    }
    let has_public = public.exists();
    if has_public {
        let other = match read_public(public) {
            Ok(found) => (found.public_key != pair.public_key()).then(|| found.address()),
            Err(error) => Some(error.message().to_owned()),
        };
        if let Some(other) = other {
            let message = "there is a public keyfile of another key";
            return Err(Error::new(ErrorKind::Conflict, "write the keyfile", message)
                .with_fault(Fault::Operator)
                .with("path", public.display())
                .with("found", other)
                .with_hint("choose another name, or move the file away"));
        }
    }
    write(secret, pair, password)?;
    if has_public {
        return Ok(());
    }
    write_public(public, pair).inspect_err(|_| {
        // Without its public half the next try would find a key, and nobody was shown its phrase.
        let _ = std::fs::remove_file(secret);
    })
}

fn make_folder(folder: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|error| Error::io("make the wallet's folder", folder, error))
}

/// `name`, if it is that of a file and of nothing else.
fn file_name<'a>(what: &str, name: &'a str) -> Result<&'a str> {
    let path = Path::new(name);
    let plain = path.file_name() == Some(path.as_os_str()) && !name.contains(['/', '\\', '\0']);
    if plain && name != "." && name != ".." {
        return Ok(name);
    }
    let operation = format!("find the {what}");
    Err(Error::new(ErrorKind::ConfigInvalid, operation, "its name is not that of a file").with("name", name))
}

#[cfg(test)]
mod tests;
