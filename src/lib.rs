//! Duels between language models, with verdicts you can check.
//!
//! A reigning *king* and a *challenger* answer the same pinned trajectories, a
//! panel of judges compares their replies in both orders, and a decision rule
//! crowns the challenger only by a clear margin. [`Duel`] is the way in; the
//! [`prelude`] has the types that most programs need; everything of
//! [`albedo_core`] is re-exported here.
//!
//! | feature | default | brings |
//! | --- | --- | --- |
//! | `cli` | yes | the `albedo` program as [`cli::main`], [`config`], `bench`, `report`, `tasks` |
//! | `bench` | with `cli` | [`mod@bench`]: how fast a model reads and writes |
//! | `report` | with `cli` | [`report`]: terminal progress and tables |
//! | `tasks` | with `cli` | tasks `parquet` |
//! | `cpu` | yes | backend `burn`: Qwen3 models on the CPU |
//! | `cuda` | no | `cpu`, and backend `burn` on NVIDIA GPUs (needs LLVM to build) |
//! | `openai` | yes | backend `openai`: chat models behind a server |
//! | `demo` | yes | the [`demo`] pack as part of the program: two small models and tasks |
//! | `judges` | yes | judges `chat`, `protocol`, `reference-action`, `reference-likelihood`, `replay` |
//! | `screens` | yes | `judges`, all screens, and the commands `albedo screen` and `albedo fingerprint` |
//! | `signatures` | with `cli` | signing keys in files, verifying signatures ([`signer`]), and the log of duels ([`mod@log`]) |
//! | `conformance` | no | modules `conformance` and `testing`, for the tests of plugins |
//! | `chain` | no | chains `local` and `subtensor`, wallets, and the commands `albedo chain`, `wallet` and `miner` |
//!
//! Without any feature the crate is [`albedo_core`]: the roles, the duel engine,
//! the decision rules, the record, and the backend `routes`. The backend `replay`
//! and a model's files in a local folder come with any of `cpu`, `openai` and
//! `tasks`.
//!
//! Linking a crate registers its plugins: [`Registry::linked`] has them all.
#![forbid(unsafe_code)]

pub use albedo_core::*;

#[cfg(any(feature = "cpu", feature = "openai", feature = "tasks"))]
pub use albedo_backends as backends;
#[cfg(feature = "chain")]
pub use albedo_chain as chains;
#[cfg(feature = "judges")]
pub use albedo_judges as judges;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod config;
pub mod demo;
mod plugins;
pub mod prelude;
#[cfg(feature = "report")]
pub mod report;

/// This build, as records name it: its version and the digest of its sources.
pub fn build() -> Build {
    Build { version: env!("CARGO_PKG_VERSION").into(), source: env!("ALBEDO_SOURCE").parse().ok() }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
