//! What people see: progress while a duel runs, tables of how it ended.

mod progress;
mod table;

pub(crate) use progress::Progress;
pub(crate) use table::{contestants, verdict};

/// Tokens that one side read and wrote.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tokens {
    pub(crate) prompt: u64,
    pub(crate) reply: u64,
}

impl Tokens {
    pub(crate) fn add(&mut self, prompt: u32, reply: u32) {
        self.prompt += u64::from(prompt);
        self.reply += u64::from(reply);
    }
}
