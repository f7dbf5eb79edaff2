//! Submissions that no backend can load: each gets its outcome, by its own bytes, whichever
//! screens there are, and holds up nobody.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use albedo::Digest;
use albedo::chain::Hotkey;
use albedo::chains::local::LocalChain;
use albedo::record::AnyRecord;
use albedo::validator::ledger::Ledger;
use albedo::validator::table::{State, is_final};

use crate::run::{command, demo};
use crate::validator::{folder, key, permit};

/// How long all outcomes may take, at most.
const PATIENCE: Duration = Duration::from_mins(5);

/// What a model's author does to one of its files.
type Breaks = fn(&mut Vec<u8>);

/// A configuration whose `what` is `with`.
fn replace(bytes: &mut Vec<u8>, what: &str, with: &str) {
    let text = String::from_utf8(bytes.clone()).expect("UTF-8");
    *bytes = text.replace(what, with).into_bytes();
    assert_ne!(*bytes, text.into_bytes(), "{what} is not there");
}

/// Every way, by the miner who tries it.
const WAYS: [(&str, &str, Breaks); 4] = [
    ("cut", "model.safetensors", |bytes| bytes.truncate(bytes.len() - 4)),
    ("empty", "model.safetensors", Vec::clear),
    ("other-shape", "config.json", |bytes| {
        replace(bytes, "\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7");
    }),
    ("unknown", "config.json", |bytes| replace(bytes, "Qwen3ForCausalLM", "Qwen9ForCausalLM")),
];

/// Puts `model`, with one file changed, into the mirror; gives the commitment to it.
fn hand_in(mirror: &Path, miner: &str, model: &Path, file: &str, breaks: Breaks) -> String {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(model).expect("lists") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        files.insert(name, fs::read(entry.path()).expect("reads"));
    }
    breaks(files.get_mut(file).expect("the model has it"));
    let sums = files.iter().map(|(name, bytes)| format!("{}  {name}\n", Digest::of(bytes)));
    let sums = sums.collect::<Vec<_>>().concat();
    let (pin, repository) = (Digest::of(&sums), format!("models/{miner}"));
    let folder = mirror.join(&repository).join(pin.to_string());
    fs::create_dir_all(&folder).expect("makes");
    for (name, bytes) in &files {
        fs::write(folder.join(name), bytes).expect("writes");
    }
    fs::write(folder.join("SHA256SUMS"), sums).expect("writes");
    format!("v7|{repository}|sha256:{pin}")
}

/// Runs a validator with `screens` until all who break their models and `honest` have an outcome:
/// theirs are forfeits, and the honest miner has a duel.
async fn outcomes(screens: &str, honest: Option<&str>) {
    let (folder, config) =
        folder(&format!("poll_ms = 50\n{screens}\n[duel]\nsamples = 4\nrule = {{ name = \"margin\" }}\n"));
    let dir = folder.path();
    key(dir);
    permit(&config);
    let miners: Vec<_> = WAYS.iter().map(|(miner, ..)| *miner).chain(honest).collect();
    let neurons = (2..).zip(&miners).map(|(uid, miner)| format!(", {{ uid = {uid}, hotkey = \"{miner}\" }}"));
    let text = fs::read_to_string(&config).expect("reads");
    let all = text.replace(" }] }", &format!(" }}{}] }}", neurons.collect::<String>()));
    assert_ne!(all, text);
    fs::write(&config, all).expect("writes");

    let mut validator = command(["validator", "run", "--config", config.to_str().expect("UTF-8")])
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let (ledger, chain) = (dir.join("state/ledger.sqlite"), dir.join("chain.sqlite"));
    let begun = Instant::now();
    let mut waits = async |what: &str| {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        assert_eq!(validator.try_wait().expect("asks"), None, "the validator ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let ledger = loop {
        match Ledger::read(&ledger) {
            Ok(ledger) if ledger.king().await.is_ok_and(|king| king.is_some()) => break ledger,
            _ => waits("the validator does not begin").await,
        }
    };
    let chain = LocalChain::open(&chain).expect("opens");
    let mirror = dir.join("mirror");
    for (miner, file, breaks) in WAYS {
        let text = hand_in(&mirror, miner, &demo().join("models/challenger"), file, breaks);
        chain.commit(&Hotkey(miner.into()), &text, None).expect("commits");
        chain.advance(1).expect("a block");
    }
    if let Some(honest) = honest {
        let text = hand_in(&mirror, honest, &demo().join("models/challenger"), "config.json", |_| {});
        chain.commit(&Hotkey(honest.into()), &text, None).expect("commits");
    }
    let rows = loop {
        chain.advance(1).expect("a block");
        let rows = ledger.submissions().await.expect("reads");
        if rows.len() == miners.len() && rows.iter().all(|row| is_final(row.state)) {
            break rows;
        }
        waits(&format!("not all have an outcome: {rows:#?}")).await;
    };
    validator.kill().expect("ends");
    validator.wait().expect("ended");
    for row in &rows {
        let is_honest = Some(row.hotkey.0.as_str()) == honest;
        let folder = if is_honest { "duels/1".into() } else { format!("forfeits/{}", row.id) };
        match AnyRecord::open(&dir.join("state").join(folder)).expect("a record") {
            AnyRecord::Forfeit(record) => {
                record.verify(row.record).expect("verifies");
                assert_eq!(row.state, State::Forfeit, "{row:?}");
            }
            AnyRecord::Duel(record) => {
                assert!(is_honest && Some(record.digest) == row.record, "{row:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_ends_by_its_own_bytes_whatever_screens_there_are() {
    outcomes("", None).await;
    outcomes("screens = []", Some("honest")).await;
}
