//! From logits to a token, and to the log-probability of a given token.

use std::cmp::Ordering;

use albedo_core::Sampling;

/// The next token: greedy at temperature 0, else drawn with `unit`, a number
/// in [0, 1).
///
/// The candidates are ordered by logit, descending, equal ones by id,
/// ascending; the first `top_k` stay; of these, with probabilities
/// proportional to `exp((logit - max) / temperature)` in `f64`, the shortest
/// prefix whose sum reaches `top_p` stays; the token is the first at which the
/// running sum of what stayed exceeds `unit` times its total. Logits are finite.
pub(super) fn choose(logits: &[f32], sampling: &Sampling, unit: f64) -> u32 {
    if sampling.temperature == 0.0 {
        return greedy(logits);
    }
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| {
        let (a_logit, b_logit) = (logits[*a as usize], logits[*b as usize]);
        b_logit.partial_cmp(&a_logit).unwrap_or(Ordering::Equal).then(a.cmp(b))
    };
    let keep = sampling.top_k as usize;
    if keep > 0 && keep < ids.len() {
        ids.select_nth_unstable_by(keep - 1, by_logit);
        ids.truncate(keep);
    }
    ids.sort_unstable_by(by_logit);
    let max = ids.first().map_or(0.0, |&id| f64::from(logits[id as usize]));
    let weight = |id: u32| ((f64::from(logits[id as usize]) - max) / sampling.temperature).exp();
    let weights: Vec<f64> = ids.iter().map(|&id| weight(id)).collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0.0;
    let mut count = 0;
    while count < weights.len() && (count == 0 || kept < sampling.top_p * total) {
        kept += weights[count];
        count += 1;
    }
    let mut sum = 0.0;
    for (&id, weight) in ids.iter().zip(&weights).take(count) {
        sum += weight;
        if sum > unit * kept {
            return id;
        }
    }
    // Reached only if `unit` is 1: the least likely of what stayed.
    ids.get(count.saturating_sub(1)).copied().unwrap_or(0)
}

/// The id of the highest logit, the lowest among equals.
pub(super) fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The highest of `logits` minus the second highest, as a record keeps it
/// ([`albedo_core::SampledTokens`]): in thousandths, rounded down, at most 65,535.
pub(super) fn gap(logits: &[f32]) -> u16 {
    let (mut highest, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &logit in logits {
        if logit > highest {
            (highest, second) = (logit, highest);
        } else if logit > second {
            second = logit;
        }
    }
    // A cast saturates.
    (1000.0 * (f64::from(highest) - f64::from(second))) as u16
}

/// The log-probability of `id` in nats: the log-softmax of `logits`, computed
/// in `f64`, rounded to `f32`. `id` is below the number of logits.
pub(super) fn log_prob(logits: &[f32], id: u32) -> f32 {
    (f64::from(logits[id as usize]) - log_sum_exp(logits)) as f32
}

/// How likely a token was at its place, and which others were likeliest there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LogProbs {
    pub(super) id: u32,
    /// In nats, as [`log_prob`] gives it.
    pub(super) log_prob: f32,
    /// Ids and log-probabilities, the likeliest first, the lowest id among equals.
    pub(super) likeliest: Vec<(u32, f32)>,
}

impl LogProbs {
    /// Those of `id`, and of the `count` likeliest. `id` is below the number of logits.
    pub(super) fn of(logits: &[f32], id: u32, count: u8) -> Self {
        let sum = log_sum_exp(logits);
        let log_prob = |id: u32| (f64::from(logits[id as usize]) - sum) as f32;
        let likeliest = highest(logits, count.into()).into_iter().map(|id| (id, log_prob(id))).collect();
        Self { id, log_prob: log_prob(id), likeliest }
    }
}

/// The ids of the `count` highest logits, the highest first, the lowest id among equals.
fn highest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ids = Vec::with_capacity(count + 1);
    for (id, &logit) in logits.iter().enumerate() {
        if ids.len() == count && ids.last().is_none_or(|&last: &u32| logit <= logits[last as usize]) {
            continue;
        }
        let at = ids.partition_point(|&other| logits[other as usize] >= logit);
        ids.insert(at, id as u32);
        ids.truncate(count);
    }
    ids
}

/// `ln(sum(exp(logit)))` in `f64`.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampling(temperature: f64, top_p: f64, top_k: u32) -> Sampling {
        Sampling { temperature, top_p, top_k }
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        assert_eq!(greedy(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(choose(&[1.0, 3.0, 3.0, 2.0], &sampling(0.0, 0.5, 2), 0.9), 1);
    }

    #[test]
    fn the_gap_is_between_the_two_highest() {
        assert_eq!(gap(&[1.0, 3.0, -2.0, 2.75]), 250);
        assert_eq!([gap(&[3.0, 1.0, 3.0]), gap(&[0.0, -0.0]), gap(&[5.0])], [0, 0, u16::MAX]);
        assert_eq!(gap(&[0.0, 1e30]), u16::MAX);
    }

    #[test]
    fn a_draw_walks_down_the_sorted_candidates() {
        // Probabilities 1/2, 1/4, 1/8, 1/8; the equal two in order of id.
        let logits = [0.125_f32.ln(), 0.5_f32.ln(), 0.125_f32.ln(), 0.25_f32.ln()];
        let draw = |unit| choose(&logits, &sampling(1.0, 1.0, 0), unit);
        assert_eq!([0.0, 0.49, 0.51, 0.74, 0.76, 0.87, 0.88, 0.999].map(draw), [1, 1, 3, 3, 0, 0, 2, 2]);
        // Top-k first: of 1/2 and 1/4, the draw is 2/3 to 1/3.
        let draw = |unit| choose(&logits, &sampling(1.0, 1.0, 2), unit);
        assert_eq!([0.66, 0.67, 0.999].map(draw), [1, 3, 3]);
        // The probabilities that top-p sees are those after top-k: 2/3 reaches 0.6.
        let draw = |top_p, unit| choose(&logits, &sampling(1.0, top_p, 2), unit);
        assert_eq!([draw(0.6, 0.99), draw(0.7, 0.99)], [1, 3]);
    }

    proptest! {
        #[test]
        fn a_draw_is_among_the_kept(
            logits in proptest::collection::vec(-20.0_f32..20.0, 1..50),
            temperature in 1e-3..4.0,
            top_p in 1e-6..=1.0,
            top_k in 0_u32..60,
            unit in 0.0..1.0,
        ) {
            let chosen = choose(&logits, &sampling(temperature, top_p, top_k), unit);
            let better = logits.iter().filter(|logit| **logit > logits[chosen as usize]).count();
            prop_assert!(top_k == 0 || better < top_k as usize);
            let tiny = choose(&logits, &sampling(temperature, 1e-12, top_k), unit);
            prop_assert_eq!(logits[tiny as usize], logits[greedy(&logits) as usize]);
        }

        #[test]
        fn the_likeliest_are_the_first_of_all(
            // Few different values, so that some are equal.
            logits in proptest::collection::vec((-3_i8..3).prop_map(f32::from), 1..50),
            count in 0_u8..60,
            id: prop::sample::Index,
        ) {
            let id = id.index(logits.len()) as u32;
            let LogProbs { log_prob: own, likeliest, .. } = LogProbs::of(&logits, id, count);
            prop_assert_eq!(own, log_prob(&logits, id));
            let mut all: Vec<u32> = (0..logits.len() as u32).collect();
            all.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            let first = all.into_iter().take(count.into()).map(|id| (id, log_prob(&logits, id)));
            prop_assert_eq!(likeliest, first.collect::<Vec<_>>());
        }

        #[test]
        fn probabilities_add_up(logits in proptest::collection::vec(-20.0_f32..20.0, 1..50)) {
            let total: f64 =
                (0..logits.len()).map(|id| f64::from(log_prob(&logits, id as u32)).exp()).sum();
            prop_assert!((total - 1.0).abs() < 1e-4);
        }
    }
}
