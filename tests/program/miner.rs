//! `albedo miner`: from a folder to a submission, as `docs/miner.md` shows it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use albedo::backends::hubs::scripted::{Registry, Server};
use serde_json::{Value, json};

use crate::machine_guide::{Guide, commands_with_json};
use crate::run::{albedo, command, demo, error, root, stdout};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A copy of the demo's `model` in `folder`.
fn copied(model: &str, folder: &Path) -> PathBuf {
    let to = folder.join(model);
    fs::create_dir(&to).expect("makes");
    for entry in fs::read_dir(demo().join("models").join(model)).expect("lists") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
    to
}

/// Runs `arguments` with a cache of its own.
fn miner(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = command([&["miner"][..], arguments].concat());
    command.env("XDG_CACHE_HOME", folder.join("cache")).output().expect("albedo starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_goes_from_a_folder_to_the_registry_in_steps_that_check_each_other() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path();
    let registry = Arc::new(Registry::default());
    let server = Server::start(0, move |request| registry.answer(request)).await.expect("listens");
    let config = folder.join("hubs.toml");
    fs::write(&config, format!("[[hubs]]\nname = \"oci\"\nregistry = {:?}\n", server.url())).expect("writes");
    let (model, king) = (copied("challenger", folder), demo().join("models/king"));
    let mut guide = Guide::read();
    let run = |title: &str, code: i32, more: &[&str]| {
        let output = miner(folder, &[&[title, text(&model)][..], more].concat());
        assert_eq!(output.status.code(), Some(code), "{title}: {}", error(&output));
        output
    };
    let config = ["--config", text(&config)];

    // Nothing before its time.
    let pack = |more: &[&'static str]| [&["owner/model"][..], more].concat();
    let unchecked = run("pack", 66, &pack(&[]));
    assert!(error(&unchecked).contains("albedo miner check"), "{}", error(&unchecked));

    let duel = demo().join("duel.toml");
    let duel = ["--duel", text(&duel), "--samples", "8", "--attempt", "3"];
    let checked = stdout(&run("check", 0, &[&["--king", text(&king), "--json"], &duel[..]].concat()));
    let checked = guide.check("miner check", &checked);
    assert_eq!(
        (&checked["duel"]["samples"], &checked["duel"]["attempt"]),
        (&json!(8), &json!(3)),
        "{checked}"
    );
    assert_eq!(checked["duel"]["power"]["duels"], 400);
    assert_eq!(checked["admission"]["profile"]["name"], "sn97-2026-12", "{checked}");
    assert_eq!(checked["admission"]["findings"].as_array().map(Vec::len), Some(10), "{checked}");
    let unpacked = run("upload", 78, &config);
    assert!(error(&unpacked).contains("albedo miner pack"), "{}", error(&unpacked));

    let packed = guide.check("miner pack", &stdout(&run("pack", 0, &pack(&["--json"]))));
    let reference = packed["reference"].as_str().expect("a reference").to_owned();
    let digest = reference.split('@').nth(1).expect("a digest");
    assert_eq!(packed["text"], format!("v7|owner/model|{digest}"), "{packed}");
    let later = stdout(&run("pack", 0, &pack(&["--competition", "v8", "--json"])));
    assert!(later.contains(&format!("v8|owner/model|{digest}")), "{later}");
    let malformed = miner(folder, &["pack", text(&model), "no-owner"]);
    assert_eq!(malformed.status.code(), Some(78), "{}", error(&malformed));
    run("pack", 0, &pack(&[]));

    // A preview uploads nothing; the upload that follows does, and the next one has nothing to do.
    let preview =
        guide.check("miner upload", &stdout(&run("upload", 0, &[&config[..], &["--json"]].concat())));
    assert_eq!((&preview["uploaded"], &preview["is_there"]), (&Value::Null, &json!(false)), "{preview}");
    let listed = |reference: &str| albedo(["hub", "ls", reference, config[0], config[1]]).status.code();
    assert_eq!(listed(&reference), Some(66));
    let upload = || -> Value {
        let said = stdout(&run("upload", 0, &[&config[..], &["--yes", "--json"]].concat()));
        serde_json::from_str(&said).expect("JSON")
    };
    let first = upload();
    assert!(first["uploaded"].as_u64() >= first["bytes"].as_u64() && first["is_there"] == true, "{first}");
    assert_eq!(upload()["uploaded"], 0);
    assert_eq!(listed(&reference), Some(0));

    // A second check of the same files keeps what was packed and uploaded; a duel that fails after
    // it leaves the findings.
    let tasks = fs::read_to_string(demo().join("duel.toml")).expect("reads");
    let without = folder.join("without-tasks.toml");
    fs::write(&without, tasks.replace("path = \"tasks\"", "path = \"no-such-tasks\"")).expect("writes");
    let failed = run("check", 66, &["--king", text(&king), "--duel", text(&without)]);
    assert!(error(&failed).contains("no-such-tasks"), "{}", error(&failed));
    let said = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(said.contains("sn97-2026-12") && said.contains("What to change"), "{said}");
    let second = upload();
    assert_eq!((&second["uploaded"], &second["is_there"]), (&json!(0), &json!(true)), "{second}");

    // The folder is another one now.
    fs::write(model.join("README.md"), "changed").expect("writes");
    let changed = miner(folder, &[&["upload", text(&model)][..], &config[..]].concat());
    assert_eq!(changed.status.code(), Some(65), "{}", error(&changed));
    assert!(error(&changed).contains("the folder has changed"), "{}", error(&changed));
    let changed = miner(folder, &["pack", text(&model), "owner/model"]);
    assert_eq!(changed.status.code(), Some(65), "{}", error(&changed));

    let unchecked = guide.unchecked(|command| HERE.contains(&command));
    assert_eq!(unchecked, ["miner status"], "documented, and compared with nothing");
}

#[test]
fn a_copy_of_the_king_is_rejected_before_anybody_sees_it() {
    let place = tempfile::tempdir().expect("a folder");
    let (model, king) = (copied("king", place.path()), demo().join("models/king"));
    let output = miner(place.path(), &["check", text(&model), "--king", text(&king)]);
    assert_eq!(output.status.code(), Some(1), "{}", error(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("digest") && said.contains("What to change"), "{said}");
    let output = miner(place.path(), &["pack", text(&model), "owner/model"]);
    assert_eq!(output.status.code(), Some(78), "{}", error(&output));
    assert!(error(&output).contains("it would forfeit"), "{}", error(&output));
}

#[test]
fn what_would_end_a_check_after_its_screens_ends_it_before() {
    let place = tempfile::tempdir().expect("a folder");
    let (model, king) = (copied("challenger", place.path()), demo().join("models/king"));
    let check = |more: &[&str]| {
        let output =
            miner(place.path(), &[&["check", text(&model), "--king", text(&king)][..], more].concat());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing was screened");
        (output.status.code(), error(&output))
    };
    let typo = place.path().join("typo.toml");
    let (code, line) = check(&["--duel", text(&typo)]);
    assert_eq!(code, Some(66), "{line}");
    assert!(line.contains("typo.toml"), "{line}");
    assert!(!place.path().join("challenger.submission.json").exists(), "the model was not checked");
    let config = model.join("config.json");
    let whole = fs::read(&config).expect("reads");
    let (code, line) = check(&["--draft", text(&config)]);
    assert_eq!(code, Some(65), "{line}");
    assert!(line.contains("--draft FILE"), "{line}");
    assert_eq!(fs::read(&config).expect("reads"), whole, "the model's own file stays");
}

/// What a validator publishes, with one submission in each of two states.
fn published(folder: &Path, updated_at: u64) -> Vec<String> {
    let text = |miner: &str| (format!("{miner}/model"), format!("sha256:{}", "ab".repeat(32)));
    let submission = |miner: &str| {
        let (repository, pin) = text(miner);
        json!({ "hotkey": miner, "repository": repository, "pin": pin })
    };
    fs::create_dir(folder.join("data")).expect("makes");
    let write = |name: &str, value: &Value| {
        fs::write(folder.join("data").join(name), value.to_string()).expect("writes");
    };
    let reign = json!({ "king": { "number": 2, "model": {} }, "attempts": 3, "alpha": 0.05, "spent": 0.01, "left": 0.04,
        "next_share": 0.002 });
    let queue = json!([{ "submission": submission("ann"), "state": "duelling", "since": 5 },
        { "submission": submission("bob"), "state": "clear", "since": 6 }]);
    write(
        "status.json",
        &json!({ "format": 1, "updated_at": updated_at, "stale_after_secs": 3600, "source": "validator", "reign": reign,
            "queue": queue }),
    );
    let stands = |miner: &str, state: &str| {
        json!({ "submission": submission(miner), "state": state, "since": 5, "reason": "Every screen passed it.",
            "action": "Nothing: the submission waits for its duel." })
    };
    let all = [stands("bob", "clear"), stands("ann", "duelling")];
    write("submissions.json", &json!({ "format": 1, "updated_at": updated_at, "submissions": all }));
    let (repository, pin) = text("bob");
    vec!["bob".into(), repository.clone(), format!("v7|{repository}|{pin}"), format!("v8|{repository}|{pin}")]
}

#[test]
fn a_submission_is_found_with_its_state_and_its_reason() {
    let place = tempfile::tempdir().expect("a folder");
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let names = published(place.path(), now);
    let status = |of: &str, more: &[&str]| {
        miner(place.path(), &[&["status", text(place.path()), of][..], more].concat())
    };
    let mut guide = Guide::read();
    for name in &names {
        let said = guide.check("miner status", &stdout(&status(name, &["--json"])));
        assert_eq!(said["submissions"].as_array().map(Vec::len), Some(1), "{name}: {said}");
        let one = &said["submissions"][0];
        assert_eq!(
            (&one["state"], &one["before"], &said["is_stale"]),
            (&json!("clear"), &json!(1), &json!(false))
        );
    }
    let said = stdout(&status("bob", &[]));
    assert!(said.contains("clear, 1 before it") && said.contains("Every screen passed it."), "{said}");
    let output = status("eve", &[]);
    assert_eq!(output.status.code(), Some(66));
    assert!(error(&output).contains("the validator knows no such submission"), "{}", error(&output));

    let old = tempfile::tempdir().expect("a folder");
    published(old.path(), 5);
    let output = miner(old.path(), &["status", text(old.path()), "bob"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the validator may have stopped"));
    let nothing = tempfile::tempdir().expect("a folder");
    let output = miner(nothing.path(), &["status", text(nothing.path()), "bob"]);
    assert_eq!(output.status.code(), Some(66));
    assert!(error(&output).contains("no validator publishes there"), "{}", error(&output));
}

/// The commands of a miner that need no chain.
const HERE: [&str; 4] = ["miner check", "miner pack", "miner upload", "miner status"];

#[test]
fn the_guides_commands_exist_with_their_options() {
    let guide = fs::read_to_string(root().join("docs/miner.md")).expect("the guide");
    let lines: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("$ albedo miner ")).collect();
    let mut seen = Vec::new();
    for line in lines {
        let name = line.split(' ').next().expect("a command");
        if !HERE.contains(&format!("miner {name}").as_str()) {
            continue;
        }
        seen.push(name);
        let help = stdout(&albedo(["miner", name, "--help"]));
        for option in line.split(' ').filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "{line}: {help}");
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, ["check", "pack", "status", "upload"]);

    let place = tempfile::tempdir().expect("a folder");
    let pages = place.path().join("man");
    stdout(&albedo(["man", text(&pages)]));
    let mut commands = commands_with_json(&pages);
    commands.retain(|command| HERE.contains(&command.as_str()));
    assert_eq!(commands.len(), HERE.len(), "{commands:?}");
}
