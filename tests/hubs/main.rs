//! `albedo hub`, `albedo cache` and `albedo tasks` before hubs on this machine.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(unix)]

use std::path::Path;
use std::process::{Command, Output};

use bytes::Bytes;

mod disk_full;
mod kills;
mod official;
mod shared;
mod tasks;

/// `albedo` with a cache of its own.
fn command<'a>(cache: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_albedo"));
    command.env("XDG_CACHE_HOME", cache).args(arguments);
    command
}

/// Runs it to its end, on a thread that may block.
async fn albedo<'a>(cache: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Output {
    let mut command = command(cache, arguments);
    let run = tokio::task::spawn_blocking(move || command.output().expect("albedo starts"));
    run.await.expect("runs")
}

fn stdout(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {errors}", output.status);
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// A configuration file that has the registry at `url`.
fn config(folder: &Path, url: &str) -> String {
    let path = folder.join("hubs.toml");
    let endpoint = format!(
        "[[hubs]]\nname = \"oci\"\nregistry = \"{url}\"\n\n[[hubs]]\nname = \"hf\"\nendpoint = \"{url}\"\n"
    );
    std::fs::write(&path, endpoint).expect("written");
    path.display().to_string()
}

/// Bytes that no two places of share.
fn noise(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 7).to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// Files below `folder` whose names end as those of things that are not finished do.
fn unfinished(cache: &Path) -> Vec<String> {
    let (mut found, mut waiting) = (Vec::new(), vec![cache.join("albedo")]);
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(path).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let name = path.display().to_string();
            let temporary = name.contains("/partial/")
                || path.extension().is_some_and(|end| end == "part" || end == "new");
            if temporary || name.contains("/new-") {
                found.push(name);
            }
            if path.is_dir() {
                waiting.push(path);
            }
        }
    }
    found
}
