//! Powers of 2 by additions, multiplications and shifts. What `CubeCL` calls
//! otherwise is a library of the CUDA toolkit, which a machine that only has a
//! driver lacks, and whose bits change with its version.

use cubecl::prelude::*;

/// 2^x within 3e-7 relative for x in [-126, 127]; the value at the nearer bound outside.
#[cube]
pub(super) fn exp2(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to a whole number, held in the low mantissa bits.
    let bounded = min(max(x, -126.0f32), 127.0f32);
    let shifted = bounded + 12_582_912.0f32;
    let rest = bounded - (shifted - 12_582_912.0f32);
    // The Taylor series of 2^r to r^6: 1.3e-7 off at |r| = 1/2.
    let mut sum = fma(rest, 1.540_353e-4f32, 1.333_355_8e-3f32);
    sum = fma(sum, rest, 9.618_129e-3f32);
    sum = fma(sum, rest, 5.550_411e-2f32);
    sum = fma(sum, rest, 2.402_265e-1f32);
    sum = fma(sum, rest, std::f32::consts::LN_2);
    sum = fma(sum, rest, 1.0f32);
    f32::reinterpret(u32::reinterpret(sum) + (u32::reinterpret(shifted) << 23u32))
}

/// e^x, as a power of 2.
#[cube]
pub(super) fn exp(x: f32) -> f32 {
    exp2(x * std::f32::consts::LOG2_E)
}
