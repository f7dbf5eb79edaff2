//! Drawing samples: a row uniformly, then a turn among its assistant turns;
//! every row draw and discard leaves its facts, so that the draw can be
//! replayed without the data and checked against it with.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::backend::{Message, ModelSession};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::plan::{DuelPlan, Seed};
use crate::rng::{Stream, Use, derive_seed};
use crate::tasks::TaskSource;

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
    /// Number of its assistant turns.
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

/// What became of a row draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrawOutcome {
    /// It is the next sample.
    Sample,
    /// The row has no assistant turn with something before it.
    NoTurn,
    /// Its instance is already in the sample.
    Repeated,
    /// Prompt and longest reply do not fit the context.
    TooLong,
}

/// One drawn sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its place in plan order, from 0.
    pub index: u32,
    /// The instance.
    pub instance_id: String,
    /// The repository.
    pub repo: String,
    /// The conversation up to the turn.
    pub messages: Vec<Message>,
    /// What the recorded assistant said at the turn.
    pub reference: String,
}

/// The random part of the sampler: which row, then which turn. Replaying it
/// over recorded facts needs no data.
#[derive(Debug, Clone)]
pub struct RowStream(Stream);

impl RowStream {
    /// The stream of a duel's seed.
    pub fn new(seed: &Seed) -> Self {
        Self(Stream::new(derive_seed("row draw", &[seed.as_bytes()]), Use::RowDraw))
    }

    /// The next row of `rows`.
    pub fn row(&mut self, rows: u64) -> u64 {
        self.0.below(rows)
    }

    /// The turn among `turns` of the row just drawn; none, and nothing drawn,
    /// if there is none.
    pub fn turn(&mut self, turns: u32) -> Option<u32> {
        (turns > 0).then(|| self.0.below(u64::from(turns)) as u32)
    }
}

/// Draws a plan's samples in plan order.
#[derive(Debug)]
pub struct Drawer {
    stream: RowStream,
    tasks: Arc<dyn TaskSource>,
    king: Arc<dyn ModelSession>,
    samples: u32,
    prompt_limit: u32,
    drawn: BTreeSet<String>,
}

impl Drawer {
    /// The sampler of `plan` over `tasks`, measuring prompts with `king`.
    pub fn new(plan: &DuelPlan, tasks: Arc<dyn TaskSource>, king: Arc<dyn ModelSession>) -> Self {
        Self {
            stream: RowStream::new(&plan.seed),
            tasks,
            king,
            samples: plan.samples,
            prompt_limit: plan.context_tokens.saturating_sub(plan.generation.max_new_tokens),
            drawn: BTreeSet::new(),
        }
    }

    /// The next sample with all its row draws, the last of which is its own;
    /// `None` once the plan's number is drawn.
    ///
    /// # Errors
    /// The operator's, if the task set has too few usable instances; whatever
    /// the task source meets.
    pub async fn next(&mut self, cx: &CallContext) -> Result<Option<(Sample, Vec<RowDraw>)>> {
        let index = self.drawn.len() as u32;
        if index == self.samples {
            return Ok(None);
        }
        let mut draws = Vec::new();
        for _ in 0..MAX_DISCARDS {
            cx.check("draw samples")?;
            let (draw, sample) = self.draw(index, cx).await?;
            draws.push(draw);
            if let Some(sample) = sample {
                self.drawn.insert(sample.instance_id.clone());
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

    async fn draw(&mut self, index: u32, cx: &CallContext) -> Result<(RowDraw, Option<Sample>)> {
        let row = self.stream.row(self.tasks.info().rows);
        let task = self.tasks.row(row, cx).await?;
        let mut turns = task.assistant_turns();
        turns.retain(|&position| position > 0);
        let turn = self.stream.turn(turns.len() as u32);
        let mut draw = RowDraw {
            row,
            instance_id: task.instance_id.clone(),
            turns: turns.len() as u32,
            turn,
            prompt_tokens: None,
            outcome: DrawOutcome::NoTurn,
        };
        let Some(&position) = turn.and_then(|turn| turns.get(turn as usize)) else {
            return Ok((draw, None));
        };
        if self.drawn.contains(&task.instance_id) {
            draw.outcome = DrawOutcome::Repeated;
            return Ok((draw, None));
        }
        let mut messages = task.messages;
        messages.truncate(position + 1);
        let reference = messages.pop().map(|message| message.content).unwrap_or_default();
        draw.prompt_tokens = self.king.count_prompt_tokens(&messages).map_err(|error| {
            error.with_fault(Fault::Operator).with("row", row).with("turn", draw.turn.unwrap_or_default())
        })?;
        if draw.prompt_tokens.is_some_and(|tokens| tokens > self.prompt_limit) {
            draw.outcome = DrawOutcome::TooLong;
            return Ok((draw, None));
        }
        draw.outcome = DrawOutcome::Sample;
        let sample = Sample { index, instance_id: task.instance_id, repo: task.repo, messages, reference };
        Ok((draw, Some(sample)))
    }
}
