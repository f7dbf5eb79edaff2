//! The configuration that a command works on: the demo duel's, or a file.

use std::path::{Path, PathBuf};

use crate::config::DuelConfig;
use crate::demo::Demo;
use crate::{Error, ErrorKind, Fault, Result};
#[cfg(feature = "validator")]
use crate::{HubRef, ModelRef};

// A comment, since clap would take a docstring for the command's own help.
// Which duel is meant; a command may add members to the group, as `--resume`.
#[derive(Debug, clap::Args)]
#[group(id = "source", required = true, multiple = true)]
pub(super) struct SourceArguments {
    /// Take the demo duel: two small trained models on the CPU, offline judges.
    #[arg(long, conflicts_with = "config")]
    demo: bool,
    /// Take the duel that this TOML file describes.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl SourceArguments {
    /// Whether one of both was given, which a group with further members leaves open.
    pub(super) fn given(&self) -> bool {
        self.demo || self.config.is_some()
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// The operator's: there is no such file, or it is malformed.
    pub(super) fn read(&self) -> Result<DuelConfig> {
        match &self.config {
            Some(path) => DuelConfig::read(path),
            None => DuelConfig::read(&Demo::locate()?.config()),
        }
    }
}

/// Returns `path` of the command line as an absolute one, which means the same
/// in a configuration of another folder.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io("find the path", path, error))
}

/// `path` as a setting of a configuration, which is text.
///
/// # Errors
/// The operator's: it is not UTF-8.
pub(super) fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(ErrorKind::ConfigInvalid, "set the path", "it is not UTF-8, and a configuration is text")
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with_hint("rename the file or folder")
    })
}

/// The model that `text` names: a folder on this machine, or a hub's reference.
///
/// # Errors
/// The operator's: there is no such folder, and it is no reference.
#[cfg(feature = "validator")]
pub(super) fn model(text: &str) -> Result<ModelRef> {
    let folder = Path::new(text);
    if folder.exists() || !text.contains('@') {
        let folder = absolute(folder)?;
        if folder.is_dir() {
            return Ok(ModelRef::from(folder));
        }
        let why = if folder.exists() { "it is no folder" } else { "there is no such folder" };
        return Err(Error::new(ErrorKind::NotFound, "find a model", why)
            .with_fault(Fault::Operator)
            .with("path", folder.display())
            .with_hint("name a model's folder, or a hub's reference such as `oci:owner/model@sha256:…`"));
    }
    text.parse::<HubRef>().map(ModelRef::from)
}

/// The number in `v8`, what the commitments of a competition begin with.
#[cfg(any(feature = "chain", feature = "validator"))]
pub(super) fn version(text: &str) -> std::result::Result<u8, String> {
    use crate::chains::reveal::FIRST_VERSION;

    let number: Option<u8> = text.strip_prefix('v').and_then(|number| number.parse().ok());
    let number = number.filter(|number| *number >= FIRST_VERSION);
    number.ok_or_else(|| format!("a version is `v` and a number from {FIRST_VERSION} to 255: `v8`"))
}
