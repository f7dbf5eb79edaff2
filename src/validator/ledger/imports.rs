//! What has taken part in another system: a switch-over starts where that stood.

use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;

use super::competitions::present;
use super::kings::{all, call_weights, enter_first};
use super::sql::json;
use super::{Ledger, outbox};
use crate::chain::{BlockNumber, Hotkey};
use crate::chains::database::Trouble;
use crate::{Digest, Error, ErrorKind, Fault, ModelRef, Result};

const ENTER: &str = "enter another system's state";

/// Another system's state, as it enters a ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// Digest of what was read.
    pub source: Digest,
    /// The first king, who earns nothing: every model is aligned to it.
    pub genesis: ModelRef,
    /// The kings after it, the oldest first.
    pub kings: Vec<ImportedKing>,
    /// Hotkeys that have taken part, each with how.
    pub hotkeys: Vec<(Hotkey, String)>,
    /// Repositories that have taken part, what pins them (empty where all of it has), and how.
    pub contents: Vec<(String, String, String)>,
    /// How many fingerprints the store of the screens got.
    pub fingerprints: u64,
}

/// A king of another system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportedKing {
    /// Whose it is.
    pub hotkey: Hotkey,
    /// Where its files are.
    pub model: ModelRef,
    /// When it was crowned, in milliseconds since the Unix epoch; 0 if that is unknown.
    pub crowned_ms: u64,
    /// At which block.
    pub crowned_block: Option<BlockNumber>,
}

/// What became of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Imported {
    /// It is in the ledger now.
    Done,
    /// It was before.
    Already,
}

impl Ledger {
    /// Whether what has the digest `source` was entered before.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], the operator's: the ledger has another history.
    pub async fn can_import(&self, source: Digest) -> Result<Imported> {
        self.look("look whether a state can be entered", move |transaction| can_import(transaction, source))
            .await
    }

    /// Enters another system's state: kings, the weights that they call for, and who and what
    /// has taken part. All of it is one transaction.
    ///
    /// # Errors
    /// As [`Ledger::can_import`].
    pub async fn import(&self, import: Import, now_ms: u64) -> Result<Imported> {
        self.write(ENTER, move |transaction| {
            let Import { source, genesis, kings, hotkeys, contents, fingerprints } = import;
            if can_import(transaction, source)? == Imported::Already {
                return Ok(Imported::Already);
            }
            if all(transaction)?.is_empty() {
                enter_first(transaction, &genesis, now_ms)?;
            }
            let competition = present(transaction)?.id;
            for ImportedKing { hotkey, model, crowned_ms, crowned_block } in &kings {
                transaction.execute(
                    "INSERT INTO kings (hotkey, model, crowned_ms, crowned_block, competition) \
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![hotkey.0, json(model)?, crowned_ms, crowned_block, competition],
                )?;
            }
            if !kings.is_empty() {
                call_weights(transaction, transaction.last_insert_rowid(), now_ms)?;
            }
            for (hotkey, why) in &hotkeys {
                let sql = "INSERT OR IGNORE INTO used_hotkeys (hotkey, competition, why) VALUES (?1, ?2, ?3)";
                transaction.execute(sql, params![hotkey.0, competition, why])?;
            }
            for (repository, pin, why) in &contents {
                let sql = "INSERT OR IGNORE INTO used_contents (repository, pin, competition, why) \
                           VALUES (?1, ?2, ?3, ?4)";
                transaction.execute(sql, params![repository, pin, competition, why])?;
            }
            transaction.execute(
                "INSERT INTO imports (source, at_ms, hotkeys, kings, fingerprints) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![source.to_string(), now_ms, hotkeys.len() as u64, kings.len() as u64, fingerprints],
            )?;
            outbox::mark_documents(transaction, now_ms)?;
            Ok(Imported::Done)
        })
        .await
    }

    /// How a hotkey, or what it submits, has taken part in the system before in the present
    /// competition, if it has.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn used_before(&self, hotkey: &Hotkey, repository: &str, pin: &str) -> Result<Option<String>> {
        let named = [hotkey.0.clone(), repository.to_owned(), pin.to_owned()];
        self.look("read what has taken part before", move |transaction| {
            let competition = present(transaction)?.id;
            let sql = "SELECT 'the hotkey ' || why FROM used_hotkeys WHERE hotkey = ?1 AND competition = ?4 \
                       UNION ALL SELECT 'the model ' || why FROM used_contents WHERE competition = ?4 \
                       AND (pin = ?3 OR (repository = ?2 AND pin = '')) LIMIT 1";
            let [hotkey, repository, pin] = &named;
            let found =
                transaction.query_row(sql, params![hotkey, repository, pin, competition], |row| row.get(0));
            Ok(found.optional()?)
        })
        .await
    }
}

fn can_import(transaction: &Transaction<'_>, source: Digest) -> Result<Imported, Trouble> {
    let sql = "SELECT 1 FROM imports WHERE source = ?1";
    if transaction.query_row(sql, [source.to_string()], |_| Ok(())).optional()?.is_some() {
        return Ok(Imported::Already);
    }
    let sql = "SELECT (SELECT count(*) FROM submissions) + (SELECT count(*) FROM duels) \
               + (SELECT count(*) FROM kings WHERE hotkey IS NOT NULL) + (SELECT count(*) FROM imports) \
               + (SELECT count(*) FROM followed) + (SELECT count(*) - 1 FROM competitions)";
    let history: i64 = transaction.query_row(sql, [], |row| row.get(0))?;
    if history == 0 {
        return Ok(Imported::Done);
    }
    Err(Error::new(ErrorKind::Conflict, ENTER, "the ledger has another history")
        .with_fault(Fault::Operator)
        .with_hint("enter it into a new ledger, in another folder under `state`, before the validator runs")
        .into())
}
