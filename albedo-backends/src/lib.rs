//! Model backends, model files and task sources of albedo.
//!
//! | module | feature | what |
//! | --- | --- | --- |
//! | [`burn`] | `burn` | Qwen3 models in-process, on the CPU; [`burn::train`] trains them |
//! | [`http`] | `http` | the one HTTP client |
//! | [`cache`] | | models of hubs on this machine, under a quota |
//! | [`files`] | | a model's files in a local folder |
//! | [`hubs`] | | hubs of models: a local mirror; with the feature `hubs`, container registries and Hugging Face |
//! | [`openai`] | `openai` | chat models behind an OpenAI-compatible server |
//! | [`replay`] | | the replies of a record |
//! | [`serve`] | `serve` | models behind a server of albedo's own jobs, over HTTP or, with the feature `nats`, a work queue |
//! | [`prompts`] | `text`, with `burn` and `serve` | prompts and conversations as tokens, without a model |
//! | [`tables`] | `tasks` | rows for training tools in parquet files or JSON Lines |
//! | [`tasks`] | `tasks` | pinned trajectories in parquet shards |
#![cfg_attr(not(feature = "cuda"), forbid(unsafe_code))]

#[cfg(feature = "burn")]
pub mod burn;
pub mod cache;
pub mod files;
#[cfg(feature = "http")]
pub mod http;
pub mod hubs;
#[cfg(feature = "openai")]
pub mod openai;
#[cfg(feature = "text")]
pub mod prompts;
pub mod replay;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "tasks")]
pub mod tables;
#[cfg(feature = "tasks")]
pub mod tasks;
#[cfg(feature = "text")]
mod text;
