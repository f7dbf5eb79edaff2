//! Inspections that take something of the king and of the submission as their
//! weights pass by, and compare the two.

use albedo_core::checkpoint::{Outline, Segment, TensorSlice, WeightsOf};
use albedo_core::{Digest, Error, Finding, Result, WeightVisitor, WeightsInspection};

/// Takes something of one model as its weights pass by.
pub(crate) trait Accumulate: Default + Send + 'static {
    /// What is taken.
    type Taken: Send + 'static;

    /// The weights of `model` come next.
    fn begin(&mut self, _model: &Outline) {}

    /// Takes the next segment.
    fn add(&mut self, segment: &Segment<'_>) -> Result<()>;

    /// What was taken of a model whose parameters have this digest.
    fn finish(self, parameters: Digest) -> Self::Taken;
}

/// An inspection that compares what `A` takes of the submission and of the king.
pub(crate) struct Pair<A: Accumulate, F> {
    /// The model that passes by.
    of: WeightsOf,
    current: A,
    king: Option<A::Taken>,
    submission: Option<A::Taken>,
    compare: F,
}

impl<A: Accumulate, F> Pair<A, F>
where
    F: FnOnce(&A::Taken, &A::Taken) -> Result<Finding> + Send + 'static,
{
    /// An inspection whose finding is `compare` of submission and king.
    pub(crate) fn inspection(compare: F) -> Box<dyn WeightsInspection> {
        let pair = Self { of: WeightsOf::King, current: A::default(), king: None, submission: None, compare };
        Box::new(pair)
    }
}

impl<A: Accumulate, F: Send + 'static> WeightVisitor for Pair<A, F> {
    fn begin(&mut self, of: WeightsOf, model: &Outline) -> Result<Option<Vec<TensorSlice>>> {
        self.of = of;
        self.current.begin(model);
        Ok((of != WeightsOf::Anchor).then(Vec::new))
    }

    fn visit(&mut self, segment: &Segment<'_>) -> Result<()> {
        self.current.add(segment)
    }

    fn end(&mut self, parameters: Digest) -> Result<()> {
        let taken = std::mem::take(&mut self.current).finish(parameters);
        *if self.of == WeightsOf::King { &mut self.king } else { &mut self.submission } = Some(taken);
        Ok(())
    }
}

impl<A: Accumulate, F> WeightsInspection for Pair<A, F>
where
    F: FnOnce(&A::Taken, &A::Taken) -> Result<Finding> + Send + 'static,
{
    fn find(self: Box<Self>) -> Result<Finding> {
        match (self.submission, self.king) {
            (Some(submission), Some(king)) => (self.compare)(&submission, &king),
            _ => Err(Error::bug("compare two models", "one of them did not pass by")),
        }
    }
}
