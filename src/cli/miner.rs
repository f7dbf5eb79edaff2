//! `albedo miner`: from a folder to a submission. `check` and `pack` say what will be handed
//! in, `upload` brings it to the registry, `commit` signs it, `status` says where it stands.

use super::exit::Exit;
use crate::{CallContext, Result};

#[cfg(feature = "chain")]
mod chain;
#[cfg(feature = "validator")]
mod check;
#[cfg(feature = "validator")]
mod draft;
#[cfg(feature = "validator")]
mod pack;
#[cfg(feature = "validator")]
mod status;
#[cfg(feature = "validator")]
mod trial;
#[cfg(feature = "validator")]
mod upload;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Screen a model as a validator does, before anybody else sees it; `--duel` also duels it
    /// with the king.
    #[cfg(feature = "validator")]
    Check(check::Arguments),
    /// Say what a checked model will be in the registry, and what to commit to. Nothing is
    /// uploaded.
    #[cfg(feature = "validator")]
    Pack(pack::Arguments),
    /// Upload a packed model. An upload that was interrupted goes on.
    #[cfg(feature = "validator")]
    Upload(upload::Arguments),
    /// Say where a submission stands at a validator, why, and what to do.
    #[cfg(feature = "validator")]
    Status(status::Arguments),
    /// Register a hotkey on the subnet, at the price that is shown.
    #[cfg(feature = "chain")]
    Register(chain::Register),
    /// Commit to a model: hidden at first, unless it is to be plain.
    #[cfg(feature = "chain")]
    Commit(chain::Commit),
    /// What a hotkey has committed to.
    #[cfg(feature = "chain")]
    Commits(chain::Commits),
}

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    match command {
        #[cfg(feature = "validator")]
        Command::Check(arguments) => Box::pin(check::run(arguments, cx)).await,
        #[cfg(feature = "validator")]
        Command::Pack(arguments) => pack::run(arguments, cx).await,
        #[cfg(feature = "validator")]
        Command::Upload(arguments) => upload::run(arguments, cx).await,
        #[cfg(feature = "validator")]
        Command::Status(arguments) => status::run(arguments, cx).await,
        #[cfg(feature = "chain")]
        Command::Register(arguments) => chain::register(arguments, cx).await,
        #[cfg(feature = "chain")]
        Command::Commit(arguments) => chain::commit(arguments, cx).await,
        #[cfg(feature = "chain")]
        Command::Commits(arguments) => chain::commits(arguments, cx).await,
    }
}
