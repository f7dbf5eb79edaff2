//! Prompts and whole conversations as tokens, with a model's text files and without its
//! weights.

use std::ops::Range;
use std::path::Path;

use albedo_core::record::PromptCounter;
use albedo_core::{Digest, Message, MessageRole, Result};

use crate::text::ChatText;

/// The tokenizer and chat template of a model's folder.
#[derive(Debug)]
pub struct PromptText(ChatText);

/// Tokens of a conversation, and which of them the assistant wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationTokens {
    /// The ids, from the beginning of the first prompt on.
    pub ids: Vec<u32>,
    /// The places in `ids` of the assistant's replies, each with the token that closes it.
    /// They ascend and do not touch.
    pub replies: Vec<Range<usize>>,
}

impl PromptText {
    /// Reads the text files of the model in `folder`.
    ///
    /// # Errors
    /// A file that is missing or malformed; a template that does not render, or that
    /// asks for the date.
    pub fn load(folder: &Path) -> Result<Self> {
        ChatText::load(folder, None).map(Self)
    }

    /// Digest of the vocabulary: which text has which id. Two files that were written by
    /// other versions of a library can have the same.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn vocabulary(&self) -> Result<Digest> {
        self.0.vocabulary()
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> u32 {
        self.0.vocab_size()
    }

    /// The tokens of `messages` as a model meets them turn by turn: each reply of the
    /// assistant stands behind exactly the prompt that the engine reads before it, and ends
    /// with the closing token.
    ///
    /// Usually that is one row of tokens. A template that renders earlier turns otherwise
    /// once a later one is there, for example without their reasoning, gives further rows,
    /// so that every reply is in one of them.
    ///
    /// # Errors
    /// Messages that the template refuses.
    pub fn conversation(&self, messages: &[Message]) -> Result<Vec<ConversationTokens>> {
        let mut rows: Vec<ConversationTokens> = Vec::new();
        for (place, message) in messages.iter().enumerate().skip(1) {
            if message.role != MessageRole::Assistant {
                continue;
            }
            let prompt = self.0.encode_prompt(&messages[..place])?;
            let mut reply = self.0.encode_reply(&message.content)?;
            reply.push(self.0.end_of_turn());
            match rows.last_mut() {
                Some(row) if prompt.starts_with(&row.ids) => row.go_on(prompt, &reply),
                _ => rows.push(ConversationTokens::new(prompt, &reply)),
            }
        }
        Ok(rows)
    }

    /// The tokens of `prompt` and of a reply to it whose ids are known. They are taken as
    /// they are: one text has many tokenizations.
    ///
    /// # Errors
    /// Messages that the template refuses.
    pub fn answered(&self, prompt: &[Message], reply: &[u32]) -> Result<ConversationTokens> {
        Ok(ConversationTokens::new(self.0.encode_prompt(prompt)?, reply))
    }
}

impl ConversationTokens {
    fn new(prompt: Vec<u32>, reply: &[u32]) -> Self {
        let mut row = Self { ids: Vec::new(), replies: Vec::new() };
        row.go_on(prompt, reply);
        row
    }

    /// Puts `prompt`, which begins with the ids that are there, in their place, and `reply`
    /// behind it.
    fn go_on(&mut self, prompt: Vec<u32>, reply: &[u32]) {
        self.ids = prompt;
        let start = self.ids.len();
        self.ids.extend_from_slice(reply);
        self.replies.push(start..self.ids.len());
    }

    /// How many tokens the assistant wrote.
    pub fn reply_tokens(&self) -> usize {
        self.replies.iter().map(ExactSizeIterator::len).sum()
    }

    /// Cuts the row behind its last reply that ends within `most` tokens. Whole replies are
    /// kept, so that none loses the token that closes it. Gives false if nothing is left.
    pub fn cut(&mut self, most: usize) -> bool {
        if self.ids.len() <= most {
            return true;
        }
        self.replies.retain(|reply| reply.end <= most);
        self.ids.truncate(self.replies.last().map_or(0, |reply| reply.end));
        !self.replies.is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn king() -> PromptText {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/models/king");
        PromptText::load(&folder).expect("the demo's king")
    }

    fn said(role: MessageRole, text: &str) -> Message {
        Message::new(role, text)
    }

    #[test]
    fn replies_stand_behind_the_prompts_that_the_engine_reads_and_are_closed() {
        let (text, close) = (king(), 4091);
        let messages = [
            said(MessageRole::System, "You repair."),
            said(MessageRole::User, "It fails."),
            said(MessageRole::Assistant, "THOUGHT: I look.\n\n```bash\nls\n```"),
            said(MessageRole::User, "a.py"),
            said(MessageRole::Assistant, "\n\nTHOUGHT: Done."),
        ];
        let rows = text.conversation(&messages).expect("encodes");
        let [row] = &rows[..] else { panic!("one row, not {}", rows.len()) };
        assert_eq!(row.replies.len(), 2);
        for (reply, turn) in row.replies.iter().zip([2, 4]) {
            let prompt = text.0.encode_prompt(&messages[..turn]).expect("encodes");
            assert_eq!(row.ids[..reply.start], prompt, "turn {turn}");
            assert_eq!(row.ids[reply.end - 1], close);
            let written = text.0.decode(&row.ids[reply.start..reply.end - 1]).expect("decodes");
            assert_eq!(written, messages[turn].content);
        }
        assert_eq!(row.replies[1].end, row.ids.len(), "nothing stands behind the last reply");
    }

    #[test]
    fn a_cut_keeps_whole_replies_with_their_closing_tokens() {
        let row = ConversationTokens { ids: (0..20).collect(), replies: vec![5..8, 12..16, 18..20] };
        for (most, left, replies) in [(20, 20, 3), (19, 16, 2), (16, 16, 2), (15, 8, 1), (7, 0, 0)] {
            let mut cut = row.clone();
            assert_eq!(cut.cut(most), replies > 0, "{most}");
            assert_eq!((cut.ids.len(), cut.replies.len()), (left, replies), "{most}");
        }
        assert_eq!(row.reply_tokens(), 9);
    }

    #[test]
    fn sampled_ids_are_taken_as_they_are() {
        let text = king();
        let prompt = [said(MessageRole::User, "ab")];
        let row = text.answered(&prompt, &[1, 2, 4091]).expect("encodes");
        assert_eq!(row.ids[row.replies[0].clone()], [1, 2, 4091]);
    }
}
