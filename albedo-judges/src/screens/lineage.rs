//! `lineage`: whose work the weights are.
//!
//! Honest challengers are fine-tunes of the king, so closeness to the king
//! proves nothing. What tells a copy is the *difference*. So the parameters are
//! first brought into one anchor's arrangement (which undoes whatever leaves the
//! function unchanged), then projected into a small linear sketch, and
//! differences of sketches are judged:
//!
//! - nothing differs from the king or from an earlier submission once disguises
//!   are undone: the function is the same → `Rejected`;
//! - the difference to the king who is nearest, and to him who is nearest to an
//!   earlier submission, is that one's times a factor, up to a rest that no two
//!   honest models are near to, or has matrices of it that no king has: its work →
//!   `Rejected`;
//! - the difference to the king who is nearest is an earlier submission's difference
//!   to another king who is nearest to that one: work that was moved from one king to
//!   another looks so. Somebody who trains both kings by one recipe, on the same data in
//!   the same order, comes near to it: `Flagged`;
//! - the difference to the king looks like noise, or hardly anything differs, or
//!   rows lie elsewhere than the anchor's, which training never does: `Flagged`.
//!   What a difference *looks like* never forfeits: optimisers that orthogonalise
//!   their steps, and searches without gradients, leave flat differences, too.
//!   Whether such a model answers like the king, the screen
//!   [`functional`](super::functional) finds out;
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

use super::evidence::{KING, Reasons, to_value};
use super::store::{Store, StoredSketch, identified};

mod align;
mod anchor;
mod compare;
mod earlier;
mod hash;
mod matrix;
mod network;
mod project;
pub(crate) mod sketch;

pub use align::Undone;
pub(crate) use anchor::Aligner;
pub use anchor::{Aligned, Anchor, Largest};
pub use compare::{Delta, Explained, KINDS, Shape};
use earlier::{Compared, Kings, Likeness};
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

/// A model of which fewer matrices differ from the king's than this share is flagged: what
/// its difference looks like says little then.
const FEW: f64 = 0.1;

/// Nearest submissions that the evidence lists.
const NEAREST: usize = 5;

/// Sketches that are in memory at the same time: 16 MiB.
const AT_A_TIME: u32 = 64;

/// Settings of [`LineageScreen`]. The defaults of the numbers are measured: see
/// `docs/screens.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LineageConfig {
    /// The store of earlier submissions; without one only the king is compared.
    pub store: Option<PathBuf>,
    /// A difference to the king looks like noise up to this structure.
    pub noise: f64,
    /// A difference looks like noise from this structure on: steps that an optimiser made
    /// orthogonal have less.
    pub noise_from: f64,
    /// From this cosine of the differences on, the work is the other's; from
    /// `alike` on, if what is left is no more than rounding. Differences to two kings that are as
    /// alike are flagged.
    pub copied: f64,
    /// From this cosine on the submission is flagged.
    pub alike: f64,
}

impl Default for LineageConfig {
    fn default() -> Self {
        Self { store: None, noise: 1.05, noise_from: 0.95, copied: 0.85, alike: 0.5 }
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
        if !(self.noise_from > 0.0 && self.noise_from <= 1.0) {
            return invalid("noise_from", format!("it is {}, not above 0 and at most 1", self.noise_from));
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
    /// Kings from whom the two were compared, at most two: what follows is the lesser of what
    /// they see.
    kings: usize,
    /// The cosine of the two changes, each from the king who is nearest to the model; absent if
    /// he is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<f64>,
    /// The differences to the king beside one another.
    #[serde(flatten)]
    explained: Explained,
}

impl Nearest {
    /// The larger of its cosines.
    fn cosine(&self) -> f64 {
        self.moved.map_or(self.explained.cosine, |moved| self.explained.cosine.max(moved))
    }
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
        let identity = Identity::new(Self::NAME, "4", &identified(&config, store.is_some())?)?;
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
        submission.sketch.check_comparable(&king.sketch)?;
        let mut reasons = Reasons::default();
        if let Some(fault) = submission.largest.fault() {
            reasons.reject("numbers", None, fault);
            return Ok(reasons.finding(json!({ "largest": to_value(&submission.largest)? })));
        }
        if let Some(tensor) = submission.sketch.not_finite() {
            // Scales that a disguise puts between two tensors may multiply.
            reasons.flag("numbers", format!("sums of the weights of {tensor} overflow"));
            return Ok(reasons.finding(json!({ "largest": to_value(&submission.largest)? })));
        }
        let former = self.store.as_ref().map_or_else(|| Ok(Vec::new()), |store| store.kings())?;
        let kings = Kings::new(&submission.sketch, &king.sketch, former)?;
        let shape = submission.shape(king);
        self.beside_king(&shape, kings.delta(), &mut reasons);
        for (label, distance) in kings.hardly_left().filter(|(label, _)| !own.iter().any(|own| own == label))
        {
            let by = format!("{:.2} %, a disguise by up to {:.1} %", 100.0 * distance, 100.0 * ROUNDED_AGAIN);
            reasons.flag("hardly-differs", format!("hardly differs from {label}, a former king: by {by}"));
        }
        let (compared, nearest) = self.beside_others(&submission.sketch, &kings, own, &mut reasons)?;
        if submission.undone.rotated {
            reasons.flag("rotated", "the residual stream is turned beside the anchor's".into());
        } else if submission.undone.is_rearranged() {
            let reason = "rows lie elsewhere than the anchor's, which training never does";
            reasons.flag("rearranged", reason.into());
        }
        if submission.undone.rows_apart > 0 {
            let count = submission.undone.rows_apart;
            reasons
                .flag("rows", format!("{count} rows of the embedding have another size than the anchor's"));
        }
        let mut facts = json!({
            "to_king": to_value(&shape)?,
            "undone": to_value(&submission.undone)?,
            "compared": compared,
            "nearest": to_value(&nearest)?,
            "anchor": king.sketch.anchor,
        });
        let outdated = self.store.as_ref().map_or(Ok(0), |store| store.outdated())?;
        if outdated > 0 {
            facts["not_compared"] = json!(outdated);
        }
        Ok(reasons.finding(facts))
    }

    /// Compares with every sketch of the store, a few in memory at a time. Gives their number, and
    /// the nearest.
    fn beside_others(
        &self,
        sketch: &Sketch,
        kings: &Kings,
        own: &[String],
        reasons: &mut Reasons,
    ) -> Result<(usize, Vec<Nearest>)> {
        let (mut compared, mut nearest) = (0, Vec::<Nearest>::new());
        let Some(store) = &self.store else { return Ok((compared, nearest)) };
        let mut some = store.sketches_after(0, AT_A_TIME)?;
        while let Some(last) = some.last().map(|stored| stored.entry.id) {
            for StoredSketch { entry, sketch: other, .. } in some {
                if own.contains(&entry.label) {
                    continue;
                }
                sketch.check_comparable(&other)?;
                let found = kings.compare(sketch, &other, &self.config);
                beside_another(&entry.label, &found, reasons);
                compared += 1;
                let Compared { distance, kings, moved, explained, .. } = found;
                let moved = moved.map(|(moved, _)| moved.cosine);
                let (of, seen, block) = (entry.label, entry.id, entry.block);
                nearest.push(Nearest { of, seen, block, distance, kings, moved, explained });
                nearest.sort_by(|a, b| b.cosine().total_cmp(&a.cosine()).then(a.seen.cmp(&b.seen)));
                nearest.truncate(NEAREST);
            }
            some = store.sketches_after(last, AT_A_TIME)?;
        }
        Ok((compared, nearest))
    }

    /// What the difference to the king amounts to.
    fn beside_king(&self, shape: &Shape, delta: &Delta, reasons: &mut Reasons) {
        let Shape { matrices, changed, distance, change, structure, .. } = *shape;
        if changed == 0 && delta.is_nothing() {
            reasons.reject("nothing-differs", Some(KING), format!("nothing differs from {KING}"));
        } else if distance > FAR {
            let reason = "no fine-tune of it, or a disguise that alignment does not undo";
            reasons.flag("far", format!("{:.0} % from the king: {reason}", 100.0 * distance));
        } else if (changed as f64) < FEW * matrices as f64 {
            reasons.flag("few-differ", format!("{changed} of {matrices} matrices differ from the king's"));
        } else if change < ROUNDING {
            reasons.flag(
                "hardly-differs",
                format!(
                    "hardly differs from the king: its matrices by {:.3} %, rounding to bf16 by 0.16 %",
                    100.0 * change
                ),
            );
        } else if (self.config.noise_from..=self.config.noise).contains(&structure) {
            let reason = format!("what differs from the king looks like noise of {:.2} %", 100.0 * distance);
            reasons.flag("noise", reason);
        }
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

/// What the resemblance to the earlier submission `label` amounts to.
fn beside_another(label: &str, found: &Compared, reasons: &mut Reasons) {
    let Compared { same, shared, likeness, moved, explained, .. } = *found;
    let Explained { cosine, factor, rest, .. } = explained;
    match (likeness, moved) {
        _ if same => {
            reasons.reject("nothing-differs", Some(label), format!("nothing differs from {label}"));
        }
        _ if shared > 0 => {
            let reason = format!("{shared} matrices are those of {label}, and no king's");
            reasons.reject("shared", Some(label), reason);
        }
        (Likeness::Copied, _) => {
            let rest = 100.0 * rest;
            let reason = format!(
                "the work is {factor:.2} times that of {label}, cosine {cosine:.3}, up to {rest:.2} %"
            );
            reasons.reject("copied", Some(label), reason);
        }
        (_, Some((Explained { cosine, factor, .. }, Likeness::Copied))) => {
            let reason = format!(
                "the change from the king nearest to it is {factor:.2} times the change of {label} from another \
                 king, cosine {cosine:.3}: work that was moved to another king looks so"
            );
            reasons.flag("moved", reason);
        }
        (Likeness::Alike, _) => {
            reasons.flag("alike", format!("the work resembles that of {label}, cosine {cosine:.3}"));
        }
        (Likeness::Apart, _) => {}
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
    const SUMMARY: &'static str = "whose work the weights are, by sketches of the aligned parameters";
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
