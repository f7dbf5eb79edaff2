//! albedo with a hub and a screen of its own. The hub serves models from tar
//! archives, each pinned by the digest of its archive; the screen asks for a
//! licence. Configuration alone puts both to use, in every command.
//!
//! ```sh
//! cd examples/own-hub
//! sh archives.sh               # packs the demo's models into archives/
//! cargo run --release -- duel --config duel.toml
//! cargo run --release -- screen --config duel.toml
//! ```
mod archive;
mod licence;

fn main() -> std::process::ExitCode {
    albedo::cli::main()
}
