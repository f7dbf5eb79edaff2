//! The lines that `albedo generate` reads and writes. The format is in
//! `docs/generate.md`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::output::escaped;
use crate::{
    Completion, Error, ErrorKind, Fault, FinishReason, GenerateRequest, Message, MessageRole, Result,
    Sampling, TokenScores, Usage,
};

const READ: &str = "read a request";

/// What a request that says nothing else is given.
#[derive(Debug, Clone)]
pub(super) struct Defaults {
    pub(super) max_new_tokens: u32,
    pub(super) sampling: Sampling,
    /// Seed of line 1.
    pub(super) seed: u64,
}

impl Defaults {
    /// The request on `line` for a reply to `messages`.
    pub(super) fn request(&self, line: u64, messages: Vec<Message>) -> GenerateRequest {
        GenerateRequest::new(messages, self.max_new_tokens)
            .with_sampling(self.sampling)
            .with_seed(self.seed.wrapping_add(line - 1))
    }
}

/// A request and what came of it.
pub(super) struct Answer {
    pub(super) line: u64,
    pub(super) id: Value,
    pub(super) result: Result<Completion>,
}

/// One line of the input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, rename = "id")]
    _id: Value,
    messages: Option<Vec<LineMessage>>,
    prompt: Option<String>,
    max_new_tokens: Option<u32>,
    sampling: Option<LineSampling>,
    seed: Option<u64>,
    score_reply: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineMessage {
    role: MessageRole,
    content: String,
}

/// Overrides of the command line's sampling, one by one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineSampling {
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
}

/// The id and the request of a line; the id also of most lines that are wrong.
pub(super) fn parse(number: u64, line: &str, defaults: &Defaults) -> (Value, Result<GenerateRequest>) {
    match serde_json::from_str::<Value>(line) {
        Ok(value) => (value["id"].clone(), request(number, value, defaults)),
        Err(error) => (Value::Null, Err(invalid(format!("not JSON: {error}")))),
    }
}

fn request(number: u64, value: Value, defaults: &Defaults) -> Result<GenerateRequest> {
    if !value.is_object() {
        return Err(invalid("not a JSON object"));
    }
    let line: Line = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let inner = invalid(error.into_inner().to_string());
        if path == "." { inner } else { inner.with("key", path) }
    })?;
    let messages = match (line.messages, line.prompt) {
        (Some(messages), None) => {
            messages.into_iter().map(|message| Message::new(message.role, message.content)).collect()
        }
        (None, Some(prompt)) => vec![Message::new(MessageRole::User, prompt)],
        (None, None) => return Err(invalid("there is neither `messages` nor `prompt`")),
        (Some(_), Some(_)) => return Err(invalid("there are both `messages` and `prompt`")),
    };
    match messages.last().map(|message: &Message| message.role) {
        None => return Err(invalid("`messages` is empty")),
        Some(MessageRole::Assistant) => {
            return Err(invalid("the last of `messages` is the assistant's: there is nothing to answer"));
        }
        Some(_) => {}
    }
    let mut request = defaults.request(number, messages);
    request.max_new_tokens = line.max_new_tokens.unwrap_or(request.max_new_tokens);
    request.seed = line.seed.unwrap_or(request.seed);
    request.score_reply = line.score_reply.map(Into::into);
    if let Some(sampling) = line.sampling {
        request.sampling = Sampling {
            temperature: sampling.temperature.unwrap_or(request.sampling.temperature),
            top_p: sampling.top_p.unwrap_or(request.sampling.top_p),
            top_k: sampling.top_k.unwrap_or(request.sampling.top_k),
        };
    }
    request.sampling.check().map_err(|error| invalid(error.message()))?;
    if request.max_new_tokens == 0 {
        return Err(invalid("`max_new_tokens` is 0, it must be at least 1"));
    }
    Ok(request)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, READ, message).with_fault(Fault::Operator)
}

/// One line of the output.
#[derive(Serialize)]
struct Written<'a> {
    line: u64,
    id: &'a Value,
    #[serde(flatten)]
    answer: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Reply {
        text: &'a str,
        finish: FinishReason,
        tokens: &'a [u32],
        usage: Usage,
        #[serde(skip_serializing_if = "Option::is_none")]
        scores: Option<&'a TokenScores>,
    },
    Failure {
        error: Failure,
    },
}

#[derive(Serialize)]
struct Failure {
    kind: ErrorKind,
    message: String,
}

/// The line of the output that answers the request on `line`.
pub(super) fn answer_line(line: u64, id: &Value, result: &Result<Completion>) -> Result<String> {
    let answer = match result {
        Ok(completion) => Content::Reply {
            text: &completion.text,
            finish: completion.finish,
            tokens: &completion.tokens,
            usage: completion.usage,
            scores: completion.reply_scores.as_ref(),
        },
        Err(error) => Content::Failure { error: Failure { kind: error.kind(), message: error.to_string() } },
    };
    let json = serde_json::to_string(&Written { line, id, answer })
        .map_err(|error| Error::bug("write an answer", error.to_string()).with_source(error))?;
    Ok(escaped(json) + "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn defaults() -> Defaults {
        let sampling = Sampling { temperature: 0.5, top_p: 0.9, top_k: 7 };
        Defaults { max_new_tokens: 12, sampling, seed: u64::MAX }
    }

    fn read(line: &Value) -> (Value, Result<GenerateRequest>) {
        parse(2, &line.to_string(), &defaults())
    }

    #[test]
    fn what_a_line_leaves_out_is_the_command_lines() {
        let (id, request) = read(&json!({ "id": ["a", 1], "prompt": "Hello" }));
        let request = request.expect("reads");
        assert_eq!(id, json!(["a", 1]));
        assert_eq!(request, defaults().request(2, vec![Message::new(MessageRole::User, "Hello")]));
        assert_eq!(request.seed, 0, "seeds wrap around");
        let (id, request) = read(&json!({
            "messages": [{ "role": "system", "content": "s" }, { "role": "user", "content": "u" }],
            "max_new_tokens": 3, "seed": 4, "sampling": { "top_p": 0.25 }, "score_reply": "r",
        }));
        let request = request.expect("reads");
        assert_eq!(id, Value::Null);
        assert_eq!(request.messages.len(), 2);
        assert_eq!((request.max_new_tokens, request.seed), (3, 4));
        assert_eq!(request.sampling, Sampling { temperature: 0.5, top_p: 0.25, top_k: 7 });
        assert_eq!(request.score_reply.as_deref(), Some("r"));
    }

    #[test]
    fn mistakes_are_named_and_keep_their_id() {
        let messages = |role| json!([{ "role": role, "content": "c" }]);
        for (line, expected) in [
            (json!({ "id": 7 }), "neither `messages` nor `prompt`"),
            (json!({ "id": 7, "prompt": "a", "messages": messages("user") }), "both `messages` and `prompt`"),
            (json!({ "id": 7, "messages": [] }), "`messages` is empty"),
            (json!({ "id": 7, "messages": messages("assistant") }), "is the assistant's"),
            (json!({ "id": 7, "messages": messages("king") }), "key: messages[0].role"),
            (json!({ "id": 7, "prompt": "a", "max_tokens": 1 }), "unknown field `max_tokens`"),
            (json!({ "id": 7, "prompt": "a", "max_new_tokens": 0 }), "`max_new_tokens` is 0"),
            (json!({ "id": 7, "prompt": "a", "max_new_tokens": -1 }), "key: max_new_tokens"),
            (json!({ "id": 7, "prompt": "a", "sampling": { "min_p": 1 } }), "unknown field `min_p`"),
            (json!({ "id": 7, "prompt": "a", "sampling": { "temperature": -1 } }), "temperature is -1"),
            (json!({ "id": 7, "prompt": 8 }), "key: prompt"),
        ] {
            let (id, request) = read(&line);
            let error = request.expect_err("a mistake");
            assert_eq!((id, error.kind()), (json!(7), ErrorKind::DataInvalid), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
        for (line, expected) in
            [("{\"id\": 7", "not JSON"), ("[1]", "not a JSON object"), ("7", "not a JSON object")]
        {
            let error = parse(1, line, &defaults()).1.expect_err("a mistake");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn an_answer_is_one_line_of_json() {
        let usage = Usage::counted(3, 2);
        let completion = Completion::new("a\nb", FinishReason::Stop, usage)
            .with_tokens(vec![5, 6])
            .with_reply_scores(Some(TokenScores { log_probs: vec![-0.5] }));
        let line = answer_line(2, &json!("x"), &Ok(completion)).expect("writes");
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(
            serde_json::from_str::<Value>(&line).expect("JSON"),
            json!({
                "line": 2, "id": "x", "text": "a\nb", "finish": "stop", "tokens": [5, 6],
                "usage": { "prompt_tokens": 3, "completion_tokens": 2 }, "scores": { "log_probs": [-0.5] },
            })
        );
        let line = answer_line(3, &Value::Null, &Err(invalid("what"))).expect("writes");
        let written: Value = serde_json::from_str(&line).expect("JSON");
        let error = json!({ "kind": "data_invalid", "message": "failed to read a request: what" });
        assert_eq!(written, json!({ "line": 3, "id": null, "error": error }));
    }
}
