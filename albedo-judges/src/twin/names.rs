//! Long names in a script.

use std::collections::BTreeSet;
use std::ops::Range;

/// Fewer words say nothing to a reader. Source: chosen by albedo.
const LEAST_PARTS: usize = 4;

/// Words after which a name is defined.
const DEFINING: [&str; 7] = ["def", "class", "fn", "func", "function", "struct", "sub"];

/// A name of several words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// All of it.
    pub(super) range: Range<usize>,
    /// Its words.
    pub(super) parts: Vec<Range<usize>>,
    /// The script defines it.
    pub(super) defined: bool,
}

/// The names of at least four words in `script`, in order. One that is defined somewhere is so everywhere.
pub(super) fn names(script: &str) -> Vec<Name> {
    let bytes = script.as_bytes();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let mut names = Vec::new();
    let mut at = 0;
    let mut word_before = "";
    while at < bytes.len() {
        if !is_name(bytes[at]) {
            if !bytes[at].is_ascii_whitespace() {
                word_before = "";
            }
            at += 1;
            continue;
        }
        let start = at;
        at += bytes[at..].iter().position(|&byte| !is_name(byte)).unwrap_or(bytes.len() - at);
        let parts = parts(script, start..at);
        if parts.len() >= LEAST_PARTS && bytes[start] != b'-' {
            names.push(Name { range: start..at, parts, defined: DEFINING.contains(&word_before) });
        }
        word_before = &script[start..at];
    }
    let text = |name: &Name| &script[name.range.clone()];
    let defined: BTreeSet<&str> = names.iter().filter(|name| name.defined).map(text).collect();
    for name in &mut names {
        name.defined = defined.contains(text(name));
    }
    names
}

/// The words of a name: split at `_`, at `-` and before a capital that follows a small letter.
fn parts(script: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let bytes = script.as_bytes();
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut start = None;
    for at in range.clone() {
        let letter = bytes[at].is_ascii_alphabetic();
        let turns = at > range.start && bytes[at - 1].is_ascii_lowercase() && bytes[at].is_ascii_uppercase();
        match start {
            Some(from) if !letter || turns => {
                parts.push(from..at);
                start = letter.then_some(at);
            }
            None if letter => start = Some(at),
            _ => {}
        }
    }
    parts.extend(start.map(|from| from..range.end));
    parts.retain(|part| part.len() > 1);
    parts
}
