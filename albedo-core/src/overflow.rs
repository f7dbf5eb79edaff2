//! Where a model's own arithmetic left the numbers that it computes with.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The first number that was found not to be finite while a request was
/// computed: evidence, which everybody who has the model can reproduce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Overflow {
    /// What the model was doing.
    pub step: Step,
    /// The token that the model had read last, counted from 0 at the beginning of
    /// the prompt.
    pub position: u32,
    /// Where in the network.
    pub place: Place,
}

/// What a model does with a token that it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// It reads the prompt.
    Prompt,
    /// It scores a given reply.
    Score,
    /// It writes its own reply.
    Reply,
}

/// A part of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// A layer, counted from 0.
    Layer(u32),
    /// The logits.
    Logits,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prompt => "reading the prompt",
            Self::Score => "scoring a reply",
            Self::Reply => "writing the reply",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(layer) => write!(f, "layer {layer}"),
            Self::Logits => f.write_str("logits"),
        }
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, position, place } = self;
        write!(f, "{step}, position {position}, {place}")
    }
}
