//! The tasks of a record: as much of each row as its draws tell.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::draw::DrawOutcome;
use crate::record::RecordLine;
use crate::tasks::TaskSetInfo;
use crate::{CallContext, Error, ErrorKind, Message, MessageRole, Record, Result, TaskRow, TaskSource};

/// The rows that a record's draws name. A row that became a sample has that sample's
/// conversation and reply; the turns behind it, and rows that were discarded, have as many
/// turns as the draw says, without their texts. So the same draws give the same samples.
#[derive(Debug)]
pub(super) struct RecordedTasks {
    info: TaskSetInfo,
    rows: BTreeMap<u64, TaskRow>,
}

impl RecordedTasks {
    pub(super) fn new(record: &Record) -> Result<Self> {
        let mut rows = BTreeMap::<u64, TaskRow>::new();
        // Of several samples of a row, that with the longest conversation has the others'.
        let mut longest = BTreeMap::<u64, u32>::new();
        let (mut draw, mut in_all) = (None, 0);
        for line in &record.lines {
            match line {
                RecordLine::Draw(drawn) => {
                    draw = Some(drawn);
                    in_all += u64::from(drawn.turns);
                    if in_all > MOST_TURNS {
                        let message = "the rows of the record's draws have more turns than trajectories have";
                        return Err(Error::new(ErrorKind::DataInvalid, "read the recorded tasks", message)
                            .with("row", drawn.row)
                            .with("turns so far", in_all)
                            .with("most", MOST_TURNS));
                    }
                    let row = rows.entry(drawn.row);
                    row.or_insert_with(|| TaskRow {
                        instance_id: drawn.instance_id.clone(),
                        repo: String::new(),
                        messages: turns(drawn.row, drawn.turns),
                    });
                }
                RecordLine::Sample { repo, messages, reference, .. } => {
                    let Some(drawn) = draw.filter(|drawn| drawn.outcome == DrawOutcome::Sample) else {
                        continue;
                    };
                    let turn = drawn.turn.unwrap_or_default();
                    if longest.get(&drawn.row).is_some_and(|known| *known >= turn) {
                        continue;
                    }
                    longest.insert(drawn.row, turn);
                    let mut conversation = record.messages(messages)?;
                    conversation.push(Message::new(MessageRole::Assistant, record.text(reference)?));
                    let left = drawn.turns.saturating_sub(turn + 1);
                    conversation.extend(turns(drawn.row, left));
                    let row = TaskRow {
                        instance_id: drawn.instance_id.clone(),
                        repo: repo.clone(),
                        messages: conversation,
                    };
                    rows.insert(drawn.row, row);
                }
                _ => {}
            }
        }
        Ok(Self { info: record.plan().tasks.clone(), rows })
    }
}

/// Most turns of all rows that a record's draws name: some thousand samples of long
/// trajectories. Source: chosen by albedo.
const MOST_TURNS: u64 = 1 << 20;

/// `count` turns of the assistant whose texts are not known, each after one of the user.
fn turns(row: u64, count: u32) -> Vec<Message> {
    (0..count)
        .flat_map(|turn| {
            let unknown = format!("row {row}, turn {turn}: not recorded");
            [Message::new(MessageRole::User, unknown.clone()), Message::new(MessageRole::Assistant, unknown)]
        })
        .collect()
}

#[async_trait]
impl TaskSource for RecordedTasks {
    fn info(&self) -> &TaskSetInfo {
        &self.info
    }

    async fn row(&self, row: u64, _: &CallContext) -> Result<TaskRow> {
        self.rows.get(&row).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "read a recorded task", "the record's draws do not name the row")
                .with("row", row)
        })
    }
}
