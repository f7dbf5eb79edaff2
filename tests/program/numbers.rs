//! Tasks that cost nothing.

use albedo::prelude::*;
use albedo::{Digest, Message, MessageRole, TaskRow, TaskSetInfo};
use async_trait::async_trait;

/// A row an instance; the second message is the row's number.
#[derive(Debug)]
pub(crate) struct Numbers(TaskSetInfo);

impl Numbers {
    pub(crate) fn new(rows: u64) -> Self {
        Self(TaskSetInfo { manifest: Digest::of("numbers"), rows, unhashed: false })
    }
}

#[async_trait]
impl TaskSource for Numbers {
    fn info(&self) -> &TaskSetInfo {
        &self.0
    }

    async fn row(&self, row: u64, _: &CallContext) -> albedo::Result<TaskRow> {
        let messages = [
            (MessageRole::System, "count".to_owned()),
            (MessageRole::User, row.to_string()),
            (MessageRole::Assistant, "recorded".to_owned()),
        ];
        let messages = messages.map(|(role, content)| Message::new(role, content)).into();
        Ok(TaskRow { instance_id: row.to_string(), repo: "numbers".into(), messages })
    }
}
