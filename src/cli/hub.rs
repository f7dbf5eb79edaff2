//! `albedo hub`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::exit::Exit;
use super::output::{print, print_json};
use crate::backends::cache::{Cache, Held};
#[cfg(feature = "hubs")]
use crate::backends::hubs::oci::{OciHub, OciHubConfig};
use crate::report::Bytes;
use crate::{
    BuildContext, CallContext, Digest, Error, ErrorKind, Fault, FileEntry, HubRef, ModelFiles, ModelHub,
    PluginConfig, Registry, Result,
};

const COPY: &str = "copy a model out of the cache";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the files of a model at its hub, each with its size and digest.
    Ls(One),
    /// Bring a model into the cache, every byte compared with its digest.
    Pull(Pull),
    /// Compare a model in the cache, byte by byte, with what its hub lists.
    Verify(One),
    /// Upload a folder to the container registry. The reference is printed, and is
    /// known, before any byte leaves.
    #[cfg(feature = "hubs")]
    Push(Push),
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The model: `owner/model@sha256:…`, `hf:owner/model@…`, `hub:repository@…`.
    #[arg(value_name = "REF")]
    reference: HubRef,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Take the settings of hubs, `[[hubs]]`, from this file; a duel's configuration
    /// will do.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    #[command(flatten)]
    one: One,
    /// Also copy the files into this folder, which must not be there.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

#[cfg(feature = "hubs")]
#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// The model's folder.
    folder: PathBuf,
    /// The repository: `owner/model`.
    repository: String,
    /// Print the reference that the folder would have, and upload nothing.
    #[arg(long)]
    dry_run: bool,
    /// Store files of at least SIZE (268 MB, as hippius-hub does) in chunks: after an
    /// edit only what is new is uploaded.
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, value_parser = super::cache::bytes)]
    #[expect(clippy::option_option, reason = "it may come with or without a value")]
    chunked: Option<Option<u64>>,
    /// A model that was pushed to the repository before, in chunks: what it has of these
    /// files is not uploaded again. The reference depends on it.
    #[arg(long, value_name = "REF", requires = "chunked")]
    base: Option<HubRef>,
    #[command(flatten)]
    options: Options,
}

/// The part of a configuration file that is about hubs.
#[derive(Debug, Default, Deserialize)]
struct HubsConfig {
    #[serde(default)]
    hubs: Vec<PluginConfig<dyn ModelHub>>,
}

impl Options {
    /// The settings of hub `name`, and the folder that relative paths are taken from.
    fn hub(&self, name: &str) -> Result<(PluginConfig<dyn ModelHub>, PathBuf)> {
        let Some(path) = &self.config else { return Ok((PluginConfig::named(name), PathBuf::new())) };
        let config: HubsConfig = crate::config::read(path)?;
        let hub = config.hubs.into_iter().find(|hub| hub.name() == name);
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok((hub.unwrap_or_else(|| PluginConfig::named(name)), folder))
    }

    /// The container registry, with its settings.
    #[cfg(feature = "hubs")]
    pub(super) fn oci(&self, cx: &CallContext) -> Result<OciHub> {
        let (settings, _) = self.hub(HubRef::OCI)?;
        let registry = Registry::linked()?;
        registry.check::<dyn ModelHub>(HubRef::OCI, settings.settings())?;
        let config: OciHubConfig = serde_json::from_value(settings.settings().clone().into())
            .map_err(|error| Error::bug("read a hub's settings", error.to_string()))?;
        OciHub::build_with(&config, &BuildContext::new(&registry, cx))
    }
}

impl One {
    async fn resolve(&self, cx: &CallContext) -> Result<Arc<dyn ModelFiles>> {
        let (hub, folder) = self.options.hub(self.reference.hub())?;
        let registry = Registry::linked()?;
        let build = BuildContext::new(&registry, cx).relative_to(folder);
        build.build::<dyn ModelHub>(hub.name(), hub.settings()).await?.resolve(&self.reference, cx).await
    }
}

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    let bar = Bytes::default();
    let done = match command {
        Command::Ls(one) => ls(one, cx).await,
        Command::Pull(pull) => pull.run(&bar, cx).await,
        Command::Verify(one) => verify(one, cx).await,
        #[cfg(feature = "hubs")]
        Command::Push(push) => push.run(&bar, cx).await,
    };
    bar.finish();
    done
}

async fn ls(one: &One, cx: &CallContext) -> Result<Exit> {
    let listed = one.resolve(cx).await?.list(cx).await?;
    if one.options.json {
        print_json(&json!({ "reference": one.reference, "files": listed }))?;
        return Ok(Exit::Done);
    }
    let mut text = String::new();
    for FileEntry { name, size, sha256, .. } in &listed {
        let digest = sha256.map_or_else(|| "-".into(), |digest| digest.to_string());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{digest}  {size:>14}  {}", name.escape_default());
    }
    print(&text)?;
    Ok(Exit::Done)
}

fn cache(cx: &CallContext) -> Result<Cache> {
    Cache::of(&BuildContext::new(&Registry::linked()?, cx))
}

/// The model `reference`, from the cache or else from its hub.
pub(super) async fn hold(reference: HubRef, cx: &CallContext) -> Result<Held> {
    let bar = Bytes::default();
    let one = One { reference, options: Options { config: None, json: false } };
    let held = one.hold(&bar, cx).await;
    bar.finish();
    held
}

impl One {
    async fn hold(&self, bar: &Bytes, cx: &CallContext) -> Result<Held> {
        let (cache, name) = (cache(cx)?, self.reference.to_string());
        if let Some(held) = cache.held(&name, cx).await? {
            return Ok(held);
        }
        let files = self.resolve(cx).await?;
        let held = cache.hold(&name, &*files, &bar.watch(cx)).await;
        held.map_err(|error| error.with("model", &name))
    }
}

impl Pull {
    async fn run(&self, bar: &Bytes, cx: &CallContext) -> Result<Exit> {
        let name = self.one.reference.to_string();
        // Before anything is downloaded.
        if let Some(into) = self.into.as_deref().filter(|into| into.exists()) {
            return Err(Error::new(ErrorKind::Conflict, COPY, "the folder is already there")
                .with_fault(Fault::Operator)
                .with("path", into.display())
                .with_hint("name a new folder"));
        }
        let held = self.one.hold(bar, cx).await?;
        bar.finish();
        if let Some(into) = &self.into {
            copy(&held, into)?;
        }
        let folder = self.into.as_deref().unwrap_or(held.folder()).display();
        let bytes: u64 = held.files().iter().map(|file| file.size).sum();
        if self.one.options.json {
            print_json(&json!({
                "reference": name, "folder": folder.to_string(), "files": held.files(), "bytes": bytes,
            }))?;
        } else {
            print(&format!("{folder}\n"))?;
        }
        Ok(Exit::Done)
    }
}

/// Copies what is held into a new folder, where it may be changed.
fn copy(held: &Held, into: &Path) -> Result<()> {
    let io = |error| Error::io(COPY, into, error);
    for file in held.files() {
        let target = into.join(&file.name);
        std::fs::create_dir_all(target.parent().unwrap_or(into)).map_err(io)?;
        let mut source = std::fs::File::open(held.folder().join(&file.name)).map_err(io)?;
        let mut target = std::fs::File::create_new(&target).map_err(io)?;
        std::io::copy(&mut source, &mut target).map_err(io)?;
    }
    Ok(())
}

async fn verify(one: &One, cx: &CallContext) -> Result<Exit> {
    const VERIFY: &str = "verify a model";
    let name = one.reference.to_string();
    let Some(held) = cache(cx)?.held(&name, cx).await? else {
        return Err(Error::new(ErrorKind::NotFound, VERIFY, "the model is not in the cache")
            .with("model", name)
            .with_hint("pull it first: `albedo hub pull`"));
    };
    let listed = one.resolve(cx).await?.list(cx).await?;
    let folder = held.folder().to_owned();
    let inner = cx.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut wrong = Vec::new();
        for file in listed {
            inner.check(VERIFY)?;
            let found = std::fs::File::open(folder.join(&file.name)).and_then(Digest::of_reader);
            if found.ok() != file.sha256 {
                wrong.push(file.name);
            }
        }
        Ok::<_, Error>(wrong)
    });
    let wrong = work.await.map_err(|error| Error::bug(VERIFY, error.to_string()))??;
    if one.options.json {
        print_json(&json!({ "reference": name, "files": held.files().len(), "wrong": wrong }))?;
    } else if wrong.is_empty() {
        print(&format!("sound: {} files of {name}\n", held.files().len()))?;
    } else {
        let wrong = wrong.iter().map(|name| format!("wrong: {}\n", name.escape_default()));
        print(&wrong.collect::<String>())?;
    }
    Ok(if wrong.is_empty() { Exit::Done } else { Exit::BadData })
}

#[cfg(feature = "hubs")]
impl Push {
    async fn run(&self, bar: &Bytes, cx: &CallContext) -> Result<Exit> {
        use crate::backends::files::FolderFiles;
        use crate::backends::hubs::oci::Layout;

        let hub = self.options.oci(cx)?;
        let files = FolderFiles::new(&self.folder);
        let layout = match self.chunked {
            Some(from) => {
                Layout::Chunked { from: from.unwrap_or(Layout::CHUNKED_FROM), base: self.base.clone() }
            }
            None => Layout::Plain,
        };
        let mut pushed = hub.prepare(&self.repository, &files, &layout, cx).await?;
        if !self.options.json {
            print(&format!("{}\n", pushed.reference))?;
        }
        if !self.dry_run {
            pushed = hub.push(pushed, &files, &bar.watch(cx)).await?;
        }
        if self.options.json {
            print_json(&json!({
                "reference": pushed.reference,
                "bytes": pushed.bytes,
                "uploaded": (!self.dry_run).then_some(pushed.uploaded),
            }))?;
        }
        Ok(Exit::Done)
    }
}
