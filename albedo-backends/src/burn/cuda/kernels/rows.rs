//! What goes row by row: embedding, norms, rotation, activation.

#![expect(
    clippy::used_underscore_binding,
    reason = "the kernel macro reads the type of a product by its name"
)]

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use half::bf16;

use super::attention::{key_at, value_at};
use super::math::exp;
use super::product::result;

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

/// Adds `delta`, a product in `delta_shares` shares (see [`result`]), to `residual`
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
    #[comptime] delta_shares: usize,
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
            if comptime!(delta_shares > 0) {
                x += result(delta, first + at, delta_shares);
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

/// Splits joined `[q | k | v]` rows, a product in `shares` shares, normalises the
/// heads of q and k, rotates both to the row's position, writes k and v into the
/// row's page and q to `queries`. One plane a row and head.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn qk_norm_rope_write_kv<P: Float>(
    qkv: &[Vector<P, Const<1>>],
    q_gain: &[f32],
    k_gain: &[f32],
    cosines: &[f32],
    sines: &[f32],
    positions: &[u32],
    slots: &[u32],
    pages: &[u32],
    queries: &mut [bf16],
    keys: &mut [bf16],
    values: &mut [bf16],
    eps: f32,
    page_stride: u32,
    rows: u32,
    #[comptime] heads: u32,
    #[comptime] kv_heads: u32,
    #[comptime] dim: u32,
    #[comptime] page: u32,
    #[comptime] shares: usize,
    #[define(P)] _element: ElemType,
) {
    let all = comptime!(heads + 2 * kv_heads);
    let half = comptime!(dim / 2);
    let lane = UNIT_POS_PLANE;
    let task = CUBE_POS_X * (CUBE_DIM / 32) + UNIT_POS / 32;
    let row = task / all;
    if row < rows {
        let head = task % all;
        let position = positions[row as usize];
        let from = (row as usize * all as usize + head as usize) * dim as usize;
        let slot = slots[row as usize];
        let place = pages[(slot * page_stride + position / page) as usize] as usize;
        let offset = (position % page) as usize;
        if head < comptime!(heads + kv_heads) {
            let rounds = comptime!(half.div_ceil(32));
            let mut first = Array::<f32>::new(rounds as usize);
            let mut second = Array::<f32>::new(rounds as usize);
            let mut squares = 0.0f32;
            #[unroll]
            for round in 0..rounds {
                let at = round * 32 + lane;
                let mut a = 0.0f32;
                let mut b = 0.0f32;
                if at < half {
                    a = result(qkv, from + at as usize, shares).extract(0usize);
                    b = result(qkv, from + (at + half) as usize, shares).extract(0usize);
                }
                first[round as usize] = a;
                second[round as usize] = b;
                squares += a * a + b * b;
            }
            let scale = (plane_sum(squares) / dim as f32 + eps).inverse_sqrt();
            #[unroll]
            for round in 0..rounds {
                let at = round * 32 + lane;
                if at < half {
                    let angle = position as usize * half as usize + at as usize;
                    let (cosine, sine) = (cosines[angle], sines[angle]);
                    let mut gain_a = q_gain[at as usize];
                    let mut gain_b = q_gain[(at + half) as usize];
                    if head >= heads {
                        gain_a = k_gain[at as usize];
                        gain_b = k_gain[(at + half) as usize];
                    }
                    let a = first[round as usize] * scale * gain_a;
                    let b = second[round as usize] * scale * gain_b;
                    let x = bf16::cast_from(a * cosine - b * sine);
                    let y = bf16::cast_from(b * cosine + a * sine);
                    if head < heads {
                        let to = (row as usize * heads as usize + head as usize) * dim as usize + at as usize;
                        queries[to] = x;
                        queries[to + half as usize] = y;
                    } else {
                        let kv_head = (head - heads) as usize;
                        let base = (place * kv_heads as usize + kv_head) * comptime!((page * dim) as usize);
                        keys[base + key_at(offset, at as usize, comptime!(dim as usize))] = x;
                        keys[base + key_at(offset, (at + half) as usize, comptime!(dim as usize))] = y;
                    }
                }
            }
        } else {
            let kv_head = (head - comptime!(heads + kv_heads)) as usize;
            let base = (place * kv_heads as usize + kv_head) * comptime!((page * dim) as usize);
            let mut at = lane;
            while at < dim {
                let value = result(qkv, from + at as usize, shares).extract(0usize);
                values[base + value_at(offset, at as usize, comptime!(dim as usize))] =
                    bf16::cast_from(value);
                at += 32;
            }
        }
    }
}

/// `silu(gate) · up` of joined `[gate | up]` rows, a product in `shares` shares;
/// `width` vectors a result row.
#[cube(launch_unchecked)]
pub(in crate::burn::cuda) fn silu_mul<P: Float>(
    gate_up: &[Vector<P, Const<8>>],
    out: &mut [Vector<bf16, Const<8>>],
    #[comptime] width: usize,
    #[comptime] shares: usize,
    #[define(P)] _element: ElemType,
) {
    if ABSOLUTE_POS < out.len() {
        let row = ABSOLUTE_POS / width;
        let at = ABSOLUTE_POS % width;
        let gate = result(gate_up, 2 * row * width + at, shares);
        let up = result(gate_up, (2 * row + 1) * width + at, shares);
        let mut activated = Vector::<f32, Const<8>>::zeroed();
        #[unroll]
        for i in 0..8usize {
            let x = gate.extract(i);
            activated.insert(i, x / (1.0f32 + exp(-x)) * up.extract(i));
        }
        out[ABSOLUTE_POS] = Vector::cast_from(activated);
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
