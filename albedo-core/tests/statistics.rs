//! The statistics equal those of scipy, statsmodels, choix and krippendorff, which
//! `statistics/foreign.py` asked; `.ci/statistics` asks them again.

use albedo_core::stats::{
    Interval, Pairings, Scale, bradley_terry, clustered_mean, cohen_kappa, detectable_effect,
    krippendorff_alpha, length_controlled, mcnemar_exact, proportion, samples_for,
};
use serde::Deserialize;

/// Six digits: more than the stopping rules of iterative fits leave in doubt.
const DIGITS: f64 = 1e-6;

#[derive(Deserialize)]
struct Foreign {
    means: Vec<ClusteredMean>,
    coins: Vec<Coin>,
    proportions: Vec<Share>,
    kappas: Vec<Raters>,
    alphas: Vec<ItemRatings>,
    ratings: Vec<Contests>,
    lengths: Vec<Lengths>,
    sizes: Vec<Size>,
}

#[derive(Deserialize)]
struct ClusteredMean {
    observations: Vec<(u32, f64)>,
    mean: f64,
    standard_error: f64,
    #[serde(flatten)]
    interval: Interval,
}

#[derive(Deserialize)]
struct Coin {
    first: u64,
    second: u64,
    p: f64,
}

#[derive(Deserialize)]
struct Share {
    count: u64,
    of: u64,
    #[serde(flatten)]
    interval: Interval,
}

#[derive(Deserialize)]
struct Raters {
    ratings: Vec<(u8, u8)>,
    kappa: f64,
    standard_error: f64,
    #[serde(flatten)]
    interval: Interval,
}

#[derive(Deserialize)]
struct ItemRatings {
    items: Vec<Vec<f64>>,
    nominal: f64,
    ordinal: f64,
    interval: f64,
}

#[derive(Deserialize)]
struct Contests {
    size: usize,
    /// Who won, and who lost.
    meetings: Vec<(usize, usize)>,
    strengths: Vec<f64>,
    standard_errors: Vec<f64>,
    deviance: f64,
    degrees: u32,
    p: Option<f64>,
}

#[derive(Deserialize)]
struct Lengths {
    pairs: Vec<(f64, f64)>,
    preferred: f64,
    #[serde(flatten)]
    interval: Interval,
    length: f64,
    length_low: f64,
    length_high: f64,
}

#[derive(Deserialize)]
struct Size {
    effect: f64,
    sd: f64,
    alpha: f64,
    power: f64,
    samples: u64,
    detectable: f64,
}

#[expect(clippy::unwrap_used, reason = "a test's own data")]
fn foreign() -> Foreign {
    serde_json::from_str(include_str!("statistics/foreign.json")).unwrap()
}

#[track_caller]
fn equal(ours: f64, theirs: f64) {
    let off = (ours - theirs).abs();
    assert!(off <= DIGITS * theirs.abs().max(1e-3), "{ours} here, {theirs} there");
}

#[track_caller]
fn equal_intervals(ours: Interval, theirs: Interval) {
    equal(ours.low, theirs.low);
    equal(ours.high, theirs.high);
}

#[test]
fn cluster_robust_means_are_those_of_statsmodels() {
    for ClusteredMean { observations, mean, standard_error, interval } in foreign().means {
        let ours = clustered_mean(&observations, 0.95).unwrap();
        equal(ours.mean, mean);
        equal(ours.standard_error, standard_error);
        equal_intervals(ours.interval, interval);
    }
}

#[test]
fn mcnemars_test_is_that_of_statsmodels() {
    for Coin { first, second, p } in foreign().coins {
        equal(mcnemar_exact(first, second), p);
    }
}

#[test]
fn wilsons_intervals_are_those_of_statsmodels() {
    for Share { count, of, interval } in foreign().proportions {
        equal_intervals(proportion(count, of, 0.9).unwrap().interval, interval);
    }
}

#[test]
fn cohens_kappa_is_that_of_statsmodels() {
    for Raters { ratings, kappa, standard_error, interval } in foreign().kappas {
        let ours = cohen_kappa(&ratings, 0.95).unwrap();
        equal(ours.kappa, kappa);
        equal(ours.standard_error, standard_error);
        equal_intervals(ours.interval, interval);
    }
}

#[test]
fn krippendorffs_alpha_is_that_of_the_package_krippendorff() {
    for ItemRatings { items, nominal, ordinal, interval } in foreign().alphas {
        for (scale, theirs) in
            [(Scale::Nominal, nominal), (Scale::Ordinal, ordinal), (Scale::Interval, interval)]
        {
            equal(krippendorff_alpha(&items, scale).unwrap(), theirs);
        }
    }
}

#[test]
fn strengths_are_those_of_choix_and_their_errors_those_of_statsmodels() {
    for Contests { size, meetings, strengths, standard_errors, deviance, degrees, p } in foreign().ratings {
        let mut pairings = Pairings::new(size);
        for (winner, loser) in meetings {
            pairings.add(winner, loser, 1.0).unwrap();
        }
        let ours = bradley_terry(&pairings, 0.95).unwrap();
        for (ours, theirs) in ours.strengths.iter().zip(&strengths) {
            equal(*ours, *theirs);
        }
        for (ours, theirs) in ours.standard_errors.iter().zip(&standard_errors) {
            equal(*ours, *theirs);
        }
        equal(ours.fit.deviance, deviance);
        assert_eq!((ours.fit.degrees, ours.fit.p_value.is_some()), (degrees, p.is_some()));
        equal(ours.fit.p_value.unwrap_or_default(), p.unwrap_or_default());
    }
}

#[test]
fn preferences_at_equal_length_are_those_of_statsmodels() {
    for Lengths { pairs, preferred, interval, length, length_low, length_high } in foreign().lengths {
        let ours = length_controlled(&pairs, 0.95).unwrap();
        equal(ours.preferred.share, preferred);
        equal_intervals(ours.preferred.interval, interval);
        equal(ours.length, length);
        equal_intervals(ours.length_interval, Interval { low: length_low, high: length_high });
    }
}

#[test]
fn sample_sizes_follow_from_scipys_normal_distribution() {
    for Size { effect, sd, alpha, power, samples, detectable } in foreign().sizes {
        assert_eq!(samples_for(effect, sd, alpha, power), Some(samples));
        equal(detectable_effect(50, sd, alpha, power).unwrap(), detectable);
    }
}
