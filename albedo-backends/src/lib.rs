//! Model backends and task sources of albedo.
//!
//! | feature | what |
//! | --- | --- |
//! | `burn` | [`burn`]: Qwen3 models in-process, on the CPU |
//! | `tasks` | `tasks`: trajectories in parquet shards |
#![forbid(unsafe_code)]

#[cfg(feature = "burn")]
pub mod burn;
#[cfg(feature = "burn")]
mod text;
