//! Qwen3 models in-process, computed by Burn.

use std::sync::Arc;

use albedo_core::{
    BuildContext, CallContext, CheckContext, Digest, Error, ErrorKind, Identity, ModelBackend, ModelRef,
    ModelSession, ModelSource, Plugin, Result,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::session::Session;
use crate::text::Date;

mod config;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod device_name;
mod engine;
mod kernels;
mod model;
mod ops;
mod replicas;
mod requests;
mod sample;
mod session;
mod thread;
pub mod train;
mod turns;
mod weights;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;

const LOAD: &str = "load the model";

/// The largest batch that a configuration may ask for on the CPU.
const MAX_BATCH: u32 = 4096;

/// The largest batch of a GPU: for more there are no recordings.
const MAX_GPU_BATCH: u32 = 256;

/// Loads Qwen3 dense decoders (`Qwen3ForCausalLM`) from a folder in the layout
/// of Hugging Face: `config.json`, `*.safetensors` (one file, or several with
/// `model.safetensors.index.json`; bf16, f16 or f32), `tokenizer.json` and
/// `tokenizer_config.json`. They are computed in f32 on the CPU, or in bf16 with
/// f32 sums on an NVIDIA GPU (feature `cuda`).
///
/// # Behavior
/// - A model that ties its output head to its embedding may still carry a
///   `lm_head.weight` if it has the embedding's shape and values; any other
///   tensor that the architecture does not have is refused.
/// - Each session owns one device thread. It merges the requests of concurrent
///   calls into one batch and retires each as it finishes; a reply's bits
///   depend on its own request alone. They may differ between machines, since
///   the matrix products are blocked by the processor's cache sizes.
/// - A request whose prompt and `max_new_tokens` (or scored reply) exceed the
///   context fails alone, as does one with `max_new_tokens` 0.
/// - The stream of [`ModelSession::generate`] submits its requests when it is
///   first polled. Dropping the session answers what is unfinished with errors.
#[derive(Debug)]
pub struct BurnBackend {
    identity: Identity,
    placement: Placement,
    devices: Vec<Device>,
}

/// Settings of [`BurnBackend`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BurnConfig {
    /// Where models are computed: `cpu`, `cuda` (the first NVIDIA GPU) or
    /// `cuda:N`.
    pub device: Device,
    /// Several GPUs of one kind, by their numbers: each has the whole model, and all take
    /// their requests from one queue. `device` is then `cuda`. No reply depends on it.
    pub devices: Vec<u32>,
    /// Most sequences that are decoded together on one device, 1 to 4096 on the CPU and 1 to
    /// 256 on a GPU. Each holds the keys and values of its tokens in memory. No
    /// reply depends on it.
    pub max_batch: u32,
    /// The share of a GPU's memory that one session takes, above 0 and at most
    /// 1. The default leaves room for a second model.
    pub memory_share: f64,
    /// Most tokens of prompts that go through a GPU together, 128 to 32768. No
    /// reply depends on it.
    pub prefill_rows: u32,
    /// What a GPU stores keys and values as: `bf16`, or `int8` with a factor for each
    /// token and key-value head, so that nearly twice as many tokens fit and decoding
    /// reads half as much. Replies depend on it.
    pub kv_dtype: KvDtype,
    /// Whether the models of this device compute one after the other, for two
    /// that do not fit side by side: one has the device until another is asked
    /// and its own requests under way are answered. Its weights stay on a GPU
    /// that has room for both, and else are loaded again at its next turn. No
    /// reply depends on it.
    pub in_turn: bool,
    /// The date that a chat template gets when it asks for today's date
    /// (`strftime_now`), for example `2026-11-28`: never the clock's.
    pub date: Option<String>,
}

impl Default for BurnConfig {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            devices: Vec::new(),
            max_batch: 32,
            memory_share: 0.48,
            prefill_rows: 8192,
            kv_dtype: KvDtype::Bf16,
            in_turn: false,
            date: None,
        }
    }
}

impl BurnConfig {
    fn check(&self) -> Result<()> {
        let invalid = |key: &'static str, message: String| {
            let operation = "check the settings of backend `burn`";
            Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", key))
        };
        let Self { device, max_batch, memory_share, prefill_rows, .. } = *self;
        if let Err(error) = self.date() {
            return invalid("date", format!("`date` cannot be read: {error}"));
        }
        if !self.devices.is_empty() && device != Device::Cuda(0) {
            return invalid("devices", "`devices` are the numbers of GPUs".into())
                .map_err(|error: Error| error.with_hint("set `device = \"cuda\"`, or leave `devices` out"));
        }
        if let Some(again) =
            (1..self.devices.len()).find(|&at| self.devices[..at].contains(&self.devices[at]))
        {
            return invalid("devices", format!("`devices` names GPU {} twice", self.devices[again]));
        }
        let most = device.max_batch();
        if !(1..=most).contains(&max_batch) {
            return invalid("max_batch", format!("`max_batch` is {max_batch}, it must be 1 to {most}"));
        }
        if !(memory_share > 0.0 && memory_share <= 1.0) {
            return invalid(
                "memory_share",
                format!("`memory_share` is {memory_share}, it must be above 0 and at most 1"),
            );
        }
        if !(128..=32_768).contains(&prefill_rows) {
            return invalid(
                "prefill_rows",
                format!("`prefill_rows` is {prefill_rows}, it must be 128 to 32768"),
            );
        }
        if self.kv_dtype != KvDtype::Bf16 && device == Device::Cpu {
            return invalid("kv_dtype", "a CPU stores keys and values as f32".into())
                .map_err(|error: Error| error.with_hint("leave `kv_dtype` out, or set `device = \"cuda\"`"));
        }
        if cfg!(not(feature = "cuda")) && device != Device::Cpu {
            return invalid("device", "this build has no GPU support".into()).map_err(|error: Error| {
                error.with_hint("build with `--features cuda`, or use `device = \"cpu\"`")
            });
        }
        Ok(())
    }
}

impl BurnConfig {
    fn date(&self) -> std::result::Result<Option<Date>, &'static str> {
        self.date.as_deref().map(str::parse).transpose()
    }
}

/// What a GPU stores keys and values as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvDtype {
    /// bf16, as they are computed.
    #[default]
    Bf16,
    /// Whole numbers from -127 to 127 and an f32 factor for each token and
    /// key-value head.
    Int8,
}

/// Where models are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Device {
    /// The CPU, in f32, on all cores.
    Cpu,
    /// The NVIDIA GPU of this number, in bf16 with f32 sums.
    Cuda(u32),
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        match device {
            Device::Cpu => "cpu".to_owned(),
            Device::Cuda(0) => "cuda".to_owned(),
            Device::Cuda(index) => format!("cuda:{index}"),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        match text.as_str() {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            other => {
                let index = other.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                index
                    .map(Self::Cuda)
                    .ok_or_else(|| format!("the device is `{text}`, it must be cpu, cuda or cuda:N"))
            }
        }
    }
}

impl Device {
    /// The largest batch.
    fn max_batch(self) -> u32 {
        match self {
            Self::Cpu => MAX_BATCH,
            Self::Cuda(_) => MAX_GPU_BATCH,
        }
    }
}

impl BurnBackend {
    /// The backend with `config`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] if a setting is out of range, or names a GPU
    /// in a build without the feature `cuda`.
    pub fn new(config: &BurnConfig) -> Result<Self> {
        config.check()?;
        /// The settings that can change a reply.
        #[derive(Serialize)]
        struct Behavior<'a> {
            device: &'static str,
            /// What the bits of a GPU's replies depend on, beside its model.
            #[serde(skip_serializing_if = "Option::is_none")]
            kernels: Option<Digest>,
            /// Unless it is bf16.
            #[serde(skip_serializing_if = "Option::is_none")]
            kv_dtype: Option<KvDtype>,
            #[serde(skip_serializing_if = "Option::is_none")]
            date: Option<&'a str>,
        }
        let date = config.date.as_deref();
        let kv_dtype = Some(config.kv_dtype).filter(|&kv_dtype| kv_dtype != KvDtype::Bf16);
        let behavior = match config.device {
            Device::Cpu => Behavior { device: "cpu", kernels: None, kv_dtype, date },
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => {
                Behavior { device: "cuda", kernels: Some(cuda::settings::digest()), kv_dtype, date }
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Behavior { device: "cuda", kernels: None, kv_dtype, date },
        };
        let devices = match &config.devices[..] {
            [] => vec![config.device],
            several => several.iter().copied().map(Device::Cuda).collect(),
        };
        Ok(Self {
            identity: Identity::new("burn", env!("CARGO_PKG_VERSION"), &behavior)?,
            devices,
            placement: Placement {
                device: config.device,
                max_batch: config.max_batch as usize,
                memory_share: config.memory_share,
                prefill_rows: config.prefill_rows as usize,
                kv_dtype: config.kv_dtype,
                in_turn: config.in_turn,
                date: config.date().ok().flatten(),
            },
        })
    }
}

impl Plugin<dyn ModelBackend> for BurnBackend {
    const NAME: &'static str = "burn";
    const SUMMARY: &'static str =
        "Qwen3 models from a folder, computed in-process on the CPU or an NVIDIA GPU";
    type Config = BurnConfig;
    type Checked = Self;

    fn check(config: BurnConfig, _: &CheckContext<'_>) -> Result<Self> {
        Self::new(&config)
    }

    fn check_model(_: &Self, model: &ModelRef) -> Result<()> {
        model.require_files(LOAD)
    }

    async fn build(backend: Self, _: &BuildContext<'_>) -> Result<Arc<dyn ModelBackend>> {
        Ok(Arc::new(backend))
    }
}

albedo_core::register!(dyn ModelBackend => BurnBackend);

#[async_trait]
impl ModelBackend for BurnBackend {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn max_batch(&self) -> Option<u32> {
        Some((self.placement.max_batch * self.devices.len()) as u32)
    }

    fn device(&self) -> Option<String> {
        device_name::of(self.placement.device)
    }

    async fn load(&self, model: &ModelSource, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        let (source, placement, call) = (model.clone(), self.placement, cx.clone());
        let devices = self.devices.clone();
        // A load that is cancelled ends by itself before its next tensor.
        let loading = tokio::task::spawn_blocking(move || Session::load(&source, placement, &devices, &call));
        let session = cx.run(LOAD, loading).await?.map_err(|error| {
            Error::bug(LOAD, "loading panicked").with("model", &model.model).with_source(error)
        })??;
        Ok(Arc::new(session))
    }
}

/// Where a session computes, and how much of it.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the CPU is not divided"))]
struct Placement {
    device: Device,
    max_batch: usize,
    memory_share: f64,
    prefill_rows: usize,
    kv_dtype: KvDtype,
    in_turn: bool,
    date: Option<Date>,
}
