//! [`Ops`] on a GPU: bf16 weights, activations and keys, f32 sums.

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::sync::{Mutex, PoisonError};

use albedo_core::{Error, Result};
use cubecl::bytes::Bytes;
use half::bf16;

use super::device::{Buffer, Gpu};
use super::kernels::product_many::TILE_ROWS;
use super::launch::{AddNorm, AttendRows, AttendTiles, Heads, Places, Pool, Stored, WriteKv};
use super::memory::{MemoryPlan, StepSizes};
use super::products::{Product, ProductSize};
use super::settings::{columns, few_rows, head};
use crate::burn::KvDtype;
use crate::burn::config::Qwen3Config;
use crate::burn::cpu::{angles_at, frequencies};
use crate::burn::ops::Ops;
use crate::burn::weights::{Tensor, Values};

const OPERATION: &str = "run the model on the GPU";

/// Bytes of a weight that are read, checked and sent together.
const UPLOAD: usize = 32 << 20;

/// The GPU with everything of one model but its weights. What only a session
/// that has its turn needs is there from [`CubeOps::enter`] to [`CubeOps::leave`].
pub(super) struct CubeOps {
    gpu: Gpu,
    heads: Heads,
    hidden: usize,
    inter: usize,
    vocabulary: usize,
    eps: f32,
    sizes: StepSizes,
    cosines: Buffer<f32>,
    sines: Buffer<f32>,
    room: Option<Room>,
    uploads: Mutex<Uploads>,
}

/// Keys and values of every layer, and the workspace.
struct Room {
    pools: Pools,
    work: Workspace,
}

/// Keys and values of every layer.
enum Pools {
    Bf16(Vec<Pool<bf16>>),
    Int8 {
        pools: Vec<Pool<u32>>,
        /// What a chunk of prompts sees of a layer.
        wide: Pool<bf16>,
    },
}

/// One layer's keys and values.
enum LayerPool<'a> {
    Bf16(&'a Pool<bf16>),
    Int8(&'a Pool<u32>, &'a Pool<bf16>),
}

impl Debug for CubeOps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CubeOps").field("heads", &self.heads).finish_non_exhaustive()
    }
}

/// Buffers that every step uses anew. A CUDA graph names them, so they stay.
struct Workspace {
    residual: Buffer<f32>,
    normed: Buffer<bf16>,
    qkv: Buffer<bf16>,
    queries: Buffer<bf16>,
    mixed: Buffer<bf16>,
    delta: Buffer<bf16>,
    activated: Buffer<bf16>,
    faults: Buffer<u32>,
    sums: Buffer<f32>,
    partial: Buffer<f32>,
    stats: Buffer<f32>,
    logits: Buffer<f32>,
    wanted_residual: Buffer<f32>,
    wanted_queries: Buffer<bf16>,
    wanted_positions: Buffer<u32>,
    wanted_slots: Buffer<u32>,
    wanted_faults: Buffer<u32>,
}

/// Two buffers of the host that weights go through: one is filled while the
/// other is sent. They are used again, because the system takes longer to hand
/// out fresh memory than to fill it.
#[derive(Default)]
struct Uploads {
    filled: Option<(Buffer<bf16>, Bytes)>,
    spare: Option<Bytes>,
}

/// A weight `[out, in]`.
#[derive(Debug)]
pub(super) struct Matrix {
    values: Buffer<bf16>,
    outputs: usize,
    inputs: usize,
}

/// Activations of a step.
#[derive(Debug)]
pub(super) enum Rows {
    /// What the layers add up.
    Residual(Buffer<f32>),
    /// What a product gave.
    Product(Product),
    /// Everything else.
    Half(Buffer<bf16>),
}

impl Rows {
    fn residual(&self) -> Result<&Buffer<f32>> {
        match self {
            Self::Residual(rows) => Ok(rows),
            _ => Err(self.misplaced("the residual")),
        }
    }

    fn product(&self) -> Result<&Product> {
        match self {
            Self::Product(rows) => Ok(rows),
            _ => Err(self.misplaced("a product")),
        }
    }

    fn half(&self) -> Result<&Buffer<bf16>> {
        match self {
            Self::Half(rows) => Ok(rows),
            _ => Err(self.misplaced("rows of bf16")),
        }
    }

    fn misplaced(&self, wanted: &str) -> Error {
        Error::bug(OPERATION, format!("{self:?} where {wanted} belongs"))
    }
}

/// How the rows of a step attend, and how their products are computed.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one per step, and it is never moved in a loop")]
pub(super) enum Kind {
    /// Each row alone; `splits` are enough for the longest.
    Decode { splits: usize },
    /// Chunks of prompts, in tiles of consecutive rows.
    Prefill {
        tiles: Buffer<u32>,
        /// Where tiles find their pages, if these are stored as int8.
        wide: Option<WidePages>,
        /// The rows whose logits are wanted, and the splits that they need.
        wanted: Option<(Buffer<u32>, usize)>,
    },
}

/// Pages of int8 that a chunk of prompts has as bf16.
#[derive(Debug, Clone)]
pub(super) struct WidePages {
    /// The pages, in the order in which they are written.
    pub(super) from: Buffer<u32>,
    /// Which of those are whose, `[sequence, stride]`.
    pub(super) table: Buffer<u32>,
    pub(super) stride: usize,
}

/// The rows of a step.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) rows: usize,
    pub(super) ids: Buffer<u32>,
    pub(super) places: Places,
    pub(super) kind: Kind,
    /// The faults of its rows.
    pub(super) faults: Buffer<u32>,
}

impl CubeOps {
    /// A GPU for a model of `config`.
    ///
    /// # Errors
    /// Head sizes that the kernels do not have.
    pub(super) fn new(gpu: Gpu, config: &Qwen3Config, sizes: StepSizes) -> Result<Self> {
        let heads = Heads {
            queries: config.num_attention_heads,
            kv: config.num_key_value_heads,
            dim: config.head_dim,
        };
        heads.check()?;
        let frequencies = frequencies(config);
        let (cosines, sines): (Vec<f32>, Vec<f32>) =
            (0..config.max_position_embeddings).flat_map(|at| angles_at(at, &frequencies)).unzip();
        Ok(Self {
            heads,
            hidden: config.hidden_size,
            inter: config.intermediate_size,
            vocabulary: config.vocab_size,
            eps: config.rms_norm_eps as f32,
            sizes,
            cosines: gpu.upload(&cosines),
            sines: gpu.upload(&sines),
            room: None,
            uploads: Mutex::default(),
            gpu,
        })
    }

    /// Takes the memory of `plan` for keys, values and workspace.
    ///
    /// # Errors
    /// A lost device.
    pub(super) fn enter(&mut self, config: &Qwen3Config, plan: &MemoryPlan) -> Result<()> {
        let (gpu, sizes) = (&self.gpu, self.sizes);
        let (heads, pages, layers) = (self.heads, plan.pages + 1, 0..config.num_hidden_layers);
        let pools = match sizes.kv_dtype {
            KvDtype::Bf16 => {
                Pools::Bf16(layers.map(|_| Pool::new(gpu, pages, heads)).collect::<Result<_>>()?)
            }
            KvDtype::Int8 => Pools::Int8 {
                pools: layers.map(|_| Pool::new(gpu, pages, heads)).collect::<Result<_>>()?,
                wide: Pool::new(gpu, sizes.wide_pages(config), heads)?,
            },
        };
        let (hidden, inter, q) = (self.hidden, self.inter, config.query_width());
        let (rows, batch) = (sizes.rows.max(sizes.batch), sizes.batch);
        let splits = super::memory::most_splits(config);
        let work = Workspace {
            residual: gpu.empty(rows * hidden),
            normed: gpu.empty(rows * hidden),
            qkv: gpu.empty(rows * (q + 2 * config.kv_width())),
            queries: gpu.empty(rows * q),
            mixed: gpu.empty(rows * q),
            delta: gpu.empty(rows * hidden),
            activated: gpu.empty(rows * inter),
            faults: gpu.empty(rows),
            sums: gpu.empty(super::memory::sums(config, sizes)),
            partial: gpu.empty(sizes.batch * q * splits),
            stats: gpu.empty(sizes.batch * self.heads.queries * splits * 2),
            logits: gpu.empty(sizes.batch * config.vocab_size),
            wanted_residual: gpu.empty(batch * hidden),
            wanted_queries: gpu.empty(batch * q),
            wanted_positions: gpu.empty(batch),
            wanted_slots: gpu.empty(batch),
            wanted_faults: gpu.empty(batch),
        };
        self.room = Some(Room { pools, work });
        Ok(())
    }

    /// Drops what [`CubeOps::enter`] took.
    pub(super) fn leave(&mut self) {
        self.room = None;
    }

    fn room(&self) -> Result<&Room> {
        self.room.as_ref().ok_or_else(|| Error::bug(OPERATION, "a step of a model that has left the GPU"))
    }

    fn work(&self) -> Result<&Workspace> {
        Ok(&self.room()?.work)
    }

    fn pool(&self, layer: usize) -> Result<LayerPool<'_>> {
        let pool = match &self.room()?.pools {
            Pools::Bf16(pools) => pools.get(layer).map(LayerPool::Bf16),
            Pools::Int8 { pools, wide } => pools.get(layer).map(|pool| LayerPool::Int8(pool, wide)),
        };
        pool.ok_or_else(|| Error::bug(OPERATION, "no such layer"))
    }

    /// How many pages of int8 a chunk of prompts can have as bf16; `None` if pages are bf16.
    pub(super) fn wide_pages(&self) -> Option<usize> {
        match &self.room.as_ref()?.pools {
            Pools::Bf16(_) => None,
            Pools::Int8 { wide, .. } => {
                Some(wide.keys.len() / (self.heads.kv * <bf16 as Stored>::page(self.heads.dim)))
            }
        }
    }

    /// Sends the last weight, and waits until all are on the device.
    ///
    /// # Errors
    /// A lost device.
    pub(super) fn end_loading(&self) -> Result<()> {
        let uploads = std::mem::take(&mut *self.uploads.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some((buffer, bytes)) = uploads.filled {
            self.gpu.send(&buffer, bytes)?;
        }
        self.gpu.sync()
    }

    /// The device.
    pub(super) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Most rows and sequences of a step.
    pub(super) fn sizes(&self) -> StepSizes {
        self.sizes
    }

    /// Numbers of rows of chunks that between them launch every kernel.
    pub(super) fn chunk_sizes(&self) -> Vec<usize> {
        let (hidden, inter, q) = (self.hidden, self.inter, self.heads.queries * self.heads.dim);
        let qkv = q + 2 * self.heads.kv * self.heads.dim;
        let shapes =
            [(hidden, qkv, false), (q, hidden, false), (hidden, inter, true), (inter, hidden, false)];
        let mut known = HashSet::new();
        let rows =
            (1..=self.sizes.rows.div_ceil(TILE_ROWS)).map(|tiles| self.sizes.rows.min(tiles * TILE_ROWS));
        rows.filter(|&rows| {
            let new = |&&(k, width, gated): &&(usize, usize, bool)| {
                let columns = columns(ProductSize { rows, k, width, gated }, self.gpu.multiprocessors());
                known.insert((width, gated, columns))
            };
            shapes.iter().filter(new).count() > 0
        })
        .collect()
    }

    /// The logits of the latest step, `[rows, vocabulary]`, until the next one is launched.
    ///
    /// # Errors
    /// A model that has not entered the GPU.
    pub(super) fn logits(&self) -> Result<Buffer<f32>> {
        Ok(self.work()?.logits.clone())
    }

    /// Number of logits of a row.
    pub(super) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// A step of `rows` rows.
    pub(super) fn step(&self, rows: usize, ids: Buffer<u32>, places: Places, kind: Kind) -> Result<Step> {
        Ok(Step { rows, ids, places, kind, faults: self.work()?.faults.clone() })
    }

    fn product(&self, x: &Buffer<bf16>, weight: &Matrix, out: &Buffer<bf16>, step: &Step) -> Result<Product> {
        let gpu = &self.gpu;
        let Matrix { values, outputs, inputs } = weight;
        let size = ProductSize { rows: step.rows, k: *inputs, width: *outputs, gated: false };
        match step.kind {
            Kind::Decode { .. } => {
                let cut = few_rows(size);
                if cut.split_k > 1 {
                    let sums = self.work()?.sums.first(cut.split_k * size.rows * size.width);
                    gpu.product_of_few(values, x, &sums, size, cut)?;
                    return Ok(Product::SplitK { sums, count: cut.split_k });
                }
                gpu.product_of_few(values, x, out, size, cut)?;
            }
            Kind::Prefill { .. } => {
                gpu.product_of_many(values, x, out, size, columns(size, gpu.multiprocessors()))?;
            }
        }
        Ok(Product::Rounded(out.clone()))
    }

    /// Fills the next upload while the one before it is sent.
    fn upload(&self, to: Buffer<bf16>, fill: impl FnOnce(&mut [u8]) -> Result<()> + Send) -> Result<()> {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = uploads.spare.take().unwrap_or_else(|| self.gpu.host_bytes(UPLOAD));
        let before = uploads.filled.take();
        let (mut filled, mut sent) = (Ok(()), Ok(None));
        rayon::in_place_scope(|scope| {
            let out = &mut next[..2 * to.len()];
            scope.spawn(|_| filled = fill(out));
            sent = before.map(|(buffer, bytes)| self.gpu.send(&buffer, bytes)).transpose();
        });
        filled?;
        *uploads = Uploads { spare: sent?, filled: Some((to, next)) };
        Ok(())
    }

    fn norm(
        &self,
        residual: &Buffer<f32>,
        delta: Option<&Product>,
        gain: &Buffer<f32>,
        layer: usize,
        step: &Step,
    ) -> Result<Rows> {
        let out = &self.work()?.normed;
        self.gpu.add_norm(&AddNorm {
            residual,
            delta,
            gain,
            out,
            faults: &step.faults,
            rows: step.rows,
            eps: self.eps,
            layer: layer as u32,
        })?;
        Ok(Rows::Half(out.clone()))
    }

    fn write_kv<T: Stored>(
        &self,
        pool: &Pool<T>,
        qkv: &Product,
        gains: [&Buffer<f32>; 2],
        layer: usize,
        step: &Step,
    ) -> Result<Rows> {
        let queries = &self.work()?.queries;
        self.gpu.qk_norm_rope_write_kv(&WriteKv {
            qkv,
            gains,
            angles: [&self.cosines, &self.sines],
            places: &step.places,
            queries,
            pool,
            faults: &step.faults,
            rows: step.rows,
            apart: matches!(step.kind, Kind::Decode { .. }),
            eps: self.eps,
            layer: layer as u32,
            heads: self.heads,
        })?;
        Ok(Rows::Half(queries.clone()))
    }

    fn attend_rows<T: Stored>(
        &self,
        queries: &Buffer<bf16>,
        pool: &Pool<T>,
        places: &Places,
        rows: usize,
        splits: usize,
    ) -> Result<Rows> {
        let Workspace { partial, stats, mixed: out, .. } = self.work()?;
        let heads = self.heads;
        self.gpu.attend_rows(&AttendRows {
            queries,
            pool,
            places,
            partial,
            stats,
            out,
            rows,
            splits,
            heads,
        })?;
        Ok(Rows::Half(out.clone()))
    }

    fn attend_tiles(
        &self,
        queries: &Buffer<bf16>,
        pool: &Pool<bf16>,
        places: &Places,
        tiles: &Buffer<u32>,
        rows: usize,
    ) -> Result<Rows> {
        let out = &self.work()?.mixed;
        self.gpu.attend_tiles(&AttendTiles { queries, pool, places, tiles, out, rows, heads: self.heads })?;
        Ok(Rows::Half(out.clone()))
    }

    fn load(&self, weights: &Values<'_>, tensors: &[Tensor<'_>]) -> Result<Matrix> {
        let inputs = tensors.first().map_or(1, Tensor::columns);
        let size: usize = tensors.iter().map(Tensor::len).sum();
        let values = self.gpu.empty(size);
        let mut at = 0;
        for tensor in tensors {
            let step = UPLOAD / 2;
            for from in (0..tensor.len()).step_by(step) {
                let count = step.min(tensor.len() - from);
                self.upload(values.range(at, count), |out| weights.read_bf16(tensor, from, out))?;
                at += count;
            }
        }
        Ok(Matrix { values, outputs: size / inputs, inputs })
    }
}

/// Moves the sizes of the gains of keys to those of queries, so that no value of a key
/// stands out by its gain where all share a factor: their products stay as they are. Both
/// values of a pair that is rotated have one size, for a rotation mixes them.
fn balance(queries: &mut [f32], keys: &mut [f32]) {
    let half = keys.len() / 2;
    for at in 0..half {
        let size = keys[at].abs().max(keys[half + at].abs());
        if size > 0.0 {
            for at in [at, half + at] {
                queries[at] *= size;
                keys[at] /= size;
            }
        }
    }
}

impl Ops for CubeOps {
    type Matrix = Matrix;
    type Table = Buffer<bf16>;
    type Vector = Buffer<f32>;
    type Rows = Rows;
    type Step<'a> = Step;
    type Logits = Buffer<f32>;

    fn matrix(&self, weights: &Values<'_>, tensors: &[Tensor<'_>]) -> Result<Matrix> {
        self.load(weights, tensors)
    }

    fn table_and_head(
        &self,
        weights: &Values<'_>,
        table: &Tensor<'_>,
        head: Option<&Tensor<'_>>,
    ) -> Result<(Buffer<bf16>, Matrix)> {
        let table = self.load(weights, std::slice::from_ref(table))?;
        let values = table.values.clone();
        let head = head.map(|head| self.load(weights, std::slice::from_ref(head))).transpose()?;
        Ok((values, head.unwrap_or(table)))
    }

    fn vector(&self, weights: &Values<'_>, tensor: &Tensor<'_>) -> Result<Buffer<f32>> {
        Ok(self.gpu.upload(&weights.read(tensor)?))
    }

    fn head_gains(&self, weights: &Values<'_>, gains: [&Tensor<'_>; 2]) -> Result<[Buffer<f32>; 2]> {
        let (mut queries, mut keys) = (weights.read(gains[0])?, weights.read(gains[1])?);
        if self.sizes.kv_dtype == KvDtype::Int8 {
            balance(&mut queries, &mut keys);
        }
        Ok([self.gpu.upload(&queries), self.gpu.upload(&keys)])
    }

    fn embed(&self, table: &Buffer<bf16>, step: &Step) -> Result<Rows> {
        let out = &self.work()?.residual;
        self.gpu.embed(&step.ids.first(step.rows), table, out, &step.faults, self.hidden)?;
        Ok(Rows::Residual(out.clone()))
    }

    fn linear(&self, x: Rows, weight: &Matrix, step: &Step) -> Result<Rows> {
        let work = self.work()?;
        // What is added has a place of its own.
        let out = if weight.outputs == self.hidden { &work.delta } else { &work.qkv };
        self.product(x.half()?, weight, out, step).map(Rows::Product)
    }

    fn rms_norm(&self, x: &Rows, gain: &Buffer<f32>, step: &Step) -> Result<Rows> {
        self.norm(x.residual()?, None, gain, 0, step)
    }

    fn add_norm(
        &self,
        residual: &mut Rows,
        delta: &Rows,
        gain: &Buffer<f32>,
        layer: usize,
        step: &Step,
    ) -> Result<Rows> {
        self.norm(residual.residual()?, Some(delta.product()?), gain, layer, step)
    }

    fn qk_norm_rope_write_kv(
        &self,
        qkv: &Rows,
        gains: [&Buffer<f32>; 2],
        layer: usize,
        step: &mut Step,
    ) -> Result<Rows> {
        match self.pool(layer)? {
            LayerPool::Bf16(pool) => self.write_kv(pool, qkv.product()?, gains, layer, step),
            LayerPool::Int8(pool, _) => self.write_kv(pool, qkv.product()?, gains, layer, step),
        }
    }

    fn attend(&self, queries: &Rows, layer: usize, step: &Step) -> Result<Rows> {
        let queries = queries.half()?;
        match (self.pool(layer)?, &step.kind) {
            (LayerPool::Bf16(pool), Kind::Decode { splits }) => {
                self.attend_rows(queries, pool, &step.places, step.rows, *splits)
            }
            (LayerPool::Int8(pool, _), Kind::Decode { splits }) => {
                self.attend_rows(queries, pool, &step.places, step.rows, *splits)
            }
            (LayerPool::Bf16(pool), Kind::Prefill { tiles, .. }) => {
                self.attend_tiles(queries, pool, &step.places, tiles, step.rows)
            }
            (LayerPool::Int8(pool, wide), Kind::Prefill { tiles, wide: pages, .. }) => {
                let missing = || Error::bug(OPERATION, "a chunk without its pages");
                let WidePages { from, table, stride } = pages.as_ref().ok_or_else(missing)?;
                self.gpu.widen_pages(pool, from, wide, self.heads)?;
                let places = Places { pages: table.clone(), stride: *stride, ..step.places.clone() };
                self.attend_tiles(queries, wide, &places, tiles, step.rows)
            }
        }
    }

    fn gated(&self, x: Rows, weight: &Matrix, step: &Step) -> Result<Rows> {
        let (gpu, work) = (&self.gpu, self.work()?);
        let (x, out) = (x.half()?, &work.activated);
        let Matrix { values, inputs, .. } = weight;
        let size = ProductSize { rows: step.rows, k: *inputs, width: self.inter, gated: true };
        match step.kind {
            Kind::Decode { .. } => gpu.product_of_few(values, x, out, size, few_rows(size))?,
            Kind::Prefill { .. } => {
                gpu.product_of_many(values, x, out, size, columns(size, gpu.multiprocessors()))?;
            }
        }
        Ok(Rows::Half(out.clone()))
    }

    fn wanted(&self, queries: Rows, residual: Rows, step: &mut Step) -> Result<Option<(Rows, Rows)>> {
        let Kind::Prefill { wanted, .. } = &step.kind else {
            return Ok(Some((queries, residual)));
        };
        let Some((index, splits)) = wanted.clone() else {
            return Ok(None);
        };
        let (gpu, work) = (&self.gpu, self.work()?);
        let width = self.heads.queries * self.heads.dim;
        gpu.take_rows(queries.half()?, &index, &work.wanted_queries, width)?;
        gpu.take_rows(residual.residual()?, &index, &work.wanted_residual, self.hidden)?;
        gpu.take(&step.places.positions, &index, &work.wanted_positions)?;
        gpu.take(&step.places.slots, &index, &work.wanted_slots)?;
        gpu.take(&step.faults, &index, &work.wanted_faults)?;
        step.rows = index.len();
        step.places.positions = work.wanted_positions.clone();
        step.places.slots = work.wanted_slots.clone();
        step.faults = work.wanted_faults.clone();
        step.kind = Kind::Decode { splits };
        Ok(Some((Rows::Half(work.wanted_queries.clone()), Rows::Residual(work.wanted_residual.clone()))))
    }

    fn lm_head(&self, x: Rows, weight: &Matrix, step: &Step) -> Result<Buffer<f32>> {
        let out = &self.work()?.logits;
        let Matrix { values, outputs, inputs } = weight;
        let size = ProductSize { rows: step.rows, k: *inputs, width: *outputs, gated: false };
        self.gpu.product_of_few(values, x.half()?, out, size, head(step.rows))?;
        Ok(out.first(step.rows * outputs))
    }
}

#[cfg(test)]
mod tests {
    use super::balance;

    #[test]
    fn the_gain_of_a_rotated_pair_is_moved_to_the_queries_as_one() {
        let (mut queries, mut keys) =
            (vec![1.0, 2.0, 3.0, -4.0, 5.0, 6.0], vec![0.5, -8.0, 0.0, 2.0, 4.0, 0.0]);
        let before: Vec<f32> = queries.iter().zip(&keys).map(|(query, key)| query * key).collect();
        balance(&mut queries, &mut keys);
        assert_eq!(keys, [0.25, -1.0, 0.0, 1.0, 0.5, 0.0]);
        assert_eq!(queries, [2.0, 16.0, 3.0, -8.0, 40.0, 6.0]);
        let after: Vec<f32> = queries.iter().zip(&keys).map(|(query, key)| query * key).collect();
        assert_eq!(after, before);
    }
}
