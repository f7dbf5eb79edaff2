//! `lineage`: disguised and noisy copies.
//!
//! Honest challengers are fine-tunes of the king, so closeness to the king
//! proves nothing. What tells a copy is the *difference*: training moves
//! weights along few directions, noise and rounding move them along all. So
//! the parameters are first brought into one anchor's arrangement (which
//! undoes whatever leaves the function unchanged), then projected into a small
//! linear sketch, and differences of sketches are judged:
//!
//! - the difference to the king is nothing or noise: a copy, however
//!   disguised → `Rejected`;
//! - the difference to the king is an earlier submission's times a factor, up
//!   to a rest that no two honest models are near to: a copy, scaled, merged
//!   with the king or noisy → `Rejected`;
//! - it resembles an earlier submission's more than honest colleagues' do, or
//!   rows lie elsewhere than the anchor's, which training never does:
//!   `Flagged`, evidence for an operator and never a forfeit;
//! - else `Clear`, with the nearest submissions.
//!
//! `docs/screens.md` has the mathematics, the measured distributions and the
//! error rates that the defaults come from.

use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::checkpoint::{Outline, Segment, TensorSlice, WeightsOf};
use albedo_core::{
    BuildContext, CheckContext, Digest, Error, ErrorKind, Fault, Finding, Identity, Plugin, Result, Screen,
    ScreenPart, WeightVisitor, WeightsInspection, WeightsScreen,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::evidence::to_value;
use super::store::{Store, StoredSketch, identified};

mod align;
mod anchor;
mod compare;
mod hash;
mod matrix;
mod network;
mod project;
pub(crate) mod sketch;

pub use align::Undone;
pub(crate) use anchor::Aligner;
pub use anchor::{Aligned, Anchor};
pub use compare::{Delta, Explained, KINDS, Shape};
pub use sketch::Sketch;

/// A model that is this far from the king is no copy with noise on it: noise of
/// half the weights' size leaves nothing of the function.
const FAR: f64 = 0.5;

/// Mean change of the changed matrices, below which nothing can be said of it:
/// a disguise rounds them again, which moves each by 0.0016 (measured); less is
/// a training that hardly left the king, and looks like noise too.
const ROUNDING: f64 = 1e-3;

/// What is left of a resemblance that comes from rounding alone: all disguises
/// at once leave 0.0024 of a copy (measured, `docs/screens.md`). Work that moved
/// the weights as little as that has no cosine near 1 with its own copy.
const ROUNDED_AGAIN: f64 = 3e-3;

/// Nearest submissions that the evidence lists.
const NEAREST: usize = 5;

/// Settings of [`LineageScreen`]. The defaults of the last three are measured:
/// see `docs/screens.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LineageConfig {
    /// The store of earlier submissions; without one only the king is compared.
    pub store: Option<PathBuf>,
    /// A difference to the king of at most this structure is noise.
    pub noise: f64,
    /// From this cosine of the differences on, the work is the other's; from
    /// `alike` on, if what is left is no more than rounding.
    pub copied: f64,
    /// From this cosine on the submission is flagged.
    pub alike: f64,
}

impl Default for LineageConfig {
    fn default() -> Self {
        Self { store: None, noise: 1.05, copied: 0.85, alike: 0.5 }
    }
}

impl LineageConfig {
    fn check(&self) -> Result<()> {
        let operation = format!("check the settings of screen `{}`", LineageScreen::NAME);
        let invalid = |key: &'static str, message: String| {
            Err(Error::new(ErrorKind::ConfigInvalid, operation.clone(), message).with("key", key))
        };
        if !(self.noise >= 1.0 && self.noise.is_finite()) {
            return invalid("noise", format!("it is {}, noise itself has 1", self.noise));
        }
        for (key, value) in [("copied", self.copied), ("alike", self.alike)] {
            if !(value > 0.0 && value <= 1.0) {
                return invalid(key, format!("it is {value}, a cosine above 0 and at most 1 is needed"));
            }
        }
        Ok(())
    }
}

/// Finds copies by their differences; see the [module](self).
#[derive(Debug)]
pub struct LineageScreen {
    identity: Identity,
    comparison: Arc<Comparison>,
}

/// What a model is compared with, and what counts as a copy.
#[derive(Debug)]
struct Comparison {
    config: LineageConfig,
    store: Option<Arc<Store>>,
}

/// One earlier submission beside the screened one.
#[derive(Debug, Clone, Serialize)]
struct Nearest {
    of: String,
    /// Its place in the order of first sight.
    seen: i64,
    /// The chain's block that it was committed in.
    block: Option<u64>,
    /// Relative change between the two.
    distance: f64,
    /// The differences to the king beside one another.
    #[serde(flatten)]
    explained: Explained,
}

impl LineageScreen {
    /// A screen with `config` that also compares with the submissions in
    /// `store`, whatever `config` says of one.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn new(config: LineageConfig, store: Option<Arc<Store>>) -> Result<Self> {
        config.check()?;
        Self::open(config, store)
    }

    /// The screen of checked settings.
    fn open(config: LineageConfig, store: Option<Arc<Store>>) -> Result<Self> {
        let identity = Identity::new(Self::NAME, "1", &identified(&config, store.is_some())?)?;
        Ok(Self { identity, comparison: Arc::new(Comparison { config, store }) })
    }

    /// The finding on `submission` beside `king`; entries of the store that have
    /// one of the labels `own` are the submission's own.
    ///
    /// # Errors
    /// The store's; models that are aligned to different anchors.
    pub fn judge(&self, submission: &Aligned, king: &Aligned, own: &[String]) -> Result<Finding> {
        self.comparison.find(submission, king, own)
    }
}

impl Comparison {
    fn find(&self, submission: &Aligned, king: &Aligned, own: &[String]) -> Result<Finding> {
        let stored = match &self.store {
            Some(store) => store.sketches()?,
            None => Vec::new(),
        };
        let others = stored.iter().filter(|stored| !own.contains(&stored.entry.label));
        self.compare(submission, king, others)
    }

    fn compare<'a>(
        &self,
        own: &Aligned,
        king: &Aligned,
        others: impl Iterator<Item = &'a StoredSketch>,
    ) -> Result<Finding> {
        own.sketch.check_comparable(&king.sketch)?;
        if let Some(tensor) = own.sketch.not_finite() {
            return Ok(Finding::Rejected(json!({ "reasons": ["a weight is not finite"], "tensor": tensor })));
        }
        let shape = own.shape(king);
        let delta = Delta::between(&own.sketch, &king.sketch, &king.sketch);
        let mut rejected = Vec::new();
        let mut flagged = Vec::new();
        if shape.changed == 0 && delta.is_nothing() {
            rejected.push("nothing differs from the king".to_owned());
        } else if shape.distance > FAR {
            flagged.push(format!(
                "{:.0} % from the king: no fine-tune of it, or a disguise that alignment does not undo",
                100.0 * shape.distance
            ));
        } else if shape.change < ROUNDING {
            flagged.push(format!(
                "hardly differs from the king: its matrices by {:.3} %, rounding to bf16 by 0.16 %",
                100.0 * shape.change
            ));
        } else if shape.structure <= self.config.noise {
            rejected.push(format!("what differs from the king is noise of {:.2} %", 100.0 * shape.distance));
        }
        let mut nearest = Vec::new();
        for other in others {
            own.sketch.check_comparable(&other.sketch)?;
            let between = Delta::between(&own.sketch, &other.sketch, &king.sketch);
            let others = Delta::between(&other.sketch, &king.sketch, &king.sketch);
            let (explained, shared) = (delta.explained_by(&others), delta.shared(&others, &between));
            let label = &other.entry.label;
            if between.is_nothing() {
                rejected.push(format!("nothing differs from {label}"));
            } else if shared > 0 {
                rejected.push(format!("{shared} matrices are those of {label}, and not the king's"));
            } else if explained.cosine >= self.config.copied
                || (explained.cosine >= self.config.alike && explained.rest <= ROUNDED_AGAIN)
            {
                rejected.push(format!(
                    "the work is {:.2} times that of {label}, cosine {:.3}, up to {:.2} %",
                    explained.factor,
                    explained.cosine,
                    100.0 * explained.rest
                ));
            } else if explained.cosine >= self.config.alike {
                flagged.push(format!("the work resembles that of {label}, cosine {:.3}", explained.cosine));
            }
            nearest.push(Nearest {
                of: label.clone(),
                seen: other.entry.id,
                block: other.entry.block,
                distance: between.distance(),
                explained,
            });
        }
        if own.undone.is_rearranged() {
            flagged.push("rows lie elsewhere than the anchor's, which training never does".into());
        }
        let compared = nearest.len();
        nearest.sort_by(|a, b| b.explained.cosine.total_cmp(&a.explained.cosine).then(a.seen.cmp(&b.seen)));
        nearest.truncate(NEAREST);
        let evidence = json!({
            "reasons": rejected.iter().chain(&flagged).collect::<Vec<_>>(),
            "to_king": to_value(&shape)?,
            "undone": to_value(&own.undone)?,
            "compared": compared,
            "nearest": to_value(&nearest)?,
            "anchor": king.sketch.anchor,
        });
        Ok(match (rejected.is_empty(), flagged.is_empty()) {
            (false, _) => Finding::Rejected(evidence),
            (true, false) => Finding::Flagged(evidence),
            (true, true) => Finding::Clear(evidence),
        })
    }

    /// Checks that the store's sketches are aligned to `anchor`.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if they are aligned to another.
    fn check_anchor(&self, anchor: &Anchor) -> Result<()> {
        match self.store.as_ref().map(|store| store.anchor()).transpose()?.flatten() {
            Some(stored) if stored != anchor.parameters() => Err(Error::new(
                ErrorKind::Conflict,
                "screen with `lineage`",
                "the store's sketches are aligned to another anchor",
            )
            .with_fault(Fault::Operator)
            .with("store", stored.short())
            .with("anchor", anchor.parameters().short())
            .with_hint("name the folder of the store's anchor")),
            _ => Ok(()),
        }
    }
}

impl Screen for LineageScreen {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Weights(self)
    }
}

impl WeightsScreen for LineageScreen {
    fn inspection(&self, own: &[String]) -> Box<dyn WeightsInspection> {
        Box::new(Inspection {
            comparison: Arc::clone(&self.comparison),
            own: own.to_vec(),
            of: WeightsOf::Anchor,
            aligner: None,
            anchor: None,
            king: None,
            submission: None,
        })
    }
}

/// Aligns the models as they pass by. Without an anchor of its own the
/// competition's anchor is the king, which is then aligned by being it.
struct Inspection {
    comparison: Arc<Comparison>,
    own: Vec<String>,
    /// The model that passes by.
    of: WeightsOf,
    aligner: Option<Aligner>,
    anchor: Option<Arc<Anchor>>,
    king: Option<Arc<Aligned>>,
    submission: Option<Arc<Aligned>>,
}

impl WeightVisitor for Inspection {
    fn begin(&mut self, of: WeightsOf, model: &Outline) -> Result<Option<Vec<TensorSlice>>> {
        self.of = of;
        let (aligner, slices) = Aligner::new(self.anchor.clone(), model)?;
        self.aligner = Some(aligner);
        Ok(Some(slices))
    }

    fn prepare(&mut self, early: &[Vec<u8>]) -> Result<()> {
        self.aligner.as_mut().map_or(Ok(()), |aligner| aligner.prepare(early))
    }

    fn visit(&mut self, segment: &Segment<'_>) -> Result<()> {
        self.aligner.as_mut().map_or(Ok(()), |aligner| aligner.add(segment))
    }

    fn end(&mut self, parameters: Digest) -> Result<()> {
        let Some(aligner) = self.aligner.take() else { return Ok(()) };
        let aligned = match &self.anchor {
            None => {
                let anchor = aligner.into_anchor(parameters)?;
                self.comparison.check_anchor(&anchor)?;
                Arc::clone(self.anchor.insert(anchor).own())
            }
            Some(anchor) if self.of == WeightsOf::King && anchor.parameters() == parameters => {
                Arc::clone(anchor.own())
            }
            Some(_) => Arc::new(aligner.into_aligned()?),
        };
        match self.of {
            WeightsOf::Anchor => {}
            WeightsOf::King => self.king = Some(aligned),
            WeightsOf::Submission => self.submission = Some(aligned),
        }
        Ok(())
    }
}

impl WeightsInspection for Inspection {
    fn find(self: Box<Self>) -> Result<Finding> {
        match (&self.submission, &self.king) {
            (Some(submission), Some(king)) => self.comparison.find(submission, king, &self.own),
            _ => Err(Error::bug("screen with `lineage`", "a model did not pass by")),
        }
    }
}

impl Plugin<dyn Screen> for LineageScreen {
    const NAME: &'static str = "lineage";
    const SUMMARY: &'static str = "disguised and noisy copies, by sketches of the aligned parameters";
    type Config = LineageConfig;
    type Checked = LineageConfig;

    fn check(config: LineageConfig, _: &CheckContext<'_>) -> Result<LineageConfig> {
        config.check()?;
        Ok(config)
    }

    async fn build(config: LineageConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        let store = Store::at(config.store.clone(), cx).await?;
        Ok(Arc::new(Self::open(config, store)?))
    }
}

albedo_core::register!(dyn Screen => LineageScreen);

#[cfg(test)]
mod tests;
