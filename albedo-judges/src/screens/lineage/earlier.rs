//! A submission beside an earlier one, as the kings nearest to the two see them.
//!
//! Two models that were trained from a former king both lack what crowns have changed since.
//! Seen from the present king they resemble each other for that reason alone, and what neither
//! has trained is "theirs, and not the king's". So they are compared from the king whom each was
//! probably trained from, which is the nearest one, and the lesser likeness counts. Other kings
//! see less of a scaled copy: what the crowns have changed since comes between. A matrix that
//! both have is the earlier one's work if no king has it. From a former king himself nothing is
//! like him, unless nothing differs.
//!
//! No single king sees work that was moved from one king to another: what the crowns have changed
//! comes between. So where the two kings differ, the two changes are compared, too, each from the
//! king who is nearest to the model. Two honest trainings of two kings have next to nothing in
//! common, unless they are one recipe on the same data in the same order (`docs/screens.md` has the
//! measured cosines).

use albedo_core::Result;

use super::compare::{Delta, Explained, distance};
use super::sketch::Sketch;
use super::{LineageConfig, ROUNDED_AGAIN};
use crate::screens::store::StoredSketch;

/// The kings, and the submission's difference to each.
#[derive(Debug)]
pub(super) struct Kings {
    present: Base,
    former: Vec<(String, Base)>,
    /// The place of the king who is nearest to the submission: the present one has place 0.
    nearest: usize,
}

/// What differences are taken from.
#[derive(Debug)]
struct Base {
    king: Sketch,
    /// The submission's difference to the king.
    own: Delta,
}

/// How much of an earlier submission's work the screened one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Likeness {
    Apart,
    Alike,
    Copied,
}

/// A submission beside an earlier one.
#[derive(Debug)]
pub(super) struct Compared {
    /// Whether nothing differs between the two.
    pub(super) same: bool,
    /// Relative change between the two.
    pub(super) distance: f64,
    /// As the king sees it from whom they are less alike.
    pub(super) explained: Explained,
    pub(super) likeness: Likeness,
    /// Matrices in which both differ from every king, and not from each other.
    pub(super) shared: usize,
    /// Kings from whom the likeness was taken: one if he is nearest to both, or already sees none.
    pub(super) kings: usize,
    /// The change of the submission from the king who is nearest to it beside the change of the
    /// earlier one from the king who is nearest to that; `None` if he is the same, or if nothing
    /// differs between the two.
    pub(super) moved: Option<(Explained, Likeness)>,
}

impl Kings {
    /// The present king and the `former` ones, of whom he may be one, and the difference of the
    /// sketch `own` to each.
    ///
    /// # Errors
    /// Sketches that cannot be subtracted.
    pub(super) fn new(own: &Sketch, present: &Sketch, former: Vec<StoredSketch>) -> Result<Self> {
        let base = |king: Sketch| Base { own: Delta::between(own, &king, &king), king };
        let mut kings = Self { present: base(present.clone()), former: Vec::new(), nearest: 0 };
        for StoredSketch { entry, sketch, .. } in former {
            own.check_comparable(&sketch)?;
            if !Delta::between(&sketch, present, present).is_nothing() {
                kings.former.push((entry.label, base(sketch)));
            }
        }
        kings.nearest = kings.nearest_to(own);
        Ok(kings)
    }

    /// The place of the king who is nearest to `model`.
    fn nearest_to(&self, model: &Sketch) -> usize {
        let distances = self.bases().map(|base| distance(model, &base.king)).enumerate();
        let nearest = distances.min_by(|(_, one), (_, other)| one.total_cmp(other));
        nearest.map_or(0, |(place, _)| place)
    }

    /// What differences are taken from, the present king first.
    fn bases(&self) -> impl Iterator<Item = &Base> {
        std::iter::once(&self.present).chain(self.former.iter().map(|(_, base)| base))
    }

    /// The submission's difference to the present king.
    pub(super) fn delta(&self) -> &Delta {
        &self.present.own
    }

    /// The former kings that the submission hardly differs from, and by how much: more than
    /// nothing, and no more than a disguise leaves of a copy.
    pub(super) fn hardly_left(&self) -> impl Iterator<Item = (&str, f64)> {
        let differ = self.former.iter().filter(|(_, base)| !base.own.is_nothing());
        let distances = differ.map(|(label, base)| (label.as_str(), base.own.distance()));
        distances.filter(|(_, distance)| *distance <= ROUNDED_AGAIN)
    }

    /// The submission of sketch `own` beside `other`, an earlier one.
    pub(super) fn compare(&self, own: &Sketch, other: &Sketch, config: &LineageConfig) -> Compared {
        let between = Delta::between(own, other, &self.present.king);
        let same = between.is_nothing();
        let own_base = self.bases().nth(self.nearest).unwrap_or(&self.present);
        let others = own_base.difference_of(other);
        let (mut explained, mut likeness) = own_base.likeness(&others, config);
        let mut shared = own_base.own.shared(&others, &between);
        if shared.contains(&true) {
            for base in self.bases() {
                let theirs = base.own.shared(&base.difference_of(other), &between);
                shared.iter_mut().zip(theirs).for_each(|(shared, theirs)| *shared &= theirs);
            }
        }
        let (mut kings, mut moved) = (1, None);
        let nearest = if same { self.nearest } else { self.nearest_to(other) };
        if nearest != self.nearest
            && let Some(base) = self.bases().nth(nearest)
        {
            let others = base.difference_of(other);
            moved = Some(own_base.likeness(&others, config));
            if likeness != Likeness::Apart {
                kings = 2;
                let (seen, like) = base.likeness(&others, config);
                if (like, seen.cosine) < (likeness, explained.cosine) {
                    (explained, likeness) = (seen, like);
                }
            }
        }
        let shared = shared.into_iter().filter(|&shared| shared).count();
        Compared { same, distance: between.distance(), explained, likeness, shared, kings, moved }
    }
}

impl Base {
    /// The difference of `model` to the king.
    fn difference_of(&self, model: &Sketch) -> Delta {
        Delta::between(model, &self.king, &self.king)
    }

    /// How much of the submission's difference is an earlier one's, `others`, to this king or to
    /// another, and what that amounts to.
    fn likeness(&self, others: &Delta, config: &LineageConfig) -> (Explained, Likeness) {
        let explained = self.own.explained_by(others);
        let Explained { cosine, rest, .. } = explained;
        let likeness = if cosine >= config.copied || (cosine >= config.alike && rest <= ROUNDED_AGAIN) {
            Likeness::Copied
        } else if cosine >= config.alike {
            Likeness::Alike
        } else {
            Likeness::Apart
        };
        (explained, likeness)
    }
}
