//! What miners committed to, in the order of first sight.

use rusqlite::{OptionalExtension, Transaction, params};

use super::competitions::present;
use super::sql::json;
use super::{Ledger, outbox};
use crate::Result;
use crate::chain::{BlockNumber, Hotkey, Place};
use crate::chains::database::Trouble;
use crate::chains::reveal::{Submission, parse_of};
use crate::validator::table::{State, name};

/// A commitment that everybody can read, with the place in which it was seen first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Who committed.
    pub hotkey: Hotkey,
    /// To what.
    pub text: String,
    /// Where.
    pub place: Place,
    /// The first block at which everybody could read it.
    pub readable_at: BlockNumber,
    /// Whether every block from before the commitment on was read.
    pub witnessed: bool,
}

impl Ledger {
    /// Enters the commitments that are new: each once, and each that is a submission as a
    /// submission. Gives how many were new.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn observe(&self, commits: Vec<Commit>, now_ms: u64) -> Result<usize> {
        self.write("enter the commitments", move |transaction| {
            let mut new = 0;
            for commit in &commits {
                new += usize::from(enter(transaction, commit, now_ms)?);
            }
            if new > 0 {
                outbox::mark_documents(transaction, now_ms)?;
            }
            Ok(new)
        })
        .await
    }
}

/// Whether the commitment was new. A commitment that was read before its competition began
/// becomes a submission once the competition has begun, and keeps its place.
fn enter(transaction: &Transaction<'_>, commit: &Commit, now_ms: u64) -> Result<bool, Trouble> {
    let Commit { hotkey, text, place, readable_at, witnessed } = commit;
    let sql = "SELECT 1 FROM submissions WHERE hotkey = ?1 AND text = ?2";
    if transaction.query_row(sql, params![hotkey.0, text], |_| Ok(())).optional()?.is_some() {
        return Ok(false);
    }
    let sql = "SELECT 1 FROM commits WHERE hotkey = ?1 AND text = ?2";
    let is_known = transaction.query_row(sql, params![hotkey.0, text], |_| Ok(())).optional()?.is_some();
    let competition = present(transaction)?;
    let (submission, refusal) = match parse_of(text, hotkey, competition.version) {
        Ok(Submission { repository, pin, .. }) => {
            transaction.execute(
                "INSERT INTO submissions (hotkey, text, repository, pin, block, extrinsic, dated_by, readable_at, \
                 state, since_ms, reason, competition) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'the chain revealed it', ?11)",
                params![
                    hotkey.0,
                    text,
                    repository,
                    pin.to_string(),
                    place.block,
                    place.extrinsic,
                    json(&place.dated_by)?,
                    readable_at,
                    name(State::Seen),
                    now_ms,
                    competition.id,
                ],
            )?;
            (Some(transaction.last_insert_rowid()), None)
        }
        Err(refusal) => (None, Some(refusal.to_string())),
    };
    if is_known {
        return Ok(submission.is_some());
    }
    transaction.execute(
        "INSERT INTO commits (hotkey, text, block, extrinsic, dated_by, readable_at, witnessed, seen_ms, \
         submission, refusal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            hotkey.0,
            text,
            place.block,
            place.extrinsic,
            json(&place.dated_by)?,
            readable_at,
            witnessed,
            now_ms,
            submission,
            refusal,
        ],
    )?;
    Ok(true)
}
