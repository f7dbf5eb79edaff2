//! `albedo validator run --follow`: a validator without a GPU verifies what another one
//! publishes, sets the weights that follow, and refuses what is not as it should be.
//!
//! One competition of the demo's models is run. Every test then publishes it again in a
//! folder of its own, as it was or altered, before a chain whose blocks it makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use albedo::chain::{BlockNumber, Hotkey, NetUid};
use albedo::chains::local::{LocalChain, LocalChainConfig};
use albedo::log::{AnchoredHead, Announced, End, Ended, Entry, FolderLog, Head, History, Log, LogWriter};
use albedo::signer::KeyFile;
use albedo::validator::ValidatorConfig;
use albedo::validator::ledger::{Alert, EpochRow, FollowedRow, Ledger};
use albedo::weights::Share;
use albedo::{CallContext, ChainClient, Digest, Outcome};
use serde_json::Value;

use crate::folders::forge;
use crate::log::Served;
use crate::run::{albedo, command, demo, error, stdout};
use crate::validator_kills::{prepare, start};

/// Blocks of an epoch of the demo's chain.
const TEMPO: u64 = 20;

/// How often the state of another process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Looks before a test gives up: two minutes.
const LOOKS: u32 = 6000;

/// A competition that is over. Its folder is `demo`, and `published` is a copy of what it
/// published.
fn competition() -> &'static Path {
    static DONE: OnceLock<PathBuf> = OnceLock::new();
    DONE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("followed-competition");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("makes");
        let dir = folder.join("demo");
        prepare(&dir);
        let config = dir.join("validator.toml");
        let text = fs::read_to_string(&config).expect("reads");
        let neuron =
            "[[chain.neurons]]\nuid = 9\nhotkey = \"follower\"\nvalidator_permit = true\nstake = 900\n\n";
        let text = text.replace("# Who reigns first", &format!("{neuron}# Who reigns first"));
        fs::write(&config, text.replace("poll_ms = 200", "poll_ms = 20")).expect("writes");
        let ended = start(&dir).wait_with_output().expect("ends");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        copy(&dir.join("site"), &folder.join("published"));
        folder
    })
}

/// Copies the folder `from` to the new folder `to`.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("makes");
    for entry in fs::read_dir(from).expect("lists") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
        }
    }
}

/// The log of the folder `site`.
async fn entries(site: &Path) -> (Head, Vec<Entry>) {
    let cx = CallContext::new();
    let log = Log::open(Arc::new(FolderLog::new(site.join("log"))), None, &cx).await.expect("opens");
    let history = History::new(log.head(), &log.entries(&cx).await.expect("fits")).expect("reads");
    (log.head().clone(), history.entries().to_vec())
}

/// A follower in a folder of its own, what it follows, and the chain of both.
struct Scene {
    folder: tempfile::TempDir,
    chain: LocalChain,
    /// The whole log.
    entries: Vec<Entry>,
    process: Option<Child>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The chain of the competition's configuration, at `path`.
fn chain_settings(path: &Path) -> (ValidatorConfig, LocalChainConfig) {
    let config = ValidatorConfig::read(&competition().join("demo/validator.toml")).expect("reads");
    let settings = Value::Object(config.chain.settings().clone());
    let mut settings: LocalChainConfig = serde_json::from_value(settings).expect("settings");
    settings.path = Some(path.to_owned());
    (config, settings)
}

impl Scene {
    /// A scene before anything is published but the data of the first duel; it audits if
    /// `audits`.
    async fn new(audits: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (_, settings) = chain_settings(&folder.path().join("chain.sqlite"));
        Self::in_folder(folder, LocalChain::new(settings).expect("a chain"), None, audits).await
    }

    /// A scene with that chain, which follows `at`, or a site of its own.
    async fn in_folder(folder: tempfile::TempDir, chain: LocalChain, at: Option<&str>, audits: bool) -> Self {
        let competition = competition();
        let (_, entries) = entries(&competition.join("published")).await;
        let dir = competition.join("demo");
        let toml = fs::read_to_string(dir.join("validator.toml")).expect("reads");
        let begin = toml.find("[chain]").expect("a chain");
        let end = toml.find("# Who reigns first").expect("an end");
        let site = at.map_or_else(|| folder.path().join("site").display().to_string(), str::to_owned);
        let chain_file = at.map_or_else(|| folder.path().join("chain.sqlite"), |_| dir.join("chain.sqlite"));
        let chain_toml = toml[begin..end]
            .replace("path = \"chain.sqlite\"", &format!("path = '{}'", chain_file.display()));
        let audit = if audits {
            let calibration = demo().join("audit/cpu-cpu-greedy.json");
            format!("calibration = '{}'\n[backend]\nname = \"burn\"\n", calibration.display())
        } else {
            "audit_replies = 0\n".to_owned()
        };
        let text = format!(
            "state = \"followed\"\ncache = \"cache\"\nhotkey = \"follower\"\npoll_ms = 20\n\n{chain_toml}\n\
             [genesis]\npath = '{king}'\n\n[[hubs]]\nname = \"folder\"\npath = '{mirror}'\n\n[entry]\nmanifests = \"folder\"\n\n\
             [follow]\nat = '{site}'\n{audit}",
            king = dir.join("models/king").display(),
            mirror = dir.join("mirror").display(),
        );
        fs::write(folder.path().join("follower.toml"), text).expect("writes");
        let scene = Self { folder, chain, entries, process: None };
        if at.is_none() {
            copy(&competition.join("published"), &scene.site());
            scene.publish(&scene.entries[..scene.first_end()]);
        }
        scene
    }

    fn site(&self) -> PathBuf {
        self.folder.path().join("site")
    }

    /// How many entries there are once the first duel has ended.
    fn first_end(&self) -> usize {
        let ended = |entry: &Entry| matches!(entry, Entry::Ended(_));
        self.entries.iter().position(ended).expect("an end") + 1
    }

    /// The last entry of the log that ends a duel with a crown: its place, and its record.
    fn crown(&self) -> (usize, Digest) {
        let crown = |entry: &Entry| match entry {
            Entry::Ended(Ended {
                end: End::Recorded { record, outcome: Outcome::Dethroned, .. }, ..
            }) => Some(*record),
            _ => None,
        };
        self.entries
            .iter()
            .enumerate()
            .rev()
            .find_map(|(place, entry)| Some((place, crown(entry)?)))
            .expect("a crown")
    }

    /// Publishes a log of these entries, by the validator's key.
    fn publish(&self, entries: &[Entry]) -> Head {
        let log = self.site().join("log");
        let beside = self.folder.path().join("log");
        let _ = fs::remove_dir_all(&beside);
        let key = Arc::new(KeyFile::open(&competition().join("demo/log.pem")).expect("a key"));
        let mut writer = LogWriter::open(&beside, Some("demo.invalid/log"), key).expect("opens");
        let head = writer.append(entries).expect("appends").clone();
        drop(writer);
        let before = self.folder.path().join("log-before");
        let _ = fs::remove_dir_all(&before);
        fs::rename(&log, &before).expect("moves");
        fs::rename(&beside, &log).expect("moves");
        self.freshen();
        head
    }

    /// The validator has written its public data.
    fn freshen(&self) {
        let path = self.site().join("data/status.json");
        let mut status: Value = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
        status["updated_at"] = Value::from(status["updated_at"].as_u64().expect("a time") + 1);
        let beside = path.with_extension("part");
        fs::write(&beside, serde_json::to_vec(&status).expect("JSON")).expect("writes");
        fs::rename(&beside, &path).expect("moves");
    }

    fn config(&self) -> String {
        self.folder.path().join("follower.toml").to_str().expect("UTF-8").to_owned()
    }

    fn run(&mut self) {
        let child = command(["validator", "run", "--config", &self.config()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(child.expect("starts"));
    }

    fn kill(&mut self) {
        let mut process = self.process.take().expect("runs");
        process.kill().expect("kills");
        process.wait().expect("ends");
    }

    fn ledger_file(&self) -> PathBuf {
        self.folder.path().join("followed/ledger.sqlite")
    }

    /// Looks until `found` says something of the ledger.
    #[expect(clippy::panic, reason = "a test that waited in vain fails here")]
    async fn until<T>(&mut self, what: &str, mut found: impl AsyncFnMut(&Ledger) -> Option<T>) -> T {
        for _ in 0..LOOKS {
            if let Some(process) = &mut self.process {
                assert_eq!(process.try_wait().expect("asks"), None, "{what}: the follower has ended");
            }
            if let Ok(ledger) = Ledger::read(&self.ledger_file())
                && let Some(found) = found(&ledger).await
            {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
        let status = albedo(["validator", "status", "--config", &self.config()]);
        panic!("{what}: it did not come to that\n{}", String::from_utf8_lossy(&status.stdout));
    }

    /// Makes a block with each look until `found` says something; the validator writes its
    /// public data with each.
    #[expect(clippy::panic, reason = "a test that waited in vain fails here")]
    async fn blocks_until<T>(&mut self, what: &str, mut found: impl AsyncFnMut(&Ledger) -> Option<T>) -> T {
        for _ in 0..LOOKS {
            if let Ok(ledger) = Ledger::read(&self.ledger_file())
                && let Some(found) = found(&ledger).await
            {
                return found;
            }
            self.chain.advance(1).expect("a block");
            self.freshen();
            tokio::time::sleep(LOOK * 5).await;
        }
        let status = albedo(["validator", "status", "--config", &self.config()]);
        panic!("{what}: it did not come to that\n{}", String::from_utf8_lossy(&status.stdout));
    }

    /// Waits until all of the log was followed.
    async fn caught_up(&mut self, entries: usize) {
        let all = async |ledger: &Ledger| caught_up(ledger, entries).await;
        self.blocks_until("all of the log is followed", all).await;
    }

    /// Goes to the middle of the next epoch, and waits for its weights; gives the shares.
    async fn weights(&mut self) -> Vec<Share> {
        let epoch = next_epoch(&self.chain).await;
        if self.site().exists() {
            self.freshen();
        }
        self.until("weights", async |ledger| landed(ledger, epoch).await).await.vector.shares
    }

    /// Waits until it is refused with an alert under `key` that says `words`.
    async fn refused(&mut self, key: &str, words: &str) -> Alert {
        let alert = async |ledger: &Ledger| {
            ledger.followed().await.expect("read").and_then(|row| row.refusal)?;
            let alerts = ledger.alerts().await.expect("read");
            alerts.into_iter().find(|alert| alert.key == key && alert.message.contains(words))
        };
        self.blocks_until(&format!("{key}: {words}"), alert).await
    }

    /// Two more epochs have the weights `shares`, although it is refused.
    async fn keeps(&mut self, shares: &[Share]) {
        for _ in 0..2 {
            assert_eq!(self.weights().await, shares, "the last vector is set again");
        }
    }
}

async fn caught_up(ledger: &Ledger, entries: usize) -> Option<FollowedRow> {
    let row = ledger.followed().await.expect("read")?;
    (row.caught_up && row.next == entries as u64).then_some(row)
}

async fn landed(ledger: &Ledger, epoch: u64) -> Option<EpochRow> {
    ledger.epoch(epoch).await.expect("read").filter(|row| row.receipt.is_some())
}

/// Goes to the middle of the next epoch; gives its number.
async fn next_epoch(chain: &LocalChain) -> u64 {
    let cx = CallContext::new();
    let head = chain.head(&cx).await.expect("a head").number;
    let middle: BlockNumber = (head / TEMPO + 1) * TEMPO + TEMPO / 2;
    let head = chain.advance(middle - head).expect("blocks");
    chain.subnet(NetUid(97), &head, &cx).await.expect("read").epoch
}

/// Whom the shares are of.
fn owners(shares: &[Share]) -> Vec<&str> {
    shares.iter().map(|share| share.hotkey.0.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_validator_is_followed_with_equal_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = competition().join("demo");
    let chain = LocalChain::open(&dir.join("chain.sqlite")).expect("opens");
    let site = dir.join("site").to_str().expect("UTF-8").to_owned();
    // By a web server, where there is Python, else in its folder.
    let served = Served::start(&site);
    let at = served.as_ref().map_or(site, |served| served.address.clone());
    let mut scene = Scene::in_folder(folder, chain, Some(&at), true).await;
    let config = dir.join("validator.toml");
    let mut honest = command(["validator", "run", "--config", config.to_str().expect("UTF-8")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    scene.run();
    let all = scene.entries.len();
    // Each record waits for a block that chooses what is audited of it.
    for _ in 0..LOOKS {
        if let Ok(ledger) = Ledger::read(&scene.ledger_file())
            && caught_up(&ledger, all).await.is_some()
        {
            break;
        }
        scene.chain.advance(1).expect("a block");
        tokio::time::sleep(LOOK * 10).await;
    }
    let mut equal = 0;
    let books = Ledger::read(&dir.join("state/ledger.sqlite")).expect("opens");
    for _ in 0..20 {
        let epoch = next_epoch(&scene.chain).await;
        let followed =
            scene.until("the follower's weights", async |ledger| landed(ledger, epoch).await).await;
        let own = scene.until("the validator's weights", async |_| landed(&books, epoch).await).await;
        assert_eq!(followed.vector.shares, own.vector.shares, "epoch {epoch}");
        equal += 1;
        // Epochs pass faster here than the validator publishes: each waits for its news.
        for _ in 0..LOOKS {
            let ledger = Ledger::read(&scene.ledger_file()).expect("opens");
            if ledger.followed().await.expect("read").is_some_and(|row| row.news_epoch >= epoch) {
                break;
            }
            scene.chain.advance(1).expect("a block");
            tokio::time::sleep(LOOK * 20).await;
        }
    }
    honest.kill().expect("kills");
    honest.wait().expect("ends");
    let ledger = Ledger::read(&scene.ledger_file()).expect("opens");
    assert_eq!(owners(&ledger.last_landed().await.expect("read").expect("weights").vector.shares), ["ben"]);
    let alerts = ledger.alerts().await.expect("read");
    assert_eq!(alerts, [], "nothing is wrong");
    let totals = ledger.followed_totals().await.expect("read");
    // Two duels of 24 replies, of which 8 are audited each; two submissions were not admitted.
    assert_eq!((totals.records, totals.duels, totals.audited), (4, 2, 16), "{totals:?}");
    assert_eq!(totals.on_chain, 4, "the chain shows every commitment");
    let said = stdout(&albedo(["validator", "status", "--config", &scene.config()]));
    assert!(
        said.contains("8 of 24 replies are audited") && said.contains("answers of remote judges"),
        "{said}"
    );
    println!(
        "{equal} epochs with equal weights, {} of {} replies audited, at {at}",
        totals.audited, totals.replies
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_reply_is_refused_until_it_is_put_right() {
    let mut scene = Scene::new(false).await;
    scene.run();
    let first = scene.first_end();
    scene.caught_up(first).await;
    let before = scene.weights().await;
    assert_eq!(owners(&before), ["subnet owner"], "the first king earns nothing");
    let (_, record) = scene.crown();
    let blobs = scene.site().join(format!("records/{record}/record.blobs"));
    let whole = fs::read(&blobs).expect("reads");
    let mut altered = whole.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    fs::write(&blobs, &altered).expect("writes");
    scene.publish(&scene.entries);
    let alert = scene.refused("a followed record", &record.to_string()).await;
    assert_eq!(alert.fault, "operator");
    scene.keeps(&before).await;

    fs::write(&blobs, &whole).expect("writes");
    let all = scene.entries.len();
    scene.caught_up(all).await;
    assert_eq!(owners(&scene.weights().await), ["ben"]);
    let ledger = Ledger::read(&scene.ledger_file()).expect("opens");
    assert_eq!(ledger.alerts().await.expect("read"), [], "the alert is over");
}

/// Has the record in `folder` with another token in every reply; gives its digest.
fn other_tokens(folder: &Path) -> Digest {
    forge(folder, |lines| {
        for line in lines.iter_mut().filter(|line| line["line"] == "reply") {
            if let Some(ids) = line["reply"]["completed"]["tokens"]["ids"].as_array_mut() {
                let middle = ids.len() / 2;
                ids[middle] = Value::from(ids[middle].as_u64().expect("an id") + 1);
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_are_not_the_models_are_refused_by_an_audit() {
    let mut scene = Scene::new(true).await;
    scene.run();
    let first = scene.first_end();
    scene.caught_up(first).await;
    let before = scene.weights().await;
    // The validator itself altered what the models wrote: record and log agree.
    let (place, record) = scene.crown();
    let records = scene.site().join("records");
    let beside = records.join("altered");
    copy(&records.join(record.to_string()), &beside);
    let altered = other_tokens(&beside);
    fs::rename(&beside, records.join(altered.to_string())).expect("moves");
    let mut entries = scene.entries.clone();
    if let Entry::Ended(Ended { end: End::Recorded { record, .. }, .. }) = &mut entries[place] {
        *record = altered;
    }
    scene.publish(&entries);
    scene.refused("a followed record's audit", "8 of 24 replies are audited").await;
    scene.keeps(&before).await;
    let status = stdout(&albedo(["validator", "status", "--config", &scene.config(), "--json"]));
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["followed"]["refusal"]["cause"], "audit", "{status}");

    // An operator who has looked at it can go on following.
    let said = stdout(&albedo(["validator", "unfreeze", "--config", &scene.config()]));
    assert!(said.contains("is followed again"), "{said}");
    scene.caught_up(entries.len()).await;
    assert_eq!(owners(&scene.weights().await), ["ben"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_duel_is_refused() {
    // Its outcome is left out of the log.
    let mut scene = Scene::new(false).await;
    let first = scene.first_end();
    let announced = scene.entries[..first].iter().position(|entry| matches!(entry, Entry::Announced(_)));
    scene.publish(&scene.entries[..=announced.expect("an announcement")]);
    scene.run();
    scene.caught_up(announced.expect("an announcement") + 1).await;
    let before = scene.weights().await;
    let dropped = first - 1;
    let mut entries = scene.entries.clone();
    entries.remove(dropped);
    for entry in &mut entries {
        if let Entry::Ended(Ended { announced, .. }) = entry
            && *announced > dropped as u64
        {
            *announced -= 1;
        }
    }
    scene.publish(&entries);
    scene.refused("the followed log", "a duel was dropped").await;
    scene.keeps(&before).await;
    drop(scene);

    // Its record is never published.
    let mut scene = Scene::new(false).await;
    scene.run();
    scene.caught_up(first).await;
    let before = scene.weights().await;
    let (_, record) = scene.crown();
    let folder = scene.site().join(format!("records/{record}"));
    let away = scene.folder.path().join("away");
    fs::rename(&folder, &away).expect("moves");
    scene.publish(&scene.entries);
    scene.refused("a followed record", "is not published").await;
    scene.keeps(&before).await;
    fs::rename(&away, &folder).expect("moves");
    let all = scene.entries.len();
    scene.caught_up(all).await;
    assert_eq!(owners(&scene.weights().await), ["ben"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forked_or_shortened_log_is_refused() {
    let mut scene = Scene::new(false).await;
    scene.run();
    let first = scene.first_end();
    scene.caught_up(first).await;
    let before = scene.weights().await;
    // Another history of as many entries.
    let mut entries = scene.entries[..first].to_vec();
    let place =
        entries.iter().position(|entry| matches!(entry, Entry::Announced(_))).expect("an announcement");
    if let Entry::Announced(Announced { submission, .. }) = &mut entries[place] {
        *submission = None;
    }
    scene.publish(&entries);
    scene.refused("the followed log", "two histories").await;
    let proof =
        fs::read_to_string(scene.folder.path().join("followed/two-heads.txt")).expect("the proof is kept");
    assert_eq!(proof.matches("demo.invalid/log\n").count(), 2, "{proof}");
    scene.keeps(&before).await;
    // Started again, it is refused still.
    scene.kill();
    scene.run();
    scene.keeps(&before).await;

    scene.publish(&scene.entries[..first - 1]);
    scene.refused("the followed log", "more entries than the log shows").await;
    // The log as it was.
    scene.publish(&scene.entries);
    let all = scene.entries.len();
    scene.caught_up(all).await;
    assert_eq!(owners(&scene.weights().await), ["ben"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_on_chain_that_is_not_the_logs_is_refused() {
    let mut scene = Scene::new(false).await;
    scene.run();
    let first = scene.first_end();
    scene.caught_up(first).await;
    let validator = Hotkey("validator".into());
    let commit = |scene: &Scene, head: AnchoredHead| {
        scene.chain.commit(&validator, &head.to_string(), None).expect("commits");
        scene.chain.advance(1).expect("a block");
    };
    // The log's own head is as it should be.
    let head = scene.publish(&scene.entries[..first]);
    commit(&scene, AnchoredHead::from(&head));
    let before = scene.weights().await;
    // One that covers more than is shown.
    commit(&scene, AnchoredHead { size: head.size + 1, root: Digest::of("more") });
    scene.refused("the followed log's head on chain", "more entries than the log shows").await;
    scene.keeps(&before).await;
    // And then it shows another history.
    scene.publish(&scene.entries);
    let two = async |ledger: &Ledger| {
        let refusal = ledger.followed().await.expect("read").and_then(|row| row.refusal);
        refusal.filter(|refusal| refusal.message.contains("two histories"))
    };
    scene.blocks_until("two histories", two).await;
    scene.keeps(&before).await;
    // What was once on chain stays known, whatever comes after it.
    let (head, _) = entries(&scene.site()).await;
    commit(&scene, AnchoredHead::from(&head));
    scene.keeps(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_silent_epochs_are_refused_until_there_is_news() {
    let mut scene = Scene::new(false).await;
    scene.publish(&scene.entries);
    scene.run();
    let all = scene.entries.len();
    scene.caught_up(all).await;
    let before = scene.weights().await;
    assert_eq!(owners(&before), ["ben"]);
    // Nothing is written from here on.
    for silent in 1..=3 {
        let epoch = next_epoch(&scene.chain).await;
        let row = scene.until("weights", async |ledger| landed(ledger, epoch).await).await;
        assert_eq!(row.vector.shares, before, "{silent} silent epochs");
    }
    let silent = async |ledger: &Ledger| {
        let alerts = ledger.alerts().await.expect("read");
        alerts.into_iter().find(|alert| alert.key == "the followed validator is silent")
    };
    let alert = scene.until("the alert", silent).await;
    assert!(alert.message.contains("nothing new was published"), "{}", alert.message);
    scene.freshen();
    scene.chain.advance(1).expect("a block");
    scene
        .until("it is over", async |ledger| ledger.alerts().await.expect("read").is_empty().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_follower_loses_nothing_and_sets_nothing_twice() {
    let mut scene = Scene::new(true).await;
    scene.publish(&scene.entries);
    let all = scene.entries.len();
    // Killed whenever it has come one entry further, and after its weights.
    for entry in 1..=all {
        scene.run();
        let further = async |ledger: &Ledger| {
            let row = ledger.followed().await.expect("read")?;
            (row.next >= entry as u64).then_some(())
        };
        scene.blocks_until("one entry further", further).await;
        scene.kill();
    }
    scene.run();
    scene.caught_up(all).await;
    for _ in 0..3 {
        assert_eq!(owners(&scene.weights().await), ["ben"]);
        scene.kill();
        scene.run();
    }
    let ledger = Ledger::read(&scene.ledger_file()).expect("opens");
    let kings = ledger.kings().await.expect("read");
    assert_eq!(kings.len(), 2, "one crown: {kings:?}");
    let totals = ledger.followed_totals().await.expect("read");
    assert_eq!((totals.records, totals.audited, totals.attempts), (4, 16, 0), "{totals:?}");
    assert_eq!(ledger.log_entries(0).await.expect("read"), scene.entries);
    // The chain's own table: one vector per epoch.
    let chain = rusqlite::Connection::open(scene.folder.path().join("chain.sqlite")).expect("opens");
    let most: i64 = chain
        .query_row(
            "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM weights WHERE hotkey = 'follower' \
             GROUP BY included / 20)",
            [],
            |row| row.get(0),
        )
        .expect("counts");
    assert_eq!(most, 1, "one vector per epoch");
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_to_follow_is_checked_before_anything_is_done() {
    let scene = Scene::new(false).await;
    let file = scene.folder.path().join("follower.toml");
    let text = fs::read_to_string(&file).expect("reads");
    let refused = |text: &str, more: &[&str]| {
        fs::write(&file, text).expect("writes");
        let output =
            albedo([&["validator", "run", "--config", file.to_str().expect("UTF-8")][..], more].concat());
        (output.status.code(), error(&output))
    };
    let silent = text.replace("audit_replies = 0\n", "");
    let (code, line) = refused(&silent, &[]);
    assert_eq!(code, Some(78), "{line}");
    assert!(line.contains("`backend` is missing") && line.contains("takes the replies on trust"), "{line}");
    let begin = text.find("[follow]").expect("a table");
    let nowhere = format!("{}[follow]\naudit_replies = 0\n", &text[..begin]);
    let (code, line) = refused(&nowhere, &["--follow", "validator"]);
    assert_eq!(code, Some(78), "{line}");
    assert!(line.contains("follow.at") && line.contains("one commitment on chain"), "{line}");
    let (code, line) = refused(&text, &["--follow", "https://example.com"]);
    assert_eq!(code, Some(78), "{line}");
    assert!(line.contains("follows another validator"), "{line}");
    // A ledger of duels is not one that follows somebody.
    fs::write(&file, &text).expect("writes");
    let doctor = albedo(["validator", "doctor", "--config", file.to_str().expect("UTF-8"), "--json"]);
    let said = stdout(&doctor);
    assert!(said.contains("a log of") && said.contains("taken on trust"), "{said}");
}
