//! What a server of jobs and its clients say to each other, over HTTP and over NATS.
//!
//! A job is one request; its id is the digest of the request's canonical JSON
//! ([`JobRequest::id`]), so that asking again finds it. A request names the engine and
//! the parameters that it wants, and a result says which ones answered it: a reply of
//! another model is refused by the server, and once more by the client.

use std::collections::BTreeMap;
use std::sync::Arc;

use albedo_core::error::{Artefact, Reach, Retry};
use albedo_core::events::{Event, JobState};
use albedo_core::{
    Build, Completion, Digest, Error, ErrorKind, Fault, GenerateRequest, HubRef, Identity, Message,
    ModelInfo, PluginConfig, ResponseFormat, Result, Sampling, ScoreRequest, Screen, Screened, TokenScores,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of what is said here. A change that could break the other side raises it.
pub const VERSION: u32 = 1;

/// The longest request of a job, in bytes. Source: albedo; a prompt of a million tokens
/// has about 4 MB.
pub const MAX_REQUEST: usize = 8 << 20;

/// The longest result of a job, in bytes. Source: albedo; a reply of 100,000 tokens has
/// about 2 MB with its ids and gaps.
pub const MAX_RESULT: usize = 64 << 20;

/// Seconds between two lines of a stream of events.
pub const HEARTBEAT_SECS: u64 = 10;

/// Which session a request means: a model by its parameters, and whose tokenizer,
/// template and stop ids it gets (the king's, for a challenger).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionKey {
    /// Digest of the model's parameters ([`ModelInfo::parameters`]).
    pub parameters: Digest,
    /// Digest of the parameters of the model that its text files are from; its own if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_from: Option<Digest>,
}

impl SessionKey {
    /// The model of these parameters, with its own text files.
    pub fn new(parameters: Digest) -> Self {
        Self { parameters, text_from: None }
    }

    /// The same with the text files of the model of `parameters`.
    #[must_use]
    pub fn with_text_from(self, parameters: Option<Digest>) -> Self {
        Self { text_from: parameters.filter(|&text| text != self.parameters), ..self }
    }
}

/// What computes replies: what a plan names, and more. Never an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineIdentity {
    /// The backend behind the server: what the plan of a duel names.
    pub backend: Identity,
    /// The build of albedo.
    pub build: Build,
    /// The model of the device, for example `NVIDIA H100 80GB HBM3`; none if the backend
    /// does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl EngineIdentity {
    /// The digest by which requests name the engine.
    ///
    /// # Errors
    /// A bug: it has no JSON form.
    pub fn digest(&self) -> Result<Digest> {
        Digest::of_json(self)
    }
}

/// What a server tells of itself: `GET /v1/engine`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// [`VERSION`].
    pub version: u32,
    /// What computes replies.
    pub engine: EngineIdentity,
    /// The models that the server offers by name, and their parameters.
    pub models: BTreeMap<String, Digest>,
}

impl EngineInfo {
    /// Checks that this build understands the server.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], the operator's.
    pub fn check(&self) -> Result<()> {
        if self.version == VERSION {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "talk to the server", "it speaks another version of the jobs")
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with("server's", self.version)
            .with("ours", VERSION)
            .with_hint("run the same version of albedo on both sides"))
    }
}

/// What a job is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobRequest {
    /// Bring a model to the server and keep it there.
    Hold(HoldJob),
    /// Load a model that is held.
    Load(LoadJob),
    /// Inspect a model that is held.
    Screen(ScreenJob),
    /// Write a reply.
    Generate(GenerateJob),
    /// Score replies.
    Score(ScoreJob),
    /// Keep a model no longer.
    Release(ReleaseJob),
}

impl JobRequest {
    /// The job's id: SHA-256 of the request's canonical JSON.
    ///
    /// # Errors
    /// A bug: it has no JSON form.
    pub fn id(&self) -> Result<Digest> {
        Digest::of_json(self)
    }

    /// What it is called.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Hold(_) => "hold",
            Self::Load(_) => "load",
            Self::Screen(_) => "screen",
            Self::Generate(_) => "generate",
            Self::Score(_) => "score",
            Self::Release(_) => "release",
        }
    }

    /// Whether the result follows from the request alone, so that one that is stored
    /// stands. The others tell of the server's state: asked for again, they are done
    /// again.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Generate(_) | Self::Score(_) | Self::Screen(_))
    }

    /// The engine that it wants.
    pub fn engine(&self) -> Digest {
        match self {
            Self::Hold(HoldJob { engine, .. })
            | Self::Load(LoadJob { engine, .. })
            | Self::Screen(ScreenJob { engine, .. })
            | Self::Generate(GenerateJob { engine, .. })
            | Self::Score(ScoreJob { engine, .. })
            | Self::Release(ReleaseJob { engine, .. }) => *engine,
        }
    }

    /// The session that it wants, if it wants one.
    pub fn session(&self) -> Option<SessionKey> {
        match self {
            Self::Load(LoadJob { model, .. })
            | Self::Generate(GenerateJob { model, .. })
            | Self::Score(ScoreJob { model, .. })
            | Self::Screen(ScreenJob { model, .. }) => Some(*model),
            Self::Hold(_) | Self::Release(_) => None,
        }
    }

    /// Reads a request of `bytes` that is to have the digest `id`.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`]: it is no request, names no digest, or is another one.
    pub fn read(id: Digest, bytes: &[u8]) -> Result<Self> {
        let invalid = |message: String| {
            Error::new(ErrorKind::DataInvalid, "read a job's request", message).with_fault(Fault::Operator)
        };
        let request: Self = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        let found = request.id()?;
        if found == id {
            return Ok(request);
        }
        Err(invalid("the request does not have the digest that it is named by".into())
            .with("named", id)
            .with("found", found)
            .with_hint("name the SHA-256 of its canonical JSON"))
    }
}

/// Brings a model of a hub to the server, and keeps it there under a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldJob {
    /// The engine's digest.
    pub engine: Digest,
    /// The model.
    pub reference: HubRef,
    /// What the model is kept under until [`ReleaseJob`] names it: a plain word.
    pub label: String,
}

/// Loads a model that is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadJob {
    /// The engine's digest.
    pub engine: Digest,
    /// The model.
    pub model: SessionKey,
    /// The job whose arithmetic overflowed, where the model is to be loaded afresh:
    /// bits of the loaded one may be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_overflow: Option<Digest>,
}

/// Takes from a model that is held what a store of submissions remembers of it, and asks
/// screens of behaviour about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScreenJob {
    /// The engine's digest.
    pub engine: Digest,
    /// The model.
    pub model: SessionKey,
    /// Screens of the behaviour stage that reach nothing outside, in order.
    pub screens: Vec<PluginConfig<dyn Screen>>,
    /// What their probes follow from.
    pub seed: u64,
}

/// Writes one reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateJob {
    /// The engine's digest.
    pub engine: Digest,
    /// The model.
    pub model: SessionKey,
    /// The conversation.
    pub messages: Arc<[Message]>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The reply is cut after this many tokens.
    pub max_new_tokens: u32,
    /// Seed of the request's random stream.
    pub seed: u64,
    /// A reply to score on the same prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_reply: Option<Arc<str>>,
    /// What the reply has to be.
    #[serde(default, skip_serializing_if = "Format::is_text")]
    pub response: Format,
    /// Also tell log-probabilities, and of this many of the likeliest tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_probs: Option<u8>,
}

impl GenerateJob {
    /// The job of `request` to `model` behind `engine`.
    pub fn new(engine: Digest, model: SessionKey, request: &GenerateRequest) -> Self {
        Self {
            engine,
            model,
            messages: Arc::clone(&request.messages),
            sampling: request.sampling,
            max_new_tokens: request.max_new_tokens,
            seed: request.seed,
            score_reply: request.score_reply.clone(),
            response: (&request.response).into(),
            log_probs: request.log_probs,
        }
    }

    /// The request as a session takes it.
    pub fn request(&self) -> GenerateRequest {
        GenerateRequest::new(Arc::clone(&self.messages), self.max_new_tokens)
            .with_sampling(self.sampling)
            .with_seed(self.seed)
            .with_score_reply(self.score_reply.clone())
            .with_response((&self.response).into())
            .with_log_probs(self.log_probs)
    }
}

/// What a reply has to be ([`ResponseFormat`]).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Anything.
    #[default]
    Text,
    /// One JSON object.
    Json,
    /// One JSON value of a schema.
    Schema {
        /// Its name.
        name: String,
        /// The JSON schema.
        schema: Value,
    },
}

impl Format {
    fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

impl From<&ResponseFormat> for Format {
    fn from(format: &ResponseFormat) -> Self {
        match format {
            ResponseFormat::Text => Self::Text,
            ResponseFormat::Json => Self::Json,
            ResponseFormat::Schema { name, schema } => {
                Self::Schema { name: name.clone(), schema: schema.clone() }
            }
        }
    }
}

impl From<&Format> for ResponseFormat {
    fn from(format: &Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
            Format::Schema { name, schema } => Self::Schema { name: name.clone(), schema: schema.clone() },
        }
    }
}

/// Scores replies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreJob {
    /// The engine's digest.
    pub engine: Digest,
    /// The model.
    pub model: SessionKey,
    /// The replies, each with its conversation.
    pub replies: Vec<GivenReply>,
}

/// A reply to a conversation ([`ScoreRequest`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenReply {
    /// The conversation.
    pub messages: Arc<[Message]>,
    /// The reply.
    pub reply: Arc<str>,
}

impl From<ScoreRequest> for GivenReply {
    fn from(request: ScoreRequest) -> Self {
        Self { messages: request.messages, reply: request.reply }
    }
}

impl From<GivenReply> for ScoreRequest {
    fn from(given: GivenReply) -> Self {
        Self::new(given.messages, given.reply)
    }
}

/// Keeps the model of a label no longer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseJob {
    /// The engine's digest.
    pub engine: Digest,
    /// What [`HoldJob`] kept the model under.
    pub label: String,
}

/// What a job came to, and who says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The job.
    pub job: Digest,
    /// The engine that did it.
    pub engine: Digest,
    /// The model that answered, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<AnsweringModel>,
    /// What it came to.
    pub outcome: JobOutcome,
}

/// The model that answered, as its session described itself at the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweringModel {
    /// [`ModelInfo::parameters`].
    pub parameters: Digest,
    /// [`ModelInfo::tokenizer`].
    pub tokenizer: Digest,
    /// [`ModelInfo::chat_template`].
    pub chat_template: Digest,
    /// [`ModelInfo::config`].
    pub config: Digest,
}

impl From<&ModelInfo> for AnsweringModel {
    fn from(model: &ModelInfo) -> Self {
        Self {
            parameters: model.parameters,
            tokenizer: model.tokenizer,
            chat_template: model.chat_template,
            config: model.config,
        }
    }
}

/// What a job came to, by its kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobOutcome {
    /// The model is there.
    Held(HeldModel),
    /// The model is loaded.
    Loaded(LoadedModel),
    /// What was found.
    Screened(ScreenedModel),
    /// The reply.
    Generated(Completion),
    /// The scores, one per reply.
    Scored(Vec<TokenScores>),
    /// The label keeps nothing any more.
    Released,
}

/// A model that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldModel {
    /// Digest of its parameters.
    pub parameters: Digest,
}

/// A model that is loaded, and what a client needs to count its prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// What is loaded.
    pub model: ModelInfo,
    /// Its text files by name: `tokenizer.json`, `tokenizer_config.json` and the others
    /// that are there. `GET /v1/files/{sha256}` has them.
    pub text: BTreeMap<String, TextFile>,
    /// The date that its chat template gets, if the engine's settings say one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

/// A text file of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextFile {
    /// Bytes.
    pub size: u64,
    /// Digest of its bytes.
    pub sha256: Digest,
}

/// The files of a model that say how it reads and writes text. Those that a model does
/// not have are left out.
pub const TEXT_FILES: [&str; 5] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The longest text file that is sent, in bytes; Qwen3's `tokenizer.json` has 11 MB.
pub const MAX_TEXT_FILE: u64 = 64 << 20;

/// What screens found in a model that is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScreenedModel {
    /// What each screen found, in the order of the request.
    pub findings: Vec<Screened>,
}

/// How far a job is: `GET /v1/jobs/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job.
    pub job: Digest,
    /// What it does.
    pub kind: String,
    /// Its state.
    pub state: JobState,
    /// Times that it was begun.
    pub runs: u32,
    /// Times that a result of it was stored.
    pub stored: u32,
    /// The number of its latest event.
    pub events: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
}

/// A line of a job's stream of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLine {
    /// The next event.
    Event(Box<NumberedEvent>),
    /// Nothing happened for a while; the server is alive.
    Heartbeat {
        /// The number of the latest event.
        heartbeat: u64,
    },
}

/// An event of a job and its number, from 1. `after=N` asks for the events after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumberedEvent {
    /// The number.
    pub number: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// An error as it goes over the wire: everything that decides what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// Who has to act, where it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// How far it reaches.
    pub reach: Reach,
    /// Whether to try again.
    pub retry: Retry,
    /// Which of a model's own files it is about: `model` or `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Where a model's arithmetic overflowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow: Option<albedo_core::Overflow>,
    /// What was being done.
    pub operation: String,
    /// Why it failed, with the facts.
    pub message: String,
    /// What the reader can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        // An overflow's facts are in `overflow`.
        let facts: Vec<_> = match error.overflow() {
            Some(_) => Vec::new(),
            None => error.context().iter().map(|(key, value)| format!("{key}: {value}")).collect(),
        };
        let message = if facts.is_empty() {
            error.message().to_owned()
        } else {
            format!("{} ({})", error.message(), facts.join(", "))
        };
        Self {
            kind: error.kind(),
            fault: error.said_fault(),
            reach: error.reach(),
            retry: error.retry(),
            about: error.artefact().and_then(|about| match about {
                Artefact::Model => Some("model".to_owned()),
                Artefact::Text => Some("text".to_owned()),
                _ => None,
            }),
            overflow: error.overflow(),
            operation: error.operation().to_owned(),
            message,
            hint: error.hint().map(str::to_owned),
        }
    }
}

impl WireError {
    /// The error that it was. A server knows no sides: a fault of a contestant that one
    /// claims is infrastructure's, and what is about a model's own files is for the
    /// caller to charge.
    pub fn into_error(self) -> Error {
        let error = match self.overflow {
            Some(overflow) => Error::overflowed(self.operation, overflow),
            None => Error::new(self.kind, self.operation, self.message),
        };
        let mut error = error.with_reach(self.reach).with_retry(self.retry);
        match self.about.as_deref() {
            Some("model") => error = error.about(Artefact::Model),
            Some("text") => error = error.about(Artefact::Text),
            _ => {}
        }
        match self.fault {
            Some(Fault::Contestant(_)) => error = error.with_fault(Fault::Infrastructure),
            Some(fault) => error = error.with_fault(fault),
            None => {}
        }
        match self.hint {
            Some(hint) if self.overflow.is_none() => error.with_hint(hint),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use albedo_core::error::Side;
    use albedo_core::{MessageRole, Overflow};
    use serde_json::json;

    use super::*;

    fn generate() -> GenerateJob {
        let request = GenerateRequest::new([Message::new(MessageRole::User, "hello")], 8)
            .with_sampling(Sampling { temperature: 0.7, ..Sampling::default() })
            .with_seed(u64::MAX)
            .with_score_reply(Some("a reply".into()))
            .with_log_probs(Some(2));
        GenerateJob::new(Digest::of("engine"), SessionKey::new(Digest::of("model")), &request)
    }

    #[test]
    fn a_request_is_found_under_its_digest_and_under_no_other() {
        let request = JobRequest::Generate(generate());
        let id = request.id().expect("an id");
        // Neither the order of keys nor white space counts.
        let pretty = serde_json::to_vec_pretty(&request).expect("writes");
        assert_eq!(JobRequest::read(id, &pretty).expect("reads"), request);
        let other = GenerateJob { seed: 7, ..generate() };
        let bytes = serde_json::to_vec(&JobRequest::Generate(other)).expect("writes");
        let error = JobRequest::read(id, &bytes).expect_err("another request");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator));
    }

    #[test]
    fn a_request_without_a_digest_or_with_an_unknown_key_is_none() {
        let whole = serde_json::to_value(JobRequest::Generate(generate())).expect("writes");
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut value = whole.clone();
            change(&mut value);
            let bytes = serde_json::to_vec(&value).expect("writes");
            JobRequest::read(Digest::of("x"), &bytes).expect_err("refused").to_string()
        };
        let without = |key: &'static str| {
            refused(&move |value| _ = value.as_object_mut().and_then(|object| object.remove(key)))
        };
        assert!(without("engine").contains("missing field `engine`"));
        assert!(without("model").contains("missing field `model`"));
        assert!(refused(&|value| value["model"] = json!({})).contains("missing field `parameters`"));
        assert!(refused(&|value| value["path"] = json!("/etc")).contains("unknown field `path`"));
    }

    #[test]
    fn what_a_session_is_asked_is_what_the_caller_asked() {
        let job = generate();
        let again = GenerateJob::new(job.engine, job.model, &job.request());
        assert_eq!(again, job);
    }

    #[test]
    fn an_error_keeps_what_decides_what_follows() {
        let overflow: Overflow =
            serde_json::from_value(json!({ "step": "reply", "position": 7, "place": { "layer": 3 } }))
                .expect("an overflow");
        let malformed = || Error::new(ErrorKind::DataInvalid, "load the model", "malformed");
        for error in [
            malformed().about(Artefact::Model),
            malformed().about(Artefact::Text).with_fault(Fault::Infrastructure),
            Error::new(ErrorKind::DeviceLost, "generate", "gone").with_reach(Reach::Process),
            Error::new(ErrorKind::Unavailable, "fetch", "no answer").with("file", "a").with_hint("wait"),
            Error::overflowed("write a reply", overflow),
        ] {
            let wire = serde_json::to_string(&WireError::from(&error)).expect("writes");
            let back = serde_json::from_str::<WireError>(&wire).expect("reads").into_error();
            let facts = |error: &Error| {
                let charged = error.clone().charged_to(|_| Side::Challenger).fault();
                (error.kind(), error.fault(), error.reach(), error.retry(), error.overflow(), charged)
            };
            assert_eq!(facts(&back), facts(&error), "{wire}");
            assert_eq!(back.to_string(), error.to_string());
        }
    }

    #[test]
    fn a_server_charges_no_contestant() {
        let error = Error::new(ErrorKind::Unavailable, "load", "x").with_fault(Fault::Contestant(Side::King));
        assert_eq!(WireError::from(&error).into_error().fault(), Fault::Infrastructure);
    }

    #[test]
    fn a_result_keeps_every_bit() {
        let completion =
            Completion::new("text", albedo_core::FinishReason::Stop, albedo_core::Usage::default())
                .with_tokens(vec![1, 2])
                .with_reply_scores(Some(TokenScores { log_probs: vec![-0.1, f32::MIN_POSITIVE, -1e-30] }));
        let result = JobResult {
            job: Digest::of("job"),
            engine: Digest::of("engine"),
            model: None,
            outcome: JobOutcome::Generated(completion),
        };
        let bytes = albedo_core::canonical_json(&result).expect("writes");
        assert_eq!(serde_json::from_slice::<JobResult>(&bytes).expect("reads"), result);
    }
}
