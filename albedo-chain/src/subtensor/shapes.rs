//! The shapes that this client knows, checked against a node's metadata before
//! anything is read or signed with it.
//!
//! A shape is text: `u16`, `Vec<u8>`, `(u16, u64)`, `[u8; 32]`, `Compact<u64>`,
//! `{field: u64}`. A type with one unnamed field has the shape of that field.
//! Named fields of an answer may be more than those listed, since answers are
//! read by name; those of a call may not.

use albedo_core::{Error, ErrorKind, Fault, Result};
use subxt::metadata::Metadata;

use super::runtime::Item;

/// Deepest type that is described: no shape here is deeper.
const DEPTH: usize = 12;

/// A storage entry: hashers of its keys, their shapes, that of the value.
struct Storage {
    item: Item,
    keys: &'static [(&'static str, &'static str)],
    value: &'static str,
    needed: bool,
}

const ID: (&str, &str) = ("Identity", "u16");
const TWOX_NETUID: (&str, &str) = ("Twox64Concat", "u16");
const TWOX_EPOCH: (&str, &str) = ("Twox64Concat", "u64");
const TWOX_ACCOUNT: (&str, &str) = ("Twox64Concat", "[u8; 32]");

const fn needed(item: Item, keys: &'static [(&'static str, &'static str)], value: &'static str) -> Storage {
    Storage { item, keys, value, needed: true }
}

const fn optional(item: Item, keys: &'static [(&'static str, &'static str)], value: &'static str) -> Storage {
    Storage { item, keys, value, needed: false }
}

const STORAGE: &[Storage] = &[
    needed(("SubtensorModule", "Weights"), &[ID, ID], "Vec<(u16, u16)>"),
    needed(("SubtensorModule", "NetworksAdded"), &[ID], "bool"),
    optional(("SubtensorModule", "SubnetEpochIndex"), &[ID], "u64"),
    optional(("SubtensorModule", "CommitRevealWeightsVersion"), &[], "u16"),
    optional(
        ("SubtensorModule", "CRV3WeightCommits"),
        &[TWOX_NETUID, TWOX_EPOCH],
        "Vec<([u8; 32], Vec<u8>, u64)>",
    ),
    optional(
        ("SubtensorModule", "TimelockedWeightCommits"),
        &[TWOX_NETUID, TWOX_EPOCH],
        "Vec<([u8; 32], u64, Vec<u8>, u64)>",
    ),
    needed(
        ("Commitments", "CommitmentOf"),
        &[ID, TWOX_ACCOUNT],
        "{deposit: u64, block: u32, info: {fields: Vec<Data>}}",
    ),
    needed(("Commitments", "RevealedCommitments"), &[ID, TWOX_ACCOUNT], "Vec<(Vec<u8>, u64)>"),
    needed(("Timestamp", "Now"), &[], "u64"),
    needed(("System", "Events"), &[], "Vec<{phase: Phase, event: RuntimeEvent, topics: Vec<[u8; 32]>}>"),
];

/// A call, and names and shapes of its arguments.
type CallShape = (Item, &'static [(&'static str, &'static str)]);

/// Calls, and their arguments in order. Of each group one is enough.
const CALLS: &[&[CallShape]] = &[
    &[
        (
            ("SubtensorModule", "set_mechanism_weights"),
            &[
                ("netuid", "u16"),
                ("mecid", "u8"),
                ("dests", "Vec<u16>"),
                ("weights", "Vec<u16>"),
                ("version_key", "u64"),
            ],
        ),
        (
            ("SubtensorModule", "set_weights"),
            &[("netuid", "u16"), ("dests", "Vec<u16>"), ("weights", "Vec<u16>"), ("version_key", "u64")],
        ),
    ],
    &[
        (
            ("SubtensorModule", "commit_timelocked_mechanism_weights"),
            &[
                ("netuid", "u16"),
                ("mecid", "u8"),
                ("commit", "Vec<u8>"),
                ("reveal_round", "u64"),
                ("commit_reveal_version", "u16"),
            ],
        ),
        (
            ("SubtensorModule", "commit_timelocked_weights"),
            &[
                ("netuid", "u16"),
                ("commit", "Vec<u8>"),
                ("reveal_round", "u64"),
                ("commit_reveal_version", "u16"),
            ],
        ),
        (
            ("SubtensorModule", "commit_crv3_weights"),
            &[("netuid", "u16"), ("commit", "Vec<u8>"), ("reveal_round", "u64")],
        ),
    ],
    &[
        (
            ("SubtensorModule", "register_limit"),
            &[("netuid", "u16"), ("hotkey", "[u8; 32]"), ("limit_price", "u64")],
        ),
        (("SubtensorModule", "burned_register"), &[("netuid", "u16"), ("hotkey", "[u8; 32]")]),
    ],
    &[(("Commitments", "set_commitment"), &[("netuid", "u16"), ("info", "{fields: Vec<Data>}")])],
];

/// Runtime APIs, their arguments, and what is read of the answer.
const APIS: &[(Item, &[&str], &str, bool)] = &[
    (
        ("SubnetInfoRuntimeApi", "get_metagraph"),
        &["u16"],
        "Option<{tempo: Compact<u16>, min_allowed_weights: Compact<u16>, max_weights_limit: Compact<u16>, \
         weights_version: Compact<u64>, weights_rate_limit: Compact<u64>, burn: Compact<u64>, \
         commit_reveal_weights_enabled: bool, commit_reveal_period: Compact<u64>, hotkeys: Vec<[u8; 32]>, \
         coldkeys: Vec<[u8; 32]>, validator_permit: Vec<bool>, last_update: Vec<Compact<u64>>, \
         block_at_registration: Vec<Compact<u64>>, total_stake: Vec<Compact<u64>>}>",
        true,
    ),
    (("SubnetInfoRuntimeApi", "get_next_epoch_start_block"), &["u16"], "Option<u64>", false),
    (("AccountNonceApi", "account_nonce"), &["[u8; 32]"], "u32", true),
];

/// Extensions whose data this client knows how to give. Others must have none.
const EXTENSIONS: &[&str] = &[
    "CheckSpecVersion",
    "CheckTxVersion",
    "CheckGenesis",
    "CheckMortality",
    "CheckNonce",
    "ChargeTransactionPayment",
    "CheckMetadataHash",
];

/// Checks everything that this client uses.
///
/// # Errors
/// [`ErrorKind::Unsupported`], the operator's: the first item that is missing
/// or has another shape, with what was expected and what was found.
pub(super) fn check(metadata: &Metadata) -> Result<()> {
    for Storage { item, keys, value, needed } in STORAGE {
        check_storage(metadata, *item, keys, value, *needed)?;
    }
    for group in CALLS {
        let mut found = false;
        for (item, arguments) in *group {
            found |= check_call(metadata, *item, arguments)?;
        }
        if !found {
            let names: Vec<_> = group.iter().map(|(item, _)| item.1).collect();
            return Err(mismatch(group[0].0, &format!("a call named {}", names.join(" or ")), "none"));
        }
    }
    for (item, arguments, answer, needed) in APIS {
        check_api(metadata, *item, arguments, answer, *needed)?;
    }
    check_data(metadata)?;
    check_extensions(metadata)
}

fn check_storage(
    metadata: &Metadata,
    item: Item,
    keys: &[(&str, &str)],
    value: &str,
    needed: bool,
) -> Result<()> {
    let storage = metadata.pallet_by_name(item.0).and_then(|pallet| pallet.storage());
    let Some(entry) = storage.and_then(|storage| storage.entry_by_name(item.1)) else {
        return if needed { Err(mismatch(item, "a storage entry", "none")) } else { Ok(()) };
    };
    let found = entry.keys().map(|key| (format!("{:?}", key.hasher), shape(metadata, key.key_id, DEPTH)));
    let found: Vec<_> = found.map(|(hasher, shape)| format!("{hasher} {shape}")).collect();
    let expected: Vec<_> = keys.iter().map(|(hasher, shape)| format!("{hasher} {shape}")).collect();
    if found != expected {
        return Err(mismatch(
            item,
            &format!("keys ({})", expected.join(", ")),
            &format!("({})", found.join(", ")),
        ));
    }
    let found = shape(metadata, entry.value_ty(), DEPTH);
    if found == value { Ok(()) } else { Err(mismatch(item, value, &found)) }
}

/// Whether the call is there.
fn check_call(metadata: &Metadata, item: Item, arguments: &[(&str, &str)]) -> Result<bool> {
    let pallet = metadata.pallet_by_name(item.0).ok_or_else(|| mismatch(item, "a pallet", "none"))?;
    let Some(call) = pallet.call_variant_by_name(item.1) else { return Ok(false) };
    let found = call.fields.iter().map(|field| {
        format!("{}: {}", field.name.as_deref().unwrap_or("?"), shape(metadata, field.ty.id, DEPTH))
    });
    let found = found.collect::<Vec<_>>().join(", ");
    let expected =
        arguments.iter().map(|(name, shape)| format!("{name}: {shape}")).collect::<Vec<_>>().join(", ");
    if found == expected {
        Ok(true)
    } else {
        Err(mismatch(item, &format!("({expected})"), &format!("({found})")))
    }
}

fn check_api(metadata: &Metadata, item: Item, arguments: &[&str], answer: &str, needed: bool) -> Result<()> {
    let api = metadata.runtime_api_trait_by_name(item.0);
    let Some(method) = api.and_then(|api| api.method_by_name(item.1)) else {
        return if needed { Err(mismatch(item, "a runtime API", "none")) } else { Ok(()) };
    };
    let found: Vec<_> = method.inputs().map(|input| shape(metadata, input.id, DEPTH)).collect();
    if found != arguments {
        return Err(mismatch(
            item,
            &format!("({})", arguments.join(", ")),
            &format!("({})", found.join(", ")),
        ));
    }
    let found = shape(metadata, method.output_ty(), DEPTH);
    let fields = |shape: &str| {
        let inner = shape.strip_prefix("Option<{").and_then(|rest| rest.strip_suffix("}>"))?;
        Some(fields_of(inner))
    };
    match (fields(answer), fields(&found)) {
        (Some(wanted), Some(fields)) => match wanted.iter().find(|field| !fields.contains(field)) {
            None => Ok(()),
            Some(missing) => {
                let name = missing.split(':').next().unwrap_or_default();
                let other = fields.iter().find(|field| field.split(':').next() == Some(name));
                Err(mismatch(item, missing, other.map_or("no such field", String::as_str)))
            }
        },
        _ if found == answer => Ok(()),
        _ => Err(mismatch(item, answer, &found)),
    }
}

/// The parts of a shape between its outermost commas.
fn fields_of(shape: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0_usize);
    for character in shape.chars() {
        match character {
            '{' | '(' | '[' | '<' => depth += 1,
            '}' | ')' | ']' | '>' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut()
            && !(part.is_empty() && character == ' ')
        {
            part.push(character);
        }
    }
    parts
}

/// The forms of commitment that are written.
fn check_data(metadata: &Metadata) -> Result<()> {
    const ITEM: Item = ("Commitments", "set_commitment");
    let data = metadata
        .types()
        .types
        .iter()
        .filter(|ty| ty.ty.path.segments.last().is_some_and(|name| name == "Data"));
    let variants = data.filter_map(|ty| match &ty.ty.type_def {
        scale_info::TypeDef::Variant(variants) => Some(variants),
        _ => None,
    });
    // Another pallet has a smaller type of the same name.
    let Some(variants) = variants.max_by_key(|variants| variants.variants.len()) else {
        return Err(mismatch(ITEM, "a type `Data`", "none"));
    };
    for (name, expected) in [
        ("Raw0", "[u8; 0]"),
        ("Raw128", "[u8; 128]"),
        ("BigRaw", "Vec<u8>"),
        ("TimelockEncrypted", "encrypted: Vec<u8>, reveal_round: u64"),
    ] {
        let variant = variants.variants.iter().find(|variant| variant.name == name);
        let found = variant.map(|variant| {
            let fields = variant.fields.iter().map(|field| {
                let shape = shape(metadata, field.ty.id, DEPTH);
                field.name.as_ref().map_or(shape.clone(), |name| format!("{name}: {shape}"))
            });
            fields.collect::<Vec<_>>().join(", ")
        });
        if found.as_deref() != Some(expected) {
            let found = found.map_or("no such variant".into(), |found| format!("{name}({found})"));
            return Err(mismatch(ITEM, &format!("{name}({expected})"), &found));
        }
    }
    Ok(())
}

fn check_extensions(metadata: &Metadata) -> Result<()> {
    let extrinsic = metadata.extrinsic();
    if !extrinsic.supported_versions().contains(&4) {
        let found = format!("{:?}", extrinsic.supported_versions());
        return Err(mismatch(("Extrinsic", "versions"), "4", &found));
    }
    for extension in extrinsic.transaction_extensions_to_use_for_encoding() {
        let name = extension.identifier();
        if EXTENSIONS.contains(&name) {
            continue;
        }
        for (what, id) in [("data", extension.extra_ty()), ("implicit data", extension.additional_ty())] {
            let found = shape(metadata, id, DEPTH);
            if found != "()" {
                let item = format!("extension {name}");
                return Err(mismatch_named(&item, &format!("no {what}"), &found));
            }
        }
    }
    Ok(())
}

fn mismatch(item: Item, expected: &str, found: &str) -> Error {
    mismatch_named(&format!("{}.{}", item.0, item.1), expected, found)
}

fn mismatch_named(item: &str, expected: &str, found: &str) -> Error {
    Error::new(ErrorKind::Unsupported, "use the node's runtime", "the metadata is not of a known shape")
        .with_fault(Fault::Operator)
        .with("item", item)
        .with("expected", expected)
        .with("found", found)
        .with_hint("use a release of albedo that knows this runtime; nothing was signed")
}

/// The shape of a type.
pub(super) fn shape(metadata: &Metadata, id: u32, depth: usize) -> String {
    use scale_info::{TypeDef, TypeDefPrimitive as Primitive};
    let Some(ty) = metadata.types().resolve(id).filter(|_| depth > 0) else { return "…".into() };
    let name = || ty.path.segments.last().cloned().unwrap_or_else(|| "?".into());
    let inner = |id: u32| shape(metadata, id, depth - 1);
    match &ty.type_def {
        TypeDef::Primitive(Primitive::U128) => "u128".into(),
        TypeDef::Primitive(primitive) => format!("{primitive:?}").to_lowercase(),
        TypeDef::Compact(compact) => format!("Compact<{}>", inner(compact.type_param.id)),
        TypeDef::Sequence(sequence) => format!("Vec<{}>", inner(sequence.type_param.id)),
        TypeDef::Array(array) => format!("[{}; {}]", inner(array.type_param.id), array.len),
        TypeDef::Tuple(tuple) => {
            let parts: Vec<_> = tuple.fields.iter().map(|field| inner(field.id)).collect();
            format!("({})", parts.join(", "))
        }
        TypeDef::BitSequence(_) => "BitVec".into(),
        TypeDef::Composite(composite) => match &*composite.fields {
            [] => "()".into(),
            [field] if field.name.is_none() => inner(field.ty.id),
            fields => {
                let parts = fields.iter().map(|field| match &field.name {
                    Some(name) => format!("{name}: {}", inner(field.ty.id)),
                    None => inner(field.ty.id),
                });
                format!("{{{}}}", parts.collect::<Vec<_>>().join(", "))
            }
        },
        TypeDef::Variant(variants) => match (&*name(), &*variants.variants) {
            ("Option", [_, some]) if some.fields.len() == 1 => {
                format!("Option<{}>", inner(some.fields[0].ty.id))
            }
            (name, _) => name.to_owned(),
        },
    }
}

// Two attributes: clippy knows tests by `cfg(test)` alone.
#[cfg(feature = "test-node")]
#[cfg(test)]
mod tests;
