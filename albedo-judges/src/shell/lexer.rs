//! Shell text to tokens. One pass; every character is looked at a bounded
//! number of times, whatever the input.

/// A token of a script.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A word with its quotes removed.
    Word(Word),
    /// What stands between two commands; a line end is `;`.
    Separator(&'static str),
    /// A redirection.
    Redirection(Redirection),
}

/// A word with its quotes removed. Expansions stay as they were written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// The scripts in its `$(…)`, `` `…` ``, `<(…)` and `>(…)`.
    pub(super) substitutions: Vec<String>,
}

/// A redirection of one command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Redirection {
    /// The operator with its file descriptor: `2>`, `>>`, `<<`.
    pub(crate) operator: String,
    /// The file, descriptor or here-string; empty for a here-document.
    pub(crate) target: String,
    /// The text of a here-document.
    pub(crate) body: String,
}

/// The tokens of `source`. What is left open at the end is closed there.
pub(super) fn lex(source: &str) -> Vec<Token> {
    let chars = source.replace("\r\n", "\n").chars().collect();
    let mut lexer = Lexer { chars, at: 0, tokens: Vec::new(), here_documents: Vec::new() };
    lexer.run();
    lexer.tokens
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    tokens: Vec<Token>,
    here_documents: Vec<HereDocument>,
}

/// A here-document whose text starts after the next line end.
struct HereDocument {
    token: usize,
    delimiter: String,
    strip_tabs: bool,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn starts_with(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(ahead, c)| self.peek(ahead) == Some(c))
    }

    fn run(&mut self) {
        while let Some(c) = self.peek(0) {
            match c {
                '\n' => {
                    self.at += 1;
                    self.tokens.push(Token::Separator(";"));
                    self.read_here_documents();
                }
                '\\' if self.peek(1) == Some('\n') => self.at += 2,
                _ if c.is_whitespace() => self.at += 1,
                '#' => {
                    while self.peek(0).is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                '<' | '>' if self.peek(1) == Some('(') => self.push_word(),
                '<' | '>' => self.redirection(String::new()),
                '&' if self.peek(1) == Some('>') => self.redirection(String::new()),
                ';' | '&' | '|' | '(' | ')' => self.separator(),
                '0'..='9' => self.number(),
                _ => self.push_word(),
            }
        }
    }

    fn separator(&mut self) {
        const SEPARATORS: [(&str, &str); 9] = [
            ("&&", "&&"),
            ("||", "||"),
            ("|&", "|"),
            (";;", ";"),
            ("|", "|"),
            (";", ";"),
            ("&", "&"),
            ("(", "("),
            (")", ")"),
        ];
        if let Some((written, meant)) = SEPARATORS.into_iter().find(|(written, _)| self.starts_with(written))
        {
            self.at += written.len();
            self.tokens.push(Token::Separator(meant));
        }
    }

    /// Digits: the file descriptor of a redirection, or the start of a word.
    fn number(&mut self) {
        let digits: String = self.chars[self.at..].iter().take_while(|c| c.is_ascii_digit()).collect();
        match self.peek(digits.len()) {
            Some('<' | '>') => {
                self.at += digits.len();
                self.redirection(digits);
            }
            _ => self.push_word(),
        }
    }

    fn redirection(&mut self, mut operator: String) {
        const OPERATORS: [&str; 12] =
            ["&>>", "<<<", "<<-", "&>", "<<", ">>", ">&", "<&", "<>", ">|", "<", ">"];
        let Some(written) = OPERATORS.into_iter().find(|written| self.starts_with(written)) else { return };
        self.at += written.len();
        while self.peek(0).is_some_and(|c| c == ' ' || c == '\t') {
            self.at += 1;
        }
        let Word { text: target, .. } = self.word();
        let here_document = matches!(written, "<<" | "<<-");
        operator.push_str(if here_document { "<<" } else { written });
        if here_document {
            self.here_documents.push(HereDocument {
                token: self.tokens.len(),
                delimiter: target.clone(),
                strip_tabs: written == "<<-",
            });
        }
        self.tokens.push(Token::Redirection(Redirection {
            operator,
            target: if here_document { String::new() } else { target },
            body: String::new(),
        }));
    }

    fn read_here_documents(&mut self) {
        for HereDocument { token, delimiter, strip_tabs } in std::mem::take(&mut self.here_documents) {
            let mut text = String::new();
            while self.at < self.chars.len() {
                let line: String = self.chars[self.at..].iter().take_while(|&&c| c != '\n').collect();
                self.at = (self.at + line.chars().count() + 1).min(self.chars.len());
                let line = if strip_tabs { line.trim_start_matches('\t') } else { &line };
                if line == delimiter {
                    break;
                }
                text.push_str(line);
                text.push('\n');
            }
            if let Some(Token::Redirection(redirection)) = self.tokens.get_mut(token) {
                redirection.body = text;
            }
        }
    }

    fn push_word(&mut self) {
        let word = self.word();
        self.tokens.push(Token::Word(word));
    }

    fn word(&mut self) -> Word {
        let mut word = Word::default();
        let start = self.at;
        while let Some(c) = self.peek(0) {
            match c {
                '\\' => self.escaped(&mut word),
                '\'' => self.single_quoted(&mut word),
                '"' => self.double_quoted(&mut word),
                '$' if matches!(self.peek(1), Some('\'' | '"')) => self.at += 1,
                '$' | '`' => self.expansion(&mut word),
                '<' | '>' if self.at == start && self.peek(1) == Some('(') => self.expansion(&mut word),
                ';' | '&' | '|' | '(' | ')' | '<' | '>' => break,
                _ if c.is_whitespace() => break,
                _ => {
                    word.text.push(c);
                    self.at += 1;
                }
            }
        }
        word
    }

    fn escaped(&mut self, word: &mut Word) {
        match self.peek(1) {
            Some('\n') => {}
            Some(c) => word.text.push(c),
            None => word.text.push('\\'),
        }
        self.at = (self.at + 2).min(self.chars.len());
    }

    fn single_quoted(&mut self, word: &mut Word) {
        self.at += 1;
        while let Some(c) = self.peek(0) {
            self.at += 1;
            if c == '\'' {
                return;
            }
            word.text.push(c);
        }
    }

    fn double_quoted(&mut self, word: &mut Word) {
        self.at += 1;
        while let Some(c) = self.peek(0) {
            match c {
                '"' => {
                    self.at += 1;
                    return;
                }
                '\\' if matches!(self.peek(1), Some('$' | '`' | '"' | '\\' | '\n')) => self.escaped(word),
                '$' | '`' => self.expansion(word),
                _ => {
                    word.text.push(c);
                    self.at += 1;
                }
            }
        }
    }

    /// An expansion, kept as written; the script inside it is noted.
    fn expansion(&mut self, word: &mut Word) {
        let start = self.at;
        let (opening, closer) = match (self.peek(0), self.peek(1)) {
            (Some('`'), _) => (1, '`'),
            (_, Some('(')) => (2, ')'),
            (_, Some('{')) => (2, '}'),
            _ => {
                word.text.extend(self.peek(0));
                self.at += 1;
                return;
            }
        };
        self.at += opening;
        let closed = self.skip_past(closer);
        word.text.extend(&self.chars[start..self.at]);
        let arithmetic = self.chars[start..].starts_with(&['$', '(', '(']);
        if closer != '}' && !arithmetic {
            let end = self.at - usize::from(closed);
            word.substitutions.push(self.chars[start + opening..end].iter().collect());
        }
    }

    /// Moves past the next `closer` that is neither quoted nor another
    /// expansion's, or to the end; tells whether it was there.
    fn skip_past(&mut self, closer: char) -> bool {
        let mut closers = vec![closer];
        while let (Some(c), Some(&closer)) = (self.peek(0), closers.last()) {
            let expands = self.at > 0 && self.chars[self.at - 1] == '$';
            self.at += 1;
            match c {
                '\\' => self.at = (self.at + 1).min(self.chars.len()),
                _ if c == closer => {
                    closers.pop();
                }
                '\'' if closer != '"' => {
                    let rest = self.chars[self.at..].iter().position(|&c| c == '\'');
                    self.at = rest.map_or(self.chars.len(), |length| self.at + length + 1);
                }
                '"' | '`' => closers.push(c),
                '(' if expands || closer != '"' => closers.push(')'),
                '{' if expands => closers.push('}'),
                _ => {}
            }
        }
        closers.is_empty()
    }
}
