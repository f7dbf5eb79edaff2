//! One evening of a competition with real parts, all on this machine: a container registry, an
//! S3 server, `albedo serve` with the demo's models, a chat server as a judge, `albedo validator`,
//! and a chain: the one in a file, or, with the feature `chain`, the node for tests.
//!
//! | miner | hands in | and gets |
//! |---|---|---|
//! | `amy` | the king after a training run that went wrong; later the same text again | a lost duel, at her first place |
//! | `gus` | another such model; his slot is taken over while he waits for his turn | set aside, nothing spent |
//! | `dan` | the king's bytes | a forfeit by `digest` |
//! | `nia` | the king with noise on its weights | a forfeit |
//! | `bob` | weights that are cut short | a forfeit before any download |
//! | `ada` | another architecture | a forfeit before any download |
//! | `ben` | a better model, uploaded after the reveal; the hub is down at his turn | waits untouched, then the crown |
//! | `eve` | a commitment, and never any files | expired, and told so |
//! | `fay` | `ben`'s files under another digest | a forfeit that names `ben` |
//! | `amy-2` | a model, by the hotkey that `amy`'s slot was given to | set aside, naming `amy` |
//!
//! `ALBEDO_EVENING=full` takes the rule, samples and limits of a whole duel; without it duels are
//! short. A program that has no `cpu` needs one that has, for the models:
//! `ALBEDO_SERVER_PROGRAM=FILE`. Without `docker-registry` or `moto_server` on this machine, a
//! scripted registry and a folder stand for them, which the test says.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it says how the evening goes")]
#![cfg(unix)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use albedo::chain::{Hotkey, Uid};
use albedo::log::{AnchoredHead, FolderLog, Log};
use albedo::reign::ErrorBudget;
use albedo::validator::ledger::{Ledger, SubmissionRow};
use albedo::validator::table::{State, is_final};
use albedo::{CallContext, Digest};

use crate::bucket::Bucket;
use crate::hub::Hub;
use crate::judges::Judges;
#[cfg(not(feature = "chain-node"))]
use crate::local::Chain;
#[cfg(feature = "chain-node")]
use crate::node::Chain;
use crate::process::{Process, server_program};
use crate::run::{albedo, command, demo, error, stdout};

#[path = "../program/altered.rs"]
mod altered;
mod bucket;
mod hub;
mod judges;
#[cfg_attr(feature = "chain-node", expect(dead_code, reason = "the node stands for it"))]
mod local;
mod miners;
#[cfg(feature = "chain-node")]
mod node;
mod outages;
mod process;
#[path = "../program/question.rs"]
mod question;
#[path = "../program/run.rs"]
mod run;
mod scripted;

/// The miners, by uid: the first has slot 2.
const MINERS: [&str; 9] = ["amy", "gus", "dan", "nia", "bob", "ada", "ben", "eve", "fay"];

/// Blocks of an epoch.
const TEMPO: u16 = 40;

/// Blocks after the reveal within which files may come.
const UPLOAD_BLOCKS: u64 = 1000;

/// How often everything is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Looks from one block to the next: a second, so that a machine with much to do has time for
/// everything within [`UPLOAD_BLOCKS`].
const BLOCK: u64 = 20;

/// Looks before a wait is given up: ten minutes.
const LOOKS: u64 = 12_000;

/// All parts, at work.
struct Evening {
    folder: tempfile::TempDir,
    chain: Chain,
    hub: Hub,
    bucket: Bucket,
    judges: Judges,
    server: Process,
    validator: Process,
    looks: u64,
}

/// What the ledger says at one moment.
struct Books {
    ledger: Ledger,
    rows: Vec<SubmissionRow>,
}

impl Books {
    fn of(&self, hotkey: &Hotkey) -> Option<&SubmissionRow> {
        self.rows.iter().find(|row| row.hotkey == *hotkey)
    }
}

impl Evening {
    /// Starts everything; none without a program that has the models.
    async fn begin() -> Option<Self> {
        let Some(program) = server_program() else {
            eprintln!("skipped: ALBEDO_SERVER_PROGRAM names no program that runs models on the CPU");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let hub = Hub::start(dir).await;
        let bucket = Bucket::start(dir).await;
        let judges = Judges::start().await;
        let king = hub.push(&demo().join("models/king"), "albedo/king", &[]);
        let (server, url) = process::serve(&program, dir, &hub).await;
        let chain = Chain::start(dir).await;
        miners::prepare(dir);
        albedo::signer::KeyFile::from_seed(&[7; 32]).save_new(&dir.join("log.pem")).expect("a key");
        let is_full = std::env::var("ALBEDO_EVENING").is_ok_and(|form| form == "full");
        let duel = if is_full {
            "samples = 80, rule = { name = \"fixed\" }"
        } else {
            "samples = 12, rule = { name = \"margin\" }"
        };
        let text = format!(
            r#"
state = "state"
cache = "cache"
hotkey = "{validator}"
poll_ms = 100
genesis = {{ ref = "oci:albedo/king@{king}" }}
{hubs}
entry = {{ upload_blocks = {UPLOAD_BLOCKS} }}
backend = {{ name = "serve", url = "{url}", patience_secs = 60 }}
tasks = {{ name = "parquet", path = '{tasks}' }}
duel = {{ {duel}, generation = {{ max_new_tokens = 256 }}, limits = {{ samples_in_flight = 12 }} }}
log = {{ origin = "evening.invalid/log", key = "log.pem" }}
publish = {publish}
screens = [
    {{ name = "files" }}, {{ name = "architecture" }}, {{ name = "digest" }}, {{ name = "fingerprint-v2" }},
    {{ name = "lineage" }}, {{ name = "functional" }}, {{ name = "sanity" }},
]
judges = [
    {{ name = "protocol" }}, {{ name = "reference-action" }}, {{ name = "reference-likelihood" }},
    {judge},
]

[chain]
{chain}
"#,
            validator = chain.hotkey("validator"),
            hubs = hub.settings(),
            tasks = demo().join("tasks").display(),
            publish = bucket.settings(),
            judge = judges.settings(),
            chain = chain.settings(),
        );
        let config = dir.join("validator.toml");
        std::fs::write(&config, text).expect("writes");
        let arguments = ["--log", "info", "validator", "run", "--config", config.to_str().expect("UTF-8")];
        let mut run = command(arguments);
        run.envs(bucket.secrets()).env("XDG_CACHE_HOME", dir.join("cache-home"));
        let validator = Process::start(&mut run, dir.join("validator.log"));
        Some(Self { folder, chain, hub, bucket, judges, server, validator, looks: 0 })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> String {
        self.path("validator.toml").to_str().expect("UTF-8").to_owned()
    }

    /// Uploads the model of `of` into the miner's repository; gives its pin. With `--dry-run`
    /// nothing leaves.
    fn upload(&self, miner: &str, of: &str, more: &[&str]) -> String {
        self.hub.push(&self.path("miners").join(of), &format!("{miner}/model"), more)
    }

    /// Commits to `pin` of the miner's repository; gives the block.
    async fn commit(&self, miner: &str, pin: &str) -> u64 {
        self.chain.commit(miner, &format!("v7|{miner}/model|{pin}")).await
    }

    async fn books(&self) -> Option<Books> {
        let ledger = Ledger::read(&self.path("state/ledger.sqlite")).ok()?;
        let rows = ledger.submissions().await.ok()?;
        Some(Books { ledger, rows })
    }

    /// Looks until `found` says something of the books; blocks are made meanwhile.
    async fn until<T>(&mut self, what: &str, mut found: impl AsyncFnMut(&Books) -> Option<T>) -> T {
        for _ in 0..LOOKS {
            if let Some(books) = self.books().await
                && let Some(found) = found(&books).await
            {
                println!("{what}, after {} blocks", self.looks / BLOCK);
                return found;
            }
            self.look().await;
        }
        let status = albedo(["validator", "status", "--config", &self.config()]);
        let history = albedo(["validator", "history", "--config", &self.config()]);
        panic!(
            "{what}: it did not come to that\n{}{}{}",
            String::from_utf8_lossy(&status.stdout),
            String::from_utf8_lossy(&history.stdout),
            self.validator.log()
        );
    }

    /// Lets some time pass, and blocks with it.
    async fn look(&mut self) {
        self.validator.check();
        self.server.check();
        self.looks += 1;
        if self.looks.is_multiple_of(BLOCK) {
            self.chain.produce(1);
        }
        self.judges.nudge();
        tokio::time::sleep(LOOK).await;
    }

    /// Looks until the miner's submission stands as `is_so` says; gives it.
    async fn until_row(
        &mut self,
        miner: &str,
        what: &str,
        mut is_so: impl FnMut(&SubmissionRow) -> bool,
    ) -> SubmissionRow {
        let hotkey = self.chain.hotkey(miner);
        let row = async |books: &Books| books.of(&hotkey).filter(|row| is_so(row)).cloned();
        self.until(&format!("{miner} {what}"), row).await
    }

    /// Looks until the miner's submission is in `state`; gives it.
    async fn until_state(&mut self, miner: &str, state: State) -> SubmissionRow {
        self.until_row(miner, &format!("is {state:?}"), |row| row.state == state).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_what_is_due_to_them() {
    let Some(mut evening) = Evening::begin().await else { return };

    // Everybody commits. The judge answers nobody yet, so that the first duel goes on.
    let mut commits = BTreeMap::new();
    for miner in ["amy", "gus", "dan", "nia", "bob", "ada", "ben", "eve"] {
        let is_late = ["ben", "eve"].contains(&miner);
        let pin = evening.upload(miner, miner, if is_late { &["--dry-run"][..] } else { &[] });
        let block = evening.commit(miner, &pin).await;
        // One block for each, so that places are in this order.
        evening.chain.produce(1);
        commits.insert(miner, (pin, block));
    }
    for miner in ["dan", "nia", "bob", "ada"] {
        evening.until_state(miner, State::Forfeit).await;
    }
    evening.until_state("amy", State::Duelling).await;
    evening.until_state("gus", State::Clear).await;
    let ben =
        evening.until_row("ben", "waits for his files", |row| row.reason.contains("not there yet")).await;
    assert_eq!((ben.state, ben.voids), (State::Admitted, 0), "nothing has failed");
    // Weights are set while the duel runs.
    let landed = async |books: &Books| books.ledger.last_landed().await.expect("read");
    let weights = evening.until("weights are set during a duel", landed).await;
    assert_eq!(weights.vector.shares[0].uid, Uid(0), "the first king earns nothing");

    // The same text again; a slot is taken over, which the validator has seen once a later epoch
    // has its weights; the hub goes away. Then the judge answers.
    evening.commit("amy", &commits["amy"].0).await;
    evening.chain.deregister("gus");
    evening.chain.produce(2 * u64::from(TEMPO));
    let later = async |books: &Books| {
        let last = books.ledger.last_landed().await.expect("read")?;
        (last.epoch >= weights.epoch + 2).then_some(())
    };
    evening.until("the chain was followed past the new registration", later).await;
    evening.hub.stop();
    evening.judges.answer();
    let amy = evening.until_state("amy", State::Lost).await;
    assert_eq!(amy.place.block, commits["amy"].1, "her first place is kept");
    let gus = evening.until_state("gus", State::SetAside).await;
    assert!(gus.reason.contains("not registered"), "{}", gus.reason);
    let ben = evening.until_row("ben", "waits for the hub", |row| row.voids > 0).await;
    assert_eq!(ben.state, State::Admitted, "{}", ben.reason);
    let untouched = async |books: &Books| {
        let moves = books.ledger.moves(Some(ben.id), 0).await.expect("read");
        let faults: Vec<_> = moves.into_iter().filter_map(|step| step.fault).collect();
        Some((faults, books.ledger.spent(1).await.expect("read").attempts))
    };
    let (faults, attempts) = evening.until("nothing is spent on ben", untouched).await;
    assert!(faults.iter().all(|fault| fault == "infrastructure") && attempts == 1, "{faults:?}, {attempts}");

    // The hub is back, and ben uploads within his time.
    evening.hub.resume().await;
    assert_eq!(evening.upload("ben", "ben", &[]), commits["ben"].0, "the pin was known before the upload");
    stdout(&albedo(["validator", "retry", &ben.id.to_string(), "--config", &evening.config()]));

    // The slot of amy is given to another hotkey, which commits.
    evening.chain.swap("amy", "amy-2");
    // The block of the swap comes before that of the commitment.
    evening.chain.produce(1);
    evening.commit("amy-2", &format!("sha256:{}", Digest::of("another model"))).await;
    let again = evening.until_state("amy-2", State::SetAside).await;
    let amy_hotkey = evening.chain.hotkey("amy");
    assert!(again.reason.contains(&format!("also as {amy_hotkey}")), "{}", again.reason);

    // Somebody hands in his files under another digest.
    evening.until_row("ben", "has files", |row| row.content.is_some()).await;
    let pin = evening.upload("fay", "ben", &["--chunked=1MB"]);
    assert_ne!(pin, commits["ben"].0, "another digest of the same files");
    evening.commit("fay", &pin).await;
    let fay = evening.until_state("fay", State::Forfeit).await;
    let ben_hotkey = evening.chain.hotkey("ben");
    assert!(fay.reason.contains(&format!("{ben_hotkey} entered the same files before")), "{}", fay.reason);
    evening.until_state("ben", State::Crowned).await;

    // Blocks go by until eve's time is over.
    while evening.books().await.expect("a ledger").rows.iter().any(|row| !is_final(row.state)) {
        evening.chain.produce(10);
        evening.look().await;
    }
    // The next epoch's weights.
    evening.chain.produce(u64::from(TEMPO));
    let over = async |books: &Books| {
        let lag = books.ledger.lag().await.expect("read");
        let earns = books.ledger.last_landed().await.expect("read")?;
        let is_bens = earns.vector.shares[0].hotkey == ben_hotkey;
        (lag.waiting == 0 && is_bens).then_some(())
    };
    evening.until("ben earns, and everything is published", over).await;
    check(&mut evening).await;
}

/// Looks at everything from outside, once the evening is over.
async fn check(evening: &mut Evening) {
    let books = evening.books().await.expect("a ledger");
    let row = |miner: &str| books.of(&evening.chain.hotkey(miner)).expect("a submission").clone();
    for (miner, state, words) in [
        ("amy", State::Lost, ""),
        ("gus", State::SetAside, "not registered"),
        ("dan", State::Forfeit, "`digest`"),
        ("nia", State::Forfeit, "rejected it"),
        ("bob", State::Forfeit, "`files`"),
        ("ada", State::Forfeit, "`architecture`"),
        ("ben", State::Crowned, ""),
        ("eve", State::Expired, "not there by block"),
        ("fay", State::Forfeit, "entered the same files before"),
        ("amy-2", State::SetAside, "also as"),
    ] {
        let row = row(miner);
        println!("{miner:6} {:?}: {}", row.state, row.reason);
        assert_eq!(row.state, state, "{miner}: {}", row.reason);
        assert!(row.reason.contains(words), "{miner}: {}", row.reason);
        let moves = books.ledger.moves(Some(row.id), 0).await.expect("read");
        let ends = moves.iter().filter(|step| {
            matches!(step.to.as_str(), "crowned" | "lost" | "forfeit" | "expired" | "set_aside")
        });
        assert_eq!(ends.count(), 1, "{miner}: one outcome");
        // Neither bytes nor a model were fetched for what its header shows.
        let was_held = moves.iter().any(|step| step.to == "held");
        assert!(!(["bob", "ada", "fay"].contains(&miner) && was_held), "{miner}");
    }
    assert_eq!(books.rows.len(), 10, "the same text again is no other submission");
    // Two attempts, and nothing else has cost anybody anything.
    let duels = books.ledger.duels().await.expect("read");
    let attempts: Vec<_> =
        duels.iter().map(|duel| (duel.king, duel.attempt, duel.submission, duel.voids)).collect();
    assert_eq!(attempts, [(1, 1, row("amy").id, 0), (1, 2, row("ben").id, 0)]);
    let spent = books.ledger.spent(1).await.expect("read");
    assert!((spent.alpha - ErrorBudget::new(0.05).expect("a budget").spent(2)).abs() < 1e-15);
    assert_eq!(books.ledger.frozen().await.expect("read"), None, "no bug");

    // As a stranger reads the bucket: every record verifies, and eve's submission has its reason.
    let records = evening.bucket.records(evening.folder.path()).await;
    assert_eq!(records.len(), 7, "two duels and five forfeits");
    for record in &records {
        let output = albedo(["record", "verify", record.to_str().expect("UTF-8")]);
        assert!(output.status.success(), "{}", error(&output));
    }
    let told = evening.bucket.document("data/submissions.json").await;
    let mut told = told["submissions"].as_array().expect("a list").iter();
    let eve = evening.chain.hotkey("eve");
    let told = told.find(|told| told["submission"]["hotkey"] == eve.0.as_str()).expect("eve is named");
    let is_told = told["reason"].as_str().is_some_and(|why| why.contains("not there by block"));
    assert!(told["state"] == "expired" && is_told, "{told}");
    let status = evening.bucket.document("data/status.json").await;
    let king = status["kings"][0]["submission"]["hotkey"].as_str().map(|hotkey| Hotkey(hotkey.to_owned()));
    assert_eq!(king, Some(evening.chain.hotkey("ben")), "{status}");

    // On the chain: one vector per epoch, the reign's weights, and a head of this very log.
    let mut epochs = evening.chain.epochs_with_weights();
    let count = epochs.len();
    epochs.dedup();
    assert!(count > 1 && epochs.len() == count, "one vector per epoch: {epochs:?}");
    let ben = 2 + MINERS.iter().position(|miner| *miner == "ben").expect("a miner") as u16;
    assert_eq!(evening.chain.weights().await, [(Uid(ben), u16::MAX)]);
    let cx = CallContext::new();
    let log = Log::open(Arc::new(FolderLog::new(evening.path("state/log"))), None, &cx);
    let head = AnchoredHead::from(log.await.expect("opens").head());
    for look in 0.. {
        if evening.chain.head_of_log().await == Some(head) {
            break;
        }
        assert!(look < LOOKS, "the log's head is not on chain: {head}");
        evening.chain.produce(1);
        evening.look().await;
    }
    let key = status["log"]["key"].as_str().expect("a key");
    stdout(&albedo(["log", "verify", evening.path("state/log").to_str().expect("UTF-8"), "--key", key]));
    println!(
        "{count} epochs with weights, {} records verified, {} questions to the judge",
        records.len(),
        evening.judges.asked()
    );
}
