//! Chat templates, rendered as transformers renders them: by Jinja2's immutable
//! sandbox with `trim_blocks`, `lstrip_blocks`, loop controls, `{% generation %}`,
//! Python's `json.dumps` as `tojson`, `raise_exception` and `strftime_now`.
//!
//! Minijinja parses; what the parts of a template mean is here, since a prompt has to
//! be the one that the model was trained with, to the byte: `None` prints as Python
//! prints it, a string is a sequence, `'%s' % x` formats. What is not here is refused
//! by name, and never rendered as something else.
//!
//! A template comes with a model, from anybody: its size, its depth, its steps and
//! the bytes that it makes are bounded before and while it is rendered.

use std::cell::Cell;
use std::rc::Rc;

use albedo_core::Message;
use minijinja::machinery::{Token, WhitespaceConfig, ast, parse, tokenize};
use minijinja::syntax::SyntaxConfig;

use self::eval::Render;
use self::value::Val;

mod date;
mod eval;
mod filters;
mod format;
mod json;
mod methods;
mod ops;
mod predicates;
mod value;

pub(crate) use date::Date;

/// The longest template, in bytes. Source: albedo; the longest published ones have 20
/// KiB.
const MAX_TEMPLATE: usize = 64 << 10;

/// The longest prompt, in bytes. Source: albedo; two million tokens.
const MAX_OUTPUT: usize = 8 << 20;

/// Bytes of all texts that one rendering may make on its way.
const MAX_BYTES: u64 = 256 << 20;

/// Steps of one rendering: Qwen3's template takes about 60 per message, and one more per
/// 16 bytes whenever it looks for something in a text.
const MAX_STEPS: u64 = 10_000_000;

/// Bytes of a text, or items of a value, that are looked at in a step.
const LOOKED: u64 = 16;

/// How deep blocks, brackets and values lie in each other. Source: albedo; the deepest
/// published templates have 12.
const MAX_DEPTH: usize = 80;

/// Operators and names of one expression. Source: albedo.
const MAX_TOKENS: usize = 2000;

/// Why a template is not rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) message: String,
    /// From 1, where it is known.
    pub(crate) line: Option<u32>,
    /// It asks for today's date, and nobody gave one.
    pub(crate) wants_date: bool,
}

impl Failed {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: None, wants_date: false }
    }

    /// The same in `line`, unless a line within is known.
    fn at(mut self, line: u16) -> Self {
        self.line = self.line.or(Some(line.into()));
        self
    }
}

type Res<T> = std::result::Result<T, Failed>;

/// What is left for one rendering.
#[derive(Debug)]
struct Limits {
    steps: Cell<u64>,
    bytes: Cell<u64>,
}

impl Limits {
    fn new() -> Self {
        Self { steps: Cell::new(MAX_STEPS), bytes: Cell::new(MAX_BYTES) }
    }

    /// Takes a step.
    fn step(&self) -> Res<()> {
        self.take(1)
    }

    fn take(&self, steps: u64) -> Res<()> {
        let left = self.steps.get().checked_sub(steps);
        self.steps.set(left.ok_or_else(|| Failed::new("it takes too many steps"))?);
        Ok(())
    }

    /// Goes through `value` if it is a text, whatever comes of it.
    fn look(&self, value: &Val<'_>) -> Res<()> {
        self.take(value.text().map_or(0, str::len) as u64 / LOOKED)
    }

    /// Compares two texts.
    fn compare(&self, one: &str, other: &str) -> Res<()> {
        self.take(1 + one.len().min(other.len()) as u64 / LOOKED)
    }

    /// Makes a text of `bytes`.
    fn spend(&self, bytes: usize) -> Res<()> {
        if bytes > MAX_OUTPUT {
            return Err(Failed::new(format!("a text has more than {MAX_OUTPUT} bytes")));
        }
        let left = self.bytes.get().checked_sub(bytes as u64);
        self.bytes
            .set(left.ok_or_else(|| Failed::new(format!("its texts have more than {MAX_BYTES} bytes")))?);
        Ok(())
    }

    /// Makes a list of `items`.
    fn spend_items(&self, items: usize) -> Res<()> {
        self.spend(items.saturating_mul(32))?;
        self.take(items as u64)
    }
}

/// A template that was checked.
#[derive(Debug)]
pub(crate) struct Template {
    /// Its text, in the words that the parser knows.
    source: String,
    date: Option<Date>,
}

impl Template {
    /// The template `source`; `date` is what `strftime_now` tells.
    ///
    /// # Errors
    /// It is too large or too deep, it is no template, or it holds what is not
    /// supported.
    pub(crate) fn new(source: &str, date: Option<Date>) -> Res<Self> {
        if source.len() > MAX_TEMPLATE {
            return Err(Failed::new(format!("it has {} bytes, more than {MAX_TEMPLATE}", source.len())));
        }
        // Jinja2 ends every line with a line feed.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let template = Self { source: checked(&source)?, date };
        template.parsed()?;
        Ok(template)
    }

    /// The prompt for `messages`, with the generation prompt at the end; a template
    /// may name `special` tokens.
    ///
    /// # Errors
    /// Messages that the template refuses; what only shows when it is rendered.
    pub(crate) fn render(&self, messages: &[Message], special: &[(&str, &str)]) -> Res<String> {
        let message = |message: &Message| {
            let member = |key: &str, value: &str| (Val::str(key), Val::str(value));
            Val::Dict(Rc::new(vec![
                member("role", message.role.as_str()),
                member("content", &message.content),
            ]))
        };
        let mut context = vec![
            ("messages", Val::list(messages.iter().map(message).collect())),
            ("tools", Val::None),
            ("documents", Val::None),
            ("add_generation_prompt", Val::Bool(true)),
        ];
        let names = ["bos_token", "eos_token", "pad_token", "unk_token"];
        context.extend(names.into_iter().filter_map(|name| {
            let (_, token) = special.iter().find(|(known, _)| *known == name)?;
            Some((name, Val::str(*token)))
        }));
        let ast = self.parsed()?;
        let ast::Stmt::Template(template) = &ast else { return Err(Failed::new("it is no template")) };
        Render::new(&self.source, self.date).template(&template.children, context)
    }

    fn parsed(&self) -> Res<ast::Stmt<'_>> {
        parse(&self.source, "chat_template", SyntaxConfig, WHITESPACE).map_err(|error| refused(&error))
    }
}

const WHITESPACE: WhitespaceConfig =
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };

fn refused(error: &minijinja::Error) -> Failed {
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Failed { line: error.line().and_then(|line| line.try_into().ok()), ..Failed::new(message) }
}

/// `source` in the words that the parser knows: `{% generation %}` is a block of its
/// own scope, which is all that it is to a prompt.
///
/// # Errors
/// What the parser would read otherwise than Jinja2, or not come back from.
fn checked(source: &str) -> Res<String> {
    let mut rewritten = String::with_capacity(source.len());
    let (mut copied, mut brackets, mut blocks, mut tokens) = (0, 0_usize, Vec::<usize>::new(), 0);
    let (mut begins_block, mut sets) = (false, false);
    for token in tokenize(source, false, SyntaxConfig, WHITESPACE) {
        let (token, span) = token.map_err(|error| refused(&error))?;
        let fail = |message: &str| Err(Failed::new(message).at(span.start_line));
        let first = std::mem::replace(&mut begins_block, matches!(token, Token::BlockStart));
        tokens += 1;
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => (brackets, tokens) = (0, 0),
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => brackets += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                brackets = brackets.saturating_sub(1);
            }
            Token::Ident(name) if first => {
                let word = match name {
                    "generation" => Some("with"),
                    "endgeneration" => Some("endwith"),
                    _ => None,
                };
                if let Some(word) = word {
                    rewritten.push_str(&source[copied..span.start_offset as usize]);
                    rewritten.push_str(word);
                    copied = span.end_offset as usize;
                }
                match name {
                    "if" | "for" | "macro" | "call" | "filter" | "with" | "generation" => blocks.push(1),
                    "set" => sets = true,
                    // Each lies in the one before it.
                    "elif" => {
                        if let Some(block) = blocks.last_mut() {
                            *block += 1;
                        }
                    }
                    name if name.starts_with("end") => drop(blocks.pop()),
                    _ => {}
                }
            }
            // A `set` with a value has no end of its own.
            Token::Assign if brackets == 0 => sets = false,
            Token::BlockEnd if std::mem::take(&mut sets) => blocks.push(1),
            Token::Str(_) | Token::String(_) => {
                let text = &source[span.start_offset as usize..span.end_offset as usize];
                if let Some(escape) = unknown_escape(text) {
                    return fail(&format!("the escape `\\{}` is not supported", escape.escape_default()));
                }
            }
            _ => {}
        }
        if tokens > MAX_TOKENS {
            return fail("an expression is too long");
        }
        if brackets > MAX_DEPTH || blocks.iter().sum::<usize>() > 4 * MAX_DEPTH {
            return fail("it is nested too deeply");
        }
    }
    rewritten.push_str(&source[copied..]);
    Ok(rewritten)
}

/// An escape in a string that Python reads otherwise than the parser.
fn unknown_escape(text: &str) -> Option<char> {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            continue;
        }
        match chars.next() {
            Some(c @ ('/' | 'a' | 'v' | 'N' | 'U' | '\n')) => return Some(c),
            // Halves of surrogate pairs are characters of their own to Python.
            Some('u') if chars.as_str().get(..1).is_some_and(|digit| digit.eq_ignore_ascii_case("d")) => {
                let second = chars.as_str().chars().nth(1).unwrap_or('0');
                if second.is_ascii_hexdigit() && second > '7' {
                    return Some('u');
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
