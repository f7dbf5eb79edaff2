use std::path::PathBuf;

use parity_scale_codec::{Decode, Encode};
use scale_info::form::PortableForm;
use scale_info::{Field, TypeDef, Variant};
use subxt::ext::frame_metadata::v16::{
    RuntimeApiMethodMetadata, RuntimeMetadataV16, StorageEntryMetadata, StorageEntryType, StorageHasher,
};
use subxt::ext::frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed};

use super::*;
use crate::testnode::metadata;

fn fixture(name: &str) -> Option<Vec<u8>> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/chain/metadata"));
    let found = std::fs::read(folder.join(name)).ok();
    if found.is_none() {
        println!("skipped: {name} is not beside the checkout");
    }
    found
}

#[test]
fn every_item_of_every_known_runtime_has_its_shape() {
    let own = [("newest", metadata::newest()), ("oldest", metadata::oldest())];
    let public =
        ["dev-293.v15.scale", "finney-365.v16.scale", "finney-393.v16.scale", "finney-424.v16.scale"];
    let public = public.into_iter().filter_map(|name| Some((name, fixture(name)?)));
    for (name, bytes) in own.into_iter().chain(public) {
        let metadata = Metadata::decode_from(&bytes).expect("metadata");
        check(&metadata).expect(name);
    }
}

#[test]
fn metadata_that_does_not_know_runtime_apis_is_refused() {
    let Some(bytes) = fixture("dev-293.v14.scale") else { return };
    let error = check(&Metadata::decode_from(&bytes).expect("metadata")).expect_err("no runtime APIs");
    assert!(error.to_string().contains("get_metagraph"), "{error}");
}

/// What another runtime could have changed, and the words that name it.
type Mutation = (&'static str, &'static [&'static str], fn(&mut RuntimeMetadataV16));

const MUTATIONS: &[Mutation] = &[
    ("a renamed argument", &["set_mechanism_weights", "netuid: u16", "subnet: u16"], |metadata| {
        argument(metadata, "set_mechanism_weights", 0).name = Some("subnet".into());
    }),
    (
        "swapped types of arguments",
        &["commit_timelocked_mechanism_weights", "reveal_round: Vec<u8>"],
        |metadata| {
            let name = "commit_timelocked_mechanism_weights";
            let (commit, round) = (argument(metadata, name, 2).ty, argument(metadata, name, 3).ty);
            argument(metadata, name, 2).ty = round;
            argument(metadata, name, 3).ty = commit;
        },
    ),
    ("swapped arguments", &["register_limit", "limit_price"], |metadata| {
        call(metadata, "SubtensorModule", "register_limit").fields.swap(1, 2);
    }),
    ("an additional argument", &["set_weights", "version_key: u64, netuid: u16"], |metadata| {
        let first = argument(metadata, "set_weights", 0).clone();
        call(metadata, "SubtensorModule", "set_weights").fields.push(first);
    }),
    ("no call that commits weights", &["commit_timelocked_mechanism_weights", "none"], |metadata| {
        let id = pallet(metadata, "SubtensorModule").calls.as_ref().expect("calls").ty.id;
        variants(metadata, id)
            .retain(|call| !call.name.contains("commit_timelocked") && !call.name.contains("crv3_w"));
    }),
    ("no pallet", &["Commitments"], |metadata| {
        metadata.pallets.retain(|pallet| pallet.name != "Commitments");
    }),
    ("another hasher", &["SubtensorModule.Weights", "Identity u16", "Twox64Concat u16"], |metadata| {
        hashers(metadata, "SubtensorModule", "Weights")[0] = StorageHasher::Twox64Concat;
    }),
    ("another hasher of accounts", &["RevealedCommitments", "Blake2_128Concat"], |metadata| {
        hashers(metadata, "Commitments", "RevealedCommitments")[1] = StorageHasher::Blake2_128Concat;
    }),
    ("another type of values", &["SubtensorModule.Weights", "Vec<(u16, u16)>", "found: u64"], |metadata| {
        let now = value_of(metadata, "Timestamp", "Now");
        set_value(metadata, "SubtensorModule", "Weights", now);
    }),
    ("another type of an optional entry", &["SubnetEpochIndex", "expected: u64"], |metadata| {
        let weights = value_of(metadata, "SubtensorModule", "Weights");
        set_value(metadata, "SubtensorModule", "SubnetEpochIndex", weights);
    }),
    ("a plain entry that became a map", &["Timestamp.Now", "keys ()"], |metadata| {
        let ty = entry(metadata, "SubtensorModule", "Tempo").ty.clone();
        entry(metadata, "Timestamp", "Now").ty = ty;
    }),
    ("a missing entry", &["Commitments.CommitmentOf", "a storage entry"], |metadata| {
        let storage = pallet(metadata, "Commitments").storage.as_mut().expect("storage");
        storage.entries.retain(|entry| entry.name != "CommitmentOf");
    }),
    ("a renamed field of a value", &["Commitments.CommitmentOf", "height: u32"], |metadata| {
        let id = value_of(metadata, "Commitments", "CommitmentOf");
        field(metadata, id, "block").name = Some("height".into());
    }),
    ("a renamed field of an event", &["System.Events", "when: Phase"], |metadata| {
        let records = value_of(metadata, "System", "Events");
        let TypeDef::Sequence(sequence) = metadata.types.types[records as usize].ty.type_def.clone() else {
            return;
        };
        field(metadata, sequence.type_param.id, "phase").name = Some("when".into());
    }),
    (
        "a renamed field of an answer",
        &["get_metagraph", "hotkeys: Vec<[u8; 32]>", "no such field"],
        |metadata| {
            let id = metagraph(metadata);
            field(metadata, id, "hotkeys").name = Some("keys".into());
        },
    ),
    (
        "another type in an answer",
        &["get_metagraph", "total_stake: Vec<Compact<u64>>", "total_stake: Vec<bool>"],
        |metadata| {
            let id = metagraph(metadata);
            let other = field(metadata, id, "validator_permit").ty;
            field(metadata, id, "total_stake").ty = other;
        },
    ),
    (
        "swapped types in an answer",
        &["get_metagraph", "tempo: Compact<u16>", "tempo: Compact<u64>"],
        |metadata| {
            let id = metagraph(metadata);
            let (tempo, burn) = (field(metadata, id, "tempo").ty, field(metadata, id, "burn").ty);
            field(metadata, id, "tempo").ty = burn;
            field(metadata, id, "burn").ty = tempo;
        },
    ),
    ("a missing runtime API", &["get_metagraph", "a runtime API"], |metadata| {
        let api = metadata.apis.iter_mut().find(|api| api.name == "SubnetInfoRuntimeApi").expect("an API");
        api.methods.retain(|method| method.name != "get_metagraph");
    }),
    ("another argument of a runtime API", &["get_metagraph", "(u16)", "()"], |metadata| {
        method(metadata, "SubnetInfoRuntimeApi", "get_metagraph").inputs.clear();
    }),
    ("another answer of a runtime API", &["account_nonce", "expected: u32", "found: u64"], |metadata| {
        let now = value_of(metadata, "Timestamp", "Now");
        method(metadata, "AccountNonceApi", "account_nonce").output = now.into();
    }),
    ("a renamed form of commitment", &["TimelockEncrypted", "until: u64"], |metadata| {
        let variant =
            data(metadata).iter_mut().find(|variant| variant.name == "TimelockEncrypted").expect("a form");
        variant.fields[1].name = Some("until".into());
    }),
    ("a missing form of commitment", &["BigRaw(Vec<u8>)", "no such variant"], |metadata| {
        data(metadata).retain(|variant| variant.name != "BigRaw");
    }),
    ("an extension with data", &["extension DrandPriority", "no data", "u64"], |metadata| {
        let now = value_of(metadata, "Timestamp", "Now");
        *extension(metadata, "DrandPriority").0 = now;
    }),
    ("an extension with implicit data", &["extension CheckWeight", "no implicit data", "u64"], |metadata| {
        let now = value_of(metadata, "Timestamp", "Now");
        *extension(metadata, "CheckWeight").1 = now;
    }),
    ("another version of extrinsics", &["Extrinsic.versions", "[5]"], |metadata| {
        metadata.extrinsic.versions = vec![5];
    }),
];

#[test]
fn every_change_of_shape_is_refused_by_name() {
    assert!(MUTATIONS.len() >= 20);
    every_change_is_refused(&metadata::newest());
    if let Some(bytes) = fixture("finney-424.v16.scale") {
        every_change_is_refused(&bytes);
    }
}

fn every_change_is_refused(bytes: &[u8]) {
    for (what, words, mutate) in MUTATIONS {
        let whole = RuntimeMetadataPrefixed::decode(&mut &bytes[..]).expect("metadata");
        let RuntimeMetadata::V16(mut metadata) = whole.1 else { panic!("metadata of version 16") };
        mutate(&mut metadata);
        let changed = RuntimeMetadataPrefixed(whole.0, RuntimeMetadata::V16(metadata)).encode();
        assert_ne!(changed, bytes, "{what}");
        let error = check(&Metadata::decode_from(&changed).expect("metadata")).expect_err(what);
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Unsupported, Fault::Operator), "{what}");
        for word in *words {
            assert!(error.to_string().contains(word), "{what}: no `{word}` in {error}");
        }
    }
}

type Pallet = subxt::ext::frame_metadata::v16::PalletMetadata<PortableForm>;

fn pallet<'a>(metadata: &'a mut RuntimeMetadataV16, name: &str) -> &'a mut Pallet {
    metadata.pallets.iter_mut().find(|pallet| pallet.name == name).expect("a pallet")
}

fn entry<'a>(
    metadata: &'a mut RuntimeMetadataV16,
    of: &str,
    name: &str,
) -> &'a mut StorageEntryMetadata<PortableForm> {
    let storage = pallet(metadata, of).storage.as_mut().expect("storage");
    storage.entries.iter_mut().find(|entry| entry.name == name).expect("an entry")
}

fn hashers<'a>(metadata: &'a mut RuntimeMetadataV16, of: &str, name: &str) -> &'a mut Vec<StorageHasher> {
    match &mut entry(metadata, of, name).ty {
        StorageEntryType::Map { hashers, .. } => hashers,
        StorageEntryType::Plain(_) => panic!("{name} is no map"),
    }
}

fn value_of(metadata: &mut RuntimeMetadataV16, of: &str, name: &str) -> u32 {
    match &entry(metadata, of, name).ty {
        StorageEntryType::Map { value, .. } | StorageEntryType::Plain(value) => value.id,
    }
}

fn set_value(metadata: &mut RuntimeMetadataV16, of: &str, name: &str, id: u32) {
    match &mut entry(metadata, of, name).ty {
        StorageEntryType::Map { value, .. } | StorageEntryType::Plain(value) => *value = id.into(),
    }
}

fn variants(metadata: &mut RuntimeMetadataV16, id: u32) -> &mut Vec<Variant<PortableForm>> {
    match &mut metadata.types.types[id as usize].ty.type_def {
        TypeDef::Variant(variants) => &mut variants.variants,
        other => panic!("{other:?} has no variants"),
    }
}

fn call<'a>(metadata: &'a mut RuntimeMetadataV16, of: &str, name: &str) -> &'a mut Variant<PortableForm> {
    let id = pallet(metadata, of).calls.as_ref().expect("calls").ty.id;
    variants(metadata, id).iter_mut().find(|call| call.name == name).expect("a call")
}

fn argument<'a>(
    metadata: &'a mut RuntimeMetadataV16,
    name: &str,
    index: usize,
) -> &'a mut Field<PortableForm> {
    &mut call(metadata, "SubtensorModule", name).fields[index]
}

fn field<'a>(metadata: &'a mut RuntimeMetadataV16, id: u32, name: &str) -> &'a mut Field<PortableForm> {
    match &mut metadata.types.types[id as usize].ty.type_def {
        TypeDef::Composite(composite) => {
            composite.fields.iter_mut().find(|field| field.name.as_deref() == Some(name)).expect("a field")
        }
        other => panic!("{other:?} has no fields"),
    }
}

fn method<'a>(
    metadata: &'a mut RuntimeMetadataV16,
    of: &str,
    name: &str,
) -> &'a mut RuntimeApiMethodMetadata<PortableForm> {
    let api = metadata.apis.iter_mut().find(|api| api.name == of).expect("an API");
    api.methods.iter_mut().find(|method| method.name == name).expect("a method")
}

/// The type in the option that `get_metagraph` answers.
fn metagraph(metadata: &mut RuntimeMetadataV16) -> u32 {
    let option = method(metadata, "SubnetInfoRuntimeApi", "get_metagraph").output.id;
    variants(metadata, option)[1].fields[0].ty.id
}

/// The larger of two types of that name.
fn data(metadata: &mut RuntimeMetadataV16) -> &mut Vec<Variant<PortableForm>> {
    let named = metadata
        .types
        .types
        .iter()
        .filter(|ty| ty.ty.path.segments.last().is_some_and(|name| name == "Data"));
    let largest = named.max_by_key(|ty| match &ty.ty.type_def {
        TypeDef::Variant(variants) => variants.variants.len(),
        _ => 0,
    });
    let id = largest.expect("a type").id;
    variants(metadata, id)
}

/// An extension's types: its data's and its implicit data's.
fn extension<'a>(metadata: &'a mut RuntimeMetadataV16, name: &str) -> ExtensionTypes<'a> {
    let extensions = &mut metadata.extrinsic.transaction_extensions;
    let extension =
        extensions.iter_mut().find(|extension| extension.identifier == name).expect("an extension");
    ExtensionTypes(&mut extension.ty.id, &mut extension.implicit.id)
}

struct ExtensionTypes<'a>(&'a mut u32, &'a mut u32);
