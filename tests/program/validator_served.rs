//! The demo competition with its models on a server: the validator fetches and screens the
//! files, and `albedo serve` answers with the models. The server goes away in the first
//! duel, which costs nobody anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use albedo::record::{VerifyOptions, verify_chain, verify_record};
use albedo::validator::ledger::Ledger;
use albedo::{CallContext, Digest, Record};

use crate::serve_jobs::{Serving, port, settings};
use crate::validator_kills::{OUTCOMES, heads_on_chain, prepare, start};

/// Puts the files of `folder` into the mirror, with their list; gives the list's digest.
fn mirror(folder: &Path, repository: &Path) -> Digest {
    let entries = fs::read_dir(folder).expect("lists").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.collect();
    files.sort();
    let line = |file: &std::path::PathBuf| {
        let name = file.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        format!("{}  {name}\n", Digest::of(fs::read(file).expect("reads")))
    };
    let sums: String = files.iter().map(line).collect();
    let digest = Digest::of(&sums);
    let place = repository.join(digest.to_string());
    fs::create_dir_all(&place).expect("makes");
    for file in &files {
        fs::copy(file, place.join(file.file_name().expect("a name"))).expect("copies");
    }
    fs::write(place.join("SHA256SUMS"), sums).expect("writes");
    digest
}

#[tokio::test]
async fn a_competitions_models_may_run_on_a_server_that_goes_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("demo");
    prepare(&dir);
    let king = mirror(&dir.join("models/king"), &dir.join("mirror/king/model"));
    let server = folder.path().join("server");
    fs::create_dir(&server).expect("makes");
    let hubs = format!("hubs = [{{ name = \"folder\", path = {:?} }}]", dir.join("mirror"));
    settings(&server, port(), ["king", "challenger"], &hubs);
    let mut serving = Serving::start(&server);

    let config = dir.join("validator.toml");
    let local = fs::read_to_string(&config).expect("reads");
    let served = local
        .replace(
            "name = \"burn\"\nmax_batch = 32",
            &format!("name = \"serve\"\nurl = {:?}\npatience_secs = 5", serving.url),
        )
        .replace("path = \"models/king\"", &format!("ref = \"folder:king/model@sha256:{king}\""));
    assert!(served.contains("name = \"serve\"") && served.contains("ref = "), "{served}");
    fs::write(&config, served).expect("writes");
    let validator = start(&dir);
    let ledger = loop {
        if let Ok(ledger) = Ledger::read(&dir.join("state/ledger.sqlite")) {
            break ledger;
        }
        std::thread::yield_now();
    };
    while !ledger.open_duel().await.expect("read").is_some_and(|duel| duel.began) {
        std::thread::yield_now();
    }
    serving.kill();
    while ledger.open_duel().await.expect("read").is_some_and(|duel| duel.voids == 0) {
        std::thread::yield_now();
    }
    let _serving = Serving::start(&server);
    let ended = validator.wait_with_output().expect("ends");
    assert!(ended.status.success());

    let cx = CallContext::new();
    let rows = ledger.submissions().await.expect("read");
    let outcomes: BTreeMap<_, _> = rows
        .iter()
        .map(|row| (row.hotkey.0.as_str(), serde_json::to_value(row.state).expect("a name")))
        .collect();
    assert_eq!(outcomes, OUTCOMES.map(|(miner, outcome)| (miner, outcome.into())).into());
    let mut verified = Vec::new();
    let duels = ledger.duels().await.expect("read");
    assert_eq!(duels.iter().map(|duel| duel.attempt).collect::<Vec<_>>(), [1, 2], "a void is no attempt");
    assert!(duels[0].voids > 0 && duels[1].voids == 0, "{duels:?}");
    assert!(ledger.alerts().await.expect("read").is_empty(), "all is well again");
    for duel in duels {
        let record = Record::open(&dir.join(format!("state/duels/{}", duel.id))).expect("a record");
        verified.push(verify_record(&record, &VerifyOptions::default(), &cx).await.expect("verifies"));
    }
    verify_chain(&verified).expect("a chain");
    // A head of the log goes on chain at most once per epoch, which has 20 blocks here.
    let (_, anchors) = heads_on_chain(&dir).await;
    assert!(anchors.windows(2).all(|pair| pair[0].block + 20 <= pair[1].block), "{anchors:?}");
}
