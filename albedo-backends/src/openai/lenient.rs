//! JSON as servers write it, where it is not quite JSON.

use std::borrow::Cow;
use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

use serde_json::Value;

/// The value in `data`. Where it is no JSON, what cannot be read is replaced:
/// bytes that are no UTF-8 and halves of surrogate pairs by U+FFFD, numbers that
/// JSON does not have (`NaN`, `-Infinity`, `1e999`) by null, control characters in
/// strings by their escapes.
///
/// # Errors
/// That of reading `data` as it is, if it is no JSON even so.
pub(super) fn value(data: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(data)
        .or_else(|error| serde_json::from_str(&mended(&String::from_utf8_lossy(data))).map_err(|_| error))
}

/// The values that `data` begins with, one after the other, and how many of its
/// bytes they take.
pub(super) fn values(data: &[u8]) -> (Vec<Value>, usize) {
    let mut stream = serde_json::Deserializer::from_slice(data).into_iter::<Value>();
    let (mut values, mut end) = (Vec::new(), 0);
    while let Some(Ok(value)) = stream.next() {
        values.push(value);
        end = stream.byte_offset();
    }
    if values.is_empty()
        && let Ok(value) = value(data)
    {
        return (vec![value], data.len());
    }
    (values, end)
}

fn mended(text: &str) -> String {
    let mut mended = String::with_capacity(text.len() + 16);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                mended.push('"');
                string(&mut rest, &mut mended);
            }
            c if is_word(c) => {
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|&c| is_word(c)) {
                    word.push(c);
                }
                let known = serde_json::from_str::<Value>(&word).is_ok();
                mended.push_str(if known { &word } else { "null" });
            }
            c => mended.push(c),
        }
    }
    mended
}

/// A character of a number or a name.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

/// The rest of a string, with its closing quote.
fn string(rest: &mut Peekable<Chars<'_>>, mended: &mut String) {
    while let Some(c) = rest.next() {
        match c {
            '"' => return mended.push('"'),
            '\\' => escape(rest, mended),
            c if c < ' ' => unit_escape(c as u32, mended),
            c => mended.push(c),
        }
    }
}

/// What follows a backslash.
fn escape(rest: &mut Peekable<Chars<'_>>, mended: &mut String) {
    const UNKNOWN: &str = "\\ufffd";
    match rest.next() {
        Some('u') => {
            let Some(unit) = unit(rest) else { return mended.push_str(UNKNOWN) };
            if !(0xD800..0xE000).contains(&unit) {
                return unit_escape(unit, mended);
            }
            let mut after = rest.clone();
            let low = (after.next() == Some('\\') && after.next() == Some('u'))
                .then(|| self::unit(&mut after))
                .flatten()
                .filter(|low| unit < 0xDC00 && (0xDC00..0xE000).contains(low));
            match low {
                Some(low) => {
                    *rest = after;
                    unit_escape(unit, mended);
                    unit_escape(low, mended);
                }
                None => mended.push_str(UNKNOWN),
            }
        }
        Some(c @ ('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't')) => mended.extend(['\\', c]),
        // No escape: the backslash stands for itself.
        Some(c) if c >= ' ' => mended.extend(['\\', '\\', c]),
        _ => mended.push_str(UNKNOWN),
    }
}

fn unit_escape(unit: u32, mended: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(mended, "\\u{unit:04x}");
}

/// Four hexadecimal digits.
fn unit(rest: &mut Peekable<Chars<'_>>) -> Option<u32> {
    let mut unit = 0;
    for _ in 0..4 {
        unit = unit * 16 + rest.next_if(char::is_ascii_hexdigit)?.to_digit(16)?;
    }
    Some(unit)
}

/// The whole number that `value` is, whatever its spelling; `None` for anything
/// else.
pub(super) fn count(value: &Value) -> Option<u32> {
    let number = number(value)?;
    (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}

/// The finite number that `value` is, as a number or as text.
pub(super) fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().trim_start_matches('$').parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// The text that `value` is, or that its parts are.
pub(super) fn text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>().concat().into(),
        Value::Object(part) => part.get("text").map(text).unwrap_or_default(),
        _ => Cow::Borrowed(""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_replaced_and_nothing_else() {
        for (text, expected) in [
            (
                &b"{\"a\": NaN, \"b\": -Infinity, \"c\": 1e999}"[..],
                json!({ "a": null, "b": null, "c": null }),
            ),
            (b"\"caf\xc3\"", json!("caf\u{fffd}")),
            (br#""\ud83d\ude00""#, json!("😀")),
            (br#""a\ud83d b""#, json!("a\u{fffd} b")),
            (br#""a\udE00\n""#, json!("a\u{fffd}\n")),
            (br#""\ud83d\ud83d\ude00""#, json!("\u{fffd}😀")),
            (br#""\u12""#, json!("\u{fffd}")),
            (b"\"two\nlines\ttabbed\"", json!("two\nlines\ttabbed")),
            (br#""5 \$ and a\_b""#, json!(r"5 \$ and a\_b")),
            (br#"[true, false, null, -1.5e3, "NaN"]"#, json!([true, false, null, -1500.0, "NaN"])),
        ] {
            assert_eq!(value(text).expect("read"), expected, "{}", String::from_utf8_lossy(text));
        }
        for text in [&b"{\"cho"[..], b"", b"garbage here", b"{\"a\" 1}", b"\"open"] {
            assert!(value(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn numbers_are_read_in_every_spelling() {
        assert_eq!(count(&json!("12")), Some(12));
        assert_eq!(count(&json!(12.0)), Some(12));
        for unreadable in [json!(null), json!(-1), json!(1.5), json!("many"), json!([1]), json!(1e12)] {
            assert_eq!(count(&unreadable), None, "{unreadable}");
        }
        assert_eq!(number(&json!("$0.0012")), Some(0.0012));
        assert_eq!(number(&json!("NaN")), None);
    }

    proptest! {
        #[test]
        fn good_json_stays_as_it_is(text in any::<String>(), number in any::<f32>()) {
            let good = json!({ "text": text, "number": number, "list": [1, true, null] });
            let read: Value = serde_json::from_str(&mended(&good.to_string())).expect("still JSON");
            prop_assert_eq!(read, good);
        }
    }
}
