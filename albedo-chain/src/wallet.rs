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

use albedo_core::{Error, ErrorKind, Result};

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

    /// Writes `pair` as the coldkey, with its public half.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if there is one: keys are never overwritten.
    pub fn create_coldkey(&self, pair: &Keypair, password: Option<&Password>) -> Result<()> {
        make_folder(&self.folder)?;
        write(&self.coldkey(), pair, password)?;
        write_public(&self.coldkey_public(), pair)
    }

    /// Writes `pair` as the hotkey `name`, with its public half.
    ///
    /// # Errors
    /// As [`Wallet::create_coldkey`].
    pub fn create_hotkey(&self, name: &str, pair: &Keypair, password: Option<&Password>) -> Result<()> {
        let path = self.hotkey(name)?;
        make_folder(&self.folder.join("hotkeys"))?;
        write(&path, pair, password)?;
        write_public(&self.hotkey_public(name)?, pair)
    }
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
