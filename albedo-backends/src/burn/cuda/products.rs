//! Products `x · weightᵀ`: what their results are, and how they are launched.

use albedo_core::{Error, ErrorKind, Result};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::{BufferArg, CubeCount, CubeDim, Float};
use cubecl::std::tensor::TensorHandle;
use cubek::matmul::kernels::tensor::{PlainTensor, StoredTensor};
use cubek::matmul::kernels::{CubeStagedMatmulRoutine, CubeStagedMatmulRoutineSettings, MatmulRoutine};
use cubek::std::Hardware;
use half::bf16;

use super::device::{Buffer, Gpu, Value};
use super::kernels::product::{SHARES, product, product_of_shares};
use super::launch::{BF16, OPERATION, cubes, multiple, require};

/// A product of few rows whose cubes take all shares of k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole {
    /// Tiles of 16 rows of the weight that a cube takes.
    pub(super) weight_tiles: usize,
    /// Tiles of 8 rows of `x`.
    pub(super) token_tiles: usize,
    /// Rounds of k that are read ahead.
    pub(super) rounds: usize,
}

/// A product of few rows whose cubes take some shares of k, and more rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByShares {
    /// Planes of a cube.
    pub(super) planes: usize,
    /// Tiles of 16 rows of the weight that a plane takes.
    pub(super) weight_tiles: usize,
    /// Tiles of 8 rows of `x` that a cube takes.
    pub(super) token_tiles: usize,
    /// Shares of k that a cube takes: 1, 2, 4 or 8.
    pub(super) shares: usize,
    /// Rounds of k that are read ahead.
    pub(super) rounds: usize,
}

impl ByShares {
    /// The sums that a result is left in.
    fn count(self) -> usize {
        SHARES as usize / self.shares
    }
}

/// How few rows are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FewRows {
    Whole(Whole),
    ByShares(ByShares),
}

impl FewRows {
    /// The sums that a result is left in; 1 if it is whole.
    pub(super) fn count(self) -> usize {
        match self {
            Self::Whole(_) => 1,
            Self::ByShares(settings) => settings.count(),
        }
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
    /// `out` is `[count, rows, width]`. `x` has room for a multiple of the rows
    /// that a cube takes, and a whole product is of at most these.
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
        let (weight_rows, token_tiles) = match settings {
            FewRows::Whole(Whole { weight_tiles, token_tiles, .. }) => (16 * weight_tiles, token_tiles),
            FewRows::ByShares(ByShares { planes, weight_tiles, token_tiles, .. }) => {
                (16 * weight_tiles * planes, token_tiles)
            }
        };
        let tokens = 8 * token_tiles;
        if matches!(settings, FewRows::Whole(_)) && rows > tokens {
            return Err(Error::bug(OPERATION, format!("{rows} rows of a product that takes {tokens}")));
        }
        multiple("the width of a product's input", k, 32)?;
        multiple("the width of a product's result", width, weight_rows)?;
        require("weight", weight, k * width)?;
        require("x", x, rows.next_multiple_of(tokens) * k)?;
        require("out", out, settings.count() * rows * width)?;
        let (client, weight, x, out) = (self.client(), weight.arg(8), x.arg(8), out.arg(1));
        // SAFETY: sizes are checked above.
        unsafe {
            match settings {
                FewRows::Whole(Whole { weight_tiles, rounds, .. }) => product::launch_unchecked::<T>(
                    client,
                    cubes(width / weight_rows),
                    CubeDim::new_1d(SHARES * 32),
                    weight,
                    x,
                    out,
                    width as u32,
                    rows as u32,
                    k,
                    weight_tiles,
                    token_tiles,
                    rounds,
                ),
                FewRows::ByShares(ByShares { planes, weight_tiles, shares, rounds, .. }) => {
                    let count = settings.count() as u32;
                    let tiles = rows.div_ceil(tokens) as u32;
                    product_of_shares::launch_unchecked::<T>(
                        client,
                        CubeCount::Static(count, (width / weight_rows) as u32, tiles),
                        CubeDim::new_1d(32 * planes as u32),
                        weight,
                        x,
                        out,
                        width as u32,
                        rows as u32,
                        k,
                        planes,
                        weight_tiles,
                        token_tiles,
                        shares,
                        rounds,
                    );
                }
            }
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
