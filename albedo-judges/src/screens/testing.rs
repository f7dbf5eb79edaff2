//! What the screens' tests share: small checkpoints, files in memory, sessions
//! that say what they are told to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo_core::admission::inspect_weights;
use albedo_core::backend::{Completion, GenerateRequest, Generated, ModelInfo, ScoreRequest, TokenScores};
use albedo_core::testing::Rows;
use albedo_core::{
    CallContext, Digest, Error, ErrorKind, FileEntry, FinishReason, Message, MessageRole, ModelFiles,
    ModelSession, Provenance, Result, TaskRow, Usage,
};
use albedo_core::{Finding, Models, WeightsScreen};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::probes::Prompts;

#[path = "../../examples/screen_attacks/disguise.rs"]
#[expect(dead_code, reason = "the attack generators use all of it")]
pub(crate) mod disguise;
#[path = "../../examples/screen_attacks/folder.rs"]
mod folder;

pub(crate) use folder::folder;

/// What `future` comes to, waited for on this thread.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// What `screen` finds of the weights in `submission` beside the demo king's.
pub(crate) async fn find(screen: &dyn WeightsScreen, submission: &Path, own: &[&str]) -> Result<Finding> {
    let models = Models::new(folder(&demo_king()), folder(submission));
    let own: Vec<_> = own.iter().map(|&label| label.to_owned()).collect();
    inspect_weights(screen, &models, &own, &CallContext::new()).await
}

/// The demo king's folder.
pub(crate) fn demo_king() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/models/king")
}

/// Files in memory, which stand for what was handed in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(pub(crate) BTreeMap<String, Vec<u8>>);

/// The same as a copy of ours.
#[derive(Debug)]
pub(crate) struct Copied(pub(crate) Memory);

#[async_trait]
impl ModelFiles for Copied {
    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        self.0.list(cx).await
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        self.0.read(name, range, cx).await
    }
}

#[async_trait]
impl ModelFiles for Memory {
    fn provenance(&self) -> Provenance {
        Provenance::Published
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        cx.check("list files")?;
        Ok(self.0.iter().map(|(name, bytes)| FileEntry::new(name, bytes.len() as u64)).collect())
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        cx.check("read files")?;
        let bytes = self.0.get(name).and_then(|bytes| bytes.get(range.start as usize..range.end as usize));
        bytes
            .map(<[u8]>::to_vec)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "read files", "no such range"))
    }
}

/// A safetensors file of one header and zeros.
pub(crate) fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

/// A session whose replies `speak` gives; an error is a provider's outage.
pub(crate) struct Speaker<F> {
    info: ModelInfo,
    speak: F,
    /// Whether it knows how many tokens a prompt has.
    counts: bool,
}

impl<F> std::fmt::Debug for Speaker<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Speaker")
    }
}

impl<F: Fn(&GenerateRequest) -> Option<String> + Send + Sync + 'static> Speaker<F> {
    pub(crate) fn new(speak: F) -> Self {
        let digest = Digest::of("speaker");
        let info = ModelInfo::new(digest, "Speaker", 4096)
            .with_dtype("f32")
            .with_text(digest, digest, vec![])
            .with_config(digest);
        Self { info, speak, counts: false }
    }

    /// The same with a context of `length` tokens, which are words.
    pub(crate) fn with_context(mut self, length: u32) -> Self {
        self.info.context_length = length;
        Self { counts: true, ..self }
    }
}

#[async_trait]
impl<F: Fn(&GenerateRequest) -> Option<String> + Send + Sync + 'static> ModelSession for Speaker<F> {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> Result<Option<u32>> {
        let words = messages.iter().map(|message| message.content.split_whitespace().count());
        Ok(self.counts.then_some(words.sum::<usize>() as u32))
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let cx = cx.clone();
        let answers: Vec<_> = requests.iter().map(|request| (self.speak)(request)).collect();
        stream::iter(answers.into_iter().enumerate().map(move |(index, text)| {
            let result = cx.check("speak").and_then(|()| match text {
                Some(text) => Ok(Completion::new(text, FinishReason::Stop, Usage::default())),
                None => Err(Error::new(ErrorKind::Unavailable, "speak", "the provider is down")),
            });
            Generated { index, result }
        }))
        .boxed()
    }

    async fn score(&self, _: Vec<ScoreRequest>, _: &CallContext) -> Result<Vec<TokenScores>> {
        Err(Error::new(ErrorKind::Unsupported, "score", "a speaker does not score"))
    }
}

/// Recorded conversations of `turns` replies, between which `role` speaks.
pub(crate) fn recorded(turns: usize, role: MessageRole) -> Prompts {
    let row = move |row: u64| {
        let mut messages = vec![Message::new(MessageRole::User, format!("Repair part {row}."))];
        for turn in 0..turns {
            if turn > 0 {
                messages.push(Message::new(role, format!("output {turn}")));
            }
            messages.push(Message::new(MessageRole::Assistant, "I go on."));
        }
        TaskRow { instance_id: row.to_string(), repo: "repository".into(), messages }
    };
    Prompts::Tasks(Arc::new(Rows::new(20, row)))
}
