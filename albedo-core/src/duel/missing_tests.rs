use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::scripted::*;
use super::*;
use crate::decision::{Rule, RuleVersion};
use crate::error::Retry;
use crate::judge::{Assessment, Comparison};
use crate::missing::{NEUTRAL, Probed};
use crate::panel::PanelSettings;
use crate::panel::{Cell, Cluster};
use crate::plan::DuelSettings;
use crate::record::{MemoryStore, Record, RecordedAnswer, VerifyOptions, verify_record};
use crate::verdict::{Holds, VoidReason};

fn refusal() -> Error {
    Error::new(ErrorKind::Refused, "ask the judge", "filtered")
}

fn down() -> Error {
    Error::new(ErrorKind::Unavailable, "ask the judge", "down").with_retry(Retry::After(Duration::ZERO))
}

fn replies(request: &Comparison) -> [&str; 2] {
    [&request.first, &request.second].map(|reply| &*reply.text)
}

/// Prefers "better" by a twentieth of the scale of differences.
fn slight(request: &Comparison) -> Result<Assessment> {
    let [first, second] = replies(request).map(|text| f64::from(u8::from(text.starts_with("better"))));
    scored(0.5 + 0.025 * (first - second))
}

fn margin() -> DuelSettings {
    DuelSettings { rule: Rule::by_name("margin").expect("a rule"), ..settings() }
}

fn of(names: [&'static str; 2], judges: Vec<Arc<dyn Judge>>) -> Duel {
    let [king, challenger] = names.map(|name| Scripted::new(name).contestant());
    planned(&margin(), king, challenger, judges).expect("plans")
}

async fn verified(store: &MemoryStore) -> Record {
    let bytes = store.record().expect("published");
    let record = Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("reads");
    verify_record(&record, &VerifyOptions::default(), &CallContext::new()).await.expect("verifies");
    record
}

#[tokio::test]
async fn a_reply_that_alone_is_refused_twice_loses_its_sample_on_either_side() {
    fn filter(request: &Comparison) -> Result<Assessment> {
        if replies(request).iter().any(|text| text.starts_with("bad")) {
            Err(refusal())
        } else {
            slight(request)
        }
    }
    for (names, outcome, margin) in [
        (["plain", "bad"], Outcome::KingHolds(Holds::NotShown), -100.0),
        (["bad", "plain"], Outcome::Dethroned, 100.0),
    ] {
        let judge = Asked::new("filter", filter);
        let (report, store) = run(&of(names, vec![Arc::<Asked>::clone(&judge)])).await;
        assert_eq!((report.verdict.outcome, report.verdict.margin), (outcome, margin));
        assert_eq!(report.verdict.missing, 0);
        assert_eq!(judge.calls.load(Ordering::Relaxed), 8 * (2 + 1 + 4), "both orders, and five probes");
        verified(&store).await;
    }
}

#[tokio::test]
async fn what_both_replies_provoke_is_the_kings_and_makes_no_duel_void() {
    /// Answers neutral text alone.
    fn filter(request: &Comparison) -> Result<Assessment> {
        if replies(request) == [NEUTRAL; 2] { scored(0.5) } else { Err(refusal()) }
    }
    let (report, store) = run(&of(["plain", "better"], vec![Asked::new("filter", filter)])).await;
    assert_eq!(report.verdict.outcome, Outcome::KingHolds(Holds::NotShown));
    assert_eq!((report.verdict.margin, report.verdict.missing), (0.0, 8));
    assert_eq!(report.verdict.causes, [(Cause::Replies, 8)].into());
    verified(&store).await;
}

#[tokio::test]
async fn what_neutral_text_provokes_too_is_nobodys() {
    fn filter(request: &Comparison) -> Result<Assessment> {
        if request.messages.len() > 2 { Err(refusal()) } else { slight(request) }
    }
    // Some of the samples: they are ties in both series, and too many of them.
    let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("filter", filter), Asked::new("slight", slight)];
    let (report, store) = run(&of(["plain", "better"], judges.clone())).await;
    assert_eq!(report.verdict.outcome, Outcome::Void(VoidReason::TooManyMissing));
    assert!(report.verdict.missing > 1 && store.record().is_none());
    let mut duel = of(["plain", "better"], judges);
    duel.plan.panel.max_missing = 0.5;
    let (report, _) = run(&duel).await;
    assert_eq!(report.verdict.outcome, Outcome::Dethroned);
    assert_eq!(report.verdict.causes, [(Cause::Question, report.verdict.missing)].into());
    assert!(report.verdict.decision.evidence_for_king.is_none(), "both series are one");
}

#[tokio::test]
async fn an_equal_challenger_gains_nothing_by_answers_that_nobody_can_read() {
    fn confused(request: &Comparison) -> Result<Assessment> {
        let texts = replies(request);
        if texts != [NEUTRAL; 2] && seeds([0, 1]).iter().any(|seed| texts[0].ends_with(&seed.to_string())) {
            let (reason, evidence) = ("no object".into(), Box::default());
            return Ok(Assessment::Unreadable { reason, usage: None, evidence });
        }
        slight(request)
    }
    let (report, store) = run(&of(["plain", "better"], vec![Asked::new("confused", confused)])).await;
    // A win by 3.75 points with ties, and none with wins of the king.
    assert_eq!(report.verdict.outcome, Outcome::KingHolds(Holds::NotShown));
    assert!((report.verdict.margin - 3.75).abs() < 1e-9, "{}", report.verdict.margin);
    assert_eq!(report.verdict.causes, [(Cause::Replies, 2)].into());
    assert!(report.verdict.decision.evidence_for_king.is_some());
    let asked_again = |event: &JournalEvent| matches!(event, JournalEvent::AskedAgain { samples: 8 });
    assert_eq!(store.journal().iter().filter(|event| asked_again(event)).count(), 1, "once");
    let record = verified(&store).await;
    let probes = record.lines.iter().filter_map(|line| match line {
        RecordLine::Probes { probes, .. } => Some(probes.neutral),
        _ => None,
    });
    assert_eq!(probes.collect::<Vec<_>>(), [Probed::Scored; 2]);
    // If neutral text had met an outage, the same win would hang on it: such a duel has no record.
    let mut invented = record.clone();
    for line in &mut invented.lines {
        match line {
            RecordLine::Probes { probes, .. } => probes.neutral = Probed::Failed,
            RecordLine::Cluster(Cluster { cells, .. }) => {
                let missing = cells.iter_mut().filter(|cell| cell.is_missing());
                missing.for_each(|cell| *cell = Cell::MissingFor(Cause::Outage));
            }
            _ => {}
        }
    }
    let error = verify_record(&invented, &VerifyOptions::default(), &CallContext::new()).await;
    let error = error.expect_err("the duel was void").to_string();
    assert!(error.contains("a win is disputed for an outage here"), "{error}");

    let [king, challenger] = ["plain", "better"].map(|name| Scripted::new(name).contestant());
    let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("confused", confused)];
    let mut first = planned_by(RuleVersion::First, &margin(), king, challenger, judges).expect("plans");
    first.plan.panel.max_missing = 0.5;
    let verdict = run(&first).await.0.verdict;
    assert_eq!(verdict.outcome, Outcome::Dethroned, "ties alone would crown it");
}

/// Two judges that prefer "better" slightly; the second is down for one sample as
/// often as the counter says.
fn with_an_outage(answer: Answer) -> Duel {
    of(["plain", "better"], vec![Asked::new("slight", slight), Asked::new("moody", answer)])
}

fn is_first_sample(request: &Comparison) -> bool {
    let [first, _] = replies(request);
    seeds([0]).iter().any(|seed| first.ends_with(&seed.to_string()))
}

#[tokio::test]
async fn an_outage_that_passes_costs_nobody_a_crown() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    /// Down for two tries in both orders.
    fn moody(request: &Comparison) -> Result<Assessment> {
        if is_first_sample(request) && CALLS.fetch_add(1, Ordering::Relaxed) < 4 {
            return Err(down());
        }
        slight(request)
    }
    let (report, store) = run(&with_an_outage(moody)).await;
    let (whole, undisturbed) = run(&with_an_outage(slight)).await;
    assert_eq!(report.verdict, whole.verdict);
    assert_eq!(report.verdict.outcome, Outcome::Dethroned);
    assert_eq!(verified(&store).await.digest, verified(&undisturbed).await.digest);
    assert!(store.journal().contains(&JournalEvent::AskedAgain { samples: 8 }));
    let answers = store.journal().into_iter().filter(|event| matches!(event, JournalEvent::Assessed { .. }));
    assert_eq!(answers.count(), 2 * 16, "nothing else is asked again");
}

#[tokio::test]
async fn an_outage_that_goes_on_makes_a_disputed_win_void_and_a_later_run_decides() {
    static STATE: AtomicU32 = AtomicU32::new(0);
    fn moody(request: &Comparison) -> Result<Assessment> {
        if is_first_sample(request) && STATE.load(Ordering::Relaxed) == 0 {
            Err(down())
        } else {
            slight(request)
        }
    }
    let (duel, store, cx) = (with_an_outage(moody), MemoryStore::default(), CallContext::new());
    for run in 0..2 {
        let verdict = duel.run(&store, &cx).await.expect("runs").verdict;
        assert_eq!(verdict.outcome, Outcome::Void(VoidReason::Disputed), "run {run}");
        assert_eq!(verdict.causes, [(Cause::Outage, 1)].into());
        assert!(store.record().is_none());
    }
    STATE.store(1, Ordering::Relaxed);
    let report = duel.run(&store, &cx).await.expect("runs");
    assert_eq!(report.verdict, run(&with_an_outage(slight)).await.0.verdict);
    verified(&store).await;
}

#[tokio::test]
async fn an_outage_does_not_help_a_challenger_that_has_not_won() {
    fn moody(request: &Comparison) -> Result<Assessment> {
        if is_first_sample(request) { Err(down()) } else { slight(request) }
    }
    let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("slight", slight), Asked::new("moody", moody)];
    let (report, store) = run(&of(["better", "plain"], judges)).await;
    assert_eq!(report.verdict.outcome, Outcome::KingHolds(Holds::NotShown));
    assert_eq!(report.verdict.causes, [(Cause::Outage, 1)].into());
    verified(&store).await;
}

#[tokio::test]
async fn replies_that_are_the_same_are_a_tie_without_asking() {
    let judge = Asked::new("first", always_first);
    let (report, store) = run(&of(["plain", "plain"], vec![Arc::<Asked>::clone(&judge)])).await;
    assert_eq!((report.verdict.margin, report.verdict.missing), (0.0, 0));
    assert_eq!(judge.calls.load(Ordering::Relaxed), 0);
    let record = verified(&store).await;
    let answers: Vec<_> = record.samples().into_iter().flat_map(|sample| sample.answers).collect();
    assert!(answers.len() == 16 && answers.iter().all(|answer| **answer == RecordedAnswer::Identical));
}

#[tokio::test]
async fn a_journal_that_names_no_version_of_the_rules_goes_on_by_the_first() {
    let contestants = || ["plain", "better"].map(|name| Scripted::new(name).contestant());
    let [king, challenger] = contestants();
    let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("fair", fair)];
    let old = planned_by(RuleVersion::First, &settings(), king, challenger, judges.clone()).expect("plans");
    assert!(!serde_json::to_string(&old.plan).expect("serialises").contains("rule_version"));
    let (store, cx) = (MemoryStore::default(), CallContext::new());
    let opened =
        JournalEvent::Opened { format: 2, digest: old.digest, plan: Box::new(old.plan.clone()), build: None };
    store.append(opened, vec![]).await.expect("appends");
    let [king, challenger] = contestants();
    let builder = Duel::builder(king, challenger).tasks(rows()).judges(judges).settings(settings());
    let resumed = builder.plan(&store, &cx).await.expect("plans");
    assert_eq!((resumed.plan.rule_version, resumed.digest), (RuleVersion::First, old.digest));
    let report = resumed.run(&store, &cx).await.expect("runs");
    assert_eq!(report.verdict, run(&old).await.0.verdict);
    assert!(report.verdict.causes.is_empty());
    let fresh = builder.plan(&MemoryStore::default(), &cx).await.expect("plans");
    assert_eq!(fresh.plan.rule_version, RuleVersion::Second);
}

/// What `store` holds without its record.
async fn without_record(store: &MemoryStore) -> MemoryStore {
    let copy = MemoryStore::default();
    for event in store.journal() {
        let texts = match &event {
            JournalEvent::Replied { text, .. } => vec![store.text(text).await.expect("kept")],
            _ => vec![],
        };
        copy.append(event, texts).await.expect("appends");
    }
    copy
}

#[tokio::test]
async fn a_record_made_again_has_what_was_missing_when_the_duel_was_decided() {
    static UP: AtomicU32 = AtomicU32::new(0);
    /// Down for the first sample, and well later.
    fn moody(request: &Comparison) -> Result<Assessment> {
        let up = UP.load(Ordering::Relaxed) == 1;
        if is_first_sample(request) && !up { Err(down()) } else { slight(request) }
    }
    let moody_judge = Asked::new("moody", moody);
    let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("slight", slight), Arc::<Asked>::clone(&moody_judge)];
    let [king, challenger] = ["better", "plain"].map(Scripted::new);
    let replies = [Arc::clone(&king.calls), Arc::clone(&challenger.calls)];
    // The king loses its second reply.
    let lost = seeds([1]).into_iter().map(|seed| (seed, vec![down(); 9]));
    *king.failures.lock().expect("unpoisoned") = lost.collect();
    let settings =
        DuelSettings { panel: PanelSettings { max_missing: 0.5, ..Default::default() }, ..margin() };
    let duel = planned(&settings, king.contestant(), challenger.contestant(), judges).expect("plans");
    let (report, store) = run(&duel).await;
    assert_eq!(report.verdict.causes, [(Cause::Outage, 3)].into());

    UP.store(1, Ordering::Relaxed);
    let calls = || {
        let replies = replies.each_ref().map(|calls| calls.load(Ordering::Relaxed));
        (replies, moody_judge.calls.load(Ordering::Relaxed))
    };
    let (before, bare) = (calls(), without_record(&store).await);
    assert_eq!(duel.run(&bare, &CallContext::new()).await.expect("is made again"), report);
    assert_eq!((calls(), bare.record()), (before, store.record()));
    assert_eq!(bare.journal(), store.journal(), "nothing is journalled behind the end");
}

#[tokio::test]
async fn a_record_is_made_again_without_the_samples_that_were_under_way() {
    let decisive: Answer = |request| scored(f64::from(u8::from(request.first.text.starts_with("better"))));
    let settings = DuelSettings {
        samples: 10,
        rule: Rule::by_name("sequential").expect("a rule"),
        limits: Limits { samples_in_flight: 10, ..Limits::default() },
        ..settings()
    };
    let judge = Asked::new("decisive", decisive);
    let [king, challenger] = ["plain", "better"].map(|name| Scripted::new(name).contestant());
    let duel = planned(&settings, king, challenger, vec![Arc::<Asked>::clone(&judge)]).expect("plans");
    let (report, store) = run(&duel).await;
    assert_eq!(report.verdict.samples, 5);
    // Killed before any answer to the last sample was journalled.
    let (cut, bare) = (without_record(&store).await, MemoryStore::default());
    for event in cut.journal() {
        let texts = match &event {
            JournalEvent::Replied { sample: 9, .. } | JournalEvent::Assessed { sample: 9, .. } => continue,
            JournalEvent::Replied { text, .. } => vec![store.text(text).await.expect("kept")],
            _ => vec![],
        };
        bare.append(event, texts).await.expect("appends");
    }
    let (asked, before) = (judge.calls.load(Ordering::Relaxed), bare.journal());
    assert_eq!(duel.run(&bare, &CallContext::new()).await.expect("is made again"), report);
    assert_eq!((judge.calls.load(Ordering::Relaxed), bare.journal()), (asked, before));
}

/// Of 256 samples the challenger wins each by 20 points, and of the first 30 one judge's
/// word is missing: with that as the king's, a win seems out of reach at first.
#[test]
fn a_crown_is_one_with_missing_cells_as_the_kings_too() {
    let settings = DuelSettings { samples: 256, rule: Rule::default(), ..settings() };
    let [king, challenger] = ["plain", "better"].map(|name| Scripted::new(name).contestant());
    let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("a", fair), Asked::new("b", fair)];
    let builder = Duel::builder(king, challenger).settings(settings);
    let builder = builder.tasks(Arc::new(crate::testing::Rows::numbered(300)));
    let plan = builder.frozen(judges, None, RuleVersion::NEWEST).expect("plans").plan;
    let won = |difference| Cell::unjudged(&[crate::judge::Metric::Correctness], difference);
    let mut decider = Decider::new(plan.rule.clone(), plan.rule_context());
    let decision = (0..256).find_map(|sample| {
        let cells = match sample {
            0..30 => vec![won(0.4), Cell::MissingFor(Cause::Replies)],
            _ => vec![won(0.2), won(0.2)],
        };
        decider.consume(Cluster::new(sample, cells, plan.panel.reducer))
    });
    let verdict = Verdict::new(&plan, decider.clusters(), Overflows::default(), decision.expect("decides"));
    assert_eq!(verdict.outcome, Outcome::Dethroned);
    assert!(verdict.dethroned_if_missing_for_king, "the rule asks for both");
}
