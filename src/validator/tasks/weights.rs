//! Sets the weights that the ledger calls for, once per epoch, while duels run or not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{IDLE, Next, Task, report};
use crate::chain::{BlockNumber, EpochIndex, MechanismId, Subnet};
use crate::validator::ledger::{Choice, EpochRow};
use crate::validator::parts::{Base, Seen};
use crate::weights::{EqualSplit, Share, WeightKey, WeightVector, are_in_force, check_setter};
use crate::{CallContext, Error, ErrorKind, Result};

/// How long the task may go without a step. Source: albedo.
const LIMIT: Duration = Duration::from_mins(10);

/// Epochs without this validator's weights in force after which that is reported, beside
/// those that a reveal takes. Source: albedo.
const EPOCHS: EpochIndex = 2;

#[derive(Debug)]
pub(super) struct Weights {
    base: Arc<Base>,
    /// Whether the kings are those of a validator that is followed.
    follows: bool,
    in_force: Mutex<InForce>,
}

/// Since when this validator's weights are not in force.
#[derive(Debug, Default)]
struct InForce {
    /// The epoch in which they were seen last, or in which the process began to look.
    last: Option<EpochIndex>,
    /// The block that was looked at last, and whether that was reported: the chain says the same of
    /// it however often the ledger changes meanwhile.
    looked: Option<(BlockNumber, bool)>,
}

impl InForce {
    /// Notes whether they are in force at a block of `subnet`; gives for how many epochs
    /// they were not, once that is to be reported.
    fn look(&mut self, are_in_force: bool, subnet: &Subnet) -> Option<EpochIndex> {
        let last = self.last.filter(|_| !are_in_force).unwrap_or(subnet.epoch);
        self.last = Some(last);
        let reveal = if subnet.commit_reveal { subnet.reveal_period } else { 0 };
        Some(subnet.epoch.saturating_sub(last)).filter(|silent| *silent >= EPOCHS + reveal)
    }
}

impl Weights {
    pub(super) fn new(base: Arc<Base>, follows: bool) -> Self {
        Self { base, follows, in_force: Mutex::default() }
    }

    /// Sends the vector of the epoch, which was kept before.
    async fn send(&self, row: &EpochRow, cx: &CallContext) -> Result<()> {
        let base = &*self.base;
        let cleared = base.journal.clear(row.vector.clone()).await?;
        let _writing = base.writing.lock().await;
        let receipt = base.chain.set_weights(cleared, cx).await?;
        base.ledger.weights_landed(row.epoch, receipt, base.time.now_ms()).await
    }

    /// The vector that the epoch gets; none before there is a call for weights.
    async fn choose(&self, seen: &Seen, cx: &CallContext) -> Result<Option<EpochRow>> {
        let base = &*self.base;
        let Some((call, kings)) = base.ledger.called_weights().await? else { return Ok(None) };
        let policy = EqualSplit { kings: base.reign.kings, burn: crate::chain::Uid(base.reign.burn) };
        // After a bug, and while a followed validator is refused, the last vector that landed is
        // set again.
        let last = match base.ledger.choice(self.follows).await? {
            Choice::Last => base.ledger.last_landed().await?,
            Choice::Called => None,
            Choice::None => return Ok(None),
        };
        // Who has left since takes nobody's weights along.
        let shares: Vec<Share> = match last {
            Some(last) => policy.again(&last.vector.shares, &seen.subnet, &seen.metagraph)?,
            None => policy.shares(&kings, &seen.subnet, &seen.metagraph)?,
        };
        let key = WeightKey {
            genesis: base.chain_id(cx).await?,
            netuid: base.netuid,
            mechanism: MechanismId(0),
            epoch: seen.subnet.epoch,
            hotkey: base.hotkey.clone(),
        };
        let vector = WeightVector { key, version_key: seen.subnet.weights_version, shares };
        base.ledger.choose_vector(call, vector, base.time.now_ms()).await.map(Some)
    }

    /// Reports epochs that go by without this validator's weights in force; gives whether it
    /// did.
    async fn check_force(&self, seen: &Seen, cx: &CallContext) -> Result<bool> {
        const KEY: &str = "weights are not in force";
        let base = &*self.base;
        let looked = self.in_force.lock().unwrap_or_else(PoisonError::into_inner).looked;
        if let Some((_, reported)) = looked.filter(|(block, _)| *block == seen.head.number) {
            return Ok(reported);
        }
        let uid = seen.metagraph.of(&base.hotkey).map(|neuron| neuron.uid);
        let view = base.chain.weights(base.netuid, &seen.head, cx).await?;
        let row = view.rows.iter().find(|row| Some(row.validator) == uid);
        let epochs = base.ledger.epochs(8).await?;
        let are_ours = row
            .is_some_and(|row| epochs.iter().any(|epoch| are_in_force(&epoch.vector.shares, &row.weights)));
        let silent = {
            let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
            let silent = in_force.look(are_ours, &seen.subnet);
            in_force.looked = Some((seen.head.number, silent.is_some()));
            silent
        };
        match silent {
            Some(epochs) => {
                let message = "the last epochs went by without weights of this validator";
                let error = Error::new(ErrorKind::Unavailable, "set weights", message)
                    .with("epochs", epochs)
                    .with("epoch now", seen.subnet.epoch)
                    .with_hint("check registration, permit and chain: `albedo chain epochs`");
                report(base, KEY, &error).await;
                return Ok(true);
            }
            None if are_ours => {
                base.ledger.well(KEY, base.time.now_ms()).await?;
            }
            None => {}
        }
        Ok(false)
    }
}

#[async_trait]
impl Task for Weights {
    fn name(&self) -> &'static str {
        "weights"
    }

    fn limit(&self) -> Duration {
        LIMIT
    }

    async fn step(&self, cx: &CallContext) -> Result<Next> {
        let base = &*self.base;
        let wait = Next::Change(IDLE);
        let Some(seen) = base.newest() else { return Ok(wait) };
        let epoch = seen.subnet.epoch;
        // Raising an alert changes the ledger, for which this task would not wait then.
        let wait = if self.check_force(&seen, cx).await? { Next::After(base.poll) } else { wait };
        base.ledger.weights_missed(epoch, "the epoch was over before they landed".into()).await?;
        let row = match base.ledger.epoch(epoch).await? {
            Some(row) if row.is_settled() => return Ok(wait),
            Some(row) => Some(row),
            None => {
                check_setter(&base.hotkey, &seen.subnet, &seen.metagraph)?;
                self.choose(&seen, cx).await?
            }
        };
        match row {
            None => Ok(wait),
            Some(row) => match self.send(&row, cx).await {
                // It passes with the blocks.
                Err(error) if error.kind() == ErrorKind::RateLimited => Ok(wait),
                sent => sent.map(|()| Next::Now),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelRef;
    use crate::chain::{
        BlockRef, Coldkey, ConsensusMode, Hotkey, Metagraph, Neuron, Uid, WeightEffect, WeightReceipt,
    };
    use crate::validator::parts::testing::{Quick, base};

    fn subnet(epoch: EpochIndex, commit_reveal: bool) -> Subnet {
        Subnet {
            tempo: 360,
            epoch,
            next_epoch: 1,
            weights_rate_limit: 1,
            commit_reveal,
            reveal_period: 1,
            min_weights: 1,
            max_weight: u16::MAX,
            weights_version: 0,
            registration_cost: 0,
            consensus: ConsensusMode::Yuma,
        }
    }

    #[test]
    fn epochs_without_weights_in_force_are_counted() {
        let mut plain = InForce::default();
        let looks = [(false, 5), (false, 6), (false, 7), (true, 8), (false, 9), (false, 11)];
        let found = looks.map(|(ours, epoch)| plain.look(ours, &subnet(epoch, false)));
        assert_eq!(found, [None, None, Some(2), None, None, Some(3)]);
        // What is committed comes into force an epoch later.
        let mut revealed = InForce::default();
        let found = [5, 7, 8].map(|epoch| revealed.look(false, &subnet(epoch, true)));
        assert_eq!(found, [None, None, Some(3)]);
    }

    #[tokio::test]
    async fn while_crowns_are_frozen_a_king_who_leaves_takes_no_weights_along() {
        let folder = tempfile::tempdir().expect("a folder");
        let (base, _) = base(folder.path(), &Quick::default()).await;
        let (base, cx) = (Arc::new(base), CallContext::new());
        let ledger = &base.ledger;
        ledger.begin_reign(ModelRef::served("the first king"), 1).await.expect("a king");
        let genesis = base.chain_id(&cx).await.expect("read");
        let share =
            |uid, hotkey: &str, weight| Share { uid: Uid(uid), hotkey: Hotkey(hotkey.into()), weight };
        let landed = WeightVector {
            key: WeightKey {
                genesis,
                netuid: base.netuid,
                mechanism: MechanismId(0),
                epoch: 4,
                hotkey: base.hotkey.clone(),
            },
            version_key: 0,
            shares: vec![share(2, "ann", 32_768), share(3, "bob", 32_767)],
        };
        ledger.choose_vector(1, landed, 2).await.expect("kept");
        let receipt = WeightReceipt { block: 90, epoch: 4, effect: WeightEffect::Set };
        ledger.weights_landed(4, receipt, 3).await.expect("noted");
        ledger.alert("duels", &Error::bug("count", "one and one is three"), 4).await.expect("said");

        let weights = Weights::new(Arc::clone(&base), false);
        let chosen = async |epoch: EpochIndex, hotkeys: &[&str]| {
            let neuron = |(uid, hotkey): (usize, &&str)| Neuron {
                uid: Uid(uid as u16),
                hotkey: Hotkey((*hotkey).into()),
                coldkey: Coldkey("owner".into()),
                registered_at: 0,
                validator_permit: false,
                stake: 0,
            };
            let seen = Seen {
                head: BlockRef { number: 20 * epoch, hash: genesis },
                subnet: subnet(epoch, false),
                metagraph: Metagraph { neurons: hotkeys.iter().enumerate().map(neuron).collect() },
            };
            let row = weights.choose(&seen, &cx).await.expect("chosen").expect("a vector");
            row.vector.shares
        };
        let all = chosen(5, &["owner", "validator", "ann", "bob"][..]).await;
        assert_eq!(all, [share(2, "ann", 32_768), share(3, "bob", 32_767)]);
        let left = chosen(6, &["owner", "validator", "cat", "bob"][..]).await;
        assert_eq!(left, [share(3, "bob", 65_535)]);
        let nobody = chosen(7, &["owner", "validator", "cat"][..]).await;
        assert_eq!(nobody, [share(0, "owner", 65_535)]);
        // One has left and come back to another slot.
        let back = chosen(8, &["owner", "validator", "cat", "bob", "ann"][..]).await;
        assert_eq!(back, [share(3, "bob", 32_767), share(4, "ann", 32_768)]);
    }
}
