//! Sessions that use a device one after the other.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc::WeakSender;

use super::Device;
use super::requests::Call;

/// How often a session that waits for the device checks for cancellation.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

static LINES: LazyLock<Mutex<HashMap<Device, Arc<Line>>>> = LazyLock::new(Mutex::default);

/// Those who want one device.
#[derive(Debug, Default)]
struct Line {
    queue: Mutex<Queue>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Who has the device, and how to wake it.
    holder: Option<WeakSender<Call>>,
    /// Who waits for it, first come first.
    waiting: VecDeque<u64>,
    /// Sessions so far.
    sessions: u64,
    /// The sessions that live, and the bytes of their weights.
    living: Vec<(Weak<()>, u64)>,
}

impl Line {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place among those of its device.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    line: Arc<Line>,
    session: u64,
    /// Where its own calls come in.
    calls: WeakSender<Call>,
    /// The bytes of the weights of those that were there before.
    others: Vec<u64>,
    /// Lives as long as the session.
    _living: Arc<()>,
}

impl Turn {
    /// A place on `device` for the session that gets `calls`, whose model has
    /// `weights` bytes there.
    pub(super) fn new(device: Device, calls: WeakSender<Call>, weights: u64) -> Self {
        let line =
            Arc::clone(LINES.lock().unwrap_or_else(PoisonError::into_inner).entry(device).or_default());
        let living = Arc::new(());
        let (session, others) = {
            let mut queue = line.queue();
            queue.sessions += 1;
            queue.living.retain(|(session, _)| session.strong_count() > 0);
            let others = queue.living.iter().map(|&(_, weights)| weights).collect();
            queue.living.push((Arc::downgrade(&living), weights));
            (queue.sessions, others)
        };
        Self { line, session, calls, others, _living: living }
    }

    /// The bytes of the weights of the sessions that were there before this one.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the CPU is not divided"))]
    pub(super) fn others(&self) -> &[u64] {
        &self.others
    }

    /// Waits for the device; `None` if the wait was cancelled.
    pub(super) fn take(&self, is_unwanted: impl Fn() -> bool) -> Option<Holding<'_>> {
        let mut queue = self.line.queue();
        queue.waiting.push_back(self.session);
        if let Some(holder) = queue.holder.as_ref().and_then(WeakSender::upgrade) {
            // If there is no room, it is not asleep.
            let _ = holder.try_send(Call::nothing());
        }
        loop {
            if is_unwanted() {
                queue.waiting.retain(|&waiting| waiting != self.session);
                self.line.moved.notify_all();
                return None;
            }
            if queue.holder.is_none() && queue.waiting.front() == Some(&self.session) {
                queue.waiting.pop_front();
                queue.holder = Some(self.calls.clone());
                return Some(Holding(self));
            }
            // Cancelling a call wakes no waiting thread.
            let waited = self.line.moved.wait_timeout(queue, LOOK_AGAIN);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether another session waits for the device.
    pub(super) fn is_wanted(&self) -> bool {
        !self.line.queue().waiting.is_empty()
    }
}

/// The device, until this is dropped.
#[derive(Debug)]
pub(super) struct Holding<'a>(&'a Turn);

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.line.queue().holder = None;
        self.0.line.moved.notify_all();
    }
}
