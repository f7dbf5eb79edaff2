//! The filter `tojson`, which transformers replaces by Python's `json.dumps`.

use std::fmt::Write;

use super::value::{Val, float};
use super::{Failed, Limits, Res};

/// What `json.dumps` takes.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) ascii: bool,
    /// What each level is indented by.
    pub(super) indent: Option<String>,
    /// Between items, and after keys.
    pub(super) separators: Option<(String, String)>,
    pub(super) sorted: bool,
}

/// `json.dumps(value)`.
pub(super) fn dumps(value: &Val<'_>, options: &Options, limits: &Limits) -> Res<String> {
    let between = if options.indent.is_some() { "," } else { ", " };
    let separators = options.separators.clone().unwrap_or_else(|| (between.into(), ": ".into()));
    let mut writer = Writer { options, separators, limits, out: String::new() };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    options: &'a Options,
    separators: (String, String),
    limits: &'a Limits,
    out: String,
}

impl Writer<'_> {
    fn value(&mut self, value: &Val<'_>, depth: usize) -> Res<()> {
        if depth > 100 {
            return Err(Failed::new("a value is nested too deeply"));
        }
        let before = self.out.len();
        match value {
            Val::None => self.out.push_str("null"),
            Val::Bool(truth) => self.out.push_str(if *truth { "true" } else { "false" }),
            // Writing to a string cannot fail.
            Val::Int(number) => _ = write!(self.out, "{number}"),
            Val::Float(number) => self.float(*number),
            Val::Str(text) | Val::Markup(text) => self.string(text),
            Val::List(items) | Val::Tuple(items) => {
                self.out.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.next(index, depth + 1)?;
                    self.value(item, depth + 1)?;
                }
                self.close(items.is_empty(), depth, ']')?;
            }
            Val::Dict(items) => {
                let mut items: Vec<_> =
                    items.iter().map(|(key, value)| Ok((key_text(key)?, key, value))).collect::<Res<_>>()?;
                if self.options.sorted {
                    for pair in items.windows(2) {
                        // Keys of several types have no order.
                        pair[0].1.order(pair[1].1, self.limits)?;
                    }
                    items.sort_by(|one, other| {
                        one.1.order(other.1, self.limits).unwrap_or(std::cmp::Ordering::Equal)
                    });
                }
                self.out.push('{');
                for (index, (text, _, item)) in items.iter().enumerate() {
                    self.next(index, depth + 1)?;
                    self.string(text);
                    self.limits.spend(self.separators.1.len())?;
                    self.out.push_str(&self.separators.1);
                    self.value(item, depth + 1)?;
                }
                self.close(items.is_empty(), depth, '}')?;
            }
            other => return Err(Failed::new(format!("a {} cannot be written as JSON", other.kind()))),
        }
        self.limits.spend(self.out.len() - before)
    }

    fn next(&mut self, index: usize, depth: usize) -> Res<()> {
        if index > 0 {
            self.limits.spend(self.separators.0.len())?;
            self.out.push_str(&self.separators.0);
        }
        self.line(depth)
    }

    fn close(&mut self, is_empty: bool, depth: usize, bracket: char) -> Res<()> {
        if !is_empty {
            self.line(depth)?;
        }
        self.out.push(bracket);
        Ok(())
    }

    fn line(&mut self, depth: usize) -> Res<()> {
        if let Some(indent) = &self.options.indent {
            self.limits.spend(indent.len().saturating_mul(depth))?;
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(&**indent, depth));
        }
        Ok(())
    }

    fn float(&mut self, number: f64) {
        match number {
            number if number.is_nan() => self.out.push_str("NaN"),
            number if number.is_infinite() => {
                self.out.push_str(if number > 0.0 { "Infinity" } else { "-Infinity" });
            }
            number => self.out.push_str(&float(number)),
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.options.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A key, which is text in JSON.
fn key_text(key: &Val<'_>) -> Res<String> {
    match key {
        Val::Str(text) => Ok(text.to_string()),
        Val::Bool(truth) => Ok(if *truth { "true" } else { "false" }.into()),
        Val::None => Ok("null".into()),
        Val::Int(number) => Ok(number.to_string()),
        Val::Float(number) => Ok(float(*number)),
        other => Err(Failed::new(format!("a {} cannot be a key of JSON", other.kind()))),
    }
}
