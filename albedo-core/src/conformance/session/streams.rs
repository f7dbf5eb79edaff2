//! The part of the suite about [`ModelSession::stream`](crate::backend::ModelSession::stream).

use futures::StreamExt as _;

use super::super::{Checked, brief, broken, ends, ensure, says, stopped};
use super::{ANSWERED, FAILS_ALONE, Known, SCORED, Suite};
use crate::backend::{
    Completion, FinishReason, GenerateRequest, Prompt, Sampling, StreamPart, StreamRequest, TokenLogProb,
    TokenText,
};
use crate::context::CallContext;
use crate::error::{ErrorKind, Result};

/// Promises that more than one check looks at.
const ENDS: &str = "a stream ends with the reply or an error, and with nothing after it";
const TOGETHER: &str = "the parts of a reply make the reply";
const LIKELY: &str = "log-probabilities are those of the tokens, the likeliest first";
const PROMPT: &str = "a prompt's log-probabilities come first, one for each token after the first";

/// A reply as its stream showed it.
struct Shown {
    prompt: Option<(TokenText, Vec<TokenLogProb>)>,
    done: Completion,
}

impl Suite<'_> {
    /// Replies that are shown as they grow: the same as whole ones, from conversations
    /// and raw prompts, with log-probabilities; failures; interruptions.
    pub(super) async fn streams(&self, known: &[Known]) -> Checked {
        for (request, before) in known {
            let shown = self.good(streamed(request)).await?;
            self.same_reply(before, &shown.done)?;
        }
        self.likely(known).await?;
        self.prompts(known).await?;
        self.broken_streams(known).await?;
        self.interrupted_streams(known).await
    }

    async fn likely(&self, known: &[Known]) -> Checked {
        for (request, before) in known {
            let shown = self.good(streamed(request).with_log_probs(Some(2))).await?;
            self.same_reply(before, &shown.done)?;
            let Some(log_probs) = shown.done.log_probs else { continue };
            let tokens = &shown.done.tokens;
            ensure(tokens.is_empty() || tokens.len() == log_probs.len(), LIKELY, || {
                format!("{} for {} tokens", log_probs.len(), tokens.len())
            })?;
            for (at, likely) in log_probs.iter().enumerate() {
                self.valid(likely)?;
                let id = likely.token.id.filter(|_| !tokens.is_empty());
                ensure(id.is_none_or(|id| tokens[at] == id), LIKELY, || brief(likely))?;
                // What is written greedily is the likeliest.
                let first = likely.likeliest.first().map_or(likely.log_prob, |(_, log_prob)| *log_prob);
                let greedy = request.sampling.temperature == 0.0;
                ensure(!greedy || self.near(first, likely.log_prob), LIKELY, || brief(likely))?;
            }
            let asked = request.clone().with_score_reply(None).with_log_probs(Some(2));
            for answer in self.generate(vec![asked], &CallContext::new()).await? {
                let completion = answer.or_else(|error| broken(ANSWERED, error.to_string()))?;
                let whole = completion.log_probs.unwrap_or_default();
                let near = |(a, b): (&TokenLogProb, &TokenLogProb)| {
                    a.token == b.token && self.near(a.log_prob, b.log_prob)
                };
                let alike = whole.len() == log_probs.len() && whole.iter().zip(&log_probs).all(near);
                ensure(!self.fixture.deterministic || alike, LIKELY, || {
                    format!("{} in a whole reply, {} in a stream", brief(&whole), brief(&log_probs))
                })?;
            }
        }
        Ok(())
    }

    /// Checks what holds for every token's log-probability.
    fn valid(&self, likely: &TokenLogProb) -> Checked {
        let TokenLogProb { log_prob, likeliest, .. } = likely;
        let all = || [*log_prob].into_iter().chain(likeliest.iter().map(|(_, log_prob)| *log_prob));
        let slack = self.fixture.score_tolerance;
        ensure(all().all(|log_prob| log_prob.is_finite() && log_prob <= 0.0), LIKELY, || brief(likely))?;
        let sorted = likeliest.is_sorted_by(|(_, a), (_, b)| a >= b);
        let highest = likeliest.first().is_none_or(|(_, first)| *first >= log_prob - slack);
        ensure(likeliest.len() <= 2 && sorted && highest, LIKELY, || brief(likely))
    }

    /// Prompts that no template renders, and what their tokens are worth; or refusals.
    async fn prompts(&self, known: &[Known]) -> Checked {
        for (request, before) in known.iter().step_by(4) {
            let tokens = self.session.prompt_tokens(&request.messages);
            let tokens = tokens.or_else(|error| broken("prompt tokens are counted", error.to_string()))?;
            if let Some(tokens) = &tokens {
                let raw = StreamRequest { prompt: tokens.clone().into(), ..streamed(request) };
                if let Some(shown) = self.answered_or_unsupported(raw).await? {
                    self.same_reply(before, &shown.done)?;
                }
            }
            let text = StreamRequest { prompt: "It fails. ".into(), ..streamed(request) };
            self.answered_or_unsupported(text).await?;

            let asked = streamed(request).with_log_probs(Some(2)).with_prompt_log_probs(true);
            let Some(shown) = self.answered_or_unsupported(asked.clone()).await? else { continue };
            self.same_reply(before, &shown.done)?;
            let Some((first, rest)) = &shown.prompt else {
                return broken(PROMPT, "none".to_owned());
            };
            rest.iter().try_for_each(|likely| self.valid(likely))?;
            if let Some(tokens) = tokens {
                let told = [first].into_iter().chain(rest.iter().map(|likely| &likely.token));
                let kept = rest.len() + 1 == tokens.len()
                    && told.zip(&tokens).all(|(token, id)| token.id.is_none_or(|told| told == *id));
                ensure(kept, PROMPT, || format!("{} of {}", brief(&shown.prompt), brief(&tokens)))?;
            }
            let read = self.good(asked.with_max_new_tokens(0)).await?;
            let Completion { text, finish, usage, .. } = &read.done;
            let nothing = text.is_empty() && usage.completion_tokens.unwrap_or(0) == 0;
            ensure(nothing && *finish == FinishReason::Length, "a prompt can be read alone", || {
                brief(&read.done)
            })?;
        }
        Ok(())
    }

    async fn broken_streams(&self, known: &[Known]) -> Checked {
        let Some((request, _)) = known.first() else { return Ok(()) };
        let good = streamed(request);
        let mut bad = vec![
            good.clone().with_max_new_tokens(0),
            good.clone().with_sampling(Sampling { temperature: -1.0, ..good.sampling }),
            StreamRequest { prompt: vec![u32::MAX].into(), ..good.clone() },
            StreamRequest { prompt: Vec::<u32>::new().into(), ..good.clone() },
        ];
        if self.count(&request.messages)?.is_some() {
            bad.push(StreamRequest { prompt: self.beyond_the_context().into(), ..good });
        }
        for request in bad {
            if let Ok(shown) = self.shown(request.clone(), &CallContext::new()).await? {
                return broken(FAILS_ALONE, format!("{} to {}", brief(&shown.done), brief(&request)));
            }
        }
        self.again(known.iter()).await
    }

    async fn interrupted_streams(&self, known: &[Known]) -> Checked {
        for ((request, before), (cx, kind)) in known.iter().zip(stopped()) {
            says(kind, self.shown(streamed(request), &cx).await?.map(|shown| shown.done))?;

            drop(self.session.stream(streamed(request), &CallContext::new()));
            let mut left = self.session.stream(streamed(request), &CallContext::new());
            ends(self.fixture.patience, left.next()).await?;
            drop(left);
            self.again(known.iter()).await?;

            let cx = CallContext::new();
            let mut cancelled = self.session.stream(streamed(request), &cx);
            let mut parts: Vec<_> =
                ends(self.fixture.patience, cancelled.next()).await?.into_iter().collect();
            cx.cancel();
            parts.extend(ends(self.fixture.patience, cancelled.collect::<Vec<_>>()).await?);
            if let Err(error) = shown(parts)? {
                says(ErrorKind::Cancelled, Err::<(), _>(error))?;
            }

            // One that nobody reads, while others are answered.
            let mut unread = self.session.stream(streamed(request), &CallContext::new());
            let mut parts: Vec<_> = ends(self.fixture.patience, unread.next()).await?.into_iter().collect();
            self.again(known.iter()).await?;
            parts.extend(ends(self.fixture.patience, unread.collect::<Vec<_>>()).await?);
            let read = shown(parts)?.or_else(|error| broken(ANSWERED, error.to_string()))?;
            self.same_reply(before, &read.done)?;
        }
        Ok(())
    }

    /// The reply to a request that has one.
    async fn good(&self, request: StreamRequest) -> Checked<Shown> {
        let shown = self.shown(request, &CallContext::new()).await?;
        shown.or_else(|error| broken(ANSWERED, error.to_string()))
    }

    async fn answered_or_unsupported(&self, request: StreamRequest) -> Checked<Option<Shown>> {
        match self.shown(request, &CallContext::new()).await? {
            Ok(shown) => Ok(Some(shown)),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
            Err(error) => broken("a raw prompt is read or refused as unsupported", error.to_string()),
        }
    }

    async fn shown(&self, request: StreamRequest, cx: &CallContext) -> Checked<Result<Shown>> {
        let parts = async { self.session.stream(request, cx).collect().await };
        shown(ends(self.fixture.patience, parts).await?)
    }

    /// Compares what no [`GenerateRequest::score_reply`] adds.
    fn same_reply(&self, before: &Completion, now: &Completion) -> Checked {
        ensure(now.reply_scores.is_none(), SCORED, || brief(now))?;
        self.same(&before.clone().with_reply_scores(None), now)
    }

    fn near(&self, one: f32, other: f32) -> bool {
        (one - other).abs() <= self.fixture.score_tolerance
    }
}

/// The same request for a stream.
fn streamed(request: &GenerateRequest) -> StreamRequest {
    StreamRequest::new(Prompt::Messages(request.messages.clone()), request.max_new_tokens)
        .with_sampling(request.sampling)
        .with_seed(request.seed)
}

/// Puts the parts of a reply together, and checks that they fit.
fn shown(parts: Vec<Result<StreamPart>>) -> Checked<Result<Shown>> {
    let (mut ids, mut text, mut log_probs, mut prompt) = (Vec::new(), String::new(), Vec::new(), None);
    let last = parts.len();
    for (at, part) in parts.into_iter().enumerate() {
        let ended = ensure(at + 1 == last, ENDS, || format!("part {at} of {last} is the end"));
        match part {
            Err(error) => return ended.map(|()| Err(error)),
            Ok(StreamPart::Prompt { first, rest }) => {
                ensure(at == 0, PROMPT, || format!("as part {at}"))?;
                prompt = Some((first, rest));
            }
            Ok(StreamPart::Tokens { ids: next, text: piece, log_probs: likely }) => {
                ids.extend(next);
                text.push_str(&piece);
                log_probs.extend(likely.into_iter().flatten());
            }
            Ok(StreamPart::Done(done)) => {
                ended?;
                let kept = done.text == text
                    && done.tokens == ids
                    && done.log_probs.as_deref().unwrap_or_default() == log_probs;
                ensure(kept, TOGETHER, || {
                    format!("{} in parts, {}", brief(&(&text, &ids, &log_probs)), brief(&done))
                })?;
                return Ok(Ok(Shown { prompt, done }));
            }
        }
    }
    broken(ENDS, format!("the end after {last} parts"))
}
