//! The validator in its world: blocks, miners and outages by the script, and what the process
//! takes, measured once per day.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use albedo::chain::Hotkey;
use albedo::chains::local::LocalChain;
use albedo::validator::ledger::Ledger;
use albedo::validator::table::{by_name, is_final};
use albedo::{CallContext, ChainClient, Clock};
use tokio::task::JoinSet;

use crate::clock::Jumping;
use crate::script::{Entry, Kind, Script};
use crate::scripted::{self, Terms, hide, settings, show};
use crate::{BLOCK, CHAIN_OUTAGES, DAY, SAMPLES, SCREENS, TEMPO};

/// How often the chain is asked for a block.
const POLL: Duration = Duration::from_secs(30);

/// How often it is looked whether everything is over, at the end.
const LOOK: Duration = Duration::from_hours(1);

/// After how many looks it has to be: three days.
const LOOKS: u32 = 72;

/// What the process takes at the end of a day, once nothing is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Day {
    pub(crate) number: u64,
    pub(crate) memory_kb: u64,
    pub(crate) files: usize,
    pub(crate) threads: usize,
    pub(crate) ledger_bytes: u64,
    pub(crate) submissions: u64,
    /// From the start, by this machine's clock.
    pub(crate) wall: Duration,
    pub(crate) jumps: usize,
}

/// What happens at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Upload(usize),
    Commit(usize),
    Leave(usize),
    OutageBegins(usize),
    OutageEnds(usize),
}

/// Everything that acts on the validator from outside.
struct World {
    dir: PathBuf,
    script: Script,
    clock: Jumping,
    chain: LocalChain,
    ledger: Ledger,
}

/// Has a validator live through `script` in `dir`; gives what it took, day by day.
pub(crate) fn live(dir: &Path, script: &Script) -> Vec<Day> {
    let clock = Jumping::default();
    let runtime = clock.runtime();
    let days = Arc::new(Mutex::new(Vec::new()));
    runtime.block_on(async {
        scripted::begin(Arc::new(clock.clone()), Duration::ZERO);
        let miners = &script.miners;
        let terms =
            Terms { tempo: TEMPO, poll: POLL, miners, samples: SAMPLES, in_flight: 32, screens: SCREENS };
        let settings = settings(dir, terms);
        let chain = || LocalChain::new(settings.clone()).expect("a chain");
        let ledger = || Ledger::read(&dir.join("state/ledger.sqlite")).expect("opens");
        let cx = CallContext::new();
        let validator = scripted::open(dir, clock.clone(), &cx).await;

        let mut others = JoinSet::new();
        others.spawn(clock.clone().start());
        others.spawn(make_blocks(clock.clone(), chain()));
        let path = dir.join("state");
        others.spawn(measure(clock.clone(), path, ledger(), Arc::clone(&days)));
        let world = World {
            dir: dir.to_owned(),
            script: script.clone(),
            clock: clock.clone(),
            chain: chain(),
            ledger: ledger(),
        };
        let (acted, all_over) = (cx.clone(), world.act());
        let mut acting = JoinSet::new();
        acting.spawn(async move {
            all_over.await;
            acted.cancel();
        });
        // The first task that panics ends the run.
        let watched = async {
            tokio::select! {
                Some(ended) = acting.join_next() => ended,
                Some(ended) = others.join_next() => ended,
            }
        };
        let (ran, ended) = futures::join!(validator.run(&cx), async {
            let ended = watched.await;
            cx.cancel();
            ended
        });
        ran.expect("no bug");
        ended.expect("nobody panics");
        others.shutdown().await;
    });
    let days = days.lock().unwrap_or_else(PoisonError::into_inner);
    days.clone()
}

/// The chain has blocks whatever the validator does.
async fn make_blocks(clock: Jumping, chain: LocalChain) {
    loop {
        clock.sleep(BLOCK).await;
        chain.advance(1).expect("a block");
    }
}

/// Notes at the end of every day what the process takes.
async fn measure(clock: Jumping, state: PathBuf, ledger: Ledger, days: Arc<Mutex<Vec<Day>>>) {
    let begun = Instant::now();
    for day in 1.. {
        clock.sleep_until(DAY * day).await;
        let counted = ledger.counts().await.expect("counts");
        let size = |name: &str| fs::metadata(state.join(name)).map_or(0, |file| file.len());
        let list = |folder: &str| fs::read_dir(folder).map_or(0, Iterator::count);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        let day = Day {
            number: u64::from(day),
            memory_kb: resident.and_then(|kb| kb.parse().ok()).unwrap_or(0),
            // Without the one that lists them.
            files: list("/proc/self/fd").saturating_sub(1),
            threads: list("/proc/self/task"),
            ledger_bytes: size("ledger.sqlite"),
            submissions: counted.values().sum(),
            wall: begun.elapsed(),
            jumps: clock.jumps(),
        };
        days.lock().unwrap_or_else(PoisonError::into_inner).push(day);
    }
}

impl World {
    /// Lets everything happen in its turn, and waits until all of it is over.
    async fn act(self) {
        let mut events = Vec::new();
        for (number, entry) in self.script.entries.iter().enumerate() {
            events.push((entry.committed, What::Commit(number)));
            events.extend(entry.uploaded.map(|at| (at, What::Upload(number))));
            events.extend(entry.leaves.map(|at| (at, What::Leave(number))));
        }
        for (number, outage) in self.script.outages.iter().enumerate() {
            events.push((outage.from, What::OutageBegins(number)));
            events.push((outage.from + outage.secs, What::OutageEnds(number)));
        }
        events.sort_unstable();
        let mut chain_outages = Vec::new();
        for (at, what) in events {
            self.clock.sleep_until(Duration::from_secs(at)).await;
            match what {
                What::Upload(number) => self.script.entries[number].upload(&self.dir),
                What::Commit(number) => self.commit(number).await,
                What::Leave(number) => self.leave(&self.script.entries[number]),
                What::OutageBegins(number) => {
                    let outage = &self.script.outages[number];
                    let part = outage.part();
                    if hide(&self.dir, part) {
                        continue;
                    }
                    let calls = if part == "chain" { 0 } else { outage.calls };
                    scripted::go_away(part, calls, Duration::from_secs(outage.secs));
                    if part == "chain" {
                        chain_outages.push((self.head().await, u64::MAX));
                    }
                }
                What::OutageEnds(number) => {
                    let part = self.script.outages[number].part();
                    if !show(&self.dir, part) && part == "chain" {
                        scripted::come_back(part);
                        chain_outages.last_mut().expect("one began").1 = self.head().await;
                    }
                }
            }
        }
        let blocks = serde_json::to_vec(&chain_outages).expect("JSON");
        fs::write(self.dir.join(CHAIN_OUTAGES), blocks).expect("writes");
        self.clock.sleep_until(DAY * self.script.days as u32).await;
        for _ in 0..LOOKS {
            let counts = self.ledger.counts().await.expect("counts");
            let are_over = counts.keys().all(|state| by_name(state).is_some_and(is_final));
            let (alerts, lag) = (self.ledger.alerts().await.expect("reads"), self.ledger.lag().await);
            if are_over && alerts.is_empty() && lag.expect("reads").waiting == 0 {
                return;
            }
            self.clock.sleep(LOOK).await;
        }
        let rows = self.ledger.live().await;
        panic!("it did not end: {:?}, {rows:?}", self.ledger.alerts().await);
    }

    async fn commit(&self, number: usize) {
        let entry = &self.script.entries[number];
        let round = match entry.hidden {
            Some(blocks) => Some(self.head().await + 1 + blocks),
            None => None,
        };
        self.chain.commit(&Hotkey(entry.hotkey.clone()), &entry.text, round).expect("commits");
    }

    /// The miner exchanges its hotkey, or somebody registers in its slot.
    fn leave(&self, entry: &Entry) {
        let chain = rusqlite::Connection::open(self.dir.join("chain.sqlite")).expect("opens");
        chain.busy_timeout(Duration::from_secs(30)).expect("sets");
        let sql = if entry.kind == Kind::Exchanged {
            "UPDATE neurons SET hotkey = 'after ' || hotkey WHERE hotkey = ?1"
        } else {
            "INSERT INTO neurons (uid, registered_at, hotkey, coldkey, validator_permit, stake) \
             SELECT uid, (SELECT head + 1 FROM chain), 'after ' || hotkey, 'newcomer', 0, 0 \
             FROM neurons WHERE hotkey = ?1"
        };
        assert_eq!(chain.execute(sql, [&entry.hotkey]).expect("changes"), 1);
    }

    async fn head(&self) -> u64 {
        self.chain.head(&CallContext::new()).await.expect("a head").number
    }
}
