//! Where each submission stands, and every move that it made.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row, ToSql, Transaction, params};
use serde::Serialize;

use super::competitions::present;
use super::sql::{digest, json, parsed};
use super::{Ledger, outbox};
use crate::chain::{BlockNumber, Hotkey, Place};
use crate::chains::database::{Trouble, damaged};
use crate::validator::table::{Move, State, after, by_name, name};
use crate::{Admission, Digest, Error, ErrorKind, Fault, Result};

/// A submission as the ledger has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubmissionRow {
    /// Its number in the ledger.
    pub id: i64,
    /// Whose it is.
    pub hotkey: Hotkey,
    /// What was committed.
    pub text: String,
    /// The repository.
    pub repository: String,
    /// What pins its content: `sha256:…` or a git revision.
    pub pin: String,
    /// Who was first.
    pub place: Place,
    /// The first block at which everybody could read the commitment.
    pub readable_at: BlockNumber,
    /// Where it stands.
    pub state: State,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Why, in a sentence.
    pub reason: String,
    /// Digest of the names and digests of its files, once they were listed.
    pub content: Option<Digest>,
    /// The finalised head when its bytes were held.
    pub held_block: Option<BlockNumber>,
    /// The king that the screens compared it with.
    pub screened_king: Option<i64>,
    /// The record that shows its end.
    pub record: Option<Digest>,
    /// How often something failed that is not its doing, since the last move forward.
    pub voids: u32,
    /// When it is looked at again.
    pub due_ms: u64,
    /// The competition.
    pub competition: i64,
    /// Why the operator wants it set aside, if that is so.
    pub set_aside: Option<String>,
    /// The finalised head at which its hub said first that it does not have the files; none if there was
    /// any failure or a move forward since.
    pub absent_block: Option<BlockNumber>,
    /// How often something failed that is not its doing, since the last move forward: an answer of its
    /// hub in between does not end this count.
    #[serde(skip)]
    pub(in crate::validator) failures: u32,
    /// Whether the last look at it ended with an outage, which cannot follow from what was committed.
    #[serde(skip)]
    pub(in crate::validator) is_outage: bool,
}

impl SubmissionRow {
    /// Submissions compare by it: by place, then hotkey.
    pub(in crate::validator) fn order(&self) -> (BlockNumber, Option<u32>, Hotkey, i64) {
        (self.place.block, self.place.extrinsic, self.hotkey.clone(), self.id)
    }
}

/// A move that a submission made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MoveRow {
    /// Its number in the ledger.
    pub id: i64,
    /// The submission.
    pub submission: i64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The move.
    #[serde(rename = "move")]
    pub step: String,
    /// From where.
    pub from: String,
    /// Where to.
    pub to: String,
    /// Why.
    pub reason: String,
    /// Whose failure it is, of a void.
    pub fault: Option<String>,
}

/// Why a move is made, and what it brings.
#[derive(Debug, Clone, Default)]
pub struct Reason {
    text: String,
    fault: Option<Fault>,
    is_outage: bool,
    due_ms: u64,
    content: Option<Digest>,
    held_block: Option<BlockNumber>,
    admission: Option<(Box<Admission>, i64)>,
}

impl Reason {
    /// A reason in a sentence.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// What failed, whose doing it is, and when the submission is looked at again.
    pub fn failed(error: &Error, due_ms: u64) -> Self {
        let (fault, is_outage) = (Some(error.fault()), is_outage(error));
        Self { fault, is_outage, due_ms, ..Self::new(error.to_string()) }
    }

    /// The digest of the names and digests of its files.
    #[must_use]
    pub fn content(self, content: Digest) -> Self {
        Self { content: Some(content), ..self }
    }

    /// The finalised head at which its bytes were held.
    #[must_use]
    pub fn held_at(self, block: BlockNumber) -> Self {
        Self { held_block: Some(block), ..self }
    }

    /// What every screen found beside `king`.
    #[must_use]
    pub fn screened(self, admission: Admission, king: i64) -> Self {
        Self { admission: Some((Box::new(admission), king)), ..self }
    }
}

impl Ledger {
    /// Moves a submission as the table says; gives its new state. `crown`, `lose`,
    /// `forfeit`, `plan`, `begin` and `abandon` carry more than a reason and have calls of
    /// their own. A `void` with the reason of the one before is counted, and is no other move.
    ///
    /// # Errors
    /// A bug: there is no such move from where it stands. The ledger's.
    pub async fn step(&self, id: i64, step: Move, reason: Reason, now_ms: u64) -> Result<State> {
        if step.needs_record() || matches!(step, Move::Plan | Move::Begin | Move::Abandon) {
            return Err(Error::bug("move a submission", format!("`{}` has a call of its own", step.name())));
        }
        self.write("move a submission", move |transaction| apply(transaction, id, step, &reason, now_ms))
            .await
    }

    /// Says why the submission waits where it is, and until when. It makes no move, and ends the count
    /// of failures in a row: what was asked has answered.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn wait(&self, id: i64, reason: String, due_ms: u64) -> Result<()> {
        self.write("let a submission wait", move |transaction| {
            let sql =
                "UPDATE submissions SET reason = ?2, due_ms = ?3, voids = 0, is_outage = 0 WHERE id = ?1";
            transaction.execute(sql, params![id, reason, due_ms])?;
            Ok(())
        })
        .await
    }

    /// Notes that the hub of the submission does not have its files when `head` is the finalised
    /// head; gives the head at which that was noted first. Any failure or a move forward ends it.
    ///
    /// # Errors
    /// The ledger's.
    pub(in crate::validator) async fn note_absent(&self, id: i64, head: BlockNumber) -> Result<BlockNumber> {
        self.write("note that a submission's files are gone", move |transaction| {
            let sql = "UPDATE submissions SET absent_block = ?2 WHERE id = ?1 AND absent_block IS NULL";
            transaction.execute(sql, params![id, head])?;
            let sql = "SELECT absent_block FROM submissions WHERE id = ?1";
            Ok(transaction.query_row(sql, [id], |row| row.get(0))?)
        })
        .await
    }

    /// The submission with that number.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; the ledger's.
    pub async fn submission(&self, id: i64) -> Result<SubmissionRow> {
        self.look("read a submission", move |transaction| find(transaction, id)).await
    }

    /// Submissions without an outcome, the first one first: by place, then hotkey.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn live(&self) -> Result<Vec<SubmissionRow>> {
        self.look("read the queue", live).await
    }

    /// Of the present competition, `row` and the submissions with its pin, with its content, or by
    /// one of `hotkeys`, the first one first: all that decides whether it takes part.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn related(&self, row: &SubmissionRow, hotkeys: Vec<Hotkey>) -> Result<Vec<SubmissionRow>> {
        let (id, pin, content) = (row.id, row.pin.clone(), row.content.map(|content| content.to_string()));
        self.look("read the submissions", move |transaction| {
            // One lookup in an index each: the ledger may have years of submissions.
            let now = present(transaction)?.id;
            let mut found = BTreeMap::new();
            let mut add = |column: &str, value: &dyn ToSql| -> rusqlite::Result<()> {
                let sql = format!("SELECT {COLUMNS} FROM submissions WHERE {column} = ?1");
                for row in transaction.prepare(&sql)?.query_map([value], submission)? {
                    let row = row?;
                    if row.competition == now {
                        found.insert(row.order(), row);
                    }
                }
                Ok(())
            };
            add("id", &id)?;
            add("pin", &pin)?;
            if let Some(content) = &content {
                add("content", content)?;
            }
            for hotkey in &hotkeys {
                add("hotkey", &hotkey.0)?;
            }
            Ok(found.into_values().collect())
        })
        .await
    }

    /// Has those of the submissions `ids` screened again that are still clear.
    ///
    /// # Errors
    /// The ledger's.
    pub(in crate::validator) async fn screen_again(
        &self,
        ids: Vec<i64>,
        reason: String,
        now_ms: u64,
    ) -> Result<()> {
        self.write("have submissions screened again", move |transaction| {
            let reason = Reason::new(reason);
            for id in ids {
                // Its duel may have been planned meanwhile.
                if find(transaction, id)?.state == State::Clear {
                    apply(transaction, id, Move::Rescreen, &reason, now_ms)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Submissions of the competition of `row` whose places are after its own, the first one first.
    pub(in crate::validator) async fn later_than(&self, row: &SubmissionRow) -> Result<Vec<SubmissionRow>> {
        let row = row.clone();
        self.look("read the submissions", move |transaction| {
            let sql = format!(
                "SELECT {COLUMNS} FROM submissions WHERE block >= ?1 AND competition = ?2 \
                 ORDER BY block, extrinsic NULLS FIRST, hotkey, id"
            );
            let mut statement = transaction.prepare(&sql)?;
            let rows = statement.query_map(params![row.place.block, row.competition], submission)?;
            let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            rows.retain(|other| other.order() > row.order());
            Ok(rows)
        })
        .await
    }

    /// The submissions that admission has to fetch or to screen, and that have failed more than `most`
    /// times in a row, or failed last for what an operator has to mend; the first one first.
    pub(in crate::validator) async fn held_up(&self, most: u32) -> Result<Vec<i64>> {
        self.look("look for submissions that are held up", move |transaction| {
            let operator = Fault::Operator.to_string();
            let mut held_up = Vec::new();
            for row in live(transaction)? {
                let is_admissions = matches!(row.state, State::Admitted | State::FilesClear | State::Held);
                if !is_admissions || row.voids == 0 {
                    continue;
                }
                // The last move is the void: any other one would have ended the count.
                let sql = "SELECT fault FROM moves WHERE submission = ?1 ORDER BY id DESC LIMIT 1";
                let fault: Option<String> = transaction.query_row(sql, [row.id], |row| row.get(0))?;
                if row.voids > most || fault.as_ref() == Some(&operator) {
                    held_up.push(row.id);
                }
            }
            Ok(held_up)
        })
        .await
    }

    /// The submissions that came last, at most `most`, the last one first: by place, then hotkey.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn newest_submissions(&self, most: usize) -> Result<Vec<SubmissionRow>> {
        self.look("read the submissions", move |transaction| {
            let order = "ORDER BY block DESC, extrinsic DESC NULLS LAST, hotkey DESC, id DESC LIMIT ?1";
            let sql = format!("SELECT {COLUMNS} FROM submissions {order}");
            let mut statement = transaction.prepare(&sql)?;
            Ok(statement.query_map([most], submission)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// The submissions of the kings, by their numbers in the ledger.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn of_kings(&self) -> Result<BTreeMap<i64, SubmissionRow>> {
        self.look("read the kings' submissions", |transaction| {
            let sql = format!(
                "SELECT {COLUMNS} FROM submissions WHERE id IN (SELECT submission FROM kings WHERE submission > 0)"
            );
            let mut statement = transaction.prepare(&sql)?;
            let rows = statement.query_map([], submission)?;
            Ok(rows.map(|row| row.map(|row| (row.id, row))).collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// Every submission, the first one first.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn submissions(&self) -> Result<Vec<SubmissionRow>> {
        self.look("read the submissions", all).await
    }

    /// What every screen found of the submission, once it is clear.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn admission(&self, id: i64) -> Result<Option<Admission>> {
        self.look("read an admission", move |transaction| {
            let sql = "SELECT admission FROM submissions WHERE id = ?1 AND admission IS NOT NULL";
            Ok(transaction.query_row(sql, [id], |row| parsed(row, 0)).optional()?)
        })
        .await
    }

    /// The moves of one submission, or of all, after the move with that number; the oldest
    /// first.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn moves(&self, submission: Option<i64>, after: i64) -> Result<Vec<MoveRow>> {
        self.look("read the moves", move |transaction| {
            let sql = "SELECT id, submission, at_ms, move, came_from, went_to, reason, fault FROM moves \
                       WHERE id > ?1 AND (?2 IS NULL OR submission = ?2) ORDER BY id";
            let mut statement = transaction.prepare(sql)?;
            let rows = statement.query_map(params![after, submission], |row| {
                Ok(MoveRow {
                    id: row.get(0)?,
                    submission: row.get(1)?,
                    at_ms: row.get(2)?,
                    step: row.get(3)?,
                    from: row.get(4)?,
                    to: row.get(5)?,
                    reason: row.get(6)?,
                    fault: row.get(7)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}

/// Whether `error` is an outage that cannot follow from what was committed: a server did not answer in
/// time or at all, failed, or asked to slow down.
fn is_outage(error: &Error) -> bool {
    let kinds = [ErrorKind::Timeout, ErrorKind::Unavailable, ErrorKind::RateLimited];
    kinds.contains(&error.kind()) && error.fault() == Fault::Infrastructure && error.is_retryable()
}

/// Makes the move within a transaction, and marks what is published of it. A void with the
/// reason of the one before is only counted.
///
/// # Errors
/// A bug: there is no such move.
pub(super) fn apply(
    transaction: &Transaction<'_>,
    id: i64,
    step: Move,
    reason: &Reason,
    now_ms: u64,
) -> Result<State, Trouble> {
    let before = find(transaction, id)?;
    let from = before.state;
    let to = after(from, step).ok_or_else(|| {
        Error::bug("move a submission", "there is no such move")
            .with("submission", id)
            .with("state", name(from))
            .with("move", step.name())
    })?;
    let Reason { text, fault, is_outage, due_ms, content, held_block, admission } = reason;
    let (is_void, is_outage) = (step == Move::Void, step == Move::Void && *is_outage);
    // The same failure again is no news: it adds no row every few minutes of a long outage.
    if is_void && to == from && before.voids > 0 && before.reason == *text {
        let sql = "UPDATE submissions SET voids = voids + 1, failures = failures + 1, due_ms = ?2, is_outage = ?3, \
                   absent_block = NULL WHERE id = ?1";
        transaction.execute(sql, params![id, due_ms, is_outage])?;
        return Ok(to);
    }
    let fault = fault.map(|fault| fault.to_string());
    transaction.execute(
        "INSERT INTO moves (submission, at_ms, move, came_from, went_to, reason, fault) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![id, now_ms, step.name(), name(from), name(to), text, fault],
    )?;
    transaction.execute(
        "UPDATE submissions SET state = ?2, since_ms = CASE WHEN state = ?2 THEN since_ms ELSE ?3 END, reason = ?4, \
         due_ms = ?5, voids = CASE WHEN ?6 THEN voids + 1 ELSE 0 END, \
         failures = CASE WHEN ?6 THEN failures + 1 ELSE 0 END, is_outage = ?7, \
         absent_block = NULL WHERE id = ?1",
        params![id, name(to), now_ms, text, due_ms, is_void, is_outage],
    )?;
    if let Some(content) = content {
        let sql = "UPDATE submissions SET content = ?2 WHERE id = ?1";
        transaction.execute(sql, params![id, content.to_string()])?;
    }
    if let Some(block) = held_block {
        transaction.execute("UPDATE submissions SET held_block = ?2 WHERE id = ?1", params![id, block])?;
    }
    if let Some((admission, king)) = admission {
        let sql = "UPDATE submissions SET admission = ?2, screened_king = ?3 WHERE id = ?1";
        transaction.execute(sql, params![id, json(admission)?, king])?;
    }
    outbox::mark_documents(transaction, now_ms)?;
    Ok(to)
}

const COLUMNS: &str = "id, hotkey, text, repository, pin, block, extrinsic, dated_by, readable_at, state, since_ms, \
                       reason, content, held_block, screened_king, record, voids, due_ms, competition, set_aside, \
                       absent_block, failures, is_outage";

pub(super) fn find(transaction: &Transaction<'_>, id: i64) -> Result<SubmissionRow, Trouble> {
    let sql = format!("SELECT {COLUMNS} FROM submissions WHERE id = ?1");
    let found = transaction.prepare(&sql)?.query_row([id], submission).optional()?;
    found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "find a submission", "there is no such submission")
            .with("submission", id)
            .with_hint("`albedo validator queue` and `albedo validator history` list them")
            .into()
    })
}

/// The condition is that of the index `submissions_live`, so that those with an outcome are not read.
pub(super) fn live_sql() -> String {
    format!(
        "SELECT {COLUMNS} FROM submissions WHERE state NOT IN ('crowned', 'lost', 'forfeit', 'expired', 'set_aside') \
         ORDER BY block, extrinsic NULLS FIRST, hotkey, id"
    )
}

/// Those without an outcome, by place.
fn live(transaction: &Transaction<'_>) -> Result<Vec<SubmissionRow>, Trouble> {
    let mut statement = transaction.prepare(&live_sql())?;
    Ok(statement.query_map([], submission)?.collect::<rusqlite::Result<_>>()?)
}

/// All of them, by place.
pub(super) fn all(transaction: &Transaction<'_>) -> Result<Vec<SubmissionRow>, Trouble> {
    // An unknown extrinsic comes before all of its block, as places compare.
    let sql = format!("SELECT {COLUMNS} FROM submissions ORDER BY block, extrinsic NULLS FIRST, hotkey, id");
    let mut statement = transaction.prepare(&sql)?;
    Ok(statement.query_map([], submission)?.collect::<rusqlite::Result<_>>()?)
}

fn submission(row: &Row<'_>) -> rusqlite::Result<SubmissionRow> {
    let state: String = row.get(9)?;
    Ok(SubmissionRow {
        id: row.get(0)?,
        hotkey: Hotkey(row.get(1)?),
        text: row.get(2)?,
        repository: row.get(3)?,
        pin: row.get(4)?,
        place: Place { block: row.get(5)?, extrinsic: row.get(6)?, dated_by: parsed(row, 7)? },
        readable_at: row.get(8)?,
        state: by_name(&state).ok_or_else(|| damaged(9, format!("`{state}` is no state")))?,
        since_ms: row.get(10)?,
        reason: row.get(11)?,
        content: digest(row, 12)?,
        held_block: row.get(13)?,
        screened_king: row.get(14)?,
        record: digest(row, 15)?,
        voids: row.get(16)?,
        due_ms: row.get(17)?,
        competition: row.get(18)?,
        set_aside: row.get(19)?,
        absent_block: row.get(20)?,
        failures: row.get(21)?,
        is_outage: row.get(22)?,
    })
}
