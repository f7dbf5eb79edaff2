//! Two processes with one small cache; the commands of hubs and caches.

use std::path::PathBuf;
use std::sync::Arc;

use albedo::Digest;
use albedo::backends::hubs::scripted::{HuggingFace, Registry, Server};

use super::{albedo, command, config, noise, stdout, unfinished};

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_a_cache_for_six_models() {
    const SIZE: usize = 1 << 20;
    let registry = Arc::new(Registry::default());
    let references: Vec<_> = (0..40)
        .map(|model| {
            let files = [("config.json", noise(100, 1)), ("model.safetensors", noise(SIZE, 100 + model))];
            registry.plain(&format!("owner/model-{model}"), &files).expect("stored").to_string()
        })
        .collect();
    let server = Server::start(0, move |request| registry.answer(request)).await.expect("listens");
    let place = tempfile::tempdir().expect("a folder");
    let (config, cache) = (config(place.path(), &server.url()), place.path().join("cache"));
    let quota = 6 * (SIZE + 8192);
    let limit = ["cache", "limit", "--quota", &quota.to_string(), "--keep-free", "0"];
    stdout(&albedo(&cache, limit).await);
    let user = async |order: Vec<&String>| {
        for reference in order {
            let mut pull = command(&cache, ["hub", "pull", reference, "--config", &config]);
            let pulled = tokio::task::spawn_blocking(move || pull.output().expect("starts")).await;
            stdout(&pulled.expect("runs"));
            let used: u64 = ["blobs", "partial"]
                .iter()
                .flat_map(|part| std::fs::read_dir(cache.join("albedo").join(part)).into_iter().flatten())
                .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
                .sum();
            assert!(used <= (quota + SIZE + 8192) as u64, "{used}");
        }
    };
    futures::join!(user(references.iter().collect()), user(references.iter().rev().collect()));
    stdout(&albedo(&cache, ["cache", "gc"]).await);
    let listed = stdout(&albedo(&cache, ["cache", "ls", "--json"]).await);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let models = listed["models"].as_array().expect("models").len();
    assert!((4..=6).contains(&models), "{listed}");
    stdout(&albedo(&cache, ["cache", "verify"]).await);
    assert_eq!(unfinished(&cache), [""; 0]);
}

/// A registry, its configuration, an empty cache, and the folder of a model that lacks its
/// weights.
struct Place {
    folder: tempfile::TempDir,
    server: Server,
    config: String,
    cache: PathBuf,
    model: PathBuf,
}

impl Place {
    async fn new() -> Self {
        let registry = Arc::new(Registry::with_tokens(0));
        let server = Server::start(0, move |request| registry.answer(request)).await.expect("listens");
        let place = tempfile::tempdir().expect("a folder");
        let (cache, model) = (place.path().join("cache"), place.path().join("model"));
        std::fs::create_dir(&model).expect("a folder");
        std::fs::write(model.join("config.json"), "{}").expect("written");
        Self { config: config(place.path(), &server.url()), folder: place, server, cache, model }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_pushed_listed_pulled_and_verified() {
    let Place { folder: place, server, config, cache, model } = Place::new().await;
    std::fs::write(model.join("model.safetensors"), noise(100_000, 9)).expect("written");
    let folder = model.display().to_string();
    let push = ["hub", "push", &folder, "owner/model", "--config", &config];
    let dry = stdout(&albedo(&cache, push.into_iter().chain(["--dry-run"])).await);
    assert!(server.seen().is_empty(), "nothing leaves in a dry run");
    assert_eq!(stdout(&albedo(&cache, push).await), dry);
    let reference = dry.trim();
    let listed = stdout(&albedo(&cache, ["hub", "ls", reference, "--config", &config]).await);
    assert!(listed.contains(&Digest::of("{}").to_string()) && listed.lines().count() == 2, "{listed}");
    let missing = albedo(&cache, ["hub", "verify", reference, "--config", &config]).await;
    assert_eq!(missing.status.code(), Some(66));
    // A folder that is there refuses it before the hub is asked for anything.
    let (asked, taken) = (server.seen().len(), place.path().display().to_string());
    let refused = albedo(&cache, ["hub", "pull", reference, "--config", &config, "--into", &taken]).await;
    assert_eq!((refused.status.code(), server.seen().len()), (Some(78), asked), "{refused:?}");
    let into = place.path().join("copy").display().to_string();
    stdout(&albedo(&cache, ["hub", "pull", reference, "--config", &config, "--into", &into]).await);
    assert_eq!(std::fs::read(place.path().join("copy/config.json")).expect("copied"), b"{}");
    let sound = stdout(&albedo(&cache, ["hub", "verify", reference, "--config", &config]).await);
    assert!(sound.starts_with("sound: 2 files"), "{sound}");
    // What is there is used without the hub.
    drop(server);
    stdout(&albedo(&cache, ["hub", "pull", reference, "--config", &config]).await);
    let error = albedo(&cache, ["hub", "pull", reference, "--config", &config, "--into", &into]).await;
    assert!(!error.status.success() && String::from_utf8_lossy(&error.stderr).contains("already there"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_pushed_in_chunks_and_pulled() {
    let Place { folder: place, server: _server, config, cache, model } = Place::new().await;
    let weights = noise(20_000_000, 9);
    std::fs::write(model.join("model.safetensors"), &weights).expect("written");
    let folder = model.display().to_string();
    let push = ["hub", "push", &folder, "owner/model", "--config", &config, "--json"];
    let pushed = async |more: &[&str]| -> serde_json::Value {
        let all = push.iter().chain(more).copied();
        serde_json::from_str(&stdout(&albedo(&cache, all).await)).expect("JSON")
    };
    let plain = pushed(&["--dry-run", "--chunked"]).await;
    assert_eq!(plain, pushed(&["--dry-run"]).await, "it has no file of 256 MiB");
    let first = pushed(&["--chunked=1MB"]).await;
    let reference = first["reference"].as_str().expect("a reference");
    let into = place.path().join("copy");
    let pull = ["hub", "pull", reference, "--config", &config, "--into", into.to_str().expect("UTF-8")];
    stdout(&albedo(&cache, pull).await);
    assert_eq!(std::fs::read(into.join("model.safetensors")).expect("copied"), weights);
    // A file that grows at its beginning has new bytes there.
    let longer = [&b"more"[..], &weights].concat();
    std::fs::write(model.join("model.safetensors"), longer).expect("written");
    let second = pushed(&["--chunked=1MB", "--base", reference]).await;
    let uploaded = second["uploaded"].as_u64().expect("bytes");
    assert!(uploaded > 4 && uploaded < 20_000_000, "{second}");
    let base = albedo(&cache, push.into_iter().chain(["--base", reference])).await;
    assert!(String::from_utf8_lossy(&base.stderr).contains("--chunked"), "{base:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_hugging_face_is_pulled() {
    const COMMIT: &str = "1cfa9a7208912126459214e8b04321603b3df60c";
    let hub = HuggingFace::new("models", "owner/model", COMMIT).with("config.json", "{}", false).with(
        "model.safetensors",
        noise(9_000_000, 4),
        true,
    );
    let server = Server::start(0, move |request| hub.answer(request)).await.expect("listens");
    let place = tempfile::tempdir().expect("a folder");
    let (config, cache) = (config(place.path(), &server.url()), place.path().join("cache"));
    let reference = format!("hf:owner/model@{COMMIT}");
    let folder = stdout(&albedo(&cache, ["hub", "pull", &reference, "--config", &config]).await);
    let held = std::fs::read(std::path::Path::new(folder.trim()).join("model.safetensors")).expect("held");
    assert_eq!(Digest::of(held), Digest::of(noise(9_000_000, 4)));
}
