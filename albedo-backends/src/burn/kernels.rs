//! Arithmetic on plain slices of `f32`. Each function works on one row in a
//! fixed order, so its bits depend on nothing but that row.

/// The sum of `a[i] · b[i]`, in eight interleaved partial sums.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<8>();
    let (b_lanes, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0_f32; 8];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7])) + rest
}

/// `exp(x)` within 3e-7 relative for x in [-87, 88], and the value at the
/// nearer bound outside. Only additions, multiplications and bit shifts, so
/// that loops over it vectorise and no maths library decides its bits.
// Loops over it vectorise only when it is inlined.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // ln 2 in two parts, the first with few enough bits that n · LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 · 2^23 rounds to a whole number, held in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // The Taylor series of exp to r^7: 5e-9 off at |r| = ln 2 / 2.
    let series = 1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0));
    let series = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * series))));
    let exponent = (shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits());
    series * f32::from_bits(exponent)
}

/// Writes `x / sqrt(mean(x²) + eps) · gain` to `out`.
pub(super) fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * scale * gain;
    }
}

/// Rotates the pairs `(x[i], x[i + d/2])` of a head by the angles whose
/// cosines and sines (d/2 of each) are given.
pub(super) fn rotate(x: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let half = x.len() / 2;
    let (first, second) = x.split_at_mut(half);
    for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
    }
}

/// Writes `silu(gate) · up` of a joined `[gate | up]` row to `out`.
pub(super) fn silu_mul(gate_up: &[f32], out: &mut [f32]) {
    let (gate, up) = gate_up.split_at(out.len());
    for ((out, &gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// Replaces scores by `exp(score - max)` and returns their sum.
pub(super) fn exp_scores(scores: &mut [f32]) -> f32 {
    let (lanes, rest) = scores.as_chunks::<8>();
    let mut maxima = [f32::NEG_INFINITY; 8];
    for lane in lanes {
        for (max, &score) in maxima.iter_mut().zip(lane) {
            *max = if score > *max { score } else { *max };
        }
    }
    let max = maxima.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let (lanes, rest) = scores.as_chunks_mut::<8>();
    let mut sums = [0.0_f32; 8];
    for lane in lanes {
        for (sum, score) in sums.iter_mut().zip(lane) {
            *score = exp(*score - max);
            *sum += *score;
        }
    }
    let mut sum: f32 = sums.iter().sum();
    for score in rest {
        *score = exp(*score - max);
        sum += *score;
    }
    sum
}

/// Attention of one query over `keys` and `values` (`[n, d]`), written to `out`.
/// `scores` is scratch memory of any length.
pub(super) fn attend(query: &[f32], keys: &[f32], values: &[f32], scores: &mut Vec<f32>, out: &mut [f32]) {
    let width = query.len();
    let scale = 1.0 / (width as f32).sqrt();
    scores.clear();
    scores.extend(keys.chunks_exact(width).map(|key| dot(query, key) * scale));
    let sum = exp_scores(scores);
    out.fill(0.0);
    // Four keys at a time, counted from the first: a quarter of the traffic on `out`.
    let mut blocks = values.chunks_exact(4 * width);
    let (weights, weights_rest) = scores.as_chunks::<4>();
    for (value, w) in blocks.by_ref().zip(weights) {
        let (ab, cd) = value.split_at(2 * width);
        let ((a, b), (c, d)) = (ab.split_at(width), cd.split_at(width));
        for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *out += (w[0] * a + w[1] * b) + (w[2] * c + w[3] * d);
        }
    }
    for (value, weight) in blocks.remainder().chunks_exact(width).zip(weights_rest) {
        for (out, value) in out.iter_mut().zip(value) {
            *out += weight * value;
        }
    }
    for out in out {
        *out /= sum;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exp_is_close(x in -87.0_f32..88.0) {
            let exact = f64::from(x).exp();
            prop_assert!((f64::from(exp(x)) - exact).abs() <= 3e-7 * exact, "{x}: {} {exact}", exp(x));
        }

        #[test]
        fn dot_is_close(values in proptest::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 0..70)) {
            let (a, b): (Vec<f32>, Vec<f32>) = values.iter().copied().unzip();
            let exact: f64 = values.iter().map(|&(a, b)| f64::from(a) * f64::from(b)).sum();
            prop_assert!((f64::from(dot(&a, &b)) - exact).abs() < 1e-5);
        }

        #[test]
        fn attention_is_the_weighted_mean(
            n in 1_usize..40,
            numbers in proptest::collection::vec(-2.0_f32..2.0, 6 * 81),
        ) {
            let (query, rest) = numbers.split_at(6);
            let (keys, values) = (&rest[..6 * n], &rest[6 * 40..6 * (40 + n)]);
            let mut out = [0.0; 6];
            attend(query, keys, values, &mut Vec::new(), &mut out);
            let weights: Vec<f64> = keys
                .chunks(6)
                .map(|key| {
                    let score: f64 = key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum();
                    (score / 6.0_f64.sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for (i, out) in out.iter().enumerate() {
                let exact: f64 =
                    weights.iter().zip(values.chunks(6)).map(|(w, v)| w / total * f64::from(v[i])).sum();
                prop_assert!((f64::from(*out) - exact).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn exp_is_bounded_outside_its_range() {
        assert!(exp(f32::NEG_INFINITY) > 0.0 && exp(-1000.0) < 1e-37);
        assert!(exp(1000.0).is_finite());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn rotation_keeps_lengths_and_turns_by_the_angle() {
        let mut head = [1.0, 0.5, 0.0, 0.5];
        rotate(&mut head, &[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!(head, [0.0, 0.5, 1.0, 0.5]);
    }
}
