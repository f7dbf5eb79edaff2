//! SS58 addresses: how Bittensor writes public keys.

#[cfg(feature = "subtensor")]
use albedo_core::chain::Hotkey;
use albedo_core::{Error, ErrorKind, Fault, Result};
use blake2::{Blake2b512, Digest as _};

/// Substrate's generic address format, which Bittensor uses.
const FORMAT: u8 = 42;

/// Bytes of the checksum of a 32-byte key.
const CHECKSUM: usize = 2;

/// The address of a public key.
pub fn address(public_key: &[u8; 32]) -> String {
    let mut bytes = vec![FORMAT];
    bytes.extend(public_key);
    let checksum = checksum(&bytes);
    bytes.extend(checksum);
    bs58::encode(bytes).into_string()
}

/// The public key of an address.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] for what is no such address of Bittensor's
/// format.
pub fn public_key(address: &str) -> Result<[u8; 32]> {
    let invalid = |message: &str| {
        Error::new(ErrorKind::DataInvalid, "read an SS58 address", message)
            .with_fault(Fault::Operator)
            .with("address", shown(address))
    };
    // The longest address of this kind has 48 characters; decoding is quadratic.
    if address.len() > 64 {
        return Err(invalid("it is too long"));
    }
    let bytes = bs58::decode(address).into_vec().map_err(|_| invalid("it is not in base 58"))?;
    let Some((body, check)) = bytes.split_last_chunk::<CHECKSUM>() else {
        return Err(invalid("it is too short"));
    };
    if &checksum(body) != check {
        return Err(invalid("its checksum is wrong"));
    }
    match body.split_first() {
        Some((&FORMAT, key)) => key.try_into().map_err(|_| invalid("its key has not 32 bytes")),
        _ => Err(invalid("it is of another network's format than 42")),
    }
}

/// The key behind a hotkey's address.
#[cfg(feature = "subtensor")]
pub(crate) fn account(hotkey: &Hotkey) -> Result<[u8; 32]> {
    public_key(&hotkey.0)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let hash = Blake2b512::new().chain_update(b"SS58PRE").chain_update(bytes).finalize();
    [hash[0], hash[1]]
}

fn shown(address: &str) -> String {
    address.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_development_accounts_have_their_well_known_addresses() {
        let alice = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
        let key = public_key(alice).expect("valid");
        assert_eq!(key[..4], [0xd4, 0x35, 0x93, 0xc7]);
        assert_eq!(address(&key), alice);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (wrong, message) in [
            ("", "too short"),
            ("0OIl", "base 58"),
            ("5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQZ", "checksum"),
            // Polkadot's format 0.
            ("15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5", "another network"),
            (&"5".repeat(10_000), "too long"),
        ] {
            let error = public_key(wrong).expect_err(message);
            assert!(error.message().contains(message), "{error}");
        }
    }
}
