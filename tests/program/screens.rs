//! `albedo screen` and `albedo fingerprint`.

use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use albedo::backends::files::FolderFiles;
use albedo::config::AdmissionConfig;
use albedo::{
    Admission, Admit, CallContext, FileEntry, ModelBackend, ModelFiles, ModelSource, Models, Registry,
    Result, Screen, ScreenPart,
};
use async_trait::async_trait;
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
    let admission: Admission = serde_json::from_slice(&output.stdout).expect("JSON");
    admission.check().expect("the outcome follows from the findings");
    let findings: Vec<_> = (admission.findings.into_iter())
        .map(|one| (one.screen.name, one.finding.word().to_owned(), one.finding.evidence().clone()))
        .collect();
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
    let import = albedo(["fingerprint", "--import", "corpus.json", "--add", text(&store), "--json"]);
    assert_eq!(import.status.code(), Some(2), "an import has no fingerprint to print: {}", error(&import));
}

/// Changes the last bit of every 500th weight of the model in `folder`.
fn touch(folder: &Path) {
    let weights = folder.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("reads");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    bytes[header..].iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
    fs::write(&weights, bytes).expect("written");
}

#[test]
fn copies_answer_like_their_source_whatever_their_weights_look_like() {
    let (folder, model) = copy();
    let (store, king, challenger) = (folder.path().join("store"), king(), demo().join("models/challenger"));
    touch(&model);
    let functional = |submission: &Path, more: &[&str]| {
        let fixed = ["--screen", "functional", "--probe", "7", "--set", "functional.probes=8"];
        let found = screen(submission, &[&fixed[..], more].concat());
        let (_, finding, evidence) = found.into_iter().next().expect("a finding");
        (finding, evidence)
    };
    let (finding, evidence) = functional(&model, &[]);
    assert_eq!((finding.as_str(), &evidence["rules"]), ("rejected", &json!(["same"])), "{evidence}");
    let (finding, evidence) = functional(&challenger, &[]);
    assert_eq!(finding, "clear", "{evidence}");
    assert!(evidence["divergence"].as_f64().is_some_and(|divergence| divergence > 1e-2), "{evidence}");

    let add = ["fingerprint", text(&challenger), "--add", text(&store), "--anchor", text(&king)];
    let add = [&add[..], &["--label", "rival", "--king", text(&king), "--questions", "3"][..]].concat();
    let line = stdout(&albedo(add));
    assert!(line.contains("entry 1 (rival)  answers set 1"), "{line}");
    fs::copy(challenger.join("model.safetensors"), model.join("model.safetensors")).expect("copied");
    touch(&model);
    let (finding, evidence) = functional(&model, &["--against", text(&store)]);
    assert_eq!((finding.as_str(), &evidence["rules"]), ("rejected", &json!(["copied"])), "{evidence}");
    assert!(evidence["nearest"][0]["cosine"].as_f64().is_some_and(|cosine| cosine > 0.99), "{evidence}");
    let (finding, _) = functional(&model, &["--against", text(&store), "--own", "rival"]);
    assert_eq!(finding, "clear");
}

#[test]
fn a_miner_is_told_what_to_change_and_by_which_profile() {
    let (_folder, model) = copy();
    touch(&model);
    fs::write(model.join("modeling.py"), "import os").expect("written");
    let king = king();
    let run = |more: &[&str]| {
        let fixed = ["screen", text(&model), "--king", text(&king)];
        let output = albedo([&fixed[..], more].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let report = run(&["--explain"]);
    for words in ["What to change", "files, allowlist", "Remove the file", "sn97-2026-12", "noise 1.05"] {
        assert!(report.contains(words), "`{words}` is not in: {report}");
    }
    let admission: Value = serde_json::from_str(&run(&["--json"])).expect("JSON");
    assert_eq!(admission["profile"]["name"], "sn97-2026-12");
    assert_eq!(admission["profile"]["screens"].as_str().map(str::len), Some(64));
    // Thresholds that were changed are no profile's.
    let admission: Value =
        serde_json::from_str(&run(&["--json", "--set", "lineage.noise=1.1"])).expect("JSON");
    assert!(admission["profile"].is_null(), "{admission}");
    let output = albedo(["screen", text(&model), "--king", text(&king), "--profile", "sn97"]);
    let line = error(&output);
    assert!(line.contains("there is no screen profile `sn97`") && line.contains("sn97-2026-12"), "{line}");
}

#[test]
fn the_configuration_names_the_screens_and_the_command_line_comes_before_it() {
    let (folder, model) = copy();
    let config = folder.path().join("duel.toml");
    let toml = format!(
        "judges = []\nking.path = {:?}\nchallenger.path = \"model\"\ntasks.name = \"parquet\"\n\
         screens = [{{ name = \"digest\" }}, {{ name = \"files\", max_size_ratio = 1.5 }}]\n",
        text(&king())
    );
    fs::write(&config, toml).expect("written");
    let run = |arguments: &[&str]| {
        let output = albedo(
            ["screen", "--json", "--config", text(&config)].into_iter().chain(arguments.iter().copied()),
        );
        let admission: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let findings = admission["findings"].as_array().expect("a list").iter();
        let words: Vec<_> = findings
            .map(|one| format!("{} {}", one["screen"]["name"], one["finding"]).replace('"', ""))
            .collect();
        (output.status.code(), words)
    };
    let copied = ["files clear", "digest rejected"].map(str::to_owned).to_vec();
    assert_eq!(run(&[]), (Some(1), copied));
    let challenger = demo().join("models/challenger");
    let honest = ["files clear", "digest clear"].map(str::to_owned).to_vec();
    assert_eq!(run(&[text(&challenger)]), (Some(0), honest));
    // What it says next is the duel of what was screened, and true.
    let bare = folder.path().join("bare.toml");
    let toml = fs::read_to_string(&config).expect("reads");
    let without: Vec<_> = toml.lines().filter(|line| !line.starts_with("screens")).collect();
    fs::write(&bare, without.join("\n")).expect("written");
    for (config, words) in [(&config, "it screens the challenger again"), (&bare, "without screens")] {
        let output = albedo(["screen", text(&challenger), "--config", text(config), "--screen", "files"]);
        assert_eq!(output.status.code(), Some(0), "{}", error(&output));
        let next = error(&output);
        let duel = format!("duel --config {} --challenger {} ", text(config), text(&challenger));
        assert!(next.contains(&duel) && next.contains(words), "{next}");
    }
    fs::write(model.join("modeling.py"), "import os").expect("written");
    assert_eq!(run(&[]), (Some(1), vec!["files rejected".to_owned()]));
}

#[test]
fn a_forfeit_has_a_record_that_is_shown_and_verifies() {
    let (folder, model) = copy();
    let (out, king) = (folder.path().join("admission"), king());
    let output = albedo(["screen", text(&model), "--king", text(&king), "--out", text(&out)]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let report = String::from_utf8_lossy(&output.stdout);
    let digest = report.lines().last().and_then(|line| line.split_whitespace().nth(1)).expect("a digest");
    let verified = stdout(&albedo(["record", "verify", text(&out), "--expect", digest]));
    assert!(verified.contains(digest) && verified.contains("rejected by digest, lineage"), "{verified}");
    let shown = stdout(&albedo(["record", "show", text(&out)]));
    assert!(shown.contains("an exact copy of the king") && shown.contains(digest), "{shown}");
    let lines = fs::read_to_string(out.join("record.jsonl")).expect("reads");
    assert!(!lines.contains(text(folder.path())), "no local path is published: {lines}");
    fs::write(out.join("record.jsonl"), lines.replace("rejected", "clear")).expect("written");
    let output = albedo(["record", "verify", text(&out)]);
    assert_eq!(output.status.code(), Some(65), "{}", error(&output));
    // An admitted submission has a journal and no record.
    let (out, challenger) = (folder.path().join("admitted"), demo().join("models/challenger"));
    let output = albedo(["screen", text(&challenger), "--king", text(&king), "--out", text(&out)]);
    assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    assert!(out.join("journal.jsonl").is_file() && !out.join("record.digest").exists());
    // A mistake leaves nothing that would be in the way of the next try.
    let out = folder.path().join("again");
    let screened = |model: &Path| {
        let output =
            albedo(["screen", text(model), "--king", text(&king), "--screen", "files", "--out", text(&out)]);
        (output.status.code(), error(&output))
    };
    assert_eq!(screened(Path::new("/no/such/model")).0, Some(66));
    assert_eq!(screened(&challenger).0, Some(0));
    let (code, line) = screened(Path::new("/no/such/model"));
    assert!(code == Some(78) && line.contains("the folder already holds a duel"), "first of all: {line}");
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
    // What was handed in so is the submitter's.
    let made = std::process::Command::new("mkfifo").arg(model.join("README.md")).status();
    assert!(made.expect("mkfifo runs").success());
    refused(&model, None, 65, "it is no regular file");
    let found = screen(&model, &["--complete"]);
    assert_eq!(words(&found), ["files rejected", "architecture clear"]);
    assert_eq!(found[0].2["problems"][0]["check"], "special");
    fs::remove_file(model.join("README.md")).expect("removed");
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

/// A folder that counts how often each byte of its weight file is read.
#[derive(Debug)]
struct Counted {
    files: FolderFiles,
    reads: Mutex<Vec<u8>>,
}

impl Counted {
    fn new(folder: &Path) -> Arc<Self> {
        let size = fs::metadata(folder.join(WEIGHTS)).expect("there").len();
        Arc::new(Self { files: FolderFiles::new(folder), reads: Mutex::new(vec![0; size as usize]) })
    }

    /// How often the bytes behind the header were read: the least and the most.
    fn data(&self, folder: &Path) -> (u8, u8) {
        let file = fs::read(folder.join(WEIGHTS)).expect("reads");
        let header = 8 + u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
        let reads = self.reads.lock().expect("unpoisoned");
        let data = &reads[header..];
        (*data.iter().min().expect("some"), *data.iter().max().expect("some"))
    }
}

const WEIGHTS: &str = "model.safetensors";

#[async_trait]
impl ModelFiles for Counted {
    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        self.files.list(cx).await
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        if name == WEIGHTS {
            let mut reads = self.reads.lock().expect("unpoisoned");
            reads[range.start as usize..range.end as usize].iter_mut().for_each(|count| *count += 1);
        }
        self.files.read(name, range, cx).await
    }
}

#[tokio::test]
async fn with_all_screens_on_the_weights_of_each_model_are_read_once() {
    let (place, anchor) = copy();
    let store = place.path().join("store");
    let add = ["fingerprint", text(&anchor), "--add", text(&store), "--label", "anchor"];
    assert!(stdout(&albedo(add)).contains("entry 1"));
    let registry = Registry::linked().expect("a registry");
    let mut config = AdmissionConfig::new(PathBuf::new(), PathBuf::new());
    config.set("store", &json!(store), &registry);
    let cx = CallContext::new();
    let mut screens = Vec::new();
    for screen in &config.screens {
        screens
            .push(registry.build::<dyn Screen>(screen.name(), screen.settings(), &cx).await.expect("built"));
    }
    let (king, challenger) = (king(), demo().join("models/challenger"));
    for with_anchor in [false, true] {
        let counted = [&king, &challenger, &anchor].map(|folder| Counted::new(folder));
        let [kings, challengers, anchors] = counted.clone();
        let mut models = Models::new(kings, challengers);
        models.anchor = with_anchor.then_some(anchors as Arc<dyn ModelFiles>);
        let admission = Admit::new(screens.clone(), models).run(&cx).await.expect("runs");
        assert!(admission.is_admitted() && admission.findings.len() == 5, "{admission:?}");
        for (counted, folder) in counted.iter().zip([&king, &challenger]) {
            assert_eq!(counted.data(folder), (1, 1), "{}", folder.display());
        }
        assert_eq!(counted[2].data(&anchor), if with_anchor { (1, 1) } else { (0, 0) });
    }
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
            let ScreenPart::Behaviour(part) = screen.part() else { panic!("{screen:?}") };
            let finding = part.inspect(&*session, seed, &cx).await.expect("a finding");
            let word = finding.word();
            *counts.entry(word).or_insert(0_u64) += 1;
            assert!(injects || word == "clear", "{}, seed {seed}: {finding:?}", model.display());
        }
        let found = counts.get("flagged").unwrap_or(&0) + counts.get("rejected").unwrap_or(&0);
        assert!(!injects || 100 * found >= 95 * probes, "{}: {counts:?}", model.display());
    }
}
