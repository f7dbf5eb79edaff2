use std::path::Path;

use albedo_core::record::RecordLine;
use albedo_core::testing::{Rows, ScriptedJudge};
use albedo_core::{
    Assessment, Contestant, Duel, DuelSettings, Judge, MemoryStore, MessageRole, Metric, Registry, Score,
    TaskRow, TaskSetInfo,
};
use serde_json::json;

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../albedo-core/tests/fixtures/record-1")
}

/// The tasks that the fixture was drawn from.
fn rows(info: TaskSetInfo) -> Rows {
    let row = |row| {
        let mut messages = vec![Message::new(MessageRole::System, "s"), Message::new(MessageRole::User, "u")];
        if row != 7 {
            messages.push(Message::new(MessageRole::Assistant, format!("recorded {row}")));
            messages.push(Message::new(MessageRole::User, "v".repeat(row as usize * 50)));
            messages.push(Message::new(MessageRole::Assistant, "done"));
        }
        TaskRow { instance_id: format!("instance {}", row % 10), repo: "repo".into(), messages }
    };
    Rows::new(info.rows, row).with_info(info)
}

/// The fixture's judges: one prefers "better", the other whatever is first.
fn judge(identity: &Identity) -> Arc<dyn Judge> {
    let judge = match identity.name.as_str() {
        "fair" => {
            ScriptedJudge::preferring("fair", |reply| f64::from(u8::from(reply.starts_with("better"))) / 4.0)
        }
        name => ScriptedJudge::new(name, |_| Ok(Assessment::scored([(Metric::Correctness, Score::WIN)]))),
    };
    Arc::new(judge.with_identity(identity.clone()))
}

async fn session(side: &str) -> Result<Arc<dyn ModelSession>> {
    let (cx, registry) = (CallContext::new(), Registry::linked()?);
    let backend = registry.build::<dyn ModelBackend>("replay", json!({ "record": folder() }), &cx).await?;
    backend.load(&ModelSource::served(side), &cx).await
}

#[tokio::test]
async fn a_replayed_duel_gives_the_same_lines() {
    let (record, cx) = (Arc::new(Record::open(&folder()).expect("opens")), CallContext::new());
    let plan = record.plan().clone();
    let backend: Arc<dyn ModelBackend> = Arc::new(ReplayBackend::new(Arc::clone(&record)).expect("builds"));
    let load = async |side, name| {
        Contestant::load(side, &backend, &ModelSource::served(name), &cx).await.expect("loads")
    };
    let (king, challenger) = (load(Side::King, "king").await, load(Side::Challenger, "challenger").await);
    let settings = DuelSettings {
        samples: plan.samples,
        seed: plan.seed,
        rule: plan.rule.clone(),
        previous: plan.previous,
        ..DuelSettings::default()
    };
    let judges = plan.judges.iter().map(|plan| judge(&plan.identity));
    let tasks = Arc::new(rows(plan.tasks.clone()));
    let store = MemoryStore::default();
    let duel = Duel::builder(king, challenger).tasks(tasks).judges(judges).settings(settings);
    let duel = duel.plan(&store, &cx).await.expect("plans");
    let mut replayed_plan = duel.plan().clone();
    // What format 1 does not have, and what it has in its place.
    replayed_plan.version.clone_from(&plan.version);
    (replayed_plan.call_tries, replayed_plan.behaviour) = (None, None);
    replayed_plan.rule_version = plan.rule_version;
    assert_eq!(replayed_plan, plan);
    duel.run(&store, &cx).await.expect("runs");
    let again = store.record().expect("published");
    let again = Record::from_bytes(&again.lines, &again.blobs, again.digest).expect("reads");
    // Clusters and verdict are of the rules' second version.
    let lines = |record: &Record, from: usize| {
        let decided = |line: &RecordLine| matches!(line, RecordLine::Cluster(_) | RecordLine::Verdict(_));
        record.lines[from..].iter().filter(|line| !decided(line)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(lines(&again, 3), lines(&record, 2));
}

#[tokio::test]
async fn what_was_not_recorded_is_not_answered() {
    assert_eq!(session("somebody").await.expect_err("no side").kind(), ErrorKind::ConfigInvalid);
    let session = session("challenger").await.expect("loads");
    let longest = Record::open(&folder()).expect("opens").plan().generation.max_new_tokens;
    for (max_new_tokens, kind) in [(longest, ErrorKind::NotFound), (longest + 1, ErrorKind::ConfigInvalid)] {
        let message = Message::new(MessageRole::User, "new");
        let request = GenerateRequest::new(vec![message], max_new_tokens);
        let answer = session.generate(vec![request], &CallContext::new()).next().await.expect("an answer");
        assert_eq!(answer.result.expect_err("unknown").kind(), kind);
    }
}

#[tokio::test]
async fn a_duel_that_goes_on_after_the_record_says_so() {
    let (record, session) = (Record::open(&folder()).expect("opens"), session("king").await.expect("loads"));
    let other = [Message::new(MessageRole::User, "of other tasks")];
    let tasks = || session.count_prompt_tokens(&other).expect_err("unknown").to_string();
    for _ in record
        .lines
        .iter()
        .filter(|line| matches!(line, RecordLine::Draw(draw) if draw.outcome == DrawOutcome::TooLong))
    {
        session.count_prompt_tokens(&other).expect("a draw that is too long");
    }
    assert!(tasks().contains("take the recorded duel's `[tasks]`, `seed` and `sampler`"), "{}", tasks());
    let samples = record.samples();
    for sample in &samples {
        let messages = record.text(&sample.messages).expect("is there");
        let messages: Vec<Message> = serde_json::from_str(messages).expect("messages");
        session.count_prompt_tokens(&messages).expect("is recorded");
    }
    let ended = format!("the recorded duel ended after {} samples", samples.len());
    assert!(tasks().contains(&ended), "{}", tasks());
}
