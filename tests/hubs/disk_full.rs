//! A disk that is too small: nothing that is not whole counts as a model.

use std::process::Command;
use std::sync::Arc;

use albedo::backends::hubs::scripted::{Registry, Server};

use super::{config, noise};

#[tokio::test(flavor = "multi_thread")]
async fn a_small_disk_holds_whole_models_or_none() {
    let registry = Arc::new(Registry::default());
    let small = [("config.json", noise(10, 1)), ("weights", noise(9 << 20, 2))];
    let large = [("config.json", noise(10, 1)), ("weights", noise(40 << 20, 3))];
    let small = registry.plain("owner/small", &small).expect("stored").to_string();
    let large = registry.plain("owner/large", &large).expect("stored").to_string();
    let server = Server::start(0, move |request| registry.answer(request)).await.expect("listens");
    let place = tempfile::tempdir().expect("a folder");
    let config = config(place.path(), &server.url());
    let disk = place.path().join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    // In a mount namespace of its own, which ends with the shell.
    let script = r#"
        mount -t tmpfs -o size=24m tmpfs "$1" || exit 99
        export XDG_CACHE_HOME="$1"
        "$2" cache limit --quota none --keep-free 0 || exit 1
        "$2" hub pull "$4" --config "$3"; echo "large: $?"
        "$2" hub pull "$5" --config "$3" >/dev/null; echo "small: $?"
        "$2" hub pull "$4" --config "$3"; echo "large again: $?"
        "$2" cache gc; "$2" cache ls; "$2" cache verify; echo "verify: $?"
        ls "$1"/albedo/partial | wc -l
    "#;
    let mut shell = Command::new("unshare");
    shell.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    shell.arg(&disk).args([env!("CARGO_BIN_EXE_albedo"), &config, &large, &small]);
    let output = tokio::task::spawn_blocking(move || shell.output()).await.expect("runs");
    let Ok(output) = output else { return eprintln!("skipped: there is no `unshare`") };
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(99) || errors.contains("unshare") {
        return eprintln!("skipped: no file system may be mounted here: {errors}");
    }
    // 75: it may succeed later, with more space.
    assert!(said.contains("large: 75") && said.contains("small: 0"), "{said}{errors}");
    assert!(said.contains("large again: 75") && said.contains("verify: 0"), "{said}{errors}");
    assert!(errors.contains("free space"), "{errors}");
    assert!(!said.contains(&format!("sound    {large}")) && said.trim_end().ends_with('0'), "{said}");
    let blobs = server.seen().iter().filter(|request| request.path.contains("/blobs/")).count();
    assert!(blobs <= 5, "nothing of the large model was asked for: {blobs} requests");
}
