//! Qwen3 on an NVIDIA GPU.
#![expect(unsafe_code, reason = "launches and replays take raw sizes; each says why they hold")]

use albedo_core::Result;

use self::device::Gpu;
pub(super) use self::engine::Engine;
use self::memory::{MemoryPlan, StepSizes};
use self::ops::CubeOps;
use super::Placement;
use super::config::Qwen3Config;
use super::model::Qwen3;
use super::requests::Desk;
use super::weights::Weights;

mod device;
mod engine;
mod kernels;
mod launch;
mod memory;
mod ops;
mod pages;
pub(super) mod settings;

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod session_tests;

/// Whether tests have a GPU; says so if not.
#[cfg(test)]
pub(super) fn is_present() -> bool {
    let opened = Gpu::open(0);
    if let Err(error) = &opened {
        println!("skipped, no GPU: {error}");
    }
    opened.is_ok()
}

/// Loads a model and makes its engine, which has to run on this thread: the
/// order of a GPU's queue is that of one thread.
///
/// # Errors
/// No GPU or driver; memory, with the numbers; tensors that are missing,
/// malformed or not finite.
pub(super) fn load(
    index: u32,
    placement: &Placement,
    config: &Qwen3Config,
    weights: Weights<'_>,
    desk: Desk,
) -> Result<(Engine, MemoryPlan)> {
    let gpu = Gpu::open(index)?;
    let loaded = load_on(&gpu, placement, config, weights, desk);
    if loaded.is_err() {
        gpu.give_back();
    }
    loaded
}

fn load_on(
    gpu: &Gpu,
    placement: &Placement,
    config: &Qwen3Config,
    weights: Weights<'_>,
    desk: Desk,
) -> Result<(Engine, MemoryPlan)> {
    let _working = Gpu::working();
    let sizes = StepSizes { rows: placement.prefill_rows, batch: placement.max_batch };
    let plan = MemoryPlan::new(config, sizes, gpu.memory(), placement.memory_share)?;
    let ops = gpu.keep(|| CubeOps::new(gpu.clone(), config, &plan, sizes))?;
    let model = gpu.keep(|| Qwen3::load(ops, config, weights))?;
    model.ops().end_loading()?;
    let engine = gpu.keep(|| Engine::new(model, desk, plan.pages));
    engine.compile()?;
    Ok((engine, plan))
}
