//! The commands about chains and keys, as their users meet them. What they do to
//! a chain is tested in `albedo-chain`, before a node.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Substrate's development phrase, known to everybody.
const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

const ADDRESS: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";

fn albedo(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_albedo"))
        .current_dir(folder)
        .env_remove("BT_WALLET_PATH")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("albedo starts");
    // A program that fails early does not read it.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("albedo ends")
}

fn stdout(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {errors}", output.status);
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

/// The exit code and the last line of standard error.
fn failure(output: &Output) -> (i32, String) {
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().last().unwrap_or_default().to_owned();
    (output.status.code().expect("it was not killed"), last)
}

#[test]
fn a_wallet_is_made_shown_and_never_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let wallet = |command: &str, more: &[&str], input: &str| {
        let common = ["wallet", command, "--wallet-path", "wallets", "--wallet", "mine"];
        albedo(folder.path(), &[&common[..], more].concat(), input)
    };
    let regenerated = stdout(&wallet("regenerate", &["--plain"], &format!("{PHRASE}\n")));
    assert!(regenerated.contains(ADDRESS) && !regenerated.contains("bottom"), "{regenerated}");
    let created = stdout(&wallet("create", &["--plain", "--hotkey", "hot"], ""));
    let phrase = created.lines().find_map(|line| line.strip_prefix("phrase ")).expect("the phrase, once");
    assert_eq!(phrase.split_whitespace().count(), 12);
    let shown: Value = serde_json::from_str(&stdout(&wallet("inspect", &["--json"], ""))).expect("JSON");
    assert_eq!(shown["coldkey"]["address"], ADDRESS);
    assert_eq!(shown["hotkeys"][0]["name"], "hot");
    let (code, said) = failure(&wallet("create", &["--plain"], ""));
    assert_eq!(code, 78);
    assert!(said.contains("never overwritten"), "{said}");
    let (code, said) = failure(&wallet("regenerate", &["--plain", "--hotkey", "b"], "bottom drive\n"));
    assert_eq!(code, 65);
    assert!(said.contains("2 words") && !said.contains("bottom"), "{said}");
    let (code, said) = failure(&wallet("create", &["--hotkey", "c"], "one\nanother\n"));
    assert_eq!(code, 78);
    assert!(said.contains("the passwords differ"), "{said}");
}

#[test]
fn a_local_chain_is_looked_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let neurons = r#"neurons=[{"uid": 0, "hotkey": "miner"}, {"uid": 1, "hotkey": "validator", "validator_permit": true}]"#;
    let submitted = format!("v7|a/b|{}", "0f".repeat(20));
    let reveals = format!(
        r#"reveals=[{{"hotkey": "miner", "block": 1, "payload": "v7|a/b|main"}},
                    {{"hotkey": "validator", "block": 1, "payload": "{submitted}"}}]"#
    );
    let chain = |command: &str, more: &[&str]| {
        let common = [
            "chain",
            command,
            "--chain",
            "local",
            "--set",
            "path=chain.sqlite",
            "--set",
            neurons,
            "--set",
            &reveals,
        ];
        albedo(folder.path(), &[&common[..], more].concat(), "")
    };
    assert!(stdout(&chain("head", &[])).starts_with("1 0x"));
    let table: Value = serde_json::from_str(&stdout(&chain("metagraph", &["--json"]))).expect("JSON");
    assert_eq!(table["neurons"][1]["hotkey"], "validator");
    assert!(stdout(&chain("hyperparameters", &[])).contains("tempo"));
    assert_eq!(stdout(&chain("weights", &[])), "");
    let list = stdout(&chain("reveals", &["--json", "--ledger", "ledger.sqlite"]));
    // What `albedo log verify --reveals` reads of it.
    let revealed = albedo::log::Revealed::read(list.as_bytes()).expect("a list of reveals");
    let [albedo::log::Revealed { submission, block }] = &*revealed else { panic!("{revealed:?}") };
    assert_eq!((submission.hotkey.as_str(), *block), ("validator", Some(1)));
    assert_eq!(format!("v7|{}|{}", submission.repository, submission.pin), submitted);
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list["reveals"][0]["content"]["text"], "v7|a/b|main");
    assert!(list["reveals"][0]["refusal"].as_str().is_some_and(|reason| reason.contains("pin")), "{list}");
    let (code, said) = failure(&chain("metagraph", &["--netuid", "5"]));
    assert_eq!(code, 66);
    assert!(said.contains("no such subnet"), "{said}");
    let (code, said) = failure(&chain("head", &["--block", "9"]));
    assert_eq!(code, 66);
    assert!(said.contains("not final yet"), "{said}");
}

#[test]
fn what_would_be_signed_is_checked_and_asked_about_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let key =
        ["wallet", "regenerate", "--wallet-path", "w", "--wallet", "m", "--plain", "--hotkey", "default"];
    stdout(&albedo(folder.path(), &key, &format!("{PHRASE}\n")));
    let commit = |text: &str| {
        let common = ["miner", "commit", "--wallet-path", "w", "--wallet", "m", "--journal", "j.sqlite"];
        albedo(folder.path(), &[&common[..], &["--endpoint", "ws://127.0.0.1:1", text]].concat(), "")
    };
    let (code, said) = failure(&commit("v7|a/b|main"));
    assert_eq!(code, 65);
    assert!(said.contains("no full git revision"), "{said}");
    let output = commit(&format!("v7|a/b|{}", "0f".repeat(20)));
    let (code, said) = failure(&output);
    assert_eq!(code, 78);
    assert!(said.contains("--yes"), "{said}");
    let preview = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(preview.contains("hidden for 3 blocks") && preview.contains(ADDRESS), "{preview}");
}

#[test]
fn both_clients_are_listed() {
    let listed = stdout(&albedo(Path::new("."), &["plugins"], ""));
    for name in ["chain local\n", "chain subtensor\n"] {
        assert!(listed.contains(name), "{listed}");
    }
}
