//! A duel whose process is killed at random moments, again and again, and
//! resumed: nothing that its journal holds is asked for twice, and verdict and
//! record are those of a run that nobody disturbed.
//!
//! `ALBEDO_KILLS` sets the number of kills, 10 unless it is set.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use albedo::prelude::*;
use albedo::record::{JournalEntry, JournalEvent, JournalKey};
use albedo::rng::{Stream, Use};
use albedo::testing::{ScriptedBackend, ScriptedJudge, ScriptedSession, completion};
use albedo::{Digest, GenerateRequest};

use crate::numbers::numbers;

/// Names the duel's folder to the process that is killed.
const FOLDER: &str = "ALBEDO_KILL_FOLDER";

/// Kills of one duel before it is left to finish.
const KILLS_A_DUEL: usize = 5;

const SAMPLES: u32 = 48;
const IN_FLIGHT: u32 = 6;
const JUDGES: [&str; 2] = ["longer", "later"];

/// Loads models that reply with their name and the last message.
fn echoes() -> Arc<dyn ModelBackend> {
    Arc::new(ScriptedBackend::new("echoes", |source| {
        let name = if source.model == ModelRef::served("king") { "king" } else { "challenger, the better" };
        let reply = move |request: &GenerateRequest| {
            Ok(completion(&format!("{name} {}", request.messages[1].content)))
        };
        Ok(Arc::new(ScriptedSession::new(name, reply)))
    }))
}

/// Writes every question down before it answers.
fn counted(name: &'static str, calls: File) -> Arc<dyn Judge> {
    Arc::new(ScriptedJudge::new(name, move |request| {
        let order = if request.first.text.starts_with("king") { "king" } else { "challenger" };
        let line = format!("{name} {} {order}\n", request.messages[1].content);
        (&calls).write_all(line.as_bytes()).expect("the question is written down");
        let score = Score::compare(&request.first.text.len(), &request.second.text.len());
        Ok(Assessment::scored([(Metric::Correctness, score)]))
    }))
}

/// The duel, whose judges write their questions to `calls`.
async fn duel(calls: &Path) -> Duel {
    let cx = CallContext::new();
    let backend = echoes();
    let [king, challenger] = ["king", "challenger"].map(ModelSource::served);
    let king = Contestant::load(Side::King, &backend, &king, &cx).await.expect("loads");
    let challenger = Contestant::load(Side::Challenger, &backend, &challenger, &cx).await.expect("loads");
    let judge = |name: &'static str| {
        counted(name, OpenOptions::new().create(true).append(true).open(calls).expect("opens"))
    };
    let mut settings = DuelSettings { samples: SAMPLES, ..DuelSettings::default() };
    settings.rule = Rule::by_name("margin").expect("a rule");
    settings.limits.samples_in_flight = IN_FLIGHT;
    let duel = Duel::builder(king, challenger).tasks(Arc::new(numbers(500))).judges(JUDGES.map(judge));
    duel.settings(settings).plan(&MemoryStore::default(), &cx).await.expect("plans")
}

/// The process that is killed: goes on with the duel until it has ended.
#[tokio::test]
#[ignore = "the other test starts it, and kills it"]
async fn the_process_that_is_killed() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("the other test names the folder"));
    let record = folder.join("duel");
    let (key, anchor) = (|| JournalKey::new([7; 32]), Digest::of("duel.json"));
    let store = match FileStore::resume_keyed(&record, key(), anchor) {
        Err(error) if error.kind() == ErrorKind::NotFound => FileStore::create_keyed(&record, key(), anchor),
        resumed => resumed,
    };
    let duel = duel(&folder.join("calls")).await;
    duel.run(&store.expect("opens"), &CallContext::new()).await.expect("runs");
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "kill::the_process_that_is_killed"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

/// The questions asked so far, in order.
fn asked(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("calls")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The questions whose answers the journal holds.
fn answered(folder: &Path) -> BTreeSet<String> {
    let text = fs::read(folder.join("duel/journal.jsonl")).unwrap_or_default();
    let mut rows = BTreeMap::new();
    let mut answered = BTreeSet::new();
    for line in text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let JournalEntry { event, .. } = serde_json::from_slice(line).expect("a whole line");
        match event {
            JournalEvent::Drawn { sample, draws } => {
                rows.insert(sample, draws.last().expect("a draw").row);
            }
            JournalEvent::Assessed { sample, judge, order, .. } => {
                let order = match order {
                    albedo::order::Order::KingFirst => "king",
                    albedo::order::Order::ChallengerFirst => "challenger",
                };
                let row = rows[&sample];
                assert!(
                    answered.insert(format!("{} {row} {order}", JUDGES[judge as usize])),
                    "one answer counts"
                );
            }
            _ => {}
        }
    }
    answered
}

#[tokio::test]
async fn a_killed_duel_goes_on_as_if_nothing_had_happened() {
    let kills: usize = std::env::var("ALBEDO_KILLS").map_or(10, |kills| kills.parse().expect("a number"));
    let undisturbed = tempfile::tempdir().expect("a folder");
    let expected = duel(&undisturbed.path().join("calls")).await;
    let expected = expected.run(&MemoryStore::default(), &CallContext::new()).await.expect("runs");
    let questions = asked(undisturbed.path()).len();
    assert_eq!(questions, SAMPLES as usize * JUDGES.len() * 2);

    let (mut moments, mut killed, mut repeated) = (Stream::new(1, Use::RowDraw), 0, 0);
    while killed < kills {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        // How many questions had been asked, and which were answered, at each kill.
        let mut journalled = Vec::new();
        let mut child = start(folder);
        for _ in 0..KILLS_A_DUEL.min(kills - killed) {
            let moment = asked(folder).len() + moments.below(questions as u64 / 4) as usize;
            while asked(folder).len() < moment && child.try_wait().expect("asks").is_none() {
                std::thread::yield_now();
            }
            child.kill().expect("kills");
            child.wait().expect("ends");
            killed += 1;
            let (answered, before) = (answered(folder), asked(folder).len());
            journalled.push((before, answered));
            child = start(folder);
        }
        assert!(child.wait().expect("ends").success(), "the last process finishes the duel");
        let asked = asked(folder);
        assert_eq!(answered(folder).len(), questions, "every question has its answer");
        for (before, answered) in &journalled {
            let again = asked[*before..].iter().find(|question| answered.contains(*question));
            assert_eq!(again, None, "its answer was in the journal");
        }
        let most = KILLS_A_DUEL * IN_FLIGHT as usize * JUDGES.len() * 2;
        assert!(asked.len() <= questions + most, "only calls in flight are repeated: {}", asked.len());
        repeated += asked.len() - questions;
        let record = Record::open(&folder.join("duel")).expect("a record");
        assert_eq!(Some(record.digest), expected.record);
        assert_eq!(*record.verdict(), expected.verdict);
    }
    println!("{killed} kills, {repeated} calls repeated of {questions} a duel");
}
