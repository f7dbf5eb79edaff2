//! What an onlooker sees of a running duel.

use crate::backend::Usage;
use crate::digest::Digest;
use crate::error::{Error, Side};
use crate::order::Order;
use crate::overflow::Overflow;
use crate::verdict::Outcome;

/// Something that happened, in arrival order.
#[derive(Debug)]
#[non_exhaustive]
pub enum DuelEvent<'a> {
    /// The plan is frozen and journalled.
    Planned {
        /// Its digest.
        plan: Digest,
        /// Samples planned.
        samples: u32,
    },
    /// The duel goes on from its journal, whose answers are not asked for again.
    Resumed {
        /// Replies stored.
        replies: usize,
        /// Judges' answers stored.
        assessments: usize,
    },
    /// A sample was drawn.
    Drawn {
        /// Its place in plan order.
        sample: u32,
    },
    /// A side replied.
    Replied {
        /// The sample.
        sample: u32,
        /// Whose reply.
        side: Side,
        /// Its tokens.
        usage: Usage,
    },
    /// A side's own arithmetic gave a number that is not finite: an alert. A king
    /// whose model does that needs to be looked at, and so does a machine on which
    /// it does not happen again.
    Overflowed {
        /// The sample.
        sample: u32,
        /// Whose model.
        side: Side,
        /// Where.
        overflow: Overflow,
        /// Whether the model, loaded afresh and asked alone, did it again: then the
        /// side loses the sample. If not, the failure was ours, and the reply counts.
        repeated: bool,
    },
    /// A judge answered.
    Assessed {
        /// The sample.
        sample: u32,
        /// The judge's place in the panel.
        judge: u32,
        /// Which reply it saw first.
        order: Order,
    },
    /// A judge's answer was paid.
    Spent {
        /// What the judges' answers have cost so far, in US dollars, as far as
        /// their providers tell; those of earlier runs are counted.
        usd: f64,
    },
    /// A call failed; it may be tried again.
    Failed {
        /// The sample; none before the plan is frozen.
        sample: Option<u32>,
        /// The try, from 1.
        call_try: u32,
        /// Why.
        error: &'a Error,
    },
    /// The decision consumed the next sample in plan order.
    Decided {
        /// The sample.
        sample: u32,
        /// Its difference, challenger minus king, in [−1, 1].
        difference: f64,
    },
    /// The duel is over.
    Ended {
        /// What it came to.
        outcome: Outcome,
    },
}

/// Sees a duel's events. Called from the duel's own task: it must not block.
pub trait Observer: Send + Sync {
    /// `event` has just happened.
    fn on(&self, event: &DuelEvent<'_>);
}

impl<F: Fn(&DuelEvent<'_>) + Send + Sync> Observer for F {
    fn on(&self, event: &DuelEvent<'_>) {
        self(event);
    }
}

/// Sees nothing.
impl Observer for () {
    fn on(&self, _: &DuelEvent<'_>) {}
}
