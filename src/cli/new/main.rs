//! albedo with a plugin of its own.
use my_plugin as _; // An unnamed crate is not linked, nor are its plugins.

fn main() -> std::process::ExitCode {
    albedo::cli::main()
}
