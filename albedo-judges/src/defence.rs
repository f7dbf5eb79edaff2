//! What happens to a text before a chat judge sees it.
//!
//! Replies are written by contestants, some of whom write to the judge. The
//! same rules apply to both replies, in this order:
//!
//! 1. Only the [canonical form](crate::form) is shown: the one action without
//!    comments, and to a judge of grounding alone also the thought. Where the
//!    recorded reply has no such form, replies are shown [whole](View::Whole),
//!    without leading reasoning.
//! 2. *Template tokens* (`<|im_end|>`, `[INST]`, `<think>`, …) are put into other
//!    brackets, *invisible characters* are shown by their number, and the
//!    *fence* of the sample is taken out.
//! 3. A text longer than [`Budget::reply_chars`] loses its middle: two thirds of
//!    the budget are its head, one third is its tail.
//! 4. Every line begins with a *sign* that no contestant can know, and it stands
//!    in place of a space between two words. So all words of a reply are marked as
//!    data (Hines and others, *Defending Against Indirect Prompt Injection Attacks
//!    With Spotlighting*, 2024).
//!
//! Nothing is deleted for its words. A reply in which the word scan finds a forged
//! verdict or a directive to the judge is named in the judgement's
//! [evidence](albedo_core::Evidence), and shown like any other.
//!
//! Conversations come from the data set: only rule 2 applies to them. They are cut
//! to [`Budget::context_chars`] by a rule that sees nothing but the
//! conversation ([`Defence::conversation`]), the same for every judge.
//!
//! What was left out or changed is part of the evidence, too, in the journal and
//! the record.

use albedo_core::{Alteration, Error, ErrorKind, Message, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod cut;
mod neutral;
mod scan;
mod words;

use crate::form::{Canonical, LeftOut};
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

/// How much of a reply a judge is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View<'a> {
    /// All of it except leading reasoning.
    Whole,
    /// Its action, in one of these languages.
    Action(&'a [String]),
    /// The same, and the thought before it.
    ThoughtAndAction(&'a [String]),
}

/// A text as a judge may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The text.
    pub text: String,
    /// What the prompt says about the rest, in albedo's own words.
    pub notes: Vec<String>,
    /// What was left out, changed or found, by name.
    pub alterations: Vec<Alteration>,
}

/// Applies the rules of this [module](self) under one fence.
#[derive(Debug, Clone)]
pub struct Defence {
    /// The budgets.
    pub budget: Budget,
    /// The sample's fence, which no text may contain.
    pub fence: String,
    /// What stands between the words of a reply; nothing is put there if it is empty.
    pub sign: String,
}

impl Defence {
    /// `text`, written by a contestant, as a judge with `view` may see it.
    pub fn reply(&self, text: &str, view: View<'_>) -> Shown {
        let mut alterations = Alterations::default();
        let mut notes = Vec::new();
        let visible = match view {
            View::Whole => {
                let visible = Reply::parse(text).text;
                alterations.add("reasoning", u32::from(visible.len() < text.len()));
                visible.to_owned()
            }
            View::Action(languages) | View::ThoughtAndAction(languages) => {
                let form = Canonical::of(text, languages);
                alterations.left_out(form.left_out);
                notes.extend(note(&form));
                if matches!(view, View::ThoughtAndAction(_)) { form.text() } else { form.block() }
            }
        };
        for finding in scan::scan(text).findings {
            alterations.add(finding.what.name(), 1);
        }
        let mut shown = String::with_capacity(visible.len());
        let found = neutral::neutral(&visible, &self.fence, &mut shown);
        alterations.add("template-token", found.tokens);
        alterations.add("invisible-character", found.invisible);
        alterations.add("fence", found.fences);
        let (text, cut) = cut::head_and_tail(&shown, self.budget.reply_chars);
        alterations.add("cut", u32::from(cut));
        Shown { text: signed(&text, &self.sign), notes, alterations: alterations.0 }
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
}

/// Whether the word scan finds a forged verdict or a directive to the judge in `text`.
pub(crate) fn is_suspicious(text: &str) -> bool {
    !scan::scan(text).findings.is_empty()
}

/// What the prompt says about a reply whose form says too little by itself.
fn note(form: &Canonical) -> Option<String> {
    let blank = |action: &String| action.trim().is_empty();
    match (form.left_out.actions, &form.action) {
        (0, None) => Some("it has no action, so the session would execute nothing".into()),
        (actions, None) => Some(format!(
            "it has {actions} actions in place of one, so the session would execute none of them"
        )),
        (_, Some(action)) if blank(action) => Some("its action has no command".into()),
        _ if form.left_out.text_after => Some("text after the action is not shown".into()),
        _ => None,
    }
}

/// `text` with `sign` before every line that is not empty, and in place of the space between two words. Of several
/// spaces the first is replaced; other white space stays before the sign.
fn signed(text: &str, sign: &str) -> String {
    if sign.is_empty() {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(2 * text.len());
    for line in text.split_inclusive('\n') {
        let blank = line.trim().is_empty();
        // The white space that a line begins with stays.
        let mut before_space = true;
        if !blank {
            shown.push_str(sign);
        }
        for c in line.chars() {
            let space = c.is_whitespace() && c != '\n';
            if space && !before_space && !blank {
                // Behind it, so that it can be told from a sign in place of a space.
                shown.extend((c != ' ').then_some(c));
                shown.push_str(sign);
            } else {
                shown.push(c);
            }
            before_space = space;
        }
    }
    shown
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

    fn left_out(&mut self, LeftOut { actions, blocks, comments, reasoning, text_after }: LeftOut) {
        self.add("reasoning", u32::from(reasoning));
        self.add("several-actions", actions);
        self.add("other-block", blocks);
        self.add("comment", comments);
        self.add("text-after", u32::from(text_after));
    }
}

#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
mod tests;
