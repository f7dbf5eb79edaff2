//! What a server is asked: one request per job.

use std::sync::Arc;

use albedo_core::{
    Digest, Error, ErrorKind, Fault, GenerateRequest, HubRef, Message, PluginConfig, ResponseFormat, Result,
    Sampling, ScoreRequest, Screen,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

    /// The parameters of every model that it names: each has to be held.
    pub fn models(&self) -> impl Iterator<Item = Digest> {
        let key = self.session();
        let anchor = match self {
            Self::Screen(ScreenJob { measure: Some(Measure { anchor }), .. }) => *anchor,
            _ => None,
        };
        let own = key.map(|key| key.parameters);
        [own, key.and_then(|key| key.text_from), anchor].into_iter().flatten()
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

/// Asks screens of behaviour about a model that is held, and takes from its weights what
/// a store of submissions remembers.
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
    /// Also take what a store of submissions remembers of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
}

/// What is taken of a model's weights ([`MeasuredModel`](super::MeasuredModel)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// The parameters of the model that the store's sketches are aligned to; it has to be
    /// held, too. A model may be its own anchor. Without an anchor there is no sketch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Digest>,
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

/// Which session a request means: a model by its parameters, and whose tokenizer,
/// template and stop ids it gets (the king's, for a challenger).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionKey {
    /// Digest of the model's parameters, as [`albedo_core::ModelInfo::parameters`].
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

#[cfg(test)]
mod tests {
    use albedo_core::MessageRole;
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
}
