//! Attention over pages of 64 positions of keys and values, bf16.
//!
//! A page is laid out as the products of Hopper's warpgroups read shared memory, so
//! that the copy engine brings it as it is ([`key_at`], [`value_at`]): rows of 64 bytes,
//! whose four 16-byte chunks are turned by half of the row's number. A plane that reads
//! pages without the copy engine still reads 512 consecutive bytes, or four whole
//! lines of 128.
//!
//! A row sees the keys at its own position and before it, in blocks of a fixed
//! size counted from position 0, so its bits depend neither on which rows are
//! computed with it nor on how its prompt was cut. A block of which it sees
//! nothing changes nothing: its weights are 0 and its rescaling is by 1. Therefore what
//! a page holds where no token was must be numbers, and values are written as such.
//! (Online softmax: Milakov and Gimelshein, 2018; Dao, *FlashAttention-2*, 2023.)

use cubecl::prelude::*;

pub(in crate::burn::cuda) mod decode;
pub(in crate::burn::cuda) mod prefill;

/// Positions of a page.
pub(in crate::burn::cuda) const PAGE: usize = 64;

/// Below every score, and finite: the difference of two is a number.
const LOWEST: f64 = -1e30;

/// Values of a row: 64 bytes.
const ROW: usize = 32;

/// Where value `at` of row `row` is in an image of rows of 64 bytes: the copy engine
/// and the products call this turn a swizzle of 64 bytes.
#[cube]
fn turned(row: usize, at: usize) -> usize {
    row * ROW + ((at / 8) ^ (row / 2 % 4)) * 8 + at % 8
}

/// Where value `at` of the key at position `offset` of a page is, from the page's
/// first of its head: `[at / 32, position, at % 32]`.
#[cube]
pub(in crate::burn::cuda) fn key_at(offset: usize, at: usize, #[comptime] _dim: usize) -> usize {
    at / ROW * (PAGE * ROW) + turned(offset, at % ROW)
}

/// Where value `at` of the values at position `offset` of a page is: `[position / 32,
/// at, position % 32]`.
#[cube]
pub(in crate::burn::cuda) fn value_at(offset: usize, at: usize, #[comptime] dim: usize) -> usize {
    offset / ROW * comptime!(ROW * dim) + turned(at, offset % ROW)
}
