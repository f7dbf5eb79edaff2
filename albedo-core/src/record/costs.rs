//! What a duel's calls took: the journal tells, the record does not.

use std::path::Path;

use serde::Serialize;

use super::journal::{JournalEntry, Lines, malformed};
use super::{JournalEvent, file_store::JOURNAL};
use crate::backend::Usage;
use crate::error::{Error, ErrorKind, Fault, Result, Side};
use crate::files::open_file;
use crate::plan::DuelPlan;

const OPERATION: &str = "read the journal";

/// What the calls of a duel took, in all runs of it. No digest covers these numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Costs {
    /// The king's replies.
    pub king: Spent,
    /// The challenger's replies.
    pub challenger: Spent,
    /// The answers of each judge about the plan's samples, in panel order, what it wrote
    /// before it saw the replies included.
    pub judges: Vec<Spent>,
    /// The answers of all judges to canaries, before the plan was frozen and after.
    pub canaries: Spent,
    /// Calls that failed, whatever they cost.
    pub failed: u64,
    /// Seconds from the first line of the journal to the last, pauses included.
    pub seconds: f64,
}

/// What some calls took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spent {
    /// Calls that were answered.
    pub calls: u64,
    /// Tokens read, as far as they were counted.
    pub prompt_tokens: u64,
    /// Tokens written, as far as they were counted.
    pub completion_tokens: u64,
    /// US dollars, as far as prices are known.
    pub usd: f64,
    /// Calls of a model whose price is unknown.
    pub unpriced: u64,
}

impl Spent {
    fn add(&mut self, usage: Option<Usage>) {
        self.calls += 1;
        // A judge that asks no model has no usage, and costs nothing.
        let Some(Usage { prompt_tokens, completion_tokens, price_usd, .. }) = usage else { return };
        self.prompt_tokens += u64::from(prompt_tokens.unwrap_or_default());
        self.completion_tokens += u64::from(completion_tokens.unwrap_or_default());
        self.usd += price_usd.unwrap_or_default();
        self.unpriced += u64::from(price_usd.is_none());
    }
}

impl Costs {
    /// The costs of the duel under `plan`, from the journal in `folder`; `None` if there
    /// is none, as beside a record that was fetched.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if the journal is malformed or another duel's.
    pub fn read(folder: &Path, plan: &DuelPlan) -> Result<Option<Self>> {
        let path = folder.join(JOURNAL);
        if !path.exists() {
            return Ok(None);
        }
        let mut costs = Self { judges: vec![Spent::default(); plan.judges.len()], ..Self::default() };
        let (wanted, mut begun, mut last) = (plan.digest()?, None, 0);
        for (number, line) in Lines::new(open_file(OPERATION, &path)?).enumerate() {
            let line = line.map_err(|error| Error::io(OPERATION, &path, error))?;
            let JournalEntry { time_ms, event } =
                serde_json::from_slice(&line).map_err(|error| malformed(&path, number + 1, &error))?;
            if let JournalEvent::Opened { digest, .. } = &event
                && *digest != wanted
            {
                let message = "the journal beside the record is of another duel";
                return Err(Error::new(ErrorKind::DataInvalid, OPERATION, message)
                    .with_fault(Fault::Operator)
                    .with("path", path.display())
                    .with_hint("move the journal out of the record's folder"));
            }
            begun = begun.or(Some(time_ms));
            last = time_ms;
            costs.add(&event);
        }
        costs.seconds = last.saturating_sub(begun.unwrap_or(last)) as f64 / 1000.0;
        Ok(Some(costs))
    }

    fn add(&mut self, event: &JournalEvent) {
        let spent = match event {
            JournalEvent::Replied { side, usage, .. } => {
                let side = if *side == Side::King { &mut self.king } else { &mut self.challenger };
                return side.add(Some(*usage));
            }
            JournalEvent::Prepared { judge, .. }
            | JournalEvent::Assessed { judge, .. }
            | JournalEvent::Probed { judge, .. }
            | JournalEvent::Twinned { judge, .. } => self.judges.get_mut(*judge as usize),
            JournalEvent::CanaryPrepared { .. } | JournalEvent::CanaryAssessed { .. } => {
                Some(&mut self.canaries)
            }
            JournalEvent::Failed { .. } => {
                self.failed += 1;
                return;
            }
            _ => return,
        };
        if let Some(spent) = spent {
            spent.add(event.usage());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::CallContext;
    use crate::record::{FileStore, Record};
    use crate::testing::small_duel;

    #[tokio::test]
    async fn calls_are_counted_and_another_duels_journal_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, cx) = (folder.path().join("duel"), CallContext::new());
        let store = FileStore::create(&path).expect("a store");
        let duel = small_duel().plan(&store, &cx).await.expect("plans");
        duel.run(&store, &cx).await.expect("runs");
        let record = Record::open(&path).expect("a record");
        let costs = Costs::read(&path, record.plan()).expect("reads").expect("a journal");
        let samples = u64::from(record.verdict().samples);
        assert_eq!((costs.king.calls, costs.challenger.calls, costs.failed), (samples, samples, 0));
        assert!(costs.judges.iter().all(|judge| judge.calls == 2 * samples), "both orders: {costs:?}");

        let other = DuelPlan { samples: record.plan().samples + 1, ..record.plan().clone() };
        let error = Costs::read(&path, &other).expect_err("another plan");
        assert!(error.to_string().contains("another duel"), "{error}");
        assert_eq!(Costs::read(folder.path(), record.plan()).expect("reads"), None);
    }
}
