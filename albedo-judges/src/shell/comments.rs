//! Finds the comments of a bash script.
//!
//! What is found is a comment to bash, too: never a part of a string, a here-document, an expansion, an arithmetic
//! expression or a pattern. The reader gives up where bash's own rules are intricate (`case` inside a substitution,
//! aliases, a quote inside a quoted expansion, `[[ … ]]` over several lines, anything that is left open), and then finds
//! nothing. A comment that stays does no harm; a command that goes does. One pass over the bytes.

use std::ops::Range;

/// The comments of `script`, in order, each from its `#` to before the line end. A first line that names an
/// interpreter (`#!/bin/sh`) is none of them. Linear in the script.
pub(crate) fn comments(script: &str) -> Vec<Range<usize>> {
    let mut reader = Reader {
        bytes: script.as_bytes(),
        at: 0,
        in_word: false,
        target: false,
        open: Vec::new(),
        quotes: 0,
        here_documents: Vec::new(),
        comments: Vec::new(),
    };
    // The one variable by which a script can read its own comments.
    if script.contains("BASH_EXECUTION_STRING") {
        return Vec::new();
    }
    match reader.read() {
        Some(()) => reader.comments,
        None => Vec::new(),
    }
}

/// What the reader is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// `( … )`, `$( … )`, `<( … )`: commands.
    Commands,
    /// `" … "`
    Quotes,
    /// `${ … }`, and whether it stands inside of quotes.
    Braces { quoted: bool },
    /// `(( … ))`, `$(( … ))`, `@( … )`, and parentheses in them: no commands.
    Parentheses,
    /// `[[ … ]]`
    Test,
}

/// A here-document whose text begins after the line.
struct HereDocument {
    delimiter: Vec<u8>,
    /// The delimiter was quoted: a backslash at a line's end joins nothing.
    literal: bool,
    strip_tabs: bool,
    /// How much was open where it was named.
    depth: usize,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// What stands before `at` belongs to a word that may go on.
    in_word: bool,
    /// A redirection waits for its target.
    target: bool,
    open: Vec<Open>,
    /// How many of `open` are quotes.
    quotes: usize,
    here_documents: Vec<HereDocument>,
    comments: Vec<Range<usize>>,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn starts_with(&self, text: &str) -> bool {
        self.bytes[self.at..].starts_with(text.as_bytes())
    }

    /// Reads the script; none where it gives up.
    fn read(&mut self) -> Option<()> {
        if names_interpreter(self.bytes) {
            self.skip_line();
        }
        while self.at < self.bytes.len() {
            match self.open.last() {
                None | Some(Open::Commands | Open::Test) => self.commands()?,
                Some(Open::Quotes) => self.quoted()?,
                Some(Open::Braces { quoted }) => self.braces(*quoted)?,
                Some(Open::Parentheses) => self.parentheses()?,
            }
        }
        (self.open.is_empty() && self.here_documents.is_empty()).then_some(())
    }

    /// Moves to the next line end, or to the end.
    fn skip_line(&mut self) {
        let rest = &self.bytes[self.at..];
        self.at += rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    }

    /// One step among commands: a separator, a redirection, a word or a part of it.
    fn commands(&mut self) -> Option<()> {
        let test = self.open.last() == Some(&Open::Test);
        match self.peek(0)? {
            // Rare inside of `[[ … ]]`, or that `[[` was a mere argument.
            b'\n' | b';' | b'#' if test && !self.in_word => return None,
            b'\n' => {
                (self.at, self.in_word, self.target) = (self.at + 1, false, false);
                self.read_here_documents()?;
            }
            b'\\' if self.peek(1) == Some(b'\n') => {
                self.at += 2;
                return self.here_documents.is_empty().then_some(());
            }
            b' ' | b'\t' | b';' | b'|' | b'&' => (self.at, self.in_word) = (self.at + 1, false),
            // `> # c` is no comment that anybody writes.
            b'#' if !self.in_word && self.target => return None,
            b'#' if !self.in_word => {
                let start = self.at;
                self.skip_line();
                self.comments.push(start..self.at);
            }
            b'<' | b'>' => self.redirection()?,
            b'(' if self.starts_with("((") || test => self.push(1, Open::Parentheses),
            b'(' => self.push(1, Open::Commands),
            b')' => {
                self.at += 1;
                match self.open.last() {
                    Some(Open::Commands) => self.close()?,
                    // A pattern's end in `case`.
                    None => self.in_word = false,
                    Some(_) => return None,
                }
            }
            _ => self.word()?,
        }
        Some(())
    }

    fn push(&mut self, length: usize, open: Open) {
        self.at += length;
        (self.in_word, self.target) = (false, false);
        self.quotes += usize::from(open == Open::Quotes);
        self.open.push(open);
    }

    /// Closes what was opened last. A here-document that was named inside would begin after the end.
    fn close(&mut self) -> Option<()> {
        let closed = self.open.pop();
        self.quotes -= usize::from(closed == Some(Open::Quotes));
        self.in_word = true;
        // Those before the last were named no deeper.
        self.here_documents.last().is_none_or(|document| document.depth <= self.open.len()).then_some(())
    }

    /// A word, up to what ends it or opens something inside of it.
    fn word(&mut self) -> Option<()> {
        let start = self.at;
        let begins = !std::mem::replace(&mut self.in_word, true);
        self.target = false;
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b')' => break,
                b'(' => {
                    // `name()`, `name=(…)`; behind `?`, `*`, `+`, `@` and `!` it is a pattern.
                    let before = self.at.checked_sub(1).filter(|_| self.at > start).map(|at| self.bytes[at]);
                    if matches!(before, Some(b'?' | b'*' | b'+' | b'@' | b'!')) {
                        self.push(1, Open::Parentheses);
                        return Some(());
                    }
                    break;
                }
                _ => {}
            }
            if self.part(false)? {
                return Some(());
            }
        }
        let word = &self.bytes[start..self.at];
        match word {
            // `name[ # ]=value`
            _ if has_open_subscript(word) => None,
            b"case" if !self.open.is_empty() => None,
            b"alias" | b"expand_aliases" => None,
            b"[[" if begins && self.peek(0).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n')) => {
                self.push(0, Open::Test);
                Some(())
            }
            b"]]" if self.open.last() == Some(&Open::Test) => self.close(),
            _ => Some(()),
        }
    }

    /// One step inside of a word, of quotes or of an expansion: a character, an escape, a string, or what opens
    /// something, which it tells.
    fn part(&mut self, quoted: bool) -> Option<bool> {
        let start = self.at;
        let mut opened = false;
        match self.peek(0)? {
            b'\\' => {
                self.peek(1)?;
                self.at += 2;
            }
            b'\'' if !quoted => {
                self.at += 1;
                let rest = &self.bytes[self.at..];
                self.at += rest.iter().position(|&byte| byte == b'\'')? + 1;
            }
            b'"' => {
                self.push(1, Open::Quotes);
                opened = true;
            }
            b'`' => {
                self.at += 1;
                self.skip_escaped(b'`')?;
            }
            b'$' => opened = self.expansion(quoted)?,
            _ => self.at += 1,
        }
        // Where a here-document begins that was named on a line with a string of several lines.
        let broken = !self.here_documents.is_empty() && self.bytes[start..self.at].contains(&b'\n');
        (!broken).then_some(opened)
    }

    /// Moves past the next `end` that no backslash stands before.
    fn skip_escaped(&mut self, end: u8) -> Option<()> {
        loop {
            match self.peek(0)? {
                b'\\' => self.at += 2,
                byte => {
                    self.at += 1;
                    if byte == end {
                        return Some(());
                    }
                }
            }
        }
    }

    /// What begins with `$`; tells whether it opened something.
    fn expansion(&mut self, quoted: bool) -> Option<bool> {
        let opened = match (self.peek(1), self.peek(2)) {
            (Some(b'('), Some(b'(')) => Open::Parentheses,
            (Some(b'('), _) => Open::Commands,
            (Some(b'{'), _) => Open::Braces { quoted: quoted || self.quotes > 0 },
            (Some(b'['), _) => return None,
            (Some(b'\''), _) if !quoted => {
                self.at += 2;
                self.skip_escaped(b'\'')?;
                return Some(false);
            }
            (Some(b'#'), _) => {
                self.at += 2;
                return Some(false);
            }
            _ => {
                self.at += 1;
                return Some(false);
            }
        };
        self.push(2, opened);
        Some(true)
    }

    fn quoted(&mut self) -> Option<()> {
        if self.peek(0) == Some(b'"') {
            self.at += 1;
            return self.close();
        }
        self.part(true).map(|_| ())
    }

    fn braces(&mut self, quoted: bool) -> Option<()> {
        match self.peek(0)? {
            b'}' => {
                self.at += 1;
                self.close()
            }
            b'\'' if quoted => None,
            _ => self.part(quoted).map(|_| ()),
        }
    }

    /// Inside of what holds no commands. Over several lines it may be a subshell in a subshell.
    fn parentheses(&mut self) -> Option<()> {
        match self.peek(0)? {
            b'\n' => None,
            b'(' => {
                self.push(1, Open::Parentheses);
                Some(())
            }
            b')' => {
                self.at += 1;
                self.close()
            }
            _ => self.part(false).map(|_| ()),
        }
    }

    /// `<`, `>` and what they begin.
    fn redirection(&mut self) -> Option<()> {
        (self.in_word, self.target) = (false, true);
        if self.starts_with("<<<") {
            self.at += 3;
        } else if self.starts_with("<<") {
            if self.open.last() == Some(&Open::Test) {
                return None;
            }
            self.at += 2;
            let strip_tabs = self.peek(0) == Some(b'-');
            self.at += usize::from(strip_tabs);
            while matches!(self.peek(0), Some(b' ' | b'\t')) {
                self.at += 1;
            }
            return self.here_document(strip_tabs);
        } else {
            self.at += 1;
        }
        Some(())
    }

    /// The delimiter of a here-document.
    fn here_document(&mut self, strip_tabs: bool) -> Option<()> {
        let (mut delimiter, mut literal) = (Vec::new(), false);
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b')' => break,
                b'(' | b'$' | b'`' => return None,
                b'\\' => {
                    literal = true;
                    delimiter.push(self.peek(1).filter(|&byte| byte != b'\n')?);
                    self.at += 2;
                }
                b'\'' | b'"' => {
                    literal = true;
                    let rest = &self.bytes[self.at + 1..];
                    let length = rest.iter().position(|&end| end == byte)?;
                    let inside = &rest[..length];
                    if inside.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'$' | b'`')) {
                        return None;
                    }
                    delimiter.extend(inside);
                    self.at += length + 2;
                }
                _ => {
                    delimiter.push(byte);
                    self.at += 1;
                }
            }
        }
        if delimiter.is_empty() {
            return None;
        }
        (self.in_word, self.target) = (true, false);
        self.here_documents.push(HereDocument { delimiter, literal, strip_tabs, depth: self.open.len() });
        Some(())
    }

    /// The texts of the here-documents that the line before named.
    fn read_here_documents(&mut self) -> Option<()> {
        for HereDocument { delimiter, literal, strip_tabs, depth } in std::mem::take(&mut self.here_documents)
        {
            if depth != self.open.len() {
                return None;
            }
            loop {
                if self.at >= self.bytes.len() {
                    // To the end: bash warns and takes it so.
                    return Some(());
                }
                if self.line(literal, strip_tabs) == delimiter {
                    break;
                }
            }
        }
        Some(())
    }

    /// The next line of a here-document.
    fn line(&mut self, literal: bool, strip_tabs: bool) -> Vec<u8> {
        let mut line = Vec::new();
        loop {
            let start = self.at;
            self.skip_line();
            let read = &self.bytes[start..self.at];
            line.extend(read);
            let ended = self.at >= self.bytes.len();
            self.at = (self.at + 1).min(self.bytes.len());
            let backslashes = read.iter().rev().take_while(|&&byte| byte == b'\\').count();
            if literal || ended || backslashes % 2 == 0 {
                break;
            }
            line.pop();
        }
        let tabs = if strip_tabs { line.iter().take_while(|&&byte| byte == b'\t').count() } else { 0 };
        line.drain(..tabs);
        line
    }
}

/// Whether `word` is a name with a subscript that ends in another word.
fn has_open_subscript(word: &[u8]) -> bool {
    let name = word.iter().take_while(|&&byte| byte.is_ascii_alphanumeric() || byte == b'_').count();
    name > 0 && word.get(name) == Some(&b'[') && !word[name..].contains(&b']')
}

/// Whether a script's first line names an interpreter, perhaps with one option: `#!/usr/bin/env bash`. Longer ones
/// are comments.
fn names_interpreter(script: &[u8]) -> bool {
    let line = script.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_prefix(b"#!").and_then(|line| std::str::from_utf8(line).ok()) else {
        return false;
    };
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let short = |word: &str| {
        word.len() <= 12 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let folders = ["/bin/", "/usr/bin/", "/usr/local/bin/"];
    let program = |path: &str| folders.iter().any(|folder| path.strip_prefix(folder).is_some_and(short));
    match words[..] {
        [path] => program(path),
        [path, option] => program(path) && short(option),
        _ => false,
    }
}
