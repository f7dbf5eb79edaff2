//! `x · weightᵀ` for few rows of `x`: the weights stream from memory once,
//! straight into registers.

use cubecl::prelude::*;

use super::mma::{Eight, Sums, left, multiply, right, zeroed_sums};

/// Planes of a cube. Each sums its own share of k: chunks of 32, two and two in
/// turn. The shares are added in the order of the planes, so that the bits of
/// a row depend neither on how many rows there are nor on the other settings.
pub(in crate::burn::cuda) const SHARES: u32 = 8;

/// Adds the products of `rounds` rounds of k, from round `round` on: all reads
/// of the weight first, so that many are under way at once.
#[cube]
fn advance(
    weight: &[Eight],
    x: &[Eight],
    sums: &mut Sequence<Array<Sums>>,
    first: usize,
    round: usize,
    #[comptime] k: usize,
    #[comptime] weight_tiles: usize,
    #[comptime] token_tiles: usize,
    #[comptime] rounds: usize,
    #[comptime] even: bool,
) {
    let chunks = comptime!(k / 32);
    let stride = comptime!(k / 8);
    let lane = UNIT_POS_PLANE as usize;
    let g = lane / 4;
    let t = lane % 4;
    let start = (round * SHARES as usize + (UNIT_POS / 32) as usize) * 2;

    let mut held = Array::<Eight>::new(comptime!(rounds * weight_tiles * 4));
    #[unroll]
    for step in 0..comptime!(rounds * 2) {
        let chunk = start + comptime!(step / 2 * 2 * SHARES as usize + step % 2);
        #[unroll]
        for part in 0..comptime!(weight_tiles * 2) {
            let mut value = Eight::zeroed();
            let at = (first + comptime!(part * 8) + g) * stride + chunk * 4 + t;
            if comptime!(even) {
                value = weight[at];
            } else if chunk < chunks {
                value = weight[at];
            }
            held[comptime!(step * weight_tiles * 2 + part)] = value;
        }
    }
    #[unroll]
    for step in 0..comptime!(rounds * 2) {
        let chunk = start + comptime!(step / 2 * 2 * SHARES as usize + step % 2);
        #[unroll]
        for tile in 0..token_tiles {
            let mut column = Eight::zeroed();
            let at = (comptime!(tile * 8) + g) * stride + chunk * 4 + t;
            if comptime!(even) {
                column = x[at];
            } else if chunk < chunks {
                column = x[at];
            }
            #[unroll]
            for half in 0..2usize {
                let b = right(column, half);
                #[unroll]
                for part in 0..weight_tiles {
                    let at = comptime!((step * weight_tiles + part) * 2);
                    let a = left(held[at], held[comptime!(at + 1)], half);
                    multiply(&a, &b, sums.index_mut(comptime!(part * token_tiles + tile)));
                }
            }
        }
    }
}

/// Writes `out[row] = x[row] · weightᵀ` for the first `rows` rows.
///
/// `weight` is `[width, k]`, `x` `[at least 8 · token_tiles, k]`, `out`
/// `[rows, width]`. One cube of [`SHARES`] planes for every `16 · weight_tiles`
/// rows of the weight; `rounds` is how many rounds of 64 · [`SHARES`] of k are
/// read ahead.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn product<E: Float>(
    weight: &[Eight],
    x: &[Eight],
    out: &mut [E],
    width: u32,
    rows: u32,
    #[comptime] k: usize,
    #[comptime] weight_tiles: usize,
    #[comptime] token_tiles: usize,
    #[comptime] rounds: usize,
) {
    let all_rounds = comptime!((k / 32).div_ceil(2 * SHARES as usize));
    let even = comptime!((k / 32).is_multiple_of(2 * SHARES as usize));
    let plane = (UNIT_POS / 32) as usize;
    let lane = UNIT_POS_PLANE as usize;
    let g = lane / 4;
    let t = lane % 4;
    let first = CUBE_POS_X as usize * comptime!(16 * weight_tiles);

    let mut sums = zeroed_sums(comptime!(weight_tiles * token_tiles));
    for group in 0..comptime!(all_rounds / rounds) {
        advance(weight, x, &mut sums, first, group * rounds, k, weight_tiles, token_tiles, rounds, even);
    }
    if comptime!(!all_rounds.is_multiple_of(rounds)) {
        let done = comptime!(all_rounds / rounds * rounds);
        let rest = comptime!(all_rounds % rounds);
        advance(weight, x, &mut sums, first, done.runtime(), k, weight_tiles, token_tiles, rest, even);
    }

    let tokens = comptime!(8 * token_tiles);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(SHARES as usize * 16 * tokens));
    #[unroll]
    for part in 0..weight_tiles {
        #[unroll]
        for tile in 0..token_tiles {
            let held = sums.index(comptime!(part * token_tiles + tile));
            let at = (plane * 16 + g) * tokens + comptime!(tile * 8) + 2 * t;
            shared[at] = held[0].extract(0usize);
            shared[at + 1] = held[0].extract(1usize);
            shared[at + comptime!(8 * tokens)] = held[1].extract(0usize);
            shared[at + comptime!(8 * tokens) + 1] = held[1].extract(1usize);
        }
        sync_cube();
        let mut index = UNIT_POS as usize;
        while index < comptime!(16 * tokens) {
            let row = index % 16;
            let token = index / 16;
            let mut sum = 0.0f32;
            #[unroll]
            for share in 0..SHARES as usize {
                sum += shared[(share * 16 + row) * tokens + token];
            }
            if token < rows as usize {
                out[token * width as usize + first + comptime!(part * 16) + row] = E::cast_from(sum);
            }
            index += comptime!(SHARES as usize * 32);
        }
        sync_cube();
    }
}
