//! Duels before chat judges: what the panel promises whatever a chat model says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use albedo::GenerateRequest;
use albedo::judges::chat::{ChatConfig, ChatJudge};
use albedo::prelude::*;
use albedo::record::{JournalEvent, RecordLine, RecordedAnswer, VerifyOptions, verify_record};
use albedo::testing::{ScriptedBackend, ScriptedSession, completion, identity};
use serde_json::json;

use crate::numbers::numbers;
use crate::question::{between, unsigned};

/// A model that answers what a function says.
fn model(
    name: &str,
    answer: impl Fn(&GenerateRequest) -> albedo::Result<String> + Send + Sync + 'static,
) -> Arc<ScriptedSession> {
    Arc::new(ScriptedSession::new(name, move |request| answer(request).map(|text| completion(&text))))
}

/// Says its skill and the row, so that a judge can tell replies apart.
pub(crate) async fn contestant(side: Side, skill: &'static str) -> Contestant {
    let session = model(skill, move |request| {
        let row: u32 = request.messages[1].content.parse().expect("a row");
        // Each is better on some rows.
        let words = if row.is_multiple_of(3) == (skill == "odd") { 9 } else { row % 5 };
        Ok(format!("{skill} {}", "word ".repeat(words as usize)))
    });
    let backend: Arc<dyn ModelBackend> =
        Arc::new(ScriptedBackend::new("loads", move |_| Ok(Arc::<ScriptedSession>::clone(&session))));
    Contestant::load(side, &backend, &ModelSource::served(skill), &CallContext::new()).await.expect("loads")
}

fn chat(label: &str, model: Arc<ScriptedSession>) -> Arc<dyn Judge> {
    let config = json!({ "label": label, "backend": { "name": "loads" }, "model": "m" });
    let config: ChatConfig = serde_json::from_value(config).expect("settings");
    Arc::new(ChatJudge::new(&config, &identity("loads"), model, None).expect("builds"))
}

async fn duel(sides: [&'static str; 2], judges: Vec<Arc<dyn Judge>>, samples: u32) -> Duel {
    let king = contestant(Side::King, sides[0]).await;
    let challenger = contestant(Side::Challenger, sides[1]).await;
    let tasks = numbers(500);
    let mut settings = DuelSettings { samples, ..DuelSettings::default() };
    settings.rule = Rule::by_name("margin").expect("a rule");
    settings.limits.samples_in_flight = 4;
    settings.limits.call_tries = 2;
    let duel = Duel::builder(king, challenger).tasks(Arc::new(tasks)).judges(judges).settings(settings);
    duel.plan(&MemoryStore::default(), &CallContext::new()).await.expect("plans")
}

/// The two replies that a judge is shown, without signs, and the nonce that it is to answer.
fn shown(request: &GenerateRequest) -> (String, String, &str) {
    let prompt = &request.messages[1].content;
    let fence = between(prompt, "The mark of this comparison is ", ".");
    let part = |name: &str| {
        let part = between(prompt, &format!("[[{fence} {name}]]\n"), &format!("\n[[{fence} end of {name}]]"));
        unsigned(prompt, part)
    };
    (part("first reply"), part("second reply"), prompt.rsplit('"').nth(1).expect("the nonce is last"))
}

fn verdict(word: &str, nonce: &str) -> String {
    json!({
        "correctness": word, "grounding": word, "progress": word, "protocol": "tie", "efficiency": word, "nonce": nonce,
    })
    .to_string()
}

#[expect(clippy::unnecessary_wraps, reason = "an answer can fail")]
fn longer(request: &GenerateRequest) -> albedo::Result<String> {
    let (first, second, nonce) = shown(request);
    let word = match first.len().cmp(&second.len()) {
        std::cmp::Ordering::Greater => "first",
        std::cmp::Ordering::Less => "second",
        std::cmp::Ordering::Equal => "tie",
    };
    Ok(verdict(word, nonce))
}

async fn run(duel: &Duel) -> (DuelReport, MemoryStore) {
    let store = MemoryStore::default();
    let report = duel.run(&store, &CallContext::new()).await.expect("runs");
    (report, store)
}

fn record(store: &MemoryStore) -> Record {
    let record = store.record().expect("published");
    Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads")
}

pub(crate) fn differences(store: &MemoryStore) -> Vec<f64> {
    let clusters = record(store).lines.into_iter().filter_map(|line| match line {
        RecordLine::Cluster(cluster) => Some(cluster.difference),
        _ => None,
    });
    clusters.collect()
}

#[tokio::test]
async fn a_judge_that_always_says_first_moves_nothing() {
    let first = chat("first", model("first", |request| Ok(verdict("first", shown(request).2))));
    let (report, store) = run(&duel(["even", "odd"], vec![first], 12).await).await;
    let differences = differences(&store);
    assert_eq!(differences.len(), 12);
    assert!(differences.iter().all(|difference| difference.to_bits() == 0), "{differences:?}");
    assert_eq!(report.verdict.margin.to_bits(), 0);
    assert_eq!(report.verdict.judges[0].flips, 12);
}

#[tokio::test]
async fn exchanged_contestants_have_mirrored_scores() {
    // One judge leans towards the first place, so that the orders matter.
    let leaning = |request: &GenerateRequest| {
        let (first, second, nonce) = shown(request);
        Ok(verdict(if first.len() + 8 > second.len() { "first" } else { "second" }, nonce))
    };
    let judges = || vec![chat("longer", model("l", longer)), chat("leaning", model("f", leaning))];
    let (_, here) = run(&duel(["even", "odd"], judges(), 24).await).await;
    let (_, there) = run(&duel(["odd", "even"], judges(), 24).await).await;
    let (here, there) = (differences(&here), differences(&there));
    assert!(here.iter().any(|difference| *difference != 0.0));
    for (here, there) in here.iter().zip(&there) {
        assert_eq!(*here, -there);
    }
}

/// Answers garbage to the first question of some judgements, and fails before
/// it answers others.
fn moody() -> Arc<ScriptedSession> {
    let asked: Mutex<BTreeMap<String, u32>> = Mutex::default();
    model("moody", move |request| {
        let (first, second, _) = shown(request);
        // The fence is the sample's; the nonce is of one try.
        let fence = between(&request.messages[1].content, "The mark of this comparison is ", ".");
        let question = format!("{first}|{second}|{fence}");
        let mut asked = asked.lock().expect("unpoisoned");
        let times = asked.entry(question).or_default();
        *times += 1;
        match (first.len() % 4, *times) {
            (1, 1) => Ok("I would rather not.".into()),
            (2, 1) => Err(Error::new(ErrorKind::Timeout, "ask", "too slow")
                .with_retry(albedo::Retry::After(std::time::Duration::ZERO))),
            _ => longer(request),
        }
    })
}

/// The judgements that the journal has an answer to.
fn answers(journal: &[JournalEvent]) -> BTreeMap<(u32, u32, bool), u32> {
    let mut answers = BTreeMap::new();
    for event in journal {
        if let JournalEvent::Assessed { sample, judge, order, .. } = event {
            *answers.entry((*sample, *judge, *order == albedo::order::Order::KingFirst)).or_default() += 1;
        }
    }
    answers
}

#[tokio::test]
async fn an_unreadable_answer_is_asked_again_with_another_nonce_and_the_record_verifies() {
    let model = moody();
    let (report, store) =
        run(&duel(["even", "odd"], vec![chat("moody", Arc::clone(&model))], 16).await).await;
    assert_eq!(report.verdict.missing, 0);
    let record = record(&store);
    let verification = verify_record(&record, &VerifyOptions::default(), &CallContext::new()).await;
    assert_eq!(verification.expect("verifies").answers, 32);
    let asked: Vec<_> = (record.lines.iter())
        .filter_map(|line| match line {
            RecordLine::Assessment { asked, answer: RecordedAnswer::Answered(answer), .. } => Some((
                *asked,
                answer.evidence().and_then(|evidence| evidence.nonce.clone()).expect("a nonce"),
            )),
            _ => None,
        })
        .collect();
    assert!(asked.iter().any(|(asked, _)| *asked == 2) && asked.iter().any(|(asked, _)| *asked == 1));
    let nonces: std::collections::BTreeSet<_> = asked.iter().map(|(_, nonce)| nonce).collect();
    assert_eq!(nonces.len(), 32, "no two judgements share a nonce");
    let failures =
        store.journal().iter().filter(|event| matches!(event, JournalEvent::Failed { .. })).count();
    let answered: u32 = answers(&store.journal()).values().sum();
    assert_eq!(model.asked().len() as u32, answered + failures as u32, "every call is journalled");
}

#[tokio::test]
async fn a_journal_cut_anywhere_asks_no_judge_twice() {
    // Answers depend on the question alone, so that a resumed duel answers alike.
    let sulky = || {
        model("sulky", |request: &GenerateRequest| {
            let (first, _, nonce) = shown(request);
            let sulks = first.len() % 4 == 1 && nonce.as_bytes()[0] % 2 == 0;
            if sulks { Ok("I would rather not.".into()) } else { longer(request) }
        })
    };
    let (whole, store) = run(&duel(["even", "odd"], vec![chat("sulky", sulky())], 8).await).await;
    let journal = store.journal();
    for cut in 1..journal.len() {
        let part = MemoryStore::default();
        for event in &journal[..cut] {
            let texts = match event {
                JournalEvent::Replied { text, .. } => vec![store.text(text).await.expect("kept")],
                _ => vec![],
            };
            part.append(event.clone(), texts).await.expect("appends");
        }
        let model = sulky();
        let duel = duel(["even", "odd"], vec![chat("sulky", Arc::clone(&model))], 8).await;
        let resumed = duel.run(&part, &CallContext::new()).await.expect("resumes");
        assert_eq!(resumed, whole, "cut at {cut}");
        // Where no answer can be read, the judge is asked about neutral text, too.
        let asked = |journal: &[JournalEvent]| {
            let probes = journal.iter().filter(|event| matches!(event, JournalEvent::Probed { .. })).count();
            answers(journal).values().sum::<u32>() + probes as u32
        };
        assert_eq!(
            model.asked().len() as u32,
            asked(&part.journal()) - asked(&journal[..cut]),
            "cut at {cut}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_never_can_be_read_is_a_missing_cell_and_the_duel_void() {
    let garbage = model("garbage", |_| Ok("first first first".into()));
    let duel = duel(["even", "odd"], vec![chat("garbage", Arc::clone(&garbage))], 4).await;
    let store = MemoryStore::default();
    for round in 1..=2 {
        let report = duel.run(&store, &CallContext::new()).await.expect("runs");
        assert!(matches!(report.verdict.outcome, Outcome::Void(_)), "{:?}", report.verdict.outcome);
        assert_eq!((report.verdict.missing, report.verdict.cells), (4, 4));
        // Two tries for each of eight judgements, and one of a pair of neutral texts for
        // each, in each run.
        assert_eq!(garbage.asked().len() as u32, round * 24);
    }
    assert!(store.record().is_none());
}

/// Knows what the data set recorded, and prefers the longer of other replies.
fn informed(request: &GenerateRequest) -> albedo::Result<String> {
    let (first, second, nonce) = shown(request);
    match [first, second].map(|reply| reply == "recorded") {
        [true, false] => Ok(verdict("first", nonce)),
        [false, true] => Ok(verdict("second", nonce)),
        _ => longer(request),
    }
}

#[tokio::test]
async fn a_chat_judge_that_fails_its_canaries_is_not_on_the_panel() {
    let judges = vec![
        chat("one", model("one", informed)),
        chat("shallow", model("shallow", longer)),
        chat("two", model("two", informed)),
    ];
    let (cx, king, challenger) =
        (CallContext::new(), contestant(Side::King, "even").await, contestant(Side::Challenger, "odd").await);
    let tasks: Arc<dyn TaskSource> = Arc::new(numbers(500));
    let mut settings = DuelSettings { samples: 9, ..DuelSettings::default() };
    settings.rule = Rule::by_name("margin").expect("a rule");
    settings.canaries = Some(albedo::canary::CanarySettings { every: 4, preflight: 4, quorum: 2 });
    let store = MemoryStore::default();
    let duel = Duel::builder(king, challenger).tasks(tasks).judges(judges).settings(settings);
    let duel = duel.plan(&store, &cx).await.expect("plans");
    let names: Vec<_> = duel.plan().judges.iter().map(|judge| judge.identity.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    let (report, store) = run(&duel).await;
    assert_eq!(report.verdict.missing, 0);
    let verification =
        verify_record(&record(&store), &VerifyOptions::default(), &cx).await.expect("verifies");
    // Nine samples and two canaries, two judges, two orders.
    assert_eq!(verification.answers, (9 + 2) * 4);
}

#[tokio::test]
async fn another_duel_asks_again() {
    let model = model("l", longer);
    let judge = chat("longer", Arc::clone(&model));
    for duels in 1..=2 {
        run(&duel(["even", "odd"], vec![Arc::clone(&judge)], 4).await).await;
        assert_eq!(model.asked().len() as u32, duels * 8, "no answer is carried over");
    }
}

#[tokio::test]
async fn a_local_model_that_writes_nonsense_makes_the_demo_duel_void() {
    let cx = CallContext::new();
    let demo = crate::run::demo();
    let registry = Registry::linked().expect("links");
    let plugins = BuildContext::new(&registry, &cx).relative_to(&demo);
    let backend = plugins.build::<dyn ModelBackend>("burn", json!({})).await.expect("builds");
    let model = |name: &str| {
        ModelSource::new(demo.join("models").join(name)).with_text_from(demo.join("models/king"))
    };
    let king = Contestant::load(Side::King, &backend, &model("king"), &cx).await.expect("loads");
    let challenger =
        Contestant::load(Side::Challenger, &backend, &model("challenger"), &cx).await.expect("loads");
    let tasks = plugins.build::<dyn TaskSource>("parquet", json!({ "path": "tasks" })).await;
    let judge = json!({
        "backend": { "name": "burn" },
        "path": "models/king",
        "max_answer_tokens": 24,
        "budget": { "context_chars": 1000, "reply_chars": 400 },
    });
    let judge = plugins.build::<dyn Judge>("chat", judge).await.expect("builds");
    let mut settings = DuelSettings { samples: 2, ..DuelSettings::default() };
    settings.rule = Rule::by_name("margin").expect("a rule");
    settings.generation.max_new_tokens = 16;
    settings.limits.call_tries = 1;
    let duel = Duel::builder(king, challenger).tasks(tasks.expect("opens")).judge(judge).settings(settings);
    let duel = duel.plan(&MemoryStore::default(), &cx).await.expect("plans");
    let (report, store) = run(&duel).await;
    assert!(matches!(report.verdict.outcome, Outcome::Void(_)), "{:?}", report.verdict.outcome);
    assert_eq!((report.verdict.missing, report.verdict.cells), (2, 2));
    let unreadable = store.journal().into_iter().filter(|event| {
        matches!(event, JournalEvent::Assessed { assessment: Assessment::Unreadable { .. }, .. })
    });
    assert_eq!(unreadable.count(), 4);
}
