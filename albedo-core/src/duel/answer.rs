//! One judge's answers to a sample or canary.

use std::sync::Arc;

use crate::decision::RuleVersion;
use crate::error::{Error, ErrorKind, Side};
use crate::judge::{Assessment, Metric};
use crate::missing::{Probed, Probes};
use crate::record::RecordedAnswer;
use crate::twin::TwinCell;

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
    /// Replies and their twins, the king's first.
    pub(super) twins: Vec<JudgedTwin>,
    /// The king-first order first.
    pub(super) answers: [JudgedAnswer; 2],
    /// What it made of neutral text, if it gave no score.
    pub(super) probes: Option<Probes>,
}

/// A reply and its twin before one judge.
#[derive(Debug, Clone)]
pub(super) struct JudgedTwin {
    pub(super) side: Side,
    pub(super) drawn: bool,
    /// The twin and the answers about it, that with the reply shown first coming first; none if there was nothing to
    /// ask.
    pub(super) asked: Option<(Arc<str>, [JudgedAnswer; 2])>,
}

impl JudgedTwin {
    /// What came of it before judge `judge` with `metrics`.
    pub(super) fn cell(&self, judge: u32, metrics: &[Metric]) -> TwinCell {
        let answers = self.asked.as_ref().map(|(_, answers)| answers.each_ref().map(|judged| &judged.answer));
        TwinCell::new(judge, self.side, self.drawn, metrics, answers)
    }
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

    fn unasked(answer: RecordedAnswer) -> Self {
        Self { asked: 1, answer, error: None }
    }

    /// What the judge found.
    pub(super) fn assessment(&self) -> Option<&Assessment> {
        self.answer.assessment()
    }
}

impl Judged {
    /// The word of a judge that is not listened to.
    pub(super) fn void() -> Self {
        Self::of(JudgedAnswer::unasked(RecordedAnswer::Void))
    }

    /// Both replies are the same.
    pub(super) fn identical() -> Self {
        Self::of(JudgedAnswer::unasked(RecordedAnswer::Identical))
    }

    /// There was no pair of replies to judge.
    pub(super) fn no_pair() -> Self {
        Self::of(JudgedAnswer::missing(None))
    }

    /// The judge could not prepare itself for `error`. What is refused then is the
    /// conversation, since no reply was shown. The first version knows no probes.
    pub(super) fn unprepared(error: Error, version: RuleVersion) -> Self {
        let refused = error.kind() == ErrorKind::Refused && !version.is_first();
        let probes = refused.then_some(Probes { neutral: Probed::Refused, sides: None });
        Self { probes, ..Self::of(JudgedAnswer::failed(error)) }
    }

    /// `answer` in both orders.
    fn of(answer: JudgedAnswer) -> Self {
        Self { preparation: None, twins: Vec::new(), answers: [answer.clone(), answer], probes: None }
    }
}
