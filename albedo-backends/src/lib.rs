//! Model files, and task sources, as albedo's roles.
//!
//! | module | feature | |
//! |---|---|---|
//! | [`files`] | | a model's files in a local folder |
//! | [`tasks`] | `tasks` | pinned trajectories in parquet files |
#![forbid(unsafe_code)]

pub mod files;
#[cfg(feature = "tasks")]
pub mod tasks;
