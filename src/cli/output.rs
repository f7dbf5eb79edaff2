//! What commands print.

use std::io::{self, Write};

use crate::{Error, ErrorKind, Result};

/// Standard output cannot be written.
#[derive(Debug)]
pub(super) struct Unwritable(io::Error);

impl std::fmt::Display for Unwritable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unwritable {}

/// Writes `text` to standard output. A reader that went away, as `head` does, is
/// no error.
pub(super) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    printed(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

fn printed(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let unwritable = Unwritable(error);
            Err(Error::new(ErrorKind::Unavailable, "write standard output", unwritable.to_string())
                .with_source(unwritable))
        }
        _ => Ok(()),
    }
}

/// Writes `value` as indented JSON to standard output.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|error| Error::bug("write JSON", error.to_string()).with_source(error))?;
    print(&format!("{json}\n"))
}

/// Writes `error` to standard error, in one line whatever a file or a model put
/// into it.
pub(super) fn print_error(error: &Error) {
    let line: String = format!("error: {error}").chars().map(printable).collect();
    // A closed standard error is no reason to stop.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Returns a model's text as a terminal may show it: control characters, except
/// line breaks and tabs, become visible.
pub(super) fn shown(text: &str) -> String {
    text.trim_end().chars().map(|c| if matches!(c, '\n' | '\t') { c } else { printable(c) }).collect()
}

/// Replaces a control character, which a terminal would obey, by a visible one.
fn printable(c: char) -> char {
    if c.is_control() { '\u{FFFD}' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;

    #[test]
    fn a_full_disk_under_standard_output_has_a_code_of_its_own() {
        let error = printed(Err(io::ErrorKind::StorageFull.into())).expect_err("a full disk");
        assert_eq!(Exit::of(&error), Exit::Output);
        printed(Err(io::ErrorKind::BrokenPipe.into())).expect("a reader that went away is no error");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(shown("a\x1b[2J\tb\nc \n"), "a\u{FFFD}[2J\tb\nc");
    }
}
