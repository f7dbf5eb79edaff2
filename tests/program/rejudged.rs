//! New verdicts from stored replies.

use std::fs;

use serde_json::Value;

use crate::published::text;
use crate::run::{albedo, command, error, stdout};

#[test]
fn records_are_judged_again_by_other_judges_and_rules() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    for seed in ["1", "2"] {
        let duel =
            ["duel", "--demo", "--rule", "margin", "--samples", "4", "--judge", "protocol", "--seed", seed];
        stdout(&albedo([&duel[..], &["--out", text(&path(seed))]].concat()));
    }
    let (one, two, study) = (path("1"), path("2"), path("study"));
    let rejudge = |more: &[&str]| {
        let arguments = ["record", "rejudge", text(&one), text(&two), "--out", text(&study)];
        albedo([&arguments[..], more].concat())
    };

    // The same judge says the same, and needs no model and no tasks.
    let same: Value =
        serde_json::from_str(&stdout(&rejudge(&["--judge", "protocol", "--json"]))).expect("JSON");
    for record in same["records"].as_array().expect("records") {
        assert_eq!(record["before"]["margin"], record["after"]["margin"], "{record}");
        assert_eq!(record["before"]["judges"], record["after"]["judges"], "{record}");
    }

    // Another judge: its answers are a record that verifies, and are kept.
    let other: Value =
        serde_json::from_str(&stdout(&rejudge(&["--judge", "reference-action", "--json"]))).expect("JSON");
    let judged = other["records"][0]["judged"].as_str().expect("a folder").to_owned();
    assert_eq!(other["records"][0]["after"]["judges"][0]["judge"], "reference-action");
    assert!(stdout(&albedo(["record", "verify", &judged])).contains("verified"));
    let journal = format!("{judged}/journal.jsonl");
    let lines = || fs::read_to_string(&journal).expect("reads").lines().count();
    let before = lines();
    // The study's rule lets every sample be judged: what it says is shown as no verdict.
    let shown = stdout(&albedo(["record", "report", &judged, "--format", "markdown"]));
    assert!(shown.contains("Judged for a study, no verdict: over 4 samples"), "{shown}");
    assert!(!shown.contains("The king holds") && !shown.contains("is crowned"), "{shown}");
    // So it is from within, and under another name.
    let within = command(["record", "report", ".", "--format", "markdown"]).current_dir(&judged).output();
    let renamed = path("renamed");
    fs::rename(&judged, &renamed).expect("renames");
    let elsewhere = albedo(["record", "report", text(&renamed), "--format", "markdown"]);
    assert!(stdout(&albedo(["record", "verify", text(&renamed)])).contains("verified"));
    fs::rename(&renamed, &judged).expect("renames");
    for shown in [within.expect("starts"), elsewhere] {
        assert!(stdout(&shown).contains("Judged for a study"), "{}", stdout(&shown));
    }
    let shown = stdout(&albedo(["record", "report", text(&one), "--format", "markdown"]));
    assert!(!shown.contains("Judged for a study"), "{shown}");
    let by_rule: Value = serde_json::from_str(&stdout(&rejudge(&[
        "--judge",
        "reference-action",
        "--rule",
        "sequential",
        "--json",
    ])))
    .expect("JSON");
    assert_eq!(by_rule["records"][0]["judged"], judged.as_str(), "another rule asks nobody");
    assert_eq!(lines(), before, "nothing was asked again");

    // Another rule alone.
    let table = stdout(&rejudge(&["--rule", "margin-lcb"]));
    assert!(table.contains("of 2 records have another outcome"), "{table}");

    // A run that was killed goes on: a journal cut at any line is completed.
    fs::remove_file(format!("{judged}/record.jsonl")).expect("removes");
    fs::remove_file(format!("{judged}/record.digest")).expect("removes");
    let text = fs::read_to_string(&journal).expect("reads");
    let cut: String = text
        .lines()
        .take(text.lines().count() / 2)
        .map(|line| format!("{line}\n"))
        .collect::<Vec<_>>()
        .concat();
    fs::write(&journal, cut).expect("writes");
    let resumed: Value =
        serde_json::from_str(&stdout(&rejudge(&["--judge", "reference-action", "--json"]))).expect("JSON");
    assert_eq!(resumed["records"], other["records"]);
}

#[test]
fn what_cannot_be_judged_again_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let nothing = albedo(["record", "rejudge", "albedo-core/tests/fixtures/record-3"]);
    assert!(!nothing.status.success() && error(&nothing).contains("--rule NAME"), "{}", error(&nothing));
    let mut forfeit =
        command(["record", "rejudge", "albedo-core/tests/fixtures/forfeit-3", "--rule", "margin"]);
    let forfeit = forfeit.args(["--out", text(folder.path())]).output().expect("starts");
    assert!(!forfeit.status.success() && error(&forfeit).contains("not admitted"), "{}", error(&forfeit));
    // Records hold tokio's threads for blocking work, and wait for others of them: with all of them they would for ever.
    let many =
        ["record", "rejudge", "albedo-core/tests/fixtures/record-3", "--judge", "protocol", "--jobs", "512"];
    let many = albedo(many);
    let said = String::from_utf8_lossy(&many.stderr).into_owned();
    assert!(!many.status.success() && said.contains("256"), "{said}");
    // No record has the tasks that canaries are made from.
    let config = folder.path().join("duel.toml");
    let duel = "king.path = \"king\"\nchallenger.path = \"challenger\"\n\
                tasks = { name = \"parquet\", path = \"tasks\" }\njudges = [{ name = \"protocol\" }]\n\
                [duel]\ncanaries = { every = 8 }\n";
    fs::write(&config, duel).expect("writes");
    let study = folder.path().join("study");
    let arguments = ["record", "rejudge", "albedo-core/tests/fixtures/record-3", "--config", text(&config)];
    let watched = albedo([&arguments[..], &["--out", text(&study)]].concat());
    let said = String::from_utf8_lossy(&watched.stderr).into_owned();
    assert!(said.contains("canaries are off"), "{said}");
    let unknown =
        albedo(["record", "rejudge", "albedo-core/tests/fixtures/record-3", "--judge", "protocoll"]);
    assert!(!unknown.status.success() && error(&unknown).contains("protocol"), "{}", error(&unknown));
}
