//! A validator lives for months, by a clock that jumps from one thing that happens to the next.
//!
//! One validator in a process of its own, on the chain `local`, with the real duel engine, journal,
//! records, log and bucket; models, judges and outages are scripted
//! (`tests/evening/scripted.rs`). Who hands in what, which of it is an attack, and what goes away
//! when, follows from a seed. Afterwards another process checks what is on the disk.
//!
//! CI runs ten days with 120 submissions. `ALBEDO_SOAK=all` is 180 days with 5,000 submissions; it
//! prints the table of `docs/validator.md`. A validator syncs all that it writes, some hundred times
//! per submission: without `TMPDIR`, a run is in memory (`/dev/shm`) where that has the room.
//!
//! Blocks are four minutes apart, twenty times as long as Bittensor's, and an epoch is 18 of them.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it says what it measures")]
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::script::Script;
use crate::world::{Day, live};

mod audit;
mod clock;
mod script;
#[path = "../evening/scripted.rs"]
mod scripted;
mod world;

/// Time from block to block.
const BLOCK: Duration = Duration::from_mins(4);

/// Blocks of an epoch: 72 minutes, as on Bittensor.
const TEMPO: u64 = 18;

const DAY: Duration = Duration::from_hours(24);

/// The scripted models have no tokenizer, and a file that says what they say.
const SCREENS: &str = r#"[
    { name = "files", allowed = ["config.json", "model.safetensors", "skill"], required = ["config.json"], as_king = [] },
    { name = "architecture" },
    { name = "digest" },
]"#;

/// Files in the folder of a run: the script, and the blocks of the chain's outages.
const SCRIPT: &str = "script.json";
const CHAIN_OUTAGES: &str = "chain-outages.json";

/// Samples of a duel.
const SAMPLES: u32 = 16;

/// Most bytes of the ledger per submission.
const LEDGER_BYTES: u64 = 50_000;

/// How long, how much, and from when on everything stays as it is.
struct Length {
    days: u64,
    submissions: usize,
    flat_from: u64,
    /// What it writes, at most.
    bytes: u64,
}

const SHORT: Length = Length { days: 10, submissions: 120, flat_from: 4, bytes: 1 << 28 };
const LONG: Length = Length { days: 180, submissions: 5000, flat_from: 10, bytes: 4 << 30 };

/// What this process is to do, and in which folder.
const PART: &str = "ALBEDO_SOAK_PART";
const FOLDER: &str = "ALBEDO_SOAK_FOLDER";

#[test]
fn a_validator_lives_for_months() {
    if cfg!(feature = "chain") {
        // It has nothing to do with the chain's node, and runs without it.
        return;
    }
    let length = if std::env::var("ALBEDO_SOAK").is_ok_and(|all| all == "all") { LONG } else { SHORT };
    let folder = std::env::var_os(FOLDER).map(PathBuf::from);
    match (std::env::var(PART).as_deref(), folder) {
        (Ok("live"), Some(dir)) => run(&dir, &length),
        (Ok("audit"), Some(dir)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(audit::audit(&dir));
        }
        _ => {
            let mut folder = place(length.bytes).expect("a folder");
            for part in ["live", "audit"] {
                let begun = Instant::now();
                let mut again = Command::new(std::env::current_exe().expect("this program"));
                again.args(["--exact", "a_validator_lives_for_months", "--nocapture"]);
                // The key of its journals is not the user's.
                again.env("XDG_STATE_HOME", folder.path().join("user"));
                let ended = again.env(PART, part).env(FOLDER, folder.path()).status();
                let ended = ended.expect("it starts");
                println!("{part}: {:.0} s", begun.elapsed().as_secs_f64());
                folder.disable_cleanup(!ended.success());
                assert!(ended.success(), "{part}: {ended}; what it left is in {}", folder.path().display());
            }
        }
    }
}

/// A folder with room for `bytes`: in memory, unless somebody has named another place.
fn place(bytes: u64) -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let has_room = rustix::fs::statvfs(memory).is_ok_and(|about| about.f_bavail * about.f_frsize >= bytes);
    if has_room && std::env::var_os("TMPDIR").is_none() {
        return tempfile::tempdir_in(memory);
    }
    tempfile::tempdir()
}

fn run(dir: &Path, length: &Length) {
    let script = Script::write(26, length.days, length.submissions);
    fs::write(dir.join(SCRIPT), serde_json::to_vec(&script).expect("JSON")).expect("writes");
    let days = live(dir, &script);
    print(&days, length);
    check(&days, length);
}

fn print(days: &[Day], length: &Length) {
    println!(
        "| day | submissions | memory | open files | threads | ledger per submission | so far | jumps |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let each = length.days.div_ceil(18);
    for day in days.iter().filter(|day| day.number % each == 0 || day.number == 1) {
        println!(
            "| {} | {} | {:.1} MB | {} | {} | {:.1} KB | {:.0} s | {} |",
            day.number,
            day.submissions,
            day.memory_kb as f64 / 1024.0,
            day.files,
            day.threads,
            day.ledger_bytes as f64 / 1000.0 / day.submissions.max(1) as f64,
            day.wall.as_secs_f64(),
            day.jumps,
        );
    }
}

/// What a process takes stays as it is. Files vary by what is under way when the day ends: four
/// more are allowed. Threads vary more, as idle ones end after seconds: half of the days have no
/// more than four above those of the first days. Memory may grow by half and 32 MB, for the page
/// caches of SQLite files that grow: in 180 days it grew from 73 MB to 119 MB, and by 4 MB of them
/// after day 100.
fn check(days: &[Day], length: &Length) {
    let (before, after): (Vec<_>, Vec<_>) = days.iter().partition(|day| day.number <= length.flat_from);
    let most = |days: &[&Day], of: fn(&Day) -> u64| days.iter().map(|day| of(day)).max().expect("a day");
    let both = |of: fn(&Day) -> u64| [&before, &after].map(|days| most(days, of));
    let [first, last] = both(|day| day.files as u64);
    assert!(last <= first + 4, "open files: {first} until day {}, {last} after", length.flat_from);
    let first = most(&before, |day| day.threads as u64);
    let mut threads: Vec<_> = after.iter().map(|day| day.threads as u64).collect();
    threads.sort_unstable();
    let middle = threads[threads.len() / 2];
    assert!(middle <= first + 4, "threads: {first} until day {}, {middle} after", length.flat_from);
    let [first, last] = both(|day| day.memory_kb);
    assert!(last <= first + first / 2 + 32 * 1024, "memory: {first} KB, then {last} KB");
    let last = days.last().expect("a day");
    let each = last.ledger_bytes / last.submissions;
    assert!(each < LEDGER_BYTES, "the ledger has {each} bytes per submission");
}
