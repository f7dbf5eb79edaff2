//! What somebody should look at, each once, and the freeze after a bug.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::Serialize;

use super::Ledger;
use crate::chains::database::Trouble;
use crate::validator::webhook::Notice;
use crate::{Error, Fault, Result};

/// Key of the alert that stands while crowns are frozen.
const FROZEN: &str = "frozen";

/// Something that somebody should look at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alert {
    /// What it is about: a task, or an invariant.
    pub key: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// Who has to act.
    pub fault: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub first_ms: u64,
    /// When it was said last.
    pub last_ms: u64,
    /// How often.
    pub count: u64,
}

impl Ledger {
    /// Says that something is wrong; gives whether it is news. A bug freezes crowns and
    /// weights until [`Ledger::unfreeze`], and an alert of its own says so until then.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn alert(&self, key: &str, error: &Error, now_ms: u64) -> Result<bool> {
        self.raise(key, error, false, now_ms).await
    }

    /// As [`Ledger::alert`], for something new under an alert that is raised already. The webhook sends the
    /// alert again.
    ///
    /// # Errors
    /// The ledger's.
    pub(in crate::validator) async fn alert_anew(
        &self,
        key: &str,
        error: &Error,
        now_ms: u64,
    ) -> Result<bool> {
        self.raise(key, error, true, now_ms).await
    }

    async fn raise(&self, key: &str, error: &Error, has_news: bool, now_ms: u64) -> Result<bool> {
        let (key, message, fault) = (key.to_owned(), error.to_string(), error.fault());
        self.write("raise an alert", move |transaction| {
            let is_news = raise(transaction, &key, &message, fault, now_ms)?;
            if has_news {
                transaction.execute("UPDATE alerts SET news = count WHERE key = ?1", [&key])?;
            }
            if fault == Fault::Bug {
                let sql = "INSERT OR IGNORE INTO meta (key, value) VALUES ('frozen', ?1)";
                transaction.execute(sql, [&message])?;
                raise_frozen(transaction, now_ms)?;
            }
            Ok(is_news)
        })
        .await
    }

    /// Raises the alert of a freeze that has none: a build that knew no such alert may have frozen
    /// crowns.
    ///
    /// # Errors
    /// The ledger's.
    pub(in crate::validator) async fn tell_of_freeze(&self, now_ms: u64) -> Result<()> {
        let is_told = self.look("read whether a freeze is told", |transaction| {
            Ok(frozen(transaction)?.is_none() || stands(transaction, FROZEN)?.is_some())
        });
        if is_told.await? {
            return Ok(());
        }
        self.write("raise the alert of the freeze", move |transaction| raise_frozen(transaction, now_ms))
            .await
    }

    /// Says that it is well again; gives whether it was not. While crowns are frozen, the alert
    /// of a bug stands: a task that waits because of it has no failure to tell of.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn well(&self, key: &str, now_ms: u64) -> Result<bool> {
        let (key, named) = (key.to_owned(), key.to_owned());
        let stands = self.look("read an alert", move |transaction| {
            let sql = "SELECT 1 FROM alerts WHERE key = ?1 AND over_ms IS NULL \
                       AND (fault <> 'bug' OR NOT EXISTS (SELECT 1 FROM meta WHERE key = 'frozen'))";
            Ok(transaction.query_row(sql, [named], |_| Ok(())).optional()?.is_some())
        });
        if !stands.await? {
            return Ok(false);
        }
        self.write("end an alert", move |transaction| {
            transaction.execute("UPDATE alerts SET over_ms = ?2 WHERE key = ?1", params![key, now_ms])?;
            Ok(true)
        })
        .await
    }

    /// What is wrong now, the oldest first.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn alerts(&self) -> Result<Vec<Alert>> {
        self.look("read the alerts", |transaction| {
            let sql = "SELECT key, message, fault, first_ms, last_ms, count FROM alerts WHERE over_ms IS NULL \
                       ORDER BY first_ms, key";
            let mut statement = transaction.prepare(sql)?;
            Ok(statement.query_map([], alert)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// The bug after which no crown falls, if there was one.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn frozen(&self) -> Result<Option<String>> {
        self.look("read whether crowns are frozen", frozen).await
    }

    /// The next notice for the webhook at `now_ms`: an alert that has begun or has something new, or
    /// one whose beginning was sent and that is over. An outage has to stand for `after`; within
    /// `quiet`, nothing is sent again. A later time is of a clock that was wrong, and holds
    /// nothing back.
    pub(in crate::validator) async fn untold(
        &self,
        after: Duration,
        quiet: Duration,
        now_ms: u64,
    ) -> Result<Option<Notice>> {
        let [after, quiet] = [after, quiet].map(|time| now_ms.saturating_sub(time.as_millis() as u64));
        self.look("read the alerts", move |transaction| {
            let sql = "SELECT key, message, fault, first_ms, last_ms, count, over_ms IS NOT NULL FROM alerts \
                       WHERE (over_ms IS NOT NULL AND told) OR (over_ms IS NULL AND (NOT told OR news > 0) \
                       AND (fault <> 'infrastructure' OR first_ms <= ?1 OR first_ms > ?3) \
                       AND (told_ms IS NULL OR told_ms <= ?2 OR told_ms > ?3)) \
                       ORDER BY first_ms, key LIMIT 1";
            let notice = |row: &Row<'_>| Ok(Notice { alert: alert(row)?, is_over: row.get(6)? });
            Ok(transaction.query_row(sql, [after, quiet, now_ms], notice).optional()?)
        })
        .await
    }

    /// The webhook has the notice. What has come since the notice was read is news still.
    pub(in crate::validator) async fn told(&self, notice: &Notice, now_ms: u64) -> Result<()> {
        let (key, stands, count) = (notice.alert.key.clone(), !notice.is_over, notice.alert.count);
        self.write("note that a notice was sent", move |transaction| {
            let sql =
                "UPDATE alerts SET told = ?2, told_ms = ?3, news = iif(news > ?4, news, 0) WHERE key = ?1";
            transaction.execute(sql, params![key, stands, now_ms, count])?;
            Ok(())
        })
        .await
    }
}

/// Raises the alert of the freeze, if there is one: it names the first bug.
fn raise_frozen(transaction: &Transaction<'_>, now_ms: u64) -> Result<(), Trouble> {
    if let Some(first) = frozen(transaction)? {
        let message = format!("no crown falls until `albedo validator unfreeze`: {first}");
        raise(transaction, FROZEN, &message, Fault::Bug, now_ms)?;
    }
    Ok(())
}

/// Who has to act on an alert, if it stands.
fn stands(transaction: &Transaction<'_>, key: &str) -> Result<Option<String>, Trouble> {
    let sql = "SELECT fault FROM alerts WHERE key = ?1 AND over_ms IS NULL";
    Ok(transaction.query_row(sql, [key], |row| row.get(0)).optional()?)
}

/// Raises an alert within a transaction; gives whether it is news. While crowns are frozen, the
/// alert of a bug goes on telling of the bug, whatever fails after it.
fn raise(
    transaction: &Transaction<'_>,
    key: &str,
    message: &str,
    fault: Fault,
    now_ms: u64,
) -> Result<bool, Trouble> {
    let Some(before) = stands(transaction, key)? else {
        transaction.execute(
            "INSERT INTO alerts (key, message, fault, first_ms, last_ms, count) VALUES (?1, ?2, ?3, ?4, ?4, 1) \
             ON CONFLICT (key) DO UPDATE SET message = ?2, fault = ?3, first_ms = ?4, last_ms = ?4, count = 1, \
             over_ms = NULL, news = 0",
            params![key, message, fault.to_string(), now_ms],
        )?;
        return Ok(true);
    };
    // A beginning that is still to come is of a clock that was wrong.
    let sql =
        "UPDATE alerts SET first_ms = min(first_ms, ?2), last_ms = ?2, count = count + 1 WHERE key = ?1";
    transaction.execute(sql, params![key, now_ms])?;
    let was_bug = before == Fault::Bug.to_string();
    if fault == Fault::Bug || !was_bug || frozen(transaction)?.is_none() {
        let sql = "UPDATE alerts SET message = ?2, fault = ?3 WHERE key = ?1";
        transaction.execute(sql, params![key, message, fault.to_string()])?;
    }
    Ok(false)
}

/// Ends the alerts of bugs: somebody has looked.
pub(super) fn end_bugs(transaction: &Transaction<'_>) -> Result<(), Trouble> {
    let sql = "UPDATE alerts SET over_ms = last_ms WHERE over_ms IS NULL AND fault = 'bug'";
    transaction.execute(sql, [])?;
    Ok(())
}

fn alert(row: &Row<'_>) -> rusqlite::Result<Alert> {
    Ok(Alert {
        key: row.get(0)?,
        message: row.get(1)?,
        fault: row.get(2)?,
        first_ms: row.get(3)?,
        last_ms: row.get(4)?,
        count: row.get(5)?,
    })
}

pub(super) fn frozen(transaction: &Transaction<'_>) -> Result<Option<String>, Trouble> {
    let sql = "SELECT value FROM meta WHERE key = 'frozen'";
    Ok(transaction.query_row(sql, [], |row| row.get(0)).optional()?)
}
