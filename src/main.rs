//! The `albedo` program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod cli;
mod report;

fn main() -> ExitCode {
    cli::main()
}
