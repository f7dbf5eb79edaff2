//! Who committed to what first.
//!
//! The chain forgets: it keeps one commitment and ten reveals per hotkey, an
//! older one can come back after a new registration, and a reveal does not say
//! when its ciphertext was committed. The ledger, one SQLite file, keeps every
//! commitment that it has seen, with the place in which it saw it first.
//!
//! A timelocked commitment has the place of its ciphertext: the state of the
//! block before the reveal still shows it, with its block. Where that state is
//! gone, and this ledger did not read that very block, the place is that of the
//! reveal, and says so. Without this rule a plain commitment of copied files
//! would overtake the hidden original.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use albedo_core::chain::{
    BlockHash, BlockNumber, BlockRef, ChainClient, Content, DatedBy, Hotkey, Metagraph, NetUid, Neuron,
    Place, Reveal, Uid,
};
use albedo_core::{CallContext, Digest, Error, ErrorKind, Result};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::database::{Database, Format, Trouble, damaged};
use crate::reveal::{Pin, Refusal, Submission, parse};

const FORMAT: Format = Format {
    name: "reveal ledger",
    // "albr"
    application: 0x616c_6272,
    version: 1,
    tables: TABLES,
    upgrades: &[],
    exclusive: false,
};

const TABLES: &str = "
    CREATE TABLE subnets (
        genesis BLOB NOT NULL, netuid INTEGER NOT NULL,
        first_block INTEGER NOT NULL, last_block INTEGER NOT NULL, neurons TEXT NOT NULL,
        PRIMARY KEY (genesis, netuid)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sightings (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        genesis BLOB NOT NULL, netuid INTEGER NOT NULL, hotkey TEXT NOT NULL, digest BLOB NOT NULL,
        block INTEGER NOT NULL, extrinsic INTEGER, dated_by TEXT NOT NULL,
        readable_at INTEGER, content TEXT NOT NULL, seen TEXT NOT NULL,
        UNIQUE (genesis, netuid, hotkey, digest)
    ) STRICT;
    CREATE TRIGGER sightings_keep BEFORE UPDATE ON sightings
        BEGIN SELECT RAISE(ABORT, 'a first sight stays'); END;
    CREATE TRIGGER sightings_stay BEFORE DELETE ON sightings
        BEGIN SELECT RAISE(ABORT, 'a first sight stays'); END;
    CREATE TABLE contents (pin TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT;
    CREATE TABLE swaps (
        genesis BLOB NOT NULL, netuid INTEGER NOT NULL, block INTEGER NOT NULL, uid INTEGER NOT NULL,
        before TEXT NOT NULL, after TEXT NOT NULL
    ) STRICT;
";

/// The file; clones share it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use albedo_chain::ledger::{Ledger, Seen};
/// use albedo_chain::local::{LocalChain, LocalChainConfig};
/// use albedo_core::CallContext;
/// use albedo_core::chain::{Coldkey, Hotkey, NetUid};
///
/// let chain = LocalChain::new(LocalChainConfig::default())?;
/// let (ledger, netuid, cx) = (Ledger::in_memory()?, NetUid(97), CallContext::new());
/// let miner = Hotkey("miner".into());
/// chain.register(&miner, &Coldkey("owner".into()))?;
///
/// // The ledger begins at the head, and reads every block from then on.
/// let head = chain.advance(1)?;
/// assert!(ledger.follow_to(&chain, netuid, &head, &cx).await?.is_empty());
/// let place = chain.commit(&miner, "v7|someone/model|0f0f", None)?;
/// let head = chain.advance(5)?;
/// let new = ledger.follow_to(&chain, netuid, &head, &cx).await?;
/// assert_eq!((new.len(), new[0].place, new[0].seen), (1, place, Seen::Witnessed));
/// // That text has no full revision: it is kept, and no submission.
/// assert!(matches!(new[0].submission(), Some(Err(_))));
/// # Ok::<(), albedo_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Database>);

/// One commitment, as it was seen first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Who committed.
    pub hotkey: Hotkey,
    /// Where.
    pub place: Place,
    /// First block at which everybody could read it.
    pub readable_at: Option<BlockNumber>,
    /// What.
    pub content: Content,
    /// Whether there may have been an earlier one.
    pub seen: Seen,
}

/// What is known about the time before a sighting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// The ledger has read every block from before the commitment on: it is
    /// the hotkey's first one to this, as far as the ledger goes back.
    Witnessed,
    /// It stood when the ledger began, or when it went on after blocks that it
    /// did not read: the hotkey may have committed to the same earlier.
    Unknown,
}

/// A slot's hotkey changed without a new registration: the same miner under
/// another key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// The first block at which it was seen.
    pub block: BlockNumber,
    /// The slot.
    pub uid: Uid,
    /// The hotkey until then.
    pub before: Hotkey,
    /// The hotkey from then on.
    pub after: Hotkey,
}

impl Sighting {
    /// The submission that the text commits to.
    ///
    /// # Errors
    /// Why it is none; `None` while there is no text.
    pub fn submission(&self) -> Option<Result<Submission, Refusal>> {
        match &self.content {
            Content::Text(text) => Some(parse(text, &self.hotkey)),
            _ => None,
        }
    }
}

impl Ledger {
    /// Opens the ledger, which is made if it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] for a file that is none.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self(Arc::new(Database::open(Some(path), FORMAT)?)))
    }

    /// A ledger that ends with the process.
    ///
    /// # Errors
    /// None in practice.
    pub fn in_memory() -> Result<Self> {
        Ok(Self(Arc::new(Database::open(None, FORMAT)?)))
    }

    /// Reads every final block from the last one that was read up to `head`, in
    /// order, and keeps the commitments that are new; they are returned in their
    /// order. A ledger that has read nothing begins at `head`. Blocks whose
    /// state the chain has dropped are left out, and the ledger begins anew
    /// after them: what stands there is [`Seen::Unknown`].
    ///
    /// What was read before an error is kept: calling again goes on from there.
    ///
    /// # Errors
    /// Whatever the chain says.
    pub async fn follow_to(
        &self,
        chain: &dyn ChainClient,
        netuid: NetUid,
        head: &BlockRef,
        cx: &CallContext,
    ) -> Result<Vec<Sighting>> {
        let genesis = chain.genesis(cx).await?;
        let next = match self.unbroken(genesis, netuid).await? {
            None => head.number,
            Some((_, last)) if last >= head.number => return Ok(Vec::new()),
            Some((_, last)) => oldest_kept(chain, netuid, last + 1, head, cx).await?,
        };
        let mut found = Vec::new();
        for number in next..head.number {
            let block = chain.block(number, cx).await?;
            found.extend(self.follow(chain, netuid, &block, cx).await?);
        }
        found.extend(self.follow(chain, netuid, head, cx).await?);
        found.sort_by(|a, b| (a.place, &a.hotkey).cmp(&(b.place, &b.hotkey)));
        Ok(found)
    }

    /// The last block that was read; `None` before the first.
    pub async fn last_block(&self, genesis: BlockHash, netuid: NetUid) -> Result<Option<BlockNumber>> {
        Ok(self.unbroken(genesis, netuid).await?.map(|(_, last)| last))
    }

    /// Reads the commitments at `at` alone and keeps those that are new; they
    /// are returned in their order. Reading a block again, or an earlier one,
    /// adds nothing wrong.
    ///
    /// # Errors
    /// Whatever the chain says, but for state that it no longer keeps.
    pub async fn follow(
        &self,
        chain: &dyn ChainClient,
        netuid: NetUid,
        at: &BlockRef,
        cx: &CallContext,
    ) -> Result<Vec<Sighting>> {
        let genesis = chain.genesis(cx).await?;
        let reveals = chain.reveals(netuid, at, cx).await?;
        let metagraph = chain.metagraph(netuid, at, cx).await?;
        let standing = (reveals.iter())
            .map(|reveal| Ok((reveal.hotkey.clone(), digest_of(&reveal.content)?)))
            .collect::<Result<Vec<_>>>()?;
        let known = self.known(genesis, netuid, standing).await?;
        let unbroken = self.unbroken(genesis, netuid).await?;
        let mut earlier: BTreeMap<BlockNumber, BTreeMap<Hotkey, Place>> = BTreeMap::new();
        let mut found = Vec::new();
        for Reveal { hotkey, mut place, readable_at, content } in reveals {
            if known.contains(&(hotkey.clone(), digest_of(&content)?)) {
                continue;
            }
            if let (DatedBy::Reveal, Some(before)) = (place.dated_by, place.block.checked_sub(1)) {
                if let Entry::Vacant(entry) = earlier.entry(before) {
                    entry.insert(hidden_at(chain, netuid, before, cx).await?);
                }
                if let Some(committed) = earlier.get(&before).and_then(|standing| standing.get(&hotkey)) {
                    place = *committed;
                }
            }
            if let (DatedBy::Commitment, None) = (place.dated_by, place.extrinsic) {
                place.extrinsic = chain.commitment_index(netuid, &hotkey, place.block, cx).await?;
            }
            let witnessed =
                unbroken.is_some_and(|(first, last)| at.number == last + 1 && place.block > first);
            let seen = if witnessed { Seen::Witnessed } else { Seen::Unknown };
            found.push(Sighting { hotkey, place, readable_at, content, seen });
        }
        found.sort_by(|a, b| (a.place, &a.hotkey).cmp(&(b.place, &b.hotkey)));
        self.keep(genesis, netuid, at.number, metagraph, found.clone()).await?;
        Ok(found)
    }

    /// Every commitment that was seen, the first one first: by place, then
    /// hotkey.
    pub async fn sightings(&self, genesis: BlockHash, netuid: NetUid) -> Result<Vec<Sighting>> {
        let mut sightings = self
            .run("read the sightings", move |transaction| {
                let sql = "SELECT hotkey, block, extrinsic, dated_by, readable_at, content, seen FROM sightings \
                           WHERE genesis = ?1 AND netuid = ?2";
                let mut statement = transaction.prepare(sql)?;
                let rows = statement.query_map(params![genesis.0, netuid.0], sighting)?;
                Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
            })
            .await?;
        sightings.sort_by(|a, b| (a.place, &a.hotkey).cmp(&(b.place, &b.hotkey)));
        Ok(sightings)
    }

    /// The first commitment to the pin.
    pub async fn first_of_pin(
        &self,
        genesis: BlockHash,
        netuid: NetUid,
        pin: &Pin,
    ) -> Result<Option<Sighting>> {
        let pins = BTreeSet::from([pin.to_string()]);
        self.first(genesis, netuid, &pins).await
    }

    /// Records the digest of a repository's content, once its files have been
    /// read: two pins can have one content.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the pin has another one: a pin's content
    /// cannot change.
    pub async fn set_content(&self, pin: &Pin, content: Digest) -> Result<()> {
        const OPERATION: &str = "record a repository's content";
        let pin = pin.to_string();
        self.run(OPERATION, move |transaction| {
            let sql = "INSERT OR IGNORE INTO contents (pin, content) VALUES (?1, ?2)";
            transaction.execute(sql, params![pin, content.as_bytes()])?;
            let sql = "SELECT content FROM contents WHERE pin = ?1";
            let standing: [u8; 32] = transaction.query_row(sql, [&pin], |row| row.get(0))?;
            if standing == *content.as_bytes() {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Conflict, OPERATION, "the pin had other content before")
                .with("pin", &pin)
                .with("before", Digest::from(standing).short())
                .with("now", content.short())
                .into())
        })
        .await
    }

    /// The first commitment to this content, by whatever pin.
    pub async fn first_of_content(
        &self,
        genesis: BlockHash,
        netuid: NetUid,
        content: Digest,
    ) -> Result<Option<Sighting>> {
        let pins = self
            .run("read the pins of a content", move |transaction| {
                let mut statement = transaction.prepare("SELECT pin FROM contents WHERE content = ?1")?;
                let rows = statement.query_map([content.as_bytes()], |row| row.get::<_, String>(0))?;
                Ok(rows.collect::<rusqlite::Result<BTreeSet<_>>>()?)
            })
            .await?;
        self.first(genesis, netuid, &pins).await
    }

    /// The hotkey swaps that were seen, oldest first.
    pub async fn swaps(&self, genesis: BlockHash, netuid: NetUid) -> Result<Vec<Swap>> {
        self.run("read the hotkey swaps", move |transaction| {
            let sql = "SELECT block, uid, before, after FROM swaps WHERE genesis = ?1 AND netuid = ?2 ORDER BY rowid";
            let mut statement = transaction.prepare(sql)?;
            let rows = statement.query_map(params![genesis.0, netuid.0], |row| {
                Ok(Swap {
                    block: row.get(0)?,
                    uid: Uid(row.get(1)?),
                    before: Hotkey(row.get(2)?),
                    after: Hotkey(row.get(3)?),
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        })
        .await
    }

    async fn first(
        &self,
        genesis: BlockHash,
        netuid: NetUid,
        pins: &BTreeSet<String>,
    ) -> Result<Option<Sighting>> {
        let claims = |sighting: &Sighting| match sighting.submission() {
            Some(Ok(submission)) => pins.contains(&submission.pin.to_string()),
            _ => false,
        };
        Ok(self.sightings(genesis, netuid).await?.into_iter().find(claims))
    }

    /// Those of `standing` that were seen before. What the ledger has of other commitments is
    /// not read: it grows for as long as the ledger is kept.
    async fn known(
        &self,
        genesis: BlockHash,
        netuid: NetUid,
        standing: Vec<(Hotkey, Digest)>,
    ) -> Result<BTreeSet<(Hotkey, Digest)>> {
        let read = move |transaction: &Transaction<'_>| {
            let sql =
                "SELECT 1 FROM sightings WHERE genesis = ?1 AND netuid = ?2 AND hotkey = ?3 AND digest = ?4";
            let mut statement = transaction.prepare(sql)?;
            let mut known = BTreeSet::new();
            for (hotkey, digest) in standing {
                if statement.exists(params![genesis.0, netuid.0, hotkey.0, digest.as_bytes()])? {
                    known.insert((hotkey, digest));
                }
            }
            Ok(known)
        };
        self.0.read_async("read the known commitments", read).await
    }

    /// First and last of the newest blocks that were read without a gap.
    async fn unbroken(
        &self,
        genesis: BlockHash,
        netuid: NetUid,
    ) -> Result<Option<(BlockNumber, BlockNumber)>> {
        let read = move |transaction: &Transaction<'_>| {
            let sql = "SELECT first_block, last_block FROM subnets WHERE genesis = ?1 AND netuid = ?2";
            let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            Ok(transaction.query_row(sql, params![genesis.0, netuid.0], row).optional()?)
        };
        self.0.read_async("read how far the ledger goes", read).await
    }

    async fn keep(
        &self,
        genesis: BlockHash,
        netuid: NetUid,
        at: BlockNumber,
        metagraph: Metagraph,
        found: Vec<Sighting>,
    ) -> Result<()> {
        self.run("keep new commitments", move |transaction| {
            for sighting in found {
                let Sighting { hotkey, place, readable_at, content, seen } = sighting;
                transaction.execute(
                    "INSERT OR IGNORE INTO sightings (genesis, netuid, hotkey, digest, block, extrinsic, dated_by, \
                     readable_at, content, seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                    params![
                        genesis.0,
                        netuid.0,
                        hotkey.0,
                        digest_of(&content)?.as_bytes(),
                        place.block,
                        place.extrinsic,
                        json(&place.dated_by)?,
                        readable_at,
                        json(&content)?,
                        json(&seen)?,
                    ],
                )?;
            }
            let sql = "SELECT last_block, neurons FROM subnets WHERE genesis = ?1 AND netuid = ?2";
            let row = |row: &Row<'_>| Ok((row.get::<_, BlockNumber>(0)?, parsed::<Vec<Neuron>>(row, 1)?));
            let before = transaction.query_row(sql, params![genesis.0, netuid.0], row).optional()?;
            let mut gap = true;
            if let Some((last, neurons)) = before {
                if last >= at {
                    return Ok(());
                }
                gap = at > last + 1;
                for Swap { block, uid, before, after } in swaps(at, &neurons, &metagraph) {
                    transaction.execute(
                        "INSERT INTO swaps (genesis, netuid, block, uid, before, after) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                        params![genesis.0, netuid.0, block, uid.0, before.0, after.0],
                    )?;
                }
            }
            let sql = if gap {
                "INSERT OR REPLACE INTO subnets (genesis, netuid, first_block, last_block, neurons) \
                 VALUES (?1, ?2, ?3, ?3, ?4)"
            } else {
                "UPDATE subnets SET last_block = ?3, neurons = ?4 WHERE genesis = ?1 AND netuid = ?2"
            };
            transaction.execute(sql, params![genesis.0, netuid.0, at, json(&metagraph.neurons)?])?;
            Ok(())
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T> {
        self.0.write_async(operation, work).await
    }
}

/// Slots of `after` that a swap, and no registration, has given to another
/// hotkey; the hotkey before must be gone.
pub fn swaps(block: BlockNumber, before: &[Neuron], after: &Metagraph) -> Vec<Swap> {
    let slots: BTreeMap<_, _> = before.iter().map(|neuron| (neuron.uid, neuron)).collect();
    let swapped = |now: &&Neuron| {
        slots.get(&now.uid).is_some_and(|then| {
            then.hotkey != now.hotkey
                && then.registered_at == now.registered_at
                && then.coldkey == now.coldkey
                && after.of(&then.hotkey).is_none()
        })
    };
    let swap = |now: &Neuron| Swap {
        block,
        uid: now.uid,
        before: slots[&now.uid].hotkey.clone(),
        after: now.hotkey.clone(),
    };
    after.neurons.iter().filter(swapped).map(swap).collect()
}

/// The first block from `from` on whose state the chain still keeps: `head`
/// at the latest. Nodes drop the oldest states first.
async fn oldest_kept(
    chain: &dyn ChainClient,
    netuid: NetUid,
    from: BlockNumber,
    head: &BlockRef,
    cx: &CallContext,
) -> Result<BlockNumber> {
    let kept = async |number| match chain.block(number, cx).await {
        Ok(block) => match chain.metagraph(netuid, &block, cx).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    if from >= head.number || kept(from).await? {
        return Ok(from);
    }
    // `dropped` is not kept, `first` is, or is the head.
    let (mut dropped, mut first) = (from, head.number);
    while first - dropped > 1 {
        let middle = dropped + (first - dropped) / 2;
        if kept(middle).await? {
            first = middle;
        } else {
            dropped = middle;
        }
    }
    Ok(first)
}

/// Where the commitments that were still hidden at block `number` stand, as
/// far as the chain still knows that state.
async fn hidden_at(
    chain: &dyn ChainClient,
    netuid: NetUid,
    number: BlockNumber,
    cx: &CallContext,
) -> Result<BTreeMap<Hotkey, Place>> {
    let reveals = match chain.block(number, cx).await {
        Ok(block) => chain.reveals(netuid, &block, cx).await,
        Err(error) => Err(error),
    };
    match reveals {
        Ok(reveals) => Ok(reveals
            .into_iter()
            .filter(|reveal| matches!(reveal.content, Content::Hidden { .. }))
            .map(|reveal| (reveal.hotkey, reveal.place))
            .collect()),
        // Pruned state.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

fn sighting(row: &Row<'_>) -> rusqlite::Result<Sighting> {
    Ok(Sighting {
        hotkey: Hotkey(row.get(0)?),
        place: Place { block: row.get(1)?, extrinsic: row.get(2)?, dated_by: parsed(row, 3)? },
        readable_at: row.get(4)?,
        content: parsed(row, 5)?,
        seen: parsed(row, 6)?,
    })
}

fn digest_of(content: &Content) -> Result<Digest> {
    Digest::of_json(content)
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::bug("write the reveal ledger", error.to_string()))
}

fn parsed<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|error| damaged(column, error))
}

#[cfg(test)]
mod tests;
