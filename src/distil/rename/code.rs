//! Which names a line of code defines.
//!
//! `for`, `as`, `from`, `import` and `class` are words of prose, too: one of them counts only
//! with the code around it that a definition has.

use std::ops::Range;

use super::{KEPT, Names, identifiers, is_part};

/// The longest line that is looked at, in bytes before and behind a name, so that text
/// without line breaks costs no more than other text. Source: chosen by albedo.
const MAX_LINE: usize = 1000;

/// Words that stand between two others in an expression.
const OPERATORS: [&str; 12] =
    ["and", "as", "async", "await", "else", "for", "if", "in", "is", "lambda", "not", "or"];

/// Adds to `found` what the keyword at `place` of `text` defines, and what it imports from
/// Python's library. `def` is not among these keywords.
pub(super) fn collect<'a>(text: &'a str, place: &Range<usize>, found: &mut Names<'a>) {
    let keyword = &text[place.clone()];
    if !["class", "except", "for", "from", "import", "with"].contains(&keyword) {
        return;
    }
    let Some((behind, ahead)) = line(text, place) else { return };
    let Some(ahead) = ahead.strip_prefix(' ') else { return };
    match keyword {
        "class" if begins(behind) => {
            if let Some(name) = name(ahead).filter(|name| ahead[name.len()..].starts_with(['(', ':', '['])) {
                found.define_attribute(name);
            }
        }
        "except" | "with" if begins(behind) => {
            for name in aliases(ahead) {
                found.define(name);
            }
        }
        "for" => {
            for name in targets(behind, ahead) {
                found.define(name);
            }
        }
        "from" if begins(behind) => {
            let Some((module, list)) = ahead.split_once(" import ") else { return };
            if !module.chars().all(|c| is_part(c) || c == '.') {
                return;
            }
            let package = module.trim_start_matches('.').split('.').next().unwrap_or_default();
            let is_library = found.is_library(package);
            if is_library {
                found.kept.insert(package);
            } else {
                found.define(package);
            }
            for (name, alias) in imported(list).0 {
                if is_library {
                    found.kept.insert(name);
                } else {
                    found.define_attribute(name);
                }
                if let Some(alias) = alias {
                    found.define(alias);
                }
            }
        }
        "import" if begins(behind) => {
            let (modules, true) = imported(ahead) else { return };
            for (module, alias) in modules {
                if found.is_library(module) {
                    found.kept.insert(module);
                    found.library.insert(alias.unwrap_or(module));
                } else {
                    found.define(module);
                }
                if let Some(alias) = alias {
                    found.define(alias);
                }
            }
        }
        _ => {}
    }
}

/// The identifier that `text` begins with.
pub(super) fn name(text: &str) -> Option<&str> {
    identifiers(text).next().filter(|place| place.start == 0).map(|place| &text[place])
}

/// The line around `place` of `text`, before and behind it; none if it is very long.
pub(super) fn line<'a>(text: &'a str, place: &Range<usize>) -> Option<(&'a str, &'a str)> {
    let behind = before(text, place.start)?;
    let ahead = &text.as_bytes()[place.end..];
    let end = match ahead.iter().take(MAX_LINE).position(|byte| *byte == b'\n') {
        Some(on) => place.end + on,
        None if ahead.len() < MAX_LINE => text.len(),
        None => return None,
    };
    Some((behind, &text[place.end..end]))
}

/// What the line of `text` has before `end`; none if that is very long.
pub(super) fn before(text: &str, end: usize) -> Option<&str> {
    let behind = &text.as_bytes()[..end];
    let start = match behind.iter().rev().take(MAX_LINE).position(|byte| *byte == b'\n') {
        Some(back) => end - back,
        None if behind.len() < MAX_LINE => 0,
        None => return None,
    };
    Some(&text[start..end])
}

/// The end of `text`, as much of it as is looked at.
pub(super) fn tail(text: &str) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(MAX_LINE))..]
}

/// Whether the call that is open at the end of this part of a line is one of a name of Python's.
pub(super) fn calls_python(behind: &str) -> bool {
    let mut closed = 0;
    for (at, c) in behind.char_indices().rev() {
        match c {
            ')' => closed += 1,
            '(' if closed > 0 => closed -= 1,
            '(' => {
                let before = &behind[..at];
                let called = &before[before.trim_end_matches(is_part).len()..];
                return KEPT.contains(called) && !before.contains("def ");
            }
            _ => {}
        }
    }
    false
}

/// Whether a statement can begin behind this part of a line: what `grep` or `diff` puts before
/// a line of code, a quote, or the end of another statement.
fn begins(behind: &str) -> bool {
    let margin = |c: char| c.is_whitespace() || c.is_ascii_digit() || ":-+>".contains(c);
    let written = behind.trim_end();
    let is_numbered = |rest: &str| rest.ends_with(|c: char| c.is_ascii_digit());
    behind.trim_start_matches(margin).is_empty()
        || written.ends_with(['"', '\'', '`', ';', '/'])
        || written.ends_with("@@")
        || written.strip_suffix([':', '-']).is_some_and(is_numbered)
}

/// Whether a bracket that only code writes is open at the end of this part of a line.
fn is_bracketed(behind: &str) -> bool {
    let (mut open, mut before) = (Vec::new(), ' ');
    for c in behind.chars() {
        match c {
            '[' | '{' => open.push(true),
            // A call; prose has a space before its brackets.
            '(' => open.push(before.is_ascii_alphanumeric() || "_([{".contains(before)),
            ')' | ']' | '}' => open.truncate(open.len().saturating_sub(1)),
            _ => {}
        }
        before = c;
    }
    open.contains(&true)
}

/// Whether no two words stand beside each other, as words of prose do.
fn is_expression(text: &str) -> bool {
    let mut before: Option<Range<usize>> = None;
    for place in identifiers(text) {
        if let Some(before) = before {
            let is_apart = text[before.end..place.start].bytes().any(|byte| byte != b' ');
            let is_operator = |place: &Range<usize>| OPERATORS.contains(&&text[place.clone()]);
            if !is_apart && !is_operator(&before) && !is_operator(&place) {
                return false;
            }
        }
        before = Some(place);
    }
    true
}

/// The targets of a `for` between these parts of a line: a statement's or a comprehension's.
fn targets<'a>(behind: &str, ahead: &'a str) -> Vec<&'a str> {
    let Some((targets, values)) = ahead.split_once(" in ") else { return Vec::new() };
    let whole = |target: &'a str| {
        let target = target.trim_matches([' ', '(', ')', '*']);
        name(target).filter(|name| name.len() == target.len())
    };
    let targets: Option<Vec<&str>> = targets.split(',').map(whole).collect();
    let is_indented = behind.ends_with("    ") || behind.ends_with('\t');
    let is_statement = begins(behind) && (is_indented || values.contains(':'));
    let values = values.split([':', '`', ';']).next().unwrap_or_default();
    match targets {
        Some(targets) if (is_statement || is_bracketed(behind)) && is_expression(values) => targets,
        _ => Vec::new(),
    }
}

/// The names in a list of imports, each with what it is called here if that is another name;
/// and whether the list is nothing else.
fn imported(list: &str) -> (Vec<(&str, Option<&str>)>, bool) {
    const AS: &str = " as ";
    let list = list.split(['"', '\'', '`', ';', '#', '\\']).next().unwrap_or_default();
    let mut found = Vec::new();
    for item in list.split(',') {
        let item = item.trim_matches(|c: char| c.is_whitespace() || "()".contains(c));
        let Some(name_of) = name(item) else { return (found, false) };
        let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let rest = item.trim_start_matches(goes_on);
        let alias = rest.strip_prefix(AS).and_then(name);
        found.push((name_of, alias));
        if rest.len() != alias.map_or(0, |alias| AS.len() + alias.len()) {
            return (found, false);
        }
    }
    (found, true)
}

/// What the values of a `with` or `except` are called behind their `as`.
fn aliases(ahead: &str) -> Vec<&str> {
    let Some((body, _)) = ahead.rsplit_once(':').filter(|(body, _)| is_expression(body)) else {
        return Vec::new();
    };
    let called = |rest| {
        name(rest).filter(|name| {
            let behind = &rest[name.len()..];
            behind.is_empty() || behind.starts_with([',', ')', ':'])
        })
    };
    body.split(" as ").skip(1).filter_map(called).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distil::rename::{names, renamed};
    use crate::{Message, MessageRole};

    /// What is found in `text`: names, and what is kept.
    fn found(text: &str) -> [Vec<&str>; 2] {
        let mut found = Names::default();
        for place in identifiers(text) {
            collect(text, &place, &mut found);
        }
        [found.replaced, found.kept].map(|set| set.into_iter().collect())
    }

    #[test]
    fn prose_defines_nothing() {
        for text in [
            "THOUGHT: I run the tests to see the failure for myself.",
            "Look for errors in the log: it has all of them.",
            "for errors in the following files:",
            "A state machine (see for states in the table) for customer orders.",
            "[Note: looked for matches in the whole file]",
            "As before, I read it line by line, as the other one, and import it as it is.",
            "import the module first",
            "with the fields as follows:",
            "except for the parts as said: none",
            "each class has: a name. The class of it (a long one)",
            "from scratch, from the import of it",
            "Money as whole cents with a currency code.",
        ] {
            assert_eq!(found(text), [Vec::<&str>::new(), Vec::new()], "{text}");
        }
    }

    #[test]
    fn code_defines_names_wherever_a_trajectory_shows_it() {
        for (text, names) in [
            ("for item in items:", &["item"][..]),
            ("    49\t    for key, (left, *rest) in table.items():", &["key", "left", "rest"]),
            ("+        for cell in row: print(cell)", &["cell"]),
            ("            for dx in (-1, 0, 1)", &["dx"]),
            ("board.py:12:    for index in board.free():", &["index"]),
            ("sed -i 's/for old_one in xs:/for new_one in xs:/' a.py", &["new_one", "old_one"]),
            ("THOUGHT: `sum(part for part in parts if part)` is wrong", &["part"]),
            ("    [name for name in names if name not in seen]", &["name"]),
            ("{k: v for pair in pairs}", &["pair"]),
            ("    [item for item in items if at is None or item > at]", &["item"]),
            ("class Board:", &["Board"]),
            ("@@ -21,7 +21,7 @@ class Board(Base):", &["Board"]),
            ("7:class Stack[T]:", &["Stack"]),
            ("import board as cm, paging", &["board", "cm", "paging"]),
            ("import demo.board", &["demo"]),
            ("python -c 'import board; print(board.x)'", &["board"]),
            ("from demo.board import Board, score as rate", &["Board", "demo", "rate", "score"]),
            ("python - <<'EOF'\nfrom .board import (Board,\n", &["Board", "board"]),
            ("    with open(path) as source, open(other) as target:", &["source", "target"]),
            ("except (KeyError, ValueError) as error:", &["error"]),
        ] {
            assert_eq!(found(text)[0], names, "{text}");
        }
    }

    #[test]
    fn what_is_imported_from_the_library_stays() {
        assert_eq!(
            found("from pathlib import Path, PurePath as Pure"),
            [vec!["Pure"], vec!["Path", "PurePath", "pathlib"]]
        );
        assert_eq!(found("from __future__ import annotations")[1], ["__future__", "annotations"]);
        assert_eq!(found("import json, board"), [vec!["board"], vec!["json"]]);
    }

    #[test]
    fn keyword_arguments_of_python_are_known() {
        for (behind, is_pythons) in [
            ("print(sorted(items, ", true),
            ("sorted(shift(items), ", true),
            ("sorted(shift(items, ", false),
            ("    def sorted(self, ", false),
            ("FAILED (", false),
            ("x ", false),
        ] {
            assert_eq!(calls_python(behind), is_pythons, "{behind}");
        }
    }

    #[test]
    fn long_lines_cost_no_more_than_others() {
        let text = format!("{}for item in items:", "x ".repeat(MAX_LINE));
        assert_eq!(found(&text)[0], [""; 0]);
        let text = format!("é\nfor item in items:\n{}", "é".repeat(MAX_LINE));
        assert_eq!(found(&text)[0], ["item"]);
        assert_eq!(tail(&"é".repeat(MAX_LINE)).chars().count(), MAX_LINE / 2);

        // Paths, lists, chains and definitions without a line break: if each name had all that stands before it, or
        // behind it, looked at, this test would take many minutes.
        let many = |part: &str| part.repeat(200_000);
        let list = format!("ab = 0\n{}total = 1", many("ab, "));
        let texts = [many("ab.py/"), list, format!("ab = 1\n{}", many("ab.")), many("def ab(")];
        for text in texts {
            let messages = [Message::new(MessageRole::User, text)];
            let defined = names(&messages, "demo/almanac").defined;
            assert!(defined.contains("ab") && !defined.contains("total"), "the line of `total` is very long");
            // A copy replaces a part of the words: one of some copies has another word for `ab`, everywhere.
            let text = |copy| renamed(&messages, "demo/almanac", 1, "almanac-1", copy)[0].content.clone();
            let copy = (1..20).map(text).find(|text| *text != messages[0].content).expect("another name");
            assert!(identifiers(&copy).all(|place| copy[place] != *"ab"), "{}", &copy[..40]);
        }
        let short = [Message::new(MessageRole::User, "ab, total = 1, 2")];
        assert!(names(&short, "demo/almanac").defined.contains("total"));
    }
}
