//! The part of Python's `random` that the Python system's sampler is made of,
//! bit for bit: `Random(int)` on the Mersenne Twister (Matsumoto and Nishimura,
//! *Mersenne Twister: a 623-dimensionally equidistributed uniform pseudo-random
//! number generator*, 1998), `random`, `getrandbits`, `choices` and `choice`.
//! Only [`Sampler::AlbedoPy`](crate::plan::Sampler) uses it; albedo's own
//! randomness is [`crate::rng`].

/// Words of the twister's state.
const WORDS: usize = 624;

/// How far apart the words are that are twisted together.
const SHIFT: usize = 397;

/// Python's `random.Random(seed)` for a whole number.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: Box<[u32; WORDS]>,
    position: usize,
}

impl Random {
    /// The generator seeded with the integer `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let words = [seed as u32, (seed >> 32) as u32];
        Self::from_key(if words[1] == 0 { &words[..1] } else { &words })
    }

    /// `init_by_array` of the reference implementation.
    fn from_key(key: &[u32]) -> Self {
        let mut state = Box::new([0_u32; WORDS]);
        state[0] = 19_650_218;
        let scramble = |word: u32| word ^ word >> 30;
        for index in 1..WORDS {
            state[index] =
                1_812_433_253_u32.wrapping_mul(scramble(state[index - 1])).wrapping_add(index as u32);
        }
        for step in 0..2 * WORDS - 1 {
            let index = step % (WORDS - 1) + 1;
            if index == 1 && step > 0 {
                state[0] = state[WORDS - 1];
            }
            let before = scramble(state[index - 1]);
            state[index] = if step < WORDS {
                let place = step % key.len();
                let mixed = state[index] ^ before.wrapping_mul(1_664_525);
                mixed.wrapping_add(key[place]).wrapping_add(place as u32)
            } else {
                (state[index] ^ before.wrapping_mul(1_566_083_941)).wrapping_sub(index as u32)
            };
        }
        state[0] = 1 << 31;
        Self { state, position: WORDS }
    }

    fn next_u32(&mut self) -> u32 {
        if self.position == WORDS {
            for index in 0..WORDS {
                let joined = self.state[index] & 1 << 31 | self.state[(index + 1) % WORDS] & !(1 << 31);
                let twist = (joined & 1).wrapping_neg() & 0x9908_b0df;
                self.state[index] = self.state[(index + SHIFT) % WORDS] ^ joined >> 1 ^ twist;
            }
            self.position = 0;
        }
        let mut word = self.state[self.position];
        self.position += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    /// `random()`: a number in [0, 1) with 53 random bits.
    pub(crate) fn random(&mut self) -> f64 {
        let (high, low) = (self.next_u32() >> 5, self.next_u32() >> 6);
        (f64::from(high) * f64::from(1 << 26) + f64::from(low)) / (1_u64 << 53) as f64
    }

    /// `getrandbits(bits)`, for 1 to 32 bits.
    pub(crate) fn getrandbits(&mut self, bits: u32) -> u32 {
        self.next_u32() >> (32 - bits.clamp(1, 32))
    }

    /// One value of `choices(range(bound), k=…)`, which draws them one after
    /// the other.
    pub(crate) fn scaled(&mut self, bound: u64) -> u64 {
        (self.random() * bound as f64) as u64
    }

    /// `choice(range(bound))`; 0, and nothing drawn, if `bound` is 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        if bound == 0 {
            return 0;
        }
        let bits = u32::BITS - bound.leading_zeros();
        loop {
            let value = self.getrandbits(bits);
            if value < bound {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTROPY: u64 = 2_000_061_265_262_017_674;

    #[test]
    fn random_equals_pythons() {
        let mut random = Random::new(ENTROPY);
        let drawn = [random.random(), random.random(), random.random()];
        assert_eq!(drawn, [0.514_915_874_933_148_2, 0.531_998_056_139_001_6, 0.012_868_005_427_021_822]);
        assert_eq!(Random::new(0).random(), 0.844_421_851_525_048_1, "a key of one word");
        assert_eq!(Random::new(1 << 32).random(), 0.112_994_300_956_364_09, "a key of two");
    }

    #[test]
    fn choices_and_then_choice_equal_pythons() {
        let mut random = Random::new(ENTROPY);
        let choices: Vec<_> = (0..6).map(|_| random.scaled(12_000_000)).collect();
        assert_eq!(choices, [6_178_990, 6_383_976, 154_416, 3_862_510, 5_599_619, 8_779_524]);
        let choice: Vec<_> = (0..6).map(|_| random.below(7)).collect();
        assert_eq!(choice, [2, 4, 0, 2, 0, 5]);
    }

    #[test]
    fn getrandbits_equals_pythons() {
        let mut random = Random::new(12_345);
        let bits: Vec<_> = (0..4).map(|_| random.getrandbits(32)).collect();
        assert_eq!(bits, [1_789_368_711, 3_146_859_322, 43_676_229, 3_522_623_596]);
    }

    #[test]
    fn below_is_what_python_shuffles_with() {
        let mut random = Random::new(12_345);
        let mut items = [0, 1, 2, 3, 4, 5, 6, 7];
        for last in (1..items.len()).rev() {
            items.swap(last, random.below(last as u32 + 1) as usize);
        }
        assert_eq!(items, [3, 1, 7, 4, 2, 0, 5, 6]);
    }
}
