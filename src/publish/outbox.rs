//! What waits to be published.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;

use crate::log::Submission;
use crate::{Fault, Result};

mod folder;

pub use folder::{FolderOutbox, QueuedRecord};

/// Where work to publish waits, and survives every crash: one process takes it out at a
/// time. Times are milliseconds since the Unix epoch.
#[async_trait]
pub trait Outbox: Debug + Send + Sync {
    /// What to do now: the item that has waited longest of those that are due.
    async fn next(&self, now_ms: u64) -> Result<Next>;

    /// The item is published. Saying it twice is no mistake: publishing is repeated
    /// after a crash between the two.
    async fn done(&self, id: u64, now_ms: u64) -> Result<()>;

    /// Publishing the item failed.
    async fn failed(&self, id: u64, failure: &Failure, now_ms: u64) -> Result<()>;

    /// How far publication is behind.
    async fn lag(&self, now_ms: u64) -> Result<Lag>;
}

/// What an outbox has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// This.
    Due(Item),
    /// Nothing before that time.
    Later(u64),
    /// Nothing; what is left waits for somebody to act.
    Nothing,
}

/// One thing to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The outbox's number for it.
    pub id: u64,
    /// What.
    pub work: Work,
    /// When it was put in.
    pub added_ms: u64,
    /// How often publishing it has failed.
    pub tries: u32,
}

/// What is to be published.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// The record in a folder.
    Record {
        /// The folder.
        folder: PathBuf,
        /// Whose submission the challenger is, where a chain has them.
        submission: Option<Submission>,
        /// When the record was made, in seconds since the Unix epoch.
        decided_at: u64,
    },
    /// A document of the public data, such as `data/status.json`; the last one put in
    /// under a name is the one that counts.
    Document {
        /// Its object's name.
        name: String,
        /// Its bytes.
        bytes: Bytes,
    },
}

/// Why publishing an item failed, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error, in one line.
    pub message: String,
    /// Who has to act.
    pub fault: Fault,
    /// When to try again; `None` if somebody has to act first.
    pub again_ms: Option<u64>,
}

/// How far publication is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Items that wait.
    pub waiting: u64,
    /// Items among them that somebody has to act for.
    pub stopped: u64,
    /// Since when the oldest of them waits; `None` if none does.
    pub oldest_ms: Option<u64>,
}

impl Lag {
    /// The lag as one number: how long the oldest item has waited at `now_ms`.
    pub fn at(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.oldest_ms.map_or(0, |oldest| now_ms.saturating_sub(oldest)))
    }

    /// Whether to alert an operator: an item has waited for longer than `after`, or waits
    /// for an operator to act.
    pub fn alerts(&self, now_ms: u64, after: Duration) -> bool {
        self.stopped > 0 || self.at(now_ms) > after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_waits_too_long_or_for_an_operator_alerts() {
        let hour = Duration::from_hours(1);
        let lag = |waiting, stopped, oldest_ms| Lag { waiting, stopped, oldest_ms };
        assert!(!lag(0, 0, None).alerts(u64::MAX, hour), "nothing waits");
        assert!(!lag(1, 0, Some(1_000)).alerts(3_601_000, hour));
        assert!(lag(1, 0, Some(1_000)).alerts(3_601_001, hour));
        assert!(lag(1, 1, Some(1_000)).alerts(1_000, hour), "a damaged record");
        assert_eq!(lag(1, 0, Some(5_000)).at(4_000), Duration::ZERO, "a clock that was put back");
    }
}
