//! The commands about chains and keys, as their users meet them. What they do to
//! a chain is tested in `albedo-chain`, before a node.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use albedo::chain::{BlockHash, ChainClient, MechanismId, NetUid};
use albedo::chains::journal::ChainJournal;
use albedo::chains::subtensor::{Subtensor, SubtensorConfig};
use albedo::chains::testnode::{Pace, TestNeuron, TestNode, TestSubnet, metadata};
use albedo::chains::wallet::{Keypair, Phrase};
use albedo::weights::{Share, WeightJournal, WeightKey, WeightVector};
use albedo::{CallContext, Scheme, Signer};
use serde_json::{Value, json};

use crate::machine_guide::{Guide, commands_with_json};

#[cfg(unix)]
#[path = "program/interrupted.rs"]
mod interrupted;
#[path = "program/machine_guide.rs"]
mod machine_guide;

/// Substrate's development phrase, known to everybody.
const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

const ADDRESS: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_albedo"));
    command.current_dir(folder).env_remove("BT_WALLET_PATH").args(arguments);
    command
}

fn albedo(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = command(folder, arguments)
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
    for password in [["--password-file", "p"], ["--password-env", "P"]] {
        let both = wallet("create", &[&["--plain", "--hotkey", "d"][..], &password].concat(), "");
        assert_eq!(both.status.code(), Some(2), "{}", String::from_utf8_lossy(&both.stderr));
    }
}

#[test]
fn a_key_is_not_written_whose_phrase_is_not_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let wallet = |command: &str, name: &str, input: &str| {
        let common = ["wallet", command, "--wallet-path", "w", "--wallet", "m", "--plain", "--hotkey", name];
        albedo(folder.path(), &common, input)
    };
    stdout(&wallet("create", "other", ""));
    let hotkeys = folder.path().join("w/m/hotkeys");
    std::fs::copy(hotkeys.join("otherpub.txt"), hotkeys.join("hotpub.txt")).expect("copies");
    let (code, said) = failure(&wallet("create", "hot", ""));
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("hotpub.txt") && said.contains("move the file away"), "{said}");
    assert!(!hotkeys.join("hot").exists(), "no secret");
    std::fs::remove_file(hotkeys.join("hotpub.txt")).expect("removes");
    // A damaged secret is moved away and made again, beside its public file.
    stdout(&wallet("regenerate", "hot", &format!("{PHRASE}\n")));
    std::fs::rename(hotkeys.join("hot"), folder.path().join("damaged")).expect("moves");
    stdout(&wallet("regenerate", "hot", &format!("{PHRASE}\n")));
    assert!(hotkeys.join("hot").is_file());
}

#[cfg(unix)]
#[test]
fn one_interrupt_at_a_question_or_a_password_ends_the_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let wallet = ["--wallet-path", "w", "--wallet", "m"];
    let key = [&["wallet", "regenerate", "--plain", "--hotkey", "default"][..], &wallet].concat();
    stdout(&albedo(folder.path(), &key, &format!("{PHRASE}\n")));
    let text = format!("v7|a/b|{}", "0f".repeat(20));
    let commit = [&["miner", "commit", &text, "--journal", "j.sqlite"][..], &wallet].concat();
    let asked = interrupted::interrupted_at(&command(folder.path(), &commit), "go on? [y/N] ");
    let Some((code, shown)) = asked else { return };
    assert_eq!(code, Some(130), "{shown}");
    assert!(!shown.contains("once more to stop"), "{shown}");
    assert!(!folder.path().join("j.sqlite").exists());
    let create = [&["wallet", "create"][..], &wallet].concat();
    let asked = interrupted::interrupted_at(&command(folder.path(), &create), "password of the new key: ");
    let (code, shown) = asked.expect("Python is here");
    assert_eq!(code, Some(130), "{shown}");
    assert!(!folder.path().join("w/m/coldkey").exists());
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

/// The subnet of the tests' node.
const NETUID: u16 = 97;

/// A node with one validator, whose key is `PHRASE`'s.
async fn node(validator: &Keypair) -> TestNode {
    let neuron = TestNeuron {
        hotkey: validator.public_key(),
        coldkey: validator.public_key(),
        registered_at: 0,
        validator_permit: true,
        stake: 1_000,
        last_update: 0,
    };
    let subnet = TestSubnet { commit_reveal: false, neurons: vec![neuron], ..TestSubnet::new(NETUID) };
    let node = TestNode::start(&metadata::newest(), 2, subnet).await;
    node.set_pace(Pace::Instant);
    node.produce(200);
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_is_capped_in_words_only_where_it_is_capped() {
    let folder = tempfile::tempdir().expect("a folder");
    let wallet = ["--wallet-path", "w", "--wallet", "m"];
    let key = [&["wallet", "create", "--plain", "--hotkey", "default"][..], &wallet].concat();
    stdout(&albedo(folder.path(), &key, ""));
    for (metadata, spec, most) in [
        (metadata::newest(), 2, "; no more than that"),
        (metadata::oldest(), 1, "; the price may rise until it is in a block"),
    ] {
        let node = TestNode::start(&metadata, spec, TestSubnet::new(NETUID)).await;
        let (endpoint, genesis) = (node.endpoint(), format!("genesis={}", BlockHash(node.genesis())));
        let at = ["--journal", "j.sqlite", "--endpoint", &endpoint, "--set", &genesis];
        let output = albedo(folder.path(), &[&["miner", "register"][..], &wallet, &at].concat(), "");
        let (code, said) = failure(&output);
        assert_eq!(code, 78, "{said}");
        let preview = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(preview.contains(most), "{preview}");
    }
}

/// Sets weights for the validator itself, and misses the epoch before.
async fn set_weights(node: &TestNode, validator: Keypair, journal: &Path) {
    let journal = ChainJournal::open(journal).expect("opens");
    let config = SubtensorConfig {
        endpoints: vec![node.endpoint()],
        genesis: BlockHash(node.genesis()).to_string(),
        ..SubtensorConfig::default()
    };
    let hotkey = validator.hotkey();
    let client = Subtensor::new(&config)
        .expect("good settings")
        .with_journal(journal.clone(), node.beacon(), Duration::from_millis(2))
        .with_signer(Arc::new(validator));
    let cx = CallContext::new();
    let head = client.head(&cx).await.expect("a head");
    let epoch = client.subnet(NetUid(NETUID), &head, &cx).await.expect("read").epoch;
    let uid = client.metagraph(NetUid(NETUID), &head, &cx).await.expect("read").neurons[0].uid;
    let genesis = client.genesis(&cx).await.expect("known");
    let (netuid, mechanism) = (NetUid(NETUID), MechanismId(0));
    let key = WeightKey { genesis, netuid, mechanism, epoch, hotkey: hotkey.clone() };
    let missed = WeightKey { epoch: epoch - 1, ..key.clone() };
    journal.miss(&missed, "the process was not running").await.expect("records");
    let shares = vec![Share { uid, hotkey, weight: u16::MAX }];
    let cleared = WeightJournal::new(journal).clear(WeightVector { key, version_key: 0, shares }).await;
    client.set_weights(cleared.expect("cleared"), &cx).await.expect("sets");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_prints_what_the_guide_documents() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path();
    let mut guide = Guide::read();
    stdout(&albedo(folder, &["man", "man"], ""));
    // The miner's other commands need no chain: `tests/program/miner.rs`.
    let of_miners = ["miner register", "miner commit", "miner commits"];
    let is_here = |command: &str| {
        ["chain ", "wallet "].iter().any(|group| command.starts_with(group)) || of_miners.contains(&command)
    };
    let mut commands = commands_with_json(&folder.join("man"));
    let mut documented = guide.commands();
    commands.retain(|command| is_here(command));
    documented.retain(|command| is_here(command));
    assert_eq!(commands, documented, "commands with `--json`, and those that docs/machine-output.md has");

    let wallet = ["--wallet-path", "w", "--wallet", "m"];
    let plain = |command: &str, more: &[&str], input: &str| {
        let arguments = [&["wallet", command, "--plain"][..], &wallet, more].concat();
        stdout(&albedo(folder, &arguments, input));
    };
    plain("regenerate", &[], &format!("{PHRASE}\n"));
    plain("create", &["--hotkey", "default"], "");
    let validator = || Keypair::from_phrase(&Phrase::new(PHRASE), Scheme::Sr25519).expect("a key");
    let node = node(&validator()).await;
    let (endpoint, genesis) = (node.endpoint(), format!("genesis={}", BlockHash(node.genesis())));
    let at = ["--endpoint", &endpoint, "--set", &genesis];
    let mut prints = |title: &str, more: &[&str]| {
        let command: Vec<_> = title.split(' ').collect();
        let output = albedo(folder, &[&command[..], more, &["--json"]].concat(), "");
        guide.check(title, &stdout(&output))
    };
    let inspected = prints("wallet inspect", &wallet);
    assert_eq!(inspected["hotkeys"].as_array().map(Vec::len), Some(1), "{inspected}");
    let writing = [&wallet[..], &at, &["--set", "poll_ms=2", "--journal", "j.sqlite", "--yes"]].concat();
    let registered = prints("miner register", &writing);
    let submission = format!("v7|a/b|{}", "0f".repeat(20));
    let committing = [&writing[..], &["--plain", &submission]].concat();
    let committed = prints("miner commit", &committing);
    // Again: what is done is said, and nothing is signed.
    let again = prints("miner register", &writing);
    assert_eq!((&again["block"], &again["cost"]), (&registered["block"], &json!(0)), "{again}");
    assert_eq!(prints("miner commit", &committing), committed);
    let calls: Vec<_> = node.landed().into_iter().map(|landed| landed.call).collect();
    assert_eq!(calls, ["register_limit", "set_commitment"]);
    // The public file is none of these commands' business where the secret is plain.
    std::fs::remove_file(folder.join("w/m/hotkeys/defaultpub.txt")).expect("removes");
    assert_eq!(prints("miner register", &writing)["block"], registered["block"]);
    let commits = prints("miner commits", &[&wallet[..], &at].concat());
    assert_eq!(commits["reveals"][0]["content"]["text"], submission.as_str(), "{commits}");

    set_weights(&node, validator(), &folder.join("weights.sqlite")).await;
    for title in ["chain head", "chain hyperparameters", "chain metagraph"] {
        prints(title, &at);
    }
    let reveals = prints("chain reveals", &at);
    assert_eq!(reveals["reveals"][0]["submission"]["repository"], "a/b", "{reveals}");
    let weights = prints("chain weights", &at);
    assert_eq!(weights["rows"].as_array().map(Vec::len), Some(1), "{weights}");
    let epochs = prints("chain epochs", &["--journal", "weights.sqlite"]);
    assert_eq!(epochs["items"].as_array().map(Vec::len), Some(2), "{epochs}");
    assert_eq!(guide.unchecked(is_here), [""; 0], "documented, and compared with nothing");
}
