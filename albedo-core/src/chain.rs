//! The [`ChainClient`] role: the subnet as a validator sees and moves it.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::Result;
use crate::weights::{Cleared, WeightVector};

/// Height of a block.
pub type BlockNumber = u64;

/// Number of a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetUid(pub u16);

/// Slot number of a neuron.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub u16);

/// A participant's signing key, as its SS58 text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hotkey(pub String);

/// The subnet on chain, read at a block and written through a journal.
///
/// Every read names its block, so that one decision sees one state.
#[async_trait]
pub trait ChainClient: Debug + Send + Sync + 'static {
    /// The newest finalised block.
    async fn head(&self, cx: &CallContext) -> Result<BlockRef>;

    /// The finalised block `number`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if it is not final yet.
    async fn block(&self, number: BlockNumber, cx: &CallContext) -> Result<BlockRef>;

    /// Hyperparameters of the subnet.
    async fn subnet(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Subnet>;

    /// The table of neurons.
    async fn metagraph(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Metagraph>;

    /// Commitments revealed up to `at`, oldest first.
    async fn reveals(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Vec<Reveal>>;

    /// Weights in force.
    async fn weights(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<WeightsView>;

    /// Submits weights that the journal has cleared. Submitting the same
    /// cleared vector again has no further effect.
    async fn set_weights(&self, weights: Cleared<WeightVector>, cx: &CallContext) -> Result<WeightReceipt>;
}

/// A finalised block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRef {
    /// Height.
    pub number: BlockNumber,
    /// Hash.
    pub hash: Digest,
}

/// Hyperparameters of a subnet that a validator needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Blocks of an epoch.
    pub tempo: u16,
    /// Least blocks between two weight submissions of a hotkey.
    pub weights_rate_limit: u64,
    /// Weights are committed first and revealed later.
    pub commit_reveal: bool,
}

/// The table of neurons at a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metagraph {
    /// Neurons by uid, ascending.
    pub neurons: Vec<Neuron>,
}

/// One neuron.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neuron {
    /// Slot.
    pub uid: Uid,
    /// Signing key.
    pub hotkey: Hotkey,
    /// Block at which the slot was registered.
    pub registered_at: BlockNumber,
    /// May set weights.
    pub validator_permit: bool,
}

/// A commitment that its block has revealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reveal {
    /// Who committed.
    pub hotkey: Hotkey,
    /// Block of the reveal.
    pub block: BlockNumber,
    /// The text.
    pub payload: String,
}

/// Weights in force, by setter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WeightsView {
    /// One row a validator that has set weights, by uid, ascending.
    pub rows: Vec<WeightsRow>,
}

/// The weights that one validator has set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsRow {
    /// Who set them.
    pub validator: Uid,
    /// Target and weight, as the chain stores it: the largest is 65,535.
    pub weights: Vec<(Uid, u16)>,
}

/// What the chain said to a weight submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WeightReceipt {
    /// In force.
    Set,
    /// Committed; the chain reveals them at this round.
    Committed {
        /// Round of the randomness beacon.
        reveal_round: u64,
    },
}
