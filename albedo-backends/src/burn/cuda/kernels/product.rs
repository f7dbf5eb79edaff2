//! `x · weightᵀ` for few rows of `x`: the weights stream from memory once,
//! straight into registers.
//!
//! k is summed in [`SHARES`] shares, which are then added two and two. Whether a
//! cube takes all shares ([`product`]) or some of them ([`product_of_shares`];
//! whoever reads the result adds them, [`result`]) changes nothing of that, so the
//! bits of a row depend neither on how many rows there are nor on the settings.

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
fn added<N: Size>(shares: &Array<Vector<f32, N>>, #[comptime] count: usize) -> Vector<f32, N> {
    let mut sum = shares[0] + shares[1];
    if comptime!(count > 2) {
        sum += shares[2] + shares[3];
    }
    if comptime!(count > 4) {
        sum += (shares[4] + shares[5]) + (shares[6] + shares[7]);
    }
    sum
}

/// The vector `at` of a product's result: of `count` sums of shares, `[count,
/// values]`, which are added and rounded to bf16, or, if `count` is 1, of what
/// was rounded already.
#[cube]
pub(super) fn result<P: Float, N: Size>(
    product: &[Vector<P, N>],
    at: usize,
    #[comptime] count: usize,
) -> Vector<f32, N> {
    let mut value = Vector::<f32, N>::cast_from(product[at]);
    if comptime!(count > 1) {
        let values = product.len() / count;
        let mut shares = Array::<Vector<f32, N>>::new(count);
        #[unroll]
        for share in 0..count {
            shares[share] = Vector::cast_from(product[share * values + at]);
        }
        value = Vector::cast_from(Vector::<bf16, N>::cast_from(added(&shares, count)));
    }
    value
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
            let mut shares = Array::<Vector<f32, Const<1>>>::new(comptime!(SHARES as usize));
            #[unroll]
            for share in 0..comptime!(SHARES as usize) {
                shares[share] = Vector::new(shared[(share * 16 + row) * tokens + token]);
            }
            let sum = added(&shares, comptime!(SHARES as usize)).extract(0usize);
            if token < rows as usize {
                out[token * width as usize + first + comptime!(part * 16) + row] = E::cast_from(sum);
            }
            index += comptime!(SHARES as usize * 32);
        }
        sync_cube();
    }
}

/// Takes the sum of share number `done`, counted from 1, to those before it: two
/// single shares become a pair, two pairs four shares, and two of these all.
/// `sums` is zeroed for the next share, but after the last it is the result.
#[cube]
fn add_up(
    sums: &mut Sequence<Array<Sums>>,
    waiting: &mut Sequence<Array<Sums>>,
    done: usize,
    #[comptime] tiles: usize,
    #[comptime] levels: usize,
) {
    #[unroll]
    for level in 0..levels {
        // Level by level, as a carry goes through a binary number.
        let unit = comptime!(1usize << level);
        let units = done / unit;
        if units * unit == done {
            let second = units & 1 == 0;
            #[unroll]
            for tile in 0..tiles {
                let sum = sums.index_mut(tile);
                let held = waiting.index_mut(comptime!(level * tiles + tile));
                #[unroll]
                for i in 0..2usize {
                    if second {
                        sum[i] = held[i] + sum[i];
                    } else {
                        held[i] = sum[i];
                        sum[i] = Sums::zeroed();
                    }
                }
            }
        }
    }
}

/// Writes the sums of shares, `out` is `[8 / shares, rows, width]`.
///
/// Cubes: x `shares` (1, 2, 4 or 8) shares of k; y the rows of the weight,
/// `16 · weight_tiles` for each of `planes` planes; z the rows of `x`,
/// `8 · token_tiles`, for all of which it has room. A stage is `rounds` rounds of
/// a share's k: its part of `x` waits in shared memory and its part of the weight
/// in registers while the stage before it is multiplied.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn product_of_shares<E: Float>(
    weight: &[Eight],
    x: &[Eight],
    out: &mut [E],
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
    let first = (CUBE_POS_Y as usize * planes + unit / 32) * comptime!(16 * weight_tiles);
    let first_token = CUBE_POS_Z as usize * tokens;
    let first_share = CUBE_POS_X as usize * shares;

    let mut shared = Shared::<[Eight]>::new_aligned_slice(comptime!(2 * tokens * vectors), 16usize);
    let mut next_x = Array::<Eight>::new(each);
    let mut next = Array::<Eight>::new(comptime!(4 * rounds * weight_tiles));
    let mut held = Array::<Eight>::new(comptime!(4 * rounds * weight_tiles));
    let mut sums = zeroed_sums(comptime!(weight_tiles * token_tiles));
    // The sums of 1, 2 and 4 shares that wait for their like.
    let levels = comptime!(shares.ilog2() as usize);
    let mut waiting = zeroed_sums(comptime!(levels * weight_tiles * token_tiles));

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
            if comptime!(shares > 1) && stage % stages == 0 {
                add_up(
                    &mut sums,
                    &mut waiting,
                    stage / stages,
                    comptime!(weight_tiles * token_tiles),
                    levels,
                );
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

    let plane_of = CUBE_POS_X as usize * rows as usize;
    #[unroll]
    for part in 0..weight_tiles {
        #[unroll]
        for tile in 0..token_tiles {
            let sum = sums.index(comptime!(part * token_tiles + tile));
            #[unroll]
            for i in 0..4usize {
                let token = first_token + comptime!(tile * 8 + i % 2) + 2 * t;
                let row = first + comptime!(part * 16 + i / 2 * 8) + g;
                if token < rows as usize {
                    let value = sum[comptime!(i / 2)].extract(comptime!(i % 2));
                    out[(plane_of + token) * width as usize + row] = E::cast_from(value);
                }
            }
        }
    }
}
