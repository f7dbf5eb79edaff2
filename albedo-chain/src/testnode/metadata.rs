//! Small metadata of the node's own: what this crate uses of a runtime, and
//! nothing else. Tests that need no particular runtime need no file.

use std::collections::BTreeMap;

use parity_scale_codec::{Compact, Encode};
use scale_info::form::PortableForm;
use scale_info::{
    Field, Path, PortableRegistryBuilder, Type, TypeDef, TypeDefArray, TypeDefCompact, TypeDefComposite,
    TypeDefPrimitive, TypeDefSequence, TypeDefTuple, TypeDefVariant, Variant,
};
use subxt::ext::frame_metadata::v16::{
    CustomMetadata, EnumDeprecationInfo, ExtrinsicMetadata, FunctionParamMetadata, ItemDeprecationInfo,
    OuterEnums, PalletCallMetadata, PalletConstantMetadata, PalletErrorMetadata, PalletEventMetadata,
    PalletMetadata, PalletStorageMetadata, RuntimeApiMetadata, RuntimeApiMethodMetadata, RuntimeMetadataV16,
    StorageEntryMetadata, StorageEntryModifier, StorageEntryType, StorageHasher,
    TransactionExtensionMetadata,
};
use subxt::ext::frame_metadata::{RuntimeMetadata, RuntimeMetadataPrefixed};

/// What metadata begins with: "meta".
const MAGIC: u32 = 0x6174_656d;

/// Milliseconds of half a block (`Timestamp.MinimumPeriod`).
const HALF_BLOCK: u64 = 6000;

/// Metadata with the newest forms of calls and state: mechanisms, counted
/// epochs, null consensus, failed reveals.
pub fn newest() -> Vec<u8> {
    runtime(true)
}

/// Metadata with the oldest forms that the client knows: `CRv3` commits, epochs
/// that follow from block numbers, registration at any price. Its pallets have
/// other numbers, so that a client that takes it for the newest reads wrong values.
pub fn oldest() -> Vec<u8> {
    runtime(false)
}

/// Errors of the pallet `SubtensorModule`.
const ERRORS: [&str; 16] = [
    "SubNetworkDoesNotExist",
    "HotKeyNotRegisteredInSubNet",
    "NeuronNoValidatorPermit",
    "WeightVecNotEqualSize",
    "UidVecContainInvalidOne",
    "WeightVecLengthIsLow",
    "SettingWeightsTooFast",
    "IncorrectWeightVersionKey",
    "HotKeyAlreadyRegisteredInSubNet",
    "MechanismDoesNotExist",
    "CommitRevealEnabled",
    "CommitRevealDisabled",
    "CommittingWeightsTooFast",
    "IncorrectCommitRevealVersion",
    "RegistrationPriceLimitExceeded",
    "CallDisabled",
];

/// Extensions in runtime 424's order; the type of each one's data and implicit
/// data is in [`extension`].
const EXTENSIONS: [&str; 13] = [
    "CheckNonZeroSender",
    "CheckSpecVersion",
    "CheckTxVersion",
    "CheckGenesis",
    "CheckMortality",
    "CheckNonce",
    "CheckWeight",
    "ChargeTransactionPayment",
    "SudoTransactionExtension",
    "CheckShieldedTxValidity",
    "SubtensorTransactionExtension",
    "DrandPriority",
    "CheckMetadataHash",
];

fn runtime(newest: bool) -> Vec<u8> {
    let mut types = Types::new();
    let first = u8::from(!newest);
    let pallets = vec![
        system(&mut types, first),
        timestamp(&types, first + 2),
        subtensor(&mut types, first + 7, newest),
        commitments(&mut types, first + 18, newest),
    ];
    let outer = |types: &mut Types, name: &str, part: &dyn Fn(&Pallet) -> Option<u32>| {
        let variants = pallets
            .iter()
            .filter_map(|pallet| Some((pallet.name.clone(), pallet.index, vec![(None, part(pallet)?)])));
        let variants = variants.collect();
        types.choice(&["runtime", name], variants)
    };
    let event = outer(&mut types, "RuntimeEvent", &|pallet| Some(pallet.event.as_ref()?.ty.id));
    let call = outer(&mut types, "RuntimeCall", &|pallet| Some(pallet.calls.as_ref()?.ty.id));
    let error = outer(&mut types, "RuntimeError", &|pallet| Some(pallet.error.as_ref()?.ty.id));
    let mut pallets = pallets;
    pallets[0].storage = Some(events(&mut types, event));
    let extrinsic = extrinsic(&mut types, call);
    let apis = apis(&mut types, newest);
    let metadata = RuntimeMetadataV16 {
        types: types.builder.finish(),
        pallets,
        extrinsic,
        apis,
        outer_enums: OuterEnums {
            call_enum_ty: call.into(),
            event_enum_ty: event.into(),
            error_enum_ty: error.into(),
        },
        custom: CustomMetadata { map: BTreeMap::new() },
    };
    RuntimeMetadataPrefixed(MAGIC, RuntimeMetadata::V16(metadata)).encode()
}

type Pallet = PalletMetadata<PortableForm>;
type Storage = StorageEntryMetadata<PortableForm>;

fn system(types: &mut Types, index: u8) -> Pallet {
    let (byte, bytes) = (types.u8, types.array(4));
    let module = types.record("ModuleError", &[("index", byte), ("error", bytes)]);
    let error = types.choice(
        &["sp_runtime", "DispatchError"],
        vec![variant("Other", 0, &[]), variant("BadOrigin", 2, &[]), tuple_variant("Module", 3, &[module])],
    );
    let info = types.record("DispatchEventInfo", &[("weight", types.u64), ("pays_fee", types.bool)]);
    let event = types.choice(
        &["system", "Event"],
        vec![
            variant("ExtrinsicSuccess", 0, &[("dispatch_info", info)]),
            variant("ExtrinsicFailed", 1, &[("dispatch_error", error), ("dispatch_info", info)]),
        ],
    );
    pallet("System", index, vec![], None, Some(event), None)
}

/// The storage of `System`, which needs to know every event.
fn events(types: &mut Types, event: u32) -> PalletStorageMetadata<PortableForm> {
    let phase = types.choice(
        &["system", "Phase"],
        vec![
            tuple_variant("ApplyExtrinsic", 0, &[types.u32]),
            variant("Finalization", 1, &[]),
            variant("Initialization", 2, &[]),
        ],
    );
    let topics = types.list(types.hash);
    let record = types.record("EventRecord", &[("phase", phase), ("event", event), ("topics", topics)]);
    let records = types.list(record);
    let entries = vec![plain("Events", records, &Vec::<u8>::new())];
    PalletStorageMetadata { prefix: "System".into(), entries }
}

fn timestamp(types: &Types, index: u8) -> Pallet {
    let mut pallet = pallet("Timestamp", index, vec![plain("Now", types.u64, &0_u64)], None, None, None);
    pallet.constants = vec![PalletConstantMetadata {
        name: "MinimumPeriod".into(),
        ty: types.u64.into(),
        value: HALF_BLOCK.encode(),
        docs: vec![],
        deprecation_info: ItemDeprecationInfo::NotDeprecated,
    }];
    pallet
}

fn subtensor(types: &mut Types, index: u8, newest: bool) -> Pallet {
    use StorageHasher::{Identity, Twox64Concat};
    let (netuid, account, hash) = (types.netuid, types.account, types.hash);
    let (byte, short, long) = (types.u8, types.u16, types.u64);
    let pair = types.tuple(&[short, short]);
    let pairs = types.list(pair);
    let (shorts, bytes) = (types.list(short), types.list(byte));
    let slot = types.tuple(&[netuid, short]);
    let mut entries = vec![
        map("Weights", &[Identity, Identity], slot, pairs, &Vec::<u8>::new()),
        map("NetworksAdded", &[Identity], netuid, types.bool, &false),
        map("Tempo", &[Identity], netuid, short, &360_u16),
    ];
    let epoch = types.tuple(&[netuid, long]);
    if newest {
        let consensus = types.choice(
            &["subtensor", "SubnetEpochConsensus"],
            vec![variant("Yuma", 0, &[]), variant("Null", 1, &[])],
        );
        let commit = types.tuple(&[account, long, bytes, long]);
        let commits = types.list(commit);
        entries.extend([
            map("SubnetEpochIndex", &[Identity], netuid, long, &0_u64),
            map("SubnetEpochConsensus", &[Identity], netuid, consensus, &0_u8),
            plain("CommitRevealWeightsVersion", short, &4_u16),
            map("TimelockedWeightCommits", &[Twox64Concat, Twox64Concat], epoch, commits, &Vec::<u8>::new()),
        ]);
    } else {
        let commit = types.tuple(&[account, bytes, long]);
        let commits = types.list(commit);
        entries.push(map(
            "CRV3WeightCommits",
            &[Twox64Concat, Twox64Concat],
            epoch,
            commits,
            &Vec::<u8>::new(),
        ));
    }
    let (subnet, mechanism) = (("netuid", netuid), ("mecid", byte));
    let weights = [("dests", shorts), ("weights", shorts), ("version_key", long)];
    let sealed = [("commit", bytes), ("reveal_round", long)];
    let version = ("commit_reveal_version", short);
    let calls = if newest {
        vec![
            variant("set_weights", 0, &[&[subnet][..], &weights].concat()),
            variant("burned_register", 7, &[subnet, ("hotkey", account)]),
            variant("commit_timelocked_weights", 113, &[&[subnet][..], &sealed, &[version]].concat()),
            variant(
                "commit_timelocked_mechanism_weights",
                118,
                &[&[subnet, mechanism][..], &sealed, &[version]].concat(),
            ),
            variant("set_mechanism_weights", 119, &[&[subnet, mechanism][..], &weights].concat()),
            variant("register_limit", 134, &[subnet, ("hotkey", account), ("limit_price", long)]),
        ]
    } else {
        vec![
            variant("set_weights", 0, &[&[subnet][..], &weights].concat()),
            variant("burned_register", 7, &[subnet, ("hotkey", account)]),
            variant("commit_crv3_weights", 99, &[&[subnet][..], &sealed].concat()),
        ]
    };
    let mut events = vec![
        tuple_variant("WeightsSet", 0, &[netuid, short]),
        tuple_variant("NeuronRegistered", 1, &[netuid, short, account]),
    ];
    events.extend(if newest {
        [
            tuple_variant("TimelockedWeightsCommitted", 2, &[account, netuid, hash, long]),
            tuple_variant("TimelockedWeightsRevealed", 3, &[netuid, account]),
        ]
    } else {
        [
            tuple_variant("CRV3WeightsCommitted", 2, &[account, netuid, hash]),
            tuple_variant("CRV3WeightsRevealed", 3, &[netuid, account]),
        ]
    });
    let errors = ERRORS.iter().enumerate().map(|(index, name)| variant(name, index as u8, &[])).collect();
    let calls = types.choice(&["subtensor", "Call"], calls);
    let event = types.choice(&["subtensor", "Event"], events);
    let error = types.choice(&["subtensor", "Error"], errors);
    pallet("SubtensorModule", index, entries, Some(calls), Some(event), Some(error))
}

fn commitments(types: &mut Types, index: u8, newest: bool) -> Pallet {
    use StorageHasher::{Identity, Twox64Concat};
    let (netuid, account, long) = (types.netuid, types.account, types.u64);
    let bytes = types.list(types.u8);
    let bounded = types.newtype("BoundedVec", bytes);
    let mut forms = vec![variant("None", 0, &[])];
    for length in 0..=128_u8 {
        let raw = types.array(u32::from(length));
        forms.push(tuple_variant(&format!("Raw{length}"), length + 1, &[raw]));
    }
    let hash = types.array(32);
    for (offset, name) in ["BlakeTwo256", "Sha256", "Keccak256", "ShaThree256"].iter().enumerate() {
        forms.push(tuple_variant(name, 130 + offset as u8, &[hash]));
    }
    let sealed = [("encrypted", bounded), ("reveal_round", long)];
    forms.push(variant("TimelockEncrypted", 134, &sealed));
    forms.push(variant("ResetBondsFlag", 135, &[]));
    forms.push(tuple_variant("BigRaw", 136, &[bounded]));
    if newest {
        forms.push(variant("TimelockRevealFailed", 137, &sealed));
    }
    let data = types.choice(&["commitments", "Data"], forms);
    let list = types.list(data);
    let fields = types.newtype("BoundedVec", list);
    let info = types.record("CommitmentInfo", &[("fields", fields)]);
    let registration = [("deposit", long), ("block", types.u32), ("info", info)];
    let registration = types.record("Registration", &registration);
    let revealed = types.tuple(&[bytes, long]);
    let revealed = types.list(revealed);
    let slot = types.tuple(&[netuid, account]);
    let mut standing = map("CommitmentOf", &[Identity, Twox64Concat], slot, registration, &());
    standing.modifier = StorageEntryModifier::Optional;
    let entries = vec![
        standing,
        map("RevealedCommitments", &[Identity, Twox64Concat], slot, revealed, &Vec::<u8>::new()),
    ];
    let calls = vec![variant("set_commitment", 0, &[("netuid", netuid), ("info", info)])];
    let calls = types.choice(&["commitments", "Call"], calls);
    let who = [("netuid", netuid), ("who", account)];
    let mut events = vec![
        variant("Commitment", 0, &who),
        variant("TimelockCommitment", 1, &[&who[..], &[("reveal_round", long)]].concat()),
        variant("CommitmentRevealed", 2, &who),
    ];
    if newest {
        events.push(variant("CommitmentRevealFailed", 3, &who));
    }
    let event = types.choice(&["commitments", "Event"], events);
    let errors = vec![variant("AccountNotAllowedCommit", 0, &[]), variant("SpaceLimitExceeded", 1, &[])];
    let error = types.choice(&["commitments", "Error"], errors);
    pallet("Commitments", index, entries, Some(calls), Some(event), Some(error))
}

fn extrinsic(types: &mut Types, call: u32) -> ExtrinsicMetadata<PortableForm> {
    let (account, bytes) = (types.account, types.list(types.u8));
    let address = types.choice(
        &["multiaddress", "MultiAddress"],
        vec![tuple_variant("Id", 0, &[account]), tuple_variant("Raw", 2, &[bytes])],
    );
    let (short, long) = (types.array(64), types.array(65));
    let signature = types.choice(
        &["sp_runtime", "MultiSignature"],
        vec![
            tuple_variant("Ed25519", 0, &[short]),
            tuple_variant("Sr25519", 1, &[short]),
            tuple_variant("Ecdsa", 2, &[long]),
        ],
    );
    let transaction_extensions = EXTENSIONS.map(|name| {
        let (ty, implicit) = extension(types, name);
        TransactionExtensionMetadata { identifier: name.into(), ty: ty.into(), implicit: implicit.into() }
    });
    let order = (0..EXTENSIONS.len() as u32).map(Compact).collect();
    ExtrinsicMetadata {
        versions: vec![4],
        address_ty: address.into(),
        call_ty: call.into(),
        signature_ty: signature.into(),
        transaction_extensions_by_version: BTreeMap::from([(0, order)]),
        transaction_extensions: transaction_extensions.into(),
    }
}

/// Types of an extension's data and implicit data.
fn extension(types: &mut Types, name: &str) -> (u32, u32) {
    let nothing = types.unit;
    match name {
        "CheckSpecVersion" | "CheckTxVersion" => (nothing, types.u32),
        "CheckGenesis" => (nothing, types.hash),
        "CheckMortality" => {
            let mut eras = vec![variant("Immortal", 0, &[])];
            eras.extend(
                (1..=255).map(|index: u8| tuple_variant(&format!("Mortal{index}"), index, &[types.u8])),
            );
            (types.choice(&["sp_runtime", "generic", "era", "Era"], eras), types.hash)
        }
        "CheckNonce" => (types.compact(types.u32), nothing),
        "ChargeTransactionPayment" => (types.compact(types.u64), nothing),
        "CheckMetadataHash" => {
            let modes = vec![variant("Disabled", 0, &[]), variant("Enabled", 1, &[])];
            let mode = types.choice(&["check_metadata_hash", "Mode"], modes);
            let hash = types.array(32);
            (types.record("CheckMetadataHash", &[("mode", mode)]), types.option(hash))
        }
        _ => (nothing, nothing),
    }
}

fn apis(types: &mut Types, newest: bool) -> Vec<RuntimeApiMetadata<PortableForm>> {
    let (netuid, account) = (types.netuid, types.account);
    let (short, long) = (types.compact(types.u16), types.compact(types.u64));
    let (accounts, permits, longs) = (types.list(account), types.list(types.bool), types.list(long));
    let metagraph = types.record(
        "Metagraph",
        &[
            ("netuid", short),
            ("tempo", short),
            ("min_allowed_weights", short),
            ("max_weights_limit", short),
            ("weights_version", long),
            ("weights_rate_limit", long),
            ("burn", long),
            ("commit_reveal_weights_enabled", types.bool),
            ("commit_reveal_period", long),
            ("num_uids", short),
            ("hotkeys", accounts),
            ("coldkeys", accounts),
            ("validator_permit", permits),
            ("last_update", longs),
            ("block_at_registration", longs),
            ("total_stake", longs),
        ],
    );
    let (metagraph, block) = (types.option(metagraph), types.option(types.u64));
    let mut methods = vec![method("get_metagraph", ("netuid", netuid), metagraph)];
    if newest {
        methods.push(method("get_next_epoch_start_block", ("netuid", netuid), block));
    }
    let api = |name: &str, methods| RuntimeApiMetadata {
        name: name.into(),
        methods,
        docs: vec![],
        version: Compact(1),
        deprecation_info: ItemDeprecationInfo::NotDeprecated,
    };
    let nonce = method("account_nonce", ("account", account), types.u32);
    vec![api("SubnetInfoRuntimeApi", methods), api("AccountNonceApi", vec![nonce])]
}

fn method(name: &str, input: (&str, u32), output: u32) -> RuntimeApiMethodMetadata<PortableForm> {
    RuntimeApiMethodMetadata {
        name: name.into(),
        inputs: vec![FunctionParamMetadata { name: input.0.into(), ty: input.1.into() }],
        output: output.into(),
        docs: vec![],
        deprecation_info: ItemDeprecationInfo::NotDeprecated,
    }
}

fn pallet(
    name: &str,
    index: u8,
    entries: Vec<Storage>,
    calls: Option<u32>,
    event: Option<u32>,
    error: Option<u32>,
) -> Pallet {
    let storage = (!entries.is_empty()).then(|| PalletStorageMetadata { prefix: name.into(), entries });
    PalletMetadata {
        name: name.into(),
        storage,
        calls: calls.map(|ty| PalletCallMetadata {
            ty: ty.into(),
            deprecation_info: EnumDeprecationInfo::nothing_deprecated(),
        }),
        event: event.map(|ty| PalletEventMetadata {
            ty: ty.into(),
            deprecation_info: EnumDeprecationInfo::nothing_deprecated(),
        }),
        constants: vec![],
        error: error.map(|ty| PalletErrorMetadata {
            ty: ty.into(),
            deprecation_info: EnumDeprecationInfo::nothing_deprecated(),
        }),
        associated_types: vec![],
        view_functions: vec![],
        index,
        docs: vec![],
        deprecation_info: ItemDeprecationInfo::NotDeprecated,
    }
}

fn plain(name: &str, value: u32, default: &impl Encode) -> Storage {
    entry(name, StorageEntryType::Plain(value.into()), default)
}

fn map(name: &str, hashers: &[StorageHasher], key: u32, value: u32, default: &impl Encode) -> Storage {
    let ty = StorageEntryType::Map { hashers: hashers.to_vec(), key: key.into(), value: value.into() };
    entry(name, ty, default)
}

fn entry(name: &str, ty: StorageEntryType<PortableForm>, default: &impl Encode) -> Storage {
    StorageEntryMetadata {
        name: name.into(),
        modifier: StorageEntryModifier::Default,
        ty,
        default: default.encode(),
        docs: vec![],
        deprecation_info: ItemDeprecationInfo::NotDeprecated,
    }
}

/// A variant: name, index, and names (or none) and types of its fields.
type Choice = (String, u8, Vec<(Option<String>, u32)>);

fn variant(name: &str, index: u8, fields: &[(&str, u32)]) -> Choice {
    let fields = fields.iter().map(|(name, ty)| (Some((*name).to_owned()), *ty));
    (name.to_owned(), index, fields.collect())
}

fn tuple_variant(name: &str, index: u8, fields: &[u32]) -> Choice {
    (name.to_owned(), index, fields.iter().map(|ty| (None, *ty)).collect())
}

/// Types by number; those that are needed everywhere have names.
struct Types {
    builder: PortableRegistryBuilder,
    bool: u32,
    u8: u32,
    u16: u32,
    u32: u32,
    u64: u32,
    unit: u32,
    account: u32,
    hash: u32,
    netuid: u32,
}

impl Types {
    fn new() -> Self {
        let builder = PortableRegistryBuilder::new();
        let mut types =
            Self { builder, bool: 0, u8: 0, u16: 0, u32: 0, u64: 0, unit: 0, account: 0, hash: 0, netuid: 0 };
        types.bool = types.add(&[], TypeDefPrimitive::Bool);
        types.u8 = types.add(&[], TypeDefPrimitive::U8);
        types.u16 = types.add(&[], TypeDefPrimitive::U16);
        types.u32 = types.add(&[], TypeDefPrimitive::U32);
        types.u64 = types.add(&[], TypeDefPrimitive::U64);
        types.unit = types.tuple(&[]);
        let key = types.array(32);
        types.account = types.newtype("AccountId32", key);
        types.hash = types.newtype("H256", key);
        types.netuid = types.newtype("NetUid", types.u16);
        types
    }

    fn add(&mut self, path: &[&str], definition: impl Into<TypeDef<PortableForm>>) -> u32 {
        let path = Path::from_segments_unchecked(path.iter().map(|segment| (*segment).to_owned()));
        self.builder.register_type(Type::new(path, vec![], definition, vec![]))
    }

    fn array(&mut self, length: u32) -> u32 {
        let byte = self.u8.into();
        self.add(&[], TypeDefArray::new(length, byte))
    }

    fn list(&mut self, of: u32) -> u32 {
        self.add(&[], TypeDefSequence::new(of.into()))
    }

    fn compact(&mut self, of: u32) -> u32 {
        self.add(&[], TypeDefCompact::new(of.into()))
    }

    fn tuple(&mut self, parts: &[u32]) -> u32 {
        self.add(&[], TypeDefTuple::new_portable(parts.iter().map(|part| (*part).into())))
    }

    fn newtype(&mut self, name: &str, of: u32) -> u32 {
        self.add(&[name], TypeDefComposite::new([field(None, of)]))
    }

    fn record(&mut self, name: &str, fields: &[(&str, u32)]) -> u32 {
        let fields = fields.iter().map(|(name, ty)| field(Some((*name).to_owned()), *ty));
        self.add(&[name], TypeDefComposite::new(fields))
    }

    fn option(&mut self, of: u32) -> u32 {
        self.choice(&["Option"], vec![variant("None", 0, &[]), tuple_variant("Some", 1, &[of])])
    }

    fn choice(&mut self, path: &[&str], variants: Vec<Choice>) -> u32 {
        let variants = variants.into_iter().map(|(name, index, fields)| {
            let fields = fields.into_iter().map(|(name, ty)| field(name, ty)).collect();
            Variant { name, fields, index, docs: vec![] }
        });
        self.add(path, TypeDefVariant::new(variants))
    }
}

fn field(name: Option<String>, ty: u32) -> Field<PortableForm> {
    Field { name, ty: ty.into(), type_name: None, docs: vec![] }
}
