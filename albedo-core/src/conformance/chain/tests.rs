use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::*;
use crate::chain::{BlockNumber, Neuron, WeightsRow};
use crate::conformance::Violation;
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    Stuck,
    Rehashes,
    KnowsTheFuture,
    ReadsTheHead,
    TakesAnyBlock,
    Unsorted,
    RevealsLatestFirst,
    RevealsTooEarly,
    LosesWeights,
    SetsAtOnce,
    DoesNotScale,
    Doubles,
    RefusesTwice,
    TakesStrangers,
    Mumbles,
}

/// Two neurons, the second a validator; weights by the block they are in.
#[derive(Debug)]
struct Fake {
    flaw: Flaw,
    state: Mutex<(BlockNumber, Vec<(BlockNumber, WeightVector)>)>,
}

const OPERATION: &str = "read the chain";

impl Fake {
    fn head_number(&self) -> BlockNumber {
        self.state.lock().expect("unpoisoned").0
    }

    fn advance(&self, blocks: u64) {
        if self.flaw != Flaw::Stuck {
            self.state.lock().expect("unpoisoned").0 += blocks;
        }
    }

    fn at(&self, number: BlockNumber) -> BlockRef {
        let salt = if self.flaw == Flaw::Rehashes { self.head_number() } else { 0 };
        BlockRef { number, hash: Digest::of(format!("{number} {salt}")) }
    }

    fn known(&self, at: &BlockRef) -> Result<()> {
        if self.flaw == Flaw::TakesAnyBlock || *at == self.at(at.number) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, OPERATION, "no such block"))
    }
}

#[async_trait]
impl ChainClient for Fake {
    async fn head(&self, cx: &CallContext) -> Result<BlockRef> {
        cx.check(OPERATION).map_err(|error| match self.flaw {
            Flaw::Mumbles => Error::bug(OPERATION, "stopped"),
            _ => error,
        })?;
        Ok(self.at(self.head_number()))
    }

    async fn block(&self, number: BlockNumber, _: &CallContext) -> Result<BlockRef> {
        if number > self.head_number() && self.flaw != Flaw::KnowsTheFuture {
            return Err(Error::new(ErrorKind::NotFound, OPERATION, "not final"));
        }
        Ok(self.at(number))
    }

    async fn subnet(&self, _: NetUid, at: &BlockRef, _: &CallContext) -> Result<Subnet> {
        self.known(at)?;
        Ok(Subnet { tempo: 360, weights_rate_limit: 100, commit_reveal: false })
    }

    async fn metagraph(&self, _: NetUid, at: &BlockRef, _: &CallContext) -> Result<Metagraph> {
        self.known(at)?;
        let neuron = |(uid, hotkey): (u16, &str)| Neuron {
            uid: Uid(uid),
            hotkey: Hotkey(hotkey.into()),
            registered_at: 0,
            validator_permit: true,
        };
        let mut neurons: Vec<_> = [(0, "miner"), (1, "validator")].map(neuron).into();
        if self.flaw == Flaw::Unsorted {
            neurons.reverse();
        }
        Ok(Metagraph { neurons })
    }

    async fn reveals(&self, _: NetUid, at: &BlockRef, _: &CallContext) -> Result<Vec<Reveal>> {
        self.known(at)?;
        let reveal = |block| Reveal { hotkey: Hotkey("miner".into()), block, payload: "model".into() };
        Ok(match self.flaw {
            Flaw::RevealsLatestFirst => vec![reveal(4), reveal(3)],
            Flaw::RevealsTooEarly => vec![reveal(3), reveal(at.number + 1)],
            _ => vec![reveal(3), reveal(4)],
        })
    }

    async fn weights(&self, _: NetUid, at: &BlockRef, _: &CallContext) -> Result<WeightsView> {
        self.known(at)?;
        let seen = if self.flaw == Flaw::ReadsTheHead { self.head_number() } else { at.number };
        let state = self.state.lock().expect("unpoisoned");
        let submitted = state.1.iter().filter(|(block, _)| *block <= seen).count();
        let latest = state.1.iter().rev().find(|(block, _)| *block <= seen);
        let rows = latest.map(|(_, vector)| {
            let largest = vector.shares.iter().map(|(_, share)| *share).max().unwrap_or(1);
            let scale = |share: u16| match self.flaw {
                Flaw::DoesNotScale => share,
                Flaw::Doubles if submitted > 1 => 1,
                _ => (u32::from(share) * 65_535 / u32::from(largest)) as u16,
            };
            let weights = vector.shares.iter().map(|(uid, share)| (*uid, scale(*share))).collect();
            WeightsRow { validator: Uid(1), weights }
        });
        Ok(WeightsView { rows: rows.into_iter().collect() })
    }

    async fn set_weights(&self, weights: Cleared<WeightVector>, _: &CallContext) -> Result<WeightReceipt> {
        let vector = weights.get().clone();
        if vector.hotkey.0 == "nobody" && self.flaw != Flaw::TakesStrangers {
            return Err(Error::new(ErrorKind::NotFound, "set weights", "not registered"));
        }
        let mut state = self.state.lock().expect("unpoisoned");
        let again = state.1.iter().any(|(_, before)| *before == vector);
        if again && self.flaw == Flaw::RefusesTwice {
            return Err(Error::new(ErrorKind::RateLimited, "set weights", "too soon"));
        }
        if self.flaw != Flaw::LosesWeights && (!again || self.flaw == Flaw::Doubles) {
            let included = if self.flaw == Flaw::SetsAtOnce { 0 } else { state.0 + 1 };
            state.1.push((included, vector));
        }
        Ok(WeightReceipt::Set)
    }
}

#[tokio::test]
async fn every_flaw_is_found() {
    for (flaw, promise) in [
        (Flaw::None, None),
        (Flaw::Stuck, Some("the head only grows")),
        (Flaw::Rehashes, Some("a final block keeps its hash")),
        (Flaw::KnowsTheFuture, Some("a block that is not final yet is not found")),
        (Flaw::ReadsTheHead, Some("reads at a block are repeatable")),
        (Flaw::TakesAnyBlock, Some("a block of another branch is refused")),
        (Flaw::Unsorted, Some("neurons are by uid, ascending")),
        (Flaw::RevealsLatestFirst, Some("reveals are oldest first")),
        (Flaw::RevealsTooEarly, Some("a block knows nothing of later ones")),
        (Flaw::LosesWeights, Some("cleared weights are set")),
        (Flaw::SetsAtOnce, Some("reads at a block are repeatable")),
        (Flaw::DoesNotScale, Some("cleared weights are set")),
        (Flaw::Doubles, Some("submitting weights again has no further effect")),
        (Flaw::RefusesTwice, Some("submitting weights again has no further effect")),
        (Flaw::TakesStrangers, Some("only a registered validator sets weights")),
        (Flaw::Mumbles, Some("a stopped call says why")),
    ] {
        let chain = Arc::new(Fake { flaw, state: Mutex::new((10, vec![])) });
        let advancing = Arc::clone(&chain);
        let advance = move |blocks| -> BoxFuture<'static, ()> {
            let chain = Arc::clone(&advancing);
            Box::pin(async move { chain.advance(blocks) })
        };
        let fixture = ChainFixture::new(NetUid(97), Hotkey("validator".into()), &advance);
        let found = check_chain(&*chain, &fixture).await.err();
        assert_eq!(found.as_ref().map(Violation::promise), promise, "{flaw:?}: {found:?}");
    }
}
