//! The seed that binds both sides of a duel.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chain::BlockHash;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::rng::derive_seed;

/// The duel's seed: 32 bytes. A whole number in configuration fills the first
/// eight, little-endian; on chain it is a hash. 64 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seed([u8; 32]);

impl Seed {
    /// The seed of a duel on a chain: SHA-256 over `albedo duel seed 1`, the hash
    /// of a block, and the digests of both models' parameters, the smaller digest
    /// first.
    ///
    /// The block has to be final only after the models' bytes are held and
    /// screened. A miner that knew the seed could simulate the duel, and withhold
    /// what would lose.
    ///
    /// ```
    /// use albedo_core::chain::BlockHash;
    /// use albedo_core::{Digest, Seed};
    ///
    /// let (king, challenger) = (Digest::of("king"), Digest::of("challenger"));
    /// let block = BlockHash([7; 32]);
    /// let seed = Seed::on_chain(block, [king, challenger]);
    /// assert_eq!(seed, Seed::on_chain(block, [challenger, king]));
    /// ```
    pub fn on_chain(block: BlockHash, mut models: [Digest; 2]) -> Self {
        models.sort_unstable();
        let [first, second] = &models;
        let parts = [&b"albedo duel seed 1"[..], &block.0, first.as_bytes(), second.as_bytes()];
        Self::from(Digest::of(parts.concat()))
    }

    /// What the probes of a submission follow from on a chain: the hash of the first block
    /// that is final after the submission's bytes are held, with the digests of both models'
    /// parameters. It is another block than the duel's, and another text.
    ///
    /// ```
    /// use albedo_core::chain::BlockHash;
    /// use albedo_core::{Digest, Seed};
    ///
    /// let (king, challenger) = (Digest::of("king"), Digest::of("challenger"));
    /// let block = BlockHash([7; 32]);
    /// let probes = Seed::of_probes(block, [king, challenger]);
    /// assert_eq!(probes, Seed::of_probes(block, [challenger, king]));
    /// assert_ne!(probes, Seed::of_questions(block));
    /// ```
    pub fn of_probes(block: BlockHash, mut models: [Digest; 2]) -> u64 {
        models.sort_unstable();
        let [first, second] = &models;
        let parts = [&b"albedo probes seed 1"[..], &block.0, first.as_bytes(), second.as_bytes()];
        Self::from(Digest::of(parts.concat())).entropy()
    }

    /// What a set of questions follows from that many submissions are compared by, for
    /// example one per week: the hash of a block.
    pub fn of_questions(block: BlockHash) -> u64 {
        Self::from(Digest::of([&b"albedo questions seed 1"[..], &block.0].concat())).entropy()
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight bytes, little-endian: the entropy of the Python system's
    /// sampler and bootstrap.
    pub fn entropy(&self) -> u64 {
        self.0[..8].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    /// The seed of the probes with which the challenger is screened before a duel
    /// of this seed, where nothing else gives them one.
    pub fn probes(&self) -> u64 {
        derive_seed("probes", &[&self.0])
    }
}

impl From<u64> for Seed {
    fn from(value: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        Self(bytes)
    }
}

impl From<Digest> for Seed {
    fn from(digest: Digest) -> Self {
        Self(*digest.as_bytes())
    }
}

impl FromStr for Seed {
    type Err = Error;

    /// A whole number in decimal, or 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self> {
        if let Ok(value) = text.parse::<u64>() {
            return Ok(Self::from(value));
        }
        text.parse::<Digest>().map(Self::from).map_err(|_| {
            Error::new(ErrorKind::ConfigInvalid, "read the seed", format!("`{text}` is no seed"))
                .with_hint("give a whole number from 0 up, or 64 hexadecimal digits")
        })
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0[8..].iter().all(|&byte| byte == 0) {
            write!(f, "{}", self.entropy())
        } else {
            write!(f, "{}", Digest::from(self.0))
        }
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Seed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Seed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or 64 hexadecimal digits")
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Seed, E> {
                Ok(Seed::from(value))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Seed, E> {
                u64::try_from(value).map(Seed::from).map_err(|_| E::custom("a seed is not negative"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Seed, E> {
                text.parse().map_err(|error: Error| E::custom(error.message()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Seed {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Seed".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }],
            "description": "a whole number, or 64 hexadecimal digits"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_reads_numbers_and_hashes_and_keeps_its_entropy() {
        let seed: Seed = serde_json::from_str("12345").expect("a number");
        assert_eq!(seed.entropy(), 12_345);
        assert_eq!(seed.to_string(), "12345");
        let hash = Digest::of("x");
        let seed: Seed = hash.to_string().parse().expect("a hash");
        assert_eq!(seed.as_bytes(), hash.as_bytes());
        assert!(serde_json::from_str::<Seed>("-1").is_err());
        assert!("soon".parse::<Seed>().is_err());
    }

    #[test]
    fn a_seed_on_chain_binds_block_and_models() {
        let (king, challenger) = (Digest::of("king"), Digest::of("challenger"));
        let seed = Seed::on_chain(BlockHash([7; 32]), [king, challenger]);
        // Made with Python's hashlib.
        let expected = "1a916bb4c709f4edb51f9ca752cf861c7eb0ee68dd041f5f1b76d28459a67ceb";
        assert_eq!(seed.to_string(), expected);
        for other in [
            Seed::on_chain(BlockHash([8; 32]), [king, challenger]),
            Seed::on_chain(BlockHash([7; 32]), [king, king]),
        ] {
            assert_ne!(seed, other);
        }
    }
}
