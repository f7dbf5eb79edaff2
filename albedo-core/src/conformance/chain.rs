//! The suite of [`ChainClient`].

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::{
    Checked, FITTING, MemoryJournal, PATIENCE, brief, broken, ends, ensure, refuses, stops, succeeds,
};
use crate::chain::{
    BlockHash, BlockRef, ChainClient, Content, EpochIndex, Hotkey, MechanismId, Metagraph, NetUid, Neuron,
    Reveal, Subnet, Uid, WeightEffect, WeightsView,
};
use crate::context::CallContext;
use crate::error::ErrorKind;
use crate::weights::{Cleared, JournalStore, Share, WeightJournal, WeightKey, WeightVector};

/// What the chain suite needs to know.
pub struct ChainFixture<'a> {
    /// A subnet with at least two neurons.
    pub netuid: NetUid,
    /// A validator of it that may set weights now.
    pub validator: Hotkey,
    /// Makes at least so many blocks final, or waits until they are.
    pub advance: &'a (dyn Fn(u64) -> BoxFuture<'static, ()> + Send + Sync),
    /// With commit-reveal: blocks of the epoch that reveals weights within which
    /// they come into force.
    pub reveal_margin: u64,
    /// Longest time for one call.
    pub patience: Duration,
}

impl<'a> ChainFixture<'a> {
    /// A fixture with the usual patience.
    pub fn new(
        netuid: NetUid,
        validator: Hotkey,
        advance: &'a (dyn Fn(u64) -> BoxFuture<'static, ()> + Send + Sync),
    ) -> Self {
        Self { netuid, validator, advance, reveal_margin: 0, patience: PATIENCE }
    }
}

impl Debug for ChainFixture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { netuid, validator, reveal_margin, patience, .. } = self;
        f.debug_struct("ChainFixture")
            .field("netuid", netuid)
            .field("validator", validator)
            .field("reveal_margin", reveal_margin)
            .field("patience", patience)
            .finish_non_exhaustive()
    }
}

/// Checks what a validator relies on in a chain: a head that only grows;
/// blocks by number, once they are final; reads that see the state at their
/// block, then and later; tables in their order; weights that are in force
/// after they are set, or, with commit-reveal, from the epoch that reveals them
/// on and not before; once, however often they are submitted, and never for a
/// slot that changed hands; a commitment that everybody reads from its block on; calls that
/// can be stopped. It sets weights once, and commits once.
///
/// # Errors
/// The first promise found broken.
pub async fn check_chain(chain: &dyn ChainClient, fixture: &ChainFixture<'_>) -> Checked {
    let suite = Suite { chain, fixture, cx: CallContext::new() };
    let before = suite.head().await?;
    suite.blocks(&before).await?;
    let state = suite.state(&before).await?;
    suite.tables(&before, &state)?;
    suite.advance(1).await?;
    suite.same_state(&before, &state).await?;
    suite.other_branches(&before).await?;
    suite.weights(&state).await?;
    suite.commitment().await?;
    suite.same_state(&before, &state).await?;
    stops(fixture.patience, |cx| async move { chain.head(&cx).await }).await
}

struct Suite<'a> {
    chain: &'a dyn ChainClient,
    fixture: &'a ChainFixture<'a>,
    cx: CallContext,
}

/// Everything that can be read at a block.
#[derive(Debug, PartialEq)]
struct State {
    subnet: Subnet,
    metagraph: Metagraph,
    reveals: Vec<Reveal>,
    weights: WeightsView,
}

impl Suite<'_> {
    async fn head(&self) -> Checked<BlockRef> {
        succeeds(self.fixture.patience, "the head is known", self.chain.head(&self.cx)).await
    }

    /// The head after `blocks` more.
    async fn advance(&self, blocks: u64) -> Checked<BlockRef> {
        let before = self.head().await?;
        ends(self.fixture.patience, (self.fixture.advance)(blocks)).await?;
        let after = self.head().await?;
        ensure(after.number >= before.number + blocks, "the head only grows", || {
            format!("{after:?}, {blocks} blocks after {before:?}")
        })?;
        self.blocks(&before).await?;
        Ok(after)
    }

    async fn blocks(&self, known: &BlockRef) -> Checked {
        const FINAL: &str = "a final block keeps its hash";
        const LATER: &str = "a block that is not final yet is not found";
        const GENESIS: &str = "the genesis hash is known and stays";
        let Self { chain, fixture, cx } = self;
        let block = succeeds(fixture.patience, FINAL, chain.block(known.number, cx)).await?;
        ensure(&block == known, FINAL, || format!("{block:?} after {known:?}"))?;
        let genesis = succeeds(fixture.patience, GENESIS, chain.genesis(cx)).await?;
        let first = succeeds(fixture.patience, GENESIS, chain.genesis(cx)).await?;
        ensure(genesis == first, GENESIS, || format!("{genesis} after {first}"))?;
        let error = refuses(fixture.patience, LATER, chain.block(known.number + 1_000_000, cx)).await?;
        ensure(error.kind() == ErrorKind::NotFound, LATER, || error.to_string())
    }

    async fn state(&self, at: &BlockRef) -> Checked<State> {
        const READ: &str = "the state at a block is read";
        let Self { chain, fixture: ChainFixture { netuid, patience, .. }, cx } = self;
        Ok(State {
            subnet: succeeds(*patience, READ, chain.subnet(*netuid, at, cx)).await?,
            metagraph: succeeds(*patience, READ, chain.metagraph(*netuid, at, cx)).await?,
            reveals: succeeds(*patience, READ, chain.reveals(*netuid, at, cx)).await?,
            weights: succeeds(*patience, READ, chain.weights(*netuid, at, cx)).await?,
        })
    }

    async fn same_state(&self, at: &BlockRef, state: &State) -> Checked {
        let again = self.state(at).await?;
        ensure(&again == state, "reads at a block are repeatable", || {
            format!("{} after {}", brief(&again), brief(state))
        })
    }

    fn tables(&self, at: &BlockRef, state: &State) -> Checked {
        let State { subnet, metagraph: Metagraph { neurons }, reveals, weights } = state;
        ensure(subnet.tempo > 0, "an epoch has blocks", || format!("{subnet:?}"))?;
        ensure(subnet.next_epoch > at.number, "the next epoch is ahead", || format!("{subnet:?} at {at:?}"))?;
        ensure(neurons.is_sorted_by(|a, b| a.uid < b.uid), "neurons are by uid, ascending", || {
            brief(neurons)
        })?;
        let validator = neurons.iter().find(|neuron| neuron.hotkey == self.fixture.validator);
        let fits = neurons.len() > 1 && validator.is_some_and(|neuron| neuron.validator_permit);
        ensure(fits, FITTING, || brief(neurons))?;
        let later = neurons.iter().find(|neuron| neuron.registered_at > at.number);
        ensure(later.is_none(), "a block knows nothing of later ones", || brief(&later))?;
        let last = |reveal: &&Reveal| reveal.readable_at.max(Some(reveal.place.block)) > Some(at.number);
        let later = reveals.iter().find(last);
        ensure(later.is_none(), "a block knows nothing of later ones", || brief(&later))?;
        let sorted = reveals.is_sorted_by_key(|reveal| (reveal.place, &reveal.hotkey));
        ensure(sorted, "reveals are by place, then hotkey", || brief(reveals))?;
        let sorted = weights.rows.is_sorted_by(|a, b| a.validator < b.validator);
        ensure(sorted, "weights are by uid, ascending", || brief(weights))
    }

    async fn other_branches(&self, known: &BlockRef) -> Checked {
        let Self { chain, fixture: ChainFixture { netuid, patience, .. }, cx } = self;
        let at = BlockRef { hash: BlockHash([0xf0; 32]), ..known.clone() };
        match ends(*patience, chain.metagraph(*netuid, &at, cx)).await? {
            Err(_) => Ok(()),
            Ok(table) => broken("a block of another branch is refused", brief(&table)),
        }
    }

    async fn weights(&self, before: &State) -> Checked {
        const SET: &str = "cleared weights are set";
        const HIDDEN: &str = "committed weights are hidden until their reveal";
        const ONCE: &str = "submitting weights again has no further effect";
        let Self { chain, fixture: ChainFixture { validator, reveal_margin, patience, .. }, cx } = self;
        let [first, .., last] = &*before.metagraph.neurons else {
            return broken(FITTING, "fewer than two neurons");
        };
        let head = self.head().await?;
        let epoch = self.state(&head).await?.subnet.epoch;
        let own = || -> Arc<dyn JournalStore> { Arc::new(MemoryJournal::default()) };
        let stranger = self.clear(own(), &Hotkey("nobody".into()), epoch, [first, last]).await?;
        let strange = chain.set_weights(stranger, cx);
        refuses(*patience, "only a registered validator sets weights", strange).await?;
        let moved = Neuron { hotkey: Hotkey("somebody who left".into()), ..last.clone() };
        let stale = self.clear(own(), validator, epoch, [first, &moved]).await?;
        match ends(*patience, chain.set_weights(stale, cx)).await? {
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            answer => return broken("a slot that changed hands gets no weight", brief(&answer)),
        }

        let store = chain.journal().unwrap_or_else(own);
        let cleared = self.clear(store, validator, epoch, [first, last]).await?;
        let receipt = succeeds(*patience, SET, chain.set_weights(cleared.clone(), cx)).await?;
        let mut after = self.advance(1).await?;
        ensure((head.number..=after.number).contains(&receipt.block), "a receipt names its block", || {
            format!("{receipt:?} between {head:?} and {after:?}")
        })?;
        if let WeightEffect::Committed { .. } = receipt.effect {
            let hidden = |now: &State| ensure(now.weights == before.weights, HIDDEN, || brief(&now.weights));
            hidden(&self.state(&after).await?)?;
            let block = succeeds(*patience, SET, chain.block(receipt.block, cx)).await?;
            let Subnet { tempo, next_epoch, reveal_period, .. } = self.state(&block).await?.subnet;
            let opens = next_epoch + (reveal_period.max(1) - 1) * u64::from(tempo);
            if let Some(blocks) = (opens - 1).checked_sub(after.number).filter(|blocks| *blocks > 0) {
                after = self.advance(blocks).await?;
                if after.number < opens {
                    hidden(&self.state(&after).await?)?;
                }
            }
            if let Some(blocks) =
                (opens + reveal_margin).checked_sub(after.number).filter(|blocks| *blocks > 0)
            {
                after = self.advance(blocks).await?;
            }
        }
        let state = self.state(&after).await?;
        let row = |view: &WeightsView| {
            let neuron = before.metagraph.of(validator)?;
            let row = view.rows.iter().find(|row| row.validator == neuron.uid)?;
            Some(row.weights.iter().copied().filter(|(_, weight)| *weight > 0).collect::<Vec<_>>())
        };
        let found = row(&state.weights);
        // Half of the largest, which the chain stores as 65,535.
        let half = |(uid, weight): (Uid, u16)| uid == first.uid && (32_767..=32_768).contains(&weight);
        let kept = matches!(found.as_deref(), Some(&[small, large])
            if half(small) && large == (last.uid, u16::MAX));
        ensure(kept, SET, || format!("{found:?} of {:?}", cleared.get().shares))?;

        let again = succeeds(*patience, ONCE, chain.set_weights(cleared, cx)).await?;
        ensure(again == receipt, ONCE, || format!("{again:?} after {receipt:?}"))?;
        let later = self.advance(1).await?;
        let now = self.state(&later).await?.weights;
        ensure(now == state.weights, ONCE, || format!("{} after {}", brief(&now), brief(&state.weights)))
    }

    async fn commitment(&self) -> Checked {
        const MADE: &str = "a commitment is read from its block on";
        const TEXT: &str = "a commitment of the conformance suite";
        let Self { chain, fixture: ChainFixture { netuid, validator, patience, .. }, cx } = self;
        let nobody = Hotkey("nobody".into());
        let strange = chain.set_commitment(*netuid, &nobody, TEXT, cx);
        refuses(*patience, "only a registered hotkey commits", strange).await?;
        let before = self.head().await?;
        let block = succeeds(*patience, MADE, chain.set_commitment(*netuid, validator, TEXT, cx)).await?;
        let after = self.advance(1).await?;
        let texts = async |at: &BlockRef| {
            let reveals = succeeds(*patience, MADE, chain.reveals(*netuid, at, cx)).await?;
            let made =
                |reveal: &Reveal| reveal.hotkey == *validator && reveal.content == Content::Text(TEXT.into());
            Ok(reveals.into_iter().filter(made).map(|reveal| reveal.place.block).collect::<Vec<_>>())
        };
        let (none, one) = (texts(&before).await?, texts(&after).await?);
        let between = (before.number..=after.number).contains(&block);
        ensure(none.is_empty() && one == [block] && between, MADE, || {
            format!("block {block}: {none:?} at {before:?}, {one:?} at {after:?}")
        })
    }

    /// A vector of a third for the first target and two for the second, cleared
    /// by a journal over `store`.
    async fn clear(
        &self,
        store: Arc<dyn JournalStore>,
        hotkey: &Hotkey,
        epoch: EpochIndex,
        [first, second]: [&Neuron; 2],
    ) -> Checked<Cleared<WeightVector>> {
        let Self { chain, fixture: ChainFixture { netuid, patience, .. }, cx } = self;
        let genesis = succeeds(*patience, "the genesis hash is known and stays", chain.genesis(cx)).await?;
        let share =
            |neuron: &Neuron, weight| Share { uid: neuron.uid, hotkey: neuron.hotkey.clone(), weight };
        let vector = WeightVector {
            key: WeightKey {
                genesis,
                netuid: *netuid,
                mechanism: MechanismId(0),
                epoch,
                hotkey: hotkey.clone(),
            },
            version_key: 0,
            shares: vec![share(first, 21_845), share(second, 43_690)],
        };
        let journal = WeightJournal::new(store);
        succeeds(*patience, "a first vector is cleared", journal.clear(vector)).await
    }
}

#[cfg(test)]
mod tests;
