//! `albedo serve`.

use std::path::{Path, PathBuf};

use super::exit::Exit;
use super::output::{print, warn};
use crate::demo::Demo;
use crate::durable::replace;
use crate::server::{ServedModelConfig, Server, ServerConfig};
use crate::{BuildContext, CallContext, Error, Registry, Result};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true))]
pub(crate) struct Arguments {
    /// The server's configuration, a TOML file (docs/serve.md).
    #[arg(long, value_name = "FILE", group = "source")]
    config: Option<PathBuf>,
    /// Serve the demo's two models, `king` and `challenger`, on the CPU.
    #[arg(long, group = "source")]
    demo: bool,
    /// Listen there instead: an address and a port, 0 for any that is free.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Check the configuration and end: nothing is loaded, no address is taken.
    #[arg(long)]
    check: bool,
    /// Write the address of the routes into this file once every model is loaded.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

impl Arguments {
    fn config(&self) -> Result<ServerConfig> {
        let config = match &self.config {
            Some(path) => ServerConfig::read(path)?,
            None => demo()?,
        };
        Ok(match &self.listen {
            Some(listen) => ServerConfig { listen: listen.clone(), ..config },
            None => config,
        })
    }
}

/// The king, and the challenger with the king's tokenizer and template.
fn demo() -> Result<ServerConfig> {
    let demo = Demo::locate()?;
    let challenger = ServedModelConfig {
        text_from: Some("king".into()),
        ..ServedModelConfig::folder("challenger", absolute(&demo.challenger())?)
    };
    let models = vec![ServedModelConfig::folder("king", absolute(&demo.king())?), challenger];
    Ok(ServerConfig { models, ..ServerConfig::default() })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io("find the demo", path, error))
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let (config, registry) = (arguments.config()?, Registry::linked()?);
    if arguments.check {
        config.check(&registry)?;
        let names: Vec<_> = config.models.iter().map(|model| model.name.as_str()).collect();
        print(&format!("well-formed; listens on {} and serves {}\n", config.address()?, names.join(", ")))?;
        return Ok(Exit::Done);
    }
    if config.models.is_empty() {
        warn("no model is configured: only jobs can name some");
    }
    let server = Server::bind(&config, &BuildContext::new(&registry, cx)).await;
    let server = server.map_err(|error| match &arguments.config {
        Some(path) => error.with("path", path.display()),
        None => error,
    })?;
    let (url, ready_file) = (server.url(), arguments.ready_file.clone());
    let server = server.on_ready(move |state| {
        let names: Vec<_> = state.models().list().into_iter().map(|model| model.name).collect();
        let told = print(&format!("ready: {url}/v1 serves {}\n", names.join(", ")));
        let written = ready_file.map_or(Ok(()), |path| {
            let partial = path.with_extension("partial");
            replace(&path, &partial, url.as_bytes())
                .map_err(|error| Error::io("write the ready file", &path, error))
        });
        for error in [told, written].into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "the server is ready, and cannot say so");
        }
    });
    server.run(cx).await?;
    Ok(Exit::Done)
}
