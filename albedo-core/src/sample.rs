//! One sample of a duel: a conversation cut before an assistant turn.

use std::sync::Arc;

use crate::backend::Message;
use crate::tasks::TaskRow;

/// One drawn sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its place in plan order, from 0.
    pub index: u32,
    /// The instance.
    pub instance_id: String,
    /// The repository.
    pub repo: String,
    /// The conversation up to the turn.
    pub messages: Arc<[Message]>,
    /// What the recorded assistant said at the turn.
    pub reference: Arc<str>,
}

impl Sample {
    /// The sample that turn `turn` of `task` gives; none if there is no such
    /// turn.
    pub fn new(index: u32, task: TaskRow, turn: u32) -> Option<Self> {
        let position = *turns(&task).get(turn as usize)?;
        let TaskRow { instance_id, repo, mut messages } = task;
        messages.truncate(position + 1);
        let reference = messages.pop()?.content.into();
        Some(Self { index, instance_id, repo, messages: messages.into(), reference })
    }
}

/// Positions in the conversation of the turns that can be drawn.
pub(crate) fn turns(task: &TaskRow) -> Vec<usize> {
    let mut turns = task.assistant_turns();
    turns.retain(|&position| position > 0);
    turns
}
