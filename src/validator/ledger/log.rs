//! The log of duels: its entries are here first, and then in its folder.

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::Ledger;
use super::sql::parsed;
use crate::chains::database::{Trouble, damaged};
use crate::log::{Entry, Head};
use crate::{Error, Result};

impl Ledger {
    /// The log's entries from the place `from` on.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn log_entries(&self, from: u64) -> Result<Vec<Entry>> {
        self.look("read the log's entries", move |transaction| {
            let sql = "SELECT entry FROM log_entries WHERE place >= ?1 ORDER BY place";
            let mut statement = transaction.prepare(sql)?;
            Ok(statement.query_map([from], |row| parsed(row, 0))?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// How many entries the log has.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn log_size(&self) -> Result<u64> {
        self.look("read the log's size", |transaction| Ok(size(transaction)?)).await
    }

    /// Keeps a signed head that covers entries of this ledger.
    ///
    /// # Errors
    /// A bug: it covers more than there are.
    pub async fn keep_head(&self, head: &Head, now_ms: u64) -> Result<()> {
        let (covered, head) = (head.size, head.clone());
        self.write("keep a head of the log", move |transaction| {
            let entries = size(transaction)?;
            if covered > entries {
                let error = Error::bug(
                    "keep a head of the log",
                    "the log's folder has entries that the ledger lacks",
                );
                return Err(error.with("folder", covered).with("ledger", entries).into());
            }
            keep(transaction, &head, now_ms)
        })
        .await
    }

    /// The newest signed head.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn newest_head(&self) -> Result<Option<Head>> {
        self.look("read the log's head", |transaction| {
            let sql = "SELECT head FROM log_heads ORDER BY size DESC LIMIT 1";
            Ok(transaction.query_row(sql, [], head).optional()?)
        })
        .await
    }

    /// The signed head of the first `size` entries, if one was signed then.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn head_of(&self, size: u64) -> Result<Option<Head>> {
        self.look("read a head of the log", move |transaction| {
            let sql = "SELECT head FROM log_heads WHERE size = ?1";
            Ok(transaction.query_row(sql, [size], head).optional()?)
        })
        .await
    }

    /// How many entries the newest signed head covers.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn signed(&self) -> Result<u64> {
        self.look("read the log's head", |transaction| {
            let sql = "SELECT max(size) FROM log_heads";
            Ok(transaction.query_row(sql, [], |row| row.get(0)).optional()?.flatten().unwrap_or(0))
        })
        .await
    }
}

/// How many entries there are: their places have no gap, and none is ever deleted.
fn size(transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
    transaction.query_row("SELECT coalesce(max(place) + 1, 0) FROM log_entries", [], |row| row.get(0))
}

fn head(row: &Row<'_>) -> rusqlite::Result<Head> {
    Head::parse(&row.get::<_, String>(0)?).map_err(|error| damaged(0, error))
}

/// Keeps a signed head of the log.
pub(super) fn keep(transaction: &Transaction<'_>, head: &Head, now_ms: u64) -> Result<(), Trouble> {
    let sql = "INSERT OR IGNORE INTO log_heads (size, head, at_ms) VALUES (?1, ?2, ?3)";
    transaction.execute(sql, params![head.size, head.to_string(), now_ms])?;
    Ok(())
}

/// The place at which the entry now stands.
pub(super) fn append(transaction: &Transaction<'_>, entry: &Entry) -> Result<u64, Trouble> {
    const OPERATION: &str = "append to the log";
    let bytes = entry.to_bytes()?;
    let text = String::from_utf8(bytes).map_err(|error| Error::bug(OPERATION, error.to_string()))?;
    let place = size(transaction)?;
    transaction.execute("INSERT INTO log_entries (place, entry) VALUES (?1, ?2)", params![place, text])?;
    Ok(place)
}
