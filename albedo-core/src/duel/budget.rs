//! What the judges of a duel may cost, together.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::backend::Usage;
use crate::error::Result;
use crate::meter::Meter;
use crate::record::JournalEvent;

/// Questions that may be under way before the first has told what it costs: both
/// orders of four judges.
const UNPRICED: u32 = 8;

/// One budget for all judges. A question under way holds back what the dearest
/// answer so far has cost, so that the budget is overrun by no more than answers are
/// dearer than any before. Once it is used up no further question is asked; those
/// under way are answered, paid and journalled before the error is returned.
#[derive(Debug)]
pub(super) struct Budget {
    usd: Option<f64>,
    meter: Meter,
    asked: Mutex<Questions>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Questions {
    under_way: u32,
    /// What the dearest answer has cost, once there is one.
    dearest: Option<f64>,
}

impl Budget {
    /// A budget of `usd` US dollars, of which the answers among `events` are paid
    /// already.
    pub(super) fn new(usd: Option<f64>, events: &[JournalEvent]) -> Self {
        let (meter, mut asked) = (Meter::named("limits.budget_usd", usd), Questions::default());
        for usage in events.iter().filter_map(JournalEvent::usage) {
            meter.count_earlier(usage);
            asked.answered(Some(usage));
        }
        Self { usd, meter, asked: Mutex::new(asked), ended: Notify::new() }
    }

    /// What the judges' answers have cost so far, in US dollars, those of earlier
    /// runs included.
    pub(super) fn spent_usd(&self) -> f64 {
        self.meter.spent_usd()
    }

    /// Leave to ask a question; waits while the answers under way may use up the
    /// budget.
    ///
    /// # Errors
    /// As [`Meter::check`], once no question is under way any more.
    pub(super) async fn enter(&self) -> Result<Paying<'_>> {
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            {
                let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                let spent = self.meter.check();
                if asked.under_way == 0 {
                    spent?;
                    asked.under_way += 1;
                    return Ok(Paying(self));
                }
                if spent.is_ok() && self.usd.is_none_or(|usd| asked.has_room(usd - self.meter.spent_usd())) {
                    asked.under_way += 1;
                    return Ok(Paying(self));
                }
            }
            ended.await;
        }
    }
}

impl Questions {
    /// Whether one more may be under way with `left` US dollars left.
    fn has_room(&self, left: f64) -> bool {
        match self.dearest {
            Some(usd) => f64::from(self.under_way + 1) * usd <= left,
            None => self.under_way < UNPRICED,
        }
    }

    fn answered(&mut self, usage: Option<Usage>) {
        let usd = usage.and_then(|usage| usage.price_usd).unwrap_or_default();
        self.dearest = Some(self.dearest.map_or(usd, |dearest| dearest.max(usd)));
    }
}

/// A question that is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Paying<'a>(&'a Budget);

impl Paying<'_> {
    /// Counts what `judge`'s answer took; whether it was paid for.
    pub(super) fn paid(&self, judge: &str, usage: Option<Usage>) -> bool {
        let Self(budget) = self;
        budget.asked.lock().unwrap_or_else(PoisonError::into_inner).answered(usage);
        budget.meter.count(judge, usage);
        usage.is_some()
    }
}

impl Drop for Paying<'_> {
    fn drop(&mut self) {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).under_way -= 1;
        self.0.ended.notify_waiters();
    }
}
