//! `albedo completions` and `albedo man`: what a shell and `man` know of the
//! program.

use std::path::PathBuf;

use clap_complete::Shell;

use super::exit::Exit;
use super::output::{print, program};
use crate::{Error, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Folder for the pages; it is made if there is none.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints the completion script of `command`, which is the whole program.
pub(crate) fn completions(arguments: &Completions, mut command: clap::Command) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, program(), &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// Writes the manual pages of `command`, one per subcommand.
pub(crate) fn man(arguments: &Man, command: clap::Command) -> Result<Exit> {
    let folder = &arguments.folder;
    let io = |error| Error::io("write the manual pages", folder, error);
    std::fs::create_dir_all(folder).map_err(io)?;
    let name = program();
    clap_mangen::generate_to(command.display_name(&name).bin_name(&name), folder).map_err(io)?;
    print(&format!("{}\n", folder.join(format!("{name}.1")).display()))?;
    Ok(Exit::Done)
}
