//! What the judges of a duel may cost, together.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::backend::Usage;
use crate::error::Result;
use crate::record::JournalEvent;
use crate::wrappers::Meter;

/// One budget for all judges. Once it is used up no further question is asked;
/// those under way are answered, paid and journalled before anybody is told.
#[derive(Debug)]
pub(super) struct Budget {
    meter: Meter,
    under_way: Mutex<u32>,
    ended: Notify,
}

impl Budget {
    /// A budget of `usd` US dollars, of which the answers among `events` are paid
    /// already.
    pub(super) fn new(usd: Option<f64>, events: &[JournalEvent]) -> Self {
        let meter = Meter::named("limits.budget_usd", usd);
        for usage in events.iter().filter_map(JournalEvent::usage) {
            meter.count_earlier(usage);
        }
        Self { meter, under_way: Mutex::default(), ended: Notify::new() }
    }

    /// Leave to ask a question.
    ///
    /// # Errors
    /// As [`Meter::check`], once no question is under way any more.
    pub(super) async fn enter(&self) -> Result<Paying<'_>> {
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            {
                let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
                match self.meter.check() {
                    Ok(()) => {
                        *under_way += 1;
                        return Ok(Paying(self));
                    }
                    Err(error) if *under_way == 0 => return Err(error),
                    Err(_) => {}
                }
            }
            ended.await;
        }
    }
}

/// A question that is under way.
#[derive(Debug)]
pub(super) struct Paying<'a>(&'a Budget);

impl Paying<'_> {
    /// Counts what `judge`'s answer cost; what has been spent so far. The question
    /// is under way until this is dropped.
    pub(super) fn paid(&self, judge: &str, usage: Usage) -> f64 {
        self.0.meter.count(judge, Some(usage));
        self.0.meter.spent_usd()
    }
}

impl Drop for Paying<'_> {
    fn drop(&mut self) {
        *self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_waiters();
    }
}
