//! `x · weightᵀ` for few rows of `x`: the weights stream from memory once,
//! straight into registers.
//!
//! k is summed in [`SHARES`] shares, which are then added two and two. Whether a
//! cube takes all shares ([`product`]) or some of them ([`product_of_shares`],
//! then [`add_shares`]) changes nothing of that, so the bits of a row depend
//! neither on how many rows there are nor on the settings.

use cubecl::prelude::*;
use half::bf16;

use super::mma::{Eight, Sums, left, multiply, right, turned, zeroed_sums};

/// Shares of k, each of every eighth pair of chunks of 32.
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

/// Adds 8, 4 or 2 sums of shares two and two.
#[cube]
fn added(shares: &Array<f32>, #[comptime] count: usize) -> f32 {
    let mut sum = shares[0] + shares[1];
    if comptime!(count > 2) {
        sum += shares[2] + shares[3];
    }
    if comptime!(count > 4) {
        sum += (shares[4] + shares[5]) + (shares[6] + shares[7]);
    }
    sum
}

/// Writes `out[row] = x[row] · weightᵀ` for the first `rows` rows.
///
/// `weight` is `[width, k]`, `x` `[at least 8 · token_tiles, k]`, `out`
/// `[rows, width]`. One cube of [`SHARES`] planes, each with its share, for every
/// `16 · weight_tiles` rows of the weight; `rounds` is how many rounds of
/// 64 · [`SHARES`] of k are read ahead.
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
            let mut shares = Array::<f32>::new(comptime!(SHARES as usize));
            #[unroll]
            for share in 0..comptime!(SHARES as usize) {
                shares[share] = shared[(share * 16 + row) * tokens + token];
            }
            let sum = added(&shares, comptime!(SHARES as usize));
            if token < rows as usize {
                out[token * width as usize + first + comptime!(part * 16) + row] = E::cast_from(sum);
            }
            index += comptime!(SHARES as usize * 32);
        }
        sync_cube();
    }
}

/// Writes the sums of shares: `partial` is `[8 / shares, rows, width]`.
///
/// Cubes: x the rows of the weight, `16 · weight_tiles` for each of `planes`
/// planes; y `shares` (1 or 2) shares of k; z the rows of `x`,
/// `8 · token_tiles`, for all of which it has room. A stage is `rounds` rounds of
/// a share's k: its part of `x` waits in shared memory and its part of the weight
/// in registers while the stage before it is multiplied.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn product_of_shares(
    weight: &[Eight],
    x: &[Eight],
    partial: &mut [f32],
    width: u32,
    rows: u32,
    #[comptime] k: usize,
    #[comptime] planes: usize,
    #[comptime] weight_tiles: usize,
    #[comptime] token_tiles: usize,
    #[comptime] shares: usize,
    #[comptime] rounds: usize,
) {
    let chunks = comptime!(k / 32);
    let stride = comptime!(k / 8);
    let stages = comptime!(chunks.div_ceil(2 * SHARES as usize * rounds));
    let tokens = comptime!(8 * token_tiles);
    let vectors = comptime!(8 * rounds);
    let units = comptime!(32 * planes);
    let each = comptime!((tokens * vectors).div_ceil(units));
    let unit = UNIT_POS as usize;
    let lane = UNIT_POS_PLANE as usize;
    let g = lane / 4;
    let t = lane % 4;
    let first = (CUBE_POS_X as usize * planes + unit / 32) * comptime!(16 * weight_tiles);
    let first_token = CUBE_POS_Z as usize * tokens;
    let first_share = CUBE_POS_Y as usize * shares;

    let mut shared = Shared::<[Eight]>::new_aligned_slice(comptime!(2 * tokens * vectors), 16usize);
    let mut next_x = Array::<Eight>::new(each);
    let mut next = Array::<Eight>::new(comptime!(4 * rounds * weight_tiles));
    let mut held = Array::<Eight>::new(comptime!(4 * rounds * weight_tiles));
    let mut sums = zeroed_sums(comptime!(weight_tiles * token_tiles));
    let mut before = zeroed_sums(comptime!(weight_tiles * token_tiles));

    for stage in 0..comptime!(stages * shares + 1) {
        if stage < comptime!(stages * shares) {
            let pair = (stage % stages) * comptime!(rounds * SHARES as usize) + first_share + stage / stages;
            #[unroll]
            for i in 0..each {
                let index = unit + comptime!(i * units);
                let vector = index % vectors;
                let chunk = 2 * (pair + vector / 8 * SHARES as usize) + vector % 8 / 4;
                let mut value = Eight::zeroed();
                if index < comptime!(tokens * vectors) && chunk < chunks {
                    value = x[(first_token + index / vectors) * stride + chunk * 4 + vector % 4];
                }
                next_x[i] = value;
            }
            #[unroll]
            for step in 0..comptime!(2 * rounds) {
                let chunk = 2 * pair + comptime!(step / 2 * 2 * SHARES as usize + step % 2);
                #[unroll]
                for part in 0..comptime!(2 * weight_tiles) {
                    let mut value = Eight::zeroed();
                    if chunk < chunks {
                        value = weight[(first + comptime!(part * 8) + g) * stride + chunk * 4 + t];
                    }
                    next[comptime!(step * 2 * weight_tiles + part)] = value;
                }
            }
        }
        if stage > 0 {
            let from = (stage - 1) % 2 * comptime!(tokens * vectors);
            #[unroll]
            for step in 0..comptime!(2 * rounds) {
                #[unroll]
                for tile in 0..token_tiles {
                    let column =
                        shared[from + turned(comptime!(tile * 8) + g, comptime!(step * 4) + t, vectors)];
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
            if comptime!(shares == 2) && stage == stages {
                #[unroll]
                for tile in 0..comptime!(weight_tiles * token_tiles) {
                    let done = before.index_mut(tile);
                    let sum = sums.index_mut(tile);
                    done[0] = sum[0];
                    done[1] = sum[1];
                    sum[0] = Sums::zeroed();
                    sum[1] = Sums::zeroed();
                }
            }
        }
        if stage < comptime!(stages * shares) {
            let to = stage % 2 * comptime!(tokens * vectors);
            #[unroll]
            for i in 0..each {
                let index = unit + comptime!(i * units);
                if index < comptime!(tokens * vectors) {
                    shared[to + turned(index / vectors, index % vectors, vectors)] = next_x[i];
                }
            }
            #[unroll]
            for i in 0..comptime!(4 * rounds * weight_tiles) {
                held[i] = next[i];
            }
        }
        sync_cube();
    }

    let plane_of = CUBE_POS_Y as usize * rows as usize;
    #[unroll]
    for part in 0..weight_tiles {
        #[unroll]
        for tile in 0..token_tiles {
            let sum = sums.index(comptime!(part * token_tiles + tile));
            let done = before.index(comptime!(part * token_tiles + tile));
            #[unroll]
            for i in 0..4usize {
                let token = first_token + comptime!(tile * 8 + i % 2) + 2 * t;
                let row = first + comptime!(part * 16 + i / 2 * 8) + g;
                if token < rows as usize {
                    let mut value = sum[comptime!(i / 2)].extract(comptime!(i % 2));
                    if comptime!(shares == 2) {
                        value = done[comptime!(i / 2)].extract(comptime!(i % 2)) + value;
                    }
                    partial[(plane_of + token) * width as usize + row] = value;
                }
            }
        }
    }
}

/// Adds `count` (8 or 4) sums of shares, in vectors of 4: `partial` is
/// `[count, values]`, `out` `[values]`.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn add_shares(
    partial: &[Vector<f32, Const<4>>],
    out: &mut [Vector<bf16, Const<4>>],
    #[comptime] count: usize,
) {
    let at = ABSOLUTE_POS;
    let values = out.len();
    if at < values {
        let mut sum = Vector::<f32, Const<4>>::zeroed();
        #[unroll]
        for i in 0..4usize {
            let mut shares = Array::<f32>::new(count);
            #[unroll]
            for share in 0..count {
                shares[share] = partial[share * values + at].extract(i);
            }
            sum.insert(i, added(&shares, count));
        }
        out[at] = Vector::cast_from(sum);
    }
}
