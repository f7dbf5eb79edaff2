//! Requests for the log-probabilities and the logits of given replies.

use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Message;

/// One reply to score.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScoreRequest {
    /// The conversation so far.
    pub messages: Arc<[Message]>,
    /// The reply whose tokens, and the stop token after them, are scored.
    pub reply: Arc<str>,
}

impl ScoreRequest {
    /// A request for the scores of `reply` to `messages`.
    pub fn new(messages: impl Into<Arc<[Message]>>, reply: impl Into<Arc<str>>) -> Self {
        Self { messages: messages.into(), reply: reply.into() }
    }
}

/// One reply whose logits are read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LogitsRequest {
    /// The conversation so far.
    pub messages: Arc<[Message]>,
    /// The reply's tokens as they were sampled, the one that ended it included.
    pub tokens: Arc<[u32]>,
    /// Who is shown the logits.
    pub reader: Arc<dyn LogitsReader>,
}

impl LogitsRequest {
    /// A request to show `reader` the logits of the reply `tokens` to `messages`.
    pub fn new(
        messages: impl Into<Arc<[Message]>>,
        tokens: impl Into<Arc<[u32]>>,
        reader: Arc<dyn LogitsReader>,
    ) -> Self {
        Self { messages: messages.into(), tokens: tokens.into(), reader }
    }
}

/// Is shown logits while a session has them: they are too many to keep.
pub trait LogitsReader: Debug + Send + Sync {
    /// Reads the logits that token number `token` of the reply, from 0, was chosen
    /// from: one per id of the vocabulary.
    fn read(&self, token: usize, logits: &[f32]);
}

/// Log-probabilities of a reply's tokens given the prompt and the tokens
/// before each, under the model's own distribution (temperature 1), in nats;
/// the closing stop token is the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenScores {
    /// One value per token.
    pub log_probs: Vec<f32>,
}

impl TokenScores {
    /// The mean log-probability per token in nats; `None` if there is no token.
    pub fn mean(&self) -> Option<f64> {
        let sum: f64 = self.log_probs.iter().map(|&value| f64::from(value)).sum();
        (!self.log_probs.is_empty()).then(|| sum / self.log_probs.len() as f64)
    }
}
