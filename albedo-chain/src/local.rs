//! `local`: one subnet of a chain in one SQLite file, or in memory, for
//! rehearsals, tests and embedders.
//!
//! The chain starts at a block, with neurons and commitments at the blocks its
//! settings name, and moves only when [`LocalChain::advance`] says so. Every
//! block is final at once. A read at a block sees what was known at that block,
//! whatever came later; its hash is SHA-256 of seed and number. Several
//! processes can have the file open.
//!
//! Registrations, commitments and weights are in the block after the head at
//! which they were submitted. With `commit_reveal`, weights are committed there
//! and in force from the start of a later epoch on; so are timelocked
//! commitments, from their round on. The beacon has one round per block. A
//! validator's weights go with its slot: once another hotkey registers there,
//! they are gone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use albedo_core::chain::{
    BlockHash, BlockNumber, BlockRef, Coldkey, ConsensusMode, Content, DatedBy, Hotkey, MechanismId,
    Metagraph, NetUid, Neuron, Place, Reveal, Subnet, Uid, WeightEffect, WeightReceipt, WeightsRow,
    WeightsView,
};
use albedo_core::weights::{Cleared, Share, WeightVector, check_setter, check_targets};
use albedo_core::{CallContext, ChainClient, Digest, Error, ErrorKind, Fault, Result};
use async_trait::async_trait;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::database::{Database, Format, Trouble, damaged};

mod config;

pub use config::{LocalChainConfig, LocalNeuron, LocalReveal};

const FORMAT: Format = Format {
    name: "local chain",
    // "albl"
    application: 0x616c_626c,
    version: 2,
    tables: TABLES,
    upgrades: &[INDEXES],
    exclusive: false,
};

const TABLES: &str = "
    CREATE TABLE chain (id INTEGER PRIMARY KEY CHECK (id = 1), head INTEGER NOT NULL, settings TEXT NOT NULL) STRICT;
    CREATE TABLE neurons (
        uid INTEGER NOT NULL, registered_at INTEGER NOT NULL,
        hotkey TEXT NOT NULL, coldkey TEXT NOT NULL,
        validator_permit INTEGER NOT NULL, stake INTEGER NOT NULL,
        PRIMARY KEY (uid, registered_at)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE commitments (
        id INTEGER PRIMARY KEY,
        hotkey TEXT NOT NULL, block INTEGER NOT NULL, extrinsic INTEGER NOT NULL,
        content TEXT NOT NULL, reveal_round INTEGER
    ) STRICT;
    CREATE TABLE weights (
        id INTEGER PRIMARY KEY,
        hotkey TEXT NOT NULL, included INTEGER NOT NULL, in_force INTEGER NOT NULL,
        vector TEXT NOT NULL, receipt TEXT NOT NULL
    ) STRICT;
";

/// What stands at a block is found without reading everything before it.
const INDEXES: &str = "
    CREATE INDEX commitments_of ON commitments (hotkey, block, extrinsic);
    CREATE INDEX weights_of ON weights (hotkey);
";

/// Most revealed texts per hotkey that the state shows, the newest. Source: subtensor keeps ten.
const MOST_REVEALED: u32 = 10;

/// One subnet of a chain of one's own; see the [module](self).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use albedo_chain::local::{LocalChain, LocalChainConfig};
/// use albedo_core::chain::{Coldkey, Content, Hotkey, NetUid};
/// use albedo_core::{CallContext, ChainClient};
///
/// let chain = LocalChain::new(LocalChainConfig::default())?;
/// let (miner, cx) = (Hotkey("miner".into()), CallContext::new());
/// chain.register(&miner, &Coldkey("owner".into()))?;
/// let head = chain.advance(1)?;
/// // Hidden until block 4.
/// chain.commit(&miner, "v7|someone/model|0f0f", Some(4))?;
/// let early = chain.advance(1)?;
/// let late = chain.advance(5)?;
/// let at = async |block| chain.reveals(NetUid(97), block, &cx).await;
/// assert!(at(&head).await?.is_empty());
/// assert!(matches!(at(&early).await?[0].content, Content::Hidden { .. }));
/// assert_eq!(at(&late).await?[0].content, Content::Text("v7|someone/model|0f0f".into()));
/// # Ok::<(), albedo_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct LocalChain {
    config: LocalChainConfig,
    database: Arc<Database>,
}

impl LocalChain {
    /// The chain that `config` describes: a new one, or the one in its file.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key; a file that holds a chain
    /// with other settings, or none.
    pub fn new(config: LocalChainConfig) -> Result<Self> {
        config.check()?;
        let database = Arc::new(Database::open(config.path.as_deref(), FORMAT)?);
        let chain = Self { config, database };
        chain.database.write("make the local chain", |transaction| chain.begin(transaction))?;
        Ok(chain)
    }

    /// The chain in the file at `path`, with the settings that it was made
    /// with.
    ///
    /// # Errors
    /// No such file; a file that holds no chain.
    pub fn open(path: &Path) -> Result<Self> {
        const OPERATION: &str = "open the local chain";
        std::fs::metadata(path).map_err(|error| Error::io(OPERATION, path, error))?;
        let database = Arc::new(Database::open(Some(path), FORMAT)?);
        let settings: Option<String> = database.read(OPERATION, |transaction| {
            Ok(transaction.query_row("SELECT settings FROM chain", [], |row| row.get(0)).optional()?)
        })?;
        let config = settings.and_then(|settings| serde_json::from_str::<LocalChainConfig>(&settings).ok());
        let Some(config) = config else {
            return Err(Error::new(ErrorKind::DataInvalid, OPERATION, "the file holds no chain")
                .with_fault(Fault::Operator)
                .with("path", path.display()));
        };
        Ok(Self { config: LocalChainConfig { path: Some(path.to_owned()), ..config }, database })
    }

    /// Makes `blocks` more blocks; the new head.
    pub fn advance(&self, blocks: u64) -> Result<BlockRef> {
        let number = self.database.write("make blocks", |transaction| {
            let number = head(transaction)?.saturating_add(blocks).min(i64::MAX as u64);
            transaction.execute("UPDATE chain SET head = ?1", [number])?;
            Ok(number)
        })?;
        Ok(self.block_ref(number))
    }

    /// Registers `hotkey` in the next block: in its slot if it has one, else in
    /// the lowest free one.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the hotkey is registered;
    /// [`ErrorKind::ResourceExhausted`] if all 65,536 slots are taken.
    pub fn register(&self, hotkey: &Hotkey, coldkey: &Coldkey) -> Result<Uid> {
        const OPERATION: &str = "register a hotkey";
        self.database.write(OPERATION, |transaction| {
            let block = head(transaction)? + 1;
            let neurons = neurons(transaction, block)?;
            if neurons.values().any(|neuron| &neuron.hotkey == hotkey) {
                return Err(Error::new(ErrorKind::Conflict, OPERATION, "it is registered")
                    .with_fault(Fault::Operator)
                    .with("hotkey", hotkey)
                    .into());
            }
            let Some(uid) = (0..=u16::MAX).map(Uid).find(|uid| !neurons.contains_key(uid)) else {
                return Err(Error::new(ErrorKind::ResourceExhausted, OPERATION, "no slot is free").into());
            };
            insert_neuron(
                transaction,
                &Neuron {
                    uid,
                    hotkey: hotkey.clone(),
                    coldkey: coldkey.clone(),
                    registered_at: block,
                    validator_permit: false,
                    stake: 0,
                },
            )?;
            Ok(uid)
        })
    }

    /// Commits `content` for `hotkey` in the next block, in place of what it
    /// had committed before; with a round, hidden until that block.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the hotkey is not registered.
    pub fn commit(&self, hotkey: &Hotkey, content: &str, reveal_round: Option<u64>) -> Result<Place> {
        const OPERATION: &str = "commit";
        self.database.write(OPERATION, |transaction| {
            let block = head(transaction)? + 1;
            if !neurons(transaction, block)?.values().any(|neuron| &neuron.hotkey == hotkey) {
                return Err(Error::new(ErrorKind::NotFound, OPERATION, "the hotkey is not registered")
                    .with("hotkey", hotkey)
                    .into());
            }
            let extrinsic = insert_commitment(transaction, hotkey, block, content, reveal_round)?;
            Ok(Place { block, extrinsic: Some(extrinsic), dated_by: DatedBy::Commitment })
        })
    }

    /// Writes the first state, unless the file has one.
    fn begin(&self, transaction: &Transaction<'_>) -> Result<(), Trouble> {
        const OPERATION: &str = "open the local chain";
        let Self { config, .. } = self;
        let settings = serde_json::to_string(&LocalChainConfig { path: None, ..config.clone() })
            .map_err(|error| Error::bug(OPERATION, error.to_string()))?;
        let sql = "SELECT settings FROM chain";
        if let Some(before) = transaction.query_row(sql, [], |row| row.get::<_, String>(0)).optional()? {
            if before == settings {
                return Ok(());
            }
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                OPERATION,
                "the file holds a chain of other settings",
            )
            .with("path", config.path.clone().unwrap_or_default().display())
            .with_hint("name another file, or the settings that it was made with")
            .into());
        }
        transaction.execute(
            "INSERT INTO chain (id, head, settings) VALUES (1, ?1, ?2)",
            params![config.start_block, settings],
        )?;
        for LocalNeuron { uid, hotkey, coldkey, registered_at, validator_permit, stake } in &config.neurons {
            insert_neuron(
                transaction,
                &Neuron {
                    uid: Uid(*uid),
                    hotkey: Hotkey(hotkey.clone()),
                    coldkey: Coldkey(coldkey.clone()),
                    registered_at: *registered_at,
                    validator_permit: *validator_permit,
                    stake: *stake,
                },
            )?;
        }
        for LocalReveal { hotkey, block, payload } in &config.reveals {
            insert_commitment(transaction, &Hotkey(hotkey.clone()), *block, payload, None)?;
        }
        Ok(())
    }

    fn block_ref(&self, number: BlockNumber) -> BlockRef {
        let preimage = [self.config.seed.to_le_bytes(), number.to_le_bytes()].concat();
        BlockRef { number, hash: BlockHash(*Digest::of(preimage).as_bytes()) }
    }

    /// Runs a read of the state at `at`, once it is clear that there is such a
    /// subnet and, on this branch, such a block.
    fn read_at<T>(
        &self,
        operation: &str,
        (netuid, at): (NetUid, &BlockRef),
        cx: &CallContext,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble>,
    ) -> Result<T> {
        cx.check(operation)?;
        self.check_subnet(operation, netuid)?;
        self.database.read(operation, |transaction| {
            if at.number > head(transaction)? || *at != self.block_ref(at.number) {
                return Err(Error::new(ErrorKind::NotFound, operation, "this chain has no such block")
                    .with("block", at.number)
                    .with("hash", at.hash)
                    .into());
            }
            work(transaction)
        })
    }

    fn check_subnet(&self, operation: &str, netuid: NetUid) -> Result<()> {
        if netuid.0 == self.config.netuid {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, operation, "this chain has no such subnet")
            .with("netuid", netuid.0)
            .with("known", self.config.netuid))
    }

    fn subnet_at(&self, block: BlockNumber) -> Subnet {
        let LocalChainConfig { tempo, weights_rate_limit, commit_reveal, null_consensus, .. } = self.config;
        let blocks = u64::from(tempo);
        Subnet {
            tempo,
            epoch: block / blocks,
            next_epoch: (block / blocks + 1).saturating_mul(blocks),
            weights_rate_limit,
            commit_reveal,
            reveal_period: 1,
            min_weights: self.config.min_weights,
            max_weight: u16::MAX,
            weights_version: 0,
            registration_cost: 0,
            consensus: if null_consensus { ConsensusMode::Null } else { ConsensusMode::Yuma },
        }
    }

    /// Takes the weights into the block after the head, as a chain would.
    fn submit(&self, transaction: &Transaction<'_>, vector: &WeightVector) -> Result<WeightReceipt, Trouble> {
        const OPERATION: &str = "set weights";
        let head = head(transaction)?;
        let hotkey = &vector.key.hotkey;
        let text = serde_json::to_string(vector).map_err(|error| Error::bug(OPERATION, error.to_string()))?;
        let refused = |kind, message: &str| {
            Error::new(kind, OPERATION, message).with("hotkey", hotkey).with("head", head)
        };
        let sql = "SELECT receipt FROM weights WHERE hotkey = ?1 AND vector = ?2";
        let before = transaction.query_row(sql, params![hotkey.0, text], |row| parsed(row, 0)).optional()?;
        if let Some(receipt) = before {
            return Ok(receipt);
        }
        if vector.key.genesis != self.block_ref(0).hash || vector.key.mechanism != MechanismId(0) {
            return Err(refused(ErrorKind::Unsupported, "they are for another chain or mechanism")
                .with_fault(Fault::Operator)
                .into());
        }
        let included = head.saturating_add(1);
        let neurons = neurons(transaction, head)?;
        let metagraph = Metagraph { neurons: neurons.into_values().collect() };
        let subnet = self.subnet_at(included);
        check_setter(hotkey, &subnet, &metagraph)?;
        check_targets(&vector.shares, &metagraph)?;
        if vector.shares.len() < usize::from(subnet.min_weights) {
            return Err(refused(ErrorKind::Unsupported, "fewer targets than the subnet demands")
                .with_fault(Fault::Operator)
                .into());
        }
        let sql = "SELECT max(included) FROM weights WHERE hotkey = ?1";
        let latest: Option<u64> = transaction.query_row(sql, [&hotkey.0], |row| row.get(0))?;
        let next = latest.map_or(0, |latest| latest.saturating_add(subnet.weights_rate_limit));
        if included < next {
            let error = refused(ErrorKind::RateLimited, "too soon after the last weights");
            return Err(error.with("next", next).into());
        }
        let (in_force, effect) = if subnet.commit_reveal {
            (subnet.next_epoch, WeightEffect::Committed { reveal_round: subnet.next_epoch })
        } else {
            (included, WeightEffect::Set)
        };
        let receipt = WeightReceipt { block: included, epoch: subnet.epoch, effect };
        let json =
            serde_json::to_string(&receipt).map_err(|error| Error::bug(OPERATION, error.to_string()))?;
        transaction.execute(
            "INSERT INTO weights (hotkey, included, in_force, vector, receipt) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![hotkey.0, included, in_force, text, json],
        )?;
        Ok(receipt)
    }
}

#[async_trait]
impl ChainClient for LocalChain {
    async fn genesis(&self, cx: &CallContext) -> Result<BlockHash> {
        cx.check("read the genesis hash")?;
        Ok(self.block_ref(0).hash)
    }

    async fn head(&self, cx: &CallContext) -> Result<BlockRef> {
        const OPERATION: &str = "read the chain's head";
        cx.check(OPERATION)?;
        Ok(self.block_ref(self.database.read(OPERATION, head)?))
    }

    async fn block(&self, number: BlockNumber, cx: &CallContext) -> Result<BlockRef> {
        const OPERATION: &str = "read a block";
        let head = self.head(cx).await?.number;
        if number <= head {
            return Ok(self.block_ref(number));
        }
        Err(Error::new(ErrorKind::NotFound, OPERATION, "it is not final yet")
            .with("block", number)
            .with("head", head))
    }

    async fn subnet(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Subnet> {
        let operation = "read the subnet's hyperparameters";
        self.read_at(operation, (netuid, at), cx, |_| Ok(self.subnet_at(at.number)))
    }

    async fn metagraph(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Metagraph> {
        self.read_at("read the metagraph", (netuid, at), cx, |transaction| {
            Ok(Metagraph { neurons: neurons(transaction, at.number)?.into_values().collect() })
        })
    }

    async fn reveals(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Vec<Reveal>> {
        self.read_at("read the reveals", (netuid, at), cx, |transaction| reveals(transaction, at.number))
    }

    async fn weights(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<WeightsView> {
        self.read_at("read the weights", (netuid, at), cx, |transaction| {
            let sql = "SELECT vector FROM weights WHERE hotkey = ?1 AND in_force <= ?2 AND included >= ?3 \
                       ORDER BY id DESC LIMIT 1";
            let (mut rows, mut statement) = (Vec::new(), transaction.prepare(sql)?);
            for neuron in neurons(transaction, at.number)?.into_values() {
                let arguments = params![neuron.hotkey.0, at.number, neuron.registered_at];
                let vector = statement.query_row(arguments, |row| parsed::<WeightVector>(row, 0));
                if let Some(vector) = vector.optional()? {
                    rows.push(WeightsRow { validator: neuron.uid, weights: stored(&vector.shares) });
                }
            }
            Ok(WeightsView { rows })
        })
    }

    async fn set_weights(&self, weights: Cleared<WeightVector>, cx: &CallContext) -> Result<WeightReceipt> {
        const OPERATION: &str = "set weights";
        cx.check(OPERATION)?;
        self.check_subnet(OPERATION, weights.get().key.netuid)?;
        self.database.write(OPERATION, |transaction| self.submit(transaction, weights.get()))
    }

    async fn set_commitment(
        &self,
        netuid: NetUid,
        hotkey: &Hotkey,
        text: &str,
        cx: &CallContext,
    ) -> Result<BlockNumber> {
        const OPERATION: &str = "commit";
        cx.check(OPERATION)?;
        self.check_subnet(OPERATION, netuid)?;
        Ok(self.commit(hotkey, text, None)?.block)
    }
}

albedo_core::register!(dyn ChainClient => LocalChain);

fn head(transaction: &Transaction<'_>) -> Result<BlockNumber, Trouble> {
    Ok(transaction.query_row("SELECT head FROM chain", [], |row| row.get(0))?)
}

/// The neurons at `block`, by uid: the latest registration of each slot.
fn neurons(transaction: &Transaction<'_>, block: BlockNumber) -> Result<BTreeMap<Uid, Neuron>, Trouble> {
    let sql = "SELECT uid, registered_at, hotkey, coldkey, validator_permit, stake FROM neurons \
               WHERE registered_at <= ?1 ORDER BY registered_at";
    let mut statement = transaction.prepare(sql)?;
    let rows = statement.query_map([block], |row| {
        Ok(Neuron {
            uid: Uid(row.get(0)?),
            registered_at: row.get(1)?,
            hotkey: Hotkey(row.get(2)?),
            coldkey: Coldkey(row.get(3)?),
            validator_permit: row.get(4)?,
            stake: row.get(5)?,
        })
    })?;
    Ok(rows.map(|neuron| neuron.map(|neuron| (neuron.uid, neuron))).collect::<rusqlite::Result<_>>()?)
}

fn insert_neuron(transaction: &Transaction<'_>, neuron: &Neuron) -> Result<(), Trouble> {
    let Neuron { uid, hotkey, coldkey, registered_at, validator_permit, stake } = neuron;
    transaction.execute(
        "INSERT INTO neurons (uid, registered_at, hotkey, coldkey, validator_permit, stake) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![uid.0, registered_at, hotkey.0, coldkey.0, validator_permit, stake],
    )?;
    Ok(())
}

/// The commitment's index in its block.
fn insert_commitment(
    transaction: &Transaction<'_>,
    hotkey: &Hotkey,
    block: BlockNumber,
    content: &str,
    reveal_round: Option<u64>,
) -> Result<u32, Trouble> {
    let sql = "SELECT count(*) FROM commitments WHERE block = ?1";
    let extrinsic: u32 = transaction.query_row(sql, [block], |row| row.get(0))?;
    transaction.execute(
        "INSERT INTO commitments (hotkey, block, extrinsic, content, reveal_round) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![hotkey.0, block, extrinsic, content, reveal_round],
    )?;
    Ok(extrinsic)
}

/// What the state at `at` shows, as subtensor keeps it: each hotkey's last
/// commitment, and what its timelocked ones have revealed, dated by the reveal.
fn reveals(transaction: &Transaction<'_>, at: BlockNumber) -> Result<Vec<Reveal>, Trouble> {
    // From one hotkey to the next in the index.
    let sql = "WITH RECURSIVE hotkeys (hotkey) AS (SELECT min(hotkey) FROM commitments UNION ALL \
               SELECT (SELECT min(next.hotkey) FROM commitments AS next WHERE next.hotkey > hotkeys.hotkey) \
               FROM hotkeys WHERE hotkeys.hotkey IS NOT NULL) \
               SELECT hotkey FROM hotkeys WHERE hotkey IS NOT NULL";
    let mut statement = transaction.prepare(sql)?;
    let hotkeys = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let mut last = transaction.prepare(
        "SELECT block, extrinsic, content, reveal_round FROM commitments WHERE hotkey = ?1 AND block <= ?2 \
         ORDER BY block DESC, extrinsic DESC LIMIT 1",
    )?;
    // Another commitment before its round replaces one that is hidden.
    let mut revealed = transaction.prepare(
        "SELECT block, content, reveal_round FROM commitments AS this \
         WHERE hotkey = ?1 AND block <= ?2 AND reveal_round <= ?2 \
         AND coalesce(reveal_round < (SELECT block FROM commitments AS next WHERE next.hotkey = this.hotkey \
         AND (next.block, next.extrinsic) > (this.block, this.extrinsic) AND next.block <= ?2 \
         ORDER BY next.block, next.extrinsic LIMIT 1), TRUE) \
         ORDER BY block DESC, extrinsic DESC LIMIT ?3",
    )?;
    let mut found = Vec::new();
    for hotkey in hotkeys {
        let standing = last
            .query_row(params![hotkey, at], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
        let standing: Option<(BlockNumber, u32, String, Option<u64>)> = standing.optional()?;
        let Some((block, extrinsic, content, round)) = standing else { continue };
        let hotkey = Hotkey(hotkey);
        let place = Place { block, extrinsic: Some(extrinsic), dated_by: DatedBy::Commitment };
        match round {
            None => found.push(Reveal {
                hotkey: hotkey.clone(),
                place,
                readable_at: Some(block),
                content: Content::Text(content),
            }),
            Some(reveal_round) if reveal_round > at => {
                let ciphertext = Digest::of(format!("{hotkey} {block} {extrinsic}"));
                let content = Content::Hidden { ciphertext, reveal_round };
                found.push(Reveal { hotkey: hotkey.clone(), place, readable_at: None, content });
            }
            Some(_) => {}
        }
        let rows = revealed.query_map(params![hotkey.0, at, MOST_REVEALED], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
        for row in rows {
            let (block, content, round): (BlockNumber, String, u64) = row?;
            let block = round.max(block);
            let place = Place { block, extrinsic: None, dated_by: DatedBy::Reveal };
            let content = Content::Text(content);
            found.push(Reveal { hotkey: hotkey.clone(), place, readable_at: Some(block), content });
        }
    }
    found.sort_by(|a, b| (a.place, &a.hotkey).cmp(&(b.place, &b.hotkey)));
    Ok(found)
}

/// Weights as a chain stores them: the largest becomes 65,535.
fn stored(shares: &[Share]) -> Vec<(Uid, u16)> {
    let largest = shares.iter().map(|share| u32::from(share.weight)).max().unwrap_or(0).max(1);
    let scale = |weight: u16| ((u32::from(weight) * 65_535 + largest / 2) / largest) as u16;
    shares.iter().map(|share| (share.uid, scale(share.weight))).collect()
}

fn parsed<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|error| damaged(column, error))
}

#[cfg(test)]
mod tests;
