//! The vector of each epoch, and what became of it.

use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;

use super::sql::{json, parsed};
use super::{Ledger, outbox};
use crate::chain::{EpochIndex, Hotkey, WeightReceipt};
use crate::chains::database::damaged;
use crate::weights::WeightVector;
use crate::{Error, Result};

/// What is known of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EpochRow {
    /// The epoch.
    pub epoch: EpochIndex,
    /// The vector that is sent in it, and no other.
    pub vector: WeightVector,
    /// Where it landed.
    pub receipt: Option<WeightReceipt>,
    /// Why it did not.
    pub missed: Option<String>,
}

impl Ledger {
    /// The kings whom weights are shared among, the newest first, and the number of the
    /// call.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn called_weights(&self) -> Result<Option<(i64, Vec<Hotkey>)>> {
        self.look("read the call for weights", |transaction| {
            let sql = "SELECT id, hotkeys FROM weight_calls ORDER BY id DESC LIMIT 1";
            Ok(transaction.query_row(sql, [], |row| Ok((row.get(0)?, parsed(row, 1)?))).optional()?)
        })
        .await
    }

    /// Keeps `vector` as that of its epoch, unless the epoch has one; gives the epoch's.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn choose_vector(&self, call: i64, vector: WeightVector, now_ms: u64) -> Result<EpochRow> {
        self.write("keep an epoch's vector", move |transaction| {
            let number = vector.key.epoch;
            let sql = "INSERT OR IGNORE INTO epochs (epoch, call, vector, at_ms) VALUES (?1, ?2, ?3, ?4)";
            transaction.execute(sql, params![number, call, json(&vector)?, now_ms])?;
            let sql = format!("{SELECT} WHERE epoch = ?1");
            Ok(transaction.query_row(&sql, [number], epoch)?)
        })
        .await
    }

    /// Notes at `now_ms` where the vector of the epoch `meant` landed. If that is a later epoch, that
    /// one has its weights with it and gets no other vector.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn weights_landed(&self, meant: EpochIndex, receipt: WeightReceipt, now_ms: u64) -> Result<()> {
        self.write("note the weights of an epoch", move |transaction| {
            let served = receipt.epoch;
            if served != meant {
                let sql = "UPDATE epochs SET missed = ?2 WHERE epoch = ?1 AND receipt IS NULL";
                transaction.execute(sql, params![meant, format!("its weights landed in epoch {served}")])?;
                let sql = "INSERT OR IGNORE INTO epochs (epoch, call, vector, at_ms) \
                           SELECT ?2, call, vector, at_ms FROM epochs WHERE epoch = ?1";
                transaction.execute(sql, params![meant, served])?;
            }
            let sql = "UPDATE epochs SET receipt = ?2, missed = NULL WHERE epoch = ?1";
            transaction.execute(sql, params![served, json(&receipt)?])?;
            outbox::mark_documents(transaction, now_ms)
        })
        .await
    }

    /// Notes that the epochs before `number` that have no weights get none any more.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn weights_missed(&self, number: EpochIndex, reason: String) -> Result<usize> {
        self.write("note a missed epoch", move |transaction| {
            Ok(transaction.execute(MISS, params![number, reason])?)
        })
        .await
    }

    /// The epoch `number`, if a vector was chosen for it.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn epoch(&self, number: EpochIndex) -> Result<Option<EpochRow>> {
        self.look("read an epoch", move |transaction| {
            let sql = format!("{SELECT} WHERE epoch = ?1");
            Ok(transaction.query_row(&sql, [number], epoch).optional()?)
        })
        .await
    }

    /// The newest epochs, at most `most`, the newest first.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn epochs(&self, most: u32) -> Result<Vec<EpochRow>> {
        self.look("read the epochs", move |transaction| {
            let mut statement = transaction.prepare(&format!("{SELECT} ORDER BY epoch DESC LIMIT ?1"))?;
            Ok(statement.query_map([most], epoch)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// The newest epoch whose vector landed.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn last_landed(&self) -> Result<Option<EpochRow>> {
        self.look("read the epochs", |transaction| {
            let sql = format!("{SELECT} WHERE receipt IS NOT NULL ORDER BY epoch DESC LIMIT 1");
            Ok(transaction.query_row(&sql, [], epoch).optional()?)
        })
        .await
    }
}

/// The condition is that of the index `epochs_open`, so that settled epochs are not read.
pub(super) const MISS: &str =
    "UPDATE epochs SET missed = ?2 WHERE epoch < ?1 AND receipt IS NULL AND missed IS NULL";

const SELECT: &str = "SELECT epoch, vector, receipt, missed FROM epochs";

fn epoch(row: &Row<'_>) -> rusqlite::Result<EpochRow> {
    let receipt: Option<String> = row.get(2)?;
    let receipt = receipt.map(|text| serde_json::from_str(&text).map_err(|error| damaged(2, error)));
    Ok(EpochRow {
        epoch: row.get(0)?,
        vector: parsed(row, 1)?,
        receipt: receipt.transpose()?,
        missed: row.get(3)?,
    })
}

impl EpochRow {
    /// Whether nothing more is to be done in the epoch.
    pub fn is_settled(&self) -> bool {
        self.receipt.is_some() || self.missed.is_some()
    }

    /// The share of each target, from 0 to 1.
    ///
    /// # Errors
    /// A bug: the vector is empty.
    pub fn parts(&self) -> Result<Vec<(Hotkey, f64)>> {
        let whole: f64 = self.vector.shares.iter().map(|share| f64::from(share.weight)).sum();
        if whole <= 0.0 {
            return Err(Error::bug("read an epoch's vector", "its weights are all 0"));
        }
        let part = |share: &crate::weights::Share| (share.hotkey.clone(), f64::from(share.weight) / whole);
        Ok(self.vector.shares.iter().map(part).collect())
    }
}
