//! A reader for the part of bash that agents write: quotes, escapes, line
//! continuations, comments, pipelines and lists, redirections,
//! here-documents, substitutions. It never runs or expands anything; text
//! that is no shell script gives some commands all the same, never an error.

pub(crate) mod comments;
mod lexer;
mod step;

pub(crate) use lexer::Redirection;
use lexer::{Token, Word};
pub(crate) use step::{Step, StepKind};

/// Substitutions inside substitutions are read this deep; deeper ones stay
/// text. It keeps reading linear.
const MAX_DEPTH: u32 = 4;

/// Words that stand before a command without being one.
const OPENING_KEYWORDS: [&str; 9] = ["if", "then", "elif", "else", "while", "until", "do", "!", "{"];

/// Words in command position that are syntax and run nothing.
const KEYWORDS: [&str; 8] = ["fi", "done", "esac", "}", "for", "case", "select", "function"];

/// Separates the parts of [`Script::normalized`]; no text that people write has it.
const UNIT_SEPARATOR: char = '\u{1f}';

/// A script: its commands in order.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// The commands; a pipeline's are told apart by [`Command::after`].
    pub(crate) commands: Vec<Command>,
    /// The scripts of its substitutions.
    substitutions: Vec<Script>,
}

/// A simple command.
#[derive(Debug, Default)]
pub(crate) struct Command {
    /// What joins it to the command before: `&&`, `||`, `|`, `;` or `&`; empty
    /// for the first.
    pub(crate) after: &'static str,
    /// `NAME=value` before the program.
    pub(crate) assignments: Vec<String>,
    /// The program and its arguments, quotes removed.
    pub(crate) words: Vec<String>,
    /// Its redirections.
    pub(crate) redirections: Vec<Redirection>,
}

impl Script {
    /// Reads `source`, in linear time.
    pub(crate) fn parse(source: &str) -> Self {
        Self::parse_at(source, 0)
    }

    fn parse_at(source: &str, depth: u32) -> Self {
        let mut script = Self::default();
        let mut command = Command::default();
        for token in lexer::lex(source) {
            match token {
                Token::Word(Word { text, substitutions }) => {
                    if depth < MAX_DEPTH {
                        let nested = substitutions.iter().map(|source| Self::parse_at(source, depth + 1));
                        script.substitutions.extend(nested);
                    }
                    command.push(text);
                }
                Token::Redirection(redirection) => command.redirections.push(redirection),
                Token::Separator(separator) => script.separate(&mut command, separator),
            }
        }
        script.separate(&mut command, ";");
        script
    }

    /// Ends `command` at `separator` and starts the next. A line end after
    /// `&&` or `|` joins nothing.
    fn separate(&mut self, command: &mut Command, separator: &'static str) {
        let meant = if matches!(separator, "(" | ")") { ";" } else { separator };
        if command.is_empty() {
            if matches!(command.after, "" | ";") && !self.commands.is_empty() {
                command.after = meant;
            }
            return;
        }
        self.commands.push(std::mem::replace(command, Command { after: meant, ..Command::default() }));
    }

    /// Whether it runs anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Every word in command position as it is written, those of substitutions
    /// included. A program that another starts (`xargs`, `sh -c`) is an
    /// argument.
    pub(crate) fn programs(&self) -> Vec<&str> {
        let own = self.commands.iter().filter_map(|command| command.words.first());
        let own = own.map(String::as_str).filter(|word| !KEYWORDS.contains(word));
        own.chain(self.substitutions.iter().flat_map(Self::programs)).collect()
    }

    /// The commands without those leading `cd /absolute/path` that only go to
    /// the checkout, where every action starts anyway.
    pub(crate) fn work(&self) -> &[Command] {
        let mut work = self.commands.as_slice();
        while let [command, next, ..] = work
            && matches!(command.words.as_slice(), [cd, path] if cd == "cd" && path.starts_with('/'))
            && matches!(next.after, "&&" | ";")
        {
            work = &work[1..];
        }
        work
    }

    /// One spelling for all scripts that differ only in white space, quoting,
    /// comments, line continuations, `;` or line end, the places of
    /// redirections, and a leading `cd` to the checkout.
    pub(crate) fn normalized(&self) -> String {
        let mut parts: Vec<&str> = Vec::new();
        for (position, command) in self.work().iter().enumerate() {
            if position > 0 {
                parts.push(command.after);
            }
            parts.extend(command.assignments.iter().chain(&command.words).map(String::as_str));
            for Redirection { operator, target, body } in &command.redirections {
                parts.extend([operator.as_str(), target, body].into_iter().filter(|part| !part.is_empty()));
            }
        }
        parts.join(UNIT_SEPARATOR.encode_utf8(&mut [0; 4]))
    }

    /// What its commands do; those that only prepare the shell are left out.
    pub(crate) fn steps(&self) -> Vec<Step<'_>> {
        self.work().iter().filter_map(Step::of).collect()
    }
}

impl Command {
    fn is_empty(&self) -> bool {
        self.assignments.is_empty() && self.words.is_empty() && self.redirections.is_empty()
    }

    fn push(&mut self, word: String) {
        if self.words.is_empty() && is_assignment(&word) {
            self.assignments.push(word);
        } else if !(self.words.is_empty() && OPENING_KEYWORDS.contains(&word.as_str())) {
            self.words.push(word);
        }
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests;
