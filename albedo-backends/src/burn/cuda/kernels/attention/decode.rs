//! Attention of single rows: each in splits of its keys, which are then merged.
//!
//! Two splits that follow each other are a pair, and are merged with each other first,
//! whether one cube takes both, which leaves half as much to be merged later, or two
//! cubes one each, which keeps more of the GPU busy: that changes no bit.

#![expect(
    clippy::used_underscore_binding,
    reason = "the kernel macro reads the size of a vector by its name"
)]

use cubecl::prelude::barrier::Barrier;
use cubecl::prelude::*;
use half::bf16;

use super::super::codes::{EightCodes, LOWERED, RAISED, page_words, tiny};
use super::super::mma::{Eight, Pair, left, multiply, right, zeroed_sums};
use super::super::ptx::{fast_exp2, meet};
use super::{LOWEST, PAGE};

/// Keys of one split of a decoded row.
pub(in crate::burn::cuda) const SPLIT: usize = 256;

#[cube]
fn pair(a: f32, b: f32) -> Pair {
    let mut pair = Pair::empty();
    pair.insert(0usize, bf16::cast_from(a));
    pair.insert(1usize, bf16::cast_from(b));
    pair
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

/// Units of a cube of [`attend_split`]: four planes, each with two blocks of 32 keys, and
/// one that has the copy engine bring pages.
pub(in crate::burn::cuda) const UNITS: u32 = 160;

/// One split of one row's attention, or a pair of them if `halves` is 2, for the query
/// heads of one key-value head.
///
/// Cubes: x the split or pair, y the key-value head, z the row; [`UNITS`]. Writes the
/// unnormalised result to `partial`, `[row, head, split, dim]`, and the largest
/// score and the sum of weights to `stats`, `[row, head, split, 2]`; of a pair where its
/// first split is. `scale` is `log2(e) / sqrt(dim)`. Keys and values are read eight at a
/// time, four words of bf16 or, if `codes`, two of int8.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn attend_split<N: Size>(
    queries: &[Eight],
    keys: &[Vector<u32, N>],
    values: &[Vector<u32, N>],
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
    #[comptime] halves: u32,
    #[comptime] codes: bool,
    #[define(N)] _words: usize,
) {
    let group = comptime!(heads / kv_heads);
    let parts = comptime!(dim / 32);
    let vectors = comptime!(dim / 8);
    let page_vectors = comptime!(page_vectors(dim, codes));
    // Where the factors of codes are.
    let factors = comptime!(PAGE * dim / 8);
    let rounds = comptime!((group * dim).div_ceil(128));
    let split = CUBE_POS_X * halves;
    let kv_head = CUBE_POS_Y as usize;
    let row = CUBE_POS_Z as usize;
    let seen = positions[row] + 1;
    let plane = UNIT_POS / 32;
    let lane = UNIT_POS_PLANE as usize;
    let g = lane / 4;
    let t = lane % 4;

    if split * (SPLIT as u32) < seen {
        // Two pages are there at a time, and the next two come as soon as they were read.
        let mut key_box =
            Shared::<[Vector<u32, N>]>::new_aligned_slice(comptime!(2 * page_vectors), 128usize);
        let mut value_box =
            Shared::<[Vector<u32, N>]>::new_aligned_slice(comptime!(2 * page_vectors), 128usize);
        let mut shared_top = Shared::<[f32]>::new_slice(32usize);
        let mut shared_total = Shared::<[f32]>::new_slice(32usize);
        let mut shared = Shared::<[f32]>::new_slice(comptime!(4 * dim * group));
        let mut key_landed = Sequence::<Shared<Barrier>>::new();
        let mut key_read = Sequence::<Shared<Barrier>>::new();
        let mut value_landed = Sequence::<Shared<Barrier>>::new();
        let mut value_read = Sequence::<Shared<Barrier>>::new();
        #[unroll]
        for _ in 0..2usize {
            key_landed.push(Barrier::shared_uninit());
            key_read.push(Barrier::shared_uninit());
            value_landed.push(Barrier::shared_uninit());
            value_read.push(Barrier::shared_uninit());
        }
        if UNIT_POS == 0 {
            #[unroll]
            for i in 0..2usize {
                key_landed.index(i).init_manual(1u32);
                key_read.index(i).init_manual(2u32);
                value_landed.index(i).init_manual(1u32);
                value_read.index(i).init_manual(2u32);
            }
        }
        sync_async_proxy_shared();
        sync_cube();

        if plane == 4 {
            if lane == 0 {
                let table = slots[row] * page_stride;
                #[unroll]
                for turn in 0..2 * halves {
                    #[unroll]
                    for kind in 0..2u32 {
                        #[unroll]
                        for slot in 0..2usize {
                            let base =
                                split * SPLIT as u32 + comptime!((2 * turn + slot as u32) * PAGE as u32);
                            if base < seen {
                                let page = pages[(table + base / PAGE as u32) as usize] as usize;
                                let from = (page * kv_heads + kv_head) * page_vectors;
                                // Of a page of which only the first block is seen, only that comes.
                                let whole = seen - base > 32;
                                if comptime!(kind == 0) {
                                    if comptime!(turn > 0) {
                                        key_read.index(slot).wait_parity(comptime!((turn + 1) % 2));
                                    }
                                    bring_keys(
                                        keys,
                                        &mut key_box,
                                        key_landed.index(slot),
                                        from,
                                        slot,
                                        whole,
                                        dim,
                                        codes,
                                    );
                                } else {
                                    if comptime!(turn > 0) {
                                        value_read.index(slot).wait_parity(comptime!((turn + 1) % 2));
                                    }
                                    bring_values(
                                        values,
                                        &mut value_box,
                                        value_landed.index(slot),
                                        from,
                                        slot,
                                        whole,
                                        dim,
                                        codes,
                                    );
                                }
                            }
                        }
                    }
                }
            }
        } else {
            let mut query = Array::<Eight>::new(parts);
            #[unroll]
            for part in 0..parts {
                let mut value = Eight::zeroed();
                if g < group {
                    value = queries[(row * heads + kv_head * group + g) * vectors + comptime!(part * 4) + t];
                }
                if comptime!(codes) {
                    #[unroll]
                    for i in 0..4usize {
                        let raised = Pair::reinterpret(value.extract(i)) * Pair::new(bf16::cast_from(RAISED));
                        value.insert(i, u32::reinterpret(raised));
                    }
                }
                query[part] = value;
            }
            let second = plane / 2 == 1;
            let place = (plane / 2) as usize * page_vectors;
            let block = (plane % 2) as usize;
            // Tile T has positions 8 (g / 2) + 4 (T / 2) + 2 (T % 2) + g % 2 of the block: a lane
            // then has the scores of eight that follow each other.
            let mut key = place + (block * 32 + g / 2 * 8 + g % 2) * 4;
            let mut value = place + block * comptime!(32 * vectors) + g * 4;
            let factor = place + factors + block * 16 + t * 4;
            if comptime!(codes) {
                key = place + (block * 32 + g) * 4 + t;
                value += t;
            } else {
                value += t ^ (g / 2);
            }

            let mut held = Array::<f32>::new(rounds);
            let mut held_top = Array::<f32>::new(rounds);
            let mut held_weight = Array::<f32>::new(rounds);
            #[unroll]
            for half in 0..halves {
                if (split + half) * (SPLIT as u32) < seen {
                    let mut largest = f32::new(LOWEST);
                    let mut total = 0.0f32;
                    let mut mixed = zeroed_sums(comptime!(dim / 16));
                    #[unroll]
                    for turn in 0..2u32 {
                        let base = (split + half) * SPLIT as u32 + (plane + turn * 4) * 32;
                        if base < seen {
                            if second {
                                key_landed.index(1usize).wait_parity(turn);
                            } else {
                                key_landed.index(0usize).wait_parity(turn);
                            }
                            let mut scores = zeroed_sums(4usize);
                            #[unroll]
                            for tile in 0..4usize {
                                let mut row = key;
                                if comptime!(codes) {
                                    row += comptime!(tile * 32);
                                } else {
                                    row += comptime!((tile / 2 * 4 + tile % 2 * 2) * 4) + (t ^ tile);
                                }
                                let mut columns = Array::<Eight>::new(parts);
                                #[unroll]
                                for part in 0..parts {
                                    columns[part] =
                                        eight::<N>(key_box[row + comptime!(part * PAGE * 4)], codes);
                                }
                                #[unroll]
                                for part in 0..parts {
                                    let column = columns[part];
                                    #[unroll]
                                    for half in 0..2usize {
                                        let a = left(query[part], Eight::zeroed(), half);
                                        multiply(&a, &right(column, half), scores.index_mut(tile));
                                    }
                                }
                            }
                            let mut by = Array::<f32>::new(8usize);
                            if comptime!(codes) {
                                read_factors::<N>(&key_box, factor, &mut by);
                            }
                            sync_plane();
                            if lane == 0 {
                                if second {
                                    key_read.index(1usize).arrive();
                                } else {
                                    key_read.index(0usize).arrive();
                                }
                            }

                            let mut here = Array::<f32>::new(8usize);
                            let mut top = f32::new(LOWEST);
                            #[unroll]
                            for tile in 0..4usize {
                                #[unroll]
                                for i in 0..2usize {
                                    let position = base
                                        + 8 * t as u32
                                        + comptime!((4 * (tile / 2) + 2 * (tile % 2) + i) as u32);
                                    let mut score = scores.index(tile)[0].extract(i) * scale;
                                    if comptime!(codes) {
                                        score = score * (by[comptime!(2 * tile + i)] * LOWERED);
                                    }
                                    if position >= seen {
                                        score = f32::new(LOWEST);
                                    }
                                    here[comptime!(2 * tile + i)] = score;
                                    top = max(top, score);
                                }
                            }
                            let before = largest;
                            largest = max(before, max_of_four(top));
                            let shrink = fast_exp2(before - largest);
                            let mut sum = 0.0f32;
                            #[unroll]
                            for i in 0..8usize {
                                let weight = fast_exp2(here[i] - largest);
                                here[i] = weight;
                                sum += weight;
                            }
                            total = total * shrink + sum;

                            // A sum's columns are heads 2t and 2t + 1; their factors are on lanes 8t and 8t + 4.
                            let even = plane_shuffle(shrink, 8 * t as u32);
                            let odd = plane_shuffle(shrink, 8 * t as u32 + 4);
                            if second {
                                value_landed.index(1usize).wait_parity(turn);
                            } else {
                                value_landed.index(0usize).wait_parity(turn);
                            }
                            if comptime!(codes) {
                                read_factors::<N>(&value_box, factor, &mut by);
                                #[unroll]
                                for i in 0..8usize {
                                    here[i] = here[i] * by[i] * RAISED;
                                }
                            }
                            #[unroll]
                            for tile in 0..comptime!(dim / 16) {
                                let top = eight::<N>(value_box[value + comptime!(tile * 64)], codes);
                                let bottom = eight::<N>(value_box[value + comptime!(tile * 64 + 32)], codes);
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
                                    weights[0] =
                                        pair(here[comptime!(4 * half)], here[comptime!(4 * half + 1)]);
                                    weights[1] =
                                        pair(here[comptime!(4 * half + 2)], here[comptime!(4 * half + 3)]);
                                    multiply(&left(top, bottom, half), &weights, sums);
                                }
                            }
                            sync_plane();
                            if lane == 0 {
                                if second {
                                    value_read.index(1usize).arrive();
                                } else {
                                    value_read.index(0usize).arrive();
                                }
                            }
                        }
                    }

                    let plane = plane as usize;
                    let total = sum_of_four(total);
                    if comptime!(half > 0) {
                        // What the half before left was read.
                        meet(1u32, 128u32);
                    }
                    if t == 0 {
                        shared_top[plane * 8 + g] = largest;
                        shared_total[plane * 8 + g] = total;
                    }
                    #[unroll]
                    for tile in 0..comptime!(dim / 16) {
                        let sums = mixed.index(tile);
                        let at = (plane * dim + comptime!(tile * 16) + g) * group;
                        #[unroll]
                        for i in 0..2usize {
                            if 2 * t + i < group {
                                let mut top = sums[0].extract(i);
                                let mut bottom = sums[1].extract(i);
                                if comptime!(codes) {
                                    top = top * LOWERED;
                                    bottom = bottom * LOWERED;
                                }
                                shared[at + 2 * t + i] = top;
                                shared[at + comptime!(8 * group) + 2 * t + i] = bottom;
                            }
                        }
                    }
                    meet(1u32, 128u32);
                    #[unroll]
                    for round in 0..rounds {
                        let index = comptime!(round * 128) + UNIT_POS as usize;
                        if index < comptime!(group * dim) {
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
                                let factor = fast_exp2(shared_top[comptime!(plane * 8) + head] - top);
                                sum = fma(shared[(comptime!(plane * dim) + at) * group + head], factor, sum);
                                weight = fma(shared_total[comptime!(plane * 8) + head], factor, weight);
                            }
                            if comptime!(half == 0) {
                                held[round] = sum;
                                held_top[round] = top;
                                held_weight[round] = weight;
                            } else {
                                let both = max(held_top[round], top);
                                let first = fast_exp2(held_top[round] - both);
                                let second = fast_exp2(top - both);
                                held[round] = joined(held[round], first, sum, second);
                                held_weight[round] = joined(held_weight[round], first, weight, second);
                                held_top[round] = both;
                            }
                        }
                    }
                }
            }
            #[unroll]
            for round in 0..rounds {
                let index = comptime!(round * 128) + UNIT_POS as usize;
                if index < comptime!(group * dim) {
                    let head = index / dim;
                    let at = index % dim;
                    let to = (row * heads + kv_head * group + head) * splits as usize + split as usize;
                    partial[to * dim + at] = held[round];
                    if at == 0 {
                        stats[to * 2] = held_top[round];
                        stats[to * 2 + 1] = held_weight[round];
                    }
                }
            }
        }
    }
}

/// Two splits, each times its factor.
#[cube]
fn joined(first: f32, factor: f32, second: f32, other: f32) -> f32 {
    fma(first, factor, second * other)
}

/// Vectors of eight values of a page of one head; of codes, their factors too.
const fn page_vectors(dim: usize, codes: bool) -> usize {
    if codes { page_words(dim) / 2 } else { PAGE * dim / 8 }
}

/// Eight values as products take them; of codes, lowered.
#[cube]
fn eight<N: Size>(value: Vector<u32, N>, #[comptime] codes: bool) -> Eight {
    let mut values = Eight::zeroed();
    if comptime!(codes) {
        let mut two = EightCodes::zeroed();
        #[unroll]
        for i in 0..2usize {
            two.insert(i, value.extract(i));
        }
        values = tiny(two);
    } else {
        #[unroll]
        for i in 0..4usize {
            values.insert(i, value.extract(i));
        }
    }
    values
}

/// Reads the factors of eight positions.
#[cube]
fn read_factors<N: Size>(page: &Shared<[Vector<u32, N>]>, at: usize, by: &mut Array<f32>) {
    #[unroll]
    for i in 0..4usize {
        let two = page[at + i];
        by[comptime!(2 * i)] = f32::reinterpret(two.extract(0usize));
        by[comptime!(2 * i + 1)] = f32::reinterpret(two.extract(1usize));
    }
}

/// Has the copy engine bring the keys of a page, or of its first 32 positions, to place `slot`.
#[cube]
fn bring_keys<N: Size>(
    keys: &[Vector<u32, N>],
    to: &mut Shared<[Vector<u32, N>]>,
    landed: &Barrier,
    from: usize,
    #[comptime] slot: usize,
    whole: bool,
    #[comptime] dim: usize,
    #[comptime] codes: bool,
) {
    let page = comptime!(page_vectors(dim, codes));
    let at = comptime!(slot * page);
    if whole {
        landed.arrive_and_expect_tx(1u32, comptime!(bytes(page, codes)));
        landed.memcpy_async_tx(&keys[from..from + page], &mut to[at..comptime!(at + page)]);
    } else {
        landed.arrive_and_expect_tx(1u32, comptime!(bytes(page / 2, codes)));
        #[unroll]
        for panel in 0..comptime!(dim / 32) {
            let first = comptime!(panel * PAGE * 4);
            landed.memcpy_async_tx(
                &keys[from + first..from + comptime!(first + 128)],
                &mut to[comptime!(at + first)..comptime!(at + first + 128)],
            );
        }
        if comptime!(codes) {
            bring_factors(keys, to, landed, from, at, dim);
        }
    }
}

/// The same of values, whose first 32 positions are the first half of the page.
#[cube]
fn bring_values<N: Size>(
    values: &[Vector<u32, N>],
    to: &mut Shared<[Vector<u32, N>]>,
    landed: &Barrier,
    from: usize,
    #[comptime] slot: usize,
    whole: bool,
    #[comptime] dim: usize,
    #[comptime] codes: bool,
) {
    let page = comptime!(page_vectors(dim, codes));
    let at = comptime!(slot * page);
    if whole {
        landed.arrive_and_expect_tx(1u32, comptime!(bytes(page, codes)));
        landed.memcpy_async_tx(&values[from..from + page], &mut to[at..comptime!(at + page)]);
    } else {
        landed.arrive_and_expect_tx(1u32, comptime!(bytes(page / 2, codes)));
        let half = comptime!(PAGE * dim / 16);
        landed.memcpy_async_tx(&values[from..from + half], &mut to[at..comptime!(at + half)]);
        if comptime!(codes) {
            bring_factors(values, to, landed, from, at, dim);
        }
    }
}

/// Has the copy engine bring the factors of a page's first 32 positions.
#[cube]
fn bring_factors<N: Size>(
    page: &[Vector<u32, N>],
    to: &mut Shared<[Vector<u32, N>]>,
    landed: &Barrier,
    from: usize,
    #[comptime] at: usize,
    #[comptime] dim: usize,
) {
    let factors = comptime!(PAGE * dim / 8);
    landed.memcpy_async_tx(
        &page[from + factors..from + comptime!(factors + 16)],
        &mut to[comptime!(at + factors)..comptime!(at + factors + 16)],
    );
}

/// Bytes of `vectors` vectors of eight values.
const fn bytes(vectors: usize, codes: bool) -> u32 {
    vectors as u32 * if codes { 8 } else { 16 }
}

/// Pairs that [`merge_splits`] reads before it adds them.
const AHEAD: usize = 4;

/// Units of a cube of [`merge_splits`].
pub(in crate::burn::cuda) const MERGE_UNITS: u32 = 128;

/// Four values of a head.
type Four<T> = Vector<T, Const<4>>;

/// Adds the pairs of splits of every row and head, in order; with `halves` 2, pairs are
/// already merged. A unit takes four values of a head, so `dim / 4` units per head.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn merge_splits(
    partial: &[Four<f32>],
    stats: &[f32],
    positions: &[u32],
    out: &mut [Four<bf16>],
    splits: u32,
    rows: u32,
    #[comptime] heads: usize,
    #[comptime] dim: usize,
    #[comptime] halves: u32,
) {
    let units = comptime!(dim / 4);
    let item = ABSOLUTE_POS / units;
    let at = ABSOLUTE_POS % units;
    let row = item / heads;
    if row < rows as usize {
        let first = item * splits as usize;
        let used = (positions[row] / SPLIT as u32 + 1) as usize;
        let step = comptime!(if halves == 2 { 2usize } else { 1usize });
        let mut top = f32::new(LOWEST);
        let mut split = 0usize;
        while split < used {
            #[unroll]
            for i in 0..comptime!(2 * AHEAD) {
                let split = min(split + comptime!(i * step), (used - 1) / step * step);
                top = max(top, stats[(first + split) * 2]);
            }
            split += comptime!(2 * AHEAD * step);
        }
        let mut sum = Four::<f32>::zeroed();
        let mut weight = 0.0f32;
        for round in 0..used.div_ceil(comptime!(2 * AHEAD)) {
            let mut tops = Array::<f32>::new(AHEAD);
            let mut weights = Array::<f32>::new(AHEAD);
            let mut values = Array::<Four<f32>>::new(AHEAD);
            #[unroll]
            for i in 0..AHEAD {
                let pair = round * comptime!(2 * AHEAD) + comptime!(2 * i);
                let split = first + min(pair, (used - 1) / 2 * 2);
                tops[i] = stats[split * 2];
                weights[i] = stats[split * 2 + 1];
                values[i] = partial[split * units + at];
                if comptime!(halves == 1) && pair + 1 < used {
                    let other = stats[split * 2 + 2];
                    let both = max(tops[i], other);
                    let first = fast_exp2(tops[i] - both);
                    let second = fast_exp2(other - both);
                    let others = partial[(split + 1) * units + at];
                    let mut added = Four::<f32>::zeroed();
                    #[unroll]
                    for k in 0..4usize {
                        added.insert(k, joined(values[i].extract(k), first, others.extract(k), second));
                    }
                    values[i] = added;
                    weights[i] = joined(weights[i], first, stats[split * 2 + 3], second);
                    tops[i] = both;
                }
            }
            #[unroll]
            for i in 0..AHEAD {
                let mut factor = fast_exp2(tops[i] - top);
                if round * comptime!(2 * AHEAD) + comptime!(2 * i) >= used {
                    factor = 0.0f32;
                }
                let mut added = Four::<f32>::zeroed();
                #[unroll]
                for k in 0..4usize {
                    added.insert(k, fma(values[i].extract(k), factor, sum.extract(k)));
                }
                sum = added;
                weight = fma(weights[i], factor, weight);
            }
        }
        let mut mixed = Four::<bf16>::empty();
        #[unroll]
        for k in 0..4usize {
            mixed.insert(k, bf16::cast_from(sum.extract(k) / weight));
        }
        out[item * units + at] = mixed;
    }
}
