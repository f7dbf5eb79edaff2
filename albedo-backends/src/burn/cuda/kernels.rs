//! The engine's own kernels.
#![expect(
    clippy::assign_op_pattern,
    clippy::eq_op,
    clippy::range_plus_one,
    clippy::trivially_copy_pass_by_ref,
    reason = "a kernel is expanded, not compiled: it is written as its language has it"
)]

pub(super) mod attention;
mod math;
mod mma;
pub(super) mod product_few;
pub(super) mod product_many;
mod ptx;
pub(super) mod rows;
pub(super) mod sample;
mod wgmma;
