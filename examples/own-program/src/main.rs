//! albedo with a judge of its own. `main` is all that a program takes: the judge
//! has a name, so that configuration alone puts it on a panel.
//!
//! ```sh
//! cd examples/own-program
//! cargo run --release -- plugins
//! cargo run --release -- duel --config duel.toml
//! ```
mod one_command;

fn main() -> std::process::ExitCode {
    albedo::cli::main()
}
