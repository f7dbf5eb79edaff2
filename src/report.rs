//! What people see: progress while something runs, tables of how it ended.
//!
//! [`Progress`] shows a running duel on a terminal; [`contestants`] and
//! [`verdict`] are the tables before and after it, laid out as a [`Look`] says.
//! [`RecordsReport`] is the report of records as a page and in Markdown. With the feature
//! `distil`, `write_distillation` writes that of a distillation.

use serde::Serialize;

use crate::Record;
use crate::record::RecordedReply;

mod advice;
mod analysis;
#[cfg(feature = "bench")]
mod bench;
#[cfg(feature = "distil")]
mod distillation;
mod event_file;
mod explain;
mod look;
mod markdown;
mod page;
mod progress;
mod ratings;
mod records;
mod screening;
mod table;
mod throughput;

pub use advice::advice;
pub use analysis::{Analysis, JudgeAnalysis, LengthEffect};
#[cfg(feature = "bench")]
pub use bench::bench;
#[cfg(feature = "distil")]
pub use distillation::write_distillation;
pub use event_file::EventFile;
pub use explain::explain;
pub use look::Look;
pub(crate) use look::line;
#[cfg(feature = "cli")]
pub(crate) use look::printable;
pub use progress::{Progress, ProgressLines, say};
pub use ratings::{Rated, Ratings};
pub use records::{RecordsReport, Reported};
pub use screening::{Bytes, screened};
#[cfg(feature = "cli")]
pub(crate) use table::times;
pub use table::{contestants, verdict};
pub use throughput::Throughput;

/// Tokens that one side read and wrote in a duel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tokens {
    /// Tokens of its prompts.
    pub prompt: u64,
    /// Tokens of its replies.
    pub reply: u64,
}

/// Counts the tokens in a record: `[king, challenger]`.
pub fn tokens(record: &Record) -> [Tokens; 2] {
    let mut tokens = [Tokens::default(); 2];
    for sample in record.samples() {
        for (tokens, reply) in tokens.iter_mut().zip(sample.replies) {
            if let RecordedReply::Completed { prompt_tokens, completion_tokens, .. } = reply {
                tokens.add(*prompt_tokens, *completion_tokens);
            }
        }
    }
    tokens
}

impl Tokens {
    /// Adds one reply and its prompt, as far as they were counted.
    pub fn add(&mut self, prompt: Option<u32>, reply: Option<u32>) {
        self.prompt += u64::from(prompt.unwrap_or_default());
        self.reply += u64::from(reply.unwrap_or_default());
    }
}
