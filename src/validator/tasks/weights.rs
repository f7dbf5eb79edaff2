//! Sets the weights that the ledger calls for, once per epoch, while duels run or not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{Next, Task, report};
use crate::chain::{EpochIndex, MechanismId, Subnet};
use crate::validator::ledger::EpochRow;
use crate::validator::parts::{Seen, Shared};
use crate::weights::{EqualSplit, Share, WeightKey, WeightVector, are_in_force, check_setter};
use crate::{CallContext, Error, ErrorKind, Result};

/// How long the task may go without a step. Source: albedo.
const LIMIT: Duration = Duration::from_mins(10);

/// Epochs without this validator's weights in force after which that is reported, beside
/// those that a reveal takes. Source: albedo.
const EPOCHS: EpochIndex = 2;

#[derive(Debug)]
pub(super) struct Weights {
    shared: Arc<Shared>,
    in_force: Mutex<InForce>,
}

/// Since when this validator's weights are not in force.
#[derive(Debug, Default)]
struct InForce {
    /// The epoch in which they were seen last, or in which the process began to look.
    last: Option<EpochIndex>,
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
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, in_force: Mutex::default() }
    }

    /// Sends the vector of the epoch, which was kept before.
    async fn send(&self, row: &EpochRow, cx: &CallContext) -> Result<()> {
        let shared = &*self.shared;
        let cleared = shared.journal.clear(row.vector.clone()).await?;
        let _writing = shared.writing.lock().await;
        let receipt = shared.chain.set_weights(cleared, cx).await?;
        shared.ledger.weights_landed(row.epoch, receipt, shared.time.now_ms()).await
    }

    /// The vector that the epoch gets; none before there is a call for weights.
    async fn choose(&self, seen: &Seen, cx: &CallContext) -> Result<Option<EpochRow>> {
        let shared = &*self.shared;
        let Some((call, kings)) = shared.ledger.called_weights().await? else { return Ok(None) };
        let policy = EqualSplit { kings: shared.reign.kings, burn: crate::chain::Uid(shared.reign.burn) };
        // After a bug, the last vector that landed is set again until somebody has looked.
        let last = match shared.ledger.frozen().await? {
            Some(_) => shared.ledger.last_landed().await?,
            None => None,
        };
        let shares: Vec<Share> = match last {
            Some(last) => last.vector.shares,
            None => policy.shares(&kings, &seen.subnet, &seen.metagraph)?,
        };
        let key = WeightKey {
            genesis: shared.chain_id(cx).await?,
            netuid: shared.netuid,
            mechanism: MechanismId(0),
            epoch: seen.subnet.epoch,
            hotkey: shared.hotkey.clone(),
        };
        let vector = WeightVector { key, version_key: seen.subnet.weights_version, shares };
        shared.ledger.choose_vector(call, vector, shared.time.now_ms()).await.map(Some)
    }

    /// Reports epochs that go by without this validator's weights in force.
    async fn check_force(&self, seen: &Seen, cx: &CallContext) -> Result<()> {
        const KEY: &str = "weights are not in force";
        let shared = &*self.shared;
        let uid = seen.metagraph.of(&shared.hotkey).map(|neuron| neuron.uid);
        let view = shared.chain.weights(shared.netuid, &seen.head, cx).await?;
        let row = view.rows.iter().find(|row| Some(row.validator) == uid);
        let epochs = shared.ledger.epochs(8).await?;
        let are_ours = row
            .is_some_and(|row| epochs.iter().any(|epoch| are_in_force(&epoch.vector.shares, &row.weights)));
        let silent =
            self.in_force.lock().unwrap_or_else(PoisonError::into_inner).look(are_ours, &seen.subnet);
        match silent {
            Some(epochs) => {
                let message = "the last epochs went by without weights of this validator";
                let error = Error::new(ErrorKind::Unavailable, "set weights", message)
                    .with("epochs", epochs)
                    .with("epoch now", seen.subnet.epoch)
                    .with_hint("check registration, permit and chain: `albedo chain epochs`");
                report(shared, KEY, &error).await;
            }
            None if are_ours => {
                shared.ledger.well(KEY, shared.time.now_ms()).await?;
            }
            None => {}
        }
        Ok(())
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
        let shared = &*self.shared;
        let wait = Next::Change(Duration::from_mins(1));
        let Some(seen) = shared.newest() else { return Ok(wait) };
        let epoch = seen.subnet.epoch;
        self.check_force(&seen, cx).await?;
        shared.ledger.weights_missed(epoch, "the epoch was over before they landed".into()).await?;
        let row = match shared.ledger.epoch(epoch).await? {
            Some(row) if row.is_settled() => return Ok(wait),
            Some(row) => Some(row),
            None => {
                check_setter(&shared.hotkey, &seen.subnet, &seen.metagraph)?;
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
    use crate::chain::ConsensusMode;

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
}
