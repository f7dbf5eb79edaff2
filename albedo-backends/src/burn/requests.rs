//! Requests on their way to a device thread: what both engines do with them
//! before and after the device's part.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use albedo_core::{
    CallContext, CallSignal, Completion, Error, ErrorKind, FinishReason, LogitsReader, ResponseFormat,
    Result, Sampling, StreamPart, TokenLogProb, TokenScores, Usage,
};
use tokio::sync::mpsc;

use super::replicas::Ticket;
use super::sample::LogProbs;
use super::turns::Turn;
use crate::text::{ChatText, Growing};

const OPERATION: &str = "generate a reply";

/// One prompt and what to do with it.
#[derive(Debug)]
pub(in crate::burn) struct Request {
    pub(in crate::burn) prompt: albedo_core::Prompt,
    /// Read this as the reply, and score it.
    pub(in crate::burn) given: Option<Given>,
    /// Write a reply.
    pub(in crate::burn) write: Option<Write>,
    /// What the reply has to be; only text can be written.
    pub(in crate::burn) response: ResponseFormat,
    /// Return how likely the prompt's tokens were, and this many of the likeliest at each
    /// place.
    pub(in crate::burn) prompt_log_probs: Option<u8>,
    /// Where the reply is shown as it grows: it has room for all parts, so that showing
    /// never waits.
    pub(in crate::burn) parts: Option<mpsc::Sender<StreamPart>>,
}

impl Request {
    /// A request that reads `prompt`, and does nothing with it.
    pub(in crate::burn) fn new(prompt: albedo_core::Prompt) -> Self {
        Self {
            prompt,
            given: None,
            write: None,
            response: ResponseFormat::Text,
            prompt_log_probs: None,
            parts: None,
        }
    }
}

/// A reply that is read instead of written.
#[derive(Debug)]
pub(in crate::burn) enum Given {
    /// Its text, which the end of a turn follows.
    Text(Arc<str>),
    /// Its tokens, and who is shown their logits.
    Tokens(Arc<[u32]>, Arc<dyn LogitsReader>),
}

/// How to write a reply.
#[derive(Debug, Clone, Copy)]
pub(in crate::burn) struct Write {
    pub(in crate::burn) sampling: Sampling,
    pub(in crate::burn) max_new_tokens: u32,
    pub(in crate::burn) seed: u64,
    /// Return how likely each token was, and this many of the likeliest at its place.
    pub(in crate::burn) log_probs: Option<u8>,
}

/// The requests of one call, and where their answers go: `answers` has room
/// for all of them, so that answering never waits.
#[derive(Debug)]
pub(in crate::burn) struct Call {
    pub(in crate::burn) requests: Vec<Request>,
    /// The number of the first request among those of its caller.
    pub(in crate::burn) first: usize,
    pub(in crate::burn) cx: CallContext,
    pub(in crate::burn) answers: mpsc::Sender<(usize, Result<Completion>)>,
    /// Of the one request of a call to one of several devices, its place there.
    pub(in crate::burn) place: Option<Ticket>,
}

impl Call {
    /// A call of `requests`.
    pub(super) fn new(
        requests: Vec<Request>,
        cx: CallContext,
        answers: mpsc::Sender<(usize, Result<Completion>)>,
    ) -> Self {
        Self { requests, first: 0, cx, answers, place: None }
    }

    /// A call that only wakes.
    pub(super) fn nothing() -> Self {
        Self::new(Vec::new(), CallContext::new(), mpsc::channel(1).0)
    }
}

/// Where the calls of a session come in, and when its device is to be left.
#[derive(Debug)]
pub(super) struct Inbox {
    calls: mpsc::Receiver<Call>,
    /// Came in while the device was elsewhere.
    first: Option<Call>,
    turn: Option<Turn>,
}

impl Inbox {
    /// The calls of a session, which shares its device in turns or not at all.
    pub(super) fn new(calls: mpsc::Receiver<Call>, turn: Option<Turn>) -> Self {
        Self { calls, first: None, turn }
    }

    /// The session's place among those of its device.
    pub(super) fn turn(&self) -> Option<&Turn> {
        self.turn.as_ref()
    }

    /// Lets `waiting` grow to `most` requests; a device that is `idle` sleeps until
    /// there is one. `false` if the device is to be left: the session is dropped, or
    /// another one waits for its turn.
    pub(super) fn collect(&mut self, idle: bool, waiting: &mut VecDeque<Waiting>, most: usize) -> bool {
        if let Some(call) = self.first.take() {
            enqueue(call, waiting);
        }
        while idle && waiting.is_empty() {
            if self.is_wanted() {
                return false;
            }
            match self.calls.blocking_recv() {
                Some(call) => enqueue(call, waiting),
                None => return false,
            }
        }
        // Calls beyond the next batch stay in their bounded channel.
        while waiting.len() < most && !self.is_wanted() {
            match self.calls.try_recv() {
                Ok(call) => enqueue(call, waiting),
                Err(_) => break,
            }
        }
        true
    }

    /// Sleeps until there is a request; `false` if the session is dropped.
    pub(super) fn sleep(&mut self) -> bool {
        while self.first.as_ref().is_none_or(|call| call.requests.is_empty()) {
            match self.calls.blocking_recv() {
                Some(call) => self.first = Some(call),
                None => return false,
            }
        }
        true
    }

    /// Answers what woke the session with `error`.
    pub(super) fn refuse(&mut self, error: &Error) {
        if let Some(call) = self.first.take() {
            for index in 0..call.requests.len() {
                // Fails only if the caller has gone.
                let _ = call.answers.try_send((call.first + index, Err(error.clone())));
            }
        }
    }

    fn is_wanted(&self) -> bool {
        self.turn.as_ref().is_some_and(Turn::is_wanted)
    }
}

/// A request that waits for a place in the batch.
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) request: Request,
}

/// Which request of which call, and whether somebody still waits for it.
pub(super) struct Origin {
    index: usize,
    cx: CallContext,
    answers: mpsc::Sender<(usize, Result<Completion>)>,
    parts: Option<mpsc::Sender<StreamPart>>,
    /// Held until the request is done with.
    _place: Option<Ticket>,
}

impl Origin {
    /// Answers the request.
    pub(super) fn answer(&self, result: Result<Completion>) {
        // Fails only if the caller has gone.
        let _ = self.answers.try_send((self.index, result));
    }

    /// Answers a request that writes nothing.
    pub(super) fn answer_read(&self, prompt_tokens: usize, scores: Option<TokenScores>) {
        self.answer(Ok(Completion::new(String::new(), FinishReason::Length, usage(prompt_tokens, 0))
            .with_reply_scores(scores)));
    }

    /// Shows a part of the reply, if the request is a stream.
    fn show(&self, part: impl FnOnce() -> StreamPart) {
        if let Some(parts) = &self.parts {
            // Fails only if the caller has gone.
            let _ = parts.try_send(part());
        }
    }
}

/// Puts the requests of a call behind those that wait.
fn enqueue(mut call: Call, waiting: &mut VecDeque<Waiting>) {
    for (index, mut request) in call.requests.into_iter().enumerate() {
        let origin = Origin {
            index: call.first + index,
            cx: call.cx.clone(),
            answers: call.answers.clone(),
            parts: request.parts.take(),
            _place: call.place.take(),
        };
        waiting.push_back(Waiting { origin, request });
    }
}

/// A request in tokens.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) ids: Vec<u32>,
    /// The reply to score, its end of turn included; beside a reply that is written, as much of
    /// it as the context holds.
    pub(super) reply: Option<Vec<u32>>,
    /// Who is shown the logits of the reply's tokens.
    pub(super) reader: Option<Arc<dyn LogitsReader>>,
    /// Who is shown the logits of the prompt's own tokens except the first, numbered
    /// from 0.
    pub(super) own_reader: Option<Arc<PromptReader>>,
}

/// Keeps how likely the tokens of a prompt were.
#[derive(Debug)]
pub(super) struct PromptReader {
    /// The prompt's tokens except the first.
    ids: Vec<u32>,
    likeliest: u8,
    read: Mutex<Vec<Option<LogProbs>>>,
}

impl PromptReader {
    fn new(prompt: &[u32], likeliest: u8) -> Self {
        let ids = prompt[1..].to_vec();
        Self { likeliest, read: Mutex::new(vec![None; ids.len()]), ids }
    }
}

impl LogitsReader for PromptReader {
    fn read(&self, token: usize, logits: &[f32]) {
        let log_probs = LogProbs::of(logits, self.ids[token], self.likeliest);
        self.read.lock().unwrap_or_else(PoisonError::into_inner)[token] = Some(log_probs);
    }
}

/// A reply so far, or a score without one.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) prompt_tokens: usize,
    pub(super) tokens: Vec<u32>,
    /// One for each token, where the engine has the logits at hand.
    logit_gaps: Option<Vec<u16>>,
    /// One for each token, if they are asked for.
    log_probs: Option<Vec<TokenLogProb>>,
    pub(super) scores: Option<TokenScores>,
    growing: Growing,
}

impl Reply {
    /// A reply without a token, to a prompt of so many.
    pub(super) fn new(prompt_tokens: usize, scores: Option<TokenScores>) -> Self {
        Self {
            prompt_tokens,
            tokens: Vec::new(),
            logit_gaps: None,
            log_probs: None,
            scores,
            growing: Growing::default(),
        }
    }
}

/// The next token of a reply.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) token: u32,
    /// The gap between the two highest logits at its place, where they are at hand.
    pub(super) logit_gap: Option<u16>,
    /// How likely it was, if that is asked for.
    pub(super) log_probs: Option<LogProbs>,
}

/// What a session knows of its model's text and limits.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    pub(super) text: Arc<ChatText>,
    /// Names the model in messages.
    pub(super) name: String,
    pub(super) context_length: usize,
    pub(super) vocab_size: usize,
    /// Cancelled when the session is dropped.
    pub(super) session: CallContext,
}

impl Desk {
    /// Whether the session was dropped.
    pub(super) fn is_closed(&self) -> bool {
        self.session.check(OPERATION).is_err()
    }

    /// `Ok` while somebody waits for the answer.
    pub(super) fn go_on(&self, origin: &Origin) -> Result<()> {
        self.session.check(OPERATION)?;
        if origin.answers.is_closed() {
            return Err(Error::cancelled(OPERATION));
        }
        origin.cx.check(OPERATION)
    }

    /// Whether the caller still waits for the answer; if not, answers with the cancellation.
    pub(super) fn is_wanted(&self, origin: &Origin) -> bool {
        self.go_on(origin).map_err(|error| origin.answer(Err(error))).is_ok()
    }

    /// Turns a request into tokens, and checks that it can be served.
    ///
    /// # Errors
    /// Sampling settings out of range; a conversation that the template
    /// refuses; more tokens than the context holds.
    pub(super) fn prepare(&self, request: &Request) -> Result<Prompt> {
        request.response.require_text(OPERATION)?;
        if let Some(write) = &request.write {
            write.sampling.check()?;
            if write.max_new_tokens == 0 {
                return Err(Error::new(
                    ErrorKind::ConfigInvalid,
                    OPERATION,
                    "`max_new_tokens` is 0, it must be at least 1",
                ));
            }
        }
        let prompt = match &request.prompt {
            albedo_core::Prompt::Messages(messages) => self.text.encode_prompt(messages)?,
            albedo_core::Prompt::Text(text) => self.text.encode_reply(text)?,
            albedo_core::Prompt::Tokens(ids) => ids.to_vec(),
        };
        let (mut reply, reader) = match &request.given {
            None => (None, None),
            Some(Given::Text(text)) => (Some(self.reply_ids(text)?), None),
            Some(Given::Tokens(ids, reader)) => (Some(ids.to_vec()), Some(Arc::clone(reader))),
        };
        let new_tokens = request.write.map_or(0, |write| write.max_new_tokens as usize);
        if request.write.is_some()
            && let Some(reply) = &mut reply
        {
            // A recorded reply may be longer than the one to write, and costs no request.
            reply.truncate(self.context_length.saturating_sub(prompt.len()));
        }
        self.check(request, &prompt, new_tokens, reply.as_deref().unwrap_or_default())?;
        let own_reader =
            request.prompt_log_probs.map(|likeliest| Arc::new(PromptReader::new(&prompt, likeliest)));
        Ok(Prompt { ids: prompt, reply, reader, own_reader })
    }

    /// Shows how likely the tokens of a prompt were that was read, if that is asked for.
    pub(super) fn show_prompt(&self, origin: &Origin, prompt: &Prompt) {
        if let (Some(reader), Some(&first)) = (&prompt.own_reader, prompt.ids.first()) {
            let read = std::mem::take(&mut *reader.read.lock().unwrap_or_else(PoisonError::into_inner));
            origin.show(|| {
                let rest = read.iter().flatten().map(|log_probs| self.named(log_probs)).collect();
                StreamPart::prompt(self.text.token(first), rest)
            });
        }
    }

    /// Adds a token to `reply`, shows it if the request is a stream, and answers if the
    /// token ends the reply or is the last allowed; else gives the reply back.
    pub(super) fn add(
        &self,
        origin: &Origin,
        mut reply: Reply,
        chosen: &Chosen,
        max_new_tokens: u32,
    ) -> Option<Reply> {
        let token = chosen.token;
        origin.cx.signal(CallSignal::Token);
        reply.tokens.push(token);
        if let Some(gap) = chosen.logit_gap {
            reply.logit_gaps.get_or_insert_default().push(gap);
        }
        let log_probs = chosen.log_probs.as_ref().map(|log_probs| self.named(log_probs));
        if let Some(log_probs) = &log_probs {
            reply.log_probs.get_or_insert_default().push(log_probs.clone());
        }
        let log_probs = log_probs.map(|log_probs| vec![log_probs]);
        let (written, stopped) = (reply.tokens.len(), self.text.stop_ids().contains(&token));
        if !stopped && written < max_new_tokens as usize {
            origin.show(|| {
                StreamPart::tokens(vec![token], self.text.add(&mut reply.growing, token), log_probs)
            });
            return Some(reply);
        }
        let text = self.text.decode(&reply.tokens[..written - usize::from(stopped)]);
        origin.answer(text.map(|text| {
            origin.show(|| StreamPart::tokens(vec![token], reply.growing.rest(&text), log_probs));
            Completion::new(
                text,
                if stopped { FinishReason::Stop } else { FinishReason::Length },
                usage(reply.prompt_tokens, written),
            )
            .with_tokens(reply.tokens)
            .with_logit_gaps(reply.logit_gaps)
            .with_log_probs(reply.log_probs)
            .with_reply_scores(reply.scores)
        }));
        None
    }

    /// `log_probs` with the tokens' texts.
    fn named(&self, log_probs: &LogProbs) -> TokenLogProb {
        let LogProbs { id, log_prob, likeliest } = log_probs;
        TokenLogProb {
            token: self.text.token(*id),
            log_prob: *log_prob,
            likeliest: likeliest.iter().map(|&(id, log_prob)| (self.text.token(id), log_prob)).collect(),
        }
    }

    fn reply_ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.text.encode_reply(text)?;
        ids.push(self.text.end_of_turn());
        Ok(ids)
    }

    fn check(&self, request: &Request, prompt: &[u32], new_tokens: usize, reply: &[u32]) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::new(ErrorKind::DataInvalid, OPERATION, "the prompt has no token"));
        }
        let hint = match request.prompt {
            albedo_core::Prompt::Tokens(_) => "send ids of the tokenizer of this model",
            _ => "the tokenizer belongs to another model",
        };
        if let Some(id) = prompt.iter().chain(reply).find(|&&id| id as usize >= self.vocab_size) {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                OPERATION,
                format!("token {id} is outside the model's vocabulary of {}", self.vocab_size),
            )
            .with("model", &self.name)
            .with_hint(hint));
        }
        for (what, tokens) in [("new", new_tokens), ("scored", reply.len())] {
            if prompt.len() + tokens > self.context_length {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    OPERATION,
                    format!(
                        "{} prompt tokens and {tokens} {what} tokens do not fit in the context of {}",
                        prompt.len(),
                        self.context_length
                    ),
                )
                .with("model", &self.name)
                .with_hint("shorten the prompt or lower `max_new_tokens`"));
            }
        }
        Ok(())
    }
}

fn usage(prompt: usize, completion: usize) -> Usage {
    Usage::counted(prompt as u32, completion as u32).with_price(0.0)
}
