//! `albedo tasks`: task sets of one's own.

use super::exit::Exit;
use crate::Result;

mod make;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a pinned task set of conversations in JSON Lines.
    Make(make::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<Exit> {
    match command {
        Command::Make(arguments) => make::run(arguments),
    }
}
