//! The signs and buckets of the random projections: fixed functions of a
//! purpose and an index, the same for every model.

/// What a hash is for; keeps the projections apart.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(crate) enum Purpose {
    /// Signs of residual channels.
    Channel = 1,
    /// Signs of vocabulary rows in the columns' signatures.
    Signature = 2,
    /// Row buckets and signs of stored sketches.
    Row = 3,
}

/// 64 well-mixed bits (the finaliser of `SplitMix64`: Steele, Lea and Flood,
/// *Fast splittable pseudorandom number generators*, 2014).
pub(crate) fn hash(purpose: Purpose, index: u64) -> u64 {
    let mut z = (purpose as u64) << 56 ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// A random sign.
pub(crate) fn sign(purpose: Purpose, index: u64) -> f32 {
    if hash(purpose, index) >> 63 == 0 { 1.0 } else { -1.0 }
}

/// A random bucket below `buckets`, a power of two, and a sign.
pub(crate) fn bucket(purpose: Purpose, index: u64, buckets: usize) -> (usize, f32) {
    let bits = hash(purpose, index);
    ((bits as usize) & (buckets - 1), if bits >> 63 == 0 { 1.0 } else { -1.0 })
}
