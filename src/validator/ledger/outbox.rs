//! What waits to be published. A record waits until the log's folder has its entry, so
//! that nobody sees a record that the log does not name.

use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::Ledger;
use super::followed::is_followers;
use super::submissions::find;
use crate::chains::database::{Trouble, damaged};
use crate::log::Submission;
use crate::publish::{Failure, Lag};
use crate::{Digest, Result};

/// The documents of the public data that follow from the ledger alone: each change of
/// it puts them in anew.
pub(in crate::validator) const DOCUMENTS: [&str; 2] = ["data/status.json", "data/submissions.json"];

/// The longest pause before something is tried again, in milliseconds, whatever a server asks
/// for. Source: albedo.
const LONGEST_MS: u64 = 30 * 60 * 1000;

/// Something that waits.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::validator) struct Waiting {
    pub(in crate::validator) id: u64,
    pub(in crate::validator) what: What,
    pub(in crate::validator) added_ms: u64,
    pub(in crate::validator) due_ms: u64,
    pub(in crate::validator) tries: u32,
}

/// What waits.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::validator) enum What {
    /// The record in a folder, and whose it is.
    Record { folder: PathBuf, submission: Submission, decided_ms: u64 },
    /// A document; without bytes it is to be written from the ledger.
    Document { name: String, bytes: Option<Vec<u8>> },
}

/// What could not be published, and why not: of several items the one that has to wait for
/// somebody, or the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::validator) struct Unpublished {
    /// The record's digest, or the document's name.
    pub(in crate::validator) name: String,
    /// The last error.
    pub(in crate::validator) error: String,
    /// Whether it may pass by itself.
    pub(in crate::validator) is_outage: bool,
    /// Whether the program is at fault.
    pub(in crate::validator) is_bug: bool,
    /// Whether it is not tried again soon.
    pub(in crate::validator) is_stopped: bool,
}

impl Ledger {
    /// Puts a document in; the last one under a name is the one that counts. It is due at once,
    /// or when the one in its place was to be tried again; not while a bug has stopped that one.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn put_document(&self, name: &'static str, bytes: Vec<u8>, now_ms: u64) -> Result<()> {
        self.write("put a document into the outbox", move |transaction| {
            put(transaction, name, Some(&bytes), now_ms)
        })
        .await
    }

    /// Has the documents written anew, so that readers see that somebody still writes them.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn refresh_documents(&self, now_ms: u64) -> Result<()> {
        self.write("have the public data written", move |transaction| mark_documents(transaction, now_ms))
            .await
    }

    /// Whether the document `name` waits to be tried again after a failure, or for another build after
    /// a bug: another version of it would wait as long.
    pub(in crate::validator) async fn is_put_off(&self, name: &'static str, now_ms: u64) -> Result<bool> {
        self.look("read the outbox", move |transaction| {
            let sql = "SELECT 1 FROM outbox WHERE name = ?1 AND done_ms IS NULL AND error IS NOT NULL \
                       AND (due_ms > ?2 AND due_ms <= ?3 OR due_ms IS NULL AND fault = 'bug')";
            let latest = now_ms.saturating_add(LONGEST_MS);
            let found = transaction.query_row(sql, params![name, now_ms, latest], |_| Ok(()));
            Ok(found.optional()?.is_some())
        })
        .await
    }

    /// What is due first, or will be. What would be due after the longest pause was put in by a
    /// clock that was wrong: it is due now.
    pub(in crate::validator) async fn next_waiting(&self, now_ms: u64) -> Result<Option<Waiting>> {
        self.look("read the outbox", move |transaction| {
            let sql = "SELECT id, kind, name, folder, submission, bytes, added_ms, \
                       iif(due_ms > ?2, ?1, due_ms) AS due, tries FROM outbox \
                       WHERE done_ms IS NULL AND due_ms IS NOT NULL \
                       AND (place IS NULL OR place < coalesce((SELECT max(size) FROM log_heads), 0)) \
                       ORDER BY due > ?1, CASE WHEN due > ?1 THEN due ELSE place END NULLS LAST, id LIMIT 1";
            let latest = now_ms.saturating_add(LONGEST_MS);
            let found = transaction.query_row(sql, [now_ms, latest], stored).optional()?;
            found.map(|stored| stored.waiting(transaction)).transpose()
        })
        .await
    }

    pub(in crate::validator) async fn published(&self, id: u64, now_ms: u64) -> Result<()> {
        self.write("note what is published", move |transaction| {
            let sql =
                "UPDATE outbox SET done_ms = ?2, due_ms = NULL, error = NULL, fault = NULL WHERE id = ?1";
            transaction.execute(sql, params![id, now_ms])?;
            Ok(())
        })
        .await
    }

    pub(in crate::validator) async fn not_published(
        &self,
        id: u64,
        failure: &Failure,
        now_ms: u64,
    ) -> Result<()> {
        let Failure { message, fault, again_ms } = failure.clone();
        let again_ms = again_ms.map(|again_ms| again_ms.min(now_ms.saturating_add(LONGEST_MS)));
        self.write("note what is not published", move |transaction| {
            let sql =
                "UPDATE outbox SET due_ms = ?2, tries = tries + 1, error = ?3, fault = ?4 WHERE id = ?1";
            transaction.execute(sql, params![id, again_ms, message, fault.to_string()])?;
            Ok(())
        })
        .await
    }

    /// What could not be published so far.
    pub(in crate::validator) async fn unpublished(&self) -> Result<Option<Unpublished>> {
        self.look("read the outbox", |transaction| {
            let sql = "SELECT name, error, fault = 'infrastructure', fault = 'bug', due_ms IS NULL FROM outbox \
                       WHERE done_ms IS NULL AND error IS NOT NULL \
                       ORDER BY due_ms IS NOT NULL, fault = 'infrastructure', id LIMIT 1";
            let row = |row: &Row<'_>| {
                Ok(Unpublished {
                    name: row.get(0)?,
                    error: row.get(1)?,
                    is_outage: row.get(2)?,
                    is_bug: row.get(3)?,
                    is_stopped: row.get(4)?,
                })
            };
            Ok(transaction.query_row(sql, [], row).optional()?)
        })
        .await
    }

    /// Has everything tried again that waits for somebody. What a bug stopped is tried again only
    /// if `build` is another one than the last that asked: the same build meets the bug again.
    pub(in crate::validator) async fn try_stopped(&self, build: String, now_ms: u64) -> Result<()> {
        self.write("publish what was stopped", move |transaction| {
            let sql = "INSERT INTO meta (key, value) VALUES ('publisher', ?1) \
                       ON CONFLICT (key) DO UPDATE SET value = ?1 WHERE value <> ?1";
            let is_another = transaction.execute(sql, [build])? > 0;
            let sql = "UPDATE outbox SET due_ms = ?1 WHERE done_ms IS NULL AND due_ms IS NULL \
                       AND (?2 OR fault IS NOT 'bug')";
            transaction.execute(sql, params![now_ms, is_another])?;
            Ok(())
        })
        .await
    }

    /// How far publication is behind.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn lag(&self) -> Result<Lag> {
        self.look("read the outbox", |transaction| {
            let sql =
                "SELECT count(*), count(*) - count(due_ms), min(added_ms) FROM outbox WHERE done_ms IS NULL";
            Ok(transaction.query_row(sql, [], |row| {
                Ok(Lag { waiting: row.get(0)?, stopped: row.get(1)?, oldest_ms: row.get(2)? })
            })?)
        })
        .await
    }
}

/// A row of the table.
struct Stored {
    id: u64,
    kind: String,
    name: String,
    folder: Option<String>,
    submission: Option<i64>,
    bytes: Option<Vec<u8>>,
    added_ms: u64,
    due_ms: u64,
    tries: u32,
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored {
        id: row.get(0)?,
        kind: row.get(1)?,
        name: row.get(2)?,
        folder: row.get(3)?,
        submission: row.get(4)?,
        bytes: row.get(5)?,
        added_ms: row.get(6)?,
        due_ms: row.get(7)?,
        tries: row.get(8)?,
    })
}

impl Stored {
    fn waiting(self, transaction: &Transaction<'_>) -> Result<Waiting, Trouble> {
        let Self { id, kind, name, folder, submission, bytes, added_ms, due_ms, tries } = self;
        let what = match (kind.as_str(), folder, submission) {
            ("document", ..) => What::Document { name, bytes },
            (_, Some(folder), Some(submission)) => {
                let row = find(transaction, submission)?;
                let submission =
                    Submission { hotkey: row.hotkey.0, repository: row.repository, pin: row.pin };
                What::Record { folder: folder.into(), submission, decided_ms: added_ms }
            }
            _ => return Err(damaged(3, "a record in the outbox has no folder").into()),
        };
        Ok(Waiting { id, what, added_ms, due_ms, tries })
    }
}

/// A version of a document that waits.
struct Before {
    added_ms: u64,
    due_ms: Option<u64>,
    tries: u32,
    error: Option<String>,
    fault: Option<String>,
}

impl Before {
    fn of(transaction: &Transaction<'_>, name: &str) -> Result<Option<Self>, Trouble> {
        let sql =
            "SELECT added_ms, due_ms, tries, error, fault FROM outbox WHERE name = ?1 AND done_ms IS NULL";
        let before = |row: &Row<'_>| {
            Ok(Self {
                added_ms: row.get(0)?,
                due_ms: row.get(1)?,
                tries: row.get(2)?,
                error: row.get(3)?,
                fault: row.get(4)?,
            })
        };
        Ok(transaction.query_row(sql, [name], before).optional()?)
    }
}

/// Has the documents written anew from the ledger, unless it is one that publishes nothing.
pub(super) fn mark_documents(transaction: &Transaction<'_>, now_ms: u64) -> Result<(), Trouble> {
    if is_followers(transaction)? {
        return Ok(());
    }
    DOCUMENTS.iter().try_for_each(|name| put(transaction, name, None, now_ms))
}

/// A new number for each version: what is said of the one before does not count for it. It is tried
/// no sooner where the one before is to be tried again after a failure: that was not the document's,
/// and changes of the document do not end it. Nor do they end a bug, which the same build meets again.
fn put(transaction: &Transaction<'_>, name: &str, bytes: Option<&[u8]>, now_ms: u64) -> Result<(), Trouble> {
    let before = Before::of(transaction, name)?;
    let added_ms = before.as_ref().map_or(now_ms, |before| before.added_ms);
    let lasts = |before: &Before| before.due_ms.is_some() || before.fault.as_deref() == Some("bug");
    let failed = before.filter(|before| before.error.is_some() && lasts(before));
    let (due_ms, tries, error, fault) = failed.map_or((Some(now_ms), 0, None, None), |before| {
        (before.due_ms, before.tries, before.error, before.fault)
    });
    transaction.execute(
        "INSERT OR REPLACE INTO outbox (kind, name, bytes, added_ms, due_ms, tries, error, fault) \
         VALUES ('document', ?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![name, bytes, added_ms, due_ms, tries, error, fault],
    )?;
    Ok(())
}

/// Has the record published that `place` of the log names. One that has the same digest is the
/// same record: another submission with the same files forfeits by it after a reset.
pub(super) fn put_record(
    transaction: &Transaction<'_>,
    record: Digest,
    folder: &Path,
    submission: i64,
    place: u64,
    now_ms: u64,
) -> Result<(), Trouble> {
    let folder = folder
        .to_str()
        .ok_or_else(|| crate::Error::bug("put a record into the outbox", "its folder's name is not UTF-8"))?;
    transaction.execute(
        "INSERT INTO outbox (kind, name, folder, submission, place, added_ms, due_ms) \
         VALUES ('record', ?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT (name) DO NOTHING",
        params![record.to_string(), folder, submission, place, now_ms],
    )?;
    Ok(())
}
