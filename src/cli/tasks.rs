//! `albedo tasks`: task sets.

use super::exit::Exit;
use crate::{CallContext, Result};

mod check;
mod make;
mod manifest;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a pinned task set of conversations in JSON Lines.
    Make(make::Arguments),
    /// Make the pinned manifest of the parquet files of a folder or of a data set at
    /// Hugging Face: rows, bytes and SHA-256 of each.
    Manifest(manifest::Arguments),
    /// Compare every shard of a task set with its manifest.
    Verify(check::Arguments),
    /// Fetch the missing shards of a task set into the cache.
    Prefetch(check::Prefetch),
}

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    match command {
        Command::Make(arguments) => make::run(arguments),
        Command::Manifest(arguments) => manifest::run(arguments, cx).await,
        Command::Verify(arguments) => check::verify(arguments, cx).await,
        Command::Prefetch(arguments) => check::prefetch(arguments, cx).await,
    }
}
