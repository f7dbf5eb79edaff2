//! The settings of the kernels, pinned: nothing is measured at run time, so that
//! every process computes the same bits. `measurements.rs` makes them; those here
//! are of an H100.

use std::num::NonZeroUsize;

use albedo_core::Digest;
use cubecl::tile::space::CubeOrder;
use cubek::matmul::kernels::CubeStagedMatmulRoutineSettings;
use cubek::microkernel::matmul::cube::{
    CubeStagedDelivery, CubeStagedFill, CubeStagedMicrokernelSettings, MatmulPlaneLayout,
};
use cubek::microkernel::matmul::plane::{PlaneFragmentMicrokernelSettings, PlaneFragmentTransport};
use cubek::std::microkernel::StageRing;

use super::kernels::attention::{PAGE, SPLIT};
use super::kernels::product::SHARES;
use super::products::FewRows;

/// A box of 128 × 128 for eight planes, three stages of 64 deep that a ninth
/// plane fills through the copy engine. The fastest, or within 4 % of it, of 61
/// settings on all four shapes of Qwen3-4B at 4096 and 8192 rows: 297 to 385
/// TFLOP/s (ours, measured on an H100 by `measure_products_of_many_rows`).
pub(super) const MANY_ROWS: CubeStagedMatmulRoutineSettings = CubeStagedMatmulRoutineSettings {
    microkernel: CubeStagedMicrokernelSettings {
        plane: PlaneFragmentMicrokernelSettings {
            along_m: FOUR,
            along_n: FOUR,
            depth: FOUR,
            transport: PlaneFragmentTransport::Mma,
            ..PlaneFragmentMicrokernelSettings::DEFAULT
        },
        planes: MatmulPlaneLayout::new(2, 4),
        ring: StageRing::TRIPLE,
        fill: CubeStagedFill { delivery: CubeStagedDelivery::Tma, filling_planes: 1 },
        ..CubeStagedMicrokernelSettings::DEFAULT
    },
    cube_order: CubeOrder::RowMajor,
};

const FOUR: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

/// Most rows of each of [`Cuts`]; the last are for more rows, too.
pub(super) const ROWS: [usize; 5] = [8, 16, 32, 64, 128];

/// How products of few rows with a kind of weight are cut, for up to so many [`ROWS`].
pub(super) type Cuts = [FewRows; ROWS.len()];

/// Weights of at most 4096 results: the output of attention, and down.
pub(super) const NARROW: Cuts = [
    cut(4, 1, 1, 1, 1, 3),
    cut(4, 1, 1, 2, 1, 3),
    cut(4, 1, 1, 4, 1, 3),
    cut(4, 1, 1, 4, 2, 4),
    cut(2, 2, 2, 4, 2, 3),
];

/// Of fewer than 16384: queries, keys and values.
pub(super) const MIDDLE: Cuts = [
    cut(4, 1, 1, 1, 2, 2),
    cut(4, 1, 1, 2, 2, 3),
    cut(4, 1, 1, 4, 2, 3),
    cut(4, 1, 1, 4, 4, 4),
    cut(2, 2, 2, 4, 2, 3),
];

/// Of more: gate and up.
pub(super) const WIDE: Cuts = [
    cut(4, 1, 1, 1, 8, 3),
    cut(4, 1, 1, 2, 8, 3),
    cut(4, 1, 1, 4, 4, 3),
    cut(4, 1, 1, 4, 4, 6),
    cut(2, 2, 2, 4, 4, 6),
];

/// The head, whose result is in one sum.
pub(super) const HEAD: Cuts = [
    cut(4, 1, 1, 1, 8, 3),
    cut(4, 1, 1, 2, 8, 3),
    cut(4, 1, 1, 4, 8, 3),
    cut(4, 1, 1, 4, 8, 6),
    cut(2, 2, 2, 4, 8, 3),
];

/// A cut by its six numbers, as the tables have them.
pub(super) const fn cut(
    weight_planes: usize,
    token_planes: usize,
    weight_tiles: usize,
    token_tiles: usize,
    shares: usize,
    ahead: usize,
) -> FewRows {
    FewRows { weight_planes, token_planes, weight_tiles, token_tiles, shares, ahead }
}

/// The cut of a layer's product of `rows` rows with `width` results.
pub(super) fn few_rows(width: usize, rows: usize) -> FewRows {
    let cuts = match width {
        ..=4096 => NARROW,
        4097..16_384 => MIDDLE,
        _ => WIDE,
    };
    of(cuts, rows)
}

/// The cut of the head's product of `rows` rows.
pub(super) fn head(rows: usize) -> FewRows {
    of(HEAD, rows)
}

fn of(cuts: Cuts, rows: usize) -> FewRows {
    cuts[ROWS.into_iter().position(|most| rows <= most).unwrap_or(ROWS.len() - 1)]
}

/// A digest of everything here that the bits of a reply depend on: the order in
/// which each product and each attention adds up.
pub(in crate::burn) fn digest() -> Digest {
    Digest::of(format!(
        "{MANY_ROWS:?}, few rows in {SHARES} shares added in pairs, attention in splits of {SPLIT}, pages of {PAGE}"
    ))
}
