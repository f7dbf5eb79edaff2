//! What became of every try.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::backend::Usage;
use crate::error::{Error, ErrorKind};

/// Sees every try that was sent. Called from the call's own task: it must not
/// block.
pub trait CallTrace: Debug + Send + Sync + 'static {
    /// A try is over.
    fn on(&self, event: &CallEvent<'_>);
}

/// Sees nothing.
impl CallTrace for () {
    fn on(&self, _: &CallEvent<'_>) {}
}

/// A try that is over. Times are the clock's.
#[derive(Debug)]
#[non_exhaustive]
pub struct CallEvent<'a> {
    /// The route that it was sent to.
    pub route: &'a str,
    /// When it began to wait for its place.
    pub queued: Duration,
    /// When it was sent.
    pub sent: Duration,
    /// When the model first wrote something, if the session told.
    pub first_token: Option<Duration>,
    /// When it was over.
    pub ended: Duration,
    /// What became of it.
    pub outcome: CallOutcome<'a>,
}

/// What became of a try.
#[derive(Debug)]
pub enum CallOutcome<'a> {
    /// It was answered.
    Answered(Option<Usage>),
    /// It failed.
    Failed(&'a Error),
    /// Nobody waited for it any more: another route was faster, or the caller
    /// went away.
    Abandoned,
}

/// Counts tries by route.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<String, RouteTally>>);

/// The tries of one route.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteTally {
    /// Tries sent.
    pub tries: u32,
    /// Those that were answered.
    pub answered: u32,
    /// Those that were refused with the wish to slow down.
    pub rate_limited: u32,
    /// Those that failed otherwise.
    pub failed: u32,
    /// Those that nobody waited for.
    pub abandoned: u32,
    /// Tokens read and written, and their price.
    pub usage: Usage,
    /// Time under way, added up.
    pub busy: Duration,
}

impl Tally {
    /// The counts so far, by the route's name.
    pub fn routes(&self) -> BTreeMap<String, RouteTally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl CallTrace for Tally {
    fn on(&self, event: &CallEvent<'_>) {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let route = routes.entry(event.route.to_owned()).or_default();
        route.tries += 1;
        route.busy += event.ended.saturating_sub(event.sent);
        match &event.outcome {
            CallOutcome::Answered(usage) => {
                route.answered += 1;
                if let Some(usage) = usage {
                    let total = &mut route.usage;
                    total.prompt_tokens = total.prompt_tokens.saturating_add(usage.prompt_tokens);
                    total.completion_tokens = total.completion_tokens.saturating_add(usage.completion_tokens);
                    if let Some(price) = usage.price_usd {
                        *total.price_usd.get_or_insert(0.0) += price;
                    }
                }
            }
            CallOutcome::Failed(error) if error.kind() == ErrorKind::RateLimited => route.rate_limited += 1,
            CallOutcome::Failed(_) => route.failed += 1,
            CallOutcome::Abandoned => route.abandoned += 1,
        }
    }
}
