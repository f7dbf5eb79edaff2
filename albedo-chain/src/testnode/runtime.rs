//! Encoding and decoding by a metadata file.

use parity_scale_codec::Encode;
use scale_info::{TypeDef, TypeDefPrimitive};
use subxt::ext::frame_decode;
use subxt::ext::scale_decode::DecodeAsType;
use subxt::ext::scale_encode::EncodeAsType;
use subxt::ext::scale_value::{Composite, Value};
use subxt::metadata::Metadata;

/// A runtime as its metadata describes it.
#[derive(Debug)]
pub(super) struct NodeRuntime {
    pub(super) bytes: Vec<u8>,
    pub(super) spec_version: u32,
    pub(super) metadata: Metadata,
}

/// An event: the extrinsic that it belongs to, its pallet, its value.
pub(super) type NodeEvent = (Option<u32>, &'static str, Value);

/// An extrinsic, decoded.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) pallet: String,
    pub(super) call: String,
    pub(super) arguments: Vec<(String, Value)>,
    pub(super) call_bytes: Vec<u8>,
    pub(super) address: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// Name and bytes of each extension's data, and the type of its implicit
    /// data.
    pub(super) extensions: Vec<(String, Vec<u8>)>,
}

impl NodeRuntime {
    /// # Panics
    /// Bytes that are no metadata.
    pub(super) fn new(bytes: &[u8], spec_version: u32) -> Self {
        let metadata = Metadata::decode_from(bytes);
        #[expect(clippy::expect_used, reason = "a node for tests")]
        let metadata = metadata.expect("metadata");
        Self { bytes: bytes.to_vec(), spec_version, metadata }
    }

    pub(super) fn has_storage(&self, pallet: &str, entry: &str) -> bool {
        let storage = self.metadata.pallet_by_name(pallet).and_then(|pallet| pallet.storage());
        storage.is_some_and(|storage| storage.entry_by_name(entry).is_some())
    }

    pub(super) fn has_event(&self, pallet: &str, event: &str) -> bool {
        let events = self.metadata.pallet_by_name(pallet).and_then(|pallet| pallet.event_variants());
        events.is_some_and(|events| events.iter().any(|variant| variant.name == event))
    }

    /// Whether this runtime counts epochs, or divides block numbers.
    pub(super) fn counts_epochs(&self) -> bool {
        self.has_storage("SubtensorModule", "SubnetEpochIndex")
    }

    pub(super) fn block_ms(&self) -> u64 {
        let pallet = self.metadata.pallet_by_name("Timestamp");
        let constant = pallet.and_then(|pallet| pallet.constant_by_name("MinimumPeriod"));
        let bytes = constant.map(|constant| constant.value().to_vec()).unwrap_or_default();
        bytes.first_chunk::<8>().map_or(12_000, |bytes| 2 * u64::from_le_bytes(*bytes))
    }

    pub(super) fn key(&self, pallet: &str, entry: &str, keys: Vec<Value>) -> Vec<u8> {
        let key = frame_decode::storage::encode_storage_key(
            pallet,
            entry,
            keys,
            &self.metadata,
            self.metadata.types(),
        );
        key.unwrap_or_else(|error| panic!("the key of {pallet}.{entry}: {error}"))
    }

    /// A value as the entry stores it.
    pub(super) fn stored(&self, pallet: &str, entry: &str, value: &Value) -> Vec<u8> {
        let storage = self.metadata.pallet_by_name(pallet).and_then(|pallet| pallet.storage());
        let entry_metadata = storage.and_then(|storage| storage.entry_by_name(entry));
        let ty = entry_metadata.unwrap_or_else(|| panic!("no entry {pallet}.{entry}")).value_ty();
        self.encode(ty, value)
    }

    /// What is stored, as a value.
    pub(super) fn loaded(&self, pallet: &str, entry: &str, bytes: &[u8]) -> Value {
        let storage = self.metadata.pallet_by_name(pallet).and_then(|pallet| pallet.storage());
        let entry_metadata = storage.and_then(|storage| storage.entry_by_name(entry));
        let ty = entry_metadata.unwrap_or_else(|| panic!("no entry {pallet}.{entry}")).value_ty();
        self.decode(ty, &mut &*bytes)
    }

    pub(super) fn encode(&self, ty: u32, value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        let done = value.encode_as_type_to(ty, self.metadata.types(), &mut bytes);
        done.unwrap_or_else(|error| panic!("{value:?} has not the type: {error}"));
        bytes
    }

    pub(super) fn decode(&self, ty: u32, bytes: &mut &[u8]) -> Value {
        Value::decode_as_type(bytes, ty, self.metadata.types())
            .unwrap_or_else(|error| panic!("no such value: {error}"))
    }

    /// The record of a block's events.
    pub(super) fn events(&self, events: &[NodeEvent]) -> Vec<u8> {
        let records = events.iter().map(|(extrinsic, pallet, event)| {
            let phase = match extrinsic {
                Some(index) => Value::unnamed_variant("ApplyExtrinsic", [Value::u128(u128::from(*index))]),
                None => Value::unnamed_variant("Initialization", []),
            };
            Value::named_composite([
                ("phase", phase),
                ("event", Value::unnamed_variant(*pallet, [event.clone()])),
                ("topics", Value::unnamed_composite([])),
            ])
        });
        self.stored("System", "Events", &Value::unnamed_composite(records))
    }

    /// The event that an extrinsic has succeeded.
    pub(super) fn succeeded(&self) -> Value {
        let info = self.dispatch_info("ExtrinsicSuccess");
        Value::named_variant("ExtrinsicSuccess", [("dispatch_info", info)])
    }

    /// The event that an extrinsic has failed with an error of a pallet.
    pub(super) fn failed(&self, pallet: &str, error: &str) -> Value {
        let found = self.metadata.pallet_by_name(pallet);
        let index = found.as_ref().map(subxt::metadata::PalletMetadata::error_index).unwrap_or_default();
        let variants = found.and_then(|pallet| pallet.error_variants()).unwrap_or_default();
        let variant = variants.iter().find(|variant| variant.name == error);
        let number = variant.unwrap_or_else(|| panic!("{pallet} has no error {error}")).index;
        let module = Value::named_composite([
            ("index", Value::u128(u128::from(index))),
            ("error", Value::from_bytes([number, 0, 0, 0])),
        ]);
        let info = self.dispatch_info("ExtrinsicFailed");
        Value::named_variant(
            "ExtrinsicFailed",
            [("dispatch_error", Value::unnamed_variant("Module", [module])), ("dispatch_info", info)],
        )
    }

    /// What an event of the pallet `System` says about costs: nothing.
    fn dispatch_info(&self, event: &str) -> Value {
        let system = self.metadata.pallet_by_name("System").and_then(|pallet| pallet.event_variants());
        let variant = system.unwrap_or_default().iter().find(|variant| variant.name == event);
        let field = variant.and_then(|variant| {
            variant.fields.iter().find(|field| field.name.as_deref() == Some("dispatch_info"))
        });
        let field = field.unwrap_or_else(|| panic!("{event} has no `dispatch_info`"));
        self.empty(field.ty.id)
    }

    /// The name and types of a runtime API's call: its inputs, its output.
    pub(super) fn api(&self, name: &str) -> Option<(Vec<u32>, u32)> {
        self.metadata.runtime_api_traits().find_map(|api| {
            let method = name.strip_prefix(api.name())?.strip_prefix('_')?;
            let method = api.method_by_name(method)?;
            Some((method.inputs().map(|input| input.id).collect(), method.output_ty()))
        })
    }

    /// A value of the type in which everything is zero, empty or absent.
    pub(super) fn empty(&self, ty: u32) -> Value {
        let Some(found) = self.metadata.types().resolve(ty) else { return Value::unnamed_composite([]) };
        match &found.type_def {
            TypeDef::Primitive(TypeDefPrimitive::Bool) => Value::bool(false),
            TypeDef::Primitive(TypeDefPrimitive::Str) => Value::string(""),
            TypeDef::Primitive(TypeDefPrimitive::Char) => Value::char(' '),
            TypeDef::Primitive(
                TypeDefPrimitive::I8
                | TypeDefPrimitive::I16
                | TypeDefPrimitive::I32
                | TypeDefPrimitive::I64
                | TypeDefPrimitive::I128
                | TypeDefPrimitive::I256,
            ) => Value::i128(0),
            TypeDef::Primitive(_) => Value::u128(0),
            TypeDef::Compact(compact) => self.empty(compact.type_param.id),
            TypeDef::Sequence(_) | TypeDef::BitSequence(_) => Value::unnamed_composite([]),
            TypeDef::Array(array) => {
                let one = self.empty(array.type_param.id);
                Value::unnamed_composite((0..array.len).map(|_| one.clone()))
            }
            TypeDef::Tuple(tuple) => {
                Value::unnamed_composite(tuple.fields.iter().map(|field| self.empty(field.id)))
            }
            TypeDef::Composite(composite) => {
                Value::without_context(subxt::ext::scale_value::ValueDef::Composite(
                    self.fields(composite.fields.iter().map(|field| (field.name.clone(), field.ty.id))),
                ))
            }
            TypeDef::Variant(variants) => match variants.variants.first() {
                Some(first) => Value::without_context(subxt::ext::scale_value::ValueDef::Variant(
                    subxt::ext::scale_value::Variant {
                        name: first.name.clone(),
                        values: self
                            .fields(first.fields.iter().map(|field| (field.name.clone(), field.ty.id))),
                    },
                )),
                None => Value::unnamed_composite([]),
            },
        }
    }

    fn fields(&self, fields: impl Iterator<Item = (Option<String>, u32)>) -> Composite<()> {
        let fields: Vec<_> = fields.map(|(name, ty)| (name, self.empty(ty))).collect();
        if fields.iter().any(|(name, _)| name.is_none()) {
            return Composite::Unnamed(fields.into_iter().map(|(_, value)| value).collect());
        }
        Composite::Named(fields.into_iter().map(|(name, value)| (name.unwrap_or_default(), value)).collect())
    }

    /// Decodes an extrinsic; `None` for what is none of this runtime's.
    pub(super) fn extrinsic(&self, bytes: &[u8]) -> Option<Decoded> {
        let types = self.metadata.types();
        let cursor = &mut &*bytes;
        let found = frame_decode::extrinsics::decode_extrinsic(cursor, &self.metadata, types).ok()?;
        if !cursor.is_empty() {
            return None;
        }
        let signature = found.signature_payload()?;
        let extensions = found.transaction_extension_payload()?;
        let arguments = found.call_data().map(|argument| {
            let mut bytes = &bytes[argument.range()];
            (argument.name().to_owned(), self.decode(*argument.ty(), &mut bytes))
        });
        Some(Decoded {
            pallet: found.pallet_name().to_owned(),
            call: found.call_name().to_owned(),
            arguments: arguments.collect(),
            call_bytes: bytes[found.call_data_range()].to_vec(),
            address: bytes[signature.address_range()].to_vec(),
            signature: bytes[signature.signature_range()].to_vec(),
            extensions: extensions
                .iter()
                .map(|extension| (extension.name().to_owned(), bytes[extension.range()].to_vec()))
                .collect(),
        })
    }

    /// The implicit data of every extension, in order.
    pub(super) fn implicit(&self, genesis: [u8; 32], birth: [u8; 32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for extension in self.metadata.extrinsic().transaction_extensions_to_use_for_encoding() {
            match extension.identifier() {
                "CheckSpecVersion" => self.spec_version.encode_to(&mut bytes),
                "CheckTxVersion" => 1_u32.encode_to(&mut bytes),
                "CheckGenesis" => bytes.extend(genesis),
                "CheckMortality" => bytes.extend(birth),
                // No metadata hash.
                "CheckMetadataHash" => bytes.push(0),
                _ => {}
            }
        }
        bytes
    }

    /// The answer of `Core_version`.
    pub(super) fn version(&self) -> Vec<u8> {
        (
            "node-subtensor",
            "node-subtensor",
            1_u32,
            self.spec_version,
            1_u32,
            Vec::<([u8; 8], u32)>::new(),
            1_u32,
            1_u8,
        )
            .encode()
    }
}
