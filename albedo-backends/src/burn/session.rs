//! A loaded model as its callers see it.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use albedo_core::{
    Artefact, CallContext, Completion, DeviceMemory, Digest, Error, ErrorKind, GenerateRequest, Generated,
    LogitsRequest, Message, ModelInfo, ModelSession, ModelSource, Prompt, Result, ScoreRequest, StreamPart,
    StreamRequest, TokenScores,
};
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;

use super::config::{self, Qwen3Config};
#[cfg(feature = "cuda")]
use super::cuda;
use super::requests::{Call, Desk, Given, Inbox, Request, Write};
use super::thread::{Loading, Starting, start};
use super::turns::Turn;
use super::weights::WeightFiles;
use super::{Device, LOAD, Placement, replicas};
use crate::text::ChatText;

const GENERATE: &str = "generate replies";

/// Calls that may wait for the device thread; more wait in their own tasks.
const WAITING_CALLS: usize = 64;

/// A loaded model and its device threads.
#[derive(Debug)]
pub(super) struct Session {
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
    /// Loads `source` on each of `devices`.
    pub(super) fn load(
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

    fn text_tokens(&self, text: &str) -> Result<Option<Vec<u32>>> {
        self.text.encode_reply(text).map(Some)
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let requests = requests.into_iter().map(|request| Request {
            given: request.score_reply.map(Given::Text),
            write: Some(Write {
                sampling: request.sampling,
                max_new_tokens: request.max_new_tokens,
                seed: request.seed,
                log_probs: request.log_probs,
            }),
            response: request.response,
            ..Request::new(Prompt::Messages(request.messages))
        });
        let answers = self.submit(requests.collect(), cx);
        stream::unfold(answers, |mut answers| async move {
            let (index, result) = answers.next().await?;
            Some((Generated { index, result }, answers))
        })
        .boxed()
    }

    fn stream(&self, request: StreamRequest, cx: &CallContext) -> BoxStream<'static, Result<StreamPart>> {
        let StreamRequest { prompt, sampling, max_new_tokens, seed, log_probs, prompt_log_probs, .. } =
            request;
        // A part for the prompt, and one for each token.
        let (parts, receiver) = mpsc::channel(1 + max_new_tokens as usize);
        let reads_only = prompt_log_probs && max_new_tokens == 0;
        let request = Request {
            write: (!reads_only).then_some(Write { sampling, max_new_tokens, seed, log_probs }),
            prompt_log_probs: prompt_log_probs.then(|| log_probs.unwrap_or(0)),
            parts: Some(parts),
            ..Request::new(prompt)
        };
        let parts = Parts { receiver, answers: self.submit(vec![request], cx) };
        stream::unfold(parts, |mut parts| async move {
            let part = parts.next().await?;
            Some((part, parts))
        })
        .boxed()
    }

    async fn score(&self, requests: Vec<ScoreRequest>, cx: &CallContext) -> Result<Vec<TokenScores>> {
        let mut scores = vec![TokenScores { log_probs: Vec::new() }; requests.len()];
        let requests = requests.into_iter().map(|request| Request {
            given: Some(Given::Text(request.reply)),
            ..Request::new(Prompt::Messages(request.messages))
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
            given: Some(Given::Tokens(request.tokens, request.reader)),
            ..Request::new(Prompt::Messages(request.messages))
        });
        let mut answers = self.submit(requests.collect(), cx);
        while let Some((_, result)) = answers.next().await {
            result?;
        }
        Ok(texts)
    }
}

/// A reply that is shown as it grows.
struct Parts {
    /// Closed when the device has done with the request.
    receiver: mpsc::Receiver<StreamPart>,
    answers: Answers,
}

impl Parts {
    async fn next(&mut self) -> Option<Result<StreamPart>> {
        self.answers.send().await;
        if let Some(part) = self.receiver.recv().await {
            return Some(Ok(part));
        }
        let (_, result) = self.answers.next().await?;
        Some(result.map(StreamPart::Done))
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
        self.send().await;
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

    /// Hands the requests over to the device, if that is still to be done.
    async fn send(&mut self) {
        if let Some((call, calls)) = self.unsent.take()
            && let Some(calls) = calls.upgrade()
        {
            // If it is not taken, its sender of answers is dropped with it.
            let _ = self.cx.run(GENERATE, calls.send(call)).await;
        }
    }
}
