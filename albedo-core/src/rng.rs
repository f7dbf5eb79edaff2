//! The counter-based random numbers that every draw of albedo comes from.

use crate::digest::Digest;

/// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, *Parallel random numbers: as
/// easy as 1, 2, 3*, 2011): block `counter` of the stream `key` is a pure
/// function of both, so that a draw depends on nothing that was drawn before.
///
/// One call gives 128 bits. The same function runs on every device.
pub fn philox4x32(mut key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut x = counter;
    for _ in 0..10 {
        let low = MULTIPLIERS[0] * u64::from(x[0]);
        let high = MULTIPLIERS[1] * u64::from(x[2]);
        x = [
            (high >> 32) as u32 ^ x[1] ^ key[0],
            high as u32,
            (low >> 32) as u32 ^ x[3] ^ key[1],
            low as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    x
}

/// What a random number is for; keeps the streams of one seed apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Use {
    /// Choosing the next token of a reply.
    Token = 1,
    /// Drawing rows and turns.
    RowDraw = 2,
    /// Bootstrap resampling for reports.
    Bootstrap = 3,
    /// Spreading out calls that are tried again.
    Retry = 16,
    /// Faults injected into calls.
    Chaos = 17,
}

/// The random stream of one seed and use, read by position or in order.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    purpose: Use,
    position: u64,
}

impl Stream {
    /// The stream of `seed` for `purpose`, at position 0.
    pub fn new(seed: u64, purpose: Use) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], purpose, position: 0 }
    }

    /// The 64 bits at `position`.
    pub fn at(&self, position: u64) -> u64 {
        let block = philox4x32(self.key, [position as u32, (position >> 32) as u32, self.purpose as u32, 0]);
        u64::from(block[1]) << 32 | u64::from(block[0])
    }

    /// A number in [0, 1) with 53 random bits, from the 64 bits at `position`.
    pub fn unit_at(&self, position: u64) -> f64 {
        (self.at(position) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let bits = self.at(self.position);
        self.position += 1;
        bits
    }

    /// The next whole number below `bound`, without bias (Lemire, *Fast random
    /// integer generation in an interval*, 2019); 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }
}

/// A seed derived from `parts`: the first 8 bytes, little-endian, of the
/// SHA-256 of `domain` and the parts, each preceded by its length as a `u64`.
pub fn derive_seed(domain: &str, parts: &[&[u8]]) -> u64 {
    let mut bytes = Vec::new();
    for part in std::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let digest = Digest::of(bytes);
    digest.as_bytes()[..8].iter().rev().fold(0, |seed, &byte| seed << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // Known answers of the Random123 distribution for philox4x32-10.
        assert_eq!(philox4x32([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut stream = Stream::new(7, Use::RowDraw);
        let mut seen = [0_u32; 7];
        for _ in 0..700 {
            seen[stream.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| count > 60), "{seen:?}");
        assert_eq!(stream.below(0), 0);
    }

    #[test]
    fn streams_of_one_seed_differ_by_use() {
        assert_ne!(Stream::new(1, Use::Token).at(0), Stream::new(1, Use::RowDraw).at(0));
    }
}
