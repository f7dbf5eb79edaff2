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

use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo_core::{
    BuildContext, CallContext, CheckContext, Digest, Error, ErrorKind, Fault, Finding, Identity, Plugin,
    Result, Screen, ScreenStage, Subject,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checkpoint::{Checkpoint, Segment, Visitor};
use super::evidence::{to_value, wrong_stage};
use super::measure::{Measurement, Wanted, blocking, measure};
use super::store::{Store, StoredSketch};

mod align;
mod compare;
mod hash;
mod matrix;
mod network;
pub(crate) mod project;
mod sketch;

pub use compare::{Delta, Explained, KINDS, Shape};
pub use sketch::Sketch;

use matrix::Matrix;
use network::Network;
use project::{Layer, Projected, Projector};

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

/// What had to be undone to bring a model into the anchor's arrangement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Undone {
    /// Residual channels that lie elsewhere than the anchor's.
    pub channels_moved: usize,
    /// Neurons that lie elsewhere, over all layers.
    pub neurons_moved: usize,
    /// Query heads that lie elsewhere, over all layers.
    pub heads_moved: usize,
    /// Channels that resemble none of the anchor's.
    pub channels_unmatched: usize,
    /// Neurons that resemble none of the anchor's.
    pub neurons_unmatched: usize,
    /// Heads that resemble none of the anchor's.
    pub heads_unmatched: usize,
}

impl Undone {
    /// Whether anything lay elsewhere.
    pub fn is_rearranged(&self) -> bool {
        self.channels_moved + self.neurons_moved + self.heads_moved > 0
    }
}

/// The model that all others are aligned to: any member of the competition's
/// family, the same for all sketches of a store.
#[derive(Debug)]
pub struct Anchor {
    parameters: Digest,
    network: Network,
    signatures: Matrix,
    embedding: Matrix,
    own: Arc<Aligned>,
}

/// A model in the anchor's arrangement.
#[derive(Debug, Clone)]
pub struct Aligned {
    /// The sketch, which is what a store keeps.
    pub sketch: Sketch,
    /// What had to be undone.
    pub undone: Undone,
    layers: Vec<Layer>,
    head_dim: usize,
}

impl Aligned {
    /// What the difference to `king` looks like.
    pub fn shape(&self, king: &Self) -> Shape {
        Shape::between(&self.layers, &king.layers, king.head_dim)
    }
}

impl Anchor {
    /// Reads the anchor in `folder`; blocks. It takes about a tenth of the
    /// weights' bytes of memory. `progress` is told the bytes of each block.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an architecture that is not read; files
    /// that cannot be read; `cx`.
    pub fn take(folder: &Path, progress: &(dyn Fn(u64) + Sync), cx: &CallContext) -> Result<Self> {
        let network = Network::read(folder)?;
        let checkpoint = Checkpoint::open(folder)?;
        network.check_tensors(&checkpoint)?;
        let signatures = project::signatures(&checkpoint, &network)?;
        let channels = align::straight(network.hidden);
        let side = sketch::side(&network);
        let mut visitor = Only(Projector::new(&checkpoint, network, channels, side)?);
        let parameters = checkpoint
            .pass(&mut visitor, true, progress, cx)?
            .ok_or_else(|| Error::bug("read the anchor", "there is no digest"))?;
        let projected = visitor.0.finish();
        let layers = align::normal(&projected);
        let sketch = Sketch::of(&projected, &layers, 1.0, parameters);
        if let Some(tensor) = sketch.not_finite() {
            return Err(Error::new(ErrorKind::DataInvalid, "read the anchor", "a weight is not finite")
                .with_fault(Fault::Operator)
                .with("tensor", tensor)
                .with("path", folder.display()));
        }
        let Projected { network, embedding, .. } = projected;
        let head_dim = network.head_dim;
        let own = Arc::new(Aligned { sketch, undone: Undone::default(), layers, head_dim });
        Ok(Self { parameters, network, signatures, embedding, own })
    }

    /// Digest of its parameters.
    pub fn parameters(&self) -> Digest {
        self.parameters
    }

    /// The anchor in its own arrangement.
    pub fn own(&self) -> &Arc<Aligned> {
        &self.own
    }

    /// A projector for a model of the same network.
    pub(super) fn projector(&self, checkpoint: &Checkpoint) -> Result<Projector> {
        self.network.check_tensors(checkpoint)?;
        let signatures = project::signatures(checkpoint, &self.network)?;
        let channels = align::channels(&signatures, &self.signatures);
        Projector::new(checkpoint, self.network.clone(), channels, self.own.sketch.side)
    }

    /// What a projector saw, in the anchor's arrangement.
    pub(super) fn align(&self, projected: &Projected) -> Aligned {
        let stream = align::stream_scale(projected, &self.embedding);
        let (layers, undone) = align::layers(projected, &self.own.layers, stream);
        let sketch = Sketch::of(projected, &layers, stream, self.parameters);
        Aligned { sketch, undone, layers, head_dim: self.network.head_dim }
    }
}

struct Only(Projector);

impl Visitor for Only {
    fn visit(&mut self, segment: Segment<'_>) -> Result<()> {
        self.0.add(&segment).map(|_| ())
    }
}

/// Settings of [`LineageScreen`]. The defaults of the last three are measured:
/// see `docs/screens.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LineageConfig {
    /// The store of earlier submissions; without one only the king is compared.
    pub store: Option<PathBuf>,
    /// Folder of the anchor that the store's sketches are aligned to; the king
    /// if absent.
    pub anchor: Option<PathBuf>,
    /// Labels of the store's entries that are the submission's own.
    pub own: Vec<String>,
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
        Self { store: None, anchor: None, own: Vec::new(), noise: 1.05, copied: 0.85, alike: 0.5 }
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
    config: LineageConfig,
    store: Option<Store>,
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
    /// A screen with `config`, whose relative paths were resolved.
    pub fn new(config: LineageConfig) -> Result<Self> {
        config.check()?;
        Self::open(config)
    }

    /// The screen of checked settings.
    fn open(config: LineageConfig) -> Result<Self> {
        let store = config.store.as_deref().map(Store::open).transpose()?;
        Ok(Self { identity: Identity::new(Self::NAME, "1", &config)?, config, store })
    }

    /// The finding on a measured submission beside the aligned king.
    ///
    /// # Errors
    /// The store's; models that are aligned to different anchors.
    pub fn judge(&self, submission: &Measurement, king: &Aligned) -> Result<Finding> {
        let Some(own) = &submission.aligned else {
            return Err(Error::bug("compare sketches", "none was taken"));
        };
        let stored = match &self.store {
            Some(store) => store.sketches()?,
            None => Vec::new(),
        };
        let others = stored.iter().filter(|stored| !self.config.own.contains(&stored.entry.label));
        self.compare(own, king, others)
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

    /// Reads the anchor that `config` names, or the king; blocks.
    ///
    /// # Errors
    /// As [`Anchor::take`]; [`ErrorKind::Conflict`] if the store's sketches are
    /// aligned to another.
    pub fn anchor(
        &self,
        king: &Path,
        progress: &(dyn Fn(u64) + Sync),
        cx: &CallContext,
    ) -> Result<Arc<Anchor>> {
        let folder = self.config.anchor.as_deref().unwrap_or(king);
        Anchor::take(folder, progress, cx).and_then(|anchor| self.fits(anchor)).map(Arc::new)
    }

    fn fits(&self, anchor: Anchor) -> Result<Anchor> {
        match self.store.as_ref().map(Store::anchor).transpose()?.flatten() {
            Some(stored) if stored != anchor.parameters => Err(Error::new(
                ErrorKind::Conflict,
                "screen with `lineage`",
                "the store's sketches are aligned to another anchor",
            )
            .with_fault(Fault::Operator)
            .with("store", stored.short())
            .with("anchor", anchor.parameters.short())
            .with_hint("name the folder of the store's anchor")),
            _ => Ok(anchor),
        }
    }

    /// The king in the anchor's arrangement; blocks. No second pass if the king
    /// is the anchor.
    ///
    /// # Errors
    /// As [`Measurement::take`].
    pub fn king(
        &self,
        king: &Path,
        anchor: &Arc<Anchor>,
        progress: &(dyn Fn(u64) + Sync),
        cx: &CallContext,
    ) -> Result<Arc<Aligned>> {
        if self.config.anchor.as_deref().is_none_or(|folder| folder == king) {
            return Ok(anchor.own.clone());
        }
        aligned(king, anchor, progress, cx)
    }
}

fn aligned(
    folder: &Path,
    anchor: &Arc<Anchor>,
    progress: &(dyn Fn(u64) + Sync),
    cx: &CallContext,
) -> Result<Arc<Aligned>> {
    let wanted = Wanted { anchor: Some(anchor.clone()), ..Wanted::default() };
    let measured = Measurement::take(folder, &wanted, progress, cx)?;
    measured.aligned.map(Arc::new).ok_or_else(|| Error::bug("align the king", "nothing was aligned"))
}

#[async_trait]
impl Screen for LineageScreen {
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
        let of = self.config.anchor.clone().unwrap_or_else(|| king.to_owned());
        let inner = cx.clone();
        let anchor = blocking(&of, cx, move |folder| Anchor::take(&folder, &|_| (), &inner)).await?;
        let anchor = Arc::new(self.fits(anchor)?);
        let kings = if of == king {
            anchor.own.clone()
        } else {
            let (inner, anchor) = (cx.clone(), anchor.clone());
            blocking(king, cx, move |king| aligned(&king, &anchor, &|_| (), &inner)).await?
        };
        let wanted = Wanted { anchor: Some(anchor), digest: true, ..Wanted::default() };
        self.judge(&measure(submission, &wanted, cx).await?, &kings)
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

    async fn build(mut config: LineageConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        config.store = config.store.map(|path| cx.path(path));
        config.anchor = config.anchor.map(|path| cx.path(path));
        Ok(Arc::new(Self::open(config)?))
    }
}

albedo_core::register!(dyn Screen => LineageScreen);

#[cfg(test)]
mod tests;
