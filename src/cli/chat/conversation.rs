//! What was said, and what a line means.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{Error, ErrorKind, Message, MessageRole, Result};

const SAVE: &str = "save the conversation";

/// What `/help` says.
pub(super) const HELP: &str = "\
/reset          forget the conversation
/system [TEXT]  set the instructions, or remove them
/save FILE      write the conversation into a new file, as one line of JSON
/quit           end, as Ctrl-D does
\"\"\"             begin and end a message of several lines
Ctrl-C          stop a reply";

/// What one line asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Entry {
    Nothing,
    Message(String),
    Reset,
    /// The new instructions, if any.
    System(Option<String>),
    Save(PathBuf),
    Help,
    Quit,
    Unknown(String),
}

impl Entry {
    /// Reads a line, or a message of several lines. `/` begins a command, `//` a message
    /// with a slash.
    pub(super) fn parse(line: &str) -> Self {
        let text = line.trim();
        let Some(rest) = text.strip_prefix('/') else {
            return if text.is_empty() { Self::Nothing } else { Self::Message(text.to_owned()) };
        };
        if rest.starts_with('/') {
            return Self::Message(rest.to_owned());
        }
        let (command, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let argument = argument.trim();
        match (command, argument.is_empty()) {
            ("reset", true) => Self::Reset,
            ("system", is_empty) => Self::System((!is_empty).then(|| argument.to_owned())),
            ("save", false) => Self::Save(argument.into()),
            ("help", true) => Self::Help,
            ("quit" | "exit", true) => Self::Quit,
            _ => Self::Unknown(text.to_owned()),
        }
    }
}

/// The messages so far: instructions if there are any, then user and assistant by turns.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    system: Option<String>,
    turns: Vec<Message>,
}

impl Conversation {
    pub(super) fn new(system: Option<String>) -> Self {
        Self { system, turns: Vec::new() }
    }

    /// Forgets everything except the instructions.
    pub(super) fn reset(&mut self) {
        self.turns.clear();
    }

    pub(super) fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    /// Replies so far.
    pub(super) fn replies(&self) -> u64 {
        self.turns.len() as u64 / 2
    }

    /// The messages with `text`, the user's, as the last.
    pub(super) fn with(&self, text: String) -> Vec<Message> {
        let mut messages = self.messages();
        messages.push(Message::new(MessageRole::User, text));
        messages
    }

    /// Adds a user's message and its answer.
    pub(super) fn add(&mut self, text: String, reply: String) {
        self.turns.push(Message::new(MessageRole::User, text));
        self.turns.push(Message::new(MessageRole::Assistant, reply));
    }

    /// Writes the conversation into a new file, as `albedo tasks make` reads it.
    ///
    /// # Errors
    /// A file that exists, or cannot be written.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let failed = |error| Error::io(SAVE, path, error);
        let mut file = match File::create_new(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::new(ErrorKind::ConfigInvalid, SAVE, "there is such a file already")
                    .with("path", path.display())
                    .with_hint("give another name"));
            }
            created => created.map_err(failed)?,
        };
        let line = json!({ "messages": self.messages() });
        writeln!(file, "{line}").and_then(|()| file.sync_all()).map_err(failed)
    }

    fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new(MessageRole::System, text.as_str()));
        system.chain(self.turns.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_message_or_a_command() {
        for (line, entry) in [
            ("  \n", Entry::Nothing),
            (" a message \r\n", Entry::Message("a message".into())),
            ("a\n\nb\n", Entry::Message("a\n\nb".into())),
            ("//etc/passwd is wrong", Entry::Message("/etc/passwd is wrong".into())),
            ("/reset", Entry::Reset),
            ("/system  answer briefly ", Entry::System(Some("answer briefly".into()))),
            ("/system", Entry::System(None)),
            ("/save my file.json", Entry::Save("my file.json".into())),
            ("/save", Entry::Unknown("/save".into())),
            ("/help", Entry::Help),
            ("/quit", Entry::Quit),
            ("/exit\n", Entry::Quit),
            ("/quit now", Entry::Unknown("/quit now".into())),
            ("/", Entry::Unknown("/".into())),
        ] {
            assert_eq!(Entry::parse(line), entry, "{line:?}");
        }
    }

    #[test]
    fn the_instructions_outlive_a_reset() {
        let mut conversation = Conversation::new(Some("briefly".into()));
        conversation.add("a".into(), "b".into());
        assert_eq!(conversation.replies(), 1);
        let roles = |conversation: &Conversation| {
            conversation.with("c".into()).iter().map(|message| message.role.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(roles(&conversation), ["system", "user", "assistant", "user"]);
        conversation.reset();
        assert_eq!((roles(&conversation), conversation.replies()), (vec!["system", "user"], 0));
        conversation.set_system(None);
        assert_eq!(roles(&conversation), ["user"]);
    }

    #[test]
    fn a_file_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chat.jsonl");
        let mut conversation = Conversation::default();
        conversation.add("a".into(), "b".into());
        conversation.save(&path).expect("saves");
        let text = std::fs::read_to_string(&path).expect("reads");
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with("{\"messages\":[{"), "{text}");
        conversation.save(&path).expect_err("it is there");
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), text);
    }
}
