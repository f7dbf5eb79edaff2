//! Three remote models judge 128 samples in two orders while their providers
//! have a bad day, in virtual time: a test asserts on it, a bench prints it.

use std::sync::Arc;
use std::time::Duration;

use albedo_core::wrappers::chaos::{Chaos, ChaosScript, Refusal, Spread, Storm, clairvoyant};
use albedo_core::wrappers::{ConcurrencySettings, Guarded, Guards, Route, Surroundings, Tally};
use albedo_core::{
    CallContext, Clock, Completion, Digest, Error, ErrorKind, FinishReason, GenerateRequest, Generated,
    Message, MessageRole, ModelInfo, ModelSession, Result, ScoreRequest, TokenScores, Usage, VirtualClock,
};
use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::{self, BoxStream, StreamExt};

const MODELS: u64 = 3;
const SAMPLES: u64 = 128;
const ORDERS: u64 = 2;

/// One day of the providers.
#[derive(Clone)]
pub(crate) struct Day {
    pub(crate) name: &'static str,
    /// The route asked first.
    pub(crate) first: ChaosScript,
    /// The route asked when that fails.
    pub(crate) second: Option<ChaosScript>,
    pub(crate) guards: Guards,
}

/// What became of it.
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) calls: u64,
    pub(crate) answered: u64,
    /// Errors of the calls that were not answered.
    pub(crate) errors: Vec<Error>,
    /// Tries sent to the first and the second route of each model.
    pub(crate) tries: Vec<[u32; 2]>,
    pub(crate) rate_limited: u32,
    /// Most tries of one request at the first route.
    pub(crate) most_tries: u32,
    pub(crate) most_in_flight: u32,
    pub(crate) allowed: u32,
    pub(crate) wall: Duration,
    pub(crate) clairvoyant: Duration,
}

impl Outcome {
    /// How much longer it took than who knew the script.
    pub(crate) fn ratio(&self) -> f64 {
        self.wall.as_secs_f64() / self.clairvoyant.as_secs_f64()
    }
}

/// Answers as a judge's prompt would be: first token after two seconds, then
/// five seconds of writing, in the median.
fn usual() -> ChaosScript {
    ChaosScript {
        first_token: Spread { median: 2.0, sigma: 0.4 },
        writing: Spread { median: 5.0, sigma: 0.4 },
        ..ChaosScript::default()
    }
}

pub(crate) fn days() -> Vec<Day> {
    let mut guards = Guards::default();
    guards.concurrency = ConcurrencySettings { initial: 4, max: 8, ..guards.concurrency };
    guards.deadlines.first_token_secs = Some(10.0);
    guards.deadlines.stall_secs = Some(10.0);
    let storm = |from_secs, until_secs, tells| Storm { from_secs, until_secs, tells };
    let day = |name, first| Day { name, first, second: None, guards };
    let fallback = |name, first| Day { second: Some(usual()), ..day(name, first) };
    vec![
        day("calm", usual()),
        day(
            "429 storms that say how long",
            ChaosScript { storms: vec![storm(20.0, 40.0, true), storm(90.0, 120.0, true)], ..usual() },
        ),
        day(
            "429 storms that do not",
            ChaosScript { storms: vec![storm(20.0, 25.0, false), storm(90.0, 98.0, false)], ..usual() },
        ),
        day("5 % errors, 2 % garbage", ChaosScript { failed: 0.05, garbled: 0.02, ..usual() }),
        day("2 % silent, 2 % stalled", ChaosScript { silent: 0.02, stalled: 0.02, ..usual() }),
        day("capacity of 6 at a time", ChaosScript { capacity: Some(6), ..usual() }),
        day("2 % of requests always fail", ChaosScript { poisoned: 0.02, ..usual() }),
        day(
            "all of it",
            ChaosScript {
                failed: 0.05,
                garbled: 0.02,
                silent: 0.01,
                stalled: 0.01,
                cut: 0.02,
                storms: vec![storm(30.0, 50.0, true), storm(110.0, 114.0, false)],
                ..usual()
            },
        ),
        fallback("first route down", ChaosScript { refusal: Some(Refusal::Down), ..usual() }),
        fallback("first route unpaid (402)", ChaosScript { refusal: Some(Refusal::Unpaid), ..usual() }),
    ]
}

/// Lives through `day` as the script of `year` has it.
pub(crate) fn live(day: &Day, year: u64) -> Outcome {
    let virtual_clock = VirtualClock::new();
    let clock: Arc<dyn Clock> = Arc::new(virtual_clock.clone());
    let (mut sessions, mut models, mut expected) = (vec![], vec![], Duration::ZERO);
    for seed in (0..MODELS).map(|model| year * MODELS + model) {
        let chaos = |script: &ChaosScript| {
            let script = ChaosScript { seed, ..script.clone() };
            Arc::new(Chaos::new(Arc::new(Canned::new()), script, Arc::clone(&clock)))
        };
        let requests = requests(seed);
        let answering = ChaosScript { seed, ..day.second.as_ref().unwrap_or(&day.first).clone() };
        let keys: Vec<_> = requests.iter().map(Chaos::key).collect();
        let Guards { deadlines, retry, concurrency, .. } = &day.guards;
        expected = expected.max(clairvoyant(&answering, &keys, deadlines, retry.attempts, concurrency.max));
        let routes: Vec<_> =
            [Some(&day.first), day.second.as_ref()].into_iter().flatten().map(chaos).collect();
        sessions.push(routes.clone());
        models.push((routes, requests));
    }
    let tally = Arc::new(Tally::default());
    let cx = CallContext::new().with_events(tally.clone());
    let judging = models.into_iter().map(|(routes, requests)| {
        let (clock, cx) = (Arc::clone(&clock), &cx);
        async move {
            let route = |(place, chaos): (usize, Arc<Chaos>)| {
                Route::new(format!("route {place}"), chaos as Arc<dyn ModelSession>)
            };
            let routes = routes.into_iter().enumerate().map(route).collect();
            let surroundings = Surroundings::new(clock, &day.guards);
            let session = Guarded::open(routes, day.guards, surroundings, cx).await?;
            Ok(session.generate(requests, cx).map(|answer| answer.result).collect::<Vec<_>>().await)
        }
    });
    let answers: Vec<Result<Vec<Result<Completion>>>> = virtual_clock
        .run(join_all(judging))
        .unwrap_or_else(|| vec![Err(Error::bug("judge", "a call hangs"))]);
    let answers = answers.into_iter().flat_map(|answers| answers.unwrap_or_else(|error| vec![Err(error)]));
    let (answered, errors): (Vec<_>, Vec<_>) = answers.partition(Result::is_ok);
    let sum = |chaos: &Arc<Chaos>| chaos.tries().values().sum();
    Outcome {
        name: day.name,
        calls: MODELS * SAMPLES * ORDERS,
        answered: answered.len() as u64,
        errors: errors.into_iter().filter_map(Result::err).collect(),
        tries: sessions.iter().map(|routes| [sum(&routes[0]), routes.get(1).map_or(0, sum)]).collect(),
        rate_limited: tally.routes().values().map(|route| route.rate_limited).sum(),
        most_tries: (sessions.iter())
            .filter_map(|routes| routes[0].tries().into_values().max())
            .max()
            .unwrap_or(0),
        most_in_flight: sessions.iter().flatten().map(|chaos| chaos.most_in_flight()).max().unwrap_or(0),
        allowed: day.guards.concurrency.max,
        wall: clock.now(),
        clairvoyant: expected,
    }
}

fn requests(model: u64) -> Vec<GenerateRequest> {
    (0..SAMPLES * ORDERS)
        .map(|seed| {
            GenerateRequest::new(
                vec![Message::new(MessageRole::User, format!("model {model}: which is better?"))],
                64,
            )
            .with_seed(seed)
        })
        .collect()
}

/// Answers at once, and tells a price.
#[derive(Debug)]
struct Canned(ModelInfo);

impl Canned {
    fn new() -> Self {
        let digest = Digest::of("canned");
        Self(ModelInfo::new(digest, "canned", 4096).with_text(digest, digest, vec![]).with_config(digest))
    }
}

#[async_trait]
impl ModelSession for Canned {
    fn model(&self) -> &ModelInfo {
        &self.0
    }

    fn count_prompt_tokens(&self, _: &[Message]) -> Result<Option<u32>> {
        Ok(None)
    }

    fn generate(&self, requests: Vec<GenerateRequest>, _: &CallContext) -> BoxStream<'static, Generated> {
        let answer = |index| {
            let completion =
                Completion::new("the first", FinishReason::Stop, Usage::counted(9, 2).with_price(1e-4));
            Generated { index, result: Ok(completion) }
        };
        stream::iter((0..requests.len()).map(answer).collect::<Vec<_>>()).boxed()
    }

    async fn score(&self, _: Vec<ScoreRequest>, _: &CallContext) -> Result<Vec<TokenScores>> {
        Err(Error::new(ErrorKind::Unsupported, "score", "a canned answer cannot"))
    }
}
