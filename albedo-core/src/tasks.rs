//! Pinned tasks, read by row.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::backend::Message;
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::Result;

/// The tasks of a duel: a pinned set of recorded trajectories with random access
/// by row. Its [`TaskSetInfo`] is in the plan, so that a verifier finds the same
/// rows.
///
/// Task sources are plugins; `conformance::check_tasks` is the suite that they must
/// pass.
#[async_trait]
pub trait TaskSource: Debug + Send + Sync + 'static {
    /// What is pinned; goes into the plan.
    fn info(&self) -> &TaskSetInfo;

    /// The trajectory in row `row`, counted from 0 over all shards in manifest
    /// order.
    ///
    /// # Errors
    /// `row` is not below [`TaskSetInfo::rows`]; the shard is missing, altered
    /// or malformed. Never a contestant's fault.
    async fn row(&self, row: u64, cx: &CallContext) -> Result<TaskRow>;
}

/// What a task set is, as the plan and the record name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSetInfo {
    /// SHA-256 of the manifest's bytes.
    pub manifest: Digest,
    /// Rows over all shards.
    pub rows: u64,
    /// Some shard has no digest in the manifest, and the operator allowed that.
    pub unhashed: bool,
}

/// One recorded trajectory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRow {
    /// The task's id; samples of one instance are one cluster.
    pub instance_id: String,
    /// The repository it comes from.
    pub repo: String,
    /// The whole conversation, recorded assistant turns included.
    pub messages: Vec<Message>,
}

impl TaskRow {
    /// Positions in [`TaskRow::messages`] of the assistant's turns.
    pub fn assistant_turns(&self) -> Vec<usize> {
        let assistant = |(position, message): (usize, &Message)| {
            (message.role == crate::backend::Role::Assistant).then_some(position)
        };
        self.messages.iter().enumerate().filter_map(assistant).collect()
    }
}
