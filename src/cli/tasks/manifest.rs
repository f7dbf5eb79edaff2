//! `albedo tasks manifest`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::backends::files::FolderFiles;
use crate::backends::tasks::{Manifest, build_manifest};
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json};
use crate::{CallContext, Error, ErrorKind, Fault, ModelFiles, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder, or a data set pinned to a commit: `hf:datasets/owner/name@` and its 40
    /// digits.
    #[arg(value_name = "DIR|DATASET")]
    source: String,
    /// Take only files whose names begin so, such as `data/train-`.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    only: String,
    /// The folder that `manifest.json` is written into [default: the source, if it is a
    /// folder].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The origin of the hub, if it is not Hugging Face itself.
    #[cfg(feature = "hubs")]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Name of the secret that is the hub's access token.
    #[cfg(feature = "hubs")]
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let (files, folder) = source(arguments, cx).await?;
    let bytes = build_manifest(&*files, &arguments.only, cx).await?;
    let manifest = Manifest::parse(&bytes)?;
    let path = folder.join("manifest.json");
    write(&path, &bytes)?;
    let info = manifest.info();
    if arguments.json {
        print_json(&json!({
            "path": path.display().to_string(),
            "manifest": info.manifest,
            "shards": manifest.shards().len(),
            "rows": info.rows,
            "bytes": manifest.shards().iter().filter_map(|shard| shard.bytes).sum::<u64>(),
        }))?;
    } else {
        let shards = manifest.shards().len();
        print(&format!(
            "{}: {} rows in {shards} shards\nmanifest = \"{}\"\n",
            path.display(),
            info.rows,
            info.manifest
        ))?;
    }
    Ok(Exit::Done)
}

#[cfg(feature = "hubs")]
async fn source(arguments: &Arguments, cx: &CallContext) -> Result<(Arc<dyn ModelFiles>, PathBuf)> {
    use crate::backends::hubs::hf::{DataSetRef, HfHub, HfHubConfig};
    if !DataSetRef::is_meant(&arguments.source) {
        return Ok(folder(arguments));
    }
    let reference: DataSetRef = arguments.source.parse()?;
    let out = arguments.out.clone().ok_or_else(|| {
        Error::new(
            ErrorKind::ConfigInvalid,
            "make a manifest of tasks",
            "a data set has no folder of its own",
        )
        .with_hint("say with `--out` where `manifest.json` goes")
    })?;
    let registry = crate::Registry::linked()?;
    let mut config = HfHubConfig { token_env: arguments.token_env.clone(), ..HfHubConfig::default() };
    if let Some(endpoint) = &arguments.endpoint {
        config.endpoint.clone_from(endpoint);
    }
    registry.check::<dyn crate::ModelHub>("hf", &config)?;
    let hub = HfHub::build_with(&config, &crate::BuildContext::new(&registry, cx))?;
    Ok((hub.data_set(&reference, cx).await?, out))
}

#[cfg(not(feature = "hubs"))]
#[expect(clippy::unused_async, reason = "with hubs it asks one")]
async fn source(arguments: &Arguments, _: &CallContext) -> Result<(Arc<dyn ModelFiles>, PathBuf)> {
    Ok(folder(arguments))
}

fn folder(arguments: &Arguments) -> (Arc<dyn ModelFiles>, PathBuf) {
    let folder = PathBuf::from(&arguments.source);
    let out = arguments.out.clone().unwrap_or_else(|| folder.clone());
    (Arc::new(FolderFiles::new(folder)), out)
}

/// Writes a new file; one with the same bytes stays.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    const WRITE: &str = "write the manifest";
    let io = |error| Error::io(WRITE, path, error);
    if let Ok(there) = std::fs::read(path) {
        if there == bytes {
            return Ok(());
        }
        return Err(Error::new(
            ErrorKind::Conflict,
            WRITE,
            "another manifest is there, which plans may be pinned to",
        )
        .with_fault(Fault::Operator)
        .with("path", path.display())
        .with_hint("write into another folder with `--out`, or remove it"));
    }
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(io)?;
    std::fs::write(path, bytes).map_err(io)
}
