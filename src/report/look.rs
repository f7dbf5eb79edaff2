//! How text is laid out: the width at which it wraps, and whether it has colour.

use console::{Style, Term, measure_text_width};

/// Columns that prose takes at most, however wide the terminal is.
const WIDEST: usize = 100;

/// Columns below which nothing is squeezed further.
const NARROWEST: usize = 40;

/// Columns of the names before the values of a list.
const NAMES: usize = 12;

/// How text is laid out.
///
/// ```
/// use albedo::report::Look;
///
/// // As for a pipe: lines are as long as they are, and nothing has a colour.
/// assert_eq!(Look::plain(), Look::new(usize::MAX, false));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    width: usize,
    colour: bool,
}

/// A text of a stranger as a part of a line: what a terminal would obey, and what turns the order
/// of letters round, becomes visible.
pub(crate) fn line(text: &str) -> String {
    text.chars().map(printable).collect()
}

/// A control character, or one that turns the order of letters round, as a visible one.
pub(crate) fn printable(c: char) -> char {
    let turns_round = matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns_round { '\u{FFFD}' } else { c }
}

impl Look {
    /// Lines of at most `width` columns, with colour or without.
    pub const fn new(width: usize, colour: bool) -> Self {
        Self { width: if width < NARROWEST { NARROWEST } else { width }, colour }
    }

    /// Lines as long as they are, without colour: for pipes and files.
    pub const fn plain() -> Self {
        Self::new(usize::MAX, false)
    }

    /// That of standard output: a terminal's width, at most 100 columns, and colour
    /// unless `NO_COLOR` or `CLICOLOR=0` forbids it. Anything but a terminal gets
    /// [`Look::plain`], with colour if `CLICOLOR_FORCE` wants it.
    pub fn of_stdout() -> Self {
        Self::of(&Term::stdout(), console::colors_enabled())
    }

    /// That of standard error, likewise.
    pub fn of_stderr() -> Self {
        Self::of(&Term::stderr(), console::colors_enabled_stderr())
    }

    fn of(terminal: &Term, colour: bool) -> Self {
        let width = match terminal.size_checked() {
            Some((_, columns)) if terminal.is_term() => usize::from(columns).min(WIDEST),
            _ => usize::MAX,
        };
        Self::new(width, colour)
    }

    /// The width in columns.
    pub const fn width(self) -> usize {
        self.width
    }

    /// What is good news, or passed.
    pub fn good(self, text: &str) -> String {
        self.styled(&Style::new().green().bold(), text)
    }

    /// What is bad news, or failed.
    pub fn bad(self, text: &str) -> String {
        self.styled(&Style::new().red().bold(), text)
    }

    /// What a reader should look at.
    pub fn warning(self, text: &str) -> String {
        self.styled(&Style::new().yellow().bold(), text)
    }

    /// What stands out without being good or bad.
    pub fn strong(self, text: &str) -> String {
        self.styled(&Style::new().bold(), text)
    }

    /// What may be overlooked.
    pub fn faint(self, text: &str) -> String {
        self.styled(&Style::new().dim(), text)
    }

    fn styled(self, style: &Style, text: &str) -> String {
        style.clone().force_styling(self.colour).apply_to(text).to_string()
    }

    /// `text` in lines that fit, with its line break.
    pub fn paragraph(self, text: &str) -> String {
        self.hanging("", 0, text)
    }

    /// `name` and beside it `value`, whose further lines begin below the first.
    pub fn entry(self, name: &str, value: &str) -> String {
        self.hanging(name, NAMES, value)
    }

    /// `name` in a column of `indent`, and `text` to its right.
    pub fn hanging(self, name: &str, indent: usize, text: &str) -> String {
        let mut lines = String::new();
        let taken = measure_text_width(name);
        if taken > 0 && taken >= indent {
            // The name has a line of its own, unless both fit into one.
            if taken + 1 + measure_text_width(text) <= self.width && !text.contains('\n') {
                return format!("{name} {text}\n");
            }
            lines = format!("{name}\n");
        }
        for (number, line) in wrap(text, self.width.saturating_sub(indent)).iter().enumerate() {
            let before = if number == 0 && taken < indent { name } else { "" };
            let gap = indent - measure_text_width(before).min(indent);
            lines.push_str(format!("{before}{:gap$}{line}", "").trim_end());
            lines.push('\n');
        }
        lines
    }
}

/// Lines of at most `width` columns, broken between words; a longer word has a
/// line of its own. Line breaks of `text` stay.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let (mut line, mut taken) = (String::new(), 0_usize);
        for word in paragraph.split(' ') {
            let wide = measure_text_width(word);
            if taken > 0 && taken.saturating_add(1 + wide) > width {
                lines.push(std::mem::take(&mut line));
                taken = 0;
            } else if !line.is_empty() {
                line.push(' ');
                taken += 1;
            }
            line.push_str(word);
            taken += wide;
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_stranger_stays_on_its_line() {
        assert_eq!(line("Qwen3\nverified\u{1b}[2J\u{202e}ä"), "Qwen3\u{FFFD}verified\u{FFFD}[2J\u{FFFD}ä");
    }

    #[test]
    fn a_value_hangs_beside_its_name() {
        let look = Look::new(40, false);
        assert_eq!(
            look.entry("samples", "16 of 64 planned, 0 missing of 96 answers"),
            "samples     16 of 64 planned, 0 missing\n            of 96 answers\n"
        );
        assert_eq!(look.entry("a name that is long", "value"), "a name that is long value\n");
        assert_eq!(look.paragraph("one\n\ntwo"), "one\n\ntwo\n");
    }

    #[test]
    fn colour_is_there_only_if_it_is_wanted_and_takes_no_columns() {
        assert_eq!(Look::new(40, false).good("crowned"), "crowned");
        let green = Look::new(40, true).good("crowned");
        assert!(green.contains("\u{1b}[32m"), "{green:?}");
        assert_eq!(measure_text_width(&green), 7);
    }

    #[test]
    fn no_line_is_too_long_and_no_word_is_lost() {
        let words: Vec<_> = (0..400_usize).map(|number| "x".repeat(1 + number * number % 29)).collect();
        for width in 41..120 {
            let shown = Look::new(width, false).entry("name", &words.join(" "));
            assert!(shown.lines().all(|line| line.len() <= width), "{width}:\n{shown}");
            assert!(shown.split_whitespace().skip(1).eq(&words), "{width}:\n{shown}");
        }
    }
}
