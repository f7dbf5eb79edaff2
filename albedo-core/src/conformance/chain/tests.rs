use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::*;
use crate::chain::{BlockNumber, Coldkey, ConsensusMode, Content, DatedBy, Place, WeightReceipt, WeightsRow};
use crate::conformance::Violation;
use crate::digest::Digest;
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
    ForgetsGenesis,
    EpochIsPast,
    RevealsLatestFirst,
    RevealsTooEarly,
    LosesWeights,
    SetsAtOnce,
    DoesNotScale,
    ShowsCommitments,
    NeverReveals,
    IgnoresOwners,
    Doubles,
    RefusesTwice,
    TakesStrangers,
    LosesCommitments,
    CommitsForStrangers,
    Mumbles,
}

/// Two neurons, the second a validator; weights by the block they are in.
#[derive(Debug)]
struct Fake {
    flaw: Flaw,
    commit_reveal: bool,
    state: Mutex<(BlockNumber, Vec<Submission>)>,
    commitment: Mutex<Option<(BlockNumber, String)>>,
}

#[derive(Debug)]
struct Submission {
    vector: WeightVector,
    included: BlockNumber,
    in_force: BlockNumber,
}

const OPERATION: &str = "read the chain";

fn next_epoch(block: BlockNumber) -> BlockNumber {
    (block / 360 + 1) * 360
}

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
        BlockRef { number, hash: BlockHash(*Digest::of(format!("{number} {salt}")).as_bytes()) }
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
    async fn genesis(&self, _: &CallContext) -> Result<BlockHash> {
        if self.flaw == Flaw::ForgetsGenesis {
            return Err(Error::bug(OPERATION, "which genesis?"));
        }
        Ok(self.at(0).hash)
    }

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
        Ok(Subnet {
            tempo: 360,
            epoch: at.number / 360,
            next_epoch: if self.flaw == Flaw::EpochIsPast { at.number } else { next_epoch(at.number) },
            weights_rate_limit: 100,
            commit_reveal: self.commit_reveal,
            reveal_period: 1,
            min_weights: 1,
            max_weight: u16::MAX,
            weights_version: 0,
            registration_cost: 0,
            consensus: ConsensusMode::Yuma,
        })
    }

    async fn metagraph(&self, _: NetUid, at: &BlockRef, _: &CallContext) -> Result<Metagraph> {
        self.known(at)?;
        let neuron = |(uid, hotkey): (u16, &str)| Neuron {
            uid: Uid(uid),
            hotkey: Hotkey(hotkey.into()),
            coldkey: Coldkey("owner".into()),
            registered_at: 0,
            validator_permit: true,
            stake: 1,
        };
        let mut neurons: Vec<_> = [(0, "miner"), (1, "validator")].map(neuron).into();
        if self.flaw == Flaw::Unsorted {
            neurons.reverse();
        }
        Ok(Metagraph { neurons })
    }

    async fn reveals(&self, _: NetUid, at: &BlockRef, _: &CallContext) -> Result<Vec<Reveal>> {
        self.known(at)?;
        let reveal = |hotkey: &str, block, text: &str| Reveal {
            hotkey: Hotkey(hotkey.into()),
            place: Place { block, extrinsic: Some(0), dated_by: DatedBy::Commitment },
            readable_at: Some(block),
            content: Content::Text(text.into()),
        };
        let of_miner = |block| reveal("miner", block, "model");
        let committed = self.commitment.lock().expect("unpoisoned").clone();
        let committed = committed.filter(|(block, _)| *block <= at.number);
        let mut reveals = match self.flaw {
            Flaw::RevealsLatestFirst => vec![of_miner(4), of_miner(3)],
            Flaw::RevealsTooEarly => vec![of_miner(3), of_miner(at.number + 1)],
            _ => vec![of_miner(3), of_miner(4)],
        };
        reveals.extend(committed.map(|(block, text)| reveal("validator", block, &text)));
        Ok(reveals)
    }

    async fn weights(&self, _: NetUid, at: &BlockRef, _: &CallContext) -> Result<WeightsView> {
        self.known(at)?;
        let seen = if self.flaw == Flaw::ReadsTheHead { self.head_number() } else { at.number };
        let state = self.state.lock().expect("unpoisoned");
        let submitted = state.1.iter().filter(|submission| submission.in_force <= seen).count();
        let latest = state.1.iter().rev().find(|submission| submission.in_force <= seen);
        let rows = latest.map(|Submission { vector, .. }| {
            let largest = vector.shares.iter().map(|share| share.weight).max().unwrap_or(1);
            let scale = |share: u16| match self.flaw {
                Flaw::DoesNotScale => share,
                Flaw::Doubles if submitted > 1 => 1,
                _ => (u32::from(share) * 65_535 / u32::from(largest)) as u16,
            };
            let weights = vector.shares.iter().map(|share| (share.uid, scale(share.weight))).collect();
            WeightsRow { validator: Uid(1), weights }
        });
        Ok(WeightsView { rows: rows.into_iter().collect() })
    }

    async fn set_weights(&self, weights: Cleared<WeightVector>, _: &CallContext) -> Result<WeightReceipt> {
        let vector = weights.get().clone();
        if vector.key.hotkey.0 == "nobody" && self.flaw != Flaw::TakesStrangers {
            return Err(Error::new(ErrorKind::NotFound, "set weights", "not registered"));
        }
        if vector.shares[1].hotkey.0 != "validator" && self.flaw != Flaw::IgnoresOwners {
            return Err(Error::new(ErrorKind::Conflict, "set weights", "the slot changed hands"));
        }
        let mut state = self.state.lock().expect("unpoisoned");
        let epoch = vector.key.epoch;
        let receipt = |block| WeightReceipt {
            block,
            epoch,
            effect: if self.commit_reveal {
                WeightEffect::Committed { reveal_round: next_epoch(block) }
            } else {
                WeightEffect::Set
            },
        };
        let before = state.1.iter().find(|submission| submission.vector == vector);
        let before = before.map(|submission| submission.included);
        if before.is_some() && self.flaw == Flaw::RefusesTwice {
            return Err(Error::new(ErrorKind::RateLimited, "set weights", "too soon"));
        }
        let included = state.0 + 1;
        let in_force = match self.flaw {
            Flaw::SetsAtOnce => 0,
            Flaw::ShowsCommitments => included,
            Flaw::NeverReveals => included + 1_000_000,
            _ if self.commit_reveal => next_epoch(included),
            _ => included,
        };
        if self.flaw != Flaw::LosesWeights && (before.is_none() || self.flaw == Flaw::Doubles) {
            state.1.push(Submission { vector, included, in_force });
        }
        Ok(receipt(before.unwrap_or(included)))
    }

    async fn set_commitment(
        &self,
        _: NetUid,
        hotkey: &Hotkey,
        text: &str,
        _: &CallContext,
    ) -> Result<BlockNumber> {
        if hotkey.0 != "validator" && self.flaw != Flaw::CommitsForStrangers {
            return Err(Error::new(ErrorKind::NotFound, "commit", "not registered"));
        }
        let block = self.head_number() + 1;
        if self.flaw != Flaw::LosesCommitments {
            *self.commitment.lock().expect("unpoisoned") = Some((block, text.to_owned()));
        }
        Ok(block)
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
        (Flaw::ForgetsGenesis, Some("the genesis hash is known and stays")),
        (Flaw::EpochIsPast, Some("the next epoch is ahead")),
        (Flaw::RevealsLatestFirst, Some("reveals are by place, then hotkey")),
        (Flaw::RevealsTooEarly, Some("a block knows nothing of later ones")),
        (Flaw::LosesWeights, Some("cleared weights are set")),
        (Flaw::SetsAtOnce, Some("reads at a block are repeatable")),
        (Flaw::DoesNotScale, Some("cleared weights are set")),
        (Flaw::Doubles, Some("submitting weights again has no further effect")),
        (Flaw::RefusesTwice, Some("submitting weights again has no further effect")),
        (Flaw::TakesStrangers, Some("only a registered validator sets weights")),
        (Flaw::LosesCommitments, Some("a commitment is read from its block on")),
        (Flaw::CommitsForStrangers, Some("only a registered hotkey commits")),
        (Flaw::Mumbles, Some("a stopped call says why")),
        (Flaw::IgnoresOwners, Some("a slot that changed hands gets no weight")),
    ] {
        let found = check(flaw, None).await;
        assert_eq!(found.as_ref().map(Violation::promise), promise, "{flaw:?}: {found:?}");
    }
}

#[tokio::test]
async fn every_flaw_of_commit_reveal_is_found() {
    for (flaw, promise) in [
        (Flaw::None, None),
        (Flaw::ShowsCommitments, Some("committed weights are hidden until their reveal")),
        (Flaw::NeverReveals, Some("cleared weights are set")),
        (Flaw::LosesWeights, Some("cleared weights are set")),
    ] {
        for start in [10, 350] {
            let found = check(flaw, Some(start)).await;
            assert_eq!(found.as_ref().map(Violation::promise), promise, "{flaw:?}: {found:?}");
        }
    }
}

/// Checks a chain without commit-reveal, or one with it from a block on.
async fn check(flaw: Flaw, commit_reveal: Option<BlockNumber>) -> Option<Violation> {
    let state = Mutex::new((commit_reveal.unwrap_or(10), vec![]));
    let chain =
        Arc::new(Fake { flaw, commit_reveal: commit_reveal.is_some(), state, commitment: Mutex::default() });
    let advancing = Arc::clone(&chain);
    let advance = move |blocks| -> BoxFuture<'static, ()> {
        let chain = Arc::clone(&advancing);
        Box::pin(async move { chain.advance(blocks) })
    };
    let fixture = ChainFixture::new(NetUid(97), Hotkey("validator".into()), &advance);
    check_chain(&*chain, &fixture).await.err()
}
