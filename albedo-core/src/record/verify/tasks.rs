//! What a record took from the tasks, compared with them, and prompts counted again.

use std::fmt::Debug;
use std::sync::Arc;

use super::wrong;
use crate::backend::{Message, ModelSession};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::draw::{DrawOutcome, RowDraw};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::plan::DuelPlan;
use crate::record::{Record, RecordLine};
use crate::sample::Sample;
use crate::tasks::{TaskRow, TaskSource};

/// Counts the tokens of prompts as a model's session does.
pub trait PromptCounter: Debug + Send + Sync {
    /// Digests of the tokenizer and of the chat template, as
    /// [`ModelInfo`](crate::ModelInfo) has them.
    fn text(&self) -> [Digest; 2];

    /// Tokens of `messages` rendered with the template; `None` if it is not known.
    ///
    /// # Errors
    /// Messages that the template refuses.
    fn count(&self, messages: &[Message]) -> Result<Option<u32>>;
}

impl PromptCounter for Arc<dyn ModelSession> {
    fn text(&self) -> [Digest; 2] {
        let model = self.model();
        [model.tokenizer, model.chat_template]
    }

    fn count(&self, messages: &[Message]) -> Result<Option<u32>> {
        self.count_prompt_tokens(messages)
    }
}

/// Row draws whose prompt was measured, and those that were counted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prompts {
    /// Measured, as the record says.
    pub measured: usize,
    /// Counted again. What is not in the record, because it was too long, takes the
    /// tasks.
    pub counted: usize,
}

/// Counts the prompt of every row draw again whose conversation is at hand.
///
/// # Errors
/// [`ErrorKind::DigestMismatch`] if `counter` is not the king's;
/// [`ErrorKind::DataInvalid`] with the first draw that has another count.
pub(super) async fn count_prompts(
    record: &Record,
    plan: &DuelPlan,
    counter: &dyn PromptCounter,
    tasks: Option<&dyn TaskSource>,
    cx: &CallContext,
) -> Result<Prompts> {
    let planned = [plan.king.model.tokenizer, plan.king.model.chat_template];
    if counter.text() != planned {
        let message = "the tokenizer or the chat template is not the recorded king's";
        return Err(Error::new(ErrorKind::DigestMismatch, "count the prompts again", message)
            .with_fault(Fault::Operator)
            .with("recorded tokenizer", planned[0])
            .with("this tokenizer", counter.text()[0])
            .with_hint("give the folder of the king's model"));
    }
    let mut prompts = Prompts::default();
    for (index, line) in record.lines.iter().enumerate() {
        let RecordLine::Draw(draw) = line else { continue };
        let Some(recorded) = draw.prompt_tokens else { continue };
        prompts.measured += 1;
        let messages = match (record.lines.get(index + 1), tasks) {
            (Some(RecordLine::Sample { messages, .. }), _) if draw.outcome == DrawOutcome::Sample => {
                record.messages(messages)?.into()
            }
            (_, Some(tasks)) => {
                let sample = Sample::new(0, tasks.row(draw.row, cx).await?, draw.turn.unwrap_or_default());
                let sample = sample.ok_or_else(|| wrong(index + 1, "the tasks have no such turn"))?;
                sample.messages
            }
            (_, None) => continue,
        };
        let Some(counted) = counter.count(&messages)? else { continue };
        prompts.counted += 1;
        if counted != recorded {
            return Err(wrong(index + 1, "the prompt of a row draw has another number of tokens")
                .with("recorded", recorded)
                .with("counted", counted));
        }
    }
    Ok(prompts)
}

/// Compares the facts of every row draw, and what every sample was drawn from,
/// with `tasks`.
pub(super) async fn check_tasks(
    record: &Record,
    plan: &DuelPlan,
    tasks: &dyn TaskSource,
    cx: &CallContext,
) -> Result<()> {
    if *tasks.info() != plan.tasks {
        return Err(wrong(2, "the plan names other tasks than these")
            .with("the record's manifest", plan.tasks.manifest)
            .with("this manifest", tasks.info().manifest));
    }
    let mut drawn: Option<(TaskRow, &RowDraw)> = None;
    for (index, line) in record.lines.iter().enumerate() {
        let differs = |what: &str| {
            wrong(index + 1, format!("{what} is not what the tasks have")).with("checked", "tasks")
        };
        match line {
            RecordLine::Canary(draw) => {
                let task = tasks.row(draw.row, cx).await?;
                if !draw.fits(&task) {
                    return Err(differs("the canary's row"));
                }
            }
            RecordLine::Draw(draw) => {
                let task = tasks.row(draw.row, cx).await?;
                draw.check(&task).map_err(|error| wrong(index + 1, error.to_string()))?;
                drawn = Some((task, draw));
            }
            RecordLine::Sample { sample, repo, messages, reference } => {
                let actual = drawn
                    .take()
                    .and_then(|(task, draw)| Sample::new(*sample, task, draw.turn?))
                    .ok_or_else(|| differs("the sample"))?;
                if *repo != actual.repo {
                    return Err(differs("the repository"));
                }
                if *record.messages(messages)? != *actual.messages {
                    return Err(differs("the conversation"));
                }
                if *record.text(reference)? != *actual.reference {
                    return Err(differs("the recorded reply"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
