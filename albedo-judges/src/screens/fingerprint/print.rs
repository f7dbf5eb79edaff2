//! The fingerprint itself.

use std::borrow::Cow;
use std::collections::BTreeMap;

use albedo_core::checkpoint::Segment;
use albedo_core::{Digest, Error, ErrorKind, Result};
use blake2::{Blake2b512, Digest as _};
use serde::{Deserialize, Serialize};

use crate::screens::arithmetic::{element, segment_squares};
use crate::screens::listing::HEAD;
use crate::screens::pair::Accumulate;

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
    /// system follows; the cosine of the norms where one has no samples. A head that only one of
    /// the models has does not count: it repeats a tied embedding.
    pub fn similarity(&self, other: &Self) -> f64 {
        let (one, two) = (self.as_comparable(other), other.as_comparable(self));
        if one.layer_keys != two.layer_keys {
            return 0.0;
        }
        match (&one.tensor_samples, &two.tensor_samples) {
            (Some(one), Some(two)) if one.len() == two.len() => {
                let unchanged = one.iter().zip(two).filter(|(one, two)| is_unchanged(one, two)).count();
                if one.is_empty() { 0.0 } else { unchanged as f64 / one.len() as f64 }
            }
            _ => cosine(&one.norm_vector, &two.norm_vector),
        }
    }

    /// The fingerprint without a head, if `other` has none.
    fn as_comparable(&self, other: &Self) -> Cow<'_, Self> {
        let head = |print: &Self| print.layer_keys.iter().position(|key| key == HEAD);
        let (Some(at), None) = (head(self), head(other)) else { return Cow::Borrowed(self) };
        let mut print = self.clone();
        print.layer_keys.remove(at);
        if at < print.norm_vector.len() {
            print.norm_vector.remove(at);
        }
        if let Some(samples) = print.tensor_samples.as_mut().filter(|samples| at < samples.len()) {
            samples.remove(at);
        }
        Cow::Owned(print)
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

/// Takes the [`Fingerprint`] of what passes by.
#[derive(Debug, Default)]
pub(crate) struct TakeFingerprint(BTreeMap<String, Partial>);

#[derive(Debug, Clone)]
struct Partial {
    squares: f64,
    positions: [u64; SAMPLES],
    samples: [f32; SAMPLES],
}

impl Accumulate for TakeFingerprint {
    type Taken = Fingerprint;

    fn add(&mut self, segment: &Segment<'_>) -> Result<()> {
        let partial = self.0.entry(segment.name.to_owned()).or_insert_with(|| {
            let positions = sample_positions(segment.name, segment.info.shape.iter().product());
            Partial { squares: 0.0, positions, samples: [0.0; SAMPLES] }
        });
        partial.squares += segment_squares(segment)?;
        for (sample, &position) in partial.samples.iter_mut().zip(&partial.positions) {
            if let Some(at) = position.checked_sub(segment.start)
                && let Some(value) = element(segment, at)?
            {
                *sample = value;
            }
        }
        Ok(())
    }

    fn finish(self, _: Digest) -> Fingerprint {
        let mut fingerprint = Fingerprint {
            method: METHOD.into(),
            layer_keys: Vec::new(),
            norm_vector: Vec::new(),
            tensor_samples: None,
            hotkey: String::new(),
        };
        let mut samples = Vec::new();
        for (name, partial) in self.0 {
            fingerprint.layer_keys.push(name);
            fingerprint.norm_vector.push(partial.squares.sqrt());
            samples.push(partial.samples.to_vec());
        }
        fingerprint.tensor_samples = Some(samples);
        fingerprint
    }
}
