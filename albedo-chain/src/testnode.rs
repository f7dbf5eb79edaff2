//! A node for tests: JSON-RPC over WebSocket, blocks, a pool, and the checks of
//! subtensor's pallets, **driven by a metadata file**. What it stores, answers
//! and decodes is encoded by the types of that metadata, never by the client's
//! structs, so that a client with a wrong idea of a type fails here.
//!
//! It is no runtime: it does what the pallets say that this crate relies on,
//! and no more. It has no clock: [`TestNode::produce`] makes blocks, and
//! [`Pace`] says whether requests do too. Blocks are final at once unless
//! [`TestNode::set_lag`] says otherwise.

#![expect(clippy::panic, reason = "what a node for tests cannot do ends the test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use subxt::ext::scale_value::Value;
use tokio::sync::Notify;

use crate::timelock::Beacon;
use crate::timelock::testing::BeaconSecret;

mod dispatch;
pub mod metadata;
mod rpc;
mod runtime;

use runtime::NodeRuntime;

/// Unix time of block 0, in milliseconds, unless a test says otherwise.
const GENESIS_MS: u64 = 1_800_000_000_000;

/// Unix time of the beacon's first round: before any block's.
const BEACON_GENESIS: u64 = 1_700_000_000;

/// How long a test waits for a request.
const PATIENCE: Duration = Duration::from_mins(2);

/// Blocks whose state is kept at most.
const KEPT_STATES: u64 = 1024;

/// A neuron of the node's subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestNeuron {
    /// Public key of the hotkey.
    pub hotkey: [u8; 32],
    /// Public key of the coldkey.
    pub coldkey: [u8; 32],
    /// Block of the registration.
    pub registered_at: u64,
    /// May set weights.
    pub validator_permit: bool,
    /// Stake, in rao.
    pub stake: u64,
    /// Block of the last weights.
    pub last_update: u64,
}

/// The node's one subnet, and what the pallets keep of it.
#[derive(Debug, Clone)]
pub struct TestSubnet {
    /// Its number.
    pub netuid: u16,
    /// Blocks of an epoch.
    pub tempo: u16,
    /// Least blocks between two weight submissions.
    pub weights_rate_limit: u64,
    /// Weights are committed first.
    pub commit_reveal: bool,
    /// Epochs until the reveal.
    pub reveal_period: u64,
    /// Fewest targets.
    pub min_weights: u16,
    /// Version key demanded.
    pub weights_version: u64,
    /// Price of a registration, in rao.
    pub burn: u64,
    /// Only the largest stake may set weights. Runtimes that do not know this
    /// ignore it.
    pub null_consensus: bool,
    /// By uid.
    pub neurons: Vec<TestNeuron>,
    /// The current epoch and the block that it began at.
    pub epoch: (u64, u64),
    /// An epoch that an owner has triggered begins at this block.
    pub pending: Option<u64>,
}

impl TestSubnet {
    /// A subnet without neurons, with epochs of 360 blocks and commit-reveal.
    pub fn new(netuid: u16) -> Self {
        Self {
            netuid,
            tempo: 360,
            weights_rate_limit: 100,
            commit_reveal: true,
            reveal_period: 1,
            min_weights: 1,
            weights_version: 0,
            burn: 1,
            null_consensus: false,
            neurons: Vec::new(),
            epoch: (1, 0),
            pending: None,
        }
    }
}

/// A signed extrinsic that the node has put into a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    /// The block.
    pub block: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Who signed it.
    pub signer: [u8; 32],
    /// The account's nonce.
    pub nonce: u64,
    /// Name of the call.
    pub call: String,
    /// Why it was refused in the block, if it was.
    pub failure: Option<String>,
}

/// What makes blocks, besides [`TestNode::produce`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// Nothing.
    #[default]
    Manual,
    /// Every extrinsic that the pool accepts.
    Instant,
    /// Every request for the finalised head: time passes as fast as a client
    /// looks.
    Driven,
}

/// What the node does wrong.
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// It takes connections and requests, and answers nothing.
    pub silent: bool,
    /// It closes every connection at once.
    pub dead: bool,
    /// It reports another genesis hash.
    pub other_genesis: bool,
    /// It answers what is no JSON-RPC.
    pub garbage: bool,
    /// The pool refuses every extrinsic with this code and message.
    pub refuse: Option<(i32, &'static str)>,
    /// It takes extrinsics and forgets them.
    pub forget: bool,
    /// Its blocks do not say which extrinsics have succeeded.
    pub without_results: bool,
    /// It says that weights were set, and keeps none.
    pub lose_weights: bool,
    /// Once it has had this many requests ([`TestNode::asked`]), it still does
    /// what it is asked, and answers nothing.
    pub silent_after: Option<u64>,
}

/// The node. Dropping the last clone stops it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use albedo_chain::subtensor::{Subtensor, SubtensorConfig};
/// use albedo_chain::testnode::{TestNode, TestSubnet, metadata};
/// use albedo_core::chain::BlockHash;
/// use albedo_core::{CallContext, ChainClient};
///
/// let node = TestNode::start(&metadata::newest(), 1, TestSubnet::new(97)).await;
/// node.produce(9);
/// let config = SubtensorConfig {
///     endpoints: vec![node.endpoint()],
///     genesis: BlockHash(node.genesis()).to_string(),
///     ..SubtensorConfig::default()
/// };
/// let head = Subtensor::new(&config)?.head(&CallContext::new()).await?;
/// assert_eq!(head.number, 10);
/// # Ok::<(), albedo_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct TestNode {
    chain: Arc<Mutex<Chain>>,
    address: SocketAddr,
    /// Notified after every request.
    asked: Arc<Notify>,
    _server: Arc<rpc::Server>,
}

type State = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Clone)]
struct Block {
    number: u64,
    hash: [u8; 32],
    parent: [u8; 32],
    extrinsics: Vec<Vec<u8>>,
    /// After the block.
    state: Arc<State>,
    subnet: Arc<TestSubnet>,
    nonces: Arc<BTreeMap<[u8; 32], u64>>,
    /// The runtime that the block reports, as a place in `runtimes`.
    runtime: usize,
    landed: Vec<Landed>,
}

#[derive(Debug, Clone)]
struct Commit {
    block: u64,
    epoch: u64,
    who: [u8; 32],
    bytes: Vec<u8>,
    round: u64,
}

#[derive(Debug)]
struct Chain {
    runtimes: Vec<Arc<NodeRuntime>>,
    blocks: Vec<Block>,
    lag: u64,
    pool: Vec<Vec<u8>>,
    commits: Vec<Commit>,
    hidden: Vec<(u64, [u8; 32], Vec<u8>)>,
    secret: BeaconSecret,
    beacon: Beacon,
    upgrade: Option<Arc<NodeRuntime>>,
    faults: Faults,
    pace: Pace,
    requests: BTreeMap<String, u64>,
    asked: u64,
    sent: u64,
    salt: u64,
    pruned_after: u64,
    genesis_ms: u64,
    block_ms: u64,
}

impl TestNode {
    /// Starts a node on this machine at block 1, with the runtime of a metadata
    /// file and one subnet.
    ///
    /// # Panics
    /// Metadata that cannot be read, or without what the node stores.
    pub async fn start(metadata: &[u8], spec_version: u32, subnet: TestSubnet) -> Self {
        let runtime = Arc::new(NodeRuntime::new(metadata, spec_version));
        let secret = BeaconSecret::of(7);
        let block_ms = runtime.block_ms();
        let beacon = secret.beacon(BEACON_GENESIS, 3);
        let mut chain = Chain {
            runtimes: vec![runtime],
            blocks: Vec::new(),
            lag: 0,
            pool: Vec::new(),
            commits: Vec::new(),
            hidden: Vec::new(),
            secret,
            beacon,
            upgrade: None,
            faults: Faults::default(),
            pace: Pace::default(),
            requests: BTreeMap::new(),
            asked: 0,
            sent: 0,
            salt: 0,
            pruned_after: u64::MAX,
            genesis_ms: GENESIS_MS,
            block_ms,
        };
        chain.begin(subnet);
        chain.produce();
        let chain = Arc::new(Mutex::new(chain));
        let asked = Arc::new(Notify::new());
        let (server, address) = rpc::Server::start(Arc::clone(&chain), Arc::clone(&asked)).await;
        Self { chain, address, asked, _server: Arc::new(server) }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Its genesis hash.
    pub fn genesis(&self) -> [u8; 32] {
        self.chain().blocks[0].hash
    }

    /// The beacon of its chain.
    pub fn beacon(&self) -> Beacon {
        self.chain().beacon.clone()
    }

    /// Height of its newest block.
    pub fn height(&self) -> u64 {
        self.chain().head().number
    }

    /// Makes blocks.
    pub fn produce(&self, blocks: u64) {
        for _ in 0..blocks {
            self.chain().produce();
        }
    }

    /// Says what else makes blocks.
    pub fn set_pace(&self, pace: Pace) {
        self.chain().pace = pace;
    }

    /// Waits for a request after which `condition` holds, unless it holds now.
    ///
    /// # Panics
    /// No such request comes within two minutes.
    pub async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let reached = tokio::time::timeout(PATIENCE, self.reaches(condition)).await;
        assert!(reached.is_ok(), "no client asks for what a test waits for");
    }

    /// [`TestNode::until`] that waits for ever, for a caller who watches the
    /// client.
    pub async fn reaches(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let mut asked = std::pin::pin!(self.asked.notified());
            asked.as_mut().enable();
            if condition(self) {
                return;
            }
            asked.await;
        }
    }

    /// Requests so far.
    pub fn asked(&self) -> u64 {
        self.chain().asked
    }

    /// Requests so far that submitted an extrinsic.
    pub fn sent(&self) -> u64 {
        self.chain().sent
    }

    /// Lets the next block have this Unix time, in milliseconds.
    pub fn set_time(&self, next_ms: u64) {
        let mut chain = self.chain();
        chain.genesis_ms = next_ms - (chain.head().number + 1) * chain.block_ms;
    }

    /// Blocks that finality is behind.
    pub fn set_lag(&self, lag: u64) {
        self.chain().lag = lag;
    }

    /// Keeps the state of so many blocks.
    pub fn set_pruning(&self, blocks: u64) {
        self.chain().pruned_after = blocks;
    }

    /// Throws the newest blocks away; their extrinsics go back to the pool, or
    /// are lost. What is final stays.
    pub fn fork(&self, depth: u64, lose: bool) {
        let mut chain = self.chain();
        let depth = depth.min(chain.lag).min(chain.head().number - 1);
        for _ in 0..depth {
            let dropped = chain.blocks.pop().map(|block| block.extrinsics).unwrap_or_default();
            if !lose {
                chain.pool.extend(dropped);
            }
        }
        let number = chain.head().number;
        chain.commits.retain(|commit| commit.block <= number);
        chain.salt += 1;
    }

    /// Changes the runtime in the next block.
    pub fn upgrade(&self, metadata: &[u8], spec_version: u32) {
        self.chain().upgrade = Some(Arc::new(NodeRuntime::new(metadata, spec_version)));
    }

    /// Changes the subnet from the next block on.
    pub fn change(&self, change: impl FnOnce(&mut TestSubnet)) {
        let mut chain = self.chain();
        if let Some(block) = chain.blocks.last_mut() {
            change(Arc::make_mut(&mut block.subnet));
        }
    }

    /// Changes what the node does wrong.
    pub fn fault(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.chain().faults);
    }

    /// Requests since the last call of this, by method.
    pub fn take_requests(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.chain().requests)
    }

    /// Extrinsics that wait for a block.
    pub fn pool(&self) -> Vec<Vec<u8>> {
        self.chain().pool.clone()
    }

    /// Empties the pool.
    pub fn clear_pool(&self) {
        self.chain().pool.clear();
    }

    /// Everything that was signed and put into blocks, oldest first.
    pub fn landed(&self) -> Vec<Landed> {
        self.chain().blocks.iter().flat_map(|block| block.landed.clone()).collect()
    }

    /// Uses up a nonce of `who`, as an extrinsic of theirs would.
    pub fn use_nonce(&self, who: [u8; 32]) {
        let mut chain = self.chain();
        if let Some(block) = chain.blocks.last_mut() {
            *Arc::make_mut(&mut block.nonces).entry(who).or_default() += 1;
        }
    }

    /// Gives every neuron a commitment in plain text.
    ///
    /// # Panics
    /// A text of more than 128 bytes.
    pub fn commit_for_all(&self, text: &str) {
        let mut chain = self.chain();
        let Some(block) = chain.blocks.last().cloned() else { return };
        let runtime = Arc::clone(&chain.runtimes[block.runtime]);
        let field = Value::unnamed_variant(format!("Raw{}", text.len()), [Value::from_bytes(text)]);
        let registration = dispatch::registration(block.number, field);
        let stored = runtime.stored("Commitments", "CommitmentOf", &registration);
        let Some(last) = chain.blocks.last_mut() else { return };
        let state = Arc::make_mut(&mut last.state);
        for neuron in &block.subnet.neurons {
            let keys = vec![number(block.subnet.netuid), Value::from_bytes(neuron.hotkey)];
            state.insert(runtime.key("Commitments", "CommitmentOf", keys), stored.clone());
        }
    }

    fn chain(&self) -> MutexGuard<'_, Chain> {
        lock(&self.chain)
    }
}

/// Pallet, call and call bytes of an extrinsic, as the node decodes it.
#[cfg(test)]
pub(crate) fn decode_for_judges(
    metadata: &[u8],
    spec_version: u32,
    extrinsic: &[u8],
) -> Option<(String, String, Vec<u8>)> {
    let decoded = NodeRuntime::new(metadata, spec_version).extrinsic(extrinsic)?;
    Some((decoded.pallet, decoded.call, decoded.call_bytes))
}

/// The ciphertext in the argument `info` of a commitment.
#[cfg(test)]
pub(crate) fn timelocked_bytes(info: &Value) -> Vec<u8> {
    dispatch::ciphertext(info)
}

fn lock(chain: &Mutex<Chain>) -> MutexGuard<'_, Chain> {
    chain.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chain {
    fn begin(&mut self, subnet: TestSubnet) {
        let runtime = &self.runtimes[0];
        let mut state = State::new();
        state.insert(runtime.key("SubtensorModule", "NetworksAdded", vec![number(subnet.netuid)]), vec![1]);
        let hash = blake2(b"the genesis of a test node");
        self.blocks.push(Block {
            number: 0,
            hash,
            parent: [0; 32],
            extrinsics: Vec::new(),
            state: Arc::new(state),
            subnet: Arc::new(subnet),
            nonces: Arc::default(),
            runtime: 0,
            landed: Vec::new(),
        });
    }

    fn head(&self) -> &Block {
        &self.blocks[self.blocks.len() - 1]
    }

    fn finalized(&self) -> &Block {
        let place = self.blocks.len().saturating_sub(1 + self.lag as usize);
        &self.blocks[place]
    }

    fn block(&self, hash: &[u8; 32]) -> Option<&Block> {
        self.blocks.iter().rev().find(|block| block.hash == *hash)
    }

    /// The block's state, unless it has been pruned.
    fn state(&self, hash: &[u8; 32]) -> Option<&Block> {
        let block = self.block(hash)?;
        (self.head().number - block.number <= self.kept()).then_some(block)
    }

    /// Blocks whose state is kept.
    fn kept(&self) -> u64 {
        self.pruned_after.min(KEPT_STATES)
    }

    fn time(&self, number: u64) -> u64 {
        self.genesis_ms + number * self.block_ms
    }

    /// Makes one block: epoch and reveals first, then the pool's extrinsics.
    fn produce(&mut self) {
        let parent = self.head().clone();
        let height = parent.number + 1;
        let runtime = Arc::clone(&self.runtimes[parent.runtime]);
        let mut block = Block {
            number: height,
            hash: [0; 32],
            parent: parent.hash,
            extrinsics: Vec::new(),
            state: Arc::clone(&parent.state),
            subnet: Arc::clone(&parent.subnet),
            nonces: Arc::clone(&parent.nonces),
            runtime: parent.runtime,
            landed: Vec::new(),
        };
        let mut events = Vec::new();
        Self::epoch(&runtime, &mut block);
        self.reveal_due_weights(&runtime, &mut block, &mut events);
        self.reveal_commitments(&runtime, &mut block, &mut events);
        let time = number(self.time(height));
        let mut later = Vec::new();
        for bytes in std::mem::take(&mut self.pool) {
            match self.validate(&runtime, &block, &bytes) {
                Ok(checked) if checked.nonce == nonce_of(&block, &checked.signer) => {
                    self.apply(&runtime, &mut block, checked, bytes, &mut events);
                }
                Ok(_) => later.push(bytes),
                Err(_) => {}
            }
        }
        self.pool = later;
        let state = Arc::make_mut(&mut block.state);
        state.insert(runtime.key("Timestamp", "Now", vec![]), runtime.stored("Timestamp", "Now", &time));
        state.insert(runtime.key("System", "Events", vec![]), runtime.events(&events));
        let epoch_key = ("SubtensorModule", "SubnetEpochIndex");
        if runtime.has_storage(epoch_key.0, epoch_key.1) {
            let netuid = number(block.subnet.netuid);
            let bytes = runtime.stored(epoch_key.0, epoch_key.1, &number(block.subnet.epoch.0));
            state.insert(runtime.key(epoch_key.0, epoch_key.1, vec![netuid]), bytes);
        }
        let consensus_key = ("SubtensorModule", "SubnetEpochConsensus");
        if runtime.has_storage(consensus_key.0, consensus_key.1) {
            let netuid = number(block.subnet.netuid);
            let mode = if block.subnet.null_consensus { "Null" } else { "Yuma" };
            let mode = Value::unnamed_variant(mode, []);
            let bytes = runtime.stored(consensus_key.0, consensus_key.1, &mode);
            state.insert(runtime.key(consensus_key.0, consensus_key.1, vec![netuid]), bytes);
        }
        if let Some(upgrade) = self.upgrade.take() {
            self.runtimes.push(upgrade);
            block.runtime = self.runtimes.len() - 1;
        }
        block.hash = blake2(&[&block.parent[..], &height.to_le_bytes(), &self.salt.to_le_bytes()].concat());
        // Old states go, as they do from a node that prunes.
        let old = height.checked_sub(self.kept() + 1);
        if let Some(block) = old.and_then(|old| self.blocks.get_mut(old as usize)) {
            block.state = Arc::default();
        }
        self.blocks.push(block);
    }

    /// Begins the next epoch when it is due.
    fn epoch(runtime: &NodeRuntime, block: &mut Block) {
        let subnet = Arc::make_mut(&mut block.subnet);
        let (index, began) = subnet.epoch;
        if runtime.counts_epochs() {
            let due = block.number - began >= u64::from(subnet.tempo);
            if due || subnet.pending.is_some_and(|pending| block.number >= pending) {
                subnet.epoch = (index + 1, block.number);
                subnet.pending = None;
            }
        } else {
            let now = (block.number + u64::from(subnet.netuid) + 1) / (u64::from(subnet.tempo) + 1);
            if now != index {
                subnet.epoch = (now, block.number);
            }
        }
    }
}

/// A number as a value.
fn number(number: impl Into<u128>) -> Value {
    Value::u128(number.into())
}

fn nonce_of(block: &Block, who: &[u8; 32]) -> u64 {
    block.nonces.get(who).copied().unwrap_or_default()
}

fn blake2(bytes: &[u8]) -> [u8; 32] {
    use blake2::Digest;
    blake2::Blake2b256::digest(bytes).into()
}
