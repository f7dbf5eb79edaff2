//! Sets the weights that the ledger calls for, once per epoch, while duels run or not.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Next, Task, report};
use crate::chain::{EpochIndex, MechanismId};
use crate::validator::ledger::EpochRow;
use crate::validator::parts::{Seen, Shared};
use crate::weights::{EqualSplit, Share, WeightKey, WeightVector, are_in_force, check_setter};
use crate::{CallContext, Error, ErrorKind, Result};

/// How long the task may go without a step. Source: albedo.
const LIMIT: Duration = Duration::from_mins(10);

/// Epochs without our weights in force after which that is reported.
const EPOCHS: EpochIndex = 2;

#[derive(Debug)]
pub(super) struct Weights(Arc<Shared>);

impl Weights {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Sends the vector of the epoch, which was kept before.
    async fn send(&self, row: &EpochRow, cx: &CallContext) -> Result<()> {
        let shared = &*self.0;
        let cleared = shared.journal.clear(row.vector.clone()).await?;
        let receipt = shared.chain.set_weights(cleared, cx).await?;
        shared.ledger.weights_landed(row.epoch, receipt, shared.time.now_ms()).await
    }

    /// The vector that the epoch gets; none before there is a call for weights.
    async fn choose(&self, seen: &Seen, cx: &CallContext) -> Result<Option<EpochRow>> {
        let shared = &*self.0;
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

    /// Reports epochs that go by without our weights in force.
    async fn check_force(&self, seen: &Seen, cx: &CallContext) -> Result<()> {
        const KEY: &str = "weights are not in force";
        let shared = &*self.0;
        let Some(last) = shared.ledger.last_landed().await? else { return Ok(()) };
        let uid = seen.metagraph.of(&shared.hotkey).map(|neuron| neuron.uid);
        let view = shared.chain.weights(shared.netuid, &seen.head, cx).await?;
        let row = view.rows.iter().find(|row| Some(row.validator) == uid);
        let epochs = shared.ledger.epochs(8).await?;
        let ours = |row: &&crate::chain::WeightsRow| {
            epochs.iter().any(|epoch| are_in_force(&epoch.vector.shares, &row.weights))
        };
        let silent = seen.subnet.epoch.saturating_sub(last.epoch);
        if row.filter(ours).is_some() && silent < EPOCHS {
            shared.ledger.well(KEY, shared.time.now_ms()).await?;
        } else if silent >= EPOCHS {
            let message = "the last epochs went by without weights of this validator";
            let error = Error::new(ErrorKind::Unavailable, "set weights", message)
                .with("last epoch with weights", last.epoch)
                .with("epoch now", seen.subnet.epoch)
                .with_hint("check registration, permit and chain: `albedo chain epochs`");
            report(shared, KEY, &error).await;
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
        let shared = &*self.0;
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
