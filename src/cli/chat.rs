//! `albedo chat`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use serde_json::{Map, Value, json};

use self::console::{Console, Event, Stop};
use self::conversation::{Conversation, Entry, HELP};
use super::backend::{BackendArguments, model};
use super::exit::Exit;
use super::hub;
use super::output::{note, print_error};
use super::sampling::{Defaults, SamplingArguments};
use crate::{
    CallContext, Error, ErrorKind, Fault, FinishReason, HubRef, ModelBackend, ModelSession, ModelSource,
    Registry, Result, Sampling, StreamPart, StreamRequest,
};

mod console;
mod conversation;

pub(crate) use console::is_interactive;

const CHAT: &str = "chat with a model";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model: its folder, a reference of a hub (`owner/model@sha256:…`,
    /// `hf:owner/model@…`), or the name under which `--server` offers it. A server that
    /// offers one model needs no name.
    #[arg(value_name = "MODEL", required_unless_present = "server")]
    model: Option<PathBuf>,
    /// Chat with a model behind this OpenAI-compatible server, for example
    /// `http://127.0.0.1:8080`.
    #[arg(long, value_name = "URL", conflicts_with_all = ["backend", "settings", "device", "date"])]
    server: Option<String>,
    /// The environment variable that holds the server's key.
    #[arg(long, value_name = "VARIABLE", requires = "server")]
    key_env: Option<String>,
    /// Instructions that hold for the whole conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArguments<Lively>,
    #[command(flatten)]
    backend: BackendArguments,
}

/// Replies of a conversation: with some variety, and room for a long one. Source: chosen
/// by albedo.
#[derive(Debug)]
struct Lively;

impl Defaults for Lively {
    const MAX_NEW_TOKENS: &'static str = "512";
    const TEMPERATURE: &'static str = "0.7";
    const TOP_P: &'static str = "0.95";
}

impl Arguments {
    /// Loads the model; what it is called, too.
    async fn load(&self, cx: &CallContext) -> Result<(Arc<dyn ModelSession>, String)> {
        let registry = Registry::linked()?;
        if let Some(url) = &self.server {
            return self.load_served(&registry, url, cx).await;
        }
        let named = self.model.as_deref().unwrap_or(Path::new(""));
        let backend = self.backend.build(&registry, self.backend.settings()?, cx).await?;
        let reference =
            named.to_str().filter(|_| !named.exists()).and_then(|text| text.parse::<HubRef>().ok());
        let source = match reference {
            Some(reference) => ModelSource::new(hub::hold(reference, cx).await?.for_process()),
            None => ModelSource::new(model(named)),
        };
        let session = backend.load(&source, cx).await?;
        Ok((session, named.display().to_string()))
    }

    async fn load_served(
        &self,
        registry: &Registry,
        url: &str,
        cx: &CallContext,
    ) -> Result<(Arc<dyn ModelSession>, String)> {
        let mut settings = Map::from_iter([("base_url".to_owned(), json!(base_url(url)))]);
        settings.extend(self.key_env.iter().map(|name| ("key_env".to_owned(), json!(name))));
        let name = match &self.model {
            Some(name) => name.display().to_string(),
            None => the_only_model(registry, &settings, cx).await?,
        };
        let backend = registry.build::<dyn ModelBackend>("openai", settings, cx).await?;
        Ok((backend.load(&ModelSource::served(&*name), cx).await?, name))
    }
}

/// Where a server's routes are: below `/v1` unless `url` has a path.
fn base_url(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    if rest.contains('/') { url.to_owned() } else { format!("{url}/v1") }
}

/// The name of the model that a server offers, if it is one.
#[cfg(feature = "openai")]
async fn the_only_model(
    registry: &Registry,
    settings: &Map<String, Value>,
    cx: &CallContext,
) -> Result<String> {
    use crate::backends::openai::OpenAiBackend;

    registry.check::<dyn ModelBackend>("openai", settings)?;
    let config = serde_json::from_value(Value::Object(settings.clone()))
        .map_err(|error| Error::bug(CHAT, error.to_string()))?;
    let backend = OpenAiBackend::build_with(config, &crate::BuildContext::new(registry, cx))?;
    let mut names = backend.models(cx).await?;
    if names.len() == 1 {
        return Ok(names.remove(0));
    }
    let message = match names.len() {
        0 => "the server lists no model".to_owned(),
        _ => format!("the server offers {} models: {}", names.len(), names.join(", ")),
    };
    Err(Error::new(ErrorKind::ConfigInvalid, CHAT, message)
        .with_fault(Fault::Operator)
        .with_hint("name one: `albedo chat MODEL --server URL`"))
}

#[cfg(not(feature = "openai"))]
#[expect(clippy::unused_async, reason = "as with the feature `openai`")]
async fn the_only_model(_: &Registry, _: &Map<String, Value>, _: &CallContext) -> Result<String> {
    Err(Error::new(ErrorKind::Unsupported, CHAT, "this build has no backend for servers")
        .with_fault(Fault::Operator)
        .with_hint("build with `--features openai`"))
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let sampling = arguments.sampling.sampling()?;
    let mut console = Console::new()?;
    let (session, name) = console.unless_stopped(arguments.load(cx), CHAT).await??;
    console.greet(&name, session.model());
    let mut chat = Chat {
        session,
        conversation: Conversation::new(arguments.system.clone()),
        sampling,
        max_new_tokens: arguments.sampling.max_new_tokens,
        seed: arguments.sampling.seed,
    };
    loop {
        let line = match console.next(cx).await? {
            Event::End => return Ok(Exit::Done),
            Event::Interrupt => continue,
            Event::Line(line) => line,
        };
        match chat.take(Entry::parse(&line), &mut console, cx).await {
            Ok(Next::Go) => {}
            Ok(Next::End) => return Ok(Exit::Done),
            // At a terminal, somebody can do something about it.
            Err(error) if console.is_interactive() && error.kind() != ErrorKind::Cancelled => {
                print_error(&error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the conversation goes on.
enum Next {
    Go,
    End,
}

/// A model, and what it was told so far.
struct Chat {
    session: Arc<dyn ModelSession>,
    conversation: Conversation,
    sampling: Sampling,
    max_new_tokens: u32,
    seed: u64,
}

impl Chat {
    /// Does what a line says.
    async fn take(&mut self, entry: Entry, console: &mut Console, cx: &CallContext) -> Result<Next> {
        match entry {
            Entry::Nothing => {}
            Entry::Message(text) => return self.answer(text, console, cx).await,
            Entry::Reset => {
                self.conversation.reset();
                console.note("the conversation begins anew");
            }
            Entry::System(text) => {
                let told =
                    if text.is_some() { "the instructions are set" } else { "there are no instructions" };
                self.conversation.set_system(text);
                console.note(told);
            }
            Entry::Save(path) => {
                self.conversation.save(&path)?;
                console.note(&format!("saved: {}", path.display()));
            }
            Entry::Help => note(HELP),
            Entry::Quit => return Ok(Next::End),
            Entry::Unknown(command) => {
                return Err(Error::new(ErrorKind::ConfigInvalid, CHAT, format!("there is no `{command}`"))
                    .with_fault(Fault::Operator)
                    .with_hint("`/help` lists the commands; begin a message with `//` for one slash"));
            }
        }
        Ok(Next::Go)
    }

    /// Has the model answer `text`, and shows the answer as it grows. A message without
    /// any answer is forgotten.
    async fn answer(&mut self, text: String, console: &mut Console, cx: &CallContext) -> Result<Next> {
        let request = StreamRequest::new(self.conversation.with(text.clone()), self.max_new_tokens)
            .with_sampling(self.sampling)
            .with_seed(self.seed.wrapping_add(self.conversation.replies()));
        let call = cx.child();
        let mut parts = self.session.stream(request, &call);
        let (started, mut reply, mut tokens) = (Instant::now(), String::new(), 0_u64);
        loop {
            let part = tokio::select! {
                part = parts.next() => part,
                stop = console.stopped() => {
                    call.cancel();
                    drop(parts);
                    if matches!(stop, Stop::Terminate) {
                        return Err(Error::cancelled(CHAT));
                    }
                    console.end_reply("stopped")?;
                    if !reply.is_empty() {
                        self.conversation.add(text, reply);
                    }
                    return Ok(Next::Go);
                }
            };
            match part {
                Some(Ok(StreamPart::Tokens { ids, text, .. })) => {
                    tokens += ids.len().max(1) as u64;
                    reply.push_str(&text);
                    if !console.show(&text)? {
                        return Ok(Next::End);
                    }
                }
                Some(Ok(StreamPart::Done(completion))) => {
                    let tokens = completion.usage.completion_tokens.map_or(tokens, u64::from);
                    let rate = tokens as f64 / started.elapsed().as_secs_f64();
                    let cut = match completion.finish {
                        FinishReason::Length => ", cut there: `--max-new-tokens` has room for more",
                        _ => "",
                    };
                    self.conversation.add(text, completion.text);
                    console.end_reply(&format!("{tokens} tokens, {rate:.1} per second{cut}"))?;
                    return Ok(Next::Go);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    if !reply.is_empty() {
                        console.end_reply("broken off")?;
                    }
                    return Err(error);
                }
                None => return Err(Error::bug(CHAT, "the session ended its stream without a reply")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::base_url;

    #[test]
    fn routes_are_below_v1_unless_a_path_says_otherwise() {
        for (url, base) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1"),
            ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
            ("https://openrouter.ai/api/v1/", "https://openrouter.ai/api/v1"),
            ("localhost:1", "localhost:1/v1"),
        ] {
            assert_eq!(base_url(url), base);
        }
    }
}
