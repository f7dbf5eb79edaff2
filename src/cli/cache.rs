//! `albedo cache`.

use std::fmt::Write;

use serde_json::json;

use super::exit::Exit;
use super::output::{print, print_json};
use crate::backends::cache::{Cache, CacheLimits, CachedModel};
use crate::{BuildContext, CallContext, Error, Registry, Result};

#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Command {
    /// List the models of the cache, the one used longest ago first.
    Ls(Show),
    /// Remove what interrupted downloads left, files that no model has, and, where the
    /// limits ask for it, the models used longest ago.
    Gc(Show),
    /// Read every byte of every model and compare its digest.
    Verify(Show),
    /// Set how much the cache may take.
    Limit(Limit),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Show {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Limit {
    /// Most bytes of models and downloads together, such as `200GB`; `none` for no
    /// limit.
    #[arg(long, value_name = "SIZE", value_parser = size, required_unless_present = "keep_free")]
    quota: Option<Size>,
    /// Bytes of the disk that stay free, such as `20GB`.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    keep_free: Option<Size>,
}

/// A number of bytes; none for `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(Option<u64>);

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    let registry = Registry::linked()?;
    let cache = Cache::of(&BuildContext::new(&registry, cx))?;
    let (command, cx) = (command.clone(), cx.clone());
    // The cache blocks on the disk.
    let done = tokio::task::spawn_blocking(move || act(&command, &cache, &cx)).await;
    done.map_err(|error| Error::bug("look after the cache", error.to_string()))?
}

fn act(command: &Command, cache: &Cache, cx: &CallContext) -> Result<Exit> {
    match command {
        Command::Ls(Show { json: as_json }) => {
            let models = cache.list()?;
            if *as_json {
                let models: Vec<_> = models.iter().map(listed).collect();
                print_json(&json!({ "limits": cache.limits()?, "models": models }))?;
                return Ok(Exit::Done);
            }
            let mut text = String::new();
            for model in &models {
                let state = match (model.in_use, model.kept.is_empty()) {
                    (true, _) => "in use".to_owned(),
                    (false, false) => format!("kept: {}", model.kept.join(", ")),
                    (false, true) => format!("idle {} h", model.idle_s / 3600),
                };
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{:>9} MB  {state:<14} {}", model.bytes / 1_000_000, model.name);
            }
            print(&if text.is_empty() { "the cache is empty\n".into() } else { text })?;
        }
        Command::Gc(Show { json: as_json }) => {
            let collected = cache.collect()?;
            if *as_json {
                print_json(&collected)?;
            } else {
                let mut text = String::new();
                for model in &collected.models {
                    let _ = writeln!(text, "removed {model}");
                }
                let (freed, left) = (collected.freed / 1_000_000, collected.bytes / 1_000_000);
                print(&format!("{text}freed {freed} MB, {left} MB are left\n"))?;
            }
        }
        Command::Verify(Show { json: as_json }) => {
            let check = cache.verify(cx)?;
            if *as_json {
                print_json(&check)?;
            } else {
                let mut text = String::new();
                for (word, models) in [("sound", &check.sound), ("damaged", &check.damaged)] {
                    for model in models {
                        let _ = writeln!(text, "{word:<8} {model}");
                    }
                }
                print(&if text.is_empty() { "the cache is empty\n".into() } else { text })?;
            }
            if !check.damaged.is_empty() {
                return Ok(Exit::BadData);
            }
        }
        Command::Limit(Limit { quota, keep_free }) => {
            let before = cache.limits()?;
            cache.set_limits(CacheLimits {
                quota: quota.map_or(before.quota, |Size(quota)| quota),
                keep_free: keep_free.map_or(before.keep_free, |Size(free)| free.unwrap_or_default()),
            })?;
        }
    }
    Ok(Exit::Done)
}

/// A model for programs. Its folder is shown: the path may be no text.
fn listed(model: &CachedModel) -> serde_json::Value {
    let CachedModel { name, folder, files, bytes, idle_s, in_use, kept, .. } = model;
    json!({
        "name": name,
        "folder": folder.display().to_string(),
        "files": files,
        "bytes": bytes,
        "idle_s": idle_s,
        "in_use": in_use,
        "kept": kept,
    })
}

fn size(text: &str) -> Result<Size, String> {
    if text == "none" { Ok(Size(None)) } else { bytes(text).map(|bytes| Size(Some(bytes))) }
}

/// `200GB`, `1.5TB`, `4096`: powers of ten, as disks are sold.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0), ("", 1.0)];
    let found = units.into_iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
    let bytes = found.and_then(|(number, bytes)| Some(number.trim().parse::<f64>().ok()? * bytes));
    match bytes {
        Some(bytes) if (0.0..1e18).contains(&bytes) => Ok(bytes as u64),
        _ => Err("write a number and B, kB, MB, GB or TB, such as 200GB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_disks_are_sold() {
        for (text, bytes) in [("200GB", 200_000_000_000), ("1.5 TB", 1_500_000_000_000), ("7", 7), ("7B", 7)]
        {
            assert_eq!(size(text), Ok(Size(Some(bytes))), "{text}");
        }
        assert_eq!(size("none"), Ok(Size(None)));
        for bad in ["", "GB", "-1GB", "x", "1e30", "NaN"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
