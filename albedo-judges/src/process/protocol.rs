//! Version 1 of the protocol: what albedo and a program that judges write to each other.
//! `docs/process-judge-1.schema.json` describes the same messages.

use std::collections::{BTreeMap, BTreeSet};

use albedo_core::backend::Usage;
use albedo_core::{Candidate, Comparison, FinishReason, Message, Metric, Score};
use serde::{Deserialize, Serialize};

/// The version that this build speaks. A change that an older program or an older
/// albedo would misread raises it.
pub const VERSION: u32 = 1;

/// What a program is asked to be. One protocol serves several roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProgramRole {
    /// It compares replies.
    Judge,
}

/// The first line of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    protocol: u32,
    role: ProgramRole,
    /// What the program calls itself.
    pub name: String,
    /// The version of what it answers.
    pub version: String,
    /// The metrics that it can score.
    pub metrics: BTreeSet<Metric>,
    /// It puts replies before a model, so that canaries are put before it.
    #[serde(default)]
    pub canaries: bool,
    /// It needs each contestant's log-probabilities of the recorded reply.
    #[serde(default)]
    pub reference_scores: bool,
}

/// The part of a hello that every version has.
#[derive(Debug, Deserialize)]
struct AnyHello {
    #[serde(rename = "type")]
    kind: String,
    protocol: u32,
}

/// What albedo writes.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Question<'a> {
    Compare(Compare<'a>),
}

/// A question: which of two replies is better?
#[derive(Debug, Serialize)]
pub(super) struct Compare<'a> {
    id: u64,
    metrics: &'a BTreeSet<Metric>,
    messages: &'a [Message],
    reference: &'a str,
    first: Reply<'a>,
    second: Reply<'a>,
    nonce: String,
    fence: String,
}

#[derive(Debug, Serialize)]
struct Reply<'a> {
    text: &'a str,
    finish: FinishReason,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference_log_probs: Option<&'a [f32]>,
}

impl<'a> Reply<'a> {
    fn new(candidate: &'a Candidate) -> Self {
        Self {
            text: &candidate.text,
            finish: candidate.finish,
            reference_log_probs: candidate.reference_scores.as_deref().map(|scores| &scores.log_probs[..]),
        }
    }
}

impl<'a> Question<'a> {
    /// Question `id` about `comparison`, to be scored in `metrics`.
    pub(super) fn compare(id: u64, metrics: &'a BTreeSet<Metric>, comparison: &'a Comparison) -> Self {
        Self::Compare(Compare {
            id,
            metrics,
            messages: &comparison.messages,
            reference: &comparison.reference,
            first: Reply::new(&comparison.first),
            second: Reply::new(&comparison.second),
            nonce: comparison.marks.nonce_text(),
            fence: comparison.marks.fence_text(),
        })
    }
}

/// What a program writes after its hello: one line per question.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Answer {
    Scores(Scored),
    Abstain(Abstention),
    Error(Failure),
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scored {
    pub(super) id: u64,
    pub(super) scores: BTreeMap<Metric, Score>,
    #[serde(default)]
    pub(super) rationale: Option<String>,
    #[serde(default)]
    pub(super) usage: Option<Usage>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Abstention {
    pub(super) id: u64,
    pub(super) reason: String,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Failure {
    pub(super) id: u64,
    pub(super) message: String,
    /// The same question may be answered later.
    #[serde(default)]
    pub(super) retry: bool,
}

impl Answer {
    /// The question that it answers.
    pub(super) fn id(&self) -> u64 {
        match self {
            Self::Scores(Scored { id, .. })
            | Self::Abstain(Abstention { id, .. })
            | Self::Error(Failure { id, .. }) => *id,
        }
    }
}

/// Why a first line is no hello that this build understands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHello {
    /// It is of another version.
    Version(u32),
    /// It cannot be read.
    Unreadable(String),
}

/// The first line of a program, in its role.
pub(super) trait Greeting: std::fmt::Debug + PartialEq + Sized + Send + Sync {
    /// The hello in `line`.
    fn read(line: &[u8]) -> Result<Self, NoHello>;
}

impl Greeting for Hello {
    fn read(line: &[u8]) -> Result<Self, NoHello> {
        read_hello(line)
    }
}

/// Checks what every hello has.
pub(super) fn check_hello(line: &[u8]) -> Result<(), NoHello> {
    let any: AnyHello =
        serde_json::from_slice(line).map_err(|error| NoHello::Unreadable(error.to_string()))?;
    if any.kind != "hello" {
        return Err(NoHello::Unreadable(format!("its `type` is `{}`, not `hello`", any.kind)));
    }
    if any.protocol == VERSION { Ok(()) } else { Err(NoHello::Version(any.protocol)) }
}

/// The hello of a judge in `line`.
pub(super) fn read_hello(line: &[u8]) -> Result<Hello, NoHello> {
    let unreadable = |error: serde_json::Error| NoHello::Unreadable(error.to_string());
    check_hello(line)?;
    /// The tag is taken off before the fields are read.
    #[derive(Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    enum Tagged {
        Hello(Hello),
    }
    let Tagged::Hello(hello) = serde_json::from_slice(line).map_err(unreadable)?;
    match hello {
        Hello { name, .. } if name.trim().is_empty() => {
            Err(NoHello::Unreadable("its `name` is empty".into()))
        }
        Hello { metrics, .. } if metrics.is_empty() => {
            Err(NoHello::Unreadable("its `metrics` are empty".into()))
        }
        hello => Ok(hello),
    }
}

/// The answer in `line`, or why it is none.
pub(super) fn read_answer(line: &[u8]) -> Result<Answer, String> {
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELLO: &str =
        r#"{"type":"hello","protocol":1,"role":"judge","name":"a","version":"1","metrics":["progress"]}"#;

    #[test]
    fn a_hello_says_what_the_program_is() {
        let hello = read_hello(HELLO.as_bytes()).expect("a hello");
        assert_eq!((hello.name.as_str(), hello.metrics.len()), ("a", 1));
        assert!(!hello.canaries && !hello.reference_scores);
    }

    #[test]
    fn a_hello_that_cannot_be_understood_says_why() {
        let with = |from: &str, to: &str| read_hello(HELLO.replace(from, to).as_bytes());
        assert_eq!(with("\"protocol\":1", "\"protocol\":2,\"new\":[]"), Err(NoHello::Version(2)));
        for (from, to, why) in [
            ("\"hello\"", "\"scores\"", "not `hello`"),
            ("\"judge\"", "\"chain\"", "chain"),
            ("\"a\"", "\" \"", "`name` is empty"),
            ("[\"progress\"]", "[]", "`metrics` are empty"),
            ("progress", "speed", "speed"),
            ("\"version\"", "\"verzion\"", "verzion"),
            ("}", "", "EOF"),
        ] {
            let Err(NoHello::Unreadable(found)) = with(from, to) else { panic!("{to} was understood") };
            assert!(found.contains(why), "{found}");
        }
    }

    #[test]
    fn answers_are_read_strictly() {
        let scores = read_answer(br#"{"type":"scores","id":7,"scores":{"progress":1,"protocol":0.25}}"#);
        let Ok(Answer::Scores(Scored { id: 7, scores, rationale: None, usage: None })) = scores else {
            panic!("{scores:?}")
        };
        assert_eq!(scores[&Metric::Progress], Score::WIN);
        let failed = read_answer(br#"{"type":"error","id":8,"message":"no"}"#).expect("an answer");
        assert_eq!(failed, Answer::Error(Failure { id: 8, message: "no".into(), retry: false }));
        for (line, why) in [
            (r#"{"type":"scores","id":7,"scores":{"progress":1.5}}"#, "not between 0 and 1"),
            (r#"{"type":"scores","id":7,"scores":{"speed":1}}"#, "speed"),
            (r#"{"type":"scores","id":7,"scores":{},"rational":"x"}"#, "rational"),
            (r#"{"type":"scores","scores":{}}"#, "id"),
            (r#"{"type":"abstain","id":1}"#, "reason"),
            (r#"{"type":"hello"}"#, "hello"),
            ("loading the model", "expected value"),
            ("", "EOF"),
        ] {
            let found = read_answer(line.as_bytes()).expect_err(line);
            assert!(found.contains(why), "{found}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read_hello(&line), read_answer(&line));
        }
    }
}
