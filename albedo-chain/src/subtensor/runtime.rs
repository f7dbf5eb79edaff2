//! One runtime of the chain: its metadata, and everything that is encoded and
//! decoded by it.

use std::fmt;

use albedo_core::chain::BlockHash;
use albedo_core::{Error, ErrorKind, Fault, Result};
use parity_scale_codec::{Decode, Encode};
use subxt::client::{OfflineClient, OfflineClientAtBlock};
use subxt::config::substrate::{SpecVersionForRange, SubstrateConfig};
use subxt::config::{DefaultExtrinsicParams, DefaultExtrinsicParamsBuilder};
use subxt::ext::frame_decode;
use subxt::ext::scale_decode::DecodeAsType;
use subxt::ext::scale_value::{Composite, Value};
use subxt::metadata::{ArcMetadata, Metadata};
use subxt::utils::{AccountId32, H256, MultiSignature};

use super::shapes;
use crate::journal::Account;

/// Subtensor's flavour of Substrate is the stock one.
pub(super) type Substrate = SubstrateConfig;

/// Pallet and entry, call or constant.
pub(super) type Item = (&'static str, &'static str);

/// A runtime, checked against the shapes that this client knows.
pub(super) struct Runtime {
    pub(super) spec_version: u32,
    pub(super) metadata: ArcMetadata,
    client: OfflineClientAtBlock<Substrate>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("spec_version", &self.spec_version).finish_non_exhaustive()
    }
}

/// What the chain calls its runtime, as far as it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) spec: u32,
    pub(super) transaction: u32,
}

impl Version {
    /// Reads the answer of `Core_version`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        type Header = (String, String, u32, u32, u32, Vec<([u8; 8], u32)>, u32);
        let (_, _, _, spec, _, _, transaction) = Header::decode(&mut &*bytes).map_err(|error| {
            Error::new(ErrorKind::Protocol, "read the runtime's version", error.to_string())
        })?;
        Ok(Self { spec, transaction })
    }
}

/// What an extrinsic is signed with, besides its call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    pub(super) nonce: u64,
    pub(super) birth: u64,
    pub(super) birth_hash: BlockHash,
    /// A power of two.
    pub(super) period: u64,
}

impl Runtime {
    /// The runtime with this metadata.
    ///
    /// # Errors
    /// Metadata that cannot be read, or whose shapes this client does not
    /// know: pallet, item, what was expected and what was found.
    pub(super) fn new(version: Version, genesis: BlockHash, metadata: &[u8]) -> Result<Self> {
        const OPERATION: &str = "read the runtime's metadata";
        let failed = |error: String| {
            Error::new(ErrorKind::Unsupported, OPERATION, error)
                .with_fault(Fault::Operator)
                .with("spec_version", version.spec)
        };
        let metadata = Metadata::decode_from(metadata).map_err(|error| failed(error.to_string()))?;
        shapes::check(&metadata).map_err(|error| error.with("spec_version", version.spec))?;
        let metadata = metadata.arc();
        let config = SubstrateConfig::builder()
            .set_genesis_hash(H256(genesis.0))
            .set_metadata_for_spec_versions([(version.spec, ArcMetadata::clone(&metadata))])
            .set_spec_version_for_block_ranges([SpecVersionForRange {
                block_range: 0..u64::MAX,
                spec_version: version.spec,
                transaction_version: version.transaction,
            }])
            .build();
        let client = OfflineClient::new_with_config(config)
            .at_block(1_u64)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { spec_version: version.spec, metadata, client })
    }

    /// Whether the runtime has this storage entry.
    pub(super) fn has_storage(&self, (pallet, entry): Item) -> bool {
        let storage = self.metadata.pallet_by_name(pallet).and_then(|pallet| pallet.storage());
        storage.is_some_and(|storage| storage.entry_by_name(entry).is_some())
    }

    /// Whether the runtime has this call.
    pub(super) fn has_call(&self, (pallet, call): Item) -> bool {
        self.metadata.pallet_by_name(pallet).is_some_and(|pallet| pallet.call_variant_by_name(call).is_some())
    }

    /// Whether the runtime has this method of a runtime API.
    pub(super) fn has_api(&self, (api, method): Item) -> bool {
        self.metadata.runtime_api_trait_by_name(api).is_some_and(|api| api.method_by_name(method).is_some())
    }

    /// The key of a storage entry, or the prefix of all with these first keys.
    pub(super) fn key(&self, item: Item, keys: Vec<Value>) -> Result<Vec<u8>> {
        let types = self.metadata.types();
        frame_decode::storage::encode_storage_key(item.0, item.1, keys, &*self.metadata, types)
            .map_err(|error| coding(item, &error))
    }

    /// The value of a storage entry; the entry's default where there is none.
    pub(super) fn value<T: DecodeAsType>(&self, item: Item, bytes: Option<&[u8]>) -> Result<T> {
        let info = self.storage_info(item)?;
        let default = info.default_value.as_deref();
        let Some(mut bytes) = bytes.or(default) else {
            return Err(Error::new(ErrorKind::NotFound, "read the chain's state", "it has no such value")
                .with("item", format!("{}.{}", item.0, item.1)));
        };
        let value = T::decode_as_type(&mut bytes, info.value_id, self.metadata.types())
            .map_err(|error| coding(item, &error))?;
        if bytes.is_empty() { Ok(value) } else { Err(coding(item, &"bytes are left over")) }
    }

    /// The last of a key's parts, where its hasher keeps it.
    pub(super) fn last_key<T: DecodeAsType>(&self, item: Item, key: &[u8]) -> Result<T> {
        let info = self.storage_info(item)?;
        let types = self.metadata.types();
        let decoded = frame_decode::storage::decode_storage_key_with_info(&mut &*key, &info, types)
            .map_err(|error| coding(item, &error))?;
        let part = decoded.parts().last().and_then(|part| part.value().cloned());
        let part = part.ok_or_else(|| coding(item, &"its hasher does not keep the key"))?;
        let mut bytes = key.get(part.range()).unwrap_or_default();
        T::decode_as_type(&mut bytes, *part.ty(), types).map_err(|error| coding(item, &error))
    }

    /// A constant of a pallet.
    pub(super) fn constant<T: DecodeAsType>(&self, item: Item) -> Result<T> {
        let constant =
            self.metadata.pallet_by_name(item.0).and_then(|pallet| pallet.constant_by_name(item.1));
        let constant = constant.ok_or_else(|| coding(item, &"there is no such constant"))?;
        T::decode_as_type(&mut constant.value(), constant.ty(), self.metadata.types())
            .map_err(|error| coding(item, &error))
    }

    /// Name and arguments of a runtime API's call.
    pub(super) fn api_call(&self, item: Item, arguments: Vec<Value>) -> Result<(String, Vec<u8>)> {
        let payload = subxt::dynamic::runtime_api_call::<Vec<Value>, Value>(item.0, item.1, arguments);
        let arguments =
            self.client.runtime_apis().encode_args(payload).map_err(|error| coding(item, &error))?;
        Ok((format!("{}_{}", item.0, item.1), arguments))
    }

    /// The answer to a runtime API's call.
    pub(super) fn api_answer<T: DecodeAsType>(&self, item: Item, bytes: &[u8]) -> Result<T> {
        let mut bytes = bytes;
        frame_decode::runtime_apis::decode_runtime_api_response(
            item.0,
            item.1,
            &mut bytes,
            &*self.metadata,
            self.metadata.types(),
            T::into_visitor(),
        )
        .map_err(|error| coding(item, &error))
    }

    /// The call's bytes.
    #[cfg(all(test, feature = "test-node"))]
    pub(super) fn call_bytes(&self, item: Item, arguments: &[(&str, Value)]) -> Result<Vec<u8>> {
        self.client.transactions().call_data(&payload(item, arguments)).map_err(|error| coding(item, &error))
    }

    /// What has to be signed of the call.
    pub(super) fn payload(&self, item: Item, arguments: &[(&str, Value)], life: Life) -> Result<Vec<u8>> {
        let call = payload(item, arguments);
        let signable = self.client.transactions().create_v4_signable_offline(&call, parameters(life));
        signable.and_then(|signable| signable.signer_payload()).map_err(|error| coding(item, &error))
    }

    /// The signed extrinsic's bytes, given the signature of
    /// [`Runtime::payload`].
    pub(super) fn extrinsic(
        &self,
        item: Item,
        arguments: &[(&str, Value)],
        life: Life,
        account: Account,
        signature: &MultiSignature,
    ) -> Result<Vec<u8>> {
        let call = payload(item, arguments);
        let signed = self.client.transactions().create_v4_signable_offline(&call, parameters(life)).and_then(
            |mut signable| signable.sign_with_account_and_signature(&AccountId32(account.signer), signature),
        );
        signed
            .map(subxt::transactions::SubmittableTransaction::into_encoded)
            .map_err(|error| coding(item, &error))
    }

    /// The events of a block that this runtime has executed: index of the
    /// extrinsic that caused each, its pallet, name and fields.
    pub(super) fn events(&self, bytes: Vec<u8>) -> Result<Vec<Event>> {
        const ITEM: Item = ("System", "Events");
        let events = self.client.events().from_bytes(bytes);
        let mut found = Vec::new();
        for event in events.iter() {
            let event = event.map_err(|error| coding(ITEM, &error))?;
            let extrinsic = match event.phase() {
                subxt::events::Phase::ApplyExtrinsic(index) => Some(index),
                _ => None,
            };
            let fields =
                event.decode_fields_unchecked_as::<Composite<()>>().map_err(|error| coding(ITEM, &error))?;
            let result = match (event.pallet_name(), event.event_name()) {
                ("System", "ExtrinsicSuccess") => Some(Ok(())),
                ("System", "ExtrinsicFailed") => Some(Err(self.failure(event.field_bytes()))),
                _ => None,
            };
            found.push(Event {
                extrinsic,
                pallet: event.pallet_name().to_owned(),
                name: event.event_name().to_owned(),
                fields,
                result,
            });
        }
        Ok(found)
    }

    /// Pallet and name of the error in an `ExtrinsicFailed` event.
    fn failure(&self, fields: &[u8]) -> String {
        use subxt::error::DispatchError;
        match DispatchError::decode_from(fields, ArcMetadata::clone(&self.metadata)) {
            Ok(DispatchError::Module(error)) => error.details_string().replace("::", "."),
            Ok(error) => error.to_string(),
            Err(error) => format!("an error that cannot be read: {error}"),
        }
    }

    fn storage_info(&self, item: Item) -> Result<frame_decode::storage::StorageInfo<'_, u32>> {
        use frame_decode::storage::StorageTypeInfo;
        self.metadata.storage_info(item.0, item.1).map_err(|error| coding(item, &error))
    }
}

/// One event of a block.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) extrinsic: Option<u32>,
    pub(super) pallet: String,
    pub(super) name: String,
    pub(super) fields: Composite<()>,
    /// Whether the extrinsic succeeded, or why not, if this is the event that
    /// says so.
    pub(super) result: Option<Result<(), String>>,
}

/// The answer of `Metadata_metadata_at_version`.
pub(super) fn opaque_metadata(answer: &[u8]) -> Option<Vec<u8>> {
    Option::<Vec<u8>>::decode(&mut &*answer).ok().flatten()
}

/// The argument of `Metadata_metadata_at_version`.
pub(super) fn metadata_version(version: u32) -> Vec<u8> {
    version.encode()
}

/// A public key as a value.
pub(super) fn account(key: &[u8; 32]) -> Value {
    Value::from_bytes(key)
}

fn payload(item: Item, arguments: &[(&str, Value)]) -> subxt::transactions::DynamicPayload<Composite<()>> {
    let named = arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    subxt::dynamic::transaction(item.0, item.1, Composite::Named(named))
}

fn parameters(life: Life) -> DefaultExtrinsicParams<Substrate> {
    DefaultExtrinsicParamsBuilder::<Substrate>::new()
        .mortal_from_unchecked(life.period, life.birth, H256(life.birth_hash.0))
        .nonce(life.nonce)
        .build()
}

/// An item that does not encode or decode although its shape was checked.
fn coding(item: Item, error: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Protocol, "encode or decode for the chain", error.to_string())
        .with("item", format!("{}.{}", item.0, item.1))
}
