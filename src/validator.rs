//! The reference validator: it reads what miners commit to, screens and duels their
//! models in order, crowns, sets weights, and publishes all of it. It runs for months, and
//! a process that is killed anywhere is gone on from.
//!
//! | module | |
//! |---|---|
//! | [`table`] | where a submission stands, and which moves there are: pure |
//! | [`ledger`] | the books: one `SQLite` file, a verdict as one transaction |
//! | [`seeds`] | seeds from blocks that nobody could know before |
//! | [`ValidatorConfig`] | the configuration file |
//! | [`Validator`] | its tasks: chain, admission, duels, weights, publishing, each by itself |
//! | [`FollowTerms`] | whom a validator without a GPU follows, and how much it audits |
//! | [`Import`] | where another system stood |
//! | [`doctor()`] | everything that a validator needs, tried one by one |
//! | [`DemoCompetition`] | a competition in a folder, with scripted miners |
//!
//! ```
//! use albedo::validator::ledger::Ledger;
//! use albedo::validator::table::{Move, State, after};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! // The moves of a submission are a table, whatever the rest of the program does.
//! let way = [Move::Admit, Move::ClearFiles, Move::Hold, Move::Clear, Move::Plan, Move::Begin, Move::Crown];
//! let end = way.iter().try_fold(State::Seen, |state, step| after(state, *step));
//! assert_eq!(end, Some(State::Crowned));
//!
//! // Others may look into a ledger while a validator works with it.
//! # let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("ledger.sqlite");
//! let working = Ledger::open(&path)?;
//! let looking = Ledger::read(&path)?;
//! assert!(looking.live().await?.is_empty());
//! // A second validator is refused.
//! assert!(Ledger::open(&path).is_err());
//! # drop(working);
//! # Ok::<(), albedo::Error>(())
//! # }).unwrap();
//! ```
//!
//! The module is behind the feature `validator`. `docs/validator.md` is its guide.

pub mod ledger;
pub mod seeds;
pub mod table;

mod beats;
mod config;
mod demo;
mod doctor;
mod following;
mod genesis;
mod import;
mod log_folder;
mod models;
mod operate;
mod parts;
mod run;
mod running;
mod tasks;
mod webhook;

pub use config::{
    EntrySettings, FollowSettings, LogSettings, PublishSettings, PublishedExports, ReignSettings,
    ValidatorConfig,
};
pub use demo::{DemoCompetition, story};
pub use doctor::{Check, Found, doctor};
pub use following::{FollowTerms, coverage, missed};
pub use genesis::{Genesis, genesis_files, is_same_model};
pub use import::{Found as ImportFound, Import, Unread, read_import};
pub use operate::OperateSettings;
pub use run::Validator;
pub use webhook::{Form, WebhookSettings};
