//! `local`: one subnet of a chain in memory, for tests and embedders.
//!
//! It starts at a block, with neurons and reveals at the blocks its settings
//! name, and moves only when [`LocalChain::advance`] says so. Every block is
//! final at once. A read at a block sees what was known at that block,
//! whatever came later; its hash is SHA-256 of seed and number.
//!
//! Weights are in the block after the head at which they were submitted. With
//! `commit_reveal` they are committed there and in force from the start of the
//! next epoch on; the beacon has one round a block. A validator's weights go
//! with its slot: once another hotkey registers there, they are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use albedo_core::chain::{
    BlockNumber, BlockRef, Hotkey, Metagraph, NetUid, Neuron, Reveal, Subnet, Uid, WeightReceipt, WeightsRow,
    WeightsView,
};
use albedo_core::weights::{Cleared, WeightVector};
use albedo_core::{
    BuildContext, CallContext, ChainClient, CheckContext, Digest, Error, ErrorKind, Fault, Plugin, Result,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`LocalChain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LocalChainConfig {
    /// The only subnet.
    pub netuid: u16,
    /// Seed of the block hashes.
    pub seed: u64,
    /// The newest block at the start; all before it are final too.
    pub start_block: u64,
    /// Blocks of an epoch; epochs start at its multiples.
    pub tempo: u16,
    /// Least blocks between two weight submissions of a hotkey.
    pub weights_rate_limit: u64,
    /// Weights are committed first and revealed at the next epoch.
    pub commit_reveal: bool,
    /// Who registers, and when; each hotkey once.
    pub neurons: Vec<LocalNeuron>,
    /// What is revealed, and when.
    pub reveals: Vec<LocalReveal>,
}

/// A registration. A later one of the same uid takes the slot over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalNeuron {
    /// Slot.
    pub uid: u16,
    /// Signing key.
    pub hotkey: String,
    /// Block of the registration.
    #[serde(default)]
    pub registered_at: u64,
    /// May set weights.
    #[serde(default)]
    pub validator_permit: bool,
}

/// A commitment that is revealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalReveal {
    /// Who committed.
    pub hotkey: String,
    /// Block of the reveal.
    pub block: u64,
    /// The text.
    pub payload: String,
}

impl Default for LocalChainConfig {
    fn default() -> Self {
        Self {
            netuid: 97,
            seed: 0,
            start_block: 1,
            tempo: 360,
            weights_rate_limit: 100,
            commit_reveal: false,
            neurons: Vec::new(),
            reveals: Vec::new(),
        }
    }
}

impl LocalChainConfig {
    fn check(&self) -> Result<()> {
        let invalid = |key: String, message: String| {
            let operation = format!("check the settings of chain `{}`", LocalChain::NAME);
            Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", key))
        };
        if self.tempo == 0 {
            return invalid("tempo".into(), "an epoch has no blocks".into());
        }
        let (mut hotkeys, mut slots) = (BTreeSet::new(), BTreeSet::new());
        for (index, LocalNeuron { uid, hotkey, registered_at, .. }) in self.neurons.iter().enumerate() {
            if hotkey.is_empty() || !hotkeys.insert(hotkey) {
                let key = format!("neurons[{index}].hotkey");
                return invalid(key, format!("`{hotkey}` is empty or registers twice"));
            }
            if !slots.insert((uid, registered_at)) {
                let key = format!("neurons[{index}].uid");
                return invalid(key, format!("slot {uid} is taken twice at block {registered_at}"));
            }
        }
        for (index, LocalReveal { hotkey, .. }) in self.reveals.iter().enumerate() {
            if !hotkeys.contains(hotkey) {
                let key = format!("reveals[{index}].hotkey");
                return invalid(key, format!("`{hotkey}` is no neuron's"));
            }
        }
        Ok(())
    }
}

/// One subnet of a chain in memory; see the [module](self).
#[derive(Debug)]
pub struct LocalChain {
    netuid: NetUid,
    seed: u64,
    subnet: Subnet,
    /// By slot, oldest registration first.
    neurons: Vec<Neuron>,
    /// Oldest first.
    reveals: Vec<Reveal>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    head: BlockNumber,
    /// Oldest first.
    submissions: Vec<Submission>,
}

#[derive(Debug)]
struct Submission {
    vector: WeightVector,
    /// The block that it is in.
    included: BlockNumber,
    /// The first block at which it is in force.
    in_force: BlockNumber,
    receipt: WeightReceipt,
}

impl LocalChain {
    /// The chain that `config` describes.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn new(config: LocalChainConfig) -> Result<Self> {
        config.check()?;
        let neuron = |neuron: LocalNeuron| Neuron {
            uid: Uid(neuron.uid),
            hotkey: Hotkey(neuron.hotkey),
            registered_at: neuron.registered_at,
            validator_permit: neuron.validator_permit,
        };
        let reveal = |reveal: LocalReveal| Reveal {
            hotkey: Hotkey(reveal.hotkey),
            block: reveal.block,
            payload: reveal.payload,
        };
        let mut neurons: Vec<_> = config.neurons.into_iter().map(neuron).collect();
        neurons.sort_by_key(|neuron| (neuron.uid, neuron.registered_at));
        let mut reveals: Vec<_> = config.reveals.into_iter().map(reveal).collect();
        reveals.sort_by_key(|reveal| reveal.block);
        Ok(Self {
            netuid: NetUid(config.netuid),
            seed: config.seed,
            subnet: Subnet {
                tempo: config.tempo,
                weights_rate_limit: config.weights_rate_limit,
                commit_reveal: config.commit_reveal,
            },
            neurons,
            reveals,
            state: Mutex::new(State { head: config.start_block, submissions: Vec::new() }),
        })
    }

    /// Makes `blocks` more blocks; the new head.
    pub fn advance(&self, blocks: u64) -> BlockRef {
        let mut state = self.state();
        state.head = state.head.saturating_add(blocks);
        self.block_ref(state.head)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn block_ref(&self, number: BlockNumber) -> BlockRef {
        let preimage = [self.seed.to_le_bytes(), number.to_le_bytes()].concat();
        BlockRef { number, hash: Digest::of(preimage) }
    }

    /// Checks that there is such a subnet and, on this branch, such a block.
    fn check(&self, operation: &str, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<()> {
        cx.check(operation)?;
        self.check_subnet(operation, netuid)?;
        if at.number <= self.state().head && *at == self.block_ref(at.number) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, operation, "this chain has no such block")
            .with("block", at.number)
            .with("hash", at.hash.short()))
    }

    fn check_subnet(&self, operation: &str, netuid: NetUid) -> Result<()> {
        if netuid == self.netuid {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, operation, "this chain has no such subnet")
            .with("netuid", netuid.0)
            .with("known", self.netuid.0))
    }

    /// The neurons at `block`, by uid: the latest registration of each slot.
    fn neurons(&self, block: BlockNumber) -> BTreeMap<Uid, &Neuron> {
        let registered = self.neurons.iter().filter(|neuron| neuron.registered_at <= block);
        registered.map(|neuron| (neuron.uid, neuron)).collect()
    }
}

#[async_trait]
impl ChainClient for LocalChain {
    async fn head(&self, cx: &CallContext) -> Result<BlockRef> {
        cx.check("read the chain's head")?;
        let head = self.state().head;
        Ok(self.block_ref(head))
    }

    async fn block(&self, number: BlockNumber, cx: &CallContext) -> Result<BlockRef> {
        let operation = "read a block";
        cx.check(operation)?;
        let head = self.state().head;
        if number <= head {
            return Ok(self.block_ref(number));
        }
        Err(Error::new(ErrorKind::NotFound, operation, "it is not final yet")
            .with("block", number)
            .with("head", head))
    }

    async fn subnet(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Subnet> {
        self.check("read the subnet's hyperparameters", netuid, at, cx)?;
        Ok(self.subnet.clone())
    }

    async fn metagraph(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Metagraph> {
        self.check("read the metagraph", netuid, at, cx)?;
        Ok(Metagraph { neurons: self.neurons(at.number).into_values().cloned().collect() })
    }

    async fn reveals(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Vec<Reveal>> {
        self.check("read the reveals", netuid, at, cx)?;
        Ok(self.reveals.iter().take_while(|reveal| reveal.block <= at.number).cloned().collect())
    }

    async fn weights(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<WeightsView> {
        self.check("read the weights", netuid, at, cx)?;
        let state = self.state();
        let row = |neuron: &Neuron| {
            let mut submissions = state.submissions.iter().rev();
            let latest = submissions.find(|submission| {
                submission.vector.hotkey == neuron.hotkey
                    && submission.in_force <= at.number
                    && submission.included >= neuron.registered_at
            })?;
            Some(WeightsRow { validator: neuron.uid, weights: stored(&latest.vector.shares) })
        };
        Ok(WeightsView { rows: self.neurons(at.number).into_values().filter_map(row).collect() })
    }

    async fn set_weights(&self, weights: Cleared<WeightVector>, cx: &CallContext) -> Result<WeightReceipt> {
        let operation = "set weights";
        cx.check(operation)?;
        let vector = weights.get();
        self.check_subnet(operation, vector.netuid)?;
        let mut state = self.state();
        let mut earlier =
            state.submissions.iter().rev().filter(|earlier| earlier.vector.hotkey == vector.hotkey);
        let latest = earlier.clone().next().map(|latest| latest.included);
        if let Some(same) = earlier.find(|earlier| earlier.vector == *vector) {
            return Ok(same.receipt);
        }

        let refused = |kind, message: &str| {
            Error::new(kind, operation, message).with("hotkey", &vector.hotkey.0).with("head", state.head)
        };
        let neurons = self.neurons(state.head);
        let validator = neurons
            .values()
            .find(|neuron| neuron.hotkey == vector.hotkey)
            .ok_or_else(|| refused(ErrorKind::NotFound, "the hotkey is not registered"))?;
        if !validator.validator_permit {
            return Err(refused(ErrorKind::Unsupported, "the hotkey has no validator permit")
                .with_fault(Fault::Operator));
        }
        let known = vector.shares.iter().all(|(uid, _)| neurons.contains_key(uid));
        let ascending = vector.shares.is_sorted_by(|(a, _), (b, _)| a < b);
        if !(known && ascending && vector.shares.iter().any(|(_, share)| *share > 0)) {
            return Err(refused(ErrorKind::DataInvalid, "the shares are not of ascending, registered uids")
                .with_fault(Fault::Operator));
        }
        let included = state.head.saturating_add(1);
        let next = latest.map_or(0, |latest| latest.saturating_add(self.subnet.weights_rate_limit));
        if included < next {
            return Err(refused(ErrorKind::RateLimited, "too soon after the last weights").with("next", next));
        }

        let tempo = u64::from(self.subnet.tempo);
        let (in_force, receipt) = if self.subnet.commit_reveal {
            let reveal_round = (included / tempo + 1).saturating_mul(tempo);
            (reveal_round, WeightReceipt::Committed { reveal_round })
        } else {
            (included, WeightReceipt::Set)
        };
        state.submissions.push(Submission { vector: vector.clone(), included, in_force, receipt });
        Ok(receipt)
    }
}

impl Plugin<dyn ChainClient> for LocalChain {
    const NAME: &'static str = "local";
    const SUMMARY: &'static str = "one subnet of a chain in memory, for tests";
    type Config = LocalChainConfig;
    type Checked = Self;

    fn check(config: LocalChainConfig, _: &CheckContext<'_>) -> Result<Self> {
        Self::new(config)
    }

    async fn build(chain: Self, _: &BuildContext<'_>) -> Result<Arc<dyn ChainClient>> {
        Ok(Arc::new(chain))
    }
}

albedo_core::register!(dyn ChainClient => LocalChain);

/// Weights as a chain stores them: the largest becomes 65,535.
fn stored(shares: &[(Uid, u16)]) -> Vec<(Uid, u16)> {
    let largest = shares.iter().map(|(_, share)| u32::from(*share)).max().unwrap_or(0).max(1);
    let scale = |share: u16| ((u32::from(share) * 65_535 + largest / 2) / largest) as u16;
    shares.iter().map(|&(uid, share)| (uid, scale(share))).collect()
}

#[cfg(test)]
mod tests;
