//! What the chain keeps of commitments, by its metadata's types.

use albedo_core::chain::{Content, DatedBy, Hotkey, Place, Reveal};
use albedo_core::{Digest, Result};
use subxt::ext::scale_decode::DecodeAsType;
use subxt::ext::scale_value::{At, Value, ValueDef};

use super::runtime::{Item, Runtime};
use crate::reveal::text;

/// What every hotkey commits to now.
pub(super) const STANDING: Item = ("Commitments", "CommitmentOf");

/// What the chain has revealed of every hotkey's commitments.
pub(super) const REVEALED: Item = ("Commitments", "RevealedCommitments");

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct Registration {
    block: u32,
    info: CommitmentInfo,
}

#[derive(DecodeAsType)]
#[decode_as_type(crate_path = "subxt::ext::scale_decode")]
struct CommitmentInfo {
    fields: Vec<Value>,
}

/// What stands in a commitment of `hotkey`, by its state.
pub(super) fn standing(runtime: &Runtime, hotkey: &Hotkey, bytes: &[u8]) -> Result<Vec<Reveal>> {
    let registration: Registration = runtime.value(STANDING, Some(bytes))?;
    let block = u64::from(registration.block);
    let place = Place { block, extrinsic: None, dated_by: DatedBy::Commitment };
    let reveal = |field| {
        let content = content(field);
        let readable = !matches!(content, Content::Hidden { .. } | Content::RevealFailed { .. });
        Reveal { hotkey: hotkey.clone(), place, readable_at: readable.then_some(block), content }
    };
    Ok(registration.info.fields.iter().map(reveal).collect())
}

/// What the chain has revealed of `hotkey`, by its state.
pub(super) fn revealed(runtime: &Runtime, hotkey: &Hotkey, bytes: &[u8]) -> Result<Vec<Reveal>> {
    let revealed: Vec<(Vec<u8>, u64)> = runtime.value(REVEALED, Some(bytes))?;
    let reveal = |(bytes, block): (Vec<u8>, u64)| Reveal {
        hotkey: hotkey.clone(),
        place: Place { block, extrinsic: None, dated_by: DatedBy::Reveal },
        readable_at: Some(block),
        content: readable(&bytes),
    };
    Ok(revealed.into_iter().map(reveal).collect())
}

/// What a field of a commitment holds.
fn content(field: &Value) -> Content {
    let ValueDef::Variant(variant) = &field.value else {
        return Content::Unreadable { reason: "it is no field of a commitment".into() };
    };
    let inner = || variant.values.values().next();
    let round = || number_of(variant.values.at("reveal_round")).unwrap_or_default() as u64;
    match &*variant.name {
        "TimelockEncrypted" => {
            let ciphertext = bytes_of(variant.values.at("encrypted")).unwrap_or_default();
            Content::Hidden { ciphertext: Digest::of(ciphertext), reveal_round: round() }
        }
        "TimelockRevealFailed" => Content::RevealFailed { reveal_round: round() },
        name if name == "BigRaw" || name.starts_with("Raw") => {
            readable(&bytes_of(inner()).unwrap_or_default())
        }
        name => Content::Unreadable { reason: format!("it is a field {name}") },
    }
}

fn readable(bytes: &[u8]) -> Content {
    match text(bytes) {
        Ok(text) => Content::Text(text),
        Err(reason) => Content::Unreadable { reason },
    }
}

/// The number in a value, through newtypes.
pub(super) fn number_of(value: Option<&Value>) -> Option<u128> {
    match &value?.value {
        ValueDef::Primitive(_) => value?.as_u128(),
        ValueDef::Composite(composite) => number_of(composite.values().next()),
        _ => None,
    }
}

/// The bytes in a value: a list of numbers below 256, through newtypes.
pub(super) fn bytes_of(value: Option<&Value>) -> Option<Vec<u8>> {
    let ValueDef::Composite(composite) = &value?.value else { return None };
    let values: Vec<_> = composite.values().collect();
    match &*values {
        [only] if matches!(only.value, ValueDef::Composite(_)) => bytes_of(Some(only)),
        values => values.iter().map(|value| u8::try_from(value.as_u128()?).ok()).collect(),
    }
}
