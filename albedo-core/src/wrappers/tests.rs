use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde_json::json;

use super::chaos::{Chaos, ChaosScript, Refusal, Spread};
use super::*;
use crate::backend::{
    Completion, FinishReason, GenerateRequest, Generated, Message, ModelBackend, ModelInfo, ModelSession,
    ModelSource, Role, ScoreRequest, TokenScores, Usage,
};
use crate::clock::{SystemClock, VirtualClock};
use crate::conformance::check_session;
use crate::conformance::session::tests::{Fake, Flaw, fixture};
use crate::context::{CallContext, CallSignal};
use crate::digest::Digest;
use crate::error::{Fault, Retry};
use crate::identity::Identity;
use crate::registry::{BuildContext, CheckContext, Factory, Plugin, Registry};

/// Answers as its script says, which is told how often it was asked before.
struct Scripted {
    info: ModelInfo,
    script: Box<Script>,
    asked: AtomicU32,
    kept: AtomicU32,
}

/// The answer's price or its error, by how many were asked for before.
type Script = dyn Fn(u32, &CallContext) -> Result<f64> + Send + Sync;

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Scripted {
    fn new(script: impl Fn(u32, &CallContext) -> Result<f64> + Send + Sync + 'static) -> Arc<Self> {
        let info = Fake::new(Flaw::None).model().clone();
        Arc::new(Self { info, script: Box::new(script), asked: AtomicU32::new(0), kept: AtomicU32::new(0) })
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl ModelSession for Scripted {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn count_prompt_tokens(&self, _: &[Message]) -> Result<Option<u32>> {
        Ok(None)
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let answer = |index| {
            let result = (self.script)(self.asked.fetch_add(1, Ordering::Relaxed), cx);
            let completion =
                |price| Completion::new("answer", FinishReason::Stop, Usage::counted(1, 1).with_price(price));
            Generated { index, result: result.map(completion) }
        };
        stream::iter((0..requests.len()).map(answer).collect::<Vec<_>>()).boxed()
    }

    fn kept(&self, _: &GenerateRequest) {
        self.kept.fetch_add(1, Ordering::Relaxed);
    }

    async fn score(&self, _: Vec<ScoreRequest>, _: &CallContext) -> Result<Vec<TokenScores>> {
        Err(Error::new(ErrorKind::Unsupported, "score", "no scores"))
    }
}

fn request(seed: u64) -> GenerateRequest {
    GenerateRequest::new(vec![Message::new(Role::User, "which?")], 4).with_seed(seed)
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "ask", "no")
}

/// A clock, and what of a wrapper's surroundings a test looks at.
struct World {
    time: VirtualClock,
    clock: Arc<dyn Clock>,
    tally: Arc<Tally>,
}

impl World {
    fn new() -> Self {
        let time = VirtualClock::new();
        Self { clock: Arc::new(time.clone()), time, tally: Arc::default() }
    }

    /// A context whose calls are counted.
    fn context(&self) -> CallContext {
        CallContext::new().with_events(self.tally.clone())
    }

    fn chaos(&self, script: ChaosScript) -> Arc<Chaos> {
        Arc::new(Chaos::new(Arc::new(Fake::new(Flaw::None)), script, Arc::clone(&self.clock)))
    }

    /// `sessions` behind `guards`, as routes `a`, `b` and so on.
    fn guard(&self, sessions: Vec<Arc<dyn ModelSession>>, guards: Guards) -> Guarded<dyn ModelSession> {
        let routes = sessions.into_iter().zip('a'..).map(|(session, name)| Route::new(name, session));
        self.open(routes.collect(), guards).expect("opens")
    }

    fn open(
        &self,
        routes: Vec<Route<dyn ModelSession>>,
        guards: Guards,
    ) -> Result<Guarded<dyn ModelSession>> {
        let surroundings = Surroundings::new(Arc::clone(&self.clock), &guards);
        let cx = self.context();
        self.run(Guarded::open(routes, guards, surroundings, &cx))
    }

    /// Tokio's timers exist in it, but do not move: nothing here may need them.
    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let _entered = runtime.enter();
        self.time.run(future).expect("nothing waits for ever")
    }

    /// The answers to `count` requests, in order.
    fn ask(&self, session: &dyn ModelSession, count: u64) -> Vec<Result<Completion>> {
        let requests = (0..count).map(request).collect();
        let cx = self.context();
        let mut answers: Vec<_> = self.run(session.generate(requests, &cx).collect());
        answers.sort_by_key(|answer| answer.index);
        answers.into_iter().map(|answer| answer.result).collect()
    }

    fn seconds(&self) -> f64 {
        self.clock.now().as_secs_f64()
    }
}

/// Guards that do nothing, for one of them to be looked at.
fn nothing() -> Guards {
    Guards {
        retry: RetrySettings { attempts: 1, ..RetrySettings::default() },
        deadlines: DeadlineSettings::none(),
        concurrency: ConcurrencySettings { initial: 1000, max: 1000, decrease: 0.5 },
        breaker: BreakerSettings { failures: 1000, ..BreakerSettings::default() },
        ..Guards::default()
    }
}

fn down() -> ChaosScript {
    ChaosScript { refusal: Some(Refusal::Down), ..ChaosScript::default() }
}

fn unpaid() -> ChaosScript {
    ChaosScript { refusal: Some(Refusal::Unpaid), ..ChaosScript::default() }
}

fn takes(median: f64) -> ChaosScript {
    ChaosScript { first_token: Spread { median, sigma: 0.0 }, ..ChaosScript::default() }
}

#[test]
fn every_open_route_hears_that_an_answer_is_kept() {
    let sessions = [Scripted::new(|_, _| Ok(0.0)), Scripted::new(|_, _| Ok(0.0))];
    let [first, second] = sessions.clone();
    World::new().guard(vec![first, second], nothing()).kept(&request(0));
    assert_eq!(sessions.map(|session| session.kept.load(Ordering::Relaxed)), [1, 1]);
}

#[test]
fn every_wrapper_keeps_a_sessions_promises() {
    let troubled = ChaosScript {
        first_token: Spread { median: 1.0, sigma: 0.5 },
        writing: Spread { median: 3.0, sigma: 0.5 },
        failed: 0.1,
        garbled: 0.05,
        silent: 0.05,
        stalled: 0.05,
        ..ChaosScript::default()
    };
    let slow = ChaosScript { silent: 0.3, ..takes(1.0) };
    let retry = RetrySettings { attempts: 20, ..RetrySettings::default() };
    let tight = ConcurrencySettings { initial: 1, max: 3, decrease: 0.5 };
    let good = ChaosScript::default;
    for (what, scripts, guards) in [
        ("nothing", vec![good()], nothing()),
        ("chaos on a good day", vec![takes(2.0)], nothing()),
        ("retry", vec![ChaosScript { failed: 0.3, ..good() }], Guards { retry, ..nothing() }),
        ("deadlines", vec![takes(2.0)], Guards { deadlines: DeadlineSettings::default(), ..nothing() }),
        ("concurrency", vec![takes(2.0)], Guards { concurrency: tight, ..nothing() }),
        ("breaker", vec![good()], Guards { breaker: BreakerSettings::default(), ..nothing() }),
        ("order", vec![ChaosScript { failed: 0.5, ..good() }, takes(1.0)], Guards { retry, ..nothing() }),
        ("hedge", vec![slow.clone(), takes(1.0)], Guards { hedge_after_secs: Some(3.0), ..nothing() }),
        (
            "all",
            vec![troubled.clone(), slow],
            Guards { retry, hedge_after_secs: Some(5.0), ..Guards::default() },
        ),
        ("all, one route", vec![troubled], Guards { retry, ..Guards::default() }),
    ] {
        let world = World::new();
        let sessions =
            scripts.into_iter().map(|script| world.chaos(script) as Arc<dyn ModelSession>).collect();
        let session = world.guard(sessions, guards);
        let checked = world.run(check_session(&session, &fixture()));
        checked.unwrap_or_else(|broken| panic!("{what}: {broken}"));
    }
}

#[tokio::test]
async fn the_wrappers_keep_their_promises_on_the_systems_clock() {
    let surroundings = Surroundings::new(Arc::new(SystemClock::default()), &Guards::default());
    let routes = vec![Route::new("a", Arc::new(Fake::new(Flaw::None)) as Arc<dyn ModelSession>)];
    let cx = CallContext::new();
    let session = Guarded::open(routes, Guards::default(), surroundings, &cx).await.expect("opens");
    check_session(&session, &fixture()).await.expect("conforms");
}

#[test]
fn the_second_route_serves_while_the_first_is_down() {
    let world = World::new();
    let (first, second) = (world.chaos(down()), world.chaos(takes(1.0)));
    let session = world.guard(vec![first.clone(), second.clone()], Guards::default());
    assert!(world.ask(&session, 100).iter().all(Result::is_ok));
    assert_eq!(first.tries().values().sum::<u32>(), 5, "the breaker's threshold");
    assert_eq!(second.tries().values().sum::<u32>(), 100);
    // After the cool-down one request probes it, and is answered all the same.
    world.run(world.clock.sleep_until(Duration::from_secs(1000)));
    assert!(world.ask(&session, 100).iter().all(Result::is_ok));
    assert_eq!(first.tries().values().sum::<u32>(), 6);
}

#[test]
fn an_unpaid_route_is_stopped_at_once_and_for_good() {
    let world = World::new();
    let (first, second) = (world.chaos(unpaid()), world.chaos(takes(1.0)));
    let session = world.guard(vec![first.clone(), second], Guards::default());
    assert!(world.ask(&session, 100).iter().all(Result::is_ok));
    let tries = || first.tries().values().sum::<u32>();
    // No more were under way when the first was refused.
    assert!(tries() <= 4, "{}", tries());
    let before = tries();
    world.run(world.clock.sleep_until(Duration::from_secs(10_000)));
    assert!(world.ask(&session, 100).iter().all(Result::is_ok));
    assert_eq!(tries(), before);

    let world = World::new();
    let only = world.chaos(unpaid());
    let session = world.guard(vec![only.clone()], Guards::default());
    for answer in world.ask(&session, 100) {
        let error = answer.expect_err("unpaid");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::ResourceExhausted, Fault::Operator));
        assert_eq!(error.retry(), Retry::Never);
        assert!(error.to_string().contains("the account is empty (route: a)"), "{error}");
    }
    assert!(only.tries().values().sum::<u32>() <= 4);
}

#[test]
fn an_error_for_good_is_not_retried_past_the_cap() {
    let world = World::new();
    let session = Scripted::new(|_, _| Err(error(ErrorKind::Unavailable)));
    let guarded = world.guard(vec![session.clone()], Guards::default());
    let failed = world.ask(&guarded, 1).remove(0).expect_err("always");
    assert_eq!(failed.retry(), Retry::Exhausted { attempts: 5 });
    assert_eq!(session.asked(), 5);

    // What concerns one request only is not retried, and stops no route.
    let session = Scripted::new(|asked, _| match asked {
        0 => Err(error(ErrorKind::DataInvalid).with_fault(Fault::Infrastructure)),
        1 => Err(error(ErrorKind::Unsupported)),
        _ => Ok(0.0),
    });
    let guarded = world.guard(vec![session.clone()], Guards::default());
    let kinds = world.ask(&guarded, 3).into_iter().map(|answer| answer.err().map(|error| error.kind()));
    let expected = [Some(ErrorKind::DataInvalid), Some(ErrorKind::Unsupported), None];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
    assert_eq!(session.asked(), 3);
}

#[test]
fn no_more_calls_of_a_route_are_under_way_than_its_target_takes() {
    let world = World::new();
    let target = world.chaos(takes(1.0));
    let route = Route::new("a", target.clone() as Arc<dyn ModelSession>).at_most(2);
    let session = world.open(vec![route], nothing()).expect("opens");
    assert!(world.ask(&session, 10).iter().all(Result::is_ok));
    assert_eq!((target.most_in_flight(), world.seconds()), (2, 5.0));
}

#[test]
fn a_slow_route_is_hedged_and_the_loser_cancelled() {
    let world = World::new();
    let (slow, fast) = (world.chaos(takes(100.0)), world.chaos(takes(1.0)));
    let guards = Guards { hedge_after_secs: Some(5.0), ..Guards::default() };
    let session = world.guard(vec![slow.clone(), fast], guards);
    assert!(world.ask(&session, 4).iter().all(Result::is_ok));
    assert_eq!(world.seconds(), 6.0);
    let routes = world.tally.routes();
    assert_eq!((routes["a"].tries, routes["a"].abandoned), (4, 4));
    assert_eq!((routes["b"].tries, routes["b"].answered), (4, 4));
    // Losing a race is no failure: the slow route is asked again, as often as before.
    assert!(world.ask(&session, 4).iter().all(Result::is_ok));
    assert_eq!(world.tally.routes()["a"].tries, 8);
    // One that fails is not waited for.
    let session = world.guard(vec![world.chaos(down()), world.chaos(takes(1.0))], guards);
    let before = world.seconds();
    assert!(world.ask(&session, 1)[0].is_ok());
    assert!(world.seconds() - before < 2.0);
}

#[test]
fn a_hedge_that_fails_or_is_turned_away_is_asked_again() {
    let silent = |world: &World| world.chaos(ChaosScript { silent: 1.0, ..takes(1.0) });
    let second =
        || Scripted::new(|asked, _| if asked == 0 { Err(error(ErrorKind::Unavailable)) } else { Ok(0.0) });
    let hedged = Guards { hedge_after_secs: Some(3.0), ..nothing() };
    let world = World::new();
    let session = world.guard(vec![silent(&world), second()], hedged);
    assert!(world.ask(&session, 1)[0].is_ok());
    assert_eq!(world.seconds(), 6.0);

    // One failure closes the second route for 10 s: it is asked once it is open again.
    let breaker = BreakerSettings { failures: 1, cooldown_secs: 10.0, ..BreakerSettings::default() };
    let (world, second) = (World::new(), second());
    let session = world.guard(vec![silent(&world), second.clone()], Guards { breaker, ..hedged });
    assert!(world.ask(&session, 1)[0].is_ok());
    assert_eq!((world.seconds(), second.asked()), (15.0, 2));
}

#[test]
fn silence_ends_where_every_other_route_refuses() {
    let retry = RetrySettings { give_up_secs: 50.0, ..RetrySettings::default() };
    for kind in [ErrorKind::DataInvalid, ErrorKind::Unavailable] {
        let world = World::new();
        let silent = world.chaos(ChaosScript { silent: 1.0, ..takes(1.0) });
        let refuses = Scripted::new(move |_, _| Err(error(kind)));
        let guards = Guards { hedge_after_secs: Some(3.0), retry, ..nothing() };
        let session = world.guard(vec![silent, refuses], guards);
        let refusal = world.ask(&session, 1).remove(0).expect_err("refused");
        assert_eq!(
            (refusal.kind(), world.seconds()),
            (kind, if kind == ErrorKind::DataInvalid { 50.0 } else { 51.0 })
        );
    }
    // A slow route that answers within that time is waited for.
    let world = World::new();
    let refuses = Scripted::new(|_, _| Err(error(ErrorKind::DataInvalid)));
    let guards = Guards { hedge_after_secs: Some(3.0), ..nothing() };
    let session = world.guard(vec![world.chaos(takes(100.0)), refuses], guards);
    assert!(world.ask(&session, 1)[0].is_ok());
    assert_eq!(world.seconds(), 100.0);
}

#[test]
fn silence_and_stalls_end_a_try() {
    let world = World::new();
    let guards = Guards { deadlines: DeadlineSettings::default(), ..nothing() };
    for (script, words, after) in [
        (ChaosScript { silent: 1.0, ..takes(1.0) }, "did not begin within 60 s", 60.0),
        (ChaosScript { stalled: 1.0, ..takes(1.0) }, "did not go on within 60 s", 61.0),
        (
            ChaosScript { writing: Spread { median: 1000.0, sigma: 0.0 }, ..takes(1.0) },
            "did not end within 300 s",
            300.0,
        ),
    ] {
        let before = world.seconds();
        let session = world.guard(vec![world.chaos(script)], guards);
        let error = world.ask(&session, 1).remove(0).expect_err("too slow");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(world.seconds() - before, after);
    }
}

#[test]
fn the_providers_wishes_are_kept() {
    // A pause that it asked for holds everybody back, and is waited out to the second.
    let world = World::new();
    let session = Scripted::new(|asked, _| match asked {
        0 => Err(error(ErrorKind::RateLimited).with_retry(Retry::After(Duration::from_secs(30)))),
        _ => Ok(0.0),
    });
    let guards =
        Guards { concurrency: ConcurrencySettings { initial: 1, ..Default::default() }, ..Guards::default() };
    let guarded = world.guard(vec![session.clone()], guards);
    assert!(world.ask(&guarded, 10).iter().all(Result::is_ok));
    assert_eq!((session.asked(), world.seconds()), (11, 30.0));

    // So does a limit that it told before it was reached.
    let world = World::new();
    let session = Scripted::new(|_, cx| {
        cx.signal(CallSignal::Limit { remaining: 0, resets_in: Duration::from_secs(10) });
        Ok(0.0)
    });
    let guarded = world.guard(vec![session], guards);
    assert!(world.ask(&guarded, 4).iter().all(Result::is_ok));
    assert_eq!(world.seconds(), 30.0, "one every ten seconds");

    // Neither the call that was told an hour nor any behind it waits for it.
    let world = World::new();
    let hour = Retry::After(Duration::from_hours(1));
    let session = Scripted::new(move |_, _| Err(error(ErrorKind::RateLimited).with_retry(hour)));
    let guarded = world.guard(vec![session.clone()], guards);
    for answer in world.ask(&guarded, 10) {
        let error = answer.expect_err("too long");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::RateLimited, Fault::Infrastructure));
        assert_eq!(error.retry(), Retry::Exhausted { attempts: 1 });
    }
    assert_eq!((session.asked(), world.seconds()), (1, 0.0));

    // Where all routes ask for a pause, the first that opens is asked.
    let world = World::new();
    let pausing = |seconds| {
        Scripted::new(move |asked, _| match asked {
            0 => Err(error(ErrorKind::RateLimited).with_retry(Retry::After(Duration::from_secs(seconds)))),
            _ => Ok(0.0),
        })
    };
    let (long, short) = (pausing(50), pausing(20));
    let guarded = world.guard(vec![long.clone(), short.clone()], guards);
    assert!(world.ask(&guarded, 3).iter().all(Result::is_ok));
    assert_eq!((long.asked(), short.asked(), world.seconds()), (1, 4, 20.0));
}

#[test]
fn a_budget_is_kept_and_a_new_one_goes_on() {
    let world = World::new();
    let session = Scripted::new(|_, _| Ok(0.25));
    let guards = Guards {
        budget_usd: Some(1.0),
        concurrency: ConcurrencySettings { initial: 1, max: 1, ..Default::default() },
        ..Guards::default()
    };
    let guarded = world.guard(vec![session.clone()], guards);
    let answers = world.ask(&guarded, 10);
    let (answered, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((answered.len(), session.asked()), (4, 4));
    for error in refused.into_iter().filter_map(Result::err) {
        let verdict = (error.kind(), error.fault(), error.retry());
        assert_eq!(verdict, (ErrorKind::ResourceExhausted, Fault::Operator, Retry::Never));
        assert!(error.to_string().contains("1.0000 US dollars are spent of 1"), "{error}");
        assert!(error.to_string().contains("raise `budget_usd`: what was answered is kept"), "{error}");
    }
    let guarded = world.guard(vec![session.clone()], guards);
    assert!(world.ask(&guarded, 3).iter().all(Result::is_ok), "a new run has a budget of its own");

    let unpriced = world.guard(vec![world.chaos(ChaosScript::default())], guards);
    let answers = world.ask(&unpriced, 2);
    assert!(answers[0].is_ok(), "what was paid for is kept");
    let error = answers[1].as_ref().expect_err("who knows what it costs");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator));
    assert!(error.to_string().contains("`a` does not tell what its answers cost"), "{error}");
}

#[test]
fn a_route_that_was_closed_at_first_is_opened_later() {
    let world = World::new();
    let opened = Arc::new(AtomicU32::new(0));
    let lazy = |kind: ErrorKind, fault: Fault| {
        let opened = Arc::clone(&opened);
        Route::<dyn ModelSession>::lazy("late", move |_| {
            let late = opened.fetch_add(1, Ordering::Relaxed) > 0;
            Box::pin(async move {
                if late { Ok(Scripted::new(|_, _| Ok(0.0)) as _) } else { Err(error(kind).with_fault(fault)) }
            })
        })
    };
    let other = || Route::new("b", world.chaos(ChaosScript::default()) as Arc<dyn ModelSession>);
    let session = world
        .open(vec![lazy(ErrorKind::Unavailable, Fault::Infrastructure), other()], Guards::default())
        .expect("opens");
    assert!(world.ask(&session, 3).iter().all(Result::is_ok));
    assert_eq!(world.tally.routes()["late"].answered, 3);

    opened.store(0, Ordering::Relaxed);
    let alone = vec![lazy(ErrorKind::Unavailable, Fault::Infrastructure)];
    let error = world.open(alone, Guards::default()).expect_err("no other");
    assert_eq!(error.fault(), Fault::Infrastructure);
    opened.store(0, Ordering::Relaxed);
    let wrong = vec![other(), lazy(ErrorKind::NotFound, Fault::Operator)];
    let error = world.open(wrong, Guards::default()).expect_err("the operator's");
    assert!(error.to_string().contains("route: late"), "{error}");
    for (routes, words) in [(vec![], "there is none"), (vec![other(), other()], "two have one name")] {
        let error = world.open(routes, Guards::default()).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_judge_can_be_guarded_too() {
    #[derive(Debug)]
    struct Flaky(Identity, AtomicU32);

    #[async_trait]
    impl Judge for Flaky {
        fn identity(&self) -> &Identity {
            &self.0
        }

        fn profile(&self) -> JudgeProfile {
            JudgeProfile::new([Metric::Progress])
        }

        async fn compare(&self, _: &Comparison, _: &CallContext) -> Result<Assessment> {
            match self.1.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Err(error(ErrorKind::Unavailable)),
                _ => Ok(Assessment::scored([(Metric::Progress, Score::TIE)])),
            }
        }
    }

    use crate::judge::{Assessment, Candidate, Comparison, Judge, JudgeProfile, Metric, Score};

    let world = World::new();
    let identity = Identity::new("flaky", "1", &()).expect("an identity");
    let judge = Arc::new(Flaky(identity.clone(), AtomicU32::new(0))) as Arc<dyn Judge>;
    let surroundings = Surroundings::new(Arc::clone(&world.clock), &Guards::default());
    let cx = CallContext::new();
    let opened = Guarded::open(vec![Route::new("a", judge)], Guards::default(), surroundings, &cx);
    let guarded = world.run(opened).expect("opens");
    assert_eq!((guarded.identity(), guarded.profile().metrics.len()), (&identity, 1));
    let reply = || Candidate::new("x", FinishReason::Stop);
    let comparison = Comparison::new(vec![], String::new(), reply(), reply());
    world.run(guarded.compare(&comparison, &cx)).expect("the third time");
}

#[test]
fn guards_that_make_no_sense_are_refused() {
    Guards::default().check().expect("the defaults make sense");
    for (config, key) in [
        (json!({ "retry": { "attempts": 0 } }), "retry.attempts"),
        (json!({ "retry": { "base_secs": 0.0 } }), "retry.base_secs"),
        (json!({ "retry": { "give_up_secs": 1e300 } }), "retry.give_up_secs"),
        (json!({ "deadlines": { "stall_secs": -1.0 } }), "deadlines.stall_secs"),
        (json!({ "concurrency": { "initial": 0 } }), "concurrency.initial"),
        (json!({ "concurrency": { "initial": 9, "max": 8 } }), "concurrency.initial"),
        (json!({ "concurrency": { "decrease": 1.0 } }), "concurrency.decrease"),
        (json!({ "breaker": { "failures": 0 } }), "breaker.failures"),
        (json!({ "hedge_after_secs": 0.0 }), "hedge_after_secs"),
        (json!({ "budget_usd": -1.0 }), "budget_usd"),
    ] {
        let guards: Guards = serde_json::from_value(config).expect("parses");
        let error = guards.check().expect_err(key);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(key), "{error}");
    }
}

/// A backend that knows a few models.
#[derive(Debug)]
struct Known(Identity);

#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct KnownConfig {
    region: String,
}

impl Default for KnownConfig {
    fn default() -> Self {
        Self { region: "here".into() }
    }
}

#[async_trait]
impl ModelBackend for Known {
    fn identity(&self) -> &Identity {
        &self.0
    }

    async fn load(&self, model: &ModelSource, _: &CallContext) -> Result<Arc<dyn ModelSession>> {
        match model.model.require_served("load a model")? {
            "model" => Ok(Arc::new(Fake::new(Flaw::None))),
            _ => Err(error(ErrorKind::NotFound)),
        }
    }
}

impl Plugin<dyn ModelBackend> for Known {
    const NAME: &'static str = "known";
    const SUMMARY: &'static str = "for tests";
    type Config = KnownConfig;
    type Checked = KnownConfig;

    fn check(config: KnownConfig, _: &CheckContext<'_>) -> Result<KnownConfig> {
        Ok(config)
    }

    async fn build(config: KnownConfig, _: &BuildContext<'_>) -> Result<Arc<dyn ModelBackend>> {
        Ok(Arc::new(Self(Identity::new("known", "1", &config.region)?)))
    }
}

#[tokio::test]
async fn routes_are_built_from_configuration() {
    let registry = Registry::linked().expect("linked").with(Factory::<dyn ModelBackend>::of::<Known>("test"));
    let (registry, cx) = (registry.expect("a new name"), CallContext::new());
    let build = |config| registry.build::<dyn ModelBackend>("routes", config, &cx);
    let order = json!([{ "name": "known" }, { "name": "known", "region": "there" }]);
    let backend = build(json!({ "order": order, "budget_usd": 5.0 })).await.expect("builds");
    let session = backend.load(&ModelSource::served("model"), &cx).await.expect("loads");
    assert_eq!(session.model(), Fake::new(Flaw::None).model());
    let guarded = build(json!({ "order": order, "hedge_after_secs": 3.0 })).await.expect("builds");
    assert_eq!(backend.identity(), guarded.identity(), "patience changes no answer");
    let other = build(json!({ "order": [{ "name": "known" }] })).await.expect("builds");
    assert_ne!(backend.identity(), other.identity());
    let nested = json!({ "order": [{ "name": "routes", "order": order }, { "name": "known" }] });
    build(nested).await.expect("builds").load(&ModelSource::served("model"), &cx).await.expect("loads");

    let error = backend.load(&ModelSource::served("other"), &cx).await.expect_err("nobody knows it");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator));
    assert!(error.to_string().contains("route: known 1"), "{error}");
    for (config, words) in [
        (json!({}), "`order` is missing"),
        (json!({ "order": [] }), "`order` names no backend"),
        (json!({ "order": [{ "name": "knwon" }] }), "did you mean `known`?"),
        (
            json!({ "order": [{ "name": "known", "regoin": "x" }] }),
            "key: order[0].regoin); did you mean `region`?",
        ),
        (json!({ "order": [{ "name": "known" }], "retries": 3 }), "unknown key `retries`"),
        (json!({ "order": [{ "name": "known" }], "retry": { "attempts": 0 } }), "`retry.attempts`"),
    ] {
        let error = build(config).await.expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
    }
    let digest = Digest::of("another");
    let pinned = ModelSource { parameters: Some(digest), ..ModelSource::served("model") };
    drop(backend.load(&pinned, &cx).await);
}
