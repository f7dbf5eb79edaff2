//! A client in a process of its own: the test program starts itself with the
//! name of the test that plays the client, watches it, and kills it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use albedo_chain::subtensor::SubtensorConfig;
use albedo_chain::testnode::TestNode;
use albedo_core::chain::BlockHash;

const ENDPOINT: &str = "ALBEDO_CHAIN_TEST_ENDPOINT";
const GENESIS: &str = "ALBEDO_CHAIN_TEST_GENESIS";

/// Time between two looks at a client.
const LOOK: Duration = Duration::from_secs(1);

/// Looks without a sign of life after which a client counts as hung: four times
/// as many as it takes to give up waiting for an answer (`call_timeout_ms`).
const QUIET_LOOKS: u32 = 120;

/// Processor time without a request after which a client counts as hung.
const LONGEST_THOUGHT: Duration = Duration::from_mins(1);

/// The process; [`Client::kill`] ends it.
pub(crate) struct Client {
    pub(crate) process: Child,
    /// What it writes to its standard error.
    said: File,
}

/// What shows that a process is alive.
#[derive(Clone, Copy)]
struct Signs {
    /// Requests that the node has had.
    asked: u64,
    /// Processor time of all threads.
    worked: Duration,
    /// A thread could work if it had a processor, or waits for the disk.
    held_up: bool,
}

/// The client's settings, in the process that plays it.
pub(crate) fn settings() -> SubtensorConfig {
    SubtensorConfig {
        endpoints: vec![variable(ENDPOINT)],
        genesis: variable(GENESIS),
        ..SubtensorConfig::default()
    }
}

/// A variable of the process that plays the client.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).expect("started by another test")
}

/// Leaves a trace of what the client does, for the message that says where it
/// hangs.
pub(crate) fn trace(step: &str) {
    let _ = writeln!(std::io::stderr(), "{step}");
}

impl Client {
    /// Starts the ignored test `name` as a client of the node.
    pub(crate) fn start(name: &str, node: &TestNode, variables: &[(&str, &str)]) -> Self {
        let said = tempfile::tempfile().expect("a file");
        let process = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env(ENDPOINT, node.endpoint())
            .env(GENESIS, BlockHash(node.genesis()).to_string())
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(said.try_clone().expect("a second handle"))
            .spawn()
            .expect("starts");
        Self { process, said }
    }

    /// Waits for `moment`, which comes as long as the client goes on asking.
    ///
    /// A busy machine can keep a client from its processor or its disk for
    /// minutes: that is waited for. A client that could go on and does not is hung.
    pub(crate) async fn comes_to(&mut self, node: &TestNode, moment: impl Future<Output = ()>) {
        let mut moment = std::pin::pin!(moment);
        let (mut before, mut quiet) = (self.signs(node), 0);
        let mut asked_last = before;
        while tokio::time::timeout(LOOK, &mut moment).await.is_err() {
            if let Some(status) = self.process.try_wait().expect("asked") {
                panic!("the client has ended by itself, {status}: {}", self.said());
            }
            let now = self.signs(node);
            if now.asked != before.asked {
                asked_last = now;
            }
            let moves = now.asked != before.asked || now.worked != before.worked || now.held_up;
            quiet = if moves { 0 } else { quiet + 1 };
            let thought = now.worked.saturating_sub(asked_last.worked);
            if quiet >= QUIET_LOOKS || thought >= LONGEST_THOUGHT {
                let threads = self.threads();
                self.end();
                panic!(
                    "the client hangs: no sign of life at {quiet} looks, {thought:?} of work since its last request\n\
                     {threads}\nits last steps: {}",
                    self.said()
                );
            }
            before = now;
        }
    }

    /// Kills the client, which must not have ended before.
    pub(crate) fn kill(mut self) {
        let ended = self.process.try_wait().expect("asked");
        self.end();
        if let Some(status) = ended {
            panic!("the client has ended by itself, {status}: {}", self.said());
        }
    }

    fn end(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("ended");
    }

    /// The end of what it has said. The process has ended: the two share one
    /// place in the file.
    fn said(&mut self) -> String {
        let mut said = String::new();
        let read = self.said.rewind().and_then(|()| self.said.read_to_string(&mut said));
        read.expect("what it said");
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Where the system does not tell of processes, only requests are signs.
    fn signs(&self, node: &TestNode) -> Signs {
        let mut signs = Signs { asked: node.asked(), worked: Duration::ZERO, held_up: false };
        self.each_thread(|folder| {
            // Nanoseconds of work, of waiting for a processor, and turns.
            let work = std::fs::read_to_string(folder.join("schedstat")).unwrap_or_default();
            let work = work.split_whitespace().next().and_then(|nanoseconds| nanoseconds.parse().ok());
            signs.worked += Duration::from_nanos(work.unwrap_or_default());
            signs.held_up |= matches!(state(folder), Some('R' | 'D'));
        });
        signs
    }

    /// What each thread waits for.
    fn threads(&self) -> String {
        let mut threads = String::new();
        self.each_thread(|folder| {
            let read = |name| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            let (name, waits) = (read("comm"), read("wchan"));
            let _ = writeln!(threads, "thread {}: {:?} in {waits}", name.trim(), state(folder));
        });
        threads
    }

    fn each_thread(&self, mut look: impl FnMut(&std::path::Path)) {
        let folder = format!("/proc/{}/task", self.process.id());
        for thread in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            look(&thread.path());
        }
    }
}

/// `R`: works or waits for a processor; `D`: waits for the disk; `S`: sleeps.
fn state(thread: &std::path::Path) -> Option<char> {
    let stat = std::fs::read_to_string(thread.join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
