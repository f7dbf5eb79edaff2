//! A panel of remote judges as a user runs it: the program on one side, a
//! scripted provider on the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use albedo::backends::openai::scripted::{Act, Answer, ScriptedServer};
use albedo::canary::Series;
use albedo::events::{Collected, EventKind};
use albedo::judges::form::Canonical;
use albedo::prelude::*;
use albedo::record::{JournalEntry, JournalEvent, RecordLine, RecordedAnswer, VerifyOptions, verify_record};
use albedo::{Assessment, MessageRole};
use serde_json::json;
use tokio::sync::Notify;

use crate::question::Question;
use crate::run::{command, demo, error, stdout};

/// What a judge is shown of what the demo's tasks recorded: what one that knows them prefers.
pub(crate) async fn recorded() -> BTreeSet<String> {
    let (cx, registry) = (CallContext::new(), Registry::linked().expect("links"));
    let plugins = BuildContext::new(&registry, &cx).relative_to(demo());
    let tasks = plugins.build::<dyn TaskSource>("parquet", json!({ "path": "tasks" })).await;
    let tasks = tasks.expect("opens");
    let (mut texts, languages) = (BTreeSet::new(), ["bash".to_owned()]);
    for row in 0..tasks.info().rows {
        let messages = tasks.row(row, &cx).await.expect("reads").messages;
        let recorded = messages.into_iter().filter(|m| m.role == MessageRole::Assistant);
        texts.extend(recorded.map(|m| Canonical::of(&m.content, &languages).block()));
    }
    texts
}

impl Question<'_> {
    fn longer(&self) -> &'static str {
        match self.first.len().cmp(&self.second.len()) {
            std::cmp::Ordering::Greater => "first",
            std::cmp::Ordering::Less => "second",
            std::cmp::Ordering::Equal => "tie",
        }
    }

    /// The recorded reply, if one of the two is; else the longer.
    pub(crate) fn informed(&self, recorded: &BTreeSet<String>) -> &'static str {
        match [&self.first, &self.second].map(|reply| recorded.contains(reply)) {
            [true, false] => "first",
            [false, true] => "second",
            _ => self.longer(),
        }
    }
}

/// A duel of the demo pack before models `judges` of `server`, six samples.
fn config(folder: &Path, server: &ScriptedServer, judges: &[&str], duel: &str) -> String {
    let file = |name: &str| demo().join(name).to_str().expect("UTF-8").to_owned();
    let judges = judges.iter().map(|model| {
        format!(
            "[[judges]]\nname = \"chat\"\nlabel = {model:?}\nmodel = {model:?}\nbackend = {{ name = \"openai\", base_url = \
             {:?}, stream = false, price = {{ prompt_usd = 10000, completion_usd = 0 }} }}\n",
            server.base_url(),
        )
    });
    let text = format!(
        "king.path = {:?}\nchallenger.path = {:?}\ntasks = {{ name = \"parquet\", path = {:?} }}\n{}[duel]\nsamples = 6\n\
         seed = 3\nrule = {{ name = \"margin\" }}\ngeneration.max_new_tokens = 24\n{duel}\n",
        file("models/king"),
        file("models/challenger"),
        file("tasks"),
        judges.collect::<String>(),
    );
    let path = folder.join("panel.toml");
    fs::write(&path, text).expect("writes");
    path.to_str().expect("UTF-8").to_owned()
}

/// Runs `albedo` to its end while the server goes on serving.
async fn albedo(arguments: &[&str]) -> Output {
    let mut command = command(arguments.iter().copied());
    tokio::task::spawn_blocking(move || command.output().expect("albedo starts")).await.expect("ends")
}

/// What a duel's journal holds so far.
fn journal(folder: &Path) -> Vec<JournalEvent> {
    let text = fs::read(folder.join("journal.jsonl")).unwrap_or_default();
    let lines = text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.map(|line| serde_json::from_slice::<JournalEntry>(line).expect("a line").event).collect()
}

/// Nonces of the judges' answers in a journal.
fn nonces(folder: &Path) -> BTreeSet<String> {
    let answers = journal(folder).into_iter().filter_map(|event| match event {
        JournalEvent::Assessed { assessment, .. } | JournalEvent::CanaryAssessed { assessment, .. } => {
            Some(assessment)
        }
        _ => None,
    });
    answers.filter_map(|assessment| assessment.evidence()?.nonce.clone()).collect()
}

/// How often each nonce was asked for.
fn asked(server: &ScriptedServer) -> BTreeMap<String, usize> {
    let mut asked = BTreeMap::new();
    for seen in server.seen().iter().filter(|seen| seen.path.ends_with("/chat/completions")) {
        *asked.entry(Question::read(seen).nonce.to_owned()).or_default() += 1;
    }
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_judge_that_fails_its_canaries_is_off_the_panel_and_one_that_fails_later_is_void_from_there() {
    let recorded = recorded().await;
    // Four canaries in two orders before the duel; from the first in it, it lies.
    let turning = AtomicU32::new(0);
    let server = ScriptedServer::start(move |seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&["steady", "shallow", "turning"]);
        }
        let question = Question::read(seen);
        let informed = question.informed(&recorded);
        let canary = recorded.contains(&question.first) || recorded.contains(&question.second);
        let word = match question.model {
            "shallow" => question.longer(),
            "turning" if canary && turning.fetch_add(1, Ordering::Relaxed) >= 8 => match informed {
                "first" => "second",
                "second" => "first",
                tie => tie,
            },
            _ => informed,
        };
        Answer::reply(&question.answer(word))
    });
    let (server, folder) = (server.await.expect("starts"), tempfile::tempdir().expect("a folder"));
    let out = folder.path().join("duel");
    let out = out.to_str().expect("UTF-8");
    let settings = "canaries = { every = 2, preflight = 4, quorum = 2 }\npanel.max_missing = 1.0";
    let path = config(folder.path(), &server, &["steady", "shallow", "turning"], settings);
    let shown = stdout(&albedo(&["duel", "--config", &path, "--out", out]).await);
    assert!(
        shown.contains("judges      steady, turning; not on the panel after their canaries: shallow"),
        "{shown}"
    );
    assert!(shown.contains("cost        $"), "{shown}");

    let verified = stdout(
        &albedo(&["record", "verify", out, "--tasks", demo().join("tasks").to_str().expect("UTF-8")]).await,
    );
    assert!(verified.contains("verified "), "{verified}");
    let record = Record::open(Path::new(out)).expect("reads");
    let void: Vec<_> = (record.lines.iter())
        .filter_map(|line| match line {
            RecordLine::Assessment { sample, judge, answer: RecordedAnswer::Void, .. } => {
                Some((*sample, *judge))
            }
            _ => None,
        })
        .collect();
    let expected: Vec<_> = (2..6).flat_map(|sample| [(sample, 1), (sample, 1)]).collect();
    assert_eq!(void, expected, "void for the samples after the canary before sample 2, not for those before");
    let before = journal(Path::new(out))
        .into_iter()
        .filter(|event| matches!(event, JournalEvent::CanaryAssessed { series: Series::Preflight, .. }));
    assert_eq!(before.count(), 3 * 4 * 2);
    assert!(asked(&server).values().all(|&times| times == 1));

    let path = config(folder.path(), &server, &["steady", "shallow"], settings);
    let none = folder.path().join("none");
    let output = albedo(&["duel", "--config", &path, "--out", none.to_str().expect("UTF-8")]).await;
    let line = error(&output);
    assert_eq!(output.status.code(), Some(78), "{line}");
    for words in ["wrongly for the quorum", "shallow failed: ", "begin a new duel with other judges"] {
        assert!(line.contains(words), "{line}");
    }
    assert!(!line.contains("--resume"), "asking again would bring the same: {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_that_is_killed_asks_nothing_twice() {
    const ANSWERED: usize = 5;
    let (recorded, held) = (recorded().await, Arc::new(AtomicBool::new(true)));
    let (hold, answered) = (Arc::clone(&held), AtomicUsize::new(0));
    let server = ScriptedServer::start(move |seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&["one", "two"]);
        }
        let question = Question::read(seen);
        let answer = Answer::reply(&question.answer(question.informed(&recorded)));
        if hold.load(Ordering::SeqCst) && answered.fetch_add(1, Ordering::SeqCst) >= ANSWERED {
            return Answer::events(&[]).act(Act::Hang);
        }
        answer
    });
    let (server, folder) = (server.await.expect("starts"), tempfile::tempdir().expect("a folder"));
    let duel = folder.path().join("duel");
    let out = duel.to_str().expect("UTF-8");
    let path = config(
        folder.path(),
        &server,
        &["one", "two"],
        "canaries = { every = 4, preflight = 4, quorum = 2 }",
    );
    let mut child = command(["duel", "--config", &path, "--out", out])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    while nonces(&duel).len() < ANSWERED {
        assert_eq!(child.try_wait().expect("asks"), None, "it waits for its judges");
        tokio::task::yield_now().await;
    }
    child.kill().expect("kills");
    child.wait().expect("ends");
    let before = nonces(&duel);
    assert_eq!(before.len(), ANSWERED);
    held.store(false, Ordering::SeqCst);
    let shown = stdout(&albedo(&["duel", "--resume", out]).await);
    assert!(shown.contains("judges      one, two\n"), "{shown}");
    let asked = asked(&server);
    assert!(before.iter().all(|nonce| asked[nonce] == 1), "{asked:?}");
    assert!(stdout(&albedo(&["record", "verify", out]).await).contains("verified "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_used_up_ends_the_duel_and_a_higher_one_resumes_it() {
    let server = ScriptedServer::start(|seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&["one", "two"]);
        }
        let question = Question::read(seen);
        Answer::reply(&question.answer(question.longer()))
    });
    let (server, folder) = (server.await.expect("starts"), tempfile::tempdir().expect("a folder"));
    let duel = folder.path().join("duel");
    let out = duel.to_str().expect("UTF-8");
    // Seven tokens at a cent each: 24 questions are $1.68.
    let path = config(
        folder.path(),
        &server,
        &["one", "two"],
        "limits = { budget_usd = 0.5, samples_in_flight = 2 }",
    );
    for arguments in [&["--config", &path, "--out", out][..], &["--resume", out]] {
        let output = albedo(&[&["duel"], arguments].concat()).await;
        let line = error(&output);
        assert_eq!(output.status.code(), Some(77), "{line}");
        for words in ["US dollars are spent of 0.5", "raise `limits.budget_usd`", "albedo duel --resume"] {
            assert!(line.contains(words), "{line}");
        }
    }
    let answered = nonces(&duel).len();
    assert!((8..24).contains(&answered), "{answered}");
    assert_eq!(asked(&server).len(), answered, "what was paid for is in the journal");
    let shown = stdout(&albedo(&["duel", "--resume", out, "--budget-usd", "2"]).await);
    assert!(shown.contains("cost        $1.4000 for the judges"), "{shown}");
    assert!(asked(&server).values().all(|&times| times == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_too_late_is_not_counted_beside_its_successor() {
    // The first try of every question is answered, with another verdict, once
    // there is a second: after it was given up.
    let held: Mutex<BTreeMap<String, Arc<Notify>>> = Mutex::default();
    let server = ScriptedServer::start(move |seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&["slow"]);
        }
        let question = Question::read(seen);
        let mut held = held.lock().expect("unpoisoned");
        if let Some(first) = held.get(question.nonce) {
            first.notify_one();
            return Answer::reply(&question.answer("tie"));
        }
        let release = Arc::new(Notify::new());
        held.insert(question.nonce.to_owned(), Arc::clone(&release));
        let late = Answer::events(&[]).act(Act::Wait(release));
        late.act(Act::Send(question.answer("first").into_bytes()))
    });
    let (server, cx) = (server.await.expect("starts"), CallContext::new());
    let judge = json!({
        "model": "slow",
        "backend": {
            "name": "routes",
            "order": [{
                "name": "openai", "base_url": server.base_url(), "stream": false,
                "price": { "prompt_usd": 10_000, "completion_usd": 0 },
            }],
            "deadlines": { "first_token_secs": 0.5 },
            "retry": { "attempts": 100, "base_secs": 0.01, "max_secs": 0.01 },
            "breaker": { "failures": 1000 },
        },
    });
    let registry = Registry::linked().expect("links");
    let plugins = BuildContext::new(&registry, &cx).relative_to(demo());
    let judge = plugins.build::<dyn Judge>("chat", judge).await.expect("builds");
    let backend = plugins.build::<dyn ModelBackend>("burn", json!({})).await.expect("builds");
    let source = |name: &str| {
        ModelSource::new(demo().join("models").join(name)).with_text_from(demo().join("models/king"))
    };
    let king = Contestant::load(Side::King, &backend, &source("king"), &cx).await.expect("loads");
    let challenger =
        Contestant::load(Side::Challenger, &backend, &source("challenger"), &cx).await.expect("loads");
    let tasks = plugins.build::<dyn TaskSource>("parquet", json!({ "path": "tasks" })).await;
    let mut settings = DuelSettings { samples: 3, ..DuelSettings::default() };
    settings.rule = Rule::by_name("margin").expect("a rule");
    settings.generation.max_new_tokens = 16;
    let duel = Duel::builder(king, challenger).tasks(tasks.expect("opens")).judge(judge).settings(settings);
    let duel = duel.plan(&MemoryStore::default(), &cx).await.expect("plans");
    let (store, seen) = (MemoryStore::default(), Arc::new(Collected::default()));
    duel.run(&store, &cx.with_events(seen.clone())).await.expect("runs");

    let tries = asked(&server);
    // One of the three pairs is of the same reply twice: nobody is asked about it.
    assert_eq!(tries.len(), 4);
    assert!(tries.values().all(|&tries| tries >= 2), "each was asked again: {tries:?}");
    let mut answered = BTreeSet::new();
    for event in store.journal() {
        if let JournalEvent::Assessed { assessment: Assessment::Scored { scores, evidence, .. }, .. } = event
        {
            assert!(scores.values().all(|score| *score == Score::TIE), "{scores:?}");
            assert!(
                answered.insert(evidence.expect("kept").nonce.expect("carried")),
                "one answer a question"
            );
        }
    }
    assert_eq!(answered.len(), 4);
    // What was given up is not known to cost anything.
    let spent = seen.events().into_iter().rev().find_map(|event| match event.kind {
        EventKind::Spent { usd } => Some(usd),
        _ => None,
    });
    assert!((spent.expect("was paid") - 4.0 * 0.07).abs() < 1e-9);
    let record = store.record().expect("published");
    let record = Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads");
    let verification = verify_record(&record, &VerifyOptions::default(), &cx).await.expect("verifies");
    assert_eq!(verification.answers, 6);
}
