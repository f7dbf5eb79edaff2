//! A sequence: a request that has a slot of the batch.

use albedo_core::Digest;

use crate::burn::requests::{Chosen, Origin, Prompt, Reply, Write};

/// A sequence in a slot.
pub(super) struct Sequence {
    /// No other sequence has it; a slot has many, one after the other.
    pub(super) number: u64,
    pub(super) origin: Origin,
    pub(super) prompt: Prompt,
    /// Of the prompt's full pages.
    pub(super) names: Vec<Digest>,
    pub(super) pages: Vec<u32>,
    /// Tokens of the prompt and then of the scored reply that are read, or in the chunk
    /// under way.
    pub(super) read: usize,
    pub(super) write: Option<Write>,
    /// Tokens of the reply that are chosen by what was launched so far.
    pub(super) chosen: u32,
    pub(super) reply: Reply,
    /// The first token of the reply, until it is added.
    pub(super) first: Option<Chosen>,
    /// Log-probabilities of the scored reply so far.
    pub(super) scores: Vec<f32>,
}

impl Sequence {
    /// Tokens to read before the reply: of a scored reply all but the last.
    pub(super) fn to_read(&self) -> usize {
        self.prompt.ids.len() + self.prompt.reply.as_ref().map_or(0, |reply| reply.len().saturating_sub(1))
    }

    /// Whether all of that is read, and the reply has room for one token more.
    pub(super) fn writes(&self) -> bool {
        self.read == self.to_read() && self.write.is_some_and(|write| self.chosen < write.max_new_tokens)
    }

    pub(super) fn token(&self, at: usize) -> u32 {
        let prompt = &self.prompt.ids;
        let reply = self.prompt.reply.as_deref().unwrap_or_default();
        prompt.get(at).or_else(|| reply.get(at - prompt.len())).copied().unwrap_or(0)
    }

    /// The token whose log-probability the row at `at` tells.
    pub(super) fn target(&self, at: usize) -> Option<u32> {
        let prompt = &self.prompt.ids;
        match (at + 1).checked_sub(prompt.len()) {
            Some(in_reply) => self.prompt.reply.as_deref()?.get(in_reply).copied(),
            None => self.prompt.own_reader.as_ref().map(|_| prompt[at + 1]),
        }
    }
}
