//! Ways to an answer: one after the other, or side by side.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, Either, pending, select};
use futures::stream::FuturesUnordered;
use tokio::sync::OnceCell;

use super::deadlines::{Timed, within};
use super::gate::{Gate, Refusal};

use super::{ConcurrencySettings, Guards, Surroundings, secs};
use crate::clock::Clock;
use crate::context::CallContext;
use crate::error::{Error, Reach, Result, Retry};
use crate::events::{CallEvent, CallOutcome, EventKind};
use crate::meter::Billed;
use crate::retry::retry;

/// One way to an answer.
pub struct Route<S: ?Sized> {
    name: String,
    target: OnceCell<Arc<S>>,
    load: Option<Loader<S>>,
    /// Calls that its target takes at once, if it has such a bound.
    most: Option<u32>,
}

type Loader<S> = Box<dyn Fn(CallContext) -> BoxFuture<'static, Result<Arc<S>>> + Send + Sync>;

impl<S: ?Sized> Route<S> {
    /// The route `name` to `target`.
    pub fn new(name: impl Into<String>, target: Arc<S>) -> Self {
        Self { name: name.into(), target: OnceCell::new_with(Some(target)), load: None, most: None }
    }

    /// The route `name` to what `load` gives. If that fails at first, it is part
    /// of later tries.
    pub fn lazy(
        name: impl Into<String>,
        load: impl Fn(CallContext) -> BoxFuture<'static, Result<Arc<S>>> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), target: OnceCell::new(), load: Some(Box::new(load)), most: None }
    }

    /// The same route with at most `calls` under way, at least 1, whatever the guards allow.
    ///
    /// A target that lets further calls wait inside it needs this: calls that wait at the
    /// gate are not timed, and those that wait inside the target are.
    #[must_use]
    pub fn at_most(self, calls: u32) -> Self {
        Self { most: Some(calls.max(1)), ..self }
    }

    /// `settings` within what the target takes.
    pub(super) fn concurrency(&self, settings: ConcurrencySettings) -> ConcurrencySettings {
        let Some(most) = self.most else { return settings };
        let ConcurrencySettings { initial, max, decrease } = settings;
        ConcurrencySettings { initial: initial.min(most), max: max.min(most), decrease }
    }

    /// Its name, for errors and traces.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it leads to.
    pub(super) async fn target(&self, cx: &CallContext) -> Result<Arc<S>> {
        let load = || async {
            match &self.load {
                Some(load) => load(cx.clone()).await,
                None => Err(Error::bug("follow a route", "it leads nowhere")),
            }
        };
        self.target.get_or_try_init(load).await.cloned()
    }

    /// What it leads to, if it was opened.
    pub(super) fn opened(&self) -> Option<&Arc<S>> {
        self.target.get()
    }
}

impl<S: ?Sized> Debug for Route<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is asked of a route's target: one try.
pub(super) type Ask<S, T> = dyn Fn(Arc<S>, CallContext) -> BoxFuture<'static, Result<T>> + Send + Sync;

/// The routes with their gates, and everything around them.
pub(super) struct Routes<S: ?Sized> {
    pub(super) order: Vec<(Route<S>, Arc<Gate>)>,
    pub(super) guards: Guards,
    pub(super) surroundings: Surroundings,
    /// Requests made so far: the number of the next.
    pub(super) requests: AtomicU64,
}

/// A request: its number, and what is asked of a route for it.
struct Request<'a, S: ?Sized, T> {
    number: u64,
    ask: &'a Ask<S, T>,
    cx: &'a CallContext,
}

/// Why a route gave no answer.
enum Failure {
    /// It was asked, and failed.
    Sent(Error),
    /// It was not asked.
    TurnedAway(Refusal),
    /// No route is to be asked.
    Final(Error),
}

impl<S: ?Sized + Send + Sync + 'static> Routes<S> {
    /// The answer to one request; `key` spreads its pauses.
    pub(super) async fn call<T: Billed + Send>(
        &self,
        operation: &str,
        key: impl Fn() -> u64,
        ask: &Ask<S, T>,
        cx: &CallContext,
    ) -> Result<T> {
        let clock = &*self.surroundings.clock;
        let request = Request { number: self.requests.fetch_add(1, Ordering::Relaxed), ask, cx };
        let call = retry(&self.guards.retry, clock, key, || self.pass(&request));
        cx.run(operation, call).await?
    }

    /// Asks the routes in order until one answers. With one route, or where all
    /// turn the call away, it waits for the first that opens.
    ///
    /// With hedging, a route that failed for a passing reason is asked again while an
    /// earlier one stays silent. Once every other route has failed, the silent one has
    /// until `give_up_secs` of the retry: else a route without deadlines could be waited
    /// for without end.
    async fn pass<T: Billed + Send>(&self, request: &Request<'_, S, T>) -> Result<T> {
        let clock = &self.surroundings.clock;
        let latest = clock.now() + secs(self.guards.retry.give_up_secs);
        let patience = if self.order.len() == 1 { latest } else { Duration::ZERO };
        // Routes that were not asked yet, then those that may be asked again.
        let mut waiting: VecDeque<usize> = (0..self.order.len()).collect();
        let mut running = FuturesUnordered::new();
        // The latest failure of each route.
        let mut failures = BTreeMap::new();
        loop {
            if running.is_empty() {
                let fresh = |route: &mut usize| !failures.contains_key(route);
                let Some(route) = waiting.pop_front_if(fresh) else { break };
                running.push(self.ask_route(route, patience, request));
            }
            let hedge = match self.guards.hedge_after_secs {
                Some(after) if !waiting.is_empty() => clock.sleep_until(clock.now() + secs(after)),
                Some(_) if !failures.is_empty() => clock.sleep_until(latest),
                _ => Box::pin(pending()),
            };
            match select(running.next(), hedge).await {
                Either::Left((Some((_, Ok(answer))), _)) => return Ok(answer),
                Either::Left((Some((_, Err(Failure::Final(error)))), _)) => return Err(error),
                Either::Left((Some((route, Err(failure))), _)) => {
                    if failure.may_pass() {
                        waiting.push_back(route);
                    }
                    failures.insert(route, failure);
                }
                Either::Left((None, _)) => {}
                Either::Right(_) => {
                    let in_time = clock.now() < latest;
                    let next = waiting.pop_front_if(|route| in_time || !failures.contains_key(route));
                    let Some(route) = next else { break };
                    running.push(self.ask_route(route, patience, request));
                }
            }
        }
        // What stayed silent is not waited for any more.
        drop(running);
        let error = match first_to_open(&failures) {
            Some(route) => match self.ask_route(route, latest, request).await {
                (_, Ok(answer)) => return Ok(answer),
                (_, Err(failure)) => failure.into_error(),
            },
            None => most_hopeful(failures),
        };
        Err(error)
    }

    /// One try at one route.
    async fn ask_route<T: Billed + Send>(
        &self,
        index: usize,
        patience: Duration,
        request: &Request<'_, S, T>,
    ) -> (usize, Result<T, Failure>) {
        let (route, gate) = &self.order[index];
        let named = |error: Error| error.with("route", &route.name);
        let asked = async {
            let Surroundings { clock, meter, .. } = &self.surroundings;
            meter.check().map_err(Failure::Final)?;
            let queued = clock.now();
            let pass = gate.enter(request.number, patience).await.map_err(|Refusal { error, opens }| {
                Failure::TurnedAway(Refusal { error: named(error), opens })
            })?;
            // Others may have spent the rest meanwhile.
            meter.check().map_err(Failure::Final)?;
            let mut seen = Seen {
                clock: &**clock,
                cx: request.cx,
                route: &route.name,
                queued,
                sent: pass.sent(),
                told: false,
            };
            let call = |cx: CallContext| async move {
                let target = route.target(&cx).await?;
                (request.ask)(target, cx).await
            };
            let (hearing, sent) = (Arc::clone(gate), pass.sent());
            let cx = request.cx.with_listener(move |signal| hearing.hear(sent, signal));
            let Timed { result, first_token } = within(&self.guards.deadlines, clock, &cx, call).await;
            pass.ended(&result);
            if let Ok(answer) = &result {
                meter.count(&route.name, answer.usage());
            }
            seen.over(
                first_token,
                match &result {
                    Ok(answer) => CallOutcome::Answered { usage: answer.usage() },
                    Err(error) => CallOutcome::from(error),
                },
            );
            result.map_err(|error| Failure::Sent(named(error)))
        };
        (index, asked.await)
    }
}

impl Failure {
    /// Whether the route may answer if it is asked again.
    fn may_pass(&self) -> bool {
        match self {
            Self::Sent(error) => error.is_retryable() && error.reach() == Reach::Call,
            Self::TurnedAway(refusal) => refusal.opens.is_some(),
            Self::Final(_) => false,
        }
    }

    fn into_error(self) -> Error {
        match self {
            Self::Sent(error) | Self::Final(error) => error,
            Self::TurnedAway(refusal) => refusal.error,
        }
    }
}

/// The route that opens first, if none was asked.
fn first_to_open(failures: &BTreeMap<usize, Failure>) -> Option<usize> {
    let opens = |(&route, failure): (&usize, &Failure)| match failure {
        Failure::TurnedAway(refusal) => refusal.opens.map(|opens| (opens, route)),
        _ => None,
    };
    let asked = failures.values().any(|failure| matches!(failure, Failure::Sent(_)));
    if asked { None } else { failures.iter().filter_map(opens).min().map(|(_, route)| route) }
}

/// Of the routes' errors the one with which most can be done: the soonest that
/// may pass, else the one that reaches least far.
fn most_hopeful(failures: BTreeMap<usize, Failure>) -> Error {
    let hope = |error: &Error| {
        let wait = match error.retry() {
            Retry::Backoff => Some(Duration::ZERO),
            Retry::After(pause) => Some(pause),
            Retry::Never | Retry::Exhausted { .. } => None,
        };
        let passes = error.reach() == Reach::Call && wait.is_some();
        (!passes, error.reach(), wait)
    };
    let errors = failures.into_values().map(Failure::into_error);
    errors.min_by_key(hope).unwrap_or_else(|| Error::bug("choose a route", "there is none"))
}

/// Emits what became of a try, also of one that is dropped.
struct Seen<'a> {
    clock: &'a dyn Clock,
    cx: &'a CallContext,
    route: &'a str,
    queued: Duration,
    sent: Duration,
    told: bool,
}

impl Seen<'_> {
    fn over(&mut self, first_token: Option<Duration>, outcome: CallOutcome) {
        self.told = true;
        let since_sent = |at: Duration| at.saturating_sub(self.sent).as_secs_f64();
        self.cx.emit(EventKind::Call(CallEvent {
            route: self.route.to_owned(),
            waited_secs: self.sent.saturating_sub(self.queued).as_secs_f64(),
            first_token_secs: first_token.map(since_sent),
            took_secs: since_sent(self.clock.now()),
            outcome,
        }));
    }
}

impl Drop for Seen<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.over(None, CallOutcome::Abandoned);
        }
    }
}
