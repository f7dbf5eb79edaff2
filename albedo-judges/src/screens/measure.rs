//! Everything that the parameter screens know of a model, taken in one pass
//! over its weights: what a store remembers of a submission.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use albedo_core::checkpoint::{Outline, Segment, TensorSlice, WeightsOf};
use albedo_core::{
    CallContext, Checkpoint, Digest, Error, ErrorKind, EventKind, ModelFiles, Result, WeightVisitor,
};

use super::digest::{Digests, TakeDigests};
use super::fingerprint::print::{Fingerprint, TakeFingerprint};
use super::lineage::{Aligned, Aligner, Anchor};
use super::pair::Accumulate;
use super::store::{Entry, Store, Submission};

/// What was taken of a model.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Bytes of the weight files.
    pub bytes: u64,
    /// Its digests.
    pub digests: Digests,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// The model in the anchor's arrangement, and its sketch.
    pub aligned: Option<Arc<Aligned>>,
    /// The anchor that it was aligned to, or has become.
    pub anchor: Option<Arc<Anchor>>,
}

/// What a model is aligned to.
#[derive(Debug, Clone)]
pub enum AlignTo {
    /// Nothing: there is no sketch.
    Nothing,
    /// This anchor.
    Anchor(Arc<Anchor>),
    /// Itself: it becomes an anchor.
    Itself,
}

impl Measurement {
    /// Measures the model of `files`; tells `cx` how far it got
    /// ([`EventKind::Progress`]).
    ///
    /// # Errors
    /// Files that cannot be read or are no model's; an architecture that cannot
    /// be aligned; `cx`.
    pub async fn take(files: Arc<dyn ModelFiles>, align: AlignTo, cx: &CallContext) -> Result<Self> {
        let checkpoint = Checkpoint::open(files, cx).await?;
        let bytes = checkpoint.outline().bytes();
        let measure = Measure {
            align,
            aligner: None,
            digests: TakeDigests::default(),
            fingerprint: TakeFingerprint::default(),
            bytes,
            taken: None,
        };
        let seats = vec![Ok(Box::new(measure))];
        let read = AtomicU64::new(0);
        let progress = |block: u64| {
            let read = read.fetch_add(block, Ordering::Relaxed) + block;
            cx.emit(EventKind::weights("the model", read, bytes));
        };
        let (_, seats) = checkpoint.pass(WeightsOf::Submission, seats, &progress, cx).await?;
        let measured = seats.into_iter().next().transpose()?.and_then(|measure| measure.taken);
        measured.ok_or_else(|| Error::bug("measure a model", "it did not pass by"))
    }

    /// Remembers the model in `store` under `label`.
    ///
    /// # Errors
    /// A weight that is not finite; the store's.
    pub fn remember(
        &self,
        store: &Store,
        label: String,
        hotkey: String,
        block: Option<u64>,
    ) -> Result<Entry> {
        let sketch = self.aligned.as_ref().map(|aligned| aligned.sketch.clone());
        let overflow = sketch.as_ref().and_then(|sketch| sketch.not_finite());
        let overflow = overflow.map(|tensor| format!("sums of the weights of {tensor} overflow"));
        let fault = self.aligned.as_ref().and_then(|aligned| aligned.largest.fault()).or(overflow);
        if let Some(fault) = fault {
            return Err(Error::new(ErrorKind::DataInvalid, "remember a model", fault));
        }
        let fingerprint = Fingerprint { hotkey: hotkey.clone(), ..self.fingerprint.clone() };
        store.add(&Submission {
            label,
            hotkey,
            block,
            parameters: Some(self.digests.parameters),
            fingerprint: Some(fingerprint),
            sketch,
            tensors: self.digests.prints(),
        })
    }
}

struct Measure {
    align: AlignTo,
    aligner: Option<Aligner>,
    digests: TakeDigests,
    fingerprint: TakeFingerprint,
    bytes: u64,
    taken: Option<Measurement>,
}

impl WeightVisitor for Measure {
    fn begin(&mut self, _: WeightsOf, model: &Outline) -> Result<Option<Vec<TensorSlice>>> {
        self.digests.begin(model);
        let anchor = match &self.align {
            AlignTo::Nothing => return Ok(Some(Vec::new())),
            AlignTo::Anchor(anchor) => Some(Arc::clone(anchor)),
            AlignTo::Itself => None,
        };
        let (aligner, slices) = Aligner::new(anchor, model)?;
        self.aligner = Some(aligner);
        Ok(Some(slices))
    }

    fn prepare(&mut self, early: &[Vec<u8>]) -> Result<()> {
        self.aligner.as_mut().map_or(Ok(()), |aligner| aligner.prepare(early))
    }

    fn visit(&mut self, segment: &Segment<'_>) -> Result<()> {
        let Self { aligner, digests, fingerprint, .. } = self;
        let numbers = || {
            fingerprint.add(segment)?;
            aligner.as_mut().map_or(Ok(()), |aligner| aligner.add(segment))
        };
        // Hashing takes longest and has one core for itself.
        let (hashed, numbers) = rayon::join(|| digests.add(segment), numbers);
        hashed.and(numbers)
    }

    fn end(&mut self, parameters: Digest) -> Result<()> {
        let (aligned, anchor) = match (self.aligner.take(), &self.align) {
            (None, _) | (_, AlignTo::Nothing) => (None, None),
            (Some(aligner), AlignTo::Anchor(anchor)) => {
                (Some(Arc::new(aligner.into_aligned()?)), Some(Arc::clone(anchor)))
            }
            (Some(aligner), AlignTo::Itself) => {
                let anchor = aligner.into_anchor(parameters)?;
                (Some(Arc::clone(anchor.own())), Some(anchor))
            }
        };
        let taken = Measurement {
            bytes: self.bytes,
            digests: std::mem::take(&mut self.digests).finish(parameters),
            fingerprint: std::mem::take(&mut self.fingerprint).finish(parameters),
            aligned,
            anchor,
        };
        self.taken = Some(taken);
        Ok(())
    }
}
