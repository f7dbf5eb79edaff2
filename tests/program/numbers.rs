//! Tasks that cost nothing.

use albedo::testing::Rows;
use albedo::{Message, MessageRole, TaskRow};

/// One row per instance; the second message is the row's number.
pub(crate) fn numbers(rows: u64) -> Rows {
    Rows::new(rows, |row| {
        let messages = [
            (MessageRole::System, "count".to_owned()),
            (MessageRole::User, row.to_string()),
            (MessageRole::Assistant, "recorded".to_owned()),
        ];
        let messages = messages.map(|(role, content)| Message::new(role, content)).into();
        TaskRow { instance_id: row.to_string(), repo: "numbers".into(), messages }
    })
}
