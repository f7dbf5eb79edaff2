//! What an implementation is, as the record names it.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Result;

/// Name, version and configuration of one implementation of a role. Two
/// implementations with equal identities answer alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The plugin's registered name, or another stable name.
    pub name: String,
    /// Version of the behaviour: the crate's, unless the implementation keeps its own.
    pub version: String,
    /// Digest of the canonical JSON of the configuration, defaults filled in.
    pub config: Digest,
}

impl Identity {
    /// An identity whose configuration is `config` with all defaults filled in.
    pub fn new(name: impl Into<String>, version: impl Into<String>, config: &impl Serialize) -> Result<Self> {
        Ok(Self { name: name.into(), version: version.into(), config: Digest::of_json(config)? })
    }
}
