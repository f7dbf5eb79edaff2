//! Outages, alone and in pairs: chain, hub, bucket, one judge, all judges, server, and a full disk
//! where a small one may be mounted. One validator lives through all of them, on the chain `local`
//! and by a clock that runs 300 times as fast. Models and judges are scripted, so that who should
//! be crowned is known.
//!
//! Each outage begins while a duel runs. No miner is charged, the weights go on while the chain is
//! there and the disk can be written, and nobody has to act. `ALBEDO_OUTAGES=all` has every pair, and outages of six hours; it
//! prints the table of `docs/validator.md`. Without it a few are tried.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use albedo::Clock;
use albedo::chain::Hotkey;
use albedo::chains::local::LocalChain;
use albedo::prelude::*;
use albedo::record::{VerifyOptions, verify_record};
use albedo::validator::ledger::{Alert, Ledger, SubmissionRow};
use albedo::validator::table::{State, is_final};
use futures::future::BoxFuture;
use rustix::fs::{FallocateFlags, fallocate};

use crate::scripted::{self, PARTS, Terms, hide, model_files, settings, show, sums, upload};

/// How many seconds of the validator's clock a second has.
const SPEED: u32 = 300;

/// Time from block to block, by that clock.
const BLOCK: Duration = Duration::from_secs(12);

/// Blocks of an epoch: ten minutes.
const TEMPO: u64 = 50;

/// How often the ledger is looked at, in this machine's time.
const LOOK: Duration = Duration::from_millis(20);

/// How long a model takes per reply, by that clock.
const REPLY: Duration = Duration::from_secs(30);

/// The disk of the validator's state, as a part that can be full.
const DISK: &str = "disk";

/// The variable that names the folder where that disk is mounted.
const MOUNTED: &str = "ALBEDO_OUTAGES_DISK";

/// Runs a program with a disk that is hardly larger than what the validator keeps free, in a mount
/// namespace of its own, which ends with the program.
const WITH_DISK: &str = r#"mount -t tmpfs -o size=1100m tmpfs "$1" && export "$2=$1"; shift 2; exec "$@""#;

/// Looks before a wait is given up: five minutes of this machine's time.
const LOOKS: u32 = 15_000;

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

/// The competition, and what the test knows of it.
struct World {
    dir: PathBuf,
    chain: LocalChain,
    clock: FastClock,
    ledger: Ledger,
    /// The disk of the state, if it can be full.
    disk: Option<PathBuf>,
    king: f64,
    submissions: u32,
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
    /// Hands in a model of `skill`; gives the number of its submission.
    async fn submit(&mut self, skill: f64) -> i64 {
        self.submissions += 1;
        let files = model_files(skill, self.submissions.into());
        let sums = sums(&files, false);
        upload(&self.dir, "miner/model", &files, &sums);
        let pin = sums.1;
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

    async fn go_away(&self, parts: &[&'static str]) {
        for part in parts {
            if *part == DISK {
                self.fill_disk().await;
            } else if !hide(&self.dir, part) {
                scripted::go_away(part, 0, Duration::MAX);
            }
        }
    }

    fn come_back(&self, parts: &[&'static str]) {
        for part in parts {
            if *part == DISK {
                fs::remove_file(self.ballast()).expect("removes");
            } else if !show(&self.dir, part) {
                scripted::come_back(part);
            }
        }
    }

    /// What fills the disk.
    fn ballast(&self) -> PathBuf {
        self.disk.as_ref().expect("a small disk").join("ballast")
    }

    /// Fills the disk below its reserve; it can be written then, and the validator says so.
    async fn fill_disk(&self) {
        let ballast = File::create(self.ballast()).expect("creates");
        fallocate(&ballast, FallocateFlags::empty(), 0, 200 << 20).expect("there is room");
        let said = async |ledger: &Ledger| {
            let alerts = ledger.alerts().await.expect("read");
            alerts.iter().any(|alert| alert.key == "the disk").then_some(())
        };
        self.until("it says that the disk is nearly full", said).await;
    }

    /// Fills the disk to its last byte.
    fn fill_disk_up(&self) {
        let ballast = File::options().append(true).open(self.ballast()).expect("opens");
        let mut size = ballast.metadata().expect("is there").len();
        for step in [1 << 20, 1] {
            while fallocate(&ballast, FallocateFlags::empty(), size, step).is_ok() {
                size += step;
            }
        }
    }

    /// Has `parts` go away for `minutes` while a submission duels; it is better than the king if
    /// `is_better`.
    async fn outage(&mut self, parts: &[&'static str], minutes: u64, is_better: bool) -> Line {
        let skill = if is_better { self.king + 1.0 } else { self.king - 1.0 };
        let id = self.submit(skill).await;
        let duelling = async |ledger: &Ledger| {
            let row = ledger.submission(id).await.expect("read");
            (row.state == State::Duelling).then_some(())
        };
        self.until("it duels", duelling).await;
        let (began, first) = (self.clock.now(), self.epoch().await + 1);
        self.go_away(parts).await;
        let mut alert = None;
        self.note(&mut alert, began).await;
        // Another one comes meanwhile, whose files the validator has not yet.
        let next = self.submit_during(parts).await;
        if parts.contains(&DISK) {
            self.fill_disk_up();
        }
        let end = self.clock.now() + Duration::from_secs(60 * minutes);
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
        // What is signed is written down first.
        let can_write = ![DISK, "chain"].iter().any(|part| parts.contains(part));
        assert!(!can_write || line.missed <= 1, "weights go on while they can: {}", line.missed);
        line
    }

    /// A submission that is worse, while `parts` are away. It is committed where the chain answers.
    async fn submit_during(&mut self, parts: &[&'static str]) -> i64 {
        let is_chain_away = parts.contains(&"chain");
        if is_chain_away {
            scripted::come_back("chain");
        }
        let id = self.submit(self.king - 2.0).await;
        if is_chain_away {
            scripted::go_away("chain", 0, Duration::MAX);
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
fn chosen(has_disk: bool) -> Vec<(Vec<&'static str>, u64)> {
    let disk = has_disk.then_some(DISK);
    if std::env::var("ALBEDO_OUTAGES").is_ok_and(|all| all == "all") {
        let parts: Vec<_> = PARTS.into_iter().chain(disk).collect();
        let alone = parts.iter().map(|part| (vec![*part], 10));
        let pairs = (parts.iter().enumerate())
            .flat_map(|(place, one)| parts[place + 1..].iter().map(move |other| (vec![*one, *other], 30)));
        let long = ["chain", "all judges", "server"].into_iter().chain(disk).map(|part| (vec![part], 360));
        return [(vec![], 10)].into_iter().chain(alone).chain(pairs).chain(long).collect();
    }
    [vec![], vec!["chain"], vec!["all judges"], vec!["hub", "bucket"], vec!["server"]]
        .into_iter()
        .chain(disk.map(|disk| vec![disk]))
        .map(|parts| (parts, 10))
        .collect()
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
        let (disk, this) = (tempfile::tempdir().expect("a folder"), std::env::current_exe());
        let mut again = with_disk(disk.path()).unwrap_or_else(|| {
            eprintln!("skipped: a full disk; no file system may be mounted here");
            Command::new("env")
        });
        again.arg(this.expect("this program"));
        again.args(["--exact", "outages::nobody_pays_for_an_outage", "--nocapture"]);
        let ended = again.env("XDG_STATE_HOME", state).status().expect("it starts");
        assert!(ended.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(outages());
}

/// A command that runs the program behind it with a small disk at `disk`, if one may be mounted.
fn with_disk(disk: &Path) -> Option<Command> {
    let command = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "--mount", "sh", "-c", WITH_DISK, "sh"]).arg(disk).arg(MOUNTED);
        unshare
    };
    let has_disk = format!("test -n \"${MOUNTED}\"");
    let tried = command().args(["sh", "-c", &has_disk]).stderr(Stdio::null()).status();
    tried.is_ok_and(|tried| tried.success()).then(command)
}

async fn outages() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_owned();
    let disk = std::env::var_os(MOUNTED).map(PathBuf::from);
    if let Some(disk) = &disk {
        std::os::unix::fs::symlink(disk, dir.join("state")).expect("links");
    }
    let miners = [("miner".to_owned(), String::new())];
    let (poll, screens) = (Duration::from_secs(6), "[{ name = \"architecture\" }]");
    let terms = Terms { tempo: TEMPO, poll, miners: &miners, samples: 16, in_flight: 2, screens };
    let settings = settings(&dir, terms);
    let chain = LocalChain::new(settings.clone()).expect("a chain");
    let clock = FastClock(Instant::now());
    scripted::begin(Arc::new(clock.clone()), REPLY);

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
    let has_disk = disk.is_some();
    let mut world = World { dir, chain, clock, ledger, disk, king: 0.0, submissions: 0 };
    println!(
        "| away | for | alert after | recovered after | duels void | duels resumed | epochs without weights |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (number, (parts, minutes)) in chosen(has_disk).into_iter().enumerate() {
        world.outage(&parts, minutes, number % 5 == 4).await;
    }
    let records = world.check_all().await;
    println!("{records} records verified, after {:.1} hours", world.clock.now().as_secs_f64() / 3600.0);

    // The machine's clock was hours ahead until the validator is started again, in an outage.
    world.go_away(&["server"]).await;
    let id = world.submit(world.king - 2.0).await;
    let failed = async |ledger: &Ledger| (ledger.submission(id).await.expect("read").voids > 2).then_some(());
    world.until("the outage is met", failed).await;
    running.end().await;
    world.come_back(&["server"]);
    world.clock = FastClock(Instant::now());
    scripted::begin(Arc::new(world.clock.clone()), REPLY);
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
    let cx = CallContext::new();
    let validator = scripted::open(dir, clock.clone(), &cx).await;
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
