//! The parts of NumPy that the Python system's bootstrap is made of, bit for
//! bit: `SeedSequence`, `PCG64DXSM`, `Generator.integers`, pairwise means and
//! linear quantiles. Only the compatibility rules use them; albedo's own
//! randomness is [`crate::rng`].

/// NumPy's `Generator(PCG64DXSM(SeedSequence(entropy)))`.
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    state: u128,
    increment: u128,
    buffered: Option<u32>,
}

impl Generator {
    /// The generator seeded with the integer `entropy`.
    pub(crate) fn new(entropy: u64) -> Self {
        const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
        let [a, b, c, d] = seed_sequence(entropy);
        let wide = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let increment = wide(c, d) << 1 | 1;
        let step = |state: u128| state.wrapping_mul(MULTIPLIER).wrapping_add(increment);
        let state = step(step(0).wrapping_add(wide(a, b)));
        Self { state, increment, buffered: None }
    }

    /// The next raw 64 bits (PCG "DXSM" output of the state before its step).
    pub(crate) fn next_u64(&mut self) -> u64 {
        const MULTIPLIER: u64 = 0xda94_2042_e4dd_58b5;
        let mut high = (self.state >> 64) as u64;
        high ^= high >> 32;
        high = high.wrapping_mul(MULTIPLIER);
        high ^= high >> 48;
        high = high.wrapping_mul(self.state as u64 | 1);
        self.state = self.state.wrapping_mul(u128::from(MULTIPLIER)).wrapping_add(self.increment);
        high
    }

    /// The next 32 bits: the low half of a raw output, then its high half.
    fn next_u32(&mut self) -> u32 {
        if let Some(high) = self.buffered.take() {
            return high;
        }
        let bits = self.next_u64();
        self.buffered = Some((bits >> 32) as u32);
        bits as u32
    }

    /// One value of `integers(0, bound)`, Lemire's method on 32 bits.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        if bound < 2 {
            return 0;
        }
        let mut product = u64::from(self.next_u32()) * u64::from(bound);
        if (product as u32) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u32) < threshold {
                product = u64::from(self.next_u32()) * u64::from(bound);
            }
        }
        (product >> 32) as u32
    }
}

/// `SeedSequence(entropy).generate_state(4, uint64)`.
fn seed_sequence(entropy: u64) -> [u64; 4] {
    let hash = |value: u32, constant: &mut u32, multiplier: u32| {
        let value = value ^ *constant;
        *constant = constant.wrapping_mul(multiplier);
        let value = value.wrapping_mul(*constant);
        value ^ value >> 16
    };
    let mix = |x: u32, y: u32| {
        let value = 0xca01_f9dd_u32.wrapping_mul(x).wrapping_sub(0x4973_f715_u32.wrapping_mul(y));
        value ^ value >> 16
    };
    let mut constant = 0x43b0_d7e5;
    let mut pool =
        [entropy as u32, (entropy >> 32) as u32, 0, 0].map(|word| hash(word, &mut constant, 0x931e_8875));
    for source in 0..4 {
        for target in 0..4 {
            if source != target {
                pool[target] = mix(pool[target], hash(pool[source], &mut constant, 0x931e_8875));
            }
        }
    }
    let mut constant = 0x8b51_f9dd;
    let mut word = |index: usize| u64::from(hash(pool[index % 4], &mut constant, 0x58f3_8ded));
    [0, 2, 4, 6].map(|index| {
        let low = word(index);
        word(index + 1) << 32 | low
    })
}

/// `np.mean`: NumPy's pairwise sum over the length; 0 for no values.
pub(crate) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { pairwise_sum(values) / values.len() as f64 }
}

/// `np.std(ddof=1) / sqrt(n)`: the standard error of the mean; 0 for fewer than
/// two values.
pub(crate) fn standard_error(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: Vec<_> = values.iter().map(|value| (value - mean) * (value - mean)).collect();
    let variance = pairwise_sum(&squares) / (values.len() - 1) as f64;
    variance.sqrt() / (values.len() as f64).sqrt()
}

/// `np.quantile(values, q)` with linear interpolation; 0 for no values.
pub(crate) fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let position = q.clamp(0.0, 1.0) * values.len().saturating_sub(1) as f64;
    let below = position.floor() as usize;
    let Some(&low) = values.get(below) else { return 0.0 };
    let high = values.get(below + 1).copied().unwrap_or(low);
    let weight = position - below as f64;
    if weight >= 0.5 { high - (high - low) * (1.0 - weight) } else { low + (high - low) * weight }
}

fn pairwise_sum(values: &[f64]) -> f64 {
    const BLOCK: usize = 128;
    if values.len() < 8 {
        return values.iter().sum();
    }
    if values.len() <= BLOCK {
        let (eights, rest) = values.split_at(values.len() / 8 * 8);
        let mut sums = [0.0; 8];
        sums.copy_from_slice(&eights[..8]);
        for chunk in eights[8..].chunks_exact(8) {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += value;
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        let total = ((a + b) + (c + d)) + ((e + f) + (g + h));
        return rest.iter().fold(total, |total, value| total + value);
    }
    let half = values.len() / 2;
    let (left, right) = values.split_at(half - half % 8);
    pairwise_sum(left) + pairwise_sum(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTROPY: u64 = 2_000_061_265_262_017_674;

    #[test]
    fn seed_sequence_and_raw_outputs_equal_numpys() {
        assert_eq!(
            seed_sequence(ENTROPY),
            [0xfc1d_ae0f_c46c_bb8c, 0x09f4_fda7_9840_5483, 0x59c7_a8a5_8c79_6669, 0x6af3_2d40_00a7_56e4]
        );
        let mut generator = Generator::new(ENTROPY);
        let raw: Vec<_> = (0..4).map(|_| generator.next_u64()).collect();
        assert_eq!(
            raw,
            [
                17_380_682_119_538_289_671,
                17_184_114_218_360_451_542,
                6_575_729_539_932_428_518,
                16_678_511_684_471_121_221
            ]
        );
    }

    #[test]
    fn integers_equal_numpys() {
        let mut generator = Generator::new(ENTROPY);
        let drawn: Vec<_> = (0..12).map(|_| generator.below(7)).collect();
        assert_eq!(drawn, [0, 6, 0, 6, 1, 2, 4, 6, 4, 2, 0, 3]);
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(vec![0.0, 1.0], 0.25), 0.25);
        assert_eq!(quantile(vec![], 0.5), 0.0);
    }

    #[test]
    fn a_pairwise_sum_is_exact_on_whole_numbers() {
        for length in [0, 1, 7, 8, 9, 127, 128, 129, 1000] {
            let values: Vec<_> = (0..length).map(f64::from).collect();
            assert_eq!(pairwise_sum(&values), f64::from(length * (length - 1) / 2), "{length}");
        }
    }
}
