//! Calls over a network, made dependable: trying again, deadlines, limits,
//! circuit breakers, routes, a budget; each try is an event.
//!
//! [`Guarded`] wraps sessions (or judges that call a service of their own) and
//! is a session (or judge) itself. There is one legal nesting, and it is the
//! only one that can be built:
//!
//! ```text
//! a request
//! └─ cancellation and deadline of the caller
//!    └─ retry           a pass over the routes failed for a passing reason: pause, another pass
//!       └─ routes       in order; the next one when one fails, or is slow (hedging); the first answer wins
//!          └─ meter     is there budget left?
//!             └─ gate   circuit breaker, pauses the provider asked for, limit of calls under way; waits here
//!                └─ event, deadlines    first token, stall, total: of this one try, waiting not counted
//!                   └─ the session (in tests, Chaos around it)
//! ```
//!
//! Why so: a pause between passes must hold no place at a gate; a try that waits
//! at a gate must not run out of its own time, and so a gate lets no more calls through
//! than its session takes at once ([`Route::at_most`]); a breaker has to see every try,
//! not what is left of them after retrying; a fallback costs no pause; and a
//! loser that is dropped has to give its place back and tell the breaker nothing.
//!
//! A session reports its first token and later ones, and its provider's
//! limit, through [`CallContext::signal`](crate::CallContext::signal). One that does not stream reports no
//! token: its `first_token_secs` then bounds the whole answer.
//!
//! Requests of one call are sent one by one and run at once, as many as the
//! gates let through; each is answered as it finishes. Nothing here depends on
//! the wall clock or on unseeded randomness: time is a [`Clock`], pauses are
//! spread by the request.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, MAX_SECS, secs};
use crate::error::{Error, ErrorKind, Result};
use crate::meter::Meter;

mod breaker;
pub mod chaos;
mod deadlines;
mod gate;
mod guarded;
mod limit;
mod plugin;
mod routes;
mod tally;
#[cfg(test)]
mod tests;

pub use crate::retry::{Passes, RetrySettings};
pub use guarded::Guarded;
pub use plugin::{RoutesBackend, RoutesConfig};
pub use routes::Route;
pub use tally::{RouteTally, Tally};

/// How calls are guarded. The defaults suit a streaming provider of chat models.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Guards {
    /// When to try again.
    pub retry: RetrySettings,
    /// How long a try may take.
    pub deadlines: DeadlineSettings,
    /// How many calls of a route may be under way.
    pub concurrency: ConcurrencySettings,
    /// When to leave a route alone.
    pub breaker: BreakerSettings,
    /// Ask the next route as well once a route has not answered for this long;
    /// the first answer wins, and the others are cancelled. Left out, the next
    /// route is asked only when one fails.
    pub hedge_after_secs: Option<f64>,
    /// Send no call once this much is spent, in US dollars.
    pub budget_usd: Option<f64>,
}

/// How long a try may take, in seconds; no limit where left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeadlineSettings {
    /// To the first token; to the whole answer if the session does not stream.
    pub first_token_secs: Option<f64>,
    /// From one token to the next.
    pub stall_secs: Option<f64>,
    /// In all.
    pub total_secs: Option<f64>,
}

/// How many calls of one route may be under way: additive increase,
/// multiplicative decrease.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConcurrencySettings {
    /// At the beginning.
    pub initial: u32,
    /// Never more than this.
    pub max: u32,
    /// What the limit is multiplied by when the provider asks to slow down.
    pub decrease: f64,
}

/// When to leave a route alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSettings {
    /// Failures in a row that open the circuit, at least 1.
    pub failures: u32,
    /// How long it stays open before one call probes the route, in seconds;
    /// doubled each time the probe fails.
    pub cooldown_secs: f64,
    /// The longest that it stays open.
    pub max_cooldown_secs: f64,
}

// Source: albedo, for providers that answer in seconds and fail for minutes.
impl Default for DeadlineSettings {
    fn default() -> Self {
        Self { first_token_secs: Some(60.0), stall_secs: Some(60.0), total_secs: Some(300.0) }
    }
}

impl Default for ConcurrencySettings {
    fn default() -> Self {
        Self { initial: 4, max: 32, decrease: 0.8 }
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: 5, cooldown_secs: 10.0, max_cooldown_secs: 300.0 }
    }
}

impl DeadlineSettings {
    /// No deadline but the caller's.
    pub fn none() -> Self {
        Self { first_token_secs: None, stall_secs: None, total_secs: None }
    }
}

impl BreakerSettings {
    fn cooldown(&self) -> Duration {
        secs(self.cooldown_secs)
    }

    fn max_cooldown(&self) -> Duration {
        secs(self.max_cooldown_secs)
    }
}

impl Guards {
    /// Checks that every setting makes sense.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn check(&self) -> Result<()> {
        let Self { retry, deadlines, concurrency, breaker, hedge_after_secs, budget_usd } = self;
        let invalid = |key: &str, rule: &str| {
            let message = format!("`{key}` must be {rule}");
            Err(Error::new(ErrorKind::ConfigInvalid, "check how calls are guarded", message).with("key", key))
        };
        for (key, secs) in [
            ("retry.base_secs", Some(retry.base_secs)),
            ("retry.max_secs", Some(retry.max_secs)),
            ("retry.give_up_secs", Some(retry.give_up_secs)),
            ("deadlines.first_token_secs", deadlines.first_token_secs),
            ("deadlines.stall_secs", deadlines.stall_secs),
            ("deadlines.total_secs", deadlines.total_secs),
            ("breaker.cooldown_secs", Some(breaker.cooldown_secs)),
            ("breaker.max_cooldown_secs", Some(breaker.max_cooldown_secs)),
            ("hedge_after_secs", *hedge_after_secs),
        ] {
            if secs.is_some_and(|secs| !(secs > 0.0 && secs <= MAX_SECS)) {
                return invalid(key, "above 0 and at most 10000000");
            }
        }
        if budget_usd.is_some_and(|budget| !(budget >= 0.0 && budget.is_finite())) {
            return invalid("budget_usd", "0 or more");
        }
        if retry.attempts == 0 {
            return invalid("retry.attempts", "at least 1");
        }
        if breaker.failures == 0 {
            return invalid("breaker.failures", "at least 1");
        }
        if !(1..=concurrency.max).contains(&concurrency.initial) {
            return invalid("concurrency.initial", "at least 1 and at most `concurrency.max`");
        }
        if !(concurrency.decrease > 0.0 && concurrency.decrease < 1.0) {
            return invalid("concurrency.decrease", "between 0 and 1");
        }
        Ok(())
    }
}

/// What a [`Guarded`] measures time and cost with.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Measures time.
    pub clock: Arc<dyn Clock>,
    /// Adds up the cost. A shared meter is a shared budget.
    pub meter: Arc<Meter>,
}

impl Surroundings {
    /// Uses a new [`Meter`] with the budget of `guards`.
    pub fn new(clock: Arc<dyn Clock>, guards: &Guards) -> Self {
        Self { clock, meter: Arc::new(Meter::new(guards.budget_usd)) }
    }
}
