//! Models: the [`ModelBackend`] and [`ModelSession`] roles and their requests.

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Reach, Result};
use crate::identity::Identity;
use crate::model_ref::ModelRef;

/// A stream of any type, as [`ModelSession::generate`] returns it.
pub use futures::stream::BoxStream;

/// A way to run models: an engine in this process, a server, a record that is
/// replayed. Loads models as [`ModelSession`]s; it holds none itself.
///
/// Backends are plugins: a configuration names one (`backend = "burn"`). The guide
/// `docs/write-a-backend.md` writes one, and `conformance::check_backend` is the
/// suite that it must pass.
#[async_trait]
pub trait ModelBackend: Debug + Send + Sync + 'static {
    /// What this backend is; goes into the plan and the record.
    fn identity(&self) -> &Identity;

    /// The most requests of a session that are computed together; more wait their
    /// turn. `None` where the backend has no such bound or does not know it.
    fn max_batch(&self) -> Option<u32> {
        None
    }

    /// Loads `model` and checks it.
    ///
    /// # Errors
    /// A model whose bytes are missing, malformed or not finite is reported
    /// with the file, the tensor and the reason; the caller, who knows which
    /// side the model is, sets a contestant's fault. Cancellation leaves
    /// nothing on the device.
    async fn load(&self, model: &ModelSource, cx: &CallContext) -> Result<Arc<dyn ModelSession>>;
}

/// A loaded model, which answers conversations and scores texts. Dropping the last
/// `Arc` frees the device.
///
/// ```
/// # #[cfg(feature = "conformance")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> albedo_core::Result<()> {
/// use albedo_core::testing::ScriptedSession;
/// use albedo_core::{CallContext, GenerateRequest, Message, MessageRole, ModelSessionExt};
///
/// let session = ScriptedSession::saying("a model", "ls -l");
/// let request = GenerateRequest::new([Message::new(MessageRole::User, "Which files are there?")], 64);
/// let completion = session.generate_one(request, &CallContext::new()).await?;
/// assert_eq!(&*completion.text, "ls -l");
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "conformance"))]
/// # fn main() {}
/// ```
#[async_trait]
pub trait ModelSession: Debug + Send + Sync + 'static {
    /// What is loaded.
    fn model(&self) -> &ModelInfo;

    /// How the session divides the memory of its device; `None` where it does not
    /// plan it.
    fn memory(&self) -> Option<DeviceMemory> {
        None
    }

    /// Number of tokens of `messages` rendered with the model's chat template
    /// and the generation prompt; `None` where only the provider knows.
    ///
    /// # Errors
    /// Messages that the template refuses.
    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>>;

    /// The tokens that [`ModelSession::count_prompt_tokens`] counts; `None` where the
    /// session does not know them.
    ///
    /// # Errors
    /// Messages that the template refuses.
    fn prompt_tokens(&self, _: &[Message]) -> Result<Option<Vec<u32>>> {
        Ok(None)
    }

    /// Answers every request, as they finish, in any order.
    ///
    /// # Behavior
    /// - Exactly one [`Generated`] per request, also for one that failed.
    /// - Concurrent calls share the device: a request may be batched with those
    ///   of other calls, and its text depends on none of them.
    /// - The same request gives the same text (as far as [`ModelInfo`] says).
    /// - Dropping the stream, or cancelling `cx`, stops the unfinished requests.
    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated>;

    /// Teacher-forced log-probabilities, one [`TokenScores`] per request, in order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] if the session cannot score.
    async fn score(&self, requests: Vec<ScoreRequest>, cx: &CallContext) -> Result<Vec<TokenScores>>;

    /// Reads every request's prompt and tokens in one pass, and shows its reader the
    /// logits that each token was chosen from. Gives the text of each request's tokens,
    /// without a stop token at their end.
    ///
    /// # Behavior
    /// - When it has returned, every reader has seen every token of its request once,
    ///   in any order and from any thread.
    /// - Logits are the model's own: temperature 1, nothing cut off, finite.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the session has no logits to show.
    async fn read_logits(&self, requests: Vec<LogitsRequest>, cx: &CallContext) -> Result<Vec<String>> {
        let _ = (requests, cx);
        Err(Error::new(ErrorKind::Unsupported, "read logits", "the backend has no logits to show")
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with_hint("use a model that runs here, with the backend `burn` on the CPU"))
    }
}

/// How a session divides the memory of its device, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMemory {
    /// All that the session may take.
    pub budget: u64,
    /// The weights.
    pub weights: u64,
    /// Activations, logits and partial sums of a step.
    pub workspace: u64,
    /// The KV cache.
    pub kv_cache: u64,
    /// Tokens whose keys and values the KV cache holds.
    pub kv_cache_tokens: u64,
    /// Left to the weights of sessions with which this one takes turns.
    pub others: u64,
}

impl fmt::Display for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let Self { budget, weights, workspace, kv_cache, kv_cache_tokens, others } = *self;
        write!(
            f,
            "{:.2} GB: weights {:.2}, workspace {:.2}, KV cache {:.2} for {kv_cache_tokens} tokens",
            gb(budget),
            gb(weights),
            gb(workspace),
            gb(kv_cache),
        )?;
        if others > 0 {
            write!(f, ", weights of others {:.2}", gb(others))?;
        }
        Ok(())
    }
}

/// Methods that every [`ModelSession`] has beside its own.
pub trait ModelSessionExt: ModelSession {
    /// Answers one request.
    ///
    /// # Errors
    /// The request's own; what `cx` says, if the session ended its answers
    /// without one because of it.
    fn generate_one(
        &self,
        request: GenerateRequest,
        cx: &CallContext,
    ) -> impl Future<Output = Result<Completion>> + Send {
        const GENERATE: &str = "generate a reply";
        let mut answers = self.generate(vec![request], cx);
        async move {
            if let Some(answer) = answers.next().await {
                return answer.result;
            }
            cx.check(GENERATE)?;
            Err(Error::bug(GENERATE, "the session ended its answers without one"))
        }
    }
}

impl<S: ModelSession + ?Sized> ModelSessionExt for S {}

/// Which model to load, and what its parameters are pinned to.
///
/// ```
/// use std::path::Path;
///
/// use albedo_core::{ModelRef, ModelSource};
///
/// let king = Path::new("models/king");
/// let challenger = ModelSource::new(Path::new("models/challenger")).with_text_from(king);
/// assert_eq!(challenger.text(), &ModelRef::from(king));
/// let judge = ModelSource::served("deepseek/deepseek-v3.2");
/// assert_eq!(judge.text(), &judge.model);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSource {
    /// The model.
    pub model: ModelRef,
    /// Refuse to load anything with another parameters digest.
    pub parameters: Option<Digest>,
    /// Take tokenizer, chat template and stop ids from this model instead: a
    /// duel gives both sides the king's. A backend whose server renders prompts
    /// leaves it alone.
    pub text_from: Option<ModelRef>,
}

impl ModelSource {
    /// `model`, unpinned, with its own tokenizer.
    pub fn new(model: impl Into<ModelRef>) -> Self {
        Self { model: model.into(), parameters: None, text_from: None }
    }

    /// The model that a server offers under `name`.
    pub fn served(name: impl Into<String>) -> Self {
        Self::new(ModelRef::served(name))
    }

    /// The same model with the tokenizer, template and stop ids of `model`.
    #[must_use]
    pub fn with_text_from(mut self, model: impl Into<ModelRef>) -> Self {
        self.text_from = Some(model.into());
        self
    }

    /// The model that tokenizer, template and stop ids come from.
    pub fn text(&self) -> &ModelRef {
        self.text_from.as_ref().unwrap_or(&self.model)
    }
}

/// A loaded model, as the plan and the record name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Digest of the parameters: SHA-256 over the lines `{sha256}  {name}\n` of
    /// its weight files in byte order of their names; for a remote model, of its
    /// served name.
    pub parameters: Digest,
    /// Architecture, for example `Qwen3ForCausalLM`.
    pub architecture: String,
    /// Number of parameters.
    pub parameter_count: u64,
    /// Longest prompt and reply together, in tokens.
    pub context_length: u32,
    /// Data type that the model computes in: `f32`, `bf16`.
    pub dtype: String,
    /// Digest of the tokenizer's file.
    pub tokenizer: Digest,
    /// Digest of the chat template and the special tokens that it may name.
    pub chat_template: Digest,
    /// Token ids that end a reply, ascending.
    pub stop_ids: Vec<u32>,
    /// Digest of the model's configuration as the backend understood it.
    pub config: Digest,
}

impl ModelInfo {
    /// A model with the given digest of its parameters, architecture and context
    /// length in tokens. The rest is unknown until a `with_*` method sets it: no
    /// parameters counted, dtype `none`, no stop ids, digests of the empty text.
    pub fn new(parameters: Digest, architecture: impl Into<String>, context_length: u32) -> Self {
        let unknown = Digest::of([]);
        Self {
            parameters,
            architecture: architecture.into(),
            parameter_count: 0,
            context_length,
            dtype: "none".into(),
            tokenizer: unknown,
            chat_template: unknown,
            stop_ids: Vec::new(),
            config: unknown,
        }
    }

    /// Whether only its provider knows what it is: nothing of it was counted or read,
    /// as with a model behind a server. It can duel a model that runs here, though
    /// neither architecture nor tokenizer can be compared.
    pub fn is_opaque(&self) -> bool {
        self.parameter_count == 0
    }

    /// Sets the number of parameters.
    #[must_use]
    pub fn with_parameter_count(self, parameter_count: u64) -> Self {
        Self { parameter_count, ..self }
    }

    /// Sets the data type that the model computes in.
    #[must_use]
    pub fn with_dtype(self, dtype: impl Into<String>) -> Self {
        Self { dtype: dtype.into(), ..self }
    }

    /// Sets the digests of tokenizer and chat template, and the stop ids in
    /// ascending order.
    #[must_use]
    pub fn with_text(self, tokenizer: Digest, chat_template: Digest, stop_ids: Vec<u32>) -> Self {
        Self { tokenizer, chat_template, stop_ids, ..self }
    }

    /// Sets the digest of the model's configuration.
    #[must_use]
    pub fn with_config(self, config: Digest) -> Self {
        Self { config, ..self }
    }
}

/// Author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The task, and what the environment answers.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

impl Role {
    /// The name that chat templates and data sets use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// Its text.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

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
    /// [`ModelSession::score`] call because the prompt is read once.
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

/// The answer to request `index` of a [`ModelSession::generate`] call.
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
    /// Scores of [`GenerateRequest::score_reply`].
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

/// A token written, with what else could have stood there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogProb {
    /// The token's text.
    pub text: String,
    /// Its log-probability in nats.
    pub log_prob: f32,
    /// The likeliest tokens at this place and their log-probabilities, the
    /// likeliest first.
    pub likeliest: Vec<(String, f32)>,
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
