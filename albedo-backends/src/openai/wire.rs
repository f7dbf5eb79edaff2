//! The chat completions protocol: what is asked, and what is made of the answer.

use albedo_core::{
    Completion, Error, ErrorKind, FinishReason, GenerateRequest, ResponseFormat, Result, TokenLogProb, Usage,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{OpenAiConfig, Price};

/// The body that asks for `request` of `model`.
pub(super) fn body(config: &OpenAiConfig, model: &str, request: &GenerateRequest) -> Value {
    let GenerateRequest { messages, sampling, max_new_tokens, seed, response, log_probs, .. } = request;
    let messages: Vec<_> = (messages.iter())
        .map(|message| json!({ "role": message.role.as_str(), "content": message.content }))
        .collect();
    let mut body = json!({
        "model": model,
        "messages": messages,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        // Servers differ in how long a seed they take; all take 31 bits.
        "seed": seed & 0x7fff_ffff,
        "stream": config.stream,
    });
    body[&config.max_tokens_key] = json!(max_new_tokens);
    if config.stream {
        body["stream_options"] = json!({ "include_usage": true });
    }
    if sampling.top_k > 0 {
        body["top_k"] = json!(sampling.top_k);
    }
    if let Some(likeliest) = log_probs {
        body["logprobs"] = json!(true);
        body["top_logprobs"] = json!(likeliest);
    }
    match response {
        ResponseFormat::Text => {}
        ResponseFormat::Json => body["response_format"] = json!({ "type": "json_object" }),
        ResponseFormat::Schema { name, schema } => {
            body["response_format"] = json!({
                "type": "json_schema",
                "json_schema": { "name": name, "strict": true, "schema": schema },
            });
        }
    }
    for (key, value) in &config.extra {
        body[key] = value.clone();
    }
    body
}

/// One chunk of a stream, or the whole of an answer that is not streamed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    index: u32,
    #[serde(alias = "message")]
    delta: Option<Delta>,
    finish_reason: Option<String>,
    logprobs: Option<LogProbs>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delta {
    content: Option<Content>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Part {
    text: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogProbs {
    content: Option<Vec<WireToken>>,
}

#[derive(Debug, Deserialize)]
struct WireToken {
    token: String,
    logprob: f32,
    top_logprobs: Option<Vec<Likely>>,
}

#[derive(Debug, Deserialize)]
struct Likely {
    token: String,
    logprob: f32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: u32,
    completion_tokens: u32,
    cost: Option<f64>,
}

/// An answer as it arrives.
#[derive(Debug, Default)]
pub(super) struct Reply {
    text: String,
    reasoning: String,
    finish: Option<FinishReason>,
    usage: Option<WireUsage>,
    log_probs: Option<Vec<TokenLogProb>>,
}

impl Reply {
    /// Takes in a chunk, or a whole answer; says whether the model has written
    /// something in it.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] if it is no JSON of the protocol; the provider's
    /// own error if that is what it holds.
    pub(super) fn take(&mut self, data: &[u8], refused: impl Fn(&Value) -> Error) -> Result<bool> {
        let chunk: Chunk = serde_json::from_slice(data).map_err(|error| {
            Error::new(
                ErrorKind::Protocol,
                super::GENERATE,
                format!("the server's answer is unreadable: {error}"),
            )
        })?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(refused(&error));
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage);
        }
        let mut wrote = false;
        // Only one choice is asked for.
        for choice in chunk.choices.into_iter().flatten().filter(|choice| choice.index == 0) {
            let Choice { delta, finish_reason, logprobs, .. } = choice;
            let before = (self.text.len(), self.reasoning.len());
            if let Some(Delta { content, reasoning_content, reasoning }) = delta {
                match content {
                    Some(Content::Text(text)) => self.text.push_str(&text),
                    Some(Content::Parts(parts)) => {
                        self.text.extend(parts.iter().map(|part| part.text.as_str()));
                    }
                    None => {}
                }
                // Providers name the field either way; some send both alike.
                self.reasoning.push_str(&reasoning_content.or(reasoning).unwrap_or_default());
            }
            wrote |= before != (self.text.len(), self.reasoning.len());
            if let Some(tokens) = logprobs.and_then(|logprobs| logprobs.content) {
                let tokens = tokens.into_iter().map(TokenLogProb::from);
                self.log_probs.get_or_insert_default().extend(tokens);
            }
            if let Some(reason) = finish_reason.filter(|_| self.finish.is_none()) {
                self.finish = Some(match reason.as_str() {
                    "stop" | "eos" | "end_turn" | "stop_sequence" => FinishReason::Stop,
                    "length" | "max_tokens" => FinishReason::Length,
                    "error" => {
                        return Err(Error::new(
                            ErrorKind::Unavailable,
                            super::GENERATE,
                            "the provider broke the reply off with an error",
                        ));
                    }
                    _ => FinishReason::Unknown,
                });
            }
        }
        Ok(wrote)
    }

    /// The reply, priced by the provider or else by `price`. Without a finish
    /// reason it may be cut, and says so.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] if there is nothing at all.
    pub(super) fn finish(self, price: Option<Price>) -> Result<Completion> {
        if self.finish.is_none() && self.text.is_empty() && self.reasoning.is_empty() {
            return Err(Error::new(ErrorKind::Protocol, super::GENERATE, "the server's answer is empty"));
        }
        let price_usd = self.usage.as_ref().and_then(|usage| {
            usage.cost.or_else(|| {
                let Price { prompt_usd, completion_usd } = price?;
                let cost = f64::from(usage.prompt_tokens) * prompt_usd
                    + f64::from(usage.completion_tokens) * completion_usd;
                Some(cost / 1e6)
            })
        });
        let usage = self.usage.unwrap_or_default();
        Ok(Completion::new(
            self.text,
            self.finish.unwrap_or(FinishReason::Unknown),
            Usage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                price_usd,
            },
        )
        .with_reasoning((!self.reasoning.is_empty()).then_some(self.reasoning))
        .with_log_probs(self.log_probs))
    }
}

impl From<WireToken> for TokenLogProb {
    fn from(WireToken { token, logprob, top_logprobs }: WireToken) -> Self {
        let likeliest =
            top_logprobs.into_iter().flatten().map(|Likely { token, logprob }| (token, logprob)).collect();
        Self { text: token, log_prob: logprob, likeliest }
    }
}

/// The models of `GET /models`: their names, and the longest context of
/// `model` if the server reports it.
///
/// # Errors
/// [`ErrorKind::Protocol`] if it is no such list.
pub(super) fn models(data: &[u8], model: &str) -> Result<(Vec<String>, Option<u32>)> {
    #[derive(Deserialize)]
    struct Listing {
        data: Vec<Map<String, Value>>,
    }
    let Listing { data } = serde_json::from_slice(data).map_err(|error| {
        Error::new(
            ErrorKind::Protocol,
            super::LOAD,
            format!("the server's list of models is unreadable: {error}"),
        )
        .with_hint("check that `base_url` is that of a chat server, usually up to `/v1`")
    })?;
    let id = |entry: &Map<String, Value>| entry.get("id").and_then(Value::as_str).map(str::to_owned);
    // OpenRouter and Chutes, vLLM, llama.cpp.
    let context = |entry: &Map<String, Value>| {
        let length = (entry.get("context_length").or_else(|| entry.get("max_model_len")))
            .or_else(|| entry.get("meta")?.get("n_ctx_train"))?;
        u32::try_from(length.as_u64()?).ok().filter(|&length| length > 0)
    };
    let served = data.iter().find(|entry| id(entry).as_deref() == Some(model));
    Ok((data.iter().filter_map(id).collect(), served.and_then(context)))
}
