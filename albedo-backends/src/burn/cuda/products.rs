//! Products `x · weightᵀ`: what their results are, and how they are launched.

use albedo_core::{Error, Result};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::{
    BufferArg, CubeCount, CubeDim, Float, TensorArg, TensorMapArg, TensorMapPrefetch, TensorMapSwizzle,
    Tiled, TiledArgs,
};
use cubecl::zspace::strides;
use half::bf16;

use super::device::{Buffer, Gpu, Value};
use super::kernels::product_few::{STAGE, TOKENS, product_few};
use super::kernels::product_many::{DEPTH, STAGES, TILE_ROWS, UNITS, panel, product_many};
use super::launch::{BF16, OPERATION, multiple, require};

/// How a product of few rows is cut into cubes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FewRows {
    /// Split-K: the parts that k is split into, 1, 2, 4 or 8, each a sum of its own. The bits
    /// of a result depend on it.
    pub(super) split_k: usize,
    /// Most rows of `x` that a cube takes: 8, 16, 32, 64 or 128.
    pub(super) tokens: usize,
    /// Rows of the weight that a cube takes: a multiple of 8, at most 256; of gate and
    /// up joined, a multiple of 16.
    pub(super) columns: usize,
    /// Stages of k that are under way at once.
    pub(super) ahead: usize,
}

/// Rows of tiles that are taken together.
const GROUP: u32 = 16;

/// The sizes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProductSize {
    pub(super) rows: usize,
    pub(super) k: usize,
    /// Of the result.
    pub(super) width: usize,
    /// Whether the weight is gate and up joined.
    pub(super) gated: bool,
}

/// The result of a product.
#[derive(Debug, Clone)]
pub(super) enum Product {
    /// Rounded.
    Rounded(Buffer<bf16>),
    /// In the `count` sums of split-K, `[count, rows, width]`, for the kernel that reads it
    /// to add and round.
    SplitK { sums: Buffer<f32>, count: usize },
}

impl Product {
    /// How many sums a value has.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Rounded(_) => 1,
            Self::SplitK { count, .. } => *count,
        }
    }

    /// What a value is.
    pub(super) fn element(&self) -> ElemType {
        match self {
            Self::Rounded(_) => BF16,
            Self::SplitK { .. } => ElemType::Float(FloatKind::F32),
        }
    }

    /// The result as a kernel's argument, in vectors of `vector` values.
    pub(super) fn arg(&self, vector: usize) -> BufferArg {
        match self {
            Self::Rounded(values) => values.arg(vector),
            Self::SplitK { sums, .. } => sums.arg(vector),
        }
    }

    /// Checks that this is `len` values.
    pub(super) fn require(&self, name: &str, len: usize) -> Result<()> {
        match self {
            Self::Rounded(values) => require(name, values, len),
            // Where a part's sums begin is reckoned from how many there are.
            Self::SplitK { sums, count } if sums.len() == count * len => Ok(()),
            Self::SplitK { sums, count } => Err(Error::bug(
                OPERATION,
                format!("`{name}` is {count} sums of {} values, not of {len}", sums.len() / count),
            )),
        }
    }
}

impl Gpu {
    /// `x · weightᵀ` for few rows, in as many sums as `cut` says, `[split_k,
    /// rows, width]`; for a weight that is gate and up joined, `silu(x · gateᵀ) · (x ·
    /// upᵀ)`, whose k is not split.
    pub(super) fn product_of_few<T: Value + Float>(
        &self,
        weight: &Buffer<bf16>,
        x: &Buffer<bf16>,
        out: &Buffer<T>,
        size: ProductSize,
        cut: FewRows,
    ) -> Result<()> {
        let ProductSize { rows, k, width, gated } = size;
        let FewRows { split_k, tokens, columns, ahead } = cut;
        multiple("the width of a product's input", k, 8)?;
        multiple("the width of a product's result", width, 8)?;
        if gated && split_k > 1 {
            return Err(Error::bug(OPERATION, "gate and up with split-K"));
        }
        let outputs = if gated { 2 * width } else { width };
        require("weight", weight, k * outputs)?;
        require("x", x, rows * k)?;
        require("out", out, split_k * rows * width)?;
        let wide = if gated { columns / 2 } else { columns };
        // SAFETY: sizes are checked above; the copy engine reads nothing outside of them.
        unsafe {
            product_few::launch_unchecked::<T>(
                self.client(),
                CubeCount::Static(split_k as u32, rows.div_ceil(tokens) as u32, width.div_ceil(wide) as u32),
                CubeDim::new_1d((128 * tokens.div_ceil(TOKENS) + 32) as u32),
                boxes(weight, [outputs, k], [wide, STAGE], TensorMapSwizzle::B128),
                boxes(x, [rows, k], [tokens, STAGE], TensorMapSwizzle::B128),
                out.arg(2),
                width as u32,
                rows as u32,
                k.div_ceil(STAGE * split_k),
                split_k,
                tokens,
                columns,
                ahead,
                gated,
            );
        }
        Ok(())
    }

    /// `out = x · weightᵀ` for many rows; for a weight that is gate and up joined,
    /// `silu(x · gateᵀ) · (x · upᵀ)`. A tile takes `columns` rows of the weight: 128,
    /// 160, 192 or 256, or of gate and up joined 192 or 256. Bits do not depend on it.
    pub(super) fn product_of_many(
        &self,
        weight: &Buffer<bf16>,
        x: &Buffer<bf16>,
        out: &Buffer<bf16>,
        size: ProductSize,
        columns: usize,
    ) -> Result<()> {
        let ProductSize { rows, k, width, gated } = size;
        multiple("the width of a product's input", k, 8)?;
        multiple("the width of a product's result", width, 8)?;
        let outputs = if gated { 2 * width } else { width };
        require("weight", weight, k * outputs)?;
        require("x", x, rows * k)?;
        require("out", out, rows * width)?;
        let wide = if gated { columns / 2 } else { columns };
        let panel = panel(wide);
        let (tile_rows, tile_columns) = (rows.div_ceil(TILE_ROWS), width.div_ceil(wide));
        let cubes = (tile_rows * tile_columns).min(self.multiprocessors());
        let turn = if panel == 64 { TensorMapSwizzle::B128 } else { TensorMapSwizzle::B64 };
        // SAFETY: sizes are checked above; the copy engine reads and writes nothing outside of them.
        unsafe {
            product_many::launch_unchecked(
                self.client(),
                CubeCount::Static(cubes as u32, 1, 1),
                CubeDim::new_1d(UNITS),
                boxes(x, [rows, k], [TILE_ROWS, DEPTH], TensorMapSwizzle::B128),
                boxes(weight, [outputs, k], [wide, DEPTH], TensorMapSwizzle::B128),
                boxes(out, [rows, width], [64, panel], turn),
                k.div_ceil(STAGES * DEPTH) as u32,
                tile_rows as u32,
                tile_columns as u32,
                width as u32,
                columns,
                gated,
                GROUP,
            );
        }
        Ok(())
    }
}

/// A matrix for the copy engine, in boxes of rows and columns, whose rows are turned
/// by `turn`.
///
/// # Safety
/// `values` is at least as long as `shape` says.
unsafe fn boxes(
    values: &Buffer<bf16>,
    shape: [usize; 2],
    size: [usize; 2],
    turn: TensorMapSwizzle,
) -> TensorMapArg<Tiled> {
    let strides = strides![shape[1], 1];
    // SAFETY: the caller's.
    let tensor = unsafe { TensorArg::from_raw_parts(values.handle(), strides, shape.into()) };
    TensorMapArg::new(TiledArgs { tile_size: size.into() }, tensor, BF16)
        .with_swizzle(turn)
        .with_prefetch(TensorMapPrefetch::B256)
}
