use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use futures::stream::{self, BoxStream};

use super::*;
use crate::backend::{ModelInfo, Prompt, StreamPart, StreamRequest, TokenLogProb, TokenText, Usage};
use crate::conformance::Violation;
use crate::digest::Digest;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Flaw {
    None,
    UnsortedStops,
    MiscountsPrompts,
    DropsFailures,
    AnswersTwice,
    AnswersNobody,
    Batched,
    Drifts,
    IgnoresSeeds,
    SeedsGreedy,
    IgnoresTheLimit,
    AlwaysStops,
    AnswersNoToken,
    AnswersLongPrompts,
    IgnoresFormats,
    FailsTogether,
    ForgetsReplyScores,
    OtherReplyScores,
    LeavesOutTheStop,
    PositiveScores,
    ScoresInDisorder,
    IgnoresCancellation,
    IgnoresDeadlines,
    MumblesWhenCancelled,
    DiesWhenCancelled,
    DiesWhenDropped,
    Hangs,
    StreamsNoEnd,
    StreamsOn,
    StreamsHalf,
    StreamsAnother,
    StreamsNoPrompt,
    StreamsUnlikely,
    StreamsAnything,
    StreamsWhenStopped,
    DiesWhenStreamsAreDropped,
}

/// Writes words that depend on the request alone; a token is a byte.
#[derive(Debug)]
pub(crate) struct Fake {
    model: ModelInfo,
    flaw: Flaw,
    scores: bool,
    calls: AtomicU32,
    dead: Arc<AtomicBool>,
}

impl Fake {
    pub(crate) fn new(flaw: Flaw) -> Self {
        let digest = Digest::of("fake");
        let model = ModelInfo::new(digest, "Fake", 100)
            .with_text(digest, digest, if flaw == Flaw::UnsortedStops { vec![1, 0] } else { vec![0, 1] })
            .with_config(digest);
        Self { model, flaw, scores: true, calls: AtomicU32::new(0), dead: Arc::default() }
    }

    fn answer(&self, request: &GenerateRequest, company: usize) -> Result<Completion> {
        let operation = "generate";
        if self.dead.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::DeviceLost, operation, "dead"));
        }
        request.sampling.check()?;
        if self.flaw != Flaw::IgnoresFormats {
            request.response.require_text(operation)?;
        }
        let invalid = |message| Error::new(ErrorKind::Unsupported, operation, message);
        if request.max_new_tokens == 0 && self.flaw != Flaw::AnswersNoToken {
            return Err(invalid("no token"));
        }
        let prompt_tokens = count(&request.messages);
        if prompt_tokens + request.max_new_tokens > self.model.context_length
            && self.flaw != Flaw::AnswersLongPrompts
        {
            return Err(invalid("beyond the context"));
        }
        let sampled = request.sampling.temperature > 0.0 && self.flaw != Flaw::IgnoresSeeds;
        let salt = match self.flaw {
            Flaw::Batched => company as u64,
            Flaw::Drifts => u64::from(self.calls.fetch_add(1, Ordering::Relaxed)),
            Flaw::SeedsGreedy => request.seed,
            _ => 0,
        };
        let seed = if sampled { request.seed } else { 0 };
        let digest = Digest::of(format!("{:?} {seed} {salt}", request.messages)).to_string();
        let whole = 4 + usize::from(digest.as_bytes()[0] % 16);
        let most = if self.flaw == Flaw::IgnoresTheLimit { 40 } else { request.max_new_tokens as usize };
        let text = &digest[..whole.min(most)];
        let mut tokens: Vec<_> = text.bytes().map(u32::from).collect();
        let stops = whole < most;
        if stops {
            tokens.push(0);
        }
        let stops = stops || self.flaw == Flaw::AlwaysStops;
        let scored = request.score_reply.as_ref().filter(|_| self.flaw != Flaw::ForgetsReplyScores);
        let shift = f32::from(u8::from(self.flaw == Flaw::OtherReplyScores));
        Ok(Completion::new(
            text,
            if stops { FinishReason::Stop } else { FinishReason::Length },
            Usage::counted(
                prompt_tokens + u32::from(self.flaw == Flaw::MiscountsPrompts),
                tokens.len() as u32,
            ),
        )
        .with_log_probs(
            request.log_probs.map(|count| tokens.iter().map(|&id| self.likely(id, count)).collect()),
        )
        .with_tokens(tokens)
        .with_reply_scores(scored.map(|reply| self.log_probs(&request.messages, reply, shift))))
    }

    /// What a stream of `request` writes, and the tokens of its prompt if they are asked for.
    fn read(&self, request: &StreamRequest) -> Result<(GenerateRequest, Option<Vec<u32>>)> {
        let messages = match &request.prompt {
            Prompt::Messages(messages) => Arc::clone(messages),
            Prompt::Text(text) => [Message::new(Role::User, &**text)].into(),
            Prompt::Tokens(_) => {
                return Err(Error::new(ErrorKind::Unsupported, "stream", "it has no tokens"));
            }
        };
        let prompt = request.prompt_log_probs.then(|| vec![b'p'.into(); count(&messages) as usize]);
        let seed = request.seed + u64::from(self.flaw == Flaw::StreamsAnother);
        let asked = GenerateRequest::new(messages, request.max_new_tokens)
            .with_sampling(request.sampling)
            .with_seed(seed)
            .with_log_probs(request.log_probs);
        Ok((asked, prompt))
    }

    /// A token that is always as likely as the others.
    fn likely(&self, id: u32, count: u8) -> TokenLogProb {
        let token = TokenText::new(Some(id), vec![id as u8]);
        let likeliest = vec![(token.clone(), -0.5); count.into()];
        let log_prob = if self.flaw == Flaw::StreamsUnlikely { 0.5 } else { -0.5 };
        TokenLogProb { token, log_prob, likeliest }
    }

    fn log_probs(&self, messages: &[Message], reply: &str, shift: f32) -> TokenScores {
        let sign = if self.flaw == Flaw::PositiveScores { 1.0 } else { -1.0 };
        let words = reply.split_whitespace().map(|word| word.len() as f32);
        let stop = (self.flaw != Flaw::LeavesOutTheStop).then_some(0.5);
        let value = |nats| sign * (nats + shift + count(messages) as f32 / 7.0);
        TokenScores { log_probs: words.chain(stop).map(value).collect() }
    }
}

/// A message is as many tokens as words, and one.
fn count(messages: &[Message]) -> u32 {
    messages.iter().map(|message| message.content.split_whitespace().count() as u32 + 1).sum()
}

/// Notes when it is dropped with something left.
struct Rest<T> {
    left: Vec<T>,
    dead: Option<Arc<AtomicBool>>,
}

impl<T> Drop for Rest<T> {
    fn drop(&mut self) {
        if let Some(dead) = &self.dead {
            dead.fetch_or(!self.left.is_empty(), Ordering::Relaxed);
        }
    }
}

#[async_trait]
impl ModelSession for Fake {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>> {
        Ok(Some(count(messages)))
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let company = requests.len();
        let answers = requests.iter().map(|request| self.answer(request, company)).enumerate();
        let mut answers: Vec<_> = answers.map(|(index, result)| Generated { index, result }).collect();
        match self.flaw {
            Flaw::DropsFailures => answers.retain(|answer| answer.result.is_ok()),
            Flaw::FailsTogether if answers.iter().any(|answer| answer.result.is_err()) => {
                for answer in &mut answers {
                    answer.result = Err(Error::new(ErrorKind::Unsupported, "generate", "a bad request"));
                }
            }
            Flaw::AnswersTwice if company > 1 => answers[1].index = 0,
            Flaw::AnswersNobody if company > 1 => answers[1].index = company,
            Flaw::Hangs => return stream::pending().boxed(),
            _ => {}
        }
        let dead = (self.flaw == Flaw::DiesWhenDropped).then(|| Arc::clone(&self.dead));
        let (cx, flaw, rest) = (cx.clone(), self.flaw, Rest { left: answers, dead });
        let session = Arc::clone(&self.dead);
        stream::unfold(rest, move |mut rest| {
            let stopped = cx.check("generate").err();
            let session = Arc::clone(&session);
            async move {
                tokio::task::yield_now().await;
                let mut answer = rest.left.pop()?;
                let error = stopped.filter(|error| match error.kind() {
                    ErrorKind::Cancelled => flaw != Flaw::IgnoresCancellation,
                    _ => flaw != Flaw::IgnoresDeadlines,
                });
                if let Some(error) = error {
                    answer.result = Err(match flaw {
                        Flaw::MumblesWhenCancelled => Error::bug("generate", "stopped"),
                        _ => error,
                    });
                    session.fetch_or(flaw == Flaw::DiesWhenCancelled, Ordering::Relaxed);
                }
                Some((answer, rest))
            }
        })
        .boxed()
    }

    /// A part for each token, like an engine.
    fn stream(&self, request: StreamRequest, cx: &CallContext) -> BoxStream<'static, Result<StreamPart>> {
        let (request, prompt) = match self.read(&request) {
            Ok(read) => read,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let mut parts: Vec<Result<StreamPart>> = Vec::new();
        if let Some(prompt) = prompt.filter(|_| self.flaw != Flaw::StreamsNoPrompt) {
            let mut tokens = prompt.into_iter().map(|id| self.likely(id, 0));
            let first = tokens.next().expect("a token").token;
            parts.push(Ok(StreamPart::prompt(first, tokens.collect())));
        }
        let answer = if request.max_new_tokens == 0 && !parts.is_empty() {
            Ok(Completion::new("", FinishReason::Length, Usage::counted(count(&request.messages), 0)))
        } else {
            self.answer(&request, 1)
        };
        match answer {
            Err(_) if self.flaw == Flaw::StreamsAnything => {
                parts.push(Ok(StreamPart::Done(Completion::new("", FinishReason::Stop, Usage::default()))));
            }
            Err(error) => parts.push(Err(error)),
            Ok(completion) => {
                for (at, &id) in completion.tokens.iter().enumerate() {
                    let text = completion.text.get(at..=at).unwrap_or_default();
                    let likely = completion.log_probs.as_ref().map(|all| vec![all[at].clone()]);
                    parts.push(Ok(StreamPart::tokens(vec![id], text, likely)));
                }
                if self.flaw == Flaw::StreamsHalf {
                    parts.pop();
                }
                if self.flaw != Flaw::StreamsNoEnd {
                    parts.push(Ok(StreamPart::Done(completion)));
                }
                if self.flaw == Flaw::StreamsOn {
                    parts.push(Ok(StreamPart::tokens(vec![], "", None)));
                }
            }
        }
        let stopped = cx.check("stream").err().filter(|_| self.flaw != Flaw::StreamsWhenStopped);
        if let Some(error) = stopped {
            parts = vec![Err(error)];
        }
        parts.reverse();
        let dead = (self.flaw == Flaw::DiesWhenStreamsAreDropped).then(|| Arc::clone(&self.dead));
        stream::unfold(Rest { left: parts, dead }, |mut rest| async move {
            tokio::task::yield_now().await;
            let part = rest.left.pop()?;
            Some((part, rest))
        })
        .boxed()
    }

    async fn score(&self, requests: Vec<ScoreRequest>, cx: &CallContext) -> Result<Vec<TokenScores>> {
        let unsupported = |message| Err(Error::new(ErrorKind::Unsupported, "score", message));
        cx.check("score")?;
        if !self.scores {
            return unsupported("no scores");
        }
        if requests.iter().any(|request| count(&request.messages) > self.model.context_length) {
            return unsupported("beyond the context");
        }
        let score = |request: &ScoreRequest| self.log_probs(&request.messages, &request.reply, 0.0);
        let mut scores: Vec<_> = requests.iter().map(score).collect();
        if self.flaw == Flaw::ScoresInDisorder {
            scores.reverse();
        }
        Ok(scores)
    }
}

pub(crate) fn fixture() -> SessionFixture {
    let conversation =
        |text: &str| vec![Message::new(Role::System, "answer"), Message::new(Role::User, text)];
    SessionFixture {
        replies: vec![("a reply of five words".into(), 5), ("one".into(), 1)],
        ..SessionFixture::new(["a", "b c d e f", "some words to answer to"].map(conversation).into())
    }
}

#[tokio::test]
async fn every_flaw_is_found() {
    for (flaw, promise) in [
        (Flaw::UnsortedStops, "stop ids are ascending"),
        (Flaw::MiscountsPrompts, "usage has the prompt tokens counted"),
        (Flaw::DropsFailures, ONE_ANSWER),
        (Flaw::AnswersTwice, ONE_ANSWER),
        (Flaw::AnswersNobody, ONE_ANSWER),
        (Flaw::Batched, ALONE),
        (Flaw::Drifts, "a greedy reply depends on no seed"),
        (Flaw::IgnoresSeeds, "other seeds give other texts at temperature 1"),
        (Flaw::SeedsGreedy, "a greedy reply depends on no seed"),
        (Flaw::IgnoresTheLimit, "max_new_tokens is kept"),
        (Flaw::AlwaysStops, "the finish reason is right"),
        (Flaw::AnswersNoToken, FAILS_ALONE),
        (Flaw::AnswersLongPrompts, FAILS_ALONE),
        (Flaw::FailsTogether, FAILS_ALONE),
        (Flaw::IgnoresFormats, "a response format is kept or refused"),
        (Flaw::ForgetsReplyScores, "a reply is scored if that is asked for"),
        (Flaw::OtherReplyScores, SAME_SCORES),
        (Flaw::LeavesOutTheStop, SCORED),
        (Flaw::PositiveScores, "log-probabilities are finite and at most 0"),
        (Flaw::ScoresInDisorder, SAME_SCORES),
        (Flaw::IgnoresCancellation, "a stopped call says why"),
        (Flaw::IgnoresDeadlines, "a stopped call says why"),
        (Flaw::MumblesWhenCancelled, "a stopped call says why"),
        (Flaw::DiesWhenCancelled, ANSWERED),
        (Flaw::DiesWhenDropped, ANSWERED),
        (Flaw::StreamsNoEnd, "a stream ends with the reply or an error, and with nothing after it"),
        (Flaw::StreamsOn, "a stream ends with the reply or an error, and with nothing after it"),
        (Flaw::StreamsHalf, "the parts of a reply make the reply"),
        (Flaw::StreamsAnother, ALONE),
        (
            Flaw::StreamsNoPrompt,
            "a prompt's log-probabilities come first, one for each token after the first",
        ),
        (Flaw::StreamsUnlikely, "log-probabilities are those of the tokens, the likeliest first"),
        (Flaw::StreamsAnything, FAILS_ALONE),
        (Flaw::StreamsWhenStopped, "a stopped call says why"),
        (Flaw::DiesWhenStreamsAreDropped, ANSWERED),
    ] {
        let found = check_session(&Fake::new(flaw), &fixture()).await.err();
        assert_eq!(found.as_ref().map(Violation::promise), Some(promise), "{flaw:?}: {found:?}");
    }
}

#[tokio::test]
async fn a_session_that_keeps_its_promises_passes() {
    check_session(&Fake::new(Flaw::None), &fixture()).await.expect("conforms");
    let fixture = SessionFixture { replies: vec![], ..fixture() };
    let mute = Fake { scores: false, ..Fake::new(Flaw::None) };
    check_session(&mute, &fixture).await.expect("conforms");
    let found = check_session(&Fake::new(Flaw::None), &fixture).await.expect_err("it scores");
    assert_eq!(found.promise(), "a session that cannot score says so");
}

#[tokio::test]
async fn what_a_session_does_not_claim_is_not_asked_of_it() {
    let fixture = SessionFixture { deterministic: false, ..fixture() };
    for flaw in [Flaw::Batched, Flaw::Drifts, Flaw::SeedsGreedy] {
        check_session(&Fake::new(flaw), &fixture).await.expect("conforms");
    }
    let fixture = SessionFixture { score_tolerance: 1.0, ..fixture };
    check_session(&Fake::new(Flaw::OtherReplyScores), &fixture).await.expect("conforms");
}

#[tokio::test]
async fn a_call_that_never_ends_is_found() {
    let fixture = SessionFixture { patience: Duration::from_secs(1), ..fixture() };
    let found = check_session(&Fake::new(Flaw::Hangs), &fixture).await.expect_err("hangs");
    assert_eq!(found.promise(), "every call ends", "{found}");
}
