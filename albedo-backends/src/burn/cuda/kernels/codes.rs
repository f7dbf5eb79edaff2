//! Keys and values as int8: a code of -127 to 127 for every value, and a factor for
//! each token and key-value head, by which its codes are multiplied. Both depend on the
//! token's own row alone.
//!
//! A page of a head is its codes and behind them the factors of its 64 positions, so that
//! one copy brings both. A code is a byte, its sign and seven bits of size. Eight that are
//! read together are two words; the even bytes of a word are its first two values, the odd
//! ones the others, so that shifts and masks alone make two bf16 of two of them.

use cubecl::prelude::*;
use half::bf16;

use super::attention::{PAGE, key_at, value_at};
use super::mma::{Eight, Pair};
use super::product_few::result;
use super::rows::{NONE, Two};

/// Eight codes.
pub(in crate::burn::cuda) type EightCodes = Vector<u32, Const<2>>;

/// Codes of a row that lies together.
const ROW: usize = 32;

/// The largest code.
const LARGEST: f32 = 127.0;

/// Words of a page of one head: codes, four to a word, and factors.
pub(in crate::burn::cuda) const fn page_words(dim: usize) -> usize {
    PAGE * dim / 4 + PAGE
}

/// The byte of value `at` among the codes of a row.
#[cube]
fn byte(at: usize) -> usize {
    at / 4 * 4 + at % 2 * 2 + at % 4 / 2
}

/// Where code `at` of the key at position `offset` of a page is, in bytes from the page's
/// first of its head: `[at / 32, row, at % 32]`. In every block of 32, rows are positions
/// in the order in which a decoded row's tiles of eight take them.
#[cube]
pub(in crate::burn::cuda) fn key_code_at(offset: usize, at: usize) -> usize {
    let row = offset / 32 * 32 + offset / 2 % 4 * 8 + offset % 32 / 8 * 2 + offset % 2;
    at / ROW * (PAGE * ROW) + row * ROW + byte(at % ROW)
}

/// The position of row `row` of keys.
#[cube]
fn key_position(row: usize) -> usize {
    row / 32 * 32 + row % 8 / 2 * 8 + row % 32 / 8 * 2 + row % 2
}

/// Where code `at` of the values at position `offset` of a page is, in bytes: `[position /
/// 32, at, position % 32]`.
#[cube]
pub(in crate::burn::cuda) fn value_code_at(offset: usize, at: usize, #[comptime] dim: usize) -> usize {
    offset / ROW * comptime!(ROW * dim) + at * ROW + byte(offset % ROW)
}

/// What a code's size counts in as a bf16 of which only the sign and the last bits are set:
/// the least bf16, 2^-133, is 2^-33 of [`RAISED`].
pub(super) const LOWERED: f32 = 8_589_934_592.0;

/// What the other side of a product of [`tiny`] values is multiplied by, 2^100.
pub(super) const RAISED: f32 = 1.267_650_6e30;

/// Eight values of their codes, each times the least bf16: products read such numbers
/// exactly, and to make others would take as long as all else that is done with them.
#[cube]
pub(super) fn tiny(codes: EightCodes) -> Eight {
    let mut values = Eight::zeroed();
    #[unroll]
    for i in 0..2usize {
        let word = codes.extract(i);
        // The sign of a code in an odd byte is where a bf16 has it.
        let (even, odd) = (word << 8u32, word >> 8u32);
        values.insert(comptime!(2 * i), (even & 0x8000_8000u32) | (word & 0x007f_007fu32));
        values.insert(comptime!(2 * i + 1), (word & 0x8000_8000u32) | (odd & 0x007f_007fu32));
    }
    values
}

/// Eight values of their codes. `0x4300` is 128, of which a step of the mantissa is 1.
#[cube]
fn widen(codes: EightCodes) -> Eight {
    let mut values = tiny(codes);
    #[unroll]
    for i in 0..4usize {
        let word = values.extract(i);
        let above = Pair::reinterpret(word | 0x4300_4300u32);
        let base = Pair::reinterpret((word & 0x8000_8000u32) | 0x4300_4300u32);
        values.insert(i, u32::reinterpret(above - base));
    }
    values
}

/// The code of `value`, in the low byte.
#[cube]
fn code(value: f32, inverse: f32) -> u32 {
    // Adding 2^23 rounds to a whole number, held in the low mantissa bits.
    let size = max(value, -value) * inverse + 8_388_608.0f32;
    (u32::reinterpret(size) & 127u32) | ((u32::reinterpret(value) >> 24u32) & 128u32)
}

/// What values are multiplied by to be codes, the largest of which has the size
/// `largest`; 0 if all are as good as 0.
#[cube]
fn inverse(largest: f32) -> f32 {
    let mut inverse = 0.0f32;
    if largest > 1e-30f32 {
        inverse = LARGEST / largest;
    }
    inverse
}

/// The factor of codes, the largest of which has the size `largest`.
#[cube]
fn factor(largest: f32) -> f32 {
    let mut factor = 0.0f32;
    if largest > 1e-30f32 {
        factor = largest * comptime!(1.0 / LARGEST);
    }
    factor
}

/// The larger size of two values.
#[cube]
fn size(both: Two<f32>) -> f32 {
    let (a, b) = (both.extract(0usize), both.extract(1usize));
    max(max(a, -a), max(b, -b))
}

/// The largest `value` of the plane.
#[cube]
fn largest_of_plane(value: f32) -> f32 {
    let mut largest = value;
    #[unroll]
    for i in 0..5u32 {
        largest = max(largest, plane_shuffle_xor(largest, comptime!(1u32 << i)));
    }
    largest
}

/// Whether one of two values is not a number, or infinite.
#[cube]
fn is_odd(both: Two<f32>) -> bool {
    let rest = both - both;
    rest.extract(0usize) + rest.extract(1usize) != 0.0f32
}

/// Writes the key of a row to position `offset` of the page whose words begin at `page`.
/// `low` and `high` are the plane's pairs of values of both halves of the head. Those
/// that are not numbers are written as 0, and give the row a fault.
#[cube]
pub(super) fn write_key(
    low: Two<f32>,
    high: Two<f32>,
    keys: &mut [u32],
    page: usize,
    offset: usize,
    faults: &mut [u32],
    row: usize,
    layer: u32,
    #[comptime] dim: usize,
) {
    let lane = UNIT_POS_PLANE as usize;
    let mut low = low;
    let mut high = high;
    if is_odd(low) || is_odd(high) {
        low = Two::zeroed();
        high = Two::zeroed();
        if faults[row] == NONE {
            faults[row] = layer;
        }
    }
    let largest = largest_of_plane(max(size(low), size(high)));
    let inverse = inverse(largest);
    let low = code(low.extract(0usize), inverse) | (code(low.extract(1usize), inverse) << 16u32);
    let high = code(high.extract(0usize), inverse) | (code(high.extract(1usize), inverse) << 16u32);
    // Two neighbours have a word of either half; the first writes one, the second the other.
    let other_low = plane_shuffle_xor(low, 1u32);
    let other_high = plane_shuffle_xor(high, 1u32);
    let mut word = low | (other_low << 8u32);
    let mut at = 2 * lane;
    if lane % 2 == 1 {
        word = other_high | (high << 8u32);
        at = comptime!(dim / 2) + 2 * lane - 2;
    }
    if lane < comptime!(dim / 4) {
        keys[page + key_code_at(offset, at) / 4] = word;
    }
    if lane == 0 {
        keys[page + comptime!(PAGE * dim / 4) + offset] = u32::reinterpret(factor(largest));
    }
}

/// Writes the values of head `head` of `together` rows from `first` on, as
/// `qk_norm_rope_write_kv` does, which knows their `places` and `offsets`; `follow` says
/// that they are one chunk of a page, of eight.
/// `values`, `chunks` and `words` are the same memory.
#[cube]
pub(super) fn write_values<P: Float, V: Numeric, N: Size>(
    qkv: &[Two<P>],
    places: &Array<u32>,
    offsets: &Array<u32>,
    values: &mut [V],
    chunks: &mut [Vector<u32, N>],
    words: &mut [u32],
    faults: &mut [u32],
    rows: u32,
    layer: u32,
    first: u32,
    head: u32,
    follow: bool,
    #[comptime] heads: u32,
    #[comptime] kv_heads: u32,
    #[comptime] dim: usize,
    #[comptime] sums: usize,
    #[comptime] together: u32,
) {
    let lane = UNIT_POS_PLANE as usize;
    let width = comptime!(dim / 2);
    let rounds = comptime!(width.div_ceil(32));
    let mut held = Array::<Two<f32>>::new(comptime!(together as usize * rounds));
    let mut inverses = Array::<f32>::new(comptime!(together as usize));
    #[unroll]
    for i in 0..together {
        let row = min(first + i, rows - 1);
        let from = row * comptime!(heads + 2 * kv_heads) + comptime!(heads + kv_heads) + head;
        #[unroll]
        for round in 0..rounds {
            let at = lane + comptime!(32 * round);
            let mut both = Two::<f32>::zeroed();
            if at < width {
                both = result(qkv, from as usize * width + at, sums);
            }
            held[comptime!(i as usize * rounds + round)] = both;
        }
    }
    #[unroll]
    for i in 0..together {
        let row = min(first + i, rows - 1) as usize;
        let mut largest = 0.0f32;
        #[unroll]
        for round in 0..rounds {
            let mut both = held[comptime!(i as usize * rounds + round)];
            if is_odd(both) {
                both = Two::zeroed();
                if faults[row] == NONE {
                    faults[row] = layer;
                }
            }
            held[comptime!(i as usize * rounds + round)] = both;
            largest = max(largest, size(both));
        }
        let largest = largest_of_plane(largest);
        inverses[i as usize] = inverse(largest);
        if first + i < rows && lane == 0 {
            let start = places[i as usize] as usize * comptime!(page_words(dim)) + comptime!(PAGE * dim / 4);
            words[start + offsets[i as usize] as usize] = u32::reinterpret(factor(largest));
        }
    }
    #[unroll]
    for round in 0..rounds {
        let at = lane + comptime!(32 * round);
        if at < width {
            #[unroll]
            for side in 0..2usize {
                let mut codes = EightCodes::zeroed();
                #[unroll]
                for i in 0..together {
                    let value = held[comptime!(i as usize * rounds + round)].extract(side);
                    let code = code(value, inverses[i as usize]);
                    if !follow && first + i < rows {
                        let start = places[i as usize] as usize * comptime!(4 * page_words(dim));
                        let offset = offsets[i as usize] as usize;
                        values[start + value_code_at(offset, 2 * at + side, dim)] = V::cast_from(code);
                    }
                    let word = comptime!(i as usize / 4);
                    let shift = comptime!([0u32, 16, 8, 24][i as usize % 4]);
                    codes.insert(word, codes.extract(word) | (code << shift));
                }
                if follow {
                    let start = places[0usize] as usize * comptime!(4 * page_words(dim));
                    let to = start + value_code_at(offsets[0usize] as usize, 2 * at + side, dim);
                    let mut chunk = Vector::<u32, N>::zeroed();
                    chunk.insert(0usize, codes.extract(0usize));
                    chunk.insert(1usize, codes.extract(1usize));
                    chunks[to / 8] = chunk;
                }
            }
        }
    }
}

/// Writes pages `from` of codes as pages of bf16, one after the other, as attention of
/// prompts reads them. Of `keys` and `values` both arguments are the same memory. Cubes:
/// x the page, y the key-value head.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn widen_pages(
    from: &[u32],
    keys: &[EightCodes],
    key_factors: &[f32],
    values: &[EightCodes],
    value_factors: &[f32],
    wide_keys: &mut [Eight],
    wide_values: &mut [Eight],
    #[comptime] kv_heads: usize,
    #[comptime] dim: usize,
) {
    let place = from[CUBE_POS_X as usize] as usize * kv_heads + CUBE_POS_Y as usize;
    let to = (CUBE_POS_X as usize * kv_heads + CUBE_POS_Y as usize) * comptime!(PAGE * dim / 8);
    let codes = place * comptime!(page_words(dim) / 2);
    let factors = place * comptime!(page_words(dim)) + comptime!(PAGE * dim / 4);
    let mut at = UNIT_POS as usize;
    while at < comptime!(PAGE * dim / 8) {
        let part = at % 4 * 8;
        let position = key_position(at / 4 % PAGE);
        let mut by = Array::<f32>::new(8usize);
        #[unroll]
        for i in 0..8usize {
            by[i] = key_factors[factors + position];
        }
        let dims = at / comptime!(4 * PAGE) * ROW + part;
        wide_keys[to + key_at(position, dims, dim) / 8] = multiplied(widen(keys[codes + at]), &by);

        let position = at / comptime!(4 * dim) * ROW + part;
        #[unroll]
        for i in 0..8usize {
            by[i] = value_factors[factors + position + i];
        }
        let values = multiplied(widen(values[codes + at]), &by);
        wide_values[to + value_at(position, at / 4 % dim, dim) / 8] = values;
        at += CUBE_DIM as usize;
    }
}

/// Eight values, each times its factor.
#[cube]
fn multiplied(values: Eight, by: &Array<f32>) -> Eight {
    let mut results = Eight::zeroed();
    #[unroll]
    for i in 0..4usize {
        let two = Pair::reinterpret(values.extract(i));
        let mut result = Pair::empty();
        #[unroll]
        for side in 0..2usize {
            let value = f32::cast_from(two.extract(side)) * by[comptime!(2 * i + side)];
            result.insert(side, bf16::cast_from(value));
        }
        results.insert(i, u32::reinterpret(result));
    }
    results
}
