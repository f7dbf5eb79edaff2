//! `albedo validator import`: the Python system's files, written here after their description.

use std::fs;
use std::path::Path;

use albedo::Digest;
use albedo::judges::screens::store::Store;
use serde_json::{Value, json};

use crate::run::{albedo, error, stdout};
use crate::validator::folder;

/// A king as the Python system writes one.
fn king(hotkey: &str, name: &str, block: u64) -> Value {
    json!({
        "hotkey": hotkey, "model_repo": format!("{name}/albedo-qwen3-4b-x"),
        "model_digest": format!("sha256:{}", Digest::of(name)), "block": block, "crowned_block": block + 100,
        "challenge_id": "eval-000042", "dethrone_judges": ["a", "b"], "crown_judges": ["a"],
        "crowned_at": 1_750_000_000.25 + block as f64,
    })
}

/// Writes a whole state into `folder`.
pub(crate) fn state(folder: &Path) {
    let write = |name: &str, value: &Value| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
        fs::write(path, serde_json::to_vec_pretty(value).expect("JSON")).expect("writes");
    };
    write("king.json", &king("5Cat", "cat", 30));
    write(
        "king_chain.json",
        &json!([king("5Bob", "bob", 20), king("5Ann", "ann", 10), king("", "genesis", 1)]),
    );
    write("seen_hotkeys.json", &json!(["5Ann", "5Bob", "5Cat", "5Dan"]));
    write("completed_repos.json", &json!(["dan/albedo-qwen3-4b-y"]));
    write(
        "queue.json",
        &json!([{ "hotkey": "5Eve", "block": 40, "model_repo": "e/f", "model_digest": "x", "eval_id": "eval-000043", "enqueued_at": 1.5 }]),
    );
    write("counters.json", &json!({ "counter": 43, "retry_counts": {}, "recovered_ids": [], "stats": {} }));
    write(
        "history.json",
        &json!([
            { "type": "verdict", "eval_id": "eval-000041", "hotkey": "5Dan", "uid": 3, "model_repo": "dan/albedo-qwen3-4b-y",
              "model_digest": format!("sha256:{}", Digest::of("dan")), "accepted": false },
            { "type": "failure", "eval_id": "eval-000040", "hotkey": "5Eve", "code": "infra_failure", "detail": "x" },
        ]),
    );
    let print = json!({
        "method": "layer_norms_v2_with_samples", "layer_keys": ["a.weight"], "norm_vector": [1.5],
        "tensor_samples": [vec![0.5; 16]], "hotkey": "5Dan",
    });
    let label = format!("dan/albedo-qwen3-4b-y@sha256:{}", Digest::of("dan"));
    write("evals/state/model_fingerprints.json", &json!({ label: print }));
}

#[test]
fn a_switch_over_starts_where_the_python_system_stands() {
    let python = tempfile::tempdir().expect("a folder");
    state(python.path());
    // The configuration names no first king: the one among the kings is it.
    let (place, config) = folder("");
    let text = fs::read_to_string(&config).expect("reads");
    let bare: Vec<_> = text.lines().filter(|line| !line.starts_with("genesis")).collect();
    fs::write(&config, bare.join("\n").replace("entry = { manifests = \"folder\" }", "")).expect("writes");
    let import = |more: &[&str]| {
        let fixed = [
            "validator",
            "import",
            python.path().to_str().expect("UTF-8"),
            "--config",
            config.to_str().expect("UTF-8"),
        ];
        albedo([&fixed[..], more].concat())
    };
    let json =
        |output: &std::process::Output| -> Value { serde_json::from_str(&stdout(output)).expect("JSON") };
    let preview = json(&import(&["--json"]));
    assert_eq!(preview["became"], "preview", "{preview}");
    assert!(!place.path().join("state").exists(), "a preview changes nothing");
    let kings: Vec<_> =
        preview["kings"].as_array().expect("a list").iter().map(|king| king["hotkey"].clone()).collect();
    assert_eq!(kings, ["5Ann", "5Bob", "5Cat"]);
    assert_eq!((&preview["hotkeys"], &preview["fingerprints"]), (&json!(4), &json!(1)), "{preview}");
    assert_eq!(preview["unread"], json!([]));
    assert!(
        preview["first_king"].as_str().is_some_and(|first| first.contains("genesis/albedo")),
        "{preview}"
    );
    let said = stdout(&import(&[]));
    assert!(said.contains("would enter it") && said.contains("queue.json"), "{said}");

    // What is not understood keeps `--yes` from entering the rest in silence.
    let seen = python.path().join("seen_hotkeys.json");
    let whole = fs::read(&seen).expect("reads");
    fs::write(&seen, "[\n\"5Ann\",\n{}\n]").expect("writes");
    let output = import(&["--yes"]);
    assert_eq!(output.status.code(), Some(65), "{}", error(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("seen_hotkeys.json, line 3") && said.contains("--partial"), "{said}");
    assert!(!place.path().join("state").exists(), "nothing was entered");
    fs::write(&seen, whole).expect("writes");

    assert_eq!(json(&import(&["--yes", "--json"]))["became"], "done");
    assert_eq!(json(&import(&["--yes", "--json"]))["became"], "already");
    let status =
        json(&albedo(["validator", "status", "--json", "--config", config.to_str().expect("UTF-8")]));
    assert_eq!((&status["king"]["id"], &status["king"]["hotkey"]), (&json!(4), &json!("5Cat")), "{status}");
    assert_eq!(status["king"]["crowned_block"], 130);
    let store = Store::open(&place.path().join("state/screens.sqlite")).expect("opens");
    assert_eq!(store.fingerprints().expect("read").len(), 1, "once");
    drop(store);

    // Other files are another history.
    fs::write(&seen, "[\"5Ann\"]").expect("writes");
    let output = import(&["--yes"]);
    assert!(error(&output).contains("the ledger has another history"), "{}", error(&output));
    assert_ne!(output.status.code(), Some(0));

    let output =
        albedo(["validator", "import", "no-such-folder", "--config", config.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(66), "{}", error(&output));
    let none = tempfile::tempdir().expect("a folder");
    let output = albedo([
        "validator",
        "import",
        none.path().to_str().expect("UTF-8"),
        "--config",
        config.to_str().expect("UTF-8"),
    ]);
    assert_eq!(output.status.code(), Some(65), "{}", error(&output));
}
