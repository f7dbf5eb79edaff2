//! The engine's own kernels.

pub(super) mod attention;
mod math;
mod mma;
pub(super) mod product;
pub(super) mod rows;
pub(super) mod sample;
