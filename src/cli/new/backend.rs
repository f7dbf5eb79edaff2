//! The backend `my-plugin`: a model is a folder with `reply.txt` and answers
//! every prompt with that text, until [`Session`] runs the models that you want.

use std::fs;
use std::sync::Arc;

use albedo::prelude::*;
use albedo::{
    Artefact, BoxStream, Completion, Digest, FinishReason, GenerateRequest, Generated, Message, ModelInfo,
    ScoreRequest, TokenScores, Usage,
};
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The file that a model's folder has.
const REPLY: &str = "reply.txt";

/// Tokens are bytes; this one closes a reply.
const STOP: u32 = 256;

/// Longest prompt and reply together, in tokens.
const CONTEXT: u32 = 1 << 16;

const LOAD: &str = "load a model";

/// Loads models that say one thing.
#[derive(Debug)]
pub struct MyPlugin {
    identity: Identity,
    config: Config,
}

/// Settings of the backend: the keys of `[backend]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often a reply says the model's text.
    pub times: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { times: 1 }
    }
}

impl Plugin<dyn ModelBackend> for MyPlugin {
    const NAME: &'static str = "my-plugin";
    const SUMMARY: &'static str = "answers every prompt with the text of the model's `reply.txt`";
    type Config = Config;
    type Checked = Self;

    // Raise the version whenever a reply could change: records name it.
    fn check(config: Config, _cx: &CheckContext<'_>) -> albedo::Result<Self> {
        Ok(Self { identity: Identity::new(Self::NAME, "1", &config)?, config })
    }

    fn check_model(_: &Self, model: &ModelRef) -> albedo::Result<()> {
        model.require_files(LOAD)
    }

    async fn build(backend: Self, _cx: &BuildContext<'_>) -> albedo::Result<Arc<dyn ModelBackend>> {
        Ok(Arc::new(backend))
    }
}

register!(dyn ModelBackend => MyPlugin);

#[async_trait]
impl ModelBackend for MyPlugin {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn load(&self, model: &ModelSource, cx: &CallContext) -> albedo::Result<Arc<dyn ModelSession>> {
        cx.check(LOAD)?;
        let path = model.model.require_folder(LOAD)?.join(REPLY);
        let text = fs::read_to_string(&path).map_err(|error| Error::io(LOAD, &path, error))?;
        let parameters = Digest::of(format!("{}  {REPLY}\n", Digest::of(&text)));
        if model.parameters.is_some_and(|pinned| pinned != parameters) {
            return Err(Error::new(ErrorKind::DigestMismatch, LOAD, "the model is not the pinned one")
                .about(Artefact::Model)
                .with("path", path.display())
                .with("found", parameters));
        }
        // Both sides of a duel have to agree on architecture, tokenizer, template
        // and stop ids.
        let info = ModelInfo::new(parameters, "OneReply", CONTEXT)
            .with_parameter_count(text.len() as u64)
            .with_dtype("u8")
            .with_text(Digest::of("bytes"), Digest::of("contents, joined"), vec![STOP])
            .with_config(Digest::of_json(&self.config)?);
        Ok(Arc::new(Session { info, text: text.repeat(self.config.times).into() }))
    }
}

/// A loaded model.
#[derive(Debug)]
pub struct Session {
    info: ModelInfo,
    text: Arc<str>,
}

#[async_trait]
impl ModelSession for Session {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn count_prompt_tokens(&self, messages: &[Message]) -> albedo::Result<Option<u32>> {
        Ok(Some(prompt_tokens(messages)))
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let (text, cx) = (Arc::clone(&self.text), cx.clone());
        let answer = move |(index, request)| {
            let result = cx.check("write a reply").and_then(|()| reply(&text, &request));
            Generated { index, result }
        };
        stream::iter(requests.into_iter().enumerate()).map(answer).boxed()
    }

    async fn score(&self, _: Vec<ScoreRequest>, _: &CallContext) -> albedo::Result<Vec<TokenScores>> {
        Err(Error::new(ErrorKind::Unsupported, "score a reply", "the model has no probabilities"))
    }
}

fn prompt_tokens(messages: &[Message]) -> u32 {
    messages.iter().map(|message| message.content.len() as u32).sum()
}

fn reply(text: &str, request: &GenerateRequest) -> albedo::Result<Completion> {
    const WRITE: &str = "write a reply";
    request.sampling.check()?;
    request.response.require_text(WRITE)?;
    let prompt_tokens = prompt_tokens(&request.messages);
    if request.max_new_tokens == 0 || prompt_tokens.saturating_add(request.max_new_tokens) > CONTEXT {
        return Err(Error::new(ErrorKind::Unsupported, WRITE, "the reply does not fit")
            .with("prompt tokens", prompt_tokens)
            .with("max_new_tokens", request.max_new_tokens)
            .with("context", CONTEXT));
    }
    let tokens = text.bytes().map(u32::from).chain([STOP]);
    let tokens: Vec<u32> = tokens.take(request.max_new_tokens as usize).collect();
    let finish = if tokens.last() == Some(&STOP) { FinishReason::Stop } else { FinishReason::Length };
    let written = &text.as_bytes()[..text.len().min(tokens.len())];
    let usage = Usage::counted(prompt_tokens, tokens.len() as u32).with_price(0.0);
    Ok(Completion::new(String::from_utf8_lossy(written), finish, usage).with_tokens(tokens))
}

#[cfg(test)]
mod tests {
    use albedo::MessageRole;
    use albedo::conformance::{BackendFixture, SessionFixture, check_backend};

    use super::*;

    #[tokio::test]
    async fn it_keeps_the_promises_of_a_backend() {
        let folder = std::env::temp_dir().join(format!("my-plugin-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(REPLY), "I look first: ls").expect("a model");
        let ask = |text: &str| vec![Message::new(MessageRole::User, text)];
        let conversations = vec![ask("Which files are there?"), ask("é"), ask("Where is the fault?")];
        let fixture = BackendFixture {
            model: ModelSource::new(folder.as_path()),
            missing: ModelSource::new(folder.join("none")),
            session: SessionFixture { samples: false, ..SessionFixture::new(conversations) },
        };
        let (cx, registry) = (CallContext::new(), Registry::linked().expect("no name is taken twice"));
        let backend = BuildContext::new(&registry, &cx)
            .build::<dyn ModelBackend>("my-plugin", serde_json::json!({}))
            .await
            .expect("builds");
        Box::pin(check_backend(&*backend, &fixture)).await.expect("conforms");
        fs::remove_dir_all(&folder).expect("removes");
    }
}
