//! Launches of what goes row by row: inputs, embedding, norms, and copies of rows.

use albedo_core::Result;
use cubecl::prelude::CubeDim;
use half::bf16;

use super::{BF16, cubes, multiple, require};
use crate::burn::cuda::device::{Buffer, Gpu, Value};
use crate::burn::cuda::kernels::rows::{add_norm, clear, decode_inputs, embed, take, take_rows};
use crate::burn::cuda::products::Product;

/// What [`Gpu::add_norm`] reads and writes.
pub(in crate::burn::cuda) struct AddNorm<'a> {
    pub(in crate::burn::cuda) residual: &'a Buffer<f32>,
    /// What is added to it.
    pub(in crate::burn::cuda) delta: Option<&'a Product>,
    pub(in crate::burn::cuda) gain: &'a Buffer<f32>,
    /// Gets the norm.
    pub(in crate::burn::cuda) out: &'a Buffer<bf16>,
    pub(in crate::burn::cuda) faults: &'a Buffer<u32>,
    pub(in crate::burn::cuda) rows: usize,
    pub(in crate::burn::cuda) eps: f32,
    /// What a fault is put down to.
    pub(in crate::burn::cuda) layer: u32,
}

impl Gpu {
    /// Takes tokens and positions of the sequences in `rows` and moves them on;
    /// those of slot `padding` stay at position 0.
    pub(in crate::burn::cuda) fn decode_inputs(
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
    pub(in crate::burn::cuda) fn embed(
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

    /// Adds `delta`, if any, to rows of `residual`; `out` gets the norm.
    pub(in crate::burn::cuda) fn add_norm(&self, args: &AddNorm<'_>) -> Result<()> {
        let AddNorm { residual, delta, gain, out, faults, rows, eps, layer } = *args;
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

    /// Zeroes all of `buffer`.
    pub(in crate::burn::cuda) fn clear<T: Value>(&self, buffer: &Buffer<T>) -> Result<()> {
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
    pub(in crate::burn::cuda) fn take_rows<T: Value + cubecl::prelude::Scalar>(
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
    pub(in crate::burn::cuda) fn take(
        &self,
        from: &Buffer<u32>,
        index: &Buffer<u32>,
        out: &Buffer<u32>,
    ) -> Result<()> {
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
}
