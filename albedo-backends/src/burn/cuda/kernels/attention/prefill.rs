//! Attention of prompts, by the warpgroup products of Hopper.
//!
//! A cube stays on its multiprocessor and takes one item after another, a tile of
//! rows and a query head: one warpgroup has the copy engine bring queries, keys and
//! values, two multiply, 64 rows each. While the scores of a block of keys are
//! multiplied, those of the block before are mixed with the values, and while one
//! warpgroup turns scores into weights, the other multiplies. (The scheme is that of
//! Shah et al., *FlashAttention-3*, 2024.)

use cubecl::ir::dialect::matrix::WgmmaSwizzle;
use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use half::bf16;

use super::super::ptx::{fast_exp2, fast_reciprocal, fewer_registers, meet, more_registers, pass};
use super::super::wgmma;
use super::{LOWEST, PAGE};

/// Rows of a tile, half of them for each warpgroup that multiplies.
pub(in crate::burn::cuda) const TILE: usize = 128;

/// Rows of a box of queries.
pub(in crate::burn::cuda) const QUERY_ROWS: usize = 64;

/// Values of a row of a box of queries: 64 bytes, turned as in a page.
pub(in crate::burn::cuda) const PANEL: usize = super::ROW;

/// Units of a cube: three warpgroups.
pub(in crate::burn::cuda) const UNITS: u32 = 384;

/// Keys of a block: two pages.
const BLOCK: usize = 2 * PAGE;

/// Item number `round` of a cube. Items are sorted, the longest first, and every
/// other round is dealt backwards, so that the sums of what cubes get are alike.
#[cube]
fn item(round: u32) -> u32 {
    let mut place = CUBE_POS_X;
    if round % 2 == 1 {
        place = CUBE_COUNT_X - 1 - place;
    }
    round * CUBE_COUNT_X + place
}

/// Starts `s = q · kᵀ` of a block.
#[cube]
fn scores(q: u64, k: u64, s: &mut Array<f32>, #[comptime] dim: usize) {
    #[unroll]
    for i in 0..comptime!(BLOCK / 2) {
        s[i] = 0.0f32;
    }
    wgmma::pin(s);
    wgmma::fence();
    #[unroll]
    for step in 0..comptime!(dim / 16) {
        let panel = comptime!(step / 2);
        let at_q = q + comptime!((panel * QUERY_ROWS * PANEL / 8 + step % 2 * 2) as u64);
        let at_k = k + comptime!((panel * BLOCK * PANEL / 8 + step % 2 * 2) as u64);
        wgmma::multiply(at_q, at_k, s, BLOCK);
    }
    wgmma::commit();
}

/// Starts `o += p · v` of a block.
#[cube]
fn mix(p: &Sequence<Array<u32>>, v: u64, o: &mut Array<f32>, #[comptime] dim: usize) {
    wgmma::fence();
    #[unroll]
    for step in 0..comptime!(BLOCK / 16) {
        let at = v + comptime!((step / 2 * dim * PANEL / 8 + step % 2 * 2) as u64);
        wgmma::multiply_words(p.index(step), at, o, dim);
    }
    wgmma::commit();
}

/// Turns the scores of a block into weights, and takes them to the rows' largest
/// scores and sums; `shrink` gets the factors of what was added before. Scores of keys
/// after `position`, the row's, are masked; `base` is the block's first key, `first`
/// the position of the warpgroup's first row.
#[cube]
fn weights(
    s: &mut Array<f32>,
    top: &mut Array<f32>,
    total: &mut Array<f32>,
    shrink: &mut Array<f32>,
    position: i32,
    base: i32,
    t: i32,
    first: i32,
    scale: f32,
) {
    if base + comptime!(BLOCK as i32 - 1) > first {
        let room = position - base - 2 * t;
        #[unroll]
        for c in 0..comptime!(BLOCK / 8) {
            #[unroll]
            for i in 0..2usize {
                if comptime!((8 * c + i) as i32) > room {
                    s[comptime!(4 * c + i)] = f32::new(LOWEST);
                }
                if comptime!((8 * c + i) as i32) > room + 8 {
                    s[comptime!(4 * c + 2 + i)] = f32::new(LOWEST);
                }
            }
        }
    }
    #[unroll]
    for half in 0..2usize {
        // Two chains, so that one does not wait for itself.
        let mut best = max(s[comptime!(2 * half)], s[comptime!(2 * half + 4)]);
        let mut other = max(s[comptime!(2 * half + 1)], s[comptime!(2 * half + 5)]);
        #[unroll]
        for c in 2..comptime!(BLOCK / 8) {
            best = max(best, s[comptime!(4 * c + 2 * half)]);
            other = max(other, s[comptime!(4 * c + 2 * half + 1)]);
        }
        best = max(best, other);
        best = max(best, plane_shuffle_xor(best, 1u32));
        best = max(best, plane_shuffle_xor(best, 2u32));
        best = max(best, top[half]);
        shrink[half] = fast_exp2((top[half] - best) * scale);
        top[half] = best;
        let minus = -(best * scale);
        let mut sum = 0.0f32;
        let mut rest = 0.0f32;
        #[unroll]
        for c in 0..comptime!(BLOCK / 8) {
            let a = fast_exp2(fma(s[comptime!(4 * c + 2 * half)], scale, minus));
            let b = fast_exp2(fma(s[comptime!(4 * c + 2 * half + 1)], scale, minus));
            s[comptime!(4 * c + 2 * half)] = a;
            s[comptime!(4 * c + 2 * half + 1)] = b;
            sum += a;
            rest += b;
        }
        total[half] = fma(total[half], shrink[half], sum + rest);
    }
}

/// Rounds weights to what products read: words of two.
#[cube]
fn round(s: &Array<f32>, p: &mut Sequence<Array<u32>>) {
    #[unroll]
    for step in 0..comptime!(BLOCK / 16) {
        let a = p.index_mut(step);
        #[unroll]
        for i in 0..4usize {
            let mut both = Vector::<bf16, Const<2>>::empty();
            both.insert(0usize, bf16::cast_from(s[comptime!(8 * step + 2 * i)]));
            both.insert(1usize, bf16::cast_from(s[comptime!(8 * step + 2 * i + 1)]));
            a[i] = u32::reinterpret(both);
        }
        wgmma::pin_words(a);
    }
}

/// One of the two warpgroups multiplies at a time.
#[cube]
fn own_turn(warpgroup: u32) {
    if warpgroup == 0 {
        meet(2u32, 256u32);
    } else {
        meet(3u32, 256u32);
    }
}

/// Now the other may.
#[cube]
fn other_turn(warpgroup: u32) {
    if warpgroup == 0 {
        pass(3u32, 256u32);
    } else {
        pass(2u32, 256u32);
    }
}

/// Causal attention of tiles of consecutive rows of one sequence.
///
/// `queries` is `[rows, head · dim]` in boxes of [`QUERY_ROWS`] by [`PANEL`], turned by
/// 64 bytes. `tiles` holds each tile's first row and its number of rows, at most
/// [`TILE`], those that see most keys first. What pages hold after the last key of a
/// tile must be numbers. `scale` is `log2(e) / sqrt(dim)`. Cubes: as many as run at
/// once, of [`UNITS`].
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn attend_tiles(
    queries: &TensorMap<bf16, Tiled>,
    keys: &[bf16],
    values: &[bf16],
    tiles: &[u32],
    positions: &[u32],
    slots: &[u32],
    pages: &[u32],
    out: &mut [u32],
    stride: u32,
    scale: f32,
    #[comptime] heads: u32,
    #[comptime] kv_heads: u32,
    #[comptime] dim: usize,
) {
    let items = tiles.len() as u32 / 2 * heads;
    let page = comptime!(PAGE * dim);
    let panels = comptime!(dim / PANEL);
    let mut q_box = Shared::<[bf16]>::new_aligned_slice(comptime!(TILE * dim), 1024usize);
    let mut k_box = Shared::<[bf16]>::new_aligned_slice(comptime!(2 * BLOCK * dim), 1024usize);
    let mut v_box = Shared::<[bf16]>::new_aligned_slice(comptime!(2 * BLOCK * dim), 1024usize);
    // Of queries there is one place for each warpgroup, of keys and values there are two.
    let mut q_landed = Sequence::<Shared<Barrier>>::new();
    let mut q_read = Sequence::<Shared<Barrier>>::new();
    let mut k_landed = Sequence::<Shared<Barrier>>::new();
    let mut k_read = Sequence::<Shared<Barrier>>::new();
    let mut v_landed = Sequence::<Shared<Barrier>>::new();
    let mut v_read = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..2usize {
        q_landed.push(Barrier::shared_uninit());
        q_read.push(Barrier::shared_uninit());
        k_landed.push(Barrier::shared_uninit());
        k_read.push(Barrier::shared_uninit());
        v_landed.push(Barrier::shared_uninit());
        v_read.push(Barrier::shared_uninit());
    }
    if UNIT_POS == 0 {
        #[unroll]
        for i in 0..2usize {
            q_landed.index(i).init_manual(1u32);
            q_read.index(i).init_manual(4u32);
            k_landed.index(i).init_manual(1u32);
            k_read.index(i).init_manual(8u32);
            v_landed.index(i).init_manual(1u32);
            v_read.index(i).init_manual(8u32);
        }
    }
    sync_async_proxy_shared();
    sync_cube();

    if UNIT_POS >= 256 {
        fewer_registers(24u32);
        if UNIT_POS == 256 {
            // The parities of the next waits: bit 0 of queries, 1 and 2 of keys, 3 and 4 of values.
            let mut parity = 31u32;
            let mut turn = 0u32;
            let mut at = item(turn);
            while at < items {
                let tile = at / heads;
                let head = at % heads;
                let first = tiles[(2 * tile) as usize];
                let seen = positions[first as usize] + tiles[(2 * tile + 1) as usize];
                let blocks = (seen + comptime!(BLOCK as u32 - 1)) / BLOCK as u32;
                let kv_head = head / comptime!(heads / kv_heads);
                let table = slots[first as usize] * stride;
                let last = (seen - 1) / PAGE as u32;
                #[unroll]
                for group in 0..2usize {
                    q_read.index(group).wait_parity(parity & 1);
                    let bar = q_landed.index(group);
                    bar.arrive_and_expect_tx(1u32, comptime!((QUERY_ROWS * dim * 2) as u32));
                    #[unroll]
                    for panel in 0..panels {
                        let to = comptime!((group * panels + panel) * QUERY_ROWS * PANEL);
                        bar.tma_load_2d(
                            queries,
                            &mut q_box[to..comptime!(to + QUERY_ROWS * PANEL)],
                            (first + comptime!((group * QUERY_ROWS) as u32)) as i32,
                            (head * dim as u32 + comptime!((panel * PANEL) as u32)) as i32,
                        );
                    }
                }
                parity = parity ^ 1;
                // Keys of a block, then the values of the block before it; two blocks a lap.
                for lap in 0..(blocks + 2) / 2 {
                    #[unroll]
                    for slot in 0..2usize {
                        let block = 2 * lap + comptime!(slot as u32);
                        if block < blocks {
                            k_read.index(slot).wait_parity((parity >> comptime!(1 + slot as u32)) & 1);
                            parity = parity ^ comptime!(2u32 << slot);
                            let bar = k_landed.index(slot);
                            bar.arrive_and_expect_tx(1u32, comptime!((BLOCK * dim * 2) as u32));
                            #[unroll]
                            for odd in 0..2usize {
                                let number =
                                    pages[(table + min(2 * block + comptime!(odd as u32), last)) as usize];
                                let from = ((number * kv_heads + kv_head) * page as u32) as usize;
                                #[unroll]
                                for panel in 0..panels {
                                    let of = comptime!(panel * PAGE * PANEL);
                                    let to = comptime!(slot * BLOCK * dim + (2 * panel + odd) * PAGE * PANEL);
                                    bar.memcpy_async_tx(
                                        &keys[from + of..from + comptime!(of + PAGE * PANEL)],
                                        &mut k_box[to..comptime!(to + PAGE * PANEL)],
                                    );
                                }
                            }
                        }
                        if block > 0 && block <= blocks {
                            let other = comptime!(1 - slot);
                            v_read.index(other).wait_parity((parity >> comptime!(3 + other as u32)) & 1);
                            parity = parity ^ comptime!(8u32 << other);
                            let bar = v_landed.index(other);
                            bar.arrive_and_expect_tx(1u32, comptime!((BLOCK * dim * 2) as u32));
                            #[unroll]
                            for odd in 0..2usize {
                                let number = pages
                                    [(table + min(2 * block - 2 + comptime!(odd as u32), last)) as usize];
                                let from = ((number * kv_heads + kv_head) * page as u32) as usize;
                                let to = comptime!(other * BLOCK * dim + odd * page);
                                bar.memcpy_async_tx(
                                    &values[from..from + page],
                                    &mut v_box[to..comptime!(to + page)],
                                );
                            }
                        }
                    }
                }
                turn += 1;
                at = item(turn);
            }
        }
    } else {
        more_registers(240u32);
        let plane = UNIT_POS / 32;
        let group = plane / 4;
        let lane = UNIT_POS % 32;
        let g = lane / 4;
        let t = lane % 4;
        let row = group * QUERY_ROWS as u32 + plane % 4 * 16 + g;
        let from = group as usize * comptime!(QUERY_ROWS * dim);
        let q = wgmma::describe(&q_box[from..from + comptime!(QUERY_ROWS * dim)], WgmmaSwizzle::B64);
        let k = wgmma::describe(&k_box[0..comptime!(BLOCK * dim)], WgmmaSwizzle::B64);
        let v = wgmma::describe(&v_box[0..comptime!(BLOCK * dim)], WgmmaSwizzle::B64);
        let next = comptime!((BLOCK * dim / 8) as u64);

        let mut top = Array::<f32>::new(2usize);
        let mut total = Array::<f32>::new(2usize);
        let mut shrink = Array::<f32>::new(2usize);
        let mut o = Array::<f32>::new(comptime!(dim / 2));
        let mut s = Array::<f32>::new(comptime!(BLOCK / 2));
        let mut p = Sequence::<Array<u32>>::new();
        #[unroll]
        for _ in 0..comptime!(BLOCK / 16) {
            p.push(Array::<u32>::new(4usize));
        }
        if group == 1 {
            pass(2u32, 256u32);
        }
        // As the producer's, of what is waited for here.
        let mut parity = 0u32;
        let mut turn = 0u32;
        let mut at = item(turn);
        while at < items {
            let tile = at / heads;
            let head = at % heads;
            let first = tiles[(2 * tile) as usize];
            let count = tiles[(2 * tile + 1) as usize];
            let start = positions[first as usize];
            let blocks = (start + count + comptime!(BLOCK as u32 - 1)) / BLOCK as u32;
            let position = (start + row) as i32;
            let own = (start + group * QUERY_ROWS as u32) as i32;
            #[unroll]
            for i in 0..2usize {
                top[i] = f32::new(LOWEST);
                total[i] = 0.0f32;
            }
            #[unroll]
            for i in 0..comptime!(dim / 2) {
                o[i] = 0.0f32;
            }
            wgmma::pin(&mut o);
            if group == 0 {
                q_landed.index(0usize).wait_parity(parity & 1);
            } else {
                q_landed.index(1usize).wait_parity(parity & 1);
            }
            parity = parity ^ 1;
            k_landed.index(0usize).wait_parity((parity >> 1) & 1);
            parity = parity ^ 2;
            scores(q, k, &mut s, dim);
            wgmma::wait(0usize);
            wgmma::pin(&mut s);
            if lane == 0 {
                k_read.index(0usize).arrive();
            }
            weights(&mut s, &mut top, &mut total, &mut shrink, position, 0i32, t as i32, own, scale);
            round(&s, &mut p);
            for lap in 0..blocks / 2 {
                #[unroll]
                for half in 0..2usize {
                    let slot = comptime!(1 - half);
                    let block = 2 * lap + comptime!(1 + half as u32);
                    if block < blocks {
                        k_landed.index(slot).wait_parity((parity >> comptime!(1 + slot as u32)) & 1);
                        parity = parity ^ comptime!(2u32 << slot);
                        own_turn(group);
                        scores(q, k + comptime!(slot as u64 * next), &mut s, dim);
                        v_landed.index(half).wait_parity((parity >> comptime!(3 + half as u32)) & 1);
                        parity = parity ^ comptime!(8u32 << half);
                        mix(&p, v + comptime!(half as u64 * next), &mut o, dim);
                        other_turn(group);
                        wgmma::wait(1usize);
                        wgmma::pin(&mut s);
                        if lane == 0 {
                            k_read.index(slot).arrive();
                        }
                        weights(
                            &mut s,
                            &mut top,
                            &mut total,
                            &mut shrink,
                            position,
                            (block * BLOCK as u32) as i32,
                            t as i32,
                            own,
                            scale,
                        );
                        wgmma::wait(0usize);
                        wgmma::pin(&mut o);
                        if lane == 0 {
                            v_read.index(half).arrive();
                        }
                        #[unroll]
                        for c in 0..comptime!(dim / 8) {
                            #[unroll]
                            for i in 0..2usize {
                                o[comptime!(4 * c + i)] = o[comptime!(4 * c + i)] * shrink[0];
                                o[comptime!(4 * c + 2 + i)] = o[comptime!(4 * c + 2 + i)] * shrink[1];
                            }
                        }
                        wgmma::pin(&mut o);
                        round(&s, &mut p);
                    }
                }
            }
            // No scores of this item are wanted any more.
            if lane == 0 {
                if group == 0 {
                    q_read.index(0usize).arrive();
                } else {
                    q_read.index(1usize).arrive();
                }
            }
            let odd = (blocks - 1) % 2;
            if odd == 0 {
                v_landed.index(0usize).wait_parity((parity >> 3) & 1);
                parity = parity ^ 8;
            } else {
                v_landed.index(1usize).wait_parity((parity >> 4) & 1);
                parity = parity ^ 16;
            }
            mix(&p, v + u64::cast_from(odd) * next, &mut o, dim);
            wgmma::wait(0usize);
            wgmma::pin(&mut o);
            if lane == 0 {
                if odd == 0 {
                    v_read.index(0usize).arrive();
                } else {
                    v_read.index(1usize).arrive();
                }
            }
            #[unroll]
            for half in 0..2usize {
                let mut sum = total[half];
                sum += plane_shuffle_xor(sum, 1u32);
                sum += plane_shuffle_xor(sum, 2u32);
                let inverse = fast_reciprocal(sum);
                let mine = row + comptime!(8 * half as u32);
                if mine < count {
                    let to = (first + mine) as usize * comptime!(heads as usize * dim / 2)
                        + head as usize * comptime!(dim / 2)
                        + t as usize;
                    #[unroll]
                    for c in 0..comptime!(dim / 8) {
                        let mut both = Vector::<bf16, Const<2>>::empty();
                        both.insert(0usize, bf16::cast_from(o[comptime!(4 * c + 2 * half)] * inverse));
                        both.insert(1usize, bf16::cast_from(o[comptime!(4 * c + 2 * half + 1)] * inverse));
                        out[to + comptime!(4 * c)] = u32::reinterpret(both);
                    }
                }
            }
            turn += 1;
            at = item(turn);
        }
    }
}
