//! The demo competition, killed again and again at random moments and started anew: every
//! submission gets one outcome, attempts and shares have no gap, and each record is that of a
//! duel which nobody disturbed.
//!
//! `ALBEDO_VALIDATOR_KILLS` sets the number of kills; 5 unless it is set.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use albedo::chain::NetUid;
use albedo::chains::ledger::Ledger as Sightings;
use albedo::chains::local::LocalChain;
use albedo::log::{Anchor, End, Ended, Entry, FolderLog, History, Log};
use albedo::record::{AnyRecord, VerifyOptions, verify_chain, verify_record};
use albedo::reign::ErrorBudget;
use albedo::rng::{Stream, Use};
use albedo::validator::ledger::Ledger;
use albedo::{CallContext, ChainClient, Registry, Seed, Terms};
use serde_json::Value;

use crate::run::{albedo, command, demo, stdout};

/// The longest that a run lives before it is killed.
const LONGEST: Duration = Duration::from_secs(12);

/// What each of the demo's miners gets, whatever happens meanwhile.
pub(crate) const OUTCOMES: [(&str, &str); 6] = [
    ("amy", "lost"),
    ("ben", "crowned"),
    ("cat", "set_aside"),
    ("dan", "forfeit"),
    ("eve", "expired"),
    ("fay", "forfeit"),
];

pub(crate) fn start(dir: &Path) -> Child {
    command(["validator", "run", "--demo", "--dir", dir.to_str().expect("UTF-8")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

/// A competition of fewer samples and a rule that takes them, so that a run is short.
pub(crate) fn prepare(dir: &Path) {
    let mut child = start(dir);
    let config = dir.join("validator.toml");
    while !config.exists() {
        std::thread::yield_now();
    }
    child.kill().expect("kills");
    child.wait().expect("ends");
    let text = fs::read_to_string(&config).expect("reads");
    let short = text.replace("samples = 80", "samples = 12").replace("name = \"fixed\"", "name = \"margin\"");
    assert_ne!(short, text);
    fs::write(&config, short).expect("writes");
    // What the first process has begun is of the other settings.
    for folder in ["state", "cache", "site"] {
        let _ = fs::remove_dir_all(dir.join(folder));
    }
    for file in ["chain.sqlite", "chain.sqlite-wal", "chain.sqlite-shm"] {
        let _ = fs::remove_file(dir.join(file));
    }
}

#[tokio::test]
async fn a_killed_competition_goes_on_as_if_nothing_had_happened() {
    let kills: u64 =
        std::env::var("ALBEDO_VALIDATOR_KILLS").map_or(5, |kills| kills.parse().expect("a number"));
    let mut moments = Stream::new(26, Use::RowDraw);
    let (mut killed, mut competitions) = (0, 0);
    while killed < kills {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("demo");
        prepare(&dir);
        let config = dir.join("validator.toml");
        let text = fs::read_to_string(&config).expect("reads");
        fs::write(&config, text.replace("[log]\n", "[log]\nanchor = \"before-seed\"\n")).expect("writes");
        killed += disturbed(&dir, kills - killed, &mut moments);
        check(&dir).await;
        competitions += 1;
    }
    println!("{killed} kills in {competitions} competitions");
}

/// Kills the competition at most so often until it is over; gives how often.
fn disturbed(dir: &Path, most: u64, moments: &mut Stream) -> u64 {
    let mut killed = 0;
    let mut child = start(dir);
    while killed < most {
        let at = Instant::now() + Duration::from_millis(moments.below(LONGEST.as_millis() as u64));
        while Instant::now() < at && child.try_wait().expect("asks").is_none() {
            std::thread::yield_now();
        }
        if child.try_wait().expect("asks").is_some() {
            break;
        }
        child.kill().expect("kills");
        child.wait().expect("ends");
        killed += 1;
        child = start(dir);
    }
    let last = child.wait_with_output().expect("ends");
    assert!(last.status.success(), "the last process finishes the competition");
    killed
}

async fn check(dir: &Path) {
    let cx = CallContext::new();
    let ledger = Ledger::read(&dir.join("state/ledger.sqlite")).expect("opens");
    let rows = ledger.submissions().await.expect("read");
    let outcomes: BTreeMap<_, _> = rows
        .iter()
        .map(|row| (row.hotkey.0.as_str(), serde_json::to_value(row.state).expect("a name")))
        .collect();
    assert_eq!(outcomes, OUTCOMES.map(|(miner, outcome)| (miner, Value::from(outcome))).into());
    // One final move per submission, and nothing after it.
    for row in &rows {
        let moves = ledger.moves(Some(row.id), 0).await.expect("read");
        let ends = moves.iter().filter(|step| {
            matches!(step.to.as_str(), "crowned" | "lost" | "forfeit" | "expired" | "set_aside")
        });
        assert_eq!(ends.count(), 1, "{}", row.hotkey);
    }
    let duels = ledger.duels().await.expect("read");
    let attempts: Vec<_> = duels.iter().map(|duel| (duel.king, duel.attempt)).collect();
    assert_eq!(attempts, [(1, 1), (1, 2)]);
    let spent = ledger.spent(1).await.expect("read");
    assert!((spent.alpha - ErrorBudget::new(0.05).expect("a budget").spent(2)).abs() < 1e-15);

    // The records verify, are a chain, and are those of undisturbed duels.
    let mut verified = Vec::new();
    for duel in &duels {
        let folder = dir.join(format!("state/duels/{}", duel.id));
        let record = albedo::Record::open(&folder).expect("a record");
        assert_eq!(Some(record.digest), duel.record);
        assert!(matches!(record.plan().terms, Terms::Reign { attempt, .. } if attempt == duel.attempt));
        verified.push(verify_record(&record, &VerifyOptions::default(), &cx).await.expect("verifies"));
        undisturbed(dir, &record).await;
    }
    verify_chain(&verified).expect("a chain");
    for row in rows.iter().filter(|row| row.hotkey.0 == "dan" || row.hotkey.0 == "fay") {
        let folder = dir.join(format!("state/forfeits/{}", row.id));
        let record = match AnyRecord::open(&folder).expect("a record") {
            AnyRecord::Forfeit(record) => Some(record),
            AnyRecord::Duel(_) => None,
        };
        record.expect("a forfeit").verify(row.record).expect("verifies");
    }
    // Everything is published, and the log has every end.
    let site = dir.join("site");
    let index: Value =
        serde_json::from_slice(&fs::read(site.join("index.json")).expect("published")).expect("JSON");
    assert_eq!(index["records"], 4);
    let status: Value =
        serde_json::from_slice(&fs::read(site.join("data/status.json")).expect("published")).expect("JSON");
    assert_eq!(status["kings"][0]["submission"]["hotkey"], "ben");
    assert_eq!(status["reign"]["attempts"], 0);
    let key = status["log"]["key"].as_str().expect("a key");
    let log = site.join("log");
    stdout(&albedo(["log", "verify", log.to_str().expect("UTF-8"), "--key", key]));
    attested(dir).await;
    // One vector per epoch, and the last one is the new king's.
    let epochs = ledger.epochs(1000).await.expect("read");
    assert!(epochs.windows(2).all(|pair| pair[0].epoch > pair[1].epoch));
    assert_eq!(epochs[0].vector.shares[0].hotkey.0, "ben");
}

/// The log, and its heads that the validator's hotkey put on chain.
pub(crate) async fn heads_on_chain(dir: &Path) -> (History, Vec<Anchor>) {
    let cx = CallContext::new();
    let log = Log::open(Arc::new(FolderLog::new(dir.join("state/log"))), None, &cx).await.expect("opens");
    let history = History::new(log.head(), &log.entries(&cx).await.expect("fits")).expect("reads");
    let chain = LocalChain::open(&dir.join("chain.sqlite")).expect("opens");
    let sightings = Sightings::open(&dir.join("state/reveals.sqlite")).expect("opens");
    let genesis = chain.genesis(&cx).await.expect("known");
    let seen = sightings.sightings(genesis, NetUid(97)).await.expect("read");
    let list = serde_json::json!({"reveals": seen}).to_string();
    let anchors = Anchor::read(list.as_bytes(), "validator").expect("reads");
    assert!(!anchors.is_empty(), "no head is on chain");
    for anchor in &anchors {
        assert_eq!(history.check_anchor(anchor), None);
    }
    (history, anchors)
}

/// The chain attests that each duel was announced before the block that its seed is of.
async fn attested(dir: &Path) {
    let (history, anchors) = heads_on_chain(dir).await;
    let (chain, cx) = (LocalChain::open(&dir.join("chain.sqlite")).expect("opens"), CallContext::new());
    let announced = history.entries().iter().filter(|entry| matches!(entry, Entry::Announced(_))).count();
    assert_eq!(history.attested(&anchors).len(), announced, "{anchors:?}");
    for (place, entry) in (0..).zip(history.entries()) {
        let Entry::Ended(Ended { announced, end: End::Recorded { record, .. } }) = entry else { continue };
        let duels = fs::read_dir(dir.join("state/duels")).expect("lists");
        let mut records = duels.map(|duel| albedo::Record::open(&duel.expect("an entry").path()));
        let record = records.find_map(|opened| opened.ok().filter(|opened| opened.digest == *record));
        let plan = record.expect("a record").plan().clone();
        let of = match &history.entries()[*announced as usize] {
            Entry::Announced(of) => Some(of),
            _ => None,
        };
        let of = of.expect("an announcement");
        let mut seeds = Vec::new();
        for anchor in anchors.iter().filter(|anchor| anchor.head.size > *announced) {
            let next = chain.block(anchor.block + 1, &cx).await.expect("final");
            seeds.push(Seed::on_chain(next.hash, [of.king, of.challenger]));
        }
        assert!(seeds.contains(&plan.seed), "entry {place}: {anchors:?}");
    }
}

/// Runs the duel of `record` again from its plan, in one go, and compares the digests.
async fn undisturbed(dir: &Path, record: &albedo::Record) {
    let plan = record.plan();
    let miner = match &plan.challenger.model.parameters {
        parameters if *parameters == parameters_of(&dir.join("miners/amy")).await => "amy",
        _ => "ben",
    };
    let mut config = albedo::config::DuelConfig::parse(&format!(
        "king.path = '{king}'\nchallenger.path = '{challenger}'\ntasks = {{ name = \"parquet\", path = '{tasks}' }}\nbackend = {{ name = \"burn\", max_batch = 32 }}\n\
         judges = [{{ name = \"protocol\" }}, {{ name = \"reference-action\" }}, {{ name = \"reference-likelihood\" }}]\n",
        king = dir.join("models/king").display(),
        challenger = dir.join("miners").join(miner).display(),
        tasks = demo().join("tasks").display(),
    ))
    .expect("reads");
    config.duel.samples = plan.samples;
    config.duel.seed = plan.seed;
    config.duel.terms = plan.terms;
    config.duel.previous = plan.previous;
    config.duel.rule = plan.rule.clone();
    config.duel.generation = plan.generation;
    config.duel.limits.samples_in_flight = 32;
    let (registry, cx) = (Registry::linked().expect("links"), CallContext::new());
    let mut builder = config.builder(&albedo::BuildContext::new(&registry, &cx)).await.expect("loads");
    if let Some(admission) = &plan.admission {
        builder = builder.admission((**admission).clone());
    }
    let store = albedo::MemoryStore::default();
    let report = builder.plan(&store, &cx).await.expect("plans").run(&store, &cx).await.expect("runs");
    assert_eq!(report.plan, plan.digest().expect("a digest"));
    assert_eq!(report.verdict, *record.verdict());
    assert_eq!(report.record, Some(record.digest), "the digest of an undisturbed run");
}

async fn parameters_of(folder: &Path) -> albedo::Digest {
    let (registry, cx) = (Registry::linked().expect("links"), CallContext::new());
    let backend =
        registry.build::<dyn albedo::ModelBackend>("burn", serde_json::json!({}), &cx).await.expect("builds");
    backend.load(&albedo::ModelSource::new(folder), &cx).await.expect("loads").model().parameters
}
