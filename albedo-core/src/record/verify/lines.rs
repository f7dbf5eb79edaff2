//! A line beside the one that it has to be.

use serde_json::Value;

use super::{OPERATION, wrong};
use crate::digest::canonical_json;
use crate::error::{Error, Result};
use crate::record::RecordLine;

/// Compares a line with what it has to be, byte for byte.
pub(super) fn compare_lines(number: usize, recorded: &RecordLine, actual: &RecordLine) -> Result<()> {
    if canonical_json(recorded)? == canonical_json(actual)? {
        return Ok(());
    }
    let value = |line| {
        serde_json::to_value(line)
            .map_err(|error| Error::bug(OPERATION, error.to_string()).with_source(error))
    };
    let (field, recorded, actual) = first_difference(&value(recorded)?, &value(actual)?, String::new());
    Err(wrong(number, format!("`{field}` does not follow from the lines before"))
        .with("recorded", recorded)
        .with("recomputed", actual))
}

/// The path of the first difference between two values, and both values there.
fn first_difference(recorded: &Value, actual: &Value, path: String) -> (String, Value, Value) {
    let inner = match (recorded, actual) {
        (Value::Object(recorded), Value::Object(actual)) => {
            recorded.keys().chain(actual.keys()).find_map(|key| {
                let (recorded, actual) = (recorded.get(key), actual.get(key));
                let point = if path.is_empty() { "" } else { "." };
                (recorded.map(Value::to_string) != actual.map(Value::to_string))
                    .then(|| (format!("{path}{point}{key}"), recorded, actual))
            })
        }
        (Value::Array(recorded), Value::Array(actual)) => {
            (0..recorded.len().max(actual.len())).find_map(|index| {
                let (recorded, actual) = (recorded.get(index), actual.get(index));
                (recorded.map(Value::to_string) != actual.map(Value::to_string))
                    .then(|| (format!("{path}[{index}]"), recorded, actual))
            })
        }
        _ => None,
    };
    match inner {
        Some((path, recorded, actual)) => {
            first_difference(recorded.unwrap_or(&Value::Null), actual.unwrap_or(&Value::Null), path)
        }
        None => (path, recorded.clone(), actual.clone()),
    }
}
