//! What calls cost, and the budget that they may.

use std::sync::{Mutex, PoisonError};

use crate::backend::{Completion, TokenScores, Usage};
use crate::error::{Error, ErrorKind, Fault, Result, Retry};
use crate::judge::Assessment;

/// An answer that may tell what it cost.
pub(super) trait Billed {
    fn usage(&self) -> Option<Usage>;
}

impl Billed for Completion {
    fn usage(&self) -> Option<Usage> {
        Some(self.usage)
    }
}

impl Billed for Vec<TokenScores> {
    fn usage(&self) -> Option<Usage> {
        None
    }
}

impl Billed for Assessment {
    fn usage(&self) -> Option<Usage> {
        match self {
            Self::Scored { usage, .. } | Self::Unreadable { usage, .. } => *usage,
            Self::Abstained { .. } => None,
        }
    }
}

impl Billed for String {
    fn usage(&self) -> Option<Usage> {
        None
    }
}

/// Adds up what answers cost. Once that reaches the budget no call is sent any
/// more; those under way are still paid, so it is overrun by at most them.
///
/// Tries that fail or are given up may cost something that nobody tells.
#[derive(Debug)]
pub struct Meter {
    budget_usd: Option<f64>,
    spent: Mutex<Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    usd: f64,
    /// A route whose answer told no price.
    unpriced: Option<String>,
}

impl Meter {
    /// A meter at 0.
    pub fn new(budget_usd: Option<f64>) -> Self {
        Self { budget_usd, spent: Mutex::default() }
    }

    /// What the answers so far cost, in US dollars.
    pub fn spent_usd(&self) -> f64 {
        self.spent().usd
    }

    /// Whether another call may be sent.
    ///
    /// # Errors
    /// The operator's and final: the budget is used up, or cannot be kept
    /// because a route tells no prices.
    pub(super) fn check(&self) -> Result<()> {
        let Some(budget) = self.budget_usd else { return Ok(()) };
        let spent = self.spent();
        let refused = |kind, message: String, hint: &str| {
            let error = Error::new(kind, "keep the budget", message).with_hint(hint);
            Err(error.with_fault(Fault::Operator).with_retry(Retry::Never))
        };
        if let Some(route) = &spent.unpriced {
            return refused(
                ErrorKind::ConfigInvalid,
                format!("route `{route}` does not tell what its answers cost"),
                "set its `price`, or leave `budget_usd` out",
            );
        }
        if spent.usd >= budget {
            return refused(
                ErrorKind::ResourceExhausted,
                format!("{:.4} US dollars are spent of {budget}", spent.usd),
                "raise `budget_usd` and resume: what was answered is kept",
            );
        }
        Ok(())
    }

    /// Counts an answer of `route`.
    pub(super) fn count(&self, route: &str, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        let mut spent = self.spent();
        match usage.price_usd {
            Some(usd) => spent.usd += usd,
            None => _ = spent.unpriced.get_or_insert_with(|| route.to_owned()),
        }
    }

    fn spent(&self) -> std::sync::MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
