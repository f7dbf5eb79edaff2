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

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::{
    BuildContext, CallContext, CheckContext, Error, ErrorKind, Finding, Identity, Plugin, Result, Screen,
    ScreenStage, Subject,
};
use async_trait::async_trait;
use blake2::{Blake2b512, Digest as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checkpoint::Segment;
use super::evidence::wrong_stage;
use super::measure::{Measurement, Wanted, element, measure};
use super::store::Store;

/// Samples of a tensor.
pub const SAMPLES: usize = 16;

/// Two sets of samples of this cosine or more count as unchanged (the Python
/// system's constant).
const UNCHANGED_COSINE: f64 = 1.0 - 1e-6;

/// The name of the method in the Python system's files.
pub const METHOD: &str = "layer_norms_v2_with_samples";

/// A model's fingerprint, in the Python system's own JSON form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// [`METHOD`].
    pub method: String,
    /// Names of the tensors, ascending.
    pub layer_keys: Vec<String>,
    /// Their norms, accumulated in `f64`.
    pub norm_vector: Vec<f64>,
    /// Their samples; `None` in fingerprints of version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_samples: Option<Vec<Vec<f32>>>,
    /// Who submitted the model; empty for a king that was set by hand.
    #[serde(default)]
    pub hotkey: String,
}

impl Fingerprint {
    /// How alike two fingerprints are, in [0, 1], by the rule that the Python
    /// system follows; the cosine of the norms where one has no samples.
    pub fn similarity(&self, other: &Self) -> f64 {
        if self.layer_keys != other.layer_keys {
            return 0.0;
        }
        match (&self.tensor_samples, &other.tensor_samples) {
            (Some(one), Some(two)) if one.len() == two.len() => {
                let unchanged = one.iter().zip(two).filter(|(one, two)| is_unchanged(one, two)).count();
                if one.is_empty() { 0.0 } else { unchanged as f64 / one.len() as f64 }
            }
            _ => cosine(&self.norm_vector, &other.norm_vector),
        }
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`], naming the part.
    pub fn check(&self) -> Result<()> {
        let tensors = self.layer_keys.len();
        let samples = self.tensor_samples.as_ref().map_or(tensors, Vec::len);
        if self.norm_vector.len() == tensors && samples == tensors {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::DataInvalid,
            "read a fingerprint",
            format!("{tensors} names, {} norms and {samples} samples", self.norm_vector.len()),
        ))
    }
}

fn is_unchanged(one: &[f32], two: &[f32]) -> bool {
    let zero = |values: &[f32]| values.iter().all(|&value| value == 0.0);
    if zero(one) && zero(two) {
        return true;
    }
    let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
    cosine(&wide(one), &wide(two)) >= UNCHANGED_COSINE
}

fn cosine(one: &[f64], two: &[f64]) -> f64 {
    let dot = |one: &[f64], two: &[f64]| one.iter().zip(two).map(|(a, b)| a * b).sum::<f64>();
    let norms = (dot(one, one) * dot(two, two)).sqrt();
    if one.len() != two.len() || norms == 0.0 { 0.0 } else { dot(one, two) / norms }
}

/// The positions that tensor `name` of `elements` elements is sampled at; all
/// 0 if it has none.
pub fn sample_positions(name: &str, elements: u64) -> [u64; SAMPLES] {
    let hash = Blake2b512::digest(name.as_bytes());
    let mut positions = [0; SAMPLES];
    for (position, word) in positions.iter_mut().zip(hash.as_chunks::<4>().0) {
        *position = u64::from(u32::from_be_bytes(*word)).checked_rem(elements).unwrap_or(0);
    }
    positions
}

/// Takes the fingerprint of what passes by.
#[derive(Debug, Default)]
pub(crate) struct FingerprintVisitor {
    tensors: BTreeMap<String, Partial>,
}

#[derive(Debug, Clone)]
struct Partial {
    squares: f64,
    positions: [u64; SAMPLES],
    samples: [f32; SAMPLES],
}

impl FingerprintVisitor {
    /// Adds a segment whose elements' squares sum up to `squares`.
    pub(crate) fn add(&mut self, segment: &Segment<'_>, squares: f64) -> Result<()> {
        if !self.tensors.contains_key(segment.name) {
            let positions = sample_positions(segment.name, segment.info.shape.iter().product());
            let partial = Partial { squares: 0.0, positions, samples: [0.0; SAMPLES] };
            self.tensors.insert(segment.name.to_owned(), partial);
        }
        let Some(partial) = self.tensors.get_mut(segment.name) else { return Ok(()) };
        partial.squares += squares;
        for (sample, &position) in partial.samples.iter_mut().zip(&partial.positions) {
            if let Some(at) = position.checked_sub(segment.start)
                && let Some(value) = element(segment, at)?
            {
                *sample = value;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Fingerprint {
        let mut fingerprint = Fingerprint {
            method: METHOD.into(),
            layer_keys: Vec::new(),
            norm_vector: Vec::new(),
            tensor_samples: None,
            hotkey: String::new(),
        };
        let mut samples = Vec::new();
        for (name, partial) in self.tensors {
            fingerprint.layer_keys.push(name);
            fingerprint.norm_vector.push(partial.squares.sqrt());
            samples.push(partial.samples.to_vec());
        }
        fingerprint.tensor_samples = Some(samples);
        fingerprint
    }
}

/// The sum of squares in `f64`; eight sums, so that they can run side by side.
pub(crate) fn squares(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut sums = [0.0_f64; 8];
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>()
}

/// Settings of [`FingerprintScreen`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FingerprintConfig {
    /// The store of earlier submissions; without one only the king is compared.
    pub store: Option<PathBuf>,
    /// Labels of the store's entries that are the submission's own.
    pub own: Vec<String>,
    /// Alike from here on (the Python system's 0.95).
    pub threshold: f64,
    /// Reject as the Python system does, rather than flag. Honest fine-tunes
    /// with a small rate were measured above the threshold: see `docs/screens.md`.
    pub reject: bool,
}

impl Default for FingerprintConfig {
    fn default() -> Self {
        Self { store: None, own: Vec::new(), threshold: 0.95, reject: false }
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
    config: FingerprintConfig,
    store: Option<Store>,
}

impl FingerprintScreen {
    /// A screen with `config`, whose relative paths were resolved.
    pub fn new(config: FingerprintConfig) -> Result<Self> {
        config.check()?;
        Self::open(config)
    }

    /// The screen of checked settings.
    fn open(config: FingerprintConfig) -> Result<Self> {
        let store = config.store.as_deref().map(Store::open).transpose()?;
        Ok(Self { identity: Identity::new(Self::NAME, "1", &config)?, config, store })
    }

    /// The finding on a measured submission beside the measured king.
    ///
    /// # Errors
    /// The store's.
    pub fn judge(&self, submission: &Measurement, king: &Measurement) -> Result<Finding> {
        let (Some(own), Some(kings)) = (&submission.fingerprint, &king.fingerprint) else {
            return Err(Error::bug("compare fingerprints", "none was taken"));
        };
        let mut nearest = vec![("the king".to_owned(), own.similarity(kings))];
        if let Some(store) = &self.store {
            let others =
                store.fingerprints()?.into_iter().filter(|other| !self.config.own.contains(&other.label));
            nearest.extend(others.map(|other| {
                let similarity = own.similarity(&other.fingerprint);
                (other.label, similarity)
            }));
        }
        let compared = nearest.len();
        nearest.sort_by(|a, b| b.1.total_cmp(&a.1));
        let found = nearest.first().is_some_and(|(_, similarity)| *similarity >= self.config.threshold);
        nearest.truncate(5);
        let nearest: Vec<_> =
            nearest.iter().map(|(of, similarity)| json!({ "of": of, "similarity": similarity })).collect();
        let evidence =
            json!({ "threshold": self.config.threshold, "compared": compared, "nearest": nearest });
        Ok(match (found, self.config.reject) {
            (true, true) => Finding::Rejected(evidence),
            (true, false) => Finding::Flagged(evidence),
            (false, _) => Finding::Clear(evidence),
        })
    }
}

#[async_trait]
impl Screen for FingerprintScreen {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn stage(&self) -> ScreenStage {
        ScreenStage::Parameters
    }

    async fn inspect(&self, subject: Subject<'_>, cx: &CallContext) -> Result<Finding> {
        let Subject::Parameters { submission, king } = subject else {
            return Err(wrong_stage(Self::NAME, self.stage(), &subject));
        };
        let wanted = Wanted { digest: true, fingerprint: true, ..Wanted::default() };
        let [submission, king] = [measure(submission, &wanted, cx).await?, measure(king, &wanted, cx).await?];
        self.judge(&submission, &king)
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

    async fn build(mut config: FingerprintConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        config.store = config.store.map(|path| cx.path(path));
        Ok(Arc::new(Self::open(config)?))
    }
}

albedo_core::register!(dyn Screen => FingerprintScreen);

#[cfg(test)]
mod tests;
