//! Requests for replies, and replies.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Message, TokenScores};
use crate::error::{Error, ErrorKind, Fault, Reach, Result};

/// How the next token is chosen from the logits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy: the highest logit, the lowest id among equals.
    pub temperature: f64,
    /// Keep the smallest set of most likely tokens whose probabilities reach
    /// this sum; 1 keeps all. After `top_k`.
    pub top_p: f64,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0 }
    }
}

impl Sampling {
    /// Checks the ranges: temperature finite and at least 0, `top_p` in (0, 1].
    ///
    /// # Errors
    /// [`crate::ErrorKind::ConfigInvalid`], naming the value.
    pub fn check(&self) -> Result<()> {
        let invalid = |key, message| {
            let error = Error::new(ErrorKind::ConfigInvalid, "check the sampling settings", message);
            Err::<(), _>(error.with("key", key))
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return invalid(
                "temperature",
                format!("temperature is {}, it must be 0 or more", self.temperature),
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return invalid("top_p", format!("top_p is {}, it must be above 0 and at most 1", self.top_p));
        }
        Ok(())
    }
}

/// One reply to write.
///
/// ```
/// use albedo_core::{GenerateRequest, Message, MessageRole, Sampling};
///
/// let request = GenerateRequest::new([Message::new(MessageRole::User, "Why is the sky blue?")], 256)
///     .with_sampling(Sampling { temperature: 0.7, ..Sampling::default() })
///     .with_seed(7);
/// assert_eq!(request.max_new_tokens, 256);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GenerateRequest {
    /// The conversation so far, the last message not the assistant's.
    pub messages: Arc<[Message]>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The reply is cut after this many tokens.
    pub max_new_tokens: u32,
    /// Seed of this request's own random stream.
    pub seed: u64,
    /// Also score this text as the reply, on the same prompt: cheaper than a
    /// [`score`](super::ModelSession::score) call because the prompt is read once. Tokens
    /// beyond the context are left out: a text that is too long costs no reply.
    pub score_reply: Option<Arc<str>>,
    /// What the reply's text has to be.
    pub response: ResponseFormat,
    /// Also tell the log-probability of each token written and of this many of
    /// the likeliest tokens at its place. [`Completion::log_probs`] stays `None`
    /// where that is not offered.
    pub log_probs: Option<u8>,
}

impl GenerateRequest {
    /// A request for a reply to `messages` of at most `max_new_tokens` tokens:
    /// greedy, seed 0, plain text.
    pub fn new(messages: impl Into<Arc<[Message]>>, max_new_tokens: u32) -> Self {
        Self {
            messages: messages.into(),
            sampling: Sampling::default(),
            max_new_tokens,
            seed: 0,
            score_reply: None,
            response: ResponseFormat::Text,
            log_probs: None,
        }
    }

    /// Sets the conversation.
    #[must_use]
    pub fn with_messages(self, messages: impl Into<Arc<[Message]>>) -> Self {
        Self { messages: messages.into(), ..self }
    }

    /// Sets the largest number of tokens that the reply may have.
    #[must_use]
    pub fn with_max_new_tokens(self, max_new_tokens: u32) -> Self {
        Self { max_new_tokens, ..self }
    }

    /// Sets how tokens are chosen.
    #[must_use]
    pub fn with_sampling(self, sampling: Sampling) -> Self {
        Self { sampling, ..self }
    }

    /// Sets the seed of the request's random stream.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sets a text to score as the reply on the same prompt.
    #[must_use]
    pub fn with_score_reply(self, score_reply: Option<Arc<str>>) -> Self {
        Self { score_reply, ..self }
    }

    /// Sets what the reply's text has to be.
    #[must_use]
    pub fn with_response(self, response: ResponseFormat) -> Self {
        Self { response, ..self }
    }

    /// Asks for the log-probability of each token written, and of this many of
    /// the likeliest tokens at its place.
    #[must_use]
    pub fn with_log_probs(self, likeliest: Option<u8>) -> Self {
        Self { log_probs: likeliest, ..self }
    }
}

/// What a reply's text has to be, enforced while it is written. A backend that
/// cannot enforce it answers [`ErrorKind::Unsupported`]: it never writes free
/// text instead.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ResponseFormat {
    /// Anything.
    #[default]
    Text,
    /// One JSON object.
    Json,
    /// One JSON value that a schema describes.
    Schema {
        /// The schema's name, for providers that want one: letters, digits,
        /// `_` and `-`, at most 64.
        name: String,
        /// JSON schema.
        schema: serde_json::Value,
    },
}

impl ResponseFormat {
    /// For a backend that writes text only.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for anything else, naming it.
    pub fn require_text(&self, operation: &str) -> Result<()> {
        let asked = match self {
            Self::Text => return Ok(()),
            Self::Json => "JSON".to_owned(),
            Self::Schema { name, .. } => format!("JSON of the schema `{name}`"),
        };
        Err(Error::new(ErrorKind::Unsupported, operation, format!("the backend cannot enforce {asked}"))
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with_hint("ask for text and parse it, or use a backend that enforces response formats"))
    }
}

/// The answer to request `index` of a [`generate`](super::ModelSession::generate) call.
#[derive(Debug)]
pub struct Generated {
    /// Position in the call's requests.
    pub index: usize,
    /// The reply, or why there is none.
    pub result: Result<Completion>,
}

/// A finished reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Completion {
    /// The text, special tokens included except the one that ended it.
    pub text: String,
    /// What the provider marks as reasoning and keeps apart from the text:
    /// kept for readers, never parsed. `None` where it marks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Ids of the reply's tokens, the one that ended it included; empty if the
    /// provider does not tell.
    pub tokens: Vec<u32>,
    /// For each of `tokens`, [`SampledTokens::logit_gaps`]; `None` where the engine
    /// does not have them anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_gaps: Option<Vec<u16>>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens read and written.
    pub usage: Usage,
    /// Scores of [`GenerateRequest::score_reply`], as far as the context holds it.
    pub reply_scores: Option<TokenScores>,
    /// Answer to [`GenerateRequest::log_probs`], one per token written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_probs: Option<Vec<TokenLogProb>>,
}

impl Completion {
    /// A reply of `text` that ended for `finish` after `usage`, whose tokens,
    /// reasoning and scores are unknown.
    pub fn new(text: impl Into<String>, finish: FinishReason, usage: Usage) -> Self {
        Self {
            text: text.into(),
            reasoning: None,
            tokens: Vec::new(),
            logit_gaps: None,
            finish,
            usage,
            reply_scores: None,
            log_probs: None,
        }
    }

    /// Sets the ids of the reply's tokens, the one that ended it included.
    #[must_use]
    pub fn with_tokens(self, tokens: Vec<u32>) -> Self {
        Self { tokens, ..self }
    }

    /// Sets the gaps between the two highest logits, one per token.
    #[must_use]
    pub fn with_logit_gaps(self, logit_gaps: Option<Vec<u16>>) -> Self {
        Self { logit_gaps, ..self }
    }

    /// The tokens as a record keeps them: `None` unless there is one id for each
    /// token that the usage counts. Gaps of another number are left out.
    pub fn sampled_tokens(&self) -> Option<SampledTokens> {
        if self.tokens.is_empty() || Some(self.tokens.len() as u32) != self.usage.completion_tokens {
            return None;
        }
        let logit_gaps = self.logit_gaps.clone().filter(|gaps| gaps.len() == self.tokens.len());
        Some(SampledTokens { ids: self.tokens.clone(), logit_gaps })
    }

    /// Sets what the provider marks as reasoning.
    #[must_use]
    pub fn with_reasoning(self, reasoning: Option<String>) -> Self {
        Self { reasoning, ..self }
    }

    /// Sets the scores of [`GenerateRequest::score_reply`].
    #[must_use]
    pub fn with_reply_scores(self, reply_scores: Option<TokenScores>) -> Self {
        Self { reply_scores, ..self }
    }

    /// Sets the answer to [`GenerateRequest::log_probs`].
    #[must_use]
    pub fn with_log_probs(self, log_probs: Option<Vec<TokenLogProb>>) -> Self {
        Self { log_probs, ..self }
    }
}

/// The tokens of a reply as they were sampled. Its text cannot be encoded back to
/// them: one text has many tokenizations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampledTokens {
    /// The ids in the order of sampling, the one that ended the reply included.
    pub ids: Vec<u32>,
    /// For each token the highest logit at its place minus the second highest, in
    /// thousandths, rounded down, at most 65,535. A small gap says that rounding on
    /// another device can exchange the two. None where the engine does not have them
    /// anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_gaps: Option<Vec<u16>>,
}

/// A token, and how likely it was at its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogProb {
    /// The token.
    pub token: TokenText,
    /// Its log-probability in nats.
    pub log_prob: f32,
    /// The likeliest tokens at this place and their log-probabilities, the
    /// likeliest first.
    pub likeliest: Vec<(TokenText, f32)>,
}

/// A token of a vocabulary, as text.
///
/// ```
/// use albedo_core::TokenText;
///
/// let word = TokenText::new(Some(7), b" sky".to_vec());
/// assert_eq!((&*word.text, word.as_bytes(), word.bytes.is_none()), (" sky", &b" sky"[..], true));
/// // A character may have more than one token.
/// let half = TokenText::new(Some(8), vec![0xE2, 0x82]);
/// assert_eq!((&*half.text, half.as_bytes()), ("\u{FFFD}", &[0xE2, 0x82][..]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenText {
    /// Its id; `None` if the provider does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Its text, U+FFFD in place of bytes that are no UTF-8 by themselves.
    pub text: String,
    /// Its bytes, where they are not those of `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Vec<u8>>,
}

impl TokenText {
    /// The token `id` with these bytes.
    pub fn new(id: Option<u32>, bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self { id, text, bytes: None },
            Err(error) => {
                let bytes = error.into_bytes();
                Self { id, text: String::from_utf8_lossy(&bytes).into_owned(), bytes: Some(bytes) }
            }
        }
    }

    /// Its bytes. Those of consecutive tokens make the bytes of their text.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(self.text.as_bytes())
    }
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model wrote a stop token.
    Stop,
    /// `max_new_tokens` was reached.
    Length,
    /// The provider did not say; the reply may be cut.
    Unknown,
}

/// Tokens, and what they cost: as far as the provider reports it. What it does
/// not tell is absent, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the rendered prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    /// Tokens of the reply, the stop token included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u32>,
    /// What the provider charges, in US dollars: 0 for a model that runs here,
    /// none if it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_usd: Option<f64>,
}

impl Usage {
    /// Counted tokens of an unknown price.
    pub fn counted(prompt_tokens: u32, completion_tokens: u32) -> Self {
        Self {
            prompt_tokens: Some(prompt_tokens),
            completion_tokens: Some(completion_tokens),
            price_usd: None,
        }
    }

    /// Sets what the provider charges, in US dollars.
    #[must_use]
    pub fn with_price(self, usd: f64) -> Self {
        Self { price_usd: Some(usd), ..self }
    }
}
