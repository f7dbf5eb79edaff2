//! `fingerprint-v2`: the Python system's weight fingerprint, for
//! compatibility with it and with what it stored.
//!
//! For every tensor: its Euclidean norm, and the elements at 16 positions that
//! follow from its name: BLAKE2b-512 of the name, as 16 big-endian words of 32
//! bits, each modulo the number of elements. Two models are alike in the share
//! of tensors whose 16 samples have a cosine of at least 1 − 10⁻⁶ or are all
//! zero on both sides; models of different tensor names are not alike at all.
//!
//! Known limits, measured in `docs/screens.md`: noise of 0.14 %, a permutation
//! or one more tensor name evades it. [`super::lineage`] is the answer; this
//! one never finds more than `Flagged` unless `reject` is set.

use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::{
    BuildContext, CheckContext, Error, ErrorKind, Finding, Identity, Plugin, Result, Screen, ScreenPart,
    WeightsInspection, WeightsScreen,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::evidence::{KING, REJECTED_FOR};
use super::pair::Pair;
use super::store::{Store, identified};

pub(crate) mod print;

pub use print::{Fingerprint, METHOD, SAMPLES, sample_positions};

use print::TakeFingerprint;

/// Nearest models that the evidence lists.
const NEAREST: usize = 5;

/// Settings of [`FingerprintScreen`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FingerprintConfig {
    /// The store of earlier submissions; without one only the king is compared.
    pub store: Option<PathBuf>,
    /// Alike from here on (the Python system's 0.95).
    pub threshold: f64,
    /// Reject as the Python system does, rather than flag. Honest fine-tunes
    /// with a small rate were measured above the threshold: see `docs/screens.md`.
    pub reject: bool,
}

impl Default for FingerprintConfig {
    fn default() -> Self {
        Self { store: None, threshold: 0.95, reject: false }
    }
}

impl FingerprintConfig {
    fn check(&self) -> Result<()> {
        if self.threshold > 0.0 && self.threshold <= 1.0 {
            return Ok(());
        }
        let operation = format!("check the settings of screen `{}`", FingerprintScreen::NAME);
        let message = format!("threshold is {}, not above 0 and at most 1", self.threshold);
        Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", "threshold"))
    }
}

/// Compares fingerprints; see the [module](self).
#[derive(Debug)]
pub struct FingerprintScreen {
    identity: Identity,
    comparison: Comparison,
}

/// What a fingerprint is compared with, and when it counts as alike.
#[derive(Debug, Clone)]
struct Comparison {
    threshold: f64,
    reject: bool,
    store: Option<Arc<Store>>,
}

impl FingerprintScreen {
    /// A screen with `config` that also compares with the submissions in
    /// `store`, whatever `config` says of one.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn new(config: &FingerprintConfig, store: Option<Arc<Store>>) -> Result<Self> {
        config.check()?;
        Self::open(config, store)
    }

    /// The screen of checked settings.
    fn open(config: &FingerprintConfig, store: Option<Arc<Store>>) -> Result<Self> {
        let identity = Identity::new(Self::NAME, "2", &identified(config, store.is_some())?)?;
        let comparison = Comparison { threshold: config.threshold, reject: config.reject, store };
        Ok(Self { identity, comparison })
    }

    /// The finding on `submission` beside `king`; entries of the store that have
    /// one of the labels `own` are the submission's own.
    ///
    /// # Errors
    /// The store's.
    pub fn judge(&self, submission: &Fingerprint, king: &Fingerprint, own: &[String]) -> Result<Finding> {
        self.comparison.find(submission, king, own)
    }
}

impl Comparison {
    fn find(&self, submission: &Fingerprint, king: &Fingerprint, own: &[String]) -> Result<Finding> {
        let mut nearest = vec![(KING.to_owned(), submission.similarity(king))];
        if let Some(store) = &self.store {
            let others = store.fingerprints()?.into_iter().filter(|other| !own.contains(&other.label));
            nearest.extend(others.map(|other| {
                let similarity = submission.similarity(&other.fingerprint);
                (other.label, similarity)
            }));
        }
        let compared = nearest.len();
        // A weight that is no number leaves no similarity, which comes last.
        let known = |similarity: f64| if similarity.is_nan() { f64::NEG_INFINITY } else { similarity };
        nearest.sort_by(|a, b| known(b.1).total_cmp(&known(a.1)));
        let found = nearest.first().is_some_and(|(_, similarity)| *similarity >= self.threshold);
        nearest.truncate(NEAREST);
        let alike = nearest.iter().filter(|(_, similarity)| *similarity >= self.threshold);
        let alike: Vec<String> = alike.map(|(of, _)| of.clone()).collect();
        let nearest: Vec<_> =
            nearest.iter().map(|(of, similarity)| json!({ "of": of, "similarity": similarity })).collect();
        let mut evidence = json!({ "threshold": self.threshold, "compared": compared, "nearest": nearest });
        Ok(match (found, self.reject) {
            (true, true) => {
                evidence[REJECTED_FOR] = json!(alike);
                Finding::Rejected(evidence)
            }
            (true, false) => Finding::Flagged(evidence),
            (false, _) => Finding::Clear(evidence),
        })
    }
}

impl Screen for FingerprintScreen {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Weights(self)
    }
}

impl WeightsScreen for FingerprintScreen {
    fn inspection(&self, own: &[String]) -> Box<dyn WeightsInspection> {
        let (comparison, own) = (self.comparison.clone(), own.to_vec());
        Pair::<TakeFingerprint, _>::inspection(move |submission, king| {
            comparison.find(submission, king, &own)
        })
    }
}

impl Plugin<dyn Screen> for FingerprintScreen {
    const NAME: &'static str = "fingerprint-v2";
    const SUMMARY: &'static str = "the Python system's fingerprint: norms and 16 samples a tensor";
    type Config = FingerprintConfig;
    type Checked = FingerprintConfig;

    fn check(config: FingerprintConfig, _: &CheckContext<'_>) -> Result<FingerprintConfig> {
        config.check()?;
        Ok(config)
    }

    async fn build(config: FingerprintConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        let store = Store::at(config.store.clone(), cx).await?;
        Ok(Arc::new(Self::open(&config, store)?))
    }
}

albedo_core::register!(dyn Screen => FingerprintScreen);

#[cfg(test)]
mod tests;
