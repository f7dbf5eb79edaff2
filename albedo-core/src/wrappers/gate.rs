//! Admission control for one route. Applies the circuit breaker and the concurrency
//! limit, and admits waiting calls in the order of their requests, so that a retry
//! keeps its place.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::breaker::{Admission, Breaker};
use super::limit::Limit;
use super::{BreakerSettings, ConcurrencySettings};
use crate::clock::Clock;
use crate::context::CallSignal;
use crate::error::{Error, ErrorKind, Reach, Retry};

/// Lets calls through to one route.
#[derive(Debug)]
pub(super) struct Gate {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Woken whenever a call leaves or a limit changes.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    limit: Limit,
    /// Why the route is out of service until somebody has acted.
    stopped: Option<Error>,
    /// The requests that wait, by number.
    queue: BTreeSet<u64>,
}

/// Why a call was turned away without being sent.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: Error,
    /// When asking again makes sense; never for a route that is stopped.
    pub(super) opens: Option<Duration>,
}

enum Step {
    Go,
    Turn(Refusal),
    /// Until something changes, or until this time.
    Wait(Option<Duration>),
}

impl Gate {
    pub(super) fn new(clock: Arc<dyn Clock>, breaker: BreakerSettings, limit: ConcurrencySettings) -> Self {
        let state = State {
            breaker: Breaker::new(breaker),
            limit: Limit::new(limit),
            stopped: None,
            queue: BTreeSet::new(),
        };
        Self { clock, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Waits for a place for request number `request`; of those that wait the
    /// lowest goes first. An open circuit and a pause that the provider asked for
    /// are waited out as long as they end by `patience`; else the call is turned
    /// away.
    ///
    /// A try after a failure does not queue up behind requests that were made
    /// later: they would all be served before it, and what fails again and again
    /// would be all that is left in the end, where it looks like a dead route.
    pub(super) async fn enter(&self, request: u64, patience: Duration) -> Result<Pass<'_>, Refusal> {
        let place = Place::new(self, request);
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.step(place.request, patience) {
                Step::Go => return Ok(Pass { gate: self, sent: self.clock.now(), told: false }),
                Step::Turn(refusal) => return Err(refusal),
                Step::Wait(None) => changed.await,
                Step::Wait(Some(until)) => {
                    let until = pin!(self.clock.sleep_until(until));
                    futures::future::select(changed, until).await;
                }
            }
        }
    }

    /// What was said while a call that was sent at `sent` was under way.
    pub(super) fn hear(&self, sent: Duration, signal: CallSignal) {
        let now = self.clock.now();
        let changed = match signal {
            CallSignal::Token => self.state().limit.began(sent),
            CallSignal::Limit { remaining, resets_in } => {
                self.state().limit.told(now, remaining, resets_in);
                true
            }
        };
        if changed {
            self.changed.notify_waiters();
        }
    }

    fn step(&self, request: u64, patience: Duration) -> Step {
        let now = self.clock.now();
        let mut state = self.state();
        if let Some(error) = &state.stopped {
            return Step::Turn(Refusal { error: error.clone(), opens: None });
        }
        let closed = |kind, message, until: Duration| {
            if until <= patience {
                return Step::Wait(Some(until));
            }
            let error = Error::new(kind, "reach the provider", message);
            let error = error.with_retry(Retry::After(until.saturating_sub(now)));
            Step::Turn(Refusal { error, opens: Some(until) })
        };
        match state.breaker.admission(now) {
            Admission::Go => {}
            Admission::Wait => return Step::Wait(None),
            Admission::Open(until) => {
                return closed(
                    ErrorKind::Unavailable,
                    "it failed too often and is left alone for a while",
                    until,
                );
            }
        }
        if let Some(until) = state.limit.paused(now) {
            return closed(ErrorKind::RateLimited, "it asked for a pause", until);
        }
        if !state.limit.has_room() || state.queue.first() != Some(&request) {
            return Step::Wait(None);
        }
        state.breaker.enter();
        state.limit.enter(now);
        Step::Go
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's place in the queue.
struct Place<'a> {
    gate: &'a Gate,
    request: u64,
}

impl<'a> Place<'a> {
    fn new(gate: &'a Gate, request: u64) -> Self {
        gate.state().queue.insert(request);
        Self { gate, request }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.state().queue.remove(&self.request);
        self.gate.changed.notify_waiters();
    }
}

/// A call that is under way. Dropped without an outcome, it changes no statistic.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    sent: Duration,
    told: bool,
}

impl Pass<'_> {
    /// When the call was let through.
    pub(super) fn sent(&self) -> Duration {
        self.sent
    }

    /// The call is over.
    pub(super) fn ended<T>(mut self, outcome: &Result<T, Error>) {
        self.told = true;
        let now = self.gate.clock.now();
        let mut state = self.gate.state();
        let State { breaker, limit, stopped, .. } = &mut *state;
        match outcome {
            Ok(_) => {
                breaker.answered();
                limit.succeeded(self.sent);
            }
            Err(error) if error.kind() == ErrorKind::RateLimited => {
                let pause = match error.retry() {
                    Retry::After(pause) => Some(pause),
                    _ => None,
                };
                breaker.leave();
                limit.refused(self.sent, now, pause);
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => {
                breaker.leave();
            }
            Err(error) if holds_for_every_call(error) => {
                breaker.leave();
                stopped.get_or_insert_with(|| error.clone());
            }
            Err(error) if error.is_retryable() => {
                breaker.failed(now);
            }
            // The one request was refused: the route works.
            Err(_) => breaker.answered(),
        }
        limit.leave();
        drop(state);
        self.gate.changed.notify_waiters();
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.told {
            let mut state = self.gate.state();
            let State { breaker, limit, .. } = &mut *state;
            breaker.leave();
            limit.leave();
            drop(state);
            self.gate.changed.notify_waiters();
        }
    }
}

/// Whether somebody has to act before any call of the route can succeed: a key, an
/// account, an address, a model or a device, not something about the one request.
fn holds_for_every_call(error: &Error) -> bool {
    let about_the_route = matches!(
        error.kind(),
        ErrorKind::Unavailable | ErrorKind::ResourceExhausted | ErrorKind::NotFound | ErrorKind::DeviceLost
    );
    error.reach() >= Reach::Duel && about_the_route
}
