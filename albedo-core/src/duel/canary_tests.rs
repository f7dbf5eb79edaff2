use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;

use super::scripted::*;
use super::*;
use crate::canary::{CanaryOutcome, CanarySettings};
use crate::error::Fault;
use crate::identity::Identity;
use crate::judge::{Assessment, Comparison, JudgeProfile, Metric, Score};
use crate::panel::Cell;
use crate::plan::DuelSettings;
use crate::record::{MemoryStore, Record, RecordedAnswer, VerifyOptions, verify_record};
use crate::seed::Seed;
use crate::testing::ScriptedJudge;

/// A watched judge that knows recorded replies, until it has been asked about
/// canaries more than `sober` times.
#[derive(Debug)]
struct Watched {
    identity: Identity,
    sober: u32,
    canaries: AtomicU32,
    calls: AtomicU32,
}

impl Watched {
    fn new(name: &str, sober: u32) -> Arc<Self> {
        let identity = Identity { name: name.into(), version: "1".into(), config: Digest::of("") };
        Arc::new(Self { identity, sober, canaries: AtomicU32::new(0), calls: AtomicU32::new(0) })
    }
}

#[async_trait]
impl Judge for Watched {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Correctness]).with_canaries()
    }

    async fn compare(&self, request: &Comparison, _: &CallContext) -> Result<Assessment> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let (first, second) = (&request.first.text, &request.second.text);
        let recorded = |text: &str| *text == *request.reference;
        if !recorded(first) && !recorded(second) {
            return fair(request);
        }
        let sober = self.canaries.fetch_add(1, Ordering::Relaxed) < self.sober;
        let score = Score::compare(&recorded(first), &recorded(second));
        let score = if sober { score } else { Score::new(1.0 - score.value())? };
        Ok(Assessment::scored([(Metric::Correctness, score)]))
    }
}

/// A watched judge that answers what a function says.
fn watchful(name: &str, answer: Answer) -> Arc<dyn Judge> {
    let profile = JudgeProfile::new([Metric::Correctness]).with_canaries();
    Arc::new(ScriptedJudge::new(name, answer).with_profile(profile))
}

fn watched_settings() -> DuelSettings {
    let canaries = CanarySettings { every: 2, preflight: 4, quorum: 2 };
    DuelSettings {
        canaries: Some(canaries),
        panel: crate::panel::PanelSettings { max_missing: 1.0, ..Default::default() },
        ..settings()
    }
}

fn contestants() -> [Contestant; 2] {
    ["plain", "better"].map(|name| Scripted::new(name).contestant())
}

fn builder(judges: Vec<Arc<dyn Judge>>) -> DuelBuilder {
    let [king, challenger] = contestants();
    Duel::builder(king, challenger).tasks(rows()).judges(judges).settings(watched_settings())
}

/// The duel of `judges`, its preflight from `store` as far as that holds it.
async fn watched_in(store: &dyn RecordStore, judges: Vec<Arc<dyn Judge>>) -> Result<Duel> {
    builder(judges).plan(store, &CallContext::new()).await
}

async fn watched(judges: Vec<Arc<dyn Judge>>) -> Result<Duel> {
    watched_in(&MemoryStore::default(), judges).await
}

fn read(store: &MemoryStore) -> Record {
    let record = store.record().expect("published");
    Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads")
}

#[tokio::test]
async fn a_judge_that_fails_a_canary_is_void_for_the_clusters_after_it() {
    // Four canaries in two orders before the duel, then one more, then it turns.
    let judges: Vec<Arc<dyn Judge>> = vec![
        Watched::new("steady", u32::MAX),
        Watched::new("turning", 4 * 2 + 2),
        Asked::new("offline", fair),
    ];
    let duel = watched(judges).await.expect("plans");
    assert_eq!(duel.plan().judges.iter().filter(|judge| judge.watched).count(), 2);
    let (report, store) = run(&duel).await;
    let record = read(&store);
    let options = VerifyOptions { tasks: Some(&*rows()), expect: report.record, ..VerifyOptions::default() };
    verify_record(&record, &options, &CallContext::new()).await.expect("verifies");
    let cells: Vec<_> = (record.lines.iter())
        .filter_map(|line| match line {
            RecordLine::Cluster(cluster) => {
                Some(cluster.cells.iter().map(Cell::is_missing).collect::<Vec<_>>())
            }
            _ => None,
        })
        .collect();
    // Canary 0 stands before sample 2, canary 1, which it fails, before sample 4.
    for (sample, missing) in cells.iter().enumerate() {
        assert_eq!(*missing, [false, sample >= 4, false], "sample {sample}");
    }
    let void = |line: &&RecordLine| {
        matches!(
            line,
            RecordLine::Assessment { judge: 1, answer: RecordedAnswer::Void, .. }
                | RecordLine::CanaryAssessment { judge: 1, answer: RecordedAnswer::Void, .. }
        )
    };
    assert_eq!(record.lines.iter().filter(void).count(), 2 * 4 + 2);
    assert_eq!(report.verdict.missing, 4);
}

#[tokio::test]
async fn a_record_that_hears_a_void_judge_or_silences_another_does_not_verify() {
    let judges: Vec<Arc<dyn Judge>> = vec![Watched::new("steady", u32::MAX), Watched::new("turning", 4 * 2)];
    let (_, store) = run(&watched(judges).await.expect("plans")).await;
    let record = read(&store);
    let invented = |change: &dyn Fn(&mut RecordLine)| {
        let mut lines = Vec::new();
        for line in &record.lines {
            let mut line = line.clone();
            change(&mut line);
            lines.extend(crate::canonical_json(&line).expect("writes"));
            lines.push(b'\n');
        }
        let blobs = store.record().expect("published").blobs;
        let digests = crate::record::Digests {
            format: crate::record::FORMAT,
            lines: Digest::of(&lines),
            blobs: Digest::of(&blobs),
        };
        Record::from_bytes(&lines, &blobs, digests.root()).expect("well-formed")
    };
    let hears = invented(&|line| {
        if let RecordLine::Assessment { answer: answer @ RecordedAnswer::Void, .. } = line {
            *answer = RecordedAnswer::Answered(fair_answer());
        }
    });
    let silences = invented(&|line| {
        if let RecordLine::Assessment { judge: 0, answer, .. } = line {
            *answer = RecordedAnswer::Void;
        }
    });
    let elsewhere = invented(&|line| {
        if let RecordLine::Canary(draw) = line {
            draw.row = (draw.row + 1) % 30;
        }
    });
    for (record, why) in [
        (hears, "a judge is listened to that has failed a canary"),
        (silences, "a judge is void that has failed no canary"),
        (elsewhere, "the canary does not follow from the seed"),
    ] {
        let error = verify_record(&record, &VerifyOptions::default(), &CallContext::new()).await;
        let error = error.expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}

fn fair_answer() -> Assessment {
    scored(0.5).expect("a score")
}

#[tokio::test]
async fn a_judge_that_fails_the_preflight_is_not_on_the_panel_and_too_few_are_none() {
    let judges: Vec<Arc<dyn Judge>> =
        vec![Watched::new("steady", u32::MAX), Watched::new("drunk", 0), Watched::new("sober", u32::MAX)];
    let duel = watched(judges).await.expect("plans");
    let names: Vec<_> = duel.plan().judges.iter().map(|judge| judge.identity.name.as_str()).collect();
    assert_eq!(names, ["steady", "sober"]);
    let preflight = &duel.plan().canaries.as_ref().expect("planned").preflight;
    assert_eq!(preflight.judges[1].outcomes.iter().filter(|o| **o == CanaryOutcome::Failed).count(), 3);

    let judges: Vec<Arc<dyn Judge>> = vec![Watched::new("steady", u32::MAX), Watched::new("drunk", 0)];
    let error = watched(judges).await.expect_err("no quorum");
    // Asking again would bring the same: the operator has to name other judges.
    assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator));
    assert!(error.to_string().contains("drunk") && error.to_string().contains("other judges"), "{error}");
    let judges: Vec<Arc<dyn Judge>> = vec![Watched::new("steady", u32::MAX)];
    let draft = builder(judges).draft().expect("nothing but the judges' answers is left");
    assert_eq!(draft.canaries, None);
}

/// Answers of judges in a journal.
fn answered(journal: &[JournalEvent]) -> u32 {
    let answer = |event: &&JournalEvent| {
        matches!(event, JournalEvent::Assessed { .. } | JournalEvent::CanaryAssessed { .. })
    };
    journal.iter().filter(answer).count() as u32
}

#[tokio::test]
async fn a_duel_that_is_interrupted_anywhere_asks_no_canary_twice() {
    let judges =
        || -> Vec<Arc<dyn Judge>> { vec![Watched::new("steady", u32::MAX), Watched::new("other", u32::MAX)] };
    let whole = MemoryStore::default();
    let duel = watched_in(&whole, judges()).await.expect("plans");
    // Two judges, four canaries, two orders, after the line that begins it.
    assert_eq!(whole.journal().len(), 1 + 16, "the preflight's answers are in the journal");
    let report = duel.run(&whole, &CallContext::new()).await.expect("runs");
    let journal = whole.journal();
    for cut in 0..journal.len() {
        let part = MemoryStore::default();
        for event in &journal[..cut] {
            let texts = match event {
                JournalEvent::Replied { text, .. } => vec![whole.text(text).await.expect("kept")],
                _ => vec![],
            };
            part.append(event.clone(), texts).await.expect("appends");
        }
        let [steady, other] = ["steady", "other"].map(|name| Watched::new(name, u32::MAX));
        let judges: Vec<Arc<dyn Judge>> = vec![Arc::<Watched>::clone(&steady), Arc::<Watched>::clone(&other)];
        let duel = watched_in(&part, judges).await.expect("plans");
        let resumed = duel.run(&part, &CallContext::new()).await.expect("resumes");
        assert_eq!(resumed, report, "cut at {cut}");
        let calls = steady.calls.load(Ordering::Relaxed) + other.calls.load(Ordering::Relaxed);
        assert_eq!(calls, answered(&part.journal()) - answered(&journal[..cut]), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_preflight_that_missed_the_quorum_asks_only_for_what_is_missing() {
    let (store, drunk) = (MemoryStore::default(), Watched::new("drunk", 0));
    let steady = Watched::new("steady", u32::MAX);
    let down = |_: &Comparison| Err(Error::new(ErrorKind::Unavailable, "ask the judge", "it is down"));
    let late = |judge| -> Vec<Arc<dyn Judge>> {
        vec![Arc::<Watched>::clone(&steady), Arc::<Watched>::clone(&drunk), judge]
    };
    let error = watched_in(&store, late(watchful("late", down))).await.expect_err("no quorum");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Infrastructure));
    for words in
        ["drunk failed: constant, injected, swapped", "late gave no readable answer to", "it is down"]
    {
        assert!(error.to_string().contains(words), "{error}");
    }
    let before = [&steady, &drunk].map(|judge| judge.calls.load(Ordering::Relaxed));
    let informed = |request: &Comparison| {
        scored(
            Score::compare(
                &(request.first.text == request.reference),
                &(request.second.text == request.reference),
            )
            .value(),
        )
    };
    let duel = watched_in(&store, late(watchful("late", informed))).await.expect("plans");
    let names: Vec<_> = duel.plan().judges.iter().map(|judge| judge.identity.name.as_str()).collect();
    assert_eq!(names, ["steady", "late"]);
    assert_eq!([&steady, &drunk].map(|judge| judge.calls.load(Ordering::Relaxed)), before);
    let judges: Vec<Arc<dyn Judge>> = vec![steady.clone(), Watched::new("another", u32::MAX)];
    let error = watched_in(&store, judges).await.expect_err("another preflight");
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn another_seed_has_other_canaries() {
    let judges: Vec<Arc<dyn Judge>> = vec![Watched::new("steady", u32::MAX), Watched::new("other", u32::MAX)];
    let store = MemoryStore::default();
    watched_in(&store, judges.clone()).await.expect("plans");
    let settings = DuelSettings { seed: Seed::from(6), ..watched_settings() };
    let other = builder(judges).settings(settings).plan(&store, &CallContext::new()).await;
    let error = other.expect_err("another preflight");
    assert_eq!(error.kind(), ErrorKind::Conflict);
}
