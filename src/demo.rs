//! The demo pack: two trained models and pinned tasks in `examples/demo/`.

use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// Where the demo pack is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demo {
    folder: PathBuf,
}

impl Demo {
    /// Environment variable that names the demo pack's folder.
    pub const VARIABLE: &'static str = "ALBEDO_DEMO_DIR";

    /// Finds the pack: in `examples/demo` of the working directory, else where
    /// [`Demo::VARIABLE`] says.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with both places.
    pub fn locate() -> Result<Self> {
        let beside = PathBuf::from("examples/demo");
        let named = std::env::var_os(Self::VARIABLE).map(PathBuf::from);
        let mut places = std::iter::once(beside).chain(named.clone());
        match places.find(|folder| folder.join("duel.toml").is_file()) {
            Some(folder) => Ok(Self { folder }),
            None => Err(Error::new(
                ErrorKind::NotFound,
                "find the demo pack",
                "there is no `duel.toml` where it should be",
            )
            .with("looked in", "examples/demo")
            .with(Self::VARIABLE, named.map_or_else(|| "unset".into(), |folder| folder.display().to_string()))
            .with_hint(format!(
                "run albedo in the root of its repository, or set {} to the pack's folder",
                Self::VARIABLE
            ))),
        }
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
