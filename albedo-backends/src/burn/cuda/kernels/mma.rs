//! The tensor core instruction that every own product goes through: m16n8k16,
//! bf16 inputs, f32 sums. Lane `4g + t` holds, of A, rows g and g + 8 and of B,
//! column g, each at k = 2t, 2t + 1, 2t + 8, 2t + 9; of C, rows g and g + 8 at
//! columns 2t, 2t + 1 (PTX ISA, "Matrix Fragments for mma.m16n8k16").
//!
//! A product may take its k in any order if both sides take the same. So a lane
//! reads 16 consecutive bytes, eight values of k, and feeds them to two
//! instructions: the memory is read in full sectors and no shuffle is needed.

use cubecl::prelude::*;
use half::bf16;

/// Eight bf16, as they are read from memory.
pub(in crate::burn::cuda) type Eight = Vector<u32, Const<4>>;
/// Two bf16, one register.
pub(super) type Pair = Vector<bf16, Const<2>>;
/// Two f32, half of a lane's share of C.
pub(super) type Sums = Vector<f32, Const<2>>;

/// Zeroed sums for `tiles` tiles of 16 × 8.
#[cube]
pub(super) fn zeroed_sums(#[comptime] tiles: usize) -> Sequence<Array<Sums>> {
    let mut sums = Sequence::new();
    #[unroll]
    for _ in 0..tiles {
        let mut tile = Array::<Sums>::new(2usize);
        tile[0] = Sums::zeroed();
        tile[1] = Sums::zeroed();
        sums.push(tile);
    }
    sums
}

/// The A registers of step `half` (0 or 1) of rows g and g + 8.
#[cube]
pub(super) fn left(top: Eight, bottom: Eight, #[comptime] half: usize) -> Array<Pair> {
    let mut a = Array::<Pair>::new(4usize);
    a[0] = Pair::reinterpret(top.extract(2 * half));
    a[1] = Pair::reinterpret(bottom.extract(2 * half));
    a[2] = Pair::reinterpret(top.extract(2 * half + 1));
    a[3] = Pair::reinterpret(bottom.extract(2 * half + 1));
    a
}

/// The B registers of step `half` (0 or 1) of column g.
#[cube]
pub(super) fn right(column: Eight, #[comptime] half: usize) -> Array<Pair> {
    let mut b = Array::<Pair>::new(2usize);
    b[0] = Pair::reinterpret(column.extract(2 * half));
    b[1] = Pair::reinterpret(column.extract(2 * half + 1));
    b
}

/// `sums += a · b`.
#[cube]
pub(super) fn multiply(a: &Array<Pair>, b: &Array<Pair>, sums: &mut Array<Sums>) {
    let mma = cmma::MmaDefinition::<bf16, bf16, f32>::new(16usize, 8usize, 16usize);
    mma.execute_inplace(a, b, sums);
}
