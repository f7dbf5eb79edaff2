//! Counting the tokens of prompts with a model's text files, without its weights.

use std::path::Path;

use albedo_core::record::PromptCounter;
use albedo_core::{Digest, Message, Result};

use crate::text::ChatText;

/// The tokenizer and chat template of a model's folder.
#[derive(Debug)]
pub struct PromptText(ChatText);

impl PromptText {
    /// Reads the text files of the model in `folder`.
    ///
    /// # Errors
    /// A file that is missing or malformed; a template that does not render, or that
    /// asks for the date.
    pub fn load(folder: &Path) -> Result<Self> {
        ChatText::load(folder, None).map(Self)
    }
}

impl PromptCounter for PromptText {
    fn text(&self) -> [Digest; 2] {
        [self.0.tokenizer_digest(), self.0.template_digest()]
    }

    fn count(&self, messages: &[Message]) -> Result<Option<u32>> {
        Ok(Some(self.0.encode_prompt(messages)?.len() as u32))
    }
}
