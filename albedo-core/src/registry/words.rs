//! What serde says of a configuration, in the words of the person who wrote it.
//!
//! serde names Rust's types ("invalid type: string \"64\", expected u32"). The reader of
//! the message knows a file of tables, texts and numbers.

use super::names::nearest;
use crate::error::{Error, ErrorKind};

/// The longest value of a configuration that a message repeats, in characters.
/// Source: chosen by albedo.
const LONGEST: usize = 60;

/// What serde's `message` says of the setting at `path`, as an error of `operation`:
/// what stands there, what has to, and where possible how to write it.
#[doc(hidden)]
pub fn mistake(operation: &str, path: &str, message: &str) -> Error {
    let Words { message, hint } = Words::of(path, message);
    let mut error = Error::new(ErrorKind::ConfigInvalid, operation, message);
    if path != "." {
        error = error.with("key", path);
    }
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// A message and its remedy.
#[derive(Debug, PartialEq)]
struct Words {
    message: String,
    hint: Option<String>,
}

impl Words {
    fn of(path: &str, message: &str) -> Self {
        let words = unknown(message, "unknown field `", "key")
            .or_else(|| unknown(message, "unknown variant `", "value"))
            .or_else(|| missing(message))
            .or_else(|| without_settings(path, message))
            .or_else(|| wrong(path, message));
        words.unwrap_or_else(|| Self { message: message.to_owned(), hint: None })
    }
}

/// serde's "unknown field `x`, expected one of `a`, `b`", "… expected `a` or `b`" and
/// "…, there are no fields"; the same with "variant".
fn unknown(message: &str, start: &str, what: &str) -> Option<Words> {
    let (name, expected) = message.strip_prefix(start)?.split_once('`')?;
    let known: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(known) => format!("did you mean `{known}`?"),
        None if known.is_empty() => format!("leave it out: there is no {what} here"),
        None => format!("known: {}", known.join(", ")),
    };
    Some(Words { message: format!("unknown {what} `{}`", short(name)), hint: Some(hint) })
}

/// serde's "missing field `x`".
fn missing(message: &str) -> Option<Words> {
    let (name, _) = message.strip_prefix("missing field `")?.split_once('`')?;
    let hint = match name {
        "name" => "give the plugin's `name`; `albedo plugins` lists them".to_owned(),
        "judges" => {
            "add a table `[[judges]]` for each judge, for example with `name = \"protocol\"`".to_owned()
        }
        "king" | "challenger" => format!("add a table `[{name}]` with `path`, `name` or `ref`"),
        "tasks" => "add a table `[tasks]`, for example with `name = \"parquet\"` and `path`".to_owned(),
        _ => format!("add `{name}`; `albedo config schema` describes every key"),
    };
    Some(Words { message: format!("`{name}` is missing"), hint: Some(hint) })
}

/// A choice that has settings of its own and was given as a text. `path` ends with
/// it: `duel.terms.reign`.
fn without_settings(path: &str, message: &str) -> Option<Words> {
    if message != "invalid type: unit variant, expected struct variant" {
        return None;
    }
    let (outer, choice) = path.rsplit_once('.').unwrap_or(("", path));
    let key = outer.rsplit('.').next().filter(|key| !key.is_empty())?;
    Some(Words {
        message: format!("`{choice}` stands without its settings"),
        hint: Some(format!(
            "write `{key} = {{ {choice} = {{ … }} }}`; `albedo config schema` describes the settings"
        )),
    })
}

/// serde's "invalid type: X, expected Y" and "invalid value: X, expected Y".
fn wrong(path: &str, message: &str) -> Option<Words> {
    let rest = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let (found, expected) = (Found::of(found)?, Expected::of(expected));
    let key = path.rsplit('.').next().unwrap_or(path);
    Some(Words {
        message: format!("{found} stands where {expected} has to"),
        hint: remedy(key, &found, &expected),
    })
}

/// A value as it stands in the file.
#[derive(Debug, PartialEq)]
enum Found {
    Text(String),
    Number(String),
    Boolean(String),
    Table,
    List,
    Nothing,
}

impl Found {
    /// Of `serde::de::Unexpected` as it is displayed; JSON says `null` for a unit.
    fn of(text: &str) -> Option<Self> {
        let quoted = |start: &str| text.strip_prefix(start)?.strip_suffix('`').map(str::to_owned);
        Some(match text {
            "map" => Self::Table,
            "sequence" => Self::List,
            "null" | "unit value" | "Option value" => Self::Nothing,
            _ => {
                let string = text.strip_prefix("string \"").and_then(|rest| rest.strip_suffix('"'));
                return string
                    .map(|string| Self::Text(string.to_owned()))
                    .or_else(|| quoted("integer `").map(Self::Number))
                    .or_else(|| quoted("floating point `").map(Self::Number))
                    .or_else(|| quoted("boolean `").map(Self::Boolean));
            }
        })
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "the text \"{}\"", short(text)),
            Self::Number(number) | Self::Boolean(number) => f.write_str(number),
            Self::Table => f.write_str("a table"),
            Self::List => f.write_str("a list"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

/// What has to stand there.
#[derive(Debug, PartialEq)]
enum Expected {
    /// A whole number, and the greatest if there is one.
    Whole(Option<u64>),
    /// A whole number that may be negative.
    Signed,
    Number,
    Boolean,
    Text,
    List,
    Table,
    /// A table whose key `name` says what its other keys are.
    Named,
    Other(String),
}

impl Expected {
    /// Of what a type says that it expects.
    fn of(text: &str) -> Self {
        match text {
            "u8" => Self::Whole(Some(u8::MAX.into())),
            "u16" => Self::Whole(Some(u16::MAX.into())),
            "u32" => Self::Whole(Some(u32::MAX.into())),
            "u64" | "usize" => Self::Whole(None),
            "i8" | "i16" | "i32" | "i64" | "isize" => Self::Signed,
            "f32" | "f64" => Self::Number,
            "a boolean" => Self::Boolean,
            "a string" | "a borrowed string" | "path string" | "a character" => Self::Text,
            "a sequence" => Self::List,
            "struct PluginConfig" => Self::Named,
            "a map" => Self::Table,
            text if text.starts_with("internally tagged enum ") => Self::Named,
            text if text.starts_with("struct ") => Self::Table,
            text => Self::Other(text.to_owned()),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Whole(_) | Self::Signed | Self::Number)
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whole(Some(most)) => return write!(f, "a whole number from 0 to {most}"),
            Self::Whole(None) => "a whole number, 0 or more,",
            Self::Signed => "a whole number",
            Self::Number => "a number",
            Self::Boolean => "`true` or `false`",
            Self::Text => "a text in quotes",
            Self::List => "a list",
            Self::Table => "a table",
            Self::Named => "a table with a `name`",
            Self::Other(text) => text.as_str(),
        })
    }
}

/// How `key` is written instead, where that can be told.
fn remedy(key: &str, found: &Found, expected: &Expected) -> Option<String> {
    // A member of a list has no key of its own.
    let write = |value: String| {
        let whole = key.ends_with(']') || key == ".";
        Some(if whole { format!("write `{value}`") } else { format!("write `{key} = {value}`") })
    };
    match (found, expected) {
        (Found::Text(text), expected) if expected.is_number() && text.parse::<f64>().is_ok() => {
            write(text.clone()).map(|hint| format!("{hint}, without quotes"))
        }
        (Found::Text(text), Expected::Boolean) if text == "true" || text == "false" => {
            write(text.clone()).map(|hint| format!("{hint}, without quotes"))
        }
        (Found::Number(number), Expected::Whole(_) | Expected::Signed) => {
            let whole = number.strip_suffix(".0")?;
            write(whole.to_owned()).map(|hint| format!("{hint}, without a point"))
        }
        (Found::Number(value) | Found::Boolean(value), Expected::Text) => {
            write(format!("\"{value}\"")).map(|hint| format!("{hint}, in quotes"))
        }
        (Found::Text(text), Expected::Named) => write(format!("{{ name = \"{}\" }}", short(text))),
        (Found::Table, Expected::List) => {
            Some(format!("write `[[{key}]]`, with two brackets, once for each"))
        }
        (_, Expected::List) => write("[…]".to_owned()),
        (_, Expected::Table) => {
            write("{ … }".to_owned()).map(|hint| format!("{hint}; `albedo config schema` describes its keys"))
        }
        _ => None,
    }
}

/// Enough of `text` to recognise it.
fn short(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    fn said(path: &str, message: &str) -> String {
        mistake("read", path, message).to_string()
    }

    #[test]
    fn the_nearest_known_key_is_suggested_else_all_are_listed() {
        let one_of = "unknown field `sampels`, expected one of `seed`, `samples`, `rule`";
        assert_eq!(
            said("duel.sampels", one_of),
            "failed to read: unknown key `sampels` (key: duel.sampels); did you mean `samples`?"
        );
        let either = "unknown variant `majorty`, expected `margin` or `majority`";
        assert_eq!(said(".", either), "failed to read: unknown value `majorty`; did you mean `majority`?");
        let hint = |message| mistake("read", ".", message).hint().map(str::to_owned);
        let far = hint("unknown field `colour`, expected `seed` or `rule`");
        assert_eq!(far.as_deref(), Some("known: seed, rule"));
        let none = hint("unknown field `colour`, there are no fields");
        assert_eq!(none.as_deref(), Some("leave it out: there is no key here"));
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Settings {
        count: u32,
        ratio: f64,
        on: bool,
        label: String,
        list: Vec<u32>,
        inner: Inner,
        rule: Rule,
        terms: Terms,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Inner {
        size: u64,
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "name", rename_all = "snake_case")]
    enum Rule {
        Margin,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Terms {
        Reign {
            #[expect(dead_code, reason = "is only read")]
            share: f64,
        },
    }

    impl Default for Settings {
        fn default() -> Self {
            Self {
                count: 0,
                ratio: 0.0,
                on: false,
                label: String::new(),
                list: Vec::new(),
                inner: Inner::default(),
                rule: Rule::Margin,
                terms: Terms::Reign { share: 0.0 },
            }
        }
    }

    /// serde's real words, so that another version of it cannot make ours wrong.
    #[test]
    fn wrong_types_are_said_in_the_words_of_the_file() {
        for (settings, words) in [
            (
                json!({ "count": "64" }),
                "the text \"64\" stands where a whole number from 0 to 4294967295 has to (key: count); write \
                 `count = 64`, without quotes",
            ),
            (
                json!({ "count": -1 }),
                "-1 stands where a whole number from 0 to 4294967295 has to (key: count)",
            ),
            (json!({ "count": 64.0 }), "write `count = 64`, without a point"),
            (json!({ "count": 1.5 }), "1.5 stands where a whole number from 0 to 4294967295 has to"),
            (
                json!({ "count": 99_999_999_999_u64 }),
                "99999999999 stands where a whole number from 0 to 4294967295",
            ),
            (json!({ "ratio": "hot" }), "the text \"hot\" stands where a number has to (key: ratio)"),
            (json!({ "on": "true" }), "write `on = true`, without quotes"),
            (json!({ "on": 1 }), "1 stands where `true` or `false` has to"),
            (json!({ "label": 7 }), "write `label = \"7\"`, in quotes"),
            (json!({ "list": {} }), "a table stands where a list has to (key: list); write `[[list]]`"),
            (json!({ "list": 3 }), "write `list = […]`"),
            (json!({ "list": ["3"] }), "(key: list[0]); write `3`, without quotes"),
            (json!({ "inner": 0.7 }), "0.7 stands where a table has to (key: inner); write `inner = { … }`"),
            (json!({ "inner": { "size": -1 } }), "-1 stands where a whole number, 0 or more, has to"),
            (json!({ "rule": "margin" }), "write `rule = { name = \"margin\" }`"),
            (json!({ "rule": { "name": "margni" } }), "unknown value `margni`"),
            (
                json!({ "terms": "reign" }),
                "`reign` stands without its settings (key: terms.reign); write `terms = { reign = { … } }`",
            ),
            (json!({ "terms": { "reign": {} } }), "`share` is missing"),
            (json!({ "cuont": 3 }), "unknown key `cuont` (key: cuont); did you mean `count`?"),
        ] {
            let error = serde_path_to_error::deserialize::<_, Settings>(&settings).expect_err(words);
            let said = said(&error.path().to_string(), &error.inner().to_string());
            assert!(said.contains(words), "{said}\nhas not: {words}");
        }
    }

    #[test]
    fn a_long_value_is_cut_and_what_is_not_known_is_passed_on() {
        let long = said("label", &format!("unknown field `{}`, expected `a`", "x".repeat(500)));
        assert!(long.len() < 200, "{long}");
        for message in ["a seed is not negative", "invalid type: odd, expected more", "expected a comma"] {
            assert_eq!(said("seed", message), format!("failed to read: {message} (key: seed)"));
        }
        let value: Result<u32, _> = serde_json::from_value(Value::Null);
        let said = said("count", &value.expect_err("null").to_string());
        assert!(said.contains("nothing stands where a whole number"), "{said}");
    }
}
