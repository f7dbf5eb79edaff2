//! A sampler without the data: which row, which turn, and what becomes of it.

use std::collections::BTreeSet;

use super::{DrawOutcome, RowDraw};
use crate::compat::python::Random;
use crate::plan::{DuelPlan, Sampler};
use crate::rng::{Stream, Use, derive_seed};
use crate::seed::Seed;

/// Rows that `albedo-py` draws for every sample wanted.
const ROWS_PER_SAMPLE: u64 = 4;

/// Assistant turns of a row that `albedo-py` draws from.
const MAX_TURNS: u32 = 10;

/// What is drawn and kept next follows from the plan and the facts so far.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    rows: u64,
    prompt_limit: u32,
    samples: u32,
    stream: RowStream,
}

/// The random part of a sampler, and what it must not repeat.
#[derive(Debug, Clone)]
enum RowStream {
    RowDraw {
        stream: Stream,
        instances: BTreeSet<String>,
    },
    /// Python draws all rows first and the turns after them: `rows` is the
    /// generator at the start, `turns` the same one behind the rows.
    AlbedoPy {
        rows: Random,
        rows_left: u64,
        turns: Random,
        drawn: BTreeSet<(u64, Option<u32>)>,
    },
}

impl Walk {
    pub(super) fn new(plan: &DuelPlan) -> Self {
        Self {
            rows: plan.tasks.rows,
            prompt_limit: plan.context_tokens.saturating_sub(plan.generation.max_new_tokens),
            samples: 0,
            stream: RowStream::new(plan.sampler, &plan.seed, plan.samples),
        }
    }

    /// Samples kept so far.
    pub(super) fn samples(&self) -> u32 {
        self.samples
    }

    /// The next row; none if the sampler draws no more.
    pub(super) fn row(&mut self) -> Option<u64> {
        match &mut self.stream {
            RowStream::RowDraw { stream, .. } => Some(stream.below(self.rows)),
            RowStream::AlbedoPy { rows, rows_left, .. } => {
                *rows_left = rows_left.checked_sub(1)?;
                Some(rows.scaled(self.rows))
            }
        }
    }

    /// The turn among `turns` of the row just drawn; none, and nothing drawn,
    /// if there is none.
    pub(super) fn turn(&mut self, turns: u32) -> Option<u32> {
        (turns > 0).then(|| match &mut self.stream {
            RowStream::RowDraw { stream, .. } => stream.below(u64::from(turns)) as u32,
            RowStream::AlbedoPy { turns: random, .. } => random.below(turns.min(MAX_TURNS)),
        })
    }

    /// What becomes of `draw`, whatever outcome it names. A prompt that is not
    /// measured is not too long.
    pub(super) fn outcome(&self, draw: &RowDraw) -> DrawOutcome {
        let repeated = match &self.stream {
            RowStream::RowDraw { instances, .. } => instances.contains(&draw.instance_id),
            RowStream::AlbedoPy { drawn, .. } => drawn.contains(&(draw.row, draw.turn)),
        };
        if draw.turn.is_none() {
            DrawOutcome::NoTurn
        } else if repeated {
            DrawOutcome::Repeated
        } else if draw.prompt_tokens.is_some_and(|tokens| tokens > self.prompt_limit) {
            DrawOutcome::TooLong
        } else {
            DrawOutcome::Sample
        }
    }

    /// Makes `draw` the next sample.
    pub(super) fn keep(&mut self, draw: &RowDraw) {
        self.samples += 1;
        match &mut self.stream {
            RowStream::RowDraw { instances, .. } => instances.insert(draw.instance_id.clone()),
            RowStream::AlbedoPy { drawn, .. } => drawn.insert((draw.row, draw.turn)),
        };
    }
}

/// What `sampler` draws from fixed rows for a fixed seed: row `r` of 1,000 has
/// `r % 14` turns and is of instance `r % 300`; prompts have up to 1,200 tokens, of
/// which 1,000 fit.
pub(crate) fn fixed_draws(sampler: Sampler) -> Vec<RowDraw> {
    const SAMPLES: u32 = 64;
    let stream = RowStream::new(sampler, &Seed::from(7), SAMPLES);
    let mut walk = Walk { rows: 1_000, prompt_limit: 1_000, samples: 0, stream };
    let mut draws = Vec::new();
    while walk.samples() < SAMPLES {
        let Some(row) = walk.row() else { break };
        let turns = (row % 14) as u32;
        let turn = walk.turn(turns);
        let instance_id = format!("instance {}", row % 300);
        let prompt_tokens = turn.map(|turn| (37 * row as u32 + turn) % 1_200);
        let mut draw = RowDraw { row, instance_id, turns, turn, prompt_tokens, outcome: DrawOutcome::NoTurn };
        draw.outcome = walk.outcome(&draw);
        if draw.outcome == DrawOutcome::Sample {
            walk.keep(&draw);
        }
        draws.push(draw);
    }
    draws
}

impl RowStream {
    fn new(sampler: Sampler, seed: &Seed, samples: u32) -> Self {
        match sampler {
            Sampler::RowDraw => Self::RowDraw {
                stream: Stream::new(derive_seed("row draw", &[seed.as_bytes()]), Use::RowDraw),
                instances: BTreeSet::new(),
            },
            Sampler::AlbedoPy => {
                let rows = Random::new(seed.entropy());
                let rows_left = ROWS_PER_SAMPLE * u64::from(samples);
                let mut turns = rows.clone();
                for _ in 0..rows_left {
                    turns.random();
                }
                Self::AlbedoPy { rows, rows_left, turns, drawn: BTreeSet::new() }
            }
        }
    }
}
