//! What is known of a validator that this one follows: its log, how far it was verified, and
//! why it is followed no further.

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::Ledger;
use super::kings::{call_weights, newest};
use super::log::{append, keep};
use super::sql::{digest, json};
use crate::audit::AuditReport;
use crate::chain::{BlockNumber, EpochIndex, Hotkey};
use crate::chains::database::{Trouble, damaged};
use crate::log::{Entry, Head};
use crate::validator::following::coverage;
use crate::{Digest, Error, ErrorKind, Fault, ModelRef, Result};

const ENTER: &str = "follow an entry of the log";

/// Whom this validator follows, and how far.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FollowedRow {
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// The name of its log.
    pub origin: String,
    /// The key of its log.
    pub key: String,
    /// The epoch in which its public data were new last.
    pub news_epoch: EpochIndex,
    /// Entries of its log that were followed.
    pub next: u64,
    /// Since which epoch the next one is due: the log had it, and the one before it was followed.
    pub next_epoch: EpochIndex,
    /// Whether all of the log was followed once.
    pub caught_up: bool,
    /// Why nothing more is followed, if that is so.
    pub refusal: Option<Refusal>,
}

/// Why a validator is not followed any further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// What is wrong.
    pub cause: Cause,
    /// In a sentence, with what to do.
    pub message: String,
}

/// What is wrong with a validator that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// A record is not what it should be, or is missing.
    Record,
    /// Replies are not the models'.
    Audit,
    /// Its log contradicts itself, or an earlier head.
    Log,
    /// The head on chain is not the log's.
    Chain,
    /// Nothing new came for two epochs.
    Silence,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 5] = [Self::Record, Self::Audit, Self::Log, Self::Chain, Self::Silence];

    /// What alerts call it.
    pub const fn alert(self) -> &'static str {
        match self {
            Self::Record => "a followed record",
            Self::Audit => "a followed record's audit",
            Self::Log => "the followed log",
            Self::Chain => "the followed log's head on chain",
            Self::Silence => "the followed validator is silent",
        }
    }

    /// Whether no later look can put it right: somebody has to decide.
    pub const fn stays(self) -> bool {
        matches!(self, Self::Audit)
    }
}

/// A record that was followed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FollowedRecord {
    /// The place of its entry in the log.
    pub place: u64,
    /// Its digest.
    pub record: Digest,
    /// The finalised head when it was here.
    pub seen_block: BlockNumber,
    /// Whether the chain shows that its miner committed to it.
    pub on_chain: bool,
    /// Its replies.
    pub replies: u32,
    /// How many of them were audited.
    pub audited: u32,
    /// Whether the audit found nothing, or the record is followed without one; none before that.
    pub passed: Option<bool>,
}

/// What was followed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FollowedTotals {
    /// Records that were verified.
    pub records: u64,
    /// Records whose miner's commitment the chain shows.
    pub on_chain: u64,
    /// Replies of the verified records.
    pub replies: u64,
    /// Replies that were audited.
    pub audited: u64,
    /// Duels that are followed although they could not be audited.
    pub unaudited: u64,
    /// Attempts against the king that reigns.
    pub attempts: u64,
    /// Records that have replies.
    pub duels: u64,
}

impl FollowedTotals {
    /// What the audits would miss in a duel of the mean number of replies, in a sentence.
    pub fn coverage(&self) -> String {
        let mean = |all: u64| u32::try_from(all / self.duels.max(1)).unwrap_or(u32::MAX);
        coverage(mean(self.replies), mean(self.audited))
    }
}

/// A duel that the followed log announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowedDuel {
    /// The place of its announcement.
    pub announced: u64,
    /// The king.
    pub king: i64,
    /// Its number within the reign.
    pub attempt: u64,
}

/// A record that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The place of its entry in the log.
    pub place: u64,
    /// Its digest.
    pub record: Digest,
    /// The duel that it ended.
    pub announced: Option<u64>,
    /// The finalised head.
    pub seen_block: BlockNumber,
    /// Whether the chain shows that its miner committed to it.
    pub on_chain: bool,
    /// Its replies.
    pub replies: u32,
}

/// What an entry of the log does.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// It announces a duel against the king that reigns, with these parameters.
    Announced {
        /// The king's parameters.
        king: Digest,
    },
    /// It ends the duel that the entry at that place announced; perhaps with another king.
    Ended {
        /// The place of the announcement.
        announced: u64,
        /// The new king, if the challenger won.
        crowned: Option<FollowedCrown>,
    },
    /// Nothing follows from it.
    Nothing,
}

/// A challenger that won.
#[derive(Debug, Clone, PartialEq)]
pub struct FollowedCrown {
    /// Whose submission it is.
    pub hotkey: Hotkey,
    /// Where its files are.
    pub model: ModelRef,
    /// Digest of its parameters.
    pub parameters: Digest,
    /// The record.
    pub record: Digest,
}

/// Which weights may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Those that the ledger calls for.
    Called,
    /// The last vector that landed, again.
    Last,
    /// None yet.
    None,
}

impl Ledger {
    /// Says who is followed, once, with the name and the key of the log, when the public data
    /// are read first in `epoch`.
    ///
    /// # Errors
    /// The operator's: somebody else is followed in this ledger.
    pub async fn follow(
        &self,
        hotkey: &Hotkey,
        head: &Head,
        key: &str,
        epoch: EpochIndex,
    ) -> Result<FollowedRow> {
        const OPERATION: &str = "follow a validator";
        let named = [hotkey.0.clone(), head.origin.clone(), key.to_owned()];
        self.write(OPERATION, move |transaction| {
            let sql = "INSERT OR IGNORE INTO followed (id, hotkey, origin, key, news, news_epoch, next_epoch) \
                       VALUES (1, ?1, ?2, ?3, '', ?4, ?4)";
            transaction.execute(sql, params![named[0], named[1], named[2], epoch])?;
            // The first king has called for documents, which nothing publishes.
            transaction.execute("DELETE FROM outbox WHERE kind = 'document'", [])?;
            let row = followed(transaction)?.ok_or_else(|| Error::bug(OPERATION, "it is gone"))?;
            let kept = [&row.hotkey.0, &row.origin, &row.key];
            for ((name, kept), named) in ["hotkey", "log", "key"].into_iter().zip(kept).zip(&named) {
                if kept != named {
                    let message = format!("its {name} is not the one that was followed so far");
                    return Err(Error::new(ErrorKind::Conflict, OPERATION, message)
                        .with_fault(Fault::Operator)
                        .with("followed", kept)
                        .with("found", named)
                        .with_hint("ask its operator; another validator is followed in another folder under `state`")
                        .into());
                }
            }
            Ok(row)
        })
        .await
    }

    /// Whom this validator follows; none before the public data were read first.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn followed(&self) -> Result<Option<FollowedRow>> {
        self.look("read who is followed", followed).await
    }

    /// Keeps the entries that the followed log has more, and its head; notes `news`, if they
    /// are other ones, for `epoch`. The caller has found that the log goes on where it was.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn keep_followed(
        &self,
        entries: Vec<Entry>,
        head: &Head,
        news: String,
        epoch: EpochIndex,
        now_ms: u64,
    ) -> Result<()> {
        let head = head.clone();
        self.write("keep the followed log", move |transaction| {
            let there: u64 =
                transaction.query_row("SELECT count(*) FROM log_entries", [], |row| row.get(0))?;
            let new = entries.get(there as usize..).unwrap_or_default();
            for entry in new {
                append(transaction, entry)?;
            }
            if !new.is_empty() {
                // What comes after an entry that was followed long ago is due from now on.
                let sql = "UPDATE followed SET next_epoch = ?1 WHERE next >= ?2";
                transaction.execute(sql, params![epoch, there])?;
            }
            keep(transaction, &head, now_ms)?;
            let sql = "UPDATE followed SET news = ?1, news_epoch = ?2 WHERE news <> ?1";
            transaction.execute(sql, params![news, epoch])?;
            Ok(())
        })
        .await
    }

    /// Says why nothing more is followed, or that all is well; gives whether that is news.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn refuse(&self, refusal: Option<Refusal>) -> Result<bool> {
        let before = self.followed().await?.and_then(|row| row.refusal);
        if before == refusal {
            return Ok(false);
        }
        self.write("note whether it is followed", move |transaction| {
            let text = refusal.as_ref().map(json).transpose()?;
            Ok(transaction.execute("UPDATE followed SET refusal = ?1", [text])? > 0)
        })
        .await
    }

    /// Somebody has looked at the refusal: what a failed audit kept back is followed. Gives
    /// the refusal, if there was one.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn forgive(&self) -> Result<Option<Refusal>> {
        self.write("end a refusal", |transaction| {
            let refusal = followed(transaction)?.and_then(|row| row.refusal);
            transaction.execute("UPDATE followed SET refusal = NULL", [])?;
            if refusal.as_ref().is_some_and(|refusal| refusal.cause == Cause::Audit) {
                let sql = "UPDATE followed_records SET passed = 1 \
                           WHERE place = (SELECT next FROM followed) AND passed IS NOT 1";
                transaction.execute(sql, [])?;
            }
            Ok(refusal)
        })
        .await
    }

    /// Notes that all of the followed log was followed once.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn caught_up(&self) -> Result<()> {
        if self.followed().await?.is_none_or(|row| row.caught_up) {
            return Ok(());
        }
        self.write("note that the log was followed", |transaction| {
            transaction.execute("UPDATE followed SET caught_up = 1", [])?;
            Ok(())
        })
        .await
    }

    /// Follows the entry at `place`, the next one, in `epoch`: all that it does is one
    /// transaction.
    ///
    /// # Errors
    /// A bug: it is not the next one, or what it does does not fit.
    pub async fn follow_entry(
        &self,
        place: u64,
        effect: Effect,
        epoch: EpochIndex,
        now_ms: u64,
    ) -> Result<()> {
        self.write(ENTER, move |transaction| {
            let sql = "UPDATE followed SET next = ?1 + 1, next_epoch = ?2 WHERE next = ?1";
            if transaction.execute(sql, params![place, epoch])? != 1 {
                return Err(Error::bug(ENTER, "it is not the next one").with("entry", place).into());
            }
            enter(transaction, place, effect, now_ms)
        })
        .await
    }

    /// The duel of the followed log that has no end yet.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn followed_duel(&self) -> Result<Option<FollowedDuel>> {
        self.look("read the followed duel", |transaction| {
            let sql = "SELECT announced, king, attempt FROM followed_duels WHERE ended IS NULL";
            let duel = |row: &Row<'_>| {
                Ok(FollowedDuel { announced: row.get(0)?, king: row.get(1)?, attempt: row.get(2)? })
            };
            Ok(transaction.query_row(sql, [], duel).optional()?)
        })
        .await
    }

    /// The last record of a duel against `king` that was followed.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn last_followed(&self, king: i64) -> Result<Option<Digest>> {
        self.look("read the followed records", move |transaction| {
            let sql = "SELECT record FROM followed_records JOIN followed_duels USING (announced) \
                       WHERE king = ?1 AND ended IS NOT NULL ORDER BY attempt DESC LIMIT 1";
            Ok(transaction.query_row(sql, [king], |row| digest(row, 0)).optional()?.flatten())
        })
        .await
    }

    /// Notes that a record was verified. Said twice, the first counts.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn note_verified(&self, verified: Verified, now_ms: u64) -> Result<()> {
        self.write("note a verified record", move |transaction| {
            let Verified { place, record, announced, seen_block, on_chain, replies } = verified;
            transaction.execute(
                "INSERT OR IGNORE INTO followed_records (place, record, announced, verified_ms, seen_block, on_chain, \
                 replies) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![place, record.to_string(), announced, now_ms, seen_block, on_chain, replies],
            )?;
            Ok(())
        })
        .await
    }

    /// Notes what the audit of the record at `place` found.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn note_audit(&self, place: u64, report: &AuditReport) -> Result<()> {
        let (text, audited, passed) = (json(report)?, report.replies, !report.alarm);
        self.write("note an audit", move |transaction| {
            let sql = "UPDATE followed_records SET audit = ?2, audited = ?3, passed = ?4 WHERE place = ?1 AND audit IS NULL";
            transaction.execute(sql, params![place, text, audited, passed])?;
            Ok(())
        })
        .await
    }

    /// Notes that the hub does not have a model of the duel that the entry at `place` ends, in
    /// `epoch`; gives the epoch in which that was noted first. It begins anew if nobody has looked for
    /// more than an epoch. The record need not be verified yet.
    ///
    /// # Errors
    /// The ledger's.
    pub(in crate::validator) async fn note_missing(
        &self,
        place: u64,
        epoch: EpochIndex,
    ) -> Result<EpochIndex> {
        self.write("note that a record cannot be audited", move |transaction| {
            let sql = "INSERT INTO followed_missing (place, epoch, looked) VALUES (?1, ?2, ?2) \
                       ON CONFLICT (place) DO UPDATE SET \
                       epoch = CASE WHEN looked + 1 < ?2 THEN ?2 ELSE epoch END, looked = max(looked, ?2)";
            transaction.execute(sql, params![place, epoch])?;
            let sql = "SELECT epoch FROM followed_missing WHERE place = ?1";
            Ok(transaction.query_row(sql, [place], |row| row.get(0))?)
        })
        .await
    }

    /// Notes that the hub has the models of the duel that the entry at `place` ends again: what may
    /// be missing later is missing from then on.
    ///
    /// # Errors
    /// The ledger's.
    pub(in crate::validator) async fn note_found(&self, place: u64) -> Result<()> {
        self.write("note that a record can be audited", move |transaction| {
            transaction.execute("DELETE FROM followed_missing WHERE place = ?1", [place])?;
            Ok(())
        })
        .await
    }

    /// The record at `place` is followed although no reply of it was audited.
    ///
    /// # Errors
    /// The ledger's.
    pub(in crate::validator) async fn take_unaudited(&self, place: u64) -> Result<()> {
        self.write("follow a record without an audit", move |transaction| {
            let sql = "UPDATE followed_records SET passed = 1 WHERE place = ?1 AND audit IS NULL";
            transaction.execute(sql, [place])?;
            Ok(())
        })
        .await
    }

    /// The records that were verified, from the place `from` on.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn followed_records(&self, from: u64) -> Result<Vec<FollowedRecord>> {
        self.look("read the followed records", move |transaction| {
            let sql = "SELECT place, record, seen_block, on_chain, replies, audited, passed FROM followed_records \
                       WHERE place >= ?1 ORDER BY place";
            let mut statement = transaction.prepare(sql)?;
            Ok(statement.query_map([from], record)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// How much was verified and audited.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn followed_totals(&self) -> Result<FollowedTotals> {
        self.look("read the followed records", |transaction| {
            let sql = "SELECT count(*), count(*) FILTER (WHERE on_chain), coalesce(sum(replies), 0), \
                       coalesce(sum(audited), 0), count(*) FILTER (WHERE replies > 0), \
                       count(*) FILTER (WHERE passed = 1 AND audit IS NULL) FROM followed_records";
            let king = newest(transaction)?.map(|king| king.id);
            let attempts = "SELECT count(*) FROM followed_duels WHERE king = ?1";
            let attempts = transaction.query_row(attempts, [king], |row| row.get(0))?;
            Ok(transaction.query_row(sql, [], |row| {
                Ok(FollowedTotals {
                    records: row.get(0)?,
                    on_chain: row.get(1)?,
                    replies: row.get(2)?,
                    audited: row.get(3)?,
                    attempts,
                    duels: row.get(4)?,
                    unaudited: row.get(5)?,
                })
            })?)
        })
        .await
    }

    /// Which weights may be chosen: after a bug, and while the followed validator is refused,
    /// the last vector that landed; none before all of the followed log was followed once.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn choice(&self, follows: bool) -> Result<Choice> {
        self.look("read which weights may be set", move |transaction| {
            let row = followed(transaction)?;
            let is_refused = row.as_ref().is_some_and(|row| row.refusal.is_some());
            Ok(match row {
                None if follows => Choice::None,
                Some(row) if !row.caught_up => Choice::None,
                _ if is_refused || super::alerts::frozen(transaction)?.is_some() => Choice::Last,
                _ => Choice::Called,
            })
        })
        .await
    }
}

/// Whether this ledger is one of a validator that follows another one: it publishes nothing.
pub(super) fn is_followers(transaction: &Transaction<'_>) -> Result<bool, Trouble> {
    let sql = "SELECT count(*) FROM followed";
    Ok(transaction.query_row(sql, [], |row| row.get::<_, i64>(0))? > 0)
}

fn enter(transaction: &Transaction<'_>, place: u64, effect: Effect, now_ms: u64) -> Result<(), Trouble> {
    let reigning = newest(transaction)?.ok_or_else(|| Error::bug(ENTER, "nobody reigns"))?;
    match effect {
        Effect::Nothing => {}
        Effect::Announced { king } => {
            if reigning.parameters.is_some_and(|known| known != king) {
                return Err(Error::bug(ENTER, "another king reigns").with("entry", place).into());
            }
            let sql = "UPDATE kings SET parameters = ?2 WHERE id = ?1 AND parameters IS NULL";
            transaction.execute(sql, params![reigning.id, king.to_string()])?;
            let sql = "INSERT INTO followed_duels (announced, king, attempt) \
                       SELECT ?1, ?2, coalesce(max(attempt), 0) + 1 FROM followed_duels WHERE king = ?2";
            transaction.execute(sql, params![place, reigning.id])?;
        }
        Effect::Ended { announced, crowned } => {
            let sql = "UPDATE followed_duels SET ended = ?2 WHERE announced = ?1 AND ended IS NULL";
            if transaction.execute(sql, params![announced, place])? != 1 {
                return Err(Error::bug(ENTER, "the duel is not open").with("entry", place).into());
            }
            if let Some(FollowedCrown { hotkey, model, parameters, record }) = crowned {
                transaction.execute(
                    "INSERT INTO kings (hotkey, model, parameters, record, crowned_ms, competition) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![
                        hotkey.0,
                        json(&model)?,
                        parameters.to_string(),
                        record.to_string(),
                        now_ms,
                        reigning.competition,
                    ],
                )?;
                call_weights(transaction, transaction.last_insert_rowid(), now_ms)?;
            }
        }
    }
    Ok(())
}

fn followed(transaction: &Transaction<'_>) -> Result<Option<FollowedRow>, Trouble> {
    let sql = "SELECT hotkey, origin, key, news_epoch, next, next_epoch, caught_up, refusal FROM followed";
    Ok(transaction
        .query_row(sql, [], |row| {
            let refusal: Option<String> = row.get(7)?;
            let refusal = refusal.map(|text| serde_json::from_str(&text).map_err(|error| damaged(7, error)));
            Ok(FollowedRow {
                hotkey: Hotkey(row.get(0)?),
                origin: row.get(1)?,
                key: row.get(2)?,
                news_epoch: row.get(3)?,
                next: row.get(4)?,
                next_epoch: row.get(5)?,
                caught_up: row.get(6)?,
                refusal: refusal.transpose()?,
            })
        })
        .optional()?)
}

fn record(row: &Row<'_>) -> rusqlite::Result<FollowedRecord> {
    Ok(FollowedRecord {
        place: row.get(0)?,
        record: digest(row, 1)?.ok_or_else(|| damaged(1, "a record has no digest"))?,
        seen_block: row.get(2)?,
        on_chain: row.get(3)?,
        replies: row.get(4)?,
        audited: row.get(5)?,
        passed: row.get(6)?,
    })
}
