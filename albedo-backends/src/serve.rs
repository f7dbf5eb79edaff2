//! Models behind a server of albedo's own jobs (`albedo serve`).
//!
//! What a session is asked becomes a job that the server finds again by its digest, so
//! that neither a lost connection nor a killed process on either side costs a reply
//! that was written ([`protocol`]). Several servers share a work queue over NATS
//! JetStream instead (feature `nats`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use albedo_core::http::{Credential, HttpTransport};
use albedo_core::registry::Secrets;
use albedo_core::{
    BuildContext, CallContext, CheckContext, Clock, Digest, Error, ErrorKind, Fault, HubRef, Identity,
    ModelBackend, ModelRef, ModelSession, ModelSource, Plugin, PluginConfig, Reach, Result, Retry, Screen,
    Screened,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::http::HttpLink;
use self::link::{Job, Link, answer};
use self::protocol::{
    EngineInfo, HoldJob, JobOutcome, JobRequest, LoadJob, LoadedModel, Measure, MeasuredModel, ScreenJob,
    ScreenedModel, SessionKey,
};
use self::session::RemoteSession;
use crate::http::is_variable;

mod http;
mod link;
#[cfg(feature = "nats")]
pub mod nats;
pub mod protocol;
mod session;
mod text;

const LOAD: &str = "load a model at the server";
const SCREEN: &str = "screen a model at the server";

/// Loads models at a server of jobs, and asks them there.
///
/// # Behavior
/// - Its identity is that of the engine behind the server, so that a record is the one
///   that the same engine would have made on this machine. Requests name the engine's
///   digest: a server that was replaced by another refuses them.
/// - A model is named by the name under which the server offers it, or by a reference
///   into a hub, which the server fetches; the server keeps it until the backend is
///   dropped. A folder of this machine means nothing to a server.
/// - Prompts are counted here, with the very tokenizer and template of the loaded
///   model, which are fetched once.
/// - A reply counts only if it names the job, the engine, the parameters and the text
///   files that were asked for. Any other is the infrastructure's fault.
/// - A server that is away is waited for; then the duel ends, to be resumed, and no
///   sample is missing. Nothing that the server has stored is computed again.
/// - The key is read once, and is in no error, record, identity or `Debug`.
#[derive(Debug)]
pub struct ServeBackend {
    server: Arc<Server>,
}

/// Settings of [`ServeBackend`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// Where the server is, for example `http://127.0.0.1:8080`.
    pub url: Option<String>,
    /// The environment variable that holds the server's token; none for a server
    /// without one. `NAME_FILE` may name a file instead, and a systemd credential may
    /// have the name.
    pub token_env: Option<String>,
    /// Send the token even over plain HTTP to another machine, where everybody on the
    /// way can read it.
    pub allow_plain_http: bool,
    /// A work queue of several servers, in place of `url`.
    pub nats: Option<NatsConfig>,
    /// The digest of the engine that has to answer (`GET /v1/engine` tells it), where
    /// another one is to be refused from the start.
    pub engine: Option<Digest>,
    /// Most requests of one session that are under way, 1 to 1024.
    pub max_in_flight: u32,
    /// How long a server that does not answer is waited for, in seconds.
    pub patience_secs: f64,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            url: None,
            token_env: None,
            allow_plain_http: false,
            nats: None,
            engine: None,
            max_in_flight: 128,
            patience_secs: 600.0,
        }
    }
}

/// A work queue over NATS JetStream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// The NATS server, for example `nats://127.0.0.1:4222`; several, separated by commas.
    pub url: String,
    /// The environment variable that holds the token of the NATS server; none for a
    /// server without one.
    #[serde(default)]
    pub token_env: Option<String>,
    /// What the names of streams and subjects begin with: a word per fleet.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// How long a worker may be silent before its job is given to another one, in
    /// seconds, 1 to 3600; a worker that lives says so three times as often. All workers
    /// of a fleet have the same.
    #[serde(default = "ack_wait")]
    pub ack_wait_secs: f64,
}

fn prefix() -> String {
    "albedo".into()
}

fn ack_wait() -> f64 {
    30.0
}

impl NatsConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn check(&self) -> Result<()> {
        let invalid = |key: &'static str, message: &str| {
            Err(Error::new(ErrorKind::ConfigInvalid, "check the settings of NATS", message).with("key", key))
        };
        if self.url.is_empty() || self.url.contains('@') {
            return invalid("url", "`url` has to be an address without a user or a password");
        }
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.chars().all(word) {
            return invalid("prefix", "`prefix` has to be 1 to 64 letters, digits, `-` and `_`");
        }
        if self.token_env.as_deref().is_some_and(|name| !is_variable(name)) {
            return invalid("token_env", TOKEN_ENV);
        }
        if !(1.0..=3600.0).contains(&self.ack_wait_secs) {
            return invalid("ack_wait_secs", "`ack_wait_secs` has to be 1 to 3600");
        }
        Ok(())
    }
}

const TOKEN_ENV: &str = "`token_env` is no variable's name: it names the environment variable that holds the token, never the token \
     itself";

impl ServeConfig {
    /// The settings of a server at `url`.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        let invalid = |key: &'static str, message: String| {
            let operation = "check the settings of backend `serve`";
            Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", key))
        };
        match (&self.url, &self.nats) {
            (None, None) => return invalid("url", "nothing names the server: set `url` or `nats`".into()),
            (Some(_), Some(_)) => {
                return invalid("nats", "`url` and `nats` both name the server: keep one".into());
            }
            (Some(url), None) => {
                http::BASE
                    .check(url, self.token_env.is_some() && !self.allow_plain_http)
                    .map_err(|error| error.with("key", "url"))?;
            }
            (None, Some(nats)) => {
                nats.check().map_err(|error| error.under("nats"))?;
                if cfg!(not(feature = "nats")) {
                    return invalid("nats", "this build has no NATS: build with the feature `nats`".into());
                }
            }
        }
        if self.token_env.as_deref().is_some_and(|name| !is_variable(name)) {
            return invalid("token_env", TOKEN_ENV.into());
        }
        if !(1..=1024).contains(&self.max_in_flight) {
            let message = format!("`max_in_flight` is {}, it must be 1 to 1024", self.max_in_flight);
            return invalid("max_in_flight", message);
        }
        if !(self.patience_secs > 0.0 && self.patience_secs <= 1e7) {
            let message =
                format!("`patience_secs` is {}, it must be above 0 and at most 10000000", self.patience_secs);
            return invalid("patience_secs", message);
        }
        Ok(())
    }
}

/// The engine behind the server, and the way to it.
#[derive(Debug)]
struct Server {
    link: Arc<dyn Link>,
    info: EngineInfo,
    /// The engine's digest.
    engine: Digest,
    max_in_flight: u32,
    /// Has the text files that were fetched.
    texts: text::Texts,
    /// The jobs whose arithmetic overflowed since their model was loaded.
    overflowed: Mutex<BTreeMap<SessionKey, Digest>>,
    /// The labels under which the server keeps models for this backend.
    held: Mutex<BTreeSet<String>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        for label in held {
            self.link.release(self.engine, label);
        }
    }
}

impl ServeBackend {
    /// The backend of the server that `config` names, which is asked what it is, with
    /// the token in `secrets` and what `resources` has.
    ///
    /// # Errors
    /// The operator's: a setting is wrong, the token is missing or refused, or the
    /// server is another engine than the settings pin. The infrastructure's: it does
    /// not answer.
    pub async fn connect(config: &ServeConfig, secrets: &dyn Secrets, cx: &BuildContext<'_>) -> Result<Self> {
        config.check()?;
        let token = config.token_env.as_deref();
        let token = token.map(|name| Credential::bearer(name, secrets.get(name)?.expose())).transpose()?;
        Self::open(config, token, crate::http::transport(cx), cx).await
    }

    async fn open(
        config: &ServeConfig,
        token: Option<Credential>,
        transport: Arc<dyn HttpTransport>,
        cx: &BuildContext<'_>,
    ) -> Result<Self> {
        let patience = Patience { clock: Arc::clone(cx.clock()), longest: secs(config.patience_secs) };
        let link: Arc<dyn Link> = match (&config.url, &config.nats) {
            #[cfg(feature = "nats")]
            (None, Some(nats)) => {
                let token = nats.token_env.as_deref().map(|name| cx.secret(name)).transpose()?;
                Arc::new(nats::NatsLink::connect(nats, config.engine, token, patience, cx.call()).await?)
            }
            (url, _) => Arc::new(HttpLink::new(
                url.as_deref().unwrap_or_default(),
                token,
                config.allow_plain_http,
                transport,
                patience,
            )),
        };
        let info = link.engine(cx.call()).await?;
        info.check()?;
        let engine = info.engine.digest()?;
        if let Some(pinned) = config.engine.filter(|&pinned| pinned != engine) {
            return Err(Error::new(ErrorKind::Conflict, "connect to the server", "it is another engine")
                .with_fault(Fault::Operator)
                .with("pinned", pinned)
                .with("found", engine)
                .with("device", info.engine.device.as_deref().unwrap_or("unknown"))
                .with_hint("name the server of the pinned engine, or set `engine` to the one found"));
        }
        Ok(Self {
            server: Arc::new(Server {
                link,
                info,
                engine,
                max_in_flight: config.max_in_flight,
                texts: text::Texts::new(&cx.cache_dir()?),
                overflowed: Mutex::default(),
                held: Mutex::default(),
            }),
        })
    }

    /// What the server told of itself.
    pub fn engine(&self) -> &EngineInfo {
        &self.server.info
    }

    /// What `screens`, all of the behaviour stage, find in `model`, with probes that follow
    /// from `seed`. Their settings are numbers: a server runs none that names a file or
    /// another server.
    ///
    /// # Errors
    /// The server's; a screen that it does not run; what could not be found out.
    pub async fn screen(
        &self,
        model: &ModelRef,
        screens: Vec<PluginConfig<dyn Screen>>,
        seed: u64,
        cx: &CallContext,
    ) -> Result<Vec<Screened>> {
        let server = &self.server;
        let key = SessionKey::new(server.held(model, cx).await?);
        let loaded = server.load(key, model, cx).await?;
        let job = ScreenJob { engine: server.engine, model: key, screens, seed, measure: None };
        let asked = job.screens.len();
        let job = Job::new(JobRequest::Screen(job), references([model]))?;
        let result = cx.run(SCREEN, server.link.result(&job, cx)).await??;
        match answer(result, &job, server.engine, Some(&loaded.model))? {
            JobOutcome::Screened(ScreenedModel { findings, .. }) if findings.len() == asked => Ok(findings),
            _ => Err(link::another("the answer to another kind of job")),
        }
    }

    /// What a store of submissions remembers of `model`: its digest, its fingerprint, and
    /// its sketch, if there is an `anchor` that the store's sketches are aligned to.
    ///
    /// # Errors
    /// The server's; weights that cannot be read, are not finite or cannot be aligned.
    pub async fn measure(
        &self,
        model: &ModelRef,
        anchor: Option<&ModelRef>,
        cx: &CallContext,
    ) -> Result<MeasuredModel> {
        let server = &self.server;
        let key = SessionKey::new(server.held(model, cx).await?);
        let held = match anchor {
            Some(anchor) => Some(server.held(anchor, cx).await?),
            None => None,
        };
        let measure = Some(Measure { anchor: held });
        let job = ScreenJob { engine: server.engine, model: key, screens: Vec::new(), seed: 0, measure };
        let job = Job::new(JobRequest::Screen(job), references([model].into_iter().chain(anchor)))?;
        match server.ask(&job, SCREEN, cx).await.map_err(|error| error.with("model", model))? {
            JobOutcome::Screened(ScreenedModel { measured: Some(measured), .. })
                if measured.parameters == key.parameters && measured.sketch.is_some() == held.is_some() =>
            {
                Ok(measured)
            }
            _ => Err(link::another("the answer about another model")),
        }
    }
}

/// Waits until every server has heard which results and models the dropped backends of this
/// process need no longer, at most for the time that `cx` has. A program that ends calls it
/// last: a runtime that is dropped takes unsent messages with it.
///
/// # Errors
/// `cx`. What a server did not hear, it cleans up by itself, later.
pub async fn settle(cx: &CallContext) -> Result<()> {
    http::settle(cx).await
}

impl Plugin<dyn ModelBackend> for ServeBackend {
    const NAME: &'static str = "serve";
    const SUMMARY: &'static str =
        "models behind a server of albedo's jobs (`albedo serve`), or several over NATS";
    type Config = ServeConfig;
    type Checked = ServeConfig;

    fn check(config: ServeConfig, _: &CheckContext<'_>) -> Result<ServeConfig> {
        config.check()?;
        Ok(config)
    }

    async fn build(config: ServeConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn ModelBackend>> {
        let token = config.token_env.as_deref();
        let token = token.map(|name| Credential::bearer(name, cx.secret(name)?.expose())).transpose()?;
        Ok(Arc::new(Self::open(&config, token, crate::http::transport(cx), cx).await?))
    }
}

albedo_core::register!(dyn ModelBackend => ServeBackend);

#[async_trait]
impl ModelBackend for ServeBackend {
    fn identity(&self) -> &Identity {
        &self.server.info.engine.backend
    }

    fn max_in_flight(&self) -> Option<u32> {
        Some(self.server.max_in_flight)
    }

    fn takes_references(&self) -> bool {
        true
    }

    async fn load(&self, source: &ModelSource, cx: &CallContext) -> Result<Arc<dyn ModelSession>> {
        cx.check(LOAD)?;
        let server = &self.server;
        let model = server.held(&source.model, cx).await?;
        if let Some(pinned) = source.parameters.filter(|&pinned| pinned != model) {
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                LOAD,
                "the server's model does not have the pinned digest",
            )
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with("model", &source.model)
            .with("pinned", pinned)
            .with("found", model)
            .with_hint("pin the digest of the model that is meant, or name that model"));
        }
        let text = match &source.text_from {
            Some(text) if *text != source.model => Some(server.held(text, cx).await?),
            _ => None,
        };
        let key = SessionKey::new(model).with_text_from(text);
        let loaded = server.load(key, &source.model, cx).await?;
        let text = server.texts.load(&loaded, &*server.link, cx).await?;
        let session = RemoteSession::new(Arc::clone(server), key, source.clone(), loaded.model, text);
        Ok(Arc::new(session))
    }
}

impl Server {
    /// The parameters of `model`, which the server has from now on.
    async fn held(&self, model: &ModelRef, cx: &CallContext) -> Result<Digest> {
        match model {
            ModelRef::Served(name) => self.named(name),
            ModelRef::Hub(reference) => self.hold(reference, cx).await,
            _ => Err(Error::new(
                ErrorKind::ConfigInvalid,
                LOAD,
                "the model is given by a folder of this machine, which the server does not have",
            )
            .with_fault(Fault::Operator)
            .with("model", model)
            .with_hint("name it with `name`, as the server offers it, or with `ref`, as a hub has it")),
        }
    }

    fn named(&self, name: &str) -> Result<Digest> {
        let models = &self.info.models;
        models.get(name).copied().ok_or_else(|| {
            let known: Vec<_> = models.keys().map(String::as_str).collect();
            let offers = match &known[..] {
                [] => "it offers no model by name".to_owned(),
                known => format!("it offers {}", known.join(", ")),
            };
            Error::new(ErrorKind::NotFound, LOAD, "the server offers no model of that name")
                .with("model", name)
                .with_hint(format!("check `name`: {offers}"))
        })
    }

    async fn hold(&self, reference: &HubRef, cx: &CallContext) -> Result<Digest> {
        let label = format!("job-{}", Digest::of(reference.to_string()).short());
        let job = HoldJob { engine: self.engine, reference: reference.clone(), label: label.clone() };
        let job = Job::new(JobRequest::Hold(job), vec![reference.clone()])?;
        let outcome = self.ask(&job, LOAD, cx).await.map_err(|error| error.with("model", reference))?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(label);
        match outcome {
            JobOutcome::Held(held) => Ok(held.parameters),
            _ => Err(link::another("the answer to another kind of job")),
        }
    }

    async fn load(&self, key: SessionKey, model: &ModelRef, cx: &CallContext) -> Result<LoadedModel> {
        let after_overflow =
            self.overflowed.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        let load = LoadJob { engine: self.engine, model: key, after_overflow };
        let job = Job::new(JobRequest::Load(load), references([model]))?;
        let outcome = self.ask(&job, LOAD, cx).await.map_err(|error| error.with("model", model))?;
        let JobOutcome::Loaded(loaded) = outcome else {
            return Err(link::another("the answer to another kind of job"));
        };
        if loaded.model.parameters != key.parameters {
            return Err(link::another("another model")
                .with("asked", key.parameters)
                .with("loaded", loaded.model.parameters));
        }
        // Loaded afresh; a further overflow is a new one.
        self.overflowed.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        Ok(loaded)
    }

    /// What `job`, which no model answers, came to.
    async fn ask(&self, job: &Job, operation: &str, cx: &CallContext) -> Result<JobOutcome> {
        let result = cx.run(operation, self.link.result(job, cx)).await??;
        answer(result, job, self.engine, None)
    }
}

/// Where those of `models` can be had that are in hubs.
fn references<'a>(models: impl IntoIterator<Item = &'a ModelRef>) -> Vec<HubRef> {
    let reference = |model: &ModelRef| match model {
        ModelRef::Hub(reference) => Some(reference.clone()),
        _ => None,
    };
    models.into_iter().filter_map(reference).collect()
}

/// How long a server that does not answer is waited for.
#[derive(Debug, Clone)]
struct Patience {
    clock: Arc<dyn Clock>,
    longest: Duration,
}

/// The pause after a server did not answer, in seconds: the first and the longest.
const PAUSES: (f64, f64) = (0.05, 5.0);

/// The tries of one question to a server that may be away.
#[derive(Debug)]
struct Tries<'a> {
    patience: &'a Patience,
    /// What to do about a server that stays away.
    hint: &'static str,
    since: Duration,
    pause: f64,
    failed: u32,
}

impl Patience {
    /// The first try begins now.
    fn tries(&self, hint: &'static str) -> Tries<'_> {
        Tries { patience: self, hint, since: self.clock.now(), pause: PAUSES.0, failed: 0 }
    }
}

impl Tries<'_> {
    /// The server got on with what it was asked: it has all the time again. Pauses go on to
    /// grow.
    fn heard(&mut self) {
        self.since = self.patience.clock.now();
    }

    /// Waits before the try that follows one that failed with `error`.
    ///
    /// # Errors
    /// `error`, the infrastructure's, once the server was away for too long; `cx`.
    async fn wait(&mut self, error: Error, cx: &CallContext) -> Result<()> {
        let clock = &self.patience.clock;
        self.failed += 1;
        let wait = match error.retry() {
            Retry::After(wait) => wait,
            _ => secs(self.pause),
        };
        self.pause = (self.pause * 2.0).min(PAUSES.1);
        let next = clock.now().saturating_add(wait);
        if next > self.since + self.patience.longest {
            return Err(error
                .with_fault(Fault::Infrastructure)
                .with_reach(Reach::Duel)
                .with_retry(Retry::Exhausted { attempts: self.failed })
                .with_hint(self.hint));
        }
        cx.run("wait for the server", clock.sleep_until(next)).await
    }
}

fn secs(secs: f64) -> Duration {
    Duration::try_from_secs_f64(secs).unwrap_or_default()
}

#[cfg(test)]
mod tests;
