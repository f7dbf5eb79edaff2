//! What was cleared and what was signed, in one SQLite file: the store behind
//! [`WeightJournal`](albedo_core::weights::WeightJournal), and the extrinsics
//! of every signing key.
//!
//! Every check and the record that follows it are one exclusive transaction,
//! and the file can be open in one process only. So of two vectors for one
//! epoch one is recorded, and a key has one extrinsic at most that may still
//! land. The bytes of an extrinsic are here before they are sent; after a crash
//! the same bytes are sent again.
//!
//! An extrinsic that this file does not know, found by its nonce, raises an
//! alert, and nothing more is signed with that key until somebody has
//! acknowledged it: two validators with one key would contradict each other.

use std::path::Path;
use std::sync::Arc;

use albedo_core::chain::{BlockHash, BlockNumber, EpochIndex, WeightEffect, WeightReceipt};
use albedo_core::weights::{JournalStore, WeightKey};
use albedo_core::{Digest, Error, ErrorKind, Fault, Result};
use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::address::address;
use crate::database::{Database, Format, Trouble, damaged};

const FORMAT: Format = Format {
    name: "chain journal",
    // "albj"
    application: 0x616c_626a,
    version: 1,
    tables: TABLES,
    upgrades: &[],
    exclusive: true,
};

/// What a [`WeightKey`] is in a table.
const TABLES: &str = "
    CREATE TABLE cleared (
        genesis BLOB NOT NULL, netuid INTEGER NOT NULL, mechanism INTEGER NOT NULL,
        epoch INTEGER NOT NULL, hotkey TEXT NOT NULL,
        digest BLOB NOT NULL,
        PRIMARY KEY (genesis, netuid, mechanism, epoch, hotkey)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER cleared_keep BEFORE UPDATE ON cleared
        BEGIN SELECT RAISE(ABORT, 'a cleared vector stays'); END;
    CREATE TRIGGER cleared_stay BEFORE DELETE ON cleared
        BEGIN SELECT RAISE(ABORT, 'a cleared vector stays'); END;
    CREATE TABLE epochs (
        genesis BLOB NOT NULL, netuid INTEGER NOT NULL, mechanism INTEGER NOT NULL,
        epoch INTEGER NOT NULL, hotkey TEXT NOT NULL,
        digest BLOB,
        receipt TEXT,
        missed TEXT,
        PRIMARY KEY (genesis, netuid, mechanism, epoch, hotkey)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE extrinsics (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        genesis BLOB NOT NULL, signer BLOB NOT NULL, nonce INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        call TEXT NOT NULL,
        birth INTEGER NOT NULL, last_block INTEGER NOT NULL, spec_version INTEGER NOT NULL,
        weights TEXT, digest BLOB, effect TEXT,
        outcome TEXT, block INTEGER, detail TEXT
    ) STRICT;
    CREATE UNIQUE INDEX one_live ON extrinsics (genesis, signer) WHERE outcome IS NULL;
    CREATE UNIQUE INDEX one_nonce ON extrinsics (genesis, signer, nonce)
        WHERE outcome IS NULL OR outcome IN ('included', 'failed');
    CREATE TABLE signers (
        genesis BLOB NOT NULL, signer BLOB NOT NULL,
        nonce INTEGER NOT NULL,
        alert TEXT,
        PRIMARY KEY (genesis, signer)
    ) STRICT, WITHOUT ROWID;
";

/// The file; clones share it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use albedo_chain::journal::ChainJournal;
/// use albedo_core::chain::{BlockHash, Hotkey, MechanismId, NetUid, Uid};
/// use albedo_core::weights::{Share, WeightJournal, WeightKey, WeightVector};
///
/// let key = WeightKey {
///     genesis: BlockHash([0; 32]),
///     netuid: NetUid(97),
///     mechanism: MechanismId(0),
///     epoch: 7,
///     hotkey: Hotkey("validator".into()),
/// };
/// let vector = |weight| WeightVector {
///     key: key.clone(),
///     version_key: 0,
///     shares: vec![Share { uid: Uid(3), hotkey: Hotkey("king".into()), weight }],
/// };
/// let journal = WeightJournal::new(ChainJournal::in_memory()?);
/// // One vector for each epoch: the same again is cleared again, another never.
/// journal.clear(vector(65_535)).await?;
/// journal.clear(vector(65_535)).await?;
/// assert!(journal.clear(vector(1)).await.is_err());
/// # Ok::<(), albedo_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct ChainJournal(Arc<Database>);

/// One key on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The chain.
    pub genesis: BlockHash,
    /// The public key.
    pub signer: [u8; 32],
}

/// A signed extrinsic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extrinsic {
    /// Its number in the journal; 0 before it is recorded.
    pub id: i64,
    /// Who signed it, and for which chain.
    pub account: Account,
    /// The account's nonce that it uses up.
    pub nonce: u64,
    /// What is sent.
    pub bytes: Vec<u8>,
    /// Pallet and call, for messages.
    pub call: String,
    /// The block that its life starts at: the finalised head at the signing.
    pub birth: BlockNumber,
    /// The last block that can hold it.
    pub last_block: BlockNumber,
    /// The runtime that it was signed for; no other takes it.
    pub spec_version: u32,
    /// The weights in it, if that is what it submits.
    pub weights: Option<SignedWeights>,
    /// The digest of what it asks for, if it submits no weights: a caller that asks for the same
    /// while it may land waits for it, and signs only if it fails or expires.
    pub content: Option<Digest>,
}

/// The weights that an extrinsic submits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedWeights {
    /// What they were cleared for.
    pub key: WeightKey,
    /// The vector's digest.
    pub digest: Digest,
    /// What they do once they are in a block.
    pub effect: WeightEffect,
}

/// What became of an extrinsic, as a finalised block shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// In this block, with success; weights also in this epoch.
    Included {
        /// The block.
        block: BlockNumber,
        /// Its epoch, for weights.
        epoch: Option<EpochIndex>,
    },
    /// In this block, and refused there.
    Failed {
        /// The block.
        block: BlockNumber,
        /// Pallet and error.
        reason: String,
    },
    /// In this block, and nobody can tell any more whether it succeeded.
    Unclear {
        /// The block.
        block: BlockNumber,
        /// Why not.
        reason: String,
    },
    /// It can no longer get into any block.
    Expired {
        /// Why not.
        reason: String,
    },
}

/// What is known of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Epoch {
    /// A vector with this digest landed in it.
    Served {
        /// The vector's digest.
        digest: Digest,
        /// Where.
        receipt: WeightReceipt,
    },
    /// None will, for this reason.
    Missed(String),
}

impl ChainJournal {
    /// Opens the journal, which is made if it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if another process has it open;
    /// [`ErrorKind::DataInvalid`] for a file that is none.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self(Arc::new(Database::open(Some(path), FORMAT)?)))
    }

    /// A journal that ends with the process: for tests.
    pub fn in_memory() -> Result<Self> {
        Ok(Self(Arc::new(Database::open(None, FORMAT)?)))
    }

    /// The extrinsic of `account` that may still land.
    pub async fn live(&self, account: Account) -> Result<Option<Extrinsic>> {
        self.run("read the live extrinsic", move |transaction, _| live(transaction, account)).await
    }

    /// The newest extrinsic that submitted the vector `digest` for `key`, and
    /// its outcome if it has one.
    pub async fn submission(
        &self,
        key: &WeightKey,
        digest: Digest,
    ) -> Result<Option<(Extrinsic, Option<Outcome>)>> {
        let key = key_text(key)?;
        self.run("read a submission", move |transaction, _| {
            let sql = format!("{SELECT} WHERE weights = ?1 AND digest = ?2 ORDER BY id DESC LIMIT 1");
            let row = |row: &Row<'_>| Ok((extrinsic(row)?, outcome(row)?));
            Ok(transaction.query_row(&sql, params![key, digest.as_bytes()], row).optional()?)
        })
        .await
    }

    /// The newest block in which an extrinsic of `account` with this content has succeeded.
    pub async fn landed(&self, account: Account, content: Digest) -> Result<Option<BlockNumber>> {
        self.run("find an extrinsic", move |transaction, _| {
            let sql = "SELECT max(block) FROM extrinsics WHERE genesis = ?1 AND signer = ?2 AND digest = ?3 \
                       AND weights IS NULL AND outcome = 'included'";
            let row = |row: &Row<'_>| row.get::<_, Option<BlockNumber>>(0);
            Ok(transaction.query_row(
                sql,
                params![account.genesis.0, account.signer, content.as_bytes()],
                row,
            )?)
        })
        .await
    }

    /// The nonce that the next extrinsic of `account` has, given that the chain
    /// says `nonce` at its finalised head and no extrinsic of ours is live.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], the operator's, if the chain has used up more
    /// than this journal: somebody else signs with the key. From then on until
    /// [`ChainJournal::acknowledge`] nothing is signed with it.
    pub async fn next_nonce(&self, account: Account, nonce: u64) -> Result<u64> {
        const OPERATION: &str = "find the next nonce";
        let answer = self
            .run(OPERATION, move |transaction, _| {
                let found = signer(transaction, account)?;
                if found.is_none() {
                    let sql = "INSERT INTO signers (genesis, signer, nonce) VALUES (?1, ?2, ?3)";
                    transaction.execute(sql, params![account.genesis.0, account.signer, nonce])?;
                }
                let (expected, alert) = found.unwrap_or((nonce, None));
                if let Some(alert) = alert {
                    return Ok(Err(alert));
                }
                if nonce > expected {
                    let alert = format!(
                        "the account's nonce is {nonce}, after {expected} of ours: somebody else signs with this key"
                    );
                    set_alert(transaction, account, &alert)?;
                    return Ok(Err(alert));
                }
                if nonce < expected {
                    // A head that has not caught up with what was final before.
                    let error = Error::new(ErrorKind::Unavailable, OPERATION, "the node is behind what was final before");
                    return Err(error.with("nonce", nonce).with("expected", expected).into());
                }
                Ok(Ok(nonce))
            })
            .await?;
        answer.map_err(|alert| stopped(OPERATION, account, &alert, self.0.path()))
    }

    /// Records `extrinsic` before it is sent: from now on it is the live one.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if another one of that key is live, if weights
    /// were not cleared with that digest, or if a vector has landed in their
    /// epoch already; an alert that nobody has acknowledged.
    pub async fn record(&self, extrinsic: Extrinsic) -> Result<Extrinsic> {
        const OPERATION: &str = "record an extrinsic";
        let path = self.0.path().to_owned();
        self.run(OPERATION, move |transaction, _| {
            let account = extrinsic.account;
            let refused = |message: &str| {
                Error::new(ErrorKind::Conflict, OPERATION, message)
                    .with_fault(Fault::Bug)
                    .with("call", &extrinsic.call)
                    .with("nonce", extrinsic.nonce)
            };
            if let Some((_, Some(alert))) = signer(transaction, account)? {
                return Err(stopped(OPERATION, account, &alert, &path).into());
            }
            if let Some(live) = live(transaction, account)? {
                return Err(refused("another extrinsic of this key may still land").with("live", live.call).into());
            }
            // `digest` is that of the weights, else that of the content.
            let content = extrinsic.content.map(|content| *content.as_bytes());
            let (mut weights, mut digest, mut effect) = (None, content, None);
            if let Some(signed) = &extrinsic.weights {
                if cleared(transaction, &signed.key)? != Some(signed.digest) {
                    return Err(refused("these weights were not cleared").with("epoch", signed.key.epoch).into());
                }
                if let Some(Epoch::Served { .. }) = epoch(transaction, &signed.key)? {
                    return Err(refused("the epoch has its weights already").with("epoch", signed.key.epoch).into());
                }
                weights = Some(key_text(&signed.key)?);
                digest = Some(*signed.digest.as_bytes());
                effect = Some(json(&signed.effect)?);
            }
            transaction.execute(
                "INSERT INTO extrinsics (genesis, signer, nonce, bytes, call, birth, last_block, spec_version, \
                 weights, digest, effect) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                params![
                    account.genesis.0,
                    account.signer,
                    extrinsic.nonce,
                    extrinsic.bytes,
                    extrinsic.call,
                    extrinsic.birth,
                    extrinsic.last_block,
                    extrinsic.spec_version,
                    weights,
                    digest,
                    effect,
                ],
            )?;
            let id = transaction.last_insert_rowid();
            Ok(Extrinsic { id, ..extrinsic })
        })
        .await
    }

    /// Records what became of the live extrinsic `id`. Weights that landed
    /// serve the epoch that they landed in, whichever they were meant for.
    pub async fn settle(&self, id: i64, outcome: Outcome) -> Result<()> {
        self.run("settle an extrinsic", move |transaction, _| {
            let sql = format!("{SELECT} WHERE id = ?1 AND outcome IS NULL");
            let found = transaction.query_row(&sql, [id], extrinsic).optional()?;
            let Some(settled) = found else {
                return Err(Error::bug("settle an extrinsic", "it is not live").with("id", id).into());
            };
            let (name, block, detail) = match &outcome {
                Outcome::Included { block, .. } => ("included", Some(*block), None),
                Outcome::Failed { block, reason } => ("failed", Some(*block), Some(reason)),
                Outcome::Unclear { block, reason } => ("unclear", Some(*block), Some(reason)),
                Outcome::Expired { reason } => ("expired", None, Some(reason)),
            };
            let sql = "UPDATE extrinsics SET outcome = ?2, block = ?3, detail = ?4 WHERE id = ?1";
            transaction.execute(sql, params![id, name, block, detail])?;
            if !matches!(outcome, Outcome::Expired { .. }) {
                transaction.execute(
                    "UPDATE signers SET nonce = max(nonce, ?3) WHERE genesis = ?1 AND signer = ?2",
                    params![settled.account.genesis.0, settled.account.signer, settled.nonce + 1],
                )?;
            }
            if let (Some(weights), Outcome::Included { block, epoch }) = (settled.weights, outcome) {
                let landed = epoch.unwrap_or(weights.key.epoch);
                let receipt = WeightReceipt { block, epoch: landed, effect: weights.effect };
                set_epoch(
                    transaction,
                    &WeightKey { epoch: landed, ..weights.key.clone() },
                    Some((weights.digest, &receipt)),
                    None,
                )?;
                if landed != weights.key.epoch {
                    let reason = format!("its weights landed in epoch {landed}");
                    set_epoch(transaction, &weights.key, None, Some(&reason))?;
                }
            }
            Ok(())
        })
        .await
    }

    /// What is known of the epoch of `key`.
    pub async fn epoch(&self, key: &WeightKey) -> Result<Option<Epoch>> {
        let key = key.clone();
        self.run("read an epoch", move |transaction, _| epoch(transaction, &key)).await
    }

    /// Where the vector `digest` landed, whichever epoch that was.
    pub async fn receipt(&self, digest: Digest) -> Result<Option<WeightReceipt>> {
        self.run("read a receipt", move |transaction, _| {
            let sql = "SELECT digest, receipt, missed FROM epochs WHERE digest = ?1";
            let row = |row: &Row<'_>| read_epoch(row, 0);
            Ok(match transaction.query_row(sql, [digest.as_bytes()], row).optional()? {
                Some(Epoch::Served { receipt, .. }) => Some(receipt),
                _ => None,
            })
        })
        .await
    }

    /// Records why no weights land in the epoch of `key`, unless some did.
    pub async fn miss(&self, key: &WeightKey, reason: impl Into<String>) -> Result<()> {
        let (key, reason) = (key.clone(), reason.into());
        self.run("record a missed epoch", move |transaction, _| {
            set_epoch(transaction, &key, None, Some(&reason))
        })
        .await
    }

    /// Records every earlier epoch that a vector was cleared for, and in which
    /// none landed, as missed: the process was not there, or came too late.
    pub async fn miss_earlier(&self, key: &WeightKey) -> Result<()> {
        let key = key.clone();
        self.run("record missed epochs", move |transaction, _| {
            let WeightKey { genesis, netuid, mechanism, epoch, hotkey } = &key;
            transaction.execute(
                "INSERT OR IGNORE INTO epochs (genesis, netuid, mechanism, epoch, hotkey, missed) \
                 SELECT genesis, netuid, mechanism, epoch, hotkey, 'the epoch ended before its weights were in a block' \
                 FROM cleared WHERE genesis = ?1 AND netuid = ?2 AND mechanism = ?3 AND epoch < ?4 AND hotkey = ?5",
                params![genesis.0, netuid.0, mechanism.0, epoch, hotkey.0],
            )?;
            Ok(())
        })
        .await
    }

    /// Every vector that was cleared, oldest first.
    pub async fn cleared(&self) -> Result<Vec<(WeightKey, Digest)>> {
        self.run("read the cleared vectors", |transaction, _| {
            let sql = "SELECT genesis, netuid, mechanism, epoch, hotkey, digest FROM cleared ORDER BY epoch";
            let mut statement = transaction.prepare(sql)?;
            let rows = statement
                .query_map([], |row| Ok((weight_key(row)?, Digest::from(row.get::<_, [u8; 32]>(5)?))))?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        })
        .await
    }

    /// Every epoch that was served or missed, oldest first.
    pub async fn epochs(&self) -> Result<Vec<(WeightKey, Epoch)>> {
        self.run("read the epochs", |transaction, _| {
            let sql = "SELECT genesis, netuid, mechanism, epoch, hotkey, digest, receipt, missed FROM epochs \
                       ORDER BY epoch, netuid, mechanism, hotkey";
            let mut statement = transaction.prepare(sql)?;
            let rows = statement.query_map([], |row| Ok((weight_key(row)?, read_epoch(row, 5)?)))?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        })
        .await
    }

    /// Stops all signing with the key until [`ChainJournal::acknowledge`].
    pub async fn alert(&self, account: Account, message: impl Into<String>) -> Result<()> {
        let message = message.into();
        self.run("raise an alert", move |transaction, _| set_alert(transaction, account, &message)).await
    }

    /// The alert that stops the key, if there is one.
    pub async fn alerted(&self, account: Account) -> Result<Option<String>> {
        self.run("read the alert", move |transaction, _| {
            Ok(signer(transaction, account)?.and_then(|(_, alert)| alert))
        })
        .await
    }

    /// Takes the alert back: the operator has made sure that nobody else signs
    /// with the key. The chain's nonce is believed once more.
    pub async fn acknowledge(&self, account: Account) -> Result<()> {
        self.run("acknowledge an alert", move |transaction, _| {
            let sql = "DELETE FROM signers WHERE genesis = ?1 AND signer = ?2 AND alert IS NOT NULL";
            transaction.execute(sql, params![account.genesis.0, account.signer])?;
            Ok(())
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>, &'static str) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T> {
        self.0.write_async(operation, move |transaction| work(transaction, operation)).await
    }
}

#[async_trait]
impl JournalStore for ChainJournal {
    async fn insert_or_get(&self, key: &WeightKey, digest: Digest) -> Result<Digest> {
        let key = key.clone();
        self.run("record a weight vector", move |transaction, operation| {
            let sql = "INSERT OR IGNORE INTO cleared (genesis, netuid, mechanism, epoch, hotkey, digest) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let WeightKey { genesis, netuid, mechanism, epoch, hotkey } = &key;
            transaction.execute(
                sql,
                params![genesis.0, netuid.0, mechanism.0, epoch, hotkey.0, digest.as_bytes()],
            )?;
            let standing = cleared(transaction, &key)?;
            Ok(standing.ok_or_else(|| Error::bug(operation, "the entry is not there"))?)
        })
        .await
    }
}

const SELECT: &str = "SELECT id, genesis, signer, nonce, bytes, call, birth, last_block, spec_version, \
                      weights, digest, effect, outcome, block, detail FROM extrinsics";

fn live(transaction: &Transaction<'_>, account: Account) -> Result<Option<Extrinsic>, Trouble> {
    let sql = format!("{SELECT} WHERE genesis = ?1 AND signer = ?2 AND outcome IS NULL");
    Ok(transaction.query_row(&sql, params![account.genesis.0, account.signer], extrinsic).optional()?)
}

fn extrinsic(row: &Row<'_>) -> rusqlite::Result<Extrinsic> {
    let weights: Option<String> = row.get(9)?;
    let (weights, content) = match weights {
        None => (None, row.get::<_, Option<[u8; 32]>>(10)?.map(Digest::from)),
        Some(key) => {
            let signed = SignedWeights {
                key: serde_json::from_str(&key).map_err(|error| damaged(9, error))?,
                digest: Digest::from(row.get::<_, [u8; 32]>(10)?),
                effect: serde_json::from_str(&row.get::<_, String>(11)?)
                    .map_err(|error| damaged(11, error))?,
            };
            (Some(signed), None)
        }
    };
    Ok(Extrinsic {
        id: row.get(0)?,
        account: Account { genesis: BlockHash(row.get(1)?), signer: row.get(2)? },
        nonce: row.get(3)?,
        bytes: row.get(4)?,
        call: row.get(5)?,
        birth: row.get(6)?,
        last_block: row.get(7)?,
        spec_version: row.get(8)?,
        weights,
        content,
    })
}

fn outcome(row: &Row<'_>) -> rusqlite::Result<Option<Outcome>> {
    let Some(name) = row.get::<_, Option<String>>(12)? else { return Ok(None) };
    Ok(Some(match name.as_str() {
        "included" => Outcome::Included { block: row.get(13)?, epoch: None },
        "failed" => Outcome::Failed { block: row.get(13)?, reason: row.get(14)? },
        "unclear" => Outcome::Unclear { block: row.get(13)?, reason: row.get(14)? },
        "expired" => Outcome::Expired { reason: row.get(14)? },
        other => return Err(damaged(12, format!("`{other}` is no outcome"))),
    }))
}

fn cleared(transaction: &Transaction<'_>, key: &WeightKey) -> Result<Option<Digest>, Trouble> {
    let sql = "SELECT digest FROM cleared WHERE genesis = ?1 AND netuid = ?2 AND mechanism = ?3 \
               AND epoch = ?4 AND hotkey = ?5";
    let WeightKey { genesis, netuid, mechanism, epoch, hotkey } = key;
    let digest = transaction
        .query_row(sql, params![genesis.0, netuid.0, mechanism.0, epoch, hotkey.0], |row| {
            row.get::<_, [u8; 32]>(0)
        })
        .optional()?;
    Ok(digest.map(Digest::from))
}

fn epoch(transaction: &Transaction<'_>, key: &WeightKey) -> Result<Option<Epoch>, Trouble> {
    let sql = "SELECT digest, receipt, missed FROM epochs WHERE genesis = ?1 AND netuid = ?2 \
               AND mechanism = ?3 AND epoch = ?4 AND hotkey = ?5";
    let WeightKey { genesis, netuid, mechanism, epoch, hotkey } = key;
    let row = |row: &Row<'_>| read_epoch(row, 0);
    Ok(transaction
        .query_row(sql, params![genesis.0, netuid.0, mechanism.0, epoch, hotkey.0], row)
        .optional()?)
}

fn read_epoch(row: &Row<'_>, first: usize) -> rusqlite::Result<Epoch> {
    let digest: Option<[u8; 32]> = row.get(first)?;
    let receipt: Option<String> = row.get(first + 1)?;
    if let (Some(digest), Some(receipt)) = (digest, receipt) {
        let receipt = serde_json::from_str(&receipt).map_err(|error| damaged(first + 1, error))?;
        return Ok(Epoch::Served { digest: Digest::from(digest), receipt });
    }
    Ok(Epoch::Missed(row.get(first + 2)?))
}

/// An epoch that was served stays so; one that was missed can still be served.
fn set_epoch(
    transaction: &Transaction<'_>,
    key: &WeightKey,
    served: Option<(Digest, &WeightReceipt)>,
    missed: Option<&str>,
) -> Result<(), Trouble> {
    let WeightKey { genesis, netuid, mechanism, epoch, hotkey } = key;
    let receipt = served.map(|(_, receipt)| json(receipt)).transpose()?;
    let digest = served.map(|(digest, _)| *digest.as_bytes());
    transaction.execute(
        "INSERT INTO epochs (genesis, netuid, mechanism, epoch, hotkey, digest, receipt, missed) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
         ON CONFLICT DO UPDATE SET digest = excluded.digest, receipt = excluded.receipt, missed = excluded.missed \
         WHERE epochs.receipt IS NULL",
        params![genesis.0, netuid.0, mechanism.0, epoch, hotkey.0, digest, receipt, missed],
    )?;
    Ok(())
}

fn weight_key(row: &Row<'_>) -> rusqlite::Result<WeightKey> {
    use albedo_core::chain::{Hotkey, MechanismId, NetUid};
    Ok(WeightKey {
        genesis: BlockHash(row.get(0)?),
        netuid: NetUid(row.get(1)?),
        mechanism: MechanismId(row.get(2)?),
        epoch: row.get(3)?,
        hotkey: Hotkey(row.get(4)?),
    })
}

fn signer(transaction: &Transaction<'_>, account: Account) -> Result<Option<(u64, Option<String>)>, Trouble> {
    let sql = "SELECT nonce, alert FROM signers WHERE genesis = ?1 AND signer = ?2";
    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    Ok(transaction.query_row(sql, params![account.genesis.0, account.signer], row).optional()?)
}

fn set_alert(transaction: &Transaction<'_>, account: Account, message: &str) -> Result<(), Trouble> {
    transaction.execute(
        "INSERT INTO signers (genesis, signer, nonce, alert) VALUES (?1, ?2, 0, ?3) \
         ON CONFLICT DO UPDATE SET alert = coalesce(alert, excluded.alert)",
        params![account.genesis.0, account.signer, message],
    )?;
    Ok(())
}

/// The key of `account` signs nothing, since `alert` was raised in the journal at `path`.
fn stopped(operation: &str, account: Account, alert: &str, path: &Path) -> Error {
    let signer = address(&account.signer);
    // One word for a shell, whatever the name of the file.
    let journal = path.display().to_string().replace('\'', "'\\''");
    let command =
        format!("albedo chain acknowledge {signer} --journal '{journal}' --genesis {}", account.genesis);
    Error::new(ErrorKind::Conflict, operation, format!("writing is stopped: {alert}"))
        .with_fault(Fault::Operator)
        .with("signer", signer)
        .with_hint(format!("make sure that nobody else signs with this key, then run `{command}`"))
}

fn key_text(key: &WeightKey) -> Result<String> {
    json(key)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::bug("write the chain journal", error.to_string()))
}

#[cfg(test)]
mod tests;
