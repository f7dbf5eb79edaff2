//! Duels between language models, with verdicts you can check.
//!
//! A reigning *king* and a *challenger* answer the same pinned trajectories, a
//! panel of judges compares their replies in both orders, and a decision rule
//! crowns the challenger only by a clear margin.
//!
//! ```no_run
//! # #[cfg(all(feature = "cpu", feature = "judges", feature = "tasks"))]
//! # mod first {
//! use std::path::Path;
//!
//! use albedo::prelude::*;
//! use serde_json::json;
//!
//! # pub
//! async fn duel() -> albedo::Result<()> {
//!     let (cx, registry) = (CallContext::new(), Registry::linked()?);
//!     let backend = registry.build::<dyn ModelBackend>("burn", json!({}), &cx).await?;
//!     let king = Path::new("models/king");
//!     let source = ModelSource::new(Path::new("models/challenger")).with_text_from(king);
//!     let king = Contestant::load(Side::King, &backend, &ModelSource::new(king), &cx).await?;
//!     let challenger = Contestant::load(Side::Challenger, &backend, &source, &cx).await?;
//!     let tasks = registry.build::<dyn TaskSource>("parquet", json!({ "path": "tasks" }), &cx).await?;
//!     let judge = registry.build::<dyn Judge>("reference-action", json!({}), &cx).await?;
//!
//!     let store = FileStore::create("duels/first")?;
//!     let duel = Duel::builder(king, challenger).tasks(tasks).judge(judge);
//!     let report = duel.plan(&store, &cx).await?.run(&store, &cx).await?;
//!     println!("{}: {:+.1} points", report.verdict.outcome, report.verdict.margin);
//!     Ok(())
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! [`Duel`] is the way in; the [`prelude`] has the types that most programs need;
//! everything of [`albedo_core`] is re-exported here. Guides, in the repository:
//!
//! | you want to | read |
//! | --- | --- |
//! | build on this crate | `docs/own-crate.md`, `docs/embed-a-duel.md` |
//! | write a judge, a screen, a backend | `docs/write-a-judge.md`, `docs/write-a-screen.md`, `docs/write-a-backend.md` |
//! | know every key of a configuration | `docs/configuration-reference.md`, or [`config::reference()`] |
//! | read a verdict | `docs/read-a-verdict.md` |
//! | follow what happens | [`events`], `docs/events.md` |
//!
//! | feature | default | brings |
//! | --- | --- | --- |
//! | `cli` | yes | the `albedo` program as [`cli::main`], `bench`, `config`, `report`, `tasks` |
//! | `config` | with `cli` | [`config`]: configuration files; [`rejudge`]: other judges and rules over records |
//! | `bench` | with `cli` | [`mod@bench`]: how fast a model reads and writes |
//! | `report` | with `cli` | [`report`]: terminal progress and tables, and the report of records |
//! | `tasks` | with `cli` | tasks `parquet`; [`export`]: records as data sets |
//! | `cpu` | yes | backend `burn`: Qwen3 models on the CPU |
//! | `cuda` | no | `cpu`, and backend `burn` on NVIDIA GPUs (needs LLVM to build) |
//! | `openai` | yes | backend `openai`: chat models behind a server |
//! | `demo` | yes | the [`demo`] pack as part of the program: two small models and tasks |
//! | `hubs` | yes | hubs `oci` and `hf`, and the command `albedo hub push` |
//! | `judges` | yes | judges `chat`, `process`, `protocol`, `reference-action`, `reference-likelihood`, `replay` |
//! | `screens` | yes | `judges`, all screens, and the commands `albedo screen` and `albedo fingerprint` |
//! | `signatures` | with `cli` | signing keys in files, verifying signatures ([`signer`]), and the log of duels ([`mod@log`]) |
//! | `decide` | yes | [`mod@decide`]: which of two systems is better, from the logs of other tools |
//! | `distil` | yes | [`distil`]: the traces of duels train the next challenger |
//! | `publish` | yes | [`publish`]: records, log and public data into a folder or a bucket, and a page that shows them |
//! | `server` | yes | [`server`]: `albedo serve`, models over HTTP |
//! | `validator` | yes | [`validator`]: the reference validator, the chain `local`, and the command `albedo validator` |
//! | `conformance` | with `cli` | modules `conformance` and `testing`, for the tests of plugins |
//! | `chain` | no | chains `local` and `subtensor`, wallets, and the commands `albedo chain`, `wallet` and `miner` |
//! | `chain-node` | no | `chain`, and a node for tests of it |
//!
//! Without any feature the crate is [`albedo_core`]: the roles, the duel engine,
//! the decision rules, the record, and the backend `routes`. The backend `replay`,
//! a model's files in a local folder, the hub `folder` and the cache of models come
//! with any of `cpu`, `hubs`, `openai` and `tasks`.
//!
//! Linking a crate registers its plugins: [`Registry::linked`] has them all. A crate of
//! yours that only has plugins must be named once, `use my_judges as _;`, or the linker
//! drops it.
#![forbid(unsafe_code)]

pub use albedo_core::*;

#[cfg(any(
    feature = "config",
    feature = "cpu",
    feature = "hubs",
    feature = "openai",
    feature = "publish",
    feature = "tasks"
))]
pub use albedo_backends as backends;
#[cfg(any(feature = "chain", feature = "validator"))]
pub use albedo_chain as chains;
#[cfg(feature = "judges")]
pub use albedo_judges as judges;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "config")]
pub mod config;
#[cfg(any(feature = "cli", feature = "distil"))]
mod conversations;
#[cfg(feature = "decide")]
pub mod decide;
pub mod demo;
#[cfg(feature = "distil")]
pub mod distil;
#[cfg(feature = "tasks")]
pub mod export;
#[cfg(feature = "config")]
pub mod judge_eval;
mod plugins;
pub mod prelude;
#[cfg(feature = "publish")]
pub mod publish;
#[cfg(feature = "config")]
pub mod rejudge;
#[cfg(feature = "report")]
pub mod report;
#[cfg(feature = "server")]
pub mod server;
#[cfg(any(feature = "publish", feature = "report"))]
pub mod shown;
#[cfg(any(feature = "publish", feature = "server"))]
mod sqlite;
#[cfg(feature = "validator")]
pub mod validator;

/// This build, as records name it: its version and the digest of its sources.
pub fn build() -> Build {
    Build { version: env!("CARGO_PKG_VERSION").into(), source: env!("ALBEDO_SOURCE").parse().ok() }
}

/// The guides whose blocks of Rust are compiled, and run unless they say otherwise.
#[cfg(all(doctest, feature = "cli", feature = "cpu", feature = "judges"))]
mod guides {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[cfg(feature = "decide")]
    #[doc = include_str!("../docs/decide.md")]
    struct Decide;

    #[doc = include_str!("../docs/events.md")]
    struct Events;

    #[doc = include_str!("../docs/own-crate.md")]
    struct OwnCrate;

    #[doc = include_str!("../docs/reign.md")]
    struct Reign;
}
