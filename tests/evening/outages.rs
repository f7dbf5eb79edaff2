//! Outages, alone and in pairs: chain, hub, bucket, one judge, all judges, server. One validator
//! lives through all of them, on the chain `local` and by a clock that runs 300 times as fast.
//! Models and judges are scripted, so that who should be crowned is known.
//!
//! Each outage begins while a duel runs. No miner is charged, the weights go on while the chain is
//! there, and nobody has to act. `ALBEDO_OUTAGES=all` has every pair, and outages of six hours; it
//! prints the table of `docs/validator.md`. Without it a few are tried.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use albedo::chain::{
    BlockHash, BlockNumber, BlockRef, Hotkey, Metagraph, NetUid, Reveal, Subnet, WeightReceipt, WeightsView,
};
use albedo::chains::local::{LocalChain, LocalChainConfig};
use albedo::prelude::*;
use albedo::record::{VerifyOptions, verify_record};
use albedo::testing::{ScriptedJudge, ScriptedSession, completion, identity};
use albedo::validator::ledger::{Alert, Ledger, SubmissionRow};
use albedo::validator::table::{State, is_final};
use albedo::validator::{Validator, ValidatorConfig};
use albedo::weights::{Cleared, WeightVector};
use albedo::{Clock, Digest, Resources};
use async_trait::async_trait;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::run::demo;

/// How many seconds of the validator's clock a second has.
const SPEED: u32 = 300;

/// Time from block to block, by that clock.
const BLOCK: Duration = Duration::from_secs(12);

/// Blocks of an epoch: ten minutes.
const TEMPO: u64 = 50;

/// How often the ledger is looked at, in this machine's time.
const LOOK: Duration = Duration::from_millis(20);

/// Looks before a wait is given up: five minutes of this machine's time.
const LOOKS: u32 = 15_000;

/// What can be away.
const PARTS: [&str; 6] = ["chain", "hub", "bucket", "one judge", "all judges", "server"];

/// What is away now.
static OUT: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

fn out() -> MutexGuard<'static, BTreeSet<&'static str>> {
    OUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Errors
/// `part` is away.
fn reach(part: &'static str) -> albedo::Result<()> {
    if !out().contains(part) {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Unavailable, format!("reach the {part}"), "it does not answer");
    Err(error.with_fault(Fault::Infrastructure))
}

/// This machine's time, [`SPEED`] times as fast.
#[derive(Debug, Clone)]
struct FastClock(Instant);

impl Clock for FastClock {
    fn now(&self) -> Duration {
        self.0.elapsed() * SPEED
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until((self.0 + at / SPEED).into()))
    }
}

/// The clock of the models' answers.
static CLOCK: Mutex<Option<FastClock>> = Mutex::new(None);

/// The chain `local`, which can be away.
#[derive(Debug)]
struct OutageChain(LocalChain);

impl Plugin<dyn ChainClient> for OutageChain {
    const NAME: &'static str = "outage-chain";
    const SUMMARY: &'static str = "the chain `local`, which can be away";
    type Config = LocalChainConfig;
    type Checked = LocalChainConfig;

    fn check(config: LocalChainConfig, _: &CheckContext<'_>) -> albedo::Result<LocalChainConfig> {
        Ok(config)
    }

    async fn build(config: LocalChainConfig, _: &BuildContext<'_>) -> albedo::Result<Arc<dyn ChainClient>> {
        Ok(Arc::new(Self(LocalChain::new(config)?)))
    }
}

register!(dyn ChainClient => OutageChain);

#[async_trait]
impl ChainClient for OutageChain {
    async fn genesis(&self, cx: &CallContext) -> albedo::Result<BlockHash> {
        reach("chain")?;
        self.0.genesis(cx).await
    }

    async fn head(&self, cx: &CallContext) -> albedo::Result<BlockRef> {
        reach("chain")?;
        self.0.head(cx).await
    }

    async fn block(&self, number: BlockNumber, cx: &CallContext) -> albedo::Result<BlockRef> {
        reach("chain")?;
        self.0.block(number, cx).await
    }

    async fn subnet(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> albedo::Result<Subnet> {
        reach("chain")?;
        self.0.subnet(netuid, at, cx).await
    }

    async fn metagraph(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> albedo::Result<Metagraph> {
        reach("chain")?;
        self.0.metagraph(netuid, at, cx).await
    }

    async fn reveals(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> albedo::Result<Vec<Reveal>> {
        reach("chain")?;
        self.0.reveals(netuid, at, cx).await
    }

    async fn weights(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> albedo::Result<WeightsView> {
        reach("chain")?;
        self.0.weights(netuid, at, cx).await
    }

    async fn set_weights(
        &self,
        weights: Cleared<WeightVector>,
        cx: &CallContext,
    ) -> albedo::Result<WeightReceipt> {
        reach("chain")?;
        self.0.set_weights(weights, cx).await
    }

    async fn set_commitment(
        &self,
        netuid: NetUid,
        hotkey: &Hotkey,
        text: &str,
        cx: &CallContext,
    ) -> albedo::Result<BlockNumber> {
        reach("chain")?;
        self.0.set_commitment(netuid, hotkey, text, cx).await
    }
}

/// A judge that prefers the reply of the greater skill.
#[derive(Debug)]
struct OutageJudge {
    parts: &'static [&'static str],
    inner: ScriptedJudge,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OutageJudgeConfig {
    /// Its number; judge 1 can be away alone.
    number: u32,
}

impl Plugin<dyn Judge> for OutageJudge {
    const NAME: &'static str = "outage-judge";
    const SUMMARY: &'static str = "prefers the greater skill, and can be away";
    type Config = OutageJudgeConfig;
    type Checked = OutageJudgeConfig;

    fn check(config: OutageJudgeConfig, _: &CheckContext<'_>) -> albedo::Result<OutageJudgeConfig> {
        Ok(config)
    }

    async fn build(config: OutageJudgeConfig, _: &BuildContext<'_>) -> albedo::Result<Arc<dyn Judge>> {
        let skill = |reply: &str| reply.split(' ').next().and_then(|skill| skill.parse().ok()).unwrap_or(0.0);
        let parts: &[_] = if config.number == 1 { &["one judge", "all judges"] } else { &["all judges"] };
        let inner = ScriptedJudge::preferring(&format!("judge {}", config.number), skill);
        Ok(Arc::new(Self { parts, inner }))
    }
}

register!(dyn Judge => OutageJudge);

#[async_trait]
impl Judge for OutageJudge {
    fn identity(&self) -> &Identity {
        self.inner.identity()
    }

    fn profile(&self) -> JudgeProfile {
        self.inner.profile()
    }

    async fn compare(&self, request: &Comparison, cx: &CallContext) -> albedo::Result<Assessment> {
        for part in self.parts {
            reach(part)?;
        }
        self.inner.compare(request, cx).await
    }
}

/// A server that can be away. A model says its skill, which its file `skill` has.
#[derive(Debug)]
struct OutageBackend(Identity);

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct OutageBackendConfig {}

impl Plugin<dyn ModelBackend> for OutageBackend {
    const NAME: &'static str = "outage-backend";
    const SUMMARY: &'static str = "models that say their skill, and can be away";
    type Config = OutageBackendConfig;
    type Checked = OutageBackendConfig;

    fn check(config: OutageBackendConfig, _: &CheckContext<'_>) -> albedo::Result<OutageBackendConfig> {
        Ok(config)
    }

    async fn build(_: OutageBackendConfig, _: &BuildContext<'_>) -> albedo::Result<Arc<dyn ModelBackend>> {
        Ok(Arc::new(Self(identity(Self::NAME))))
    }
}

register!(dyn ModelBackend => OutageBackend);

#[async_trait]
impl ModelBackend for OutageBackend {
    fn identity(&self) -> &Identity {
        &self.0
    }

    async fn load(&self, model: &ModelSource, _: &CallContext) -> albedo::Result<Arc<dyn ModelSession>> {
        const LOAD: &str = "load a scripted model";
        reach("server")?;
        let file = model.model.require_folder(LOAD)?.join("skill");
        let text = fs::read_to_string(&file).map_err(|error| Error::io(LOAD, &file, error))?;
        let clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner).clone().expect("a clock");
        let said = text.clone();
        let answer = move |_, _| {
            let (clock, said) = (clock.clone(), said.clone());
            async move {
                // A reply takes half a minute.
                clock.sleep_until(clock.now() + Duration::from_secs(30)).await;
                reach("server")?;
                Ok(completion(&said))
            }
        };
        Ok(Arc::new(ScriptedSession::waiting(&text, answer)))
    }
}

/// The competition, and what the test knows of it.
struct World {
    dir: PathBuf,
    chain: LocalChain,
    clock: FastClock,
    ledger: Ledger,
    king: f64,
    submissions: u32,
}

/// A model that says `skill`, in the folder `place`.
fn write_model(place: &Path, skill: f64, number: u32) {
    fs::create_dir_all(place).expect("makes");
    for entry in fs::read_dir(demo().join("models/king")).expect("lists") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), place.join(entry.file_name())).expect("copies");
    }
    fs::write(place.join("skill"), format!("{skill:.2} of submission {number}")).expect("writes");
}

/// One line of the table.
struct Line {
    parts: Vec<&'static str>,
    minutes: u64,
    alert: Option<(Duration, String)>,
    recovered: Duration,
    voids: u32,
    resumed: usize,
    epochs: Range<u64>,
    missed: usize,
}

impl Line {
    fn print(&self) {
        let minutes = |time: &Duration| format!("{:.0} min", time.as_secs_f64() / 60.0);
        let parts = if self.parts.is_empty() { "nothing".to_owned() } else { self.parts.join(" and ") };
        let alert = self.alert.as_ref();
        let alert = alert.map_or("none".into(), |(after, key)| format!("{}: `{key}`", minutes(after)));
        println!(
            "| {parts} | {} min | {alert} | {} | {} | {} | {} of {} |",
            self.minutes,
            minutes(&self.recovered),
            self.voids,
            self.resumed,
            self.missed,
            self.epochs.end.saturating_sub(self.epochs.start),
        );
    }
}

impl World {
    /// Writes what a competition needs into `dir`.
    fn settings(dir: &Path) -> LocalChainConfig {
        write_model(&dir.join("first"), 0.3, 0);
        fs::create_dir(dir.join("mirror")).expect("makes");
        albedo::signer::KeyFile::from_seed(&[7; 32]).save_new(&dir.join("log.pem")).expect("a key");
        let chain = format!(
            "path = '{}'\ntempo = {TEMPO}\nweights_rate_limit = 5\nneurons = [{{ uid = 0, hotkey = \"owner\" }}, \
             {{ uid = 1, hotkey = \"validator\", validator_permit = true, stake = 1000 }}, {{ uid = 2, hotkey = \"miner\" }}]\n",
            dir.join("chain.sqlite").display()
        );
        let text = format!(
            r#"
state = "state"
cache = "cache"
hotkey = "validator"
poll_ms = 6000
genesis = {{ path = "first" }}
hubs = [{{ name = "folder", path = "mirror" }}]
entry = {{ manifests = "folder", per_hotkey = 1000 }}
backend = {{ name = "outage-backend" }}
tasks = {{ name = "parquet", path = '{tasks}' }}
judges = [
    {{ name = "outage-judge", number = 1 }},
    {{ name = "outage-judge", number = 2 }},
    {{ name = "outage-judge", number = 3 }},
]
screens = [{{ name = "architecture" }}]
log = {{ origin = "outages.invalid/log", key = "log.pem" }}
publish = {{ to = "site" }}

[duel]
samples = 16
rule = {{ name = "margin" }}
generation.max_new_tokens = 64
limits = {{ samples_in_flight = 2, call_tries = 1 }}

[chain]
name = "outage-chain"
{chain}
"#,
            tasks = demo().join("tasks").display(),
        );
        fs::write(dir.join("validator.toml"), text).expect("writes");
        albedo::config::parse(&chain).expect("settings")
    }

    /// Hands in a model of `skill`; gives the number of its submission.
    async fn submit(&mut self, skill: f64) -> i64 {
        self.submissions += 1;
        let beside = self.dir.join("beside");
        write_model(&beside, skill, self.submissions);
        let mut names: Vec<_> =
            fs::read_dir(&beside).expect("lists").map(|entry| entry.expect("an entry")).collect();
        names.sort_by_key(fs::DirEntry::file_name);
        let line = |entry: &fs::DirEntry| {
            let digest = Digest::of(fs::read(entry.path()).expect("reads"));
            format!("{digest}  {}\n", entry.file_name().to_string_lossy())
        };
        let sums: String = names.iter().map(line).collect();
        let pin = Digest::of(&sums);
        fs::write(beside.join("SHA256SUMS"), sums).expect("writes");
        let (there, away) = (self.dir.join("mirror"), self.dir.join("mirror.away"));
        let place = if away.exists() { away } else { there }.join("miner/model");
        fs::create_dir_all(&place).expect("makes");
        fs::rename(&beside, place.join(pin.to_string())).expect("moves");
        let text = format!("v7|miner/model|sha256:{pin}");
        self.chain.commit(&Hotkey("miner".into()), &text, None).expect("commits");
        let row = async |ledger: &Ledger| {
            let rows = ledger.submissions().await.expect("read");
            rows.into_iter().find(|row| row.text == text).map(|row| row.id)
        };
        self.until("it is seen", row).await
    }

    /// Looks until `found` says something.
    async fn until<T>(&self, what: &str, mut found: impl AsyncFnMut(&Ledger) -> Option<T>) -> T {
        for _ in 0..LOOKS {
            if let Some(found) = found(&self.ledger).await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
        let rows = self.ledger.submissions().await;
        panic!("{what}: it did not come to that: {:?}, {rows:?}", self.ledger.alerts().await);
    }

    /// The epoch of the newest block.
    async fn epoch(&self) -> u64 {
        self.chain.head(&CallContext::new()).await.expect("a head").number / TEMPO
    }

    /// Where the files of a part are, if it has any.
    fn place(&self, part: &str) -> Option<PathBuf> {
        match part {
            "hub" => Some(self.dir.join("mirror")),
            "bucket" => Some(self.dir.join("site")),
            _ => None,
        }
    }

    fn go_away(&self, parts: &[&'static str]) {
        for part in parts {
            match self.place(part) {
                Some(place) => {
                    fs::rename(&place, place.with_extension("away")).expect("moves");
                    if *part == "bucket" {
                        // Where there is no folder, one would be made.
                        fs::write(&place, "").expect("writes");
                    }
                }
                None => {
                    out().insert(part);
                }
            }
        }
    }

    fn come_back(&self, parts: &[&'static str]) {
        for part in parts {
            match self.place(part) {
                Some(place) => {
                    let _ = fs::remove_file(&place);
                    fs::rename(place.with_extension("away"), &place).expect("moves");
                }
                None => {
                    out().remove(part);
                }
            }
        }
    }

    /// Has `parts` go away for `minutes` while a submission duels; it is better than the king if
    /// `is_better`.
    async fn outage(&mut self, parts: &[&'static str], minutes: u64, is_better: bool) -> Line {
        let skill = if is_better { self.king + 0.05 } else { self.king - 0.2 };
        let id = self.submit(skill).await;
        let duelling = async |ledger: &Ledger| {
            let row = ledger.submission(id).await.expect("read");
            (row.state == State::Duelling).then_some(())
        };
        self.until("it duels", duelling).await;
        let (began, first) = (self.clock.now(), self.epoch().await + 1);
        self.go_away(parts);
        // Another one comes meanwhile, whose files the validator has not yet.
        let next = self.submit_during(parts).await;
        let end = began + Duration::from_secs(60 * minutes);
        let mut alert = None;
        while self.clock.now() < end {
            self.note(&mut alert, began).await;
            tokio::time::sleep(LOOK).await;
        }
        let (ended, last) = (self.clock.now(), self.epoch().await);
        self.come_back(parts);
        loop {
            self.note(&mut alert, began).await;
            let (rows, alerts) = (self.ledger.submissions().await, self.ledger.alerts().await.expect("read"));
            let are_over = rows.expect("read").iter().all(|row| is_final(row.state));
            if are_over && alerts.is_empty() {
                break;
            }
            assert!(self.clock.now() < ended + Duration::from_hours(24), "{parts:?}: {alerts:?}");
            tokio::time::sleep(LOOK).await;
        }
        let recovered = self.clock.now().saturating_sub(ended);
        for (id, is_better) in [(id, is_better), (next, false)] {
            let row = self.ledger.submission(id).await.expect("read");
            self.check(&row, is_better, parts).await;
        }
        if is_better {
            self.king = skill;
        }
        let duels = self.ledger.duels().await.expect("read");
        let voids: Vec<u32> = (duels.iter())
            .filter(|duel| [id, next].contains(&duel.submission))
            .map(|duel| duel.voids)
            .collect();
        let epochs = first..last.max(first);
        let settled = self.ledger.epochs(2000).await.expect("read");
        let landed =
            settled.iter().filter(|row| epochs.contains(&row.epoch) && row.receipt.is_some()).count();
        let missed = (epochs.end - epochs.start) as usize - landed;
        let line = Line {
            parts: parts.to_vec(),
            minutes,
            alert,
            recovered,
            voids: voids.iter().sum(),
            resumed: voids.iter().filter(|voids| **voids > 0).count(),
            epochs,
            missed,
        };
        line.print();
        assert!(parts.contains(&"chain") || line.missed <= 1, "weights go on while the chain is there");
        line
    }

    /// A submission that is worse, while `parts` are away. It is committed where the chain answers.
    async fn submit_during(&mut self, parts: &[&'static str]) -> i64 {
        let is_chain_away = parts.contains(&"chain");
        if is_chain_away {
            out().remove("chain");
        }
        let id = self.submit(0.02).await;
        if is_chain_away {
            out().insert("chain");
        }
        id
    }

    async fn note(&self, alert: &mut Option<(Duration, String)>, began: Duration) {
        let alerts: Vec<Alert> = self.ledger.alerts().await.expect("read");
        if alert.is_none()
            && let Some(first) = alerts.into_iter().next()
        {
            *alert = Some((self.clock.now().saturating_sub(began), first.key));
        }
    }

    /// The outcome is what its skill calls for, by one attempt, and nothing was charged to its miner.
    async fn check(&self, row: &SubmissionRow, is_better: bool, parts: &[&str]) {
        let due = if is_better { State::Crowned } else { State::Lost };
        assert_eq!(row.state, due, "{parts:?}: {}", row.reason);
        let duels = self.ledger.duels().await.expect("read");
        assert_eq!(
            duels.iter().filter(|duel| duel.submission == row.id).count(),
            1,
            "{parts:?}: one attempt"
        );
        let moves = self.ledger.moves(Some(row.id), 0).await.expect("read");
        let faults: BTreeSet<_> = moves.iter().filter_map(|step| step.fault.as_deref()).collect();
        assert!(faults.iter().all(|fault| *fault == "infrastructure"), "{parts:?}: {faults:?}");
        assert_eq!(self.ledger.frozen().await.expect("read"), None, "{parts:?}: no bug");
    }

    /// Attempts have no gap, and every record verifies.
    async fn check_all(&self) -> usize {
        let duels = self.ledger.duels().await.expect("read");
        let mut expected = (0, 0);
        for duel in &duels {
            expected = if duel.king == expected.0 { (duel.king, expected.1 + 1) } else { (duel.king, 1) };
            assert_eq!((duel.king, duel.attempt), expected, "attempts have no gap");
            let record = Record::open(&self.dir.join(format!("state/duels/{}", duel.id))).expect("a record");
            let options = VerifyOptions { expect: duel.record, ..VerifyOptions::default() };
            verify_record(&record, &options, &CallContext::new()).await.expect("verifies");
        }
        let published =
            async |ledger: &Ledger| (ledger.lag().await.expect("read").waiting == 0).then_some(());
        self.until("everything is published", published).await;
        duels.len()
    }
}

/// Outages that are tried: which parts, for how many minutes.
fn chosen() -> Vec<(Vec<&'static str>, u64)> {
    if std::env::var("ALBEDO_OUTAGES").is_ok_and(|all| all == "all") {
        let alone = PARTS.iter().map(|part| (vec![*part], 10));
        let pairs = PARTS
            .iter()
            .enumerate()
            .flat_map(|(place, one)| PARTS[place + 1..].iter().map(move |other| (vec![*one, *other], 30)));
        let long = ["chain", "all judges", "server"].map(|part| (vec![part], 360));
        return [(vec![], 10)].into_iter().chain(alone).chain(pairs).chain(long).collect();
    }
    vec![
        (vec![], 10),
        (vec!["chain"], 10),
        (vec!["all judges"], 10),
        (vec!["hub", "bucket"], 10),
        (vec!["server"], 10),
    ]
}

#[test]
fn nobody_pays_for_an_outage() {
    if cfg!(feature = "chain") {
        // It has nothing to do with the chain's node, and runs without it.
        return;
    }
    // In a process whose state is not the user's.
    let state = concat!(env!("CARGO_TARGET_TMPDIR"), "/state");
    if std::env::var_os("XDG_STATE_HOME").is_none_or(|home| home != state) {
        let mut again = Command::new(std::env::current_exe().expect("this program"));
        again.args(["--exact", "outages::nobody_pays_for_an_outage", "--nocapture"]);
        let ended = again.env("XDG_STATE_HOME", state).status().expect("it starts");
        assert!(ended.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(outages());
}

async fn outages() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_owned();
    let settings = World::settings(&dir);
    let chain = LocalChain::new(settings.clone()).expect("a chain");
    let clock = FastClock(Instant::now());
    *CLOCK.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock.clone());

    let running = start(&dir, &clock).await;
    let mut set = tokio::task::JoinSet::new();
    let (pace, maker) = (clock.clone(), LocalChain::new(settings).expect("a chain"));
    // The chain has blocks whatever the validator's clock says.
    set.spawn(async move {
        loop {
            pace.sleep_until(pace.now() + BLOCK).await;
            maker.advance(1).expect("a block");
        }
    });

    let ledger = Ledger::read(&dir.join("state/ledger.sqlite")).expect("opens");
    let mut world = World { dir, chain, clock, ledger, king: 0.3, submissions: 0 };
    println!(
        "| away | for | alert after | recovered after | duels void | duels resumed | epochs without weights |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (number, (parts, minutes)) in chosen().into_iter().enumerate() {
        world.outage(&parts, minutes, number % 5 == 4).await;
    }
    let records = world.check_all().await;
    println!("{records} records verified, after {:.1} hours", world.clock.now().as_secs_f64() / 3600.0);

    // The machine's clock was hours ahead until the validator is started again, in an outage.
    world.go_away(&["server"]);
    let id = world.submit(0.02).await;
    let failed = async |ledger: &Ledger| (ledger.submission(id).await.expect("read").voids > 2).then_some(());
    world.until("the outage is met", failed).await;
    running.end().await;
    world.come_back(&["server"]);
    world.clock = FastClock(Instant::now());
    *CLOCK.lock().unwrap_or_else(PoisonError::into_inner) = Some(world.clock.clone());
    let running = start(&world.dir, &world.clock).await;
    let over = async |ledger: &Ledger| {
        let row = ledger.submission(id).await.expect("read");
        is_final(row.state).then_some(row)
    };
    let row = world.until("a clock that was wrong holds up nobody", over).await;
    world.check(&row, false, &["clock"]).await;
    println!("after a clock that was ahead, the outcome came after {:.0} s", world.clock.now().as_secs_f64());
    running.end().await;
}

/// A validator at work in this process.
struct AtWork {
    cx: CallContext,
    working: tokio::task::JoinHandle<albedo::Result<()>>,
}

/// Starts the validator of `dir`.
async fn start(dir: &Path, clock: &FastClock) -> AtWork {
    let (registry, cx) = (Registry::linked().expect("links"), CallContext::new());
    let config = ValidatorConfig::read(&dir.join("validator.toml")).expect("reads");
    let resources = Resources::default().with_clock(clock.clone());
    let build = BuildContext::new(&registry, &cx).with_resources(resources);
    let validator = Validator::open(&config, &build).await.expect("opens");
    validator.begin(&|error| eprintln!("{error}"), &cx).await.expect("begins");
    let (inner, handle) = (cx.child(), tokio::runtime::Handle::current());
    let working = tokio::task::spawn_blocking(move || handle.block_on(validator.run(&inner)));
    AtWork { cx, working }
}

impl AtWork {
    async fn end(self) {
        self.cx.cancel();
        self.working.await.expect("it ends").expect("no bug");
    }
}
