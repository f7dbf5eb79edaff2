//! `albedo tasks verify` and `albedo tasks prefetch`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::backends::tasks::{ParquetTasks, ParquetTasksConfig};
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json};
use crate::{
    BuildContext, CallContext, Digest, ErrorKind, Event, EventKind, EventSink, Plugin, Registry, Result,
    TaskSource,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder that holds `manifest.json`.
    folder: PathBuf,
    /// Refuse a manifest of another SHA-256.
    #[arg(long, value_name = "DIGEST")]
    manifest: Option<Digest>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Prefetch {
    #[command(flatten)]
    set: Arguments,
    /// The data set that the shards come from: `hf:datasets/owner/name@` and 40 digits.
    #[cfg(feature = "hubs")]
    #[arg(long, value_name = "DATASET")]
    from: String,
    /// The origin of the hub, if it is not Hugging Face itself.
    #[cfg(feature = "hubs")]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Name of the secret that is the hub's access token.
    #[cfg(feature = "hubs")]
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
    /// Fetch at most so many shards: of those that are missing, the first of the manifest.
    #[arg(long, value_name = "N")]
    most: Option<usize>,
}

impl Arguments {
    fn config(&self) -> ParquetTasksConfig {
        ParquetTasksConfig { manifest: self.manifest, ..ParquetTasksConfig::folder(&self.folder) }
    }
}

pub(crate) async fn verify(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    check(arguments, arguments.config(), None, cx).await
}

pub(crate) async fn prefetch(arguments: &Prefetch, cx: &CallContext) -> Result<Exit> {
    let config = arguments.set.config();
    #[cfg(feature = "hubs")]
    let config = {
        use crate::backends::hubs::hf::HfHubConfig;
        let mut hub = HfHubConfig { token_env: arguments.token_env.clone(), ..HfHubConfig::default() };
        if let Some(endpoint) = &arguments.endpoint {
            hub.endpoint.clone_from(endpoint);
        }
        ParquetTasksConfig { from: Some(arguments.from.clone()), hub: Some(hub), ..config }
    };
    check(&arguments.set, config, Some(arguments.most.unwrap_or(usize::MAX)), cx).await
}

/// Checks every shard; `fetch` is how many missing ones are fetched at most.
async fn check(
    arguments: &Arguments,
    config: ParquetTasksConfig,
    fetch: Option<usize>,
    cx: &CallContext,
) -> Result<Exit> {
    let registry = Registry::linked()?;
    registry.check::<dyn TaskSource>(ParquetTasks::NAME, &config)?;
    let tasks = ParquetTasks::build_with(config, &BuildContext::new(&registry, cx)).await?;
    let shards = tasks.manifest().shards();
    let (mut sound, mut missing, mut damaged) = (0, Vec::new(), Vec::new());
    let (mut fetched, came) = (0, Arc::new(AtomicBool::new(false)));
    let cx = &cx.with_events(downloads(&came));
    for (index, shard) in shards.iter().enumerate() {
        let fetch = fetch.is_some_and(|most| fetched < most);
        match tasks.check_shard(index, fetch, cx).await {
            Ok(()) => {
                sound += 1;
                // What was in the cache already is not counted.
                fetched += usize::from(came.swap(false, Ordering::Relaxed));
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !fetch => missing.push(&shard.name),
            Err(error)
                if !fetch && matches!(error.kind(), ErrorKind::DigestMismatch | ErrorKind::DataInvalid) =>
            {
                damaged.push((&shard.name, error.message().to_owned()));
            }
            Err(error) => return Err(error),
        }
    }
    if arguments.json {
        let damaged = damaged.iter().map(|(name, why)| json!({ "shard": name, "why": why }));
        print_json(&json!({
            "manifest": tasks.info().manifest,
            "shards": shards.len(),
            "sound": sound,
            "missing": missing,
            "damaged": damaged.collect::<Vec<_>>(),
        }))?;
    } else {
        let missing = missing.iter().map(|name| format!("missing {name}\n"));
        let damaged = damaged.iter().map(|(name, why)| format!("damaged {name}: {why}\n"));
        let words: String = missing.chain(damaged).collect();
        print(&format!("{words}{sound} of {} shards are sound\n", shards.len()))?;
    }
    Ok(match (damaged.is_empty(), missing.is_empty()) {
        (false, _) => Exit::BadData,
        (_, false) if fetch.is_none() => Exit::NoInput,
        _ => Exit::Done,
    })
}

/// A sink that sets `came` when bytes of a download come.
fn downloads(came: &Arc<AtomicBool>) -> Arc<dyn EventSink> {
    let came = Arc::clone(came);
    Arc::new(move |event: &Event| {
        if matches!(&event.kind, EventKind::Progress { task, .. } if task == "download") {
            came.store(true, Ordering::Relaxed);
        }
    })
}
