//! Replaying recorded row draws from the seed.

use std::fmt::Debug;

use super::{DrawOutcome, RowDraw, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::DuelPlan;

/// Checks recorded row draws, in their order, without the data: each row and
/// turn must be the one that the plan's sampler draws, each outcome the one
/// that the facts make of it.
///
/// Instances, numbers of turns and prompt lengths are taken as recorded, as far
/// as they contradict nothing: [`RowDraw::check`] holds them against the tasks.
#[derive(Debug, Clone)]
pub struct Replay {
    walk: Walk,
    samples: u32,
    draws: u64,
}

impl Replay {
    /// The replay of `plan`'s draw, from its first row.
    pub fn new(plan: &DuelPlan) -> Self {
        Self { walk: Walk::new(plan), samples: plan.samples, draws: 0 }
    }

    /// Samples drawn so far.
    pub fn samples(&self) -> u32 {
        self.walk.samples()
    }

    /// Checks that `draw` is the next row draw.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`], naming the place of the draw, the fact, what
    /// is recorded and what follows from the seed. Nothing may be checked after
    /// an error.
    pub fn check(&mut self, draw: &RowDraw) -> Result<()> {
        let place = self.draws;
        self.draws += 1;
        let refuse = |message: String| {
            Err(Error::new(ErrorKind::DataInvalid, "replay the draw", message).with("row draw", place))
        };
        if self.walk.samples() == self.samples {
            return refuse("there is a row draw after the last sample".into());
        }
        let Some(row) = self.walk.row() else {
            return refuse("there are more row draws than the sampler makes".into());
        };
        if draw.row != row {
            return refuse(differs("row", &draw.row, &row));
        }
        let turn = self.walk.turn(draw.turns);
        if draw.turn != turn {
            return refuse(differs("turn", &draw.turn, &turn));
        }
        let outcome = self.walk.outcome(draw);
        if draw.outcome != outcome {
            return refuse(differs("outcome", &draw.outcome, &outcome));
        }
        match outcome {
            DrawOutcome::Sample => self.walk.keep(draw),
            DrawOutcome::NoTurn | DrawOutcome::Repeated if draw.prompt_tokens.is_some() => {
                return refuse("the prompt of a discarded draw is measured".into());
            }
            DrawOutcome::NoTurn | DrawOutcome::Repeated | DrawOutcome::TooLong => {}
        }
        Ok(())
    }
}

fn differs(fact: &str, recorded: &impl Debug, replayed: &impl Debug) -> String {
    format!("the {fact} recorded is {recorded:?}, the seed gives {replayed:?}")
}
