//! Settings of `local`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::{BuildContext, ChainClient, CheckContext, Error, ErrorKind, Plugin, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LocalChain;

/// Settings of [`LocalChain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LocalChainConfig {
    /// The chain's SQLite file, made if it does not exist; memory by default.
    pub path: Option<PathBuf>,
    /// The only subnet.
    pub netuid: u16,
    /// Seed of the block hashes.
    pub seed: u64,
    /// The newest block at the start; all before it are final too.
    pub start_block: u64,
    /// Blocks of an epoch; epochs start at its multiples.
    pub tempo: u16,
    /// Least blocks between two weight submissions of a hotkey.
    pub weights_rate_limit: u64,
    /// Fewest targets of a weight vector.
    pub min_weights: u16,
    /// Weights are committed first and revealed at the next epoch.
    pub commit_reveal: bool,
    /// Only the hotkey with the largest stake may set weights.
    pub null_consensus: bool,
    /// Who registers, and when; each hotkey once.
    pub neurons: Vec<LocalNeuron>,
    /// What is committed in plain text, and when.
    pub reveals: Vec<LocalReveal>,
}

/// A registration. A later one of the same uid takes the slot over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalNeuron {
    /// Slot.
    pub uid: u16,
    /// Signing key.
    pub hotkey: String,
    /// Its owner.
    #[serde(default)]
    pub coldkey: String,
    /// Block of the registration.
    #[serde(default)]
    pub registered_at: u64,
    /// May set weights.
    #[serde(default)]
    pub validator_permit: bool,
    /// Stake, in rao.
    #[serde(default)]
    pub stake: u64,
}

/// A commitment in plain text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalReveal {
    /// Who committed.
    pub hotkey: String,
    /// Block of the commitment.
    pub block: u64,
    /// The text.
    pub payload: String,
}

impl Default for LocalChainConfig {
    fn default() -> Self {
        Self {
            path: None,
            netuid: 97,
            seed: 0,
            start_block: 1,
            tempo: 360,
            weights_rate_limit: 100,
            min_weights: 1,
            commit_reveal: false,
            null_consensus: false,
            neurons: Vec::new(),
            reveals: Vec::new(),
        }
    }
}

impl LocalChainConfig {
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub(super) fn check(&self) -> Result<()> {
        let invalid = |key: String, message: String| {
            let operation =
                format!("check the settings of chain `{}`", <LocalChain as Plugin<dyn ChainClient>>::NAME);
            Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", key))
        };
        if self.tempo == 0 {
            return invalid("tempo".into(), "an epoch has no blocks".into());
        }
        let (mut hotkeys, mut slots) = (BTreeSet::new(), BTreeSet::new());
        for (index, LocalNeuron { uid, hotkey, registered_at, .. }) in self.neurons.iter().enumerate() {
            if hotkey.is_empty() || !hotkeys.insert(hotkey) {
                let key = format!("neurons[{index}].hotkey");
                return invalid(key, format!("`{hotkey}` is empty or registers twice"));
            }
            if !slots.insert((uid, registered_at)) {
                let key = format!("neurons[{index}].uid");
                return invalid(key, format!("slot {uid} is taken twice at block {registered_at}"));
            }
        }
        for (index, LocalReveal { hotkey, .. }) in self.reveals.iter().enumerate() {
            if !hotkeys.contains(hotkey) {
                let key = format!("reveals[{index}].hotkey");
                return invalid(key, format!("`{hotkey}` is no neuron's"));
            }
        }
        let heights = (self.neurons.iter().map(|neuron| neuron.registered_at))
            .chain(self.reveals.iter().map(|reveal| reveal.block))
            .chain([self.start_block]);
        if heights.max() > Some(i64::MAX as u64) {
            return invalid("start_block".into(), "a block number is larger than 2^63".into());
        }
        Ok(())
    }
}

impl Plugin<dyn ChainClient> for LocalChain {
    const NAME: &'static str = "local";
    const SUMMARY: &'static str = "one subnet of a chain in a file or in memory, for rehearsals and tests";
    type Config = LocalChainConfig;
    type Checked = LocalChainConfig;

    fn check(config: LocalChainConfig, _: &CheckContext<'_>) -> Result<LocalChainConfig> {
        config.check()?;
        Ok(config)
    }

    async fn build(mut config: LocalChainConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn ChainClient>> {
        config.path = config.path.map(|path| cx.path(&path));
        if cx.only_looks() {
            // Without a file it is the chain that its settings would make.
            config.path = config.path.filter(|path| path.exists());
        }
        Ok(Arc::new(Self::new(config)?))
    }
}
