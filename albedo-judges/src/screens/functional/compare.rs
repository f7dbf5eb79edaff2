//! What two models' answers have in common.

use serde::{Deserialize, Serialize};

/// Replies that a median is taken over, at least.
const TYPICAL: usize = 8;

/// The most that a token adds to [`Difference::capped_divergence`], in nats. Source: albedo; one
/// token of a reply of 96 adds at most 0.21 to the mean.
const CAP: f64 = 20.0;

/// What a model says otherwise than the king: for each token of each reply, its
/// log-probability less the king's, in nats.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference(Vec<Vec<f64>>);

/// A model's difference to the king beside another's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Resemblance {
    /// Cosine of the two differences, 1 if one is a multiple of the other: the larger of the
    /// next two.
    pub cosine: f64,
    /// Over all tokens together.
    pub overall: f64,
    /// The median over the replies: a few tokens that were spoiled on purpose do not move it.
    pub typical: f64,
    /// The factor of the other that fits best.
    pub factor: f64,
}

impl Difference {
    /// What `model` says otherwise than `king`, each the log-probabilities of the tokens of
    /// the same replies; `None` if these are not the same tokens.
    pub fn between(model: &[Vec<f32>], king: &[Vec<f32>]) -> Option<Self> {
        let same =
            model.len() == king.len() && model.iter().zip(king).all(|(one, two)| one.len() == two.len());
        let reply = |(model, king): (&Vec<f32>, &Vec<f32>)| -> Vec<f64> {
            model.iter().zip(king).map(|(&model, &king)| f64::from(model) - f64::from(king)).collect()
        };
        same.then(|| Self(model.iter().zip(king).map(reply).collect()))
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// The divergence KL(king ‖ model) in nats per token, of tokens that the king chose:
    /// the mean of `r − 1 − ln r` with `r` the model's probability over the king's, which is
    /// never negative (Schulman, *Approximating KL divergence*, 2020).
    pub fn divergence(&self) -> f64 {
        let sum: f64 = self.0.iter().map(|reply| divergence(reply)).sum();
        sum / self.tokens().max(1) as f64
    }

    /// The divergence with at most 20 nats of each token: a few tokens that were spoiled on purpose
    /// hardly move it, even if they are in every reply.
    pub fn capped_divergence(&self) -> f64 {
        let sum: f64 = self.0.iter().flatten().map(|&difference| term(difference).min(CAP)).sum();
        sum / self.tokens().max(1) as f64
    }

    /// The median over the replies of their divergences: a few tokens that were spoiled on
    /// purpose do not move it. The divergence of all tokens where there are fewer than 8 replies.
    pub fn typical_divergence(&self) -> f64 {
        let replies = self.0.iter().filter(|reply| !reply.is_empty());
        let each: Vec<f64> = replies.map(|reply| divergence(reply) / reply.len() as f64).collect();
        median(each).unwrap_or_else(|| self.divergence())
    }

    /// How much of it is `other`, of the same replies.
    pub fn beside(&self, other: &Self) -> Resemblance {
        let (mut product, mut own, mut others) = (0.0, 0.0, 0.0);
        let mut each = Vec::new();
        for (one, two) in self.0.iter().zip(&other.0) {
            let sums = one.iter().zip(two).fold([0.0; 3], |[product, own, others], (one, two)| {
                [product + one * two, own + one * one, others + two * two]
            });
            product += sums[0];
            own += sums[1];
            others += sums[2];
            if sums[1] > 0.0 && sums[2] > 0.0 {
                each.push(sums[0] / (sums[1] * sums[2]).sqrt());
            }
        }
        let overall = if own > 0.0 && others > 0.0 { product / (own * others).sqrt() } else { 0.0 };
        let typical = median(each).unwrap_or(0.0);
        let factor = if others > 0.0 { product / others } else { 0.0 };
        Resemblance { cosine: overall.max(typical), overall, typical, factor }
    }
}

/// The sum of `r − 1 − ln r` over the tokens of a reply.
fn divergence(reply: &[f64]) -> f64 {
    reply.iter().map(|&difference| term(difference)).sum()
}

/// `r − 1 − ln r` of a token, `difference` being `ln r`.
fn term(difference: f64) -> f64 {
    difference.exp_m1() - difference
}

/// The lower of the two middle values of an even number; none of fewer than [`TYPICAL`].
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    (values.len() >= TYPICAL).then(|| values[(values.len() - 1) / 2])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn difference(values: &[f64]) -> Difference {
        Difference(values.chunks(4).map(<[f64]>::to_vec).collect())
    }

    proptest! {
        #[test]
        fn a_multiple_is_known_and_a_divergence_is_none_or_positive(
            values in proptest::collection::vec(-3.0_f64..3.0, 1..200),
            factor in 0.1_f64..4.0,
        ) {
            let one = difference(&values);
            prop_assert!(one.divergence() >= 0.0);
            let scaled = Difference(one.0.iter().map(|reply| reply.iter().map(|value| factor * value).collect()).collect());
            if values.iter().any(|&value| value.abs() > 1e-6) {
                let found = scaled.beside(&one);
                prop_assert!((found.overall - 1.0).abs() < 1e-9 && (found.factor / factor - 1.0).abs() < 1e-9);
            }
        }
    }

    /// For a distribution of two tokens the mean over the king's draws is known.
    #[test]
    fn the_divergence_is_that_of_the_distributions() {
        let (king, model) = (0.25_f64, 0.4_f64);
        let (first, second) = ((model / king).ln(), ((1.0 - model) / (1.0 - king)).ln());
        let drawn: Vec<f64> = (0..1000).map(|at| if at % 4 == 0 { first } else { second }).collect();
        let expected = -king * first - (1.0 - king) * second;
        assert!((difference(&drawn).divergence() - expected).abs() < 1e-12);
        assert!(difference(&[0.0; 8]).divergence() == 0.0);
    }

    #[test]
    fn a_few_spoiled_tokens_hide_nothing() {
        let values: Vec<f64> = (0..400).map(|at| 0.1 * f64::from((at * 37 % 19) - 9)).collect();
        let mut spoiled = values.clone();
        for place in [3, 90, 211] {
            spoiled[place] += 60.0;
        }
        let found = difference(&spoiled).beside(&difference(&values));
        assert!(found.overall < 0.3 && found.typical > 0.999 && found.cosine > 0.999, "{found:?}");
        let [spoiled, plain] = [&spoiled, &values].map(|values| difference(values));
        assert!(spoiled.divergence() > 1e20, "{}", spoiled.divergence());
        assert_eq!(spoiled.typical_divergence(), plain.typical_divergence());
        let by = spoiled.capped_divergence() - plain.divergence();
        assert!(by > 0.1 && by <= 3.0 * CAP / 400.0, "{by}");
        assert!((plain.capped_divergence() - plain.divergence()).abs() < 1e-12);
        // Of few replies there is no median.
        let few = difference(&values[..28]);
        assert_eq!(few.typical_divergence(), few.divergence());
        assert!(Difference::between(&[vec![0.0]], &[vec![0.0, 1.0]]).is_none());
    }
}
