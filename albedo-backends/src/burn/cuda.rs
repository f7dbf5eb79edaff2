//! Qwen3 on an NVIDIA GPU.
#![expect(unsafe_code, reason = "launches and replays take raw sizes; each says why they hold")]

use albedo_core::{Error, ErrorKind, Result};

use self::device::Gpu;
use self::engine::Engine;
use self::memory::{MemoryPlan, StepSizes};
use self::ops::CubeOps;
use super::config::Qwen3Config;
use super::model::Qwen3;
use super::requests::{Desk, Inbox};
use super::weights::Weights;
use super::{Device, Placement};

mod device;
mod engine;
mod kernels;
mod kv_cache;
mod launch;
mod memory;
mod ops;
mod products;
pub(super) mod settings;

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod measurements;
#[cfg(test)]
mod ptx_tests;
#[cfg(test)]
mod session_tests;

/// Whether tests have a GPU; says so if not.
///
/// # Panics
/// Without one where `ALBEDO_REQUIRE_GPU` is set: there a test that skips
/// itself has failed.
#[cfg(test)]
pub(super) fn is_present() -> bool {
    let Err(error) = Gpu::open(0) else { return true };
    assert!(std::env::var_os("ALBEDO_REQUIRE_GPU").is_none(), "ALBEDO_REQUIRE_GPU is set: {error}");
    println!("skipped, no GPU: {error}");
    false
}

/// Keeps sessions from capturing while the guard lives: Burn's own code waits on threads that
/// are not kept apart from that.
#[cfg(test)]
pub(super) fn without_captures() -> std::sync::RwLockReadGuard<'static, ()> {
    Gpu::open(0).unwrap().working()
}

/// Checks that `devices`, which share requests, are of one kind: bits are the same on one
/// kind of GPU only.
///
/// # Errors
/// GPUs of two kinds, or one that is not there.
pub(super) fn require_alike(devices: &[Device]) -> Result<()> {
    if devices.len() < 2 {
        return Ok(());
    }
    let mut names = Vec::new();
    for device in devices {
        if let Device::Cuda(index) = device {
            names.push((index, Gpu::open(*index)?.name()));
        }
    }
    match names.iter().find(|(_, name)| *name != names[0].1) {
        None => Ok(()),
        Some((index, name)) => Err(Error::new(
            ErrorKind::Unsupported,
            "share requests among GPUs",
            format!("GPU {} is of another kind than GPU {index}: {} and {name}", names[0].0, names[0].1),
        )
        .with_hint("replies have the same bits on GPUs of one kind only: name such in `devices`")),
    }
}

/// A GPU, and what a session takes of it.
pub(super) struct Place {
    gpu: Gpu,
    sizes: StepSizes,
    plan: MemoryPlan,
}

impl Place {
    /// The GPU with `index`, its memory divided for a session of `config`; in
    /// turn, `others` are the bytes of the weights of the sessions that it shares
    /// the GPU with.
    ///
    /// # Errors
    /// No GPU or driver; memory, with the numbers.
    pub(super) fn new(
        index: u32,
        placement: &Placement,
        config: &Qwen3Config,
        others: Option<&[u64]>,
    ) -> Result<Self> {
        let gpu = Gpu::open(index)?;
        let sizes = StepSizes {
            rows: placement.prefill_rows,
            batch: placement.max_batch,
            kv_dtype: placement.kv_dtype,
        };
        let plan = MemoryPlan::new(config, sizes, gpu.memory(), placement.memory_share, others)?;
        Ok(Self { gpu, sizes, plan })
    }

    /// How the memory is divided.
    pub(super) fn plan(&self) -> &MemoryPlan {
        &self.plan
    }
}

/// A model whose weights are on a GPU. It is loaded, run and dropped by one
/// thread: the order of a GPU's queue is that of one thread.
pub(super) struct Loaded {
    model: Qwen3<CubeOps>,
    config: Qwen3Config,
    plan: MemoryPlan,
    /// Dropped last.
    _emptied: Emptied,
}

/// Gives memory that nobody holds any more back to the driver when it is dropped.
struct Emptied(Gpu);

impl Drop for Emptied {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Loaded {
    /// Loads the weights.
    ///
    /// # Errors
    /// Memory; tensors that are missing, malformed or not finite.
    pub(super) fn new(place: &Place, config: &Qwen3Config, weights: Weights<'_>) -> Result<Self> {
        let Place { gpu, sizes, plan } = place;
        let emptied = Emptied(gpu.clone());
        let working = gpu.working();
        let ops = gpu.keep(|| CubeOps::new(gpu.clone(), config, *sizes))?;
        let model = gpu.keep(|| Qwen3::load(ops, config, weights))?;
        model.ops().end_loading()?;
        drop(working);
        Ok(Self { model, config: config.clone(), plan: plan.clone(), _emptied: emptied })
    }

    /// Takes the rest of the memory, says so by `opened`, and serves calls until
    /// the device is to be left; then only the weights stay.
    ///
    /// # Errors
    /// Memory, or a lost device, before `opened` is called.
    pub(super) fn serve(&mut self, desk: &Desk, inbox: &mut Inbox, opened: impl FnOnce()) -> Result<()> {
        let gpu = self.model.ops().gpu().clone();
        let served = self.open(desk).map(|engine| {
            opened();
            engine.run(inbox);
        });
        self.model.ops_mut().leave();
        gpu.give_back();
        served.map_err(|error| gpu.reason(error))
    }

    fn open(&mut self, desk: &Desk) -> Result<Engine<'_>> {
        let gpu = self.model.ops().gpu().clone();
        let _working = gpu.working();
        gpu.keep(|| self.model.ops_mut().enter(&self.config, &self.plan))?;
        let mut engine = gpu.keep(|| Engine::new(&self.model, desk.clone(), self.plan.pages));
        engine.compile()?;
        Ok(engine)
    }
}
