//! `x · weightᵀ` for few rows of `x`: the weights stream from memory once, by the
//! copy engine, and the warpgroup products of Hopper read them where they land.
//!
//! A weight that is too narrow to keep the GPU busy is cut along k, too (split-K); the
//! kernel that reads the result adds the sums two and two ([`result`]). Every part is one
//! chain of sums over k, sixteen at a time, so that the bits of a row depend neither on
//! how many rows there are nor on the width of tiles.

use cubecl::ir::dialect::matrix::WgmmaSwizzle;
use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use half::bf16;

use super::product_many::activated;
use super::wgmma;

/// k of a stage: 128 bytes of each row, what the copy engine turns.
pub(in crate::burn::cuda) const STAGE: usize = 64;

/// Rows of `x` that a warpgroup multiplies.
pub(in crate::burn::cuda) const TOKENS: usize = 64;

/// Adds 8, 4 or 2 sums two and two.
#[cube]
fn added<N: Size>(sums: &Array<Vector<f32, N>>, #[comptime] count: usize) -> Vector<f32, N> {
    let mut sum = sums[0] + sums[1];
    if comptime!(count > 2) {
        sum += sums[2] + sums[3];
    }
    if comptime!(count > 4) {
        sum += (sums[4] + sums[5]) + (sums[6] + sums[7]);
    }
    sum
}

/// The vector `at` of a product's result: of the `count` sums of split-K, `[count,
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
        let mut sums = Array::<Vector<f32, N>>::new(count);
        #[unroll]
        for part in 0..count {
            sums[part] = Vector::cast_from(product[part * values + at]);
        }
        value = Vector::cast_from(Vector::<bf16, N>::cast_from(added(&sums, count)));
    }
    value
}

/// Writes the sums of the parts of k, `out` is `[split_k, rows, width]`; of one part, what
/// `out` holds of it rounded; or, if `gated`, `silu(gate) · up`, `[rows, width]`, of a
/// weight whose rows from `width` on are `up`.
///
/// `weight` is in boxes of `columns` rows, or of half as many if gated, `x` in boxes of
/// `tokens`, both [`STAGE`] wide and turned by 128 bytes; what is not there is read as
/// zeros. Cubes: x the part of k; y `tokens` rows of `x`; z the tile of the weight. Units: a
/// warpgroup for every [`TOKENS`] rows, and a plane that fills; `stages` are k of a part,
/// `ahead` are under way at once.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn product_few<E: Float>(
    weight: &TensorMap<bf16, Tiled>,
    x: &TensorMap<bf16, Tiled>,
    out: &mut [Vector<E, Const<2>>],
    width: u32,
    rows: u32,
    #[comptime] stages: usize,
    #[comptime] split_k: usize,
    #[comptime] tokens: usize,
    #[comptime] columns: usize,
    #[comptime] ahead: usize,
    #[comptime] gated: bool,
) {
    let groups = comptime!(tokens.div_ceil(TOKENS));
    let parts = comptime!(if gated { 2usize } else { 1usize });
    let wide = comptime!(columns / parts);
    let slot_weights = comptime!(columns * STAGE);
    let slot_x = comptime!(groups * TOKENS * STAGE);
    let mut weight_box = Shared::<[bf16]>::new_aligned_slice(comptime!(ahead * slot_weights), 1024usize);
    let mut x_box = Shared::<[bf16]>::new_aligned_slice(comptime!(ahead * slot_x), 1024usize);
    let mut landed = Sequence::<Shared<Barrier>>::new();
    let mut read = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..ahead {
        landed.push(Barrier::shared_uninit());
        read.push(Barrier::shared_uninit());
    }
    if UNIT_POS == 0 {
        #[unroll]
        for slot in 0..ahead {
            landed.index(slot).init_manual(1u32);
            read.index(slot).init_manual(comptime!(4 * groups as u32));
        }
    }
    sync_async_proxy_shared();
    sync_cube();

    let part_of_k = CUBE_POS_X;
    let first_token = CUBE_POS_Y * comptime!(tokens as u32);
    let first = CUBE_POS_Z * comptime!(wide as u32);
    let plane = UNIT_POS / 32;
    if plane == comptime!(4 * groups as u32) {
        if UNIT_POS_PLANE == 0 {
            for round in 0..comptime!(stages.div_ceil(ahead) as u32) {
                #[unroll]
                for slot in 0..ahead {
                    let stage = round * comptime!(ahead as u32) + comptime!(slot as u32);
                    if stage < comptime!(stages as u32) {
                        read.index(slot).wait_parity((round % 2) ^ 1);
                        let at = ((stage * comptime!(split_k as u32) + part_of_k) * STAGE as u32) as i32;
                        let bar = landed.index(slot);
                        bar.arrive_and_expect_tx(1u32, comptime!(((columns + tokens) * STAGE * 2) as u32));
                        #[unroll]
                        for part in 0..parts {
                            let to = comptime!(slot * slot_weights + part * wide * STAGE);
                            let mut row = first;
                            if comptime!(part == 1) {
                                row += width;
                            }
                            bar.tma_load_2d(
                                weight,
                                &mut weight_box[to..comptime!(to + wide * STAGE)],
                                row as i32,
                                at,
                            );
                        }
                        let to = comptime!(slot * slot_x);
                        // Rows that a warpgroup multiplies beyond these are whatever is there, and of no use.
                        let end = comptime!(to + tokens * STAGE);
                        bar.tma_load_2d(x, &mut x_box[to..end], first_token as i32, at);
                    }
                }
            }
        }
    } else {
        let unit = UNIT_POS % 128;
        let group = (plane / 4) as usize;
        let from = group * comptime!(TOKENS * STAGE);
        let a = wgmma::describe(&x_box[from..from + comptime!(TOKENS * STAGE)], WgmmaSwizzle::B128);
        let b = wgmma::describe(&weight_box[0..slot_weights], WgmmaSwizzle::B128);
        let mut sums = Array::<f32>::new(comptime!(columns / 2));
        #[unroll]
        for i in 0..comptime!(columns / 2) {
            sums[i] = 0.0f32;
        }
        wgmma::pin(&mut sums);
        for round in 0..comptime!(stages.div_ceil(ahead) as u32) {
            #[unroll]
            for slot in 0..ahead {
                if round * comptime!(ahead as u32) + comptime!(slot as u32) < comptime!(stages as u32) {
                    landed.index(slot).wait_parity(round % 2);
                    wgmma::fence();
                    #[unroll]
                    for step in 0..comptime!(STAGE / 16) {
                        wgmma::multiply(
                            a + comptime!((slot * slot_x / 8 + 2 * step) as u64),
                            b + comptime!((slot * slot_weights / 8 + 2 * step) as u64),
                            &mut sums,
                            columns,
                        );
                    }
                    wgmma::commit();
                    // The products of the stage before are done, so it may be filled again.
                    wgmma::wait(1usize);
                    if unit % 32 == 0 && (round > 0 || comptime!(slot > 0)) {
                        read.index(comptime!((slot + ahead - 1) % ahead)).arrive();
                    }
                }
            }
        }
        wgmma::wait(0usize);
        wgmma::pin(&mut sums);

        #[unroll]
        for half in 0..2usize {
            let local =
                group as u32 * TOKENS as u32 + plane % 4 * 16 + unit % 32 / 4 + comptime!(8 * half as u32);
            let row = first_token + local;
            // What was multiplied beyond `tokens` belongs to another cube.
            if local < comptime!(tokens as u32) && row < rows {
                let to = (part_of_k * rows + row) as usize * (width / 2) as usize;
                #[unroll]
                for chunk in 0..comptime!(wide / 8) {
                    let column = first + comptime!(8 * chunk as u32) + unit % 4 * 2;
                    if column < width {
                        let at = comptime!(4 * chunk + 2 * half);
                        let up = comptime!(if gated { at + wide / 2 } else { at });
                        let mut both = Vector::<E, Const<2>>::empty();
                        #[unroll]
                        for i in 0..2usize {
                            let mut value = sums[comptime!(at + i)];
                            if comptime!(gated) {
                                value = activated(value, sums[comptime!(up + i)]);
                            }
                            both.insert(i, E::cast_from(value));
                        }
                        out[to + (column / 2) as usize] = both;
                    }
                }
            }
        }
    }
}
