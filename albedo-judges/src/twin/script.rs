//! The strings of a bash script, and what becomes of them.
//!
//! A reader for the part of bash that agents write. It never gives up: what it misreads is a string that is wrongly kept
//! or replaced, in a text that one judge compares with another. One pass over the bytes.

use std::collections::BTreeSet;
use std::ops::Range;

/// What a string is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is printed, kept in a variable that nothing reads, or a comment: no outcome needs it.
    Idle,
    /// Something may read it.
    Content,
}

/// Parts of a script that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) kind: Kind,
    /// Bytes of the script, in order.
    pub(super) ranges: Vec<Range<usize>>,
}

/// Programs that print their arguments, or do nothing with them.
const PRINTING: [&str; 4] = ["echo", "printf", ":", "true"];

/// Programs whose arguments are patterns or programs: every word counts.
const READING: [&str; 14] =
    ["grep", "egrep", "fgrep", "rg", "ag", "ack", "sed", "awk", "gawk", "perl", "find", "tr", "jq", "xargs"];

/// Words before a command that are none.
const KEYWORDS: [&str; 9] = ["if", "then", "elif", "else", "while", "until", "do", "!", "{"];

/// Ends of names of files that are prose: a `#` in them is no comment.
const PROSE: [&str; 5] = [".md", ".txt", ".rst", ".adoc", ".tex"];

/// The strings of `script`, in no particular order. None overlaps another.
pub(super) fn segments(script: &str) -> Vec<Segment> {
    let mut reader = Reader {
        script,
        bytes: script.as_bytes(),
        at: 0,
        segments: Vec::new(),
        command: Command::default(),
        here_documents: Vec::new(),
        variables: variables(script),
    };
    reader.read();
    reader.segments
}

/// A simple command so far.
#[derive(Default)]
struct Command {
    words: Vec<Word>,
    /// The file that its output goes to.
    output: Option<String>,
    /// Here-documents of it that are still to be read.
    here_documents: usize,
}

/// A word as it is written.
struct Word {
    range: Range<usize>,
    /// The parts in which nothing is expanded.
    literals: Vec<Range<usize>>,
}

impl Word {
    fn text<'a>(&self, script: &'a str) -> &'a str {
        &script[self.range.clone()]
    }
}

/// A here-document whose text begins after the line.
struct HereDocument {
    delimiter: String,
    strip_tabs: bool,
    kind: Kind,
    prose: bool,
}

struct Reader<'a> {
    script: &'a str,
    bytes: &'a [u8],
    at: usize,
    segments: Vec<Segment>,
    command: Command,
    here_documents: Vec<HereDocument>,
    /// The variables that are read; none if any may be.
    variables: Option<BTreeSet<&'a str>>,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn starts_with(&self, text: &str) -> bool {
        self.bytes[self.at.min(self.bytes.len())..].starts_with(text.as_bytes())
    }

    fn read(&mut self) {
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\n' => {
                    self.end_command(false);
                    self.at += 1;
                    self.read_here_documents();
                }
                b'\\' if self.peek(1) == Some(b'\n') => self.at += 2,
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'#' => {
                    let start = self.at;
                    self.skip_line();
                    self.push_part(Kind::Idle, start..self.at);
                }
                b'<' | b'>' if self.peek(1) == Some(b'(') => self.word(),
                b'<' | b'>' => self.redirection(false),
                b'&' if self.peek(1) == Some(b'>') => {
                    self.at += 1;
                    self.redirection(false);
                }
                b';' | b'&' | b'|' | b'(' | b')' => {
                    let double = self.peek(1) == Some(byte) && byte != b'(' && byte != b')';
                    self.end_command(byte == b'|' && !double);
                    self.at += 1 + usize::from(double || self.starts_with("|&"));
                }
                _ => self.word(),
            }
        }
        self.end_command(false);
    }

    fn skip_line(&mut self) {
        let rest = &self.bytes[self.at..];
        self.at += rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    }

    /// Moves past a backslash and the character behind it.
    fn skip_escaped(&mut self) {
        let rest = &self.script[self.at + 1..];
        self.at += 1 + rest.chars().next().map_or(0, char::len_utf8);
    }

    fn push_part(&mut self, kind: Kind, range: Range<usize>) {
        self.push(kind, vec![range]);
    }

    fn push(&mut self, kind: Kind, ranges: Vec<Range<usize>>) {
        if !ranges.is_empty() {
            self.segments.push(Segment { kind, ranges });
        }
    }

    /// A word, and what of it is literal.
    fn word(&mut self) {
        let start = self.at;
        let mut literals = Vec::new();
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b';' | b'&' | b'|' => break,
                b'(' | b')' => {
                    // An array, or a function: its words are read by themselves.
                    break;
                }
                b'<' | b'>' if self.at > start || self.peek(1) != Some(b'(') => break,
                b'\'' => self.single_quoted(&mut literals),
                b'"' => self.double_quoted(&mut literals),
                b'\\' => self.skip_escaped(),
                b'$' if self.peek(1) == Some(b'\'') => {
                    self.at += 1;
                    self.escaped_quotes(&mut literals);
                }
                b'$' | b'`' | b'<' | b'>' => self.expansion(),
                _ => {
                    let from = self.at;
                    while self.peek(0).is_some_and(|byte| !b" \t\n\r;&|()<>'\"\\$`".contains(&byte)) {
                        self.at += 1;
                    }
                    literals.push(from..self.at);
                }
            }
        }
        self.at = self.at.min(self.bytes.len());
        if self.at == start {
            // Never stands still.
            self.at += 1;
            return;
        }
        let text = &self.script[start..self.at];
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        if digits && matches!(self.peek(0), Some(b'<' | b'>')) {
            self.redirection(text == "2");
            return;
        }
        self.command.words.push(Word { range: start..self.at, literals });
    }

    fn single_quoted(&mut self, literals: &mut Vec<Range<usize>>) {
        let from = self.at + 1;
        let rest = &self.bytes[from..];
        let length = rest.iter().position(|&byte| byte == b'\'').unwrap_or(rest.len());
        literals.push(from..from + length);
        self.at = (from + length + 1).min(self.bytes.len());
    }

    /// `$'…'`, of which the dollar was read.
    fn escaped_quotes(&mut self, literals: &mut Vec<Range<usize>>) {
        let from = self.at + 1;
        self.at = from;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\\' => self.at += 2,
                b'\'' => break,
                _ => self.at += 1,
            }
        }
        let end = self.at.min(self.bytes.len());
        literals.push(from..end);
        self.at = (end + 1).min(self.bytes.len());
    }

    fn double_quoted(&mut self, literals: &mut Vec<Range<usize>>) {
        self.at += 1;
        let mut from = self.at;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'"' => break,
                b'\\' => self.at += 2,
                b'$' | b'`' => {
                    literals.push(from..self.at);
                    self.expansion();
                    from = self.at;
                }
                _ => self.at += 1,
            }
        }
        let end = self.at.min(self.bytes.len());
        literals.push(from.min(end)..end);
        self.at = (end + 1).min(self.bytes.len());
    }

    /// `$(…)`, `${…}`, `` `…` ``, `$NAME`, `<(…)`: skipped.
    fn expansion(&mut self) {
        let (opening, closing) = match (self.peek(0), self.peek(1)) {
            (Some(b'`'), _) => (None, b'`'),
            (_, Some(b'(')) => (Some(b'('), b')'),
            (_, Some(b'{')) => (Some(b'{'), b'}'),
            _ => {
                self.at += 1;
                while self.peek(0).is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                    self.at += 1;
                }
                return;
            }
        };
        self.at += if opening.is_some() { 2 } else { 1 };
        let mut depth = 1_usize;
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'\\' => self.at += 1,
                _ if byte == closing => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                _ if Some(byte) == opening => depth += 1,
                _ => {}
            }
        }
        self.at = self.at.min(self.bytes.len());
    }

    /// `<`, `>` and what they begin; of standard error if `error`.
    fn redirection(&mut self, error: bool) {
        if self.starts_with("<<<") {
            // A here-string is read as one more argument.
            self.at += 3;
            return;
        }
        if self.starts_with("<<") {
            self.at += 2;
            let strip_tabs = self.peek(0) == Some(b'-');
            self.at += usize::from(strip_tabs);
            let delimiter: String =
                self.target().chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect();
            self.here_documents.push(HereDocument {
                delimiter,
                strip_tabs,
                kind: Kind::Content,
                prose: false,
            });
            self.command.here_documents += 1;
            return;
        }
        let writes = self.peek(0) == Some(b'>');
        self.at += 1;
        while matches!(self.peek(0), Some(b'>' | b'|')) {
            self.at += 1;
        }
        if self.peek(0) == Some(b'&') {
            self.at += 1;
            self.target();
            return;
        }
        let target = self.target();
        if writes && !error && target != "/dev/null" && target != "/dev/stderr" && target != "/dev/stdout" {
            self.command.output = Some(target);
        }
    }

    /// The word after a redirection, as it is written.
    fn target(&mut self) -> String {
        while matches!(self.peek(0), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let words = self.command.words.len();
        let start = self.at;
        if self.peek(0).is_some_and(|byte| !b"\n;&|<>()".contains(&byte)) {
            self.word();
        }
        self.command.words.truncate(words);
        self.script[start.min(self.at)..self.at].to_owned()
    }

    /// The command is over; its output goes to another if it is `piped`.
    fn end_command(&mut self, piped: bool) {
        let Command { words, output, here_documents } = std::mem::take(&mut self.command);
        let script = self.script;
        let keywords = words.iter().take_while(|word| KEYWORDS.contains(&word.text(script))).count();
        let words = &words[keywords..];
        let assigned = words.iter().take_while(|word| assigned_name(word.text(script)).is_some()).count();
        let rest = &words[assigned..];
        let program =
            rest.first().map_or("", |word| word.text(script).rsplit('/').next().unwrap_or_default());
        let shows = !piped && output.is_none();
        let mut found = Vec::new();
        for word in &words[..assigned] {
            let Some(name) = assigned_name(word.text(script)) else { continue };
            let value: Vec<_> = word.literals.iter().map(|literal| after_name(word, name, literal)).collect();
            // Before a command it is the command's environment.
            let read = self.variables.as_ref().is_none_or(|variables| variables.contains(name));
            let idle = rest.is_empty() && !read;
            found.push((if idle { Kind::Idle } else { Kind::Content }, value));
        }
        let arguments = rest.get(1..).unwrap_or_default();
        if PRINTING.contains(&program) && shows {
            let printed = arguments.iter().flat_map(|word| word.literals.iter().cloned()).collect();
            found.push((Kind::Idle, printed));
        } else if !READING.contains(&program) {
            let mut is_program = false;
            for word in arguments {
                if is_program {
                    word.literals.iter().for_each(|literal| self.content(&lines_of(script, literal), false));
                } else {
                    found.push((Kind::Content, word.literals.clone()));
                }
                is_program = matches!(word.text(script), "-c" | "-e");
            }
        }
        let first = self.here_documents.len() - here_documents.min(self.here_documents.len());
        for here_document in &mut self.here_documents[first..] {
            here_document.kind = if program == "cat" && shows { Kind::Idle } else { Kind::Content };
            here_document.prose = output.as_ref().is_some_and(|output| {
                let output = output.trim_matches(['"', '\'']).to_ascii_lowercase();
                PROSE.iter().any(|end| output.ends_with(end))
            });
        }
        for (kind, ranges) in found {
            self.push(kind, ranges);
        }
    }

    /// The texts of the here-documents that the line before named.
    fn read_here_documents(&mut self) {
        for HereDocument { delimiter, strip_tabs, kind, prose } in std::mem::take(&mut self.here_documents) {
            let mut lines = Vec::new();
            while self.at < self.bytes.len() {
                let start = self.at;
                self.skip_line();
                let line = &self.script[start..self.at];
                let range = start..self.at;
                self.at = (self.at + 1).min(self.bytes.len());
                let ends = if strip_tabs { line.trim_start_matches('\t') } else { line };
                if ends == delimiter {
                    break;
                }
                lines.push(range);
            }
            match kind {
                Kind::Idle => self.push(Kind::Idle, lines),
                Kind::Content => self.content(&lines, prose),
            }
        }
    }

    /// The lines of a file or a program: comments, strings and prose.
    fn content(&mut self, lines: &[Range<usize>], prose: bool) {
        let script = self.script;
        // The end of a string over several lines, or of a comment.
        let mut until: Option<&str> = None;
        for range in lines {
            let line = &script[range.clone()];
            let trimmed = line.trim_start();
            if let Some(end) = until {
                self.push_part(Kind::Idle, range.clone());
                if line.contains(end) {
                    until = None;
                }
                continue;
            }
            let opens = if prose { None } else { comment(trimmed) };
            if let Some((length, end)) = opens {
                self.push_part(Kind::Idle, range.clone());
                until = end.filter(|end| !trimmed[length..].contains(*end));
                continue;
            }
            let code_ends = if prose { line.len() } else { trailing_comment(line) };
            if code_ends < line.len() {
                self.push_part(Kind::Idle, range.start + code_ends..range.end);
            }
            let strings = quoted(&line[..code_ends]);
            if strings.is_empty() && !line.contains(['(', '{', '=', ';', '<']) {
                self.push_part(Kind::Content, range.start..range.start + code_ends);
            }
            for string in strings {
                self.push_part(Kind::Content, range.start + string.start..range.start + string.end);
            }
        }
    }
}

/// The lines of `range`.
fn lines_of(script: &str, range: &Range<usize>) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut start = range.start;
    for line in script[range.clone()].split_inclusive('\n') {
        lines.push(start..start + line.trim_end_matches('\n').len());
        start += line.len();
    }
    lines
}

/// The name to which `word` assigns.
fn assigned_name(word: &str) -> Option<&str> {
    let (name, _) = word.split_once('=')?;
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    valid.then_some(name)
}

/// What of `literal` stands behind `name=`.
fn after_name(word: &Word, name: &str, literal: &Range<usize>) -> Range<usize> {
    let value = word.range.start + name.len() + 1;
    literal.start.max(value).min(literal.end.max(value))..literal.end.max(value)
}

/// The variables that `script` reads; none if it may read any.
fn variables(script: &str) -> Option<BTreeSet<&str>> {
    if ["export ", "env | ", "set -a", "declare ", "printenv"].iter().any(|reads| script.contains(reads)) {
        return None;
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let read = script.split('$').skip(1).map(|behind| {
        // `$NAME`, `${NAME`, `${#NAME`, `${!NAME`.
        let name = behind.trim_start_matches(['{', '#', '!']);
        name.split(|c| !is_name(c)).next().unwrap_or_default()
    });
    Some(read.collect())
}

/// If `line` begins with a comment or a docstring: the length of what opens it, and what ends it if a later line may.
fn comment(line: &str) -> Option<(usize, Option<&'static str>)> {
    const DIRECTIVES: [&str; 9] =
        ["#!", "#include", "#define", "#if", "#el", "#endif", "#pragma", "#undef", "#["];
    if DIRECTIVES.iter().any(|directive| line.starts_with(directive)) {
        return None;
    }
    for (opening, end) in [
        ("\"\"\"", Some("\"\"\"")),
        ("r\"\"\"", Some("\"\"\"")),
        ("'''", Some("'''")),
        ("/*", Some("*/")),
        ("<!--", Some("-->")),
        ("#", None),
        ("//", None),
        ("-- ", None),
        ("* ", None),
    ] {
        if line.starts_with(opening) {
            return Some((opening.len(), end));
        }
    }
    None
}

/// Where a comment behind code begins in `line`; its length if there is none.
fn trailing_comment(line: &str) -> usize {
    let (mut quote, mut before) = (None, ' ');
    for (at, c) in line.char_indices() {
        let rest = &line[at..];
        match (quote, c) {
            (Some(open), _) if c == open && before != '\\' => quote = None,
            (None, '"' | '`') => quote = Some(c),
            (None, '\'') if !before.is_alphanumeric() => quote = Some(c),
            (None, '#') if before.is_whitespace() && rest.starts_with("# ") => return at,
            (None, '/') if rest.starts_with("/*") || (rest.starts_with("// ") && before != ':') => return at,
            _ => {}
        }
        before = c;
    }
    line.len()
}

/// The insides of the quoted strings in `line`.
fn quoted(line: &str) -> Vec<Range<usize>> {
    let mut strings = Vec::new();
    let mut open: Option<(char, usize)> = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match open {
            Some((quote, start)) if c == quote && before != '\\' => {
                strings.push(start..at);
                open = None;
            }
            None if c == '"' || (c == '\'' && !before.is_alphanumeric()) => open = Some((c, at + 1)),
            _ => {}
        }
        before = c;
    }
    if let Some((_, start)) = open {
        strings.push(start..line.len());
    }
    strings
}
