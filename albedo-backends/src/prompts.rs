//! Prompts and whole conversations as tokens, with a model's text files and without its
//! weights.

use std::ops::Range;
use std::path::Path;

use albedo_core::record::PromptCounter;
use albedo_core::{Digest, Message, MessageRole, Result};

use crate::text::ChatText;

/// The tokenizer and chat template of a model's folder.
#[derive(Debug)]
pub struct PromptText {
    text: ChatText,
    /// The token that closes a reply.
    close: u32,
    /// What the template closes a reply with, if the engine goes on behind it.
    endless: Option<String>,
}

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
        let text = ChatText::load(folder, None)?;
        let eos = text.end_of_turn();
        // A template that does not take the conversation tells nothing.
        let (close, endless) = match behind_a_reply(&text).ok().flatten() {
            Some(id) if text.stop_ids().contains(&id) => (id, None),
            Some(id) => (eos, text.decode(&[id]).ok()),
            None => (eos, None),
        };
        Ok(Self { text, close, endless })
    }

    /// Checks that the text files of the model in `folder` can be loaded, whichever date a
    /// backend gives a template that asks for one.
    ///
    /// # Errors
    /// As [`PromptText::load`], except those about the date.
    pub fn check(folder: &Path) -> Result<()> {
        // Any day will do.
        ChatText::load(folder, "2026-01-01".parse().ok()).map(drop)
    }

    /// What the template puts behind a reply, if that is no token that ends a reply of the
    /// engine. Replies are then closed with the `eos_token` instead, which no later prompt has
    /// behind them.
    pub fn endless(&self) -> Option<&str> {
        self.endless.as_deref()
    }

    /// Digest of the vocabulary: which text has which id. Two files that were written by
    /// other versions of a library can have the same.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn vocabulary(&self) -> Result<Digest> {
        self.text.vocabulary()
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> u32 {
        self.text.vocab_size()
    }

    /// The tokens of `messages` as a model meets them turn by turn: each reply of the
    /// assistant stands behind exactly the prompt that the engine reads before it, and ends
    /// with the closing token: the template's, if it ends a reply of the engine, else the
    /// `eos_token`.
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
            let prompt = self.text.encode_prompt(&messages[..place])?;
            let mut reply = self.text.encode_reply(&message.content)?;
            reply.push(self.close);
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
        Ok(ConversationTokens::new(self.text.encode_prompt(prompt)?, reply))
    }
}

/// The token that the template puts behind a reply, blanks aside; none if it cannot be told.
fn behind_a_reply(text: &ChatText) -> Result<Option<u32>> {
    const REPLY: &str = "Understood";
    let said = [(MessageRole::User, "Hello"), (MessageRole::Assistant, REPLY), (MessageRole::User, "Go on")];
    let said = said.map(|(role, text)| Message::new(role, text));
    let rendered = text.decode(&text.encode_prompt(&said)?)?;
    let Some((_, behind)) = rendered.rsplit_once(REPLY) else { return Ok(None) };
    for id in text.encode_reply(behind)? {
        if !text.decode(&[id])?.trim().is_empty() {
            return Ok(Some(id));
        }
    }
    Ok(None)
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
        [self.text.tokenizer_digest(), self.text.template_digest()]
    }

    fn count(&self, messages: &[Message]) -> Result<Option<u32>> {
        Ok(Some(self.text.encode_prompt(messages)?.len() as u32))
    }
}

#[cfg(test)]
mod tests {
    use albedo_core::ErrorKind;

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
            let prompt = text.text.encode_prompt(&messages[..turn]).expect("encodes");
            assert_eq!(row.ids[..reply.start], prompt, "turn {turn}");
            assert_eq!(row.ids[reply.end - 1], close);
            let written = text.text.decode(&row.ids[reply.start..reply.end - 1]).expect("decodes");
            assert_eq!(written, messages[turn].content);
        }
        assert_eq!(row.replies[1].end, row.ids.len(), "nothing stands behind the last reply");
    }

    #[test]
    fn replies_are_closed_as_the_template_does_where_that_ends_a_reply() {
        let king = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/models/king");
        let folder = tempfile::tempdir().expect("a folder");
        let read = |name: &str| std::fs::read_to_string(king.join(name)).expect("reads");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writes");
        write("tokenizer.json", &read("tokenizer.json"));
        // As base models have it: the template closes turns with another token.
        let config = read("tokenizer_config.json");
        let eos = "\"eos_token\": \"<|im_end|>\"";
        assert!(config.contains(eos));
        write("tokenizer_config.json", &config.replace(eos, "\"eos_token\": \"<|endoftext|>\""));
        let messages = [
            said(MessageRole::User, "It fails."),
            said(MessageRole::Assistant, "I look."),
            said(MessageRole::User, "a.py"),
            said(MessageRole::Assistant, "Done."),
        ];
        for (ends, close, rows, endless) in
            [("[4089, 4091]", 4091, 1, None), ("4089", 4089, 2, Some("<|im_end|>"))]
        {
            write("generation_config.json", &format!("{{\"eos_token_id\": {ends}}}"));
            let text = PromptText::load(folder.path()).expect("loads");
            assert_eq!(text.endless(), endless);
            let found = text.conversation(&messages).expect("encodes");
            assert_eq!(found.len(), rows, "{ends}");
            for row in found {
                assert_eq!(row.ids.last(), Some(&close), "{ends}");
            }
        }
        assert_eq!(PromptText::load(&king).expect("the demo's king").endless(), None);
    }

    #[test]
    fn a_template_that_asks_for_the_date_can_be_checked_without_one() {
        let king = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/models/king");
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            std::fs::copy(king.join(name), folder.path().join(name)).expect("copied");
        }
        let template =
            "{{ strftime_now('%Y') }}{% for message in messages %}{{ message.content }}{% endfor %}";
        std::fs::write(folder.path().join("chat_template.jinja"), template).expect("writes");
        assert_eq!(PromptText::load(folder.path()).expect_err("no date").kind(), ErrorKind::ConfigInvalid);
        PromptText::check(folder.path()).expect("any date will do");
        std::fs::write(folder.path().join("tokenizer.json"), "{}").expect("writes");
        assert!(PromptText::check(folder.path()).is_err());
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
