//! `albedo config`.

use std::path::PathBuf;

use serde_json::json;

use super::exit::Exit;
use super::output::{next, print, print_foreign_json, print_json, warn, word};
use crate::config::{DuelConfig, PluginConfig, label, reference};
use crate::{Judge, Registry, Result};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the JSON schema of a duel's configuration, with the settings of
    /// every plugin that this program was built with.
    Schema,
    /// Print every key of the configuration files of a duel, a server and a validator as
    /// Markdown: type, default, unit, meaning, and how it looks in TOML.
    Reference,
    /// Check a configuration without loading a model or asking anybody.
    Check {
        /// The TOML file.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: &Command) -> Result<Exit> {
    let registry = Registry::linked()?;
    match command {
        Command::Schema => print_foreign_json(&DuelConfig::schema(&registry))?,
        Command::Reference => print(&reference(&registry))?,
        Command::Check { file, json } => {
            let config = DuelConfig::read(file)?;
            config.check(&registry).map_err(|error| error.with("path", file.display()))?;
            let doubts = config.doubts();
            for doubt in &doubts {
                warn(doubt);
            }
            let judges: Vec<_> = config.judges.iter().map(judge).collect();
            if *json {
                let file = file.display().to_string();
                print_json(&json!({ "file": file, "judges": judges, "doubts": doubts }))?;
            } else {
                print(&format!("{} is well-formed; judges: {}\n", file.display(), judges.join(", ")))?;
                next(&[(format!("duel --config {}", word(file)), "runs it")]);
            }
        }
    }
    Ok(Exit::Done)
}

/// What the panel calls a judge, and its plugin if that is another name.
fn judge(judge: &PluginConfig<dyn Judge>) -> String {
    match label(judge) {
        label if label != judge.name() => format!("{label} ({})", judge.name()),
        label => label.to_owned(),
    }
}
