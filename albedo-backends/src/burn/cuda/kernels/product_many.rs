//! `x · weightᵀ` for many rows of `x`, by the warpgroup products of Hopper.
//!
//! A cube stays on its multiprocessor and takes one tile of the result after
//! another: one warpgroup has the copy engine fill a ring of stages, two multiply,
//! 64 rows of the tile each, and have the copy engine write what they computed
//! while they go on. (The scheme is CUTLASS's warp-specialised persistent kernel.)
//!
//! Every value is one chain of sums over k, sixteen at a time, whatever the tile: the
//! bits of a row depend neither on how many rows there are nor on the width of tiles.

use cubecl::ir::dialect::matrix::WgmmaSwizzle;
use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use half::bf16;

use super::ptx::{await_stores, commit_stores, fast_exp2, fast_reciprocal, meet, store_box};
use super::wgmma;

/// Rows of a tile, half of them for each warpgroup that multiplies.
pub(in crate::burn::cuda) const TILE_ROWS: usize = 128;

/// k of a stage, 128 bytes of each row.
pub(in crate::burn::cuda) const DEPTH: usize = 64;

/// Stages of the ring.
pub(in crate::burn::cuda) const STAGES: usize = 4;

/// Units of a cube: three warpgroups.
pub(in crate::burn::cuda) const UNITS: u32 = 384;

/// Columns of a box of the result: 128 bytes of a row, or half of that where a tile
/// is not that wide.
pub(in crate::burn::cuda) const fn panel(columns: usize) -> usize {
    if columns.is_multiple_of(64) { 64 } else { 32 }
}

/// Where tile number `tile` is: its first row and first column, both in tiles. Tiles
/// of `group` rows of tiles go together, so that what they read is still in the cache.
#[cube]
fn place(tile: u32, rows: u32, columns: u32, #[comptime] group: u32) -> (u32, u32) {
    let first = tile / (group * columns) * group;
    let high = min(rows - first, group);
    let within = tile % (group * columns);
    (first + within % high, within / high)
}

/// The units of a warpgroup that multiplies meet.
#[cube]
fn together(warpgroup: u32) {
    if warpgroup == 0 {
        meet(1u32, 128u32);
    } else {
        meet(2u32, 128u32);
    }
}

#[cube]
fn both(a: f32, b: f32) -> Vector<bf16, Const<2>> {
    let mut both = Vector::<bf16, Const<2>>::empty();
    both.insert(0usize, bf16::cast_from(a));
    both.insert(1usize, bf16::cast_from(b));
    both
}

/// `silu(gate) · up` of what a product rounds to bf16.
#[cube]
pub(super) fn activated(gate: f32, up: f32) -> f32 {
    let gate = f32::cast_from(bf16::cast_from(gate));
    let up = f32::cast_from(bf16::cast_from(up));
    gate * fast_reciprocal(1.0f32 + fast_exp2(gate * -std::f32::consts::LOG2_E)) * up
}

/// Writes `x · weightᵀ`, rounded to bf16; or, if `gated`, `silu(x · gateᵀ) · (x · upᵀ)`
/// where the rows of the weight from `second` on are `up` and those before `gate`.
///
/// `x` is `[rows, k]` in boxes of [`TILE_ROWS`], `weight` in boxes of `columns` rows,
/// or of half as many if gated, both [`DEPTH`] wide and turned by 128 bytes. `out` is
/// in boxes of 64 rows by [`panel`] columns, turned by the bytes of such a row. What is
/// not there is read as zeros and not written. `laps` times [`STAGES`] stages are k.
/// Cubes: as many as run at once, of [`UNITS`].
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn product_many(
    x: &TensorMap<bf16, Tiled>,
    weight: &TensorMap<bf16, Tiled>,
    out: &mut TensorMap<bf16, Tiled>,
    laps: u32,
    tile_rows: u32,
    tile_columns: u32,
    second: u32,
    #[comptime] columns: usize,
    #[comptime] gated: bool,
    #[comptime] group: u32,
) {
    let mut x_box = Shared::<[bf16]>::new_aligned_slice(comptime!(STAGES * TILE_ROWS * DEPTH), 1024usize);
    let mut weight_box = Shared::<[bf16]>::new_aligned_slice(comptime!(STAGES * columns * DEPTH), 1024usize);
    // Two panels for each warpgroup.
    let mut out_box = Shared::<[Vector<bf16, Const<2>>]>::new_aligned_slice(8192usize, 1024usize);
    let mut landed = Sequence::<Shared<Barrier>>::new();
    let mut read = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..STAGES {
        landed.push(Barrier::shared_uninit());
        read.push(Barrier::shared_uninit());
    }
    if UNIT_POS == 0 {
        #[unroll]
        for slot in 0..STAGES {
            landed.index(slot).init_manual(1u32);
            read.index(slot).init_manual(8u32);
        }
    }
    sync_async_proxy_shared();
    sync_cube();

    let plane = UNIT_POS / 32;
    let tiles = tile_rows * tile_columns;
    let wide = comptime!(if gated { columns / 2 } else { columns });
    if plane >= 8 {
        if UNIT_POS == 256 {
            let mut tile = CUBE_POS_X;
            let mut phase = 1u32;
            while tile < tiles {
                let (row, column) = place(tile, tile_rows, tile_columns, group);
                let row = (row * TILE_ROWS as u32) as i32;
                let column = column * comptime!(wide as u32);
                for lap in 0..laps {
                    #[unroll]
                    for slot in 0..STAGES {
                        read.index(slot).wait_parity(phase);
                        let at = ((lap * STAGES as u32 + comptime!(slot as u32)) * DEPTH as u32) as i32;
                        let bar = landed.index(slot);
                        bar.arrive_and_expect_tx(1u32, comptime!(((TILE_ROWS + columns) * DEPTH * 2) as u32));
                        let to = comptime!(slot * TILE_ROWS * DEPTH);
                        bar.tma_load_2d(x, &mut x_box[to..comptime!(to + TILE_ROWS * DEPTH)], row, at);
                        let to = comptime!(slot * columns * DEPTH);
                        bar.tma_load_2d(
                            weight,
                            &mut weight_box[to..comptime!(to + wide * DEPTH)],
                            column as i32,
                            at,
                        );
                        if comptime!(gated) {
                            let to = comptime!(slot * columns * DEPTH + wide * DEPTH);
                            bar.tma_load_2d(
                                weight,
                                &mut weight_box[to..comptime!(to + wide * DEPTH)],
                                (second + column) as i32,
                                at,
                            );
                        }
                    }
                    phase = phase ^ 1;
                }
                tile += CUBE_COUNT_X;
            }
        }
    } else {
        let warpgroup = (plane / 4) as usize;
        let unit = UNIT_POS % 128;
        let first_of_plane = unit % 32 == 0;
        let g = unit % 32 / 4;
        let t = unit % 4;
        let from = warpgroup * comptime!(64 * DEPTH);
        let a = wgmma::describe(&x_box[from..from + comptime!(64 * DEPTH)], WgmmaSwizzle::B128);
        let b = wgmma::describe(&weight_box[0..comptime!(columns * DEPTH)], WgmmaSwizzle::B128);
        let mut sums = Array::<f32>::new(comptime!(columns / 2));
        let mut phase = 0u32;
        let mut tile = CUBE_POS_X;
        while tile < tiles {
            #[unroll]
            for i in 0..comptime!(columns / 2) {
                sums[i] = 0.0f32;
            }
            wgmma::pin(&mut sums);
            for lap in 0..laps {
                #[unroll]
                for slot in 0..STAGES {
                    landed.index(slot).wait_parity(phase);
                    wgmma::fence();
                    #[unroll]
                    for step in 0..comptime!(DEPTH / 16) {
                        wgmma::multiply(
                            a + comptime!((slot * TILE_ROWS * DEPTH / 8 + 2 * step) as u64),
                            b + comptime!((slot * columns * DEPTH / 8 + 2 * step) as u64),
                            &mut sums,
                            columns,
                        );
                    }
                    wgmma::commit();
                    // The products of the stage before are done, so it may be filled again.
                    wgmma::wait(1usize);
                    if first_of_plane && (lap > 0 || comptime!(slot > 0)) {
                        read.index(comptime!((slot + STAGES - 1) % STAGES)).arrive();
                    }
                }
                phase = phase ^ 1;
            }
            wgmma::wait(0usize);
            wgmma::pin(&mut sums);
            if first_of_plane {
                read.index(comptime!(STAGES - 1)).arrive();
            }
            let (row, column) = place(tile, tile_rows, tile_columns, group);
            write(
                &sums,
                &mut out_box,
                out,
                row * TILE_ROWS as u32 + warpgroup as u32 * 64,
                column * comptime!(wide as u32),
                warpgroup,
                plane % 4 * 16 + g,
                t,
                wide,
                gated,
            );
            tile += CUBE_COUNT_X;
        }
        if unit == 0 {
            await_stores(0usize);
        }
    }
}

/// Rounds a warpgroup's sums and has the copy engine write them, panel by panel
/// through two places in shared memory. `local` is the row of the unit.
#[cube]
fn write(
    sums: &Array<f32>,
    out_box: &mut Shared<[Vector<bf16, Const<2>>]>,
    out: &mut TensorMap<bf16, Tiled>,
    row: u32,
    column: u32,
    warpgroup: usize,
    local: u32,
    t: u32,
    #[comptime] wide: usize,
    #[comptime] gated: bool,
) {
    let panel = comptime!(panel(wide));
    let words = comptime!(panel / 2);
    let elected = UNIT_POS % 128 == 0;
    // Rows of 128 bytes are turned by their number, rows of 64 by half of it.
    let turn = comptime!(if panel == 64 { 1u32 } else { 2u32 });
    let turned = local / turn % comptime!((panel / 8) as u32);
    let g = local;
    #[unroll]
    for number in 0..comptime!(wide / panel) {
        let base = warpgroup * 4096 + comptime!(number % 2 * 2048);
        if elected {
            await_stores(1usize);
        }
        together(warpgroup as u32);
        #[unroll]
        for chunk in 0..comptime!(panel / 8) {
            let at = comptime!(4 * (number * panel / 8 + chunk));
            let mut top = both(sums[at], sums[comptime!(at + 1)]);
            let mut low = both(sums[comptime!(at + 2)], sums[comptime!(at + 3)]);
            if comptime!(gated) {
                let up = comptime!(at + wide / 2);
                top = both(
                    activated(sums[at], sums[up]),
                    activated(sums[comptime!(at + 1)], sums[comptime!(up + 1)]),
                );
                low = both(
                    activated(sums[comptime!(at + 2)], sums[comptime!(up + 2)]),
                    activated(sums[comptime!(at + 3)], sums[comptime!(up + 3)]),
                );
            }
            let to =
                base + (g * comptime!(words as u32) + (comptime!(chunk as u32) ^ turned) * 4 + t) as usize;
            out_box[to] = top;
            out_box[to + comptime!(8 * words)] = low;
        }
        sync_async_proxy_shared();
        together(warpgroup as u32);
        if elected {
            store_box(
                &out_box[base..base + comptime!(64 * words)],
                out,
                row as i32,
                (column + comptime!((number * panel) as u32)) as i32,
            );
            commit_stores();
        }
    }
}
