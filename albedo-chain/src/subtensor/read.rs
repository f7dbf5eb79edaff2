//! Reading the chain: every read names its block, and is decoded by the
//! runtime of that block.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use albedo_core::chain::{
    BlockHash, BlockNumber, BlockRef, Coldkey, ConsensusMode, Hotkey, MechanismId, Metagraph, NetUid, Neuron,
    Reveal, Subnet, Uid, WeightsRow, WeightsView,
};
use albedo_core::weights::WeightKey;
use albedo_core::{CallContext, Error, ErrorKind, Fault, Result};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use subxt::config::substrate::H256;
use subxt::error::BackendError;
use subxt::ext::scale_decode::DecodeAsType;
use subxt::ext::scale_value::{At, Value, ValueDef};
use subxt::utils::AccountId32;

use super::commitments::{REVEALED, STANDING, bytes_of, number_of, revealed, standing};
use super::connection::{Call, Connections, Node, Settings, unavailable};
use super::runtime::{Event, Item, Runtime, Version, account, metadata_version, opaque_metadata};
use crate::address::address;

/// Versions of metadata that say what runtime APIs answer, the newest first.
const METADATA_VERSIONS: [u32; 2] = [16, 15];

/// Blocks whose hash and runtime are remembered.
const REMEMBERED: usize = 512;

/// Mechanisms' weights are kept under the subnet's number plus so many times
/// the mechanism's (`GLOBAL_MAX_SUBNET_COUNT`).
const MECHANISM_STRIDE: u16 = 4096;

/// A node and, behind it, one that keeps old state.
#[derive(Debug)]
pub(super) struct Reader {
    connections: Connections,
    archive: Option<Connections>,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    runtimes: BTreeMap<u32, Arc<Runtime>>,
    /// Final blocks by number: hash and the version that it reports.
    blocks: BTreeMap<BlockNumber, (BlockHash, Option<Version>)>,
    /// The last answer of `get_metagraph`.
    metagraph: Option<((BlockHash, NetUid), Arc<MetagraphAnswer>)>,
}

/// State that can be read: a block, and the runtime that it is in the form of.
#[derive(Debug, Clone)]
pub(super) struct StateAt {
    pub(super) number: BlockNumber,
    pub(super) hash: BlockHash,
    pub(super) runtime: Arc<Runtime>,
}

/// What is read of the answer of `get_metagraph`.
#[derive(Debug, DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
pub(super) struct MetagraphAnswer {
    tempo: u16,
    min_allowed_weights: u16,
    max_weights_limit: u16,
    weights_version: u64,
    weights_rate_limit: u64,
    burn: u64,
    commit_reveal_weights_enabled: bool,
    commit_reveal_period: u64,
    hotkeys: Vec<AccountId32>,
    coldkeys: Vec<AccountId32>,
    validator_permit: Vec<bool>,
    last_update: Vec<u64>,
    block_at_registration: Vec<u64>,
    total_stake: Vec<u64>,
}

impl Reader {
    pub(super) fn new(settings: Settings, archive: Vec<String>) -> Self {
        let old = (!archive.is_empty())
            .then(|| Connections::new(Settings { endpoints: archive, ..settings.clone() }));
        Self { connections: Connections::new(settings), archive: old, memory: Mutex::default() }
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.connections
    }

    pub(super) fn genesis(&self) -> BlockHash {
        self.connections.settings().genesis
    }

    /// The newest finalised block.
    pub(super) async fn head(&self, cx: &CallContext) -> Result<BlockRef> {
        const OPERATION: &str = "read the chain's head";
        let tries = self.connections.settings().endpoints.len();
        let mut last = None;
        for _ in 0..=tries {
            let found = self
                .connections
                .call(OPERATION, cx, &|node: Node| {
                    Box::pin(async move {
                        let head = node.latest_finalized_block_ref().await?;
                        let header = node.block_header(head.hash()).await?;
                        Ok(header.map(|header| (header.number, head.hash(), header.parent_hash)))
                    })
                })
                .await?;
            let Some((number, hash, parent)) = found else {
                return Err(Error::new(
                    ErrorKind::Protocol,
                    OPERATION,
                    "the node does not know its own head",
                ));
            };
            match self.connections.seen(OPERATION, number).await {
                Ok(()) => {
                    let block = BlockRef { number, hash: BlockHash(hash.0) };
                    self.remember(&block, None);
                    // A caller that reads the state of a block asks for its parent.
                    if let Some(number) = number.checked_sub(1) {
                        self.remember(&BlockRef { number, hash: BlockHash(parent.0) }, None);
                    }
                    return Ok(block);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| unavailable(OPERATION, "there is no endpoint")))
    }

    /// The finalised block `number`.
    pub(super) async fn block(&self, number: BlockNumber, cx: &CallContext) -> Result<BlockRef> {
        const OPERATION: &str = "read a block";
        if let Some((hash, _)) = self.memory().blocks.get(&number) {
            return Ok(BlockRef { number, hash: *hash });
        }
        let head = self.head(cx).await?;
        if number > head.number {
            return Err(Error::new(ErrorKind::NotFound, OPERATION, "it is not final yet")
                .with("block", number)
                .with("head", head.number));
        }
        let hash = self
            .connections
            .call(OPERATION, cx, &move |node: Node| Box::pin(async move { node.hash_of(number).await }))
            .await?;
        let Some(hash) = hash else {
            return Err(
                Error::new(ErrorKind::NotFound, OPERATION, "the node does not have it").with("block", number)
            );
        };
        let block = BlockRef { number, hash: BlockHash(hash.0) };
        self.remember(&block, None);
        Ok(block)
    }

    /// The state at `at`. A block that changed the runtime holds state of the
    /// old one and reports the new: the block after it is read instead.
    pub(super) async fn at(&self, at: &BlockRef, cx: &CallContext) -> Result<StateAt> {
        const OPERATION: &str = "read the state of a block";
        let known = self.block(at.number, cx).await?;
        if known.hash != at.hash {
            return Err(Error::new(ErrorKind::NotFound, OPERATION, "this chain has no such block")
                .with("block", at.number)
                .with("hash", at.hash)
                .with("known", known.hash));
        }
        let version = self.version(&known, cx).await?;
        if at.number == 0 || self.before(&known, cx).await? == version {
            let runtime = self.runtime(&known, version, cx).await?;
            return Ok(StateAt { number: known.number, hash: known.hash, runtime });
        }
        let next = self.block(at.number + 1, cx).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                unavailable(OPERATION, "the block changes the runtime, and the one after it is not final yet")
                    .with("block", at.number)
            }
            _ => error,
        })?;
        let version = self.version(&next, cx).await?;
        let runtime = self.runtime(&next, version, cx).await?;
        Ok(StateAt { number: next.number, hash: next.hash, runtime })
    }

    /// The runtime that executed the block: the one that its parent reports.
    pub(super) async fn executed(&self, block: &BlockRef, cx: &CallContext) -> Result<Arc<Runtime>> {
        let parent = self.block(block.number.saturating_sub(1), cx).await?;
        let version = self.version(&parent, cx).await?;
        self.runtime(&parent, version, cx).await
    }

    /// The version that the block reports.
    pub(super) async fn version(&self, block: &BlockRef, cx: &CallContext) -> Result<Version> {
        if let Some((hash, Some(version))) = self.memory().blocks.get(&block.number)
            && *hash == block.hash
        {
            return Ok(*version);
        }
        let bytes =
            self.state_call("read the runtime's version", block.hash, "Core_version", &[], cx).await?;
        let version = Version::decode(&bytes)?;
        self.remember(block, Some(version));
        Ok(version)
    }

    /// The version that the block's parent reports. Versions only grow: an
    /// earlier block with the same one settles it.
    async fn before(&self, block: &BlockRef, cx: &CallContext) -> Result<Version> {
        let mine = self.version(block, cx).await?;
        let earlier = self.memory().blocks.range(..block.number).rev().find_map(|(_, (_, version))| *version);
        if earlier == Some(mine) {
            return Ok(mine);
        }
        let parent = self.block(block.number - 1, cx).await?;
        self.version(&parent, cx).await
    }

    async fn runtime(&self, block: &BlockRef, version: Version, cx: &CallContext) -> Result<Arc<Runtime>> {
        const OPERATION: &str = "read the runtime's metadata";
        if let Some(runtime) = self.memory().runtimes.get(&version.spec) {
            return Ok(Arc::clone(runtime));
        }
        for number in METADATA_VERSIONS {
            let name = "Metadata_metadata_at_version";
            let answer = self.state_call(OPERATION, block.hash, name, &metadata_version(number), cx).await?;
            if let Some(metadata) = opaque_metadata(&answer) {
                let runtime = Arc::new(Runtime::new(version, self.genesis(), &metadata)?);
                self.memory().runtimes.insert(version.spec, Arc::clone(&runtime));
                return Ok(runtime);
            }
        }
        let message = "the node has no metadata of version 15 or 16";
        Err(Error::new(ErrorKind::Unsupported, OPERATION, message)
            .with_fault(Fault::Operator)
            .with("spec_version", version.spec))
    }

    /// Hyperparameters and epoch.
    pub(super) async fn subnet(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Subnet> {
        let state = self.at(at, cx).await?;
        let answer = self.metagraph_answer(netuid, &state, cx).await?;
        let epoch = self.epoch(netuid, answer.tempo, &state, cx).await?;
        let next = self.next_epoch(netuid, answer.tempo, &state, cx).await?;
        Ok(Subnet {
            tempo: answer.tempo,
            epoch,
            next_epoch: next.max(state.number + 1),
            weights_rate_limit: answer.weights_rate_limit,
            commit_reveal: answer.commit_reveal_weights_enabled,
            reveal_period: answer.commit_reveal_period,
            min_weights: answer.min_allowed_weights,
            max_weight: answer.max_weights_limit,
            weights_version: answer.weights_version,
            registration_cost: answer.burn,
            consensus: self.consensus(netuid, &state, cx).await?,
        })
    }

    /// The table of neurons.
    pub(super) async fn metagraph(
        &self,
        netuid: NetUid,
        at: &BlockRef,
        cx: &CallContext,
    ) -> Result<Metagraph> {
        let state = self.at(at, cx).await?;
        let answer = self.metagraph_answer(netuid, &state, cx).await?;
        let count = answer.hotkeys.len();
        let lengths = [
            answer.coldkeys.len(),
            answer.validator_permit.len(),
            answer.block_at_registration.len(),
            answer.total_stake.len(),
        ];
        if lengths.iter().any(|length| *length != count) || count > usize::from(u16::MAX) + 1 {
            let message = "the columns of the metagraph have different lengths";
            return Err(Error::new(ErrorKind::Protocol, "read the metagraph", message).with("neurons", count));
        }
        let neuron = |index: usize| Neuron {
            uid: Uid(index as u16),
            hotkey: Hotkey(address(&answer.hotkeys[index].0)),
            coldkey: Coldkey(address(&answer.coldkeys[index].0)),
            registered_at: answer.block_at_registration[index],
            validator_permit: answer.validator_permit[index],
            stake: answer.total_stake[index],
        };
        Ok(Metagraph { neurons: (0..count).map(neuron).collect() })
    }

    pub(super) async fn metagraph_answer(
        &self,
        netuid: NetUid,
        state: &StateAt,
        cx: &CallContext,
    ) -> Result<Arc<MetagraphAnswer>> {
        const ITEM: Item = ("SubnetInfoRuntimeApi", "get_metagraph");
        let key = (state.hash, netuid);
        if let Some((known, answer)) = &self.memory().metagraph
            && *known == key
        {
            return Ok(Arc::clone(answer));
        }
        let answer: Option<MetagraphAnswer> = self.api(state, ITEM, vec![value(netuid.0)], cx).await?;
        let answer = Arc::new(answer.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "read the metagraph", "there is no such subnet")
                .with("netuid", netuid.0)
        })?);
        self.memory().metagraph = Some((key, Arc::clone(&answer)));
        Ok(answer)
    }

    /// The epoch that the block is in. Runtimes that do not count epochs
    /// divide block numbers (subtensor's `get_epoch_index`).
    pub(super) async fn epoch(
        &self,
        netuid: NetUid,
        tempo: u16,
        state: &StateAt,
        cx: &CallContext,
    ) -> Result<u64> {
        const ITEM: Item = ("SubtensorModule", "SubnetEpochIndex");
        if state.runtime.has_storage(ITEM) {
            return self.stored(state, ITEM, vec![value(netuid.0)], cx).await;
        }
        Ok((state.number + u64::from(netuid.0) + 1) / (u64::from(tempo) + 1))
    }

    async fn next_epoch(
        &self,
        netuid: NetUid,
        tempo: u16,
        state: &StateAt,
        cx: &CallContext,
    ) -> Result<BlockNumber> {
        const ITEM: Item = ("SubnetInfoRuntimeApi", "get_next_epoch_start_block");
        if state.runtime.has_api(ITEM) {
            let next: Option<u64> = self.api(state, ITEM, vec![value(netuid.0)], cx).await?;
            // A subnet whose tempo is 0 has no epochs.
            return Ok(next.unwrap_or(BlockNumber::MAX));
        }
        let blocks = u64::from(tempo) + 1;
        let place = (state.number + u64::from(netuid.0) + 1) % blocks;
        Ok(state.number + blocks - place)
    }

    async fn consensus(&self, netuid: NetUid, state: &StateAt, cx: &CallContext) -> Result<ConsensusMode> {
        const ITEM: Item = ("SubtensorModule", "SubnetEpochConsensus");
        if !state.runtime.has_storage(ITEM) {
            return Ok(ConsensusMode::Yuma);
        }
        let mode: Value = self.stored(state, ITEM, vec![value(netuid.0)], cx).await?;
        match &mode.value {
            ValueDef::Variant(variant) if variant.name == "Yuma" => Ok(ConsensusMode::Yuma),
            ValueDef::Variant(variant) if variant.name == "Null" => Ok(ConsensusMode::Null),
            other => {
                Err(Error::new(ErrorKind::Unsupported, "read the subnet's consensus", "it is not known")
                    .with_fault(Fault::Operator)
                    .with("found", format!("{other:?}")))
            }
        }
    }

    /// Commitments that stand, and what earlier ones have revealed.
    pub(super) async fn reveals(
        &self,
        netuid: NetUid,
        at: &BlockRef,
        cx: &CallContext,
    ) -> Result<Vec<Reveal>> {
        let state = self.at(at, cx).await?;
        let mut reveals = Vec::new();
        for (key, bytes) in self.entries(&state, STANDING, vec![value(netuid.0)], cx).await? {
            let hotkey = Hotkey(address(&state.runtime.last_key::<AccountId32>(STANDING, &key)?.0));
            reveals.extend(standing(&state.runtime, &hotkey, &bytes)?);
        }
        for (key, bytes) in self.entries(&state, REVEALED, vec![value(netuid.0)], cx).await? {
            let hotkey = Hotkey(address(&state.runtime.last_key::<AccountId32>(REVEALED, &key)?.0));
            reveals.extend(revealed(&state.runtime, &hotkey, &bytes)?);
        }
        reveals.sort_by(|a, b| (a.place, &a.hotkey).cmp(&(b.place, &b.hotkey)));
        Ok(reveals)
    }

    /// The extrinsic that set the commitment, by the events of its block.
    pub(super) async fn commitment_index(
        &self,
        netuid: NetUid,
        who: &[u8; 32],
        number: BlockNumber,
        cx: &CallContext,
    ) -> Result<Option<u32>> {
        let block = self.block(number, cx).await?;
        let events = match self.events(&block, cx).await {
            Ok(events) => events,
            // Pruned: nobody can tell any more.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_it = |event: &&Event| {
            event.pallet == "Commitments"
                && matches!(&*event.name, "Commitment" | "TimelockCommitment")
                && number_of(event.fields.at("netuid")) == Some(u128::from(netuid.0))
                && bytes_of(event.fields.at("who")).as_deref() == Some(who)
        };
        Ok(events.iter().rev().find(is_it).and_then(|event| event.extrinsic))
    }

    /// Weights in force.
    pub(super) async fn weights(
        &self,
        netuid: NetUid,
        mechanism: MechanismId,
        at: &BlockRef,
        cx: &CallContext,
    ) -> Result<WeightsView> {
        const ITEM: Item = ("SubtensorModule", "Weights");
        let state = self.at(at, cx).await?;
        let index = u16::from(mechanism.0) * MECHANISM_STRIDE + netuid.0;
        let mut rows = Vec::new();
        for (key, bytes) in self.entries(&state, ITEM, vec![value(index)], cx).await? {
            let validator = Uid(state.runtime.last_key(ITEM, &key)?);
            let weights: Vec<(u16, u16)> = state.runtime.value(ITEM, Some(&bytes))?;
            let weights: Vec<_> = weights.into_iter().map(|(uid, weight)| (Uid(uid), weight)).collect();
            if !weights.is_empty() {
                rows.push(WeightsRow { validator, weights });
            }
        }
        rows.sort_by_key(|row| row.validator);
        Ok(WeightsView { rows })
    }

    /// Weights in force that are the hotkey's of `key`; none if it has no slot.
    pub(super) async fn weights_of(
        &self,
        key: &WeightKey,
        at: &BlockRef,
        cx: &CallContext,
    ) -> Result<Vec<(Uid, u16)>> {
        let metagraph = self.metagraph(key.netuid, at, cx).await?;
        let uid = metagraph.of(&key.hotkey).map(|neuron| neuron.uid);
        let view = self.weights(key.netuid, key.mechanism, at, cx).await?;
        let row = view.rows.into_iter().find(|row| Some(row.validator) == uid);
        Ok(row.map(|row| row.weights).unwrap_or_default())
    }

    /// The block of the last weights of a hotkey; `None` if it has no slot.
    pub(super) async fn last_update(
        &self,
        netuid: NetUid,
        hotkey: &[u8; 32],
        state: &StateAt,
        cx: &CallContext,
    ) -> Result<Option<BlockNumber>> {
        let answer = self.metagraph_answer(netuid, state, cx).await?;
        let uid = answer.hotkeys.iter().position(|account| account.0 == *hotkey);
        Ok(uid.and_then(|uid| answer.last_update.get(uid).copied()))
    }

    /// The account's next nonce, as the block's state has it.
    pub(super) async fn nonce(&self, key: &[u8; 32], state: &StateAt, cx: &CallContext) -> Result<u64> {
        let nonce: u32 =
            self.api(state, ("AccountNonceApi", "account_nonce"), vec![account(key)], cx).await?;
        Ok(u64::from(nonce))
    }

    /// The block's own time, in Unix milliseconds.
    pub(super) async fn time(&self, state: &StateAt, cx: &CallContext) -> Result<u64> {
        self.stored(state, ("Timestamp", "Now"), vec![], cx).await
    }

    /// The block's extrinsics.
    pub(super) async fn body(&self, block: &BlockRef, cx: &CallContext) -> Result<Vec<Vec<u8>>> {
        const OPERATION: &str = "read the extrinsics of a block";
        let hash = H256(block.hash.0);
        let call = move |node: Node| -> BoxFuture<'static, Result<_, BackendError>> {
            Box::pin(async move { node.block_body(hash).await })
        };
        let body = self.connections.call(OPERATION, cx, &call).await?;
        body.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, OPERATION, "the node does not have them")
                .with("block", block.number)
        })
    }

    /// The block's events.
    pub(super) async fn events(&self, block: &BlockRef, cx: &CallContext) -> Result<Vec<Event>> {
        const ITEM: Item = ("System", "Events");
        let runtime = self.executed(block, cx).await?;
        let key = runtime.key(ITEM, vec![])?;
        let bytes = self.storage("read the events of a block", block.hash, key, cx).await?;
        match bytes {
            Some(bytes) => runtime.events(bytes),
            None => Ok(Vec::new()),
        }
    }

    /// Whether the block's extrinsic `index` succeeded, or why not. Only its own
    /// event counts.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the node has dropped the block's state;
    /// [`ErrorKind::Protocol`] if no event says it.
    pub(super) async fn result(
        &self,
        block: &BlockRef,
        index: u32,
        cx: &CallContext,
    ) -> Result<Result<(), String>> {
        let events = self.events(block, cx).await?;
        let mut ours = events.into_iter().filter(|event| event.extrinsic == Some(index));
        ours.find_map(|event| event.result).ok_or_else(|| {
            let message = "no event says whether the extrinsic succeeded";
            Error::new(ErrorKind::Protocol, "read what became of an extrinsic", message)
                .with("block", block.number)
                .with("extrinsic", index)
        })
    }

    /// A single storage value, or its default.
    pub(super) async fn stored<T: DecodeAsType>(
        &self,
        state: &StateAt,
        item: Item,
        keys: Vec<Value>,
        cx: &CallContext,
    ) -> Result<T> {
        let key = state.runtime.key(item, keys)?;
        let operation = format!("read {}.{}", item.0, item.1);
        let bytes = self.storage(&operation, state.hash, key, cx).await?;
        state.runtime.value(item, bytes.as_deref())
    }

    /// The answer of a runtime API.
    pub(super) async fn api<T: DecodeAsType>(
        &self,
        state: &StateAt,
        item: Item,
        arguments: Vec<Value>,
        cx: &CallContext,
    ) -> Result<T> {
        let (name, arguments) = state.runtime.api_call(item, arguments)?;
        let operation = format!("ask {}.{}", item.0, item.1);
        let bytes = self.state_call(&operation, state.hash, &name, &arguments, cx).await?;
        state.runtime.api_answer(item, &bytes)
    }

    /// Every entry of a map under the first keys: whole keys and values.
    async fn entries(
        &self,
        state: &StateAt,
        item: Item,
        keys: Vec<Value>,
        cx: &CallContext,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let (prefix, hash) = (state.runtime.key(item, keys)?, H256(state.hash.0));
        let operation = format!("read {}.{}", item.0, item.1);
        let call = move |node: Node| -> BoxFuture<'static, Result<_, BackendError>> {
            let prefix = prefix.clone();
            Box::pin(async move { node.entries(prefix, hash).await })
        };
        self.ask(&operation, cx, &call).await
    }

    async fn storage(
        &self,
        operation: &str,
        hash: BlockHash,
        key: Vec<u8>,
        cx: &CallContext,
    ) -> Result<Option<Vec<u8>>> {
        let hash = H256(hash.0);
        let call = move |node: Node| -> BoxFuture<'static, Result<_, BackendError>> {
            let keys = vec![key.clone()];
            Box::pin(async move {
                let mut values = node.storage_fetch_values(keys, hash).await?;
                Ok(values.try_next().await?.map(|response| response.value))
            })
        };
        self.ask(operation, cx, &call).await
    }

    async fn state_call(
        &self,
        operation: &str,
        hash: BlockHash,
        name: &str,
        arguments: &[u8],
        cx: &CallContext,
    ) -> Result<Vec<u8>> {
        let hash = H256(hash.0);
        let question = (name.to_owned(), arguments.to_vec());
        let call = move |node: Node| -> BoxFuture<'static, Result<_, BackendError>> {
            let (name, arguments) = question.clone();
            Box::pin(async move { node.call(&name, Some(&arguments), hash).await })
        };
        self.ask(operation, cx, &call).await
    }

    /// Asks the node, and the archive for state that it no longer has.
    async fn ask<T>(&self, operation: &str, cx: &CallContext, call: &Call<T>) -> Result<T> {
        match (self.connections.call(operation, cx, call).await, &self.archive) {
            (Err(error), Some(archive)) if error.kind() == ErrorKind::NotFound => {
                archive.call(operation, cx, call).await
            }
            (answer, _) => answer,
        }
    }

    fn remember(&self, block: &BlockRef, version: Option<Version>) {
        let blocks = &mut self.memory().blocks;
        let known =
            blocks.get(&block.number).and_then(|(hash, version)| version.filter(|_| *hash == block.hash));
        blocks.insert(block.number, (block.hash, version.or(known)));
        while blocks.len() > REMEMBERED {
            blocks.pop_first();
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number as a value.
pub(super) fn value(number: impl Into<u128>) -> Value {
    Value::u128(number.into())
}
