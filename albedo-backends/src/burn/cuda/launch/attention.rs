//! Launches of what attention is made of: heads, keys and values in pages, attention over them.

use albedo_core::Result;
use cubecl::prelude::{CubeCount, CubeDim};
use half::bf16;

use super::{BF16, BYTE, Heads, Places, Pool, Stored, cubes, multiple, require};
use crate::burn::cuda::device::{Buffer, Gpu};
use crate::burn::cuda::kernels::attention::PAGE;
use crate::burn::cuda::kernels::attention::decode::{self, attend_split, merge_splits};
use crate::burn::cuda::kernels::attention::prefill::{self, TILE_WORDS, attend_tiles};
use crate::burn::cuda::kernels::codes::widen_pages;
use crate::burn::cuda::kernels::rows::{HEADS, TOGETHER, qk_norm_rope_write_kv};
use crate::burn::cuda::products::Product;

/// What [`Gpu::qk_norm_rope_write_kv`] reads and writes.
pub(in crate::burn::cuda) struct WriteKv<'a, T> {
    /// Joined heads, `[rows, queries + 2 · kv, dim]`.
    pub(in crate::burn::cuda) qkv: &'a Product,
    /// Of queries and of keys.
    pub(in crate::burn::cuda) gains: [&'a Buffer<f32>; 2],
    /// Cosines and sines, `[position, dim / 2]`.
    pub(in crate::burn::cuda) angles: [&'a Buffer<f32>; 2],
    pub(in crate::burn::cuda) places: &'a Places,
    /// Gets the queries, `[rows, queries, dim]`.
    pub(in crate::burn::cuda) queries: &'a Buffer<bf16>,
    /// Gets keys and values.
    pub(in crate::burn::cuda) pool: &'a Pool<T>,
    pub(in crate::burn::cuda) faults: &'a Buffer<u32>,
    pub(in crate::burn::cuda) rows: usize,
    /// Whether no two rows are of one slot.
    pub(in crate::burn::cuda) apart: bool,
    pub(in crate::burn::cuda) eps: f32,
    pub(in crate::burn::cuda) layer: u32,
    pub(in crate::burn::cuda) heads: Heads,
}

/// What [`Gpu::attend_rows`] reads and writes.
pub(in crate::burn::cuda) struct AttendRows<'a, T> {
    pub(in crate::burn::cuda) queries: &'a Buffer<bf16>,
    pub(in crate::burn::cuda) pool: &'a Pool<T>,
    pub(in crate::burn::cuda) places: &'a Places,
    /// Room for the results of splits, `[rows, splits, queries, dim]`, and for two numbers
    /// about each.
    pub(in crate::burn::cuda) partial: &'a Buffer<f32>,
    pub(in crate::burn::cuda) stats: &'a Buffer<f32>,
    pub(in crate::burn::cuda) out: &'a Buffer<bf16>,
    pub(in crate::burn::cuda) rows: usize,
    /// Enough for the longest row.
    pub(in crate::burn::cuda) splits: usize,
    pub(in crate::burn::cuda) heads: Heads,
}

/// What [`Gpu::attend_tiles`] reads and writes.
pub(in crate::burn::cuda) struct AttendTiles<'a> {
    pub(in crate::burn::cuda) queries: &'a Buffer<bf16>,
    pub(in crate::burn::cuda) pool: &'a Pool<bf16>,
    pub(in crate::burn::cuda) places: &'a Places,
    /// [`TILE_WORDS`] of each, those that see most keys first.
    pub(in crate::burn::cuda) tiles: &'a Buffer<u32>,
    pub(in crate::burn::cuda) out: &'a Buffer<bf16>,
    pub(in crate::burn::cuda) rows: usize,
    pub(in crate::burn::cuda) heads: Heads,
}

impl Gpu {
    /// Norms and rotates the heads of `qkv`, and writes keys and values.
    pub(in crate::burn::cuda) fn qk_norm_rope_write_kv<T: Stored>(
        &self,
        args: &WriteKv<'_, T>,
    ) -> Result<()> {
        let WriteKv { qkv, gains, angles, places, queries, pool, faults, rows, apart, eps, layer, heads } =
            *args;
        let all = heads.queries + 2 * heads.kv;
        let normed = (heads.queries + heads.kv).div_ceil(HEADS as usize);
        let together = if apart { 1 } else { TOGETHER };
        let planes = rows * normed + rows.div_ceil(together as usize) * heads.kv;
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
                together,
                T::CODES,
                qkv.element(),
                if T::CODES { BYTE } else { BF16 },
                T::words(),
            );
        }
        Ok(())
    }

    /// Attention of single rows, each over all its keys.
    pub(in crate::burn::cuda) fn attend_rows<T: Stored>(&self, args: &AttendRows<'_, T>) -> Result<()> {
        let AttendRows { queries, pool, places, partial, stats, out, rows, splits, heads } = *args;
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
                cubes((rows * width / 4).div_ceil(decode::MERGE_UNITS as usize)),
                CubeDim::new_1d(decode::MERGE_UNITS),
                partial.arg(4),
                stats.arg(1),
                places.positions.arg(1),
                out.arg(4),
                splits as u32,
                rows as u32,
                heads.queries,
                heads.dim,
                halves,
            );
        }
        Ok(())
    }

    /// Attention of tiles of consecutive rows.
    pub(in crate::burn::cuda) fn attend_tiles(&self, args: &AttendTiles<'_>) -> Result<()> {
        let AttendTiles { queries, pool, places, tiles, out, rows, heads } = *args;
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
    pub(in crate::burn::cuda) fn widen_pages(
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
}
