//! Counts of tries, from the stream of events.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::backend::Usage;
use crate::error::ErrorKind;
use crate::events::{CallEvent, CallOutcome, Event, EventKind, EventSink};

/// Counts tries by route: a sink of events.
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
    /// Those that nothing waited for any more.
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

impl EventSink for Tally {
    fn on(&self, event: &Event) {
        let EventKind::Call(CallEvent { route, took_secs, outcome, .. }) = &event.kind else { return };
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let route = routes.entry(route.clone()).or_default();
        route.tries += 1;
        route.busy += Duration::try_from_secs_f64(*took_secs).unwrap_or_default();
        match outcome {
            CallOutcome::Answered { usage } => {
                route.answered += 1;
                if let Some(usage) = usage {
                    let total = &mut route.usage;
                    let add = |total: &mut Option<u32>, more: Option<u32>| {
                        if let Some(more) = more {
                            *total = Some(total.unwrap_or_default().saturating_add(more));
                        }
                    };
                    add(&mut total.prompt_tokens, usage.prompt_tokens);
                    add(&mut total.completion_tokens, usage.completion_tokens);
                    if let Some(price) = usage.price_usd {
                        *total.price_usd.get_or_insert(0.0) += price;
                    }
                }
            }
            CallOutcome::Failed { kind: ErrorKind::RateLimited, .. } => route.rate_limited += 1,
            CallOutcome::Failed { .. } => route.failed += 1,
            CallOutcome::Abandoned => route.abandoned += 1,
        }
    }
}
