//! One judge's answers to a sample or canary.

use crate::error::{Error, ErrorKind};
use crate::judge::Assessment;
use crate::record::RecordedAnswer;

/// A judge's answer to one question in one order, as the record keeps it.
#[derive(Debug, Clone)]
pub(super) struct JudgedAnswer {
    /// Which of the answers to its question it is, from 1.
    pub(super) asked: u32,
    pub(super) answer: RecordedAnswer,
    /// Why it is missing, if the judge was asked.
    pub(super) error: Option<Error>,
}

/// One judge's word on a sample.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) preparation: Option<String>,
    /// The king-first order first.
    pub(super) answers: [JudgedAnswer; 2],
}

impl JudgedAnswer {
    /// The answer that stands, number `asked`.
    pub(super) fn standing(asked: u32, assessment: Assessment) -> Self {
        Self { asked, answer: RecordedAnswer::Answered(assessment.canonical()), error: None }
    }

    /// The judge could not find out.
    pub(super) fn failed(error: Error) -> Self {
        let missing = Self::missing(Some(error.kind()));
        Self { error: Some(error), ..missing }
    }

    fn missing(kind: Option<ErrorKind>) -> Self {
        Self { asked: 1, answer: RecordedAnswer::Missing { kind }, error: None }
    }

    fn void() -> Self {
        Self { asked: 1, answer: RecordedAnswer::Void, error: None }
    }

    /// What the judge found.
    pub(super) fn assessment(&self) -> Option<&Assessment> {
        match &self.answer {
            RecordedAnswer::Answered(assessment) => Some(assessment),
            RecordedAnswer::Missing { .. } | RecordedAnswer::Void => None,
        }
    }
}

impl Judged {
    /// The word of a judge that is not listened to.
    pub(super) fn void() -> Self {
        Self { preparation: None, answers: [JudgedAnswer::void(), JudgedAnswer::void()] }
    }

    /// There was no pair of replies to judge.
    pub(super) fn no_pair() -> Self {
        Self { preparation: None, answers: [JudgedAnswer::missing(None), JudgedAnswer::missing(None)] }
    }

    /// The judge could not be asked for `error`.
    pub(super) fn failed(error: Error) -> Self {
        let answers = [JudgedAnswer::failed(error.clone()), JudgedAnswer::failed(error)];
        Self { preparation: None, answers }
    }
}
