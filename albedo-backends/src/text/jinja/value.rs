//! Values of a template, and how Python prints, compares and adds them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;
use std::rc::Rc;

use super::eval::{Loop, Macro};
use super::{Failed, LOOKED, Limits, Res};

/// A value. Strings, lists and dictionaries cannot be changed, as in Jinja2's
/// immutable sandbox.
#[derive(Clone)]
pub(super) enum Val<'t> {
    /// Its name, for errors.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<str>),
    /// A string marked as safe or escaped.
    Markup(Rc<str>),
    List(Rc<Vec<Self>>),
    Tuple(Rc<Vec<Self>>),
    Dict(Rc<Vec<(Self, Self)>>),
    /// What can be gone through again and again, and is no list: a range, the items
    /// of a dictionary.
    View(&'static str, Rc<Vec<Self>>),
    /// What can be gone through once.
    Once(Rc<RefCell<VecDeque<Self>>>),
    Namespace(Rc<RefCell<Members<'t>>>),
    Loop(Rc<Loop<'t>>),
    Macro(Rc<Macro<'t>>),
    /// A function of the environment.
    Function(&'static str),
    /// A method and what it belongs to.
    Method(Rc<(Self, &'static str)>),
}

/// Attributes of a namespace.
pub(super) type Members<'t> = Vec<(Rc<str>, Val<'t>)>;

impl Val<'_> {
    pub(super) fn str(text: impl Into<Rc<str>>) -> Self {
        Self::Str(text.into())
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(Rc::new(items))
    }

    pub(super) fn once(items: Vec<Self>) -> Self {
        Self::Once(Rc::new(RefCell::new(items.into())))
    }

    pub(super) fn undefined(name: &str) -> Self {
        Self::Undefined(name.into())
    }

    /// What Python calls its type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "undefined",
            Self::None => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(kind, _) => kind,
            Self::Once(_) => "generator",
            Self::Namespace(_) => "namespace",
            Self::Loop(_) => "loop",
            Self::Macro(_) => "macro",
            Self::Function(_) | Self::Method(_) => "function",
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number that it is; true is 1.
    pub(super) fn int(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Bool(truth) => Some((*truth).into()),
            _ => None,
        }
    }

    pub(super) fn float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            other => other.int().map(|number| number as f64),
        }
    }

    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(truth) => *truth,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Str(text) | Self::Markup(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => !items.is_empty(),
            Self::Dict(items) => !items.is_empty(),
            Self::Loop(looping) => looping.length() > 0,
            _ => true,
        }
    }

    /// Its items, as a loop sees them. Each character of a text is one.
    pub(super) fn items(&self, limits: &Limits) -> Res<Vec<Self>> {
        match self {
            Self::Undefined(_) => Ok(Vec::new()),
            Self::Str(text) | Self::Markup(text) => {
                limits.spend_items(text.len())?;
                Ok(text.chars().map(|c| Self::str(c.to_string())).collect())
            }
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => {
                limits.take(items.len() as u64)?;
                Ok(items.to_vec())
            }
            Self::Dict(items) => {
                limits.take(items.len() as u64)?;
                Ok(items.iter().map(|(key, _)| key.clone()).collect())
            }
            Self::Once(items) => Ok(items.take().into()),
            other => Err(Failed::new(format!("a {} cannot be gone through", other.kind()))),
        }
    }

    pub(super) fn length(&self) -> Res<usize> {
        match self {
            Self::Undefined(_) => Ok(0),
            Self::Str(text) | Self::Markup(text) => Ok(text.chars().count()),
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => Ok(items.len()),
            Self::Dict(items) => Ok(items.len()),
            Self::Loop(looping) => Ok(looping.length()),
            other => Err(Failed::new(format!("a {} has no length", other.kind()))),
        }
    }

    /// Checks that no more than `most` lists and dictionaries lie in each other: whatever
    /// goes down into a value, and be it to drop it, takes a piece of the stack for each.
    pub(super) fn check_depth(&self, most: usize, limits: &Limits) -> Res<()> {
        if !matches!(self, Self::List(_) | Self::Tuple(_) | Self::View(..) | Self::Dict(_) | Self::Once(_)) {
            return Ok(());
        }
        let items = match self {
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => items.len(),
            Self::Dict(items) => 2 * items.len(),
            Self::Once(items) => items.borrow().len(),
            _ => 0,
        };
        limits.take(1 + items as u64 / LOOKED)?;
        let inside = |item: &Self| match most.checked_sub(1) {
            Some(most) => item.check_depth(most, limits),
            None => Err(Failed::new("a value is nested too deeply")),
        };
        match self {
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => {
                items.iter().try_for_each(inside)
            }
            Self::Dict(items) => {
                items.iter().try_for_each(|(key, value)| inside(key).and_then(|()| inside(value)))
            }
            Self::Once(items) => items.borrow().iter().try_for_each(inside),
            _ => Ok(()),
        }
    }

    /// The value of a dictionary under `key`.
    pub(super) fn entry(items: &[(Self, Self)], key: &Self, limits: &Limits) -> Res<Option<Self>> {
        for (known, value) in items {
            if known.equals(key, limits)? {
                return Ok(Some(value.clone()));
            }
        }
        Ok(None)
    }

    /// Whether `item` is one of `items`, and where.
    pub(super) fn place(items: &[Self], item: &Self, limits: &Limits) -> Res<Option<usize>> {
        for (place, known) in items.iter().enumerate() {
            if known.equals(item, limits)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Python's `==`.
    pub(super) fn equals(&self, other: &Self, limits: &Limits) -> Res<bool> {
        limits.step()?;
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => Ok(true),
            (Self::List(one), Self::List(other)) | (Self::Tuple(one), Self::Tuple(other)) => {
                Self::all_equal(one, other, limits)
            }
            (Self::View(one, items), Self::View(other, others)) => {
                Ok(one == other && Self::all_equal(items, others, limits)?)
            }
            (Self::Dict(one), Self::Dict(other)) => {
                if one.len() != other.len() {
                    return Ok(false);
                }
                for (key, value) in one.iter() {
                    match Self::entry(other, key, limits)? {
                        Some(other) if other.equals(value, limits)? => {}
                        _ => return Ok(false),
                    }
                }
                Ok(true)
            }
            (Self::Namespace(one), Self::Namespace(other)) => Ok(Rc::ptr_eq(one, other)),
            (Self::Macro(one), Self::Macro(other)) => Ok(Rc::ptr_eq(one, other)),
            (Self::Once(one), Self::Once(other)) => Ok(Rc::ptr_eq(one, other)),
            (Self::Function(one), Self::Function(other)) => Ok(one == other),
            _ => match (self.text(), other.text()) {
                (Some(one), Some(other)) => {
                    if one.len() == other.len() {
                        limits.compare(one, other)?;
                    }
                    Ok(one == other)
                }
                _ => Ok(match (self.int(), other.int()) {
                    (Some(one), Some(other)) => one == other,
                    _ => self.float().zip(other.float()).is_some_and(|(one, other)| one == other),
                }),
            },
        }
    }

    pub(super) fn all_equal(one: &[Self], other: &[Self], limits: &Limits) -> Res<bool> {
        if one.len() != other.len() {
            return Ok(false);
        }
        for (one, other) in one.iter().zip(other) {
            if !one.equals(other, limits)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Python's order.
    ///
    /// # Errors
    /// Values that have none.
    pub(super) fn order(&self, other: &Self, limits: &Limits) -> Res<std::cmp::Ordering> {
        limits.step()?;
        let unordered =
            || Failed::new(format!("a {} and a {} cannot be put in order", self.kind(), other.kind()));
        match (self, other) {
            (Self::List(one), Self::List(other)) | (Self::Tuple(one), Self::Tuple(other)) => {
                for (one, other) in one.iter().zip(other.iter()) {
                    if !one.equals(other, limits)? {
                        return one.order(other, limits);
                    }
                }
                Ok(one.len().cmp(&other.len()))
            }
            _ => match (self.text(), other.text()) {
                (Some(one), Some(other)) => {
                    limits.compare(one, other)?;
                    Ok(one.cmp(other))
                }
                _ => match (self.int(), other.int()) {
                    (Some(one), Some(other)) => Ok(one.cmp(&other)),
                    _ => self
                        .float()
                        .zip(other.float())
                        .and_then(|(one, other)| one.partial_cmp(&other))
                        .ok_or_else(unordered),
                },
            },
        }
    }

    /// Whether it holds `item`: Python's `in`.
    pub(super) fn holds(&self, item: &Self, limits: &Limits) -> Res<bool> {
        limits.look(self)?;
        match self {
            Self::Str(text) | Self::Markup(text) => match item.text() {
                Some(part) => Ok(text.contains(part)),
                None => Err(Failed::new(format!("a str cannot hold a {}", item.kind()))),
            },
            Self::Dict(items) => Ok(Self::entry(items, item, limits)?.is_some()),
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => {
                Ok(Self::place(items, item, limits)?.is_some())
            }
            other => Ok(Self::place(&other.items(limits)?, item, limits)?.is_some()),
        }
    }

    /// Python's `str`.
    pub(super) fn print(&self, limits: &Limits) -> Res<Rc<str>> {
        match self {
            Self::Str(text) | Self::Markup(text) => Ok(Rc::clone(text)),
            Self::Undefined(_) => Ok("".into()),
            other => {
                let mut text = String::new();
                other.repr(&mut text, limits, 0)?;
                Ok(text.into())
            }
        }
    }

    /// Python's `repr`.
    pub(super) fn repr(&self, out: &mut String, limits: &Limits, depth: u32) -> Res<()> {
        if depth > 100 {
            return Err(Failed::new("a value is nested too deeply"));
        }
        let before = out.len();
        let several = |out: &mut String, items: &[Self], open: &str, close: &str| {
            out.push_str(open);
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                item.repr(out, limits, depth + 1)?;
            }
            out.push_str(close);
            Ok(())
        };
        match self {
            Self::Undefined(_) => out.push_str("Undefined"),
            Self::None => out.push_str("None"),
            Self::Bool(true) => out.push_str("True"),
            Self::Bool(false) => out.push_str("False"),
            // Writing to a string cannot fail.
            Self::Int(number) => _ = write!(out, "{number}"),
            Self::Float(number) => out.push_str(&float(*number)),
            Self::Str(text) => quoted(text, out),
            Self::List(items) => several(out, items, "[", "]")?,
            Self::Tuple(items) => several(out, items, "(", if items.len() == 1 { ",)" } else { ")" })?,
            Self::Dict(items) => {
                out.push('{');
                for (index, (key, value)) in items.iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    key.repr(out, limits, depth + 1)?;
                    out.push_str(": ");
                    value.repr(out, limits, depth + 1)?;
                }
                out.push('}');
            }
            Self::View(kind @ ("dict_items" | "dict_keys" | "dict_values"), items) => {
                several(out, items, &format!("{kind}(["), "])")?;
            }
            // What Python prints of the others holds addresses in memory.
            other => return Err(Failed::new(format!("a {} cannot be printed", other.kind()))),
        }
        limits.spend(out.len() - before)
    }
}

/// Python's `repr` of a string.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => {
                let code = c as u32;
                _ = match code {
                    0..=0xFF => write!(out, "\\x{code:02x}"),
                    0x100..=0xFFFF => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Python's `str.isprintable`, for what texts hold: neither a separator but the
/// space, nor a control, format or private character.
fn is_printable(c: char) -> bool {
    let hidden = matches!(c,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0001}'..='\u{e007f}' | '\u{f0000}'..);
    c == ' ' || !(c.is_control() || c.is_whitespace() || hidden)
}

/// Python's `repr` of a float.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let exponent = format!("{number:e}");
    let (digits, power) = exponent.split_once('e').unwrap_or((&exponent, "0"));
    match power.parse::<i32>() {
        Ok(power) if !(-4..16).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", power.abs())
        }
        _ => format!("{number:?}"),
    }
}
