//! Numbers beside a verdict that say how it came about: how judges scatter, whether they
//! follow the order or the length of replies, whether they agree.

use serde::Serialize;

use super::{Tokens, tokens};
use crate::panel::Cell;
use crate::record::{RecordLine, RecordedAnswer, RecordedReply};
use crate::stats::{
    LengthControlled, Proportion, Scale, correlation, krippendorff_alpha, length_controlled, proportion,
};
use crate::{Assessment, Record, Result};

/// Level of every interval here.
const LEVEL: f64 = 0.95;

/// What a record says beyond its verdict: what `albedo record show --json` prints under
/// `analysis`, and the report shows. Scores are differences in points of 100, challenger
/// minus king. No verdict rests on these numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// SD of the samples' differences; none below two samples.
    pub sd: Option<f64>,
    /// Standard error of the margin, as if the number of samples had been fixed.
    pub standard_error: Option<f64>,
    /// The share of scored cells whose two orders preferred different sides.
    pub flips: Option<Proportion>,
    /// Krippendorff's alpha of the judges' differences; none of a single judge, or if they
    /// never differ.
    pub agreement: Option<f64>,
    /// What the length of replies has to do with the differences.
    pub length: LengthEffect,
    /// Tokens that the king read and wrote.
    pub king: Tokens,
    /// Tokens that the challenger read and wrote.
    pub challenger: Tokens,
    /// By judge, in panel order.
    pub judges: Vec<JudgeAnalysis>,
}

/// What the length of replies has to do with who is preferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LengthEffect {
    /// Mean characters of the king's replies; none if there is none.
    pub king: Option<f64>,
    /// Mean characters of the challenger's replies.
    pub challenger: Option<f64>,
    /// Correlation of a sample's difference with the challenger's characters minus the
    /// king's; none if one of the two never varies.
    pub correlation: Option<f64>,
    /// How often the challenger would be preferred if both replies were equally long.
    pub controlled: Option<LengthControlled>,
}

/// One judge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeAnalysis {
    /// Its name.
    pub judge: String,
    /// SD of its differences over samples, missing cells left out; none below two.
    pub sd: Option<f64>,
    /// Standard error of their mean.
    pub standard_error: Option<f64>,
    /// The share of its scored cells whose two orders preferred different sides.
    pub flips: Option<Proportion>,
    /// The share of its answers, ties left out, that prefer the reply shown first: a half
    /// if the order does not matter.
    pub first: Option<Proportion>,
    /// Correlation of its differences with the challenger's characters minus the king's.
    pub length_correlation: Option<f64>,
}

/// The numbers of one judge while lines are read.
#[derive(Debug, Clone, Default)]
struct Collected {
    differences: Vec<f64>,
    /// The same where both replies have a length, with the challenger's minus the king's.
    lengths: Vec<(f64, f64)>,
    flips: u64,
    first: u64,
    decided: u64,
}

impl Analysis {
    /// The numbers of `record`.
    ///
    /// # Errors
    /// A text that a line names is missing.
    pub fn of(record: &Record) -> Result<Self> {
        let plan = record.plan();
        let mut judges = vec![Collected::default(); plan.judges.len()];
        let (mut differences, mut preferences, mut items) = (Vec::new(), Vec::new(), Vec::new());
        let (mut totals, mut lengths) = ([(0.0, 0.0); 2], [None; 2]);
        for line in &record.lines {
            match line {
                RecordLine::Sample { .. } => lengths = [None; 2],
                RecordLine::Reply { side, reply, .. } => {
                    let RecordedReply::Completed { text, .. } = reply else { continue };
                    let (place, length) = (*side as usize, record.text(text)?.chars().count() as f64);
                    lengths[place] = Some(length);
                    totals[place] = (totals[place].0 + length, totals[place].1 + 1.0);
                }
                RecordLine::Assessment { judge, answer, .. } => {
                    if let Some(judge) = judges.get_mut(*judge as usize) {
                        judge.answered(answer);
                    }
                }
                RecordLine::Cluster(cluster) => {
                    let longer = match lengths {
                        [Some(king), Some(challenger)] => Some(challenger - king),
                        _ => None,
                    };
                    differences.push(cluster.difference);
                    preferences.extend(longer.map(|longer| (f64::midpoint(1.0, cluster.difference), longer)));
                    let scored = cluster.cells.iter().filter(|cell| !cell.is_missing());
                    items.push(scored.map(Cell::difference).collect::<Vec<_>>());
                    for (judge, cell) in judges.iter_mut().zip(&cluster.cells) {
                        judge.cell(cell, longer);
                    }
                }
                _ => {}
            }
        }
        let [king, challenger] = tokens(record);
        let mean = |(sum, count): (f64, f64)| (count > 0.0).then(|| sum / count);
        let flips = judges.iter().map(|judge| judge.flips).sum();
        let cells = judges.iter().map(|judge| judge.differences.len() as u64).sum();
        Ok(Self {
            sd: sd(&differences).map(|sd| 100.0 * sd),
            standard_error: standard_error(&differences).map(|error| 100.0 * error),
            flips: proportion(flips, cells, LEVEL),
            agreement: if judges.len() > 1 { krippendorff_alpha(&items, Scale::Interval) } else { None },
            length: LengthEffect {
                king: mean(totals[0]),
                challenger: mean(totals[1]),
                correlation: correlation(&preferences),
                controlled: length_controlled(&preferences, LEVEL),
            },
            king,
            challenger,
            judges: plan
                .judges
                .iter()
                .zip(&judges)
                .map(|(planned, judge)| judge.analysis(&planned.identity.name))
                .collect(),
        })
    }
}

impl Collected {
    fn answered(&mut self, answer: &RecordedAnswer) {
        let RecordedAnswer::Answered(Assessment::Scored { scores, .. }) = answer else { return };
        let lean: f64 = scores.values().map(|score| score.value() - 0.5).sum();
        self.first += u64::from(lean > 0.0);
        self.decided += u64::from(lean != 0.0);
    }

    fn cell(&mut self, cell: &Cell, longer: Option<f64>) {
        if cell.is_missing() {
            return;
        }
        let difference = cell.difference();
        self.differences.push(difference);
        self.lengths.extend(longer.map(|longer| (difference, longer)));
        self.flips += u64::from(matches!(cell, Cell::Scored { flipped: true, .. }));
    }

    fn analysis(&self, judge: &str) -> JudgeAnalysis {
        JudgeAnalysis {
            judge: judge.to_owned(),
            sd: sd(&self.differences).map(|sd| 100.0 * sd),
            standard_error: standard_error(&self.differences).map(|error| 100.0 * error),
            flips: proportion(self.flips, self.differences.len() as u64, LEVEL),
            first: proportion(self.first, self.decided, LEVEL),
            length_correlation: correlation(&self.lengths),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The SD of a sample; none below two values.
fn sd(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

fn standard_error(values: &[f64]) -> Option<f64> {
    sd(values).map(|sd| sd / (values.len() as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_verdict() {
        for name in ["record-1", "record-2", "record-3"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("albedo-core/tests/fixtures").join(name);
            let record = Record::open(&folder).expect("a record");
            let (analysis, verdict) = (Analysis::of(&record).expect("numbers"), record.verdict());
            let flips = analysis.flips.expect("cells");
            assert!((flips.share - verdict.flip_rate()).abs() < 1e-12, "{name}");
            assert_eq!(flips.of, u64::from(verdict.cells - verdict.missing));
            assert_eq!(analysis.judges.len(), verdict.judges.len());
            let differences: Vec<f64> = record
                .lines
                .iter()
                .filter_map(|line| match line {
                    RecordLine::Cluster(cluster) => Some(cluster.difference),
                    _ => None,
                })
                .collect();
            let n = differences.len() as f64;
            let square = differences.iter().map(|value| value * value).sum::<f64>() / n;
            let expected = 100.0 * ((square - (verdict.margin / 100.0).powi(2)) * n / (n - 1.0)).sqrt();
            assert!((analysis.sd.expect("samples") - expected).abs() < 1e-6, "{name}");
        }
    }

    #[test]
    fn a_judge_that_follows_the_order_is_found_out() {
        use crate::{Metric, Score};
        let scored = |score| {
            let score = Score::new(score).expect("in range");
            RecordedAnswer::Answered(Assessment::scored([(Metric::Progress, score)]))
        };
        let mut judge = Collected::default();
        for _ in 0..10 {
            judge.answered(&scored(0.9));
            judge.answered(&scored(0.8));
            judge.answered(&scored(0.5));
        }
        let first = judge.analysis("first").first.expect("answers");
        assert_eq!((first.share, first.of), (1.0, 20), "ties do not count");
        assert!(first.interval.low > 0.8, "{first:?}");
    }

    #[test]
    fn correlations_need_something_that_varies() {
        assert_eq!((sd(&[]), sd(&[3.0]), sd(&[1.0, 3.0])), (None, None, Some(2.0_f64.sqrt())));
    }
}
