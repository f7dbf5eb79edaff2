//! `x · weightᵀ` for few rows of `x`: the weights stream from memory once, by the
//! copy engine.
//!
//! k is summed in [`SHARES`] shares, which are then added two and two. Whether a
//! cube takes all shares or some of them (whoever reads the result adds these,
//! [`result`]) changes nothing of that, so the bits of a row depend neither on how
//! many rows there are nor on the settings.

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use half::bf16;

use super::mma::{Eight, Pair, Sums, left, multiply, right, zeroed_sums};

/// Shares of k, each of every eighth stage.
pub(in crate::burn::cuda) const SHARES: u32 = 8;

/// k of a stage: 128 bytes of each row, what the copy engine turns.
pub(in crate::burn::cuda) const STAGE: usize = 64;

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

/// Row `g` of a tile of 8: the order in which eight rows that are turned by 128
/// bytes are read from different banks.
#[cube]
fn spread(g: usize) -> usize {
    g % 2 * 4 + g / 2
}

/// Writes the sums of shares, `out` is `[8 / shares, rows, width]`; one sum is
/// rounded to what `out` holds.
///
/// `weight` is `[width, k]` and `x` `[rows, k]`, each in boxes of the cube's rows
/// by [`STAGE`], turned by 128 bytes; what is not there is read as zeros. Cubes: x
/// `shares` (1, 2, 4 or 8) shares of k; y the rows of `x`, `token_tiles` tiles of 8
/// for each of `token_planes` planes; z the rows of the weight, `weight_tiles`
/// tiles of 16 for each of `weight_planes`. `ahead` stages are under way at once.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn product<E: Float>(
    weight: &TensorMap<bf16, Tiled>,
    x: &TensorMap<bf16, Tiled>,
    out: &mut [E],
    width: u32,
    rows: u32,
    #[comptime] k: usize,
    #[comptime] weight_planes: usize,
    #[comptime] token_planes: usize,
    #[comptime] weight_tiles: usize,
    #[comptime] token_tiles: usize,
    #[comptime] shares: usize,
    #[comptime] ahead: usize,
) {
    let stages = comptime!(k.div_ceil(STAGE * SHARES as usize));
    let all = comptime!(stages * shares);
    let weights = comptime!(16 * weight_tiles * weight_planes);
    let tokens = comptime!(8 * token_tiles * token_planes);
    let plane = (UNIT_POS / 32) as usize;
    let lane = UNIT_POS_PLANE as usize;
    let g = lane / 4;
    let t = lane % 4;
    let row = spread(g);
    // Zeros of which the compiler does not know: an operand that was mixed with them
    // is a value of its own, whose registers are not copied for every product: three
    // to four copies for each (ours, counted in the code for sm_90a).
    let zeros = Eight::new(rows >> 31u32);
    let first_token = CUBE_POS_Y as usize * tokens;
    let first = CUBE_POS_Z as usize * weights;
    let first_share = CUBE_POS_X as usize * shares;
    let from_weight = plane % weight_planes * comptime!(16 * weight_tiles);
    let from_token = plane / weight_planes * comptime!(8 * token_tiles);

    let mut weight_box =
        Shared::<[Vector<bf16, Const<8>>]>::new_aligned_slice(comptime!(ahead * weights * 8), 1024usize);
    let mut x_box =
        Shared::<[Vector<bf16, Const<8>>]>::new_aligned_slice(comptime!(ahead * tokens * 8), 1024usize);
    let mut landed = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..ahead {
        landed.push(Barrier::shared(1u32, UNIT_POS == 0));
    }
    sync_async_proxy_shared();
    sync_cube();

    #[unroll]
    for slot in 0..comptime!(Ord::min(ahead, all)) {
        if UNIT_POS == 0 {
            bring(
                weight,
                x,
                landed.index(slot),
                &mut weight_box,
                &mut x_box,
                slot.runtime(),
                slot,
                first,
                first_token,
                first_share,
                stages,
                weights,
                tokens,
            );
        }
    }

    let mut sums = zeroed_sums(comptime!(weight_tiles * token_tiles));
    let levels = comptime!(shares.ilog2() as usize);
    let mut waiting = zeroed_sums(comptime!(levels * weight_tiles * token_tiles));
    for group in 0..comptime!(all.div_ceil(ahead)) {
        #[unroll]
        for slot in 0..ahead {
            let stage = group * ahead + slot;
            if stage < all {
                landed.index(slot).wait_parity((group % 2) as u32);
                #[unroll]
                for step in 0..2usize {
                    let vector = (comptime!(step * 4) + t) ^ row;
                    let mut held = Array::<Eight>::new(comptime!(2 * weight_tiles));
                    #[unroll]
                    for part in 0..comptime!(2 * weight_tiles) {
                        let at = comptime!(slot * weights) + from_weight + comptime!(part * 8) + row;
                        held[part] = Eight::reinterpret(weight_box[at * 8 + vector]);
                    }
                    let mut rows_of_weight = Sequence::<Array<Pair>>::new();
                    #[unroll]
                    for half in 0..2usize {
                        #[unroll]
                        for part in 0..weight_tiles {
                            rows_of_weight.push(left(
                                held[comptime!(2 * part)] ^ zeros,
                                held[comptime!(2 * part + 1)] ^ zeros,
                                half,
                            ));
                        }
                    }
                    #[unroll]
                    for tile in 0..token_tiles {
                        let at = comptime!(slot * tokens) + from_token + comptime!(tile * 8) + row;
                        let column = Eight::reinterpret(x_box[at * 8 + vector]);
                        #[unroll]
                        for half in 0..2usize {
                            let b = right(column, half);
                            #[unroll]
                            for part in 0..weight_tiles {
                                multiply(
                                    rows_of_weight.index(comptime!(half * weight_tiles + part)),
                                    &b,
                                    sums.index_mut(comptime!(part * token_tiles + tile)),
                                );
                            }
                        }
                    }
                }
                let done = (stage + 1) / stages;
                if comptime!(shares > 1) && done * stages == stage + 1 {
                    add_up(&mut sums, &mut waiting, done, comptime!(weight_tiles * token_tiles), levels);
                }
                sync_cube();
                if UNIT_POS == 0 && stage + ahead < all {
                    bring(
                        weight,
                        x,
                        landed.index(slot),
                        &mut weight_box,
                        &mut x_box,
                        stage + ahead,
                        slot,
                        first,
                        first_token,
                        first_share,
                        stages,
                        weights,
                        tokens,
                    );
                }
            }
        }
    }

    let plane_of = CUBE_POS_X as usize * rows as usize;
    #[unroll]
    for part in 0..weight_tiles {
        #[unroll]
        for tile in 0..token_tiles {
            let sum = sums.index(comptime!(part * token_tiles + tile));
            #[unroll]
            for i in 0..4usize {
                let token = first_token + from_token + comptime!(tile * 8 + i % 2 * 4) + t;
                let column = first + from_weight + comptime!(part * 16 + i / 2 * 8) + row;
                if token < rows as usize && column < width as usize {
                    let value = sum[comptime!(i / 2)].extract(comptime!(i % 2));
                    out[(plane_of + token) * width as usize + column] = E::cast_from(value);
                }
            }
        }
    }
}

/// Has the copy engine bring a stage of both sides to place `slot`.
#[cube]
fn bring(
    weight: &TensorMap<bf16, Tiled>,
    x: &TensorMap<bf16, Tiled>,
    landed: &Barrier,
    weight_box: &mut Shared<[Vector<bf16, Const<8>>]>,
    x_box: &mut Shared<[Vector<bf16, Const<8>>]>,
    stage: usize,
    #[comptime] slot: usize,
    first: usize,
    first_token: usize,
    first_share: usize,
    #[comptime] stages: usize,
    #[comptime] weights: usize,
    #[comptime] tokens: usize,
) {
    let share = first_share + stage / stages;
    let at = (stage % stages * SHARES as usize + share) * STAGE;
    landed.arrive_and_expect_tx(1u32, comptime!(((weights + tokens) * STAGE * 2) as u32));
    landed.tma_load_2d(
        weight,
        &mut weight_box[comptime!(slot * weights * 8)..comptime!((slot + 1) * weights * 8)],
        first as i32,
        at as i32,
    );
    landed.tma_load_2d(
        x,
        &mut x_box[comptime!(slot * tokens * 8)..comptime!((slot + 1) * tokens * 8)],
        first_token as i32,
        at as i32,
    );
}
