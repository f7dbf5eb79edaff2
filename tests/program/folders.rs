//! Folders that somebody else made: what they may make the program do, which is
//! nothing, and what is found of them.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use albedo::record::Digests;
use albedo::{Digest, canonical_json};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{command, demo, error, stdout};

/// Changes the lines of the record in `folder`, hashes it anew, and gives its digest.
pub(crate) fn forge(folder: &Path, change: impl FnOnce(&mut Vec<Value>)) -> Digest {
    let lines = fs::read_to_string(folder.join("record.jsonl")).expect("reads");
    let mut lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    change(&mut lines);
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend(canonical_json(&line).expect("writes"));
        bytes.push(b'\n');
    }
    let blobs = Digest::of(fs::read(folder.join("record.blobs")).expect("reads"));
    let digests = Digests { format: albedo::record::FORMAT, lines: Digest::of(&bytes), blobs };
    fs::write(folder.join("record.jsonl"), bytes).expect("writes");
    fs::write(folder.join("record.digest"), digests.to_string()).expect("writes");
    digests.root()
}

/// A small duel in a folder, and a configuration that makes the same plan.
struct Made {
    place: TempDir,
    digest: String,
}

impl Made {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let quoted = |name: &str| format!("\"{}\"", demo().join(name).display());
        let config = fs::read_to_string(demo().join("duel.toml")).expect("the demo's configuration");
        let config = config
            .replace("\"models/king\"", &quoted("models/king"))
            .replace("\"models/challenger\"", &quoted("models/challenger"))
            .replace("\"tasks\"", &quoted("tasks"))
            .replace("samples = 64", "samples = 8\nrule = { name = \"margin\" }");
        fs::write(place.path().join("duel.toml"), config).expect("writes");
        let mut made = Self { place, digest: String::new() };
        let (config, folder) = (made.config(), made.folder());
        let output = made.run("owner", &["duel", "--json", "--config", &config, "--out", &folder]);
        let report: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
        report["record"].as_str().expect("a digest").clone_into(&mut made.digest);
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join("duel").join(name)
    }

    fn folder(&self) -> String {
        self.place.path().join("duel").to_str().expect("UTF-8").to_owned()
    }

    fn config(&self) -> String {
        self.place.path().join("duel.toml").to_str().expect("UTF-8").to_owned()
    }

    /// Runs the program as `user`.
    fn run(&self, user: &str, arguments: &[&str]) -> Output {
        let mut command = command(arguments.iter().copied());
        command.env("XDG_STATE_HOME", self.place.path().join(user)).output().expect("albedo starts")
    }

    fn resume(&self, user: &str, arguments: &[&str]) -> Output {
        let folder = self.folder();
        self.run(user, &[&["duel", "--json", "--resume", &folder][..], arguments].concat())
    }

    fn verify(&self, arguments: &[&str]) -> Output {
        let folder = self.folder();
        self.run("stranger", &[&["record", "verify", &folder][..], arguments].concat())
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("reads")
    }

    fn alter(&self, name: &str, change: impl Fn(String) -> String) {
        let before = self.read(name);
        let after = change(before.clone());
        assert_ne!(before, after, "nothing was altered");
        fs::write(self.path(name), after).expect("writes");
    }

    /// Changes the lines of the record, and hashes it anew.
    fn forge(&self, change: impl Fn(&mut Vec<Value>)) {
        forge(Path::new(&self.folder()), change);
    }

    /// Drops the record and what the journal has behind its first `lines` lines.
    fn interrupt(&self, lines: usize) {
        self.alter("journal.jsonl", |text| text.split_inclusive('\n').take(lines).collect());
        for name in ["record.jsonl", "record.blobs", "record.digest"] {
            fs::remove_file(self.path(name)).expect("was there");
        }
    }
}

fn report(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).expect("JSON")
}

/// A server that must not be asked, and a configuration that names it.
fn trap(made: &Made) -> TcpListener {
    let server = TcpListener::bind("127.0.0.1:0").expect("binds");
    server.set_nonblocking(true).expect("sets");
    let address = server.local_addr().expect("an address");
    let mut saved: Value = serde_json::from_str(&made.read("duel.json")).expect("JSON");
    saved["config"]["backend"] = json!({
        "name": "openai", "base_url": format!("http://{address}/v1"), "key_env": "HOME", "allow_plain_http": true,
    });
    fs::write(made.path("duel.json"), saved.to_string()).expect("writes");
    server
}

fn was_asked(server: &TcpListener) -> bool {
    server.accept().is_ok()
}

#[test]
fn what_lies_beside_a_record_is_never_run() {
    let made = Made::new();
    let server = trap(&made);
    for user in ["stranger", "owner"] {
        made.interrupt_once();
        let refused = made.resume(user, &[]);
        assert_eq!(refused.status.code(), Some(78), "{}", error(&refused));
        assert!(error(&refused).contains("give `--config FILE`"), "{}", error(&refused));
    }
    let refused = made.verify(&["--regenerate", "1"]);
    assert_eq!(refused.status.code(), Some(2), "{}", error(&refused));
    assert!(!was_asked(&server), "a key of the reader's was on its way to the folder's author");
}

impl Made {
    /// As [`Made::interrupt`] after ten lines, unless it was done.
    fn interrupt_once(&self) {
        if self.path("record.digest").exists() {
            self.interrupt(10);
        }
    }
}

#[test]
fn replies_are_generated_again_by_the_verifiers_own_means() {
    let made = Made::new();
    let server = trap(&made);
    let text = stdout(&made.verify(&["--regenerate", "3", "--demo"]));
    assert_eq!(text.matches(": reproduced, log-probabilities within 0.0000").count(), 3, "{text}");
    assert!(text.contains("generated again by burn "), "{text}");
    assert!(!was_asked(&server));
    // A reply whose text is the model's and whose finish reason is not.
    made.forge(|lines| {
        for line in lines.iter_mut().filter(|line| line["line"] == "reply") {
            line["reply"]["completed"]["finish"] = "unknown".into();
        }
    });
    let found = made.verify(&["--regenerate", "2", "--demo"]);
    assert_eq!(found.status.code(), Some(3));
    let text = String::from_utf8_lossy(&found.stdout);
    assert_eq!(text.matches("not reproduced: the text is the same").count(), 2, "{text}");
}

#[test]
fn a_verifier_works_out_what_it_can_and_says_what_it_cannot() {
    let made = Made::new();
    let text = stdout(&made.verify(&[]));
    for words in [
        "rule        margin (win_margin 2.0)",
        "terms       alpha 0.05, a duel by itself",
        "whose rule, sampler and panel behave as this build's",
        "recomputed   answers of protocol: 16 asked again, all the same",
        "recomputed   answers of reference-action: 16",
        "recomputed   answers of reference-likelihood: 16",
        "asserted     lengths of prompts: needs the king's tokenizer",
        "not covered  which record was published",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let king = demo().join("models/king");
    let (king, tasks) = (king.to_str().expect("UTF-8"), demo().join("tasks"));
    let tasks = tasks.to_str().expect("UTF-8");
    let text = stdout(&made.verify(&["--expect", &made.digest, "--tokenizer", king, "--tasks", tasks]));
    for words in ["attested     which record", "recomputed   lengths of prompts", "compared with the tasks"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let mine = |line: &Value| line["line"] == "draw" && line["outcome"] == "sample";
    made.forge(|lines| {
        let draw = lines.iter_mut().find(|line| mine(line)).expect("a draw");
        draw["prompt_tokens"] = (draw["prompt_tokens"].as_u64().expect("counted") + 1).into();
    });
    stdout(&made.verify(&[]));
    let found = made.verify(&["--tokenizer", king]);
    assert_eq!(found.status.code(), Some(65));
    assert!(error(&found).contains("another number of tokens"), "{}", error(&found));
}

#[test]
fn what_an_offline_judge_did_not_say_is_found() {
    let of = |judge: u64| move |line: &&mut Value| line["line"] == "assessment" && line["judge"] == judge;
    let made = Made::new();
    let whole = made.read("record.jsonl");
    // The likelihood's scores follow from recorded log-probabilities.
    for forged in 0..3 {
        made.forge(|lines| match forged {
            0 => {
                let mut answers = lines.iter_mut().filter(of(0));
                answers.next().expect("an answer")["answer"]["answered"]["rationale"] = "because".into();
            }
            1 => {
                let scores = lines
                    .iter_mut()
                    .filter(|line| line["line"] == "reply")
                    .map(|line| &mut line["reply"]["completed"]["reference_scores"]["log_probs"]);
                for scores in scores {
                    *scores = json!([-0.5]);
                }
            }
            _ => {
                // Another judge's words, built from other settings.
                let offline = &mut lines[1]["plan"]["judges"][0]["offline"];
                offline["settings"]["required_parts"] = json!([]);
            }
        });
        let found = made.verify(&[]);
        assert_eq!(found.status.code(), Some(65), "{}", String::from_utf8_lossy(&found.stdout));
        let words = ["the judge, asked again", "the judge, asked again", "settings do not have the digest"];
        assert!(error(&found).contains(words[forged]), "{}", error(&found));
        fs::write(made.path("record.jsonl"), &whole).expect("writes");
    }
}

#[test]
fn a_record_that_is_gone_is_made_again() {
    let made = Made::new();
    let files = ["record.jsonl", "record.blobs", "record.digest"].map(|name| (name, made.read(name)));
    for (name, _) in &files {
        fs::remove_file(made.path(name)).expect("was there");
    }
    assert_eq!(report(&made.resume("owner", &[]))["record"], made.digest);
    for (name, text) in files {
        assert_eq!(made.read(name), text);
    }
}

#[test]
fn an_altered_journal_is_nobodys() {
    let made = Made::new();
    made.interrupt(30);
    made.alter("journal.jsonl", |text| text.replacen("\"correctness\":0.", "\"correctness\":0.1", 1));
    let refused = made.resume("owner", &[]);
    assert_eq!(refused.status.code(), Some(78), "{}", error(&refused));
    assert!(error(&refused).contains("first such line of its journal: "), "{}", error(&refused));
}

#[test]
fn a_strangers_duel_is_gone_on_with_by_a_configuration_of_ones_own() {
    let made = Made::new();
    made.interrupt(20);
    let config = made.config();
    let other = made.place.path().join("other.toml");
    let text = fs::read_to_string(&config).expect("reads").replace("seed = 0", "seed = 1");
    fs::write(&other, text).expect("writes");
    let journal = made.read("journal.jsonl");
    let refused = made.resume("stranger", &["--config", other.to_str().expect("UTF-8")]);
    assert_eq!(refused.status.code(), Some(78));
    assert!(error(&refused).contains("they differ in: seed"), "{}", error(&refused));
    assert_eq!(made.read("journal.jsonl"), journal, "nothing was written");

    let resumed = report(&made.resume("stranger", &["--config", &config]));
    assert_ne!(resumed["record"], made.digest, "the record says that nothing vouches for its journal");
    assert!(made.read("record.jsonl").contains("\"unchained\":true"));
    assert!(stdout(&made.verify(&[])).contains("a run went on from a journal that no key vouched for"));
    // It is this user's now.
    assert_eq!(report(&made.resume("stranger", &[]))["record"], resumed["record"]);
    let refused = made.resume("owner", &[]);
    assert_eq!(refused.status.code(), Some(78), "{}", error(&refused));
}

#[test]
fn a_folder_with_a_configuration_and_no_journal_is_begun() {
    let made = Made::new();
    for name in ["journal.jsonl", "journal.blobs", "record.jsonl", "record.blobs", "record.digest"] {
        fs::remove_file(made.path(name)).expect("was there");
    }
    assert_eq!(report(&made.resume("owner", &[]))["record"], made.digest);
    let again = made.run("owner", &["duel", "--config", &made.config(), "--out", &made.folder()]);
    assert_eq!(again.status.code(), Some(78));
    assert!(error(&again).contains("already holds a duel"), "{}", error(&again));
}

#[test]
#[cfg(unix)]
fn pipes_devices_and_endless_lines_are_refused() {
    let made = Made::new();
    let refused = |path: &Path| {
        for arguments in [["record", "show"], ["record", "verify"]] {
            let folder = made.folder();
            let refused = made.run("stranger", &[arguments[0], arguments[1], &folder]);
            assert_eq!(refused.status.code(), Some(65), "{}: {}", path.display(), error(&refused));
        }
    };
    for name in ["record.digest", "record.blobs", "record.jsonl"] {
        let (path, whole) = (made.path(name), made.read(name));
        fs::remove_file(&path).expect("was there");
        std::os::unix::fs::symlink("/dev/zero", &path).expect("links");
        refused(&path);
        fs::remove_file(&path).expect("was there");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("runs").success());
        refused(&path);
        fs::remove_file(&path).expect("was there");
        // Two gigabytes of nothing, which take no room.
        fs::File::create(&path).and_then(|file| file.set_len(2 << 30)).expect("creates");
        refused(&path);
        fs::write(&path, whole).expect("writes");
    }
}
