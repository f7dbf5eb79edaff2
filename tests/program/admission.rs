//! Duels whose configuration has screens: nobody duels who is not admitted, and
//! the record says what was found.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{albedo, demo, error, stdout};

/// The demo's configuration with `screens`, of `challenger`, in a folder of its own.
fn configured(screens: &str, challenger: &Path) -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a folder");
    let path = |path: &Path| json!(path).to_string();
    let text = format!(
        r#"
        king.path = {king}
        challenger.path = {challenger}
        tasks = {{ name = "parquet", path = {tasks} }}
        judges = [{{ name = "reference-action" }}]
        screens = {screens}
        duel = {{ samples = 8, rule = {{ name = "margin" }} }}
        "#,
        king = path(&demo().join("models/king")),
        challenger = path(challenger),
        tasks = path(&demo().join("tasks")),
    );
    let config = place.path().join("duel.toml");
    fs::write(&config, text).expect("writes");
    (place, config)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn line(record: &Path, number: usize) -> Value {
    let lines = fs::read_to_string(record.join("record.jsonl")).expect("a record");
    serde_json::from_str(lines.lines().nth(number).expect("a line")).expect("JSON")
}

#[test]
fn the_record_of_a_duel_has_the_admission_before_it_and_verifies() {
    let screens = r#"[{ name = "files" }, { name = "architecture" }, { name = "digest" }]"#;
    let (place, config) = configured(screens, &demo().join("models/challenger"));
    let out = place.path().join("duel");
    let output = albedo(["duel", "--config", text(&config), "--out", text(&out)]);
    stdout(&output);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("screened by files, architecture, digest: admitted")
    );
    let admission = &line(&out, 1)["plan"]["admission"];
    assert_eq!(admission["outcome"], "admitted");
    assert_eq!(admission["findings"].as_array().map(Vec::len), Some(3));
    assert!(!admission.to_string().contains(text(demo().parent().expect("a folder"))), "no path of ours");
    stdout(&albedo(["record", "verify", text(&out)]));
    // It is over: resuming it screens nobody again and says the same.
    let again = albedo(["duel", "--resume", text(&out), "--json"]);
    assert!(!String::from_utf8_lossy(&again.stderr).contains("screened"));
    assert!(stdout(&again).contains("\"record\""));
}

#[test]
fn a_copy_of_the_king_forfeits_without_a_duel_and_its_record_verifies() {
    let (place, config) = configured(r#"[{ name = "digest" }]"#, &demo().join("models/king"));
    let out = place.path().join("duel");
    let output = albedo(["duel", "--config", text(&config), "--out", text(&out)]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("REJECTED"));
    assert_eq!(line(&out, 1)["line"], "forfeit");
    stdout(&albedo(["record", "verify", text(&out)]));
    let again = albedo(["duel", "--resume", text(&out), "--json"]);
    assert_eq!(again.status.code(), Some(1));
    let again: Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(again["admission"]["outcome"], "forfeit");
    let digest = fs::read_to_string(out.join("record.digest")).expect("digests");
    assert!(digest.contains(again["record"].as_str().expect("a digest")));
}

#[test]
fn what_could_not_be_found_out_is_screened_again_when_the_duel_is_resumed() {
    let broken = tempfile::tempdir().expect("a folder");
    let challenger = broken.path().join("challenger");
    fs::create_dir(&challenger).expect("a folder");
    for entry in fs::read_dir(demo().join("models/challenger")).expect("lists") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, challenger.join(path.file_name().expect("a name"))).expect("copies");
    }
    // A copy of ours, cut short: not the submission's fault.
    let weights = challenger.join("model.safetensors");
    let whole = fs::read(&weights).expect("reads");
    fs::write(&weights, &whole[..whole.len() / 2]).expect("writes");
    let (place, config) = configured(r#"[{ name = "digest" }]"#, &challenger);
    let out = place.path().join("duel");
    let output = albedo(["duel", "--config", text(&config), "--out", text(&out)]);
    assert_eq!(output.status.code(), Some(75), "{}", error(&output));
    assert!(!out.join("record.jsonl").exists());
    fs::write(&weights, &whole).expect("writes");
    stdout(&albedo(["duel", "--resume", text(&out)]));
    stdout(&albedo(["record", "verify", text(&out)]));
    assert_eq!(line(&out, 1)["plan"]["admission"]["outcome"], "admitted");
}

#[test]
fn a_challenger_that_was_exchanged_after_its_admission_does_not_duel() {
    let place = tempfile::tempdir().expect("a folder");
    let challenger = place.path().join("challenger");
    let copy = |from: &str| {
        fs::create_dir_all(&challenger).expect("a folder");
        for entry in fs::read_dir(demo().join("models").join(from)).expect("lists") {
            let path = entry.expect("an entry").path();
            fs::copy(&path, challenger.join(path.file_name().expect("a name"))).expect("copies");
        }
    };
    copy("challenger");
    let (_config, config) = configured(r#"[{ name = "digest" }]"#, &challenger);
    let out = place.path().join("duel");
    stdout(&albedo(["duel", "--config", text(&config), "--out", text(&out)]));
    fs::remove_file(out.join("record.jsonl")).expect("removed");
    copy("king");
    let output = albedo(["duel", "--resume", text(&out)]);
    assert!(!output.status.success());
    assert!(
        error(&output).contains("the model that was screened is not the challenger"),
        "{}",
        error(&output)
    );
}
