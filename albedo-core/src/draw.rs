//! Drawing samples; every row draw and discard leaves its facts, so that the
//! draw can be replayed without the data ([`Replay`]) and checked against it
//! with ([`RowDraw::check`]).
//!
//! Only assistant turns with something before them are drawn from, by either
//! [`Sampler`](crate::plan::Sampler); they are counted from 0.
//!
//! | sampler | row | turn | discarded |
//! |---|---|---|---|
//! | `row-draw` | uniformly | uniformly among the row's | if its instance is already in the sample |
//! | `albedo-py` | as Python's `choices` over all rows, four times as many as samples | Python's `choice` among the row's first ten | if row and turn are already in the sample |
//!
//! Both discard a prompt that leaves no room for the longest reply, and draw
//! on. The Python system keeps it and loses it to its model server: up to the
//! first of them the samples are the same, after it they are the same except for
//! the gap. Where that system would go on with too few samples, `albedo-py` is
//! an error. Its samples may share an instance, so that a cluster is not an
//! instance and a rule that counts on independent clusters is too sure: it is
//! there for compatibility, not for verdicts to trust.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::ModelSession;
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::DuelPlan;
use crate::sample::{Sample, turns};
use crate::tasks::{TaskRow, TaskSource};

mod replay;
mod walk;

pub use replay::Replay;
use walk::Walk;
pub(crate) use walk::fixed_draws;

/// Row draws in a row that may be discarded before the task set counts as
/// exhausted: at one usable row in 1,000 a draw fails by chance once in 22,000.
const MAX_DISCARDS: u32 = 10_000;

/// The facts of one row draw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDraw {
    /// The row drawn.
    pub row: u64,
    /// Its instance.
    pub instance_id: String,
    /// Number of its assistant turns with something before them.
    pub turns: u32,
    /// The turn drawn, counted from 0 among the assistant turns; none if there
    /// is no turn to draw from.
    pub turn: Option<u32>,
    /// Tokens of the prompt up to that turn, if the king's session can tell and
    /// nothing earlier discarded the draw.
    pub prompt_tokens: Option<u32>,
    /// What became of it.
    pub outcome: DrawOutcome,
}

impl RowDraw {
    /// Checks what only the data can tell, instance and number of turns,
    /// against `task`, the row drawn.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`], naming what differs.
    pub fn check(&self, task: &TaskRow) -> Result<()> {
        let turns = turns(task).len() as u32;
        if self.instance_id == task.instance_id && self.turns == turns {
            return Ok(());
        }
        Err(Error::new(ErrorKind::DataInvalid, "check a row draw", "the tasks hold another row")
            .with("row", self.row)
            .with("recorded instance", &self.instance_id)
            .with("instance", &task.instance_id)
            .with("recorded turns", self.turns)
            .with("turns", turns))
    }
}

/// What became of a row draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrawOutcome {
    /// It is the next sample.
    Sample,
    /// The row has no assistant turn with something before it.
    NoTurn,
    /// Its instance, or under `albedo-py` its row and turn, is already in the
    /// sample.
    Repeated,
    /// Prompt and longest reply do not fit the context.
    TooLong,
}

/// Draws a plan's samples in plan order.
#[derive(Debug)]
pub struct Drawer {
    walk: Walk,
    tasks: Arc<dyn TaskSource>,
    samples: u32,
}

impl Drawer {
    /// The sampler of `plan` over `tasks`.
    pub fn new(plan: &DuelPlan, tasks: Arc<dyn TaskSource>) -> Self {
        Self { walk: Walk::new(plan), tasks, samples: plan.samples }
    }

    /// The next sample with all its row draws, the last of which is its own,
    /// prompts measured with `king`; `None` once the plan's number is drawn.
    ///
    /// # Errors
    /// The operator's, if the task set has too few usable rows; whatever the
    /// task source meets.
    pub async fn next(
        &mut self,
        king: &Arc<dyn ModelSession>,
        cx: &CallContext,
    ) -> Result<Option<(Sample, Vec<RowDraw>)>> {
        let index = self.walk.samples();
        if index == self.samples {
            return Ok(None);
        }
        let mut draws = Vec::new();
        for _ in 0..MAX_DISCARDS {
            cx.check("draw samples")?;
            let Some(row) = self.walk.row() else { break };
            let (draw, sample) = self.draw(row, index, king, cx).await?;
            draws.push(draw);
            if let Some(sample) = sample {
                return Ok(Some((sample, draws)));
            }
        }
        let why = |outcome| draws.iter().filter(|draw| draw.outcome == outcome).count();
        Err(Error::new(ErrorKind::ConfigInvalid, "draw samples", "the task set has too few usable instances")
            .with("samples wanted", self.samples)
            .with("drawn", index)
            .with("then discarded in a row as repeated", why(DrawOutcome::Repeated))
            .with("as too long", why(DrawOutcome::TooLong))
            .with("without a turn", why(DrawOutcome::NoTurn))
            .with_hint("lower `samples`, raise `context_tokens`, or use more tasks"))
    }

    async fn draw(
        &mut self,
        row: u64,
        index: u32,
        king: &Arc<dyn ModelSession>,
        cx: &CallContext,
    ) -> Result<(RowDraw, Option<Sample>)> {
        let task = self.tasks.row(row, cx).await?;
        let turns = turns(&task).len() as u32;
        let turn = self.walk.turn(turns);
        let instance_id = task.instance_id.clone();
        let mut draw =
            RowDraw { row, instance_id, turns, turn, prompt_tokens: None, outcome: DrawOutcome::NoTurn };
        draw.outcome = self.walk.outcome(&draw);
        if draw.outcome != DrawOutcome::Sample {
            return Ok((draw, None));
        }
        let turn = turn.unwrap_or_default();
        let sample = Sample::new(index, task, turn)
            .ok_or_else(|| Error::bug("draw samples", "the turn drawn is not the row's"))?;
        // A prompt of 32K tokens takes tens of milliseconds: no other task waits.
        let (counting, messages) = (Arc::clone(king), Arc::clone(&sample.messages));
        let counted = tokio::task::spawn_blocking(move || counting.count_prompt_tokens(&messages));
        draw.prompt_tokens = cx
            .run("draw samples", counted)
            .await?
            .map_err(|error| {
                Error::bug("count a prompt's tokens", "the session panicked").with_source(error)
            })?
            .map_err(|error| error.with("row", row).with("turn", turn))?;
        draw.outcome = self.walk.outcome(&draw);
        if draw.outcome != DrawOutcome::Sample {
            return Ok((draw, None));
        }
        self.walk.keep(&draw);
        Ok((draw, Some(sample)))
    }
}

#[cfg(test)]
mod tests;
