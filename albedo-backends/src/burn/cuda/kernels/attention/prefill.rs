//! Attention of prompts, by the warpgroup products of Hopper.
//!
//! A cube stays on its multiprocessor and takes one item after another, a tile of
//! rows and a query head; two warpgroups multiply, 64 rows each. While the scores of a
//! block of keys are multiplied, those of the block before are mixed with the values,
//! and while one warpgroup turns scores into weights, the other multiplies. (The scheme
//! is that of Shah et al., *FlashAttention-3*, 2024, without its warpgroup that only
//! has the copy engine bring keys and values: registers cannot be traded between
//! warpgroups where `CubeCL` has kernels assembled, and two may have 255 each.)
//!
//! The blocks of all items of a cube are one sequence: the first scores of an item are
//! multiplied beside the last values of the one before. The warpgroup that comes second
//! brings what follows, once it has its turn at a block: then both have read the keys
//! of the block before, and the values of the one before that.

use cubecl::ir::dialect::matrix::WgmmaSwizzle;
use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use half::bf16;

use self::blocks::{PLACES, before, bring, item, landed, start};
use super::super::ptx::{fast_exp2, fast_reciprocal, meet, pass};
use super::super::wgmma;
use super::{LOWEST, PAGE, ROW};

mod blocks;

/// Rows of a tile, half of them for each warpgroup.
pub(in crate::burn::cuda) const TILE: usize = 128;

/// Numbers that say what a tile is: its first row, how many it has, the position of the
/// first in its sequence, and the sequence's slot.
pub(in crate::burn::cuda) const TILE_WORDS: usize = 4;

/// Units of a cube: two warpgroups.
pub(in crate::burn::cuda) const UNITS: u32 = 256;

/// Rows of a warpgroup.
const ROWS: usize = TILE / 2;

/// Values of a row of a panel of keys, and keys of a panel of values.
const PANEL: usize = ROW;

/// Keys of a block: two pages.
const BLOCK: usize = 2 * PAGE;

/// Starts `s = q · kᵀ` of a block, whose pages lie one after the other.
#[cube]
fn scores(q: &Sequence<Array<u32>>, k: u64, s: &mut Sequence<Array<f32>>, #[comptime] dim: usize) {
    #[unroll]
    for half in 0..2usize {
        let s = s.index_mut(half);
        #[unroll]
        for i in 0..comptime!(PAGE / 2) {
            s[i] = 0.0f32;
        }
        wgmma::pin(s);
    }
    wgmma::fence();
    #[unroll]
    for half in 0..2usize {
        #[unroll]
        for step in 0..comptime!(dim / 16) {
            let at =
                k + comptime!((half * PAGE * dim / 8 + step / 2 * PAGE * PANEL / 8 + step % 2 * 2) as u64);
            wgmma::multiply_words(q.index(step), at, s.index_mut(half), PAGE);
        }
    }
    wgmma::commit();
}

/// Score number `i` of chunk `c` of eight keys.
#[cube]
fn score(s: &Sequence<Array<f32>>, #[comptime] c: usize, #[comptime] i: usize) -> f32 {
    s.index(comptime!(c / 8))[comptime!(4 * (c % 8) + i)]
}

/// Sets that score.
#[cube]
fn set_score(s: &mut Sequence<Array<f32>>, #[comptime] c: usize, #[comptime] i: usize, value: f32) {
    let s = s.index_mut(comptime!(c / 8));
    s[comptime!(4 * (c % 8) + i)] = value;
}

/// No read or write of scores is moved across this.
#[cube]
fn pin_scores(s: &mut Sequence<Array<f32>>) {
    #[unroll]
    for half in 0..2usize {
        wgmma::pin(s.index_mut(half));
    }
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
    s: &mut Sequence<Array<f32>>,
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
                    set_score(s, c, i, f32::new(LOWEST));
                }
                if comptime!((8 * c + i) as i32) > room + 8 {
                    set_score(s, c, comptime!(2 + i), f32::new(LOWEST));
                }
            }
        }
    }
    #[unroll]
    for half in 0..2usize {
        // Two chains, so that one does not wait for itself.
        let mut best = max(s.index(0usize)[comptime!(2 * half)], s.index(0usize)[comptime!(4 + 2 * half)]);
        let mut other =
            max(s.index(0usize)[comptime!(2 * half + 1)], s.index(0usize)[comptime!(4 + 2 * half + 1)]);
        #[unroll]
        for c in 2..comptime!(BLOCK / 8) {
            best = max(best, s.index(comptime!(c / 8))[comptime!(4 * (c % 8) + 2 * half)]);
            other = max(other, s.index(comptime!(c / 8))[comptime!(4 * (c % 8) + 2 * half + 1)]);
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
            let s_a = s.index(comptime!(c / 8))[comptime!(4 * (c % 8) + 2 * half)];
            let s_b = s.index(comptime!(c / 8))[comptime!(4 * (c % 8) + 2 * half + 1)];
            let a = fast_exp2(fma(s_a, scale, minus));
            let b = fast_exp2(fma(s_b, scale, minus));
            set_score(s, c, comptime!(2 * half), a);
            set_score(s, c, comptime!(2 * half + 1), b);
            sum += a;
            rest += b;
        }
        total[half] = fma(total[half], shrink[half], sum + rest);
    }
}

/// Rounds weights to what products read: words of two.
#[cube]
fn round_weights(s: &Sequence<Array<f32>>, p: &mut Sequence<Array<u32>>) {
    #[unroll]
    for step in 0..comptime!(BLOCK / 16) {
        let a = p.index_mut(step);
        #[unroll]
        for i in 0..4usize {
            let mut both = Vector::<bf16, Const<2>>::empty();
            both.insert(
                0usize,
                bf16::cast_from(score(s, comptime!(2 * step + i / 2), comptime!(2 * (i % 2)))),
            );
            both.insert(
                1usize,
                bf16::cast_from(score(s, comptime!(2 * step + i / 2), comptime!(2 * (i % 2) + 1))),
            );
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

/// Reads the 16 values of each step of k of the rows of a plane, as products want them.
#[cube]
fn read_queries(
    q: &mut Sequence<Array<u32>>,
    queries: &[u32],
    low: u32,
    high: u32,
    head: u32,
    t: u32,
    #[comptime] heads: u32,
    #[comptime] dim: usize,
) {
    let words = comptime!(dim / 2);
    let of_head = head as usize * words + t as usize;
    let low = low as usize * comptime!(heads as usize * words) + of_head;
    let high = high as usize * comptime!(heads as usize * words) + of_head;
    #[unroll]
    for step in 0..comptime!(dim / 16) {
        let a = q.index_mut(step);
        a[0] = queries[low + comptime!(8 * step)];
        a[1] = queries[high + comptime!(8 * step)];
        a[2] = queries[low + comptime!(8 * step + 4)];
        a[3] = queries[high + comptime!(8 * step + 4)];
        wgmma::pin_words(a);
    }
}

/// Writes the rows of a plane, divided by their sums of weights; `first` is the row of
/// the tile, `row` that of the unit in the tile, of which there are `count`.
#[cube]
fn write(
    o: &Array<f32>,
    total: &Array<f32>,
    out: &mut [u32],
    first: u32,
    count: u32,
    row: u32,
    head: u32,
    t: u32,
    #[comptime] heads: u32,
    #[comptime] dim: usize,
) {
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
}

/// Causal attention of tiles of consecutive rows of one sequence.
///
/// `queries` and `out` are `[rows, head · dim]`. `tiles` holds [`TILE_WORDS`] of each
/// tile, of at most [`TILE`] rows, those that see most keys first. What pages hold
/// after the last key of a tile must be numbers. `scale` is `log2(e) / sqrt(dim)`.
/// Cubes: as many as run at once, but no more than items, of [`UNITS`].
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn attend_tiles(
    queries: &[u32],
    keys: &[bf16],
    values: &[bf16],
    tiles: &[u32],
    pages: &[u32],
    out: &mut [u32],
    stride: u32,
    scale: f32,
    #[comptime] heads: u32,
    #[comptime] kv_heads: u32,
    #[comptime] dim: usize,
) {
    let mut k_box = Shared::<[bf16]>::new_aligned_slice(comptime!(PLACES * BLOCK * dim), 1024usize);
    let mut v_box = Shared::<[bf16]>::new_aligned_slice(comptime!(PLACES * BLOCK * dim), 1024usize);
    let mut k_landed = Sequence::<Shared<Barrier>>::new();
    let mut v_landed = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..PLACES {
        k_landed.push(Barrier::shared_uninit());
        v_landed.push(Barrier::shared_uninit());
    }
    if UNIT_POS == 0 {
        #[unroll]
        for i in 0..PLACES {
            k_landed.index(i).init_manual(2u32);
            v_landed.index(i).init_manual(2u32);
        }
    }
    sync_async_proxy_shared();
    sync_cube();

    let plane = UNIT_POS / 32;
    let group = plane / 4;
    let lane = UNIT_POS % 32;
    let t = lane % 4;
    let row = group * ROWS as u32 + plane % 4 * 16 + lane / 4;
    let k = wgmma::describe(&k_box[0..comptime!(BLOCK * dim)], WgmmaSwizzle::B64);
    let v = wgmma::describe(&v_box[0..comptime!(BLOCK * dim)], WgmmaSwizzle::B64);
    let next = comptime!((BLOCK * dim / 8) as u64);

    let cursor = start(tiles, pages, stride, heads, kv_heads);
    if group == 1 {
        pass(2u32, 256u32);
        // Values come a block later than keys.
        for place in 0..2u32 {
            if place == 0 || plane % 4 < 2 {
                bring(
                    &cursor, keys, values, tiles, pages, &mut k_box, &mut v_box, &k_landed, &v_landed, place,
                    stride, heads, kv_heads, dim,
                );
            }
        }
    }

    let mut top = Array::<f32>::new(2usize);
    let mut total = Array::<f32>::new(2usize);
    let mut totals = Array::<f32>::new(2usize);
    let mut shrink = Array::<f32>::new(2usize);
    let mut o = Array::<f32>::new(comptime!(dim / 2));
    let mut s = Sequence::<Array<f32>>::new();
    #[unroll]
    for _ in 0..2usize {
        s.push(Array::<f32>::new(comptime!(PAGE / 2)));
    }
    let mut p = Sequence::<Array<u32>>::new();
    #[unroll]
    for _ in 0..comptime!(BLOCK / 16) {
        p.push(Array::<u32>::new(4usize));
    }
    let mut q = Sequence::<Array<u32>>::new();
    #[unroll]
    for _ in 0..comptime!(dim / 16) {
        q.push(Array::<u32>::new(4usize));
    }
    #[unroll]
    for i in 0..2usize {
        total[i] = 0.0f32;
    }
    #[unroll]
    for i in 0..comptime!(dim / 2) {
        o[i] = 0.0f32;
    }
    wgmma::pin(&mut o);
    #[unroll]
    for step in 0..comptime!(BLOCK / 16) {
        let a = p.index_mut(step);
        #[unroll]
        for i in 0..4usize {
            a[i] = 0u32;
        }
        wgmma::pin_words(a);
    }

    let keys_come = plane % 4 < 2;
    // Where the block is whose scores are next, and the values of the block before.
    let mut place = 0u32;
    let mut parity = 0u32;
    let mut values_parity = 1u32;
    // The item before, of which there are no rows at first.
    let mut before_first = 0u32;
    let mut before_count = 0u32;
    let mut before_head = 0u32;
    let mut round = 0u32;
    let mut going = true;
    while going {
        let at = item(round);
        let tile = (at / heads) as usize * TILE_WORDS;
        let head = at % heads;
        going = tile < tiles.len();
        let mut first = 0u32;
        let mut count = 0u32;
        let mut from = 0u32;
        let mut blocks = 0u32;
        if going {
            first = tiles[tile];
            count = tiles[tile + 1];
            from = tiles[tile + 2];
            blocks = (from + count + comptime!(BLOCK as u32 - 1)) / BLOCK as u32;
            read_queries(
                &mut q,
                queries,
                first + min(row, count - 1),
                first + min(row + 8, count - 1),
                head,
                t,
                heads,
                dim,
            );
            landed(&k_landed, place, parity);
        }
        let position = (from + row) as i32;
        let own = (from + group * ROWS as u32) as i32;
        // The last values of the item before, and the scores of the first block, or of
        // nothing after the last item.
        if before_count > 0 {
            landed(&v_landed, before(place), values_parity);
        }
        own_turn(group);
        mix(&p, v + u64::cast_from(before(place)) * next, &mut o, dim);
        scores(&q, k + u64::cast_from(place) * next, &mut s, dim);
        other_turn(group);
        if group == 1 {
            let mut coming = before(place);
            if !keys_come {
                coming = before(coming);
            }
            bring(
                &cursor, keys, values, tiles, pages, &mut k_box, &mut v_box, &k_landed, &v_landed, coming,
                stride, heads, kv_heads, dim,
            );
        }
        #[unroll]
        for i in 0..2usize {
            totals[i] = total[i];
            top[i] = f32::new(LOWEST);
            total[i] = 0.0f32;
        }
        wgmma::wait(1usize);
        wgmma::pin(&mut o);
        write(&o, &totals, out, before_first, before_count, row, before_head, t, heads, dim);
        #[unroll]
        for i in 0..comptime!(dim / 2) {
            o[i] = 0.0f32;
        }
        wgmma::pin(&mut o);
        wgmma::wait(0usize);
        pin_scores(&mut s);
        weights(&mut s, &mut top, &mut total, &mut shrink, position, 0i32, t as i32, own, scale);
        round_weights(&s, &mut p);
        values_parity = parity;
        place += 1;
        if place == PLACES as u32 {
            place = 0u32;
            parity = parity ^ 1;
        }
        for block in 1..blocks {
            landed(&k_landed, place, parity);
            landed(&v_landed, before(place), values_parity);
            own_turn(group);
            scores(&q, k + u64::cast_from(place) * next, &mut s, dim);
            mix(&p, v + u64::cast_from(before(place)) * next, &mut o, dim);
            other_turn(group);
            if group == 1 {
                let mut coming = before(place);
                if !keys_come {
                    coming = before(coming);
                }
                bring(
                    &cursor, keys, values, tiles, pages, &mut k_box, &mut v_box, &k_landed, &v_landed,
                    coming, stride, heads, kv_heads, dim,
                );
            }
            wgmma::wait(1usize);
            pin_scores(&mut s);
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
            #[unroll]
            for c in 0..comptime!(dim / 8) {
                #[unroll]
                for i in 0..2usize {
                    o[comptime!(4 * c + i)] = o[comptime!(4 * c + i)] * shrink[0];
                    o[comptime!(4 * c + 2 + i)] = o[comptime!(4 * c + 2 + i)] * shrink[1];
                }
            }
            wgmma::pin(&mut o);
            round_weights(&s, &mut p);
            values_parity = parity;
            place += 1;
            if place == PLACES as u32 {
                place = 0u32;
                parity = parity ^ 1;
            }
        }
        before_first = first;
        before_count = count;
        before_head = head;
        round += 1;
    }
}
