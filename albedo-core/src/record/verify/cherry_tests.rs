//! A record whose author left out the samples that he did not like: what finds it, and
//! what a verification says that it did not look at.

use std::sync::Arc;

use super::*;
use crate::backend::{Message, ModelSession};
use crate::decision::Rule;
use crate::duel::Duel;
use crate::plan::DuelSettings;
use crate::record::{MemoryStore, Regenerated, regenerate};
use crate::testing::{Rows, ScriptedJudge, ScriptedSession, completion};

/// The king says little, the challenger says more on two tasks of three.
fn session(name: &'static str, count: impl Fn(&[Message]) -> u32 + Send + Sync + 'static) -> ScriptedSession {
    let reply = move |request: &crate::GenerateRequest| {
        let text = if name == "king" || is_lost(&request.messages) { "ls" } else { "ls -l" };
        let text = if name == "challenger" && is_lost(&request.messages) { "l" } else { text };
        Ok(completion(text))
    };
    ScriptedSession::new(name, reply).counting(move |messages| Some(count(messages)))
}

/// Whether the challenger loses this task.
fn is_lost(messages: &[Message]) -> bool {
    let digits: String = messages[0].content.chars().filter(char::is_ascii_digit).collect();
    digits.parse::<u32>().is_ok_and(|row| row % 3 == 0)
}

fn tokens(messages: &[Message]) -> u32 {
    messages.iter().map(|message| message.content.len() as u32).sum()
}

async fn record(samples: u32, count: fn(&[Message]) -> u32) -> Record {
    let [king, challenger] = ["king", "challenger"].map(|name| session(name, count).contestant());
    let judge = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 10.0).min(1.0));
    let settings = DuelSettings {
        samples,
        rule: Rule::Margin { win_margin: 2.0 },
        context_tokens: Some(4_096),
        ..DuelSettings::default()
    };
    let duel = Duel::builder(king, challenger).tasks(Arc::new(Rows::numbered(200))).judge(Arc::new(judge));
    let (store, cx) = (MemoryStore::default(), CallContext::new());
    duel.settings(settings).plan(&store, &cx).await.expect("plans").run(&store, &cx).await.expect("runs");
    let record = store.record().expect("published");
    Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads")
}

/// Of 24 honest samples 16 are called too long, so that the king holds by the other 8:
/// every reply in the record is genuine.
#[tokio::test]
async fn samples_that_are_left_out_as_too_long_are_found_by_counting() {
    let honest = record(24, tokens).await;
    assert_eq!(honest.verdict().outcome, Outcome::Dethroned);
    let picked = record(8, |messages| if is_lost(messages) { tokens(messages) } else { 4_090 }).await;
    assert!(matches!(picked.verdict().outcome, Outcome::KingHolds(_)), "{:?}", picked.verdict());
    let too_long =
        |line: &&RecordLine| matches!(line, RecordLine::Draw(draw) if draw.outcome == DrawOutcome::TooLong);
    assert!(picked.lines.iter().filter(too_long).count() >= 10);

    let (tasks, cx) = (Rows::numbered(200), CallContext::new());
    let sessions =
        ["king", "challenger"].map(|name| Arc::new(session(name, tokens)) as Arc<dyn ModelSession>);
    let mut options = VerifyOptions { tasks: Some(&tasks), ..VerifyOptions::default() };
    let mut verified = verify_record(&picked, &options, &cx).await.expect("agrees with itself and the tasks");
    let again = regenerate(&picked, &sessions, 16, 0, &cx).await.expect("generates");
    assert!(again.len() == 16 && again.iter().all(|reply| reply.difference.is_none()), "{again:?}");
    verified.add_regenerated(&picked, &again);
    assert_eq!(known(&verified, "lengths of prompts"), Known::Asserted);
    assert_eq!(known(&verified, "16 of 16 replies, log-probabilities"), Known::Recomputed);

    options.prompts = Some(&sessions[0]);
    let error = verify_record(&picked, &options, &cx).await.expect_err("the prompts are short");
    assert!(error.to_string().contains("another number of tokens"), "{error}");
    verify_record(&honest, &options, &cx).await.expect("is true");
    // Without the tasks nobody has the prompts of what was left out, and that is said.
    options.tasks = None;
    let verified = verify_record(&picked, &options, &cx).await.expect("agrees with itself");
    assert_eq!(known(&verified, "lengths of prompts"), Known::Asserted);
}

fn known(verification: &Verification, part: &str) -> Known {
    let claim = verification.claims.iter().find(|claim| claim.part == part);
    claim.unwrap_or_else(|| panic!("{part}: {:?}", verification.claims)).known
}

#[tokio::test]
async fn replies_that_were_not_generated_again_stay_asserted() {
    let (record, cx) = (record(8, tokens).await, CallContext::new());
    let verified = verify_record(&record, &VerifyOptions::default(), &cx).await.expect("verifies");
    assert_eq!(known(&verified, "replies, log-probabilities"), Known::Asserted);
    let sessions =
        ["king", "challenger"].map(|name| Arc::new(session(name, tokens)) as Arc<dyn ModelSession>);
    let again = regenerate(&record, &sessions, 5, 0, &cx).await.expect("generates");
    let mut some = verified.clone();
    some.add_regenerated(&record, &again);
    assert_eq!(known(&some, "5 of 16 replies, log-probabilities"), Known::Recomputed);
    assert_eq!(known(&some, "the other 11 replies"), Known::Asserted);

    let other = Regenerated { difference: Some(crate::record::Difference::default()), ..again[0].clone() };
    let mut differs = verified;
    differs.add_regenerated(&record, &[other]);
    assert_eq!(known(&differs, "replies, log-probabilities"), Known::Asserted);
    let said = differs.claims.iter().any(|claim| claim.by == "1 of 1 generated again are not reproduced");
    assert!(said, "{:?}", differs.claims);
}
