//! The engine's own kernels.
#![expect(
    clippy::assign_op_pattern,
    clippy::eq_op,
    clippy::manual_is_multiple_of,
    clippy::semicolon_if_nothing_returned,
    clippy::trivially_copy_pass_by_ref,
    reason = "a kernel is expanded, not compiled: it is written as its language has it"
)]

pub(super) mod attention;
pub(super) mod codes;
mod math;
mod mma;
pub(super) mod product_few;
pub(super) mod product_many;
mod ptx;
pub(super) mod rows;
pub(super) mod sample;
mod wgmma;
