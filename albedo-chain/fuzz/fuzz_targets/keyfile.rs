//! A plain keyfile: whatever it is, it is a key or refused, and no error
//! repeats what it holds.
#![no_main]

use albedo_chain::wallet::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = parse(bytes) {
        let said = format!("{error:?}");
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Some(secret) = text.split('"').find(|part| part.len() > 40)
        {
            // The fuzzer finds the errors' own words, too: those stay whatever the file says.
            let other = text.replace(secret, &"x".repeat(secret.len()));
            let of_other = parse(other.as_bytes()).err().map(|error| format!("{error:?}"));
            assert!(!said.contains(secret) || of_other.is_some_and(|of_other| of_other.contains(secret)));
        }
    }
});
