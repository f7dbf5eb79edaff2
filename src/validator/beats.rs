//! Whether the tasks get on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// When each task last got on.
#[derive(Debug, Default)]
pub(super) struct Beats(Mutex<Vec<Task>>);

#[derive(Debug)]
struct Task {
    name: &'static str,
    limit: Duration,
    at: Duration,
}

/// A task, and how long it has not got on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Idle {
    pub(super) task: &'static str,
    pub(super) time: Duration,
    /// More than its limit.
    pub(super) is_stalled: bool,
}

impl Beats {
    /// The task `name` begins, and may go without progress for `limit`.
    pub(super) fn begin(&self, name: &'static str, limit: Duration, now: Duration) {
        let mut tasks = self.tasks();
        tasks.retain(|task| task.name != name);
        tasks.push(Task { name, limit, at: now });
    }

    /// The task `name` got on.
    pub(super) fn beat(&self, name: &str, now: Duration) {
        if let Some(task) = self.tasks().iter_mut().find(|task| task.name == name) {
            task.at = now;
        }
    }

    /// Every task.
    pub(super) fn idle(&self, now: Duration) -> Vec<Idle> {
        let idle = |task: &Task| {
            let time = now.saturating_sub(task.at);
            Idle { task: task.name, time, is_stalled: time > task.limit }
        };
        self.tasks().iter().map(idle).collect()
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Task>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
