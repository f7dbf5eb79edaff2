//! What goes row by row: embedding, norms, rotation, activation.

#![expect(
    clippy::used_underscore_binding,
    reason = "the kernel macro reads the type of a product by its name"
)]

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use half::bf16;

use super::attention::{key_at, value_at};
use super::codes::{page_words, write_key, write_values};
use super::product_few::result;

/// The index that says "no row", "no layer", "no target".
pub(in crate::burn::cuda) const NONE: u32 = u32::MAX;

/// The sum of `value` over the cube, the same on every unit: planes in order.
/// `shared` has room for one value a plane.
#[cube]
pub(super) fn cube_sum(value: f32, shared: &mut Shared<[f32]>, #[comptime] planes: u32) -> f32 {
    let sum = plane_sum(value);
    if UNIT_POS_PLANE == 0 {
        shared[(UNIT_POS / 32) as usize] = sum;
    }
    sync_cube();
    let mut total = 0.0f32;
    #[unroll]
    for plane in 0..planes {
        total += shared[plane as usize];
    }
    sync_cube();
    total
}

/// Takes the tokens and positions of the sequences in `rows` and moves the
/// positions on, but for slot `padding`, whose stays. One unit a row.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn decode_inputs(
    rows: &[u32],
    tokens: &[u32],
    positions: &mut [u32],
    ids: &mut [u32],
    row_positions: &mut [u32],
    padding: u32,
) {
    if ABSOLUTE_POS < rows.len() {
        let slot = rows[ABSOLUTE_POS];
        let position = positions[slot as usize];
        ids[ABSOLUTE_POS] = tokens[slot as usize];
        row_positions[ABSOLUTE_POS] = position;
        if slot != padding {
            positions[slot as usize] = position + 1;
        }
    }
}

/// `out[row] = table[ids[row]]` in `f32`; clears the row's fault. One cube a row.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn embed(
    ids: &[u32],
    table: &[Vector<bf16, Const<8>>],
    out: &mut [Vector<f32, Const<8>>],
    faults: &mut [u32],
    #[comptime] width: usize,
) {
    let row = CUBE_POS_X as usize;
    let from = ids[row] as usize * width;
    let mut at = UNIT_POS as usize;
    while at < width {
        out[row * width + at] = Vector::cast_from(table[from + at]);
        at += CUBE_DIM as usize;
    }
    if UNIT_POS == 0 {
        faults[row] = NONE;
    }
}

/// Adds `delta`, a product of `delta_sums` sums (see [`result`]), to `residual`
/// (where there are any), and writes the RMS norm of the sum to `out`. A row whose
/// sum of squares is not finite gets `layer` as its fault, unless it has one. One
/// cube of `planes` planes a row.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn add_norm<P: Float>(
    residual: &mut [Vector<f32, Const<8>>],
    delta: &[Vector<P, Const<8>>],
    gain: &[Vector<f32, Const<8>>],
    out: &mut [Vector<bf16, Const<8>>],
    faults: &mut [u32],
    eps: f32,
    layer: u32,
    #[comptime] width: usize,
    #[comptime] planes: u32,
    #[comptime] delta_sums: usize,
    #[define(P)] _element: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(planes as usize);
    let row = CUBE_POS_X as usize;
    let first = row * width;
    let step = comptime!(planes as usize * 32);
    let rounds = comptime!(width.div_ceil(step));
    let mut held = Array::<Vector<f32, Const<8>>>::new(rounds);
    let mut sum = 0.0f32;
    #[unroll]
    for round in 0..rounds {
        let at = round * step + UNIT_POS as usize;
        let mut x = Vector::<f32, Const<8>>::zeroed();
        if at < width {
            x = residual[first + at];
            if comptime!(delta_sums > 0) {
                x += result(delta, first + at, delta_sums);
                residual[first + at] = x;
            }
        }
        held[round] = x;
        let squares = x * x;
        #[unroll]
        for i in 0..8usize {
            sum += squares.extract(i);
        }
    }
    let total = cube_sum(sum, &mut shared, planes);
    let scale = (total / (width * 8) as f32 + eps).inverse_sqrt();
    #[unroll]
    for round in 0..rounds {
        let at = round * step + UNIT_POS as usize;
        if at < width {
            let y = held[round] * Vector::new(scale) * gain[at];
            out[first + at] = Vector::cast_from(y);
        }
    }
    // Not a number is not equal to itself; infinity minus itself is not a number.
    let zero = total - total;
    if UNIT_POS == 0 && zero != 0.0f32 && faults[row] == NONE {
        faults[row] = layer;
    }
}

/// Two values that follow each other.
pub(super) type Two<T> = Vector<T, Const<2>>;

/// Heads of q and k that a plane takes.
pub(in crate::burn::cuda) const HEADS: u32 = 4;

/// Rows of a prompt whose values a plane writes together: where they follow each other in a
/// page, as one vector.
pub(in crate::burn::cuda) const TOGETHER: u32 = 8;

/// Splits joined `[q | k | v]` rows, a product of `sums` sums, normalises the
/// heads of q and k, rotates both to the row's position, writes k and v into the
/// row's page and q to `queries`. A value that is not a number is written as 0, for
/// pages hold numbers, and the row gets `layer` as its fault, unless it has one. Keys and
/// values are bf16, of which `value_chunks` takes eight in four words, or, if `codes`, int8
/// with factors (see the module of that name), of which it takes eight in two.
///
/// A plane takes a row and [`HEADS`] heads of q or k, or `together` rows and a head of v:
/// [`TOGETHER`] of prompts, one where each row has a slot of its own. `values`, `value_chunks`
/// and `value_words` are the same memory. Rows of one slot are neighbours and their positions
/// follow each other.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn qk_norm_rope_write_kv<P: Float, V: Numeric, N: Size>(
    qkv: &[Two<P>],
    q_gain: &[Two<f32>],
    k_gain: &[Two<f32>],
    cosines: &[Two<f32>],
    sines: &[Two<f32>],
    positions: &[u32],
    slots: &[u32],
    pages: &[u32],
    queries: &mut [Two<bf16>],
    keys: &mut [u32],
    values: &mut [V],
    value_chunks: &mut [Vector<u32, N>],
    value_words: &mut [u32],
    faults: &mut [u32],
    eps: f32,
    page_stride: u32,
    rows: u32,
    layer: u32,
    #[comptime] heads: u32,
    #[comptime] kv_heads: u32,
    #[comptime] dim: u32,
    #[comptime] page: u32,
    #[comptime] sums: usize,
    #[comptime] together: u32,
    #[comptime] codes: bool,
    #[define(P)] _element: ElemType,
    #[define(V)] _stored: ElemType,
    #[define(N)] _words: usize,
) {
    let all = comptime!(heads + 2 * kv_heads);
    let normed = comptime!(heads + kv_heads);
    // In vectors of two.
    let width = comptime!((dim / 2) as usize);
    let half = comptime!((dim / 4) as usize);
    let lane = UNIT_POS_PLANE as usize;
    let task = CUBE_POS_X * (CUBE_DIM / 32) + UNIT_POS / 32;
    let parts = comptime!(normed.div_ceil(HEADS));
    if task < rows * parts {
        let row = (task / parts) as usize;
        let first = task % parts * HEADS;
        let position = positions[row];
        // Found before anything is written: what is loaded later waits for what is stored.
        let number = pages[(slots[row] * page_stride + position / page) as usize];
        let mut a = Array::<Two<f32>>::new(comptime!(HEADS as usize));
        let mut b = Array::<Two<f32>>::new(comptime!(HEADS as usize));
        let mut cosine = Two::<f32>::zeroed();
        let mut sine = Two::<f32>::zeroed();
        if lane < half {
            let angle = position as usize * half + lane;
            cosine = cosines[angle];
            sine = sines[angle];
        }
        #[unroll]
        for i in 0..HEADS {
            let from = (row * all as usize + (first + i) as usize) * width;
            a[i as usize] = Two::zeroed();
            b[i as usize] = Two::zeroed();
            if lane < half && first + i < normed {
                a[i as usize] = result(qkv, from + lane, sums);
                b[i as usize] = result(qkv, from + half + lane, sums);
            }
        }
        #[unroll]
        for i in 0..HEADS {
            let head = first + i;
            let squares = a[i as usize] * a[i as usize] + b[i as usize] * b[i as usize];
            let sum = plane_sum(squares.extract(0usize) + squares.extract(1usize));
            let scale = Two::new((sum / dim as f32 + eps).inverse_sqrt());
            if head < normed {
                let mut a = a[i as usize] * scale;
                let mut b = b[i as usize] * scale;
                if lane < half {
                    if head < heads {
                        a = a * q_gain[lane];
                        b = b * q_gain[half + lane];
                    } else {
                        a = a * k_gain[lane];
                        b = b * k_gain[half + lane];
                    }
                }
                let low = a * cosine - b * sine;
                let high = b * cosine + a * sine;
                if head < heads {
                    if lane < half {
                        let to = (row * heads as usize + head as usize) * width + lane;
                        queries[to] = Vector::cast_from(low);
                        queries[to + half] = Vector::cast_from(high);
                    }
                } else {
                    let place = (number * kv_heads + head - heads) as usize;
                    let offset = (position % page) as usize;
                    if comptime!(codes) {
                        let start = place * comptime!(page_words(dim as usize));
                        write_key(
                            low,
                            high,
                            keys,
                            start,
                            offset,
                            faults,
                            row,
                            layer,
                            comptime!(dim as usize),
                        );
                    } else if lane < half {
                        let base = place * comptime!((page * dim) as usize);
                        let to = base + key_at(offset, 2 * lane, comptime!(dim as usize));
                        keys[to / 2] = u32::reinterpret(Two::<bf16>::cast_from(low));
                        let to = base + key_at(offset, 2 * (half + lane), comptime!(dim as usize));
                        keys[to / 2] = u32::reinterpret(Two::<bf16>::cast_from(high));
                    }
                }
            }
        }
    } else {
        let task = task - rows * parts;
        let first = task / kv_heads * together;
        let head = task % kv_heads;
        if first < rows {
            // All places are found before anything depends on one of them, and all values are
            // read before any is written: one after the other takes several times as long.
            let mut places = Array::<u32>::new(comptime!(together as usize));
            let mut offsets = Array::<u32>::new(comptime!(together as usize));
            #[unroll]
            for i in 0..together {
                let row = min(first + i, rows - 1) as usize;
                let position = positions[row];
                let number = pages[(slots[row] * page_stride + position / page) as usize];
                places[i as usize] = number * kv_heads + head;
                offsets[i as usize] = position % page;
            }
            let mut follow = false;
            if comptime!(together == TOGETHER) {
                let last = comptime!(TOGETHER as usize - 1);
                follow = first + TOGETHER <= rows
                    && offsets[0usize] % TOGETHER == 0
                    && offsets[last] == offsets[0usize] + TOGETHER - 1
                    && places[last] == places[0usize];
            }
            if comptime!(codes) {
                write_values::<P, V, N>(
                    qkv,
                    &places,
                    &offsets,
                    values,
                    value_chunks,
                    value_words,
                    faults,
                    rows,
                    layer,
                    first,
                    head,
                    follow,
                    heads,
                    kv_heads,
                    comptime!(dim as usize),
                    sums,
                    together,
                );
            } else {
                let mut at = lane;
                while at < width {
                    let mut chunks = Sequence::<Array<bf16>>::new();
                    chunks.push(Array::new(comptime!(together as usize)));
                    chunks.push(Array::new(comptime!(together as usize)));
                    let mut read = Array::<Two<f32>>::new(comptime!(together as usize));
                    #[unroll]
                    for i in 0..together {
                        let row = min(first + i, rows - 1);
                        let from = (row * all + normed + head) as usize * width + at;
                        read[i as usize] = result(qkv, from, sums);
                    }
                    #[unroll]
                    for i in 0..together {
                        let row = min(first + i, rows - 1) as usize;
                        #[unroll]
                        for side in 0..2usize {
                            let mut value = read[i as usize].extract(side);
                            if value - value != 0.0f32 {
                                value = 0.0f32;
                                if faults[row] == NONE {
                                    faults[row] = layer;
                                }
                            }
                            chunks.index_mut(side)[i as usize] = bf16::cast_from(value);
                        }
                    }
                    if follow {
                        let base = places[0usize] as usize * comptime!((page * dim) as usize);
                        #[unroll]
                        for side in 0..2usize {
                            let to = base
                                + value_at(offsets[0usize] as usize, 2 * at + side, comptime!(dim as usize));
                            let mut chunk = Vector::<u32, N>::zeroed();
                            #[unroll]
                            for i in 0..comptime!(together as usize / 2) {
                                let mut both = Two::<bf16>::empty();
                                both.insert(0usize, chunks.index(side)[comptime!(2 * i)]);
                                both.insert(1usize, chunks.index(side)[comptime!(2 * i + 1)]);
                                chunk.insert(i, u32::reinterpret(both));
                            }
                            value_chunks[to / 8] = chunk;
                        }
                    }
                    if !follow {
                        #[unroll]
                        for i in 0..together {
                            if first + i < rows {
                                let base = places[i as usize] as usize * comptime!((page * dim) as usize);
                                #[unroll]
                                for side in 0..2usize {
                                    let to = value_at(
                                        offsets[i as usize] as usize,
                                        2 * at + side,
                                        comptime!(dim as usize),
                                    );
                                    values[base + to] = V::cast_from(chunks.index(side)[i as usize]);
                                }
                            }
                        }
                    }
                    at += 32;
                }
            }
        }
    }
}

/// Zeroes all of `out`.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn clear(out: &mut [Vector<u32, Const<4>>]) {
    let mut at = ABSOLUTE_POS;
    while at < out.len() {
        out[at] = Vector::zeroed();
        at += CUBE_COUNT * CUBE_DIM as usize;
    }
}

/// `out[i] = from[index[i]]`, rows of `width` vectors; one cube a row.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn take_rows<E: Scalar>(
    from: &[Vector<E, Const<8>>],
    index: &[u32],
    out: &mut [Vector<E, Const<8>>],
    #[comptime] width: usize,
) {
    let row = CUBE_POS_X as usize;
    let source = index[row] as usize * width;
    let mut at = UNIT_POS as usize;
    while at < width {
        out[row * width + at] = from[source + at];
        at += CUBE_DIM as usize;
    }
}

/// `out[i] = from[index[i]]` of single numbers.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn take(from: &[u32], index: &[u32], out: &mut [u32]) {
    if ABSOLUTE_POS < index.len() {
        out[ABSOLUTE_POS] = from[index[ABSOLUTE_POS] as usize];
    }
}
