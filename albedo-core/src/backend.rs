//! Models: the [`ModelBackend`] and [`ModelSession`] roles and their requests.

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Reach, Result};
use crate::identity::Identity;
use crate::model_ref::ModelRef;

mod generate;
mod score;
mod stream;

pub use generate::{
    Completion, FinishReason, GenerateRequest, Generated, ResponseFormat, SampledTokens, Sampling,
    TokenLogProb, TokenText, Usage,
};
pub use score::{LogitsReader, LogitsRequest, ScoreRequest, TokenScores};
pub use stream::{Prompt, StreamPart, StreamRequest};

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

    /// The most requests of a session that it has under way at a server; further ones wait
    /// inside the session for their turn. `None` where it has no such bound.
    ///
    /// The backend [`routes`](crate::wrappers::RoutesBackend) sends a session no more than
    /// these: what waits inside would be timed as if the server were silent.
    fn max_in_flight(&self) -> Option<u32> {
        None
    }

    /// Whether it takes references into hubs as they are, since what it asks has the
    /// models; other backends load the folder that a reference was brought into.
    fn takes_references(&self) -> bool {
        false
    }

    /// The model name of the device that this backend computes on, for example `NVIDIA
    /// H100 80GB HBM3`: bits may differ between two of another name. `None` where it
    /// does not know.
    fn device(&self) -> Option<String> {
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

    /// The tokens of [`Prompt::Text`]; `None` where the session does not know them.
    ///
    /// # Errors
    /// A text that the tokenizer cannot take.
    fn text_tokens(&self, _: &str) -> Result<Option<Vec<u32>>> {
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

    /// Writes one reply and shows it as it grows.
    ///
    /// ```
    /// # #[cfg(feature = "conformance")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> albedo_core::Result<()> {
    /// use albedo_core::testing::ScriptedSession;
    /// use albedo_core::{CallContext, Message, MessageRole, ModelSession, StreamPart, StreamRequest};
    /// use futures::StreamExt;
    ///
    /// let session = ScriptedSession::saying("a model", "ls -l");
    /// let request = StreamRequest::new([Message::new(MessageRole::User, "Which files are there?")], 64);
    /// let mut parts = session.stream(request, &CallContext::new());
    /// let mut shown = String::new();
    /// while let Some(part) = parts.next().await {
    ///     match part? {
    ///         StreamPart::Tokens { text, .. } => shown.push_str(&text),
    ///         StreamPart::Done(completion) => assert_eq!(completion.text, shown),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "conformance"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Behavior
    /// - The parts are [`StreamPart::Prompt`] if that is asked for, any number of
    ///   [`StreamPart::Tokens`], and [`StreamPart::Done`]; or an error, and nothing after it.
    /// - Ids, texts and log-probabilities of the parts, put together, are those of the
    ///   [`Completion`]. The same request gives the same reply as
    ///   [`generate`](ModelSession::generate) does.
    /// - Dropping the stream, or cancelling `cx`, frees the request's place before the next
    ///   step. A stream that is not read holds nobody else up.
    ///
    /// A session that does not stream shows its reply in one part, refuses raw prompts
    /// and has no log-probabilities of prompts ([`ErrorKind::Unsupported`]): that is what
    /// this method does where it is not implemented.
    fn stream(&self, request: StreamRequest, cx: &CallContext) -> BoxStream<'static, Result<StreamPart>> {
        match request.into_generate() {
            Ok(request) => stream::whole(self.generate(vec![request], cx), cx.clone()),
            Err(error) => stream::refused(error),
        }
    }

    /// The answer to `request` is stored where the caller needs it, and is not asked for
    /// again: a session that keeps answers elsewhere may let it go.
    fn kept(&self, _request: &GenerateRequest) {}

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
        let mut answers = self.generate(vec![request], cx);
        async move { stream::first_answer(&mut answers, cx, "generate a reply").await }
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
