//! The [`ChainClient`] role: the subnet as a validator sees and moves it.

use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::weights::{Cleared, JournalStore, WeightVector};

/// Height of a block.
pub type BlockNumber = u64;

/// Number of an epoch of a subnet, as the chain counts them. It is not worked
/// out from block numbers: triggers, a changed tempo and deferrals move the
/// blocks at which epochs begin.
pub type EpochIndex = u64;

/// Number of a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetUid(pub u16);

/// Number of an incentive mechanism of a subnet; the first is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MechanismId(pub u8);

/// Slot number of a neuron.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub u16);

/// A participant's signing key, as its SS58 text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hotkey(pub String);

/// The key of a hotkey's owner, as its SS58 text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Coldkey(pub String);

impl fmt::Display for Hotkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hash that a chain calls a block by: BLAKE2b-256 of its header on
/// Substrate chains. As text, `0x` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub [u8; 32]);

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlockHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        // A digest's text has the same digits.
        match digits.parse::<Digest>() {
            Ok(bytes) if digits.len() == 64 => Ok(Self(*bytes.as_bytes())),
            _ => Err(Error::new(
                ErrorKind::DataInvalid,
                "read a block hash",
                format!("`{text}` is not 0x and 64 hexadecimal digits"),
            )),
        }
    }
}

impl Serialize for BlockHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlockHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}

/// The subnet on chain, read at a block and written through a journal.
///
/// Every read names its block, so that one decision sees one state.
#[async_trait]
pub trait ChainClient: Debug + Send + Sync + 'static {
    /// The hash of the chain's first block, which tells networks apart.
    async fn genesis(&self, cx: &CallContext) -> Result<BlockHash>;

    /// The newest finalised block.
    async fn head(&self, cx: &CallContext) -> Result<BlockRef>;

    /// The finalised block `number`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if it is not final yet.
    async fn block(&self, number: BlockNumber, cx: &CallContext) -> Result<BlockRef>;

    /// Hyperparameters of the subnet, and where it is in its epochs.
    async fn subnet(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Subnet>;

    /// The table of neurons.
    async fn metagraph(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Metagraph>;

    /// Commitments that stand at `at`, hidden ones among them, and what earlier
    /// ones revealed, as far as the chain keeps it: by place, then hotkey.
    async fn reveals(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Vec<Reveal>>;

    /// The index in block `number` of the extrinsic that set the commitment of
    /// `hotkey`; `None` if the client cannot tell.
    async fn commitment_index(
        &self,
        netuid: NetUid,
        hotkey: &Hotkey,
        number: BlockNumber,
        cx: &CallContext,
    ) -> Result<Option<u32>> {
        let _ = (netuid, hotkey, number, cx);
        Ok(None)
    }

    /// Weights in force.
    async fn weights(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<WeightsView>;

    /// Submits weights that the journal has cleared, and waits until they are
    /// in a block. Submitting the same cleared vector again has no further
    /// effect.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if a uid's hotkey is no longer the one that the
    /// vector names; whatever the chain answers.
    async fn set_weights(&self, weights: Cleared<WeightVector>, cx: &CallContext) -> Result<WeightReceipt>;

    /// Commits to `text` in plain as `hotkey`, in place of its commitment before, and waits
    /// until it is in a block, whose number it gives. Called twice, it commits twice: ask
    /// [`ChainClient::reveals`] first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the hotkey is not registered, or this client has not its
    /// key; [`ErrorKind::RateLimited`] if the chain takes no more for now; whatever else it
    /// answers.
    async fn set_commitment(
        &self,
        netuid: NetUid,
        hotkey: &Hotkey,
        text: &str,
        cx: &CallContext,
    ) -> Result<BlockNumber>;

    /// The store beside this client's own submissions, for the
    /// [`WeightJournal`](crate::weights::WeightJournal) that clears its
    /// vectors; `None` if the client keeps none.
    fn journal(&self) -> Option<Arc<dyn JournalStore>> {
        None
    }
}

/// A finalised block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRef {
    /// Height.
    pub number: BlockNumber,
    /// Hash.
    pub hash: BlockHash,
}

/// Hyperparameters of a subnet that a validator needs, and its epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Blocks of an epoch, as configured.
    pub tempo: u16,
    /// The epoch that the block is in.
    pub epoch: EpochIndex,
    /// First block of the next epoch, as planned at this block.
    pub next_epoch: BlockNumber,
    /// Least blocks between two weight submissions of a hotkey.
    pub weights_rate_limit: u64,
    /// Weights are committed first and revealed later.
    pub commit_reveal: bool,
    /// Epochs between a commitment of weights and its reveal.
    pub reveal_period: u64,
    /// Fewest targets of a weight vector.
    pub min_weights: u16,
    /// Largest share of one target, in 65,535ths.
    pub max_weight: u16,
    /// Version key that a submission has to carry, at least.
    pub weights_version: u64,
    /// What a registration costs now, in rao (10⁻⁹ TAO).
    pub registration_cost: u64,
    /// Who may set weights.
    pub consensus: ConsensusMode,
}

/// How a subnet turns weights into incentives, as far as it decides who may
/// set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsensusMode {
    /// Every hotkey with a validator permit.
    #[default]
    Yuma,
    /// Only the hotkey with the largest stake.
    Null,
}

/// The table of neurons at a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metagraph {
    /// Neurons by uid, ascending.
    pub neurons: Vec<Neuron>,
}

impl Metagraph {
    /// The neuron that `hotkey` has registered.
    pub fn of(&self, hotkey: &Hotkey) -> Option<&Neuron> {
        self.neurons.iter().find(|neuron| &neuron.hotkey == hotkey)
    }

    /// The neuron in slot `uid`.
    pub fn at(&self, uid: Uid) -> Option<&Neuron> {
        self.neurons.iter().find(|neuron| neuron.uid == uid)
    }
}

/// One neuron.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neuron {
    /// Slot.
    pub uid: Uid,
    /// Signing key.
    pub hotkey: Hotkey,
    /// The signing key's owner.
    pub coldkey: Coldkey,
    /// Block at which the slot was registered.
    pub registered_at: BlockNumber,
    /// May set weights.
    pub validator_permit: bool,
    /// Stake on the subnet as the chain weighs it, in rao (10⁻⁹).
    pub stake: u64,
}

/// A commitment, readable or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reveal {
    /// Who committed.
    pub hotkey: Hotkey,
    /// Where the commitment stands among all others.
    pub place: Place,
    /// First block at which everybody could read it; `None` while it is
    /// hidden.
    pub readable_at: Option<BlockNumber>,
    /// What was committed.
    pub content: Content,
}

/// A commitment's place in the chain: who committed first. Places compare by
/// block, then extrinsic; an unknown extrinsic comes before all of its block,
/// as the chain's own reveals do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Block of the commitment, or of its reveal, as [`Place::dated_by`] says.
    pub block: BlockNumber,
    /// Index of the extrinsic in the block, where it is known.
    pub extrinsic: Option<u32>,
    /// What the block is that of.
    pub dated_by: DatedBy,
}

/// What a [`Place`] is the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatedBy {
    /// The extrinsic that set the commitment.
    Commitment,
    /// The chain's reveal: the commitment itself was earlier, and nobody saw
    /// when.
    Reveal,
}

/// What a commitment holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Text.
    Text(String),
    /// A ciphertext that the chain reveals at a round of the beacon.
    Hidden {
        /// Digest of the ciphertext.
        ciphertext: Digest,
        /// The round.
        reveal_round: u64,
    },
    /// A ciphertext that the chain could not decrypt at its round.
    RevealFailed {
        /// The round.
        reveal_round: u64,
    },
    /// Bytes that are no text, and forms of commitment without any.
    Unreadable {
        /// Why, in a few words.
        reason: String,
    },
}

/// Weights in force, by setter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WeightsView {
    /// One row per validator that has set weights, by uid, ascending.
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

/// Where a weight submission went, and what the chain made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightReceipt {
    /// The block that it is in.
    pub block: BlockNumber,
    /// The epoch of that block: it has been served, whichever was meant.
    pub epoch: EpochIndex,
    /// In force or committed.
    pub effect: WeightEffect,
}

/// What a weight submission has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WeightEffect {
    /// In force.
    Set,
    /// Committed; the chain reveals them at this round.
    Committed {
        /// Round of the randomness beacon.
        reveal_round: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_hash_has_the_chains_text() {
        let hash = BlockHash([0xab; 32]);
        let text = format!("0x{}", "ab".repeat(32));
        assert_eq!((hash.to_string(), text.parse().ok()), (text.clone(), Some(hash)));
        assert_eq!(serde_json::to_value(hash).ok(), Some(text.into()));
        for wrong in ["", "0x", "0xab", &"g".repeat(64), &format!("sha256:{}", "ab".repeat(32))] {
            assert!(wrong.parse::<BlockHash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_are_in_the_chains_order() {
        let place = |block, extrinsic| Place { block, extrinsic, dated_by: DatedBy::Commitment };
        let places =
            [place(4, Some(9)), place(5, None), place(5, Some(0)), place(5, Some(3)), place(6, None)];
        assert!(places.is_sorted_by(|a, b| a < b));
    }
}
