//! Launches of the kernels, but for products, with the checks that make them
//! sound: a kernel reads and writes its buffers only within the sizes that are
//! checked here.

use albedo_core::{Error, ErrorKind, Result};
use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::prelude::{CubeCount, CubeDim};
use half::bf16;

use super::device::{Buffer, Gpu, Value};
use super::kernels::attention::PAGE;
use super::kernels::attention::decode::{self, SPLIT, attend_split, merge_splits};
use super::kernels::attention::prefill::{self, TILE_WORDS, attend_tiles};
use super::kernels::codes::{page_words, widen_pages};
use super::kernels::rows::{
    HEADS, TOGETHER, add_norm, clear, decode_inputs, embed, qk_norm_rope_write_kv, take, take_rows,
};
use super::kernels::sample::{UNITS, log_prob, sample};
use super::products::Product;

pub(super) const OPERATION: &str = "launch a kernel";

pub(super) const BF16: ElemType = ElemType::Float(FloatKind::BF16);
pub(super) const BYTE: ElemType = ElemType::UInt(UIntKind::U8);

/// Sizes of the attention of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    /// Query heads.
    pub(super) queries: usize,
    /// Key-value heads.
    pub(super) kv: usize,
    /// Values of a head: 32, 64 or 128.
    pub(super) dim: usize,
}

impl Heads {
    /// Whether there are kernels for these heads.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] with what is supported.
    pub(super) fn check(self) -> Result<()> {
        let group = self.queries / self.kv;
        if [32, 64, 128].contains(&self.dim) && (1..=8).contains(&group) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            OPERATION,
            format!("heads of {} values, {group} of them to a key-value head", self.dim),
        )
        .with_hint("the GPU runs heads of 32, 64 or 128 values, at most 8 to a key-value head"))
    }

    /// The factor of a score before `exp2`.
    fn scale(self) -> f32 {
        std::f32::consts::LOG2_E / (self.dim as f32).sqrt()
    }
}

/// Where the rows of a step are: each row's position in its sequence, its slot,
/// and the page table, `[slot, stride]`.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) positions: Buffer<u32>,
    pub(super) slots: Buffer<u32>,
    pub(super) pages: Buffer<u32>,
    pub(super) stride: usize,
}

/// What pages of keys and values hold: bf16, or words of int8 codes and their factors.
pub(super) trait Stored: Value {
    /// Whether these are codes.
    const CODES: bool;

    /// Values of a page of one head.
    fn page(dim: usize) -> usize;

    /// Words that hold eight keys or values.
    fn words() -> usize {
        if Self::CODES { 2 } else { 4 }
    }
}

impl Stored for bf16 {
    const CODES: bool = false;

    fn page(dim: usize) -> usize {
        PAGE * dim
    }
}

impl Stored for u32 {
    const CODES: bool = true;

    fn page(dim: usize) -> usize {
        page_words(dim)
    }
}

/// Keys and values of one layer, `[page, kv, Stored::page]` each.
#[derive(Debug, Clone)]
pub(super) struct Pool<T> {
    pub(super) keys: Buffer<T>,
    pub(super) values: Buffer<T>,
}

impl<T: Stored> Pool<T> {
    /// Memory for `pages` pages, of which the values are numbers.
    pub(super) fn new(gpu: &Gpu, pages: usize, heads: Heads) -> Result<Self> {
        let len = pages * heads.kv * T::page(heads.dim);
        let pool = Self { keys: gpu.empty(len), values: gpu.empty(len) };
        gpu.clear(&pool.values)?;
        Ok(pool)
    }
}

/// Checks that `buffer` has room for `len` values.
pub(super) fn require<T: Value>(name: &str, buffer: &Buffer<T>, len: usize) -> Result<()> {
    if buffer.len() >= len {
        return Ok(());
    }
    Err(Error::bug(OPERATION, format!("`{name}` has room for {} values, {len} are needed", buffer.len())))
}

/// Checks that `number` is a multiple of `of`.
pub(super) fn multiple(name: &str, number: usize, of: usize) -> Result<()> {
    if number.is_multiple_of(of) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, OPERATION, format!("{name} is {number}, not a multiple of {of}")))
}

/// `x` cubes in a row.
pub(super) fn cubes(x: usize) -> CubeCount {
    CubeCount::Static(x as u32, 1, 1)
}

impl Gpu {
    /// Takes tokens and positions of the sequences in `rows` and moves them on;
    /// those of slot `padding` stay at position 0.
    pub(super) fn decode_inputs(
        &self,
        rows: &Buffer<u32>,
        tokens: &Buffer<u32>,
        positions: &Buffer<u32>,
        ids: &Buffer<u32>,
        row_positions: &Buffer<u32>,
        padding: u32,
    ) -> Result<()> {
        require("ids", ids, rows.len())?;
        require("row_positions", row_positions, rows.len())?;
        // SAFETY: `rows` holds slots, which `tokens` and `positions` have room for.
        unsafe {
            decode_inputs::launch_unchecked(
                self.client(),
                cubes(rows.len().div_ceil(128)),
                CubeDim::new_1d(128),
                rows.arg(1),
                tokens.arg(1),
                positions.arg(1),
                ids.arg(1),
                row_positions.arg(1),
                padding,
            );
        }
        Ok(())
    }

    /// The rows of `table` at `ids`, in `f32`.
    pub(super) fn embed(
        &self,
        ids: &Buffer<u32>,
        table: &Buffer<bf16>,
        out: &Buffer<f32>,
        faults: &Buffer<u32>,
        width: usize,
    ) -> Result<()> {
        multiple("the hidden size", width, 8)?;
        require("out", out, ids.len() * width)?;
        require("faults", faults, ids.len())?;
        // SAFETY: ids are below the vocabulary's size, which the engine checks.
        unsafe {
            embed::launch_unchecked(
                self.client(),
                cubes(ids.len()),
                CubeDim::new_1d(128),
                ids.arg(1),
                table.arg(8),
                out.arg(8),
                faults.arg(1),
                width / 8,
            );
        }
        Ok(())
    }

    /// Adds `delta`, if any, to `rows` rows of `residual`; `out` gets the norm.
    #[expect(clippy::too_many_arguments, reason = "a kernel's buffers, one by one")]
    pub(super) fn add_norm(
        &self,
        residual: &Buffer<f32>,
        delta: Option<&Product>,
        gain: &Buffer<f32>,
        out: &Buffer<bf16>,
        faults: &Buffer<u32>,
        rows: usize,
        eps: f32,
        layer: u32,
    ) -> Result<()> {
        let width = gain.len();
        multiple("the hidden size", width, 8)?;
        require("residual", residual, rows * width)?;
        require("out", out, rows * width)?;
        require("faults", faults, rows)?;
        if let Some(delta) = delta {
            delta.require("delta", rows * width)?;
        }
        let planes = (width / 8).div_ceil(32).min(16) as u32;
        // SAFETY: sizes are checked above; without a delta it is not read.
        unsafe {
            add_norm::launch_unchecked(
                self.client(),
                cubes(rows),
                CubeDim::new_1d(planes * 32),
                residual.arg(8),
                delta.map_or_else(|| out.arg(8), |delta| delta.arg(8)),
                gain.arg(8),
                out.arg(8),
                faults.arg(1),
                eps,
                layer,
                width / 8,
                planes,
                delta.map_or(0, Product::count),
                delta.map_or(BF16, Product::element),
            );
        }
        Ok(())
    }

    /// Norms and rotates the heads of `qkv`, and writes keys and values.
    #[expect(clippy::too_many_arguments, reason = "a kernel's buffers, one by one")]
    pub(super) fn qk_norm_rope_write_kv<T: Stored>(
        &self,
        qkv: &Product,
        gains: [&Buffer<f32>; 2],
        angles: [&Buffer<f32>; 2],
        places: &Places,
        queries: &Buffer<bf16>,
        pool: &Pool<T>,
        faults: &Buffer<u32>,
        rows: usize,
        eps: f32,
        layer: u32,
        heads: Heads,
    ) -> Result<()> {
        let all = heads.queries + 2 * heads.kv;
        let normed = (heads.queries + heads.kv).div_ceil(HEADS as usize);
        let planes = rows * normed + rows.div_ceil(TOGETHER as usize) * heads.kv;
        qkv.require("qkv", rows * all * heads.dim)?;
        require("queries", queries, rows * heads.queries * heads.dim)?;
        require("positions", &places.positions, rows)?;
        require("slots", &places.slots, rows)?;
        require("q gain", gains[0], heads.dim)?;
        require("k gain", gains[1], heads.dim)?;
        require("faults", faults, rows)?;
        // SAFETY: positions are below the context length, for which angles and
        // page table were made; pages in the table are below the pool's number.
        unsafe {
            qk_norm_rope_write_kv::launch_unchecked(
                self.client(),
                cubes(planes.div_ceil(8)),
                CubeDim::new_1d(256),
                qkv.arg(2),
                gains[0].arg(2),
                gains[1].arg(2),
                angles[0].arg(2),
                angles[1].arg(2),
                places.positions.arg(1),
                places.slots.arg(1),
                places.pages.arg(1),
                queries.arg(2),
                pool.keys.arg_of::<u32>(1),
                if T::CODES { pool.values.arg_of::<u8>(1) } else { pool.values.arg(1) },
                pool.values.arg_of::<u32>(T::words()),
                pool.values.arg_of::<u32>(1),
                faults.arg(1),
                eps,
                places.stride as u32,
                rows as u32,
                layer,
                heads.queries as u32,
                heads.kv as u32,
                heads.dim as u32,
                PAGE as u32,
                qkv.count(),
                T::CODES,
                qkv.element(),
                if T::CODES { BYTE } else { BF16 },
                T::words(),
            );
        }
        Ok(())
    }

    /// Attention of single rows, each over all its keys; `splits` is enough for
    /// the longest row.
    #[expect(clippy::too_many_arguments, reason = "a kernel's buffers, one by one")]
    pub(super) fn attend_rows<T: Stored>(
        &self,
        queries: &Buffer<bf16>,
        pool: &Pool<T>,
        places: &Places,
        partial: &Buffer<f32>,
        stats: &Buffer<f32>,
        out: &Buffer<bf16>,
        rows: usize,
        splits: usize,
        heads: Heads,
    ) -> Result<()> {
        heads.check()?;
        let width = heads.queries * heads.dim;
        require("queries", queries, rows * width)?;
        require("out", out, rows * width)?;
        require("partial", partial, rows * width * splits)?;
        require("stats", stats, rows * heads.queries * splits * 2)?;
        require("positions", &places.positions, rows)?;
        require("slots", &places.slots, rows)?;
        // Two splits to a cube, unless that would leave many multiprocessors idle.
        let pairs = rows * heads.kv * splits.div_ceil(2);
        let halves = if 4 * pairs >= 3 * self.multiprocessors() { 2 } else { 1 };
        // SAFETY: as for writing keys and values; `splits · SPLIT` is above
        // every position, which the engine sees to.
        unsafe {
            attend_split::launch_unchecked(
                self.client(),
                CubeCount::Static((splits as u32).div_ceil(halves), heads.kv as u32, rows as u32),
                CubeDim::new_1d(decode::UNITS),
                queries.arg(8),
                pool.keys.arg_of::<u32>(T::words()),
                pool.values.arg_of::<u32>(T::words()),
                places.positions.arg(1),
                places.slots.arg(1),
                places.pages.arg(1),
                partial.arg(1),
                stats.arg(1),
                places.stride as u32,
                splits as u32,
                heads.scale(),
                heads.queries,
                heads.kv,
                heads.dim,
                halves,
                T::CODES,
                T::words(),
            );
            merge_splits::launch_unchecked(
                self.client(),
                CubeCount::Static(heads.queries as u32, rows as u32, 1),
                CubeDim::new_1d(heads.dim as u32),
                partial.arg(1),
                stats.arg(1),
                places.positions.arg(1),
                out.arg(1),
                splits as u32,
                heads.queries,
                heads.dim,
                halves,
            );
        }
        Ok(())
    }

    /// Attention of tiles of consecutive rows: `tiles` holds [`TILE_WORDS`] of each,
    /// those that see most keys first.
    #[expect(clippy::too_many_arguments, reason = "a kernel's buffers, one by one")]
    pub(super) fn attend_tiles(
        &self,
        queries: &Buffer<bf16>,
        pool: &Pool<bf16>,
        places: &Places,
        tiles: &Buffer<u32>,
        out: &Buffer<bf16>,
        rows: usize,
        heads: Heads,
    ) -> Result<()> {
        heads.check()?;
        let width = heads.queries * heads.dim;
        require("queries", queries, rows * width)?;
        require("out", out, rows * width)?;
        multiple("the length of tiles", tiles.len(), TILE_WORDS)?;
        let items = tiles.len() / TILE_WORDS * heads.queries;
        // SAFETY: as for writing keys and values; tiles lie within the rows, and have some.
        unsafe {
            attend_tiles::launch_unchecked(
                self.client(),
                cubes(items.min(self.multiprocessors())),
                CubeDim::new_1d(prefill::UNITS),
                queries.arg(2),
                pool.keys.arg(1),
                pool.values.arg(1),
                tiles.arg(1),
                places.pages.arg(1),
                out.arg(2),
                places.stride as u32,
                heads.scale(),
                heads.queries as u32,
                heads.kv as u32,
                heads.dim,
            );
        }
        Ok(())
    }

    /// Writes pages `from` of codes as the first pages of `wide`.
    pub(super) fn widen_pages(
        &self,
        pool: &Pool<u32>,
        from: &Buffer<u32>,
        wide: &Pool<bf16>,
        heads: Heads,
    ) -> Result<()> {
        heads.check()?;
        let len = from.len() * heads.kv * <bf16 as Stored>::page(heads.dim);
        require("keys as bf16", &wide.keys, len)?;
        require("values as bf16", &wide.values, len)?;
        // SAFETY: `from` holds pages of the pool; the kernel writes as many as it has.
        unsafe {
            widen_pages::launch_unchecked(
                self.client(),
                CubeCount::Static(from.len() as u32, heads.kv as u32, 1),
                CubeDim::new_1d(256),
                from.arg(1),
                pool.keys.arg(2),
                pool.keys.arg(1),
                pool.values.arg(2),
                pool.values.arg(1),
                wide.keys.arg(8),
                wide.values.arg(8),
                heads.kv,
                heads.dim,
            );
        }
        Ok(())
    }

    /// Zeroes all of `buffer`.
    pub(super) fn clear<T: Value>(&self, buffer: &Buffer<T>) -> Result<()> {
        multiple("the bytes of a buffer", buffer.len() * size_of::<T>(), 16)?;
        // SAFETY: the kernel stays within the buffer.
        unsafe {
            clear::launch_unchecked(
                self.client(),
                cubes(8 * self.multiprocessors()),
                CubeDim::new_1d(256),
                buffer.arg_of::<u32>(4),
            );
        }
        Ok(())
    }

    /// The rows of `from` at `index`.
    pub(super) fn take_rows<T: Value + cubecl::prelude::Scalar>(
        &self,
        from: &Buffer<T>,
        index: &Buffer<u32>,
        out: &Buffer<T>,
        width: usize,
    ) -> Result<()> {
        multiple("the width of rows", width, 8)?;
        require("out", out, index.len() * width)?;
        // SAFETY: `index` holds rows of `from`.
        unsafe {
            take_rows::launch_unchecked::<T>(
                self.client(),
                cubes(index.len()),
                CubeDim::new_1d(128),
                from.arg(8),
                index.arg(1),
                out.arg(8),
                width / 8,
            );
        }
        Ok(())
    }

    /// The numbers of `from` at `index`.
    pub(super) fn take(&self, from: &Buffer<u32>, index: &Buffer<u32>, out: &Buffer<u32>) -> Result<()> {
        require("out", out, index.len())?;
        // SAFETY: `index` holds places of `from`.
        unsafe {
            take::launch_unchecked(
                self.client(),
                cubes(index.len().div_ceil(128)),
                CubeDim::new_1d(128),
                from.arg(1),
                index.arg(1),
                out.arg(1),
            );
        }
        Ok(())
    }

    /// Chooses the next token of every row, as the settings of its slot say.
    pub(super) fn sample(
        &self,
        logits: &Buffer<f32>,
        rows: &Buffer<u32>,
        faults: &Buffer<u32>,
        slots: &SlotSettings,
        chosen: &Buffer<u32>,
        vocabulary: usize,
    ) -> Result<()> {
        require("logits", logits, rows.len() * vocabulary)?;
        require("faults", faults, rows.len())?;
        require("chosen", chosen, 2 * rows.len())?;
        // SAFETY: sizes are checked above; `rows` holds slots.
        unsafe {
            sample::launch_unchecked(
                self.client(),
                cubes(rows.len()),
                CubeDim::new_1d(UNITS),
                logits.arg(1),
                rows.arg(1),
                faults.arg(1),
                slots.temperatures.arg(1),
                slots.top_ps.arg(1),
                slots.top_ks.arg(1),
                slots.seeds.arg(1),
                slots.lengths.arg(1),
                slots.tokens.arg(1),
                chosen.arg(1),
                vocabulary as u32,
            );
        }
        Ok(())
    }

    /// What the log-probabilities of `targets` are made of: two numbers a row.
    pub(super) fn log_prob(
        &self,
        logits: &Buffer<f32>,
        targets: &Buffer<u32>,
        out: &Buffer<f32>,
        vocabulary: usize,
    ) -> Result<()> {
        require("logits", logits, targets.len() * vocabulary)?;
        require("out", out, 2 * targets.len())?;
        // SAFETY: sizes are checked above; targets are ids or absent.
        unsafe {
            log_prob::launch_unchecked(
                self.client(),
                cubes(targets.len()),
                CubeDim::new_1d(UNITS),
                logits.arg(1),
                targets.arg(1),
                out.arg(1),
                vocabulary as u32,
            );
        }
        Ok(())
    }
}

/// What every slot of the batch has on the device.
#[derive(Debug, Clone)]
pub(super) struct SlotSettings {
    pub(super) temperatures: Buffer<f32>,
    pub(super) top_ps: Buffer<f32>,
    pub(super) top_ks: Buffer<u32>,
    /// Two words a slot.
    pub(super) seeds: Buffer<u32>,
    /// Tokens of the reply so far.
    pub(super) lengths: Buffer<u32>,
    /// The last token.
    pub(super) tokens: Buffer<u32>,
    /// The position of the next token.
    pub(super) positions: Buffer<u32>,
}

/// Splits that a row at `position` needs.
pub(super) fn splits(position: usize) -> usize {
    position / SPLIT + 1
}
