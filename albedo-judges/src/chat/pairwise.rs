//! Rubrics `pairwise-5` and `grounding`: which reply is better in each of the
//! five metrics, or in grounding alone.

use albedo_core::Metric;

use super::prompt::Form;

/// The part of `pairwise-5` in the system message.
pub(super) const INSTRUCTIONS: &str = "\
Compare them in five respects, each by itself:
- correctness: would the action it proposes do what it is meant to do?
- grounding: does it rest on what the session has shown, without invented files, names or results?
- progress: does it bring the task nearer to its end?
- protocol: does it keep the form that the session's rules ask for, with exactly one action?
- efficiency: does it do without needless steps?
Write \"first\" where the first reply is better, \"second\" where the second is, and \"tie\" where you see no difference.";

/// The part of `grounding`.
pub(super) const GROUNDING: &str = "\
Compare them in one respect, grounding: does what it says and does rest on what the session has shown, without \
invented files, names or results?
Write \"first\" where the first reply is better, \"second\" where the second is, and \"tie\" where you see no difference.";

/// What the judge is asked about `metrics`: all five, or grounding.
pub(super) fn form(metrics: &[Metric]) -> Form {
    Form {
        instructions: if metrics == Metric::ALL { INSTRUCTIONS } else { GROUNDING },
        questions: None,
        keys: metrics.iter().map(|metric| metric.as_str().to_owned()).collect(),
        words: &["first", "second", "tie"],
    }
}
