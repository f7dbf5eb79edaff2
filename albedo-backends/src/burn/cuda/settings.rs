//! The settings of the kernels, pinned: nothing is measured at run time, so that
//! every process computes the same bits. `measurements.rs` makes them; those here
//! are of an H100.

use albedo_core::Digest;

use super::kernels::attention::PAGE;
use super::kernels::attention::decode::SPLIT;
use super::kernels::product_many::TILE_ROWS;
use super::products::{FewRows, ProductSize};

/// How many rows of the weight a tile of a product of many rows takes, so that the
/// least of the multiprocessors' time is left over at the end.
pub(super) fn columns(size: ProductSize, multiprocessors: usize) -> usize {
    let widths: &[usize] = if size.gated { &[256, 192] } else { &[256, 192, 160, 128] };
    let cost = |&columns: &usize| {
        let wide = if size.gated { columns / 2 } else { columns };
        let tiles = size.rows.div_ceil(TILE_ROWS) * size.width.div_ceil(wide);
        tiles.div_ceil(multiprocessors) * (columns + TILE_COST)
    };
    // Of equals the first, which is the widest.
    widths.iter().copied().min_by_key(cost).unwrap_or(256)
}

/// What a tile takes beside its columns, in columns.
const TILE_COST: usize = 16;

/// Most rows of `x` that a cube of a product of few rows takes; the last is for more
/// rows, too.
pub(super) const TOKENS: [usize; 5] = [8, 16, 32, 64, 128];

/// The cut of a layer's product of few rows.
pub(super) fn few_rows(size: ProductSize) -> FewRows {
    let tokens = tokens(size.rows);
    let cut = |split_k, columns, ahead| FewRows { split_k, tokens, columns, ahead };
    // Split-K depends on the weight alone, for bits depend on it.
    match size.width {
        _ if size.gated => cut(1, 80, if tokens > 64 { 4 } else { 6 }),
        ..=1280 => cut(4, 40, 8),
        1281..=4096 => cut(4, 80, 8),
        _ => cut(1, 48, 8),
    }
}

/// The cut of the head's product of `rows` rows.
pub(super) fn head(rows: usize) -> FewRows {
    let tokens = tokens(rows);
    let (columns, ahead) = if tokens > 64 { (128, 6) } else { (192, 4) };
    FewRows { split_k: 1, tokens, columns, ahead }
}

fn tokens(rows: usize) -> usize {
    TOKENS.into_iter().find(|&most| rows <= most).unwrap_or(TOKENS[TOKENS.len() - 1])
}

/// A digest of everything here that the bits of a reply depend on: the order in
/// which each product and each attention adds up.
pub(in crate::burn) fn digest() -> Digest {
    Digest::of(format!(
        "products in chains of 16 of k, of few rows and at most 4096 results in 4 shares added in pairs, \
         attention in blocks of 128 and in splits of {SPLIT}, pages of {PAGE}"
    ))
}
