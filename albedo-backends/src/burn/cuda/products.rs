//! Products `x · weightᵀ`: what their results are, and how they are launched.

use albedo_core::{Error, ErrorKind, Result};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::{
    BufferArg, CubeCount, CubeDim, Float, TensorArg, TensorMapArg, TensorMapSwizzle, Tiled, TiledArgs,
};
use cubecl::std::tensor::TensorHandle;
use cubecl::zspace::{shape, strides};
use cubek::matmul::kernels::tensor::{PlainTensor, StoredTensor};
use cubek::matmul::kernels::{CubeStagedMatmulRoutine, CubeStagedMatmulRoutineSettings, MatmulRoutine};
use cubek::std::Hardware;
use half::bf16;

use super::device::{Buffer, Gpu, Value};
use super::kernels::product::{SHARES, STAGE, product};
use super::launch::{BF16, OPERATION, multiple, require};

/// How a product of few rows is cut into cubes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FewRows {
    /// Planes along the rows of the weight.
    pub(super) weight_planes: usize,
    /// Planes along the rows of `x`.
    pub(super) token_planes: usize,
    /// Tiles of 16 rows of the weight that a plane takes.
    pub(super) weight_tiles: usize,
    /// Tiles of 8 rows of `x` that a plane takes.
    pub(super) token_tiles: usize,
    /// Shares of k that a cube takes: 1, 2, 4 or 8.
    pub(super) shares: usize,
    /// Stages of k that are under way at once.
    pub(super) ahead: usize,
}

impl FewRows {
    /// The sums that a result is left in; 1 if it is whole.
    pub(super) fn count(self) -> usize {
        SHARES as usize / self.shares
    }

    /// Rows of the weight that a cube takes.
    pub(super) fn weights(self) -> usize {
        16 * self.weight_tiles * self.weight_planes
    }

    /// Rows of `x` that a cube takes.
    pub(super) fn tokens(self) -> usize {
        8 * self.token_tiles * self.token_planes
    }
}

/// The result of a product.
#[derive(Debug, Clone)]
pub(super) enum Product {
    /// Rounded.
    Rounded(Buffer<bf16>),
    /// In `count` sums of shares, `[count, rows, width]`, for whoever reads it to
    /// add and round.
    InShares { sums: Buffer<f32>, count: usize },
}

impl Product {
    /// The sums of a value.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Rounded(_) => 1,
            Self::InShares { count, .. } => *count,
        }
    }

    /// What a value is.
    pub(super) fn element(&self) -> ElemType {
        match self {
            Self::Rounded(_) => BF16,
            Self::InShares { .. } => ElemType::Float(FloatKind::F32),
        }
    }

    /// The result as a kernel's argument, in vectors of `vector` values.
    pub(super) fn arg(&self, vector: usize) -> BufferArg {
        match self {
            Self::Rounded(values) => values.arg(vector),
            Self::InShares { sums, .. } => sums.arg(vector),
        }
    }

    /// Checks that this is `len` values.
    pub(super) fn require(&self, name: &str, len: usize) -> Result<()> {
        match self {
            Self::Rounded(values) => require(name, values, len),
            // Where a share begins is reckoned from how many there are.
            Self::InShares { sums, count } if sums.len() == count * len => Ok(()),
            Self::InShares { sums, count } => Err(Error::bug(
                OPERATION,
                format!("`{name}` is {count} sums of {} values, not of {len}", sums.len() / count),
            )),
        }
    }
}

impl Gpu {
    /// `x · weightᵀ` for few rows, in as many sums of shares as `settings` leave:
    /// `out` is `[count, rows, width]`.
    #[expect(clippy::too_many_arguments, reason = "a kernel's buffers, one by one")]
    pub(super) fn product_of_few<T: Value + Float>(
        &self,
        weight: &Buffer<bf16>,
        x: &Buffer<bf16>,
        out: &Buffer<T>,
        rows: usize,
        k: usize,
        width: usize,
        settings: FewRows,
    ) -> Result<()> {
        multiple("the width of a product's input", k, 8)?;
        require("weight", weight, k * width)?;
        require("x", x, rows * k)?;
        require("out", out, settings.count() * rows * width)?;
        let FewRows { weight_planes, token_planes, weight_tiles, token_tiles, shares, ahead } = settings;
        let (weights, tokens) = (settings.weights(), settings.tokens());
        // SAFETY: sizes are checked above.
        unsafe {
            product::launch_unchecked::<T>(
                self.client(),
                CubeCount::Static(
                    settings.count() as u32,
                    rows.div_ceil(tokens) as u32,
                    width.div_ceil(weights) as u32,
                ),
                CubeDim::new_1d((32 * weight_planes * token_planes) as u32),
                boxes(weight, [width, k], weights),
                boxes(x, [rows, k], tokens),
                out.arg(1),
                width as u32,
                rows as u32,
                k,
                weight_planes,
                token_planes,
                weight_tiles,
                token_tiles,
                shares,
                ahead,
            );
        }
        Ok(())
    }

    /// `out = x · weightᵀ` for many rows, by `CubeK`.
    #[expect(clippy::too_many_arguments, reason = "a kernel's buffers, one by one")]
    pub(super) fn product_many(
        &self,
        hardware: &Hardware,
        weight: &Buffer<bf16>,
        x: &Buffer<bf16>,
        out: &Buffer<bf16>,
        rows: usize,
        k: usize,
        width: usize,
        settings: &CubeStagedMatmulRoutineSettings,
    ) -> Result<()> {
        require("weight", weight, k * width)?;
        require("x", x, rows * k)?;
        require("out", out, rows * width)?;
        let plain = |buffer: &Buffer<bf16>, shape: [usize; 2], strides: [usize; 2]| {
            PlainTensor::of_handle(TensorHandle::new(buffer.handle(), shape, strides, BF16))
        };
        CubeStagedMatmulRoutine
            .launch_into(
                hardware,
                self.client(),
                StoredTensor::Plain(plain(x, [rows, k], [k, 1])),
                StoredTensor::Plain(plain(weight, [k, width], [1, k])),
                plain(out, [rows, width], [width, 1]),
                settings,
            )
            .map_err(|refusal| {
                Error::new(
                    ErrorKind::Unsupported,
                    OPERATION,
                    format!("a product of {rows} × {k} × {width}: {refusal}"),
                )
            })
    }
}

/// A matrix for the copy engine, in boxes of `rows` rows and a stage of columns,
/// whose rows are turned by 128 bytes.
///
/// # Safety
/// `values` is as long as `shape` says.
unsafe fn boxes(values: &Buffer<bf16>, shape: [usize; 2], rows: usize) -> TensorMapArg<Tiled> {
    let strides = strides![shape[1], 1];
    // SAFETY: the caller's.
    let tensor = unsafe { TensorArg::from_raw_parts(values.handle(), strides, shape.into()) };
    TensorMapArg::new(TiledArgs { tile_size: shape![rows, STAGE] }, tensor, BF16)
        .with_swizzle(TensorMapSwizzle::B128)
}
