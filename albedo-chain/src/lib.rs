//! Bittensor for albedo: chain clients, wallets, and what a validator keeps of
//! a chain.
//!
//! | module | feature | |
//! | --- | --- | --- |
//! | [`local`] | | a chain of one's own in a file, for rehearsals and tests |
//! | [`journal`] | | what was cleared and signed |
//! | [`reveal`], [`ledger`] | | what miners commit to, and who was first |
//! | [`database`] | | SQLite files, opened and written in one way |
//! | [`address`] | | SS58 addresses |
//! | [`wallet`] | `wallet` | keys and their files |
//! | [`timelock`] | `wallet` | what nobody can read before a round of the beacon |
//! | [`subtensor`] | `subtensor` | Bittensor's chain |
//! | `testnode` | `test-node` | a node for tests, driven by a metadata file |
#![forbid(unsafe_code)]

pub mod address;
pub mod database;
pub mod journal;
pub mod ledger;
pub mod local;
pub mod reveal;
#[cfg(feature = "subtensor")]
pub mod subtensor;
#[cfg(feature = "test-node")]
pub mod testnode;
#[cfg(feature = "wallet")]
pub mod timelock;
#[cfg(feature = "wallet")]
pub mod wallet;
