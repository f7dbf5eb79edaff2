//! How fast a model is loaded, reads and writes, measured from outside: through
//! [`ModelBackend`] and [`ModelSession`] alone, so that any backend and device
//! is measured alike. This module and the command over it are the only ones
//! that read the time.
//!
//! What is measured, and how, is in `docs/bench.md`. In short:
//!
//! - *Prefill* of `batch` prompts is the time from handing them over to the last
//!   answer when each asks for one new token; that token's share is in it.
//! - *Decode* is the time of a long reply less that of a short one, of the same
//!   prompts, a step: what reading the prompts takes is in both and cancels.
//!   Both run after the prompts were read once, so that a backend that keeps
//!   prefixes has them both times.
//! - A *whole run* is prompts of ragged lengths, all handed over at once, and a
//!   reply to each.
//!
//! Prompts are words of the model's own vocabulary, drawn by a seed, and of the
//! exact number of tokens; no two begin alike, unless they are meant to be the
//! same. Replies do not stop by themselves: the model is given another stop
//! token, a byte that no text has.
//!
//! Behind a server neither is possible: prompts are common words, as many as make
//! about the tokens of the case, replies may end early, and what is counted is what
//! the server says.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use serde::Serialize;
use tempfile::TempDir;

use crate::{
    CallContext, DeviceMemory, Error, ErrorKind, GenerateRequest, Message, MessageRole, ModelBackend,
    ModelInfo, ModelRef, ModelSession, ModelSource, Result,
};

mod corpus;

use corpus::Corpus;

const MEASURE: &str = "measure the model";

/// Seeds that are tried for a prompt, and lengths of each.
const ATTEMPTS: u8 = 16;

/// Tokens of the short reply of a decode case: enough for every prompt of the
/// batch to be read before the first reply ends, where a backend reads and
/// writes at once. Source: chosen by albedo.
pub const SHORT_REPLY: u32 = 16;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "case", rename_all = "snake_case")]
pub enum Case {
    /// Reading prompts.
    Prefill {
        /// Prompts at once.
        batch: u32,
        /// Tokens of each.
        prompt_tokens: u32,
    },
    /// Writing replies.
    Decode {
        /// Replies at once.
        batch: u32,
        /// Tokens before the middle one of the measured steps.
        context_tokens: u32,
        /// Measured steps, each one token a reply.
        steps: u32,
    },
    /// Reading prompts of ragged lengths, from a quarter of the longest up, and
    /// writing a reply to each.
    Run {
        /// Prompts, all handed over at once.
        prompts: u32,
        /// Tokens of the longest.
        longest_prompt: u32,
        /// Tokens of each reply.
        new_tokens: u32,
    },
}

impl Case {
    /// Requests that are handed over at once.
    pub fn requests(&self) -> u32 {
        match self {
            Self::Prefill { batch, .. } | Self::Decode { batch, .. } => *batch,
            Self::Run { prompts, .. } => *prompts,
        }
    }

    /// Tokens of the longest prompt, and of the longest reply.
    fn tokens(&self) -> (u32, u32) {
        match *self {
            Self::Prefill { prompt_tokens, .. } => (prompt_tokens, 1),
            Self::Decode { context_tokens, steps, .. } => {
                let before = SHORT_REPLY.saturating_add(steps / 2);
                (context_tokens.saturating_sub(before), SHORT_REPLY.saturating_add(steps))
            }
            Self::Run { longest_prompt, new_tokens, .. } => (longest_prompt, new_tokens),
        }
    }

    /// The parts that the time of a round with so many new tokens is given for: the
    /// steps of a decode case.
    fn steps(&self, new_tokens: u64) -> f64 {
        match self {
            Self::Decode { batch, .. } => new_tokens as f64 / f64::from(*batch),
            Self::Prefill { .. } | Self::Run { .. } => 1.0,
        }
    }

    /// Tokens of a prompt, of which `unit` says how long a run's is.
    fn prompt_tokens(&self, unit: f64) -> u32 {
        match *self {
            Self::Run { longest_prompt, .. } => {
                let shortest = longest_prompt.div_ceil(4);
                shortest + (f64::from(longest_prompt - shortest + 1) * unit) as u32
            }
            _ => self.tokens().0,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefill { batch, prompt_tokens } => write!(f, "prefill {batch}x{prompt_tokens}"),
            Self::Decode { batch, context_tokens, .. } => write!(f, "decode {batch}x{context_tokens}"),
            Self::Run { prompts, longest_prompt, new_tokens } => {
                write!(f, "run {prompts}x{longest_prompt}+{new_tokens}")
            }
        }
    }
}

/// What a case came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Prompt tokens of a round.
    pub tokens_read: u64,
    /// Reply tokens of a round; of a decode case only the measured ones.
    pub tokens_written: u64,
    /// Seconds: of the prefill, of one decode step, of the whole run.
    pub seconds: Spread,
    /// Tokens a second: the prompts' for prefill, else the replies'.
    pub tokens_per_second: Spread,
}

/// One quantity over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; the mean of the two middle ones.
    pub median: f64,
    /// The least.
    pub low: f64,
    /// The greatest.
    pub high: f64,
    /// All, in the order in which they were measured.
    pub rounds: Vec<f64>,
}

impl Spread {
    /// The spread of `rounds`; NaN if there is none.
    pub fn of(rounds: Vec<f64>) -> Self {
        let mut sorted = rounds.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(at(middle.wrapping_sub(1)), at(middle)),
            _ => at(middle),
        };
        Self { median, low: at(0), high: at(sorted.len().wrapping_sub(1)), rounds }
    }
}

/// How long a model takes to be there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Load {
    /// Seconds of loading, files' digests included.
    pub seconds: f64,
    /// Seconds from the start of loading to the first token of a first, short
    /// prompt.
    pub first_token_seconds: f64,
}

/// A loaded model to measure.
#[derive(Debug)]
pub struct Bench {
    session: Arc<dyn ModelSession>,
    corpus: Corpus,
    seed: u64,
    rounds: u32,
    text: Text,
}

/// What is known of how the model turns words into tokens.
#[derive(Debug)]
enum Text {
    /// Its tokenizer and template, made to not stop, in a folder of their own.
    Endless(#[expect(dead_code, reason = "the session reads from it until it is dropped")] TempDir),
    /// Only its server counts: tokens of a prompt beside its words, and of a word.
    Served { beside: f64, per_word: f64 },
}

/// Words of the two prompts by which tokens per word are measured.
const SCALE: [usize; 2] = [8, 72];

impl Bench {
    /// Loads `model` with `backend`, and times it: a model in a folder, or one that the
    /// backend's server offers.
    ///
    /// # Errors
    /// Whatever is wrong with the model; [`ErrorKind::Unsupported`] if its
    /// tokenizer is not a byte-level one, or neither the session nor the server tells
    /// how many tokens a prompt has.
    pub async fn load(
        backend: &dyn ModelBackend,
        model: &ModelRef,
        seed: u64,
        rounds: u32,
        cx: &CallContext,
    ) -> Result<(Self, Load)> {
        if let ModelRef::Served(name) = model {
            return Self::load_served(backend, name, seed, rounds, cx).await;
        }
        let folder = model.require_folder(MEASURE)?;
        let corpus = Corpus::of_model(folder)?;
        let text = endless_text(folder)?;
        let source = ModelSource::new(folder).with_text_from(text.path());
        let start = Instant::now();
        let session = backend.load(&source, cx).await?;
        let seconds = start.elapsed().as_secs_f64();
        let bench = Self { session, corpus, seed, rounds, text: Text::Endless(text) };
        bench.hello(8, cx).await?;
        Ok((bench, Load { seconds, first_token_seconds: start.elapsed().as_secs_f64() }))
    }

    async fn load_served(
        backend: &dyn ModelBackend,
        name: &str,
        seed: u64,
        rounds: u32,
        cx: &CallContext,
    ) -> Result<(Self, Load)> {
        let start = Instant::now();
        let session = backend.load(&ModelSource::served(name), cx).await?;
        let seconds = start.elapsed().as_secs_f64();
        let text = Text::Served { beside: 0.0, per_word: 1.0 };
        let bench = Self { session, corpus: Corpus::common(), seed, rounds, text };
        let [few, many] = SCALE;
        let fewer = bench.hello(few, cx).await?.prompt_tokens as f64;
        let first_token_seconds = start.elapsed().as_secs_f64();
        let more = bench.hello(many, cx).await?.prompt_tokens as f64;
        // A server that says the same of both does not count.
        let per_word = ((more - fewer) / (many - few) as f64).max(0.1);
        let text = Text::Served { beside: (fewer - few as f64 * per_word).max(0.0), per_word };
        Ok((Self { text, ..bench }, Load { seconds, first_token_seconds }))
    }

    /// The answer of one token to a prompt of so many words.
    async fn hello(&self, words: usize, cx: &CallContext) -> Result<Timed> {
        let hello = self.corpus.prompt(words, self.seed);
        self.time(vec![request(vec![Message::new(MessageRole::User, hello)], 1)], cx).await
    }

    /// How the loaded model divides its device's memory, as
    /// [`ModelSession::memory`].
    pub fn memory(&self) -> Option<DeviceMemory> {
        self.session.memory()
    }

    /// The loaded model.
    pub fn model(&self) -> &ModelInfo {
        self.session.model()
    }

    /// The prompts of `case` in `round`, of which 0 warms up. Decode cases have
    /// the same prompts in all rounds.
    ///
    /// # Errors
    /// The operator's: a case that does not fit in the model's context, or whose
    /// prompts are shorter than the chat template alone.
    pub fn prompts(&self, case: &Case, round: u32) -> Result<Vec<Vec<Message>>> {
        let (prompt, reply) = case.tokens();
        let invalid =
            |message: String| Error::new(ErrorKind::ConfigInvalid, MEASURE, message).with("case", case);
        let context = self.model().context_length;
        if prompt.saturating_add(reply) > context || case.requests() == 0 || reply == 0 {
            return Err(invalid(format!(
                "{} requests of {prompt} prompt tokens and {reply} new tokens",
                case.requests()
            ))
            .with("the model's context", context)
            .with_hint("choose a case that fits, of one request and one token at least"));
        }
        let round = if matches!(case, Case::Decode { .. }) { 0 } else { round };
        let place = format!("{case} {round}");
        (0..case.requests())
            .map(|index| {
                let seed = crate::rng::derive_seed(
                    "bench prompt",
                    &[&self.seed.to_le_bytes(), place.as_bytes(), &index.to_le_bytes()],
                );
                let tokens = case.prompt_tokens(corpus::unit(seed));
                self.prompt(tokens, seed).map_err(|error| error.with("case", case))
            })
            .collect()
    }

    /// One message that takes `tokens` tokens when it is rendered; behind a server,
    /// about so many.
    fn prompt(&self, tokens: u32, seed: u64) -> Result<Vec<Message>> {
        if let Text::Served { beside, per_word } = self.text {
            let words = ((f64::from(tokens) - beside) / per_word).round().max(1.0);
            return Ok(vec![Message::new(MessageRole::User, self.corpus.prompt(words as usize, seed))]);
        }
        // Words that are more than one token can make a seed miss the length.
        for attempt in 0..ATTEMPTS {
            let seed = crate::rng::derive_seed("bench words", &[&seed.to_le_bytes(), &[attempt]]);
            let mut words = 1_i64;
            for _ in 0..ATTEMPTS {
                let text = self.corpus.prompt(words as usize, seed);
                let messages = vec![Message::new(MessageRole::User, text)];
                let counted = self.session.count_prompt_tokens(&messages)?.ok_or_else(|| {
                    Error::new(ErrorKind::Unsupported, MEASURE, "the session does not count prompt tokens")
                })?;
                if counted == tokens {
                    return Ok(messages);
                }
                words += i64::from(tokens) - i64::from(counted);
                if words < 1 {
                    break;
                }
            }
        }
        Err(Error::new(ErrorKind::ConfigInvalid, MEASURE, format!("there is no prompt of {tokens} tokens"))
            .with_hint("ask for longer prompts: the chat template takes some tokens itself"))
    }

    /// Measures `case`: once to warm up, then as many rounds as were asked for.
    ///
    /// # Errors
    /// As [`Bench::prompts`]; whatever the session meets.
    pub async fn measure(&self, case: &Case, cx: &CallContext) -> Result<Figures> {
        self.round(case, 0, cx).await?;
        let mut rounds = Vec::new();
        for round in 1..=self.rounds {
            rounds.push(self.round(case, round, cx).await?);
        }
        let last = rounds.last().copied().unwrap_or_default();
        Ok(Figures {
            tokens_read: last.prompt_tokens,
            tokens_written: last.new_tokens,
            tokens_per_second: Spread::of(rounds.iter().map(|round| round.speed(case)).collect()),
            seconds: Spread::of(
                rounds.iter().map(|round| round.seconds / case.steps(round.new_tokens)).collect(),
            ),
        })
    }

    async fn round(&self, case: &Case, round: u32, cx: &CallContext) -> Result<Timed> {
        let (_, reply) = case.tokens();
        let long = self.requests(case, round, reply)?;
        if !matches!(case, Case::Decode { .. }) {
            return self.time(long, cx).await;
        }
        let short = self.time(self.requests(case, round, SHORT_REPLY)?, cx).await?;
        let long = self.time(long, cx).await?;
        let new_tokens = long.new_tokens.checked_sub(short.new_tokens).filter(|tokens| *tokens > 0);
        let new_tokens = new_tokens.ok_or_else(|| {
            let message = format!("the replies ended by themselves after {} tokens", long.new_tokens);
            Error::new(ErrorKind::Unsupported, MEASURE, message).with("case", case).with_hint(
                "have the server write on, as vLLM does with `--set 'extra={\"ignore_eos\":true}'`",
            )
        })?;
        Ok(Timed { seconds: long.seconds - short.seconds, new_tokens, ..long })
    }

    fn requests(&self, case: &Case, round: u32, max_new_tokens: u32) -> Result<Vec<GenerateRequest>> {
        let prompts = self.prompts(case, round)?.into_iter();
        Ok(prompts.map(|messages| request(messages, max_new_tokens)).collect())
    }

    /// Hands `requests` over at once and waits for the last answer.
    async fn time(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> Result<Timed> {
        let expected: Vec<u32> = requests.iter().map(|request| request.max_new_tokens).collect();
        let mut timed = Timed::default();
        let start = Instant::now();
        let mut answers = self.session.generate(requests, cx);
        while let Some(answer) = answers.next().await {
            let usage = answer.result?.usage;
            let (Some(read), Some(written)) = (usage.prompt_tokens, usage.completion_tokens) else {
                return Err(Error::new(ErrorKind::Unsupported, MEASURE, "the backend counts no tokens"));
            };
            let exact = matches!(self.text, Text::Endless(_));
            if exact && Some(&written) != expected.get(answer.index) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    MEASURE,
                    format!("a reply ended by itself after {written} tokens"),
                )
                .with_hint("try another seed"));
            }
            timed.prompt_tokens += u64::from(read);
            timed.new_tokens += u64::from(written);
        }
        timed.seconds = start.elapsed().as_secs_f64();
        Ok(timed)
    }
}

/// What one call of [`ModelSession::generate`] took, or one more than another.
#[derive(Debug, Clone, Copy, Default)]
struct Timed {
    seconds: f64,
    prompt_tokens: u64,
    new_tokens: u64,
}

impl Timed {
    fn speed(&self, case: &Case) -> f64 {
        let tokens = match case {
            Case::Prefill { .. } => self.prompt_tokens,
            Case::Decode { .. } | Case::Run { .. } => self.new_tokens,
        };
        tokens as f64 / self.seconds
    }
}

fn request(messages: Vec<Message>, max_new_tokens: u32) -> GenerateRequest {
    GenerateRequest::new(messages, max_new_tokens)
}

/// The largest text file of a model that is read; Qwen3's `tokenizer.json` has
/// 11 MB.
const MAX_BYTES: u64 = 64 << 20;

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Stands for the byte 255 in a byte-level vocabulary. No UTF-8 has that byte,
/// so that no model has learned to write it.
const NEVER_WRITTEN: &str = "ÿ";

/// A folder with the text files of `model`, but another stop token.
fn endless_text(model: &Path) -> Result<TempDir> {
    let folder = tempfile::tempdir().map_err(|error| Error::io(MEASURE, &std::env::temp_dir(), error))?;
    let copy = |name: &str| {
        let from = model.join(name);
        fs::copy(&from, folder.path().join(name)).map(drop).map_err(|error| Error::io(MEASURE, &from, error))
    };
    copy(TOKENIZER)?;
    if model.join("chat_template.jinja").exists() {
        copy("chat_template.jinja")?;
    }
    let mut config = read_json(&model.join(TOKENIZER_CONFIG))?;
    config.insert("eos_token".into(), NEVER_WRITTEN.into());
    let path = folder.path().join(TOKENIZER_CONFIG);
    fs::write(&path, serde_json::Value::Object(config).to_string())
        .map_err(|error| Error::io(MEASURE, &path, error))?;
    Ok(folder)
}

fn read_json(path: &Path) -> Result<serde_json::Map<String, serde_json::Value>> {
    let file = File::open(path).map_err(|error| Error::io(MEASURE, path, error))?;
    serde_json::from_reader(BufReader::new(file.take(MAX_BYTES))).map_err(|error| {
        Error::new(ErrorKind::DataInvalid, MEASURE, format!("malformed: {error}"))
            .with("path", path.display())
    })
}

#[cfg(test)]
mod tests;
