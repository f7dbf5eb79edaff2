//! What a duel's calls took: the journal tells, the record does not.

use std::path::Path;

use serde::Serialize;

use super::journal::{JournalEntry, Lines, malformed};
use super::{Call, JournalEvent, file_store::JOURNAL};
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
    /// before it saw the replies included. What it wrote in the duel and could not be used
    /// is here, also where it was for a canary.
    pub judges: Vec<Spent>,
    /// The answers of all judges to canaries, before the plan was frozen and after.
    pub canaries: Spent,
    /// Calls that failed, without those whose answer was paid for and could not be used.
    pub failed: u64,
    /// Seconds from the first line of the journal to the last, pauses included.
    pub seconds: f64,
    /// Those of them in which no run was under way: from a run's last line to the next one's first.
    pub paused: f64,
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
        let (wanted, mut begun, mut last, mut paused_ms) = (plan.digest()?, None, 0, 0);
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
            if matches!(event, JournalEvent::Resumed { .. }) && begun.is_some() {
                paused_ms += time_ms.saturating_sub(last);
            }
            begun = begun.or(Some(time_ms));
            last = time_ms;
            costs.add(&event);
        }
        costs.seconds = last.saturating_sub(begun.unwrap_or(last)) as f64 / 1000.0;
        costs.paused = (paused_ms as f64 / 1000.0).min(costs.seconds);
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
            | JournalEvent::Twinned { judge, .. }
            | JournalEvent::Failed {
                sample: Some(_),
                call: Call::Preparation { judge },
                usage: Some(_),
                ..
            } => self.judges.get_mut(*judge as usize),
            JournalEvent::CanaryPrepared { .. }
            | JournalEvent::CanaryAssessed { .. }
            | JournalEvent::Failed { usage: Some(_), .. } => Some(&mut self.canaries),
            JournalEvent::Failed { usage: None, .. } => {
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
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::context::CallContext;
    use crate::judge::{Preparation, Prepared};
    use crate::record::{FileStore, Record};
    use crate::testing::{ScriptedJudge, small_duel};

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

    #[tokio::test]
    async fn what_passed_between_two_runs_is_a_pause() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, cx) = (folder.path().join("duel"), CallContext::new());
        let store = FileStore::create(&path).expect("a store");
        small_duel().plan(&store, &cx).await.expect("plans").run(&store, &cx).await.expect("runs");
        let journal = path.join(JOURNAL);
        let text = std::fs::read_to_string(&journal).expect("reads");
        let mut entries: Vec<JournalEntry> =
            text.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect();
        // A line per second, and an hour after the fourth.
        for (at, entry) in entries.iter_mut().enumerate() {
            entry.time_ms = 1_000 * at as u64 + if at < 4 { 0 } else { 3_600_000 };
        }
        let lines = entries.len();
        let event = JournalEvent::Resumed { build: None, unchained: false };
        entries.insert(4, JournalEntry { time_ms: 3_603_000, event });
        let text: String =
            entries.iter().map(|entry| serde_json::to_string(entry).expect("JSON") + "\n").collect();
        std::fs::write(&journal, text).expect("writes");
        let record = Record::open(&path).expect("a record");
        let costs = Costs::read(&path, record.plan()).expect("reads").expect("a journal");
        assert_eq!((costs.paused, costs.seconds - costs.paused), (3_600.0, lines as f64 - 1.0));
    }

    #[tokio::test]
    async fn what_a_judge_wrote_and_could_not_use_is_among_its_costs() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, cx) = (folder.path().join("duel"), CallContext::new());
        let store = FileStore::create(&path).expect("a store");
        let asked = Mutex::new(BTreeSet::new());
        let prepare = move |request: &Preparation| {
            let usage = Some(Usage::counted(9, 2).with_price(0.25));
            Ok(if asked.lock().expect("unpoisoned").insert(request.fence) {
                Prepared::Unusable { reason: "it is too short".into(), usage }
            } else {
                Prepared::Written { text: "a list".into(), usage }
            })
        };
        let judge = ScriptedJudge::preferring("writer", |reply| (reply.len() as f64 / 10.0).min(1.0));
        let judge = Arc::new(judge.with_preparation(prepare));
        let duel = small_duel().judge(judge).plan(&store, &cx).await.expect("plans");
        duel.run(&store, &cx).await.expect("runs");
        let record = Record::open(&path).expect("a record");
        let costs = Costs::read(&path, record.plan()).expect("reads").expect("a journal");
        let samples = u64::from(record.verdict().samples);
        let Spent { calls, completion_tokens, usd, .. } = costs.judges[1];
        assert_eq!((calls, completion_tokens, costs.failed), (4 * samples, 4 * samples, 0), "{costs:?}");
        assert_eq!(usd, 0.5 * samples as f64);
    }
}
