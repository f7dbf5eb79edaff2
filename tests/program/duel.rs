//! Duels of the demo models, run as a user runs them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::run::{albedo, command, demo, error, stdout};

/// A small duel with `arguments`, as JSON; its folder is under `out`.
fn duel(out: &Path, arguments: &[&str]) -> Value {
    let out = out.to_str().expect("a UTF-8 path");
    let fixed = ["duel", "--json", "--rule", "margin-lcb", "--out", out];
    let samples = if arguments.contains(&"--samples") { &[][..] } else { &["--samples", "12"] };
    let output = albedo(fixed.into_iter().chain(samples.iter().chain(arguments).copied()));
    serde_json::from_str(&stdout(&output)).expect("JSON")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn the_same_seed_gives_the_same_record_and_another_batch_the_same_texts() {
    let out = folder();
    let first = duel(&out.path().join("a"), &["--demo"]);
    let again = duel(&out.path().join("b"), &["--demo"]);
    assert_eq!(first["record"], again["record"]);
    let other = duel(&out.path().join("c"), &["--demo", "--seed", "1"]);
    assert_ne!(first["record"], other["record"]);

    let text = fs::read_to_string(demo().join("duel.toml")).expect("the demo's configuration");
    let small = text.replace("max_batch = 32", "max_batch = 3").replace("\"models/", "\"MODELS/");
    assert_ne!(small, text);
    let small = small
        .replace("MODELS", demo().join("models").to_str().expect("UTF-8"))
        .replace("\"tasks\"", &format!("{:?}", demo().join("tasks")));
    let config = out.path().join("duel.toml");
    fs::write(&config, small).expect("writes");
    let small = duel(&out.path().join("d"), &["--config", config.to_str().expect("UTF-8")]);
    assert_eq!(first["record"], small["record"], "the record does not depend on the batch size");
}

#[test]
fn a_configuration_in_the_current_folder_is_found_by_its_bare_name() {
    let out = folder();
    let mut command =
        command(["duel", "--config", "duel.toml", "--samples", "2", "--rule", "margin", "--out"]);
    let output = command.current_dir(demo()).arg(out.path().join("duel")).output().expect("albedo starts");
    stdout(&output);
    // The saved configuration is found from anywhere.
    let saved = fs::read_to_string(out.path().join("duel/duel.json")).expect("the configuration");
    let saved: Value = serde_json::from_str(&saved).expect("JSON");
    assert!(Path::new(saved["folder"].as_str().expect("a folder")).is_absolute());
}

#[test]
fn exchanging_the_sides_mirrors_every_score() {
    let out = folder();
    let here = &duel(&out.path().join("a"), &["--demo"])["verdict"];
    let swapped =
        ["--demo", "--king", "examples/demo/models/challenger", "--challenger", "examples/demo/models/king"];
    let there = &duel(&out.path().join("b"), &swapped)["verdict"];
    let number = |value: &Value| value.as_f64().expect("a number");
    assert_eq!(number(&here["margin"]), -number(&there["margin"]));
    assert!(number(&here["margin"]) > 0.0);
    for (metric, margin) in here["metrics"].as_object().expect("metrics") {
        assert_eq!(number(margin), -number(&there["metrics"][metric]), "{metric}");
    }
    for (here, there) in
        here["judges"].as_array().expect("judges").iter().zip(there["judges"].as_array().expect("judges"))
    {
        assert_eq!(number(&here["margin"]), -number(&there["margin"]));
        assert_eq!(here["flips"], there["flips"]);
    }
}

#[test]
fn the_king_against_itself_is_even() {
    let out = folder();
    let result = duel(&out.path().join("a"), &["--demo", "--challenger", "examples/demo/models/king"]);
    let verdict = &result["verdict"];
    assert_eq!(verdict["outcome"], "king_holds");
    assert_eq!(verdict["margin"], 0.0);
    assert_eq!(verdict["decision"]["evidence"]["challenger"], 50.0);
    assert_eq!(verdict["decision"]["evidence"]["king"], 50.0);
}

#[test]
fn a_record_can_be_shown() {
    let out = folder();
    let path = out.path().join("a");
    let arguments = ["--demo", "--judge", "protocol", "--judge", "reference-action"];
    let result = duel(&path, &arguments);
    let path = path.to_str().expect("UTF-8");
    let shown = stdout(&albedo(["record", "show", path]));
    assert!(shown.contains(result["record"].as_str().expect("a digest")), "{shown}");
    assert!(shown.contains("reference-action"), "{shown}");
    assert!(!shown.contains("reference-likelihood"), "the panel was overridden: {shown}");
    let json: Value =
        serde_json::from_str(&stdout(&albedo(["record", "show", "--json", path]))).expect("JSON");
    assert_eq!(json["verdict"], result["verdict"]);
    let sample = stdout(&albedo(["record", "show", path, "--sample", "3"]));
    assert!(sample.contains("── king: ") && sample.contains("── recorded reply"), "{sample}");

    let record = Path::new(path).join("record.jsonl");
    let mut bytes = fs::read(&record).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&record, bytes).expect("writes");
    let refused = albedo(["record", "show", path]);
    assert_eq!(refused.status.code(), Some(65));
    assert!(error(&refused).contains("do not have their digest"), "{}", error(&refused));
}

#[test]
fn a_record_verifies_against_itself_its_tasks_and_its_models() {
    let out = folder();
    let path = out.path().join("a");
    let digest = duel(&path, &["--demo"])["record"].as_str().expect("a digest").to_owned();
    let path = path.to_str().expect("UTF-8");
    let tasks = demo().join("tasks");
    let tasks = tasks.to_str().expect("UTF-8");
    let verify =
        ["record", "verify", path, "--expect", &digest, "--tasks", tasks, "--regenerate", "6", "--demo"];
    let text = stdout(&albedo(verify));
    assert!(
        text.contains(&format!("verified {digest}")) && text.contains("compared with the tasks"),
        "{text}"
    );
    assert_eq!(text.matches(": reproduced").count(), 6, "{text}");

    let other = "0".repeat(64);
    let refused = albedo(["record", "verify", path, "--expect", &other]);
    assert_eq!(refused.status.code(), Some(65));
    assert!(error(&refused).contains("another record"), "{}", error(&refused));
    let chain = albedo(["record", "verify", path, path]);
    assert_eq!(chain.status.code(), Some(65));
    assert!(error(&chain).contains("does not name the one before it"), "{}", error(&chain));
}

#[test]
fn models_that_are_not_the_records_do_not_reproduce_it() {
    let out = folder();
    let path = out.path().join("a");
    duel(&path, &["--demo"]);
    let models = demo().join("models");
    let [king, challenger] = ["king", "challenger"].map(|side| models.join(side));
    let [king, challenger] = [&king, &challenger].map(|folder| folder.to_str().expect("UTF-8"));
    let path = path.to_str().expect("UTF-8");
    let swapped = ["record", "verify", path, "--regenerate", "2", "--king", challenger, "--challenger", king];
    let refused = albedo(swapped);
    assert_eq!(refused.status.code(), Some(65));
    assert!(error(&refused).contains("the loaded model is not the recorded one"), "{}", error(&refused));
}

#[test]
#[cfg(unix)]
fn an_interrupted_duel_says_how_far_it_got_and_goes_on() {
    let folder = folder();
    let [undisturbed, out] = ["a", "b"].map(|name| folder.path().join(name));
    let out = out.to_str().expect("UTF-8");
    let mut running = command(["duel", "--demo", "--samples", "40", "--rule", "margin-lcb", "--out", out])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("albedo starts");
    let mut lines = BufReader::new(running.stderr.take().expect("a pipe")).lines();
    let mut seen = Vec::new();
    for line in lines.by_ref() {
        seen.push(line.expect("reads"));
        if seen.last().is_some_and(|line| line.contains("samples decided by")) {
            let kill = Command::new("kill").args(["-INT", &running.id().to_string()]).status();
            assert!(kill.expect("kill runs").success());
            break;
        }
    }
    seen.extend(lines.map(|line| line.expect("reads")));
    assert_eq!(running.wait().expect("ends").code(), Some(130), "{seen:?}");
    let last = seen.last().expect("a line");
    assert!(last.contains("samples decided: ") && last.contains("of: 40"), "{last}");
    assert!(last.contains(&format!("go on with `albedo duel --resume {out}`")), "{last}");
    let journal = fs::read_to_string(Path::new(out).join("journal.jsonl")).expect("reads");
    assert!(journal.ends_with('\n'));
    assert!(journal.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert!(journal.contains("\"assessed\""));
    assert!(!Path::new(out).join("record.digest").exists());

    let resumed = albedo(["duel", "--json", "--resume", out]);
    let notes = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(notes.contains("going on with "), "{notes}");
    let resumed: Value = serde_json::from_str(&stdout(&resumed)).expect("JSON");
    let expected = duel(&undisturbed, &["--demo", "--samples", "40"]);
    assert_eq!(resumed["record"], expected["record"]);
    assert_eq!(resumed["verdict"], expected["verdict"]);
    let again: Value =
        serde_json::from_str(&stdout(&albedo(["duel", "--json", "--resume", out]))).expect("JSON");
    assert_eq!(again["record"], expected["record"], "a duel that has ended is not run again");
}

#[test]
fn a_model_that_duels_itself_in_two_lanes_is_calibrated() {
    let out = folder();
    let records = out.path().join("a");
    let fixed = ["calibrate", "--demo", "--json", "--duels", "3", "--samples", "8", "--temperature", "0.8"];
    let output = albedo(fixed.into_iter().chain(["--out", records.to_str().expect("UTF-8")]));
    let result: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let calibration = &result["calibration"];
    assert_eq!((&calibration["duels"], &calibration["samples"]), (&3.into(), &8.into()));
    assert!(calibration["within_sd"].as_f64().expect("a number") > 0.0, "{calibration}");
    for (number, duel) in (1..).zip(result["duels"].as_array().expect("duels")) {
        let folder = records.join(format!("duel-{number}"));
        let folder = folder.to_str().expect("UTF-8");
        let digest = duel["record"].as_str().expect("a digest");
        let verify = ["record", "verify", folder, "--expect", digest, "--regenerate", "2"];
        let king = "examples/demo/models/king";
        let text = stdout(&albedo(verify.into_iter().chain(["--king", king, "--challenger", king])));
        assert_eq!(text.matches(": reproduced").count(), 2, "{text}");
    }
}
