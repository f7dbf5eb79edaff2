//! Chat models behind any server that speaks OpenAI's chat completions.

use std::sync::Arc;

use albedo_core::http::{Credential, HttpTransport, StatusCode};
use albedo_core::registry::Secrets;
use albedo_core::{
    BuildContext, CallContext, CallSignal, CheckContext, Completion, Digest, Error, ErrorKind, Fault,
    GenerateRequest, Generated, Identity, Message, ModelBackend, ModelInfo, ModelRef, ModelSession,
    ModelSource, Plugin, Reach, Result, ScoreRequest, StreamPart, StreamRequest, TokenScores,
};
use async_trait::async_trait;
use futures::FutureExt;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, mpsc};

use self::http::{MAX_BODY, Server};
use self::reply::Reader;
use crate::http::{BaseSetting, Client, is_variable};

mod finish;
mod http;
mod lenient;
mod limits;
mod models;
#[cfg(test)]
mod peers;
mod reply;
#[cfg(any(test, feature = "scripted-server"))]
pub mod scripted;
mod sse;
#[cfg(test)]
mod tests;
mod text;
mod wire;

/// The setting that names the server.
const BASE: BaseSetting =
    BaseSetting { key: "base_url", secret: "key_env", example: "https://llm.chutes.ai/v1" };

const LOAD: &str = "load the remote model";
const GENERATE: &str = "generate replies remotely";

/// Context of a model whose server does not tell: as good as unlimited, since
/// the server refuses what is too long.
const UNKNOWN_CONTEXT: u32 = u32::MAX;

/// What stands for a tokenizer and a chat template that only the server knows.
/// It is the same for all remote models, so that two of them can duel: both
/// sides are given the same conversations, which their servers render.
const SERVERS_TEXT: &str = "rendered by the server";

/// Names of OpenAI's own bounds on a reply's length, old and new.
const MAX_TOKENS_KEYS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// Asks an OpenAI-compatible server for replies.
///
/// # Behavior
/// - A request is sent once: trying again, waiting, limits in time and choosing
///   among servers are [`albedo_core::wrappers`]'. Nothing but a call's
///   deadline ends a request whose server is silent.
/// - The server's last word for a reply's end counts, if it is one that real servers
///   use. Without one, an answer that ended as answers end is whole, and any other
///   has [`FinishReason::Unknown`](albedo_core::FinishReason::Unknown).
/// - What stands beside the text (usage, price, log-probabilities) is absent where
///   it cannot be read, and never costs a finished reply.
/// - A message that repeats what came in pieces replaces them.
/// - An error inside an answer, in whatever shape, is an error: half a reply is none.
/// - Text that the server marks as reasoning is kept apart from the reply.
/// - Seeds are sent (their low 31 bits) and may be ignored by the server.
/// - The key is read from the environment once, and is in no error, record,
///   identity or `Debug`. Redirections are not followed, and the key does not go
///   over plain HTTP to another machine ([`crate::http`]).
/// - A response format is asked for; a server that ignores it is not noticed.
/// - A stream shows a text that comes in pieces piece by piece, and its log-probabilities
///   at the end. If the server then replaces what it has sent, what was shown stays.
#[derive(Debug)]
pub struct OpenAiBackend {
    identity: Identity,
    config: Arc<OpenAiConfig>,
    server: Arc<Server>,
}

/// Settings of [`OpenAiBackend`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OpenAiConfig {
    /// A provider whose `base_url`, `key_env` and `extra` are known; what is
    /// given beside it wins.
    pub preset: Option<Preset>,
    /// Where `/chat/completions` and `/models` are, usually up to `/v1`.
    pub base_url: Option<String>,
    /// The environment variable that holds the key; none for servers without.
    pub key_env: Option<String>,
    /// The served model's name, instead of the one that is asked for.
    pub model: Option<String>,
    /// Receive replies as they are written, so that stalls can be told from
    /// long replies.
    pub stream: bool,
    /// Check when loading that the server lists the model.
    pub check_model: bool,
    /// Most requests of one session that are under way, 1 to 1024.
    pub max_in_flight: u32,
    /// The model's context in tokens, where the server does not tell.
    pub context_length: Option<u32>,
    /// Send the key even over plain HTTP to another machine, where everybody on
    /// the way can read it.
    pub allow_plain_http: bool,
    /// What tokens cost, where the provider does not tell the price.
    pub price: Option<Price>,
    /// How the server calls the bound on a reply's tokens.
    pub max_tokens_key: String,
    /// Further members of every request, such as OpenRouter's `provider` or
    /// `reasoning`; they win over albedo's own.
    pub extra: Map<String, Value>,
}

impl Default for OpenAiConfig {
    fn default() -> Self {
        Self {
            preset: None,
            base_url: None,
            key_env: None,
            model: None,
            stream: true,
            check_model: true,
            max_in_flight: 64,
            context_length: None,
            allow_plain_http: false,
            price: None,
            max_tokens_key: MAX_TOKENS_KEYS[0].into(),
            extra: Map::new(),
        }
    }
}

/// A provider whose addresses are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// `https://llm.chutes.ai/v1`, key in `CHUTES_API_KEY`.
    Chutes,
    /// `https://openrouter.ai/api/v1`, key in `OPENROUTER_API_KEY`; asks for the
    /// price of every reply.
    #[serde(rename = "openrouter")]
    OpenRouter,
}

/// US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Tokens read.
    pub prompt_usd: f64,
    /// Tokens written, reasoning included.
    pub completion_usd: f64,
}

/// What can change an answer: where it is asked for and how.
#[derive(Serialize)]
struct AnswerConfig<'a> {
    base_url: &'a Option<String>,
    model: &'a Option<String>,
    max_tokens_key: &'a str,
    extra: &'a Map<String, Value>,
}

impl OpenAiConfig {
    /// The settings with the preset's in place of what is not given.
    #[must_use]
    pub fn resolved(mut self) -> Self {
        let (base_url, key_env) = match self.preset {
            Some(Preset::Chutes) => ("https://llm.chutes.ai/v1", "CHUTES_API_KEY"),
            Some(Preset::OpenRouter) => {
                self.extra.entry("usage").or_insert_with(|| serde_json::json!({ "include": true }));
                ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY")
            }
            None => return self,
        };
        self.base_url.get_or_insert_with(|| base_url.into());
        self.key_env.get_or_insert_with(|| key_env.into());
        self
    }

    /// The settings, checked and with the preset's filled in.
    fn check(self) -> Result<Self> {
        let invalid = |key: &'static str, message: String| {
            let operation = "check the settings of backend `openai`";
            Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", key))
        };
        let config = self.resolved();
        let Some(base_url) = &config.base_url else {
            return invalid(
                "base_url",
                "`base_url` is missing, and there is no `preset` to take it from".into(),
            );
        };
        if config.key_env.as_deref() == Some("") {
            return invalid("key_env", "`key_env` is empty; leave it out for a server without a key".into());
        }
        if config.key_env.as_deref().is_some_and(|name| !is_variable(name)) {
            // It may be the key itself: it is not repeated.
            return invalid(
                "key_env",
                "`key_env` is no variable's name: it names the environment variable that holds the key, never the \
                 key itself"
                    .into(),
            );
        }
        let keyed = config.key_env.is_some() && !config.allow_plain_http;
        BASE.check(base_url, keyed).map_err(|error| error.with("key", "base_url"))?;
        if !(1..=1024).contains(&config.max_in_flight) {
            return invalid(
                "max_in_flight",
                format!("`max_in_flight` is {}, it must be 1 to 1024", config.max_in_flight),
            );
        }
        if config.context_length == Some(0) {
            return invalid("context_length", "`context_length` is 0".into());
        }
        if !MAX_TOKENS_KEYS.contains(&config.max_tokens_key.as_str()) {
            let known = MAX_TOKENS_KEYS.join("` or `");
            return invalid(
                "max_tokens_key",
                format!("`max_tokens_key` is `{}`, it must be `{known}`", config.max_tokens_key),
            );
        }
        let valid = |usd: f64| usd >= 0.0 && usd.is_finite();
        match config.price {
            Some(Price { prompt_usd, completion_usd }) if !(valid(prompt_usd) && valid(completion_usd)) => {
                invalid("price", "a `price` is negative or not finite".into())
            }
            _ => Ok(config),
        }
    }
}

impl OpenAiBackend {
    /// A backend for the server that `config` names, with the key in `secrets`.
    ///
    /// # Errors
    /// The operator's: a setting is wrong, or the key is missing.
    pub fn new(config: OpenAiConfig, secrets: &dyn Secrets) -> Result<Self> {
        Self::with_transport(config, secrets, Arc::new(Client::from_env()))
    }

    /// The same, whose requests `transport` sends.
    ///
    /// # Errors
    /// As [`OpenAiBackend::new`].
    pub fn with_transport(
        config: OpenAiConfig,
        secrets: &dyn Secrets,
        transport: Arc<dyn HttpTransport>,
    ) -> Result<Self> {
        let config = config.check()?;
        let key = config.key_env.as_deref();
        let key = key.map(|name| Credential::bearer(name, secrets.get(name)?.expose()));
        Self::with_key(config, key.transpose()?, transport)
    }

    /// The backend of checked settings.
    fn with_key(
        config: OpenAiConfig,
        key: Option<Credential>,
        transport: Arc<dyn HttpTransport>,
    ) -> Result<Self> {
        let answers = AnswerConfig {
            base_url: &config.base_url,
            model: &config.model,
            max_tokens_key: &config.max_tokens_key,
            extra: &config.extra,
        };
        Ok(Self {
            identity: Identity::new(Self::NAME, env!("CARGO_PKG_VERSION"), &answers)?,
            server: Arc::new(Server::new(
                transport,
                config.base_url.as_deref().unwrap_or_default(),
                key,
                config.allow_plain_http,
            )),
            config: Arc::new(config),
        })
    }

    fn model<'a>(&'a self, source: &'a ModelSource) -> Result<&'a str> {
        let served = source.model.require_served(LOAD)?;
        let asked = self.config.model.as_deref().unwrap_or(served);
        if asked.is_empty() {
            return Err(Error::new(ErrorKind::ConfigInvalid, LOAD, "the model has no name")
                .with_hint("set `model` to a name that the server lists"));
        }
        Ok(asked)
    }

    /// The names of the models that the server lists, in its order.
    ///
    /// # Errors
    /// The server's; [`ErrorKind::Protocol`] if its answer is no list.
    pub async fn models(&self, cx: &CallContext) -> Result<Vec<String>> {
        models::names(&cx.run(LOAD, self.server.get(LOAD, "/models", cx)).await??)
    }

    /// A backend with the secrets and the transport of `cx`, as a configuration's is built.
    ///
    /// # Errors
    /// As [`OpenAiBackend::new`].
    pub fn build_with(config: OpenAiConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let config = config.check()?;
        let key = config.key_env.as_deref();
        let key = key.map(|name| Credential::bearer(name, cx.secret(name)?.expose()));
        Self::with_key(config, key.transpose()?, crate::http::transport(cx))
    }

    /// The longest context of `model` if the server reports it, once it is known
    /// that it serves it.
    async fn look_up(&self, model: &str, cx: &CallContext) -> Result<Option<u32>> {
        let listing = self.server.get(LOAD, "/models", cx).await?;
        models::find(&listing, model)
            .map_err(|error| error.with("server", self.config.base_url.as_deref().unwrap_or_default()))
    }
}

#[async_trait]
impl ModelBackend for OpenAiBackend {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn max_in_flight(&self) -> Option<u32> {
        Some(self.config.max_in_flight)
    }

    async fn load(&self, source: &ModelSource, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        cx.check(LOAD)?;
        let model = self.model(source)?;
        let parameters = Digest::of(model);
        if let Some(pin) = source.parameters.filter(|pin| *pin != parameters) {
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                LOAD,
                "the digest is not that of the served name",
            )
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with("model", model)
            .with("pinned", pin));
        }
        let context =
            if self.config.check_model { cx.run(LOAD, self.look_up(model, cx)).await?? } else { None };
        let info = ModelInfo::new(
            parameters,
            "remote",
            self.config.context_length.or(context).unwrap_or(UNKNOWN_CONTEXT),
        )
        .with_dtype("remote")
        .with_text(Digest::of(SERVERS_TEXT), Digest::of(SERVERS_TEXT), vec![])
        .with_config(self.identity.config);
        Ok(Arc::new(Session(Arc::new(Remote {
            model: model.to_owned(),
            info,
            config: Arc::clone(&self.config),
            server: Arc::clone(&self.server),
            slots: Semaphore::new(self.config.max_in_flight as usize),
        }))))
    }
}

impl Plugin<dyn ModelBackend> for OpenAiBackend {
    const NAME: &'static str = "openai";
    const SUMMARY: &'static str = "chat models behind an OpenAI-compatible server";
    type Config = OpenAiConfig;
    type Checked = OpenAiConfig;

    fn check(config: OpenAiConfig, _: &CheckContext<'_>) -> Result<OpenAiConfig> {
        config.check()
    }

    fn check_model(_: &OpenAiConfig, model: &ModelRef) -> Result<()> {
        model.require_served(LOAD).map(drop)
    }

    async fn build(config: OpenAiConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn ModelBackend>> {
        Ok(Arc::new(Self::build_with(config, cx)?))
    }
}

albedo_core::register!(dyn ModelBackend => OpenAiBackend);

#[derive(Debug)]
struct Session(Arc<Remote>);

/// Where the parts of a reply go.
type Parts = mpsc::UnboundedSender<Result<StreamPart>>;

/// A served model.
#[derive(Debug)]
struct Remote {
    model: String,
    info: ModelInfo,
    config: Arc<OpenAiConfig>,
    server: Arc<Server>,
    slots: Semaphore,
}

impl Remote {
    /// The reply to `request`; `show` is called after each piece of it.
    async fn reply(
        &self,
        request: &GenerateRequest,
        cx: &CallContext,
        mut show: impl FnMut(&Reader) + Send,
    ) -> Result<Completion> {
        check(request)?;
        let _slot = self.slots.acquire().await.map_err(|error| Error::bug(GENERATE, error.to_string()))?;
        let body = wire::body(&self.config, &self.model, request).to_string().into_bytes();
        let messages = &request.messages;
        let mut response = self.server.post(GENERATE, "/chat/completions", body, messages, cx).await?;
        let headers = response.headers().clone();
        let refused = |body: &Value| self.server.refused(GENERATE, StatusCode::OK, &headers, body, messages);
        let (mut reader, mut read) = (Reader::default(), 0);
        while !reader.is_done() {
            let piece = match response.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(_) if reader.is_complete() => break,
                Err(error) => return Err(error),
            };
            read += piece.len();
            if read > MAX_BODY {
                return Err(http::too_long(GENERATE, MAX_BODY));
            }
            if reader.push(&piece, &refused)? {
                cx.signal(CallSignal::Token);
                show(&reader);
            }
        }
        reader.end(self.config.price, &refused)
    }

    /// The parts of the reply to `request`, each sent as soon as it is there.
    async fn stream(&self, request: &GenerateRequest, cx: &CallContext, parts: Parts) {
        let mut shown = String::new();
        let show = |reader: &Reader| {
            let piece = reader.so_far().get(shown.len()..).unwrap_or_default().to_owned();
            if !piece.is_empty() {
                shown.push_str(&piece);
                // Fails only if the caller has gone.
                let _ = parts.send(Ok(StreamPart::tokens(Vec::new(), piece, None)));
            }
        };
        let reply = cx.run(GENERATE, self.reply(request, cx, show)).await;
        let done = reply.and_then(|reply| reply).map(|mut completion| {
            // A server may replace at the end what it has sent; what was shown stays.
            if !completion.text.starts_with(&shown) {
                completion.text.clone_from(&shown);
            }
            let (rest, log_probs) = (&completion.text[shown.len()..], completion.log_probs.clone());
            if !rest.is_empty() || log_probs.is_some() {
                let _ = parts.send(Ok(StreamPart::tokens(Vec::new(), rest, log_probs)));
            }
            StreamPart::Done(completion)
        });
        let _ = parts.send(done);
    }
}

/// Checks what the server need not be asked for.
fn check(request: &GenerateRequest) -> Result<()> {
    request.sampling.check()?;
    let invalid = |kind, message: &str| {
        Err(Error::new(kind, GENERATE, message).with_fault(Fault::Operator).with_reach(Reach::Duel))
    };
    if request.max_new_tokens == 0 {
        return invalid(ErrorKind::ConfigInvalid, "`max_new_tokens` is 0, it must be at least 1");
    }
    if request.messages.is_empty() {
        return invalid(ErrorKind::ConfigInvalid, "the conversation is empty");
    }
    if request.score_reply.is_some() {
        return invalid(ErrorKind::Unsupported, "a remote model cannot score a given reply");
    }
    Ok(())
}

#[async_trait]
impl ModelSession for Session {
    fn model(&self) -> &ModelInfo {
        &self.0.info
    }

    fn count_prompt_tokens(&self, _: &[Message]) -> Result<Option<u32>> {
        Ok(None)
    }

    fn generate(&self, requests: Vec<GenerateRequest>, cx: &CallContext) -> BoxStream<'static, Generated> {
        let answers = requests.into_iter().enumerate().map(|(index, request)| {
            let (remote, cx) = (Arc::clone(&self.0), cx.clone());
            async move {
                let result = cx.run(GENERATE, remote.reply(&request, &cx, |_| ())).await;
                Generated { index, result: result.and_then(|result| result) }
            }
        });
        answers.collect::<FuturesUnordered<_>>().boxed()
    }

    fn stream(&self, request: StreamRequest, cx: &CallContext) -> BoxStream<'static, Result<StreamPart>> {
        let request = match request.into_generate() {
            Ok(request) => request,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let (remote, cx) = (Arc::clone(&self.0), cx.clone());
        // The parts are together no larger than the answer, which has a bound.
        let (sender, mut parts) = mpsc::unbounded_channel();
        let mut reply = async move { remote.stream(&request, &cx, sender).await }.boxed().fuse();
        stream::poll_fn(move |task| {
            // Reading the parts drives the reply; with its end, the channel closes.
            let _ = reply.poll_unpin(task);
            parts.poll_recv(task)
        })
        .boxed()
    }

    async fn score(&self, _: Vec<ScoreRequest>, _: &CallContext) -> Result<Vec<TokenScores>> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "score replies remotely",
            "a chat server cannot score a given reply",
        )
        .with_fault(Fault::Operator)
        .with_reach(Reach::Duel))
    }
}
