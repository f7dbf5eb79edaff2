//! Timelocks: bytes that nobody can read before a round of drand's beacon.
//!
//! The beacon publishes a BLS signature of every round's number. A message is
//! encrypted to that signature (identity-based encryption after Boneh and
//! Franklin, AES-256-GCM inside), so that it opens once the round has come.
//! Subtensor decrypts commitments and weights with it; `bittensor-drand` makes
//! and reads the same bytes.
//!
//! A ciphertext is U, a point of G2 in 96 bytes, then V, W, body and the name of
//! the cipher suite, each after its length as 8 little-endian bytes.

use albedo_core::{Error, ErrorKind, Fault, Result};
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use ark_std::rand::RngCore;
use ark_std::rand::rngs::OsRng;
use sha2::{Digest as _, Sha256};
use timelock::block_ciphers::AESGCMBlockCipherProvider;
use timelock::engines::EngineBLS;
use timelock::engines::drand::TinyBLS381;
use timelock::ibe::fullident::{Ciphertext, Identity};
use timelock::tlock::{TLECiphertext, tld, tle};

/// Bytes that encrypting adds.
pub const OVERHEAD: usize = 244;

const SUITE: &[u8] = b"AES_GCM_";

/// A point of G2, compressed.
const POINT: usize = 96;

/// Longest ciphertext that is read: the chain takes 5,000 bytes.
const MAX_BYTES: usize = 64 << 10;

/// A randomness beacon: its key, and when its rounds are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// The public key, a compressed point of G2.
    pub public_key: [u8; POINT],
    /// Unix time of the first round, in seconds.
    pub genesis: u64,
    /// Seconds between rounds.
    pub period: u64,
}

impl Beacon {
    /// drand's quicknet (chain hash `52db9ba7…`), which subtensor uses.
    ///
    /// ```
    /// use albedo_chain::timelock::{Beacon, OVERHEAD};
    ///
    /// let beacon = Beacon::quicknet();
    /// let round = beacon.round_at(1_795_867_200_000);
    /// assert_eq!(round, 34_354_611);
    /// let sealed = beacon.encrypt(b"v7|someone/model|0f0f", round)?;
    /// assert_eq!(sealed.len(), 21 + OVERHEAD);
    /// # Ok::<(), albedo_core::Error>(())
    /// ```
    pub fn quicknet() -> Self {
        const KEY: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c\
                           8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb\
                           5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";
        let mut public_key = [0; POINT];
        for (byte, pair) in public_key.iter_mut().zip(KEY.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default();
            *byte = (digit(pair[0]) << 4 | digit(pair[1])) as u8;
        }
        Self { public_key, genesis: 1_692_803_367, period: 3 }
    }

    /// The round that Bittensor's programs count at a Unix time in
    /// milliseconds; 0 before the beacon's first.
    pub fn round_at(&self, unix_ms: u64) -> u64 {
        unix_ms.saturating_sub(self.genesis * 1000) / (self.period * 1000)
    }

    /// Encrypts `message` until `round`. Every ciphertext of a message is
    /// another.
    ///
    /// # Errors
    /// A public key that is no point of the curve.
    pub fn encrypt(&self, message: &[u8], round: u64) -> Result<Vec<u8>> {
        const OPERATION: &str = "encrypt for a round of the beacon";
        type Point = <TinyBLS381 as EngineBLS>::PublicKeyGroup;
        let key = Point::deserialize_compressed(&self.public_key[..]).map_err(|error| {
            Error::new(ErrorKind::ConfigInvalid, OPERATION, format!("the beacon's key is no point: {error}"))
        })?;
        let mut secret = [0; 32];
        OsRng.fill_bytes(&mut secret);
        let sealed: TLECiphertext<TinyBLS381> =
            tle::<TinyBLS381, AESGCMBlockCipherProvider, OsRng>(key, secret, message, identity(round), OsRng)
                .map_err(|error| Error::bug(OPERATION, format!("{error:?}")))?;
        let mut bytes = Vec::with_capacity(message.len() + OVERHEAD);
        sealed
            .header
            .u
            .serialize_compressed(&mut bytes)
            .map_err(|error| Error::bug(OPERATION, error.to_string()))?;
        for part in [&sealed.header.v[..], &sealed.header.w, &sealed.body, &sealed.cipher_suite] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        Ok(bytes)
    }
}

/// Decrypts a ciphertext with the beacon's signature of its round.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] for what is no ciphertext, and for the signature
/// of another round.
pub fn decrypt(ciphertext: &[u8], signature: &[u8]) -> Result<Vec<u8>> {
    let invalid = |message: &str| {
        Error::new(ErrorKind::DataInvalid, "open a timelock", message).with_fault(Fault::Operator)
    };
    let parts =
        Parts::of(ciphertext).ok_or_else(|| invalid("it is cut, or not in the format of timelocks"))?;
    if parts.suite != SUITE {
        return Err(invalid("it is in an unknown cipher suite"));
    }
    if !parts.body_fits() {
        return Err(invalid("its body is cut, or not in the format of timelocks"));
    }
    let u =
        CanonicalDeserialize::deserialize_compressed(parts.u).map_err(|_| invalid("its U is no point"))?;
    let signature = CanonicalDeserialize::deserialize_compressed(signature)
        .map_err(|_| invalid("the beacon's signature is no point"))?;
    let sealed = TLECiphertext {
        header: Ciphertext { u, v: *parts.v, w: *parts.w },
        body: parts.body.to_vec(),
        cipher_suite: parts.suite.to_vec(),
    };
    tld::<TinyBLS381, AESGCMBlockCipherProvider>(sealed, signature)
        .map_err(|_| invalid("it does not open with this signature"))
}

struct Parts<'a> {
    u: &'a [u8],
    v: &'a [u8; 32],
    w: &'a [u8; 32],
    body: &'a [u8],
    suite: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let (u, mut rest) = bytes.split_at_checked(POINT)?;
        let v = part(&mut rest)?.try_into().ok()?;
        let w = part(&mut rest)?.try_into().ok()?;
        let body = part(&mut rest)?;
        let suite = part(&mut rest)?;
        rest.is_empty().then_some(Self { u, v, w, body, suite })
    }

    /// The body is again two parts, whose lengths are checked here: the
    /// decoder would believe them and allocate.
    fn body_fits(&self) -> bool {
        let mut rest = self.body;
        part(&mut rest).is_some() && part(&mut rest).is_some() && rest.is_empty()
    }
}

/// The bytes after their length.
fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<8>()?;
    let (part, after) = after.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    *rest = after;
    Some(part)
}

/// What the beacon signs of a round.
fn identity(round: u64) -> Identity {
    Identity::new(b"", &Sha256::digest(round.to_be_bytes()))
}

/// A beacon of one's own, whose rounds can be signed at any time: for tests.
#[cfg(feature = "test-node")]
pub mod testing {
    use ark_serialize::CanonicalSerialize;
    use ark_std::rand::SeedableRng;
    use ark_std::rand::rngs::StdRng;
    use ark_std::{UniformRand, ops::Mul};
    use timelock::engines::EngineBLS;
    use timelock::engines::drand::TinyBLS381;

    use super::{Beacon, identity};

    type Scalar = <TinyBLS381 as EngineBLS>::Scalar;

    /// The secret half of a [`Beacon`].
    #[derive(Debug, Clone)]
    pub struct BeaconSecret(Scalar);

    impl BeaconSecret {
        /// The secret that belongs to a seed.
        pub fn of(seed: u64) -> Self {
            Self(Scalar::rand(&mut StdRng::seed_from_u64(seed)))
        }

        /// The beacon, with rounds from `genesis` on, `period` apart.
        pub fn beacon(&self, genesis: u64, period: u64) -> Beacon {
            use ark_ec::PrimeGroup;
            let point = <TinyBLS381 as EngineBLS>::PublicKeyGroup::generator().mul(self.0);
            Beacon { public_key: compressed(&point), genesis, period }
        }

        /// The signature of a round.
        pub fn sign(&self, round: u64) -> [u8; 48] {
            compressed(&identity(round).extract::<TinyBLS381>(self.0).0)
        }
    }

    fn compressed<const N: usize>(point: &impl CanonicalSerialize) -> [u8; N] {
        let mut bytes = [0; N];
        if point.serialize_compressed(&mut bytes[..]).is_err() {
            unreachable!("a point has this length");
        }
        bytes
    }
}

// Two attributes: clippy knows tests by `cfg(test)` alone.
#[cfg(feature = "test-node")]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::BeaconSecret;
    use super::*;

    #[test]
    fn a_message_opens_with_the_signature_of_its_round_alone() {
        let secret = BeaconSecret::of(5);
        let beacon = secret.beacon(1000, 3);
        for message in [&b""[..], b"weights", &[7; 3000]] {
            let sealed = beacon.encrypt(message, 12).expect("encrypted");
            assert_eq!(sealed.len(), message.len() + OVERHEAD);
            assert_eq!(decrypt(&sealed, &secret.sign(12)).expect("opens"), message);
            assert!(decrypt(&sealed, &secret.sign(13)).is_err());
            assert!(decrypt(&sealed, &BeaconSecret::of(6).sign(12)).is_err());
        }
    }

    #[test]
    fn rounds_are_counted_as_bittensors_programs_do() {
        let beacon = Beacon::quicknet();
        for (unix_ms, round) in [
            (0, 0),
            (1_692_803_367_000, 0),
            (1_692_803_369_999, 0),
            (1_692_803_370_000, 1),
            (1_764_305_367_000, 23_834_000),
        ] {
            assert_eq!(beacon.round_at(unix_ms), round, "{unix_ms}");
        }
    }

    /// What `bittensor-drand` encrypted for a round of quicknet.
    #[test]
    fn ciphertexts_of_bittensor_drand_open() {
        use serde_json::Value;
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/chain/timelock/quicknet-round1000.json");
        let Ok(text) = std::fs::read_to_string(path) else {
            println!("skipped: bittensor-drand's ciphertexts are not beside the checkout");
            return;
        };
        let json: Value = serde_json::from_str(&text).expect("JSON");
        let bytes = |value: &Value| {
            let digits = value.as_str().expect("hexadecimal").as_bytes();
            let pairs = digits.chunks_exact(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
            pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect::<Vec<_>>()
        };
        let signature = bytes(&json["signature"]);
        let cases = json["cases"].as_array().expect("cases");
        assert!(!cases.is_empty());
        for case in cases {
            // An envelope is a SCALE vector (here with a length of two bytes or
            // four) and the round.
            let envelope = bytes(&case["envelope"]);
            let start = if envelope[0] & 0b11 == 1 { 2 } else { 4 };
            let sealed = &envelope[start..envelope.len() - 8];
            assert_eq!(decrypt(sealed, &signature).expect("opens"), bytes(&case["plain"]));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0_usize..300, byte: u8) {
            let signature = BeaconSecret::of(5).sign(12);
            prop_assert!(decrypt(&bytes, &signature).is_err());
            bytes = BeaconSecret::of(5).beacon(1000, 3).encrypt(b"weights", 12).expect("encrypted");
            let changed = bytes.get(at).is_some_and(|before| *before != byte);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            prop_assert_eq!(decrypt(&bytes, &signature).is_err(), changed);
        }
    }
}
