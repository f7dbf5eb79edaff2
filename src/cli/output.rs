//! What commands print.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::report::{self, Look, printable};
use crate::{Error, ErrorKind, Result};

/// Number of the shapes of `--json`, which `docs/machine-output.md` documents. A change
/// that could break a reader of a command's output raises that command's number; new
/// keys do not.
const SCHEMA: u32 = 1;

/// Standard output cannot be written.
#[derive(Debug)]
pub(super) struct Unwritable(io::Error);

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unwritable {}

/// Writes `text` to standard output. A pipe or a file has it as it is; a terminal, without what it would obey
/// except line breaks, tabs and colours. A reader that went away, as `head` does, is no error.
pub(super) fn print(text: &str) -> Result<()> {
    print_on(text).map(|_| ())
}

/// The same for one of many texts; `false` if the reader went away.
pub(super) fn print_on(text: &str) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    let is_terminal = stdout.is_terminal();
    printed(write_on(&mut stdout, is_terminal, "", text))
}

/// The same from the upper left of an empty screen, if it is a terminal.
pub(super) fn print_anew(text: &str) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    let is_terminal = stdout.is_terminal();
    printed(write_on(&mut stdout, is_terminal, "\x1b[2J\x1b[H", text))
}

/// Writes `text`; on a terminal without what it would obey, after the program's own `command`.
fn write_on(out: &mut impl Write, is_terminal: bool, command: &str, text: &str) -> io::Result<()> {
    if is_terminal {
        out.write_all(command.as_bytes())?;
        out.write_all(harmless(text).as_bytes())?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    out.flush()
}

fn printed(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            let unwritable = Unwritable(error);
            Err(Error::new(ErrorKind::Unavailable, "write standard output", unwritable.to_string())
                .with_source(unwritable))
        }
    }
}

/// Writes what `--json` of a command prints: `value` with the number of its shape in
/// `schema`. A list stands under `items`.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let fields = match serde_json::to_value(value).map_err(no_json)? {
        Value::Object(fields) => fields,
        Value::Array(items) => Map::from_iter([("items".to_owned(), Value::Array(items))]),
        value => Map::from_iter([("value".to_owned(), value)]),
    };
    let numbered: Map<_, _> = std::iter::once(("schema".to_owned(), json!(SCHEMA))).chain(fields).collect();
    print_foreign_json(&numbered)
}

/// Writes `value` as indented JSON whose shape is not albedo's to number: a JSON schema,
/// or a form that another program reads.
pub(super) fn print_foreign_json(value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value).map_err(no_json)?;
    print(&format!("{}\n", escaped(json)))
}

/// `json` with an escape in place of each character that a terminal would obey: JSON allows DEL and those from
/// U+0080 to U+009F as they are. A reader of the JSON has the same text.
pub(super) fn escaped(json: String) -> String {
    // The line breaks are the layout's: in a text they are escaped already.
    let obeyed = |c: char| c.is_control() && c != '\n';
    if !json.contains(obeyed) {
        return json;
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if obeyed(c) {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

fn no_json(error: serde_json::Error) -> Error {
    Error::bug("write JSON", error.to_string()).with_source(error)
}

/// Writes `error` to standard error, in one line whatever a file or a model put
/// into it; on a terminal, in lines that fit.
pub(super) fn print_error(error: &Error) {
    let look = Look::of_stderr();
    let message = report::line(&error.to_string());
    report::say(look.hanging(&look.bad("error:"), 7, &message).trim_end());
}

/// Says on standard error what is probably not meant, and that the command goes on.
pub(super) fn warn(text: &str) {
    let look = Look::of_stderr();
    report::say(look.hanging(&look.warning("warning:"), 9, &shown(text)).trim_end());
}

/// Says on standard error what the reader would not see otherwise.
pub(super) fn note(text: &str) {
    report::say(Look::of_stderr().hanging("note:", 6, &shown(text)).trim_end());
}

/// Says on standard error what to do next: commands of this program, each with what
/// it does.
pub(super) fn next(commands: &[(String, &str)]) {
    let program = program();
    let lines: Vec<_> = commands.iter().map(|(command, _)| format!("{program} {command}")).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    let longest = commands.iter().map(|(_, does)| does.chars().count()).max().unwrap_or_default();
    let look = Look::of_stderr();
    for (place, (line, (_, does))) in lines.iter().zip(commands).enumerate() {
        let before = if place == 0 { "next:" } else { "" };
        if width + longest + 9 <= look.width() {
            report::say(shown(&format!("{before:<6}{line:<width$}   {does}")).trim_end());
        } else {
            report::say(shown(&format!("{before:<6}{line}")).trim_end());
            report::say(look.hanging("", 8, does).trim_end());
        }
    }
}

/// `path` as a shell reads it as one word.
pub(super) fn word(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !path.is_empty() && path.chars().all(plain) {
        return path;
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}

/// The name that the program was started by: a program with plugins of its own
/// has its own name.
pub(super) fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_stem().and_then(|name| name.to_str());
    name.filter(|name| !name.is_empty()).unwrap_or("albedo").to_owned()
}

/// The name that data has for a variant, in words.
pub(super) fn words(variant: &impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(Value::String(name)) => name.replace('_', " "),
        _ => "unknown".into(),
    }
}

/// Returns a model's text as a terminal may show it: control characters, except
/// line breaks and tabs, become visible.
pub(super) fn shown(text: &str) -> String {
    shown_part(text.trim_end())
}

/// The same for a part of a text, whose end is kept.
pub(super) fn shown_part(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\t') { c } else { printable(c) }).collect()
}

/// `text` with nothing that a terminal obeys but line breaks, tabs, and the colours of [`Look`]: what a
/// record or a model's file brings must not move the cursor or name the window.
fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(obeyed) {
        return text.into();
    }
    let (mut harmless, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(next) = rest.chars().next() {
        let style = rest.strip_prefix("\u{1b}[").and_then(|style| {
            let end = style.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            style[end..].starts_with('m').then_some(2 + end + 1)
        });
        let (shown, length) = match style {
            Some(length) => (&rest[..length], length),
            None if obeyed(next) => ("\u{FFFD}", next.len_utf8()),
            None => (&rest[..next.len_utf8()], next.len_utf8()),
        };
        harmless.push_str(shown);
        rest = &rest[length..];
    }
    harmless.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;

    #[test]
    fn a_terminal_obeys_line_breaks_and_colours_alone() {
        let ours = "a\tb\n\u{1b}[1;32mverified\u{1b}[0m ä";
        assert!(matches!(harmless(ours), Cow::Owned(shown) if shown == ours));
        assert!(matches!(harmless("plain\n"), Cow::Borrowed("plain\n")));
        for (theirs, shown) in [
            ("x\u{1b}[2J\u{1b}]0;t\u{7}y", "x\u{FFFD}[2J\u{FFFD}]0;t\u{FFFD}y"),
            ("\u{1b}[", "\u{FFFD}["),
            ("a\rb\u{9b}2Jc", "a\u{FFFD}b\u{FFFD}2Jc"),
        ] {
            assert_eq!(harmless(theirs), shown);
        }
    }

    #[test]
    fn a_terminal_obeys_the_programs_own_command_and_not_that_of_a_text() {
        let written = |is_terminal| {
            let mut out = Vec::new();
            write_on(&mut out, is_terminal, "\x1b[2J\x1b[H", "a\x1b[2Jb\n").expect("writes");
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(written(true), "\x1b[2J\x1b[Ha\u{FFFD}[2Jb\n");
        assert_eq!(written(false), "a\x1b[2Jb\n");
    }

    #[test]
    fn json_has_escapes_for_what_a_terminal_obeys_and_the_same_text() {
        let text = "a\r\n\u{1b}[2J\u{7f}\u{9b}ä\t\u{2028}";
        let value = json!({ "text": text });
        for json in [value.to_string(), serde_json::to_string_pretty(&value).expect("writes")] {
            let written = escaped(json.clone());
            assert!(!written.contains(|c: char| c.is_control() && c != '\n'), "{written:?}");
            assert!(written.contains("\\u007f\\u009bä"), "{written}");
            assert_eq!(written.matches('\n').count(), json.matches('\n').count());
            assert_eq!(serde_json::from_str::<Value>(&written).expect("JSON"), value);
        }
        assert_eq!(escaped("{\n  \"ä\": 1\n}".into()), "{\n  \"ä\": 1\n}");
    }

    #[test]
    fn a_full_disk_under_standard_output_has_a_code_of_its_own() {
        let error = printed(Err(io::ErrorKind::StorageFull.into())).expect_err("a full disk");
        assert_eq!(Exit::of(&error), Exit::Output);
        let gone = printed(Err(io::ErrorKind::BrokenPipe.into()));
        assert!(!gone.expect("a reader that went away is no error"));
    }

    #[test]
    fn a_path_is_one_word() {
        for (path, quoted) in
            [("duels/a-1", "duels/a-1"), ("my duel", "'my duel'"), ("it's", "'it'\\''s'"), ("", "''")]
        {
            assert_eq!(word(Path::new(path)), quoted);
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(shown("a\x1b[2J\tb\nc \n"), "a\u{FFFD}[2J\tb\nc");
    }
}
