//! Competitions, one after the other: each has a first king, submissions and kings of its
//! own, and a version that its commitments begin with.

use rusqlite::{Row, Transaction, params};
use serde::Serialize;

use super::kings::KingRow;
use super::submissions::{Reason, SubmissionRow, all, apply};
use super::{Ledger, duels, kings, outbox};
use crate::chains::database::Trouble;
use crate::validator::table::{Move, State, is_final};
use crate::{Error, ErrorKind, Fault, ModelRef, Result};

const RESET: &str = "begin another competition";

/// A competition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Competition {
    /// Its number, from 1.
    pub id: i64,
    /// What its commitments begin with: 8 is `v8|`. The first competition reads `v4|` and
    /// `v7|`.
    pub version: u8,
    /// When it began, in milliseconds since the Unix epoch; 0 for the first.
    pub began_ms: u64,
    /// Why.
    pub reason: String,
}

/// What another competition begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Reset {
    /// What its commitments begin with: higher than every competition's before.
    pub version: u8,
    /// The first king, who earns nothing.
    pub genesis: ModelRef,
    /// Why, in a sentence.
    pub reason: String,
}

/// What another competition ends, or has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ends {
    /// The competition that it ends.
    pub competition: Competition,
    /// The king who reigns in it.
    pub king: Option<KingRow>,
    /// Submissions without an outcome, by place: they are set aside.
    pub set_aside: Vec<SubmissionRow>,
    /// The attempt that is open, which is abandoned: its share stays spent.
    pub abandoned: Option<u64>,
}

impl Reset {
    /// Checks that it can follow `present`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], the operator's: the version is not higher.
    pub fn check(&self, present: &Competition) -> Result<()> {
        if self.version > present.version {
            return Ok(());
        }
        let message = format!(
            "commitments of the present competition begin with `v{}|`, and another one needs a higher number",
            present.version
        );
        Err(Error::new(ErrorKind::ConfigInvalid, RESET, message)
            .with_fault(Fault::Operator)
            .with("version", format!("v{}", self.version))
            .with_hint(format!("name `v{}`", present.version.saturating_add(1))))
    }
}

impl Ledger {
    /// The present competition.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn competition(&self) -> Result<Competition> {
        self.look("read the competition", present).await
    }

    /// Every competition, the first one first.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn competitions(&self) -> Result<Vec<Competition>> {
        self.look("read the competitions", |transaction| {
            let mut statement = transaction.prepare(&format!("{SELECT} ORDER BY id"))?;
            Ok(statement.query_map([], competition)?.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    /// The first king of the present competition.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn first_king(&self) -> Result<Option<KingRow>> {
        self.look("read the first king", |transaction| {
            let now = present(transaction)?.id;
            Ok(kings::all(transaction)?.into_iter().rfind(|king| king.competition == now))
        })
        .await
    }

    /// The submissions of the present competition, the first one first.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn entered(&self) -> Result<Vec<SubmissionRow>> {
        self.look("read the submissions", |transaction| {
            let now = present(transaction)?.id;
            let mut rows = all(transaction)?;
            rows.retain(|row| row.competition == now);
            Ok(rows)
        })
        .await
    }

    /// What another competition would end now. Nothing changes.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn ends(&self) -> Result<Ends> {
        self.look("read what a competition ends", ends).await
    }

    /// Begins another competition: submissions without an outcome are set aside, an open duel
    /// is abandoned, the first king reigns, and nobody earns until a challenger wins. All of
    /// it is one transaction. Outcomes, attempts, kings and the log stay as they are. Gives
    /// what was ended.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], the operator's: the version is not higher than every
    /// competition's before. [`ErrorKind::NotFound`]: nobody reigns yet, so that there is
    /// nothing to end.
    pub async fn reset(&self, reset: Reset, now_ms: u64) -> Result<Ends> {
        self.write(RESET, move |transaction| {
            let ended = ends(transaction)?;
            reset.check(&ended.competition)?;
            let Reset { version, genesis, reason } = reset;
            if ended.king.is_none() {
                return Err(Error::new(ErrorKind::NotFound, RESET, "no competition has begun here")
                    .with_fault(Fault::Operator)
                    .with_hint("enter the first king: `albedo validator genesis MODEL`")
                    .into());
            }
            let why = format!("competition {} has ended: {reason}", ended.competition.id);
            if let Some(open) = duels::open(transaction)? {
                let row = super::submissions::find(transaction, open.submission)?;
                if row.state == State::Duelling {
                    apply(transaction, row.id, Move::Void, &Reason::new(why.clone()), now_ms)?;
                }
                duels::abandon(transaction, open.id, &why, now_ms)?;
            }
            for row in all(transaction)?.iter().filter(|row| !is_final(row.state)) {
                apply(transaction, row.id, Move::SetAside, &Reason::new(why.clone()), now_ms)?;
            }
            let sql = "INSERT INTO competitions (version, began_ms, reason) VALUES (?1, ?2, ?3)";
            transaction.execute(sql, params![version, now_ms, reason])?;
            kings::enter_first(transaction, &genesis, now_ms)?;
            outbox::mark_documents(transaction, now_ms)?;
            Ok(ended)
        })
        .await
    }
}

fn ends(transaction: &Transaction<'_>) -> Result<Ends, Trouble> {
    let mut set_aside = all(transaction)?;
    set_aside.retain(|row| !is_final(row.state));
    Ok(Ends {
        competition: present(transaction)?,
        king: kings::newest(transaction)?,
        set_aside,
        abandoned: duels::open(transaction)?.map(|open| open.attempt),
    })
}

const SELECT: &str = "SELECT id, version, began_ms, reason FROM competitions";

pub(super) fn present(transaction: &Transaction<'_>) -> Result<Competition, Trouble> {
    let sql = format!("{SELECT} ORDER BY id DESC LIMIT 1");
    Ok(transaction.query_row(&sql, [], competition)?)
}

fn competition(row: &Row<'_>) -> rusqlite::Result<Competition> {
    Ok(Competition { id: row.get(0)?, version: row.get(1)?, began_ms: row.get(2)?, reason: row.get(3)? })
}
