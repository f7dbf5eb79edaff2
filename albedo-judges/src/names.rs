//! Names: the words of files, functions and variables in commands and texts.

/// Python's reserved words of three letters or more, and `self`, in byte
/// order: language, not something that a command could invent.
const RESERVED: [&str; 31] = [
    "False", "None", "True", "and", "assert", "async", "await", "break", "class", "continue", "def", "del",
    "elif", "else", "except", "finally", "for", "from", "global", "import", "lambda", "nonlocal", "not",
    "pass", "raise", "return", "self", "try", "while", "with", "yield",
];

/// The names in `text`: runs of at least three letters, digits and underscores
/// that do not start with a digit and are no reserved word. A character after a backslash belongs to
/// none, so that the `\b` and `\n` of patterns do not stick to names.
pub(crate) fn names(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    let runs = text.split(move |c: char| {
        let ends = escaped || !(c.is_alphanumeric() || c == '_');
        escaped = c == '\\' && !escaped;
        ends
    });
    runs.filter(|run| {
        let long_enough = run.chars().nth(2).is_some();
        long_enough && !run.starts_with(char::is_numeric) && RESERVED.binary_search(run).is_err()
    })
}

/// The insides of the string literals of program text in most languages:
/// between two equal quotes on one line, `\` escaping the next character.
pub(crate) fn string_literals(code: &str) -> impl Iterator<Item = &str> {
    let mut rest = code;
    std::iter::from_fn(move || {
        let start = rest.find(['\'', '"'])?;
        let quote = rest[start..].chars().next()?;
        let inside = &rest[start + 1..];
        let mut escaped = false;
        let end = inside.find(|c: char| {
            let ends = c == '\n' || (c == quote && !escaped);
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.unwrap_or(inside.len());
        rest = inside.get(end + 1..).unwrap_or("");
        Some(&inside[..end])
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reserved_words_are_in_order() {
        assert!(RESERVED.is_sorted());
        assert_eq!(names("grep 'def join' classes").collect::<Vec<_>>(), ["grep", "join", "classes"]);
    }

    #[test]
    fn names_are_words_of_code() {
        let found: Vec<_> = names(r"s/text\.split(\bparts, 12ab, x1_, ab)/größe\nnew/ 007").collect();
        assert_eq!(found, ["text", "split", "parts", "x1_", "größe", "new"]);
    }

    #[test]
    fn literals_end_at_their_quote_or_the_line() {
        let code = "Path(\"a'b.py\") + 'c\\'d' # don't\nx = \"last";
        assert_eq!(string_literals(code).collect::<Vec<_>>(), ["a'b.py", "c\\'d", "t", "last"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in any::<String>()) {
            prop_assert!(names(&text).all(|name| text.contains(name)));
            prop_assert!(string_literals(&text).all(|literal| text.contains(literal)));
        }
    }
}
