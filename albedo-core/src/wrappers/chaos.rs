//! A provider's bad days, scripted: for tests and benches of what is built to
//! bear them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{BoxStream, FuturesUnordered};

use super::{DeadlineSettings, secs};
use crate::backend::{
    Completion, FinishReason, GenerateRequest, Generated, Message, ModelInfo, ModelSession, ModelSessionExt,
    ScoreRequest, TokenScores,
};
use crate::clock::Clock;
use crate::context::{CallContext, CallSignal};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Reach, Result, Retry};
use crate::rng::{Stream, Use, derive_seed};

mod clairvoyant;

pub use clairvoyant::clairvoyant;

const OPERATION: &str = "call a scripted provider";

/// What happens to which try. Everything but storms is a pure function of seed,
/// request and the number of the try, so that it can be known beforehand.
#[derive(Debug, Clone, PartialEq)]
pub struct ChaosScript {
    /// Seed of all that is drawn.
    pub seed: u64,
    /// Time to the first token.
    pub first_token: Spread,
    /// Time from there to the end.
    pub writing: Spread,
    /// Time until a try that fails does.
    pub failing_secs: f64,
    /// Share of tries that end in a server's error.
    pub failed: f64,
    /// Share of tries whose answer is unreadable.
    pub garbled: f64,
    /// Share of tries that never begin.
    pub silent: f64,
    /// Share of tries that begin and never go on.
    pub stalled: f64,
    /// Share of tries that end too early, without a finish reason.
    pub cut: f64,
    /// Share of requests whose every try fails.
    pub poisoned: f64,
    /// Times at which every new try is refused.
    pub storms: Vec<Storm>,
    /// More calls than these at a time are refused.
    pub capacity: Option<u32>,
    /// What every try is refused with, if any.
    pub refusal: Option<Refusal>,
}

/// A log-normal time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// In seconds.
    pub median: f64,
    /// Standard deviation of its logarithm.
    pub sigma: f64,
}

/// A time at which every new try is refused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Storm {
    /// In the clock's seconds.
    pub from_secs: f64,
    /// In the clock's seconds.
    pub until_secs: f64,
    /// Whether refusals say how long to wait.
    pub tells: bool,
}

/// What every try is refused with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The server is down.
    Down,
    /// The account is empty: the operator has to pay.
    Unpaid,
}

impl Default for ChaosScript {
    /// A good day: answers at once.
    fn default() -> Self {
        let at_once = Spread { median: 0.0, sigma: 0.0 };
        Self {
            seed: 0,
            first_token: at_once,
            writing: at_once,
            failing_secs: 0.3,
            failed: 0.0,
            garbled: 0.0,
            silent: 0.0,
            stalled: 0.0,
            cut: 0.0,
            poisoned: 0.0,
            storms: vec![],
            capacity: None,
            refusal: None,
        }
    }
}

/// What happens to one try.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fate {
    /// Until the first token, if there is one.
    pub first_token: Option<Duration>,
    /// Until it ends by itself, if it does.
    pub ends: Option<Duration>,
    /// How it ends.
    pub end: End,
}

/// How a try ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With the answer.
    Answered,
    /// With half of it.
    Cut,
    /// With an error of this kind.
    Failed(ErrorKind),
    /// Not at all.
    Never,
}

impl ChaosScript {
    /// What happens to try `number`, from 0, of the request `key`, outside of
    /// storms.
    pub fn fate(&self, key: u64, number: u32) -> Fate {
        let stream = |number: u64| {
            let parts = [self.seed.to_le_bytes(), key.to_le_bytes(), number.to_le_bytes()];
            Stream::new(derive_seed("albedo chaos", &parts.each_ref().map(|part| &part[..])), Use::Chaos)
        };
        let failing =
            |kind| Fate { first_token: None, ends: Some(secs(self.failing_secs)), end: End::Failed(kind) };
        if stream(u64::MAX).unit_at(0) < self.poisoned {
            return failing(ErrorKind::Unavailable);
        }
        let drawn = stream(number.into());
        let first_token = self.first_token.draw(drawn.unit_at(1), drawn.unit_at(2));
        let ends = first_token + self.writing.draw(drawn.unit_at(3), drawn.unit_at(4));
        let whole = Fate { first_token: Some(first_token), ends: Some(ends), end: End::Answered };
        let mut lot = drawn.unit_at(0);
        let mut falls = |share: f64| {
            lot -= share;
            lot < 0.0
        };
        if falls(self.failed) {
            failing(ErrorKind::Unavailable)
        } else if falls(self.garbled) {
            Fate { end: End::Failed(ErrorKind::Protocol), ..whole }
        } else if falls(self.silent) {
            Fate { first_token: None, ends: None, end: End::Never }
        } else if falls(self.stalled) {
            Fate { ends: None, end: End::Never, ..whole }
        } else if falls(self.cut) {
            Fate { end: End::Cut, ..whole }
        } else {
            whole
        }
    }

    /// The storm at `now`.
    fn storm(&self, now: Duration) -> Option<&Storm> {
        self.storms.iter().find(|storm| (secs(storm.from_secs)..secs(storm.until_secs)).contains(&now))
    }
}

impl Spread {
    /// Box and Muller's normal number of two uniform ones, as an exponent.
    fn draw(self, one: f64, other: f64) -> Duration {
        let normal = (-2.0 * (1.0 - one).ln()).sqrt() * (std::f64::consts::TAU * other).cos();
        secs(self.median * (self.sigma * normal).exp())
    }
}

impl Fate {
    /// How long a try of this fate takes under `deadlines`.
    pub fn takes(&self, deadlines: &DeadlineSettings) -> Duration {
        let begun = |first: Duration| (first, deadlines.stall_secs);
        let silence = match (self.end, self.first_token) {
            (End::Never, None) => Some((Duration::ZERO, deadlines.first_token_secs)),
            (End::Never, Some(first)) => Some(begun(first)),
            _ => None,
        };
        let ends = match silence {
            Some((from, limit)) => limit.map(|limit| from + secs(limit)),
            None => self.ends,
        };
        ends.into_iter().chain(deadlines.total_secs.map(secs)).min().unwrap_or(Duration::MAX)
    }
}

/// A session whose calls suffer what a script says, and are counted.
#[derive(Debug)]
pub struct Chaos(Arc<Scripted>);

#[derive(Debug)]
struct Scripted {
    inner: Arc<dyn ModelSession>,
    script: ChaosScript,
    clock: Arc<dyn Clock>,
    tries: Mutex<HashMap<u64, u32>>,
    in_flight: AtomicU32,
    most_in_flight: AtomicU32,
}

impl Chaos {
    /// `inner` under `script`.
    pub fn new(inner: Arc<dyn ModelSession>, script: ChaosScript, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Scripted {
            inner,
            script,
            clock,
            tries: Mutex::default(),
            in_flight: AtomicU32::new(0),
            most_in_flight: AtomicU32::new(0),
        }))
    }

    /// The most calls that were under way at one time.
    pub fn most_in_flight(&self) -> u32 {
        self.0.most_in_flight.load(Ordering::Relaxed)
    }

    /// The tries of each request, by its key.
    pub fn tries(&self) -> HashMap<u64, u32> {
        self.0.tries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a script knows `request` by.
    pub fn key(request: &GenerateRequest) -> u64 {
        let messages = Digest::of_json(&request.messages).unwrap_or(Digest::of([]));
        derive_seed("albedo chaos request", &[messages.as_bytes(), &request.seed.to_le_bytes()])
    }
}

/// Counts a call while it is under way.
struct Counted<'a>(&'a Scripted);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Scripted {
    async fn answer(&self, request: GenerateRequest, cx: &CallContext) -> Result<Completion> {
        let key = Chaos::key(&request);
        let number = {
            let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
            let number = tries.entry(key).or_default();
            *number += 1;
            *number - 1
        };
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        let _counted = Counted(self);
        self.most_in_flight.fetch_max(now, Ordering::Relaxed);
        let begun = self.clock.now();
        let at = |time: Duration| self.clock.sleep_until(begun + time);
        let failing = secs(self.script.failing_secs);
        match self.script.refusal {
            Some(Refusal::Down) => {
                at(failing).await;
                return Err(Error::new(ErrorKind::Unavailable, OPERATION, "it is down"));
            }
            Some(Refusal::Unpaid) => {
                at(failing).await;
                return Err(Error::new(ErrorKind::ResourceExhausted, OPERATION, "the account is empty")
                    .with_fault(Fault::Operator)
                    .with_reach(Reach::Duel)
                    .with_retry(Retry::Never));
            }
            None => {}
        }
        let slow_down = |pause: Option<Duration>| {
            let error = Error::new(ErrorKind::RateLimited, OPERATION, "it asks to slow down");
            Err(pause.map(Retry::After).into_iter().fold(error, Error::with_retry))
        };
        if self.script.capacity.is_some_and(|capacity| now > capacity) {
            at(failing).await;
            return slow_down(None);
        }
        if let Some(storm) = self.script.storm(begun) {
            at(failing).await;
            let rest = secs(storm.until_secs).saturating_sub(self.clock.now());
            return slow_down(storm.tells.then_some(rest));
        }

        let fate = self.script.fate(key, number);
        if let Some(first_token) = fate.first_token {
            at(first_token).await;
            cx.signal(CallSignal::Token);
            // A token a second, so that only a stall looks like one.
            let mut next = first_token + Duration::from_secs(1);
            while fate.ends.is_some_and(|ends| next < ends) {
                at(next).await;
                cx.signal(CallSignal::Token);
                next += Duration::from_secs(1);
            }
        }
        match fate.ends {
            Some(ends) => at(ends).await,
            None => std::future::pending().await,
        }
        if let End::Failed(kind) = fate.end {
            return Err(Error::new(kind, OPERATION, "the script has it fail"));
        }
        let answer = self.inner.generate_one(request, cx).await?;
        Ok(match fate.end {
            End::Cut => {
                let text = answer.text.chars().take(answer.text.chars().count() / 2).collect();
                Completion { text, finish: FinishReason::Unknown, tokens: vec![], ..answer }
            }
            _ => answer,
        })
    }
}

#[async_trait]
impl ModelSession for Chaos {
    fn model(&self) -> &ModelInfo {
        self.0.inner.model()
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>> {
        self.0.inner.count_prompt_tokens(messages)
    }

    fn prompt_tokens(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        self.0.inner.prompt_tokens(messages)
    }

    fn text_tokens(&self, text: &str) -> Result<Option<Vec<u32>>> {
        self.0.inner.text_tokens(text)
    }

    fn kept(&self, request: &GenerateRequest) {
        self.0.inner.kept(request);
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let answers = requests.into_iter().enumerate().map(|(index, request)| {
            let (scripted, cx) = (Arc::clone(&self.0), cx.clone());
            async move {
                let result = cx.run(OPERATION, scripted.answer(request, &cx)).await;
                Generated { index, result: result.and_then(|result| result) }
            }
        });
        answers.collect::<FuturesUnordered<_>>().boxed()
    }

    async fn score(&self, requests: Vec<ScoreRequest>, cx: &CallContext) -> Result<Vec<TokenScores>> {
        self.0.inner.score(requests, cx).await
    }
}
