//! The validator's books: one `SQLite` file with a write-ahead log, every transaction on
//! the disk before it counts (`synchronous = FULL`), one process that works with it.
//!
//! | file | keeps |
//! |---|---|
//! | `commits` | what miners committed to, in the order of first sight |
//! | `competitions` | competitions, one after the other |
//! | `submissions` | where each submission stands, and every move that it made |
//! | `duels` | attempts, shares, announcements, seeds; the verdict as one transaction |
//! | `log` | entries of the log of duels until and after they are in its folder |
//! | `kings` | who reigned, and what weights that calls for |
//! | `epochs` | the vector of each epoch, and what became of it |
//! | `followed` | a validator that is followed: how far, and why no further |
//! | `imports` | what has taken part in another system |
//! | `outbox` | what waits to be published |
//! | `alerts` | what somebody should look at, and the freeze after a bug |
//! | `orders` | what an operator asks for beside a validator at work |
//! | `views` | what the commands show |
//!
//! A transaction is whole or nothing. What a process that was killed had not committed
//! has not happened; everything else is here and is gone on from.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Transaction;
use tokio::sync::watch;

use crate::chains::database::{Database, Format, Trouble};
use crate::{Error, ErrorKind, Fault, Result};

mod alerts;
mod commits;
mod competitions;
mod duels;
mod epochs;
mod followed;
mod imports;
mod kings;
mod log;
mod orders;
pub(in crate::validator) mod outbox;
mod sql;
mod submissions;
mod views;

pub use alerts::Alert;
pub use commits::Commit;
pub use competitions::{Competition, Ends, Reset};
pub use duels::{Attempt, Crowned, Decision, Drafted, OpenDuel};
pub use epochs::EpochRow;
pub use followed::{
    Cause, Choice, Effect, FollowedCrown, FollowedDuel, FollowedRecord, FollowedRow, FollowedTotals, Refusal,
    Verified,
};
pub use imports::{Import, Imported, ImportedKing};
pub use kings::KingRow;
pub use orders::VOIDS;
pub use submissions::{MoveRow, Reason, SubmissionRow};
pub use views::{Counts, DuelRow, Totals};

const OPEN: &str = "open the ledger";

/// The file. A script that was released never changes: a new format is one more upgrade.
const FORMAT: Format = Format {
    name: "ledger",
    // "albv"
    application: 0x616c_6276,
    version: 6,
    tables: include_str!("ledger/schema/1.sql"),
    upgrades: &[
        include_str!("ledger/schema/2.sql"),
        include_str!("ledger/schema/3.sql"),
        include_str!("ledger/schema/4.sql"),
        include_str!("ledger/schema/5.sql"),
        include_str!("ledger/schema/6.sql"),
    ],
    exclusive: false,
};

/// The ledger; clones share it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use albedo::chain::{DatedBy, Hotkey, Place};
/// use albedo::validator::ledger::{Commit, Ledger, Reason};
/// use albedo::validator::table::{Move, State};
///
/// let ledger = Ledger::in_memory()?;
/// let text = format!("v7|someone/model|sha256:{}", "ab".repeat(32));
/// let place = Place { block: 7, extrinsic: Some(0), dated_by: DatedBy::Commitment };
/// let commit = Commit { hotkey: Hotkey("miner".into()), text, place, readable_at: 7, witnessed: true };
/// // The same text again is one submission, and its first place stays.
/// assert_eq!(ledger.observe(vec![commit.clone(), commit], 1000).await?, 1);
///
/// let id = ledger.live().await?[0].id;
/// assert_eq!(ledger.step(id, Move::Admit, Reason::new("may take part"), 2000).await?, State::Admitted);
/// // A move that the table does not have changes nothing.
/// assert!(ledger.step(id, Move::Plan, Reason::new("too early"), 3000).await.is_err());
/// assert_eq!(ledger.submission(id).await?.state, State::Admitted);
/// # Ok::<(), albedo::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Ledger {
    database: Arc<Database>,
    changed: Arc<watch::Sender<u64>>,
    /// Locked while a validator works with the ledger.
    _lock: Option<Arc<File>>,
}

impl Ledger {
    /// Opens the ledger at `path` to work with, which is made if there is none. An older
    /// format is brought to the newest one.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if another validator has it open;
    /// [`ErrorKind::DataInvalid`], the file untouched, if it is damaged, another
    /// program's, or of a newer format.
    pub fn open(path: &Path) -> Result<Self> {
        let lock = lock(path)?;
        let database = Database::open(Some(path), FORMAT)?;
        database.check()?;
        Ok(Self::of(database, Some(lock)))
    }

    /// Opens the ledger at `path` to look at, beside a validator that may work with it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; as [`Ledger::open`], and an older format is refused too.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::of(Database::open_to_read(path, FORMAT)?, None))
    }

    /// Opens the ledger at `path` to look at while no validator works with it, and keeps one
    /// away meanwhile.
    ///
    /// # Errors
    /// As [`Ledger::read`]; [`ErrorKind::Conflict`] if a validator has it open.
    pub fn read_alone(path: &Path) -> Result<Self> {
        let database = Database::open_to_read(path, FORMAT)?;
        Ok(Self::of(database, Some(lock(path)?)))
    }

    /// A ledger that ends with the process: for tests.
    ///
    /// # Errors
    /// None in practice.
    pub fn in_memory() -> Result<Self> {
        Ok(Self::of(Database::open(None, FORMAT)?, None))
    }

    fn of(database: Database, lock: Option<File>) -> Self {
        let changed = Arc::new(watch::Sender::new(0));
        Self { database: Arc::new(database), changed, _lock: lock.map(Arc::new) }
    }

    /// Counts the transactions of this process: the receiver wakes with each.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Writes a whole copy of the ledger as it is now to `to`, while a validator may go on
    /// working with it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the file exists; the disk's.
    pub async fn backup(&self, to: &Path) -> Result<()> {
        let (database, to) = (Arc::clone(&self.database), to.to_owned());
        super::models::blocking("back the ledger up", move || database.backup(&to)).await
    }

    /// Runs `work` as one transaction: all of it is on the disk, or none has happened.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T> {
        let counted = move |transaction: &Transaction<'_>| {
            let before = transaction.total_changes();
            let written = work(transaction)?;
            Ok::<_, Trouble>((written, transaction.total_changes() != before))
        };
        let (written, has_changed) = self.database.write_async(operation, counted).await?;
        // A transaction that changed nothing wakes none of the tasks that wait for a change.
        if has_changed {
            self.changed.send_modify(|changes| *changes += 1);
        }
        Ok(written)
    }

    /// Runs `work`, which sees one state and changes nothing.
    async fn look<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T> {
        self.database.read_async(operation, work).await
    }
}

/// Keeps a second validator away from the ledger at `path`.
fn lock(path: &Path) -> Result<File> {
    let path = path.with_extension("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|error| Error::io(OPEN, &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::new(ErrorKind::Conflict, OPEN, "another validator works with it")
                .with_fault(Fault::Infrastructure)
                .with("path", path.display())
                .with_hint("end that one first: two validators with one key contradict each other"))
        }
        Err(TryLockError::Error(error)) => Err(Error::io(OPEN, &path, error)),
    }
}

#[cfg(test)]
mod tests;
