//! The suite of the weight journal over a [`JournalStore`], and a store in
//! memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;

use super::{Checked, broken, ends, ensure};
use crate::chain::{Hotkey, MechanismId, Uid};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::weights::{JournalStore, Share, WeightJournal, WeightKey, WeightVector};

/// Memory: for tests only, since it forgets with the process.
#[derive(Debug, Default)]
pub struct MemoryJournal(Mutex<BTreeMap<WeightKey, Digest>>);

#[async_trait]
impl JournalStore for MemoryJournal {
    async fn insert_or_get(&self, key: &WeightKey, digest: Digest) -> Result<Digest> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match entries.entry(key.clone()) {
            Entry::Vacant(entry) => *entry.insert(digest),
            Entry::Occupied(entry) => *entry.get(),
        })
    }
}

/// Vectors that compete for one epoch.
const RIVALS: u16 = 16;

/// Checks that of conflicting vectors, offered at once from many tasks,
/// exactly one is cleared, and again whenever it is offered again; that every
/// other key has an entry of its own. The epochs `key.epoch` and the next must
/// have no entry yet. Threads make the test harder: run it on
/// a runtime that has several.
///
/// # Errors
/// The first promise found broken.
pub async fn check_journal<S: JournalStore>(
    journal: Arc<WeightJournal<S>>,
    key: WeightKey,
    patience: Duration,
) -> Checked {
    const ONE: &str = "one vector per key is cleared";
    let target = |weight: u16| Share { uid: Uid(weight), hotkey: Hotkey(weight.to_string()), weight };
    let vector = move |key: &WeightKey, share: u16| WeightVector {
        key: key.clone(),
        version_key: 0,
        shares: [share, u16::MAX - share].map(target).into(),
    };
    let offer = async |rival: WeightVector| {
        let journal = Arc::clone(&journal);
        #[expect(clippy::disallowed_methods, reason = "awaited below")]
        let cleared = tokio::spawn(async move { journal.clear(rival).await });
        match ends(patience, cleared).await? {
            Ok(Ok(cleared)) => Ok(Some(cleared.get().clone())),
            Ok(Err(error)) if error.kind() == ErrorKind::Conflict => Ok(None),
            Ok(Err(error)) => broken("the store answers", error.to_string()),
            Err(error) => broken("no call panics", error.to_string()),
        }
    };

    let rivals = (0..RIVALS).map(|share| offer(vector(&key, share)));
    let answers = join_all(rivals).await.into_iter().collect::<Checked<Vec<_>>>()?;
    let winners: Vec<_> = answers.into_iter().flatten().collect();
    let [winner] = &*winners else { return broken(ONE, format!("{} of {RIVALS}", winners.len())) };
    let again = offer(winner.clone()).await?;
    ensure(again.as_ref() == Some(winner), "the recorded vector is cleared again", || format!("{again:?}"))?;
    let rival = offer(vector(&key, RIVALS)).await?;
    ensure(rival.is_none(), ONE, || "another one later".into())?;

    let mut others: [_; 5] = std::array::from_fn(|_| key.clone());
    others[0].epoch = key.epoch.wrapping_add(1);
    others[1].hotkey = Hotkey(format!("{}, another", key.hotkey));
    others[2].netuid.0 = key.netuid.0.wrapping_add(1);
    others[3].mechanism = MechanismId(key.mechanism.0.wrapping_add(1));
    others[4].genesis.0[0] ^= 1;
    for other in others {
        let cleared = offer(vector(&other, RIVALS)).await?;
        ensure(cleared.is_some(), "every key has its own entry", || format!("none for {other:?}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{BlockHash, NetUid};
    use crate::conformance::{PATIENCE, Violation};

    #[derive(Debug, Clone, Copy)]
    enum Flaw {
        /// Looks first and writes later.
        Racy,
        Forgets,
        OneForAll,
    }

    #[derive(Debug)]
    struct Flawed(MemoryJournal, Flaw);

    #[async_trait]
    impl JournalStore for Flawed {
        async fn insert_or_get(&self, key: &WeightKey, digest: Digest) -> Result<Digest> {
            let standing = self.0.0.lock().expect("unpoisoned").get(key).copied();
            match self.1 {
                Flaw::Racy => {
                    tokio::task::yield_now().await;
                    if standing.is_none() {
                        self.0.0.lock().expect("unpoisoned").insert(key.clone(), digest);
                    }
                    Ok(standing.unwrap_or(digest))
                }
                Flaw::Forgets => {
                    let standing = self.0.insert_or_get(key, digest).await?;
                    if standing == digest { Ok(Digest::of(digest.as_bytes())) } else { Ok(standing) }
                }
                Flaw::OneForAll => {
                    let key = WeightKey { epoch: 0, ..key.clone() };
                    self.0.insert_or_get(&key, digest).await
                }
            }
        }
    }

    fn key() -> WeightKey {
        WeightKey {
            genesis: BlockHash([1; 32]),
            netuid: NetUid(97),
            mechanism: MechanismId(0),
            epoch: 360,
            hotkey: Hotkey("validator".into()),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_store_in_memory_conforms() {
        let journal = Arc::new(WeightJournal::new(MemoryJournal::default()));
        check_journal(journal, key(), PATIENCE).await.expect("conforms");
    }

    #[tokio::test]
    async fn every_flaw_is_found() {
        for (flaw, promise) in [
            (Flaw::Racy, "one vector per key is cleared"),
            (Flaw::Forgets, "one vector per key is cleared"),
            (Flaw::OneForAll, "every key has its own entry"),
        ] {
            let journal = Arc::new(WeightJournal::new(Flawed(MemoryJournal::default(), flaw)));
            let found = check_journal(journal, key(), PATIENCE).await.expect_err("flawed");
            assert_eq!(Violation::promise(&found), promise, "{flaw:?}: {found:?}");
        }
    }
}
