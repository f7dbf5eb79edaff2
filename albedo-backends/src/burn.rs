//! Qwen3 models in-process, computed by Burn.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use albedo_core::{
    BuildContext, CallContext, Completion, Digest, Error, ErrorKind, GenerateRequest, Generated, Identity,
    Message, ModelBackend, ModelInfo, ModelSession, ModelSource, Plugin, ResponseFormat, Result,
    ScoreRequest, TokenScores,
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
use self::requests::{Call, Desk, Inbox, Request, Write};
use self::turns::Turn;
use self::weights::WeightFiles;
use crate::text::ChatText;

mod config;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod engine;
mod kernels;
mod model;
mod ops;
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
}

/// Settings of [`BurnBackend`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BurnConfig {
    /// Where models are computed: `cpu`, `cuda` (the first NVIDIA GPU) or
    /// `cuda:N`.
    pub device: Device,
    /// Most sequences that are decoded together, 1 to 4096 on the CPU and 1 to
    /// 256 on a GPU. Each holds the keys and values of its tokens in memory. No
    /// reply depends on it.
    pub max_batch: u32,
    /// The share of a GPU's memory that one session takes, above 0 and at most
    /// 1. The default leaves room for a second model.
    pub memory_share: f64,
    /// Most tokens of prompts that go through a GPU together, 128 to 32768. No
    /// reply depends on it.
    pub prefill_rows: u32,
    /// Whether the models of this device are in memory one after the other, for
    /// two that do not fit side by side: one stays until another is asked and
    /// its own requests under way are answered, and is loaded again at its next
    /// turn. No reply depends on it.
    pub in_turn: bool,
}

impl Default for BurnConfig {
    fn default() -> Self {
        Self { device: Device::Cpu, max_batch: 32, memory_share: 0.48, prefill_rows: 8192, in_turn: false }
    }
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
        <Self as Plugin<dyn ModelBackend>>::check(config)?;
        /// The settings that can change a reply.
        #[derive(Serialize)]
        struct Behavior {
            device: &'static str,
            /// What the bits of a GPU's replies depend on, beside its model.
            #[serde(skip_serializing_if = "Option::is_none")]
            kernels: Option<Digest>,
        }
        let behavior = match config.device {
            Device::Cpu => Behavior { device: "cpu", kernels: None },
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => Behavior { device: "cuda", kernels: Some(cuda::settings::digest()) },
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Behavior { device: "cuda", kernels: None },
        };
        Ok(Self {
            identity: Identity::new("burn", env!("CARGO_PKG_VERSION"), &behavior)?,
            placement: Placement {
                device: config.device,
                max_batch: config.max_batch as usize,
                memory_share: config.memory_share,
                prefill_rows: config.prefill_rows as usize,
                in_turn: config.in_turn,
            },
        })
    }
}

impl Plugin<dyn ModelBackend> for BurnBackend {
    const NAME: &'static str = "burn";
    const SUMMARY: &'static str =
        "Qwen3 models from a folder, computed in-process on the CPU or an NVIDIA GPU";
    type Config = BurnConfig;

    fn check(config: &BurnConfig) -> Result<()> {
        const CHECK: &str = "check the settings of backend `burn`";
        let most = config.device.max_batch();
        if !(1..=most).contains(&config.max_batch) {
            let message = format!("`max_batch` is {}, it must be 1 to {most}", config.max_batch);
            return Err(Error::new(ErrorKind::ConfigInvalid, CHECK, message));
        }
        if !(config.memory_share > 0.0 && config.memory_share <= 1.0) {
            let message =
                format!("`memory_share` is {}, it must be above 0 and at most 1", config.memory_share);
            return Err(Error::new(ErrorKind::ConfigInvalid, CHECK, message));
        }
        if !(128..=32_768).contains(&config.prefill_rows) {
            let message = format!("`prefill_rows` is {}, it must be 128 to 32768", config.prefill_rows);
            return Err(Error::new(ErrorKind::ConfigInvalid, CHECK, message));
        }
        if cfg!(not(feature = "cuda")) && config.device != Device::Cpu {
            return Err(Error::new(ErrorKind::ConfigInvalid, CHECK, "this build has no GPU support")
                .with_hint("build with `--features cuda`, or use `device = \"cpu\"`"));
        }
        Ok(())
    }

    async fn build(config: BurnConfig, _cx: &BuildContext<'_>) -> Result<Arc<dyn ModelBackend>> {
        Ok(Arc::new(Self::new(&config)?))
    }
}

albedo_core::register!(dyn ModelBackend => BurnBackend);

#[async_trait]
impl ModelBackend for BurnBackend {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn load(&self, model: &ModelSource, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        let (source, placement, call) = (model.clone(), self.placement, cx.clone());
        // A load that is cancelled ends by itself before its next tensor.
        let loading = tokio::task::spawn_blocking(move || Session::load(&source, placement, &call));
        let session = cx.run(LOAD, loading).await?.map_err(|error| {
            Error::bug(LOAD, "loading panicked").with("path", model.location.display()).with_source(error)
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
    in_turn: bool,
}

/// A loaded model and its device thread.
#[derive(Debug)]
struct Session {
    info: ModelInfo,
    text: Arc<ChatText>,
    /// `None` once the session is dropped.
    calls: Option<mpsc::Sender<Call>>,
    /// Cancelled when the session is dropped.
    alive: CallContext,
    thread: Option<JoinHandle<()>>,
    memory: Option<String>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.alive.cancel();
        self.calls = None;
        // Whoever loads the next model on a GPU counts on the memory of this
        // one. It takes a step of the device at most.
        if let (Some(thread), true) = (self.thread.take(), self.memory.is_some()) {
            let _ = thread.join();
        }
    }
}

impl Session {
    fn load(source: &ModelSource, placement: Placement, cx: &CallContext) -> Result<Self> {
        cx.check(LOAD)?;
        let config = Qwen3Config::load(&source.location)?;
        let text = Arc::new(ChatText::load(source.text_location())?);
        check_vocabulary(&config, &text, source)?;
        let files = Arc::new(WeightFiles::open(&source.location)?);
        let alive = CallContext::new();
        let desk = Desk {
            text: Arc::clone(&text),
            name: source.location.display().to_string(),
            context_length: config.max_position_embeddings,
            vocab_size: config.vocab_size,
            session: alive.clone(),
        };
        let (calls, receiver) = mpsc::channel(WAITING_CALLS);
        let turn = placement.in_turn.then(|| Turn::new(placement.device, calls.downgrade()));
        let digesting = digest(&files, cx)?;
        let loading = Loading { placement, config: config.clone(), files, desk };
        let (thread, memory) = start(loading, Inbox::new(receiver, turn), cx)?;
        // From here on, a failure drops the session and ends its device thread.
        let mut session = Self {
            info: info(&config, &text, placement.device)?,
            text,
            calls: Some(calls),
            alive,
            thread: Some(thread),
            memory,
        };
        let parameters = digesting.join().map_err(|_| Error::bug(LOAD, "digesting panicked"))??;
        if let Some(pinned) = source.parameters.filter(|pinned| *pinned != parameters) {
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                LOAD,
                "the weight files do not have the pinned digest",
            )
            .with("path", source.location.display())
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
        let call = Call { requests, cx: cx.clone(), answers };
        let unsent = self.calls.as_ref().map(|calls| (call, calls.downgrade()));
        Answers { unsent, receiver, open, cx: cx.clone() }
    }
}

/// What is loaded, but for its parameters' digest, which takes longest.
fn info(config: &Qwen3Config, text: &ChatText, device: Device) -> Result<ModelInfo> {
    Ok(ModelInfo {
        parameters: Digest::of([]),
        architecture: config::ARCHITECTURE.to_owned(),
        parameter_count: config.parameter_count(),
        context_length: config.max_position_embeddings as u32,
        dtype: if device == Device::Cpu { "f32" } else { "bf16" }.to_owned(),
        tokenizer: text.tokenizer_digest(),
        chat_template: text.template_digest(),
        stop_ids: text.stop_ids().to_vec(),
        config: Digest::of_json(config)?,
    })
}

/// What an engine is made of.
#[derive(Debug)]
struct Loading {
    placement: Placement,
    config: Qwen3Config,
    files: Arc<WeightFiles>,
    desk: Desk,
}

/// A model on its device.
enum OnDevice {
    Cpu(Box<Engine>),
    #[cfg(feature = "cuda")]
    Gpu(Box<cuda::Engine>, String),
}

impl Loading {
    fn load(&self, cx: &CallContext) -> Result<OnDevice> {
        let (config, desk) = (&self.config, self.desk.clone());
        let weights = || self.files.weights(cx);
        let loaded = match self.placement.device {
            Device::Cpu => weights().and_then(|weights| {
                let ops = BurnOps::new(config, burn::tensor::Device::flex());
                let model = Qwen3::load(ops, config, weights)?;
                let engine = Engine { model, desk, max_batch: self.placement.max_batch };
                Ok(OnDevice::Cpu(Box::new(engine)))
            }),
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => weights().and_then(|weights| {
                let (engine, plan) = cuda::load(index, &self.placement, config, weights, desk)?;
                Ok(OnDevice::Gpu(Box::new(engine), plan.to_string()))
            }),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(index) => Err(Error::bug(LOAD, format!("GPU {index} in a build without GPUs"))),
        };
        loaded.map_err(|error| error.with("model", &self.desk.name))
    }
}

impl OnDevice {
    /// How it divides the memory, where that is planned.
    fn memory(&self) -> Option<String> {
        match self {
            Self::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Gpu(_, plan) => Some(plan.clone()),
        }
    }

    fn run(self, inbox: &mut Inbox) {
        match self {
            Self::Cpu(engine) => engine.run(inbox),
            #[cfg(feature = "cuda")]
            Self::Gpu(engine, _) => engine.run(inbox),
        }
    }
}

/// Starts a device thread, on which the model is also loaded, and again at each
/// of its turns; how it divides the memory.
fn start(loading: Loading, mut inbox: Inbox, cx: &CallContext) -> Result<(JoinHandle<()>, Option<String>)> {
    let (loaded, outcome) = std::sync::mpsc::channel();
    let (first, cx) = (Some(loaded), cx.clone());
    let serve = move || {
        let turn = inbox.turn().cloned();
        let (mut loading, mut first) = (Some(loading), first);
        while let Some(parts) = &loading {
            let unwanted = || parts.desk.is_closed() || (first.is_some() && cx.check(LOAD).is_err());
            let holding = turn.as_ref().map(|turn| turn.take(unwanted));
            if holding.as_ref().is_some_and(Option::is_none) {
                return;
            }
            let engine = match first {
                Some(_) => parts.load(&cx),
                None => parts.files.require_unchanged().and_then(|()| parts.load(&parts.desk.session)),
            };
            // A model that stays needs its files no more.
            if turn.is_none() {
                loading = None;
            }
            match (engine, first.take()) {
                (Ok(engine), first) => {
                    // Fails only if the load is not waited for any more.
                    first.map(|first| first.send(Ok(engine.memory())));
                    engine.run(&mut inbox);
                }
                (Err(error), Some(first)) => {
                    let _ = first.send(Err(error));
                    return;
                }
                (Err(error), None) => inbox.refuse(&error),
            }
            drop(holding);
            if !inbox.sleep() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("albedo-device".to_owned());
    let thread = thread
        .spawn(serve)
        .map_err(|error| Error::io("start the device thread", Path::new("albedo-device"), error))?;
    let lost = |_| Error::new(ErrorKind::DeviceLost, LOAD, "the device thread failed");
    let memory = outcome.recv().map_err(lost)??;
    Ok((thread, memory))
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
    .with("tokenizer", source.text_location().display())
    .with("model", source.location.display())
    .with_hint("use the tokenizer that the model was trained with"))
}

#[async_trait]
impl ModelSession for Session {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn memory(&self) -> Option<&str> {
        self.memory.as_deref()
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>> {
        Ok(Some(self.text.encode_prompt(messages)?.len() as u32))
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let requests = requests.into_iter().map(|request| Request {
            messages: request.messages,
            score: request.score_reply,
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
            score: Some(request.reply),
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
}

/// The answers to one call: exactly one a request.
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
