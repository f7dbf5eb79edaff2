//! The device thread: admits requests, runs them as one batch, retires them as
//! they finish.

use std::collections::VecDeque;
use std::sync::Arc;

use albedo_core::rng::{Stream, Use};
use albedo_core::{
    CallContext, Completion, Error, ErrorKind, FinishReason, Message, ResponseFormat, Result, Sampling,
    TokenScores, Usage,
};
use rayon::prelude::*;
use tokio::sync::mpsc;

use super::model::Qwen3;
use super::ops::{Ops, Segment};
use super::sample;
use crate::text::ChatText;

const OPERATION: &str = "generate a reply";

/// Rows of a scored reply that go through the layers together, so that the
/// logits of a long reply do not need much memory.
const SCORE_ROWS: usize = 64;

/// One prompt and what to do with it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) messages: Vec<Message>,
    /// Score this text as the reply.
    pub(super) score: Option<String>,
    /// Write a reply.
    pub(super) write: Option<Write>,
    /// What the reply has to be; only text can be written.
    pub(super) response: ResponseFormat,
}

/// How to write a reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct Write {
    pub(super) sampling: Sampling,
    pub(super) max_new_tokens: u32,
    pub(super) seed: u64,
}

/// The requests of one call, and where their answers go: `answers` has room
/// for all of them, so that answering never waits.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) requests: Vec<Request>,
    pub(super) cx: CallContext,
    pub(super) answers: mpsc::Sender<(usize, Result<Completion>)>,
}

/// What the device thread owns.
#[derive(Debug)]
pub(super) struct Engine<O: Ops> {
    pub(super) model: Qwen3<O>,
    pub(super) text: Arc<ChatText>,
    /// Names the model in messages.
    pub(super) name: String,
    pub(super) context_length: usize,
    pub(super) max_batch: usize,
    /// Cancelled when the session is dropped.
    pub(super) session: CallContext,
}

/// A request that waits for a place in the batch.
struct Waiting {
    origin: Origin,
    request: Request,
}

/// Which request of which call, and whether somebody still waits for it.
struct Origin {
    index: usize,
    cx: CallContext,
    answers: mpsc::Sender<(usize, Result<Completion>)>,
}

/// A sequence in the batch.
struct Sequence<O: Ops> {
    origin: Origin,
    cache: O::Cache,
    prompt_tokens: usize,
    write: Write,
    stream: Stream,
    tokens: Vec<u32>,
    scores: Option<TokenScores>,
}

impl Origin {
    fn answer(&self, result: Result<Completion>) {
        // Fails only if nobody waits any more.
        let _ = self.answers.try_send((self.index, result));
    }
}

impl<O: Ops> Engine<O> {
    /// Serves calls until the session is dropped. Unanswered requests are
    /// dropped with their senders.
    pub(super) fn run(self, mut calls: mpsc::Receiver<Call>) {
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        let mut batch: Vec<Sequence<O>> = Vec::new();
        loop {
            if batch.is_empty() && waiting.is_empty() {
                match calls.blocking_recv() {
                    Some(call) => enqueue(call, &mut waiting),
                    None => return,
                }
            }
            // Calls beyond the next batch stay in their bounded channel.
            while waiting.len() < self.max_batch {
                match calls.try_recv() {
                    Ok(call) => enqueue(call, &mut waiting),
                    Err(_) => break,
                }
            }
            if self.session.check(OPERATION).is_err() {
                return;
            }
            waiting.retain(|Waiting { origin, .. }| self.is_wanted(origin));
            batch.retain(|sequence| self.is_wanted(&sequence.origin));
            if batch.len() < self.max_batch
                && let Some(Waiting { origin, request }) = waiting.pop_front()
            {
                batch.extend(self.admit(origin, &request));
                continue;
            }
            batch = self.step(batch);
        }
    }

    /// `Ok` while somebody waits for the answer.
    fn go_on(&self, origin: &Origin) -> Result<()> {
        self.session.check(OPERATION)?;
        if origin.answers.is_closed() {
            return Err(Error::cancelled(OPERATION));
        }
        origin.cx.check(OPERATION)
    }

    /// Whether somebody waits for the answer; if not, says so to whoever may listen.
    fn is_wanted(&self, origin: &Origin) -> bool {
        self.go_on(origin).map_err(|error| origin.answer(Err(error))).is_ok()
    }

    /// Reads the prompt, scores what is to be scored, and chooses the first
    /// token; `None` if the request is answered with that.
    fn admit(&self, origin: Origin, request: &Request) -> Option<Sequence<O>> {
        match self.start(&origin, request) {
            Err(error) => {
                origin.answer(Err(error));
                None
            }
            Ok(Started { cache, prompt_tokens, scores, first }) => {
                let Some((write, token)) = first else {
                    origin.answer(Ok(Completion {
                        text: String::new(),
                        reasoning: None,
                        tokens: Vec::new(),
                        finish: FinishReason::Unknown,
                        usage: usage(prompt_tokens, 0),
                        reply_scores: scores,
                        log_probs: None,
                    }));
                    return None;
                };
                let stream = Stream::new(write.seed, Use::Token);
                let tokens = vec![token];
                self.finish_or_keep(Sequence { origin, cache, prompt_tokens, write, stream, tokens, scores })
            }
        }
    }

    fn start(&self, origin: &Origin, request: &Request) -> Result<Started<O>> {
        self.go_on(origin)?;
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
        let prompt = self.text.encode_prompt(&request.messages)?;
        let reply = request.score.as_deref().map(|text| self.reply_ids(text)).transpose()?;
        let new_tokens = request.write.map_or(0, |write| write.max_new_tokens as usize);
        self.check(&prompt, new_tokens, reply.as_deref().unwrap_or_default())?;

        let mut cache = self.model.cache();
        let logits = self.model.prefill(&prompt, &mut cache, || self.go_on(origin))?;
        self.check_finite(&logits)?;
        let scores = match reply {
            Some(reply) => Some(self.score(origin, &logits, &mut cache, prompt.len(), &reply)?),
            None => None,
        };
        let first = request.write.map(|write| {
            let unit = Stream::new(write.seed, Use::Token).unit_at(0);
            (write, sample::choose(&logits, &write.sampling, unit))
        });
        Ok(Started { cache, prompt_tokens: prompt.len(), scores, first })
    }

    fn reply_ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.text.encode_reply(text)?;
        ids.push(self.text.end_of_turn());
        Ok(ids)
    }

    fn check(&self, prompt: &[u32], new_tokens: usize, reply: &[u32]) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::new(ErrorKind::DataInvalid, OPERATION, "the rendered prompt has no token"));
        }
        if let Some(id) = prompt.iter().chain(reply).find(|&&id| id as usize >= self.model.vocab_size()) {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                OPERATION,
                format!("token {id} is outside the model's vocabulary of {}", self.model.vocab_size()),
            )
            .with("model", &self.name)
            .with_hint("the tokenizer belongs to another model"));
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

    fn check_finite(&self, logits: &[f32]) -> Result<()> {
        match logits.iter().find(|logit| !logit.is_finite()) {
            None => Ok(()),
            Some(logit) => Err(Error::new(
                ErrorKind::DataInvalid,
                OPERATION,
                format!("the model computed {logit} where a finite logit was expected"),
            )
            .with("model", &self.name)
            .with_hint("its weights overflow f32")),
        }
    }

    /// Scores `reply` after the prompt in `cache`. Whatever is written to the
    /// cache behind the prompt is dropped by the next token.
    fn score(
        &self,
        origin: &Origin,
        prompt_logits: &[f32],
        cache: &mut O::Cache,
        prompt_tokens: usize,
        reply: &[u32],
    ) -> Result<TokenScores> {
        let Some((&first, rest)) = reply.split_first() else {
            return Ok(TokenScores { log_probs: Vec::new() });
        };
        let mut log_probs = vec![sample::log_prob(prompt_logits, first)];
        let mut start = prompt_tokens;
        for (read, scored) in reply.chunks(SCORE_ROWS).zip(rest.chunks(SCORE_ROWS)) {
            self.go_on(origin)?;
            let read = &read[..scored.len()];
            let mut segments = [Segment { cache: &mut *cache, start, rows: read.len() }];
            let logits = self.model.extend(read, &mut segments)?;
            self.check_finite(&logits)?;
            let rows = logits.par_chunks_exact(self.model.vocab_size()).zip(scored);
            log_probs.par_extend(rows.map(|(logits, &id)| sample::log_prob(logits, id)));
            start += read.len();
        }
        Ok(TokenScores { log_probs })
    }

    /// One more token for every sequence.
    fn step(&self, mut batch: Vec<Sequence<O>>) -> Vec<Sequence<O>> {
        if batch.is_empty() {
            return batch;
        }
        let ids: Vec<u32> = batch.iter().filter_map(|sequence| sequence.tokens.last().copied()).collect();
        let mut segments: Vec<_> = batch
            .iter_mut()
            .map(|sequence| Segment {
                start: sequence.prompt_tokens + sequence.tokens.len() - 1,
                cache: &mut sequence.cache,
                rows: 1,
            })
            .collect();
        let logits = match self.model.extend(&ids, &mut segments) {
            Ok(logits) => logits,
            Err(error) => {
                for sequence in batch {
                    let error = Error::new(error.kind(), error.operation(), error.message());
                    sequence.origin.answer(Err(error.with("model", &self.name)));
                }
                return Vec::new();
            }
        };
        let chosen: Vec<Result<u32>> = batch
            .par_iter()
            .zip(logits.par_chunks_exact(self.model.vocab_size()))
            .map(|(sequence, logits)| {
                self.check_finite(logits)?;
                let unit = sequence.stream.unit_at(sequence.tokens.len() as u64);
                Ok(sample::choose(logits, &sequence.write.sampling, unit))
            })
            .collect();
        let advance = |(mut sequence, chosen): (Sequence<O>, Result<u32>)| match chosen {
            Ok(token) => {
                sequence.tokens.push(token);
                self.finish_or_keep(sequence)
            }
            Err(error) => {
                sequence.origin.answer(Err(error));
                None
            }
        };
        batch.into_iter().zip(chosen).filter_map(advance).collect()
    }

    fn finish_or_keep(&self, sequence: Sequence<O>) -> Option<Sequence<O>> {
        let written = sequence.tokens.len();
        let stopped = sequence.tokens.last().is_some_and(|token| self.text.stop_ids().contains(token));
        if !stopped && written < sequence.write.max_new_tokens as usize {
            return Some(sequence);
        }
        let text = self.text.decode(&sequence.tokens[..written - usize::from(stopped)]);
        sequence.origin.answer(text.map(|text| Completion {
            text,
            reasoning: None,
            tokens: sequence.tokens,
            finish: if stopped { FinishReason::Stop } else { FinishReason::Length },
            usage: usage(sequence.prompt_tokens, written),
            reply_scores: sequence.scores,
            log_probs: None,
        }));
        None
    }
}

/// A prompt that was read, and what it led to.
struct Started<O: Ops> {
    cache: O::Cache,
    prompt_tokens: usize,
    scores: Option<TokenScores>,
    first: Option<(Write, u32)>,
}

fn enqueue(call: Call, waiting: &mut VecDeque<Waiting>) {
    for (index, request) in call.requests.into_iter().enumerate() {
        let origin = Origin { index, cx: call.cx.clone(), answers: call.answers.clone() };
        waiting.push_back(Waiting { origin, request });
    }
}

fn usage(prompt: usize, completion: usize) -> Usage {
    Usage { prompt_tokens: prompt as u32, completion_tokens: completion as u32, price_usd: None }
}
