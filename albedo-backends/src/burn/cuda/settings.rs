//! The settings of the kernels, pinned: nothing is measured at run time, so
//! that every process computes the same bits.

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
use super::launch::{Shares, Whole};

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

/// How few rows are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FewRows {
    Whole(Whole),
    Shares(Shares),
}

/// For `rows` rows times a weight of `width` results: the fastest, or within
/// 8 % of it, on the shapes of Qwen3-4B (ours, measured on an H100 by
/// `measure_products_of_few_rows`).
pub(super) fn few_rows(width: usize, rows: usize) -> FewRows {
    if rows <= 32 {
        return FewRows::Whole(whole(width, rows));
    }
    let token_tiles = if rows <= 64 { 8 } else { 16 };
    let shares = if width >= 16_384 { 2 } else { 1 };
    let planes = [8, 4, 2].into_iter().find(|planes| width.is_multiple_of(16 * planes)).unwrap_or(1);
    FewRows::Shares(Shares { planes, weight_tiles: 1, token_tiles, shares, rounds: 16 / token_tiles })
}

/// As [`few_rows`], for at most 64 rows and a result in any type.
pub(super) fn whole(width: usize, rows: usize) -> Whole {
    let token_tiles = rows.div_ceil(8).max(1);
    let wide = width >= 16_384;
    let (weight_tiles, rounds) = match token_tiles {
        1 => (1, 4),
        2 if wide => (2, 2),
        2 => (1, 2),
        3..=4 if wide => (1, 4),
        _ => (2, 4),
    };
    let weight_tiles = if width.is_multiple_of(16 * weight_tiles) { weight_tiles } else { 1 };
    Whole { weight_tiles, token_tiles, rounds }
}

/// A digest of everything here that the bits of a reply depend on: the order in
/// which each product and each attention adds up.
pub(in crate::burn) fn digest() -> Digest {
    Digest::of(format!(
        "{MANY_ROWS:?}, few rows in {SHARES} shares added in pairs, attention in splits of {SPLIT}, pages of {PAGE}"
    ))
}
