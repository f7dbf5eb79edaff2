//! Why a judge's word on a sample is missing, and what follows from that.
//!
//! A missing cell must win nobody a crown, and cost nobody one. Which of the two is
//! at stake depends on whether the *replies* caused it. So where a judge gives no
//! score, it is asked about neutral text in the same conversation (a *probe*):
//!
//! | the judge's answers | its answer to neutral text | the cell |
//! | --- | --- | --- |
//! | an outage, a rate limit, a time-out | not asked | [`Cause::Outage`] |
//! | refused | scored | [`Cause::Replies`], or lost by one side, see below |
//! | refused | refused | [`Cause::Question`] |
//! | cannot be read | scored | [`Cause::Replies`] |
//! | the judge abstains | scored | [`Cause::Replies`] |
//! | the judge abstains | it abstains | [`Cause::Question`] |
//! | any of these | anything else | [`Cause::Outage`] |
//! | not asked, it failed a canary before | | [`Cause::Void`] |
//!
//! A refusal is tied to a side by asking about each reply beside the neutral text,
//! twice, once in either order. If exactly one side is refused, both times, and the
//! other is scored both times, that side loses the cell.
//!
//! Everything here is a pure function.

use serde::{Deserialize, Serialize};

use crate::decision::RuleVersion;
use crate::error::{ErrorKind, Side};
use crate::judge::{Assessment, Metric};
use crate::panel::Cell;
use crate::record::RecordedAnswer;

/// The text of probes. Source: written for albedo, in the form of the replies that
/// its tasks record.
pub const NEUTRAL: &str = "THOUGHT: I look at the files first.\n\n```bash\nls\n```";

/// Why a cell is missing. Since record format 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Something of the validator's or a provider's failed, whatever the replies
    /// say. It may pass: the judge is asked again before the duel is lost by it.
    Outage,
    /// The judge answers neutral text, and not these replies.
    Replies,
    /// The judge does not answer neutral text in this conversation either: the
    /// contestants have no part in it, and it does not pass.
    Question,
    /// The judge had failed a canary before.
    Void,
}

impl Cause {
    /// Whether the cell is a win of the king in the second series of a duel
    /// ([`crate::decision::TwoSeries`]). What no contestant can cause and no time
    /// mends is a tie in both.
    pub fn counts_for_king(self) -> bool {
        matches!(self, Self::Outage | Self::Replies)
    }

    /// Whether the judge is asked again where the cell keeps a win from being shown.
    pub(crate) fn is_asked_again(self) -> bool {
        self != Self::Void
    }
}

/// What became of a question about neutral text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probed {
    /// The judge scored it.
    Scored,
    /// It abstained.
    Abstained,
    /// Its answers could not be read.
    Unreadable,
    /// The provider refused the text.
    Refused,
    /// There was no answer for another reason.
    Failed,
}

impl Probed {
    /// What `answer` says.
    pub(crate) fn of(answer: &RecordedAnswer) -> Self {
        match answer {
            RecordedAnswer::Answered(Assessment::Scored { .. }) | RecordedAnswer::Identical => Self::Scored,
            RecordedAnswer::Answered(Assessment::Abstained { .. }) => Self::Abstained,
            RecordedAnswer::Answered(Assessment::Unreadable { .. }) => Self::Unreadable,
            RecordedAnswer::Missing { kind: Some(ErrorKind::Refused) } => Self::Refused,
            RecordedAnswer::Missing { .. } | RecordedAnswer::Void => Self::Failed,
        }
    }
}

/// What a judge made of neutral text after it had given no score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    /// Neutral text beside itself.
    pub neutral: Probed,
    /// Each reply beside neutral text, if a provider refused the replies and not the
    /// neutral text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sides: Option<SideProbes>,
}

/// What a judge made of each reply beside neutral text: the reply first, then second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideProbes {
    /// The king's.
    pub king: [Probed; 2],
    /// The challenger's.
    pub challenger: [Probed; 2],
}

impl SideProbes {
    /// The one side whose reply is refused.
    fn refused(self) -> Option<Side> {
        let both = |probed: [Probed; 2], what| probed == [what; 2];
        let refused = |refused, other| both(refused, Probed::Refused) && both(other, Probed::Scored);
        if refused(self.king, self.challenger) {
            Some(Side::King)
        } else if refused(self.challenger, self.king) {
            Some(Side::Challenger)
        } else {
            None
        }
    }
}

/// Why a judge's two answers to a sample make no score. The greater one decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lack {
    Abstained,
    Unreadable,
    Refused,
    Outage,
    Void,
}

impl Lack {
    /// What `answers` lack; none if both are scored.
    pub(crate) fn of(answers: [&RecordedAnswer; 2]) -> Option<Self> {
        let lack = |answer: &RecordedAnswer| match (answer, Probed::of(answer)) {
            (RecordedAnswer::Void, _) => Some(Self::Void),
            (_, Probed::Scored) => None,
            (_, Probed::Abstained) => Some(Self::Abstained),
            (_, Probed::Unreadable) => Some(Self::Unreadable),
            (_, Probed::Refused) => Some(Self::Refused),
            (_, Probed::Failed) => Some(Self::Outage),
        };
        answers.into_iter().filter_map(lack).max()
    }

    /// Whether the judge is asked about neutral text.
    pub(crate) fn needs_probes(self) -> bool {
        matches!(self, Self::Abstained | Self::Unreadable | Self::Refused)
    }

    /// Whether it is asked about each reply, after `neutral`.
    pub(crate) fn needs_sides(self, neutral: Probed) -> bool {
        (self, neutral) == (Self::Refused, Probed::Scored)
    }

    /// Whether `probes` are those that this calls for.
    pub(crate) fn fits(this: Option<Self>, probes: Option<&Probes>) -> bool {
        match (this.filter(|lack| lack.needs_probes()), probes) {
            (None, None) => true,
            (Some(lack), Some(probes)) => lack.needs_sides(probes.neutral) == probes.sides.is_some(),
            _ => false,
        }
    }

    /// What the cell is missing for, or the side that loses it.
    fn settled(self, probes: Option<&Probes>) -> Result<Cause, Side> {
        match (self, probes.map(|probes| probes.neutral)) {
            (Self::Void, _) => Ok(Cause::Void),
            (Self::Refused, Some(Probed::Scored)) => {
                probes.and_then(|probes| probes.sides?.refused()).map_or(Ok(Cause::Replies), Err)
            }
            (Self::Unreadable | Self::Abstained, Some(Probed::Scored)) => Ok(Cause::Replies),
            (Self::Refused, Some(Probed::Refused)) | (Self::Abstained, Some(Probed::Abstained)) => {
                Ok(Cause::Question)
            }
            _ => Ok(Cause::Outage),
        }
    }
}

/// The cell of a judge with `metrics` whose answers are `answers`, the king-first
/// order first, and who made `probes` of neutral text.
pub(crate) fn cell(
    version: RuleVersion,
    metrics: &[Metric],
    answers: [&RecordedAnswer; 2],
    probes: Option<&Probes>,
) -> Cell {
    if answers.contains(&&RecordedAnswer::Identical) {
        return Cell::unjudged(metrics, 0.0);
    }
    let [king_first, challenger_first] = answers.map(RecordedAnswer::assessment);
    let cell = Cell::new(metrics, king_first, challenger_first);
    if version.is_first() || !cell.is_missing() {
        return cell;
    }
    match Lack::of(answers).unwrap_or(Lack::Outage).settled(probes) {
        Ok(cause) => Cell::MissingFor(cause),
        Err(Side::King) => Cell::unjudged(metrics, 1.0),
        Err(Side::Challenger) => Cell::unjudged(metrics, -1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Evidence, Score};

    const METRICS: [Metric; 1] = [Metric::Correctness];

    fn answer(probed: Probed) -> RecordedAnswer {
        match probed {
            Probed::Scored => {
                RecordedAnswer::Answered(Assessment::scored([(Metric::Correctness, Score::WIN)]))
            }
            Probed::Abstained => RecordedAnswer::Answered(Assessment::Abstained { reason: "no".into() }),
            Probed::Unreadable => RecordedAnswer::Answered(Assessment::Unreadable {
                reason: "no".into(),
                usage: None,
                evidence: Box::new(Evidence::default()),
            }),
            Probed::Refused => RecordedAnswer::Missing { kind: Some(ErrorKind::Refused) },
            Probed::Failed => RecordedAnswer::Missing { kind: Some(ErrorKind::Timeout) },
        }
    }

    fn settled(answers: [Probed; 2], probes: Option<Probes>) -> Cell {
        let [king_first, challenger_first] = answers.map(answer);
        cell(RuleVersion::Second, &METRICS, [&king_first, &challenger_first], probes.as_ref())
    }

    #[test]
    fn the_cause_follows_from_what_neutral_text_shows() {
        use Probed::{Abstained, Failed, Refused, Scored, Unreadable};
        for (answers, neutral, cause) in [
            ([Scored, Failed], None, Cause::Outage),
            ([Refused, Failed], None, Cause::Outage),
            ([Refused, Scored], Some(Refused), Cause::Question),
            ([Refused, Refused], Some(Failed), Cause::Outage),
            ([Refused, Unreadable], Some(Unreadable), Cause::Outage),
            ([Scored, Unreadable], Some(Scored), Cause::Replies),
            ([Scored, Unreadable], Some(Unreadable), Cause::Outage),
            ([Scored, Unreadable], Some(Abstained), Cause::Outage),
            ([Abstained, Abstained], Some(Abstained), Cause::Question),
            ([Abstained, Scored], Some(Scored), Cause::Replies),
            ([Abstained, Unreadable], Some(Abstained), Cause::Outage),
        ] {
            let probes = neutral.map(|neutral| Probes { neutral, sides: None });
            assert_eq!(settled(answers, probes), Cell::MissingFor(cause), "{answers:?} {neutral:?}");
        }
        let (void, scored) = (RecordedAnswer::Void, answer(Scored));
        let of = |version, answers| cell(version, &METRICS, answers, None);
        assert_eq!(of(RuleVersion::Second, [&void, &void]), Cell::MissingFor(Cause::Void));
        assert_eq!(of(RuleVersion::First, [&void, &void]), Cell::Missing);
        assert!(!of(RuleVersion::First, [&scored, &scored]).is_missing());
    }

    #[test]
    fn a_refusal_is_one_sides_loss_only_if_that_side_alone_is_refused_twice() {
        use Probed::{Failed, Refused, Scored};
        let lost = |difference| Cell::unjudged(&METRICS, difference);
        let missing = Cell::MissingFor(Cause::Replies);
        for (king, challenger, cell) in [
            ([Scored, Scored], [Refused, Refused], lost(-1.0)),
            ([Refused, Refused], [Scored, Scored], lost(1.0)),
            ([Refused, Refused], [Refused, Refused], missing.clone()),
            ([Scored, Scored], [Scored, Refused], missing.clone()),
            ([Scored, Failed], [Refused, Refused], missing.clone()),
            ([Scored, Scored], [Scored, Scored], missing.clone()),
        ] {
            let probes = Probes { neutral: Scored, sides: Some(SideProbes { king, challenger }) };
            assert_eq!(settled([Refused, Scored], Some(probes)), cell, "{king:?} {challenger:?}");
            assert_eq!(settled([Refused, Refused], Some(probes)), cell, "{king:?} {challenger:?}");
            // A judge that cannot be read takes no side's part.
            assert_eq!(settled([Probed::Unreadable, Scored], Some(probes)), missing);
        }
    }

    #[test]
    fn probes_are_what_the_answers_call_for() {
        let probes = |neutral, sides: bool| {
            let side = [Probed::Scored; 2];
            Probes { neutral, sides: sides.then_some(SideProbes { king: side, challenger: side }) }
        };
        let fits = |lack, probes: Option<Probes>| Lack::fits(lack, probes.as_ref());
        assert!(fits(None, None) && fits(Some(Lack::Outage), None) && fits(Some(Lack::Void), None));
        assert!(!fits(Some(Lack::Refused), None) && !fits(None, Some(probes(Probed::Scored, false))));
        assert!(fits(Some(Lack::Refused), Some(probes(Probed::Scored, true))));
        assert!(!fits(Some(Lack::Refused), Some(probes(Probed::Scored, false))));
        assert!(fits(Some(Lack::Refused), Some(probes(Probed::Refused, false))));
        assert!(!fits(Some(Lack::Unreadable), Some(probes(Probed::Scored, true))));
    }
}
