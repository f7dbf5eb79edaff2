//! The validator's screen `functional` and what it remembers: a copy of an earlier submission
//! whose weights look otherwise, and which answers word for word like it, is caught.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use albedo::Digest;
use albedo::chain::Hotkey;
use albedo::chains::local::LocalChain;
use albedo::validator::ledger::{Ledger, SubmissionRow};
use albedo::validator::table::{State, is_final};

use crate::altered::alter;
use crate::validator_kills::{prepare, start};

/// How often the competition is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Looks before the test gives up: five minutes.
const LOOKS: u32 = 6000;

/// Scales each neuron's way in by a power of two and its way out by the inverse: the model
/// says what it said, bit for bit.
fn disguise(path: &Path) {
    alter(path, |name, columns, numbers| {
        let power = |neuron: usize| 2.0_f32.powi((neuron % 5) as i32 - 2);
        for (at, number) in numbers.iter_mut().enumerate() {
            if name.contains("mlp.up_proj") {
                *number *= power(at / columns);
            } else if name.contains("mlp.down_proj") {
                *number /= power(at % columns);
            }
        }
    });
}

/// Puts amy's model, disguised, into the mirror as `gus/model`; gives the digest of its list.
fn upload(dir: &Path) -> Digest {
    let beside = dir.join("mirror/gus.part");
    fs::create_dir_all(&beside).expect("makes");
    for entry in fs::read_dir(dir.join("miners/amy")).expect("lists") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), beside.join(entry.file_name())).expect("copies");
    }
    disguise(&beside.join("model.safetensors"));
    let mut files: Vec<_> =
        fs::read_dir(&beside).expect("lists").map(|entry| entry.expect("an entry")).collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut sums = String::new();
    for file in files {
        let digest = Digest::of(fs::read(file.path()).expect("reads"));
        writeln!(sums, "{digest}  {}", file.file_name().to_string_lossy()).expect("writes");
    }
    let digest = Digest::of(&sums);
    fs::write(beside.join("SHA256SUMS"), sums).expect("writes");
    let place = dir.join("mirror/gus/model");
    fs::create_dir_all(&place).expect("makes");
    fs::rename(&beside, place.join(digest.to_string())).expect("moves");
    digest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_functional_copy_of_an_earlier_submission_is_caught() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("demo");
    prepare(&dir);
    let config = dir.join("validator.toml");
    let text = fs::read_to_string(&config).expect("reads");
    // Nothing looks at the weights.
    let begin = text.find("[[screens]]").expect("screens");
    let end = text.find("# A fixed number of samples").expect("their end");
    let screens = ["files", "architecture", "digest", "functional"];
    let screens = screens.map(|name| format!("[[screens]]\nname = \"{name}\"\n\n")).concat();
    let text = format!("{}{screens}{}", &text[..begin], &text[end..]);
    let neuron = "[[chain.neurons]]\nuid = 9\nhotkey = \"gus\"\ncoldkey = \"gus's owner\"\n\n";
    fs::write(&config, text.replace("# Who reigns first", &format!("{neuron}# Who reigns first")))
        .expect("writes");
    let digest = upload(&dir);
    let mut process = start(&dir);
    let mut has_committed = false;
    let mut found: Option<SubmissionRow> = None;
    for _ in 0..LOOKS {
        assert_eq!(process.try_wait().expect("asks"), None, "the competition has ended");
        if let Ok(ledger) = Ledger::read(&dir.join("state/ledger.sqlite")) {
            let rows = ledger.submissions().await.expect("read");
            let is_there = |name: &str| rows.iter().any(|row| row.hotkey.0 == name);
            if is_there("amy") && !has_committed {
                let chain = LocalChain::open(&dir.join("chain.sqlite")).expect("opens");
                let text = format!("v7|gus/model|sha256:{digest}");
                chain.commit(&Hotkey("gus".into()), &text, None).expect("commits");
                has_committed = true;
            }
            found = rows.into_iter().find(|row| row.hotkey.0 == "gus" && is_final(row.state));
            if found.is_some() {
                break;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    process.kill().expect("kills");
    process.wait().expect("ends");
    let gus = found.expect("gus has an outcome");
    assert_eq!(gus.state, State::Forfeit, "{}", gus.reason);
    assert!(gus.reason.contains("`functional` rejected it"), "{}", gus.reason);
    // The evidence says whose answers they are.
    let record =
        fs::read_to_string(dir.join(format!("state/forfeits/{}/record.jsonl", gus.id))).expect("a record");
    assert!(record.contains("amy v7|amy/model|"), "{record}");
}
