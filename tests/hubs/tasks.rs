//! Task sets whose shards stay at their hub until they are needed.

use std::path::Path;
use std::sync::Arc;

use albedo::backends::hubs::scripted::{HuggingFace, Server};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{albedo, stdout};

const COMMIT: &str = "1cfa9a7208912126459214e8b04321603b3df60c";

/// The demo's shards.
fn shards() -> Vec<(String, Bytes)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/tasks");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).expect("read")).expect("JSON");
    let names = manifest["shards"].as_array().expect("shards").iter();
    let names = names.map(|shard| shard["name"].as_str().or(shard["path"].as_str()).expect("a name"));
    names.map(|name| (name.to_owned(), std::fs::read(folder.join(name)).expect("read").into())).collect()
}

async fn hub() -> Server {
    let hub = HuggingFace::new("datasets", "owner/tasks", COMMIT).with("README.md", "tasks", false);
    let hub = shards().into_iter().fold(hub, |hub, (name, bytes)| hub.with(&name, bytes, true));
    Server::start(0, move |request| hub.answer(request)).await.expect("listens")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_is_pinned_where_it_is_and_fetched_when_it_is_drawn_from() {
    let server = hub().await;
    let place = tempfile::tempdir().expect("a folder");
    let (cache, out) = (place.path().join("cache"), place.path().join("tasks"));
    let (data_set, folder) = (format!("hf:datasets/owner/tasks@{COMMIT}"), out.display().to_string());
    let url = server.url();
    let make = ["tasks", "manifest", &data_set, "--out", &folder, "--endpoint", &url];
    let made = stdout(&albedo(&cache, make.into_iter().chain(["--json"])).await);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let bytes: usize = shards().iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(
        (made["shards"].as_u64(), made["bytes"].as_u64()),
        (Some(shards().len() as u64), Some(bytes as u64))
    );
    // The same as of a folder with the same shards, and the same again.
    let local = place.path().join("local");
    for (name, bytes) in shards() {
        let path = local.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }
    let local = local.display().to_string();
    stdout(&albedo(&cache, ["tasks", "manifest", &local]).await);
    let manifest = |folder: &str| std::fs::read(Path::new(folder).join("manifest.json")).expect("written");
    assert_eq!(manifest(&local), manifest(&folder));
    stdout(&albedo(&cache, make).await);
    stdout(&albedo(&cache, ["tasks", "verify", &local]).await);

    // No shard is there yet.
    let verified = albedo(&cache, ["tasks", "verify", &folder, "--json"]).await;
    assert_eq!(verified.status.code(), Some(66));
    // A draw fetches what it needs.
    let registry = albedo::Registry::linked().expect("links");
    let cx = albedo::CallContext::new();
    let resources = albedo::registry::Resources::default().with_cache_dir(place.path().join("own-cache"));
    let build = albedo::BuildContext::new(&registry, &cx).with_resources(resources);
    let settings = json!({ "path": out, "from": data_set, "hub": { "endpoint": url } });
    let before = server.sent();
    let tasks = build.build::<dyn albedo::TaskSource>("parquet", settings).await.expect("opens");
    assert_eq!(server.sent(), before, "nothing is fetched before it is needed");
    let row = tasks.row(0, &cx).await.expect("a row");
    let here =
        build.build::<dyn albedo::TaskSource>("parquet", json!({ "path": local })).await.expect("opens");
    assert_eq!(row, here.row(0, &cx).await.expect("a row"));
    let fetched = server.sent() - before;
    assert!(fetched >= shards()[0].1.len() as u64 && fetched < bytes as u64 + 10_000, "{fetched}");
    tasks.row(0, &cx).await.expect("a row");
    assert_eq!(server.sent() - before, fetched, "once");

    let prefetch = ["tasks", "prefetch", &folder, "--from", &data_set, "--endpoint", &url];
    // What is there does not count among the most that are fetched.
    let all = shards().len();
    for sound in 1..=2 {
        let words = stdout(&albedo(&cache, prefetch.into_iter().chain(["--most", "1"])).await);
        assert!(words.ends_with(&format!("{sound} of {all} shards are sound\n")), "{words}");
    }
    let words = stdout(&albedo(&cache, prefetch).await);
    assert!(words.ends_with(&format!("{all} of {all} shards are sound\n")), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_of_other_bytes_is_never_used() {
    let good = Arc::new(shards());
    let place = tempfile::tempdir().expect("a folder");
    let (cache, out) = (place.path().join("cache"), place.path().join("tasks").display().to_string());
    let server = hub().await;
    let data_set = format!("hf:datasets/owner/tasks@{COMMIT}");
    stdout(
        &albedo(&cache, ["tasks", "manifest", &data_set, "--out", &out, "--endpoint", &server.url()]).await,
    );
    // The same data set with one byte changed, whose own listing agrees with it.
    let changed =
        good.iter().fold(HuggingFace::new("datasets", "owner/tasks", COMMIT), |hub, (name, bytes)| {
            let mut bytes = bytes.to_vec();
            bytes[100] ^= 1;
            hub.with(name, bytes, true)
        });
    let server = Server::start(0, move |request| changed.answer(request)).await.expect("listens");
    let prefetch =
        ["tasks", "prefetch", &out, "--from", &data_set, "--endpoint", &server.url()].map(str::to_owned);
    let output = albedo(&cache, prefetch.iter().map(String::as_str)).await;
    assert_eq!(output.status.code(), Some(65), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = stdout(&albedo(&cache, ["cache", "ls"]).await);
    assert_eq!(listed, "the cache is empty\n");
}
