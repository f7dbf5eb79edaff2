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

/// A row as far as the draws so far tell.
struct Known {
    row: TaskRow,
    /// The most turns that a draw says it has.
    turns: u32,
    /// The turn of the sample that its conversation is of: of several samples of a row, that with
    /// the longest conversation has the others'.
    sample: Option<u32>,
    /// Its turns behind the conversation.
    left: u32,
}

impl RecordedTasks {
    pub(super) fn new(record: &Record) -> Result<Self> {
        let mut rows = BTreeMap::<u64, Known>::new();
        let (mut draw, mut in_all) = (None, 0);
        for line in &record.lines {
            match line {
                RecordLine::Draw(drawn) => {
                    draw = Some(drawn);
                    let known = rows.entry(drawn.row).or_insert_with(|| Known {
                        row: TaskRow {
                            instance_id: drawn.instance_id.clone(),
                            repo: String::new(),
                            messages: Vec::new(),
                        },
                        turns: 0,
                        sample: None,
                        left: drawn.turns,
                    });
                    in_all += u64::from(drawn.turns.saturating_sub(known.turns));
                    known.turns = known.turns.max(drawn.turns);
                    if in_all > MOST_TURNS {
                        let message = "the rows of the record's draws have too many turns";
                        return Err(Error::new(ErrorKind::DataInvalid, "read the recorded tasks", message)
                            .with("row", drawn.row)
                            .with("turns so far", in_all)
                            .with("most", MOST_TURNS)
                            .with_hint(
                                "leave this record out, or decide it again by a rule alone, without judges",
                            ));
                    }
                }
                RecordLine::Sample { repo, messages, reference, .. } => {
                    let Some(drawn) = draw.filter(|drawn| drawn.outcome == DrawOutcome::Sample) else {
                        continue;
                    };
                    let Some(known) = rows.get_mut(&drawn.row) else { continue };
                    let turn = drawn.turn.unwrap_or_default();
                    if known.sample.is_some_and(|known| known >= turn) {
                        continue;
                    }
                    let mut conversation = record.messages(messages)?;
                    conversation.push(Message::new(MessageRole::Assistant, record.text(reference)?));
                    known.row = TaskRow {
                        instance_id: drawn.instance_id.clone(),
                        repo: repo.clone(),
                        messages: conversation,
                    };
                    known.sample = Some(turn);
                    known.left = drawn.turns.saturating_sub(turn).saturating_sub(1);
                }
                _ => {}
            }
        }
        let rows = rows.into_iter().map(|(number, Known { mut row, left, .. })| {
            row.messages.extend(turns(number, left));
            (number, row)
        });
        Ok(Self { info: record.plan().tasks.clone(), rows: rows.collect() })
    }
}

/// Most turns of all rows that a record's draws name, each row once: ten thousand long trajectories.
/// Source: chosen by albedo.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_turns_of_a_row_count_once_however_often_it_is_drawn() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("albedo-core/tests/fixtures/record-3");
        let record = Record::open(&folder).expect("a record");
        let drawn = record.lines.iter().find_map(|line| match line {
            RecordLine::Draw(drawn) => Some(drawn.clone()),
            _ => None,
        });
        let mut drawn = drawn.expect("a draw");
        drawn.turns = 1000;
        let read = |row: fn(u64) -> u64, turns: fn(u64) -> u32| {
            let mut record = record.clone();
            record.lines.extend((0..2000).map(|number| {
                let mut drawn = drawn.clone();
                (drawn.row, drawn.turns) = (1_000_000 + row(number), turns(number));
                RecordLine::Draw(drawn)
            }));
            RecordedTasks::new(&record).map(|tasks| tasks.rows[&1_000_000].messages.len())
        };
        assert_eq!(read(|_| 0, |_| 1000).expect("one row"), 2 * 1000);
        // What a later draw says of the same row is bounded as well.
        type Drawn = (fn(u64) -> u64, fn(u64) -> u32);
        let many: [Drawn; 2] =
            [(|number| number, |_| 1000), (|_| 0, |number| if number == 0 { 1 } else { u32::MAX })];
        for (row, turns) in many {
            let error = read(row, turns).expect_err("too many");
            assert_eq!(error.kind(), ErrorKind::DataInvalid);
            assert!(error.hint().is_some_and(|hint| hint.contains("leave this record out")), "{error}");
        }
    }
}
