//! `POST /v1/completions`: raw prompts, and how likely they are.

use axum::Json;
use axum::extract::State as From;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::log_probs::CompletionLogProbs;
use super::reply::{End, Piece, Replies};
use super::request::{
    MOST_LIKELIEST, Stop, StreamOptions, Wanted, sampling, seed, stops, stream_options, unsupported, within,
};
use super::sse::{self, Chunks};
use super::usage::{Head, Usage};
use crate::server::body::JsonBody;
use crate::server::error::ApiError;
use crate::server::state::State;
use crate::{Prompt, TokenText};

/// Most tokens of a completion that says nothing of them. Source: OpenAI's default.
const DEFAULT_TOKENS: u32 = 16;

/// A prompt to go on from, without a chat template.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompletionRequest {
    /// The model's name, as `/v1/models` lists it.
    model: String,
    /// A text, a list of texts, a list of token ids, or a list of such lists.
    #[schema(value_type = Value)]
    prompt: Prompts,
    /// Whether the text is sent as it is written, as server-sent events.
    stream: Option<bool>,
    /// What to add to a streamed text.
    stream_options: Option<StreamOptions>,
    /// Most tokens; 16 if absent. May be 0 with `echo`.
    max_tokens: Option<u32>,
    /// 0 (greedy) to 2; 1 if absent.
    temperature: Option<f64>,
    /// Keep the likeliest tokens whose probabilities reach this sum; 1 if absent.
    top_p: Option<f64>,
    /// Keep this many of the likeliest tokens; 0, all, if absent. Not OpenAI's.
    top_k: Option<u32>,
    /// Texts per prompt; 1 if absent.
    n: Option<u32>,
    /// Strings that end a text, at most 16; the text ends before the first.
    #[schema(value_type = Option<Value>)]
    stop: Option<Stop>,
    /// Same seed, same text; random if absent. Text `i` of several has the seed plus `i`.
    seed: Option<i64>,
    /// Return the log-probability of each token and of this many of the likeliest at its
    /// place, 0 to 20.
    logprobs: Option<u32>,
    /// Whether the answer begins with the prompt; with `logprobs` it has those of the
    /// prompt's tokens, too.
    echo: Option<bool>,
    /// Not used.
    #[expect(dead_code, reason = "one queue serves all")]
    user: Option<String>,
    /// Only as many as `n`.
    best_of: Option<Value>,
    /// Only null and the empty text.
    suffix: Option<Value>,
    /// Only 0.
    frequency_penalty: Option<Value>,
    /// Only 0.
    presence_penalty: Option<Value>,
    /// Only `{}`.
    logit_bias: Option<Value>,
}

/// One prompt or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
struct Prompts(Vec<Prompt>);

impl TryFrom<Value> for Prompts {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        const FORMS: &str =
            "it has to be a text, a list of texts, a list of token ids, or a list of such lists";
        let tokens = |ids: &[Value]| {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
            ids.filter(|ids| !ids.is_empty()).map(Prompt::from)
        };
        let one = |prompt: &Value| match prompt {
            Value::String(text) if !text.is_empty() => Some(Prompt::from(text.as_str())),
            Value::Array(ids) => tokens(ids),
            _ => None,
        };
        let prompts = match &value {
            Value::Array(ids) if ids.first().is_some_and(Value::is_number) => {
                tokens(ids).map(|ids| vec![ids])
            }
            Value::Array(prompts) if !prompts.is_empty() => prompts.iter().map(one).collect(),
            prompt => one(prompt).map(|prompt| vec![prompt]),
        };
        prompts.map(Self).ok_or_else(|| format!("{FORMS}; none may be empty"))
    }
}

impl CompletionRequest {
    fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    fn is_echoed(&self) -> bool {
        self.echo.unwrap_or(false)
    }

    fn check(&self) -> Result<(), ApiError> {
        for (name, value, neutral) in [
            ("best_of", &self.best_of, vec![json!(self.n.unwrap_or(1))]),
            ("suffix", &self.suffix, vec![json!("")]),
            ("frequency_penalty", &self.frequency_penalty, vec![json!(0)]),
            ("presence_penalty", &self.presence_penalty, vec![json!(0)]),
            ("logit_bias", &self.logit_bias, vec![json!({})]),
        ] {
            unsupported(name, value.as_ref(), &neutral)?;
        }
        stream_options(self.is_streamed(), self.stream_options)
    }

    fn wanted(&self, most_replies: u32) -> Result<Wanted, ApiError> {
        let likeliest =
            self.logprobs.map(|count| within("logprobs", count, 0, MOST_LIKELIEST.into())).transpose()?;
        let has_tokens = self.prompt.0.iter().any(|prompt| matches!(prompt, Prompt::Tokens(_)));
        Ok(Wanted {
            sampling: sampling(self.temperature, self.top_p, self.top_k)?,
            max_new_tokens: Some(self.most_tokens()?),
            seed: seed(self.seed)?,
            replies: within("n", self.n.unwrap_or(1), 1, most_replies)?,
            log_probs: likeliest.map(|count| count as u8),
            // The text of a prompt of tokens is read off them.
            prompt_log_probs: self.is_echoed()
                && (likeliest.is_some() || has_tokens || self.max_tokens == Some(0)),
            stops: stops(self.stop.as_ref()),
        })
    }

    fn most_tokens(&self) -> Result<u32, ApiError> {
        match self.max_tokens.unwrap_or(DEFAULT_TOKENS) {
            0 if !self.is_echoed() => {
                Err(ApiError::field("max_tokens", "Invalid 'max_tokens': 0 writes nothing; it needs 'echo'."))
            }
            most => Ok(most),
        }
    }
}

/// Texts that go on from prompts.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct CompletionResponse {
    id: String,
    /// `text_completion`.
    object: &'static str,
    /// Seconds since the Unix epoch.
    created: u64,
    model: String,
    /// Prompt by prompt, `n` of each; of a streamed text one, and none in the event that
    /// has the usage.
    choices: Vec<CompletionChoice>,
    /// Of a streamed text in the last event, if `stream_options.include_usage` asks for
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// Names the engine, its build, its device and the model.
    system_fingerprint: String,
}

/// One text, or its next piece.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogProbs>,
    /// `stop` or `length`; null in the pieces before the last.
    finish_reason: Option<&'static str>,
}

/// Goes on from prompts as they are.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "replies",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The texts; with `stream`, events of the same form, and `[DONE]`", content(
            (CompletionResponse = "application/json"),
            (CompletionResponse = "text/event-stream"),
        )),
        ApiError,
    )
)]
pub(super) async fn create(
    From(state): From<State>,
    JsonBody(request): JsonBody<CompletionRequest>,
) -> Result<Response, ApiError> {
    request.check()?;
    let wanted = request.wanted(state.limits().choices)?;
    let (n, has_log_probs) = (wanted.replies as usize, wanted.log_probs.is_some());
    let prompts = request.prompt.0.clone();
    let echoes = prompts.iter().flat_map(|prompt| {
        let echo = match prompt {
            _ if !request.is_echoed() => Echo::None,
            Prompt::Text(text) => Echo::Text(text.to_string()),
            _ => Echo::Tokens,
        };
        std::iter::repeat_n(echo, n)
    });
    let texts: Vec<_> = echoes.map(|echo| Growing { echo, ..Growing::default() }).collect();
    let (key, asked) = wanted.of(&request.model, prompts, &state).await?;
    let form = Form { head: Head::new("cmpl", &request.model, key, &state)?, has_log_probs, n, texts };
    let pieces = Replies::begin(asked, &state);
    if request.is_streamed() {
        let usage = request.stream_options.is_some_and(|options| options.include_usage);
        let replies = form.texts.len();
        return sse::respond(pieces, form, replies, usage).await;
    }
    form.whole(pieces).await.map(|completion| Json(completion).into_response())
}

/// What every answer to one request has, and how far its texts are.
#[derive(Debug)]
struct Form {
    head: Head,
    has_log_probs: bool,
    /// Texts per prompt.
    n: usize,
    texts: Vec<Growing>,
}

/// What a text begins with.
#[derive(Debug, Clone, Default)]
enum Echo {
    /// Nothing, or nothing any more.
    #[default]
    None,
    /// The prompt.
    Text(String),
    /// The prompt, which was given in tokens.
    Tokens,
}

/// How far a text is.
#[derive(Debug, Clone, Default)]
struct Growing {
    echo: Echo,
    /// Characters of the prompt that it begins with.
    echoed: u64,
}

impl Growing {
    /// The text and log-probabilities of a piece.
    fn add(&mut self, piece: &Piece) -> (String, CompletionLogProbs) {
        let mut log_probs = CompletionLogProbs::default();
        let mut text = match (piece, std::mem::take(&mut self.echo)) {
            (_, Echo::Text(prompt)) => prompt,
            (Piece::Prompt { first, rest }, Echo::Tokens) => {
                joined(std::iter::once(first).chain(rest.iter().map(|one| &one.token)))
            }
            _ => String::new(),
        };
        self.echoed += text.chars().count() as u64;
        match piece {
            Piece::Prompt { first, rest } => log_probs.prompt(first, rest),
            Piece::Text { text: more, log_probs: tokens, starts } => {
                log_probs.extend(tokens.iter().zip(starts.iter().map(|start| self.echoed + start)));
                text += more;
            }
            Piece::End(_) | Piece::Failed(_) => {}
        }
        (text, log_probs)
    }
}

/// The text of consecutive tokens, of which one character may have several.
fn joined<'a>(tokens: impl Iterator<Item = &'a TokenText>) -> String {
    let bytes: Vec<u8> = tokens.flat_map(|token| token.as_bytes().iter().copied()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Form {
    async fn whole(mut self, mut pieces: Replies) -> Result<CompletionResponse, ApiError> {
        let choice = |index| CompletionChoice {
            index,
            text: String::new(),
            logprobs: self.has_log_probs.then(CompletionLogProbs::default),
            finish_reason: None,
        };
        let mut choices: Vec<_> = (0..self.texts.len()).map(choice).collect();
        let mut ends: Vec<Option<End>> = vec![None; choices.len()];
        while let Some((index, piece)) = pieces.next().await {
            if let Piece::Failed(error) = piece {
                return Err(error);
            }
            let (text, log_probs) = self.texts[index].add(&piece);
            let choice = &mut choices[index];
            choice.text += &text;
            if let Some(all) = &mut choice.logprobs {
                all.append(log_probs);
            }
            if let Piece::End(end) = piece {
                choice.finish_reason = Some(end.finish);
                ends[index] = Some(end);
            }
        }
        let ends: Vec<_> = ends.into_iter().flatten().collect();
        let usage = Usage::of(&ends, self.n);
        Ok(self.response(choices, Some(usage)))
    }

    fn response(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> CompletionResponse {
        let Head { id, created, model, fingerprint } = self.head.clone();
        CompletionResponse {
            id,
            object: "text_completion",
            created,
            model,
            choices,
            usage,
            system_fingerprint: fingerprint,
        }
    }
}

impl Chunks for Form {
    type Chunk = CompletionResponse;

    fn first(&mut self, _: usize) -> Option<CompletionResponse> {
        None
    }

    fn piece(&mut self, index: usize, piece: Piece) -> Option<CompletionResponse> {
        let (text, log_probs) = self.texts.get_mut(index)?.add(&piece);
        let logprobs = self.has_log_probs.then_some(log_probs);
        let finish_reason = match piece {
            Piece::End(end) => Some(end.finish),
            _ => None,
        };
        Some(self.response(vec![CompletionChoice { index, text, logprobs, finish_reason }], None))
    }

    fn usage(&mut self, ends: &[End]) -> CompletionResponse {
        let usage = Usage::of(ends, self.n);
        self.response(Vec::new(), Some(usage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenLogProb;
    use crate::server::body::json;

    fn read(fields: &Value) -> Result<(Vec<Prompt>, Wanted), ApiError> {
        let mut body = json!({ "model": "king", "prompt": "The sky is" });
        for (name, value) in fields.as_object().expect("fields") {
            body[name] = value.clone();
        }
        let request: CompletionRequest = json(body.to_string().as_bytes())?;
        request.check()?;
        Ok((request.prompt.0.clone(), request.wanted(8)?))
    }

    #[test]
    fn a_prompt_has_four_forms() {
        let prompts = |prompt: Value| read(&json!({ "prompt": prompt })).expect("reads").0;
        assert_eq!(prompts(json!("a")), [Prompt::from("a")]);
        assert_eq!(prompts(json!(["a", "b"])), [Prompt::from("a"), Prompt::from("b")]);
        assert_eq!(prompts(json!([1, 2])), [Prompt::from(vec![1, 2])]);
        assert_eq!(prompts(json!([[1], [2, 3]])), [Prompt::from(vec![1]), Prompt::from(vec![2, 3])]);
        for wrong in [
            json!(""),
            json!([]),
            json!([""]),
            json!([[]]),
            json!([-1]),
            json!([1.5]),
            json!([1, "a"]),
            json!(7),
            json!(null),
            json!([4_294_967_296_u64]),
        ] {
            let error = read(&json!({ "prompt": wrong })).expect_err("refused");
            assert_eq!(error.body().error.param.as_deref(), Some("prompt"), "{wrong}");
        }
    }

    #[test]
    fn what_lm_evaluation_harness_asks_is_read() {
        let (_, wanted) = read(&json!({
            "prompt": [[1, 2, 3]], "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234,
        }))
        .expect("reads");
        assert_eq!(
            (wanted.max_new_tokens, wanted.log_probs, wanted.prompt_log_probs),
            (Some(1), Some(1), true)
        );
        let (_, wanted) = read(&json!({ "stop": ["\n\n", "Q:"], "temperature": 0 })).expect("reads");
        assert_eq!((wanted.max_new_tokens, wanted.prompt_log_probs), (Some(16), false));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (fields, param) in [
            (json!({ "messages": [] }), "messages"),
            (json!({ "max_tokens": 0 }), "max_tokens"),
            (json!({ "best_of": 3 }), "best_of"),
            (json!({ "suffix": "x" }), "suffix"),
            (json!({ "logprobs": 21 }), "logprobs"),
            (json!({ "logprobs": true }), "logprobs"),
            (json!({ "n": 9 }), "n"),
        ] {
            let error = read(&fields).expect_err(param);
            assert_eq!(error.body().error.param.as_deref(), Some(param), "{fields}");
        }
        read(&json!({ "max_tokens": 0, "echo": true, "best_of": 1, "suffix": "" })).expect("reads");
    }

    #[test]
    fn an_echo_comes_once_and_offsets_are_those_of_the_whole_text() {
        let token = |text: &str| TokenText::new(Some(1), text.as_bytes().to_vec());
        let log_prob =
            |text: &str| TokenLogProb { token: token(text), log_prob: -1.0, likeliest: Vec::new() };
        let piece = |text: &str, start: u64| Piece::Text {
            text: text.into(),
            log_probs: vec![log_prob(text)],
            starts: vec![start],
        };
        let end = Piece::End(End { finish: "stop", prompt_tokens: 2, completion_tokens: 1 });

        // Tokens with log-probabilities.
        let mut growing = Growing { echo: Echo::Tokens, echoed: 0 };
        let prompt = Piece::Prompt { first: token("The"), rest: vec![log_prob(" sky")] };
        let (text, log_probs) = growing.add(&prompt);
        assert_eq!((text.as_str(), log_probs.text_offset), ("The sky", vec![0, 3]));
        let (text, log_probs) = growing.add(&piece(" is", 0));
        assert_eq!((text.as_str(), log_probs.text_offset), (" is", vec![7]));
        assert_eq!(growing.add(&end).0, "");

        // A character of three tokens, and text that came before its tokens.
        let part = |bytes: &[u8; 1]| TokenText::new(Some(1), bytes.to_vec());
        let rest = [b"\x82", b"\xac", b"5"].map(|bytes| TokenLogProb { token: part(bytes), ..log_prob("") });
        let mut growing = Growing { echo: Echo::Tokens, echoed: 0 };
        let (text, log_probs) = growing.add(&Piece::Prompt { first: part(b"\xe2"), rest: rest.into() });
        assert_eq!((text.as_str(), log_probs.text_offset), ("€5", vec![0, 0, 0, 1]));
        let held = [log_prob("a E"), log_prob("N")];
        for (text, held, starts, offsets) in
            [("a ", vec![], vec![], vec![]), ("EN", Vec::from(held), vec![0, 3], vec![2, 5])]
        {
            let piece = Piece::Text { text: text.into(), log_probs: held, starts };
            assert_eq!(growing.add(&piece).1.text_offset, offsets);
        }

        // A text without them.
        let mut growing = Growing { echo: Echo::Text("The sky".into()), echoed: 0 };
        assert_eq!(
            (growing.add(&piece(" is", 0)).0, growing.add(&piece(" blue", 3)).0),
            ("The sky is".into(), " blue".into())
        );
        // Nothing was written.
        let mut growing = Growing { echo: Echo::Text("The sky".into()), echoed: 0 };
        assert_eq!((growing.add(&end).0, growing.add(&end).0), ("The sky".into(), String::new()));
    }
}
