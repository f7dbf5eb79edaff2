//! Rubric `pairwise-5`: which reply is better in each of the five metrics.

use albedo_core::Metric;

use super::prompt::Form;

/// Its part of the system message.
pub(super) const INSTRUCTIONS: &str = "\
Compare them in five respects, each by itself:
- correctness: would the action it proposes do what it is meant to do?
- grounding: does it rest on what the session has shown, without invented files, names or results?
- progress: does it bring the task nearer to its end?
- protocol: does it keep the form that the session's rules ask for, with exactly one action?
- efficiency: does it do without needless steps and words?
Write \"first\" where the first reply is better, \"second\" where the second is, and \"tie\" where you see no difference.";

/// What the judge is asked.
pub(super) fn form() -> Form {
    Form {
        instructions: INSTRUCTIONS,
        questions: None,
        keys: Metric::ALL.map(|metric| metric.as_str().to_owned()).into(),
        words: &["first", "second", "tie"],
    }
}
