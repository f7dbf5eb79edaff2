//! The demo pack: two trained models and pinned tasks, in the repository's
//! `examples/demo/` or, with the feature `demo`, in the program itself.

use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

const FIND: &str = "find the demo pack";

/// Where the demo pack is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demo {
    folder: PathBuf,
}

impl Demo {
    /// Environment variable that names the demo pack's folder.
    pub const VARIABLE: &'static str = "ALBEDO_DEMO_DIR";

    /// Finds the pack: in `examples/demo` of the working directory, else where
    /// [`Demo::VARIABLE`] says, else (with the feature `demo`) in the user's cache
    /// folder, where it is written if it is not there, and again if a file of it does
    /// not have its digest.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with the places; the operating system's if the cache
    /// cannot be written.
    pub fn locate() -> Result<Self> {
        let beside = PathBuf::from("examples/demo");
        let named = std::env::var_os(Self::VARIABLE).map(PathBuf::from);
        let mut places = std::iter::once(beside).chain(named.clone());
        match places.find(|folder| folder.join("duel.toml").is_file()) {
            Some(folder) => Ok(Self { folder }),
            // A folder that was named and is not one is a mistake to be told of.
            None if named.is_none() => Self::unpacked(),
            None => Err(not_found(named.as_deref())),
        }
    }

    /// The pack in the user's cache folder.
    #[cfg(feature = "demo")]
    fn unpacked() -> Result<Self> {
        let (registry, cx) = (crate::Registry::empty(), crate::CallContext::new());
        let cache = crate::BuildContext::new(&registry, &cx).cache_dir()?;
        embedded::unpack(&cache.join("demo")).map(|folder| Self { folder })
    }

    #[cfg(not(feature = "demo"))]
    fn unpacked() -> Result<Self> {
        Err(not_found(None))
    }

    /// The pack's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The demo duel's configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("duel.toml")
    }

    /// The king's model folder.
    pub fn king(&self) -> PathBuf {
        self.folder.join("models/king")
    }

    /// The challenger's model folder.
    pub fn challenger(&self) -> PathBuf {
        self.folder.join("models/challenger")
    }

    /// The folder of the pinned tasks.
    pub fn tasks(&self) -> PathBuf {
        self.folder.join("tasks")
    }
}

fn not_found(named: Option<&Path>) -> Error {
    let named = named.map_or_else(|| "unset".into(), |folder| folder.display().to_string());
    Error::new(ErrorKind::NotFound, FIND, "there is no `duel.toml` where it should be")
        .with("looked in", "examples/demo")
        .with(Demo::VARIABLE, named)
        .with_hint(format!(
            "run albedo in the root of its repository, set {} to the pack's folder, or build with the feature `demo`",
            Demo::VARIABLE
        ))
}

/// The pack that is part of the program.
#[cfg(feature = "demo")]
mod embedded {
    use std::fs;
    use std::io;
    use std::path::{Path, PathBuf};

    use crate::{Digest, Error, Result};

    const UNPACK: &str = "unpack the demo";

    /// The pack's own folder below `cache`, every file of it with its digest. Another
    /// version's pack has another folder.
    pub(super) fn unpack(cache: &Path) -> Result<PathBuf> {
        let damaged = |error: io::Error| Error::bug(UNPACK, error.to_string()).with_source(error);
        let folder = cache.join(Digest::of(albedo_demo::listing().map_err(damaged)?).short());
        let entries = albedo_demo::entries().map_err(damaged)?;
        let whole = |entry: &albedo_demo::Entry| {
            fs::read(folder.join(&entry.name))
                .is_ok_and(|bytes| Digest::of(&bytes).to_string() == entry.sha256)
        };
        if entries.iter().all(whole) {
            return Ok(folder);
        }
        albedo_demo::unpack(|entry, bytes| replace(&folder.join(&entry.name), bytes)).map_err(|error| {
            Error::io(UNPACK, &folder, error).with_hint(format!(
                "set XDG_CACHE_HOME to a folder that can be written, or {} to one with the pack",
                super::Demo::VARIABLE
            ))
        })?;
        Ok(folder)
    }

    /// Writes `path` whole or not at all: another process may be doing the same.
    fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        fs::write(&partial, bytes)?;
        fs::rename(&partial, path)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_pack_is_written_once_and_mended_where_it_was_altered() {
            let cache = tempfile::tempdir().expect("a folder");
            let folder = unpack(cache.path()).expect("unpacks");
            let config = folder.join("duel.toml");
            let written = |path: &Path| fs::metadata(path).expect("is there").modified().expect("a time");
            let first = written(&config);
            assert_eq!(unpack(cache.path()).expect("is there"), folder);
            assert_eq!(written(&config), first, "nothing is written again");

            let tokenizer = folder.join("models/king/tokenizer.json");
            let whole = fs::read(&tokenizer).expect("reads");
            fs::write(&tokenizer, &whole[1..]).expect("writes");
            unpack(cache.path()).expect("mends");
            assert_eq!(fs::read(&tokenizer).expect("reads"), whole);
        }
    }
}
