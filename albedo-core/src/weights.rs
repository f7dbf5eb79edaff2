//! Chain weights, and the journal without which none leaves.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::chain::{BlockNumber, Hotkey, NetUid, Uid};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Result};

/// Weights to set on a subnet for one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightVector {
    /// The subnet.
    pub netuid: NetUid,
    /// Who sets them.
    pub hotkey: Hotkey,
    /// First block of the epoch they are for.
    pub epoch: BlockNumber,
    /// Target and share, by uid, ascending; the shares' sum is 65,535.
    pub shares: Vec<(Uid, u16)>,
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
    async fn insert_or_get(&self, key: &JournalKey, digest: Digest) -> Result<Digest>;
}

/// What may be submitted once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JournalKey {
    /// The subnet.
    pub netuid: NetUid,
    /// The epoch's first block.
    pub epoch: BlockNumber,
    /// The signer.
    pub hotkey: Hotkey,
}

/// Records a weight vector before it may be submitted: check and record in one
/// step, one vector an epoch and hotkey.
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
    /// crash; another one for the same epoch is refused.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`], naming both digests; whatever the store says.
    pub async fn clear(&self, vector: WeightVector) -> Result<Cleared<WeightVector>> {
        let key = JournalKey { netuid: vector.netuid, epoch: vector.epoch, hotkey: vector.hotkey.clone() };
        let digest = Digest::of_json(&vector)?;
        let standing = self.store.insert_or_get(&key, digest).await?;
        if standing == digest {
            return Ok(Cleared(vector));
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "clear a weight vector",
            "another vector is recorded for this epoch",
        )
        .with_fault(Fault::Bug)
        .with("epoch", vector.epoch)
        .with("recorded", standing.short())
        .with("offered", digest.short()))
    }
}
