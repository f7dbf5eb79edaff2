//! Tasks that never wait for each other: each makes one step after the other, is started
//! again after a failure, and is reported when it does not get on.
//!
//! | task | does |
//! |---|---|
//! | `follower` | reads every final block and enters its commitments |
//! | `admission` | decides who takes part; fetches and screens submissions, in order |
//! | `duels` | plans, announces and runs the next duel, and enters its verdict |
//! | `weights` | sets the weights that the ledger calls for, once per epoch |
//! | `anchors` | puts the newest head of the log on chain, after the epoch's weights |
//! | `publisher` | publishes what the outbox holds |
//! | `alerts` | sends alerts that begin and end to the webhook |
//! | `watch` | reports tasks that do not get on and a disk below its reserve, and feeds the service manager while all do |
//!
//! A validator that follows another one has `follower`, `weights` and `alerts`, and `followed`
//! in place of the others: it verifies what the followed one publishes.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::beats::{Beats, Idle};
use super::following::Following;
use super::ledger::Ledger;
use super::operate::Disk;
use super::parts::{Base, Seen, Shared, Time};
use crate::events::{Event, EventSink};
use crate::server::health::notify;
use crate::{CallContext, Error, ErrorKind, Fault, Result};

mod admission;
mod alerts;
mod anchors;
mod checks;
mod contestants;
mod duels;
mod followed;
mod follower;
mod likeness;
mod publisher;
mod turn;
mod weights;

/// The first pause after a failure; doubled after each. Source: albedo.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause after a failure. Source: albedo.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// How long a task that has nothing to do waits for a change of the ledger or of the chain, before
/// it looks by itself. Each block is a change. Source: albedo; well within the tasks' limits.
const IDLE: Duration = Duration::from_mins(5);

/// When a task makes its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// At once: there may be more to do.
    Now,
    /// After a pause, whatever happens.
    After(Duration),
    /// When the ledger or the chain has changed, or after that time.
    Change(Duration),
}

/// One task.
#[async_trait]
trait Task: Debug + Send + Sync {
    fn name(&self) -> &'static str;

    /// How long it may go without progress before that is reported.
    fn limit(&self) -> Duration;

    /// Does one thing. It may be dropped at any await, and is repeated after a failure.
    async fn step(&self, cx: &CallContext) -> Result<Next>;
}

/// Runs the tasks of a validator that runs duels until `cx` is cancelled.
///
/// # Errors
/// A bug: a task ended by itself.
pub(super) async fn run(shared: &Arc<Shared>, cx: &CallContext) -> Result<()> {
    let base = &shared.base;
    let tasks: [Arc<dyn Task>; 7] = [
        Arc::new(follower::Follower::new(Arc::clone(base), true)),
        Arc::new(admission::Admissions::new(Arc::clone(shared))),
        Arc::new(duels::Duels::new(Arc::clone(shared))),
        Arc::new(weights::Weights::new(Arc::clone(base), false)),
        Arc::new(anchors::Anchors::new(Arc::clone(shared))),
        Arc::new(publisher::Publishing::new(Arc::clone(shared))),
        Arc::new(alerts::Alerts::new(Arc::clone(base))),
    ];
    run_all(base, &tasks, cx).await
}

/// Runs the tasks of a validator that follows another one until `cx` is cancelled.
///
/// # Errors
/// A bug: a task ended by itself.
pub(super) async fn run_following(following: &Arc<Following>, cx: &CallContext) -> Result<()> {
    let base = &following.base;
    let tasks: [Arc<dyn Task>; 4] = [
        Arc::new(follower::Follower::new(Arc::clone(base), false)),
        Arc::new(followed::Followed::new(Arc::clone(following))),
        Arc::new(weights::Weights::new(Arc::clone(base), true)),
        Arc::new(alerts::Alerts::new(Arc::clone(base))),
    ];
    run_all(base, &tasks, cx).await
}

async fn run_all(base: &Base, tasks: &[Arc<dyn Task>], cx: &CallContext) -> Result<()> {
    let mut set = JoinSet::new();
    for task in tasks {
        let (task, care) = (Arc::clone(task), Care::of(base));
        care.beats.begin(task.name(), task.limit(), care.time.clock.now());
        let beat = Beating { task: task.name(), care: care.clone() };
        let cx = cx.child().with_events(Arc::new(beat));
        set.spawn(async move { care.keep_going(&*task, &cx).await });
    }
    let (care, inner, outer) = (Care::of(base), cx.child(), cx.clone());
    set.spawn(async move { care.watch(&inner).await });
    while let Some(ended) = set.join_next().await {
        if outer.is_cancelled() {
            continue;
        }
        let why = ended.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string());
        outer.cancel();
        return Err(Error::bug("run the validator", format!("a task has ended: {why}")));
    }
    Ok(())
}

/// Says with every event that a task gets on.
#[derive(Debug)]
struct Beating {
    task: &'static str,
    care: Care,
}

impl EventSink for Beating {
    fn on(&self, _: &Event) {
        self.care.beat(self.task);
    }
}

/// How often it is looked whether tasks get on, unless the chain is asked more seldom.
const LOOK: Duration = Duration::from_secs(5);

/// How often at the least: what watches the process gives it longer. Source: albedo.
const SELDOM: Duration = Duration::from_secs(30);

/// Key of the alert of a disk below its reserve.
const DISK: &str = "the disk";

/// What keeps tasks going.
#[derive(Debug, Clone)]
struct Care {
    ledger: Ledger,
    time: Time,
    disk: Disk,
    seen: watch::Receiver<Option<Arc<Seen>>>,
    beats: Arc<Beats>,
    /// How often it is looked whether tasks get on.
    look: Duration,
}

impl Care {
    fn of(base: &Base) -> Self {
        let (ledger, time, disk) = (base.ledger.clone(), base.time.clone(), base.disk.clone());
        let look = base.poll.clamp(LOOK, SELDOM);
        Self { ledger, time, disk, seen: base.seen.subscribe(), beats: Arc::clone(&base.beats), look }
    }

    fn beat(&self, task: &'static str) {
        self.beats.beat(task, self.time.clock.now());
    }

    /// Has the task make its steps until `cx` is cancelled.
    async fn keep_going(&self, task: &dyn Task, cx: &CallContext) {
        let (mut failures, mut troubled) = (0_u32, true);
        // What it waits for may happen while it works.
        let (mut ledger, mut seen) = (self.ledger.changes(), self.seen.clone());
        while !cx.is_cancelled() {
            self.beat(task.name());
            ledger.mark_unchanged();
            seen.mark_unchanged();
            let step = AssertUnwindSafe(task.step(cx)).catch_unwind().await;
            self.beat(task.name());
            let error = match step {
                Ok(Ok(next)) => {
                    failures = 0;
                    // An alert that an earlier process left is over too.
                    if troubled {
                        troubled = self.ledger.well(task.name(), self.time.now_ms()).await.is_err();
                    }
                    let pause = async {
                        match next {
                            Next::Now => {}
                            Next::After(pause) => self.time.sleep(pause).await,
                            Next::Change(most) => tokio::select! {
                                _ = ledger.changed() => {}
                                _ = seen.changed() => {}
                                () = self.time.sleep(most) => {}
                            },
                        }
                    };
                    let _ = cx.run("wait", pause).await;
                    continue;
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Cancelled && cx.is_cancelled() => continue,
                Ok(Err(error)) => error,
                Err(panic) => Error::bug("run a task", format!("it panicked: {}", said(&*panic)))
                    .with("task", task.name()),
            };
            troubled = true;
            self.raise(task.name(), &error).await;
            let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.min(20))).min(LONGEST_PAUSE);
            failures = failures.saturating_add(1);
            let _ = cx.run("wait", self.time.sleep(pause)).await;
        }
    }

    /// Reports tasks that have not got on within their limits, and a disk below its reserve: while
    /// it is not full yet, the alert reaches the ledger. Wakes the others when another process has
    /// written the ledger.
    async fn watch(&self, cx: &CallContext) {
        // An earlier process may have left alerts.
        let mut reported: BTreeSet<_> =
            self.beats.idle(Duration::ZERO).iter().map(|idle| idle.task).collect();
        let (mut version, mut is_short) = (None, None);
        while cx.run("watch the tasks", self.time.sleep(self.look)).await.is_ok() {
            version = self.ledger.notice_others(version).await.ok();
            is_short = self.look_at_disk(is_short).await;
            let tasks = self.beats.idle(self.time.clock.now());
            if tasks.iter().all(|idle| !idle.is_stalled) {
                notify(&NotifyState::Watchdog);
            }
            for Idle { task, time, is_stalled } in tasks {
                let key = format!("{task} stands still");
                if is_stalled {
                    let message = "the task does not get on";
                    let error = Error::new(ErrorKind::Timeout, "watch the tasks", message)
                        .with("task", task)
                        .with("seconds", time.as_secs())
                        .with_hint("see the log; start the validator again if it stays so");
                    self.raise(&key, &error).await;
                    reported.insert(task);
                } else if reported.contains(task) && self.ledger.well(&key, self.time.now_ms()).await.is_ok()
                {
                    reported.remove(task);
                }
            }
        }
    }

    /// Raises or ends the alert of the disk where that is a change. Takes and gives whether the
    /// ledger has the alert: `None` if that is not known.
    async fn look_at_disk(&self, stood: Option<bool>) -> Option<bool> {
        let short = self.disk.check().err();
        let is_short = short.is_some();
        if stood == Some(is_short) {
            return stood;
        }
        let is_written = match short {
            Some(error) => self.raise(DISK, &error).await,
            None => self.ledger.well(DISK, self.time.now_ms()).await.is_ok(),
        };
        is_written.then_some(is_short)
    }

    /// Raises an alert; whether the ledger has it. One that cannot be written has nothing but the
    /// log.
    async fn raise(&self, key: &str, error: &Error) -> bool {
        raise(&self.ledger, &self.time, key, error).await
    }
}

/// Raises an alert of a task.
async fn report(base: &Base, key: &str, error: &Error) {
    raise(&base.ledger, &base.time, key, error).await;
}

/// Raises an alert of a task, which may stand, about something new.
async fn report_anew(base: &Base, key: &str, error: &Error) {
    let written = base.ledger.alert_anew(key, error, base.time.now_ms()).await;
    tell(key, error, written.as_ref().err());
}

async fn raise(ledger: &Ledger, time: &Time, key: &str, error: &Error) -> bool {
    let written = ledger.alert(key, error, time.now_ms()).await;
    tell(key, error, written.as_ref().err());
    written.is_ok()
}

/// Writes an alert into the log; `unwritten` is why the ledger does not have it.
fn tell(key: &str, error: &Error, unwritten: Option<&Error>) {
    if error.fault() == Fault::Bug {
        tracing::error!(about = key, %error, "a bug: crowns are frozen");
    } else {
        tracing::warn!(about = key, %error, "to be tried again");
    }
    if let Some(unwritten) = unwritten {
        tracing::error!(about = key, %unwritten, "the alert is not in the ledger");
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

/// Runs `work` on a thread of its own, so that what it makes need not move between threads.
/// It ends with its context, not by being dropped.
async fn on_thread<T: Send + 'static, F: Future<Output = Result<T>>>(
    operation: &'static str,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T> {
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work())).await;
    done.map_err(|error| Error::bug(operation, error.to_string()))?
}

#[cfg(test)]
mod tests;
