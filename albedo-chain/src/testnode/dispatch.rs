//! What the pool checks of an extrinsic, and what the pallets do with its call.

use std::sync::Arc;

use parity_scale_codec::{Compact, Decode};
use subxt::ext::scale_value::{At, Composite, Value, ValueDef};

use super::runtime::{Decoded, NodeEvent, NodeRuntime};
use super::{Block, Chain, Commit, Landed, TestNeuron, blake2, nonce_of, number};
use crate::timelock;

/// The only version of commit-reveal.
const COMMIT_REVEAL_VERSION: u128 = 4;

/// Reveals that are kept per hotkey.
const KEPT_REVEALS: usize = 10;

/// An extrinsic whose signature, era and nonce are good.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) signer: [u8; 32],
    pub(super) nonce: u64,
    decoded: Decoded,
}

/// A pallet's error.
type Refusal = (&'static str, &'static str);

const fn refused<T>(error: &'static str) -> Result<T, Refusal> {
    Err(("SubtensorModule", error))
}

impl Chain {
    /// The pool's checks, for inclusion in `block` (whose parent is the newest).
    pub(super) fn validate(
        &self,
        runtime: &NodeRuntime,
        block: &Block,
        bytes: &[u8],
    ) -> Result<Checked, String> {
        let decoded = runtime.extrinsic(bytes).ok_or("Transaction could not be decoded")?;
        let signer: [u8; 32] = match &*decoded.address {
            [0, key @ ..] => key.try_into().map_err(|_| "Transaction has a bad address")?,
            _ => return Err("Transaction has a bad address".into()),
        };
        let (mut birth, mut nonce, mut data) = (Some(0), None, Vec::new());
        for (name, bytes) in &decoded.extensions {
            data.extend(bytes);
            match &**name {
                "CheckMortality" => birth = birth_of(bytes, block.number),
                "CheckNonce" => {
                    nonce = Compact::<u32>::decode(&mut &**bytes).ok().map(|nonce| u64::from(nonce.0));
                }
                _ => {}
            }
        }
        let birth = birth
            .and_then(|birth| self.blocks.get(birth as usize))
            .ok_or("Transaction birth block ancient")?;
        let nonce = nonce.ok_or("Transaction has no nonce")?;
        let mut payload = [&*decoded.call_bytes, &data].concat();
        payload.extend(runtime.implicit(self.blocks[0].hash, birth.hash));
        let signed = if payload.len() > 256 { blake2(&payload).to_vec() } else { payload };
        if !verifies(&decoded.signature, &signer, &signed) {
            return Err("Transaction has a bad signature".into());
        }
        if nonce < nonce_of(block, &signer) {
            return Err("Transaction is outdated".into());
        }
        Ok(Checked { signer, nonce, decoded })
    }

    /// Puts the extrinsic into the block.
    pub(super) fn apply(
        &mut self,
        runtime: &NodeRuntime,
        block: &mut Block,
        checked: Checked,
        bytes: Vec<u8>,
        events: &mut Vec<NodeEvent>,
    ) {
        let Checked { signer, nonce, decoded } = checked;
        let index = Some(block.extrinsics.len() as u32);
        *Arc::make_mut(&mut block.nonces).entry(signer).or_default() = nonce + 1;
        let arguments = Composite::Named(decoded.arguments);
        let done = self.dispatch(runtime, block, (&decoded.pallet, &decoded.call), &arguments, signer);
        let failure = match done {
            Ok(caused) => {
                events.extend(caused.into_iter().map(|(pallet, event)| (index, pallet, event)));
                if !self.faults.without_results {
                    events.push((index, "System", runtime.succeeded()));
                }
                None
            }
            Err((pallet, error)) => {
                events.push((index, "System", runtime.failed(pallet, error)));
                Some(format!("{pallet}.{error}"))
            }
        };
        block.extrinsics.push(bytes);
        block.landed.push(Landed {
            block: block.number,
            epoch: block.subnet.epoch.0,
            signer,
            nonce,
            call: decoded.call,
            failure,
        });
    }

    fn dispatch(
        &mut self,
        runtime: &NodeRuntime,
        block: &mut Block,
        (pallet, call): (&str, &str),
        arguments: &Composite<()>,
        who: [u8; 32],
    ) -> Result<Vec<(&'static str, Value)>, Refusal> {
        let netuid = int(arguments.at("netuid"));
        if netuid != u128::from(block.subnet.netuid) {
            return refused("MechanismDoesNotExist");
        }
        match (pallet, call) {
            ("SubtensorModule", "set_weights" | "set_mechanism_weights") => {
                if block.subnet.commit_reveal {
                    return refused("CommitRevealEnabled");
                }
                let (uids, weights) = (ints(arguments.at("dests")), ints(arguments.at("weights")));
                let version = int(arguments.at("version_key"));
                limited(block, who, "SettingWeightsTooFast")?;
                let uid = set_weights(runtime, block, who, &uids, &weights, version)?;
                if self.faults.lose_weights {
                    let key = weights_key(runtime, block, uid);
                    Arc::make_mut(&mut block.state).remove(&key);
                }
                touch(block, uid);
                Ok(vec![(
                    "SubtensorModule",
                    Value::unnamed_variant("WeightsSet", [number(block.subnet.netuid), number(uid)]),
                )])
            }
            (
                "SubtensorModule",
                "commit_timelocked_weights" | "commit_timelocked_mechanism_weights" | "commit_crv3_weights",
            ) => {
                if !block.subnet.commit_reveal {
                    return refused("CommitRevealDisabled");
                }
                let version = arguments.at("commit_reveal_version");
                if version.is_some() && int(version) != COMMIT_REVEAL_VERSION {
                    return refused("IncorrectCommitRevealVersion");
                }
                let uid = limited(block, who, "CommittingWeightsTooFast")?;
                let bytes = bytes(arguments.at("commit"));
                let round = int(arguments.at("reveal_round")) as u64;
                let hash = Value::from_bytes(blake2(&bytes));
                self.commits.push(Commit {
                    block: block.number,
                    epoch: block.subnet.epoch.0,
                    who,
                    bytes,
                    round,
                });
                touch(block, uid);
                let (account, netuid) = (Value::from_bytes(who), number(block.subnet.netuid));
                let event = if call == "commit_crv3_weights" {
                    Value::unnamed_variant("CRV3WeightsCommitted", [account, netuid, hash])
                } else {
                    Value::unnamed_variant(
                        "TimelockedWeightsCommitted",
                        [account, netuid, hash, number(round)],
                    )
                };
                Ok(vec![("SubtensorModule", event)])
            }
            ("SubtensorModule", "register_limit" | "burned_register") => {
                let hotkey: [u8; 32] = bytes(arguments.at("hotkey")).try_into().unwrap_or_default();
                let limit = arguments.at("limit_price");
                if limit.is_some() && int(limit) < u128::from(block.subnet.burn) {
                    return refused("RegistrationPriceLimitExceeded");
                }
                let subnet = Arc::make_mut(&mut block.subnet);
                if subnet.neurons.iter().any(|neuron| neuron.hotkey == hotkey) {
                    return refused("HotKeyAlreadyRegisteredInSubNet");
                }
                subnet.neurons.push(TestNeuron {
                    hotkey,
                    coldkey: who,
                    registered_at: block.number,
                    validator_permit: false,
                    stake: 0,
                    last_update: 0,
                });
                let uid = subnet.neurons.len() as u32 - 1;
                let fields = [number(subnet.netuid), number(uid), Value::from_bytes(hotkey)];
                Ok(vec![("SubtensorModule", Value::unnamed_variant("NeuronRegistered", fields))])
            }
            ("Commitments", "set_commitment") => self.commit(runtime, block, arguments, who),
            _ => refused("CallDisabled"),
        }
    }

    fn commit(
        &mut self,
        runtime: &NodeRuntime,
        block: &mut Block,
        arguments: &Composite<()>,
        who: [u8; 32],
    ) -> Result<Vec<(&'static str, Value)>, Refusal> {
        if uid_of(block, who).is_none() {
            return Err(("Commitments", "AccountNotAllowedCommit"));
        }
        let netuid = number(block.subnet.netuid);
        let info = arguments.at("info").cloned().unwrap_or_else(|| Value::unnamed_composite([]));
        let registration = Value::named_composite([
            ("deposit", Value::u128(0)),
            ("block", number(block.number)),
            ("info", info.clone()),
        ]);
        let key = runtime.key("Commitments", "CommitmentOf", vec![netuid.clone(), Value::from_bytes(who)]);
        Arc::make_mut(&mut block.state)
            .insert(key, runtime.stored("Commitments", "CommitmentOf", &registration));
        self.hidden.retain(|(_, hotkey, _)| *hotkey != who);
        let mut hidden = None;
        for field in variants(&info) {
            if field.0 == "TimelockEncrypted" {
                let round = int(field.1.at("reveal_round")) as u64;
                self.hidden.push((round, who, bytes(field.1.at("encrypted"))));
                hidden = Some(round);
            }
        }
        let mut fields = vec![("netuid", netuid), ("who", Value::from_bytes(who))];
        let name = match hidden {
            None => "Commitment",
            Some(round) => {
                fields.push(("reveal_round", number(round)));
                "TimelockCommitment"
            }
        };
        Ok(vec![("Commitments", Value::named_variant(name, fields))])
    }

    /// Reveals the commitments whose round has come. A ciphertext that does not
    /// open is dropped, or kept as failed by runtimes that know this (446 on).
    pub(super) fn reveal_commitments(
        &mut self,
        runtime: &NodeRuntime,
        block: &mut Block,
        events: &mut Vec<NodeEvent>,
    ) {
        let round = self.beacon.round_at(self.time(block.number));
        let (due, later) = std::mem::take(&mut self.hidden).into_iter().partition(|(at, _, _)| *at <= round);
        self.hidden = later;
        let due: Vec<(u64, [u8; 32], Vec<u8>)> = due;
        for (at, who, ciphertext) in due {
            let keys = [number(block.subnet.netuid), Value::from_bytes(who)];
            let [netuid, account] = keys.clone();
            let state = Arc::make_mut(&mut block.state);
            let standing_key = runtime.key("Commitments", "CommitmentOf", keys.to_vec());
            let standing = state.remove(&standing_key);
            let Ok(plain) = timelock::decrypt(&ciphertext, &self.secret.sign(at)) else {
                if let Some(standing) = standing
                    && runtime.has_event("Commitments", "CommitmentRevealFailed")
                {
                    let committed = runtime.loaded("Commitments", "CommitmentOf", &standing);
                    let field = Value::named_variant(
                        "TimelockRevealFailed",
                        [("encrypted", Value::from_bytes(ciphertext)), ("reveal_round", number(at))],
                    );
                    let failed = registration(int(committed.at("block")) as u64, field);
                    state.insert(standing_key, runtime.stored("Commitments", "CommitmentOf", &failed));
                    let who = [("netuid", netuid), ("who", account)];
                    events.push((None, "Commitments", Value::named_variant("CommitmentRevealFailed", who)));
                }
                continue;
            };
            let key = runtime.key("Commitments", "RevealedCommitments", keys.to_vec());
            let before =
                state.get(&key).map(|bytes| runtime.loaded("Commitments", "RevealedCommitments", bytes));
            let mut all = before.map(|value| children(&value)).unwrap_or_default();
            all.push(Value::unnamed_composite([Value::from_bytes(plain), number(block.number)]));
            let kept = all.split_off(all.len().saturating_sub(KEPT_REVEALS));
            let value = Value::unnamed_composite(kept);
            state.insert(key, runtime.stored("Commitments", "RevealedCommitments", &value));
            let event = Value::named_variant("CommitmentRevealed", [("netuid", netuid), ("who", account)]);
            events.push((None, "Commitments", event));
        }
    }

    /// Reveals the weights whose epoch has come, as soon as the beacon has their
    /// round. Those whose epoch has gone are lost.
    pub(super) fn reveal_due_weights(
        &mut self,
        runtime: &NodeRuntime,
        block: &mut Block,
        events: &mut Vec<NodeEvent>,
    ) {
        let (epoch, period) = (block.subnet.epoch.0, block.subnet.reveal_period);
        let round = self.beacon.round_at(self.time(block.number));
        for commit in std::mem::take(&mut self.commits) {
            let due = commit.epoch + period;
            if due > epoch || (due == epoch && commit.round > round) {
                self.commits.push(commit);
            } else if due == epoch {
                self.reveal_weights(runtime, block, &commit, events);
            }
        }
    }

    /// Opens committed weights and sets them, as a validator would.
    fn reveal_weights(
        &self,
        runtime: &NodeRuntime,
        block: &mut Block,
        commit: &Commit,
        events: &mut Vec<NodeEvent>,
    ) {
        let Ok(plain) = timelock::decrypt(&commit.bytes, &self.secret.sign(commit.round)) else { return };
        type Named = (Vec<u8>, Vec<u16>, Vec<u16>, u64);
        type Legacy = (Vec<u16>, Vec<u16>, u64);
        let named = Named::decode(&mut &*plain).ok().filter(|named| named.0 == commit.who);
        let named = named.map(|(_, uids, weights, version)| (uids, weights, version));
        let Some((uids, weights, version)) = named.or_else(|| Legacy::decode(&mut &*plain).ok()) else {
            return;
        };
        let wide = |numbers: Vec<u16>| numbers.into_iter().map(u128::from).collect::<Vec<_>>();
        let set = set_weights(runtime, block, commit.who, &wide(uids), &wide(weights), u128::from(version));
        if set.is_ok() {
            let newer = runtime.has_event("SubtensorModule", "TimelockedWeightsRevealed");
            let name = if newer { "TimelockedWeightsRevealed" } else { "CRV3WeightsRevealed" };
            let fields = [number(block.subnet.netuid), Value::from_bytes(commit.who)];
            events.push((None, "SubtensorModule", Value::unnamed_variant(name, fields)));
        }
    }

    /// The answer of `get_metagraph`.
    pub(super) fn metagraph(runtime: &NodeRuntime, block: &Block, output: u32) -> Vec<u8> {
        let subnet = &block.subnet;
        let list =
            |value: &dyn Fn(&TestNeuron) -> Value| Value::unnamed_composite(subnet.neurons.iter().map(value));
        let fields = [
            ("netuid", number(subnet.netuid)),
            ("tempo", number(subnet.tempo)),
            ("min_allowed_weights", number(subnet.min_weights)),
            ("max_weights_limit", number(u16::MAX)),
            ("weights_version", number(subnet.weights_version)),
            ("weights_rate_limit", number(subnet.weights_rate_limit)),
            ("burn", number(subnet.burn)),
            ("commit_reveal_weights_enabled", Value::bool(subnet.commit_reveal)),
            ("commit_reveal_period", number(subnet.reveal_period)),
            ("num_uids", number(subnet.neurons.len() as u64)),
            ("hotkeys", list(&|neuron| Value::from_bytes(neuron.hotkey))),
            ("coldkeys", list(&|neuron| Value::from_bytes(neuron.coldkey))),
            ("validator_permit", list(&|neuron| Value::bool(neuron.validator_permit))),
            ("last_update", list(&|neuron| number(neuron.last_update))),
            ("block_at_registration", list(&|neuron| number(neuron.registered_at))),
            ("total_stake", list(&|neuron| number(neuron.stake))),
        ];
        let inner = match runtime.metadata.types().resolve(output).map(|ty| &ty.type_def) {
            Some(scale_info::TypeDef::Variant(variants)) => variants.variants[1].fields[0].ty.id,
            _ => return vec![0],
        };
        let mut value = runtime.empty(inner);
        if let ValueDef::Composite(Composite::Named(all)) = &mut value.value {
            for (name, value) in fields {
                if let Some(place) = all.iter_mut().find(|(field, _)| field == name) {
                    place.1 = value;
                }
            }
        }
        runtime.encode(output, &Value::unnamed_variant("Some", [value]))
    }
}

/// The checks and effects of setting weights.
fn set_weights(
    runtime: &NodeRuntime,
    block: &mut Block,
    who: [u8; 32],
    uids: &[u128],
    weights: &[u128],
    version: u128,
) -> Result<u32, Refusal> {
    let subnet = &block.subnet;
    if uids.len() != weights.len() {
        return refused("WeightVecNotEqualSize");
    }
    let Some(uid) = uid_of(block, who) else { return refused("HotKeyNotRegisteredInSubNet") };
    if version < u128::from(subnet.weights_version) {
        return refused("IncorrectWeightVersionKey");
    }
    if !subnet.neurons[uid as usize].validator_permit {
        return refused("NeuronNoValidatorPermit");
    }
    if uids.iter().any(|uid| *uid >= subnet.neurons.len() as u128) {
        return refused("UidVecContainInvalidOne");
    }
    if uids.len() < usize::from(subnet.min_weights) {
        return refused("WeightVecLengthIsLow");
    }
    // The largest becomes 65,535; the others are rounded (runtime 293).
    let largest = weights.iter().copied().max().unwrap_or(1).max(1);
    let pairs = uids.iter().zip(weights).map(|(uid, weight)| {
        Value::unnamed_composite([Value::u128(*uid), Value::u128((weight * 65_535 + largest / 2) / largest)])
    });
    let value = Value::unnamed_composite(pairs);
    let key = weights_key(runtime, block, uid);
    let bytes = runtime.stored("SubtensorModule", "Weights", &value);
    Arc::make_mut(&mut block.state).insert(key, bytes);
    Ok(uid)
}

fn weights_key(runtime: &NodeRuntime, block: &Block, uid: u32) -> Vec<u8> {
    runtime.key("SubtensorModule", "Weights", vec![number(block.subnet.netuid), number(uid)])
}

/// The registered signer's uid, if it has waited long enough.
fn limited(block: &Block, who: [u8; 32], error: &'static str) -> Result<u32, Refusal> {
    let Some(uid) = uid_of(block, who) else { return refused("HotKeyNotRegisteredInSubNet") };
    let last = block.subnet.neurons[uid as usize].last_update;
    if last > 0 && block.number - last < block.subnet.weights_rate_limit {
        return refused(error);
    }
    Ok(uid)
}

fn touch(block: &mut Block, uid: u32) {
    let number = block.number;
    if let Some(neuron) = Arc::make_mut(&mut block.subnet).neurons.get_mut(uid as usize) {
        neuron.last_update = number;
    }
}

fn uid_of(block: &Block, who: [u8; 32]) -> Option<u32> {
    block.subnet.neurons.iter().position(|neuron| neuron.hotkey == who).map(|uid| uid as u32)
}

/// The block that an era starts at, seen from `current`; `None` if it is over
/// or has not begun. As `sp_runtime::generic::Era` encodes it.
fn birth_of(bytes: &[u8], current: u64) -> Option<u64> {
    match bytes {
        [0] => Some(0),
        [low, high] => {
            let encoded = u64::from(u16::from_le_bytes([*low, *high]));
            let period = 2_u64 << (encoded % 16);
            let phase = (encoded >> 4) * (period >> 12).max(1);
            Some((current.max(phase) - phase) / period * period + phase)
        }
        _ => None,
    }
}

fn verifies(signature: &[u8], signer: &[u8; 32], message: &[u8]) -> bool {
    match signature {
        [1, bytes @ ..] => {
            let (key, signature) =
                (schnorrkel::PublicKey::from_bytes(signer), schnorrkel::Signature::from_bytes(bytes));
            matches!((key, signature), (Ok(key), Ok(signature))
                if key.verify_simple(b"substrate", message, &signature).is_ok())
        }
        [0, bytes @ ..] => {
            let key = ed25519_dalek::VerifyingKey::from_bytes(signer);
            let signature = ed25519_dalek::Signature::from_slice(bytes);
            matches!((key, signature), (Ok(key), Ok(signature)) if key.verify_strict(message, &signature).is_ok())
        }
        _ => false,
    }
}

/// What stands of a commitment of one field.
pub(super) fn registration(block: u64, field: Value) -> Value {
    Value::named_composite([
        ("deposit", number(0_u8)),
        ("block", number(block)),
        ("info", Value::named_composite([("fields", Value::unnamed_composite([field]))])),
    ])
}

/// The ciphertext of a timelocked commitment.
#[cfg(test)]
pub(super) fn ciphertext(info: &Value) -> Vec<u8> {
    let fields = variants(info);
    fields.first().map(|(_, content)| bytes(content.at("encrypted"))).unwrap_or_default()
}

fn children(value: &Value) -> Vec<Value> {
    match &value.value {
        ValueDef::Composite(composite) => composite.values().cloned().collect(),
        _ => Vec::new(),
    }
}

/// A number, through newtypes.
fn int(value: Option<&Value>) -> u128 {
    let Some(value) = value else { return 0 };
    match &value.value {
        ValueDef::Primitive(_) => value.as_u128().unwrap_or_default(),
        ValueDef::Composite(composite) => int(composite.values().next()),
        _ => 0,
    }
}

/// A list of numbers, through newtypes.
fn ints(value: Option<&Value>) -> Vec<u128> {
    let Some(value) = value else { return Vec::new() };
    let all = children(value);
    match &*all {
        [only] if matches!(only.value, ValueDef::Composite(_)) => ints(Some(only)),
        all => all.iter().map(|value| int(Some(value))).collect(),
    }
}

fn bytes(value: Option<&Value>) -> Vec<u8> {
    ints(value).into_iter().map(|byte| byte as u8).collect()
}

/// The fields of a commitment: name and content, through newtypes.
fn variants(value: &Value) -> Vec<(String, Composite<()>)> {
    match &value.value {
        ValueDef::Variant(variant) => vec![(variant.name.clone(), variant.values.clone())],
        ValueDef::Composite(composite) => composite.values().flat_map(variants).collect(),
        _ => Vec::new(),
    }
}
