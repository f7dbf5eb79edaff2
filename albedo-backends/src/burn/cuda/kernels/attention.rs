//! Attention over pages of 64 positions of keys and values, bf16, each
//! `[page, kv head, ..]` in blocks of 32 positions. Within a block they lie in the
//! order in which a plane reads them ([`key_at`], [`value_at`]), so that each read
//! is of 512 consecutive bytes.
//!
//! A row sees the keys at its own position and before it, in blocks of a fixed
//! size counted from position 0, so its bits depend neither on which rows are
//! computed with it nor on how its prompt was cut. A block of which it sees
//! nothing changes nothing: its weights are 0 and its rescaling is by 1.
//! (Online softmax: Milakov and Gimelshein, 2018; Dao, *FlashAttention-2*, 2023.)

use cubecl::prelude::*;
use half::bf16;

use super::math::exp2;
use super::mma::{Eight, Pair, left, multiply, right, zeroed_sums};

/// Positions of a page.
pub(in crate::burn::cuda) const PAGE: usize = 64;
/// Keys of one split of a decoded row, four planes with two blocks of 32 each.
pub(in crate::burn::cuda) const SPLIT: usize = 256;
/// Rows of one prefill cube, eight planes with 16 each.
pub(in crate::burn::cuda) const TILE: usize = 128;

/// Below every score, and finite: the difference of two is a number.
const LOWEST: f64 = -1e30;

/// Where value `at` of the key at position `offset` of a page is, from the page's
/// first of its head: `[block, tile, at / 32, column, at % 32]`. Position p of a
/// block is column 2 (p / 8) + p % 2 of tile 2 (p / 4 % 2) + p / 2 % 2: a lane then
/// has the scores of eight positions that follow each other.
#[cube]
pub(in crate::burn::cuda) fn key_at(offset: usize, at: usize, #[comptime] dim: usize) -> usize {
    let p = offset % 32;
    let tile = p / 4 % 2 * 2 + p / 2 % 2;
    let column = p / 8 * 2 + p % 2;
    offset / 32 * comptime!(32 * dim) + tile * comptime!(8 * dim) + at / 32 * 256 + column * 32 + at % 32
}

/// Where value `at` of the values at position `offset` of a page is: `[block, at,
/// position]`.
#[cube]
pub(in crate::burn::cuda) fn value_at(offset: usize, at: usize, #[comptime] dim: usize) -> usize {
    offset / 32 * comptime!(32 * dim) + at * 32 + offset % 32
}

#[cube]
fn pair(a: f32, b: f32) -> Pair {
    let mut pair = Pair::empty();
    pair.insert(0usize, bf16::cast_from(a));
    pair.insert(1usize, bf16::cast_from(b));
    pair
}

/// Zeroes the values of positions from `seen` on; the first is at `first`.
#[cube]
fn keep(values: Eight, first: u32, seen: u32) -> Eight {
    let mut kept = values;
    #[unroll]
    for i in 0..4usize {
        let at = first + comptime!(2 * i as u32);
        let both = kept.extract(i);
        let mut part = both;
        if at + 1 >= seen {
            part = both & 0xffffu32;
        }
        if at >= seen {
            part = 0u32;
        }
        kept.insert(i, part);
    }
    kept
}

/// The largest of four lanes that share g.
#[cube]
fn max_of_four(value: f32) -> f32 {
    let first = max(value, plane_shuffle_xor(value, 1u32));
    max(first, plane_shuffle_xor(first, 2u32))
}

/// The sum over four lanes that share g.
#[cube]
fn sum_of_four(value: f32) -> f32 {
    let first = value + plane_shuffle_xor(value, 1u32);
    first + plane_shuffle_xor(first, 2u32)
}

/// One split of one row's attention, for the query heads of one key-value head.
///
/// Cubes: x the split, y the key-value head, z the row; 128 units. Writes the
/// unnormalised result to `partial`, `[row, head, split, dim]`, and the largest
/// score and the sum of weights to `stats`, `[row, head, split, 2]`. `scale`
/// is `log2(e) / sqrt(dim)`.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn attend_split(
    queries: &[Eight],
    keys: &[Eight],
    values: &[Eight],
    positions: &[u32],
    slots: &[u32],
    pages: &[u32],
    partial: &mut [f32],
    stats: &mut [f32],
    page_stride: u32,
    splits: u32,
    scale: f32,
    #[comptime] heads: usize,
    #[comptime] kv_heads: usize,
    #[comptime] dim: usize,
) {
    let group = comptime!(heads / kv_heads);
    let parts = comptime!(dim / 32);
    let vectors = comptime!(dim / 8);
    let split = CUBE_POS_X;
    let kv_head = CUBE_POS_Y as usize;
    let row = CUBE_POS_Z as usize;
    let seen = positions[row] + 1;
    let plane = UNIT_POS / 32;
    let lane = UNIT_POS_PLANE as usize;
    let g = lane / 4;
    let t = lane % 4;

    if split * (SPLIT as u32) < seen {
        let mut query = Array::<Eight>::new(parts);
        #[unroll]
        for part in 0..parts {
            let mut value = Eight::zeroed();
            if g < group {
                value = queries[(row * heads + kv_head * group + g) * vectors + comptime!(part * 4) + t];
            }
            query[part] = value;
        }
        let slot = slots[row];
        let mut largest = f32::new(LOWEST);
        let mut total = 0.0f32;
        let mut mixed = zeroed_sums(comptime!(dim / 16));

        #[unroll]
        for turn in 0..2u32 {
            let base = split * SPLIT as u32 + (plane + turn * 4) * 32;
            if base < seen {
                let page = pages[(slot * page_stride + base / PAGE as u32) as usize] as usize;
                let within = (base % PAGE as u32) as usize;
                let place = page * kv_heads + kv_head;
                let from = (place * PAGE + within) * vectors + lane;

                let mut scores = zeroed_sums(4usize);
                #[unroll]
                for tile in 0..4usize {
                    #[unroll]
                    for part in 0..parts {
                        let column = keys[from + comptime!(tile * 8 * vectors + part * 32)];
                        #[unroll]
                        for half in 0..2usize {
                            let a = left(query[part], Eight::zeroed(), half);
                            multiply(&a, &right(column, half), scores.index_mut(tile));
                        }
                    }
                }

                let mut here = Array::<f32>::new(8usize);
                let mut top = f32::new(LOWEST);
                #[unroll]
                for tile in 0..4usize {
                    #[unroll]
                    for i in 0..2usize {
                        let key =
                            base + 8 * t as u32 + comptime!((4 * (tile / 2) + 2 * (tile % 2) + i) as u32);
                        let mut score = scores.index(tile)[0].extract(i) * scale;
                        if key >= seen {
                            score = f32::new(LOWEST);
                        }
                        here[comptime!(2 * tile + i)] = score;
                        top = max(top, score);
                    }
                }
                let before = largest;
                largest = max(before, max_of_four(top));
                let shrink = exp2(before - largest);
                let mut sum = 0.0f32;
                #[unroll]
                for i in 0..8usize {
                    let weight = exp2(here[i] - largest);
                    here[i] = weight;
                    sum += weight;
                }
                total = total * shrink + sum;

                // A sum's columns are heads 2t and 2t + 1; their factors are on lanes 8t and 8t + 4.
                let even = plane_shuffle(shrink, 8 * t as u32);
                let odd = plane_shuffle(shrink, 8 * t as u32 + 4);
                let last = base + 32 > seen;
                #[unroll]
                for tile in 0..comptime!(dim / 16) {
                    let mut top = values[from + comptime!(tile * 64)];
                    let mut bottom = values[from + comptime!(tile * 64 + 32)];
                    if last {
                        top = keep(top, base + 8 * t as u32, seen);
                        bottom = keep(bottom, base + 8 * t as u32, seen);
                    }
                    let sums = mixed.index_mut(tile);
                    #[unroll]
                    for i in 0..2usize {
                        let mut held = sums[i];
                        held.insert(0usize, held.extract(0usize) * even);
                        held.insert(1usize, held.extract(1usize) * odd);
                        sums[i] = held;
                    }
                    #[unroll]
                    for half in 0..2usize {
                        let mut weights = Array::<Pair>::new(2usize);
                        weights[0] = pair(here[comptime!(4 * half)], here[comptime!(4 * half + 1)]);
                        weights[1] = pair(here[comptime!(4 * half + 2)], here[comptime!(4 * half + 3)]);
                        multiply(&left(top, bottom, half), &weights, sums);
                    }
                }
            }
        }

        let mut shared_top = Shared::<[f32]>::new_slice(32usize);
        let mut shared_total = Shared::<[f32]>::new_slice(32usize);
        let mut shared = Shared::<[f32]>::new_slice(comptime!(4 * dim * 8));
        let plane = plane as usize;
        let total = sum_of_four(total);
        if t == 0 {
            shared_top[plane * 8 + g] = largest;
            shared_total[plane * 8 + g] = total;
        }
        #[unroll]
        for tile in 0..comptime!(dim / 16) {
            let sums = mixed.index(tile);
            let at = (plane * dim + comptime!(tile * 16) + g) * 8 + 2 * t;
            shared[at] = sums[0].extract(0usize);
            shared[at + 1] = sums[0].extract(1usize);
            shared[at + 64] = sums[1].extract(0usize);
            shared[at + 65] = sums[1].extract(1usize);
        }
        sync_cube();
        let mut index = UNIT_POS as usize;
        while index < comptime!(group * dim) {
            let head = index / dim;
            let at = index % dim;
            let mut top = f32::new(LOWEST);
            #[unroll]
            for plane in 0..4usize {
                top = max(top, shared_top[comptime!(plane * 8) + head]);
            }
            let mut sum = 0.0f32;
            let mut weight = 0.0f32;
            #[unroll]
            for plane in 0..4usize {
                let factor = exp2(shared_top[comptime!(plane * 8) + head] - top);
                sum += shared[(comptime!(plane * dim) + at) * 8 + head] * factor;
                weight += shared_total[comptime!(plane * 8) + head] * factor;
            }
            let to = (row * heads + kv_head * group + head) * splits as usize + split as usize;
            partial[to * dim + at] = sum;
            if at == 0 {
                stats[to * 2] = top;
                stats[to * 2 + 1] = weight;
            }
            index += 128;
        }
    }
}

/// Splits that [`merge_splits`] reads before it adds them.
const AHEAD: usize = 8;

/// Adds the splits of every row and head, in order. Cubes: x the head, y the
/// row; `dim` units.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn merge_splits(
    partial: &[f32],
    stats: &[f32],
    positions: &[u32],
    out: &mut [bf16],
    splits: u32,
    #[comptime] heads: usize,
    #[comptime] dim: usize,
) {
    let row = CUBE_POS_Y as usize;
    let first = (row * heads + CUBE_POS_X as usize) * splits as usize;
    let used = (positions[row] / SPLIT as u32 + 1) as usize;
    let at = UNIT_POS as usize;
    let mut top = f32::new(LOWEST);
    for round in 0..used.div_ceil(AHEAD) {
        #[unroll]
        for i in 0..AHEAD {
            let split = min(round * AHEAD + i, used - 1);
            top = max(top, stats[(first + split) * 2]);
        }
    }
    let mut sum = 0.0f32;
    let mut weight = 0.0f32;
    for round in 0..used.div_ceil(AHEAD) {
        let mut tops = Array::<f32>::new(AHEAD);
        let mut weights = Array::<f32>::new(AHEAD);
        let mut values = Array::<f32>::new(AHEAD);
        #[unroll]
        for i in 0..AHEAD {
            let split = first + min(round * AHEAD + i, used - 1);
            tops[i] = stats[split * 2];
            weights[i] = stats[split * 2 + 1];
            values[i] = partial[split * dim + at];
        }
        #[unroll]
        for i in 0..AHEAD {
            let mut factor = exp2(tops[i] - top);
            if round * AHEAD + i >= used {
                factor = 0.0f32;
            }
            sum += values[i] * factor;
            weight += weights[i] * factor;
        }
    }
    out[(row * heads + CUBE_POS_X as usize) * dim + at] = bf16::cast_from(sum / weight);
}

/// Causal attention of tiles of consecutive rows of one sequence.
///
/// Cubes: x the tile, y the query head; 256 units. `tiles` holds each tile's
/// first row and its number of rows, at most [`TILE`]. `scale` is
/// `log2(e) / sqrt(dim)`.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn attend_tile(
    queries: &[Eight],
    keys: &[Eight],
    values: &[Eight],
    tiles: &[u32],
    positions: &[u32],
    slots: &[u32],
    pages: &[u32],
    out: &mut [u32],
    page_stride: u32,
    scale: f32,
    #[comptime] heads: usize,
    #[comptime] kv_heads: usize,
    #[comptime] dim: usize,
) {
    let parts = comptime!(dim / 32);
    let vectors = comptime!(dim / 8);
    let share = comptime!((PAGE * dim / 8).div_ceil(256));
    let head = CUBE_POS_Y as usize;
    let kv_head = head / comptime!(heads / kv_heads);
    let first = tiles[2 * CUBE_POS_X as usize] as usize;
    let count = tiles[2 * CUBE_POS_X as usize + 1];
    let start = positions[first];
    let seen = start + count;
    let slot = slots[first];
    let unit = UNIT_POS as usize;
    let plane = UNIT_POS / 32;
    let lane = UNIT_POS_PLANE as usize;
    let g = lane / 4;
    let t = lane % 4;
    let upper = plane * 16 + g as u32;
    let lower = upper + 8;

    let mut query = Array::<Eight>::new(comptime!(2 * parts));
    #[unroll]
    for part in 0..parts {
        let mut above = Eight::zeroed();
        let mut below = Eight::zeroed();
        if upper < count {
            above = queries[((first + upper as usize) * heads + head) * vectors + comptime!(part * 4) + t];
        }
        if lower < count {
            below = queries[((first + lower as usize) * heads + head) * vectors + comptime!(part * 4) + t];
        }
        query[comptime!(2 * part)] = above;
        query[comptime!(2 * part + 1)] = below;
    }

    let mut key_page = Shared::<[Eight]>::new_aligned_slice(comptime!(2 * PAGE * vectors), 16usize);
    let mut value_page = Shared::<[Eight]>::new_aligned_slice(comptime!(2 * PAGE * vectors), 16usize);
    let mut top_above = f32::new(LOWEST);
    let mut top_below = f32::new(LOWEST);
    let mut total_above = 0.0f32;
    let mut total_below = 0.0f32;
    let mut mixed = zeroed_sums(comptime!(dim / 8));

    let used = (seen - 1) / PAGE as u32 + 1;
    let mut next_keys = Array::<Eight>::new(share);
    let mut next_values = Array::<Eight>::new(share);
    for index in 0..used + 1 {
        if index < used {
            let place = pages[(slot * page_stride + index) as usize] as usize * kv_heads + kv_head;
            #[unroll]
            for i in 0..share {
                let at = unit + comptime!(i * 256);
                if at < comptime!(PAGE * vectors) {
                    next_keys[i] = keys[place * comptime!(PAGE * vectors) + at];
                    next_values[i] = values[place * comptime!(PAGE * vectors) + at];
                }
            }
        }
        if index > 0 {
            let done = index - 1;
            let base = done * PAGE as u32;
            let from = (done % 2) as usize * comptime!(PAGE * vectors);
            if base < start + plane * 16 + 16 {
                let mut scores = zeroed_sums(8usize);
                #[unroll]
                for tile in 0..8usize {
                    #[unroll]
                    for part in 0..parts {
                        let column = key_page[from + comptime!(tile * 8 * vectors + part * 32) + lane];
                        #[unroll]
                        for half in 0..2usize {
                            let a = left(query[comptime!(2 * part)], query[comptime!(2 * part + 1)], half);
                            multiply(&a, &right(column, half), scores.index_mut(tile));
                        }
                    }
                }

                let mut above = Array::<f32>::new(16usize);
                let mut below = Array::<f32>::new(16usize);
                #[unroll]
                for tile in 0..8usize {
                    #[unroll]
                    for i in 0..2usize {
                        above[comptime!(2 * tile + i)] = scores.index(tile)[0].extract(i) * scale;
                        below[comptime!(2 * tile + i)] = scores.index(tile)[1].extract(i) * scale;
                    }
                }
                if base + PAGE as u32 > start + plane * 16 {
                    #[unroll]
                    for tile in 0..8usize {
                        #[unroll]
                        for i in 0..2usize {
                            let key = base
                                + 8 * t as u32
                                + comptime!(
                                    (32 * (tile / 4) + 4 * (tile / 2 % 2) + 2 * (tile % 2) + i) as u32
                                );
                            if key > start + upper {
                                above[comptime!(2 * tile + i)] = f32::new(LOWEST);
                            }
                            if key > start + lower {
                                below[comptime!(2 * tile + i)] = f32::new(LOWEST);
                            }
                        }
                    }
                }
                let mut best_above = f32::new(LOWEST);
                let mut best_below = f32::new(LOWEST);
                #[unroll]
                for i in 0..16usize {
                    best_above = max(best_above, above[i]);
                    best_below = max(best_below, below[i]);
                }
                let before_above = top_above;
                let before_below = top_below;
                top_above = max(before_above, max_of_four(best_above));
                top_below = max(before_below, max_of_four(best_below));
                let shrink_above = exp2(before_above - top_above);
                let shrink_below = exp2(before_below - top_below);
                let mut sum_above = 0.0f32;
                let mut sum_below = 0.0f32;
                #[unroll]
                for i in 0..16usize {
                    let a = exp2(above[i] - top_above);
                    let b = exp2(below[i] - top_below);
                    above[i] = a;
                    below[i] = b;
                    sum_above += a;
                    sum_below += b;
                }
                total_above = total_above * shrink_above + sum_above;
                total_below = total_below * shrink_below + sum_below;
                #[unroll]
                for tile in 0..comptime!(dim / 8) {
                    let sums = mixed.index_mut(tile);
                    sums[0] = sums[0] * Vector::new(shrink_above);
                    sums[1] = sums[1] * Vector::new(shrink_below);
                }
                #[unroll]
                for part in 0..2usize {
                    let mut weights = Sequence::<Array<Pair>>::new();
                    #[unroll]
                    for half in 0..2usize {
                        let at = comptime!(8 * part + 4 * half);
                        let mut a = Array::<Pair>::new(4usize);
                        a[0] = pair(above[at], above[comptime!(at + 1)]);
                        a[1] = pair(below[at], below[comptime!(at + 1)]);
                        a[2] = pair(above[comptime!(at + 2)], above[comptime!(at + 3)]);
                        a[3] = pair(below[comptime!(at + 2)], below[comptime!(at + 3)]);
                        weights.push(a);
                    }
                    #[unroll]
                    for tile in 0..comptime!(dim / 8) {
                        let column = value_page[from + comptime!(part * 4 * dim + tile * 32) + lane];
                        #[unroll]
                        for half in 0..2usize {
                            multiply(weights.index(half), &right(column, half), mixed.index_mut(tile));
                        }
                    }
                }
            }
        }
        if index < used {
            let to = (index % 2) as usize * comptime!(PAGE * vectors);
            #[unroll]
            for i in 0..share {
                let at = unit + comptime!(i * 256);
                if at < comptime!(PAGE * vectors) {
                    key_page[to + at] = next_keys[i];
                    let mut value = next_values[i];
                    if index + 1 == used {
                        let offset = at / comptime!(4 * dim) * 32 + at % 4 * 8;
                        value = keep(value, index * PAGE as u32 + offset as u32, seen);
                    }
                    value_page[to + at] = value;
                }
            }
        }
        sync_cube();
    }

    let scale_above = 1.0f32 / sum_of_four(total_above);
    let scale_below = 1.0f32 / sum_of_four(total_below);
    #[unroll]
    for tile in 0..comptime!(dim / 8) {
        let sums = mixed.index(tile);
        let at = head * comptime!(dim / 2) + comptime!(tile * 4) + t;
        if upper < count {
            out[(first + upper as usize) * comptime!(heads * dim / 2) + at] = u32::reinterpret(pair(
                sums[0].extract(0usize) * scale_above,
                sums[0].extract(1usize) * scale_above,
            ));
        }
        if lower < count {
            out[(first + lower as usize) * comptime!(heads * dim / 2) + at] = u32::reinterpret(pair(
                sums[1].extract(0usize) * scale_below,
                sums[1].extract(1usize) * scale_below,
            ));
        }
    }
}
