//! The calls that this client makes, in the newest form that the runtime has.

use albedo_core::chain::{Hotkey, MechanismId, NetUid, Subnet, WeightEffect};
use albedo_core::weights::WeightVector;
use albedo_core::{Error, ErrorKind, Fault, Result};
use parity_scale_codec::Encode;
use subxt::ext::scale_value::Value;

use super::read::value;
use super::runtime::{Item, Runtime, account};
use crate::address::public_key;
use crate::timelock::{Beacon, OVERHEAD};

/// Blocks that a reveal is put after the epoch's first, so that the beacon's
/// round is not there too early (bittensor-drand's `SECURITY_BLOCK_OFFSET`).
pub(super) const REVEAL_MARGIN: u64 = 3;

/// Bytes that a commitment in plain text may have (`BigRaw`).
const MAX_PLAIN: usize = 512;

/// Bytes that a timelocked commitment's ciphertext may have.
const MAX_TIMELOCKED: usize = 1024;

/// The longest `Raw` field.
const MAX_RAW: usize = 128;

/// A call, ready to be signed.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) item: Item,
    pub(super) arguments: Vec<(&'static str, Value)>,
}

impl Call {
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.item.0, self.item.1)
    }
}

/// When weights are revealed.
#[derive(Debug, Clone, Copy)]
pub(super) struct RevealAt<'a> {
    pub(super) beacon: &'a Beacon,
    pub(super) round: u64,
    /// `CommitRevealWeightsVersion`, where the runtime has it.
    pub(super) version: Option<u16>,
}

/// The round at which weights that are committed now are revealed: the time of
/// the epoch's first block, [`REVEAL_MARGIN`] blocks on. Times are the chain's.
pub(super) fn reveal_round(beacon: &Beacon, subnet: &Subnet, block: u64, time_ms: u64, block_ms: u64) -> u64 {
    let epochs = subnet.reveal_period.max(1) - 1;
    let later = epochs.saturating_mul(u64::from(subnet.tempo)).saturating_add(REVEAL_MARGIN);
    let blocks = subnet.next_epoch.saturating_sub(block).saturating_add(later);
    beacon.round_at(time_ms.saturating_add(blocks.saturating_mul(block_ms)))
}

/// The call that submits the vector, and what it does once it is in a block.
pub(super) fn weights(
    runtime: &Runtime,
    vector: &WeightVector,
    hotkey: &[u8; 32],
    reveal: Option<RevealAt<'_>>,
) -> Result<(Call, WeightEffect)> {
    let (netuid, mechanism) = (vector.key.netuid, vector.key.mechanism);
    let uids: Vec<u16> = vector.shares.iter().map(|share| share.uid.0).collect();
    let weights: Vec<u16> = vector.shares.iter().map(|share| share.weight).collect();
    let Some(RevealAt { beacon, round, version }) = reveal else {
        let list = |numbers: &[u16]| Value::unnamed_composite(numbers.iter().map(|number| value(*number)));
        let item = form(runtime, mechanism, "set_mechanism_weights", &["set_weights"])?;
        let mut arguments = vec![("netuid", value(netuid.0))];
        if item.1 == "set_mechanism_weights" {
            arguments.push(("mecid", value(mechanism.0)));
        }
        arguments.extend([
            ("dests", list(&uids)),
            ("weights", list(&weights)),
            ("version_key", value(vector.version_key)),
        ]);
        return Ok((Call { item, arguments }, WeightEffect::Set));
    };
    let older = ["commit_timelocked_weights", "commit_crv3_weights"];
    let item = form(runtime, mechanism, "commit_timelocked_mechanism_weights", &older)?;
    // Runtimes with CRv3 know the payload without its author only.
    let plain = if item.1 == "commit_crv3_weights" {
        (uids, weights, vector.version_key).encode()
    } else {
        (hotkey.to_vec(), uids, weights, vector.version_key).encode()
    };
    let commit = beacon.encrypt(&plain, round)?;
    let mut arguments = vec![("netuid", value(netuid.0))];
    if item.1 == "commit_timelocked_mechanism_weights" {
        arguments.push(("mecid", value(mechanism.0)));
    }
    arguments.extend([("commit", Value::from_bytes(commit)), ("reveal_round", value(round))]);
    if item.1 != "commit_crv3_weights" {
        let version = version.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "commit weights",
                "the runtime does not say its version of commit-reveal",
            )
            .with_fault(Fault::Operator)
        })?;
        arguments.push(("commit_reveal_version", value(version)));
    }
    Ok((Call { item, arguments }, WeightEffect::Committed { reveal_round: round }))
}

/// The call that commits to a text: plain, or hidden until a round.
///
/// # Errors
/// A text that is too long: 512 bytes plain, 778 timelocked.
pub(super) fn commitment(netuid: NetUid, text: &str, hidden: Option<(&Beacon, u64)>) -> Result<Call> {
    let too_long = |length: usize, limit: usize| {
        Error::new(ErrorKind::ConfigInvalid, "commit", "the text is too long")
            .with_fault(Fault::Operator)
            .with("bytes", length)
            .with("limit", limit)
    };
    let field = match hidden {
        None => {
            let bytes = text.as_bytes();
            match bytes.len() {
                0..=MAX_RAW => {
                    Value::unnamed_variant(format!("Raw{}", bytes.len()), [Value::from_bytes(bytes)])
                }
                length if length <= MAX_PLAIN => Value::unnamed_variant("BigRaw", [Value::from_bytes(bytes)]),
                length => return Err(too_long(length, MAX_PLAIN)),
            }
        }
        Some((beacon, round)) => {
            // With its SCALE length, as the Python SDK's.
            let plain = text.encode();
            if plain.len() + OVERHEAD > MAX_TIMELOCKED {
                return Err(too_long(plain.len(), MAX_TIMELOCKED - OVERHEAD));
            }
            let sealed = beacon.encrypt(&plain, round)?;
            Value::named_variant(
                "TimelockEncrypted",
                [("encrypted", Value::from_bytes(sealed)), ("reveal_round", value(round))],
            )
        }
    };
    let info = Value::named_composite([("fields", Value::unnamed_composite([field]))]);
    let arguments = vec![("netuid", value(netuid.0)), ("info", info)];
    Ok(Call { item: ("Commitments", "set_commitment"), arguments })
}

/// The registration at no more than a price, which not every runtime has.
const LIMITED: Item = ("SubtensorModule", "register_limit");

/// Whether the runtime takes a limit of a registration's price.
pub(super) fn limits_registration(runtime: &Runtime) -> bool {
    runtime.has_call(LIMITED)
}

/// The call that registers a hotkey, at no more than `limit` rao if the runtime
/// takes a limit.
pub(super) fn registration(runtime: &Runtime, netuid: NetUid, hotkey: &Hotkey, limit: u64) -> Result<Call> {
    let hotkey = account(&public_key(&hotkey.0)?);
    let mut arguments = vec![("netuid", value(netuid.0)), ("hotkey", hotkey)];
    if limits_registration(runtime) {
        arguments.push(("limit_price", value(limit)));
        return Ok(Call { item: LIMITED, arguments });
    }
    Ok(Call { item: ("SubtensorModule", "burned_register"), arguments })
}

/// The newest form of a call that the runtime has. Older forms are about the
/// first mechanism alone.
fn form(
    runtime: &Runtime,
    mechanism: MechanismId,
    newest: &'static str,
    older: &[&'static str],
) -> Result<Item> {
    let item = |call| ("SubtensorModule", call);
    if runtime.has_call(item(newest)) {
        return Ok(item(newest));
    }
    match older.iter().find(|call| runtime.has_call(item(call))) {
        Some(call) if mechanism == MechanismId(0) => Ok(item(call)),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            "submit weights",
            "the runtime has no mechanisms but the first",
        )
        .with_fault(Fault::Operator)
        .with("mechanism", mechanism.0)),
    }
}
