//! A judge that only counts its questions learns nothing about the sides.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::decision::{Rule, RuleVersion};
use crate::judge::{Assessment, Metric, Score};
use crate::panel::Cluster;
use crate::plan::{DuelSettings, Limits};
use crate::record::MemoryStore;
use crate::seed::Seed;
use crate::testing::{Rows, ScriptedJudge, ScriptedSession};

/// Takes the first reply for the worse one in the first question about a
/// conversation, and for the better one in the second: a caller that always asks with the
/// king's reply first has every challenger win everything.
fn counting() -> ScriptedJudge {
    let asked: Mutex<BTreeMap<String, u32>> = Mutex::default();
    ScriptedJudge::new("counting", move |request| {
        let conversation = request.messages.iter().map(|message| &*message.content).collect();
        let mut asked = asked.lock().expect("unpoisoned");
        let before = asked.entry(conversation).or_default();
        *before += 1;
        let score = if *before == 1 { Score::LOSS } else { Score::WIN };
        Ok(Assessment::scored([(Metric::Correctness, score)]))
    })
}

async fn duel(settings: DuelSettings, rows: u64) -> (Verdict, Vec<Cluster>) {
    let [king, challenger] =
        ["king", "challenger"].map(|name| ScriptedSession::saying(name, name).contestant());
    let (store, cx) = (MemoryStore::default(), CallContext::new());
    let builder = Duel::builder(king, challenger).tasks(Arc::new(Rows::numbered(rows))).settings(settings);
    let duel = builder.frozen(vec![Arc::new(counting())], None, RuleVersion::NEWEST).expect("plans");
    let verdict = duel.run(&store, &cx).await.expect("runs").verdict;
    let lines = String::from_utf8(store.record().expect("published").lines).expect("text");
    let clusters = lines.lines().filter_map(|line| match serde_json::from_str(line).expect("a line") {
        RecordLine::Cluster(cluster) => Some(cluster),
        _ => None,
    });
    (verdict, clusters.collect())
}

fn settings(seed: u64, samples: u32, rule: &str) -> DuelSettings {
    DuelSettings {
        samples,
        seed: Seed::from(seed),
        rule: Rule::by_name(rule).expect("a rule"),
        limits: Limits { samples_in_flight: 8, ..Limits::default() },
        ..DuelSettings::default()
    }
}

#[tokio::test]
async fn over_4000_samples_its_margin_is_0_within_three_standard_errors() {
    let (verdict, clusters) = duel(settings(1, 4_000, "margin"), 6_000).await;
    assert!(clusters.iter().all(|cluster| cluster.difference.abs() == 1.0), "it does count");
    assert!(verdict.margin.abs() < 3.0 * 100.0 / 4_000_f64.sqrt(), "{:+.2} points", verdict.margin);
    println!("a judge that counts: {:+.2} points over 4,000 samples", verdict.margin);
}

#[tokio::test]
async fn it_crowns_in_at_most_5_percent_of_400_duels() {
    let mut crowned = 0;
    for seed in 0..400 {
        let (verdict, _) = duel(settings(seed, 64, "sequential"), 200).await;
        crowned += u32::from(verdict.outcome == Outcome::Dethroned);
    }
    assert!(crowned <= 20, "{crowned} of 400");
    println!("a judge that counts crowns in {crowned} of 400 duels");
}
