//! Chain weights, and the journal without which none leaves.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::chain::{BlockHash, EpochIndex, Hotkey, MechanismId, NetUid, Uid};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Result};

mod policy;

pub use policy::{EqualSplit, are_in_force, check_setter, check_targets};

/// Weights to set on a subnet in one epoch. Its digest is what the journal
/// keeps: a field that is added changes every digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightVector {
    /// What it is for: one vector per key.
    pub key: WeightKey,
    /// Version of the weights, which the subnet may demand a least of.
    pub version_key: u64,
    /// Targets, by uid, ascending; the weights' sum is 65,535.
    pub shares: Vec<Share>,
}

/// What may be submitted once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightKey {
    /// The chain.
    pub genesis: BlockHash,
    /// The subnet.
    pub netuid: NetUid,
    /// The subnet's mechanism.
    pub mechanism: MechanismId,
    /// The epoch. Its index, not its first block, which can move.
    pub epoch: EpochIndex,
    /// The signer.
    pub hotkey: Hotkey,
}

/// One target of a weight vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The slot.
    pub uid: Uid,
    /// Who holds it. Slots change owner: a vector is only submitted while
    /// everyone named is still there.
    pub hotkey: Hotkey,
    /// The weight, in 65,535ths.
    pub weight: u16,
}

/// A value that the [`WeightJournal`] has recorded; only the journal makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleared<T>(T);

impl<T> Cleared<T> {
    /// The recorded value.
    pub fn get(&self) -> &T {
        &self.0
    }
}

/// Where the journal's entries are kept. The journal's promise is as strong as
/// its store: a store that forgets, or that two processes can write at once,
/// allows conflicting submissions.
#[async_trait]
pub trait JournalStore: Debug + Send + Sync + 'static {
    /// Atomically and durably records `digest` for the key unless an entry
    /// exists; the entry that then stands.
    async fn insert_or_get(&self, key: &WeightKey, digest: Digest) -> Result<Digest>;
}

#[async_trait]
impl<S: JournalStore + ?Sized> JournalStore for Arc<S> {
    async fn insert_or_get(&self, key: &WeightKey, digest: Digest) -> Result<Digest> {
        (**self).insert_or_get(key, digest).await
    }
}

/// Records a weight vector before it may be submitted: check and record in one
/// step, one vector per [`WeightKey`].
///
/// ```
/// # use albedo_core::chain::{BlockHash, Hotkey, MechanismId, NetUid, Uid};
/// # use albedo_core::weights::{JournalStore, Share, WeightJournal, WeightKey, WeightVector};
/// # async fn clear(store: impl JournalStore) -> albedo_core::Result<()> {
/// let journal = WeightJournal::new(store);
/// let vector = WeightVector {
///     key: WeightKey {
///         genesis: BlockHash([7; 32]),
///         netuid: NetUid(97),
///         mechanism: MechanismId(0),
///         epoch: 1200,
///         hotkey: Hotkey("validator".into()),
///     },
///     version_key: 0,
///     shares: vec![Share { uid: Uid(3), hotkey: Hotkey("king".into()), weight: 65_535 }],
/// };
/// let cleared = journal.clear(vector).await?; // what `ChainClient::set_weights` takes
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct WeightJournal<S> {
    store: S,
}

impl<S: JournalStore> WeightJournal<S> {
    /// A journal over `store`.
    pub fn new(store: S) -> Self {
        Self { store }
    }

    /// Records `vector` and clears it. The same vector is cleared again after a
    /// crash; another one for the same key is refused.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], naming both digests; a vector that breaks its
    /// own rules; whatever the store says.
    pub async fn clear(&self, vector: WeightVector) -> Result<Cleared<WeightVector>> {
        const OPERATION: &str = "clear a weight vector";
        let shares = &vector.shares;
        let sum: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
        if !shares.is_sorted_by(|a, b| a.uid < b.uid) || sum != u64::from(u16::MAX) {
            let message = "its targets do not ascend, or its weights' sum is not 65535";
            return Err(Error::bug(OPERATION, message).with("sum", sum).with("targets", shares.len()));
        }
        let digest = Digest::of_json(&vector)?;
        let standing = self.store.insert_or_get(&vector.key, digest).await?;
        if standing == digest {
            return Ok(Cleared(vector));
        }
        Err(Error::new(ErrorKind::Conflict, OPERATION, "another vector is recorded for this epoch")
            .with_fault(Fault::Bug)
            .with("epoch", vector.key.epoch)
            .with("recorded", standing.short())
            .with("offered", digest.short()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Journals are kept for years: the digest must not change.
    #[test]
    fn the_digest_of_a_vector_is_fixed() {
        let share =
            |uid, hotkey: &str, weight| Share { uid: Uid(uid), hotkey: Hotkey(hotkey.into()), weight };
        let vector = WeightVector {
            key: WeightKey {
                genesis: BlockHash([0x2f; 32]),
                netuid: NetUid(97),
                mechanism: MechanismId(0),
                epoch: 25_649,
                hotkey: Hotkey("validator".into()),
            },
            version_key: 3,
            shares: vec![share(3, "king", 21_845), share(7, "older king", 43_690)],
        };
        let json = serde_json::to_string(&vector).expect("JSON");
        assert_eq!(serde_json::from_str::<WeightVector>(&json).ok(), Some(vector.clone()));
        let digest = Digest::of_json(&vector).expect("a digest").to_string();
        assert_eq!(digest, "df1d2622b5ae1785ba42ac7ecda1f90de7e59394591f4550c25d0c2abfcf3d0c");
    }
}
