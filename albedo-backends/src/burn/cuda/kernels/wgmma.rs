//! Warpgroup products (`wgmma`) on plain arrays, with the waits where they are
//! written. `CubeCL`'s own words for them wait for everything that is under way
//! before any sum may be read.
//!
//! Of a result of 64 × n, unit `u` of the warpgroup holds, at `4 · c + i`, row
//! `u / 32 · 16 + u % 32 / 4 + i / 2 · 8`, column `8 · c + u % 4 · 2 + i % 2` (PTX
//! ISA, "Register fragments for `wgmma.mma_async.m64nNk16`").

use cubecl::ir::dialect::matrix::{
    WgmmaCommitGroupOp, WgmmaDescriptorOp, WgmmaFenceOp, WgmmaFenceOperandOp, WgmmaMajor, WgmmaOp,
    WgmmaSwizzle, WgmmaWaitGroupOp,
};
use cubecl::ir::types::MatrixShape;
use cubecl::prelude::*;
use half::bf16;
use pliron::builtin::attributes::TypeAttr;

/// Describes a tile in shared memory, rows of k, turned by `swizzle`. Rows of k
/// further on, and other tiles, are reached by adding sixteenths of bytes.
#[cube]
pub(super) fn describe(tile: &[bf16], #[comptime] swizzle: WgmmaSwizzle) -> u64 {
    intrinsic!(|scope| {
        let tile = unsafe { *tile.__expand_as_ptr_method(scope) }.value(scope);
        let op = WgmmaDescriptorOp::new(scope.ctx_mut(), tile, 16usize, 8 * swizzle.width(), swizzle);
        scope.register_with_result(&op).into()
    })
}

/// Before the first product that reads registers, or writes those that were written otherwise.
#[cube]
pub(super) fn fence() {
    intrinsic!(|scope| {
        let op = WgmmaFenceOp::new(scope.ctx_mut());
        scope.register(&op);
    })
}

/// The products so far are a group.
#[cube]
pub(super) fn commit() {
    intrinsic!(|scope| {
        let op = WgmmaCommitGroupOp::new(scope.ctx_mut());
        scope.register(&op);
    })
}

/// Waits until only the last `left` groups are under way.
#[cube]
pub(super) fn wait(#[comptime] left: usize) {
    intrinsic!(|scope| {
        let op = WgmmaWaitGroupOp::new(scope.ctx_mut(), left);
        scope.register(&op);
    })
}

/// No read or write of `sums` is moved across this.
#[cube]
pub(super) fn pin(sums: &mut Array<f32>) {
    intrinsic!(|scope| {
        let sums = sums.__extract_list(scope);
        let op = WgmmaFenceOperandOp::new(scope.ctx_mut(), sums);
        scope.register(&op);
    })
}

/// No read or write of `words` is moved across this.
#[cube]
pub(super) fn pin_words(words: &mut Array<u32>) {
    intrinsic!(|scope| {
        let words = words.__extract_list(scope);
        let op = WgmmaFenceOperandOp::new(scope.ctx_mut(), words);
        scope.register(&op);
    })
}

/// `sums += a · bᵀ` of 64 × `n` × 16, both sides described.
#[cube]
pub(super) fn multiply(a: u64, b: u64, sums: &mut Array<f32>, #[comptime] n: usize) {
    intrinsic!(|scope| {
        let (a, b) = (a.read_value(scope), b.read_value(scope));
        let sums = sums.__extract_list(scope);
        let ty = TypeAttr::new(bf16::__expand_as_type(scope));
        let shape = MatrixShape { m: 64, n, k: 16 };
        let (major, other) = (WgmmaMajor::K, WgmmaMajor::K);
        let op = WgmmaOp::new(scope.ctx_mut(), a, b, sums, ty.clone(), ty, shape, major, other);
        scope.register(&op);
    })
}

/// The same with `a` in registers: eight values of a unit, two in each of four words.
#[cube]
pub(super) fn multiply_words(a: &Array<u32>, b: u64, sums: &mut Array<f32>, #[comptime] n: usize) {
    intrinsic!(|scope| {
        let (a, b) = (a.read_value(scope), b.read_value(scope));
        let sums = sums.__extract_list(scope);
        let ty = TypeAttr::new(bf16::__expand_as_type(scope));
        let shape = MatrixShape { m: 64, n, k: 16 };
        let (major, other) = (WgmmaMajor::K, WgmmaMajor::K);
        let op = WgmmaOp::new(scope.ctx_mut(), a, b, sums, ty.clone(), ty, shape, major, other);
        scope.register(&op);
    })
}
