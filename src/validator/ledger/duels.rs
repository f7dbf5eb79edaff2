//! Attempts, shares, announcements and seeds of duels, and the one transaction of a
//! verdict.

use std::path::PathBuf;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::kings::call_weights;
use super::log::append;
use super::sql::{digest, json, parsed};
use super::submissions::{Reason, apply, find};
use super::{Ledger, alerts, outbox};
use crate::chain::{BlockNumber, Hotkey};
use crate::chains::database::{Trouble, damaged};
use crate::log::{Announced, End, Ended, Entry, Forfeited};
use crate::reign::{Effect, ErrorBudget};
use crate::validator::table::{Move, State};
use crate::{Digest, DuelSettings, Error, ErrorKind, Fault, ModelRef, Outcome, Result, Seed};

/// The next attempt against a king.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The king.
    pub king: i64,
    /// Its number within the reign, from 1; the challengers share the count.
    pub number: u64,
    /// Its share of the reign's error budget.
    pub share: f64,
    /// The record of the attempt before that has one.
    pub previous: Option<Digest>,
    /// What the attempts before found.
    pub effects: Vec<Effect>,
}

/// A duel that is planned except for its seed.
#[derive(Debug, Clone)]
pub struct Drafted {
    /// The challenger's submission.
    pub submission: i64,
    /// The attempt that it gets.
    pub attempt: Attempt,
    /// Everything that can change the verdict, except for the seed, as the operator chose it.
    pub settings: DuelSettings,
    /// What the log says of it.
    pub announced: Announced,
}

/// The duel that is planned or runs.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenDuel {
    /// Its number in the ledger.
    pub id: i64,
    /// The challenger's submission.
    pub submission: i64,
    /// The king.
    pub king: i64,
    /// Its number within the reign.
    pub attempt: u64,
    /// As [`Drafted::settings`].
    pub settings: DuelSettings,
    /// The place of its announcement in the log.
    pub announced: u64,
    /// As [`Drafted::announced`].
    pub announcement: Announced,
    /// The finalised head once the signed head of the log covered the announcement.
    pub head_block: Option<BlockNumber>,
    /// The seed, from the block after that.
    pub seed: Option<Seed>,
    /// Whether it runs.
    pub began: bool,
    /// How often it was void.
    pub voids: u32,
    /// Why the operator wants it given up.
    pub give_up: Option<String>,
}

/// What a duel came to, with everything that follows from it.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The duel.
    pub duel: i64,
    /// The outcome, which is not void.
    pub outcome: Outcome,
    /// The outcome in a sentence.
    pub reason: String,
    /// The record's digest.
    pub record: Digest,
    /// The record's folder.
    pub folder: PathBuf,
    /// The end for the log.
    pub ended: Ended,
    /// Samples that the decision consumed.
    pub samples: u32,
    /// Challenger minus king in points.
    pub margin: f64,
    /// What the duel found.
    pub effect: Option<Effect>,
    /// What the judges' answers cost in US dollars.
    pub usd: f64,
    /// The new king, if the challenger has won.
    pub crowned: Option<Crowned>,
}

/// A challenger that takes the crown.
#[derive(Debug, Clone)]
pub struct Crowned {
    /// Whose submission it is.
    pub hotkey: Hotkey,
    /// Where its files are.
    pub model: ModelRef,
    /// Digest of its parameters.
    pub parameters: Digest,
    /// The finalised head.
    pub block: BlockNumber,
}

impl Ledger {
    /// The next attempt against `king`. Nothing is spent before [`Ledger::plan`].
    ///
    /// # Errors
    /// The ledger's.
    pub async fn next_attempt(&self, king: i64, budget: ErrorBudget) -> Result<Attempt> {
        self.look("read the reign", move |transaction| next_attempt(transaction, king, budget)).await
    }

    /// Plans the duel: its attempt and share are spent, and its announcement enters the log.
    /// All of it is one transaction.
    ///
    /// # Errors
    /// A bug: the submission is not clear, or another duel is open.
    /// [`ErrorKind::Conflict`]: another attempt was planned, another king reigns, the submission is
    /// screened again, or the operator has set it aside.
    pub async fn plan(&self, drafted: Drafted, budget: ErrorBudget, now_ms: u64) -> Result<OpenDuel> {
        const OPERATION: &str = "plan a duel";
        self.write(OPERATION, move |transaction| {
            let Drafted { submission, attempt, settings, announced } = drafted;
            let reigning = super::kings::newest(transaction)?.map(|king| king.id);
            let next = next_attempt(transaction, attempt.king, budget)?;
            if reigning != Some(attempt.king) || next != attempt {
                let error = Error::new(ErrorKind::Conflict, OPERATION, "the reign has changed meanwhile");
                return Err(error.with_fault(Fault::Infrastructure).into());
            }
            let row = find(transaction, submission)?;
            if row.state == State::Held {
                let error = Error::new(ErrorKind::Conflict, OPERATION, "the submission is screened again");
                return Err(error.with_fault(Fault::Infrastructure).into());
            }
            if row.set_aside.is_some() {
                let error = Error::new(ErrorKind::Conflict, OPERATION, "the operator has set it aside");
                return Err(error.with_fault(Fault::Operator).into());
            }
            let text = format!("attempt {} of the reign is announced", attempt.number);
            apply(transaction, submission, Move::Plan, &Reason::new(text), now_ms)?;
            let place = append(transaction, &Entry::Announced(announced))?;
            transaction.execute(
                "INSERT INTO duels (submission, king, attempt, share, settings, announced, planned_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    submission,
                    attempt.king,
                    attempt.number,
                    attempt.share,
                    json(&settings)?,
                    place,
                    now_ms
                ],
            )?;
            open(transaction)?.ok_or_else(|| Error::bug(OPERATION, "it is gone").into())
        })
        .await
    }

    /// The duel that is planned or runs.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn open_duel(&self) -> Result<Option<OpenDuel>> {
        self.look("read the open duel", open).await
    }

    /// Notes that a signed head of the log covers the announcement, and the newest finalised
    /// block after it was stored: the seed comes from the next one. Said twice, the first
    /// counts.
    ///
    /// # Errors
    /// A bug: no stored head covers it.
    pub async fn announced_at(&self, duel: i64, block: BlockNumber) -> Result<()> {
        self.write("note an announcement", move |transaction| {
            let sql = "SELECT (SELECT max(size) FROM log_heads) > announced FROM duels WHERE id = ?1";
            if transaction.query_row(sql, [duel], |row| row.get::<_, Option<bool>>(0))? != Some(true) {
                return Err(Error::bug("note an announcement", "no signed head of the log covers it").into());
            }
            let sql = "UPDATE duels SET head_block = ?2 WHERE id = ?1 AND head_block IS NULL";
            transaction.execute(sql, params![duel, block])?;
            Ok(())
        })
        .await
    }

    /// Begins the duel with its seed, or goes on with it.
    ///
    /// # Errors
    /// A bug: it is not planned, or had another seed.
    pub async fn begin(&self, duel: i64, seed: Seed, now_ms: u64) -> Result<()> {
        self.write("begin a duel", move |transaction| {
            let submission = submission_of(transaction, duel)?;
            apply(transaction, submission, Move::Begin, &Reason::new("the duel runs"), now_ms)?;
            transaction.execute(
                "UPDATE duels SET seed = ?2, began_ms = coalesce(began_ms, ?3) WHERE id = ?1",
                params![duel, seed.to_string(), now_ms],
            )?;
            Ok(())
        })
        .await
    }

    /// The duel could not be decided, by nobody's doing: it goes back to its plan, which it
    /// keeps with seed and journal.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn void_duel(&self, duel: i64, error: Error, usd: f64, due_ms: u64, now_ms: u64) -> Result<()> {
        self.write("note a void duel", move |transaction| {
            let submission = submission_of(transaction, duel)?;
            apply(transaction, submission, Move::Void, &Reason::failed(&error, due_ms), now_ms)?;
            let sql = "UPDATE duels SET voids = voids + 1, usd = max(usd, ?2) WHERE id = ?1";
            transaction.execute(sql, params![duel, usd])?;
            Ok(())
        })
        .await
    }

    /// Gives a planned duel up: its share stays spent, and the submission gets another
    /// attempt.
    ///
    /// # Errors
    /// A bug: it is not planned.
    pub async fn abandon(&self, duel: i64, reason: String, now_ms: u64) -> Result<()> {
        self.write("abandon a duel", move |transaction| abandon(transaction, duel, &reason, now_ms)).await
    }

    /// Enters a verdict: the submission's outcome, the new king, the weights that it calls
    /// for, the log's entry and what is to be published, as **one** transaction.
    ///
    /// # Errors
    /// A bug: the parts contradict each other or the duel does not run.
    /// [`ErrorKind::Conflict`], the operator's: crowns are frozen after a bug.
    pub async fn decide(&self, decision: Decision, now_ms: u64) -> Result<()> {
        self.write(DECIDE, move |transaction| decide(transaction, &decision, now_ms)).await
    }

    /// Enters the forfeit of a submission that was not planned: its record, the log's entry
    /// and what is to be published, as one transaction.
    ///
    /// # Errors
    /// A bug: there is no such move from where it stands.
    pub async fn forfeit(
        &self,
        id: i64,
        reason: Reason,
        record: Digest,
        folder: PathBuf,
        now_ms: u64,
    ) -> Result<()> {
        self.write("enter a forfeit", move |transaction| {
            let row = find(transaction, id)?;
            keep_record(transaction, id, record)?;
            apply(transaction, id, Move::Forfeit, &reason, now_ms)?;
            let submission =
                crate::log::Submission { hotkey: row.hotkey.0, repository: row.repository, pin: row.pin };
            let entry = Entry::Forfeited(Forfeited { record, submission: Some(submission) });
            let place = append(transaction, &entry)?;
            outbox::put_record(transaction, record, &folder, id, place, now_ms)
        })
        .await
    }
}

const DECIDE: &str = "enter a verdict";

fn decide(transaction: &Transaction<'_>, decision: &Decision, now_ms: u64) -> Result<(), Trouble> {
    let Decision { duel, outcome, reason, record, folder, ended, samples, margin, effect, usd, crowned } =
        decision;
    let bug = |message: &str| Error::bug(DECIDE, message).with("duel", duel).with("outcome", outcome);
    let open =
        open(transaction)?.filter(|open| open.id == *duel).ok_or_else(|| bug("the duel is not open"))?;
    let step = match outcome {
        Outcome::Dethroned => Move::Crown,
        Outcome::KingHolds(_) => Move::Lose,
        Outcome::Forfeit(_) => Move::Forfeit,
        _ => return Err(bug("a void duel has no verdict").into()),
    };
    let logged = matches!(&ended.end, End::Recorded { record: named, outcome: said, .. } if named == record && said == outcome);
    if ended.announced != open.announced || !logged || crowned.is_some() != (step == Move::Crown) {
        return Err(bug("the verdict, its log entry and the new king do not fit together").into());
    }
    if step == Move::Crown
        && let Some(why) = alerts::frozen(transaction)?
    {
        return Err(Error::new(
            ErrorKind::Conflict,
            DECIDE,
            "no crown falls after a bug until somebody has looked",
        )
        .with_fault(Fault::Operator)
        .with("bug", why)
        .with_hint("report it; `albedo validator unfreeze` once it is understood")
        .into());
    }
    keep_record(transaction, open.submission, *record)?;
    apply(transaction, open.submission, step, &Reason::new(reason.clone()), now_ms)?;
    transaction.execute(
        "UPDATE duels SET ended_ms = ?2, outcome = ?3, record = ?4, samples = ?5, margin = ?6, effect_mean = ?7, \
         effect_error = ?8, usd = max(usd, ?9) WHERE id = ?1",
        params![
            duel,
            now_ms,
            step.name(),
            record.to_string(),
            samples,
            margin,
            effect.map(|effect| effect.mean),
            effect.map(|effect| effect.standard_error),
            usd,
        ],
    )?;
    if let Some(Crowned { hotkey, model, parameters, block }) = crowned {
        transaction.execute(
            "INSERT INTO kings (hotkey, model, parameters, submission, record, crowned_ms, crowned_block, competition) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                hotkey.0,
                json(model)?,
                parameters.to_string(),
                open.submission,
                record.to_string(),
                now_ms,
                block,
                super::competitions::present(transaction)?.id,
            ],
        )?;
        call_weights(transaction, transaction.last_insert_rowid(), now_ms)?;
    }
    let place = append(transaction, &Entry::Ended(ended.clone()))?;
    outbox::put_record(transaction, *record, folder, open.submission, place, now_ms)
}

/// Gives a planned duel up within a transaction.
pub(super) fn abandon(
    transaction: &Transaction<'_>,
    duel: i64,
    reason: &str,
    now_ms: u64,
) -> Result<(), Trouble> {
    let submission = submission_of(transaction, duel)?;
    apply(transaction, submission, Move::Abandon, &Reason::new(reason), now_ms)?;
    let sql = "SELECT announced FROM duels WHERE id = ?1";
    let announced: u64 = transaction.query_row(sql, [duel], |row| row.get(0))?;
    let end = End::Abandoned { reason: reason.to_owned() };
    append(transaction, &Entry::Ended(Ended { announced, end }))?;
    let sql = "UPDATE duels SET ended_ms = ?2, outcome = 'abandoned' WHERE id = ?1";
    transaction.execute(sql, params![duel, now_ms])?;
    Ok(())
}

/// Called before the move: a submission with an outcome cannot be changed any more.
fn keep_record(transaction: &Transaction<'_>, id: i64, record: Digest) -> Result<(), Trouble> {
    transaction
        .execute("UPDATE submissions SET record = ?2 WHERE id = ?1", params![id, record.to_string()])?;
    Ok(())
}

fn submission_of(transaction: &Transaction<'_>, duel: i64) -> Result<i64, Trouble> {
    let sql = "SELECT submission FROM duels WHERE id = ?1 AND ended_ms IS NULL";
    let found = transaction.query_row(sql, [duel], |row| row.get(0)).optional()?;
    found.ok_or_else(|| Error::bug("find a duel", "it is not open").with("duel", duel).into())
}

fn next_attempt(transaction: &Transaction<'_>, king: i64, budget: ErrorBudget) -> Result<Attempt, Trouble> {
    let sql = "SELECT coalesce(max(attempt), 0) FROM duels WHERE king = ?1";
    let last: u64 = transaction.query_row(sql, [king], |row| row.get(0))?;
    let sql = "SELECT record, effect_mean, effect_error FROM duels WHERE king = ?1 AND record IS NOT NULL ORDER BY attempt";
    let mut statement = transaction.prepare(sql)?;
    let rows = statement.query_map([king], |row| {
        let effect = match (row.get(1)?, row.get(2)?) {
            (Some(mean), Some(standard_error)) => Some(Effect { mean, standard_error }),
            _ => None,
        };
        Ok((digest(row, 0)?, effect))
    })?;
    let ended = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Attempt {
        king,
        number: last + 1,
        share: budget.share(last + 1),
        previous: ended.last().and_then(|(record, _)| *record),
        effects: ended.into_iter().filter_map(|(_, effect)| effect).collect(),
    })
}

pub(super) fn open(transaction: &Transaction<'_>) -> Result<Option<OpenDuel>, Trouble> {
    let sql = "SELECT duels.id, submission, king, attempt, settings, announced, entry, head_block, seed, began_ms, voids, give_up \
               FROM duels JOIN log_entries ON place = announced WHERE ended_ms IS NULL";
    let row = |row: &Row<'_>| {
        let entry: Entry = parsed(row, 6)?;
        let Entry::Announced(announcement) = entry else {
            return Err(damaged(6, "the log's entry announces nothing"));
        };
        let seed: Option<String> = row.get(8)?;
        Ok(OpenDuel {
            id: row.get(0)?,
            submission: row.get(1)?,
            king: row.get(2)?,
            attempt: row.get(3)?,
            settings: parsed(row, 4)?,
            announced: row.get(5)?,
            announcement,
            head_block: row.get(7)?,
            seed: seed.map(|seed| seed.parse().map_err(|error: Error| damaged(8, error))).transpose()?,
            began: row.get::<_, Option<u64>>(9)?.is_some(),
            voids: row.get(10)?,
            give_up: row.get(11)?,
        })
    };
    Ok(transaction.query_row(sql, [], row).optional()?)
}
