//! Instructions that `CubeCL` has no words for: operations of our own, lowered
//! through the interface by which its LLVM backend lowers its own operations. To be
//! deleted when it has them.

use cubecl::ir::dialect::tma::{CommitGroupOp, TmaStoreOp, WaitGroupReadOp};
use cubecl::prelude::*;
use cubecl_llvm::shared::to_llvm::ToLLVMDialect;
use cubecl_llvm::shared::to_llvm::prelude as llvm;
use half::bf16;
use pliron::builtin::attributes::StringAttr;
use pliron::context::{Context, Ptr};
use pliron::derive::{op_interface_impl, pliron_op};
use pliron::irbuild::dialect_conversion::{DialectConversionRewriter, OperandsInfo};
use pliron::irbuild::inserter::Inserter;
use pliron::irbuild::rewriter::Rewriter;
use pliron::op::Op;
use pliron::operation::Operation;
use pliron::result::Result;
use pliron::r#type::{TypeHandle, Typed};
use pliron::value::Value;
use pliron_llvm::llvm_attrs::{LlvmAttrValue, LlvmAttributesAttr};

/// A line of PTX without operands.
#[pliron_op(name = "albedo.line", format, attributes = (albedo_line: StringAttr), verifier = "succ")]
pub(super) struct LineOp;

impl LineOp {
    fn new(ctx: &mut Context, line: &str) -> Self {
        let op = Self { op: Operation::new(ctx, Self::get_concrete_op_info(), vec![], vec![], vec![], 0) };
        op.set_attr_albedo_line(ctx, StringAttr::new(line.to_owned()));
        op
    }
}

#[op_interface_impl]
impl ToLLVMDialect for LineOp {
    fn rewrite(&self, ctx: &mut Context, rw: &mut DialectConversionRewriter, _: &OperandsInfo) -> Result<()> {
        let line: String = self.get_attr_albedo_line(ctx).map(|line| line.clone().into()).unwrap_or_default();
        let void: TypeHandle = llvm::VoidType::get(ctx).into();
        let asm = llvm::llvm::InlineAsmOp::new(ctx, void, vec![], &line, "~{memory}", true);
        let mut attributes = LlvmAttributesAttr::new();
        // Not to be moved into or out of a branch.
        attributes.set("convergent", LlvmAttrValue::Unit);
        asm.set_attr_llvm_inline_asm_attrs(ctx, attributes);
        rw.insert_op(ctx, &asm);
        let old: Ptr<Operation> = self.get_operation();
        rw.erase_operation(ctx, old);
        Ok(())
    }
}

/// A function of the special function unit, by the name of its intrinsic.
#[pliron_op(name = "albedo.special", format, attributes = (albedo_function: StringAttr), verifier = "succ")]
pub(super) struct SpecialOp;

impl SpecialOp {
    fn new(ctx: &mut Context, function: &str, x: Value) -> Self {
        let ty = x.get_type(ctx);
        let op = Operation::new(ctx, Self::get_concrete_op_info(), vec![ty], vec![x], vec![], 0);
        let op = Self { op };
        op.set_attr_albedo_function(ctx, StringAttr::new(function.to_owned()));
        op
    }
}

cubecl::ir::NoMemoryEffect!(SpecialOp);
cubecl::ir::NoSideEffects!(SpecialOp);

#[op_interface_impl]
impl ToLLVMDialect for SpecialOp {
    fn rewrite(&self, ctx: &mut Context, rw: &mut DialectConversionRewriter, _: &OperandsInfo) -> Result<()> {
        let function: String =
            self.get_attr_albedo_function(ctx).map(|name| name.clone().into()).unwrap_or_default();
        let old: Ptr<Operation> = self.get_operation();
        let x = old.deref(ctx).get_operand(0);
        let ty = x.get_type(ctx);
        let y = llvm::call_intrinsic(ctx, rw, &function, ty, vec![x]);
        rw.replace_operation_with_values(ctx, old, vec![y]);
        Ok(())
    }
}

/// Waits at hardware barrier `id` (1 to 15) until `units` units are there.
#[cube]
pub(super) fn meet(#[comptime] id: u32, #[comptime] units: u32) {
    intrinsic!(|scope| {
        let op = LineOp::new(scope.ctx_mut(), &format!("bar.sync {id}, {units};"));
        scope.register(&op);
    })
}

/// Is counted at hardware barrier `id`, and goes on.
#[cube]
pub(super) fn pass(#[comptime] id: u32, #[comptime] units: u32) {
    intrinsic!(|scope| {
        let op = LineOp::new(scope.ctx_mut(), &format!("bar.arrive {id}, {units};"));
        scope.register(&op);
    })
}

/// 2^x within 2^-22 relative, one instruction; results and arguments too small for
/// a normal number are 0 (PTX ISA, `ex2.approx.ftz.f32`).
#[cube]
pub(super) fn fast_exp2(x: f32) -> f32 {
    intrinsic!(|scope| {
        let x = x.read_value(scope);
        let op = SpecialOp::new(scope.ctx_mut(), "llvm.nvvm.ex2.approx.ftz.f", x);
        scope.register(&op);
        let y = op.get_operation().deref(scope.ctx()).get_result(0);
        y.into()
    })
}

/// 1 / x within 1 ulp, one instruction (PTX ISA, `rcp.approx.ftz.f32`).
#[cube]
pub(super) fn fast_reciprocal(x: f32) -> f32 {
    intrinsic!(|scope| {
        let x = x.read_value(scope);
        let op = SpecialOp::new(scope.ctx_mut(), "llvm.nvvm.rcp.approx.ftz.f", x);
        scope.register(&op);
        let y = op.get_operation().deref(scope.ctx()).get_result(0);
        y.into()
    })
}

/// Has the copy engine write a box of shared memory to `out`; see [`commit_stores`].
#[cube]
pub(super) fn store_box(
    from: &[Vector<bf16, Const<2>>],
    out: &mut TensorMap<bf16, Tiled>,
    row: i32,
    column: i32,
) {
    intrinsic!(|scope| {
        let source = unsafe { *from.__expand_as_ptr_method(scope) }.value(scope);
        let out = out.value(scope);
        let at = vec![row.read_value(scope), column.read_value(scope)];
        let op = TmaStoreOp::new(scope.ctx_mut(), source, out, at);
        scope.register(&op);
    })
}

/// The stores so far are a group.
#[cube]
pub(super) fn commit_stores() {
    intrinsic!(|scope| {
        let op = CommitGroupOp::new(scope.ctx_mut());
        scope.register(&op);
    })
}

/// Waits until the copy engine has read what it stores, but for the last `left` groups.
#[cube]
pub(super) fn await_stores(#[comptime] left: usize) {
    intrinsic!(|scope| {
        let op = WaitGroupReadOp::new(scope.ctx_mut(), left);
        scope.register(&op);
    })
}
