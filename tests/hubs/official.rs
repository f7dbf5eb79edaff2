//! The official client of Hugging Face before the stand-in: what it downloads is what
//! albedo pulls. Needs Python with `huggingface_hub` in `ALBEDO_HF_PYTHON`
//! (`.ci/hubs/run` sets it); skips without.

use std::process::Command;

use albedo::backends::hubs::scripted::{HuggingFace, Server};

use super::{albedo, config, noise, stdout};

const COMMIT: &str = "1cfa9a7208912126459214e8b04321603b3df60c";

const SNAPSHOT: &str = "
import sys
from huggingface_hub import HfApi, snapshot_download, __version__
url, commit, folder = sys.argv[1:]
print(snapshot_download('owner/model', revision=commit, endpoint=url, local_dir=folder, token=False))
tree = HfApi(endpoint=url, token=False).list_repo_tree('owner/model', revision=commit, recursive=True)
print(__version__, sorted(entry.path for entry in tree if hasattr(entry, 'blob_id')))
";

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_sees_what_albedo_sees() {
    let Ok(python) = std::env::var("ALBEDO_HF_PYTHON") else {
        return eprintln!("skipped: ALBEDO_HF_PYTHON is not set; .ci/hubs/run sets it");
    };
    let hub = HuggingFace::new("models", "owner/model", COMMIT)
        .with("config.json", "{}", false)
        .with("sub folder/a+b.json", "{\"a\": 1}", false)
        .with("model.safetensors", noise(5_000_000, 4), true);
    let server = Server::start(0, move |request| hub.answer(request)).await.expect("listens");
    let place = tempfile::tempdir().expect("a folder");
    let (theirs, ours) = (place.path().join("theirs"), place.path().join("ours"));
    let mut client = Command::new(python);
    client.args(["-c", SNAPSHOT, &server.url(), COMMIT]).arg(&theirs).env("HF_HOME", place.path());
    client.env("HF_HUB_DISABLE_TELEMETRY", "1").env("HF_HUB_DISABLE_XET", "1");
    let output = tokio::task::spawn_blocking(move || client.output().expect("starts")).await.expect("runs");
    let said = stdout(&output);
    assert!(said.contains("['config.json', 'model.safetensors', 'sub folder/a+b.json']"), "{said}");
    let (config, cache) = (config(place.path(), &server.url()), place.path().join("cache"));
    let (reference, into) = (format!("hf:owner/model@{COMMIT}"), ours.display().to_string());
    stdout(&albedo(&cache, ["hub", "pull", &reference, "--config", &config, "--into", &into]).await);
    for name in ["config.json", "model.safetensors", "sub folder/a+b.json"] {
        let read = |folder: &std::path::Path| std::fs::read(folder.join(name)).expect("is there");
        assert_eq!(read(&theirs), read(&ours), "{name}");
    }
}
