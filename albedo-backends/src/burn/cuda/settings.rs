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
use super::products::{ByShares, FewRows, Whole};

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

/// For `rows` rows times a weight of `width` results: the fastest on the shapes of
/// Qwen3-4B at 8, 16, 32, 64 and 128 rows, or within 10 % of it with fewer sums
/// for the reader to add (ours, measured on an H100 by
/// `measure_products_of_few_rows`).
pub(super) fn few_rows(width: usize, rows: usize) -> FewRows {
    if rows <= 16 {
        return FewRows::Whole(whole(width, rows));
    }
    let (wide, narrow) = (width >= 16_384, width <= 4096);
    let (planes, token_tiles, shares, rounds) = match (rows, wide, narrow) {
        (..=32, true, _) => (4, 4, 4, 1),
        (..=32, _, true) => (4, 4, 1, 2),
        (..=32, ..) => (4, 4, 2, 2),
        (..=64, true, _) => (4, 8, 2, 1),
        (..=64, ..) => (4, 8, 1, 1),
        (_, true, _) => (8, 16, 2, 1),
        (_, _, true) => (4, 8, 1, 1),
        _ => (8, 8, 2, 1),
    };
    let planes = [planes, 4, 2].into_iter().find(|planes| width.is_multiple_of(16 * planes)).unwrap_or(1);
    FewRows::ByShares(ByShares { planes, weight_tiles: 1, token_tiles, shares, rounds })
}

/// As [`few_rows`], for at most [`HEAD_ROWS`] rows and a result in one sum.
pub(super) fn head(width: usize, rows: usize) -> FewRows {
    if (17..=32).contains(&rows) && width.is_multiple_of(128) {
        return FewRows::ByShares(ByShares {
            planes: 8,
            weight_tiles: 1,
            token_tiles: 4,
            shares: SHARES as usize,
            rounds: 1,
        });
    }
    FewRows::Whole(whole(width, rows))
}

/// Most rows of [`head`], a part of 128.
pub(super) const HEAD_ROWS: usize = 64;

fn whole(width: usize, rows: usize) -> Whole {
    let token_tiles = rows.div_ceil(8).next_power_of_two();
    let (weight_tiles, rounds) = match token_tiles {
        1 => (1, 4),
        2 if width >= 16_384 => (2, 2),
        2 => (if width > 4096 { 1 } else { 2 }, 4),
        _ => (4, 1),
    };
    let weight_tiles =
        [weight_tiles, 2].into_iter().find(|tiles| width.is_multiple_of(16 * tiles)).unwrap_or(1);
    Whole { weight_tiles, token_tiles, rounds }
}

/// A digest of everything here that the bits of a reply depend on: the order in
/// which each product and each attention adds up.
pub(in crate::burn) fn digest() -> Digest {
    Digest::of(format!(
        "{MANY_ROWS:?}, few rows in {SHARES} shares added in pairs, attention in splits of {SPLIT}, pages of {PAGE}"
    ))
}
