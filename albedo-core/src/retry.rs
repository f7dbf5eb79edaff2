//! Trying a call again, by class of error: the one policy of albedo.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, secs};
use crate::error::{Error, ErrorKind, Reach, Result, Retry};
use crate::rng::{Stream, Use};

/// When to try again: errors that reach no further than their call and may pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetrySettings {
    /// Passes over the routes that may fail before the request does, at least
    /// 1. Being asked to slow down is not counted.
    pub attempts: u32,
    /// Longest pause after the first pass, in seconds; doubled after each.
    pub base_secs: f64,
    /// Longest pause of all that the provider did not ask for.
    pub max_secs: f64,
    /// No pass begins later than this after the first.
    pub give_up_secs: f64,
}

// Source: albedo, for providers that answer in seconds and fail for minutes.
impl Default for RetrySettings {
    fn default() -> Self {
        Self { attempts: 5, base_secs: 1.0, max_secs: 20.0, give_up_secs: 600.0 }
    }
}

impl RetrySettings {
    /// The pause after pass `pass`, from 1; `unit` in [0, 1) spreads it.
    fn pause(&self, pass: u32, unit: f64) -> Duration {
        let grown = self.base_secs * 2_f64.powi(pass.saturating_sub(1).min(64) as i32);
        secs(grown.min(self.max_secs) * (0.5 + unit / 2.0))
    }
}

/// The passes of one call.
///
/// Only errors that reach no further than the call and may pass are followed by
/// another pass. A provider that asks to slow down has not failed: that costs
/// time, no attempt. Pauses grow exponentially to a cap and are spread between
/// half and all of it by a key; a provider that says how long to wait is
/// believed.
#[derive(Debug)]
pub struct Passes<'a> {
    settings: &'a RetrySettings,
    clock: &'a dyn Clock,
    /// Whether each pass goes through a gate, which keeps the pause that a
    /// provider asks for.
    gated: bool,
    begun: Duration,
    made: u32,
    failures: u32,
}

impl<'a> Passes<'a> {
    /// The first pass begins now.
    pub fn new(settings: &'a RetrySettings, clock: &'a dyn Clock) -> Self {
        Self { settings, clock, gated: false, begun: clock.now(), made: 0, failures: 0 }
    }

    /// Waits until the pass after one that failed with `error` may begin; `key`
    /// spreads the pause.
    ///
    /// # Errors
    /// `error`, if there is to be no other pass; [`Retry::Exhausted`] where there
    /// have been enough, so that an outer retry does not repeat this one.
    pub async fn wait(&mut self, error: Error, key: impl FnOnce() -> u64) -> Result<()> {
        self.made += 1;
        self.failures += u32::from(error.kind() != ErrorKind::RateLimited);
        let pause = match error.retry() {
            _ if error.reach() > Reach::Call => return Err(error),
            Retry::Never | Retry::Exhausted { .. } => return Err(error),
            Retry::After(pause) => pause,
            Retry::Backoff if self.gated && error.kind() == ErrorKind::RateLimited => Duration::ZERO,
            Retry::Backoff => {
                let unit = Stream::new(key(), Use::Retry).unit_at(self.made.into());
                self.settings.pause(self.made, unit)
            }
        };
        let next = self.clock.now() + pause;
        if self.failures >= self.settings.attempts || next > self.begun + secs(self.settings.give_up_secs) {
            let attempts = self.made;
            return Err(error.with_retry(Retry::Exhausted { attempts }).with("tries", attempts));
        }
        self.clock.sleep_until(next).await;
        Ok(())
    }
}

/// Makes passes through a gate until one succeeds or there is to be no other.
pub(crate) async fn retry<T, F: Future<Output = Result<T>>>(
    settings: &RetrySettings,
    clock: &dyn Clock,
    key: impl Fn() -> u64,
    mut pass: impl FnMut() -> F,
) -> Result<T> {
    let mut passes = Passes { gated: true, ..Passes::new(settings, clock) };
    loop {
        match pass().await {
            Ok(value) => return Ok(value),
            Err(error) => passes.wait(error, &key).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::VirtualClock;

    const SETTINGS: RetrySettings =
        RetrySettings { attempts: 3, base_secs: 1.0, max_secs: 4.0, give_up_secs: 100.0 };

    /// Answers passes with `errors`, the first first, then with success; says
    /// when each pass was made.
    fn run(errors: Vec<Error>) -> (Result<()>, Vec<f64>) {
        let clock = VirtualClock::new();
        let (errors, times) = (RefCell::new(errors.into_iter()), RefCell::new(vec![]));
        let pass = || {
            times.borrow_mut().push(clock.now().as_secs_f64());
            let error = errors.borrow_mut().next();
            async move { error.map_or(Ok(()), Err) }
        };
        let result = clock.run(retry(&SETTINGS, &clock, || 7, pass)).expect("ends");
        (result, times.into_inner())
    }

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "ask", "no")
    }

    #[test]
    fn passing_errors_are_tried_again_up_to_the_cap() {
        let (result, times) = run(vec![error(ErrorKind::Unavailable), error(ErrorKind::Protocol)]);
        assert!(result.is_ok());
        assert!((0.5..1.0).contains(&times[1]), "{times:?}");
        assert!((1.0..2.0).contains(&(times[2] - times[1])), "{times:?}");
        let (result, times) = run((0..9).map(|_| error(ErrorKind::Timeout)).collect());
        assert_eq!(result.expect_err("cap").retry(), Retry::Exhausted { attempts: 3 });
        assert_eq!(times.len(), 3);
    }

    #[test]
    fn a_wish_to_slow_down_costs_no_attempt_but_time() {
        let wish = || error(ErrorKind::RateLimited).with_retry(Retry::After(Duration::from_secs(10)));
        let (result, times) = run((0..9).map(|_| wish()).collect());
        assert!(result.is_ok());
        assert_eq!(times.last(), Some(&90.0));
        let (result, times) = run((0..20).map(|_| wish()).collect());
        assert_eq!(result.expect_err("too long").retry(), Retry::Exhausted { attempts: 11 });
        assert_eq!(times.last(), Some(&100.0), "the last try that the time allows");
        let long = wish().with_retry(Retry::After(Duration::from_hours(1)));
        assert_eq!(run(vec![long]).1.len(), 1, "nobody waits an hour");
    }

    #[test]
    fn what_cannot_pass_is_not_repeated() {
        for error in [
            error(ErrorKind::Unsupported),
            error(ErrorKind::Unavailable).with_reach(Reach::Sample),
            error(ErrorKind::Unavailable).with_reach(Reach::Duel),
            error(ErrorKind::Unavailable).with_retry(Retry::Never),
            error(ErrorKind::Unavailable).with_retry(Retry::Exhausted { attempts: 4 }),
            Error::cancelled("ask"),
        ] {
            let (retry, text) = (error.retry(), error.to_string());
            let (result, times) = run(vec![error]);
            let error = result.expect_err("final");
            assert_eq!((error.retry(), error.to_string(), times.len()), (retry, text, 1));
        }
    }

    proptest! {
        #[test]
        fn pauses_grow_to_the_cap(pass in 1_u32..200, unit in 0.0..1.0_f64) {
            let pause = SETTINGS.pause(pass, unit).as_secs_f64();
            let whole = 2_f64.powi((pass - 1).min(2) as i32);
            prop_assert!((whole / 2.0..=whole).contains(&pause), "{}", pause);
        }
    }
}
