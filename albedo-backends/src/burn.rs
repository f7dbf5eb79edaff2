//! Qwen3 models in-process, computed by Burn.

use std::path::Path;
use std::sync::Arc;

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
use self::engine::{Call, Engine, Request, Write};
use self::model::Qwen3;
use self::weights::WeightFiles;
use crate::text::ChatText;

mod config;
mod cpu;
mod engine;
mod kernels;
mod model;
mod ops;
mod sample;
mod weights;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;

const LOAD: &str = "load the model";
const GENERATE: &str = "generate replies";

/// Calls that may wait for the device thread; more wait in their own tasks.
const WAITING_CALLS: usize = 64;

/// The largest batch that a configuration may ask for.
const MAX_BATCH: u32 = 4096;

/// Loads Qwen3 dense decoders (`Qwen3ForCausalLM`) from a folder in the layout
/// of Hugging Face: `config.json`, `*.safetensors` (one file, or several with
/// `model.safetensors.index.json`; bf16, f16 or f32), `tokenizer.json` and
/// `tokenizer_config.json`. They are computed in f32 on the CPU.
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
    max_batch: usize,
}

/// Settings of [`BurnBackend`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BurnConfig {
    /// Where models are computed.
    pub device: Device,
    /// Most sequences that are decoded together, 1 to 4096. Each holds the
    /// keys and values of its tokens in memory. No reply depends on it.
    pub max_batch: u32,
}

impl Default for BurnConfig {
    fn default() -> Self {
        Self { device: Device::Cpu, max_batch: 32 }
    }
}

/// Where models are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The CPU, in f32, on all cores.
    Cpu,
}

impl BurnBackend {
    /// The backend with `config`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] if `max_batch` is out of range.
    pub fn new(config: &BurnConfig) -> Result<Self> {
        <Self as Plugin<dyn ModelBackend>>::check(config)?;
        /// The settings that can change a reply; `max_batch` cannot.
        #[derive(Serialize)]
        struct Behavior {
            device: Device,
        }
        Ok(Self {
            identity: Identity::new("burn", env!("CARGO_PKG_VERSION"), &Behavior { device: config.device })?,
            max_batch: config.max_batch as usize,
        })
    }
}

impl Plugin<dyn ModelBackend> for BurnBackend {
    const NAME: &'static str = "burn";
    const SUMMARY: &'static str = "Qwen3 models from a folder, computed in-process on the CPU";
    type Config = BurnConfig;

    fn check(config: &BurnConfig) -> Result<()> {
        if (1..=MAX_BATCH).contains(&config.max_batch) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::ConfigInvalid,
            "check the settings of backend `burn`",
            format!("`max_batch` is {}, it must be 1 to {MAX_BATCH}", config.max_batch),
        ))
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
        let (source, max_batch, call) = (model.clone(), self.max_batch, cx.clone());
        // A load that is cancelled ends by itself before its next tensor.
        let loading = tokio::task::spawn_blocking(move || Session::load(&source, max_batch, &call));
        let session = cx.run(LOAD, loading).await?.map_err(|error| {
            Error::bug(LOAD, "loading panicked").with("path", model.location.display()).with_source(error)
        })??;
        Ok(Arc::new(session))
    }
}

/// A loaded model and its device thread.
#[derive(Debug)]
struct Session {
    info: ModelInfo,
    text: Arc<ChatText>,
    calls: mpsc::Sender<Call>,
    /// Cancelled when the session is dropped.
    alive: CallContext,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.alive.cancel();
    }
}

impl Session {
    fn load(source: &ModelSource, max_batch: usize, cx: &CallContext) -> Result<Self> {
        cx.check(LOAD)?;
        let config = Qwen3Config::load(&source.location)?;
        let text = Arc::new(ChatText::load(source.text_location())?);
        check_vocabulary(&config, &text, source)?;
        let files = WeightFiles::open(&source.location)?;
        let parameters = files.digest(cx)?;
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
        let info = ModelInfo {
            parameters,
            architecture: config::ARCHITECTURE.to_owned(),
            parameter_count: config.parameter_count(),
            context_length: config.max_position_embeddings as u32,
            dtype: "f32".to_owned(),
            tokenizer: text.tokenizer_digest(),
            chat_template: text.template_digest(),
            stop_ids: text.stop_ids().to_vec(),
            config: Digest::of_json(&config)?,
        };
        let alive = CallContext::new();
        let engine = Engine {
            model: Qwen3::load(BurnOps::new(&config), &config, files.weights(cx)?)
                .map_err(|error| error.with("model", source.location.display()))?,
            text: Arc::clone(&text),
            name: source.location.display().to_string(),
            context_length: config.max_position_embeddings,
            max_batch,
            session: alive.clone(),
        };
        let (calls, receiver) = mpsc::channel(WAITING_CALLS);
        std::thread::Builder::new()
            .name("albedo-burn".to_owned())
            .spawn(move || engine.run(receiver))
            .map_err(|error| Error::io("start the device thread", Path::new("albedo-burn"), error))?;
        Ok(Self { info, text, calls, alive })
    }

    fn submit(&self, requests: Vec<Request>, cx: &CallContext) -> Answers {
        let (answers, receiver) = mpsc::channel(requests.len().max(1));
        let open = vec![true; requests.len()];
        let call = Call { requests, cx: cx.clone(), answers };
        Answers { unsent: Some((call, self.calls.downgrade())), receiver, open, cx: cx.clone() }
    }
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
