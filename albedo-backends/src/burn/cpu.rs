//! [`Ops`] on the CPU, in `f32`: matrix products by Burn's flex backend,
//! everything that goes row by row on plain slices.

use albedo_core::{Error, ErrorKind, Result};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::config::Qwen3Config;
use super::kernels;
use super::model::Qwen3;
use super::ops::Ops;
use super::weights::{self, Values};

const OPERATION: &str = "run the model on the CPU";

/// Rows of a prompt that go through the layers together: enough for the
/// products to be fast, few enough that activations stay small. Cuts are at
/// multiples of it, so they depend on the prompt alone.
const PREFILL_ROWS: usize = 512;

/// Positions by which a cache grows.
const CACHE_CHUNK: usize = 256;

/// Queries of one prefill attention product: enough for a product to be fast,
/// few enough that little is computed above the diagonal and thrown away.
const QUERY_BLOCK: usize = 64;

/// Values below which a row-wise loop is not worth handing to other threads.
const PARALLEL_VALUES: usize = 1 << 14;

/// Burn on one device, in `f32`: the CPU, or another as a reference.
#[derive(Debug)]
pub(super) struct BurnOps {
    device: Device,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    layers: usize,
    eps: f32,
    /// Radians a position, one for each pair of a head's values.
    frequencies: Vec<f32>,
}

impl BurnOps {
    /// The operations of a model of `config` on `device`.
    pub(super) fn new(config: &Qwen3Config, device: Device) -> Self {
        let dim = config.head_dim;
        Self {
            device,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: dim,
            layers: config.num_hidden_layers,
            eps: config.rms_norm_eps as f32,
            frequencies: frequencies(config),
        }
    }

    fn tensor(&self, values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    fn product(&self, mut x: Rows, weight: &Tensor<2>) -> Result<Rows> {
        let [_, width] = weight.dims();
        let rows = x.len();
        if rows == 1 {
            // A product of one row takes another path through the matrix
            // library, with other bits than the same row among others.
            x.values.extend_from_within(..);
        }
        let shape = [x.len(), x.width];
        let mut values = read(self.tensor(x.values, shape).matmul(weight.clone()))?;
        values.truncate(rows * width);
        Ok(Rows { values, width })
    }

    /// Query heads that share a key-value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Cosines and sines of every row's angles.
    fn angles(&self, segments: &[Segment<'_>]) -> Angles {
        let positions = segments.iter().flat_map(|segment| segment.start..segment.start + segment.rows);
        let angles = positions.flat_map(|position| angles_at(position, &self.frequencies));
        let (cosines, sines) = angles.unzip();
        Angles { cosines, sines }
    }

    /// Attention of consecutive queries of one prompt, the first at position
    /// `first`.
    fn attend_prefill(&self, queries: &Rows, layer: usize, cache: &Cache, first: usize) -> Result<Rows> {
        let (dim, group) = (self.head_dim, self.group());
        let scale = 1.0 / (dim as f32).sqrt();
        let heads: Vec<[Tensor<2>; 2]> = cache.0[layer]
            .iter()
            .map(|head| {
                let tensor = |values: &[f32]| self.tensor(values.to_vec(), [values.len() / dim, dim]);
                [tensor(&head.keys), tensor(&head.values)]
            })
            .collect();
        let mut out = vec![0.0; queries.values.len()];
        let blocks = out
            .par_chunks_mut(QUERY_BLOCK * queries.width)
            .zip(queries.values.par_chunks(QUERY_BLOCK * queries.width))
            .enumerate();
        blocks.try_for_each(|(block, (out, queries_block))| {
            let rows = queries_block.len() / queries.width;
            // `[rows, heads, dim]` and `[heads, rows, dim]` are turned into each other.
            let at = |row: usize, head: usize| {
                let start = row * queries.width + head * dim;
                start..start + dim
            };
            let mixed: Vec<Vec<f32>> = heads
                .par_iter()
                .enumerate()
                .map(|(kv_head, [keys, values])| {
                    let mut packed = Vec::with_capacity(group * rows * dim);
                    for head in kv_head * group..(kv_head + 1) * group {
                        for row in 0..rows {
                            packed.extend(queries_block[at(row, head)].iter().map(|value| value * scale));
                        }
                    }
                    self.attend_block(packed, keys, values, first + block * QUERY_BLOCK, rows)
                })
                .collect::<Result<_>>()?;
            for (index, values) in mixed.iter().flat_map(|mixed| mixed.chunks_exact(dim)).enumerate() {
                out[at(index % rows, index / rows)].copy_from_slice(values);
            }
            Ok(())
        })?;
        Ok(Rows { values: out, width: queries.width })
    }

    /// Attention of queries that each are computed alone.
    fn attend_decode(&self, queries: &Rows, layer: usize, segments: &[Segment<'_>]) -> Rows {
        let dim = self.head_dim;
        let group_width = self.group() * dim;
        let rows: Vec<(&[Head], usize)> = segments
            .iter()
            .flat_map(|segment| {
                let heads = segment.cache.0[layer].as_slice();
                (segment.start..segment.start + segment.rows).map(move |position| (heads, position + 1))
            })
            .collect();
        let mut out = vec![0.0; queries.values.len()];
        out.par_chunks_exact_mut(group_width)
            .zip(queries.values.par_chunks_exact(group_width))
            .enumerate()
            .for_each_init(Vec::new, |scores, (index, (out, queries))| {
                let (heads, seen) = rows[index / self.kv_heads];
                let head = &heads[index % self.kv_heads];
                let (keys, values) = (&head.keys[..seen * dim], &head.values[..seen * dim]);
                for (out, query) in out.chunks_exact_mut(dim).zip(queries.chunks_exact(dim)) {
                    kernels::attend(query, keys, values, scores, out);
                }
            });
        Rows { values: out, width: queries.width }
    }

    /// Attention of the queries at `first..first + rows` of one key-value
    /// head's group, `queries` being `[group · rows, head_dim]`, scaled.
    /// Returns the same shape.
    fn attend_block(
        &self,
        queries: Vec<f32>,
        keys: &Tensor<2>,
        values: &Tensor<2>,
        first: usize,
        rows: usize,
    ) -> Result<Vec<f32>> {
        let dim = self.head_dim;
        let all = self.group() * rows;
        let seen = first + rows;
        let queries = self.tensor(queries, [all, dim]);
        let mut weights = read(queries.matmul(keys.clone().slice([0..seen, 0..dim]).transpose()))?;
        let mut sums = vec![0.0; all];
        for ((index, scores), sum) in weights.chunks_exact_mut(seen).enumerate().zip(&mut sums) {
            let (visible, hidden) = scores.split_at_mut(first + index % rows + 1);
            *sum = kernels::exp_scores(visible);
            hidden.fill(0.0);
        }
        let weights = self.tensor(weights, [all, seen]);
        let mut mixed = read(weights.matmul(values.clone().slice([0..seen, 0..dim])))?;
        for (row, sum) in mixed.chunks_exact_mut(dim).zip(sums) {
            for value in row {
                *value /= sum;
            }
        }
        Ok(mixed)
    }
}

/// Radians a position, one for each pair of a head's values.
pub(super) fn frequencies(config: &Qwen3Config) -> Vec<f32> {
    let dim = config.head_dim;
    (0..dim / 2).map(|pair| config.rope_theta.powf(-((2 * pair) as f64) / dim as f64) as f32).collect()
}

/// Cosine and sine of each pair's angle at `position`. The angle is rounded to
/// `f32`, as in the implementation that the models were trained with.
pub(super) fn angles_at(position: usize, frequencies: &[f32]) -> impl Iterator<Item = (f32, f32)> {
    frequencies.iter().map(move |frequency| {
        let (sine, cosine) = f64::from(position as f32 * frequency).sin_cos();
        (cosine as f32, sine as f32)
    })
}

/// Activations `[rows, width]`, row by row.
#[derive(Debug)]
pub(super) struct Rows {
    values: Vec<f32>,
    width: usize,
}

impl Rows {
    fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// The last row alone.
    fn last(&self) -> Self {
        Self { values: self.values[self.values.len() - self.width..].to_vec(), width: self.width }
    }

    /// New rows of `width`, each written by `write` from the row of `self` at
    /// its index.
    fn map(&self, width: usize, write: impl Fn(&[f32], &mut [f32]) + Sync) -> Self {
        let mut values = vec![0.0; self.len() * width];
        let pairs = values.par_chunks_exact_mut(width).zip(self.values.par_chunks_exact(self.width));
        pairs.with_min_len(PARALLEL_VALUES.div_ceil(self.width)).for_each(|(out, x)| write(x, out));
        Self { values, width }
    }
}

/// Keys and values of one sequence: `[layer][key-value head]`.
#[derive(Debug)]
pub(super) struct Cache(Vec<Vec<Head>>);

/// Normalised and rotated keys, and values, each `[positions, head_dim]`.
#[derive(Debug, Clone, Default)]
struct Head {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Cosines and sines of each row's angles, `[rows, head_dim / 2]`.
#[derive(Debug)]
struct Angles {
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// Rows of one sequence in a step: `rows` tokens at positions `start`,
/// `start + 1`, … of the sequence whose keys and values `cache` holds. What the
/// cache held at `start` or later is dropped.
#[derive(Debug)]
pub(super) struct Segment<'a> {
    pub(super) cache: &'a mut Cache,
    pub(super) start: usize,
    pub(super) rows: usize,
}

/// The rows of a step: those of its segments, one after the other.
#[derive(Debug)]
pub(super) struct Step<'a> {
    ids: &'a [u32],
    segments: Vec<Segment<'a>>,
    angles: Angles,
    wanted: Wanted,
}

/// The rows whose logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Every row, each an attention of its own.
    Each,
    /// None of this chunk of a prompt.
    None,
    /// The last of this chunk of a prompt.
    Last,
}

impl Qwen3<BurnOps> {
    /// A cache for one sequence.
    pub(super) fn cache(&self) -> Cache {
        let ops = self.ops();
        Cache(vec![vec![Head::default(); ops.kv_heads]; ops.layers])
    }

    /// Reads a prompt (at least one id, each below the vocabulary's size) into
    /// an empty cache and returns the logits of the token after it.
    ///
    /// # Errors
    /// Memory; a lost device; whatever `go_on`, asked before every chunk, answers.
    pub(super) fn prefill(
        &self,
        ids: &[u32],
        cache: &mut Cache,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<Vec<f32>> {
        let mut start = 0;
        for chunk in ids.chunks(PREFILL_ROWS) {
            go_on()?;
            let end = start + chunk.len();
            let wanted = if end == ids.len() { Wanted::Last } else { Wanted::None };
            let mut segments = [Segment { cache: &mut *cache, start, rows: chunk.len() }];
            if let Some(logits) = self.step(chunk, &mut segments, wanted)? {
                return Ok(logits);
            }
            start = end;
        }
        Err(Error::bug(OPERATION, "a prompt without a token"))
    }

    /// Adds tokens (each below the vocabulary's size) to the sequences of
    /// `segments`, and returns the logits after each: `[rows, vocabulary]`.
    ///
    /// # Errors
    /// Memory; a lost device.
    pub(super) fn extend(&self, ids: &[u32], segments: &mut [Segment<'_>]) -> Result<Vec<f32>> {
        Ok(self.step(ids, segments, Wanted::Each)?.unwrap_or_default())
    }

    fn step(&self, ids: &[u32], segments: &mut [Segment<'_>], wanted: Wanted) -> Result<Option<Vec<f32>>> {
        let angles = self.ops().angles(segments);
        let segments = segments
            .iter_mut()
            .map(|Segment { cache, start, rows }| Segment { cache, start: *start, rows: *rows })
            .collect();
        self.forward(&mut Step { ids, segments, angles, wanted })
    }
}

impl Ops for BurnOps {
    type Matrix = Tensor<2>;
    type Table = Tensor<2>;
    type Vector = Vec<f32>;
    type Rows = Rows;
    type Step<'a> = Step<'a>;
    type Logits = Vec<f32>;

    fn matrix(&self, weights: &Values<'_>, tensors: &[weights::Tensor<'_>]) -> Result<Tensor<2>> {
        let values = weights.read_transposed(tensors)?;
        let inputs = tensors.first().map_or(1, weights::Tensor::columns);
        let shape = [inputs, values.len() / inputs];
        Ok(self.tensor(values, shape))
    }

    fn table_and_head(
        &self,
        weights: &Values<'_>,
        table: &weights::Tensor<'_>,
        head: Option<&weights::Tensor<'_>>,
    ) -> Result<(Tensor<2>, Tensor<2>)> {
        let values = weights.read(table)?;
        let shape = [values.len() / table.columns(), table.columns()];
        let head = self.matrix(weights, std::slice::from_ref(head.unwrap_or(table)))?;
        Ok((self.tensor(values, shape), head))
    }

    fn vector(&self, weights: &Values<'_>, tensor: &weights::Tensor<'_>) -> Result<Vec<f32>> {
        weights.read(tensor)
    }

    fn embed(&self, table: &Tensor<2>, step: &Step<'_>) -> Result<Rows> {
        let indices: Vec<i64> = step.ids.iter().map(|&id| i64::from(id)).collect();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [step.ids.len()]), &self.device);
        let [_, width] = table.dims();
        Ok(Rows { values: read(table.clone().select(0, indices))?, width })
    }

    fn linear(&self, x: Rows, weight: &Tensor<2>, _step: &Step<'_>) -> Result<Rows> {
        self.product(x, weight)
    }

    fn rms_norm(&self, x: &Rows, gain: &Vec<f32>, _step: &Step<'_>) -> Result<Rows> {
        Ok(x.map(x.width, |x, out| kernels::rms_norm(x, gain, self.eps, out)))
    }

    fn add_norm(
        &self,
        residual: &mut Rows,
        delta: &Rows,
        gain: &Vec<f32>,
        _layer: usize,
        _step: &Step<'_>,
    ) -> Result<Rows> {
        let mut out = vec![0.0; residual.values.len()];
        let width = residual.width;
        (residual.values.par_chunks_exact_mut(width))
            .zip(delta.values.par_chunks_exact(width))
            .zip(out.par_chunks_exact_mut(width))
            .with_min_len(PARALLEL_VALUES.div_ceil(width))
            .for_each(|((residual, delta), out)| {
                residual.iter_mut().zip(delta).for_each(|(residual, delta)| *residual += delta);
                kernels::rms_norm(residual, gain, self.eps, out);
            });
        Ok(Rows { values: out, width })
    }

    fn qk_norm_rope_write_kv(
        &self,
        qkv: &Rows,
        [q_norm, k_norm]: [&Vec<f32>; 2],
        layer: usize,
        step: &mut Step<'_>,
    ) -> Result<Rows> {
        let (dim, half) = (self.head_dim, self.head_dim / 2);
        let width = self.heads * dim;
        let mut queries = Rows { values: vec![0.0; qkv.len() * width], width };
        let mut key = vec![0.0; dim];
        let Step { angles, segments, .. } = step;
        let mut rows = qkv
            .values
            .chunks_exact(qkv.width)
            .zip(queries.values.chunks_exact_mut(width))
            .zip(angles.cosines.chunks_exact(half).zip(angles.sines.chunks_exact(half)));
        for segment in segments.iter_mut() {
            let heads =
                segment.cache.0.get_mut(layer).ok_or_else(|| Error::bug(OPERATION, "no such layer"))?;
            for head in heads.iter_mut() {
                head.reserve(segment.start * dim, segment.rows * dim, CACHE_CHUNK * dim)?;
            }
            for ((qkv, queries), (cosines, sines)) in rows.by_ref().take(segment.rows) {
                let (q, kv) = qkv.split_at(width);
                let (k, v) = kv.split_at(self.kv_heads * dim);
                for (q, out) in q.chunks_exact(dim).zip(queries.chunks_exact_mut(dim)) {
                    kernels::rms_norm(q, q_norm, self.eps, out);
                    kernels::rotate(out, cosines, sines);
                }
                for ((head, k), v) in heads.iter_mut().zip(k.chunks_exact(dim)).zip(v.chunks_exact(dim)) {
                    kernels::rms_norm(k, k_norm, self.eps, &mut key);
                    kernels::rotate(&mut key, cosines, sines);
                    head.keys.extend_from_slice(&key);
                    head.values.extend_from_slice(v);
                }
            }
        }
        Ok(queries)
    }

    fn attend(&self, queries: &Rows, layer: usize, step: &Step<'_>) -> Result<Rows> {
        match (step.wanted, step.segments.as_slice()) {
            (Wanted::Each, segments) => Ok(self.attend_decode(queries, layer, segments)),
            (_, [segment]) => {
                let first = segment.start + segment.rows - queries.len();
                self.attend_prefill(queries, layer, segment.cache, first)
            }
            _ => Err(Error::bug(OPERATION, "a chunk of a prompt is one sequence's")),
        }
    }

    fn gated(&self, x: Rows, gate_up: &Tensor<2>, step: &Step<'_>) -> Result<Rows> {
        let gate_up = self.linear(x, gate_up, step)?;
        Ok(gate_up.map(gate_up.width / 2, kernels::silu_mul))
    }

    fn wanted(&self, queries: Rows, residual: Rows, step: &mut Step<'_>) -> Result<Option<(Rows, Rows)>> {
        Ok(match step.wanted {
            Wanted::Each => Some((queries, residual)),
            Wanted::Last => Some((queries.last(), residual.last())),
            Wanted::None => None,
        })
    }

    fn lm_head(&self, x: Rows, weight: &Tensor<2>, _step: &Step<'_>) -> Result<Vec<f32>> {
        Ok(self.product(x, weight)?.values)
    }
}

impl Head {
    /// Cuts to `start` values and makes room for `more`, rounded up to `chunk`.
    fn reserve(&mut self, start: usize, more: usize, chunk: usize) -> Result<()> {
        for values in [&mut self.keys, &mut self.values] {
            if values.len() < start {
                return Err(Error::bug(OPERATION, "a gap in the cache of keys and values"));
            }
            values.truncate(start);
            if values.capacity() < start + more {
                let size = (start + more).next_multiple_of(chunk);
                values.try_reserve_exact(size - start).map_err(|error| {
                    Error::new(ErrorKind::ResourceExhausted, OPERATION, "no memory for keys and values")
                        .with_hint("lower `max_batch`")
                        .with_source(error)
                })?;
            }
        }
        Ok(())
    }
}

/// The values of a tensor, without a copy where it owns them alone.
fn read(tensor: Tensor<2>) -> Result<Vec<f32>> {
    let failed = |message: String| Error::new(ErrorKind::DeviceLost, OPERATION, message);
    let data = tensor.try_into_data().map_err(|error| failed(error.to_string()))?;
    data.try_into_vec::<f32>().map_err(|error| failed(error.to_string()))
}
