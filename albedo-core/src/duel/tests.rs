use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::scripted::*;
use super::*;
use crate::decision::Rule;
use crate::digest::Digest;
use crate::draw::Replay;
use crate::error::Fault;
use crate::error::Retry;
use crate::events::{Collected, Event};
use crate::judge::{Assessment, Comparison, Metric};
use crate::plan::DuelSettings;
use crate::plan::Sampler;
use crate::record::{MemoryStore, Record};
use crate::verdict::{Holds, VoidReason};

#[tokio::test]
async fn a_better_challenger_is_crowned_and_the_record_reads_back() {
    let duel = duel(Scripted::new("plain"), Scripted::new("better"), vec![Asked::new("fair", fair)]);
    let (report, store) = run(&duel).await;
    assert_eq!(report.verdict.outcome, Outcome::Dethroned);
    assert_eq!(report.verdict.judges[0].margin, 25.0);
    assert_eq!((report.verdict.challenger(), report.verdict.king()), (62.5, 37.5));
    let record = store.record().expect("published");
    assert_eq!(Some(record.digest), report.record);
    let read = Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads");
    assert_eq!(read.verdict(), &report.verdict);
    assert_eq!(read.plan(), duel.plan());
}

#[tokio::test]
async fn the_sequential_rule_stops_as_soon_as_it_is_sure() {
    fn decisive(request: &Comparison) -> Result<Assessment> {
        scored(f64::from(u8::from(request.first.text.starts_with("better"))))
    }
    let settings =
        DuelSettings { samples: 10, rule: Rule::by_name("sequential").expect("a rule"), ..settings() };
    for (king, challenger, outcome) in
        [("plain", "better", Outcome::Dethroned), ("better", "plain", Outcome::KingHolds(Holds::Futile))]
    {
        let [king, challenger] = [king, challenger].map(|name| Scripted::new(name).contestant());
        let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("decisive", decisive)];
        let duel = planned(&settings, king, challenger, judges).expect("plans");
        assert_eq!(duel.plan.looks, [3, 5, 10]);
        let (report, store) = run(&duel).await;
        assert_eq!((report.verdict.outcome, report.verdict.samples), (outcome, 5));
        // Only an interval that holds at a stopping time stands beside it.
        assert!(report.verdict.interval().is_some() && report.verdict.margin_interval.is_none());
        let record = store.record().expect("published");
        let read = Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads");
        assert_eq!(read.verdict(), &report.verdict);
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_record_whatever_is_in_flight() {
    let mut digests = BTreeSet::new();
    for samples_in_flight in [1, 3, 8] {
        let mut duel = duel(Scripted::new("plain"), Scripted::new("better"), vec![Asked::new("fair", fair)]);
        duel.limits.samples_in_flight = samples_in_flight;
        digests.insert(run(&duel).await.0.record);
    }
    assert_eq!(digests.len(), 1);
}

#[tokio::test]
async fn exchanging_the_sides_mirrors_every_score() {
    let here = duel(Scripted::new("plain"), Scripted::new("better"), vec![Asked::new("fair", fair)]);
    let there = duel(Scripted::new("better"), Scripted::new("plain"), vec![Asked::new("fair", fair)]);
    let (here, there) = (run(&here).await.0.verdict, run(&there).await.0.verdict);
    assert_eq!(there.outcome, Outcome::KingHolds(Holds::NotShown));
    assert_eq!(here.margin, -there.margin);
    assert_eq!(here.challenger(), there.king());
    assert_eq!(here.judges[0].metrics[&Metric::Correctness], -there.judges[0].metrics[&Metric::Correctness]);
}

#[tokio::test]
async fn a_judge_that_always_answers_first_moves_nothing() {
    let duel =
        duel(Scripted::new("plain"), Scripted::new("better"), vec![Asked::new("biased", always_first)]);
    let verdict = run(&duel).await.0.verdict;
    assert_eq!(verdict.margin, 0.0);
    assert_eq!(verdict.flip_rate(), 1.0);
    assert_eq!(verdict.outcome, Outcome::KingHolds(Holds::NotShown));
}

#[tokio::test]
async fn every_pair_is_judged_once_in_each_order() {
    let judge = Asked::new("fair", fair);
    let duel = duel(Scripted::new("plain"), Scripted::new("better"), vec![Arc::<Asked>::clone(&judge)]);
    let (_, store) = run(&duel).await;
    assert_eq!(judge.calls.load(Ordering::Relaxed), 16);
    let assessed: Vec<_> = store
        .journal()
        .into_iter()
        .filter_map(|event| match event {
            JournalEvent::Assessed { sample, order, .. } => Some((sample, order)),
            _ => None,
        })
        .collect();
    assert_eq!(assessed.len(), 16);
    assert_eq!(assessed.iter().collect::<BTreeSet<_>>().len(), 16);
}

#[tokio::test]
async fn too_many_missing_cells_make_the_duel_void() {
    fn out(_: &Comparison) -> Result<Assessment> {
        Err(Error::new(ErrorKind::Unavailable, "ask the judge", "down")
            .with_retry(Retry::After(Duration::ZERO)))
    }
    let broken = Asked::new("out", out);
    let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("fair", fair), Arc::<Asked>::clone(&broken)];
    let duel = duel(Scripted::new("plain"), Scripted::new("better"), judges);
    let (report, store) = run(&duel).await;
    assert_eq!(report.verdict.outcome, Outcome::Void(VoidReason::TooManyMissing));
    assert_eq!((report.verdict.missing, report.verdict.cells), (8, 16));
    assert_eq!(report.record, None);
    assert_eq!(store.record(), None);
    let calls = broken.calls.load(Ordering::Relaxed);
    assert_eq!(calls, 2 * 32, "two orders of eight samples, two tries each, asked again once");
}

#[tokio::test]
async fn a_failed_reply_is_tried_again_and_then_missing_for_both() {
    let passing =
        || Error::new(ErrorKind::DeviceLost, "generate", "gone").with_retry(Retry::After(Duration::ZERO));
    let judge = Asked::new("fair", fair);
    let king = Scripted::new("plain");
    let duel = duel(king, Scripted::new("better"), vec![Arc::<Asked>::clone(&judge)]);
    let seeds = [0, 1].map(|sample| duel.plan.request_seed(sample, Side::King));
    let failing = Scripted::new("plain");
    *failing.failures.lock().expect("unpoisoned") =
        [(seeds[0], vec![passing()]), (seeds[1], vec![passing(), passing()])].into();
    let mut generous = Duel { contestants: [failing.contestant(), duel.contestants[1].clone()], ..duel };
    generous.plan.panel.max_missing = 0.5;
    // A win with the missing cell as the king's too: nothing is asked again.
    generous.plan.rule = Rule::Margin { win_margin: 2.0 };
    let (report, _) = run(&generous).await;
    assert_eq!((report.verdict.missing, report.verdict.cells), (1, 8));
    assert_eq!(report.verdict.judges[0].margin, 100.0 * 7.0 * 0.25 / 8.0);
    assert_eq!(judge.calls.load(Ordering::Relaxed), 14, "a missing pair is not judged");
}

#[tokio::test]
async fn a_bug_of_ours_ends_the_duel() {
    fn broken(_: &Comparison) -> Result<Assessment> {
        Err(Error::bug("compare", "impossible"))
    }
    let duel = duel(Scripted::new("plain"), Scripted::new("better"), vec![Asked::new("broken", broken)]);
    let error = duel.run(&MemoryStore::default(), &CallContext::new()).await.expect_err("a bug");
    assert_eq!(error.fault(), Fault::Bug);
}

#[tokio::test]
async fn cancelling_says_how_far_it_got() {
    let duel = duel(Scripted::new("plain"), Scripted::new("better"), vec![Asked::new("fair", fair)]);
    let cx = CallContext::new();
    let cancelled = cx.clone();
    let stop_after_three = move |event: &Event| {
        if matches!(event.kind, EventKind::Decided { sample: 2, .. }) {
            cancelled.cancel();
        }
    };
    let cx = cx.with_events(Arc::new(stop_after_three));
    let error = duel.run(&MemoryStore::default(), &cx).await.expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(error.to_string().contains("samples decided: "), "{error}");
}

#[tokio::test]
async fn the_stream_of_events_holds_all_that_the_journal_holds() {
    let duel = duel(Scripted::new("plain"), Scripted::new("better"), vec![Asked::new("fair", fair)]);
    let (store, seen) = (MemoryStore::default(), Arc::new(Collected::default()));
    let cx = CallContext::new().with_events(seen.clone());
    duel.run(&store, &cx).await.expect("runs");
    let journalled = |events: Vec<Event>| -> Vec<JournalEvent> {
        let journalled = events.into_iter().filter_map(|event| match event.kind {
            EventKind::Journal(event) => Some(event),
            _ => None,
        });
        journalled.collect()
    };
    let events = seen.events();
    assert!(events.iter().all(|event| event.duel == Some(duel.digest())));
    assert_eq!(journalled(events), store.journal());

    let resumed = Arc::new(Collected::default());
    duel.run(&store, &CallContext::new().with_events(resumed.clone())).await.expect("was decided");
    let [JournalEvent::Opened { .. }, JournalEvent::Ended { .. }] = &journalled(resumed.events())[..] else {
        panic!("a stream begins with the plan and ends with the verdict")
    };
}

#[tokio::test]
async fn the_draw_can_be_replayed_from_its_facts() {
    for sampler in [Sampler::RowDraw, Sampler::AlbedoPy] {
        let settings = DuelSettings { sampler, ..settings() };
        let [king, challenger] = ["plain", "better"].map(|name| Scripted::new(name).contestant());
        let duel = planned(&settings, king, challenger, vec![Asked::new("fair", fair)]).expect("plans");
        let (_, store) = run(&duel).await;
        let mut replay = Replay::new(duel.plan());
        for event in store.journal() {
            let JournalEvent::Drawn { draws, .. } = event else { continue };
            for draw in &draws {
                replay.check(draw).expect("follows from the seed");
            }
        }
        assert_eq!(replay.samples(), 8);
    }
}

#[tokio::test]
async fn a_task_set_without_enough_instances_is_the_operators() {
    let settings = DuelSettings { samples: 11, ..settings() };
    let [king, challenger] = ["plain", "better"].map(|name| Scripted::new(name).contestant());
    let duel = planned(&settings, king, challenger, vec![Asked::new("fair", fair)]).expect("plans");
    let error = duel.run(&MemoryStore::default(), &CallContext::new()).await.expect_err("too few");
    assert_eq!(error.fault(), Fault::Operator);
    assert!(error.to_string().contains("too few usable instances"), "{error}");
}

#[test]
fn plans_that_cannot_be_fair_are_refused() {
    let plan = |king: Scripted, challenger: Scripted, judges| {
        planned(&settings(), king.contestant(), challenger.contestant(), judges).expect_err("refused")
    };
    let judge = || -> Arc<dyn Judge> { Asked::new("fair", fair) };
    let same = || Scripted::new("plain");
    assert!(plan(same(), same(), vec![]).to_string().contains("there is no judge"));
    assert!(plan(same(), same(), vec![judge(), judge()]).to_string().contains("on the panel twice"));
    let mut other = same();
    other.model.architecture = "Other".into();
    assert_eq!(plan(same(), other, vec![judge()]).fault(), Fault::Contestant(Side::Challenger));
    let mut other = same();
    other.model.tokenizer = Digest::of("other");
    assert_eq!(plan(same(), other, vec![judge()]).fault(), Fault::Operator);
}

/// A challenger that is weak on long prompts would leave them out by saying that its
/// context is short.
#[test]
fn a_challengers_context_chooses_no_task() {
    let plan = |king: u32, challenger: u32, wanted: Option<u32>| {
        let of = |name, length| {
            let mut scripted = Scripted::new(name);
            scripted.model.context_length = length;
            scripted.contestant()
        };
        let settings = DuelSettings { context_tokens: wanted, ..settings() };
        let judge: Arc<dyn Judge> = Asked::new("fair", fair);
        planned(&settings, of("plain", king), of("better", challenger), vec![judge])
    };
    let error = plan(4_096, 280, None).expect_err("refused");
    assert_eq!(error.fault(), Fault::Contestant(Side::Challenger), "{error}");
    assert!(error.to_string().contains("shorter than the duel's"), "{error}");
    // A longer context of the challenger's changes nothing, and the operator may lower it
    // for both.
    for (king, challenger, wanted, context) in
        [(4_096, 4_096, None, 4_096), (4_096, 8_192, None, 4_096), (4_096, 1_024, Some(1_024), 1_024)]
    {
        let duel = plan(king, challenger, wanted).expect("plans");
        assert_eq!(duel.plan().context_tokens, context);
    }
    let error = plan(1_024, 4_096, Some(4_096)).expect_err("the king has less");
    assert_eq!(error.fault(), Fault::Operator, "{error}");
}

/// What decides how often a judge is asked again is in the plan's digest; what stops a
/// duel, and how much is in flight, is not.
#[test]
fn limits_that_can_change_a_verdict_are_in_the_plans_digest() {
    let digest = |limits: Limits| {
        let settings = DuelSettings { limits, ..settings() };
        let [king, challenger] = ["plain", "better"].map(|name| Scripted::new(name).contestant());
        planned(&settings, king, challenger, vec![Asked::new("fair", fair)]).expect("plans").digest()
    };
    let before = settings().limits;
    assert_ne!(digest(Limits { call_tries: 1, ..before }), digest(before));
    assert_eq!(digest(Limits { samples_in_flight: 1, budget_usd: Some(3.0), ..before }), digest(before));
}
