//! What is made of an answer as it arrives.
//!
//! The text comes first. What stands beside it (usage, price, indices,
//! log-probabilities) is read as far as it can be; what cannot be read is absent,
//! never zero, and never costs a reply.

use std::collections::BTreeMap;

use albedo_core::{Completion, Error, ErrorKind, FinishReason, Result, TokenLogProb, TokenText, Usage};
use serde_json::{Value, json};

use super::finish::{Ending, ending};
use super::sse::{Event, Events, TooLong};
use super::text::Text;
use super::{GENERATE, Price, lenient};
use crate::http::is_error;

/// Choices that are kept apart; one is asked for.
const MAX_CHOICES: usize = 8;

/// Reads an answer, streamed or whole, whatever its headers call it: an answer
/// whose first character is `{` or `[` is JSON, everything else is events.
#[derive(Debug, Default)]
pub(super) struct Reader {
    form: Form,
    reply: Reply,
    is_done: bool,
}

#[derive(Debug)]
enum Form {
    /// White space so far.
    Unknown(Vec<u8>),
    Json(Vec<u8>),
    Events(Events),
}

impl Default for Form {
    fn default() -> Self {
        Self::Unknown(Vec::new())
    }
}

/// Makes an error of the server's own.
pub(super) type Refused<'a> = &'a dyn Fn(&Value) -> Error;

impl Reader {
    /// Takes in the next bytes; says whether the model has written something in
    /// them.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] for what is no answer; the provider's own error if
    /// that is what it holds.
    pub(super) fn push(&mut self, bytes: &[u8], refused: Refused<'_>) -> Result<bool> {
        match &mut self.form {
            Form::Unknown(before) => {
                before.extend_from_slice(bytes);
                let text = before.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(before);
                let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
                let Some(first) = first.copied() else { return Ok(false) };
                if first == 0xEF && text.len() < 3 {
                    // The beginning of a byte order mark.
                    return Ok(false);
                }
                let bytes = text.to_vec();
                if matches!(first, b'{' | b'[') {
                    self.form = Form::Json(bytes);
                    return Ok(false);
                }
                self.form = Form::Events(Events::default());
                self.push(&bytes, refused)
            }
            Form::Json(body) => {
                body.extend_from_slice(bytes);
                Ok(false)
            }
            Form::Events(events) => {
                let events = events.push(bytes).map_err(too_long)?;
                self.events(events, refused)
            }
        }
    }

    /// The reply's text as far as it has come in pieces.
    pub(super) fn so_far(&self) -> &str {
        self.reply.choices.first_key_value().map_or("", |(_, choice)| choice.text.so_far())
    }

    /// Whether the server has said that nothing follows.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether the reply is over and its usage told: a connection that fails now
    /// takes nothing away.
    pub(super) fn is_complete(&self) -> bool {
        let Counts { prompt, completion, cost } = self.reply.usage;
        self.reply.has_ended() && (cost.is_some() || (prompt.is_some() && completion.is_some()))
    }

    /// The reply, when the answer has ended or [`Reader::is_done`].
    ///
    /// # Errors
    /// As [`Reader::push`]; [`ErrorKind::Protocol`] if there is nothing at all.
    pub(super) fn end(mut self, price: Option<Price>, refused: Refused<'_>) -> Result<Completion> {
        match std::mem::take(&mut self.form) {
            Form::Json(body) => self.json(&body, refused)?,
            Form::Events(mut events) if !self.is_done => {
                let events = events.end().map_err(too_long)?;
                self.events(events.into_iter().filter(is_whole).collect(), refused)?;
            }
            Form::Unknown(_) | Form::Events(_) => {}
        }
        self.reply.read(self.is_done, price)
    }

    /// JSON alone, one value after the other, or with events after it. Pieces of a reply say
    /// themselves where it ends; any other body ends where its value does.
    fn json(&mut self, body: &[u8], refused: Refused<'_>) -> Result<()> {
        let (values, end) = lenient::values(body);
        if values.is_empty() {
            let error = serde_json::from_slice::<Value>(body).err().map(|error| error.to_string());
            return Err(unreadable(&error.unwrap_or_default()));
        }
        for value in &values {
            // Google's errors come in a list.
            let listed = value.as_array().map(Vec::as_slice);
            for value in listed.unwrap_or(std::slice::from_ref(value)) {
                self.reply.take(value, false, refused)?;
            }
        }
        // Of one value alone a `delta` that is null says nothing: servers write it beside a whole message.
        let is_alone = values.len() == 1;
        let is_piece = |value: &Value| {
            let mut choices = value["choices"].as_array().into_iter().flatten();
            choices.any(|choice| choice.get("delta").is_some_and(|delta| !(is_alone && delta.is_null())))
        };
        self.is_done = !values.iter().any(is_piece);
        let mut events = Events::default();
        let mut rest = events.push(&body[end..]).map_err(too_long)?;
        rest.extend(events.end().map_err(too_long)?.into_iter().filter(is_whole));
        self.events(rest, refused).map(|_| ())
    }

    fn events(&mut self, events: Vec<Event>, refused: Refused<'_>) -> Result<bool> {
        let mut wrote = false;
        for Event { is_error, is_ping, data } in events {
            if self.is_done || is_ping {
                continue;
            }
            if matches!(&*data, b"[DONE]" | b"\"[DONE]\"" | b"DONE") {
                self.is_done = true;
                continue;
            }
            match lenient::value(&data) {
                Ok(value) => wrote |= self.reply.take(&value, is_error, refused)?,
                Err(_) if is_error => {
                    let words = Value::String(String::from_utf8_lossy(&data).into_owned());
                    self.reply.take(&words, true, refused)?;
                }
                // Whatever comes after the end costs no reply.
                Err(_) if self.reply.has_ended() => {}
                Err(error) => return Err(unreadable(&error.to_string())),
            }
        }
        Ok(wrote)
    }
}

/// Whether `event`, the last one, is more than what a connection has cut off, which is no garbage.
/// An error may be words.
fn is_whole(event: &Event) -> bool {
    event.is_error || event.data == b"[DONE]" || lenient::value(&event.data).is_ok()
}

/// An answer as it arrives.
#[derive(Debug, Default)]
struct Reply {
    /// By their index: one is asked for, and the first is read.
    choices: BTreeMap<u32, Choice>,
    usage: Counts,
}

#[derive(Debug, Default)]
struct Choice {
    text: Text,
    reasoning: Text,
    /// The last word for its end that means something.
    ending: Option<FinishReason>,
    /// The server has given a word, known or not.
    is_named: bool,
    log_probs: LogProbs,
}

#[derive(Debug, Default)]
enum LogProbs {
    #[default]
    None,
    Read(Vec<TokenLogProb>),
    /// One of them could not be read.
    Unreadable,
}

#[derive(Debug, Default)]
struct Counts {
    prompt: Option<u32>,
    completion: Option<u32>,
    cost: Option<f64>,
}

impl Reply {
    /// Takes in a chunk, or a whole answer; says whether the model has written
    /// something in it.
    fn take(&mut self, chunk: &Value, is_error: bool, refused: Refused<'_>) -> Result<bool> {
        if let Some(error) = if is_error { Some(chunk.clone()) } else { error_in(chunk) } {
            // What goes wrong after the end costs no reply.
            return if self.has_ended() { Ok(false) } else { Err(refused(&error)) };
        }
        if !chunk.is_object() && !chunk.is_null() {
            return if self.has_ended() {
                Ok(false)
            } else {
                Err(unreadable("it is no object of the protocol"))
            };
        }
        for usage in [chunk.get("usage"), chunk.get("x_groq").and_then(|groq| groq.get("usage"))] {
            self.usage.update(usage.unwrap_or(&Value::Null));
        }
        let mut wrote = false;
        let one = chunk.get("choices").filter(|choices| choices.is_object()).map(std::slice::from_ref);
        let several = chunk.get("choices").and_then(Value::as_array).map(Vec::as_slice);
        for choice in one.or(several).unwrap_or_default() {
            self.usage.update(choice.get("usage").unwrap_or(&Value::Null));
            let index = choice.get("index").and_then(lenient::count).unwrap_or(0);
            if self.choices.len() < MAX_CHOICES || self.choices.contains_key(&index) {
                let took = self.choices.entry(index).or_default().take(choice)?;
                // Another choice than the one that is read is no part of the reply.
                wrote |= took && self.choices.keys().next() == Some(&index);
            }
        }
        Ok(wrote)
    }

    /// Whether the reply is over.
    fn has_ended(&self) -> bool {
        self.choices.first_key_value().is_some_and(|(_, choice)| choice.ending.is_some())
    }

    /// The reply, priced by the provider or else by `price`. It is whole if the
    /// server says so, or if the answer `is_whole` and the server says nothing
    /// else.
    fn read(self, is_whole: bool, price: Option<Price>) -> Result<Completion> {
        let choice = self.choices.into_values().next().unwrap_or_default();
        let Choice { text, reasoning, ending, is_named, log_probs } = choice;
        if !is_named && text.is_empty() && reasoning.is_empty() {
            return Err(Error::new(ErrorKind::Protocol, GENERATE, "the server's answer is empty").with_hint(
                "check that `base_url` is that of a server for chat completions, usually up to `/v1`",
            ));
        }
        let unnamed = if is_whole { FinishReason::Stop } else { FinishReason::Unknown };
        let Counts { prompt, completion, cost } = self.usage;
        let price_usd = cost.or_else(|| {
            let Price { prompt_usd, completion_usd } = price?;
            Some((f64::from(prompt?) * prompt_usd + f64::from(completion?) * completion_usd) / 1e6)
        });
        let usage = Usage { prompt_tokens: prompt, completion_tokens: completion, price_usd };
        let reasoning = Some(reasoning.read()).filter(|reasoning| !reasoning.is_empty());
        let log_probs = match log_probs {
            LogProbs::Read(tokens) => Some(tokens),
            LogProbs::None | LogProbs::Unreadable => None,
        };
        Ok(Completion::new(text.read(), ending.unwrap_or(unnamed), usage)
            .with_reasoning(reasoning)
            .with_log_probs(log_probs))
    }
}

/// The error that `chunk` is, or that a choice in it holds.
fn error_in(chunk: &Value) -> Option<Value> {
    if is_error(chunk) {
        return Some(chunk.clone());
    }
    let choice = chunk.get("choices").and_then(|choices| choices.get(0));
    let error = choice.and_then(|choice| choice.get("error"))?;
    (error.is_object() || error.is_string()).then(|| json!({ "error": error }))
}

impl Choice {
    fn take(&mut self, choice: &Value) -> Result<bool> {
        let word = ["finish_reason", "finishReason", "stop_reason"]
            .iter()
            .filter_map(|key| choice.get(key)?.as_str())
            .find(|word| !word.trim().is_empty());
        let (delta, message) = (choice.get("delta"), choice.get("message"));
        let (mut pieces, wholes) = (Parts::of(delta), Parts::of(message));
        if pieces.text.is_empty()
            && let Some(Value::String(text)) = choice.get("text")
        {
            // The older protocol for completions.
            pieces.text.clone_from(text);
        }
        let mut wrote = self.text.piece(&pieces.text);
        wrote |= self.text.whole(&wholes.text, &pieces.text, word.is_some());
        wrote |= self.reasoning.piece(&pieces.reasoning);
        wrote |= self.reasoning.whole(&wholes.reasoning, &pieces.reasoning, word.is_some());
        self.log_probs.take(choice.get("logprobs").and_then(|found| found.get("content")));
        let Some(word) = word else { return Ok(wrote) };
        self.is_named = true;
        match ending(word) {
            Some(Ending::Finished(reason)) => self.ending = Some(reason),
            Some(Ending::BrokenOff) => {
                let message = "the provider broke the reply off";
                let word: String = word.chars().filter(|c| !c.is_control()).take(40).collect();
                return Err(Error::new(ErrorKind::Unavailable, GENERATE, message).with("reason", word));
            }
            None => {}
        }
        Ok(wrote)
    }
}

/// Text and reasoning of a delta or a message.
#[derive(Default)]
struct Parts {
    text: String,
    reasoning: String,
}

impl Parts {
    fn of(message: Option<&Value>) -> Self {
        let mut parts = Self::default();
        let Some(message) = message else { return parts };
        match message.get("content") {
            Some(Value::Array(several)) => {
                for part in several {
                    match part.get("thinking") {
                        Some(thinking) => parts.reasoning.push_str(&lenient::text(thinking)),
                        None => parts.text.push_str(&lenient::text(part)),
                    }
                }
            }
            Some(content) => parts.text.push_str(&lenient::text(content)),
            None => {}
        }
        if parts.text.is_empty() {
            // The model's own words, when it declines.
            parts.text.push_str(&message.get("refusal").map(lenient::text).unwrap_or_default());
        }
        // Providers name the field either way; some send both alike.
        for key in ["reasoning_content", "reasoning"] {
            if parts.reasoning.is_empty() {
                parts.reasoning.push_str(&message.get(key).map(lenient::text).unwrap_or_default());
            }
        }
        parts
    }
}

impl LogProbs {
    fn take(&mut self, tokens: Option<&Value>) {
        let Some(Value::Array(tokens)) = tokens else { return };
        let read: Option<Vec<_>> = tokens.iter().map(token).collect();
        *self = match (std::mem::take(self), read) {
            (Self::Unreadable, _) | (_, None) => Self::Unreadable,
            (Self::None, Some(tokens)) => Self::Read(tokens),
            (Self::Read(mut before), Some(tokens)) => {
                before.extend(tokens);
                Self::Read(before)
            }
        };
    }
}

/// A token written, with the likeliest in its place.
fn token(value: &Value) -> Option<TokenLogProb> {
    let read = |value: &Value| {
        let log_prob = lenient::number(value.get("logprob")?)? as f32;
        let bytes = value.get("bytes").and_then(|bytes| serde_json::from_value(bytes.clone()).ok());
        let bytes: Vec<u8> = bytes.unwrap_or(value.get("token")?.as_str()?.as_bytes().to_vec());
        Some((TokenText::new(None, bytes), log_prob)).filter(|_| log_prob.is_finite())
    };
    let (token, log_prob) = read(value)?;
    let likeliest =
        value.get("top_logprobs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let likeliest = likeliest.iter().map(read).collect::<Option<_>>()?;
    Some(TokenLogProb { token, log_prob, likeliest })
}

impl Counts {
    /// Takes over what `usage` tells; what it leaves out stays.
    fn update(&mut self, usage: &Value) {
        let count = |keys: [&str; 2]| keys.iter().find_map(|key| lenient::count(usage.get(key)?));
        self.prompt = count(["prompt_tokens", "input_tokens"]).or(self.prompt);
        self.completion = count(["completion_tokens", "output_tokens"]).or(self.completion);
        let cost = ["cost", "total_cost", "estimated_cost"].iter().find_map(|key| match usage.get(key)? {
            // Perplexity's, by what it is for.
            Value::Object(costs) => lenient::number(costs.get("total_cost").or_else(|| costs.get("total"))?),
            cost => lenient::number(cost),
        });
        self.cost = cost.filter(|cost| *cost >= 0.0).or(self.cost);
    }
}

fn too_long(_: TooLong) -> Error {
    unreadable("an event of it has no end")
}

fn unreadable(why: &str) -> Error {
    Error::new(ErrorKind::Protocol, GENERATE, format!("the server's answer is unreadable: {why}"))
}
