//! Bad input: one line with cause and remedy, and the documented exit code.

use std::fs;
use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{albedo, command, demo, error};

/// A folder under which copies of the demo's parts can be spoiled.
struct Copies(TempDir);

impl Copies {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn out(&self) -> String {
        self.0.path().join("out").to_str().expect("UTF-8").to_owned()
    }

    /// A copy of the demo's `part`.
    fn copy(&self, part: &str) -> PathBuf {
        let target = self.0.path().join(part.replace('/', "-"));
        copy(&demo().join(part), &target);
        target
    }
}

fn copy(source: &Path, target: &Path) {
    if source.is_dir() {
        fs::create_dir_all(target).expect("creates");
        for entry in fs::read_dir(source).expect("lists") {
            let name = entry.expect("lists").file_name();
            copy(&source.join(&name), &target.join(&name));
        }
    } else {
        fs::write(target, fs::read(source).expect("reads")).expect("writes");
    }
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).expect("reads")).expect("JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("writes");
}

/// `albedo duel --demo` with `arguments` fails with `code` and one line that
/// holds all of `expected`; no record is begun.
#[track_caller]
fn refused(copies: &Copies, arguments: &[&str], code: i32, expected: &[&str]) {
    let out = copies.out();
    let output = albedo(["duel", "--demo", "--out", &out].into_iter().chain(arguments.iter().copied()));
    let line = error(&output);
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert_eq!(String::from_utf8_lossy(&output.stderr).trim_end(), line, "there is one line");
    for expected in expected {
        assert!(line.contains(expected), "`{expected}` is not in: {line}");
    }
    assert!(!Path::new(&out).exists(), "nothing was begun");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_model_that_is_not_there() {
    refused(
        &Copies::new(),
        &["--king", "no/such/model"],
        66,
        &["no/such/model", "side: king", "check the path"],
    );
}

#[test]
fn weights_that_are_cut_short() {
    let copies = Copies::new();
    let model = copies.copy("models/challenger");
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).expect("reads");
    fs::write(&weights, &bytes[..bytes.len() / 2]).expect("writes");
    refused(&copies, &["--challenger", text(&model)], 65, &["model.safetensors", "side: challenger"]);
}

#[test]
fn weights_that_are_not_finite() {
    let copies = Copies::new();
    let model = copies.copy("models/king");
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("reads");
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&[0xc0, 0x7f]);
    fs::write(&weights, bytes).expect("writes");
    refused(&copies, &["--king", text(&model)], 65, &["is not finite: NaN at index", "the tensor `"]);
}

#[test]
fn a_model_of_another_architecture() {
    let copies = Copies::new();
    let model = copies.copy("models/challenger");
    edit_json(&model.join("config.json"), |config| config["architectures"] = json!(["LlamaForCausalLM"]));
    refused(
        &copies,
        &["--challenger", text(&model)],
        65,
        &["LlamaForCausalLM; supported is Qwen3ForCausalLM", "side: challenger"],
    );
}

#[test]
fn a_tokenizer_without_the_templates_tokens() {
    let copies = Copies::new();
    let model = copies.copy("models/king");
    edit_json(&model.join("tokenizer_config.json"), |config| {
        config["chat_template"] = json!("<|start_header|>{{ messages[0].content }}");
    });
    refused(&copies, &["--king", text(&model)], 65, &["`<|start_header|>`", "of the same model"]);
}

#[test]
fn a_manifest_of_another_digest() {
    let copies = Copies::new();
    let pack = copies.0.path().join("pack");
    fs::create_dir(&pack).expect("creates");
    let config = fs::read_to_string(demo().join("duel.toml")).expect("reads");
    let config =
        config.replace("ad79bf", "ad79be").replace("\"models/", &format!("\"{}/models/", text(&demo())));
    fs::write(pack.join("duel.toml"), config).expect("writes");
    copy(&demo().join("tasks"), &pack.join("tasks"));
    let output = albedo(["duel", "--config", text(&pack.join("duel.toml")), "--out", &copies.out()]);
    assert_eq!(output.status.code(), Some(65));
    assert!(error(&output).contains("manifest"), "{}", error(&output));
}

#[test]
fn a_shard_of_another_digest() {
    let copies = Copies::new();
    let tasks = copies.copy("tasks");
    let shard = tasks.join("data/train-00001.parquet");
    let mut bytes = fs::read(&shard).expect("reads");
    bytes[1000] ^= 1;
    fs::write(&shard, bytes).expect("writes");
    let out = copies.out();
    let output = albedo(["duel", "--demo", "--samples", "40", "--tasks", text(&tasks), "--out", &out]);
    assert_eq!(output.status.code(), Some(65), "{}", error(&output));
    assert!(error(&output).contains("train-00001.parquet"), "{}", error(&output));
}

#[test]
fn a_judge_that_nobody_knows() {
    refused(&Copies::new(), &["--judge", "protocl"], 78, &["`protocl`", "did you mean `protocol`?"]);
}

#[test]
fn a_rule_that_nobody_knows() {
    refused(&Copies::new(), &["--rule", "majority"], 78, &["`majority`", "margin-lcb"]);
}

#[test]
fn more_samples_than_tasks() {
    refused(&Copies::new(), &["--samples", "1000"], 78, &["fewer tasks than samples", "rows: 200"]);
    refused(&Copies::new(), &["--samples", "0"], 78, &["`samples` is 0"]);
}

#[test]
fn a_key_that_nobody_knows() {
    let copies = Copies::new();
    let path = copies.0.path().join("duel.toml");
    let config = fs::read_to_string(demo().join("duel.toml")).expect("reads");
    for (old, new, expected) in [
        ("samples = 64", "sampels = 64", "key: duel.sampels"),
        ("max_batch", "max_bach", "unknown key `max_bach`"),
        ("[king]", "[[king]]", "king"),
        ("seed = 0", "seed = ", "line: "),
    ] {
        assert!(config.contains(old));
        fs::write(&path, config.replace(old, new)).expect("writes");
        let output = albedo(["duel", "--config", text(&path), "--out", &copies.out()]);
        assert_eq!(output.status.code(), Some(78), "{}", error(&output));
        assert!(error(&output).contains(expected), "{}", error(&output));
    }
    let output = albedo(["duel", "--config", "no/such/file.toml"]);
    assert_eq!(output.status.code(), Some(66), "{}", error(&output));
    let output = albedo(["duel", "--config", "/dev/zero"]);
    assert_eq!(output.status.code(), Some(78), "{}", error(&output));
    let output = albedo(["duel"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_folder_that_holds_a_duel_already() {
    let copies = Copies::new();
    fs::create_dir(copies.out()).expect("creates");
    let journal = Path::new(&copies.out()).join("journal.jsonl");
    fs::write(&journal, "kept").expect("writes");
    let output = albedo(["duel", "--demo", "--out", &copies.out()]);
    assert_eq!(output.status.code(), Some(78));
    assert!(error(&output).contains("the folder already holds a duel"), "{}", error(&output));
    assert_eq!(fs::read_to_string(journal).expect("reads"), "kept");
}

#[test]
fn what_would_refuse_a_duel_at_its_end_refuses_it_before_models_are_loaded() {
    let copies = Copies::new();
    let taken = Path::new(&copies.out()).join("duel-2");
    fs::create_dir_all(&taken).expect("creates");
    fs::write(taken.join("journal.jsonl"), "kept").expect("writes");
    let config = copies.0.path().join("duel.toml");
    let text_of = fs::read_to_string(demo().join("duel.toml")).expect("reads");
    fs::write(&config, text_of.replace("models/king", "no/model")).expect("writes");
    let duel = ["duel", "--config", text(&config)];
    let output = albedo(duel.into_iter().chain(["--out", text(&taken)]));
    assert_eq!(output.status.code(), Some(78), "{}", error(&output));
    assert!(error(&output).contains("resume it, or choose another folder"), "{}", error(&output));

    let calibrate = ["calibrate", "--config", text(&config), "--temperature", "1", "--duels", "2"];
    let out = copies.out();
    let output = albedo(calibrate.into_iter().chain(["--out", &out]));
    let line = error(&output);
    assert_eq!(output.status.code(), Some(78), "{line}");
    assert!(line.contains("duel-2") && line.contains("a calibration begins anew"), "{line}");
    assert!(!Path::new(&out).join("duel-1").exists(), "nothing was begun");

    // So does a folder that cannot be written, also where `--out` does not name it.
    let elsewhere = copies.0.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("creates");
    let run = || command(duel).current_dir(&elsewhere).output().expect("albedo starts");
    assert!(!error(&run()).contains("begin the duel"), "{}", error(&run()));
    assert_eq!(fs::read_dir(&elsewhere).expect("lists").count(), 0, "nothing is left");
    fs::write(elsewhere.join("duels"), "").expect("writes");
    assert!(error(&run()).contains("failed to begin the duel"), "{}", error(&run()));
    #[cfg(target_os = "linux")]
    {
        let output = albedo(duel.into_iter().chain(["--out", "/proc"]));
        assert!(error(&output).contains("failed to begin the duel"), "{}", error(&output));
    }

    // So does a key that cannot be made.
    let mut command = command(duel);
    let output = command.env("XDG_STATE_HOME", "/dev/null/state").output().expect("albedo starts");
    assert!(error(&output).contains("the key of this user's journals"), "{}", error(&output));
    assert_eq!(fs::read_to_string(taken.join("journal.jsonl")).expect("reads"), "kept");
}

#[test]
fn a_mistake_leaves_no_file_of_events_in_the_way_of_the_corrected_command() {
    let copies = Copies::new();
    let [config, events] = ["duel.toml", "events.jsonl"].map(|name| copies.0.path().join(name));
    let check = || albedo(["config", "check", text(&config), "--events", text(&events)]);
    let right = fs::read_to_string(demo().join("duel.toml")).expect("reads");
    fs::write(&config, right.replace("samples = 64", "sampels = 64")).expect("writes");
    assert_eq!(check().status.code(), Some(78));
    fs::write(&config, right).expect("writes");
    // A command without events leaves an empty file, too.
    for _ in 0..2 {
        let checked = check();
        assert!(checked.status.success(), "{}", error(&checked));
    }
    fs::write(&events, "kept\n").expect("writes");
    let again = check();
    assert_eq!(again.status.code(), Some(78), "{}", error(&again));
    assert_eq!(fs::read_to_string(&events).expect("reads"), "kept\n");
}

#[test]
#[cfg(target_os = "linux")]
fn a_path_that_is_not_utf8_is_refused_as_a_setting_and_shown_otherwise() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let copies = Copies::new();
    let strange = |name: &[u8]| copies.0.path().join(OsStr::from_bytes(name));
    let run = |arguments: &[&str], path: &Path| {
        let mut command = command(arguments.iter().copied());
        command.arg(path).output().expect("albedo starts")
    };
    let chats = copies.0.path().join("chats.jsonl");
    fs::write(&chats, r#"[{"role":"user","content":"Which?"},{"role":"assistant","content":"ls"}]"#)
        .expect("writes");
    for arguments in [
        &["duel", "--demo", "--tasks"][..],
        &["duel", "--demo", "--king"],
        &["tasks", "make", text(&chats), "--out"],
    ] {
        let output = run(arguments, &strange(b"t\xff"));
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {}", error(&output));
        assert!(error(&output).contains("it is not UTF-8"), "{arguments:?}: {}", error(&output));
    }
    let shown = |output: &Output, key: &str| {
        let json: Value = serde_json::from_str(&crate::run::stdout(output)).expect("JSON");
        assert!(json[key].as_str().is_some_and(|path| path.contains('\u{FFFD}')), "{json}");
    };
    let (config, duel) = (strange(b"c\xff.toml"), strange(b"d\xff"));
    fs::copy(demo().join("duel.toml"), &config).expect("copies");
    shown(&run(&["config", "check", "--json"], &config), "file");
    let small =
        ["duel", "--demo", "--rule", "margin", "--samples", "2", "--judge", "protocol", "--json", "--out"];
    shown(&run(&small, &duel), "folder");
    let data = strange(b"e\xff");
    let mut export = command(["record", "export", "--json"]);
    shown(&export.arg(&duel).arg("--out").arg(&data).output().expect("albedo starts"), "out");
}

#[test]
fn a_demo_that_is_not_there_says_where_it_was_looked_for() {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let run = |pack: &Path| {
        let mut command = command(["duel", "--demo", "--judge", "nobody"]);
        command.current_dir(elsewhere.path()).env("ALBEDO_DEMO_DIR", pack);
        command.output().expect("albedo starts")
    };
    let lost = run(Path::new("nowhere"));
    assert_eq!(lost.status.code(), Some(66));
    assert!(error(&lost).contains("set ALBEDO_DEMO_DIR to the pack's folder"), "{}", error(&lost));
    let found = run(&demo());
    assert!(error(&found).contains("no judge named `nobody`"), "{}", error(&found));
}

#[test]
fn a_record_that_is_not_there() {
    let output = albedo(["record", "show", "examples"]);
    assert_eq!(output.status.code(), Some(66));
    assert!(error(&output).contains("record.digest"), "{}", error(&output));
}

#[test]
fn a_remote_model_that_cannot_be_reached() {
    let copies = Copies::new();
    let path = copies.0.path().join("duel.toml");
    let config = fs::read_to_string(demo().join("duel.toml")).expect("reads");
    let (before, after) = config.split_once("[backend]").expect("a backend");
    let after = after.split_once("\n[").expect("a table after it").1;
    let before = before.replace("path = \"models/", "name = \"");
    let after = after.replace("path = \"tasks\"", &format!("path = \"{}\"", text(&demo().join("tasks"))));
    for (backend, code, words) in [
        ("name = \"openai\"\npreset = \"chutes\"\nkey_env = \"ALBEDO_NO_KEY\"", 77, "ALBEDO_NO_KEY"),
        (
            "name = \"openai\"\nbase_url = \"http://127.0.0.1:9/v1\"",
            69,
            "check the server's address and the network",
        ),
        ("name = \"openai\"", 78, "`base_url` is missing"),
        (
            "name = \"routes\"\norder = [{ name = \"openai\", preset = \"chute\" }]",
            78,
            "unknown value `chute`",
        ),
        ("name = \"routes\"\norder = []", 78, "`order` names no backend"),
    ] {
        fs::write(&path, format!("{before}[backend]\n{backend}\n\n[{after}")).expect("writes");
        let output = albedo(["duel", "--config", text(&path), "--out", &copies.out()]);
        assert_eq!(output.status.code(), Some(code), "{}", error(&output));
        assert!(error(&output).contains(words), "{}", error(&output));
    }
}

#[test]
fn calibrating_under_greedy_sampling_is_refused() {
    let output = albedo(["calibrate", "--demo"]);
    let line = error(&output);
    assert_eq!(output.status.code(), Some(78), "{line}");
    assert!(line.contains("sampling is greedy") && line.contains("above 0"), "{line}");
}
