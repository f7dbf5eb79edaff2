//! Which of two systems is better, by what they scored on the same items: the evidence of
//! duels for logs that other tools wrote.
//!
//! Items come in clusters, such as the questions about one text or the attempts at one
//! task, and what they say is not independent within one. So each cluster counts once,
//! with the mean difference of its items. Clusters are consumed in an order that a seed
//! and their names fix, which neither system could know, and the evidence of
//! [`Rule::Fixed`](crate::Rule::Fixed) is gathered both ways.
//!
//! ```
//! use albedo_core::paired::{PairedItem, PairedOutcome, PairedSettings, compare};
//!
//! # fn main() -> albedo_core::Result<()> {
//! // The second system is right where the first is, and on every third item beside.
//! let items: Vec<PairedItem> = (0..200)
//!     .map(|item| PairedItem {
//!         item: format!("question {item}"),
//!         cluster: format!("text {}", item / 2),
//!         first: f64::from(u8::from(item % 2 == 0)),
//!         second: f64::from(u8::from(item % 2 == 0 || item % 3 == 0)),
//!     })
//!     .collect();
//! let comparison = compare(&items, &PairedSettings::default())?;
//! assert_eq!(comparison.outcome, PairedOutcome::Better);
//! assert_eq!((comparison.items, comparison.clusters), (200, 100));
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::decision::{Bets, Case, Population, Star, confidence_sequence_of, round};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::stats::{Interval, MeanEstimate, clustered_mean, mcnemar_exact};

const COMPARE: &str = "compare two systems";

/// Level of the reported intervals.
const CONFIDENCE: f64 = 0.95;

/// The most clusters that one comparison takes.
const MOST_CLUSTERS: usize = 10_000_000;

/// A smaller standard deviation, as a share of the range, is the rounding of sums.
const LEAST_SD: f64 = 1e-9;

/// What two systems scored on one item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairedItem {
    /// The item's name, for messages.
    pub item: String,
    /// The cluster that it belongs to; its own name if it is one by itself.
    pub cluster: String,
    /// What the first system scored, the one to be improved on.
    pub first: f64,
    /// What the second system scored.
    pub second: f64,
}

/// How two systems are compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedSettings {
    /// The probability that the second system is called better although it is not, at
    /// most; likewise for worse.
    pub alpha: f64,
    /// By more than how much it has to be better, or worse, in the unit of the scores.
    pub margin: f64,
    /// The least score that there can be.
    pub lowest: f64,
    /// The highest score that there can be.
    pub highest: f64,
    /// If the clusters were drawn at random from so many, and the question is about those:
    /// a sample that is a good part of them then says more. Without it the question is
    /// about all clusters like these.
    pub pool: Option<u64>,
    /// Fixes the order in which clusters are consumed.
    pub seed: u64,
    /// Whether a lower score is the better one, as of a loss. Differences are the second
    /// system's minus the first's all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lower_is_better: bool,
}

impl Default for PairedSettings {
    /// Alpha 5 %, no margin, scores from 0 to 1, no pool, seed 0; higher is better.
    fn default() -> Self {
        Self {
            alpha: 0.05,
            margin: 0.0,
            lowest: 0.0,
            highest: 1.0,
            pool: None,
            seed: 0,
            lower_is_better: false,
        }
    }
}

impl PairedSettings {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the setting.
    pub fn check(&self) -> Result<()> {
        let Self { alpha, margin, lowest, highest, pool, .. } = *self;
        let invalid = |key, message: String| {
            Err(Error::new(ErrorKind::ConfigInvalid, COMPARE, message).with("key", key))
        };
        if !(alpha > 0.0 && alpha < 0.5) {
            return invalid("alpha", format!("alpha is {alpha}, it must be between 0 and 0.5"));
        }
        if !(lowest < highest && (highest - lowest).is_finite()) {
            return invalid("range", format!("scores cannot range from {lowest} to {highest}"));
        }
        let range = highest - lowest;
        if !(0.0..range).contains(&margin) {
            return invalid(
                "margin",
                format!("the margin is {margin}, it must be at least 0 and below {range}"),
            );
        }
        if pool == Some(0) {
            return invalid("pool", "the pool is empty".into());
        }
        Ok(())
    }
}

/// Whether the second system is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairedOutcome {
    /// It is better by more than the margin.
    Better,
    /// Neither was shown.
    NotShown,
    /// It is worse by more than the margin.
    Worse,
}

/// Evidence for one of two claims.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedEvidence {
    /// Natural logarithm of the e-value against the opposite of the claim, at the end.
    pub log_e_value: f64,
    /// Clusters after which it had first reached 1 / alpha; the claim is shown then.
    pub shown_at: Option<u32>,
}

/// What a comparison found. Scores and differences are in the unit of the scores;
/// differences are the second system's minus the first's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PairedComparison {
    /// The answer.
    pub outcome: PairedOutcome,
    /// Items.
    pub items: usize,
    /// Clusters, which are what counts.
    pub clusters: u32,
    /// Mean score of the first system over items.
    pub first: f64,
    /// Mean score of the second system over items.
    pub second: f64,
    /// Mean difference over clusters.
    pub effect: f64,
    /// Its 95 % confidence sequence: valid however many clusters were looked at before.
    pub confidence: Interval,
    /// That the second system is better.
    pub better: PairedEvidence,
    /// That it is worse.
    pub worse: PairedEvidence,
    /// What the evidence had to reach: ln(1 / alpha).
    pub needed: f64,
    /// Mean difference over items with its cluster-robust error and 95 % interval, which
    /// looks once; none for a single cluster.
    pub by_item: Option<MeanEstimate>,
    /// Standard deviation of the clusters' differences.
    pub sd: f64,
    /// Where every score is the lowest or the highest: who was right alone.
    pub discordant: Option<Discordant>,
    /// How the two were compared.
    pub settings: PairedSettings,
}

impl PairedComparison {
    /// The least effect that so many clusters of this spread show in nine of ten cases, the
    /// margin included and a pool left out; none if they are too few for any, or all differ by
    /// the same.
    ///
    /// It draws some ten thousand comparisons, always the same ones: see
    /// [`Design`](crate::decision::Design).
    pub fn detectable(&self) -> Option<f64> {
        let PairedSettings { alpha, margin, lowest, highest, .. } = self.settings;
        let range = highest - lowest;
        let case = Case { sd: self.sd / range, alpha, null: margin / range, least: -1.0 };
        if case.sd <= LEAST_SD {
            return None;
        }
        case.effect(self.clusters).map(|effect| effect * range)
    }
}

/// Items that one system alone got right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Discordant {
    /// The first system.
    pub first: u64,
    /// The second system.
    pub second: u64,
    /// McNemar's exact p-value, two-sided, as if items were independent.
    pub p_value: f64,
}

/// Compares two systems by what they scored on the same `items`, whose order does not
/// matter.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`], the operator's: settings out of range, or a pool smaller
/// than the clusters. [`ErrorKind::DataInvalid`]: no items, one that is there twice, or a
/// score that is not a number of the range; it is named.
pub fn compare(items: &[PairedItem], settings: &PairedSettings) -> Result<PairedComparison> {
    settings.check()?;
    check_items(items, settings)?;
    let PairedSettings { alpha, margin, lowest, highest, pool, seed, lower_is_better } = *settings;
    let range = highest - lowest;
    // In one order, so that no sum depends on the order in which they came.
    let mut items: Vec<&PairedItem> = items.iter().collect();
    items.sort_unstable_by_key(|item| &item.item);
    let mut sums = BTreeMap::<&str, (f64, u32)>::new();
    for PairedItem { cluster, first, second, .. } in &items {
        let (sum, count) = sums.entry(cluster).or_default();
        *sum += (second - first) / range;
        *count += 1;
    }
    let clusters = sums.len();
    if let Some(pool) = pool.filter(|pool| *pool < clusters as u64) {
        let message = format!("the pool has {pool} clusters, and there are {clusters}");
        return Err(Error::new(ErrorKind::ConfigInvalid, COMPARE, message)
            .with("key", "pool")
            .with_hint("give the number of all clusters that these were drawn from"));
    }
    if clusters > MOST_CLUSTERS {
        let message = format!("there are {clusters} clusters, at most {MOST_CLUSTERS} can be compared");
        return Err(Error::new(ErrorKind::DataInvalid, COMPARE, message));
    }
    let mut ordered: Vec<(Digest, f64)> = sums
        .iter()
        .map(|(cluster, (sum, count))| (Digest::of(format!("{seed}\n{cluster}")), sum / f64::from(*count)))
        .collect();
    ordered.sort_unstable_by_key(|(place, _)| *place);
    let differences: Vec<f64> =
        ordered.into_iter().map(|(_, difference)| difference.clamp(-1.0, 1.0)).collect();

    let population = pool.map_or(Population::Endless, Population::Pool);
    let count = clusters as u32;
    let evidence = |sign: f64| {
        let mut star = Star::new(margin / range, alpha, count, population);
        for difference in &differences {
            star.consume(sign * difference);
        }
        PairedEvidence { log_e_value: round(star.log_e_value(), 1e6), shown_at: star.rejected_at() }
    };
    let better = if lower_is_better { -1.0 } else { 1.0 };
    let (better, worse) = (evidence(better), evidence(-better));
    let outcome = match (better.shown_at, worse.shown_at) {
        (Some(_), None) => PairedOutcome::Better,
        (None, Some(_)) => PairedOutcome::Worse,
        // Both, where the order of the clusters hides a drift: nothing is shown then.
        _ => PairedOutcome::NotShown,
    };
    let confidence = confidence_sequence_of(&differences, Bets::new(alpha, count), CONFIDENCE, population);
    let effect = differences.iter().sum::<f64>() / f64::from(count);
    let squares: f64 = differences.iter().map(|difference| (difference - effect).powi(2)).sum();
    let sd = (squares / f64::from(count.saturating_sub(1).max(1))).sqrt();
    let by_cluster: Vec<(&str, f64)> =
        items.iter().map(|item| (item.cluster.as_str(), item.second - item.first)).collect();
    let mean = |score: fn(&PairedItem) -> f64| {
        items.iter().map(|item| score(item)).sum::<f64>() / items.len() as f64
    };
    Ok(PairedComparison {
        outcome,
        items: items.len(),
        clusters: count,
        first: mean(|item| item.first),
        second: mean(|item| item.second),
        effect: effect * range,
        confidence: confidence.scaled(range),
        better,
        worse,
        needed: -alpha.ln(),
        by_item: clustered_mean(&by_cluster, CONFIDENCE),
        sd: sd * range,
        discordant: if lower_is_better {
            discordant(&items, highest, lowest)
        } else {
            discordant(&items, lowest, highest)
        },
        settings: *settings,
    })
}

fn check_items(items: &[PairedItem], settings: &PairedSettings) -> Result<()> {
    let invalid = |message: String| Error::new(ErrorKind::DataInvalid, COMPARE, message);
    if items.is_empty() {
        return Err(invalid("no item has a score of both systems".into()));
    }
    let mut names = BTreeSet::new();
    for PairedItem { item, first, second, .. } in items {
        if !names.insert(item) {
            return Err(invalid("an item is there twice".into())
                .with("item", item)
                .with_hint("give each item once, with the mean of its tries"));
        }
        let range = settings.lowest..=settings.highest;
        if let Some(score) = [first, second].into_iter().find(|score| !range.contains(score)) {
            let message = format!("a score is {score}, outside {} to {}", range.start(), range.end());
            return Err(invalid(message)
                .with("item", item)
                .with_hint("give the lowest and the highest score that there can be, as a range"));
        }
    }
    Ok(())
}

/// Who was right alone, if every score is `wrong` or `right`.
fn discordant(items: &[&PairedItem], wrong: f64, right: f64) -> Option<Discordant> {
    let (mut first, mut second) = (0, 0);
    for item in items {
        match (item.first, item.second) {
            (one, other) if one == right && other == wrong => first += 1,
            (one, other) if one == wrong && other == right => second += 1,
            (one, other) if one == other && (one == wrong || one == right) => {}
            _ => return None,
        }
    }
    Some(Discordant { first, second, p_value: mcnemar_exact(first, second) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::{Stream, Use};

    /// Most errors in 1,000 comparisons that each err with a probability of 5 %: three
    /// standard deviations above 50. Twice that probability gives 100.
    const MOST_ERRORS: u32 = 70;

    fn items(scores: &[(f64, f64)]) -> Vec<PairedItem> {
        let item = |(index, &(first, second)): (usize, &(f64, f64))| PairedItem {
            item: index.to_string(),
            cluster: index.to_string(),
            first,
            second,
        };
        scores.iter().enumerate().map(item).collect()
    }

    fn exchanged(items: &[PairedItem]) -> Vec<PairedItem> {
        items
            .iter()
            .map(|item| PairedItem { first: item.second, second: item.first, ..item.clone() })
            .collect()
    }

    fn found(scores: &[(f64, f64)], settings: &PairedSettings) -> PairedComparison {
        compare(&items(scores), settings).expect("compares")
    }

    /// Right or wrong: both systems share `shared` of their luck.
    fn coins(count: usize, first: f64, second: f64, seed: u64) -> Vec<(f64, f64)> {
        let mut stream = Stream::new(seed, Use::Bootstrap);
        let mut unit = || stream.below(1 << 30) as f64 / f64::from(1 << 30);
        (0..count)
            .map(|_| {
                let (luck, own) = (unit(), unit());
                let other = if unit() < 0.5 { luck } else { own };
                (f64::from(u8::from(luck < first)), f64::from(u8::from(other < second)))
            })
            .collect()
    }

    #[test]
    fn equal_systems_are_seldom_told_apart_and_a_better_one_mostly_is() {
        let settings = PairedSettings { alpha: 0.05, ..PairedSettings::default() };
        let outcomes = |second: f64| {
            let mut counts = [0_u32; 3];
            for seed in 0..1_000 {
                counts[found(&coins(300, 0.6, second, seed), &settings).outcome as usize] += 1;
            }
            counts
        };
        let [better, _, worse] = outcomes(0.6);
        assert!(better <= MOST_ERRORS && worse <= MOST_ERRORS, "{better} and {worse} of 1,000");
        let [better, _, worse] = outcomes(0.75);
        assert!(better > 850 && worse == 0, "{better} and {worse} of 1,000");
    }

    #[test]
    fn a_pool_that_was_read_to_its_end_leaves_no_doubt() {
        // One item more of 40: no sample could show that, but these are all that there are.
        let scores: Vec<_> = (0..40).map(|item| (f64::from(item % 2), f64::from(item % 2))).collect();
        let better = [&scores[..], &[(0.0, 1.0)]].concat();
        let all = PairedSettings { pool: Some(41), ..PairedSettings::default() };
        let some = PairedSettings { pool: Some(4_100), ..all };
        assert_eq!(found(&better, &all).outcome, PairedOutcome::Better);
        assert_eq!(found(&better, &some).outcome, PairedOutcome::NotShown);
        assert_eq!(
            found(&scores, &PairedSettings { pool: Some(40), ..all }).outcome,
            PairedOutcome::NotShown
        );
        let exact = found(&better, &all).confidence;
        assert!(exact.low > 0.0 && exact.low <= 1.0 / 41.0 && exact.high >= 1.0 / 41.0, "{exact:?}");
        assert!(exact.high < 0.1, "{exact:?}");
    }

    #[test]
    fn a_sample_of_a_pool_errs_as_seldom() {
        // Half of a pool in which the second system is no better, many times.
        let pool: Vec<(f64, f64)> = (0..200)
            .map(|item| match item % 4 {
                0 => (1.0, 0.0),
                1 => (0.0, 1.0),
                _ => (1.0, 1.0),
            })
            .collect();
        let all = items(&pool);
        let settings = PairedSettings { pool: Some(200), ..PairedSettings::default() };
        let mut wrong = 0;
        for seed in 0..1_000 {
            let mut order: Vec<_> =
                (0..200).map(|item| (Digest::of(format!("{seed} {item}")), item)).collect();
            order.sort_unstable();
            let drawn: Vec<_> = order[..100].iter().map(|(_, item)| all[*item].clone()).collect();
            let comparison = compare(&drawn, &PairedSettings { seed, ..settings }).expect("compares");
            wrong += u32::from(comparison.outcome == PairedOutcome::Better);
        }
        assert!(wrong <= MOST_ERRORS, "{wrong} of 1,000");
    }

    #[test]
    fn clusters_count_once() {
        let scores = coins(30, 0.3, 0.9, 4);
        let alone = found(&scores, &PairedSettings::default());
        let repeated: Vec<PairedItem> = items(&scores)
            .into_iter()
            .flat_map(|item| {
                (0..7).map(move |again| PairedItem { item: format!("{} {again}", item.item), ..item.clone() })
            })
            .collect();
        let repeated = compare(&repeated, &PairedSettings::default()).expect("compares");
        assert_eq!((repeated.items, repeated.clusters), (210, 30));
        assert_eq!((repeated.better, repeated.worse), (alone.better, alone.worse));
        assert_eq!(repeated.confidence, alone.confidence);
        let (alone, repeated) = (alone.by_item.unwrap(), repeated.by_item.unwrap());
        assert!((alone.standard_error - repeated.standard_error).abs() < 1e-12);
    }

    #[test]
    fn a_margin_has_to_be_exceeded() {
        let scores: Vec<_> = (0..500).map(|item| (0.5, if item % 2 == 0 { 0.6 } else { 0.58 })).collect();
        let with = |margin| found(&scores, &PairedSettings { margin, ..PairedSettings::default() }).outcome;
        assert_eq!(
            [0.0, 0.05, 0.2].map(with),
            [PairedOutcome::Better, PairedOutcome::Better, PairedOutcome::NotShown]
        );
    }

    #[test]
    fn the_lower_score_is_the_better_one_where_that_is_said() {
        let errors = [(1.0, 0.0); 60];
        let settings = PairedSettings { lower_is_better: true, ..PairedSettings::default() };
        let (lower, higher) = (found(&errors, &settings), found(&errors, &PairedSettings::default()));
        assert_eq!((lower.outcome, higher.outcome), (PairedOutcome::Better, PairedOutcome::Worse));
        assert_eq!((lower.better, lower.worse), (higher.worse, higher.better));
        assert_eq!((lower.effect, lower.confidence), (higher.effect, higher.confidence));
        assert_eq!(lower.discordant.map(|found| (found.first, found.second)), Some((0, 60)));
        // The settings of an error budget are digested: those of before have to stay what they were.
        let text = serde_json::to_string(&PairedSettings::default()).expect("JSON");
        assert!(!text.contains("lower"), "{text}");
    }

    #[test]
    fn what_can_be_detected_lies_beyond_the_margin_and_needs_a_spread() {
        let scores = coins(400, 0.5, 0.6, 1);
        let with =
            |margin| found(&scores, &PairedSettings { margin, ..PairedSettings::default() }).detectable();
        let (least, beyond) = (with(0.0).expect("enough"), with(0.1).expect("enough"));
        assert!((beyond - least - 0.1).abs() < 0.02, "{least} {beyond}");
        assert_eq!(found(&[(0.5, 0.5); 400], &PairedSettings::default()).detectable(), None);
        assert_eq!(found(&scores[..4], &PairedSettings::default()).detectable(), None);
    }

    #[test]
    fn what_is_called_detectable_is_found_in_nine_of_ten_comparisons() {
        // Differences of SD 0.05 on 100 clusters, half of them above their mean and half below.
        let settings = PairedSettings::default();
        let even: Vec<_> =
            (0..100).map(|item| (0.5, 0.5 + if item % 2 == 0 { 0.05 } else { -0.05 })).collect();
        let effect = found(&even, &settings).detectable().expect("enough");
        let shown = (0..300).filter(|&seed| {
            let mut stream = Stream::new(seed, Use::Bootstrap);
            let mut difference = || effect + if stream.below(2) == 0 { 0.05 } else { -0.05 };
            let scores: Vec<_> = (0..100).map(|_| (0.5, 0.5 + difference())).collect();
            found(&scores, &settings).outcome == PairedOutcome::Better
        });
        let shown = shown.count();
        assert!(shown >= 254, "{shown} of 300 show {effect}");
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let two = items(&[(0.0, 1.0), (1.0, 1.0)]);
        let twice = [two.clone(), two.clone()].concat();
        let beyond = items(&[(0.0, 3.0)]);
        let not_a_number = items(&[(f64::NAN, 0.5)]);
        for (items, word) in
            [(&[][..], "no item"), (&twice, "twice"), (&beyond, "is 3"), (&not_a_number, "NaN")]
        {
            let error = compare(items, &PairedSettings::default()).unwrap_err();
            assert!(error.kind() == ErrorKind::DataInvalid && error.to_string().contains(word), "{error}");
        }
        let default = PairedSettings::default();
        for settings in [
            PairedSettings { alpha: 0.0, ..default },
            PairedSettings { alpha: f64::NAN, ..default },
            PairedSettings { margin: 1.0, ..default },
            PairedSettings { margin: -0.1, ..default },
            PairedSettings { lowest: 1.0, ..default },
            PairedSettings { highest: f64::INFINITY, ..default },
            PairedSettings { pool: Some(0), ..default },
            PairedSettings { pool: Some(1), ..default },
        ] {
            let error = compare(&two, &settings).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{settings:?}");
        }
    }

    proptest! {
        #[test]
        fn the_order_of_items_changes_no_bit(
            scores in proptest::collection::vec((0_u8..5, 0.0..=1.0_f64, 0.0..=1.0_f64), 1..60),
        ) {
            let mut items: Vec<PairedItem> = scores
                .into_iter()
                .enumerate()
                .map(|(index, (cluster, first, second))| PairedItem {
                    item: index.to_string(),
                    cluster: cluster.to_string(),
                    first,
                    second,
                })
                .collect();
            let here = compare(&items, &PairedSettings::default()).expect("compares");
            items.reverse();
            prop_assert_eq!(compare(&items, &PairedSettings::default()).expect("compares"), here);
        }

        #[test]
        fn exchanging_the_systems_mirrors_everything(
            scores in proptest::collection::vec((0.0..=1.0_f64, 0.0..=1.0_f64), 1..80),
            more in proptest::option::of(0_u64..50),
        ) {
            let settings =
                PairedSettings { pool: more.map(|more| scores.len() as u64 + more), ..PairedSettings::default() };
            let items = items(&scores);
            let here = compare(&items, &settings).expect("compares");
            let there = compare(&exchanged(&items), &settings).expect("compares");
            prop_assert_eq!((here.better, here.worse), (there.worse, there.better));
            prop_assert_eq!(here.effect, -there.effect);
            prop_assert_eq!(here.confidence, Interval { low: -there.confidence.high, high: -there.confidence.low });
            let mut shuffled = items;
            shuffled.reverse();
            prop_assert_eq!(compare(&shuffled, &settings).expect("compares").better, here.better);
        }
    }
}
