//! The configuration of a server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(feature = "nats")]
use crate::backends::serve::NatsConfig;
use crate::config::{self, CheckedHubs};
use crate::registry::{CheckContext, Checked};
use crate::{
    BuildContext, Digest, Error, ErrorKind, HubRef, ModelBackend, ModelHub, ModelRef, PluginConfig, Registry,
    Result,
};

const CHECK: &str = "check the server's configuration";

/// Where a server listens by default. Source: chosen by albedo.
const DEFAULT_PORT: u16 = 8080;

/// What a server serves, to whom, and how much of it. Unknown keys are refused.
///
/// ```
/// # fn main() -> albedo::Result<()> {
/// let config = albedo::server::ServerConfig::parse(
///     r#"
///     [[models]]
///     name = "king"
///     path = "models/king"
///     "#,
/// )?;
/// assert!(config.address()?.ip().is_loopback());
/// config.check(&albedo::Registry::linked()?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port to listen on. Another address than one of this machine alone
    /// (`127.0.0.1`, `[::1]`) needs `token_env` and `tls`. Port 0 is any free one.
    #[serde(default = "default_listen")]
    pub listen: String,
    /// The name of the secret that every request has to bear as its token. Without it,
    /// requests need no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// The certificate that the server shows; plain HTTP without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Folder for the results of jobs; one for each address, `albedo/serve/` and the
    /// address in the folder for the user's state, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// A work queue over NATS JetStream, whose jobs the server does beside its own.
    #[cfg(feature = "nats")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsConfig>,
    /// The engine that runs the models; `burn` on the CPU by default.
    #[serde(default = "default_backend")]
    pub backend: PluginConfig<dyn ModelBackend>,
    /// The hubs that jobs may name models of, with their settings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hubs: Vec<PluginConfig<dyn ModelHub>>,
    /// The models that are there from the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ServedModelConfig>,
    /// How much is accepted, and how long is waited.
    #[serde(default)]
    pub limits: Limits,
    /// Relative paths are taken from here: the file's folder.
    #[serde(skip)]
    pub folder: PathBuf,
}

fn default_listen() -> String {
    SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)).to_string()
}

fn default_backend() -> PluginConfig<dyn ModelBackend> {
    PluginConfig::named(config::DEFAULT_BACKEND)
}

impl Default for ServerConfig {
    /// A server of no model on port 8080 of this machine.
    fn default() -> Self {
        Self {
            listen: default_listen(),
            token_env: None,
            tls: None,
            data: None,
            #[cfg(feature = "nats")]
            nats: None,
            backend: default_backend(),
            hubs: Vec::new(),
            models: Vec::new(),
            limits: Limits::default(),
            folder: PathBuf::new(),
        }
    }
}

/// The files of a TLS certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the certificate and those that vouch for it.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

/// A model that a server offers from its start, in a folder or in a hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServedModelConfig {
    /// The name that requests give.
    pub name: String,
    /// The model's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The model in a hub, pinned to one revision.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<HubRef>,
    /// Refuse parameters of another digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Digest>,
    /// The name of the model whose tokenizer, chat template and stop ids it gets; its
    /// own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_from: Option<String>,
}

impl ServedModelConfig {
    /// The model in the folder `path`, offered as `name`.
    pub fn folder(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: Some(path.into()),
            reference: None,
            parameters: None,
            text_from: None,
        }
    }

    /// Where the model is.
    ///
    /// # Errors
    /// As [`ModelRef::one_of`]; a name that [`ModelRef::one_of`] refuses.
    pub fn model(&self) -> Result<ModelRef> {
        ModelRef::one_of([("name", Some(ModelRef::served(&self.name)))])?;
        ModelRef::one_of([
            ("path", self.path.as_ref().map(ModelRef::from)),
            ("ref", self.reference.clone().map(ModelRef::from)),
        ])
    }
}

/// How much a server accepts, and how long it waits. The defaults are chosen by albedo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most connections at a time; more are closed at once.
    pub connections: u32,
    /// Most bytes of a request's body; 413 beyond.
    pub body_bytes: u64,
    /// The head of a request has to be there after this, a connection's first and each
    /// later one, and a TLS handshake be done.
    pub header_secs: f64,
    /// The body of a request has to be there after this.
    pub body_secs: f64,
    /// A client that takes nothing of its answer for this long is cut off.
    pub write_secs: f64,
    /// Most replies that are written at a time.
    pub streams: u32,
    /// Most replies that wait for their turn; 429 beyond.
    pub queue: u32,
    /// Most replies that one request may ask for: its prompts times its `n`.
    pub choices: u32,
    /// Most models that are loaded at a time. Another one is loaded in place of the one
    /// used longest ago, once that is idle.
    pub loaded_models: u32,
    /// After a signal to stop, requests that are under way have this long to finish.
    pub drain_secs: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            body_bytes: 8 << 20,
            header_secs: 10.0,
            body_secs: 30.0,
            write_secs: 60.0,
            streams: 256,
            queue: 1024,
            choices: 128,
            loaded_models: 2,
            drain_secs: 20.0,
        }
    }
}

impl Limits {
    fn check(&self) -> Result<()> {
        let invalid = |key: &'static str, message: String| {
            Err(Error::new(ErrorKind::ConfigInvalid, CHECK, message).with("key", key))
        };
        let counts = [
            ("connections", u64::from(self.connections)),
            ("body_bytes", self.body_bytes),
            ("streams", u64::from(self.streams)),
            ("choices", u64::from(self.choices)),
            ("loaded_models", u64::from(self.loaded_models)),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return invalid(key, format!("`{key}` is 0, it must be at least 1"));
        }
        let times = [
            ("header_secs", self.header_secs),
            ("body_secs", self.body_secs),
            ("write_secs", self.write_secs),
            ("drain_secs", self.drain_secs),
        ];
        // A day is as good as no limit, and no clock overflows by it.
        if let Some((key, secs)) = times.into_iter().find(|(_, secs)| !(*secs > 0.0 && *secs <= 86_400.0)) {
            return invalid(key, format!("`{key}` is {secs}, it must be above 0 and at most 86400"));
        }
        Ok(())
    }
}

/// The plugins of a server's configuration, checked.
#[derive(Debug)]
pub(super) struct CheckedServer {
    pub(super) backend: Checked<dyn ModelBackend>,
    pub(super) hubs: CheckedHubs,
}

impl ServerConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// As [`config::read`](crate::config::read).
    pub fn read(path: &Path) -> Result<Self> {
        let read: Self = config::read(path)?;
        Ok(Self { folder: config::folder(path).to_owned(), ..read })
    }

    /// Reads the configuration in `text`.
    ///
    /// # Errors
    /// As [`config::parse`](crate::config::parse).
    pub fn parse(text: &str) -> Result<Self> {
        config::parse(text)
    }

    /// The address to listen on.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`]: `listen` is no address and port.
    pub fn address(&self) -> Result<SocketAddr> {
        let local = self.listen.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        local.as_ref().unwrap_or(&self.listen).parse().map_err(|_| {
            Error::new(ErrorKind::ConfigInvalid, CHECK, format!("`{}` is no address and port", self.listen))
                .with("key", "listen")
                .with_hint("write for example `127.0.0.1:8080`, or `0.0.0.0:8443` for all networks")
        })
    }

    /// The folder for the results of jobs: `data`, else one of its own for each address in
    /// the folder for the user's state. None for a server on any free port, which nobody
    /// finds again.
    ///
    /// # Errors
    /// The operator's: the system has no such folder for this user.
    pub(super) fn data(&self, cx: &BuildContext<'_>) -> Result<Option<PathBuf>> {
        if let Some(data) = &self.data {
            return Ok(Some(cx.path(data)));
        }
        let address = self.address()?;
        if address.port() == 0 {
            return Ok(None);
        }
        let strategy = etcetera::choose_base_strategy().map_err(|error| {
            Error::new(ErrorKind::NotFound, "find the folder for the results of jobs", error.to_string())
                .with_hint("set `data`, HOME or XDG_STATE_HOME")
        })?;
        let folder = strategy.state_dir().unwrap_or_else(|| strategy.data_dir());
        let place = format!("{}-{}", address.ip(), address.port()).replace(':', "_");
        Ok(Some(folder.join("albedo").join("serve").join(place)))
    }

    /// Checks every setting without touching anything outside.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] or [`ErrorKind::UnknownPlugin`], naming the first
    /// mistake and its path.
    pub fn check(&self, registry: &Registry) -> Result<()> {
        self.checked(registry).map(drop)
    }

    pub(super) fn checked(&self, registry: &Registry) -> Result<CheckedServer> {
        self.check_address()?;
        self.limits.check().map_err(|error| error.under("limits"))?;
        #[cfg(feature = "nats")]
        if let Some(nats) = &self.nats {
            nats.check().map_err(|error| error.under("nats"))?;
        }
        let cx = CheckContext::new(registry);
        let mut models = Vec::with_capacity(self.models.len());
        for (place, model) in self.models.iter().enumerate() {
            let key = format!("models[{place}]");
            let earlier = &self.models[..place];
            let of_model = || model.model().and_then(|found| model.check_names(earlier).map(|()| found));
            models.push((key.clone(), of_model().map_err(|error| error.under(&key))?));
        }
        Ok(CheckedServer {
            backend: cx.plugin("backend", &self.backend)?,
            hubs: CheckedHubs::check(
                &self.hubs,
                models.iter().map(|(key, model)| (key.as_str(), model)),
                &cx,
            )?,
        })
    }

    /// Everybody on the way could read prompts, replies and the token, and anybody use
    /// the engine.
    fn check_address(&self) -> Result<()> {
        let address = self.address()?;
        let missing = match (&self.token_env, &self.tls) {
            _ if address.ip().is_loopback() => return Ok(()),
            (Some(_), Some(_)) => return Ok(()),
            (None, None) => "a token and a TLS certificate",
            (None, Some(_)) => "a token",
            (Some(_), None) => "a TLS certificate",
        };
        let message = format!("{address} can be reached from other machines, which needs {missing}");
        Err(Error::new(ErrorKind::ConfigInvalid, CHECK, message).with("key", "listen").with_hint(
            "set `token_env` to the name of the secret, and `tls.certificate` and `tls.key` to PEM files; or \
             listen on 127.0.0.1",
        ))
    }

    /// The JSON schema of a server's configuration file, with the settings of every
    /// plugin of `registry`.
    pub fn schema(registry: &Registry) -> Value {
        registry.schema::<Self>()
    }
}

impl ServedModelConfig {
    /// A name is there once, and `text_from` names a model above.
    fn check_names(&self, earlier: &[Self]) -> Result<()> {
        let invalid =
            |key, message: String| Error::new(ErrorKind::ConfigInvalid, CHECK, message).with("key", key);
        if earlier.iter().any(|model| model.name == self.name) {
            let message = format!("two models are named `{}`", self.name);
            return Err(invalid("name", message).with_hint("give each a name of its own"));
        }
        match &self.text_from {
            Some(text) if !earlier.iter().any(|model| model.name == *text) => {
                Err(invalid("text_from", format!("no model above is named `{text}`"))
                    .with_hint("put the model that it names before this one"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let registry = Registry::linked().expect("a registry");
        let checked = ServerConfig::parse(text).and_then(|config| config.check(&registry));
        let error = checked.expect_err(text);
        assert_eq!(error.fault(), crate::Fault::Operator, "{error}");
        error.to_string()
    }

    #[test]
    fn another_machine_is_listened_to_only_with_a_token_and_tls() {
        let tls = "tls = { certificate = 'c.pem', key = 'k.pem' }";
        let token = "token_env = 'TOKEN'";
        for (given, missing) in [
            ("", "a token and a TLS certificate"),
            (tls, "needs a token (key: listen)"),
            (token, "needs a TLS certificate (key: listen)"),
        ] {
            for address in ["0.0.0.0:8080", "[::]:0", "192.0.2.1:443", "[2001:db8::1]:80"] {
                let message = refusal(&format!("listen = '{address}'\n{given}"));
                assert!(message.contains(missing) && message.contains("token_env"), "{message}");
            }
        }
        let registry = Registry::linked().expect("a registry");
        for text in [
            format!("listen = '0.0.0.0:8080'\n{tls}\n{token}"),
            "listen = '127.0.0.1:0'".into(),
            "listen = '[::1]:8080'".into(),
            "listen = 'localhost:8080'".into(),
            String::new(),
        ] {
            ServerConfig::parse(&text).and_then(|config| config.check(&registry)).expect("accepted");
        }
    }

    #[test]
    fn mistakes_are_told_with_their_path() {
        for (text, words) in [
            ("listen = 'here'", "`here` is no address and port (key: listen)"),
            ("models = [{ name = 'a' }]", "key: models[0]"),
            ("models = [{ name = '', path = 'm' }]", "the name has 0 bytes"),
            (
                "models = [{ name = 'a', path = 'm' }, { name = 'a', path = 'n' }]",
                "two models are named `a` (key: models[1].name)",
            ),
            (
                "models = [{ name = 'a', path = 'm', text_from = 'a' }]",
                "no model above is named `a` (key: models[0].text_from)",
            ),
            ("limits.streams = 0", "`streams` is 0, it must be at least 1 (key: limits.streams)"),
            ("limits.body_secs = -1.0", "key: limits.body_secs"),
            ("limits.body_secs = nan", "key: limits.body_secs"),
            ("limits.streems = 1", "streams"),
            ("backend.name = 'bern'", "did you mean `burn`?"),
            ("hubs = [{ name = 'folder', path = 'a' }, { name = 'folder', path = 'b' }]", "listed twice"),
        ] {
            let message = refusal(text);
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
