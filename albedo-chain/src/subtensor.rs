//! `subtensor`: a subnet of Bittensor, through nodes that anybody runs.
//!
//! Nothing is compiled in but the shapes that are used: every node's metadata
//! is checked against them, at the start and after every upgrade of the
//! runtime, before anything is read or signed. See `docs/chain.md`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use albedo_core::chain::{
    BlockHash, BlockNumber, BlockRef, Content, EpochIndex, Hotkey, MechanismId, Metagraph, NetUid, Reveal,
    Subnet, Uid, WeightEffect, WeightReceipt, WeightsView,
};
use albedo_core::weights::{Cleared, JournalStore, WeightVector, are_in_force};
use albedo_core::{
    BuildContext, CallContext, ChainClient, CheckContext, Digest, Error, ErrorKind, Fault, Plugin, Result,
    Signer,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address;
use crate::journal::{Account, ChainJournal};
use crate::timelock::Beacon;
use crate::wallet::{self, Password, Wallet};

mod calls;
mod commitments;
mod connection;
mod read;
mod runtime;
mod shapes;
mod write;

pub use connection::BackendKind;
pub use write::Submitted;

use connection::Settings;
use read::{Reader, StateAt};
use write::Writer;

/// The genesis hash of Bittensor's main network.
pub const FINNEY: &str = "0x2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03";

/// Settings of [`Subtensor`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SubtensorConfig {
    /// WebSocket addresses of nodes, the best first.
    pub endpoints: Vec<String>,
    /// The chain's genesis hash, which every endpoint has to have; the main
    /// network's by default.
    pub genesis: String,
    /// How nodes are asked.
    pub backend: BackendKind,
    /// Nodes that keep old state: others drop it after some 256 blocks.
    pub archive: Vec<String>,
    /// Longest time for a connect or a call, in milliseconds.
    pub call_timeout_ms: u64,
    /// Longest time without a new finalised block, in milliseconds; then the
    /// next endpoint is taken.
    pub stall_ms: u64,
    /// Time between two looks for a submission, in milliseconds.
    pub poll_ms: u64,
    /// SQLite file of everything that was cleared and signed; needed to write.
    pub journal: Option<PathBuf>,
    /// The key that sets weights; needed to write.
    pub wallet: Option<WalletConfig>,
}

/// The hotkey of a wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WalletConfig {
    /// Folder of the wallets.
    pub path: PathBuf,
    /// Name of the wallet.
    pub name: String,
    /// Name of the hotkey.
    pub hotkey: String,
    /// File with the hotkey's password, if it has one.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Name of the secret (an environment variable) with the hotkey's password, if
    /// it has one.
    #[serde(default)]
    pub password_env: Option<String>,
}

impl Default for SubtensorConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["wss://entrypoint-finney.opentensor.ai:443".into()],
            genesis: FINNEY.into(),
            backend: BackendKind::Legacy,
            archive: Vec::new(),
            call_timeout_ms: 30_000,
            stall_ms: 120_000,
            poll_ms: 3000,
            journal: None,
            wallet: None,
        }
    }
}

/// A subnet of Bittensor; see the [module](self).
///
/// ```no_run
/// # async fn example() -> albedo_core::Result<()> {
/// use albedo_chain::subtensor::{Subtensor, SubtensorConfig};
/// use albedo_core::chain::NetUid;
/// use albedo_core::{CallContext, ChainClient};
///
/// let (client, cx) = (Subtensor::new(&SubtensorConfig::default())?, CallContext::new());
/// let head = client.head(&cx).await?;
/// for neuron in client.metagraph(NetUid(97), &head, &cx).await?.neurons {
///     println!("{} {}", neuron.uid.0, neuron.hotkey);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Subtensor {
    reader: Arc<Reader>,
    writer: Option<Writer>,
    signer: Option<Arc<dyn Signer>>,
}

impl Subtensor {
    /// A client that reads. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn new(config: &SubtensorConfig) -> Result<Self> {
        let genesis = check(config)?;
        let settings = Settings {
            endpoints: config.endpoints.clone(),
            genesis,
            backend: config.backend,
            call_timeout: Duration::from_millis(config.call_timeout_ms),
            stall: Duration::from_millis(config.stall_ms),
        };
        let reader = Arc::new(Reader::new(settings, config.archive.clone()));
        Ok(Self { reader, writer: None, signer: None })
    }

    /// The client with a journal and a beacon, so that it can write.
    #[must_use]
    pub fn with_journal(mut self, journal: ChainJournal, beacon: Beacon, poll: Duration) -> Self {
        self.writer = Some(Writer { reader: Arc::clone(&self.reader), journal, beacon, poll });
        self
    }

    /// The client with the key that sets weights and commits.
    #[must_use]
    pub fn with_signer(mut self, signer: Arc<dyn Signer>) -> Self {
        self.signer = Some(signer);
        self
    }

    /// What a registration on the subnet costs now, in rao.
    pub async fn registration_cost(&self, netuid: NetUid, cx: &CallContext) -> Result<u64> {
        let head = self.reader.head(cx).await?;
        Ok(self.reader.subnet(netuid, &head, cx).await?.registration_cost)
    }

    /// Whether the runtime takes a limit of a registration's price. Where it does not, the price
    /// may rise until the registration is in a block.
    pub async fn limits_registration(&self, cx: &CallContext) -> Result<bool> {
        let head = self.reader.head(cx).await?;
        Ok(calls::limits_registration(&self.reader.at(&head, cx).await?.runtime))
    }

    /// Registers `hotkey` for the owner of `coldkey`; the block that it is in. The limit of
    /// `limit` rao is signed where the runtime takes one ([`Subtensor::limits_registration`]).
    /// Waits for the same registration where it was sent before and may still land, and signs
    /// only if that fails or expires: `limit` says nothing of one that is not new.
    ///
    /// # Errors
    /// What the chain answers, and [`ErrorKind::Conflict`] if the price is
    /// above the limit already.
    pub async fn register(
        &self,
        netuid: NetUid,
        hotkey: &Hotkey,
        limit: u64,
        coldkey: &dyn Signer,
        cx: &CallContext,
    ) -> Result<Submitted> {
        const OPERATION: &str = "register the hotkey";
        let content = Digest::of_json(&("register", netuid, hotkey))?;
        let call = async |state: &StateAt| {
            let at = BlockRef { number: state.number, hash: state.hash };
            let cost = self.reader.subnet(netuid, &at, cx).await?.registration_cost;
            if cost > limit {
                return Err(Error::new(ErrorKind::Conflict, OPERATION, "the price is above the limit")
                    .with_fault(Fault::Operator)
                    .with("price", cost)
                    .with("limit", limit));
            }
            Writer::registration(state, netuid, hotkey, limit)
        };
        self.writer(OPERATION)?.submit(OPERATION, content, call, coldkey, cx).await
    }

    /// Commits to `text` with this client's hotkey, hidden for some blocks if
    /// so wished; the block that it is in. Waits for the same commitment where it was sent before
    /// and may still land, and signs only if that fails or expires.
    ///
    /// # Errors
    /// What the chain answers; a text that is too long.
    pub async fn commit(
        &self,
        netuid: NetUid,
        text: &str,
        hidden_for: Option<u64>,
        cx: &CallContext,
    ) -> Result<BlockNumber> {
        const OPERATION: &str = "commit";
        let (writer, signer) = (self.writer(OPERATION)?, self.signer(OPERATION)?);
        let call = async |state: &StateAt| {
            let hidden = match hidden_for {
                None => None,
                Some(blocks) => Some((&writer.beacon, writer.round_after(blocks, state, cx).await?)),
            };
            calls::commitment(netuid, text, hidden)
        };
        let content = Self::content(netuid, text, hidden_for)?;
        Ok(writer.submit(OPERATION, content, call, &**signer, cx).await?.block)
    }

    /// The block of this client's commitment to `text`, if that is what its hotkey commits to
    /// now: another one would take a later place. Only the journal knows what a hidden one is to.
    /// Waits for another extrinsic of the hotkey that may still land. Answers `None` at once if the
    /// same commitment is on its way: [`Subtensor::commit`] waits for it.
    ///
    /// # Errors
    /// Whatever the chain says.
    pub async fn committed(
        &self,
        netuid: NetUid,
        text: &str,
        hidden_for: Option<u64>,
        cx: &CallContext,
    ) -> Result<Option<BlockNumber>> {
        const OPERATION: &str = "read the commitment";
        let (writer, signer) = (self.writer(OPERATION)?, self.signer(OPERATION)?);
        let account = Account { genesis: self.reader.genesis(), signer: signer.public_key() };
        let content = Self::content(netuid, text, hidden_for)?;
        // What is on its way may replace what stands, or come to nothing.
        if let Some(live) = writer.journal.live(account).await? {
            if live.content == Some(content) {
                return Ok(None);
            }
            writer.wait(&live, cx).await?;
        }
        let landed = writer.journal.landed(account, content).await?;
        let hotkey = address::address(&account.signer);
        let head = self.reader.head(cx).await?;
        let reveals = self.reader.reveals(netuid, &head, cx).await?;
        // The newest is last.
        let newest = reveals.into_iter().rfind(|reveal| reveal.hotkey.0 == hotkey);
        Ok(newest.and_then(|newest| match newest.content {
            Content::Text(found) if found == text => Some(landed.unwrap_or(newest.place.block)),
            Content::Hidden { .. } => landed.filter(|landed| *landed == newest.place.block),
            _ => None,
        }))
    }

    /// What the journal calls a commitment.
    fn content(netuid: NetUid, text: &str, hidden_for: Option<u64>) -> Result<Digest> {
        Digest::of_json(&("commit", netuid, text, hidden_for))
    }

    /// What became of weights that have landed, as `at` shows: with
    /// commit-reveal the chain opens them in a later epoch, and says nothing
    /// where it cannot. Ask before the next vector is in force.
    ///
    /// # Errors
    /// Whatever the chain says.
    pub async fn revealed(
        &self,
        vector: &WeightVector,
        receipt: &WeightReceipt,
        at: &BlockRef,
        cx: &CallContext,
    ) -> Result<Revealed> {
        let key = &vector.key;
        let subnet = self.reader.subnet(key.netuid, at, cx).await?;
        let epoch = match receipt.effect {
            WeightEffect::Committed { .. } => receipt.epoch + subnet.reveal_period.max(1),
            _ => receipt.epoch,
        };
        if subnet.epoch < epoch {
            return Ok(Revealed::Waiting { epoch });
        }
        let found = self.reader.weights_of(key, at, cx).await?;
        Ok(if are_in_force(&vector.shares, &found) { Revealed::InForce } else { Revealed::Missing { found } })
    }

    /// Waits until nothing that was signed with the key may still land.
    pub async fn settle(&self, signer: &dyn Signer, cx: &CallContext) -> Result<()> {
        let writer = self.writer("settle what was sent")?;
        let account = Account { genesis: self.reader.genesis(), signer: signer.public_key() };
        if let Some(live) = writer.journal.live(account).await? {
            writer.wait(&live, cx).await?;
        }
        Ok(())
    }

    fn writer(&self, operation: &str) -> Result<&Writer> {
        self.writer.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::ConfigInvalid, operation, "this client has no journal")
                .with_hint("name one under `journal`")
        })
    }

    fn signer(&self, operation: &str) -> Result<&Arc<dyn Signer>> {
        self.signer.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::ConfigInvalid, operation, "this client has no key")
                .with_hint("name one under `wallet`")
        })
    }
}

/// What became of weights that have landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revealed {
    /// They are hidden until this epoch.
    Waiting {
        /// The epoch whose first block opens them.
        epoch: EpochIndex,
    },
    /// The chain uses them.
    InForce,
    /// The chain uses others, or none.
    Missing {
        /// What it uses.
        found: Vec<(Uid, u16)>,
    },
}

#[async_trait]
impl ChainClient for Subtensor {
    async fn genesis(&self, cx: &CallContext) -> Result<BlockHash> {
        cx.check("read the genesis hash")?;
        Ok(self.reader.genesis())
    }

    async fn head(&self, cx: &CallContext) -> Result<BlockRef> {
        self.reader.head(cx).await
    }

    async fn block(&self, number: BlockNumber, cx: &CallContext) -> Result<BlockRef> {
        self.reader.block(number, cx).await
    }

    async fn subnet(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Subnet> {
        self.reader.subnet(netuid, at, cx).await
    }

    async fn metagraph(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Metagraph> {
        self.reader.metagraph(netuid, at, cx).await
    }

    async fn reveals(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Vec<Reveal>> {
        self.reader.reveals(netuid, at, cx).await
    }

    async fn commitment_index(
        &self,
        netuid: NetUid,
        hotkey: &Hotkey,
        number: BlockNumber,
        cx: &CallContext,
    ) -> Result<Option<u32>> {
        self.reader.commitment_index(netuid, &address::account(hotkey)?, number, cx).await
    }

    async fn weights(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<WeightsView> {
        self.reader.weights(netuid, MechanismId(0), at, cx).await
    }

    async fn set_weights(&self, weights: Cleared<WeightVector>, cx: &CallContext) -> Result<WeightReceipt> {
        const OPERATION: &str = "set weights";
        let (writer, signer) = (self.writer(OPERATION)?, self.signer(OPERATION)?);
        writer.set_weights(weights.get(), &**signer, cx).await
    }

    async fn set_commitment(
        &self,
        netuid: NetUid,
        hotkey: &Hotkey,
        text: &str,
        cx: &CallContext,
    ) -> Result<BlockNumber> {
        const OPERATION: &str = "commit";
        if address::address(&self.signer(OPERATION)?.public_key()) != hotkey.0 {
            let message = "this client has not the key of that hotkey";
            return Err(Error::new(ErrorKind::NotFound, OPERATION, message).with("hotkey", hotkey));
        }
        self.commit(netuid, text, None, cx).await
    }

    fn journal(&self) -> Option<Arc<dyn JournalStore>> {
        let writer = self.writer.as_ref()?;
        Some(Arc::new(writer.journal.clone()))
    }
}

impl Plugin<dyn ChainClient> for Subtensor {
    const NAME: &'static str = "subtensor";
    const SUMMARY: &'static str = "a subnet of Bittensor, through its nodes";
    type Config = SubtensorConfig;
    type Checked = SubtensorConfig;

    fn check(config: SubtensorConfig, _: &CheckContext<'_>) -> Result<SubtensorConfig> {
        check(&config)?;
        Ok(config)
    }

    async fn build(config: SubtensorConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn ChainClient>> {
        let mut client = Self::new(&config)?;
        // Only one process may have it open.
        if let Some(path) = config.journal.as_ref().filter(|_| !cx.only_looks()) {
            let journal = ChainJournal::open(&cx.path(path))?;
            let poll = Duration::from_millis(config.poll_ms);
            client = client.with_journal(journal, Beacon::quicknet(), poll);
        }
        if let Some(wallet) = &config.wallet {
            client = client.with_signer(wallet.open(cx)?);
        }
        Ok(Arc::new(client))
    }
}

albedo_core::register!(dyn ChainClient => Subtensor);

impl WalletConfig {
    fn open(&self, cx: &BuildContext<'_>) -> Result<Arc<dyn Signer>> {
        let wallet = Wallet::new(&cx.path(&self.path), &self.name)?;
        let password = match (&self.password_file, &self.password_env) {
            (Some(path), _) => Some(Password::read(&cx.path(path))?),
            (None, Some(name)) => Some(Password::new(cx.secret(name)?.expose())),
            (None, None) => None,
        };
        Ok(Arc::new(wallet::read(&wallet.hotkey(&self.hotkey)?, password.as_ref())?))
    }
}

/// Checks the settings; the genesis hash.
fn check(config: &SubtensorConfig) -> Result<BlockHash> {
    let invalid = |key: &str, message: &str| {
        let operation = "check the settings of chain `subtensor`";
        Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", key)
    };
    if config.endpoints.is_empty() {
        return Err(invalid("endpoints", "there is none"));
    }
    for (key, list) in [("endpoints", &config.endpoints), ("archive", &config.archive)] {
        if list.iter().any(|address| !address.starts_with("ws://") && !address.starts_with("wss://")) {
            return Err(invalid(key, "an address begins neither with ws:// nor with wss://"));
        }
    }
    for (key, value) in [
        ("call_timeout_ms", config.call_timeout_ms),
        ("stall_ms", config.stall_ms),
        ("poll_ms", config.poll_ms),
    ] {
        if value == 0 {
            return Err(invalid(key, "it is 0"));
        }
    }
    if config.wallet.is_some() && config.journal.is_none() {
        return Err(invalid("journal", "a wallet without a journal could sign twice"));
    }
    config.genesis.parse().map_err(|error: Error| invalid("genesis", error.message()))
}

/// What fuzzers and property tests feed bytes to.
#[cfg(feature = "test-node")]
pub mod fuzzing {
    use albedo_core::Result;
    use albedo_core::chain::{BlockHash, Hotkey, Reveal};

    use super::commitments;
    use super::runtime::{Runtime, Version};

    /// Reads state of the pallet `Commitments` as the client does.
    #[derive(Debug)]
    pub struct Commitments(Runtime);

    impl Commitments {
        /// A reader by this metadata.
        ///
        /// # Errors
        /// Metadata of unknown shapes.
        pub fn new(metadata: &[u8]) -> Result<Self> {
            let version = Version { spec: 1, transaction: 1 };
            Runtime::new(version, BlockHash([0; 32]), metadata).map(Self)
        }

        /// Reads a value of `CommitmentOf`.
        ///
        /// # Errors
        /// Bytes that are none.
        pub fn standing(&self, bytes: &[u8]) -> Result<Vec<Reveal>> {
            commitments::standing(&self.0, &Hotkey("a miner".into()), bytes)
        }

        /// Reads a value of `RevealedCommitments`.
        ///
        /// # Errors
        /// Bytes that are none.
        pub fn revealed(&self, bytes: &[u8]) -> Result<Vec<Reveal>> {
            commitments::revealed(&self.0, &Hotkey("a miner".into()), bytes)
        }
    }
}

// Two attributes: clippy knows tests by `cfg(test)` alone.
#[cfg(feature = "test-node")]
#[cfg(test)]
mod judges;
#[cfg(feature = "test-node")]
#[cfg(test)]
mod tests;
