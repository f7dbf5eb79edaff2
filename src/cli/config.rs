//! `albedo config`.

use std::path::PathBuf;

use super::exit::Exit;
use super::output::{next, print, print_json, warn, word};
use crate::config::DuelConfig;
use crate::{Registry, Result};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the JSON schema of a duel's configuration, with the settings of
    /// every plugin that this program was built with.
    Schema,
    /// Check a configuration without loading a model or asking anybody.
    Check {
        /// The TOML file.
        file: PathBuf,
    },
}

pub(crate) fn run(command: &Command) -> Result<Exit> {
    let registry = Registry::linked()?;
    match command {
        Command::Schema => print_json(&DuelConfig::schema(&registry))?,
        Command::Check { file } => {
            let config = DuelConfig::read(file)?;
            config.check(&registry).map_err(|error| error.with("path", file.display()))?;
            for doubt in config.doubts() {
                warn(&doubt);
            }
            let judges: Vec<_> = config.judge_labels().collect();
            print(&format!("{} is well-formed; judges: {}\n", file.display(), judges.join(", ")))?;
            next(&[(format!("duel --config {}", word(file)), "runs it")]);
        }
    }
    Ok(Exit::Done)
}
