//! One stage of a distillation: what is learnt, of which replies.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DataSettings, invalid};
use crate::backends::burn::train::{Distil, Divergence, Dpo, Objective as Learnt};
use crate::{Result, Sampling};

/// Most tokens of a stage. Source: chosen by albedo: as many steps as a distillation may have, of a
/// million tokens each.
const MAX_TOKENS: u64 = 1_000_000_000_000;

/// One stage of the training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageSettings {
    /// What is learnt.
    pub objective: Objective,
    /// Which replies are learnt from.
    #[serde(default)]
    pub turns: Turns,
    /// How much a duel's reply counts.
    #[serde(default)]
    pub weight: Weight,
    /// How much a token of a prompt counts, where one of a reply counts 1: from 0, not at all, to 1;
    /// for `sft` and `kd`; 0 if absent. With `weight = "margin"` it counts `prompts` times the reply's
    /// margin. A name in a prompt is often repeated further on; a student that learns prompts, too,
    /// learns to copy names.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prompts: f64,
    /// Makes the stage a control, whose result should not be crowned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// The teacher's folder, for `kd` and `on-policy`. It needs the student's vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// How the distance from the teacher is measured: `"forward"`, `"reverse"`, or
    /// `{ jsd = BETA }`. If absent, forward for `kd`, reverse for `on-policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// Tells apart only the teacher's likeliest tokens, this many, and counts all others as
    /// one; every token if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<usize>,
    /// What the logits of teacher and student are divided by; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// How much a nat counts by which the student is apart from what it began as, for `dpo`;
    /// 0.1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// The longest reply that the student samples in tokens, for `on-policy`; 256 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<u32>,
    /// How the student samples, for `on-policy`; at temperature 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// Steps of the optimizer. A stage has `steps` or `tokens`. All stages together have
    /// 1,000,000 steps at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Tokens to read, prompts included, 1,000,000,000,000 at most: as many steps as that is by
    /// the mean length of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// The highest learning rate of this stage, in place of the table `[train]`'s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// The highest learning rate of Muon, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon_rate: Option<f64>,
}

/// What is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The recorded tokens: cross-entropy.
    Sft,
    /// A teacher's distribution at each of these tokens.
    Kd,
    /// A teacher's distribution at each token of replies that the student samples itself, to
    /// the prompt of one turn of each conversation.
    OnPolicy,
    /// Which reply of a pair is the better one, against the student as it was before the
    /// first stage. It needs `turns = "pair"`.
    Dpo,
}

/// Which replies are learnt from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Turns {
    /// Every recorded turn of the assistant, of records and task sets.
    #[default]
    AllRecorded,
    /// The replies of duels that the panel preferred, of records.
    Winner,
    /// The other replies of the same pairs: a control, whose result should not be crowned.
    Loser,
    /// Both replies, for `dpo`, of pairs in which every judge says the same in both orders,
    /// and none prefers the other reply than the panel.
    Pair,
}

impl Turns {
    /// Its name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllRecorded => "all-recorded",
            Self::Winner => "winner",
            Self::Loser => "loser",
            Self::Pair => "pair",
        }
    }
}

/// What makes a stage a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// What is to be learnt, an id or a teacher's distribution, is exchanged among the tokens
    /// that go through the model together, differently in each step. A student can learn how
    /// frequent tokens are so, and nothing of what follows what.
    Shuffled,
}

impl Control {
    /// Its name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shuffled => "shuffled",
        }
    }
}

/// How much a duel's reply counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// As much as any other.
    #[default]
    One,
    /// By the panel's margin on its sample, from 0 to 1. A recorded turn counts 1.
    Margin,
}

/// Whether `value` is the default of a weight.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl StageSettings {
    pub(super) fn check(&self, data: &DataSettings) -> Result<()> {
        match (self.steps, self.tokens) {
            (None, None) => {
                return Err(invalid("steps", "the stage has no length").with_hint("set `steps` or `tokens`"));
            }
            (Some(_), Some(_)) => {
                return Err(
                    invalid("steps", "the stage has two lengths").with_hint("leave out `steps` or `tokens`")
                );
            }
            (Some(0), None) | (None, Some(0)) => return Err(invalid("steps", "the stage has no step")),
            (None, Some(tokens)) if tokens > MAX_TOKENS => {
                let message = format!("`tokens` is {tokens}, it must be 1 to {MAX_TOKENS}");
                return Err(invalid("tokens", message));
            }
            _ => {}
        }
        if self.turns != Turns::AllRecorded && data.records.is_empty() {
            return Err(invalid("turns", "only records have winners and losers, and there is none")
                .with_hint("name records in `data.records`, or set `turns = \"all-recorded\"`"));
        }
        if (self.objective == Objective::Dpo) != (self.turns == Turns::Pair) {
            return Err(invalid("turns", "`dpo` learns from pairs, and nothing else does")
                .with_hint("set both `objective = \"dpo\"` and `turns = \"pair\"`, or neither"));
        }
        if self.turns == Turns::Pair && self.weight == Weight::Margin {
            return Err(invalid("weight", "pairs have no weights").with_hint("leave it out"));
        }
        if !(0.0..=1.0).contains(&self.prompts) {
            return Err(invalid("prompts", format!("it is {}, and must be from 0 to 1", self.prompts)));
        }
        if self.prompts > 0.0 && matches!(self.objective, Objective::OnPolicy | Objective::Dpo) {
            return Err(
                invalid("prompts", "the objective learns from replies alone").with_hint("leave it out")
            );
        }
        if self.beta.is_some() && self.objective != Objective::Dpo {
            return Err(invalid("beta", "only the objective `dpo` has a `beta`").with_hint("leave it out"));
        }
        match self.objective {
            Objective::Kd | Objective::OnPolicy if self.teacher.is_none() => {
                Err(invalid("teacher", "the objective needs a teacher")
                    .with_hint("set `teacher` to a model's folder"))
            }
            Objective::Sft | Objective::Dpo => {
                let set = [
                    ("teacher", self.teacher.is_some()),
                    ("divergence", self.divergence.is_some()),
                    ("top", self.top.is_some()),
                    ("temperature", self.temperature.is_some()),
                    ("max_new_tokens", self.max_new_tokens.is_some()),
                    ("sampling", self.sampling.is_some()),
                ];
                match set.into_iter().find(|(_, set)| *set) {
                    Some((key, _)) => Err(invalid(key, "the objective has no teacher")
                        .with_hint("leave it out, or set `objective = \"kd\"`")),
                    None => Ok(()),
                }
            }
            Objective::Kd => {
                let set = [
                    ("max_new_tokens", self.max_new_tokens.is_some()),
                    ("sampling", self.sampling.is_some()),
                ];
                match set.into_iter().find(|(_, set)| *set) {
                    Some((key, _)) => Err(invalid(key, "the objective `kd` samples nothing")
                        .with_hint("leave it out, or set `objective = \"on-policy\"`")),
                    None => Ok(()),
                }
            }
            Objective::OnPolicy if self.max_new_tokens == Some(0) => {
                Err(invalid("max_new_tokens", "it is 0, and must be at least 1"))
            }
            Objective::OnPolicy => self.sampling.map_or(Ok(()), |sampling| sampling.check()),
        }
    }

    /// What is learnt, as the trainer has it.
    pub(super) fn learnt(&self) -> Learnt {
        match self.objective {
            Objective::Sft => Learnt::Sft,
            Objective::Dpo => Learnt::Dpo(self.beta.map_or_else(Dpo::default, |beta| Dpo { beta })),
            Objective::Kd | Objective::OnPolicy => {
                let Distil { divergence, temperature, .. } = Distil::default();
                let usual = if self.objective == Objective::Kd { divergence } else { Divergence::Reverse };
                Learnt::Distil(Distil {
                    divergence: self.divergence.unwrap_or(usual),
                    top: self.top,
                    temperature: self.temperature.unwrap_or(temperature),
                })
            }
        }
    }
}
