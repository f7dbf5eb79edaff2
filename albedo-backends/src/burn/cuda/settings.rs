//! The settings of the kernels, pinned: nothing is measured at run time, so
//! that every process computes the same bits.

use cubek::matmul::kernels::CubeStagedMatmulRoutineSettings;

use super::launch::FewRows;

/// Which settings a product gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings;

impl Settings {
    /// For `rows` rows times a weight of `width` results.
    pub(super) fn few_rows(self, width: usize, rows: usize) -> FewRows {
        let token_tiles = rows.div_ceil(8).max(1);
        let wide = width >= 16_384;
        let (weight_tiles, rounds) = match (token_tiles, wide) {
            (1, _) => (1, 4),
            (2, _) => (1, 3),
            (3..=4, false) => (1, 2),
            (3..=4, true) => (2, 2),
            (5..=8, false) => (2, 1),
            (5..=8, true) => (4, 1),
            _ => (2, 1),
        };
        let weight_tiles = if width.is_multiple_of(16 * weight_tiles) { weight_tiles } else { 1 };
        FewRows { weight_tiles, token_tiles, rounds }
    }

    /// For many rows of `inputs` times a weight of `outputs` results.
    pub(super) fn many_rows(self, _inputs: usize, _outputs: usize, _rows: usize) -> CubeStagedMatmulRoutineSettings {
        CubeStagedMatmulRoutineSettings::DEFAULT
    }
}
