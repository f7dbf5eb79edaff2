//! Who reigned, and whom weights are shared among.

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::Serialize;

use super::competitions::present;
use super::sql::{digest, json, parsed};
use super::{Ledger, outbox};
use crate::chain::{BlockNumber, Hotkey};
use crate::chains::database::Trouble;
use crate::{Digest, Error, ErrorKind, Fault, ModelRef, Result};

/// A king.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KingRow {
    /// Its place among the kings, from 1.
    pub id: i64,
    /// Whose submission it was; nobody's if it was there before all of them, and earns
    /// nothing.
    pub hotkey: Option<Hotkey>,
    /// Where its files are.
    pub model: ModelRef,
    /// Digest of its parameters, once they were read.
    pub parameters: Option<Digest>,
    /// The submission.
    pub submission: Option<i64>,
    /// The record of the duel that crowned it.
    pub record: Option<Digest>,
    /// When it was crowned, in milliseconds since the Unix epoch.
    pub crowned_ms: u64,
    /// The finalised head when it was crowned.
    pub crowned_block: Option<BlockNumber>,
    /// The competition.
    pub competition: i64,
}

impl Ledger {
    /// Says which competition this ledger is of, once: the chain, the subnet and the key of
    /// its validator.
    ///
    /// # Errors
    /// The operator's: it is another one's ledger.
    pub async fn bind(&self, competition: String) -> Result<()> {
        const OPERATION: &str = "open the ledger";
        self.write(OPERATION, move |transaction| {
            let sql = "INSERT OR IGNORE INTO meta (key, value) VALUES ('competition', ?1)";
            transaction.execute(sql, [&competition])?;
            let sql = "SELECT value FROM meta WHERE key = 'competition'";
            let bound: String = transaction.query_row(sql, [], |row| row.get(0))?;
            if bound == competition {
                return Ok(());
            }
            Err(Error::new(ErrorKind::ConfigInvalid, OPERATION, "it is the ledger of another competition")
                .with_fault(Fault::Operator)
                .with("ledger", bound)
                .with("configuration", competition)
                .with_hint(
                    "name another folder under `state`, or the chain, subnet and hotkey that it began with",
                )
                .into())
        })
        .await
    }

    /// Enters the first king, who earns nothing, unless somebody reigns; gives who does.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn begin_reign(&self, genesis: ModelRef, now_ms: u64) -> Result<KingRow> {
        self.write("enter the first king", move |transaction| {
            if let Some(king) = newest(transaction)? {
                return Ok(king);
            }
            enter_first(transaction, &genesis, now_ms)?;
            outbox::mark_documents(transaction, now_ms)?;
            newest(transaction)?.ok_or_else(|| Error::bug("enter the first king", "it is gone").into())
        })
        .await
    }

    /// Who reigns.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn king(&self) -> Result<Option<KingRow>> {
        self.look("read the king", newest).await
    }

    /// Every king, the newest first.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn kings(&self) -> Result<Vec<KingRow>> {
        self.look("read the kings", all).await
    }

    /// Notes the digest of a king's parameters.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`], the king's own: it had others before.
    pub async fn note_parameters(&self, king: i64, parameters: Digest) -> Result<()> {
        const OPERATION: &str = "note a king's parameters";
        self.write(OPERATION, move |transaction| {
            let text = parameters.to_string();
            let sql = "UPDATE kings SET parameters = ?2 WHERE id = ?1 AND parameters IS NULL";
            transaction.execute(sql, params![king, text])?;
            let sql = "SELECT parameters FROM kings WHERE id = ?1";
            let noted: String = transaction.query_row(sql, [king], |row| row.get(0))?;
            if noted == text {
                return Ok(());
            }
            Err(Error::new(
                ErrorKind::DigestMismatch,
                OPERATION,
                "the king's files are not those that were crowned",
            )
            .with_fault(Fault::Contestant(crate::Side::King))
            .with("crowned", noted)
            .with("found", text)
            .with_hint("restore the king's files")
            .into())
        })
        .await
    }
}

/// Enters the first king of the present competition, who earns nothing.
pub(super) fn enter_first(
    transaction: &Transaction<'_>,
    genesis: &ModelRef,
    now_ms: u64,
) -> Result<(), Trouble> {
    let sql = "INSERT INTO kings (model, crowned_ms, competition) VALUES (?1, ?2, ?3)";
    let competition = present(transaction)?.id;
    transaction.execute(sql, params![json(genesis)?, now_ms, competition])?;
    call_weights(transaction, transaction.last_insert_rowid(), now_ms)
}

/// Calls for weights for the kings of the present competition so far, the newest first.
pub(super) fn call_weights(transaction: &Transaction<'_>, king: i64, now_ms: u64) -> Result<(), Trouble> {
    let (kings, competition) = (all(transaction)?, present(transaction)?.id);
    let kings = kings.iter().filter(|king| king.competition == competition);
    let hotkeys: Vec<_> = kings.filter_map(|king| king.hotkey.as_ref()).collect();
    transaction.execute(
        "INSERT INTO weight_calls (at_ms, king, hotkeys) VALUES (?1, ?2, ?3)",
        params![now_ms, king, json(&hotkeys)?],
    )?;
    Ok(())
}

pub(super) fn newest(transaction: &Transaction<'_>) -> Result<Option<KingRow>, Trouble> {
    let sql = format!("{SELECT} ORDER BY id DESC LIMIT 1");
    Ok(transaction.query_row(&sql, [], king).optional()?)
}

pub(super) fn all(transaction: &Transaction<'_>) -> Result<Vec<KingRow>, Trouble> {
    let mut statement = transaction.prepare(&format!("{SELECT} ORDER BY id DESC"))?;
    Ok(statement.query_map([], king)?.collect::<rusqlite::Result<_>>()?)
}

const SELECT: &str = "SELECT id, hotkey, model, parameters, submission, record, crowned_ms, crowned_block, \
     competition FROM kings";

fn king(row: &Row<'_>) -> rusqlite::Result<KingRow> {
    Ok(KingRow {
        id: row.get(0)?,
        hotkey: row.get::<_, Option<String>>(1)?.map(Hotkey),
        model: parsed(row, 2)?,
        parameters: digest(row, 3)?,
        submission: row.get(4)?,
        record: digest(row, 5)?,
        crowned_ms: row.get(6)?,
        crowned_block: row.get(7)?,
        competition: row.get(8)?,
    })
}
