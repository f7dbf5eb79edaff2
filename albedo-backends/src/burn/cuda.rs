//! Qwen3 on an NVIDIA GPU.
#![expect(unsafe_code, reason = "launches and replays take raw sizes; each says why they hold")]

use albedo_core::Result;

use self::device::Gpu;
use self::engine::Engine;
use self::memory::{MemoryPlan, StepSizes};
use self::ops::CubeOps;
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

/// How a session uses a GPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct GpuOptions {
    /// Which GPU, from 0.
    pub(super) index: u32,
    /// The share of its memory that the session takes.
    pub(super) memory_share: f64,
    /// Most sequences that are decoded together.
    pub(super) max_batch: usize,
    /// Most rows of prompts that go through the layers together.
    pub(super) prefill_rows: usize,
}

/// Loads a model and makes its engine, which has to run on this thread: the
/// order of a GPU's queue is that of one thread.
///
/// # Errors
/// No GPU or driver; memory, with the numbers; tensors that are missing,
/// malformed or not finite.
pub(super) fn load(
    options: GpuOptions,
    config: &Qwen3Config,
    weights: Weights<'_>,
    desk: Desk,
) -> Result<(Engine, MemoryPlan)> {
    let gpu = Gpu::open(options.index)?;
    let loaded = load_on(&gpu, options, config, weights, desk);
    if loaded.is_err() {
        gpu.give_back();
    }
    loaded
}

fn load_on(
    gpu: &Gpu,
    options: GpuOptions,
    config: &Qwen3Config,
    weights: Weights<'_>,
    desk: Desk,
) -> Result<(Engine, MemoryPlan)> {
    let _working = Gpu::working();
    let sizes = StepSizes { rows: options.prefill_rows, batch: options.max_batch };
    let plan = MemoryPlan::new(config, sizes, gpu.memory(), options.memory_share)?;
    let ops = gpu.keep(|| CubeOps::new(gpu.clone(), config, &plan, sizes))?;
    let model = gpu.keep(|| Qwen3::load(ops, config, weights))?;
    model.ops().end_loading()?;
    let engine = gpu.keep(|| Engine::new(model, desk, plan.pages));
    engine.compile()?;
    Ok((engine, plan))
}
