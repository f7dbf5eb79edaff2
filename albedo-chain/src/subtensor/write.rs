//! Writing: one extrinsic per key may be on its way, and its bytes are in the
//! journal before they are sent.
//!
//! Only a finalised block ends the wait for it: one that holds it, with the event
//! that says whether it succeeded; one at its last valid height without it; one
//! whose account has gone past its nonce; or one of another runtime, which takes no
//! extrinsic signed for the old. Until then the same bytes are sent again and
//! nothing else is signed. A caller that asks for what is on its way already waits
//! for it, and signs only if it fails or expires.

use std::sync::Arc;
use std::time::Duration;

use albedo_core::chain::{BlockNumber, BlockRef, Hotkey, NetUid, Subnet, WeightEffect, WeightReceipt};
use albedo_core::weights::{WeightKey, WeightVector, are_in_force, check_setter, check_targets};
use albedo_core::{CallContext, Digest, Error, ErrorKind, Fault, Result, Retry, Scheme, Signer};
use futures::future::BoxFuture;
use subxt::backend::TransactionStatus;
use subxt::error::BackendError;
use subxt::utils::MultiSignature;

use super::calls::{self, Call, RevealAt, reveal_round};
use super::connection::{Node, rpc_error};
use super::read::{Reader, StateAt};
use super::runtime::{Item, Life};
use crate::address::{account, address};
use crate::journal::{Account, ChainJournal, Epoch, Extrinsic, Outcome, SignedWeights};
use crate::timelock::Beacon;

/// Blocks that an extrinsic lives, at most: the chain's own default is 64.
const LONGEST_LIFE: u64 = 64;

/// Blocks that an extrinsic needs: finality is some three blocks behind, and a
/// full block can put it off.
const SHORTEST_LIFE: u64 = 8;

/// Blocks that registrations and commitments live: they share a key with
/// weights, which should not have to wait for long.
pub(super) const USUAL_LIFE: u64 = 32;

/// A call that is in a finalised block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The block.
    pub block: BlockNumber,
    /// Whether this submission signed it. If not, an earlier one with the same content did.
    pub is_new: bool,
}

/// What an extrinsic is for.
enum Purpose {
    Weights(SignedWeights),
    /// The digest of what another call asks for.
    Content(Digest),
}

/// Signs, sends, and waits for what the chain makes of it.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) reader: Arc<Reader>,
    pub(super) journal: ChainJournal,
    pub(super) beacon: Beacon,
    /// Between two looks at the chain.
    pub(super) poll: Duration,
}

impl Writer {
    /// Submits cleared weights, and waits until they are final.
    pub(super) async fn set_weights(
        &self,
        vector: &WeightVector,
        signer: &dyn Signer,
        cx: &CallContext,
    ) -> Result<WeightReceipt> {
        const OPERATION: &str = "set weights";
        let (key, digest) = (&vector.key, Digest::of_json(vector)?);
        let refused = |kind, message: &str| {
            Error::new(kind, OPERATION, message).with("epoch", key.epoch).with("hotkey", &key.hotkey)
        };
        if address(&signer.public_key()) != key.hotkey.0 {
            return Err(refused(ErrorKind::NotFound, "this client has not the key of that hotkey"));
        }
        if key.genesis != self.reader.genesis() {
            return Err(
                refused(ErrorKind::Conflict, "the weights are for another chain").with_fault(Fault::Operator)
            );
        }
        let account = Account { genesis: self.reader.genesis(), signer: signer.public_key() };
        loop {
            if let Some(live) = self.journal.live(account).await? {
                self.wait(&live, cx).await?;
            }
            if let Some(receipt) = self.journal.receipt(digest).await? {
                self.read_back(vector, &receipt, cx).await?;
                return Ok(receipt);
            }
            if let Some(Epoch::Served { digest, .. }) = self.journal.epoch(key).await? {
                let error = refused(ErrorKind::Conflict, "the epoch has its weights already");
                return Err(error.with_fault(Fault::Infrastructure).with("served", digest.short()));
            }
            let head = self.reader.head(cx).await?;
            let state = self.reader.at(&head, cx).await?;
            let head = BlockRef { number: state.number, hash: state.hash };
            let subnet = self.reader.subnet(key.netuid, &head, cx).await?;
            self.journal.miss_earlier(&WeightKey { epoch: subnet.epoch, ..key.clone() }).await?;
            let period = self.time_left(vector, &subnet, head.number).await?;
            self.may_set(vector, &subnet, &state, cx).await?;
            let reveal = self.reveal(&subnet, &state, cx).await?;
            let (call, effect) = calls::weights(&state.runtime, vector, &account.signer, reveal)?;
            let weights = SignedWeights { key: key.clone(), digest, effect };
            let live = self.sign(&call, Purpose::Weights(weights), period, &state, signer, cx).await?;
            match self.wait(&live, cx).await? {
                Outcome::Included { .. } | Outcome::Unclear { .. } | Outcome::Expired { .. } => {}
                Outcome::Failed { reason, block } => {
                    return Err(failure(OPERATION, &reason).with("block", block));
                }
            }
        }
    }

    /// Submits another call, and waits until it is final. Waits first for an extrinsic that may
    /// still land: if it has the same `content` and gets into a block without failing, nothing is
    /// signed.
    pub(super) async fn submit(
        &self,
        operation: &str,
        content: Digest,
        call: impl AsyncFnOnce(&StateAt) -> Result<Call>,
        signer: &dyn Signer,
        cx: &CallContext,
    ) -> Result<Submitted> {
        let account = Account { genesis: self.reader.genesis(), signer: signer.public_key() };
        if let Some(live) = self.journal.live(account).await? {
            let outcome = self.wait(&live, cx).await?;
            if live.content == Some(content)
                && matches!(outcome, Outcome::Included { .. } | Outcome::Unclear { .. })
            {
                return Ok(Submitted { block: ended(operation, outcome)?, is_new: false });
            }
        }
        let head = self.reader.head(cx).await?;
        let state = self.reader.at(&head, cx).await?;
        let call = call(&state).await?;
        let live = self.sign(&call, Purpose::Content(content), USUAL_LIFE, &state, signer, cx).await?;
        Ok(Submitted { block: ended(operation, self.wait(&live, cx).await?)?, is_new: true })
    }

    /// Waits until the extrinsic can no longer land a second time, sending its
    /// bytes again with every new block; what became of it.
    pub(super) async fn wait(&self, live: &Extrinsic, cx: &CallContext) -> Result<Outcome> {
        let mut sent_at = None;
        let mut refusal = None;
        loop {
            let head = self.reader.head(cx).await?;
            if sent_at != Some(head.number) {
                if let Some(outcome) = self.look(live, &head, refusal.as_deref(), cx).await? {
                    self.journal.settle(live.id, outcome.clone()).await?;
                    return Ok(outcome);
                }
                refusal = self.send(live, cx).await?;
                sent_at = Some(head.number);
            }
            let operation = format!("wait for {}", live.call);
            cx.run(&operation, tokio::time::sleep(self.poll)).await.map_err(|error| {
                let error = error.with("nonce", live.nonce).with("last_block", live.last_block);
                match &refusal {
                    Some(refusal) => error.with("pool", refusal),
                    None => error,
                }
            })?;
        }
    }

    /// What the finalised head says about the extrinsic; `None` while it may
    /// still land.
    async fn look(
        &self,
        live: &Extrinsic,
        head: &BlockRef,
        refusal: Option<&str>,
        cx: &CallContext,
    ) -> Result<Option<Outcome>> {
        if head.number <= live.birth {
            return Ok(None);
        }
        let state = self.reader.at(head, cx).await?;
        let nonce = self.reader.nonce(&live.account.signer, &state, cx).await?;
        if nonce > live.nonce {
            return self.used(live, &state, nonce, cx).await.map(Some);
        }
        let told = refusal.map(|refusal| format!("; the pool said: {refusal}")).unwrap_or_default();
        if state.number >= live.last_block {
            let reason = format!("block {} passed without it{told}", live.last_block);
            return Ok(Some(Outcome::Expired { reason }));
        }
        if state.runtime.spec_version != live.spec_version {
            let new = state.runtime.spec_version;
            let reason =
                format!("the runtime changed from {} to {new} before it landed{told}", live.spec_version);
            return Ok(Some(Outcome::Expired { reason }));
        }
        Ok(None)
    }

    /// Who has used the nonce up: the extrinsic, in one of the blocks of its
    /// life, or somebody else.
    async fn used(&self, live: &Extrinsic, state: &StateAt, nonce: u64, cx: &CallContext) -> Result<Outcome> {
        for number in live.birth + 1..=live.last_block.min(state.number) {
            let block = self.reader.block(number, cx).await?;
            let body = self.reader.body(&block, cx).await?;
            let Some(index) = body.iter().position(|bytes| *bytes == live.bytes) else { continue };
            match self.reader.result(&block, index as u32, cx).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => return Ok(Outcome::Failed { block: number, reason }),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if !self.shows(live, number, state, cx).await? {
                        let reason = "it is in a block whose events the node no longer has".to_owned();
                        return Ok(Outcome::Unclear { block: number, reason });
                    }
                }
                Err(error) => return Err(error),
            }
            let epoch = match &live.weights {
                None => None,
                Some(weights) => self.epoch_of(weights.key.netuid, &block, cx).await?,
            };
            return Ok(Outcome::Included { block: number, epoch });
        }
        let reason = format!("nonce {} was used up by an extrinsic that is not ours", live.nonce);
        let alert = format!("{reason} (the account's is {nonce} now): somebody else signs with this key");
        self.journal.alert(live.account, alert).await?;
        Ok(Outcome::Expired { reason })
    }

    /// Whether the state shows that an extrinsic of block `number`, whose events
    /// are gone, has succeeded: it keeps the block of a validator's last
    /// weights. Of other calls nothing is kept.
    async fn shows(
        &self,
        live: &Extrinsic,
        number: BlockNumber,
        state: &StateAt,
        cx: &CallContext,
    ) -> Result<bool> {
        let Some(weights) = &live.weights else { return Ok(false) };
        match self.reader.last_update(weights.key.netuid, &live.account.signer, state, cx).await {
            Ok(last) => Ok(last == Some(number)),
            // The subnet is gone.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads weights that were set openly back from the state of their block.
    /// Committed ones are hidden: [`super::Subtensor::revealed`] reads them.
    async fn read_back(
        &self,
        vector: &WeightVector,
        receipt: &WeightReceipt,
        cx: &CallContext,
    ) -> Result<()> {
        if receipt.effect != WeightEffect::Set {
            return Ok(());
        }
        let block = self.reader.block(receipt.block, cx).await?;
        match self.reader.weights_of(&vector.key, &block, cx).await {
            Ok(found) if are_in_force(&vector.shares, &found) => Ok(()),
            Ok(found) => {
                let message = "the block has the weights, and its state has others";
                Err(Error::new(ErrorKind::Protocol, "read the weights back", message)
                    .with_retry(Retry::Never)
                    .with("block", receipt.block)
                    .with("found", format!("{found:?}")))
            }
            // Pruned: a receipt of long ago.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn epoch_of(&self, netuid: NetUid, block: &BlockRef, cx: &CallContext) -> Result<Option<u64>> {
        match self.reader.subnet(netuid, block, cx).await {
            Ok(subnet) => Ok(Some(subnet.epoch)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Signs the call for the state's block and records it. Nothing has been
    /// sent yet.
    async fn sign(
        &self,
        call: &Call,
        purpose: Purpose,
        period: u64,
        state: &StateAt,
        signer: &dyn Signer,
        cx: &CallContext,
    ) -> Result<Extrinsic> {
        let account = Account { genesis: self.reader.genesis(), signer: signer.public_key() };
        let nonce = self.reader.nonce(&account.signer, state, cx).await?;
        let nonce = self.journal.next_nonce(account, nonce).await?;
        let life = Life { nonce, birth: state.number, birth_hash: state.hash, period };
        let payload = state.runtime.payload(call.item, &call.arguments, life)?;
        let signature = signer.sign(&payload)?.0;
        let signature = match signer.scheme() {
            Scheme::Sr25519 => MultiSignature::Sr25519(signature),
            Scheme::Ed25519 => MultiSignature::Ed25519(signature),
        };
        let bytes = state.runtime.extrinsic(call.item, &call.arguments, life, account, &signature)?;
        let (weights, content) = match purpose {
            Purpose::Weights(weights) => (Some(weights), None),
            Purpose::Content(content) => (None, Some(content)),
        };
        let extrinsic = Extrinsic {
            id: 0,
            account,
            nonce,
            bytes,
            call: call.name(),
            birth: state.number,
            last_block: state.number + period - 1,
            spec_version: state.runtime.spec_version,
            weights,
            content,
        };
        self.journal.record(extrinsic).await
    }

    /// Sends the bytes; what the pool has against them, if anything.
    async fn send(&self, live: &Extrinsic, cx: &CallContext) -> Result<Option<String>> {
        /// The pool has it already, or has had it a moment ago.
        const KNOWN: [i32; 2] = [1012, 1013];
        let bytes = Arc::new(live.bytes.clone());
        let send = move |node: Node| -> BoxFuture<'static, Result<Option<String>, BackendError>> {
            let bytes = Arc::clone(&bytes);
            Box::pin(async move {
                let mut statuses = match node.submit_transaction(&bytes).await {
                    Ok(statuses) => statuses,
                    Err(error) => match rpc_error(&error) {
                        Some((code, _)) if KNOWN.contains(&code) => return Ok(None),
                        Some((code, message)) => return Ok(Some(format!("{message} ({code})"))),
                        None => return Err(error),
                    },
                };
                match statuses.next().await {
                    Some(Ok(
                        TransactionStatus::Error { message }
                        | TransactionStatus::Invalid { message }
                        | TransactionStatus::Dropped { message },
                    )) => Ok(Some(message)),
                    Some(Err(error)) => Err(error),
                    _ => Ok(None),
                }
            })
        };
        let operation = format!("send {}", live.call);
        self.reader.connections().call(&operation, cx, &send).await
    }

    /// How long an extrinsic for the vector's epoch may live.
    async fn time_left(&self, vector: &WeightVector, subnet: &Subnet, head: BlockNumber) -> Result<u64> {
        const OPERATION: &str = "set weights";
        let epoch = vector.key.epoch;
        if subnet.epoch < epoch {
            let error = Error::new(ErrorKind::Unavailable, OPERATION, "their epoch has not begun");
            return Err(error.with("epoch", epoch).with("now", subnet.epoch));
        }
        let over = subnet.epoch > epoch;
        let period = life(head, subnet.next_epoch);
        if let (false, Some(period)) = (over, period) {
            return Ok(period);
        }
        let reason = if over {
            format!("the epoch was over at block {head}")
        } else {
            format!("at block {head} too little was left until the next epoch at {}", subnet.next_epoch)
        };
        self.journal.miss(&vector.key, &reason).await?;
        Err(Error::new(ErrorKind::Conflict, OPERATION, reason)
            .with_fault(Fault::Infrastructure)
            .with("epoch", epoch)
            .with_hint("the next epoch gets a vector of its own"))
    }

    /// What the chain would refuse is refused before anything is signed.
    async fn may_set(
        &self,
        vector: &WeightVector,
        subnet: &Subnet,
        state: &StateAt,
        cx: &CallContext,
    ) -> Result<()> {
        const OPERATION: &str = "set weights";
        let at = BlockRef { number: state.number, hash: state.hash };
        let metagraph = self.reader.metagraph(vector.key.netuid, &at, cx).await?;
        check_setter(&vector.key.hotkey, subnet, &metagraph)?;
        check_targets(&vector.shares, &metagraph)?;
        let refused = |message: &str| Error::new(ErrorKind::ConfigInvalid, OPERATION, message);
        if vector.version_key < subnet.weights_version {
            return Err(refused("the subnet demands a newer version of weights")
                .with("version_key", vector.version_key)
                .with("demanded", subnet.weights_version));
        }
        if vector.shares.len() < usize::from(subnet.min_weights) {
            return Err(refused("the subnet demands more targets")
                .with("targets", vector.shares.len())
                .with("min_weights", subnet.min_weights));
        }
        let hotkey = account(&vector.key.hotkey)?;
        let last = self.reader.last_update(vector.key.netuid, &hotkey, state, cx).await?.unwrap_or_default();
        let next = last.saturating_add(subnet.weights_rate_limit);
        if last > 0 && state.number + 1 < next {
            return Err(Error::new(ErrorKind::RateLimited, OPERATION, "too soon after the last weights")
                .with("last", last)
                .with("next", next)
                .with("head", state.number));
        }
        Ok(())
    }

    async fn reveal(
        &self,
        subnet: &Subnet,
        state: &StateAt,
        cx: &CallContext,
    ) -> Result<Option<RevealAt<'_>>> {
        const VERSION: Item = ("SubtensorModule", "CommitRevealWeightsVersion");
        if !subnet.commit_reveal {
            return Ok(None);
        }
        let version = if state.runtime.has_storage(VERSION) {
            Some(self.reader.stored(state, VERSION, vec![], cx).await?)
        } else {
            None
        };
        let time = self.reader.time(state, cx).await?;
        let round = reveal_round(&self.beacon, subnet, state.number, time, block_ms(state)?);
        Ok(Some(RevealAt { beacon: &self.beacon, round, version }))
    }

    /// The round of the beacon `blocks` after the state's block.
    pub(super) async fn round_after(&self, blocks: u64, state: &StateAt, cx: &CallContext) -> Result<u64> {
        let time = self.reader.time(state, cx).await?;
        Ok(self.beacon.round_at(time.saturating_add(blocks.saturating_mul(block_ms(state)?))))
    }

    /// A registration's call.
    pub(super) fn registration(state: &StateAt, netuid: NetUid, hotkey: &Hotkey, limit: u64) -> Result<Call> {
        calls::registration(&state.runtime, netuid, hotkey, limit)
    }
}

/// The block of an extrinsic without weights, or why it has done nothing.
fn ended(operation: &str, outcome: Outcome) -> Result<BlockNumber> {
    match outcome {
        Outcome::Included { block, .. } => Ok(block),
        Outcome::Failed { reason, block } => Err(failure(operation, &reason).with("block", block)),
        Outcome::Unclear { block, reason } => {
            Err(Error::new(ErrorKind::Unavailable, operation, reason).with("block", block).with_hint(
                "look at the chain before it is tried again; `archive` names nodes that keep old state",
            ))
        }
        Outcome::Expired { reason } => Err(Error::new(ErrorKind::Unavailable, operation, reason)),
    }
}

/// The time between two blocks, in milliseconds.
fn block_ms(state: &StateAt) -> Result<u64> {
    let half: u64 = state.runtime.constant(("Timestamp", "MinimumPeriod"))?;
    Ok(half.saturating_mul(2))
}

/// The longest life from `head` on that ends before block `end`; `None` if
/// that is too short.
fn life(head: BlockNumber, end: BlockNumber) -> Option<u64> {
    let mut period = LONGEST_LIFE;
    while period >= SHORTEST_LIFE {
        if head.saturating_add(period) <= end {
            return Some(period);
        }
        period /= 2;
    }
    None
}

/// What an error of the chain's own means for us.
pub(super) fn failure(operation: &str, reason: &str) -> Error {
    let name = reason.rsplit('.').next().unwrap_or(reason);
    let (kind, fault, retry, hint) = match name {
        "CommittingWeightsTooFast"
        | "SettingWeightsTooFast"
        | "NetworkTxRateLimitExceeded"
        | "TxRateLimitExceeded"
        | "ServingRateLimitExceeded"
        | "SpaceLimitExceeded"
        | "CommitmentSetRateLimitExceeded"
        | "TooManyUnrevealedCommits"
        | "TooManyRegistrationsThisBlock"
        | "TooManyRegistrationsThisInterval"
        | "CommitQueueFull" => (
            ErrorKind::RateLimited,
            Fault::Infrastructure,
            Retry::Backoff,
            "the chain limits how often: wait some blocks",
        ),
        "NeuronNoValidatorPermit" | "NotEnoughStakeToSetWeights" => (
            ErrorKind::Unsupported,
            Fault::Operator,
            Retry::Never,
            "the hotkey needs more stake on the subnet",
        ),
        "HotKeyNotRegisteredInSubNet" | "HotKeyNotRegisteredInNetwork" | "AccountNotAllowedCommit" => {
            (ErrorKind::NotFound, Fault::Operator, Retry::Never, "register the hotkey on the subnet")
        }
        "IncorrectWeightVersionKey" | "IncorrectCommitRevealVersion" => (
            ErrorKind::ConfigInvalid,
            Fault::Operator,
            Retry::Never,
            "use the version that the subnet demands",
        ),
        "HotKeyAlreadyRegisteredInSubNet" => {
            (ErrorKind::Conflict, Fault::Operator, Retry::Never, "it is registered already")
        }
        "NotEnoughBalanceToStake" | "NotEnoughBalance" | "InsufficientBalance" | "BalanceWithdrawalError" => {
            (ErrorKind::ResourceExhausted, Fault::Operator, Retry::Never, "put more TAO on the coldkey")
        }
        "RegistrationPriceLimitExceeded" => {
            (ErrorKind::Conflict, Fault::Operator, Retry::Never, "the price has risen: look at it again")
        }
        "CommitRevealEnabled" | "CommitRevealDisabled" => (
            ErrorKind::Unavailable,
            Fault::Infrastructure,
            Retry::Backoff,
            "the subnet has just changed how weights are set",
        ),
        "SubNetRegistrationDisabled"
        | "SubNetworkDoesNotExist"
        | "MechanismDoesNotExist"
        | "SubnetNotExists" => (ErrorKind::NotFound, Fault::Operator, Retry::Never, "check the subnet"),
        _ => (ErrorKind::Protocol, Fault::Infrastructure, Retry::Backoff, "the chain refused it"),
    };
    Error::new(kind, operation, format!("the chain answered {reason}"))
        .with_fault(fault)
        .with_retry(retry)
        .with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extrinsics_life_ends_before_the_epoch() {
        for (head, end, period) in [
            (100, 200, Some(64)),
            (100, 164, Some(64)),
            (100, 163, Some(32)),
            (100, 108, Some(8)),
            (100, 107, None),
            (100, 100, None),
            (100, u64::MAX, Some(64)),
        ] {
            assert_eq!(life(head, end), period, "{head}..{end}");
            if let Some(period) = period {
                assert!(head + period - 1 < end);
            }
        }
    }

    #[test]
    fn the_chains_errors_say_who_has_to_act() {
        for (name, kind, fault, again) in [
            ("CommittingWeightsTooFast", ErrorKind::RateLimited, Fault::Infrastructure, true),
            ("NeuronNoValidatorPermit", ErrorKind::Unsupported, Fault::Operator, false),
            ("HotKeyNotRegisteredInSubNet", ErrorKind::NotFound, Fault::Operator, false),
            ("SomethingNew", ErrorKind::Protocol, Fault::Infrastructure, true),
        ] {
            let error = failure("set weights", &format!("SubtensorModule.{name}"));
            assert_eq!((error.kind(), error.fault(), error.is_retryable()), (kind, fault, again), "{error}");
        }
    }
}
