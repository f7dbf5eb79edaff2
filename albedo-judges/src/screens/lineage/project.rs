//! One pass over a checkpoint makes one-sided projections of it: every weight
//! row that *reads* the residual stream is projected along its channels, every
//! matrix that *writes* it along its rows. What rows and inner dimensions mean
//! (neurons, heads) stays visible, so that they can be aligned afterwards.

use std::collections::HashMap;

use albedo_core::checkpoint::Segment;
use albedo_core::safetensors::Dtype;
use albedo_core::{Error, ErrorKind, Result};
use rayon::prelude::*;

use super::hash::{Purpose, bucket, sign};
use super::matrix::Matrix;
use super::network::{Network, Part};
use crate::screens::arithmetic::to_f32;

/// Buckets of the embedding's rows; at least the side of a sketch.
const EMBEDDING: usize = 32;
/// Numbers that the projections of a model may take: 256 MiB of `f32`.
const MOST: usize = 1 << 26;
/// Rows of the embedding that channels are matched by, and their projections.
pub(crate) const SIGNATURE_ROWS: usize = 1024;
const SIGNATURE: usize = 64;

/// Rows of the embedding that are read before the pass: twice as many as channels, which a
/// rotation of the channels is found by, and enough to match them.
pub(crate) fn early_rows(network: &Network) -> usize {
    SIGNATURE_ROWS.max(2 * network.hidden).min(network.vocabulary)
}
/// Columns of a writing matrix that are worked on together.
const COLUMNS: usize = 512;

/// The projections of a layer. Rows are the tensor's own rows; those of
/// `output` and `down` are buckets of residual channels, their columns the
/// tensor's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    pub(crate) query: Matrix,
    pub(crate) key: Matrix,
    pub(crate) value: Matrix,
    pub(crate) output: Matrix,
    pub(crate) gate: Matrix,
    pub(crate) up: Matrix,
    pub(crate) down: Matrix,
    pub(crate) query_norm: Vec<f32>,
    pub(crate) key_norm: Vec<f32>,
}

impl Layer {
    /// The matrices, and whether they write the residual stream, so that their
    /// buckets are rows.
    pub(crate) fn parts(&self) -> [(&Matrix, bool); 7] {
        [
            (&self.query, false),
            (&self.key, false),
            (&self.value, false),
            (&self.gate, false),
            (&self.up, false),
            (&self.output, true),
            (&self.down, true),
        ]
    }
}

/// The projections of a model.
#[derive(Debug, Clone)]
pub(crate) struct Projected {
    pub(crate) network: Network,
    pub(crate) layers: Vec<Layer>,
    /// `side × side` each. The head has the gains of the last norm folded in, and is the
    /// embedding where it is tied to it.
    pub(crate) embedding: Matrix,
    pub(crate) head: Matrix,
    pub(crate) channels: Channels,
}

/// How the channels of the residual stream lie, compared with the anchor's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Channels {
    /// For each of the anchor's channels, the model's.
    pub(crate) order: Vec<usize>,
    /// Its sign there.
    pub(crate) signs: Vec<f32>,
    /// Channels that were recognised.
    pub(crate) matched: usize,
    /// Where the stream was turned: how much of each of the model's channels is in each of
    /// the anchor's, own channels first. It stands for `order` and `signs`.
    pub(crate) rotation: Option<Matrix>,
}

/// Short projections of the embedding's columns over the first rows of the
/// vocabulary, which is the same for every model; `rows` are those of its
/// embedding.
pub(crate) fn signatures(rows: &[f32], network: &Network) -> Matrix {
    let mut signatures = Matrix::zeros(network.hidden, SIGNATURE);
    for (row, values) in rows.chunks_exact(network.hidden).take(SIGNATURE_ROWS).enumerate() {
        let (bucket, sign) = bucket(Purpose::Signature, row as u64, SIGNATURE);
        for (channel, value) in values.iter().enumerate() {
            signatures.values[channel * SIGNATURE + bucket] += sign * value;
        }
    }
    signatures
}

/// The gains of a model's norms, which are folded into what reads behind them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gains {
    /// Of each layer: before attention and before the feed-forward part.
    pub(crate) layers: Vec<[Vec<f32>; 2]>,
    pub(crate) last: Vec<f32>,
}

/// Buckets of the residual stream's channels: more tell more of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Widths {
    /// For gates, which neurons are matched by.
    gate: usize,
    /// For the other matrices but the values.
    other: usize,
    /// For values, which are aligned by least squares: half as many again as a
    /// head has dimensions, at least.
    value: usize,
}

impl Widths {
    /// The widest that fit into [`MOST`].
    fn of(network: &Network) -> Self {
        let side = |part| network.shape(part)[0];
        let all = side(Part::Query)
            + side(Part::Key)
            + side(Part::Value)
            + 2 * network.neurons
            + network.shape(Part::Output)[1]
            + network.neurons;
        let fits = |width: &usize| network.layers.saturating_mul(all).saturating_mul(*width) <= MOST;
        let value = (network.head_dim * 3 / 2).next_multiple_of(64);
        match [256, 128].into_iter().find(fits) {
            Some(width) => Self { gate: width, other: width, value: value.max(width) },
            None => Self { gate: 64, other: 32, value },
        }
    }
}

/// Takes the projections of the segments that pass by.
#[derive(Debug)]
pub(crate) struct Projector {
    parts: HashMap<String, (usize, Part)>,
    projected: Projected,
    gains: Gains,
    /// For each of the model's channels, the anchor's.
    place: Vec<usize>,
    side: usize,
    /// The tensor being read, and how its columns are projected.
    current: Option<(String, Columns)>,
    /// The same for the head that is tied to the embedding.
    tied: Columns,
}

/// How the channels of a tensor's columns are projected.
#[derive(Debug)]
enum Columns {
    /// One factor for each of the anchor's channels.
    Straight(Vec<f32>),
    /// A row for each of the model's channels: its share in every bucket.
    Mixed(Matrix),
}

impl Projector {
    /// A projector for a model of `network` whose channels lie as `channels`
    /// says.
    pub(crate) fn new(network: Network, channels: Channels, gains: Gains, side: usize) -> Self {
        let parts = network.tensors().into_iter().map(|(name, layer, part)| (name, (layer, part))).collect();
        let mut place = vec![0; network.hidden];
        for (anchors, &own) in channels.order.iter().enumerate() {
            place[own] = anchors;
        }
        let widths = Widths::of(&network);
        let matrix = |part, width| Matrix::zeros(network.shape(part)[0], width);
        let layer = Layer {
            query: matrix(Part::Query, widths.other),
            key: matrix(Part::Key, widths.other),
            value: matrix(Part::Value, widths.value),
            output: Matrix::zeros(widths.other, network.shape(Part::Output)[1]),
            gate: matrix(Part::Gate, widths.gate),
            up: matrix(Part::Up, widths.other),
            down: Matrix::zeros(widths.other, network.neurons),
            query_norm: vec![1.0; network.head_dim],
            key_norm: vec![1.0; network.head_dim],
        };
        let square = Matrix::zeros(side, side);
        let projected = Projected {
            layers: vec![layer; network.layers],
            embedding: square.clone(),
            head: square,
            network,
            channels,
        };
        let tied = Columns::Straight(Vec::new());
        Self { parts, projected, gains, place, side, current: None, tied }
    }

    /// The projections of everything that was visited.
    pub(crate) fn finish(self) -> Projected {
        self.projected
    }

    /// Adds a segment.
    pub(crate) fn add(&mut self, segment: &Segment<'_>) -> Result<()> {
        let Some(&(layer, part)) = self.parts.get(segment.name) else { return Ok(()) };
        let [rows, columns] = self.projected.network.shape(part);
        let first = segment.start as usize / columns;
        if !segment.start.is_multiple_of(columns as u64) || first >= rows {
            return Err(Error::new(ErrorKind::Unsupported, "project the parameters", "a row is too long")
                .with("tensor", segment.name));
        }
        if self.current.as_ref().is_none_or(|(name, _)| name != segment.name) {
            self.current = Some((segment.name.to_owned(), self.columns(layer, part)));
            if part == Part::Embedding && self.projected.network.tied {
                self.tied = self.columns(layer, Part::Head);
            }
        }
        let Some((_, weights)) = &self.current else { return Ok(()) };
        let Channels { order, signs, rotation, .. } = &self.projected.channels;
        let straight = order.iter().enumerate().all(|(anchors, &own)| anchors == own);
        let order = (!straight).then_some(order);
        let reader = Reader { segment, columns, weights, order };
        let side = self.side;
        let by_row = |row| bucket(Purpose::Row, (first + row) as u64, side);
        match part {
            Part::Embedding => {
                reader.fold_rows(&mut self.projected.embedding, &by_row)?;
                if self.projected.network.tied {
                    let reader = Reader { weights: &self.tied, ..reader };
                    reader.fold_rows(&mut self.projected.head, &by_row)?;
                }
                return Ok(());
            }
            Part::Head => return reader.fold_rows(&mut self.projected.head, &by_row),
            _ => {}
        }
        let own = &mut self.projected.layers[layer];
        match part {
            Part::Query => reader.project(&mut own.query, first),
            Part::Key => reader.project(&mut own.key, first),
            Part::Value => reader.project(&mut own.value, first),
            Part::Gate => reader.project(&mut own.gate, first),
            Part::Up => reader.project(&mut own.up, first),
            Part::Output | Part::Down => {
                let target = if part == Part::Output { &mut own.output } else { &mut own.down };
                let buckets = target.rows();
                match rotation {
                    Some(rotation) => {
                        let shares = shares(rotation, &|_| 1.0, buckets);
                        reader.fold(target, &|row| {
                            let row = shares.row(first + row);
                            row.iter().enumerate().map(|(bucket, &share)| (bucket, share)).collect()
                        })
                    }
                    None => reader.fold(target, &|row| {
                        let anchors = self.place[first + row];
                        let sign = sign(Purpose::Channel, anchors as u64) * signs[anchors];
                        vec![(anchors % buckets, sign)]
                    }),
                }
            }
            Part::QueryNorm | Part::KeyNorm => {
                let target = if part == Part::QueryNorm { &mut own.query_norm } else { &mut own.key_norm };
                to_f32(segment.info.dtype, segment.bytes, target)
            }
            // The norms' gains are folded into what reads behind them; embedding and head are
            // done.
            Part::FinalNorm | Part::AttentionNorm | Part::FeedForwardNorm | Part::Embedding | Part::Head => {
                Ok(())
            }
        }
    }

    /// How the columns of `part` are projected: by each channel's sign in the projection,
    /// its sign or its shares beside the anchor's, and the norm gain before it, which is
    /// folded in.
    fn columns(&self, layer: usize, part: Part) -> Columns {
        let gain = match part {
            Part::Query | Part::Key | Part::Value => Some(&self.gains.layers[layer][0]),
            Part::Gate | Part::Up => Some(&self.gains.layers[layer][1]),
            Part::Head => Some(&self.gains.last),
            Part::Embedding => None,
            _ => return Columns::Straight(Vec::new()),
        };
        let gain = |own: usize| gain.map_or(1.0, |gain| gain[own]);
        let Channels { order, signs, rotation, .. } = &self.projected.channels;
        if let Some(rotation) = rotation {
            let layer = &self.projected.layers[layer];
            let width = match part {
                Part::Query => layer.query.columns,
                Part::Key => layer.key.columns,
                Part::Value => layer.value.columns,
                Part::Gate => layer.gate.columns,
                Part::Up => layer.up.columns,
                _ => EMBEDDING,
            };
            return Columns::Mixed(shares(rotation, &gain, width));
        }
        let factors =
            order.iter().zip(signs).enumerate().map(|(anchors, (&own, own_sign))| {
                gain(own) * own_sign * sign(Purpose::Channel, anchors as u64)
            });
        Columns::Straight(factors.collect())
    }
}

/// The shares of each of a model's channels, times its gain, in `buckets` of the anchor's.
fn shares(rotation: &Matrix, gain: &dyn Fn(usize) -> f32, buckets: usize) -> Matrix {
    let mut shares = Matrix::zeros(rotation.rows(), buckets);
    for own in 0..rotation.rows() {
        let gain = gain(own);
        for (anchors, &share) in rotation.row(own).iter().enumerate() {
            shares.row_mut(own)[anchors % buckets] += gain * sign(Purpose::Channel, anchors as u64) * share;
        }
    }
    shares
}

/// The rows of a segment.
#[derive(Clone, Copy)]
struct Reader<'a> {
    segment: &'a Segment<'a>,
    columns: usize,
    weights: &'a Columns,
    /// The model's channel for each of the anchor's, unless they are the same.
    order: Option<&'a Vec<usize>>,
}

impl Reader<'_> {
    fn dtype(&self) -> Dtype {
        self.segment.info.dtype
    }

    fn row_bytes(&self) -> usize {
        self.columns * self.dtype().bytes() as usize
    }

    /// Projects every row onto the columns of `target`, which are buckets of
    /// channels, into its rows from `first` on.
    fn project(&self, target: &mut Matrix, first: usize) -> Result<()> {
        let weights = match self.weights {
            Columns::Straight(weights) => weights,
            Columns::Mixed(shares) => {
                return self.rows(target, first, |values, out| {
                    for (value, shares) in values.iter().zip(shares.values.chunks_exact(shares.columns)) {
                        out.iter_mut().zip(shares).for_each(|(sum, share)| *sum += value * share);
                    }
                });
            }
        };
        match target.columns {
            32 => self.rows(target, first, |values, out| onto::<32>(values, weights, out)),
            64 => self.rows(target, first, |values, out| onto::<64>(values, weights, out)),
            128 => self.rows(target, first, |values, out| onto::<128>(values, weights, out)),
            192 => self.rows(target, first, |values, out| onto::<192>(values, weights, out)),
            256 => self.rows(target, first, |values, out| onto::<256>(values, weights, out)),
            width => self.rows(target, first, |values, out| {
                for (values, weights) in values.chunks(width).zip(weights.chunks(width)) {
                    for ((sum, value), weight) in out.iter_mut().zip(values).zip(weights) {
                        *sum += value * weight;
                    }
                }
            }),
        }
    }

    fn rows(
        &self,
        target: &mut Matrix,
        first: usize,
        project: impl Fn(&[f32], &mut [f32]) + Sync,
    ) -> Result<()> {
        let width = target.columns;
        let rows = target.values[first * width..]
            .par_chunks_mut(width)
            .zip(self.segment.bytes.par_chunks_exact(self.row_bytes()));
        rows.with_min_len(16).try_for_each_init(
            || (vec![0.0; self.columns], vec![0.0; self.columns]),
            |(values, ordered), (out, bytes)| {
                to_f32(self.dtype(), bytes, values)?;
                match self.order.filter(|_| matches!(self.weights, Columns::Straight(_))) {
                    Some(order) => {
                        for (place, &own) in ordered.iter_mut().zip(order) {
                            *place = values[own];
                        }
                        project(ordered, out);
                    }
                    None => project(values, out),
                }
                Ok(())
            },
        )
    }

    /// Adds every row to the rows of `target` that `buckets` names, with their factors.
    fn fold(&self, target: &mut Matrix, buckets: &(dyn Fn(usize) -> Vec<(usize, f32)> + Sync)) -> Result<()> {
        let (size, width) = (self.dtype().bytes() as usize, target.columns);
        let rows: Vec<_> = (self.segment.bytes.chunks_exact(self.row_bytes()).enumerate())
            .map(|(row, bytes)| (buckets(row), bytes))
            .collect();
        // Each task has a strip of columns of every bucket.
        let mut strips: Vec<(usize, Vec<&mut [f32]>)> = Vec::new();
        for line in target.values.chunks_exact_mut(width) {
            for (strip, part) in line.chunks_mut(COLUMNS).enumerate() {
                if strips.len() <= strip {
                    strips.push((strip * COLUMNS, Vec::new()));
                }
                strips[strip].1.push(part);
            }
        }
        strips.into_par_iter().try_for_each(|(start, mut strip)| {
            let mut values = vec![0.0; strip[0].len()];
            for (buckets, bytes) in &rows {
                to_f32(self.dtype(), &bytes[start * size..][..values.len() * size], &mut values)?;
                for &(bucket, factor) in buckets {
                    for (target, value) in strip[bucket].iter_mut().zip(&values) {
                        *target += factor * value;
                    }
                }
            }
            Ok(())
        })
    }

    /// Projects every row onto the columns of `target` and adds it to the row
    /// that `bucket` names.
    fn fold_rows(&self, target: &mut Matrix, bucket: &dyn Fn(usize) -> (usize, f32)) -> Result<()> {
        let rows = self.segment.bytes.len() / self.row_bytes();
        let mut projected = Matrix::zeros(rows, EMBEDDING);
        self.project(&mut projected, 0)?;
        for row in 0..rows {
            let (bucket, sign) = bucket(row);
            let side = target.columns;
            for (column, value) in projected.row(row).iter().enumerate() {
                target.values[bucket * side + column % side] += sign * value;
            }
        }
        Ok(())
    }
}

/// Adds `values × weights` to `WIDTH` buckets in turn; a width that is known
/// when this is compiled keeps the sums in registers.
fn onto<const WIDTH: usize>(values: &[f32], weights: &[f32], out: &mut [f32]) {
    let mut sums = [0.0_f32; WIDTH];
    let (values, rest) = values.as_chunks::<WIDTH>();
    let (weights, rest_weights) = weights.as_chunks::<WIDTH>();
    for (values, weights) in values.iter().zip(weights) {
        for ((sum, value), weight) in sums.iter_mut().zip(values).zip(weights) {
            *sum += value * weight;
        }
    }
    for ((sum, value), weight) in sums.iter_mut().zip(rest).zip(rest_weights) {
        *sum += value * weight;
    }
    out.copy_from_slice(&sums);
}
