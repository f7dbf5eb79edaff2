//! The configuration that a command works on: the demo duel's, or a file.

use std::path::{Path, PathBuf};

use crate::config::DuelConfig;
use crate::demo::Demo;
use crate::{Error, Result};

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
