//! Reading a judge's answer: tolerant of how it is written, strict about what
//! it says.
//!
//! | part | accepted |
//! | --- | --- |
//! | object | anywhere in the answer, also inside a fence, a sentence or another object; of several with this question's nonce the last |
//! | keys | in any case, anything but letters and digits between the words; aliases below; of two that mean the same metric the first |
//! | value | a word for the first, for the second or for a tie, alone or in a short phrase that names nothing else and denies nothing |
//!
//! Not accepted: `true`, `null`, objects and lists as values, numbers other
//! than 0, 1 and 2, phrases that name both replies or deny ("model 1 not better
//! than model 2"), an object that lacks a metric, or the nonce.

use std::collections::BTreeMap;
use std::fmt;

use albedo_core::{Metric, Score};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Of a longer answer only this many last bytes are searched: more than any
/// verdict and the words around it, and a bound on the work.
const SEARCHED: usize = 64 << 10;

/// The key of the nonce.
pub(crate) const NONCE: &str = "nonce";

/// What the reference system's judges were seen to write for each metric.
const ALIASES: [(Metric, &[&str]); 5] = [
    (Metric::Correctness, &["correctness", "correct"]),
    (Metric::Grounding, &["grounding", "groundedness", "faithfulness"]),
    (Metric::Progress, &["progress", "task_progress"]),
    (Metric::Protocol, &["protocol", "format", "instruction_following"]),
    (Metric::Efficiency, &["efficiency", "conciseness"]),
];

/// The metric that `key` stands for.
pub(crate) fn metric(key: &str) -> Option<Metric> {
    let key = folded(key);
    ALIASES.iter().find(|(_, names)| names.contains(&key.as_str())).map(|(metric, _)| *metric)
}

/// The scores that `answer` gives the reply shown first, if it answers the
/// question of `nonce` in all five metrics.
///
/// # Errors
/// Why it cannot be read.
pub fn read_verdict(answer: &str, nonce: &str) -> Result<BTreeMap<Metric, Score>, String> {
    read_metrics(answer, nonce, &Metric::ALL)
}

/// The scores in `metrics` that `answer` gives the reply shown first, if it
/// answers the question of `nonce` in all of them. It may speak of others.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn read_metrics(
    answer: &str,
    nonce: &str,
    metrics: &[Metric],
) -> Result<BTreeMap<Metric, Score>, String> {
    let fields = last_with_nonce(answer, nonce)?;
    let mut scores = BTreeMap::new();
    for (key, value) in &fields {
        let Some(metric) = metric(key).filter(|metric| metrics.contains(metric)) else { continue };
        if scores.contains_key(&metric) {
            continue;
        }
        let score = outcome(value).ok_or_else(|| format!("`{metric}` has no value that can be read"))?;
        scores.insert(metric, score);
    }
    match metrics.iter().find(|metric| !scores.contains_key(metric)) {
        Some(metric) => Err(format!("`{metric}` is missing")),
        None => Ok(scores),
    }
}

/// The fields of the last object in `answer` that carries `nonce`.
///
/// # Errors
/// There is none.
pub(crate) fn last_with_nonce(answer: &str, nonce: &str) -> Result<Vec<(String, Value)>, String> {
    let (mut objects, mut last) = (0, None);
    for value in Objects::new(answer) {
        value.each_object(&mut |fields| {
            objects += 1;
            let carried = fields.iter().find(|(key, _)| folded(key) == NONCE).map(|(_, value)| value);
            if matches!(carried, Some(Value::Text(carried)) if carried.trim().eq_ignore_ascii_case(nonce)) {
                last = Some(fields.to_vec());
            }
        });
    }
    last.ok_or_else(|| match objects {
        0 => "there is no JSON object".into(),
        _ => "no object carries the nonce of this question".into(),
    })
}

/// Lower case; runs of anything but letters and digits as one `_`, none at the
/// ends.
fn folded(key: &str) -> String {
    let words = key.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("_")
}

/// The score of the reply shown first under `value`, if it says one thing.
fn outcome(value: &Value) -> Option<Score> {
    match value {
        Value::Number(number) => number_outcome(*number),
        Value::Text(text) => text_outcome(text),
        Value::Other | Value::Object(_) | Value::List(_) => None,
    }
}

fn number_outcome(number: f64) -> Option<Score> {
    match number {
        0.0 => Some(Score::TIE),
        1.0 => Some(Score::WIN),
        2.0 => Some(Score::LOSS),
        _ => None,
    }
}

/// Words that turn a phrase around, or make it say more than who is better.
const DENIALS: [&str; 28] = [
    "but", "cannot", "doesn", "don", "except", "fail", "failed", "fails", "however", "inferior", "isn",
    "less", "lose", "loses", "neither", "never", "no", "non", "none", "nor", "not", "over", "than", "unless",
    "unlike", "weaker", "worse", "wrong",
];

fn text_outcome(text: &str) -> Option<Score> {
    if let Ok(number) = text.trim().parse::<f64>() {
        return number_outcome(number);
    }
    let text = text.to_lowercase();
    let words: Vec<_> = text.split(|c: char| !(c.is_alphanumeric() || c == '.')).collect();
    let words: Vec<_> =
        words.iter().map(|word| word.trim_matches('.')).filter(|word| !word.is_empty()).collect();
    if words.iter().any(|word| DENIALS.contains(word)) {
        return None;
    }
    let mut said = None;
    for (place, &word) in words.iter().enumerate() {
        // "a" is a name alone or after "model", and an article elsewhere.
        let named = words.len() == 1
            || place
                .checked_sub(1)
                .is_some_and(|before| ["model", "response", "candidate", "reply"].contains(&words[before]));
        let score = match word {
            "1" | "first" | "model1" | "response1" | "candidate1" | "reply1" | "king" => Score::WIN,
            "2" | "second" | "model2" | "response2" | "candidate2" | "reply2" | "challenger" => Score::LOSS,
            "a" if named => Score::WIN,
            "b" if named => Score::LOSS,
            "0" | "draw" | "tie" | "equal" | "same" => Score::TIE,
            // "1.5", "10", "3": a number that means none of the three.
            other if other.starts_with(|c: char| c.is_ascii_digit()) => return None,
            _ => continue,
        };
        if said.is_some_and(|said| said != score) {
            return None;
        }
        said = Some(score);
    }
    said
}

/// A JSON value with its fields in order, repeated ones too.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
    /// `null`, `true`, `false`.
    Other,
}

impl Value {
    /// Calls `see` with every object in the value, inner ones first.
    pub(crate) fn each_object(&self, see: &mut impl FnMut(&[(String, Self)])) {
        match self {
            Self::List(items) => {
                for item in items {
                    item.each_object(see);
                }
            }
            Self::Object(fields) => {
                for (_, value) in fields {
                    value.each_object(see);
                }
                see(fields);
            }
            _ => {}
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Other)
            }

            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Number(number as f64))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value::Number(number as f64))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                Ok(Value::Number(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = access.next_entry()? {
                    fields.push(field);
                }
                Ok(Value::Object(fields))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// The objects that stand in a text, outermost ones; what is no JSON between
/// them is passed over.
pub(crate) struct Objects<'a>(&'a str);

impl<'a> Objects<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let start = text.ceil_char_boundary(text.len().saturating_sub(SEARCHED));
        Self(&text[start..])
    }
}

impl Iterator for Objects<'_> {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        loop {
            let start = self.0.find('{')?;
            let from = &self.0[start..];
            let mut values = serde_json::Deserializer::from_str(from).into_iter::<Value>();
            if let Some(Ok(value)) = values.next() {
                self.0 = &from[values.byte_offset()..];
                return Some(value);
            }
            self.0 = &from[1..];
        }
    }
}

#[cfg(test)]
mod tests;
