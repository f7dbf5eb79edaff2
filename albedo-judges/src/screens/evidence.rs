//! What findings are made of.

use albedo_core::{Error, Finding, Result, ScreenStage, Subject};
use serde::Serialize;
use serde_json::{Value, json};

/// Problems that one finding lists; the rest are counted.
const MOST: usize = 32;

/// One rule that a submission breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// The rule, in a word.
    pub(crate) check: &'static str,
    /// The file, key or tensor that breaks it.
    pub(crate) of: String,
    /// What is wrong, in one line.
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(check: &'static str, of: &str, message: impl Into<String>) -> Self {
        Self { check, of: one_line(of), message: one_line(&message.into()) }
    }
}

/// `Rejected` with the problems, or `Clear` with `facts` if there is none.
pub(crate) fn finding(problems: &[Problem], facts: Value) -> Finding {
    if problems.is_empty() {
        return Finding::Clear(facts);
    }
    let listed = &problems[..problems.len().min(MOST)];
    Finding::Rejected(json!({ "problems": listed, "problems_in_all": problems.len(), "facts": facts }))
}

/// The error of a screen that is given another stage's subject.
pub(crate) fn wrong_stage(screen: &str, wants: ScreenStage, subject: &Subject<'_>) -> Error {
    Error::bug(
        format!("screen with `{screen}`"),
        format!("the subject is of stage {:?}, not {wants:?}", subject.stage()),
    )
}

/// `value` as evidence.
pub(crate) fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value)
        .map_err(|error| Error::bug("write the evidence", error.to_string()).with_source(error))
}

/// `text` in one line of at most 300 characters: it may quote a contestant.
pub(crate) fn one_line(text: &str) -> String {
    let line: String = text
        .chars()
        .take(300)
        .flat_map(|c| {
            let escaped = if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
            escaped.chars().collect::<Vec<_>>()
        })
        .collect();
    line
}
