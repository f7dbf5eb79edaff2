//! The device thread of the CPU: admits requests, runs them as one batch,
//! retires them as they finish.

use std::collections::VecDeque;

use albedo_core::overflow::{Overflow, Place, Step};
use albedo_core::rng::{Stream, Use};
use albedo_core::{Error, LogitsReader, Result, TokenScores};
use rayon::prelude::*;

use super::cpu::{BurnOps, Cache, Segment};
use super::model::Qwen3;
use super::requests::{Chosen, Desk, Inbox, Origin, PromptReader, Reply, Request, Waiting, Write};
use super::sample::{self, LogProbs};

const OPERATION: &str = "generate a reply";

/// Rows of a scored reply that go through the layers together, so that the
/// logits of a long reply do not need much memory.
const SCORE_ROWS: usize = 64;

/// What the device thread owns.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) model: Qwen3<BurnOps>,
    pub(super) desk: Desk,
    pub(super) max_batch: usize,
}

/// A sequence in the batch.
struct Sequence {
    origin: Origin,
    cache: Cache,
    write: Write,
    stream: Stream,
    reply: Reply,
}

/// Tokens that are given, and who is shown their logits.
#[derive(Clone, Copy)]
struct Scored<'a> {
    reply: &'a [u32],
    reader: Option<&'a dyn LogitsReader>,
    /// What they are part of.
    step: Step,
}

/// A prompt that was read, and what it led to.
struct Started {
    cache: Cache,
    prompt_tokens: usize,
    scores: Option<TokenScores>,
    first: Option<(Write, Chosen)>,
}

/// Chooses the next token.
fn choose(logits: &[f32], write: &Write, unit: f64) -> Chosen {
    let token = sample::choose(logits, &write.sampling, unit);
    let log_probs = write.log_probs.map(|likeliest| LogProbs::of(logits, token, likeliest));
    Chosen { token, logit_gap: Some(sample::gap(logits)), log_probs }
}

impl Engine {
    /// Serves calls until the device is to be left. Unanswered requests of a
    /// session that is dropped are dropped with their senders.
    pub(super) fn run(&self, inbox: &mut Inbox) {
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        let mut batch: Vec<Sequence> = Vec::new();
        loop {
            if !inbox.collect(batch.is_empty(), &mut waiting, self.max_batch) || self.desk.is_closed() {
                return;
            }
            waiting.retain(|Waiting { origin, .. }| self.desk.is_wanted(origin));
            batch.retain(|sequence| self.desk.is_wanted(&sequence.origin));
            // One hand-over to the pool a step, instead of one an operation.
            if batch.len() < self.max_batch
                && let Some(Waiting { origin, request }) = waiting.pop_front()
            {
                batch.extend(rayon::scope(|_| self.admit(origin, &request)));
                continue;
            }
            batch = rayon::scope(|_| self.step(batch));
        }
    }

    /// Reads the prompt, scores what is to be scored, and chooses the first
    /// token; `None` if the request is answered with that.
    fn admit(&self, origin: Origin, request: &Request) -> Option<Sequence> {
        match self.start(&origin, request) {
            Err(error) => {
                origin.answer(Err(error));
                None
            }
            Ok(Started { cache, prompt_tokens, scores, first }) => {
                let Some((write, chosen)) = first else {
                    origin.answer_read(prompt_tokens, scores);
                    return None;
                };
                let stream = Stream::new(write.seed, Use::Token);
                let reply = Reply::new(prompt_tokens, scores);
                let reply = self.desk.add(&origin, reply, &chosen, write.max_new_tokens)?;
                Some(Sequence { origin, cache, write, stream, reply })
            }
        }
    }

    fn start(&self, origin: &Origin, request: &Request) -> Result<Started> {
        self.desk.go_on(origin)?;
        let prompt = self.desk.prepare(request)?;
        if let Some(reader) = &prompt.own_reader {
            self.read_prompt(origin, &prompt.ids, reader)?;
            self.desk.show_prompt(origin, &prompt);
            if request.write.is_none() {
                let (cache, prompt_tokens) = (self.model.cache(), prompt.ids.len());
                return Ok(Started { cache, prompt_tokens, scores: None, first: None });
            }
        }
        let mut cache = self.model.cache();
        let logits = self.model.prefill(&prompt.ids, &mut cache, || self.desk.go_on(origin))?;
        self.check_finite(&logits, Step::Prompt, prompt.ids.len() - 1)?;
        let scores = match prompt.reply {
            Some(reply) => {
                let given = Scored { reply: &reply, reader: prompt.reader.as_deref(), step: Step::Score };
                Some(self.score(origin, &logits, &mut cache, prompt.ids.len(), given)?)
            }
            None => None,
        };
        let first = request.write.map(|write| {
            let unit = Stream::new(write.seed, Use::Token).unit_at(0);
            (write, choose(&logits, &write, unit))
        });
        Ok(Started { cache, prompt_tokens: prompt.ids.len(), scores, first })
    }

    /// Shows `reader` the logits of a prompt, in a pass of its own: what a prompt's keys
    /// and values are must not depend on whether its logits are wanted.
    fn read_prompt(&self, origin: &Origin, prompt: &[u32], reader: &PromptReader) -> Result<()> {
        let mut cache = self.model.cache();
        let (first, reply) = prompt.split_at(1);
        let logits = self.model.prefill(first, &mut cache, || self.desk.go_on(origin))?;
        self.check_finite(&logits, Step::Prompt, 0)?;
        let given = Scored { reply, reader: Some(reader), step: Step::Prompt };
        self.score(origin, &logits, &mut cache, 1, given).map(|_| ())
    }

    /// Checks the logits of consecutive tokens, of which the first is at `first`.
    fn check_finite(&self, logits: &[f32], step: Step, first: usize) -> Result<()> {
        let Some(index) = logits.iter().position(|logit| !logit.is_finite()) else { return Ok(()) };
        let position = (first + index / self.model.vocab_size()) as u32;
        let overflow = Overflow { step, position, place: Place::Logits };
        Err(Error::overflowed(OPERATION, overflow).with("model", &self.desk.name))
    }

    /// Scores `reply` after the prompt in `cache`. Whatever is written to the
    /// cache behind the prompt is dropped by the next token.
    fn score(
        &self,
        origin: &Origin,
        prompt_logits: &[f32],
        cache: &mut Cache,
        prompt_tokens: usize,
        Scored { reply, reader, step }: Scored<'_>,
    ) -> Result<TokenScores> {
        let Some((&first, rest)) = reply.split_first() else {
            return Ok(TokenScores { log_probs: Vec::new() });
        };
        let score = |token: usize, logits: &[f32], id: u32| {
            if let Some(reader) = reader {
                reader.read(token, logits);
            }
            sample::log_prob(logits, id)
        };
        let mut log_probs = vec![score(0, prompt_logits, first)];
        let mut start = prompt_tokens;
        for (read, scored) in reply.chunks(SCORE_ROWS).zip(rest.chunks(SCORE_ROWS)) {
            self.desk.go_on(origin)?;
            let read = &read[..scored.len()];
            let mut segments = [Segment { cache: &mut *cache, start, rows: read.len() }];
            let logits = self.model.extend(read, &mut segments)?;
            self.check_finite(&logits, step, start)?;
            let token = 1 + start - prompt_tokens;
            let rows = logits.par_chunks_exact(self.model.vocab_size()).zip(scored).enumerate();
            log_probs.par_extend(rows.map(|(row, (logits, &id))| score(token + row, logits, id)));
            start += read.len();
        }
        Ok(TokenScores { log_probs })
    }

    /// One more token for every sequence.
    fn step(&self, mut batch: Vec<Sequence>) -> Vec<Sequence> {
        if batch.is_empty() {
            return batch;
        }
        let ids: Vec<u32> =
            batch.iter().filter_map(|sequence| sequence.reply.tokens.last().copied()).collect();
        let mut segments: Vec<_> = batch
            .iter_mut()
            .map(|sequence| Segment {
                start: sequence.reply.prompt_tokens + sequence.reply.tokens.len() - 1,
                cache: &mut sequence.cache,
                rows: 1,
            })
            .collect();
        let logits = match self.model.extend(&ids, &mut segments) {
            Ok(logits) => logits,
            Err(error) => {
                for sequence in batch {
                    sequence.origin.answer(Err(error.clone().with("model", &self.desk.name)));
                }
                return Vec::new();
            }
        };
        let chosen: Vec<Result<Chosen>> = batch
            .par_iter()
            .zip(logits.par_chunks_exact(self.model.vocab_size()))
            .map(|(sequence, logits)| {
                let read = sequence.reply.prompt_tokens + sequence.reply.tokens.len() - 1;
                self.check_finite(logits, Step::Reply, read)?;
                let unit = sequence.stream.unit_at(sequence.reply.tokens.len() as u64);
                Ok(choose(logits, &sequence.write, unit))
            })
            .collect();
        let advance = |(sequence, chosen): (Sequence, Result<Chosen>)| match chosen {
            Ok(chosen) => {
                let most = sequence.write.max_new_tokens;
                let reply = self.desk.add(&sequence.origin, sequence.reply, &chosen, most)?;
                Some(Sequence { reply, ..sequence })
            }
            Err(error) => {
                sequence.origin.answer(Err(error));
                None
            }
        };
        batch.into_iter().zip(chosen).filter_map(advance).collect()
    }
}
