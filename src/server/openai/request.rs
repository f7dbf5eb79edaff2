//! What requests of both kinds have in common: sampling, stop strings, seeds, and what
//! the engine does not do.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::reply::Asked;
use crate::server::SessionKey;
use crate::server::error::ApiError;
use crate::server::state::State;
use crate::{
    CallContext, Error, ErrorKind, ModelSession, Prompt, Result as CoreResult, Sampling, StreamRequest,
};

/// Most stop strings of a request. OpenAI takes 4; harnesses send a few more.
const MOST_STOPS: usize = 16;

/// Most bytes of a stop string. Source: chosen by albedo.
const LONGEST_STOP: usize = 1000;

/// Most of the likeliest tokens at a place. Source: OpenAI's limit of `top_logprobs`.
pub(super) const MOST_LIKELIEST: u8 = 20;

/// What to add to a streamed reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StreamOptions {
    /// A last event has the usage of the whole request.
    pub(super) include_usage: bool,
}

/// One text or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Stop(Vec<String>);

impl TryFrom<Value> for Stop {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let stops = match &value {
            Value::String(stop) => Some(vec![stop.clone()]),
            Value::Array(stops) => stops.iter().map(text).collect(),
            _ => None,
        };
        let stops = stops.ok_or("it has to be a string or a list of strings")?;
        if stops.len() > MOST_STOPS {
            return Err(format!("it has {} strings, and at most {MOST_STOPS} are taken", stops.len()));
        }
        if let Some(stop) = stops.iter().find(|stop| !(1..=LONGEST_STOP).contains(&stop.len())) {
            return Err(format!("a stop string has {} bytes, it must be 1 to {LONGEST_STOP}", stop.len()));
        }
        Ok(Self(stops))
    }
}

/// The strings that end a reply.
pub(super) fn stops(stop: Option<&Stop>) -> Arc<[String]> {
    stop.map_or_else(|| Arc::from([]), |stop| stop.0.as_slice().into())
}

/// How tokens are chosen, with OpenAI's defaults.
pub(super) fn sampling(
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
) -> Result<Sampling, ApiError> {
    let sampling = Sampling {
        temperature: temperature.unwrap_or(1.0),
        top_p: top_p.unwrap_or(1.0),
        top_k: top_k.unwrap_or(0),
    };
    if !(0.0..=2.0).contains(&sampling.temperature) {
        let message = format!("Invalid 'temperature': {} is not between 0 and 2.", sampling.temperature);
        return Err(ApiError::field("temperature", message));
    }
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        let message = format!("Invalid 'top_p': {} is not above 0 and at most 1.", sampling.top_p);
        return Err(ApiError::field("top_p", message));
    }
    Ok(sampling)
}

/// The seed of the first reply: the request's, else a random one. Each further reply has
/// the next.
pub(super) fn seed(given: Option<i64>) -> Result<u64, ApiError> {
    if let Some(seed) = given {
        return Ok(seed.cast_unsigned());
    }
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Unavailable, "draw a seed", error.to_string()))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Options of a stream are for a reply that is one.
///
/// # Errors
/// 400: `options` without a stream.
pub(super) fn stream_options(is_streamed: bool, options: Option<StreamOptions>) -> Result<(), ApiError> {
    if options.is_none() || is_streamed {
        return Ok(());
    }
    let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
    Err(ApiError::field("stream_options", message))
}

/// Whether `value` of the field `name` asks for nothing: is absent, null, or one of
/// `neutral`.
///
/// # Errors
/// 400: it asks for what the engine does not do.
pub(super) fn unsupported(
    name: &'static str,
    value: Option<&Value>,
    neutral: &[Value],
) -> Result<(), ApiError> {
    let same = |one: &Value, other: &Value| match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    };
    match value {
        None | Some(Value::Null) => Ok(()),
        Some(value) if neutral.iter().any(|neutral| same(neutral, value)) => Ok(()),
        Some(_) => Err(ApiError::field(
            name,
            format!("Unsupported parameter: '{name}' is not supported here; leave it out."),
        )
        .with_code("unsupported_parameter")),
    }
}

/// Accepts the response format `text` only.
///
/// # Errors
/// 400: another format, which the engine cannot enforce.
pub(super) fn text_only(response_format: Option<&Value>) -> Result<(), ApiError> {
    let Some(format) = response_format.filter(|format| !format.is_null()) else { return Ok(()) };
    match format["type"].as_str() {
        Some("text") => Ok(()),
        Some(kind @ ("json_object" | "json_schema")) => {
            let message = format!(
                "Unsupported value: 'response_format' of type '{kind}': this engine cannot enforce it. Ask for text and parse it."
            );
            Err(ApiError::field("response_format", message).with_code("unsupported_value"))
        }
        _ => Err(ApiError::field(
            "response_format",
            "Invalid value for 'response_format': its `type` has to be 'text'.",
        )),
    }
}

/// Checks that a number is one of a range.
pub(super) fn within(name: &'static str, value: u32, least: u32, most: u32) -> Result<u32, ApiError> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(ApiError::field(name, format!("Invalid '{name}': {value} is not between {least} and {most}.")))
}

/// What a request wants of each prompt.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) sampling: Sampling,
    /// As many as the context has room for if absent.
    pub(super) max_new_tokens: Option<u32>,
    pub(super) seed: u64,
    /// Replies to each prompt.
    pub(super) replies: u32,
    pub(super) log_probs: Option<u8>,
    pub(super) prompt_log_probs: bool,
    pub(super) stops: Arc<[String]>,
}

impl Wanted {
    /// Finds the model and its session, counts the prompts' tokens, and takes a place in
    /// the queue for every reply: prompt by prompt, the replies to each together.
    ///
    /// # Errors
    /// 404 for a model that is not here, 500 or 503 for one that cannot be loaded; 400 with
    /// `context_length_exceeded`; 429.
    pub(super) async fn of(
        self,
        model: &str,
        prompts: Vec<Prompt>,
        state: &State,
    ) -> Result<(SessionKey, Asked), ApiError> {
        state.go_on().map_err(|_| ApiError::unavailable("the server is about to stop; ask another one"))?;
        let replies = prompts.len() as u64 * u64::from(self.replies);
        if replies > u64::from(state.limits().choices) {
            let message =
                format!("{replies} replies are asked for, and at most {} may be", state.limits().choices);
            return Err(ApiError::field("n", message));
        }
        let tickets = state.gate().announce(replies as usize)?;
        let cx = state.work().child();
        let _ends_with_the_request = cx.cancel_on_drop();
        let key = state.models().key_of(model).map_err(|error| match error.kind() {
            ErrorKind::NotFound => ApiError::no_model(model),
            _ => error.into(),
        })?;
        let session = state.models().session(key, &cx).await.map_err(ApiError::no_load)?;
        let (mut requests, mut prompt_tokens) = (Vec::new(), Vec::new());
        for prompt in prompts {
            let is_chat = matches!(prompt, Prompt::Messages(_));
            let (prompt, tokens) = counted(prompt, &session, &cx).await?;
            let context = session.model().context_length;
            let request = self.request(prompt, tokens, context).map_err(|error| error.told(is_chat))?;
            for _ in 0..self.replies {
                let seed = self.seed.wrapping_add(requests.len() as u64);
                requests.push(request.clone().with_seed(seed));
                prompt_tokens.push(tokens);
            }
        }
        let asked = Asked {
            model: model.to_owned(),
            session,
            requests,
            prompt_tokens,
            stops: Arc::clone(&self.stops),
            tickets,
        };
        Ok((key, asked))
    }

    /// # Errors
    /// The prompt and the reply are longer than the context.
    fn request(&self, prompt: Prompt, tokens: Option<u32>, context: u32) -> Result<StreamRequest, TooLong> {
        let new = match (self.max_new_tokens, tokens) {
            (Some(new), _) => new,
            (None, Some(tokens)) => context.saturating_sub(tokens).max(1),
            // Some room for the prompt, of which nobody knows the length.
            (None, None) => (context / 2).max(1),
        };
        if let Some(tokens) = tokens.filter(|tokens| u64::from(*tokens) + u64::from(new) > u64::from(context))
        {
            return Err(TooLong { tokens, new, context });
        }
        Ok(StreamRequest::new(prompt, new)
            .with_sampling(self.sampling)
            .with_log_probs(self.log_probs)
            .with_prompt_log_probs(self.prompt_log_probs))
    }
}

/// A prompt and a reply that are together longer than the context, in tokens.
#[derive(Debug, Clone, Copy)]
struct TooLong {
    tokens: u32,
    new: u32,
    context: u32,
}

impl TooLong {
    /// What OpenAI says of it.
    fn told(self, is_chat: bool) -> ApiError {
        let Self { tokens, new, context } = self;
        let all = u64::from(tokens) + u64::from(new);
        let (param, message) = if is_chat {
            let message = format!(
                "This model's maximum context length is {context} tokens. However, you requested {all} tokens \
                 ({tokens} in the messages, {new} in the completion). Please reduce the length of the messages or \
                 completion."
            );
            ("messages", message)
        } else {
            let message = format!(
                "This model's maximum context length is {context} tokens, however you requested {all} tokens \
                 ({tokens} in your prompt; {new} for the completion). Please reduce your prompt; or completion length."
            );
            ("prompt", message)
        };
        ApiError::field(param, message).with_code("context_length_exceeded")
    }
}

/// The prompt, a text in tokens where the session knows them, and how many tokens it has.
async fn counted(
    prompt: Prompt,
    session: &Arc<dyn ModelSession>,
    cx: &CallContext,
) -> Result<(Prompt, Option<u32>), ApiError> {
    const COUNT: &str = "read a prompt";
    let session = Arc::clone(session);
    let read = move || -> CoreResult<(Prompt, Option<u32>)> {
        let prompt = match prompt {
            Prompt::Text(text) => match session.text_tokens(&text)? {
                Some(ids) => Prompt::from(ids),
                None => Prompt::Text(text),
            },
            prompt => prompt,
        };
        let tokens = match &prompt {
            Prompt::Messages(messages) => session.count_prompt_tokens(messages)?,
            Prompt::Tokens(ids) => Some(ids.len() as u32),
            Prompt::Text(_) => None,
        };
        Ok((prompt, tokens))
    };
    // A long prompt takes milliseconds, which no other request should wait for.
    let read = cx.run(COUNT, tokio::task::spawn_blocking(read)).await?;
    read.map_err(|error| Error::bug(COUNT, error.to_string()))?.map_err(ApiError::of_request)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::server::models::tests::models_of;
    use crate::server::{Activity, Jobs, Metrics, ServerConfig};
    use crate::testing::{ScriptedBackend, ScriptedSession, model_info};

    fn param<T: std::fmt::Debug>(result: Result<T, ApiError>) -> Option<String> {
        result.expect_err("refused").body().error.param
    }

    #[test]
    fn defaults_are_openais() {
        let given = sampling(None, None, None).expect("defaults");
        assert_eq!(given, Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 });
        for temperature in [-0.1, 2.1, f64::NAN, f64::INFINITY] {
            assert_eq!(param(sampling(Some(temperature), None, None)).as_deref(), Some("temperature"));
        }
        for top_p in [0.0, -1.0, 1.1, f64::NAN] {
            assert_eq!(param(sampling(None, Some(top_p), None)).as_deref(), Some("top_p"));
        }
        assert_eq!(seed(Some(7)).expect("given"), 7);
        assert_eq!(seed(Some(-1)).expect("given"), u64::MAX);
        assert_ne!(seed(None).expect("random"), seed(None).expect("random"));
    }

    #[test]
    fn what_asks_for_nothing_is_taken_and_the_rest_refused_by_name() {
        let neutral = [json!(0)];
        for value in [None, Some(json!(null)), Some(json!(0)), Some(json!(0.0))] {
            unsupported("presence_penalty", value.as_ref(), &neutral).expect("asks for nothing");
        }
        let refused = unsupported("presence_penalty", Some(&json!(0.5)), &neutral);
        assert_eq!(param(refused).as_deref(), Some("presence_penalty"));
        text_only(Some(&json!({ "type": "text" }))).expect("text");
        for format in
            [json!({ "type": "json_object" }), json!({ "type": "json_schema" }), json!("text"), json!({})]
        {
            assert_eq!(param(text_only(Some(&format))).as_deref(), Some("response_format"), "{format}");
        }
    }

    #[test]
    fn stop_is_one_text_or_several() {
        let read = |value: Value| serde_json::from_value::<Stop>(value).map(|Stop(stops)| stops);
        assert_eq!(read(json!("a")).expect("one"), ["a"]);
        assert_eq!(read(json!(["a", "b"])).expect("two"), ["a", "b"]);
        assert!(read(json!([])).expect("none").is_empty());
        for wrong in [json!(""), json!([1]), json!({}), json!(vec!["a"; 17]), json!("x".repeat(1001))] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn only_a_name_that_is_unknown_is_no_model() {
        let folder = tempfile::tempdir().expect("a folder");
        let loads = AtomicUsize::new(0);
        let backend = ScriptedBackend::new("scripted", move |source| {
            let folder = source.model.require_folder("load")?;
            let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
            if loads.fetch_add(1, Ordering::Relaxed) < 2 {
                return Ok(Arc::new(ScriptedSession::saying(&name, &name).with_model(model_info(&name))));
            }
            Err(Error::new(ErrorKind::NotFound, "load a model", "its weights are gone"))
        });
        let models = models_of(backend, &["a", "b"], folder.path(), folder.path()).await;
        let work = CallContext::new();
        models.open(&work).await.expect("opens");
        let jobs = Jobs::open(None, models.engine().digest().expect("a digest"), None).expect("opens");
        let metrics = Metrics::new().expect("metrics");
        let state = State::new(&ServerConfig::default(), models, jobs, metrics, Activity::new(), work);
        let ask = async |model: &str| {
            let wanted = Wanted {
                sampling: sampling(None, None, None).expect("defaults"),
                max_new_tokens: Some(1),
                seed: 7,
                replies: 1,
                log_probs: None,
                prompt_log_probs: false,
                stops: stops(None),
            };
            wanted.of(model, vec![Prompt::from(vec![1])], &state).await.expect_err("refused")
        };
        let error = ask("c").await;
        let code = error.body().error.code;
        assert_eq!((error.status(), code), (StatusCode::NOT_FOUND, Some("model_not_found")), "{error:?}");
        // It has made room for the other one, and cannot be loaded again.
        let error = ask("a").await;
        let code = error.body().error.code;
        assert_eq!((error.status(), code), (StatusCode::INTERNAL_SERVER_ERROR, None), "{error:?}");
        let message = error.body().error.message;
        assert!(error.cause().is_some() && message.contains("its weights are gone"), "{error:?}");
    }
}
