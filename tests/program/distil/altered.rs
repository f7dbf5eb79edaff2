//! What `albedo distil verify` finds in a folder that was altered.

use std::fs;

use albedo::distil::{ClosedGate, DistilRecord, GateDuel, GatePlan, GateReport, State};
use albedo::{Digest, Finding, ScreenStage};
use serde_json::json;

use super::{Place, failed};
use crate::run::{albedo, stdout};

/// What is said of the record in `out` once `change` is made, in a form that albedo writes.
fn altered(place: &Place, out: &str, change: &dyn Fn(&mut DistilRecord)) -> (i32, String) {
    let path = place.path(out).join("distil.json");
    let text = fs::read_to_string(&path).expect("reads");
    let mut record: DistilRecord = serde_json::from_str(&text).expect("a record");
    change(&mut record);
    let changed = serde_json::to_string_pretty(&record).expect("JSON") + "\n";
    assert_ne!(changed, text, "something is changed");
    fs::write(&path, changed).expect("writes");
    let found = failed(&albedo(["distil", "verify", &place.text(out)]));
    fs::write(&path, text).expect("writes");
    found
}

fn gate(record: &mut DistilRecord) -> &mut GateReport {
    record.gate.as_mut().expect("a gate")
}

fn duel(record: &mut DistilRecord) -> &mut GateDuel {
    gate(record).duel.as_mut().expect("a duel")
}

fn planned(record: &mut DistilRecord) -> &mut ClosedGate {
    match &mut record.plan.gate {
        GatePlan::Closed(gate) => gate,
        GatePlan::Open(_) => unreachable!("the plan has a gate"),
    }
}

/// Alters what the records in `won`, whose gate was passed, and `lost` say of their gates.
pub(super) fn gates_are_compared(place: &Place, won: &str, lost: &str) {
    type Change = fn(&mut DistilRecord);
    let changes: [(Change, &str); 9] = [
        (|record| duel(record).margin = 55.5, "ended otherwise"),
        (|record| duel(record).samples = 128, "ended otherwise"),
        (|record| duel(record).record = None, "ended otherwise"),
        (|record| gate(record).evidence = "it is better".into(), "sentence"),
        (
            |record| gate(record).findings[0].finding = Finding::Unverified(json!({})),
            "a screen did not let it",
        ),
        (
            |record| planned(record).settings = Some(Digest::of("an easier rule")),
            "other settings than the plan",
        ),
        (
            |record| (planned(record).settings, planned(record).samples) = (None, Some(128)),
            "other settings than the plan",
        ),
        (|record| planned(record).judges = vec!["another".into()], "or other judges"),
        (|record| planned(record).judges.push("another".into()), "or other judges"),
    ];
    for (change, words) in changes {
        let (code, said) = altered(place, won, &change);
        assert!(code == 65 && said.contains(words), "{words}: {code}: {said}");
    }
    // Its start can have been rejected, too: then the result has duelled all the same.
    a_finding_that_the_start_has_too_is_no_fault(place, won);
    // Nobody makes a final model by hand of one that has lost.
    let folder = place.path(lost);
    fs::rename(folder.join("candidate"), folder.join("model")).expect("renames");
    let exported: [(Change, &str); 2] = [
        (|record| record.gate = None, "its plan has a gate"),
        (|record| gate(record).passed = true, "ended otherwise"),
    ];
    for (change, words) in exported {
        let (code, said) = altered(place, lost, &|record: &mut DistilRecord| {
            record.state = State::Exported;
            change(record);
        });
        assert!(code == 65 && said.contains(words), "{words}: {code}: {said}");
    }
    fs::rename(folder.join("model"), folder.join("candidate")).expect("renames");

    // One that is in another form.
    let path = place.path(won).join("distil.json");
    let text = fs::read_to_string(&path).expect("reads");
    fs::write(&path, text.replace("\n  ", "\n")).expect("writes");
    let (code, said) = failed(&albedo(["distil", "verify", &place.text(won)]));
    assert!(code == 65 && said.contains("not as albedo writes it"), "{code}: {said}");
    fs::write(&path, text).expect("writes");
    stdout(&albedo(["distil", "verify", &place.text(won)]));
}

/// The record in `won` verifies with a rejection of its behaviour, and not with one of its files.
fn a_finding_that_the_start_has_too_is_no_fault(place: &Place, won: &str) {
    let path = place.path(won).join("distil.json");
    let text = fs::read_to_string(&path).expect("reads");
    let mut record: DistilRecord = serde_json::from_str(&text).expect("a record");
    gate(&mut record).findings[0].finding = Finding::Rejected(json!({}));
    fs::write(&path, serde_json::to_string_pretty(&record).expect("JSON") + "\n").expect("writes");
    stdout(&albedo(["distil", "verify", &place.text(won)]));
    gate(&mut record).findings[0].stage = ScreenStage::Files;
    fs::write(&path, serde_json::to_string_pretty(&record).expect("JSON") + "\n").expect("writes");
    let (code, said) = failed(&albedo(["distil", "verify", &place.text(won)]));
    assert!(code == 65 && said.contains("a screen did not let it"), "{code}: {said}");
    fs::write(&path, text).expect("writes");
}

#[test]
fn every_file_of_the_model_counts() {
    let place = Place::new();
    let text = fs::read_to_string(place.plain()).expect("reads");
    fs::write(place.path("one.toml"), text.replace("steps = 5", "steps = 1")).expect("writes");
    stdout(&place.distil(&place.text("one.toml"), "one"));
    let (folder, page) = (place.text("one"), place.text("page.html"));
    let model = place.path("one/model");
    for (name, other) in [
        ("config.json", Some("{}")),
        ("tokenizer.json", Some("{}")),
        ("chat_template.jinja", Some("{{ messages }}")),
        ("tokenizer_config.json", None),
    ] {
        let path = model.join(name);
        let whole = fs::read(&path).ok();
        match other {
            Some(other) => fs::write(&path, other).expect("writes"),
            None => fs::remove_file(&path).expect("removes"),
        }
        for command in [&["distil", "verify", &folder][..], &["distil", "report", &folder, "--out", &page]] {
            let (code, said) = failed(&albedo(command.iter().copied()));
            assert!(code == 65 && said.contains("files are not the recorded ones"), "{name}: {code}: {said}");
        }
        match whole {
            Some(whole) => fs::write(&path, whole).expect("writes"),
            None => fs::remove_file(&path).expect("removes"),
        }
    }
    // What a system leaves in a folder is no file of the model.
    fs::write(model.join(".DS_Store"), "").expect("writes");
    // Nor is what the client of a hub keeps there.
    fs::create_dir(model.join(".cache")).expect("makes");
    stdout(&albedo(["distil", "verify", &folder]));
    fs::create_dir(model.join("notes")).expect("makes");
    let (code, said) = failed(&albedo(["distil", "verify", &folder]));
    assert!(code == 65 && said.contains("a folder is no file of the model"), "{code}: {said}");
    assert!(said.contains("model/notes"), "{said}");
    // A record of schema 1 knows the weights alone.
    let path = place.path("one/distil.json");
    let mut record: DistilRecord =
        serde_json::from_slice(&fs::read(&path).expect("reads")).expect("a record");
    (record.schema, record.files) = (1, None);
    fs::write(&path, serde_json::to_string_pretty(&record).expect("JSON") + "\n").expect("writes");
    stdout(&albedo(["distil", "verify", &folder]));
}
