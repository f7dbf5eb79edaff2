use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::scripted::*;
use super::*;
use crate::backend::Usage;
use crate::error::{Fault, Retry};
use crate::events::Collected;
use crate::judge::{Assessment, Comparison, Preparation, Prepared};
use crate::plan::DuelSettings;
use crate::record::{Call, MemoryStore};
use crate::testing::ScriptedJudge;

/// An answer of [`fair`] for a quarter of a dollar.
fn priced(comparison: &Comparison) -> Result<Assessment> {
    paid_for(comparison, Some(0.25))
}

fn paid_for(comparison: &Comparison, price_usd: Option<f64>) -> Result<Assessment> {
    let mut assessment = fair(comparison)?;
    if let Assessment::Scored { usage, .. } = &mut assessment {
        *usage = Some(Usage { price_usd, ..Usage::counted(9, 2) });
    }
    Ok(assessment)
}

/// The duel of two judges that answer `answer` within `budget_usd`.
fn within(budget_usd: Option<f64>, answer: Answer) -> (Duel, [Arc<Asked>; 2]) {
    let asked = ["one", "two"].map(|name| Asked::new(name, answer));
    let settings = DuelSettings { limits: Limits { budget_usd, ..settings().limits }, ..settings() };
    let judges = asked.each_ref().map(|judge| -> Arc<dyn Judge> { Arc::<Asked>::clone(judge) });
    let [king, challenger] = ["plain", "better"].map(|name| Scripted::new(name).contestant());
    let duel = planned(&settings, king, challenger, judges.into()).expect("plans");
    (duel, asked)
}

fn calls(judges: &[Arc<Asked>]) -> u32 {
    judges.iter().map(|judge| judge.calls.load(Ordering::Relaxed)).sum()
}

fn answers(store: &MemoryStore) -> u32 {
    store.journal().iter().filter(|event| matches!(event, JournalEvent::Assessed { .. })).count() as u32
}

#[tokio::test]
async fn judges_share_one_budget_in_all_runs_and_lose_no_answer_when_it_is_used_up() {
    let cx = CallContext::new();
    let (whole, _) = within(None, priced);
    let expected = whole.run(&MemoryStore::default(), &cx).await.expect("runs");
    let store = MemoryStore::default();
    // Eight samples, two judges and two orders are 32 questions for 8 dollars.
    for (budget, begins_with) in [(3.0, 0), (3.0, 12), (5.0, 12)] {
        let (duel, judges) = within(Some(budget), priced);
        let before = answers(&store);
        assert!(before >= begins_with);
        let seen = Arc::new(Collected::default());
        let seen_cx = cx.with_events(seen.clone());
        let error = duel.run(&store, &seen_cx).await.expect_err("the budget is used up");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::ResourceExhausted, Fault::Operator));
        assert!(error.to_string().contains(&format!("US dollars are spent of {budget}")), "{error}");
        assert!(
            error.to_string().contains("raise `limits.budget_usd`: what was answered is kept"),
            "{error}"
        );
        let after = answers(&store);
        assert_eq!(calls(&judges), after - before, "what was paid is in the journal");
        assert_eq!(f64::from(after) * 0.25, budget, "prices that are known are kept to");
        if after > before {
            let spent = seen.events().into_iter().rev().find_map(|event| match event.kind {
                EventKind::Spent { usd } => Some(usd * 4.0),
                _ => None,
            });
            assert_eq!(spent, Some(f64::from(after)), "the dollars of earlier runs are counted");
        }
    }
    let (duel, judges) = within(Some(8.0), priced);
    let before = answers(&store);
    let report = duel.run(&store, &cx).await.expect("the budget is enough");
    assert_eq!(calls(&judges), 32 - before, "nothing is asked twice");
    assert_eq!(report, expected);
}

#[tokio::test]
async fn a_budget_cannot_be_kept_by_a_judge_that_tells_no_price() {
    let cx = CallContext::new();
    let (duel, judges) = within(Some(5.0), |comparison| paid_for(comparison, None));
    let store = MemoryStore::default();
    let error = duel.run(&store, &cx).await.expect_err("no price");
    assert!(answers(&store) <= 8, "{}", answers(&store));
    assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator));
    assert!(error.to_string().contains("`one` does not tell what its answers cost"), "{error}");
    assert_eq!(calls(&judges), answers(&store));
    let (duel, _) = within(Some(0.0), fair);
    let error = duel.run(&MemoryStore::default(), &cx).await.expect_err("nothing may be spent");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    // Offline judges cost nothing.
    let (duel, _) = within(Some(1e-9), fair);
    duel.run(&MemoryStore::default(), &cx).await.expect("runs");
}

#[tokio::test]
async fn what_a_judge_writes_is_paid_whether_it_can_be_used_or_not() {
    let cx = CallContext::new();
    // What is written first for a sample cannot be used, in whichever run.
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let within = |budget_usd: Option<f64>| {
        let asked = Arc::clone(&asked);
        let prepare = move |request: &Preparation| {
            let usage = Some(Usage::counted(9, 2).with_price(0.25));
            Ok(if asked.lock().expect("unpoisoned").insert(request.fence) {
                Prepared::Unusable { reason: "it is too short".into(), usage }
            } else {
                Prepared::Written { text: "a list".into(), usage }
            })
        };
        let judge: Arc<dyn Judge> = Arc::new(ScriptedJudge::new("writer", fair).with_preparation(prepare));
        let settings = DuelSettings { limits: Limits { budget_usd, ..settings().limits }, ..settings() };
        let [king, challenger] = ["plain", "better"].map(|name| Scripted::new(name).contestant());
        planned(&settings, king, challenger, vec![judge]).expect("plans")
    };
    let expected = within(None).run(&MemoryStore::default(), &cx).await.expect("runs");
    asked.lock().expect("unpoisoned").clear();
    let store = MemoryStore::default();
    let written = || {
        let journal = store.journal();
        let used = journal.iter().filter(|event| matches!(event, JournalEvent::Prepared { .. })).count();
        let unusable = |event: &&JournalEvent| matches!(event, JournalEvent::Failed { usage: Some(_), .. });
        (used, journal.iter().filter(unusable).count())
    };
    // Twice, since what an earlier run has paid counts.
    for _ in 0..2 {
        let error = within(Some(2.0)).run(&store, &cx).await.expect_err("the budget is used up");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        let (used, unusable) = written();
        assert_eq!(used + unusable, 8, "{used} and {unusable} for two dollars");
    }
    let report = within(Some(4.25)).run(&store, &cx).await.expect("the budget is enough");
    assert_eq!((report, written()), (expected, (8, 8)));
}

#[tokio::test]
async fn every_try_of_a_preparation_counts_whatever_goes_wrong_with_it() {
    const TRIES: u32 = 3;
    // Each judge's word for a sample cannot be used, and the next try meets an outage.
    let asked = Mutex::new(BTreeMap::new());
    let prepare = move |request: &Preparation| {
        let mut asked = asked.lock().expect("unpoisoned");
        let times: &mut u32 = asked.entry(request.fence).or_default();
        *times += 1;
        if *times % 2 == 1 {
            Ok(Prepared::Unusable { reason: "it is too short".into(), usage: None })
        } else {
            let down = Error::new(ErrorKind::Unavailable, "prepare a judgement", "down");
            Err(down.with_retry(Retry::After(Duration::ZERO)))
        }
    };
    let judge: Arc<dyn Judge> = Arc::new(ScriptedJudge::new("writer", fair).with_preparation(prepare));
    let limits = Limits { call_tries: TRIES, ..settings().limits };
    let [king, challenger] = ["plain", "better"].map(|name| Scripted::new(name).contestant());
    let settings = DuelSettings { limits, ..settings() };
    let duel = planned(&settings, king, challenger, vec![judge]).expect("plans");
    let store = MemoryStore::default();
    let report = duel.run(&store, &CallContext::new()).await.expect("runs");
    assert!(report.verdict.missing > 0, "{:?}", report.verdict);
    let mut numbers = BTreeMap::new();
    for event in store.journal() {
        if let JournalEvent::Failed { call: Call::Preparation { .. }, call_try, .. } = event {
            *numbers.entry(call_try).or_insert(0_u32) += 1;
        }
    }
    assert_eq!(numbers.keys().copied().collect::<Vec<_>>(), [1, 2, TRIES], "{numbers:?}");
    assert!(numbers.values().is_sorted_by(|one, next| one >= next), "{numbers:?}");
}
