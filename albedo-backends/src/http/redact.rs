//! What of a server's words may be printed.

/// Most characters of a server's own words in an error.
const MAX_WORDS: usize = 300;

/// A quotation of a private text, in characters.
const QUOTATION: usize = 24;

/// As many characters of a secret in a row as may not be printed: servers shorten
/// what they quote.
const FRAGMENT: usize = 8;

/// `words` on one line of at most 300 characters, without `secrets`, without a
/// word that holds eight characters of one in a row, and without anything that
/// quotes 24 characters of one of the `private` texts.
pub fn redact<'a>(words: &str, secrets: &[&str], private: impl IntoIterator<Item = &'a str>) -> String {
    // What is not printed hides nothing between its letters.
    let mut words: String = words.chars().filter(|c| c.is_whitespace() || !c.is_control()).collect();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        words = words.replace(secret, "[key]");
    }
    let word =
        |word| if secrets.iter().any(|secret| shares(word, secret, FRAGMENT)) { "[key]" } else { word };
    let words = words.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    let words: String = words.chars().take(MAX_WORDS).collect();
    if private.into_iter().any(|text| shares(&words, text, QUOTATION)) {
        return "its words quote the prompt and are left out".into();
    }
    words
}

/// Whether `words` and `text` have `length` characters in a row in common.
fn shares(words: &str, text: &str, length: usize) -> bool {
    let starts: Vec<_> = words.char_indices().map(|(at, _)| at).chain([words.len()]).collect();
    starts.windows(length + 1).any(|window| text.contains(&words[window[0]..window[length]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_whole_or_shortened_are_left_out() {
        let key = "sk-abcdefghijklmnop";
        for (words, expected) in [
            ("the key sk-abcdefghijklmnop is wrong", "the key [key] is wrong"),
            ("Bearer=sk-abcdefghijklmnop;", "Bearer=[key];"),
            ("incorrect key: sk-abcdef***mnop", "incorrect key: [key]"),
            ("incorrect key: sk-ab***", "incorrect key: sk-ab***"),
            ("two\nlines\u{0}", "two lines"),
            ("sk-abcd\u{0}efghijklmnop", "[key]"),
        ] {
            assert_eq!(redact(words, &[key], []), expected);
        }
        assert_eq!(redact("a b", &[""], []), "a b");
        assert_eq!(redact(&"x ".repeat(1000), &[], []).len(), 300);
    }

    proptest! {
        #[test]
        fn no_secret_survives(secret in "[a-zA-Z0-9+/=_-]{8,40}", around in "[ -~\n]{0,40}", at in 0_usize..40) {
            let at = at.min(around.len());
            let words = format!("{}{secret}{}", &around[..at], &around[at..]);
            prop_assert!(!redact(&words, &[&secret], []).contains(&secret));
        }

        #[test]
        fn no_prompt_is_quoted(prompt in "([a-z]{2,9} ){8,12}[a-z]{2,9}", from in 0_usize..5) {
            let words = format!("your message \u{201c}{}\u{201d} was refused", &prompt[from..]);
            let told = redact(&words, &[], [prompt.as_str()]);
            prop_assert!(!told.contains(&prompt[from..]), "{}", told);
        }
    }
}
