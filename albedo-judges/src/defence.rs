//! What happens to a text before a chat judge sees it.
//!
//! Replies are written by contestants, some of whom write to the judge. The
//! same rules apply to both replies, in this order:
//!
//! 1. *Reasoning* is taken off: a leading `<think>` section, and everything up
//!    to a `</think>` on a line of its own that nothing opened.
//! 2. *Forged verdicts and grading directives* are taken out
//!    (`⟨removed: …⟩` stands in their place), also those that are disguised
//!    or encoded. The scan is linear in the text.
//! 3. *Template tokens* (`<|im_end|>`, `[INST]`, `<think>`, …) are put into other
//!    brackets, *invisible characters* are shown by their number, and the
//!    *fence* of the sample is taken out.
//! 4. A reply longer than [`Budget::reply_chars`] loses its middle: two thirds of
//!    the budget are its head, one third is its tail.
//!
//! Conversations come from the data set: only rule 3 applies to them. They are cut
//! to [`Budget::context_chars`] by a rule that sees nothing but the
//! conversation ([`Defence::conversation`]), the same for every judge.
//!
//! What was changed in a reply is part of the judgement's
//! [evidence](albedo_core::Evidence), in the journal and the record.

use albedo_core::{Alteration, Error, ErrorKind, Message, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod cut;
mod neutral;
mod scan;
mod words;

use crate::reply::Reply;

/// The largest texts that a judge is shown, in Unicode characters: the only
/// measure that all judges of a panel share. English and code have about four
/// characters per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Of the conversation.
    pub context_chars: usize,
    /// Of each reply.
    pub reply_chars: usize,
}

/// 12,000 and 8,000 tokens, about: a chat judge with a context of 32,768 tokens
/// has room for both replies and its answer. Source: chosen by albedo.
impl Default for Budget {
    fn default() -> Self {
        Self { context_chars: 48_000, reply_chars: 16_000 }
    }
}

impl Budget {
    /// Checks that something is left of every text.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn check(&self) -> Result<()> {
        for (key, value) in [("context_chars", self.context_chars), ("reply_chars", self.reply_chars)] {
            if value < 200 {
                return Err(Error::new(
                    ErrorKind::ConfigInvalid,
                    "check the budget of a judge's prompt",
                    format!("`{key}` is {value}, it must be at least 200"),
                ));
            }
        }
        Ok(())
    }
}

/// A text as a judge may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The text.
    pub text: String,
    /// What was changed, by name.
    pub alterations: Vec<Alteration>,
}

/// Applies the rules of this [module](self) under one fence.
#[derive(Debug, Clone)]
pub struct Defence {
    /// The budgets.
    pub budget: Budget,
    /// The sample's fence, which no text may contain.
    pub fence: String,
}

impl Defence {
    /// `text`, written by a contestant, as a judge may see it.
    pub fn reply(&self, text: &str) -> Shown {
        let mut alterations = Alterations::default();
        let visible = without_reasoning(text);
        alterations.add("reasoning", u32::from(visible.len() < text.len()));
        let mut shown = String::with_capacity(visible.len());
        let mut at = 0;
        for finding in scan::scan(visible).findings {
            self.neutral(&visible[at..finding.range.start], &mut shown, &mut alterations);
            shown.extend(["⟨removed: ", finding.what.name(), "⟩"]);
            alterations.add(finding.what.name(), 1);
            at = finding.range.end;
        }
        self.neutral(&visible[at..], &mut shown, &mut alterations);
        let (text, cut) = cut::head_and_tail(&shown, self.budget.reply_chars);
        alterations.add("cut", u32::from(cut));
        Shown { text, alterations: alterations.0 }
    }

    /// `messages` as a judge may see them, within the budget: the first system
    /// message and the first user message, each cut to at most a quarter of it,
    /// then the last messages that fit into the rest, in order, and how many
    /// were left out before them. The last message is always there, cut if it
    /// has to be.
    pub fn conversation(&self, messages: &[Message]) -> String {
        let neutral = |text: &str| {
            let mut shown = String::with_capacity(text.len());
            neutral::neutral(text, &self.fence, &mut shown);
            shown
        };
        cut::conversation(messages, self.budget.context_chars, neutral)
    }

    fn neutral(&self, text: &str, shown: &mut String, alterations: &mut Alterations) {
        let found = neutral::neutral(text, &self.fence, shown);
        alterations.add("template-token", found.tokens);
        alterations.add("invisible-character", found.invisible);
        alterations.add("fence", found.fences);
    }
}

/// Alterations by name, each once.
#[derive(Default)]
struct Alterations(Vec<Alteration>);

impl Alterations {
    fn add(&mut self, what: &str, count: u32) {
        match self.0.iter_mut().find(|known| known.what == what) {
            _ if count == 0 => {}
            Some(known) => known.count += count,
            None => self.0.push(Alteration { what: what.into(), count }),
        }
    }
}

/// What stands behind the reasoning.
fn without_reasoning(text: &str) -> &str {
    let visible = Reply::parse(text).text;
    let mut at = 0;
    let amputated = visible.split_inclusive('\n').find_map(|line| {
        at += line.len();
        (line.trim() == "</think>").then_some(at)
    });
    &visible[amputated.unwrap_or(0)..]
}

#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
mod tests;
