//! Where a token lies in a distribution that is known up to δ. Pure functions.

use crate::backend::Sampling;

/// Tokens this much less likely than the likeliest, in nats, take no part: together
/// they have less than 10^-11 of the mass of any vocabulary.
const NEGLIGIBLE: f64 = 40.0;

/// Where the number that chose a token can have been.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The smallest, in [0, 1].
    pub low: f64,
    /// The largest, in [0, 1].
    pub high: f64,
}

/// The interval of `token` under `sampling` at a temperature above 0, over every
/// order of the tokens that is possible if each logit moved by at most `delta`: from
/// the mass of the tokens more than `delta` above it to the mass of all that are not
/// more than `delta` below it, in units of the mass that top-k and top-p keep. `None`
/// if they do not keep the token in any such order.
///
/// Where the kept tokens end moves likewise: a token within `delta` of the last one may
/// be kept, and the prefix may be any that reaches top-p if its odds change by a factor
/// within `exp(±delta / temperature)`.
///
/// ```
/// use albedo_core::Sampling;
/// use albedo_core::audit::token_interval;
///
/// // Probabilities 1/2, 1/4, 1/4.
/// let logits = [0.5_f32.ln(), 0.25_f32.ln(), 0.25_f32.ln()];
/// let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
/// let interval = token_interval(&logits, 1, &sampling, 0.01).unwrap();
/// // The last two may stand in either order.
/// assert!((interval.low - 0.5).abs() < 1e-6 && (interval.high - 1.0).abs() < 1e-6);
/// ```
pub fn token_interval(logits: &[f32], token: u32, sampling: &Sampling, delta: f64) -> Option<Interval> {
    let logit = f64::from(*logits.get(token as usize)?);
    let temperature = sampling.temperature;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let least = f64::from(max) - NEGLIGIBLE * temperature - delta;
    let mut order: Vec<f64> =
        logits.iter().map(|&logit| f64::from(logit)).filter(|&logit| logit >= least).collect();
    order.sort_unstable_by(|a, b| b.total_cmp(a));
    let keep = sampling.top_k as usize;
    if keep > 0 && keep < order.len() {
        order.truncate(keep);
    }
    let mut sum = 0.0;
    // The mass of the first n tokens.
    let prefixes: Vec<f64> = std::iter::once(0.0)
        .chain(order.iter().map(|logit| {
            sum += ((logit - f64::from(max)) / temperature).exp();
            sum
        }))
        .collect();
    let total = sum;
    let first_reaching = |factor: f64| {
        // Odds of the prefix times the factor against odds of top-p.
        let reaches = |&prefix: &f64| {
            let rest = (total - prefix).max(0.0);
            prefix * factor * (1.0 - sampling.top_p) >= sampling.top_p * rest
        };
        prefixes.iter().skip(1).position(reaches).map_or(order.len(), |place| place + 1)
    };
    let slack = (delta / temperature).exp();
    let (fewest, most) = (first_reaching(slack).max(1), first_reaching(1.0 / slack).max(1));
    if logit < order.get(most - 1)? - delta {
        return None;
    }
    // How many of the sorted logits are above a bound.
    let above = |bound: f64| order.partition_point(|&logit| logit > bound);
    let not_below = |bound: f64| order.partition_point(|&logit| logit >= bound);
    let (kept_least, kept_most) = (prefixes[fewest], prefixes[most]);
    let low = prefixes[above(logit + delta)] / kept_most;
    let high = prefixes[not_below(logit - delta)].min(kept_most) / kept_least;
    Some(Interval { low: low.min(1.0), high: high.min(1.0) })
}

/// The score of a token that the number `unit` chose: its distance from the token's
/// interval, at most `clip`; at temperature 0 the gap between the highest logit and
/// the token's, as far as it is beyond `delta`, at most `clip`.
pub fn token_score(logits: &[f32], token: u32, sampling: &Sampling, unit: f64, delta: f64, clip: f64) -> f64 {
    if sampling.temperature == 0.0 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let gap =
            logits.get(token as usize).map_or(f64::INFINITY, |&logit| f64::from(max) - f64::from(logit));
        return (gap - delta).clamp(0.0, clip);
    }
    match token_interval(logits, token, sampling, delta) {
        Some(Interval { low, high }) => (low - unit).max(unit - high).clamp(0.0, clip),
        None => clip,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The sampler as `docs/record-format.md` and the engine have it.
    fn choose(logits: &[f32], sampling: &Sampling, unit: f64) -> u32 {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        if sampling.temperature == 0.0 {
            return ids[0];
        }
        if sampling.top_k > 0 {
            ids.truncate(sampling.top_k as usize);
        }
        let max = f64::from(logits[ids[0] as usize]);
        let weights: Vec<f64> = ids
            .iter()
            .map(|&id| ((f64::from(logits[id as usize]) - max) / sampling.temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        let (mut kept, mut count) = (0.0, 0);
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
        ids[count - 1]
    }

    fn sampling(temperature: f64, top_p: f64, top_k: u32) -> Sampling {
        Sampling { temperature, top_p, top_k }
    }

    #[test]
    fn an_exchange_of_two_likely_tokens_is_allowed_and_nothing_else() {
        // 0.45, 0.44 and 0.11; the first two differ by 0.0225 nats.
        let logits = [0.45_f32.ln(), 0.44_f32.ln(), 0.11_f32.ln()];
        let plain = sampling(1.0, 1.0, 0);
        let interval = |token, delta| token_interval(&logits, token, &plain, delta).expect("is kept");
        let close = |a: Interval, low: f64, high: f64| {
            assert!((a.low - low).abs() < 1e-6 && (a.high - high).abs() < 1e-6, "{a:?}");
        };
        close(interval(0, 0.0), 0.0, 0.45);
        close(interval(1, 0.0), 0.45, 0.89);
        close(interval(1, 0.03), 0.0, 0.89);
        close(interval(2, 0.03), 0.89, 1.0);
        // The second token by a number of the first one's, and of the third one's.
        assert!((token_score(&logits, 1, &plain, 0.2, 0.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(token_score(&logits, 1, &plain, 0.2, 0.03, 1.0), 0.0);
        assert!((token_score(&logits, 1, &plain, 0.95, 0.03, 1.0) - 0.06).abs() < 1e-6);
        assert_eq!(token_score(&logits, 1, &plain, 0.95, 0.03, 0.05), 0.05);
    }

    #[test]
    fn what_top_k_and_top_p_keep_ends_within_delta() {
        // 0.6, 0.2, 0.19, 0.01.
        let logits = [0.6_f32, 0.2, 0.19, 0.01].map(f32::ln);
        assert_eq!(token_interval(&logits, 3, &sampling(1.0, 0.9, 0), 0.1), None);
        assert_eq!(token_interval(&logits, 2, &sampling(1.0, 1.0, 2), 0.01), None);
        assert!(
            token_interval(&logits, 2, &sampling(1.0, 1.0, 2), 0.1).is_some(),
            "within 0.1 of the second"
        );
        assert_eq!(token_score(&logits, 3, &sampling(1.0, 0.9, 0), 0.5, 0.1, 0.7), 0.7);
        // The first token has 0.6 of the mass: it is kept alone if top-p is 0.59, and
        // perhaps with the next if rounding can take it below.
        let alone = token_interval(&logits, 0, &sampling(1.0, 0.59, 0), 0.01).expect("is kept");
        assert_eq!((alone.low, alone.high), (0.0, 1.0));
        let narrow = token_interval(&logits, 1, &sampling(1.0, 0.599, 0), 0.02);
        assert!(narrow.is_some());
        assert_eq!(token_interval(&logits, 1, &sampling(1.0, 0.5, 0), 0.02), None);
    }

    #[test]
    fn at_temperature_0_the_gap_beyond_delta_counts() {
        let logits = [1.0, 3.0, 2.5];
        let greedy = Sampling::default();
        let score = |token, delta| token_score(&logits, token, &greedy, 0.7, delta, 1.0);
        assert_eq!([score(1, 0.0), score(2, 0.25), score(2, 0.5), score(0, 0.5)], [0.0, 0.25, 0.0, 1.0]);
        assert_eq!(score(9, 0.5), 1.0, "a token outside the vocabulary");
    }

    proptest! {
        /// On the same device nothing is left over, whatever δ is.
        #[test]
        fn the_token_that_the_sampler_chose_scores_nothing(
            logits in proptest::collection::vec(-12.0_f32..12.0, 1..60),
            temperature in prop_oneof![Just(0.0), 0.05..3.0],
            top_p in prop_oneof![Just(1.0), 0.05..1.0],
            top_k in prop_oneof![Just(0_u32), 1_u32..70],
            unit in 0.0..1.0,
            delta in prop_oneof![Just(0.0), 0.0..0.5],
        ) {
            let sampling = sampling(temperature, top_p, top_k);
            let token = choose(&logits, &sampling, unit);
            let score = token_score(&logits, token, &sampling, unit, delta, 1.0);
            prop_assert!(score < 1e-9, "{score}");
        }

        /// A larger δ never raises a score.
        #[test]
        fn a_score_falls_with_delta(
            logits in proptest::collection::vec(-6.0_f32..6.0, 1..40),
            token in any::<prop::sample::Index>(),
            top_p in prop_oneof![Just(1.0), 0.3..1.0],
            unit in 0.0..1.0,
            deltas in (0.0..0.3_f64, 0.0..0.3_f64),
        ) {
            let token = token.index(logits.len()) as u32;
            let sampling = sampling(0.8, top_p, 0);
            let (small, large) = (deltas.0.min(deltas.1), deltas.0.max(deltas.1));
            let score = |delta| token_score(&logits, token, &sampling, unit, delta, 1.0);
            prop_assert!(score(large) <= score(small) + 1e-12);
        }

        /// Where rounding moved each logit by at most δ/2, so that two differ by at most
        /// δ more or less, only the change of the masses themselves is left.
        #[test]
        fn honest_rounding_leaves_little(
            logits in proptest::collection::vec(-6.0_f32..6.0, 2..40),
            noise in proptest::collection::vec(-1.0_f32..1.0, 40),
            top_p in prop_oneof![Just(1.0), 0.5..0.99],
            unit in 0.0..1.0,
        ) {
            let delta = 0.02;
            let moved: Vec<f32> = logits.iter().zip(&noise).map(|(logit, by)| logit + by * delta as f32 / 2.0).collect();
            let sampling = sampling(0.8, top_p, 0);
            let token = choose(&moved, &sampling, unit);
            let score = token_score(&logits, token, &sampling, unit, 1.001 * delta, 1.0);
            // A mass moves by at most exp(δ / T) - 1 of itself, and so does what is kept.
            prop_assert!(score <= 2.0 * ((delta / 0.8).exp() - 1.0), "{score}");
        }
    }
}
