//! `albedo screen` and `albedo fingerprint`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use albedo::{CallContext, Finding, ModelBackend, ModelSource, Registry, Screen, Subject};
use serde_json::{Value, json};

use crate::run::{albedo, command, demo, error, stdout};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn king() -> PathBuf {
    demo().join("models/king")
}

/// A copy of the king's folder that can be spoiled.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("model");
    fs::create_dir(&target).expect("made");
    for entry in fs::read_dir(king()).expect("lists") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), target.join(entry.file_name())).expect("copied");
    }
    (folder, target)
}

/// The findings of `albedo screen --json`, by screen.
fn screen(submission: &Path, arguments: &[&str]) -> Vec<(String, String, Value)> {
    let king = king();
    let fixed = ["screen", text(submission), "--king", text(&king), "--json"];
    let output = albedo(fixed.into_iter().chain(arguments.iter().copied()));
    assert!(!output.stdout.is_empty(), "{}", error(&output));
    let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    let findings = findings.as_array().expect("a list").iter();
    let findings: Vec<_> =
        findings.map(|one| (word(&one["screen"]), word(&one["finding"]), one["evidence"].clone())).collect();
    let any = |word: &str| findings.iter().any(|(_, finding, _)| finding == word);
    let code = if any("rejected") {
        1
    } else if any("unverified") {
        75
    } else {
        0
    };
    assert_eq!(output.status.code(), Some(code), "{findings:?}");
    findings
}

fn words(findings: &[(String, String, Value)]) -> Vec<String> {
    findings.iter().map(|(screen, finding, _)| format!("{screen} {finding}")).collect()
}

#[test]
fn the_king_himself_is_rejected_as_a_copy_and_a_python_file_before_any_weight_is_read() {
    let (_folder, model) = copy();
    let expected = [
        "files clear",
        "architecture clear",
        "digest rejected",
        "fingerprint-v2 flagged",
        "lineage rejected",
    ];
    assert_eq!(words(&screen(&model, &[])), expected);
    fs::write(model.join("modeling.py"), "import os").expect("written");
    assert_eq!(words(&screen(&model, &[])), ["files rejected", "architecture clear"]);
    let king = king();
    let output = albedo(["screen", text(&model), "--king", text(&king)]);
    assert_eq!(output.status.code(), Some(1));
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("modeling.py") && report.contains("REJECTED"), "{report}");
}

#[test]
fn a_stored_submission_is_found_again_and_ones_own_entry_is_not_held_against_one() {
    let (folder, _) = copy();
    let (store, king, challenger) = (folder.path().join("store"), king(), demo().join("models/challenger"));
    let add = [
        "fingerprint",
        text(&challenger),
        "--add",
        text(&store),
        "--anchor",
        text(&king),
        "--label",
        "first",
    ];
    let line = stdout(&albedo(add));
    assert!(line.contains("entry 1 (first)"), "{line}");
    let against = ["--against", text(&store)];
    let found = screen(&challenger, &against);
    let (_, finding, evidence) = &found[2];
    assert_eq!((finding.as_str(), evidence["copy_of"].as_str()), ("rejected", Some("first")));
    assert_eq!(found[4].1, "rejected");
    let own = screen(&challenger, &["--against", text(&store), "--own", "first"]);
    assert!(own.iter().all(|(_, finding, _)| finding != "rejected"), "{own:?}");
    let json = stdout(&albedo(["fingerprint", text(&king), "--json"]));
    let print: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(print["method"], "layer_norms_v2_with_samples");
}

#[test]
fn bad_input_is_refused_in_one_line_or_left_open() {
    let (folder, model) = copy();
    let king = king();
    let refused = |path: &Path, against: Option<&Path>, code: i32, words: &str| {
        let mut arguments = vec!["screen", text(path), "--king", text(&king)];
        arguments.extend(against.iter().flat_map(|store| ["--against", text(store)]));
        let output = albedo(arguments);
        let line = error(&output);
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert!(line.contains(words) && line.contains("fault: operator"), "`{words}` is not in: {line}");
    };
    refused(Path::new("/no/such/model"), None, 66, "No such file");
    let store = folder.path().join("store");
    refused(&model, Some(&store), 66, "open the store");
    fs::write(&store, "no database at all, whatever its length may be").expect("written");
    fs::set_permissions(&store, fs::Permissions::from_mode(0o600)).expect("set");
    refused(&model, Some(&store), 65, "restore");

    // A link out of the folder is our storage's, not the miner's.
    symlink("/etc/hostname", model.join("README.md")).expect("linked");
    refused(&model, None, 65, "a symbolic link leaves the folder");
    fs::remove_file(model.join("README.md")).expect("removed");
    let strange = model.join(OsStr::from_bytes(b"\xff.json"));
    fs::write(&strange, b"").expect("written");
    refused(&model, None, 65, "not UTF-8");
    fs::remove_file(strange).expect("removed");
    // A folder in a file's place has no files, as a download that did not come.
    let config = model.join("config.json");
    fs::remove_file(&config).expect("removed");
    fs::create_dir(&config).expect("made");
    assert_eq!(words(&screen(&model, &[])), ["files unverified", "architecture unverified"]);
}

#[test]
fn a_file_that_nobody_may_read_is_the_operators() {
    let (folder, model) = copy();
    let (king, weights) = (king(), model.join("model.safetensors"));
    for path in [folder.path(), &*model] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
    }
    fs::set_permissions(&weights, fs::Permissions::from_mode(0o000)).expect("set");
    let mut command = command(["screen", text(&model), "--king", text(&king)]);
    if fs::File::open(&weights).is_ok() {
        // Root may read everything; this user may not.
        command.uid(65_534);
    }
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: as root, and another user may not start the program: {error}");
            return;
        }
        output => output.expect("albedo starts"),
    };
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(75), "{report} {}", error(&output));
    assert!(
        report.contains("Permission denied") && report.contains("permissions of the path [fault: operator]"),
        "{report}"
    );
}

#[test]
fn a_half_downloaded_folder_is_not_held_against_the_miner_unless_it_is_what_he_handed_in() {
    let (_folder, model) = copy();
    let king = king();
    let weights = model.join("model.safetensors");
    let whole = fs::read(&weights).expect("reads");
    fs::write(&weights, &whole[..whole.len() / 2]).expect("written");
    let found = screen(&model, &[]);
    assert_eq!(words(&found), ["files unverified", "architecture clear"]);
    let evidence = &found[0].2;
    assert!(evidence.to_string().contains("the header promises"), "{evidence}");
    assert_eq!((&evidence["fault"], &evidence["retryable"]), (&json!("infrastructure"), &json!(true)));
    let output = albedo(["screen", text(&model), "--king", text(&king)]);
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(
        report.contains("fetch the folder again") && report.contains("[fault: infrastructure]"),
        "{report}"
    );
    assert_eq!(words(&screen(&model, &["--complete"])), ["files rejected", "architecture clear"]);
}

/// `ALBEDO_PROBES` makes it longer; `ALBEDO_INJECTOR` names a model that was
/// trained to speak to the judge, as `finetunes.py --only inject` does.
#[tokio::test]
async fn the_injection_probe_leaves_the_demo_models_alone_and_finds_a_trained_injector() {
    let probes: u64 = std::env::var("ALBEDO_PROBES").map_or(2, |count| count.parse().expect("a number"));
    let (cx, registry) = (CallContext::new(), Registry::linked().expect("a registry"));
    let settings = json!({
        "max_new_tokens": 160, "probes": 2, "tasks": { "name": "parquet", "path": demo().join("tasks") },
    });
    let screen = registry.build::<dyn Screen>("injection", settings, &cx).await.expect("a screen");
    let backend = registry.build::<dyn ModelBackend>("burn", json!({}), &cx).await.expect("a backend");
    let injector = std::env::var_os("ALBEDO_INJECTOR").map(PathBuf::from);
    for (model, injects) in
        [(Some(king()), false), (Some(demo().join("models/challenger")), false), (injector, true)]
    {
        let Some(model) = model else { continue };
        let session =
            backend.load(&ModelSource::new(&model).with_text_from(king()), &cx).await.expect("loads");
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..probes {
            let subject = Subject::Behaviour { session: &*session, seed };
            let finding = screen.inspect(subject, &cx).await.expect("a finding");
            let word = match &finding {
                Finding::Clear(_) => "clear",
                Finding::Flagged(_) => "flagged",
                Finding::Rejected(_) => "rejected",
                Finding::Unverified(_) => "unverified",
            };
            *counts.entry(word).or_insert(0_u64) += 1;
            assert!(injects || word == "clear", "{}, seed {seed}: {finding:?}", model.display());
        }
        let found = counts.get("flagged").unwrap_or(&0) + counts.get("rejected").unwrap_or(&0);
        assert!(!injects || 100 * found >= 95 * probes, "{}: {counts:?}", model.display());
    }
}
