//! The forward and the backward pass of a Qwen3 decoder over whole rows.
//!
//! The products are Burn's. What goes row by row, and its derivatives, are loops over
//! slices: Burn's automatic differentiation would keep every intermediate result and the
//! scores of all heads. The tests compare every gradient with Burn's.

use std::ops::Range;

use albedo_core::Result;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::attention::{self, Heads, Mixed};
use super::kernels::{self, at, row};
use super::matrix::{Values, product, product_at, product_bt, tensor};
use super::params::{self, Gradients, Param};
use crate::burn::config::Qwen3Config;
use crate::burn::cpu::{angles_at, frequencies};
use crate::burn::kernels::{rms_norm, rotate, silu_mul};

/// Weights, as the products read them: `[out, in]`.
#[derive(Debug)]
pub(super) struct Decoder {
    pub(super) config: Qwen3Config,
    pub(super) device: Device,
    pub(super) eps: f32,
    table: Vec<f32>,
    layers: Vec<Layer>,
    pub(super) norm: Vec<f32>,
    /// `[vocabulary, hidden]`.
    pub(super) head: Tensor<2>,
}

#[derive(Debug)]
struct Layer {
    input_norm: Vec<f32>,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    mlp_norm: Vec<f32>,
    /// To q | k | v.
    qkv: Tensor<2>,
    output: Tensor<2>,
    /// To gate | up.
    gate_up: Tensor<2>,
    down: Tensor<2>,
}

/// The tokens that go through the model together: whole rows, one after the other.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) ids: Vec<u32>,
    /// Where each row is in `ids`.
    pub(super) segments: Vec<Range<usize>>,
    /// What is to be learnt, in the order of `ids`.
    pub(super) targets: Vec<Target>,
}

/// A token to predict.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// Where the token before it is in the pass.
    pub(super) position: usize,
    /// Where what is learnt is from: `id` and the teacher's distribution. It is `position`
    /// unless labels are exchanged.
    pub(super) source: usize,
    pub(super) id: u32,
    pub(super) weight: f32,
    /// The row that it is of.
    pub(super) row: usize,
}

/// What the backward pass needs of a layer.
#[derive(Debug)]
pub(super) struct Kept {
    x: Vec<f32>,
    normed: Tensor<2>,
    qkv: Values,
    heads: Vec<Heads>,
    mixed: Tensor<2>,
    middle: Vec<f32>,
    mlp_normed: Tensor<2>,
    gate_up: Values,
    activated: Tensor<2>,
}

/// Cosines and sines of the angles at each position, `[positions, head_dim / 2]`.
struct Angles {
    cosines: Vec<f32>,
    sines: Vec<f32>,
    half: usize,
}

impl Angles {
    fn new(config: &Qwen3Config, positions: usize) -> Self {
        let frequencies = frequencies(config);
        let (cosines, sines) = (0..positions).flat_map(|position| angles_at(position, &frequencies)).unzip();
        Self { cosines, sines, half: config.head_dim / 2 }
    }

    fn at(&self, position: usize) -> (&[f32], &[f32]) {
        (row(&self.cosines, position, self.half), row(&self.sines, position, self.half))
    }
}

impl Pass {
    /// The longest row.
    fn longest(&self) -> usize {
        self.segments.iter().map(ExactSizeIterator::len).max().unwrap_or_default()
    }
}

impl Decoder {
    /// The decoder of `params`, in their order.
    pub(super) fn new(config: &Qwen3Config, params: &[Param], device: &Device) -> Self {
        let values = |index: usize| params[index].values.clone();
        let joined = |indices: Range<usize>, width: usize| {
            let values: Vec<f32> =
                params[indices].iter().flat_map(|param| param.values.iter().copied()).collect();
            tensor(values, width, device)
        };
        let (hidden, inter) = (config.hidden_size, config.intermediate_size);
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let index = |which| params::at(layer, which);
                Layer {
                    input_norm: values(index(0)),
                    q_norm: values(index(1)),
                    k_norm: values(index(2)),
                    mlp_norm: values(index(3)),
                    qkv: joined(index(4)..index(7), hidden),
                    output: joined(index(7)..index(8), config.query_width()),
                    gate_up: joined(index(8)..index(10), hidden),
                    down: joined(index(10)..index(11), inter),
                }
            })
            .collect();
        let head = params::head(config);
        Self {
            config: config.clone(),
            device: device.clone(),
            eps: config.rms_norm_eps as f32,
            table: values(params::TABLE),
            layers,
            norm: values(params::last_norm(config)),
            head: joined(head..head + 1, hidden),
        }
    }

    /// The residual after the last layer, `[tokens, hidden]`; what the backward pass needs
    /// is put into `kept`, if there is one.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn forward(&self, pass: &Pass, mut kept: Option<&mut Vec<Kept>>) -> Result<Vec<f32>> {
        let hidden = self.config.hidden_size;
        let angles = Angles::new(&self.config, pass.longest());
        let mut x = kernels::rows(pass.ids.len(), hidden, |index, out| {
            out.copy_from_slice(row(&self.table, pass.ids[index] as usize, hidden));
        });
        for layer in &self.layers {
            let normed = self.normed(&x, &layer.input_norm);
            let qkv = Values::of(product_bt(&normed, &layer.qkv))?;
            let mut heads = self.split_heads(&qkv, layer, pass, &angles);
            let mixed = self.attend(&mut heads, pass)?;
            let middle = sum(&x, &Values::of(product_bt(&mixed, &layer.output))?);
            let mlp_normed = self.normed(&middle, &layer.mlp_norm);
            let gate_up = Values::of(product_bt(&mlp_normed, &layer.gate_up))?;
            let inter = self.config.intermediate_size;
            let slice: &[f32] = &gate_up;
            let activated = kernels::rows(pass.ids.len(), inter, |index, out| {
                silu_mul(row(slice, index, 2 * inter), out);
            });
            let activated = tensor(activated, inter, &self.device);
            let next = sum(&middle, &Values::of(product_bt(&activated, &layer.down))?);
            if let Some(kept) = &mut kept {
                kept.push(Kept { x, normed, qkv, heads, mixed, middle, mlp_normed, gate_up, activated });
            }
            x = next;
        }
        Ok(x)
    }

    /// Adds to `gradients` what `dx`, the gradient of the residual after the last layer,
    /// means for every parameter below the last norm.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn backward(
        &self,
        pass: &Pass,
        kept: Vec<Kept>,
        mut dx: Vec<f32>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let (hidden, inter) = (self.config.hidden_size, self.config.intermediate_size);
        let angles = Angles::new(&self.config, pass.longest());
        for (index, (layer, kept)) in self.layers.iter().zip(kept).enumerate().rev() {
            let at = |which| params::at(index, which);

            let dy = tensor(dx, hidden, &self.device);
            let down = Values::of(product_at(&dy, &kept.activated))?;
            params::add_joined(&mut gradients[at(10)..at(11)], &down);
            let dactivated = Values::of(product(&dy, &layer.down))?;
            drop((down, kept.activated));
            let (gate_up, slice): (&[f32], &[f32]) = (&kept.gate_up, &dactivated);
            let dgate_up = kernels::rows(pass.ids.len(), 2 * inter, |index, out| {
                kernels::silu_mul_backward(row(gate_up, index, 2 * inter), row(slice, index, inter), out);
            });
            drop((dactivated, kept.gate_up));
            let dgate_up = tensor(dgate_up, 2 * inter, &self.device);
            let joined = Values::of(product_at(&dgate_up, &kept.mlp_normed))?;
            params::add_joined(&mut gradients[at(8)..at(10)], &joined);
            let dnormed = Values::of(product(&dgate_up, &layer.gate_up))?;
            let mut dmiddle = Values::of(dy)?;
            let gain =
                kernels::norm_rows_backward(&kept.middle, &layer.mlp_norm, self.eps, &dnormed, &mut dmiddle);
            kernels::add(&mut gradients[at(3)], &gain);

            let dy = dmiddle.into_tensor(&self.device);
            let output = Values::of(product_at(&dy, &kept.mixed))?;
            params::add_joined(&mut gradients[at(7)..at(8)], &output);
            let dmixed = Values::of(product(&dy, &layer.output))?;
            let (dqkv, gains) =
                self.attend_backward(layer, &kept.heads, &kept.qkv, &dmixed, pass, &angles)?;
            params::add_joined(&mut gradients[at(1)..at(3)], &gains);
            let joined = Values::of(product_at(&dqkv, &kept.normed))?;
            params::add_joined(&mut gradients[at(4)..at(7)], &joined);
            let dnormed = Values::of(product(&dqkv, &layer.qkv))?;
            let mut dresidual = Values::of(dy)?;
            let gain =
                kernels::norm_rows_backward(&kept.x, &layer.input_norm, self.eps, &dnormed, &mut dresidual);
            kernels::add(&mut gradients[at(0)], &gain);
            dx = dresidual.to_vec();
        }
        for (index, &id) in pass.ids.iter().enumerate() {
            let id = id as usize;
            kernels::add(&mut gradients[params::TABLE][at(id, hidden)], row(&dx, index, hidden));
        }
        Ok(())
    }

    fn normed(&self, x: &[f32], gain: &[f32]) -> Tensor<2> {
        tensor(kernels::norm_rows(x, gain, self.eps), gain.len(), &self.device)
    }

    /// Query heads that share a key-value head.
    fn group(&self) -> usize {
        self.config.num_attention_heads / self.config.num_key_value_heads
    }

    /// Every row's key-value heads with their queries.
    fn tasks(&self, pass: &Pass) -> Vec<(Range<usize>, usize)> {
        let heads = 0..self.config.num_key_value_heads;
        pass.segments
            .iter()
            .flat_map(|segment| heads.clone().map(move |head| (segment.clone(), head)))
            .collect()
    }

    /// Queries, normalised, rotated and scaled; keys, normalised and rotated; values.
    fn split_heads(&self, qkv: &[f32], layer: &Layer, pass: &Pass, angles: &Angles) -> Vec<Heads> {
        let (dim, group) = (self.config.head_dim, self.group());
        let (q_width, kv_width) = (self.config.query_width(), self.config.kv_width());
        let width = q_width + 2 * kv_width;
        let scale = self.scale();
        let split = |(segment, head): (Range<usize>, usize)| {
            let len = segment.len();
            let mut queries = vec![0.0; len * group * dim];
            let mut keys = vec![0.0; len * dim];
            let mut values = Vec::with_capacity(len * dim);
            for (position, index) in segment.enumerate() {
                let (cosines, sines) = angles.at(position);
                let (q, kv) = row(qkv, index, width).split_at(q_width);
                let (k, v) = kv.split_at(kv_width);
                let q = row(q, head, group * dim);
                let out = &mut queries[at(position, group * dim)];
                for (q, out) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
                    rms_norm(q, &layer.q_norm, self.eps, out);
                    rotate(out, cosines, sines);
                    for value in out.iter_mut() {
                        *value *= scale;
                    }
                }
                let out = &mut keys[at(position, dim)];
                rms_norm(row(k, head, dim), &layer.k_norm, self.eps, out);
                rotate(out, cosines, sines);
                values.extend_from_slice(row(v, head, dim));
            }
            Heads::new(
                tensor(queries, dim, &self.device),
                tensor(keys, dim, &self.device),
                tensor(values, dim, &self.device),
            )
        };
        self.tasks(pass).into_par_iter().map(split).collect()
    }

    /// What the scores are scaled by.
    fn scale(&self) -> f32 {
        1.0 / (self.config.head_dim as f32).sqrt()
    }

    /// The results of all heads, `[tokens, heads · head_dim]`.
    fn attend(&self, heads: &mut [Heads], pass: &Pass) -> Result<Tensor<2>> {
        let group = self.group();
        let mixed: Vec<Vec<f32>> = heads
            .par_iter_mut()
            .map(|heads| attention::forward(heads, group, &self.device))
            .collect::<Result<_>>()?;
        let (kv_heads, chunk) = (self.config.num_key_value_heads, group * self.config.head_dim);
        let width = kv_heads * chunk;
        let mut out = vec![0.0; pass.ids.len() * width];
        for (segment, mixed) in pass.segments.iter().zip(mixed.chunks_exact(kv_heads)) {
            let out = &mut out[segment.start * width..segment.end * width];
            kernels::for_rows(out, width, |position, out| {
                for (out, mixed) in out.chunks_exact_mut(chunk).zip(mixed) {
                    out.copy_from_slice(row(mixed, position, chunk));
                }
            });
        }
        Ok(tensor(out, width, &self.device))
    }

    /// The gradients of the joined q | k | v before norm and rotation, and of the gains of
    /// the heads of q and of k, joined.
    fn attend_backward(
        &self,
        layer: &Layer,
        heads: &[Heads],
        qkv: &[f32],
        dmixed: &[f32],
        pass: &Pass,
        angles: &Angles,
    ) -> Result<(Tensor<2>, Vec<f32>)> {
        let (dim, group) = (self.config.head_dim, self.group());
        let (q_width, kv_width) = (self.config.query_width(), self.config.kv_width());
        let (width, chunk) = (q_width + 2 * kv_width, group * dim);
        let tasks = self.tasks(pass);
        let backward: Vec<Mixed> = tasks
            .into_par_iter()
            .zip(heads)
            .map(|((segment, head), heads)| {
                let mut own = Vec::with_capacity(segment.len() * chunk);
                for index in segment {
                    own.extend_from_slice(row(row(dmixed, index, q_width), head, chunk));
                }
                attention::backward(heads, group, &tensor(own, dim, &self.device), &self.device)
            })
            .collect::<Result<_>>()?;
        let scale = self.scale();
        let mut out = vec![0.0; pass.ids.len() * width];
        let mut gains = vec![0.0; 2 * dim];
        let kv_heads = self.config.num_key_value_heads;
        for (segment, backward) in pass.segments.iter().zip(backward.chunks_exact(kv_heads)) {
            let start = segment.start;
            let out = &mut out[start * width..segment.end * width];
            let sums = kernels::sum_rows(out, width, 2 * dim, |position, out, gains| {
                let (cosines, sines) = angles.at(position);
                let (q, kv) = row(qkv, start + position, width).split_at(q_width);
                let (k, _) = kv.split_at(kv_width);
                let (dq, dkv) = out.split_at_mut(q_width);
                let (dk, dv) = dkv.split_at_mut(kv_width);
                let (q_gain, k_gain) = gains.split_at_mut(dim);
                let mut own = vec![0.0; dim];
                for (head, backward) in backward.iter().enumerate() {
                    let queries = row(&backward.queries, position, chunk);
                    for (index, query) in queries.chunks_exact(dim).enumerate() {
                        let place = at(head * group + index, dim);
                        own.iter_mut().zip(query).for_each(|(own, value)| *own = value * scale);
                        kernels::rotate_back(&mut own, cosines, sines);
                        let dq = &mut dq[place.clone()];
                        kernels::rms_norm_backward(&q[place], &layer.q_norm, self.eps, &own, dq, q_gain);
                    }
                    let place = at(head, dim);
                    own.copy_from_slice(row(&backward.keys, position, dim));
                    kernels::rotate_back(&mut own, cosines, sines);
                    let dk = &mut dk[place.clone()];
                    kernels::rms_norm_backward(&k[place.clone()], &layer.k_norm, self.eps, &own, dk, k_gain);
                    dv[place].copy_from_slice(row(&backward.values, position, dim));
                }
            });
            kernels::add(&mut gains, &sums);
        }
        Ok((tensor(out, width, &self.device), gains))
    }
}

/// `a + b`.
fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    // A block for each thread; the sums do not depend on where they are cut.
    const BLOCK: usize = 1 << 14;
    let mut out = vec![0.0; a.len()];
    (out.par_chunks_mut(BLOCK)).zip(a.par_chunks(BLOCK).zip(b.par_chunks(BLOCK))).for_each(
        |(out, (a, b))| {
            for (out, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
                *out = a + b;
            }
        },
    );
    out
}
