//! `digest`: exact copies.
//!
//! A submission is `Rejected` if its weight files have the parameters digest of
//! the king or of an earlier submission, or if all its tensors are the king's,
//! however they are spread over files. A share of equal tensors is evidence
//! only: an honest fine-tune may leave layers as they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::checkpoint::Segment;
use albedo_core::digest::Hasher;
use albedo_core::{
    BuildContext, CheckContext, Digest, Finding, Identity, Plugin, Result, Screen, ScreenPart,
    WeightsInspection, WeightsScreen,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::pair::{Accumulate, Pair};
use super::store::{Store, identified};

/// Settings of [`DigestScreen`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DigestConfig {
    /// The store of earlier submissions; without one only the king is compared.
    pub store: Option<PathBuf>,
}

/// The digests of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// Digest of the parameters, as [`albedo_core::ModelInfo::parameters`].
    pub parameters: Digest,
    /// Digest of each tensor: its type, shape and bytes.
    pub tensors: BTreeMap<String, Digest>,
}

/// Takes the [`Digests`] of what passes by.
#[derive(Debug, Default)]
pub(crate) struct TakeDigests(BTreeMap<String, Hasher>);

impl Accumulate for TakeDigests {
    type Taken = Digests;

    fn add(&mut self, segment: &Segment<'_>) -> Result<()> {
        let hasher = self.0.entry(segment.name.to_owned()).or_insert_with(|| {
            let mut hasher = Hasher::default();
            hasher.update(format!("{:?} {:?}\n", segment.info.dtype, segment.info.shape));
            hasher
        });
        hasher.update(segment.bytes);
        Ok(())
    }

    fn finish(self, parameters: Digest) -> Digests {
        let tensors = self.0.into_iter().map(|(name, hasher)| (name, hasher.finish()));
        Digests { parameters, tensors: tensors.collect() }
    }
}

/// Compares digests; see the [module](self).
#[derive(Debug)]
pub struct DigestScreen {
    identity: Identity,
    store: Option<Arc<Store>>,
}

impl DigestScreen {
    /// A screen that also compares with the submissions in `store`.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn new(store: Option<Arc<Store>>) -> Result<Self> {
        let settings = identified(&DigestConfig::default(), store.is_some())?;
        Ok(Self { identity: Identity::new(Self::NAME, "1", &settings)?, store })
    }

    /// The finding on `submission` beside `king`; entries of the store that have
    /// one of the labels `own` are the submission's own.
    ///
    /// # Errors
    /// The store's.
    pub fn judge(&self, submission: &Digests, king: &Digests, own: &[String]) -> Result<Finding> {
        compare(self.store.as_deref(), submission, king, own)
    }
}

fn compare(store: Option<&Store>, submission: &Digests, king: &Digests, own: &[String]) -> Result<Finding> {
    let equal = |name: &String| submission.tensors.get(name) == king.tensors.get(name);
    let shared = king.tensors.keys().filter(|name| equal(name)).count();
    let evidence = |copy_of: Option<String>| {
        json!({
            "parameters": submission.parameters,
            "copy_of": copy_of,
            "tensors": submission.tensors.len(),
            "equal_to_the_kings": shared,
        })
    };
    let all = shared == king.tensors.len() && shared == submission.tensors.len() && shared > 0;
    if submission.parameters == king.parameters || all {
        return Ok(Finding::Rejected(evidence(Some("the king".into()))));
    }
    let stored = store.map(|store| store.by_parameters(submission.parameters)).transpose()?.flatten();
    if let Some(entry) = stored.filter(|entry| !own.contains(&entry.label)) {
        return Ok(Finding::Rejected(evidence(Some(entry.label))));
    }
    Ok(Finding::Clear(evidence(None)))
}

impl Screen for DigestScreen {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Weights(self)
    }
}

impl WeightsScreen for DigestScreen {
    fn inspection(&self, own: &[String]) -> Box<dyn WeightsInspection> {
        let (store, own) = (self.store.clone(), own.to_vec());
        Pair::<TakeDigests, _>::inspection(move |submission, king| {
            compare(store.as_deref(), submission, king, &own)
        })
    }
}

impl Plugin<dyn Screen> for DigestScreen {
    const NAME: &'static str = "digest";
    const SUMMARY: &'static str = "exact copies of the king or of an earlier submission";
    type Config = DigestConfig;
    type Checked = DigestConfig;

    fn check(config: DigestConfig, _: &CheckContext<'_>) -> Result<DigestConfig> {
        Ok(config)
    }

    async fn build(config: DigestConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        Ok(Arc::new(Self::new(Store::at(config.store, cx).await?)?))
    }
}

albedo_core::register!(dyn Screen => DigestScreen);

#[cfg(test)]
mod tests;
