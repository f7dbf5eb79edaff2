//! What people see: progress while something runs, tables of how it ended.

use albedo::Record;
use albedo::record::RecordedReply;

mod bench;
mod progress;
#[cfg(feature = "judges")]
mod screening;
mod table;
mod throughput;

pub(crate) use bench::bench;
pub(crate) use progress::{Failures, Progress};
#[cfg(feature = "judges")]
pub(crate) use screening::{Bytes, Screened, rejected, screened, unverified};
pub(crate) use table::{contestants, verdict};
pub(crate) use throughput::Throughput;

/// Tokens that one side read and wrote.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tokens {
    pub(crate) prompt: u64,
    pub(crate) reply: u64,
}

/// Tokens of a record's replies, the king's first.
pub(crate) fn tokens(record: &Record) -> [Tokens; 2] {
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
    pub(crate) fn add(&mut self, prompt: u32, reply: u32) {
        self.prompt += u64::from(prompt);
        self.reply += u64::from(reply);
    }
}
