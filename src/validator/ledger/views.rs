//! What the commands show.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row};
use serde::Serialize;

use super::Ledger;
use super::sql::digest;
use crate::{Digest, Result};

/// How many submissions stand in each state.
pub type Counts = BTreeMap<String, u64>;

/// A duel as a list shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DuelRow {
    /// Its number in the ledger.
    pub id: i64,
    /// The challenger's submission.
    pub submission: i64,
    /// Whose it is.
    pub hotkey: String,
    /// The king.
    pub king: i64,
    /// Its number within the reign.
    pub attempt: u64,
    /// Its share of the reign's error budget.
    pub share: f64,
    /// When it was planned, in milliseconds since the Unix epoch.
    pub planned_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// How: `crown`, `lose`, `forfeit`, `abandoned`.
    pub outcome: Option<String>,
    /// The record.
    pub record: Option<Digest>,
    /// Samples that the decision consumed.
    pub samples: Option<u32>,
    /// Challenger minus king in points.
    pub margin: Option<f64>,
    /// What the judges' answers cost in US dollars.
    pub usd: f64,
    /// How often it was void.
    pub voids: u32,
}

/// What a reign has spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Attempts against the king.
    pub attempts: u64,
    /// The shares of the error budget that they spent.
    pub alpha: f64,
    /// US dollars for the judges.
    pub usd: f64,
}

impl Ledger {
    /// How many submissions stand in each state.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn counts(&self) -> Result<Counts> {
        self.look("count the submissions", |transaction| {
            let mut statement =
                transaction.prepare("SELECT state, count(*) FROM submissions GROUP BY state")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// What the reign of `king` has spent.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn spent(&self, king: i64) -> Result<Totals> {
        self.look("read what a reign has spent", move |transaction| {
            let sql = "SELECT attempts, alpha, usd FROM spend WHERE king = ?1";
            let row =
                |row: &Row<'_>| Ok(Totals { attempts: row.get(0)?, alpha: row.get(1)?, usd: row.get(2)? });
            Ok(transaction.query_row(sql, [king], row).optional()?.unwrap_or_default())
        })
        .await
    }

    /// Every duel, the oldest first.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn duels(&self) -> Result<Vec<DuelRow>> {
        self.look("read the duels", |transaction| {
            let sql = "SELECT duels.id, submission, hotkey, king, attempt, share, planned_ms, ended_ms, outcome, \
                       duels.record, samples, margin, usd, duels.voids \
                       FROM duels JOIN submissions ON submissions.id = submission ORDER BY duels.id";
            let mut statement = transaction.prepare(sql)?;
            let rows = statement.query_map([], |row| {
                Ok(DuelRow {
                    id: row.get(0)?,
                    submission: row.get(1)?,
                    hotkey: row.get(2)?,
                    king: row.get(3)?,
                    attempt: row.get(4)?,
                    share: row.get(5)?,
                    planned_ms: row.get(6)?,
                    ended_ms: row.get(7)?,
                    outcome: row.get(8)?,
                    record: digest(row, 9)?,
                    samples: row.get(10)?,
                    margin: row.get(11)?,
                    usd: row.get(12)?,
                    voids: row.get(13)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}
