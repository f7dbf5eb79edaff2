//! `digest`: exact copies.
//!
//! A submission is `Rejected` if its weight files have the parameters digest of
//! the king or of an earlier submission, or if all its tensors are the king's,
//! however they are spread over files, or an earlier submission's. It is `Flagged` if nine tenths of its
//! tensors are the king's or an earlier submission's byte for byte: an honest
//! fine-tune may leave layers as they are, but rarely almost all of them.
//!
//! Where the configuration ties the head to the embedding, `lm_head.weight` repeats it, and
//! does not count. One that is not the embedding is `Rejected`: some servers compute with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::checkpoint::{Outline, Segment};
use albedo_core::digest::Hasher;
use albedo_core::{
    BuildContext, CheckContext, Digest, Error, ErrorKind, Finding, Identity, Plugin, Result, Screen,
    ScreenPart, WeightsInspection, WeightsScreen,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::evidence::{KING, REJECTED_FOR};
use super::listing::{EMBEDDING, HEAD, ties_head};
use super::pair::{Accumulate, Pair};
use super::store::{Entry, Store, identified};

/// Settings of [`DigestScreen`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DigestConfig {
    /// The store of earlier submissions; without one only the king is compared.
    pub store: Option<PathBuf>,
    /// From this share of byte-equal tensors on the submission is flagged.
    pub equal: f64,
}

impl Default for DigestConfig {
    fn default() -> Self {
        Self { store: None, equal: 0.9 }
    }
}

impl DigestConfig {
    fn check(&self) -> Result<()> {
        if self.equal > 0.0 && self.equal <= 1.0 {
            return Ok(());
        }
        let operation = format!("check the settings of screen `{}`", DigestScreen::NAME);
        let message = format!("it is {}, not above 0 and at most 1", self.equal);
        Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", "equal"))
    }
}

/// The digests of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// Digest of the parameters, as [`albedo_core::ModelInfo::parameters`].
    pub parameters: Digest,
    /// Digest of each tensor: its type, shape and bytes. A head that repeats the embedding, to
    /// which the configuration ties it, is left out.
    pub tensors: BTreeMap<String, Digest>,
    /// Whether there is a head that is not the embedding, to which the configuration ties it.
    pub head_apart: bool,
}

impl Digests {
    /// What a store keeps of the tensors: 8 bytes of the digest of each name and digest,
    /// ascending.
    pub fn prints(&self) -> Vec<u64> {
        let mut prints: Vec<u64> = self.tensors.iter().map(|(name, digest)| print(name, digest)).collect();
        prints.sort_unstable();
        prints
    }
}

fn print(name: &str, digest: &Digest) -> u64 {
    let digest = Digest::of(format!("{name}\n{digest}\n"));
    digest.as_bytes()[..8].iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Takes the [`Digests`] of what passes by.
#[derive(Debug, Default)]
pub(crate) struct TakeDigests {
    tensors: BTreeMap<String, Hasher>,
    tied: bool,
}

impl Accumulate for TakeDigests {
    type Taken = Digests;

    fn begin(&mut self, model: &Outline) {
        self.tied = model.config().is_some_and(ties_head);
    }

    fn add(&mut self, segment: &Segment<'_>) -> Result<()> {
        let hasher = self.tensors.entry(segment.name.to_owned()).or_insert_with(|| {
            let mut hasher = Hasher::default();
            hasher.update(format!("{:?} {:?}\n", segment.info.dtype, segment.info.shape));
            hasher
        });
        hasher.update(segment.bytes);
        Ok(())
    }

    fn finish(self, parameters: Digest) -> Digests {
        let tensors = self.tensors.into_iter().map(|(name, hasher)| (name, hasher.finish()));
        let mut tensors: BTreeMap<_, _> = tensors.collect();
        let embedding = tensors.get(EMBEDDING).copied();
        let head = if self.tied { tensors.remove(HEAD) } else { None };
        let head_apart = head.is_some_and(|head| Some(head) != embedding);
        Digests { parameters, tensors, head_apart }
    }
}

/// Compares digests; see the [module](self).
#[derive(Debug)]
pub struct DigestScreen {
    identity: Identity,
    comparison: Arc<Comparison>,
}

/// What digests are compared with.
#[derive(Debug)]
struct Comparison {
    store: Option<Arc<Store>>,
    equal: f64,
}

impl DigestScreen {
    /// A screen with `config` that also compares with the submissions in `store`, whatever
    /// `config` says of one.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn new(config: &DigestConfig, store: Option<Arc<Store>>) -> Result<Self> {
        config.check()?;
        let identity = Identity::new(Self::NAME, "3", &identified(config, store.is_some())?)?;
        Ok(Self { identity, comparison: Arc::new(Comparison { store, equal: config.equal }) })
    }

    /// The finding on `submission` beside `king`; entries of the store that have
    /// one of the labels `own` are the submission's own.
    ///
    /// # Errors
    /// The store's.
    pub fn judge(&self, submission: &Digests, king: &Digests, own: &[String]) -> Result<Finding> {
        self.comparison.find(submission, king, own)
    }
}

impl Comparison {
    fn find(&self, submission: &Digests, king: &Digests, own: &[String]) -> Result<Finding> {
        let equal = |name: &String| submission.tensors.get(name) == king.tensors.get(name);
        let shared = king.tensors.keys().filter(|name| equal(name)).count();
        let mut evidence = json!({
            "parameters": submission.parameters,
            "copy_of": null,
            "tensors": submission.tensors.len(),
            "equal_to_the_kings": shared,
        });
        let copy_of = |of: &str, mut evidence: Value| {
            evidence["copy_of"] = json!(of);
            evidence[REJECTED_FOR] = json!([of]);
            evidence["rules"] = json!(["copy"]);
            Ok(Finding::Rejected(evidence))
        };
        let all = shared == king.tensors.len() && shared == submission.tensors.len() && shared > 0;
        if submission.parameters == king.parameters || all {
            return copy_of(KING, evidence);
        }
        if submission.head_apart {
            evidence["rules"] = json!(["head"]);
            evidence[REJECTED_FOR] = json!([null]);
            evidence["reasons"] =
                json!([format!("{HEAD} is not {EMBEDDING}, to which config.json ties the head")]);
            return Ok(Finding::Rejected(evidence));
        }
        let stored = match &self.store {
            Some(store) => store.by_parameters(submission.parameters)?,
            None => None,
        };
        if let Some(entry) = stored.filter(|entry| !own.contains(&entry.label)) {
            return copy_of(&entry.label, evidence);
        }
        let of = submission.tensors.len();
        let most = |equal: usize| of > 0 && equal as f64 >= self.equal * of as f64;
        let mut reasons = Vec::new();
        if most(shared) {
            reasons.push(format!("{shared} of {of} tensors are the king's, byte for byte"));
        }
        for (entry, equal, stored) in self.equal_to_others(submission)? {
            if own.contains(&entry.label) {
                continue;
            }
            // Its parameters' digest may be another's: that of a tied head that only one repeats.
            if of > 0 && equal == of && stored == of {
                return copy_of(&entry.label, evidence);
            }
            if most(equal) {
                reasons.push(format!("{equal} of {of} tensors are those of {}, byte for byte", entry.label));
            }
        }
        if reasons.is_empty() {
            return Ok(Finding::Clear(evidence));
        }
        evidence["rules"] = reasons.iter().map(|_| "equal").collect();
        evidence["reasons"] = json!(reasons);
        Ok(Finding::Flagged(evidence))
    }

    /// How many tensors are those of each earlier submission, and how many it has. A head that
    /// repeats the embedding is left out of those that the submission does not have.
    fn equal_to_others(&self, submission: &Digests) -> Result<Vec<(Entry, usize, usize)>> {
        let Some(store) = &self.store else { return Ok(Vec::new()) };
        let own: BTreeSet<u64> = submission.prints().into_iter().collect();
        // Stores of earlier versions have it.
        let head = submission.tensors.get(EMBEDDING).map(|digest| print(HEAD, digest));
        let count = |(entry, prints): (Entry, Vec<u64>)| {
            let (equal, others): (Vec<u64>, Vec<u64>) =
                prints.into_iter().partition(|stored| own.contains(stored));
            let others = others.into_iter().filter(|&stored| Some(stored) != head).count();
            (entry, equal.len(), equal.len() + others)
        };
        Ok(store.tensors()?.into_iter().map(count).collect())
    }
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
        let (comparison, own) = (Arc::clone(&self.comparison), own.to_vec());
        Pair::<TakeDigests, _>::inspection(move |submission, king| comparison.find(submission, king, &own))
    }
}

impl Plugin<dyn Screen> for DigestScreen {
    const NAME: &'static str = "digest";
    const SUMMARY: &'static str = "exact copies of the king or of an earlier submission";
    type Config = DigestConfig;
    type Checked = DigestConfig;

    fn check(config: DigestConfig, _: &CheckContext<'_>) -> Result<DigestConfig> {
        config.check()?;
        Ok(config)
    }

    async fn build(config: DigestConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        let store = Store::at(config.store.clone(), cx).await?;
        Ok(Arc::new(Self::new(&config, store)?))
    }
}

albedo_core::register!(dyn Screen => DigestScreen);

#[cfg(test)]
mod tests;
