//! The state of a commitment, as a node sends it: whatever the bytes are, they
//! are read or refused.
#![no_main]

use std::sync::LazyLock;

use albedo_chain::subtensor::fuzzing::Commitments;
use albedo_chain::testnode::metadata;
use libfuzzer_sys::fuzz_target;

static READERS: LazyLock<[Commitments; 2]> =
    LazyLock::new(|| [metadata::newest(), metadata::oldest()].map(|bytes| Commitments::new(&bytes).unwrap()));

fuzz_target!(|bytes: &[u8]| {
    for reader in &*READERS {
        let _ = reader.standing(bytes);
        let _ = reader.revealed(bytes);
    }
});
