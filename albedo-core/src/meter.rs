//! What calls cost, and the budget that they may.

use std::sync::{Mutex, PoisonError};

use crate::backend::{Completion, TokenScores, Usage};
use crate::error::{Error, ErrorKind, Fault, Reach, Result, Retry};
use crate::judge::{Assessment, Prepared};

/// An answer that may tell what it cost.
pub(crate) trait Billed {
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
        Self::usage(self)
    }
}

impl Billed for Prepared {
    fn usage(&self) -> Option<Usage> {
        Self::usage(self)
    }
}

/// Adds up what answers cost. Once that reaches the budget no call is sent any
/// more; those under way are still paid, so it is overrun by at most them.
///
/// Tries that fail or are given up may have a cost that no provider reports.
#[derive(Debug)]
pub struct Meter {
    /// The key that sets the budget, for errors.
    key: &'static str,
    budget_usd: Option<f64>,
    spent: Mutex<Spent>,
}

#[derive(Debug, Default)]
struct Spent {
    usd: f64,
    /// Whose answer told no price.
    unpriced: Option<String>,
}

impl Meter {
    /// A meter at 0.
    pub fn new(budget_usd: Option<f64>) -> Self {
        Self::named("budget_usd", budget_usd)
    }

    /// A meter at 0 whose budget the setting `key` holds.
    pub fn named(key: &'static str, budget_usd: Option<f64>) -> Self {
        Self { key, budget_usd, spent: Mutex::default() }
    }

    /// What the answers so far cost, in US dollars.
    pub fn spent_usd(&self) -> f64 {
        self.spent().usd
    }

    /// Whether another call may be sent.
    ///
    /// # Errors
    /// The operator's; they reach the duel: the budget is used up, or cannot be
    /// kept because a provider reports no prices.
    pub fn check(&self) -> Result<()> {
        let Some(budget) = self.budget_usd else { return Ok(()) };
        let (spent, key) = (self.spent(), self.key);
        let refused = |kind, message: String, hint: String| {
            let error = Error::new(kind, "keep the budget", message).with_hint(hint);
            Err(error.with_fault(Fault::Operator).with_reach(Reach::Duel).with_retry(Retry::Never))
        };
        if let Some(who) = &spent.unpriced {
            return refused(
                ErrorKind::ConfigInvalid,
                format!("`{who}` does not tell what its answers cost"),
                format!("set the `price` of its backend, or leave `{key}` out"),
            );
        }
        if spent.usd >= budget {
            return refused(
                ErrorKind::ResourceExhausted,
                format!("{:.4} US dollars are spent of {budget}", spent.usd),
                format!("raise `{key}`: what was answered is kept"),
            );
        }
        Ok(())
    }

    /// Counts an answer of `who`.
    pub fn count(&self, who: &str, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        let mut spent = self.spent();
        match usage.price_usd {
            Some(usd) => spent.usd += usd,
            None => _ = spent.unpriced.get_or_insert_with(|| who.to_owned()),
        }
    }

    /// Counts an answer of an earlier run, whose price is unknown if it was not
    /// reported.
    pub(crate) fn count_earlier(&self, usage: Usage) {
        self.spent().usd += usage.price_usd.unwrap_or_default();
    }

    fn spent(&self) -> std::sync::MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
