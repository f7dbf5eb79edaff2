//! What an operator asks for, beside a validator that may be at work. Each is one
//! transaction, and the tasks bear it at any moment.

use std::path::Path;

use rusqlite::params;

use super::submissions::find;
use super::{FORMAT, Ledger, duels};
use crate::chains::database::{Database, Trouble};
use crate::validator::table::{Move, after, is_final, name};
use crate::{Error, ErrorKind, Fault, Result};

/// Voids after which a duel may be given up: before, waiting helps. Source: albedo.
pub const VOIDS: u32 = 3;

impl Ledger {
    /// Opens the ledger at `path` to ask for something, beside a validator that may work
    /// with it. Nobody but a validator makes it or brings it up to date.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub fn beside(path: &Path) -> Result<Self> {
        drop(Database::open_to_read(path, FORMAT)?);
        Ok(Self::of(Database::open(Some(path), FORMAT)?, None))
    }

    /// Has the submission looked at again now, not when its pause is over.
    ///
    /// # Errors
    /// The operator's: it has its outcome. [`ErrorKind::NotFound`]; the ledger's.
    pub async fn retry(&self, id: i64) -> Result<()> {
        const RETRY: &str = "try a submission again";
        self.write(RETRY, move |transaction| {
            let row = find(transaction, id)?;
            if is_final(row.state) {
                let error = Error::new(ErrorKind::Conflict, RETRY, "it has its outcome")
                    .with_fault(Fault::Operator)
                    .with("submission", id)
                    .with("state", name(row.state))
                    .with_hint("nothing undoes an outcome");
                return Err(error.into());
            }
            transaction.execute("UPDATE submissions SET due_ms = 0 WHERE id = ?1", [id])?;
            Ok(())
        })
        .await
    }

    /// Has the submission set aside before it is looked at again: a validator at work moves it, so
    /// that the order comes between none of its steps. The last reason counts.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`]: the operator's if it has its outcome, infrastructure's while its duel
    /// is planned or runs. [`ErrorKind::NotFound`]; the ledger's.
    pub async fn set_aside(&self, id: i64, reason: String) -> Result<()> {
        const OPERATION: &str = "set a submission aside";
        self.write(OPERATION, move |transaction| {
            let row = find(transaction, id)?;
            if after(row.state, Move::SetAside).is_none() {
                let (message, fault, hint) = if is_final(row.state) {
                    ("it has its outcome", Fault::Operator, "nothing undoes an outcome")
                } else {
                    let hint =
                        "wait for its outcome; `albedo validator abandon` gives up a duel that never ends";
                    ("its duel is planned or runs", Fault::Infrastructure, hint)
                };
                return Err(Error::new(ErrorKind::Conflict, OPERATION, message)
                    .with_fault(fault)
                    .with("submission", id)
                    .with("state", name(row.state))
                    .with_hint(hint)
                    .into());
            }
            let sql = "UPDATE submissions SET set_aside = ?2, due_ms = 0 WHERE id = ?1";
            transaction.execute(sql, params![id, reason])?;
            Ok(())
        })
        .await
    }

    /// Has the open duel of the submission given up: at once if it waits, else when it is
    /// void again. Its share stays spent, and the submission gets another attempt.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it has no open duel; [`ErrorKind::Conflict`] if that was
    /// void less than [`VOIDS`] times; the ledger's.
    pub async fn give_up(&self, submission: i64, reason: String) -> Result<()> {
        const OPERATION: &str = "give a duel up";
        self.write(OPERATION, move |transaction| {
            let open = duels::open(transaction)?.filter(|open| open.submission == submission);
            let Some(open) = open else {
                let error = Error::new(ErrorKind::NotFound, OPERATION, "the submission has no open duel")
                    .with_fault(Fault::Operator)
                    .with("submission", submission)
                    .with_hint("`albedo validator status` names the open duel");
                return Err(error.into());
            };
            if open.voids < VOIDS {
                let error = Error::new(ErrorKind::Conflict, OPERATION, "it has not failed often enough")
                    .with_fault(Fault::Infrastructure)
                    .with("voids", open.voids)
                    .with("needed", VOIDS)
                    .with_hint("mend what makes it void: it goes on with its plan and its journal");
                return Err(error.into());
            }
            transaction.execute("UPDATE duels SET give_up = ?2 WHERE id = ?1", params![open.id, reason])?;
            Ok(())
        })
        .await
    }

    /// Somebody has looked at the bug: crowns fall again, and its alerts end. Gives the bug, if
    /// there was one.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn unfreeze(&self) -> Result<Option<String>> {
        self.write("end the freeze", |transaction| {
            let bug = super::alerts::frozen(transaction)?;
            transaction.execute("DELETE FROM meta WHERE key = 'frozen'", [])?;
            super::alerts::end_bugs(transaction)?;
            Ok(bug)
        })
        .await
    }

    /// Wakes the receivers of [`Ledger::changes`] if another process has written the ledger
    /// since the version `before`; gives the version now.
    pub(in crate::validator) async fn notice_others(&self, before: Option<i64>) -> Result<i64> {
        let version = self.look("look for changes of others", |transaction| {
            Ok::<i64, Trouble>(transaction.query_row("PRAGMA data_version", [], |row| row.get(0))?)
        });
        let version = version.await?;
        if before.is_some_and(|before| before != version) {
            self.changed.send_modify(|changes| *changes += 1);
        }
        Ok(version)
    }
}
