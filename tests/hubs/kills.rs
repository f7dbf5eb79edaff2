//! Pulls that are killed at random moments, again and again: the model is right at the
//! end, nothing temporary is left, and little is downloaded twice.
//!
//! `ALBEDO_HUB_KILLS` sets the number of kills, 10 unless it is set, and
//! `ALBEDO_HUB_MB` the size of the model, 192 MB unless it is set.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use albedo::Digest;
use albedo::backends::hubs::scripted::{Registry, Server};

use super::{albedo, command, config, noise, stdout, unfinished};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_killed_goes_on() {
    const KILLS_A_PULL: u64 = 5;
    let (kills, size) = (number("ALBEDO_HUB_KILLS", 10), number("ALBEDO_HUB_MB", 192) * 1_000_000);
    let registry = Arc::new(Registry::with_tokens(0));
    let files = [
        ("config.json", noise(700, 1)),
        ("model-00001-of-00002.safetensors", noise((size / 2) as usize, 2)),
        ("model-00002-of-00002.safetensors", noise((size / 2) as usize, 3)),
    ];
    let reference = registry.plain("owner/model", &files).expect("stored").to_string();
    let total: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let server = Server::start(0, move |request| registry.answer(request)).await.expect("listens");
    let place = tempfile::tempdir().expect("a folder");
    let config = config(place.path(), &server.url());
    let mut killed = 0;
    for round in 0.. {
        if killed >= kills {
            break;
        }
        let cache = place.path().join(format!("cache-{round}"));
        let (before, mut here) = (server.sent(), 0);
        while here < KILLS_A_PULL && killed < kills {
            // Somewhere in the next part of the download, by bytes and not by time.
            let target = server.sent() + (killed * 7_919 % 97 + 3) * total / 100 / KILLS_A_PULL;
            let mut pull = command(&cache, ["hub", "pull", &reference, "--config", &config])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("starts");
            loop {
                if pull.try_wait().expect("waits").is_some() {
                    break;
                }
                if server.sent() >= target {
                    pull.kill().expect("killed");
                    pull.wait().expect("waits");
                    (killed, here) = (killed + 1, here + 1);
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let done = albedo(&cache, ["cache", "ls", "--json"]).await;
            if stdout(&done).contains(&reference) {
                break;
            }
        }
        let pulled =
            stdout(&albedo(&cache, ["hub", "pull", &reference, "--config", &config, "--json"]).await);
        let pulled: serde_json::Value = serde_json::from_str(&pulled).expect("JSON");
        let folder = std::path::PathBuf::from(pulled["folder"].as_str().expect("a folder"));
        for (name, bytes) in &files {
            let held = std::fs::read(folder.join(name)).expect("is there");
            assert_eq!(Digest::of(held), Digest::of(bytes), "{name}");
        }
        stdout(&albedo(&cache, ["cache", "gc"]).await);
        assert_eq!(unfinished(&cache), [""; 0]);
        let served = server.sent() - before;
        let most = total * 105 / 100 + here * (64 << 20);
        assert!(served <= most, "{served} bytes were served, {most} at most for {here} kills");
        eprintln!("{here} kills: {served} bytes served for {total}");
        std::fs::remove_dir_all(&cache).expect("removed");
    }
}
