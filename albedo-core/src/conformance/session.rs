//! The suite of [`ModelSession`].

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;

use super::{Checked, FITTING, PATIENCE, brief, broken, ends, ensure, says, stopped, succeeds};
use crate::backend::{
    Completion, FinishReason, GenerateRequest, Generated, Message, ModelSession, ResponseFormat, Role,
    Sampling, ScoreRequest, TokenScores,
};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};

mod streams;

/// What the session suite needs to know.
#[derive(Debug, Clone)]
pub struct SessionFixture {
    /// Conversations of different lengths, at least three, with room for the
    /// reply in the context.
    pub conversations: Vec<Vec<Message>>,
    /// Tokens of the longest reply to ask for, at least 2.
    pub max_new_tokens: u32,
    /// The same request has the same text.
    pub deterministic: bool,
    /// At temperature 1 other seeds give other texts.
    pub samples: bool,
    /// Replies to score, each with its number of tokens, the closing stop
    /// token not counted; none if the session cannot score.
    pub replies: Vec<(String, usize)>,
    /// Largest difference between two log-probabilities of the same token, in
    /// nats; 0 if they are equal bit for bit, however they were asked for.
    pub score_tolerance: f32,
    /// Longest time for one call.
    pub patience: Duration,
}

impl SessionFixture {
    /// The fixture of a deterministic session that samples and cannot score.
    pub fn new(conversations: Vec<Vec<Message>>) -> Self {
        Self {
            conversations,
            max_new_tokens: 16,
            deterministic: true,
            samples: true,
            replies: Vec::new(),
            score_tolerance: 0.0,
            patience: PATIENCE,
        }
    }
}

/// Checks what the engine relies on in a session: one answer per request; text
/// that depends on its request alone, greedy or sampled, in any company;
/// honest counts and finish reasons; bad requests (no token, a negative
/// temperature, a prompt beyond the context) that fail alone; response formats
/// that are kept or refused; scores; that a call can be cancelled, dropped or timed out without harm to others; and
/// streams, whose parts make the reply that a whole answer has.
///
/// # Errors
/// The first promise found broken.
pub async fn check_session(session: &dyn ModelSession, fixture: &SessionFixture) -> Checked {
    let suite = Suite { session, fixture };
    let model = session.model().clone();
    suite.model()?;
    let known = suite.alone().await?;
    suite.seeds(&known)?;
    suite.company(&known).await?;
    suite.failures(&known).await?;
    suite.formats(&known).await?;
    suite.scores(&known).await?;
    suite.interruptions(&known).await?;
    suite.streams(&known).await?;
    ensure(&model == session.model(), "the model's facts are stable", || format!("{:?}", session.model()))
}

struct Suite<'a> {
    session: &'a dyn ModelSession,
    fixture: &'a SessionFixture,
}

/// A request and the answer that it had when it was alone.
type Known = (GenerateRequest, Completion);

/// Promises that more than one check looks at.
const ONE_ANSWER: &str = "exactly one answer per request";
const ANSWERED: &str = "a good request is answered";
const ALONE: &str = "a reply depends on its request alone";
const FAILS_ALONE: &str = "a bad request fails alone";
const SCORED: &str = "a reply is scored token by token, with the closing stop token";
const SAME_SCORES: &str = "the same reply has the same scores";

impl Suite<'_> {
    fn model(&self) -> Checked {
        let model = self.session.model();
        ensure(model.stop_ids.is_sorted_by(|a, b| a < b), "stop ids are ascending", || {
            format!("{:?}", model.stop_ids)
        })?;
        ensure(model.context_length > 0, "the model has a context", || format!("{model:?}"))?;
        let Self { fixture, .. } = self;
        ensure(fixture.conversations.len() >= 3 && fixture.max_new_tokens >= 2, FITTING, || {
            "fewer than three conversations or two tokens".into()
        })?;
        for messages in &fixture.conversations {
            let (one, other) = (self.count(messages)?, self.count(messages)?);
            ensure(one == other, "prompt tokens are counted alike", || format!("{one:?}, then {other:?}"))?;
            let tokens = self.session.prompt_tokens(messages);
            let tokens = tokens.or_else(|error| broken("prompt tokens are counted", error.to_string()))?;
            ensure(
                tokens.as_ref().is_none_or(|tokens| Some(tokens.len() as u32) == one),
                "the tokens of a prompt are as many as are counted",
                || format!("{one:?} counted, {:?} told", tokens.as_ref().map(Vec::len)),
            )?;
            let needed = one.unwrap_or(0).saturating_add(fixture.max_new_tokens);
            ensure(needed <= model.context_length, FITTING, || {
                format!("a conversation that takes {needed} tokens with its reply")
            })?;
        }
        Ok(())
    }

    fn count(&self, messages: &[Message]) -> Checked<Option<u32>> {
        let counted = self.session.count_prompt_tokens(messages);
        counted.or_else(|error| broken("prompt tokens are counted", error.to_string()))
    }

    /// Every conversation, greedy and with two seeds, each in a call of its own.
    async fn alone(&self) -> Checked<Vec<Known>> {
        let mut known = Vec::new();
        for messages in &self.fixture.conversations {
            for (temperature, seed) in [(0.0, 1), (0.0, 2), (1.0, 1), (1.0, 2)] {
                let request = GenerateRequest::new(messages.clone(), self.fixture.max_new_tokens)
                    .with_sampling(Sampling { temperature, ..Sampling::default() })
                    .with_seed(seed)
                    .with_score_reply(self.fixture.replies.first().map(|(reply, _)| reply.as_str().into()));
                let answers = self.generate(vec![request.clone()], &CallContext::new()).await?;
                for answer in answers {
                    let completion = answer.or_else(|error| broken(ANSWERED, error.to_string()))?;
                    self.completion(&request, &completion)?;
                    known.push((request.clone(), completion));
                }
            }
        }
        Ok(known)
    }

    /// Checks what a completion says about itself.
    fn completion(&self, request: &GenerateRequest, completion: &Completion) -> Checked {
        let Completion { tokens, finish, usage, reply_scores, .. } = completion;
        let (written, most) = (usage.completion_tokens, request.max_new_tokens);
        ensure(written.is_none_or(|written| written <= most), "max_new_tokens is kept", || {
            format!("{written:?} tokens of {most}")
        })?;
        if let Some(counted) = self.count(&request.messages)? {
            ensure(usage.prompt_tokens == Some(counted), "usage has the prompt tokens counted", || {
                format!("{:?} of {counted}", usage.prompt_tokens)
            })?;
        }
        if !tokens.is_empty() {
            ensure(written == Some(tokens.len() as u32), "usage has the tokens written", || {
                format!("{written:?} of {}", tokens.len())
            })?;
        }
        let stop_ids = &self.session.model().stop_ids;
        let stop = tokens.iter().position(|token| stop_ids.contains(token)).map(|at| at + 1);
        let honest = match finish {
            FinishReason::Stop => tokens.is_empty() || stop == Some(tokens.len()),
            FinishReason::Length => written.is_none_or(|written| written == most) && stop.is_none(),
            FinishReason::Unknown => true,
        };
        ensure(honest, "the finish reason is right", || format!("{finish:?} with {}", brief(completion)))?;
        let scores = reply_scores.is_some() == request.score_reply.is_some();
        ensure(scores, "a reply is scored if that is asked for", || brief(reply_scores))
    }

    fn seeds(&self, known: &[Known]) -> Checked {
        if !self.fixture.deterministic {
            return Ok(());
        }
        let mut other = 0;
        for same in known.chunks_exact(4) {
            let [(_, greedy), (_, reseeded), (_, sampled), (_, resampled)] = same else { continue };
            ensure(self.alike(greedy, reseeded), "a greedy reply depends on no seed", || {
                format!("{} and {}", brief(greedy), brief(reseeded))
            })?;
            other += usize::from(sampled.text != resampled.text);
        }
        ensure(other > 0 || !self.fixture.samples, "other seeds give other texts at temperature 1", || {
            "the same texts".into()
        })
    }

    /// The same requests again: together, in reverse, twice each with shorter
    /// ones between them, and in concurrent calls.
    async fn company(&self, known: &[Known]) -> Checked {
        ensure(self.generate(Vec::new(), &CallContext::new()).await?.is_empty(), ONE_ANSWER, || {
            "an answer to no request".into()
        })?;
        self.again(known.iter()).await?;
        self.again(known.iter().rev()).await?;
        let short = |request: &GenerateRequest| request.clone().with_max_new_tokens(1);
        let crowd = known.iter().flat_map(|(request, _)| [request.clone(), short(request), request.clone()]);
        let crowd: Vec<_> = crowd.collect();
        let answers = self.generate(crowd.clone(), &CallContext::new()).await?;
        for (position, (request, answer)) in crowd.iter().zip(answers).enumerate() {
            let completion = answer.or_else(|error| broken(ANSWERED, error.to_string()))?;
            self.completion(request, &completion)?;
            if request.max_new_tokens > 1 {
                self.same(&known[position / 3].1, &completion)?;
            }
        }
        let calls = known.chunks(2).map(|known| self.again(known.iter()));
        join_all(calls).await.into_iter().collect()
    }

    async fn again(&self, known: impl Iterator<Item = &Known>) -> Checked {
        let (requests, before): (Vec<_>, Vec<_>) =
            known.map(|(request, before)| (request.clone(), before)).unzip();
        let answers = self.generate(requests, &CallContext::new()).await?;
        for (before, answer) in before.into_iter().zip(answers) {
            self.same(before, &answer.or_else(|error| broken(ANSWERED, error.to_string()))?)?;
        }
        Ok(())
    }

    /// Bad requests among good ones.
    async fn failures(&self, known: &[Known]) -> Checked {
        let Some((good, _)) = known.first() else { return Ok(()) };
        let mut bad = vec![
            good.clone().with_max_new_tokens(0),
            good.clone().with_sampling(Sampling { temperature: -1.0, ..good.sampling }),
        ];
        if self.count(&good.messages)?.is_some() {
            bad.push(good.clone().with_messages(self.beyond_the_context()));
        }
        let requests = known.iter().map(|(request, _)| request.clone());
        let requests: Vec<_> = bad.iter().cloned().chain(requests).chain(bad.iter().cloned()).collect();
        let good = bad.len()..bad.len() + known.len();
        let answers = self.generate(requests, &CallContext::new()).await?;
        for (position, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(completion) if good.contains(&position) => {
                    self.same(&known[position - good.start].1, &completion)?;
                }
                Err(error) if good.contains(&position) => return broken(FAILS_ALONE, error.to_string()),
                Ok(completion) => {
                    let what = ["no token", "a temperature of -1", "a prompt beyond the context"];
                    let what = what[position % good.end % bad.len()];
                    return broken(FAILS_ALONE, format!("an answer to {what}: {}", brief(&completion)));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// JSON where JSON is asked for, or a refusal.
    async fn formats(&self, known: &[Known]) -> Checked {
        const KEPT: &str = "a response format is kept or refused";
        let Some((request, _)) = known.first() else { return Ok(()) };
        let schema = serde_json::json!({ "type": "object" });
        for response in [ResponseFormat::Json, ResponseFormat::Schema { name: "any".into(), schema }] {
            let request = request.clone().with_score_reply(None).with_response(response);
            for answer in self.generate(vec![request], &CallContext::new()).await? {
                let kept = match &answer {
                    Ok(Completion { finish: FinishReason::Stop, text, .. }) => {
                        serde_json::from_str::<serde_json::Map<_, _>>(text).is_ok()
                    }
                    Ok(_) => true,
                    Err(error) => error.kind() == ErrorKind::Unsupported,
                };
                ensure(kept, KEPT, || brief(&answer))?;
            }
        }
        Ok(())
    }

    fn beyond_the_context(&self) -> Vec<Message> {
        let words = self.session.model().context_length as usize + 1;
        vec![Message::new(Role::User, "long ".repeat(words))]
    }

    async fn scores(&self, known: &[Known]) -> Checked {
        let Self { fixture: SessionFixture { conversations, replies, patience, .. }, .. } = self;
        let cx = CallContext::new();
        let Some(first) = replies.first() else {
            let request = ScoreRequest::new(conversations[0].clone(), "x");
            return match ends(*patience, self.session.score(vec![request], &cx)).await? {
                Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
                answer => broken("a session that cannot score says so", brief(&answer)),
            };
        };
        let empty = (String::new(), 0);
        let (mut requests, mut alone) = (Vec::new(), Vec::new());
        for messages in conversations {
            for (reply, tokens) in replies.iter().chain([&empty]) {
                let request = ScoreRequest::new(messages.clone(), reply.clone());
                let scores = self.score(vec![request.clone()]).await?;
                let kept = matches!(&*scores, [scores] if scores.log_probs.len() == tokens + 1);
                ensure(kept, SCORED, || format!("{} for {tokens} tokens", brief(&scores)))?;
                requests.push(request);
                alone.extend(scores);
            }
        }
        for scores in &alone {
            let valid = scores.log_probs.iter().all(|score| score.is_finite() && *score <= 0.0);
            ensure(valid, "log-probabilities are finite and at most 0", || brief(scores))?;
        }
        requests.reverse();
        let together = self.score(requests).await?;
        let same = |(one, other): (&TokenScores, &TokenScores)| self.close(Some(one), Some(other));
        let kept = together.len() == alone.len() && together.iter().rev().zip(&alone).all(same);
        ensure(kept, SAME_SCORES, || format!("{} together, {} alone", brief(&together), brief(&alone)))?;
        for ((request, completion), alone) in known.iter().step_by(4).zip(alone.chunks(replies.len() + 1)) {
            ensure(self.close(completion.reply_scores.as_ref(), alone.first()), SAME_SCORES, || {
                format!("{} with the reply to {}", brief(&completion.reply_scores), brief(request))
            })?;
        }

        let none = self.score(Vec::new()).await?;
        ensure(none.is_empty(), SCORED, || format!("{} for no request", brief(&none)))?;
        let long = ScoreRequest::new(self.beyond_the_context(), first.0.clone());
        if let Ok(scores) = ends(*patience, self.session.score(vec![long], &cx)).await? {
            return broken(FAILS_ALONE, format!("scores beyond the context: {}", brief(&scores)));
        }
        for (cx, kind) in stopped() {
            let request = ScoreRequest::new(conversations[0].clone(), first.0.clone());
            says(kind, ends(*patience, self.session.score(vec![request], &cx)).await?)?;
        }
        Ok(())
    }

    async fn score(&self, requests: Vec<ScoreRequest>) -> Checked<Vec<TokenScores>> {
        let cx = CallContext::new();
        succeeds(self.fixture.patience, SCORED, self.session.score(requests, &cx)).await
    }

    /// Calls that end early, each followed by ones that must not notice.
    async fn interruptions(&self, known: &[Known]) -> Checked {
        let requests = || known.iter().map(|(request, _)| request.clone()).collect::<Vec<_>>();
        for (cx, kind) in stopped() {
            for answer in self.generate(requests(), &cx).await? {
                says(kind, answer)?;
            }
            self.again(known.iter()).await?;
        }

        let cx = CallContext::new();
        let mut cancelled = self.session.generate(requests(), &cx);
        let beside = async {
            let first = cancelled.next().await;
            cx.cancel();
            first.into_iter().chain(cancelled.collect::<Vec<_>>().await).collect()
        };
        let (answers, beside) =
            futures::join!(ends(self.fixture.patience, beside), self.again(known.iter().rev()));
        beside?;
        for answer in place(answers?, known.len())? {
            if answer.is_err() {
                says(ErrorKind::Cancelled, answer)?;
            }
        }

        drop(self.session.generate(requests(), &CallContext::new()));
        let mut dropped = self.session.generate(requests(), &CallContext::new());
        ends(self.fixture.patience, dropped.next()).await?;
        drop(dropped);
        self.again(known.iter()).await
    }

    /// The answers to `requests` in their order.
    async fn generate(
        &self,
        requests: Vec<GenerateRequest>,
        cx: &CallContext,
    ) -> Checked<Vec<Result<Completion>>> {
        let expected = requests.len();
        let answers = async { self.session.generate(requests, cx).collect().await };
        place(ends(self.fixture.patience, answers).await?, expected)
    }

    fn same(&self, before: &Completion, now: &Completion) -> Checked {
        ensure(!self.fixture.deterministic || self.alike(before, now), ALONE, || {
            format!("{} after {}", brief(now), brief(before))
        })
    }

    fn alike(&self, one: &Completion, other: &Completion) -> bool {
        one.text == other.text
            && one.tokens == other.tokens
            && one.finish == other.finish
            && one.usage.prompt_tokens == other.usage.prompt_tokens
            && one.usage.completion_tokens == other.usage.completion_tokens
            && self.close(one.reply_scores.as_ref(), other.reply_scores.as_ref())
    }

    fn close(&self, one: Option<&TokenScores>, other: Option<&TokenScores>) -> bool {
        let log_probs = |scores: Option<&'_ TokenScores>| scores.map(|scores| scores.log_probs.clone());
        match (log_probs(one), log_probs(other)) {
            (Some(one), Some(other)) => {
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= self.fixture.score_tolerance;
                one.len() == other.len() && one.iter().zip(&other).all(near)
            }
            (one, other) => one == other,
        }
    }
}

/// `answers` in the order of the `expected` requests.
fn place(answers: Vec<Generated>, expected: usize) -> Checked<Vec<Result<Completion, Error>>> {
    let mut placed: Vec<_> = (0..expected).map(|_| None).collect();
    for Generated { index, result } in answers {
        match placed.get_mut(index) {
            Some(place @ None) => *place = Some(result),
            Some(Some(_)) => return broken(ONE_ANSWER, format!("two for request {index}")),
            None => return broken(ONE_ANSWER, format!("one for request {index} of {expected}")),
        }
    }
    let answered = placed.iter().flatten().count();
    ensure(answered == expected, ONE_ANSWER, || format!("{answered} for {expected} requests"))?;
    Ok(placed.into_iter().flatten().collect())
}

#[cfg(test)]
pub(crate) mod tests;
