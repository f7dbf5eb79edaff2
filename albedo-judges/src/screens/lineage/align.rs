//! Brings a model's projections into the anchor's arrangement.
//!
//! Everything here is *equivariant*: a model and any function-preserving
//! disguise of it come to the same result, up to rounding, because each freedom
//! is removed by a rule that only looks at what the freedom leaves unchanged or
//! at the best fit to the same anchor. It is applied to every model alike,
//! disguised or not. `docs/screens.md` has the mathematics.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::matrix::{
    Matrix, cosine_of_units, dot, inverse, least_squares, nearest_rotation, norm, scale, transposed_product,
};
use super::network::Network;
use super::project::{Channels, Layer, Projected};

/// Rows of this cosine with the anchor's row of the same place stay there.
const SAME_PLACE: f64 = 0.9;
/// Rows of at least this cosine are matched to one another. Unrelated rows in
/// 64 buckets: 9728 of them reach 0.5 about once in 700 layers (normal tail).
const MATCH: f64 = 0.6;

/// What had to be undone to bring a model into the anchor's arrangement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Undone {
    /// Residual channels that lie elsewhere than the anchor's.
    pub channels_moved: usize,
    /// Neurons that lie elsewhere, over all layers.
    pub neurons_moved: usize,
    /// Query heads that lie elsewhere, over all layers.
    pub heads_moved: usize,
    /// Channels that resemble none of the anchor's.
    pub channels_unmatched: usize,
    /// Neurons that resemble none of the anchor's.
    pub neurons_unmatched: usize,
    /// Heads that resemble none of the anchor's.
    pub heads_unmatched: usize,
    /// Whether the residual stream was turned as a whole, or parts of it: channels were
    /// mixed with one another, which training never does.
    #[serde(default)]
    pub rotated: bool,
    /// Rows of the embedding's first tokens whose size is not half to twice the anchor's.
    #[serde(default)]
    pub rows_apart: usize,
}

impl Undone {
    /// Whether anything lay elsewhere.
    pub fn is_rearranged(&self) -> bool {
        self.channels_moved + self.neurons_moved + self.heads_moved > 0 || self.rotated
    }
}

/// The first rows of a model's embedding beside the anchor's: the vocabulary is fixed, so
/// that they tell the residual stream's scale and how it was turned.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) own: &'a Matrix,
    pub(crate) anchor: &'a Matrix,
}

impl Rows<'_> {
    fn sizes(&self) -> impl Iterator<Item = (f64, f64)> {
        (0..self.own.rows()).map(|row| (norm(self.own.row(row)), norm(self.anchor.row(row))))
    }

    /// The factor of the residual stream, which a model may carry at any scale: the median
    /// over the rows of the anchor's size beside the model's, since rows that no prompt uses
    /// may be anything. Within rounding of 1 it is 1.
    pub(crate) fn scale(&self) -> f64 {
        let factors = self.sizes().filter(|&(own, anchor)| own > 0.0 && anchor > 0.0);
        let mut factors: Vec<f64> = factors.map(|(own, anchor)| anchor / own).collect();
        factors.sort_by(f64::total_cmp);
        match factors.get(factors.len() / 2) {
            Some(&factor) if factor.is_finite() && (factor - 1.0).abs() > ROUNDED => factor,
            _ => 1.0,
        }
    }

    /// Rows of another size than the anchor's, at `scale`.
    pub(crate) fn apart(&self, scale: f64) -> usize {
        self.sizes().filter(|&(own, anchor)| !(0.5 * anchor..=2.0 * anchor).contains(&(scale * own))).count()
    }

    /// The rotation that brings the model's channels nearest to the anchor's, own channels
    /// first, if the residual stream was turned; `channels` is how far matching came.
    ///
    /// Turning leaves the distances of rows as they are, whatever it does to the rows, and
    /// training moves both. Where distances moved much less than rows that move at random
    /// would have it, the orthogonal Procrustes problem is solved (Schönemann, *A generalized
    /// solution of the orthogonal Procrustes problem*, 1966).
    pub(crate) fn rotation(&self, channels: &Channels, scale: f64) -> Option<Matrix> {
        let hidden = self.own.columns;
        if self.own.rows() < hidden {
            return None;
        }
        let matched = |row: usize| -> Vec<f32> {
            let own = self.own.row(row);
            let signs = channels.order.iter().zip(&channels.signs);
            signs.map(|(&channel, sign)| own[channel] * sign * scale as f32).collect()
        };
        let off = |turned: &(dyn Fn(usize) -> Vec<f32> + Sync)| -> f64 {
            let rows = (0..self.own.rows()).into_par_iter().map(|row| {
                let anchor = self.anchor.row(row);
                let size = dot(anchor, anchor);
                let off: f64 = turned(row).iter().zip(anchor).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                // Rows that are apart would outweigh all others.
                (off.min(size), size)
            });
            let (off, size) = rows.reduce(|| (0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
            off / size
        };
        let moved = off(&matched);
        if !(moved > ROUNDED * ROUNDED && self.distances_moved(scale) < STILL * 4.0 * moved / hidden as f64) {
            return None;
        }
        let rotation = nearest_rotation(&transposed_product(self.own, self.anchor), hidden)?;
        let rotation =
            Matrix { columns: hidden, values: rotation.into_iter().map(|value| value as f32).collect() };
        let turned = |row: usize| -> Vec<f32> {
            let mut turned = vec![0.0; hidden];
            for (&own, line) in self.own.row(row).iter().zip(rotation.values.chunks_exact(hidden)) {
                let own = own * scale as f32;
                turned.iter_mut().zip(line).for_each(|(sum, value)| *sum += own * value);
            }
            turned
        };
        (off(&turned) < EXPLAINED * moved).then_some(rotation)
    }

    /// How far the squared distances of pairs of rows are from the anchor's: the median of
    /// the squares of their relative changes over its value for a normal distribution.
    fn distances_moved(&self, scale: f64) -> f64 {
        let count = self.own.rows();
        let distance = |rows: &Matrix, one: usize, other: usize| -> f64 {
            let pairs = rows.row(one).iter().zip(rows.row(other));
            pairs.map(|(one, other)| (f64::from(*one) - f64::from(*other)).powi(2)).sum()
        };
        let steps = [1, 7, 31, 101].map(|step| step % count);
        let mut moved: Vec<f64> = steps
            .into_par_iter()
            .flat_map_iter(|step| {
                (0..count).filter_map(move |row| {
                    let other = (row + step) % count;
                    let anchor = distance(self.anchor, row, other);
                    let own = distance(self.own, row, other) * scale * scale;
                    (anchor > 0.0).then(|| (own / anchor - 1.0).powi(2))
                })
            })
            .collect();
        moved.sort_by(f64::total_cmp);
        // The median of a squared standard normal number.
        moved.get(moved.len() / 2).map_or(f64::INFINITY, |median| median / 0.4549)
    }
}

/// Relative change of weights that were rounded to bf16 again, at most.
const ROUNDED: f64 = 3e-3;
/// A stream may have been turned if distances moved by less than this share of what they
/// move where rows move at random.
const STILL: f64 = 0.4;
/// The rotation that was found has to leave less than this share of the squared change.
const EXPLAINED: f64 = 0.5;

/// Where the channels of `own` signatures lie among the anchor's.
pub(crate) fn channels(own: &Matrix, anchor: &Matrix) -> Channels {
    let (units, anchors) = (own.units(), anchor.units());
    let alike = |a: usize, b: usize| cosine_of_units(units.row(b), anchors.row(a)).abs();
    let matching = Matching::find(own.rows(), &alike);
    let signs = matching.order.iter().enumerate().map(|(anchors, &own_channel)| {
        if dot(own.row(own_channel), anchor.row(anchors)) < 0.0 { -1.0 } else { 1.0 }
    });
    Channels { signs: signs.collect(), matched: matching.matched, order: matching.order, rotation: None }
}

/// The channels of the anchor itself.
pub(crate) fn straight(hidden: usize) -> Channels {
    Channels { order: (0..hidden).collect(), signs: vec![1.0; hidden], matched: hidden, rotation: None }
}

/// The anchor's projections with every scale in its normal form.
pub(crate) fn normal(projected: &Projected) -> Vec<Layer> {
    projected.layers.par_iter().map(|layer| normalized(layer, &projected.network, 1.0)).collect()
}

/// The layers of `own` as they lie in `anchor`, which is in normal form.
pub(crate) fn layers(own: &Projected, anchor: &[Layer], stream: f64) -> (Vec<Layer>, Undone) {
    let aligned: Vec<_> = own
        .layers
        .par_iter()
        .zip(anchor)
        .map(|(layer, anchor)| {
            let mut undone = Undone::default();
            let layer = normalized(layer, &own.network, stream);
            let layer = feed_forward(layer, anchor, &mut undone);
            (attention(layer, anchor, &own.network, &mut undone), undone)
        })
        .collect();
    let order = &own.channels.order;
    // A stream that was turned has no channels of its own.
    let mut undone = Undone { rotated: own.channels.rotation.is_some(), ..Undone::default() };
    if !undone.rotated {
        undone.channels_moved = order.iter().enumerate().filter(|&(anchors, &own)| anchors != own).count();
        undone.channels_unmatched = order.len() - own.channels.matched;
    }
    for (_, layer) in &aligned {
        undone.neurons_moved += layer.neurons_moved;
        undone.neurons_unmatched += layer.neurons_unmatched;
        undone.heads_moved += layer.heads_moved;
        undone.heads_unmatched += layer.heads_unmatched;
    }
    (aligned.into_iter().map(|(layer, _)| layer).collect(), undone)
}

/// Scales that leave the function unchanged, in their normal form: each query
/// and key head has norm 1 before its gain (RMS normalisation follows it); in
/// each rotary plane queries and keys weigh the same; each neuron's way in and
/// way out have the same norm.
fn normalized(layer: &Layer, network: &Network, stream: f64) -> Layer {
    let mut layer = layer.clone();
    let d = network.head_dim;
    for (rows, gains) in [(&mut layer.query, &layer.query_norm), (&mut layer.key, &layer.key_norm)] {
        let width = rows.columns;
        for head in rows.values.chunks_exact_mut(d * width) {
            let by = reciprocal(norm(head));
            for (row, &gain) in head.chunks_exact_mut(width).zip(gains) {
                scale(row, by * f64::from(gain));
            }
        }
    }
    for plane in 0..d / 2 {
        let weight = |rows: &Matrix| -> f64 {
            let heads = rows.rows() / d;
            let squares = (0..heads).map(|head| {
                let row = |at| rows.row(head * d + at);
                dot(row(plane), row(plane)) + dot(row(plane + d / 2), row(plane + d / 2))
            });
            squares.sum::<f64>().sqrt()
        };
        let (queries, keys) = (weight(&layer.query), weight(&layer.key));
        let by = if queries > 0.0 && keys > 0.0 { (keys / queries).sqrt() } else { 1.0 };
        for (rows, by) in [(&mut layer.query, by), (&mut layer.key, 1.0 / by)] {
            for head in 0..rows.rows() / d {
                scale(rows.row_mut(head * d + plane), by);
                scale(rows.row_mut(head * d + plane + d / 2), by);
            }
        }
    }
    scale(&mut layer.output.values, stream);
    scale(&mut layer.down.values, stream);
    for neuron in 0..network.neurons {
        let (into, out) = (norm(layer.up.row(neuron)), layer.down.column_norm(neuron));
        if into > 0.0 && out > 0.0 {
            let by = (out / into).sqrt();
            scale(layer.up.row_mut(neuron), by);
            scale_column(&mut layer.down, neuron, 1.0 / by);
        }
    }
    layer
}

/// Neurons in the anchor's order, each with the anchor's sign.
fn feed_forward(mut layer: Layer, anchor: &Layer, undone: &mut Undone) -> Layer {
    let neurons = layer.gate.rows();
    let (units, anchors) = (layer.gate.units(), anchor.gate.units());
    let matching = Matching::find(neurons, &|a, b| cosine_of_units(units.row(b), anchors.row(a)));
    undone.neurons_moved += matching.moved();
    undone.neurons_unmatched += neurons - matching.matched;
    layer.gate = take_rows(&layer.gate, &matching.order);
    layer.up = take_rows(&layer.up, &matching.order);
    layer.down = take_columns(&layer.down, &matching.order);
    for neuron in 0..neurons {
        let out: f64 = (0..layer.down.rows())
            .map(|row| f64::from(layer.down.row(row)[neuron]) * f64::from(anchor.down.row(row)[neuron]))
            .sum();
        if dot(layer.up.row(neuron), anchor.up.row(neuron)) + out < 0.0 {
            scale(layer.up.row_mut(neuron), -1.0);
            scale_column(&mut layer.down, neuron, -1.0);
        }
    }
    layer
}

/// Heads in the anchor's order, their rotary planes turned and their values
/// mixed as the anchor's.
fn attention(mut layer: Layer, anchor: &Layer, network: &Network, undone: &mut Undone) -> Layer {
    let (d, groups) = (network.head_dim, network.groups);
    let each = network.heads / groups;
    let alike = |rows: &Matrix, own: usize, anchors: &Matrix, other: usize| -> f64 {
        let planes: f64 = (0..d / 2).map(|plane| modulus(turn(rows, own, anchors, other, plane, d))).sum();
        let size =
            |rows: &Matrix, head: usize| norm(&rows.values[head * d * rows.columns..][..d * rows.columns]);
        planes * reciprocal(size(rows, own) * size(anchors, other))
    };
    let by_group = Matching::find(groups, &|a, b| alike(&layer.key, b, &anchor.key, a));
    let mut heads = Vec::new();
    let mut matched = 0;
    for (anchors, &own) in by_group.order.iter().enumerate() {
        let within = Matching::find(each, &|a, b| {
            alike(&layer.query, own * each + b, &anchor.query, anchors * each + a)
        });
        matched += within.matched;
        heads.extend(within.order.iter().map(|&head| own * each + head));
    }
    undone.heads_moved += heads.iter().enumerate().filter(|&(anchors, &own)| anchors != own).count();
    undone.heads_unmatched += network.heads - matched;
    let rows = |order: &[usize]| -> Vec<usize> {
        order.iter().flat_map(|&head| (0..d).map(move |at| head * d + at)).collect()
    };
    let (of_heads, of_groups) = (rows(&heads), rows(&by_group.order));
    layer.query = take_rows(&layer.query, &of_heads);
    layer.key = take_rows(&layer.key, &of_groups);
    layer.value = take_rows(&layer.value, &of_groups);
    layer.output = take_columns(&layer.output, &of_heads);
    let slow = network.first_slow_plane();
    for group in 0..groups {
        for plane in 0..slow {
            let (mut re, mut im) = turn(&layer.key, group, &anchor.key, group, plane, d);
            for head in group * each..(group + 1) * each {
                let (head_re, head_im) = turn(&layer.query, head, &anchor.query, head, plane, d);
                re += head_re;
                im += head_im;
            }
            let length = re.hypot(im);
            if length > 0.0 {
                let (cos, sin) = (re / length, im / length);
                rotate(&mut layer.key, group, plane, d, cos, sin);
                for head in group * each..(group + 1) * each {
                    rotate(&mut layer.query, head, plane, d, cos, sin);
                }
            }
        }
        slow_planes(&mut layer, anchor, group, each, [slow, d]);
        values(&mut layer, anchor, group, each, d);
    }
    layer
}

/// The rotary planes of a group from `slow` on hardly turn, so that any invertible matrix
/// may stand between the keys of these planes and the queries that meet them: the one that
/// brings the keys nearest to the anchor's, or the nearest rotation of both where the short
/// rows are too short for it.
fn slow_planes(layer: &mut Layer, anchor: &Layer, group: usize, each: usize, [slow, d]: [usize; 2]) {
    let planes: Vec<usize> = (slow..d / 2).chain(slow + d / 2..d).collect();
    let n = planes.len();
    if n == 0 {
        return;
    }
    let at = |head: usize| planes.iter().map(move |plane| head * d + plane);
    let rows = |matrix: &Matrix, head: usize| -> Vec<Vec<f32>> {
        at(head).map(|row| matrix.row(row).to_vec()).collect()
    };
    let (own, anchors) = (rows(&layer.key, group), rows(&anchor.key, group));
    let heads = group * each..(group + 1) * each;
    let mixes = if layer.key.columns >= 2 * n {
        let keys = least_squares(&lines(&own), &lines(&anchors));
        keys.and_then(|keys| Some((inverse(&keys, n)?, keys))).map(|(inverse, keys)| {
            let queries = (0..n * n).map(|place| inverse[place % n * n + place / n]).collect();
            [keys, queries]
        })
    } else {
        let mut product = vec![0.0; n * n];
        let mut add = |own: &[Vec<f32>], anchors: &[Vec<f32>]| {
            for (sum, place) in product.iter_mut().zip(0..) {
                *sum += dot(&anchors[place / n], &own[place % n]);
            }
        };
        add(&own, &anchors);
        for head in heads.clone() {
            add(&rows(&layer.query, head), &rows(&anchor.query, head));
        }
        nearest_rotation(&product, n).map(|turn| [turn.clone(), turn])
    };
    let Some([keys, queries]) = mixes else { return };
    let mix = |matrix: &mut Matrix, head: usize, by: &[f64]| {
        let mixed = mixed(&lines(&rows(matrix, head)), by);
        for (row, values) in at(head).zip(mixed) {
            matrix.row_mut(row).copy_from_slice(&values);
        }
    };
    mix(&mut layer.key, group, &keys);
    for head in heads {
        mix(&mut layer.query, head, &queries);
    }
}

fn lines(rows: &[Vec<f32>]) -> Vec<&[f32]> {
    rows.iter().map(Vec::as_slice).collect()
}

/// `by · rows`, for a square matrix `by`.
fn mixed(rows: &[&[f32]], by: &[f64]) -> Vec<Vec<f32>> {
    let width = rows.first().map_or(0, |row| row.len());
    let line = |by: &[f64]| {
        let mut sums = vec![0.0_f64; width];
        for (row, factor) in rows.iter().zip(by) {
            sums.iter_mut().zip(*row).for_each(|(sum, &value)| *sum += factor * f64::from(value));
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    };
    by.chunks_exact(rows.len().max(1)).map(line).collect()
}

/// Any invertible matrix may stand between a group's values and the outputs
/// that read them: the one that brings the values nearest to the anchor's.
fn values(layer: &mut Layer, anchor: &Layer, group: usize, each: usize, d: usize) {
    let rows = group * d..(group + 1) * d;
    let own: Vec<&[f32]> = rows.clone().map(|row| layer.value.row(row)).collect();
    let anchors: Vec<&[f32]> = rows.clone().map(|row| anchor.value.row(row)).collect();
    let Some(mix) = least_squares(&own, &anchors) else { return };
    let Some(back) = inverse(&mix, d) else { return };
    let width = layer.value.columns;
    let mixed = mixed(&own, &mix).concat();
    layer.value.values[rows.start * width..rows.end * width].copy_from_slice(&mixed);
    let back: Vec<f32> = back.into_iter().map(|value| value as f32).collect();
    for head in group * each..(group + 1) * each {
        for row in 0..layer.output.rows() {
            let values = &mut layer.output.row_mut(row)[head * d..(head + 1) * d];
            let mut mixed = vec![0.0_f32; d];
            for (&value, back) in values.iter().zip(back.chunks_exact(d)) {
                for (out, factor) in mixed.iter_mut().zip(back) {
                    *out += value * factor;
                }
            }
            values.copy_from_slice(&mixed);
        }
    }
}

/// The turn of a rotary plane that brings `own` head's two rows nearest to the
/// anchor's, times how far they agree: ⟨own, anchor⟩ with the two rows of a
/// plane as real and imaginary part.
fn turn(own: &Matrix, head: usize, anchor: &Matrix, other: usize, plane: usize, d: usize) -> (f64, f64) {
    let (a, b) = (own.row(head * d + plane), own.row(head * d + plane + d / 2));
    let (x, y) = (anchor.row(other * d + plane), anchor.row(other * d + plane + d / 2));
    (dot(a, x) + dot(b, y), dot(a, y) - dot(b, x))
}

fn modulus((re, im): (f64, f64)) -> f64 {
    re.hypot(im)
}

fn rotate(rows: &mut Matrix, head: usize, plane: usize, d: usize, cos: f64, sin: f64) {
    let width = rows.columns;
    let (first, second) = ((head * d + plane) * width, (head * d + plane + d / 2) * width);
    let (cos, sin) = (cos as f32, sin as f32);
    for column in 0..width {
        let (a, b) = (rows.values[first + column], rows.values[second + column]);
        rows.values[first + column] = cos * a - sin * b;
        rows.values[second + column] = sin * a + cos * b;
    }
}

/// Which of a model's rows stands for which of the anchor's.
#[derive(Debug)]
struct Matching {
    /// For each of the anchor's rows, the model's.
    order: Vec<usize>,
    /// Rows that were recognised.
    matched: usize,
}

impl Matching {
    /// Matches `rows` rows; `alike(anchor, own)` is 1 for equal ones. Rows that
    /// are recognised where they stand stay; the others take the most alike
    /// first; what is left keeps its order.
    fn find(rows: usize, alike: &(dyn Fn(usize, usize) -> f64 + Sync)) -> Self {
        let mut order = vec![usize::MAX; rows];
        let mut taken = vec![false; rows];
        let stays: Vec<bool> = (0..rows).into_par_iter().map(|row| alike(row, row) >= SAME_PLACE).collect();
        for row in (0..rows).filter(|&row| stays[row]) {
            order[row] = row;
            taken[row] = true;
        }
        let left: Vec<usize> = (0..rows).filter(|&row| !stays[row]).collect();
        let mut matched = rows - left.len();
        let mut pairs: Vec<(f64, usize, usize)> = left
            .par_iter()
            .filter_map(|&anchors| {
                let best = left.iter().map(|&own| (alike(anchors, own), own));
                let (similarity, own) = best.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))?;
                (similarity >= MATCH).then_some((similarity, anchors, own))
            })
            .collect();
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, anchors, own) in pairs {
            if !taken[own] {
                order[anchors] = own;
                taken[own] = true;
                matched += 1;
            }
        }
        let mut free: Vec<usize> = (0..rows).filter(|&row| !taken[row]).rev().collect();
        for place in order.iter_mut().filter(|place| **place == usize::MAX) {
            // As many rows are free as places are.
            *place = free.pop().unwrap_or_default();
        }
        Self { order, matched }
    }

    fn moved(&self) -> usize {
        self.order.iter().enumerate().filter(|&(anchors, &own)| anchors != own).count()
    }
}

fn reciprocal(value: f64) -> f64 {
    if value > 0.0 && value.is_finite() { 1.0 / value } else { 0.0 }
}

fn take_rows(matrix: &Matrix, order: &[usize]) -> Matrix {
    let values = order.iter().flat_map(|&row| matrix.row(row).iter().copied()).collect();
    Matrix { columns: matrix.columns, values }
}

fn take_columns(matrix: &Matrix, order: &[usize]) -> Matrix {
    let take = |row: usize| order.iter().map(move |&column| matrix.row(row)[column]);
    Matrix { columns: order.len(), values: (0..matrix.rows()).flat_map(take).collect() }
}

fn scale_column(matrix: &mut Matrix, column: usize, by: f64) {
    for row in 0..matrix.rows() {
        let value = &mut matrix.row_mut(row)[column];
        *value = (f64::from(*value) * by) as f32;
    }
}
