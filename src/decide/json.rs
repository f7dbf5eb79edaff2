//! JSON as Python writes it: with numbers that JSON does not have.

use std::borrow::Cow;

/// Python's words for such numbers.
const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// `json` with `null` in place of `NaN`, `Infinity` and `-Infinity`. Texts stay as they are.
pub(super) fn finite(json: &[u8]) -> Cow<'_, [u8]> {
    let (mut written, mut copied, mut at, mut in_text) = (Vec::new(), 0, 0, false);
    while at < json.len() {
        match json[at] {
            // The escaped character ends no text.
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'N' | b'I' | b'-' if !in_text => {
                if let Some(word) = WORDS.iter().find(|word| json[at..].starts_with(word)) {
                    written.extend_from_slice(&json[copied..at]);
                    written.extend_from_slice(b"null");
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    written.extend_from_slice(&json[copied..]);
    Cow::Owned(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_does_not_have_are_null_and_texts_stay() {
        for (python, json) in [
            ("NaN", "null"),
            (r#"{"a":NaN,"b":[-Infinity, Infinity,-1]}"#, r#"{"a":null,"b":[null, null,-1]}"#),
            (r#"{"NaN":"Infinity, \"NaN\" \\","b":NaN}"#, r#"{"NaN":"Infinity, \"NaN\" \\","b":null}"#),
            (r#"["\\",NaN,"NaN"#, r#"["\\",null,"NaN"#),
            ("[1, -2.5, true]", "[1, -2.5, true]"),
            ("\"\\", "\"\\"),
            ("", ""),
        ] {
            assert_eq!(finite(python.as_bytes()), json.as_bytes(), "{python}");
        }
        assert!(matches!(finite(b"{\"a\": -1}"), Cow::Borrowed(_)), "nothing is copied without need");
    }
}
