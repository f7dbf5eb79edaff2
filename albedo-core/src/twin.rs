//! Self-twins: whether the text of a reply talks to the judge.
//!
//! A judge that reads replies can be talked to by what an action prints, names or writes. So it is asked about some
//! replies beside their own *twin*: the same action without prose, in which nonce words stand for words that the
//! action's outcome does not need ([`Judge::twin`](crate::Judge::twin)). Equal actions must tie. A reply that beats its twin by more than
//! [`MAX_GAIN`] talks to the judge, and its twin is judged in its place.
//!
//! A reply is compared with its twin
//!
//! - if its sample is *drawn*: one in [`TwinSettings::share`], by the duel's seed, and then the replies of both sides;
//! - if the judge *suspects* it ([`Twin::suspected`]).
//!
//! Where the judge would be shown the same of both there is nothing to ask: they tie.
//!
//! The drawn samples are a fair sample of the duel, whatever the replies say. There the *delta* is taken, the gain of the
//! challenger's replies over their twins minus that of the king's, with a confidence sequence. It stands beside the
//! verdict and raises an alert where it is not 0. It decides nothing.
//!
//! Everything here is a pure function.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decision::{Bets, Population, confidence_sequence_of};
use crate::error::Side;
use crate::judge::Metric;
use crate::panel::{Cell, Cluster};
use crate::plan::DuelPlan;
use crate::record::RecordedAnswer;
use crate::rng::{Stream, Use, derive_seed};
use crate::seed::Seed;
use crate::stats::Interval;

/// A reply that beats its twin by more than this, in [−1, 1], talks to the judge. Source: the bound of the canary
/// `self-pair`; of five metrics, three have to be won in both orders.
pub const MAX_GAIN: f64 = 0.5;

/// Chance that the confidence sequence of the delta ever misses it. Source: the level of every interval of a verdict.
const ALPHA: f64 = 0.05;

/// When judges that read replies compare a reply with its twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TwinSettings {
    /// One of so many samples in a row is drawn, whatever its replies say. 0 switches twins off, also for replies that a judge
    /// suspects.
    pub share: u32,
}

/// One in 16: at most 12.5 % more questions, and eight drawn samples in a duel of 128. Source: chosen by albedo.
impl Default for TwinSettings {
    fn default() -> Self {
        Self { share: 16 }
    }
}

impl TwinSettings {
    /// No twins.
    pub const OFF: Self = Self { share: 0 };

    /// Whether there are no twins.
    pub fn is_off(self) -> bool {
        self.share == 0
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a duel with `seed` draws sample `sample`: of every [`TwinSettings::share`] samples in a row the one whose
    /// place among them is the first number of their stream. So no duel draws more than its share.
    pub fn draws(self, seed: &Seed, sample: u32) -> bool {
        let Some(run) = sample.checked_div(self.share) else { return false };
        let drawn = derive_seed("twin", &[seed.as_bytes(), &run.to_le_bytes()]);
        let place = Stream::new(drawn, Use::RowDraw).below(u64::from(self.share));
        place == u64::from(sample % self.share)
    }
}

/// The seed of the nonce words in the twins of sample `sample`: one for both sides, so that exchanging them changes
/// nothing.
pub(crate) fn words(seed: &Seed, sample: u32) -> u64 {
    derive_seed("twin words", &[seed.as_bytes(), &sample.to_le_bytes()])
}

/// The twin of a reply, as a judge makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// A reply with the same action.
    pub text: String,
    /// What the twin leaves out may talk to a reader: the judge is asked whether the sample is drawn or not.
    pub suspected: bool,
}

/// What came of one reply and its twin before one judge. Since record format 3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TwinCell {
    /// The judge's place in the panel.
    pub judge: u32,
    /// Whose reply.
    pub side: Side,
    /// Whether the sample was drawn; if not, the judge suspects the reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drawn: bool,
    /// How far the judge prefers the reply to its twin, in [−1, 1]: the mean over both orders and the judge's metrics.
    /// 0 if it would be shown the same of both. None if it gave no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<f64>,
    /// The twin was judged in place of the reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
}

impl TwinCell {
    /// What `answers` come to, that with the reply shown first coming first; none if there was nothing to ask.
    pub(crate) fn new(
        judge: u32,
        side: Side,
        drawn: bool,
        metrics: &[Metric],
        answers: Option<[&RecordedAnswer; 2]>,
    ) -> Self {
        let gain = match answers {
            None => Some(0.0),
            Some(answers) => {
                let [reply_first, twin_first] = answers.map(RecordedAnswer::assessment);
                let cell = Cell::new(metrics, reply_first, twin_first);
                // The cell is twin minus reply; no negative zero, which JSON would keep.
                (!cell.is_missing()).then(|| 0.0 - cell.difference())
            }
        };
        Self { judge, side, drawn, gain, replaced: gain.is_some_and(|gain| gain > MAX_GAIN) }
    }
}

/// What twins showed in a duel. Since record format 3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TwinReport {
    /// Comparisons of a reply with its twin, by judge and side, those in which nothing had to be asked included.
    pub compared: u32,
    /// Those among them to which the judge gave no score.
    pub unanswered: u32,
    /// The king's replies in whose place a twin was judged, by judge.
    pub king: u32,
    /// The challenger's.
    pub challenger: u32,
    /// Drawn samples in which judges compared the replies of both sides with their twins.
    pub samples: u32,
    /// The challenger's gain minus the king's in points: the mean over those samples of the mean over the judges, cut to
    /// 100 points either way.
    pub delta: f64,
    /// Confidence sequence of the delta in points, at 95 %: it holds whenever the duel stops.
    pub interval: Interval,
}

impl TwinReport {
    /// Of the `clusters` of a duel under `plan`; none if it has no twins.
    pub(crate) fn of(plan: &DuelPlan, clusters: &[Cluster]) -> Option<Self> {
        let settings = plan.twins?;
        let cells = || clusters.iter().flat_map(|cluster| &cluster.twins);
        let replaced = |side| cells().filter(|cell| cell.replaced && cell.side == side).count() as u32;
        let deltas: Vec<_> = clusters.iter().filter_map(|cluster| delta(&cluster.twins)).collect();
        let mean = deltas.iter().sum::<f64>() / (deltas.len().max(1) as f64);
        let horizon = (plan.samples / settings.share.max(1)).max(1);
        let interval =
            confidence_sequence_of(&deltas, Bets::new(ALPHA, horizon), 1.0 - ALPHA, Population::Endless);
        Some(Self {
            compared: cells().count() as u32,
            unanswered: cells().filter(|cell| cell.gain.is_none()).count() as u32,
            king: replaced(Side::King),
            challenger: replaced(Side::Challenger),
            samples: deltas.len() as u32,
            // No negative zero of an empty sum.
            delta: 100.0 * mean + 0.0,
            interval: interval.scaled(100.0),
        })
    }

    /// Which side's replies gain by what their actions do not need, if the confidence sequence says so.
    pub fn gains(&self) -> Option<Side> {
        if self.interval.low > 0.0 {
            Some(Side::Challenger)
        } else if self.interval.high < 0.0 {
            Some(Side::King)
        } else {
            None
        }
    }

    /// The finding in a sentence, if there is one.
    pub fn finding(&self) -> Option<String> {
        let side = self.gains()?;
        Some(format!(
            "judges prefer the {side}'s replies for text that their actions do not need: delta {:+.1} points ({:+.1} to \
             {:+.1}) over {} drawn samples, where 0 is expected; read the replies before you trust the verdict",
            self.delta, self.interval.low, self.interval.high, self.samples
        ))
    }
}

/// The challenger's gain minus the king's in a drawn sample: the mean over the judges that compared the replies of both
/// sides, cut to [−1, 1]; none if no judge did.
fn delta(cells: &[TwinCell]) -> Option<f64> {
    let gain = |judge: u32, side| {
        cells.iter().find(|cell| cell.drawn && (cell.judge, cell.side) == (judge, side))?.gain
    };
    let kings = cells.iter().filter(|cell| cell.side == Side::King);
    let deltas: Vec<_> = kings
        .filter_map(|cell| Some(gain(cell.judge, Side::Challenger)? - gain(cell.judge, Side::King)?))
        .collect();
    let mean = deltas.iter().sum::<f64>() / (deltas.len() as f64);
    (!deltas.is_empty()).then(|| mean.clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Assessment, Score};
    use crate::panel::Reducer;

    const METRICS: [Metric; 2] = [Metric::Correctness, Metric::Progress];

    fn answer(score: Score) -> RecordedAnswer {
        RecordedAnswer::Answered(Assessment::scored(METRICS.map(|metric| (metric, score))))
    }

    #[test]
    fn a_share_of_the_samples_is_drawn_and_none_if_it_is_0() {
        let seed = Seed::from(7);
        let drawn = |share| (0..16_000).filter(|&sample| TwinSettings { share }.draws(&seed, sample)).count();
        assert_eq!((drawn(0), drawn(1), drawn(16)), (0, 16_000, 1_000));
        let places = |seed: u64| -> Vec<u32> {
            let seed = Seed::from(seed);
            (0..1_600)
                .filter(|&sample| TwinSettings::default().draws(&seed, sample))
                .map(|sample| sample % 16)
                .collect()
        };
        assert_ne!(places(7), places(8));
        assert!((0..16).all(|place| places(7).contains(&place)), "every place comes up");
        assert_ne!(words(&seed, 0), words(&seed, 1));
    }

    #[test]
    fn a_reply_that_beats_its_twin_in_both_orders_is_replaced() {
        let (win, tie, loss) = (answer(Score::WIN), answer(Score::TIE), answer(Score::LOSS));
        let missing = RecordedAnswer::Missing { kind: Some(crate::ErrorKind::Timeout) };
        for (answers, gain, replaced) in [
            (Some([&win, &loss]), Some(1.0), true),
            (Some([&win, &win]), Some(0.0), false),
            (Some([&win, &tie]), Some(0.5), false),
            (Some([&loss, &win]), Some(-1.0), false),
            (Some([&win, &missing]), None, false),
            (None, Some(0.0), false),
        ] {
            let cell = TwinCell::new(0, Side::King, false, &METRICS, answers);
            assert_eq!((cell.gain, cell.replaced), (gain, replaced), "{answers:?}");
        }
    }

    #[test]
    fn the_delta_is_taken_over_drawn_samples_and_mirrors() {
        let cell = |side, drawn, gain: f64| TwinCell {
            judge: 0,
            side,
            drawn,
            gain: Some(gain),
            replaced: gain > MAX_GAIN,
        };
        let cluster = |sample, king, challenger, drawn| {
            let twins = vec![cell(Side::King, drawn, king), cell(Side::Challenger, drawn, challenger)];
            Cluster::new(sample, vec![], Reducer::Mean).with_twins(twins)
        };
        let plan = crate::testing::small_duel().draft().expect("plans");
        let plan = DuelPlan { samples: 128, twins: Some(TwinSettings::default()), ..plan };
        let talks: Vec<_> = (0..8).map(|sample| cluster(sample, 0.0, 1.0, true)).collect();
        let report = TwinReport::of(&plan, &talks).expect("has twins");
        assert_eq!((report.compared, report.challenger, report.king, report.samples), (16, 8, 0, 8));
        assert_eq!((report.delta, report.gains()), (100.0, Some(Side::Challenger)));
        assert!(report.finding().expect("a finding").contains("the challenger's replies"), "{report:?}");
        let mirrored: Vec<_> = (0..8).map(|sample| cluster(sample, 1.0, 0.0, true)).collect();
        let mirrored = TwinReport::of(&plan, &mirrored).expect("has twins");
        assert_eq!(mirrored.interval.high, -report.interval.low);
        assert_eq!((mirrored.delta, mirrored.gains()), (-100.0, Some(Side::King)));
        // Suspected replies are no fair sample.
        let suspected: Vec<_> = (0..8).map(|sample| cluster(sample, 0.0, 1.0, false)).collect();
        let suspected = TwinReport::of(&plan, &suspected).expect("has twins");
        assert_eq!((suspected.samples, suspected.challenger, suspected.gains()), (0, 8, None));
        let honest: Vec<_> = (0..60).map(|sample| cluster(sample, 0.0, 0.0, true)).collect();
        assert_eq!(TwinReport::of(&plan, &honest).expect("has twins").finding(), None);
        assert_eq!(TwinReport::of(&DuelPlan { twins: None, ..plan }, &talks), None);
    }
}
