//! `POST /v1/chat/completions`.

use axum::Json;
use axum::extract::State as From;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::log_probs::ChatLogProbs;
use super::reply::{End, Piece, Replies};
use super::request::{
    MOST_LIKELIEST, Stop, StreamOptions, Wanted, sampling, seed, stops, stream_options, text_only,
    unsupported, within,
};
use super::sse::{self, Chunks};
use super::usage::{Head, Usage};
use crate::server::body::JsonBody;
use crate::server::error::ApiError;
use crate::server::state::State;
use crate::{Message, MessageRole, Prompt};

/// A conversation to continue.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatRequest {
    /// The model's name, as `/v1/models` lists it.
    model: String,
    /// The conversation so far.
    messages: Vec<ChatMessage>,
    /// Whether the reply is sent as it is written, as server-sent events.
    stream: Option<bool>,
    /// What to add to a streamed reply.
    stream_options: Option<StreamOptions>,
    /// Most tokens of a reply; as many as the context has room for if absent.
    max_completion_tokens: Option<u32>,
    /// The old name of `max_completion_tokens`.
    max_tokens: Option<u32>,
    /// 0 (greedy) to 2; 1 if absent.
    temperature: Option<f64>,
    /// Keep the likeliest tokens whose probabilities reach this sum; 1 if absent.
    top_p: Option<f64>,
    /// Keep this many of the likeliest tokens; 0, all, if absent. Not OpenAI's.
    top_k: Option<u32>,
    /// Replies; 1 if absent.
    n: Option<u32>,
    /// Strings that end a reply, at most 16; the reply has the text before the first.
    #[schema(value_type = Option<Value>)]
    stop: Option<Stop>,
    /// Same seed, same reply; random if absent. Reply `i` of several has the seed plus
    /// `i`.
    seed: Option<i64>,
    /// Whether the answer has the log-probability of each token.
    logprobs: Option<bool>,
    /// How many of the likeliest tokens the answer has at each place, 0 to 20.
    top_logprobs: Option<u32>,
    /// Only `{"type": "text"}`.
    response_format: Option<Value>,
    /// Not used.
    #[expect(dead_code, reason = "one queue serves all")]
    user: Option<String>,
    /// Only 0.
    frequency_penalty: Option<Value>,
    /// Only 0.
    presence_penalty: Option<Value>,
    /// Only `{}`.
    logit_bias: Option<Value>,
    /// Only `[]`.
    tools: Option<Value>,
    /// Only `none` and `auto`.
    tool_choice: Option<Value>,
    /// Only `true` and `false`, which mean nothing without tools.
    parallel_tool_calls: Option<Value>,
    /// Only `false`.
    store: Option<Value>,
    /// Not used.
    #[expect(dead_code, reason = "nothing is stored")]
    metadata: Option<Value>,
    /// Only `["text"]`.
    modalities: Option<Value>,
    /// Only `auto` and `default`.
    service_tier: Option<Value>,
}

/// A message of a conversation.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatMessage {
    /// Who wrote it.
    role: ChatRole,
    /// Its text, or a list of parts of the type `text`.
    #[schema(value_type = Value)]
    content: Content,
    /// Not used.
    #[expect(dead_code, reason = "chat templates have no place for it")]
    name: Option<String>,
    /// Not used: a tool's result follows the call that it answers.
    #[expect(dead_code, reason = "chat templates have no place for it")]
    tool_call_id: Option<String>,
    /// Only null.
    tool_calls: Option<Value>,
    /// Only null.
    refusal: Option<Value>,
}

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChatRole {
    /// Instructions.
    System,
    /// Instructions; the same as `system`.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// A message's text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
struct Content(String);

impl TryFrom<Value> for Content {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let part = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(text)) => Ok(text.to_owned()),
            (Some("text"), None) => Err("a part of the type 'text' has no `text`".to_owned()),
            (kind, _) => {
                Err(format!("parts of the type '{}' are not supported, only 'text'", kind.unwrap_or("?")))
            }
        };
        match &value {
            Value::String(text) => Ok(Self(text.clone())),
            Value::Array(parts) => Ok(Self(parts.iter().map(part).collect::<Result<String, _>>()?)),
            _ => Err("it has to be a string or a list of parts".to_owned()),
        }
    }
}

impl ChatRequest {
    fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    fn check(&self) -> Result<(), ApiError> {
        for (name, value, neutral) in [
            ("frequency_penalty", &self.frequency_penalty, vec![json!(0)]),
            ("presence_penalty", &self.presence_penalty, vec![json!(0)]),
            ("logit_bias", &self.logit_bias, vec![json!({})]),
            ("tools", &self.tools, vec![json!([])]),
            ("tool_choice", &self.tool_choice, vec![json!("none"), json!("auto")]),
            ("parallel_tool_calls", &self.parallel_tool_calls, vec![json!(true), json!(false)]),
            ("store", &self.store, vec![json!(false)]),
            ("modalities", &self.modalities, vec![json!(["text"])]),
            ("service_tier", &self.service_tier, vec![json!("auto"), json!("default")]),
        ] {
            unsupported(name, value.as_ref(), &neutral)?;
        }
        text_only(self.response_format.as_ref())?;
        stream_options(self.is_streamed(), self.stream_options)
    }

    fn messages(&self) -> Result<Vec<Message>, ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::field(
                "messages",
                "Invalid 'messages': empty array. Expected at least one message.",
            ));
        }
        let message = |(place, message): (usize, &ChatMessage)| {
            for (name, value) in [("tool_calls", &message.tool_calls), ("refusal", &message.refusal)] {
                unsupported(name, value.as_ref(), &[json!([])])
                    .map_err(|error| error.with_param(format!("messages[{place}].{name}")))?;
            }
            let role = match message.role {
                ChatRole::System | ChatRole::Developer => MessageRole::System,
                ChatRole::User => MessageRole::User,
                ChatRole::Assistant => MessageRole::Assistant,
                ChatRole::Tool => MessageRole::Tool,
            };
            Ok(Message::new(role, message.content.0.clone()))
        };
        let messages: Vec<_> =
            self.messages.iter().enumerate().map(message).collect::<Result<_, ApiError>>()?;
        if messages.last().is_some_and(|last| last.role == MessageRole::Assistant) {
            let place = format!("messages[{}]", messages.len() - 1);
            return Err(ApiError::field(
                place,
                "The last message is the assistant's; end with another, which it answers.",
            ));
        }
        Ok(messages)
    }

    fn log_probs(&self) -> Result<Option<u8>, ApiError> {
        match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (true, likeliest) => {
                let likeliest = within("top_logprobs", likeliest.unwrap_or(0), 0, MOST_LIKELIEST.into())?;
                Ok(Some(likeliest as u8))
            }
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => {
                Err(ApiError::field("top_logprobs", "'top_logprobs' needs 'logprobs' to be true."))
            }
        }
    }

    fn max_new_tokens(&self) -> Result<Option<u32>, ApiError> {
        let (name, most) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(new), Some(old)) if new != old => {
                let message = "'max_tokens' and 'max_completion_tokens' differ; 'max_tokens' is the old name: leave it out.";
                return Err(ApiError::field("max_tokens", message));
            }
            (Some(most), _) => ("max_completion_tokens", most),
            (None, Some(most)) => ("max_tokens", most),
            (None, None) => return Ok(None),
        };
        within(name, most, 1, u32::MAX).map(Some)
    }

    fn wanted(&self, most_replies: u32) -> Result<Wanted, ApiError> {
        Ok(Wanted {
            sampling: sampling(self.temperature, self.top_p, self.top_k)?,
            max_new_tokens: self.max_new_tokens()?,
            seed: seed(self.seed)?,
            replies: within("n", self.n.unwrap_or(1), 1, most_replies)?,
            log_probs: self.log_probs()?,
            prompt_log_probs: false,
            stops: stops(self.stop.as_ref()),
        })
    }
}

/// A reply, or several, to a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct ChatCompletion {
    id: String,
    /// `chat.completion`.
    object: &'static str,
    /// Seconds since the Unix epoch.
    created: u64,
    model: String,
    choices: Vec<ChatChoice>,
    usage: Usage,
    /// Names the engine, its build, its device and the model: where it is the same, the
    /// same seed gives the same reply.
    system_fingerprint: String,
}

/// One reply.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct ChatChoice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<ChatLogProbs>,
    /// `stop` or `length`.
    finish_reason: &'static str,
}

/// What the model wrote.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct AssistantMessage {
    /// `assistant`.
    role: &'static str,
    content: String,
    /// Always null.
    #[schema(value_type = Option<String>)]
    refusal: Option<()>,
}

/// An event of a streamed reply.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct ChatChunk {
    id: String,
    /// `chat.completion.chunk`.
    object: &'static str,
    created: u64,
    model: String,
    /// One; none in the event that has the usage.
    choices: Vec<ChatChunkChoice>,
    /// In the last event, if `stream_options.include_usage` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    system_fingerprint: String,
}

/// The next piece of one reply.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct ChatChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogProbs>,
    /// In the reply's last event.
    finish_reason: Option<&'static str>,
}

/// What a piece adds to the message.
#[derive(Debug, Clone, PartialEq, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct Delta {
    /// `assistant`, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Continues a conversation, in the model's own chat template.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "replies",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The replies; with `stream`, events with a `ChatChunk` each, and `[DONE]`", content(
            (ChatCompletion = "application/json"),
            (ChatChunk = "text/event-stream"),
        )),
        ApiError,
    )
)]
pub(super) async fn create(
    From(state): From<State>,
    JsonBody(request): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    request.check()?;
    let prompt = Prompt::from(request.messages()?);
    let wanted = request.wanted(state.limits().choices)?;
    let (replies, has_log_probs) = (wanted.replies as usize, wanted.log_probs.is_some());
    let (key, asked) = wanted.of(&request.model, vec![prompt], &state).await?;
    let form = Form { head: Head::new("chatcmpl", &request.model, key, &state)?, has_log_probs };
    let pieces = Replies::begin(asked, &state);
    if request.is_streamed() {
        let usage = request.stream_options.is_some_and(|options| options.include_usage);
        return sse::respond(pieces, form, replies, usage).await;
    }
    form.whole(pieces, replies).await.map(|completion| Json(completion).into_response())
}

/// What every answer to one request has.
#[derive(Debug)]
struct Form {
    head: Head,
    has_log_probs: bool,
}

impl Form {
    async fn whole(self, mut pieces: Replies, replies: usize) -> Result<ChatCompletion, ApiError> {
        let mut texts = vec![(String::new(), Vec::new()); replies];
        let mut ends: Vec<Option<End>> = vec![None; replies];
        while let Some((index, piece)) = pieces.next().await {
            match piece {
                Piece::Prompt { .. } => {}
                Piece::Text { text, log_probs, .. } => {
                    texts[index].0 += &text;
                    texts[index].1.extend(log_probs);
                }
                Piece::End(end) => ends[index] = Some(end),
                Piece::Failed(error) => return Err(error),
            }
        }
        let ends: Vec<_> = ends.into_iter().flatten().collect();
        let usage = Usage::of(&ends, 1);
        let choice = |(index, ((content, log_probs), end)): (usize, ((String, Vec<_>), End))| ChatChoice {
            index,
            message: AssistantMessage { role: "assistant", content, refusal: None },
            logprobs: self.has_log_probs.then(|| ChatLogProbs::of(&log_probs)),
            finish_reason: end.finish,
        };
        let choices = texts.into_iter().zip(ends).enumerate().map(choice).collect();
        let Head { id, created, model, fingerprint } = self.head;
        Ok(ChatCompletion {
            id,
            object: "chat.completion",
            created,
            model,
            choices,
            usage,
            system_fingerprint: fingerprint,
        })
    }

    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        let Head { id, created, model, fingerprint } = self.head.clone();
        ChatChunk {
            id,
            object: "chat.completion.chunk",
            created,
            model,
            choices,
            usage,
            system_fingerprint: fingerprint,
        }
    }
}

impl Chunks for Form {
    type Chunk = ChatChunk;

    fn first(&mut self, index: usize) -> Option<ChatChunk> {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        Some(self.chunk(vec![ChatChunkChoice { index, delta, logprobs: None, finish_reason: None }], None))
    }

    fn piece(&mut self, index: usize, piece: Piece) -> Option<ChatChunk> {
        let (delta, logprobs, finish_reason) = match piece {
            Piece::Text { text, log_probs, .. } => {
                let log_probs = self.has_log_probs.then(|| ChatLogProbs::of(&log_probs));
                (Delta { role: None, content: Some(text) }, log_probs, None)
            }
            Piece::End(end) => (Delta::default(), None, Some(end.finish)),
            Piece::Prompt { .. } | Piece::Failed(_) => return None,
        };
        Some(self.chunk(vec![ChatChunkChoice { index, delta, logprobs, finish_reason }], None))
    }

    fn usage(&mut self, ends: &[End]) -> ChatChunk {
        self.chunk(Vec::new(), Some(Usage::of(ends, 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::body::json;

    fn read(body: &Value) -> Result<(Vec<Message>, Wanted), ApiError> {
        let request: ChatRequest = json(body.to_string().as_bytes())?;
        request.check()?;
        Ok((request.messages()?, request.wanted(8)?))
    }

    /// A request of one message with further `fields`.
    fn with(fields: &Value) -> Value {
        let mut body = json!({ "model": "king", "messages": [{ "role": "user", "content": "hi" }] });
        for (name, value) in fields.as_object().expect("fields") {
            body[name] = value.clone();
        }
        body
    }

    #[test]
    fn what_clients_send_is_read() {
        let (messages, wanted) = read(&with(&json!({
            "messages": [
                { "role": "developer", "content": "be brief" },
                { "role": "user", "content": [{ "type": "text", "text": "one " }, { "type": "text", "text": "two" }], "name": "a" },
                { "role": "assistant", "content": "three", "tool_calls": null, "refusal": null },
                { "role": "tool", "content": "four", "tool_call_id": "x" },
            ],
            "temperature": 0, "max_tokens": 9, "n": 2, "stop": "END", "seed": 3, "logprobs": true, "top_logprobs": 2,
            "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "tools": [], "user": "u",
            "response_format": { "type": "text" }, "stream": false, "metadata": { "a": "b" },
        })))
        .expect("reads");
        let read: Vec<_> = messages.iter().map(|message| (message.role, message.content.as_str())).collect();
        assert_eq!(
            read,
            [
                (MessageRole::System, "be brief"),
                (MessageRole::User, "one two"),
                (MessageRole::Assistant, "three"),
                (MessageRole::Tool, "four"),
            ]
        );
        assert_eq!(
            (wanted.max_new_tokens, wanted.replies, wanted.seed, wanted.log_probs),
            (Some(9), 2, 3, Some(2))
        );
        let (_, wanted) = super::tests::read(&with(&json!({}))).expect("reads");
        assert_eq!((wanted.max_new_tokens, wanted.replies, wanted.log_probs), (None, 1, None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (fields, param) in [
            (json!({ "temperatur": 1 }), "temperatur"),
            (json!({ "messages": [] }), "messages"),
            (json!({ "messages": [{ "role": "user", "content": null }] }), "messages[0].content"),
            (
                json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
                "messages[0].content",
            ),
            (json!({ "messages": [{ "role": "king", "content": "" }] }), "messages[0].role"),
            (json!({ "messages": [{ "role": "assistant", "content": "" }] }), "messages[0]"),
            (
                json!({ "messages": [{ "role": "user", "content": "", "tool_calls": [1] }] }),
                "messages[0].tool_calls",
            ),
            (json!({ "n": 0 }), "n"),
            (json!({ "n": 9 }), "n"),
            (json!({ "max_tokens": 0 }), "max_tokens"),
            (json!({ "max_tokens": -1 }), "max_tokens"),
            (json!({ "max_tokens": 1, "max_completion_tokens": 2 }), "max_tokens"),
            (json!({ "temperature": 3 }), "temperature"),
            (json!({ "top_logprobs": 3 }), "top_logprobs"),
            (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
            (json!({ "stop": 3 }), "stop"),
            (json!({ "tools": [{ "type": "function" }] }), "tools"),
            (json!({ "tool_choice": "required" }), "tool_choice"),
            (json!({ "response_format": { "type": "json_object" } }), "response_format"),
            (json!({ "stream_options": { "include_usage": true } }), "stream_options"),
            (json!({ "stream": true, "stream_options": { "usage": true } }), "stream_options.usage"),
            (json!({ "logit_bias": { "5": 1 } }), "logit_bias"),
        ] {
            let error = read(&with(&fields)).expect_err(param);
            assert_eq!(error.status().as_u16(), 400, "{fields}");
            assert_eq!(error.body().error.param.as_deref(), Some(param), "{fields}: {error:?}");
        }
        let error = read(&json!({ "messages": [] })).expect_err("no model");
        assert!(error.body().error.message.contains("missing field `model`"), "{error:?}");
    }
}
