//! `albedo validator`: what is refused and how, before anything is run.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::run::{albedo, command, demo, error, stdout};

/// A configuration in a folder of its own, with `more` after it.
pub(crate) fn folder(more: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("validator.toml");
    let pack = demo();
    let text = format!(
        r#"
state = "state"
hotkey = "validator"
chain = {{ name = "local", path = "chain.sqlite", neurons = [{neurons}] }}
genesis = {{ path = '{king}' }}
tasks = {{ name = "parquet", path = '{tasks}' }}
judges = [{{ name = "protocol" }}]
hubs = [{{ name = "folder", path = "mirror" }}]
entry = {{ manifests = "folder" }}
log = {{ origin = "o", key = "log.pem" }}
publish = {{ to = "site" }}
{more}
"#,
        neurons = "{ uid = 0, hotkey = \"other\" }",
        king = pack.join("models/king").display(),
        tasks = pack.join("tasks").display(),
    );
    fs::write(&config, text).expect("writes");
    (folder, config)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Runs the validator, which is refused; gives its exit code and its last line.
fn refused(config: &Path) -> (Option<i32>, String) {
    let output = albedo(["validator", "run", "--config", text(config)]);
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), error(&output))
}

/// The key of the log of duels.
pub(crate) fn key(folder: &Path) {
    albedo::signer::KeyFile::from_seed(&[7; 32]).save_new(&folder.join("log.pem")).expect("a key");
}

#[test]
fn what_is_wrong_is_said_in_a_line_with_its_exit_code() {
    let (folder, config) = folder("");
    let (code, line) = refused(&config);
    assert_eq!(code, Some(77), "{line}");
    assert!(
        line.contains("there is no key for the log of duels") && line.contains("openssl genpkey"),
        "{line}"
    );

    key(folder.path());
    let (code, line) = refused(&config);
    assert_eq!(code, Some(77), "{line}");
    assert!(line.contains("the hotkey is not registered") && line.contains("validator"), "{line}");

    let ledger = folder.path().join("state/ledger.sqlite");
    let whole = fs::read(&ledger).expect("it was made");
    // `PRAGMA user_version`, in the header.
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(&ledger, &newer).expect("writes");
    let (code, line) = refused(&config);
    assert_eq!(code, Some(65), "{line}");
    assert!(line.contains("its format is 99") && line.contains("use the program that wrote it"), "{line}");
    assert_eq!(fs::read(&ledger).expect("reads"), newer, "untouched");
    fs::write(&ledger, &whole).expect("writes");

    // Another process works with it.
    let working = albedo::validator::ledger::Ledger::open(&ledger).expect("opens");
    let (code, line) = refused(&config);
    assert_eq!(code, Some(75), "{line}");
    assert!(line.contains("another validator works with it"), "{line}");
    let status: Value =
        serde_json::from_str(&stdout(&albedo(["validator", "status", "--config", text(&config), "--json"])))
            .expect("JSON");
    assert_eq!((&status["schema"], &status["frozen"]), (&Value::from(1), &Value::Null));
    drop(working);

    for (more, code, words) in [
        ("hotkeys = 1", 78, "unknown key `hotkeys`"),
        ("screens = [{ name = \"fils\" }]", 78, "key: screens[0]"),
        ("reign.alpha = 0.9", 78, "key: reign.alpha"),
        ("operate.listen = \"0.0.0.0:1\"", 78, "key: operate.listen"),
        ("operate.reserve_gb = 1000000000", 75, "less room than the reserve is free"),
    ] {
        let (_folder, config) = self::folder(more);
        let (found, line) = refused(&config);
        assert_eq!(found, Some(code), "{line}");
        assert!(line.contains(words), "{line}");
    }
    let (folder, config) = self::folder("");
    key(folder.path());
    let gone = fs::read_to_string(&config).expect("reads").replace("models/king", "models/none");
    fs::write(&config, gone).expect("writes");
    let (code, line) = refused(&config);
    assert_eq!(code, Some(66), "{line}");
    assert!(line.contains("models/none"), "{line}");
}

#[test]
fn commands_that_look_say_what_to_do_where_there_is_nothing() {
    let (_folder, config) = folder("");
    let output = albedo(["validator", "status", "--config", text(&config)]);
    assert_eq!(output.status.code(), Some(66));
    assert!(error(&output).contains("start the validator once"), "{}", error(&output));
}

#[test]
fn a_configuration_that_is_not_there_is_named_with_a_way_to_get_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = folder.path().join("no-such-file.toml");
    for command in [
        &["run"][..],
        &["status"],
        &["status", "--json"],
        &["queue"],
        &["history"],
        &["submission", "1"],
        &["retry", "1"],
        &["abandon", "1", "--reason", "x"],
        &["set-aside", "1", "--reason", "x"],
        &["unfreeze"],
        &["backup", "copy.sqlite"],
        &["doctor"],
    ] {
        let output = albedo([&["validator"][..], command, &["--config", text(&none)]].concat());
        let line = error(&output);
        assert_eq!(output.status.code(), Some(66), "{command:?}: {line}");
        assert!(
            line.contains("the configuration file does not exist") && line.contains(text(&none)),
            "{line}"
        );
        assert!(line.contains("`--config FILE`") && !line.contains("start the validator once"), "{line}");
    }
    let dir = folder.path().join("none");
    let output = albedo(["validator", "status", "--demo", "--dir", text(&dir)]);
    assert_eq!(output.status.code(), Some(66));
    assert!(error(&output).contains("albedo validator run --demo --dir"), "{}", error(&output));
}

/// Puts a ledger with a king, a lost duel and an open one into `folder`.
pub(crate) fn ledger(folder: &Path) {
    ledger_of(folder, "ledger-1.sql", "");
}

/// A ledger of a follower in `folder`, who follows the record of its one duel without an audit.
pub(crate) fn followers_ledger(folder: &Path) {
    ledger_of(folder, "ledger-4.sql", "UPDATE followed_records SET passed = 1;");
}

/// The ledger that the fixture `name` has, changed by the statements `then`.
fn ledger_of(folder: &Path, name: &str, then: &str) {
    let state = folder.join("state");
    fs::create_dir_all(&state).expect("makes");
    let path = state.join("ledger.sqlite");
    let made = rusqlite::Connection::open(&path).expect("opens");
    let fixtures = crate::run::root().join("src/validator/ledger/fixtures");
    let fixture = fs::read_to_string(fixtures.join(name)).expect("the fixture");
    made.execute_batch(&fixture).expect("the fixture is whole");
    made.execute_batch(then).expect("is changed");
    drop(made);
    // Brought to the newest format, as a validator does.
    drop(albedo::validator::ledger::Ledger::open(&path).expect("opens"));
}

#[test]
fn the_first_king_is_entered_once() {
    let (folder, config) = folder("");
    let named = fs::read_to_string(&config).expect("reads");
    let bare: Vec<_> = named.lines().filter(|line| !line.starts_with("genesis")).collect();
    let bare = bare.join("\n");
    fs::write(&config, &bare).expect("writes");
    key(folder.path());
    let (king, other) = (demo().join("models/king"), demo().join("models/challenger"));
    let genesis = |model: &Path, more: &[&str]| {
        albedo([&["validator", "genesis", text(model), "--config", text(&config)][..], more].concat())
    };
    let said = stdout(&genesis(&king, &[]));
    assert!(said.contains("would enter it"), "{said}");
    assert!(!folder.path().join("state").exists(), "a preview changes nothing");
    let (code, line) = refused(&config);
    assert_eq!(code, Some(78), "{line}");
    assert!(line.contains("there is no first king") && line.contains("albedo validator genesis"), "{line}");
    let became = |output: &std::process::Output| -> Value {
        serde_json::from_str::<Value>(&stdout(output)).expect("JSON")["became"].clone()
    };
    assert_eq!(became(&genesis(&king, &["--yes", "--json"])), "done");
    assert_eq!(became(&genesis(&king, &["--yes", "--json"])), "already");
    assert_eq!(became(&genesis(&king, &["--json"])), "already");
    for (model, code, words) in [
        (other.as_path(), 78, "the competition has another first king"),
        (Path::new("no-such-folder"), 66, "there is no such folder"),
        (Path::new("oci:owner/model@sha256:12"), 78, "sha256"),
    ] {
        let output = genesis(model, &["--yes"]);
        assert_eq!(output.status.code(), Some(code), "{}", error(&output));
        assert!(error(&output).contains(words), "{}", error(&output));
    }
    let hint = error(&genesis(&other, &[]));
    assert!(hint.contains("reset VERSION --genesis MODEL --reason TEXT --config"), "{hint}");
    // The configuration may repeat the ledger's king, and names no other.
    permit(&config);
    fs::write(
        &config,
        fs::read_to_string(&config).expect("reads") + &format!("\n[genesis]\npath = '{}'\n", other.display()),
    )
    .expect("writes");
    let (code, line) = refused(&config);
    assert_eq!(code, Some(78), "{line}");
    assert!(line.contains("another first king than the ledger has"), "{line}");
    assert!(line.contains("reset VERSION --genesis MODEL --reason TEXT"), "{line}");
}

#[test]
fn another_competition_begins_once_and_not_under_a_validator() {
    let (folder, config) = folder("");
    let another = demo().join("models/king");
    let reset = |more: &[&str]| {
        let fixed = ["validator", "reset", "--reason", "a larger model", "--config", text(&config)];
        albedo([&fixed[..], more].concat())
    };
    let output = reset(&["v8"]);
    assert_eq!(output.status.code(), Some(66), "{}", error(&output));
    assert!(error(&output).contains("albedo validator genesis"), "{}", error(&output));

    ledger(folder.path());
    let path = folder.path().join("state/ledger.sqlite");
    let json =
        |output: &std::process::Output| -> Value { serde_json::from_str(&stdout(output)).expect("JSON") };
    let preview = json(&reset(&["v8", "--json"]));
    assert_eq!((&preview["became"], &preview["set_aside"]), (&json!("preview"), &json!([3])), "{preview}");
    assert_eq!((&preview["abandoned"], &preview["reign"]), (&json!(1), &json!(2)), "{preview}");
    let said = stdout(&reset(&["v8"]));
    assert!(said.contains("would end") && said.contains("its share stays spent"), "{said}");
    let status =
        |key: &str| json(&albedo(["validator", "status", "--json", "--config", text(&config)]))[key].clone();
    assert_eq!(
        (&status("king")["id"], &status("submissions")["duelling"]),
        (&json!(2), &json!(1)),
        "nothing changed"
    );

    let working = albedo::validator::ledger::Ledger::open(&path).expect("opens");
    for more in [&["v8"][..], &["v8", "--yes"]] {
        let output = reset(more);
        assert_eq!(output.status.code(), Some(75), "{}", error(&output));
        assert!(error(&output).contains("another validator works with it"), "{}", error(&output));
    }
    drop(working);
    for (more, code, words) in [
        (&["v7", "--yes"][..], 78, "name `v8`"),
        (&["eight"], 2, "a version is `v` and a number"),
        (&["v8", "--genesis", "no-such-folder"], 66, "there is no such folder"),
    ] {
        let output = reset(more);
        assert_eq!(output.status.code(), Some(code), "{}", error(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{}", error(&output));
    }

    assert_eq!(json(&reset(&["v8", "--yes", "--json"]))["became"], "done");
    assert_eq!(json(&reset(&["v8", "--yes", "--json"]))["became"], "already");
    let king = status("king");
    assert_eq!((&king["id"], &king["hotkey"], &king["competition"]), (&json!(3), &Value::Null, &json!(2)));
    assert_eq!(king["model"]["folder"], text(&another));
    assert_eq!(status("competition")["version"], 8);
    assert_eq!(status("submissions"), json!({ "crowned": 1, "lost": 1, "set_aside": 1 }));
}

/// Registers the validator on the chain of the configuration, with a permit.
pub(crate) fn permit(config: &Path) {
    let text = fs::read_to_string(config).expect("reads");
    let neuron = "{ uid = 1, hotkey = \"validator\", validator_permit = true, stake = 1000 }";
    let permitted = text.replace("hotkey = \"other\" }", &format!("hotkey = \"other\" }}, {neuron}"));
    assert_ne!(permitted, text);
    fs::write(config, permitted).expect("writes");
    // A chain that was made without it is another one.
    let _ = fs::remove_file(config.with_file_name("chain.sqlite"));
}

#[test]
fn the_doctor_says_what_works_and_what_to_do_about_the_rest() {
    let (folder, config) = folder("");
    let doctor = || albedo(["validator", "doctor", "--config", text(&config), "--json"]);
    let checks = |said: &[u8]| -> Vec<(String, String, String)> {
        let said: Value = serde_json::from_slice(said).expect("JSON");
        let items = said["items"].as_array().expect("a list").clone();
        let word = |item: &Value, key: &str| item[key].as_str().expect("a word").to_owned();
        items.iter().map(|item| (word(item, "name"), word(item, "state"), word(item, "said"))).collect()
    };
    let output = doctor();
    assert_eq!(output.status.code(), Some(77), "the first that is bad: the key");
    let found = checks(&output.stdout);
    let bad: Vec<_> = found.iter().filter(|(_, state, _)| state == "bad").collect();
    let names: Vec<_> = bad.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["log key", "permit"], "{found:?}");
    assert!(bad[0].2.contains("openssl genpkey") && bad[1].2.contains("register the hotkey"), "{bad:?}");
    let made = ["state", "chain.sqlite"].map(|name| folder.path().join(name).exists());
    assert_eq!(made, [false; 2], "it changes nothing");

    key(folder.path());
    permit(&config);
    let output = doctor();
    let found = checks(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{found:?}");
    let well = found.iter().filter(|(_, state, _)| state == "well").count();
    assert_eq!((found.len(), well), (12, 10), "no ledger yet, and no webhook: {found:?}");
}

#[test]
fn an_operator_asks_beside_a_validator() {
    let (folder, config) = folder("");
    ledger(folder.path());
    let run = |arguments: &[&str]| albedo([&["validator"], arguments, &["--config", text(&config)]].concat());
    // Another process works with it, and may.
    let path = folder.path().join("state/ledger.sqlite");
    let _working = albedo::validator::ledger::Ledger::open(&path).expect("opens");
    let submission = stdout(&run(&["submission", "3", "--json"]));
    let submission: Value = serde_json::from_str(&submission).expect("JSON");
    assert_eq!(submission["items"][0]["submission"]["state"], json!("duelling"));
    assert!(stdout(&run(&["retry", "3"])).contains("looked at again"));
    assert!(stdout(&run(&["unfreeze"])).contains("nothing was frozen"));
    for (arguments, code, words) in [
        (&["abandon", "3", "--reason", "x"][..], 75, "it has not failed often enough"),
        (&["abandon", "1", "--reason", "x"], 66, "the submission has no open duel"),
        (&["set-aside", "3", "--reason", "x"], 75, "its duel is planned or runs"),
        (&["set-aside", "1", "--reason", "x"], 78, "it has its outcome"),
        (&["set-aside", "nobody", "--reason", "x"], 66, "there is no such submission"),
        (&["retry", "1"], 78, "it has its outcome"),
        (&["retry", "nobody"], 66, "there is no such submission"),
        // What a hint names is of the same validator.
        (&["submission", "nobody"], 66, "`albedo validator history --config"),
        (&["abandon", "1", "--reason", "x"], 66, "`albedo validator status --config"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", error(&output));
        assert!(error(&output).contains(words), "{}", error(&output));
    }
}

#[tokio::test]
async fn an_operator_sets_aside_what_can_never_be_fetched() {
    use albedo::chain::{DatedBy, Hotkey, Place};
    use albedo::validator::ledger::{Commit, Ledger};
    let (folder, config) = folder("");
    ledger(folder.path());
    let working = Ledger::open(&folder.path().join("state/ledger.sqlite")).expect("opens");
    let text_of = |name: &str| format!("v7|{name}/model|sha256:{}", "ab".repeat(32));
    let place = Place { block: 90, extrinsic: Some(0), dated_by: DatedBy::Commitment };
    let (hotkey, text_of_eve) = (Hotkey("eve".into()), text_of("eve"));
    let commit = Commit { hotkey, text: text_of_eve, place, readable_at: 90, witnessed: true };
    working.observe(vec![commit], 1).await.expect("observed");
    let run = |arguments: &[&str]| albedo([&["validator"], arguments, &["--config", text(&config)]].concat());
    let said = stdout(&run(&["set-aside", "eve", "--reason", "its project is private"]));
    assert!(said.contains("submission 4 is set aside before it is looked at again"), "{said}");
    // A validator at work moves it.
    let shown = stdout(&run(&["submission", "4", "--json"]));
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let row = &shown["items"][0]["submission"];
    assert_eq!((&row["state"], &row["set_aside"]), (&json!("seen"), &json!("its project is private")));
    let shown = stdout(&run(&["submission", "4"]));
    assert!(shown.split_whitespace().collect::<Vec<_>>().join(" ").contains("again: its project is private"));
}

/// What `path` answers at `address`: the status, and everything after the head.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").to_owned(), body.to_owned())
}

#[test]
fn those_who_watch_are_answered_and_a_signal_ends_it_well() {
    let (folder, config) = folder("operate.listen = \"127.0.0.1:0\"");
    key(folder.path());
    permit(&config);
    let mut child = command(["validator", "run", "--config", text(&config)])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let line =
        lines.find_map(|line| line.ok().filter(|line| line.contains("/metrics"))).expect("the address");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    assert_eq!(get(address, "/healthz"), ("200".into(), "{\"status\":\"ok\"}".into()));
    // Ready once the chain was followed to its head.
    while get(address, "/readyz").0 != "200" {
        std::thread::yield_now();
    }
    let (status, metrics) = get(address, "/metrics");
    assert_eq!(status, "200");
    for line in [
        "albedo_validator_submissions{state=\"seen\"} 0",
        "albedo_validator_king 1",
        "albedo_validator_frozen 0",
        "# HELP albedo_validator_alpha ",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    check_metrics(&metrics);
    let ended = Command::new("kill").arg(child.id().to_string()).status().expect("kill starts");
    assert!(ended.success());
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

/// Has Prometheus' own tool read the metrics, where it is installed.
#[expect(clippy::print_stdout, reason = "says what is skipped")]
fn check_metrics(metrics: &str) {
    let started = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut tool) = started else {
        println!("skipped: promtool is not installed");
        return;
    };
    tool.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("writes");
    assert!(tool.wait().expect("ends").success(), "promtool finds fault");
}
