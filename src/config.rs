//! Configuration files: what stands in them, how they are read, and how the parts
//! that they name are put together.
//!
//! | file | has |
//! | --- | --- |
//! | `duel` | [`DuelConfig`]: the sides, what runs them, tasks, panel, settings |
//! | `file` | [`read`] and [`parse`]: TOML with the path of every mistake |
//! | `key` | [`journal_key`]: which journals are this user's |
//! | `admission` | [`AdmissionConfig`]: what a submission is screened with, and beside whom |
//! | `profiles` | [`screen_profile`]: screens with their thresholds under a name with a version |
//! | `hubs` | where the models are: in folders, at servers, in hubs |
//! | `reference` | [`reference()`]: every key with its type, default and meaning, from the types |
//! | `wire` | [`DuelConfig::builder`]: the only place where plugins are put together |
//!
//! ```
//! # fn main() -> albedo::Result<()> {
//! let config = albedo::config::DuelConfig::parse(
//!     r#"
//!     [king]
//!     path = "models/king"
//!
//!     [challenger]
//!     path = "models/challenger"
//!
//!     [tasks]
//!     name = "parquet"
//!     path = "tasks"
//!
//!     [[judges]]
//!     name = "reference-action"
//!
//!     [duel]
//!     samples = 128
//!     generation.sampling = { temperature = 0.7, top_p = 0.95 }
//!     "#,
//! )?;
//! assert_eq!(config.duel.samples, 128);
//! # Ok(())
//! # }
//! ```

mod admission;
mod duel;
mod file;
mod hubs;
mod key;
mod profiles;
mod reference;
mod wire;

pub use albedo_core::PluginConfig;

pub use admission::{AdmissionConfig, default_screens};
#[cfg(feature = "cli")]
pub(crate) use duel::{BOTH_SIDES, label};
pub use duel::{DuelConfig, ModelConfig, SavedDuel};
#[cfg(any(feature = "distil", feature = "server"))]
pub(crate) use file::folder;
pub use file::{parse, read};
#[cfg(feature = "server")]
pub(crate) use hubs::{CheckedHubs, Hubs};
pub use key::journal_key;
pub use profiles::{SCREEN_PROFILE, screen_profile};
#[cfg(feature = "cli")]
pub(crate) use reference::plain;
pub use reference::{Choice, Key, Need, keys, reference};
#[cfg(any(feature = "server", all(feature = "cli", feature = "screens")))]
pub(crate) use wire::DEFAULT_BACKEND;
