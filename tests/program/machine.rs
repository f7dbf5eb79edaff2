//! What programs read: `--json` has the documented keys, and nothing but it is on
//! standard output.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::run::{albedo, root, stdout};

/// The keys that the guide documents for a command.
fn documented(command: &str) -> BTreeSet<String> {
    let heading = format!("## {command}\n");
    let guide = std::fs::read_to_string(root().join("docs/machine-output.md")).expect("the guide");
    let section = guide.split(&heading).nth(1).expect("a section of this command");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

/// Runs `arguments` with `--json` and compares the keys with the guide's section.
fn check(section: &str, arguments: &[&str]) -> Value {
    let output = albedo(arguments.iter().copied().chain(["--json"]));
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert!(text.starts_with('{'), "{section}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["schema"], 1, "{section}");
    let keys: BTreeSet<_> = json.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(keys, documented(section), "{section}");
    json
}

#[test]
fn every_command_prints_what_the_guide_documents() {
    let folder = tempfile::tempdir().expect("a folder");
    let duel = folder.path().join("duel");
    let duel = duel.to_str().expect("UTF-8");
    let small =
        ["duel", "--demo", "--rule", "margin", "--samples", "2", "--judge", "protocol", "--out", duel];
    let verdict = check("`albedo duel`", &small);
    let shown = check("`albedo record show`", &["record", "show", duel]);
    assert_eq!(shown["verdict"], verdict["verdict"]);
    let sample = check("`albedo record show --sample N`", &["record", "show", duel, "--sample", "1"]);
    assert!(sample["items"].as_array().is_some_and(|lines| lines.len() > 3), "{sample}");
    check("`albedo record verify`", &["record", "verify", duel]);
    let calibrate = ["calibrate", "--demo", "--duels", "2", "--samples", "2", "--temperature", "1"];
    check("`albedo calibrate`", &calibrate);
    check("`albedo config check`", &["config", "check", "examples/demo/duel.toml"]);
    let plugins = check("`albedo plugins`", &["plugins"]);
    assert!(plugins["items"].as_array().is_some_and(|plugins| plugins.len() > 20), "{plugins}");
    let (king, challenger) = ("examples/demo/models/king", "examples/demo/models/challenger");
    check("`albedo screen`", &["screen", challenger, "--king", king]);
}

#[test]
fn an_error_leaves_standard_output_empty() {
    let output = albedo(["record", "show", "no-such-folder", "--json"]);
    assert!(output.stdout.is_empty());
    assert_eq!(output.status.code(), Some(66));
}

#[test]
fn every_command_writes_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("events.jsonl");
    let file = file.to_str().expect("UTF-8");
    let model = "examples/demo/models/king";
    stdout(&albedo(["generate", model, "--prompt", "x", "--max-new-tokens", "1", "--events", file]));
    let events = albedo::report::EventFile::read(std::path::Path::new(file)).expect("reads");
    assert!(events.iter().all(|event| event.version == 1));
    let again = albedo(["plugins", "--events", file]);
    assert_eq!(again.status.code(), Some(78), "an events file is never written over");
}

#[test]
fn the_version_names_commit_features_and_target() {
    let version = stdout(&albedo(["--version"]));
    for line in ["commit: ", "features: ", "target: "] {
        assert!(version.contains(&format!("\n{line}")), "{version}");
    }
    assert!(version.contains("cli, ") && version.starts_with("albedo 0."), "{version}");
    assert_eq!(stdout(&albedo(["-V"])).lines().count(), 1);
}
