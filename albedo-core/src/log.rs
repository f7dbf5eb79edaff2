//! A log of duels that only grows, so that a record can neither be left out nor
//! exchanged later: an announcement of the plan before it has its seed, then what
//! became of it.
//!
//! The log is a Merkle tree of RFC 6962 in static files (C2SP tlog-tiles), which a
//! folder, a bucket or a web server holds; its head is a signed note. From it alone
//! one sees a plan that was announced and has no end ([`History::check_ends`]).
//! Besides one needs what others have: heads that they hold show a second history
//! ([`History::check_head`]), heads on a chain also show when a plan was announced at the
//! latest ([`History::attested`]), a chain's reveals show a submission that never entered
//! ([`History::check_reveals`]), records show whether they are as they were announced
//! ([`History::check_record`]). `docs/log.md` describes files and entries.
//!
//! The module is behind the feature `signatures`.

mod anchor;
mod entry;
mod files;
mod head;
pub mod merkle;
mod monitor;
mod note;
mod proof;
mod reader;
mod tiles;
mod writer;

pub use anchor::{Anchor, AnchoredHead, Attested};
pub use entry::{Announced, End, Ended, Entry, Forfeited, Submission};
pub use files::{FolderLog, HttpLog, LogFiles};
pub use head::Head;
pub use monitor::{Finding, History, Revealed};
pub use proof::{ConsistencyProof, InclusionProof};
pub use reader::Log;
pub use tiles::{MAX_ENTRY_BYTES, files_since};
pub use writer::LogWriter;

use crate::signer::PublicKey;

/// The public key of the log `origin` as programs for signed notes take it (C2SP
/// signed-note): name, number and key.
pub fn verifier_key(origin: &str, key: &PublicKey) -> String {
    note::verifier_text(origin, key)
}

#[cfg(test)]
mod tests;
