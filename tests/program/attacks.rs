//! `docs/attacks.md`: the recipes that no other file tries, and that every test which it
//! names exists.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo::Message;
use albedo::prelude::*;
use albedo::testing::ScriptedSession;
use serde_json::{Value, json};

use crate::audit::{duel, models};
use crate::run::{albedo, demo, error, root, stdout};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A copy of the demo's challenger in `folder`.
fn challenger(folder: &Path) -> PathBuf {
    let copy = folder.join("challenger");
    fs::create_dir(&copy).expect("made");
    for entry in fs::read_dir(demo().join("models/challenger")).expect("lists") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), copy.join(entry.file_name())).expect("copied");
    }
    copy
}

#[test]
fn a_short_context_is_the_challengers_fault() {
    let place = tempfile::tempdir().expect("a folder");
    let model = challenger(place.path());
    let config = model.join("config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&config).expect("reads")).expect("JSON");
    settings["max_position_embeddings"] = json!(280);
    fs::write(&config, settings.to_string()).expect("writes");
    let out = place.path().join("duel");
    let refused = albedo(["duel", "--demo", "--challenger", text(&model), "--out", text(&out)]);
    assert_eq!(refused.status.code(), Some(65), "{}", error(&refused));
    let said = error(&refused);
    assert!(said.contains("the challenger's context is shorter than the duel's"), "{said}");
    assert!(!out.join("record.jsonl").exists());
}

/// The author invents the replies, so that they agree with judges and rule, and has the
/// configuration beside the record name a backend that repeats them.
#[tokio::test(flavor = "multi_thread")]
async fn invented_replies_are_not_reproduced_whatever_lies_beside_them() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join("duel");
    let [king, challenger] = models().await;
    let invented = |model: &Arc<dyn ModelSession>, text: &str| {
        let (counter, text) = (Arc::clone(model), text.to_owned());
        let session = ScriptedSession::saying("invented", &text).with_model(model.model().clone());
        let count = move |messages: &[Message]| counter.count_prompt_tokens(messages).expect("counts");
        Arc::new(session.counting(count)) as Arc<dyn ModelSession>
    };
    let sides = [invented(&king, "I am done."), invented(&challenger, "THOUGHT: look.\n\n```bash\nls\n```")];
    duel(&folder, sides).await;
    let saved = json!({ "config": {
        "king": { "path": "king" }, "challenger": { "path": "challenger" }, "judges": [],
        "tasks": { "name": "parquet", "path": demo().join("tasks") },
        "backend": { "name": "replay", "record": folder },
    }});
    fs::write(folder.join("duel.json"), saved.to_string()).expect("writes");

    let verify = |arguments: &[&str]| {
        albedo(["record", "verify", text(&folder)].into_iter().chain(arguments.iter().copied()))
    };
    stdout(&verify(&[]));
    assert_eq!(verify(&["--regenerate", "4"]).status.code(), Some(2), "with whose models?");
    let found = verify(&["--regenerate", "4", "--demo"]);
    assert_eq!(found.status.code(), Some(3), "{}", error(&found));
    let said = String::from_utf8_lossy(&found.stdout);
    assert_eq!(said.matches("not reproduced").count(), 5, "four replies and the claim: {said}");
}

/// All Rust sources of the repository.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("lists") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_the_table_names_exists() {
    let table = fs::read_to_string(root().join("docs/attacks.md")).expect("reads");
    let mut files = Vec::new();
    sources(root(), &mut files);
    let mut named = 0;
    for name in table.split('`').skip(1).step_by(2) {
        let Some((file, test)) = name.split_once("::") else { continue };
        named += 1;
        let found = files.iter().any(|path| {
            path.file_stem().is_some_and(|stem| stem == file)
                && fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("fn {test}(")))
        });
        assert!(found, "docs/attacks.md names {name}, which is no test");
    }
    assert!(named > 30, "{named} tests are named");
}
