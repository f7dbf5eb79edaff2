//! Qwen3 models in-process, computed by Burn.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use albedo_core::{
    Artefact, BuildContext, CallContext, CheckContext, Completion, DeviceMemory, Digest, Error, ErrorKind,
    GenerateRequest, Generated, Identity, LogitsRequest, Message, ModelBackend, ModelInfo, ModelSession,
    ModelSource, Plugin, ResponseFormat, Result, ScoreRequest, TokenScores,
};
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::config::Qwen3Config;
use self::cpu::BurnOps;
use self::engine::Engine;
use self::model::Qwen3;
use self::requests::{Call, Desk, Given, Inbox, Request, Write};
use self::turns::Turn;
use self::weights::WeightFiles;
use crate::text::{ChatText, Date};

mod config;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod engine;
mod kernels;
mod model;
mod ops;
mod replicas;
mod requests;
mod sample;
mod turns;
mod weights;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;

const LOAD: &str = "load the model";
const GENERATE: &str = "generate replies";

/// Calls that may wait for the device thread; more wait in their own tasks.
const WAITING_CALLS: usize = 64;

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
    /// The day that a chat template is told if it asks for today's date
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

/// A loaded model and its device threads.
#[derive(Debug)]
struct Session {
    info: ModelInfo,
    text: Arc<ChatText>,
    /// `None` once the session is dropped.
    calls: Option<mpsc::Sender<Call>>,
    /// Cancelled when the session is dropped.
    alive: CallContext,
    threads: Vec<JoinHandle<()>>,
    /// Of all devices together.
    memory: Option<DeviceMemory>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.alive.cancel();
        self.calls = None;
        // The next model that is loaded on a GPU needs the memory of this
        // one. It takes a step of the device at most.
        if self.memory.is_some() {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

impl Session {
    fn load(
        source: &ModelSource,
        placement: Placement,
        devices: &[Device],
        cx: &CallContext,
    ) -> Result<Self> {
        cx.check(LOAD)?;
        let folder = source.model.require_folder(LOAD)?;
        let config = Qwen3Config::load(folder)?;
        #[cfg(feature = "cuda")]
        cuda::require_alike(devices)?;
        let text = Arc::new(ChatText::load(source.text().require_folder(LOAD)?, placement.date)?);
        check_vocabulary(&config, &text, source)?;
        let files = Arc::new(WeightFiles::open(folder)?);
        let alive = CallContext::new();
        let desk = Desk {
            text: Arc::clone(&text),
            name: source.model.to_string(),
            context_length: config.max_position_embeddings,
            vocab_size: config.vocab_size,
            session: alive.clone(),
        };
        let (calls, receiver) = mpsc::channel(WAITING_CALLS);
        let digesting = digest(&files, cx)?;
        let inboxes = match devices.len() {
            1 => vec![(calls.downgrade(), receiver)],
            // Some wait at each device, so that they are tokens once there is room.
            count => replicas::share(receiver, count, placement.max_batch + placement.max_batch / 4 + 1)?,
        };
        let weights = 2 * config.parameter_count();
        let start = |(&device, (wake, calls)): (&Device, replicas::Calls)| {
            let placement = Placement { device, ..placement };
            let turn = placement.in_turn.then(|| Turn::new(device, wake, weights));
            let (config, files, desk) = (config.clone(), Some(Arc::clone(&files)), desk.clone());
            start(Loading { placement, config, files, desk }, Inbox::new(calls, turn), cx)
        };
        let starting: Vec<Starting> = devices.iter().zip(inboxes).map(start).collect::<Result<_>>()?;
        drop(files);
        let (threads, loaded): (Vec<_>, Vec<_>) =
            starting.into_iter().map(|Starting { thread, loaded }| (thread, loaded)).unzip();
        // From here on, a failure drops the session and ends its device threads.
        let mut session = Self {
            info: info(&config, &text, placement.device)?,
            text,
            calls: Some(calls),
            alive,
            threads,
            memory: None,
        };
        for loaded in loaded {
            let lost = |_| Error::new(ErrorKind::DeviceLost, LOAD, "the device thread failed");
            session.memory = together(session.memory, loaded.recv().map_err(lost)??);
        }
        let parameters = digesting.join().map_err(|_| Error::bug(LOAD, "digesting panicked"))??;
        if let Some(pinned) = source.parameters.filter(|pinned| *pinned != parameters) {
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                LOAD,
                "the weight files do not have the pinned digest",
            )
            .about(Artefact::Model)
            .with("path", folder.display())
            .with("pinned", pinned)
            .with("found", parameters)
            .with_hint("fetch the model again, or pin the digest of this one"));
        }
        session.info.parameters = parameters;
        Ok(session)
    }

    fn submit(&self, requests: Vec<Request>, cx: &CallContext) -> Answers {
        let (answers, receiver) = mpsc::channel(requests.len().max(1));
        let open = vec![true; requests.len()];
        let call = Call::new(requests, cx.clone(), answers);
        let unsent = self.calls.as_ref().map(|calls| (call, calls.downgrade()));
        Answers { unsent, receiver, open, cx: cx.clone() }
    }
}

/// Describes what is loaded, except the digest of its parameters, which takes longest.
fn info(config: &Qwen3Config, text: &ChatText, device: Device) -> Result<ModelInfo> {
    Ok(ModelInfo::new(Digest::of([]), config::ARCHITECTURE.to_owned(), config.max_position_embeddings as u32)
        .with_parameter_count(config.parameter_count())
        .with_dtype(if device == Device::Cpu { "f32" } else { "bf16" }.to_owned())
        .with_text(text.tokenizer_digest(), text.template_digest(), text.stop_ids().to_vec())
        .with_config(Digest::of_json(config)?))
}

/// What an engine is made of.
#[derive(Debug)]
struct Loading {
    placement: Placement,
    config: Qwen3Config,
    /// `None` once they are not needed any more.
    files: Option<Arc<WeightFiles>>,
    desk: Desk,
}

/// A device, and what a session takes of it.
enum Place {
    Cpu,
    #[cfg(feature = "cuda")]
    Gpu(cuda::Place),
}

/// A model on its device.
enum OnDevice {
    Cpu(Box<Engine>),
    #[cfg(feature = "cuda")]
    Gpu(Box<cuda::Loaded>),
}

impl Loading {
    /// Finds the device, and divides its memory.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "the CPU is not divided"))]
    fn place(&self, turn: Option<&Turn>) -> Result<Place> {
        match self.placement.device {
            Device::Cpu => Ok(Place::Cpu),
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => {
                cuda::Place::new(index, &self.placement, &self.config, turn.map(Turn::others)).map(Place::Gpu)
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(index) => Err(Error::bug(LOAD, format!("GPU {index} in a build without GPUs"))),
        }
    }

    fn load(&self, place: &Place, first: bool, cx: &CallContext) -> Result<OnDevice> {
        let files = self.files.as_ref().ok_or_else(|| Error::bug(LOAD, "its files were let go"))?;
        if !first {
            files.require_unchanged()?;
        }
        let (config, weights) = (&self.config, files.weights(cx)?);
        match place {
            Place::Cpu => {
                let ops = BurnOps::new(config, burn::tensor::Device::flex());
                let model = Qwen3::load(ops, config, weights)?;
                let engine = Engine { model, desk: self.desk.clone(), max_batch: self.placement.max_batch };
                Ok(OnDevice::Cpu(Box::new(engine)))
            }
            #[cfg(feature = "cuda")]
            Place::Gpu(place) => Ok(OnDevice::Gpu(Box::new(cuda::Loaded::new(place, config, weights)?))),
        }
    }
}

impl Place {
    /// Whether a model stays there when another has its turn.
    fn is_kept(&self) -> bool {
        match self {
            Self::Cpu => false,
            #[cfg(feature = "cuda")]
            Self::Gpu(place) => place.plan().stays,
        }
    }

    /// How its memory is divided, where that is planned.
    fn memory(&self) -> Option<DeviceMemory> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Gpu(place) => Some(place.plan().memory()),
        }
    }
}

impl OnDevice {
    /// Serves calls, once it could say so by `opened`, until the device is to be left.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unnecessary_wraps, unused_variables, reason = "a GPU fails")
    )]
    fn serve(&mut self, desk: &Desk, inbox: &mut Inbox, opened: impl FnOnce()) -> Result<()> {
        match self {
            Self::Cpu(engine) => {
                opened();
                engine.run(inbox);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Gpu(model) => model.serve(desk, inbox, opened),
        }
    }
}

/// What loads and runs a model.
struct DeviceThread {
    loading: Loading,
    inbox: Inbox,
    turn: Option<Turn>,
    /// The caller that waits for the first load, and until when.
    first: Option<(std::sync::mpsc::Sender<Loaded>, CallContext)>,
}

/// What a load came to: how the memory is divided.
type Loaded = Result<Option<DeviceMemory>>;

impl DeviceThread {
    fn run(mut self) {
        let mut model = None;
        loop {
            match self.take_turn(&mut model).map_err(|error| error.with("model", &self.loading.desk.name)) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => match self.first.take() {
                    // Fails only if the load is not waited for any more.
                    Some((first, _)) => return drop(first.send(Err(error))),
                    None => self.inbox.refuse(&error),
                },
            }
            if !self.inbox.sleep() {
                return;
            }
        }
    }

    /// One turn of the device; `false` if the session is dropped.
    fn take_turn(&mut self, model: &mut Option<OnDevice>) -> Result<bool> {
        let place = self.loading.place(self.turn.as_ref())?;
        let turn = self.turn.clone();
        let stays = turn.is_none() || place.is_kept();
        // A model that stays is loaded while another may have its turn.
        if turn.is_some() && stays && model.is_none() {
            *model = Some(self.load(&place)?);
            tell(&mut self.first, &place);
            if !self.inbox.sleep() {
                return Ok(false);
            }
        }
        let desk = self.loading.desk.clone();
        let first = self.first.as_ref().map(|(_, cx)| cx.clone());
        let unwanted = || desk.is_closed() || first.as_ref().is_some_and(|cx| cx.check(LOAD).is_err());
        let holding = turn.as_ref().map(|turn| turn.take(unwanted));
        if holding.as_ref().is_some_and(Option::is_none) {
            return Ok(false);
        }
        let mut here = match model.take() {
            Some(here) => here,
            None => self.load(&place)?,
        };
        if stays {
            self.loading.files = None;
        }
        let served = here.serve(&desk, &mut self.inbox, || tell(&mut self.first, &place));
        if stays {
            *model = Some(here);
        }
        served.map(|()| true)
    }

    fn load(&self, place: &Place) -> Result<OnDevice> {
        let session = &self.loading.desk.session;
        let cx = self.first.as_ref().map_or(session, |(_, cx)| cx);
        self.loading.load(place, self.first.is_some(), cx)
    }
}

/// Reports to the caller that waits for the first load.
fn tell(first: &mut Option<(std::sync::mpsc::Sender<Loaded>, CallContext)>, place: &Place) {
    if let Some((first, _)) = first.take() {
        // Fails only if the load is not waited for any more.
        let _ = first.send(Ok(place.memory()));
    }
}

/// A device thread that loads its model.
struct Starting {
    thread: JoinHandle<()>,
    loaded: std::sync::mpsc::Receiver<Loaded>,
}

/// Starts a device thread, on which the model is also loaded.
fn start(loading: Loading, inbox: Inbox, cx: &CallContext) -> Result<Starting> {
    let (first, loaded) = std::sync::mpsc::channel();
    let turn = inbox.turn().cloned();
    let thread = DeviceThread { loading, inbox, turn, first: Some((first, cx.clone())) };
    let thread = std::thread::Builder::new()
        .name("albedo-device".to_owned())
        .spawn(|| thread.run())
        .map_err(|error| Error::io("start the device thread", Path::new("albedo-device"), error))?;
    Ok(Starting { thread, loaded })
}

/// What the devices of a session take.
fn together(before: Option<DeviceMemory>, next: Option<DeviceMemory>) -> Option<DeviceMemory> {
    let (Some(before), Some(next)) = (before, next) else { return before.or(next) };
    Some(DeviceMemory {
        budget: before.budget + next.budget,
        weights: before.weights + next.weights,
        workspace: before.workspace + next.workspace,
        kv_cache: before.kv_cache + next.kv_cache,
        kv_cache_tokens: before.kv_cache_tokens + next.kv_cache_tokens,
        others: before.others + next.others,
    })
}

/// Starts digesting `files`, while they are also loaded.
fn digest(files: &Arc<WeightFiles>, cx: &CallContext) -> Result<JoinHandle<Result<Digest>>> {
    let (files, cx) = (Arc::clone(files), cx.clone());
    let thread = std::thread::Builder::new().name("albedo-digest".to_owned());
    let io = |error| Error::io("start the digest thread", Path::new("albedo-digest"), error);
    thread.spawn(move || files.digest(&cx)).map_err(io)
}

fn check_vocabulary(config: &Qwen3Config, text: &ChatText, source: &ModelSource) -> Result<()> {
    let tokens = text.vocab_size() as usize;
    if tokens <= config.vocab_size {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::DataInvalid,
        LOAD,
        format!("the tokenizer has {tokens} ids, the model's vocabulary {}", config.vocab_size),
    )
    .about(Artefact::Model)
    .with("tokenizer", source.text())
    .with("model", &source.model)
    .with_hint("use the tokenizer that the model was trained with"))
}

#[async_trait]
impl ModelSession for Session {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn memory(&self) -> Option<DeviceMemory> {
        self.memory
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>> {
        Ok(Some(self.text.encode_prompt(messages)?.len() as u32))
    }

    fn prompt_tokens(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        self.text.encode_prompt(messages).map(Some)
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let requests = requests.into_iter().map(|request| Request {
            messages: request.messages,
            given: request.score_reply.map(Given::Text),
            write: Some(Write {
                sampling: request.sampling,
                max_new_tokens: request.max_new_tokens,
                seed: request.seed,
            }),
            response: request.response,
        });
        let answers = self.submit(requests.collect(), cx);
        stream::unfold(answers, |mut answers| async move {
            let (index, result) = answers.next().await?;
            Some((Generated { index, result }, answers))
        })
        .boxed()
    }

    async fn score(&self, requests: Vec<ScoreRequest>, cx: &CallContext) -> Result<Vec<TokenScores>> {
        let mut scores = vec![TokenScores { log_probs: Vec::new() }; requests.len()];
        let requests = requests.into_iter().map(|request| Request {
            messages: request.messages,
            given: Some(Given::Text(request.reply)),
            write: None,
            response: ResponseFormat::Text,
        });
        let mut answers = self.submit(requests.collect(), cx);
        while let Some((index, result)) = answers.next().await {
            scores[index] = result?
                .reply_scores
                .ok_or_else(|| Error::bug("score replies", "the device thread gave no scores"))?;
        }
        Ok(scores)
    }

    async fn read_logits(&self, requests: Vec<LogitsRequest>, cx: &CallContext) -> Result<Vec<String>> {
        let text = |request: &LogitsRequest| {
            let stop_ids = self.text.stop_ids();
            let tokens = &request.tokens[..];
            let written = tokens.split_last().filter(|(last, _)| stop_ids.contains(last));
            self.text.decode(written.map_or(tokens, |(_, written)| written))
        };
        let texts = requests.iter().map(text).collect::<Result<_>>()?;
        let requests = requests.into_iter().map(|request| Request {
            messages: request.messages,
            given: Some(Given::Tokens(request.tokens, request.reader)),
            write: None,
            response: ResponseFormat::Text,
        });
        let mut answers = self.submit(requests.collect(), cx);
        while let Some((_, result)) = answers.next().await {
            result?;
        }
        Ok(texts)
    }
}

/// The answers to one call: exactly one per request.
struct Answers {
    unsent: Option<(Call, mpsc::WeakSender<Call>)>,
    receiver: mpsc::Receiver<(usize, Result<Completion>)>,
    /// Which requests are not answered yet.
    open: Vec<bool>,
    cx: CallContext,
}

impl Answers {
    async fn next(&mut self) -> Option<(usize, Result<Completion>)> {
        if !self.open.contains(&true) {
            return None;
        }
        if let Some((call, calls)) = self.unsent.take()
            && let Some(calls) = calls.upgrade()
        {
            // If it is not taken, its sender of answers is dropped with it.
            let _ = self.cx.run(GENERATE, calls.send(call)).await;
        }
        if let Some((index, result)) = self.receiver.recv().await {
            self.open[index] = false;
            return Some((index, result));
        }
        let index = self.open.iter().position(|open| *open)?;
        self.open[index] = false;
        let lost = || {
            Error::new(
                ErrorKind::DeviceLost,
                GENERATE,
                "the model's session was dropped or its thread failed",
            )
            .with_hint("load the model again")
        };
        Some((index, Err(self.cx.check(GENERATE).err().unwrap_or_else(lost))))
    }
}
