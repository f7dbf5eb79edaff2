//! `albedo decide` on logs that the real tools wrote: Inspect AI 0.3.285 with its mock
//! model, and lm-evaluation-harness 0.4 with its dummy model.

use std::path::Path;

use serde_json::Value;

use crate::run::{albedo, error, root};

const INSPECT: [&str; 3] = ["--inspect", "first.eval", "second.eval"];
const LM_EVAL: [&str; 3] = ["--lm-eval", "samples_larger_first.jsonl", "samples_larger_second.jsonl"];

/// The log of that name, and anything else as it is.
fn given(argument: &str) -> String {
    let path = root().join("tests/program/decide").join(argument);
    if path.is_file() { path.to_str().expect("UTF-8").to_owned() } else { argument.to_owned() }
}

fn decide(arguments: &[&str]) -> (Option<i32>, Value) {
    let given: Vec<String> = arguments.iter().map(|argument| given(argument)).collect();
    let all = ["decide", "--json"].into_iter().chain(given.iter().map(String::as_str));
    let output = albedo(all);
    assert!(!output.stdout.is_empty(), "{}", error(&output));
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("JSON"))
}

fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let given: Vec<String> = arguments.iter().map(|argument| given(argument)).collect();
    let output = albedo(["decide"].into_iter().chain(given.iter().map(String::as_str)));
    assert!(output.stdout.is_empty(), "{arguments:?}");
    (output.status.code(), error(&output))
}

/// The table that the log amounts to, as somebody would write it by hand.
fn table(folder: &Path, rows: &[(String, String, f64, f64)]) -> String {
    let row = |(item, cluster, first, second): &(String, String, f64, f64)| {
        format!("{item},{cluster},{first},{second}\n")
    };
    let rows: String = rows.iter().map(row).collect();
    let table = format!("item,cluster,first,second\n{rows}");
    let path = folder.join("scores.csv");
    std::fs::write(&path, table).expect("a table");
    path.to_str().expect("UTF-8").to_owned()
}

fn samples(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(given(name)).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_log_decides_as_the_same_numbers_in_a_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (samples(LM_EVAL[1]), samples(LM_EVAL[2]));
    let rows: Vec<_> = first
        .iter()
        .zip(&second)
        .map(|(one, other)| {
            let task = "larger_first";
            assert_eq!(one["doc_id"], other["doc_id"]);
            let cluster = format!("{task}/{}", one["doc"]["subject"].as_str().expect("a subject"));
            let score = |line: &Value| line["acc"].as_f64().expect("a score");
            (format!("{task}/{}", one["doc_id"]), cluster, score(one), score(other))
        })
        .collect();
    // Both files under one task's name, as a run writes it.
    for (place, name) in ["first", "second"].iter().zip(&LM_EVAL[1..]) {
        std::fs::create_dir(folder.path().join(place)).expect("a folder");
        let to = folder.path().join(place).join("samples_larger_first_2026-11-28T17-53-53.207120.jsonl");
        std::fs::copy(given(name), to).expect("a copy");
    }
    let runs = ["first", "second"].map(|place| folder.path().join(place).to_str().expect("UTF-8").to_owned());
    let (code, log) = decide(&["--lm-eval", &runs[0], &runs[1], "--metric", "acc", "--cluster", "subject"]);
    let (table_code, from_table) = decide(&["--csv", &table(folder.path(), &rows)]);
    assert_eq!((code, &log["comparison"]), (table_code, &from_table["comparison"]));
    assert_eq!((code, log["comparison"]["clusters"].as_u64()), (Some(4), Some(10)));
    // Two files are of one task, whatever they are called.
    let (_, files) = decide(&[&LM_EVAL[..], &["--metric", "acc", "--cluster", "subject"]].concat());
    assert_eq!(files["comparison"], log["comparison"]);
    let other = folder.path().join("other");
    std::fs::create_dir(&other).expect("a folder");
    std::fs::copy(given(LM_EVAL[2]), other.join("samples_another_2026-11-28T17-53-53.207120.jsonl"))
        .expect("a copy");
    let folders = ["--lm-eval", &runs[0], other.to_str().expect("UTF-8"), "--metric", "acc"];
    for missing in ["refuse", "lowest"] {
        let (code, message) = refused(&[&folders[..], &["--missing", missing]].concat());
        assert!(code == Some(65) && message.contains("no item is in both logs"), "{code:?} {message}");
    }
}

/// `unscored.eval` has a `Score.unscored()` and a score that is NaN; `stopped.eval` ended with the ninth of twelve
/// epochs, and status `error`. Inspect AI 0.3.285 wrote both.
#[test]
fn what_has_no_score_and_what_never_began_is_not_dropped_by_itself() {
    for (log, absent, all) in [("unscored.eval", 2, 6), ("stopped.eval", 4, 6)] {
        let both = ["--inspect", log, log];
        let (code, message) = refused(&both);
        let words = format!("{absent} items lack a score");
        assert!(code == Some(65) && message.contains(&words), "{log}: {code:?} {message}");
        let with = |missing| decide(&[&both[..], &["--missing", missing]].concat()).1;
        let (dropped, lowest) = (with("drop"), with("lowest"));
        assert_eq!(dropped["comparison"]["items"].as_u64(), Some(all - absent), "{log}: {dropped}");
        assert_eq!(dropped["missing_first"].as_array().map(|names| names.len() as u64), Some(absent));
        assert_eq!(lowest["comparison"]["items"].as_u64(), Some(all), "{log}: {lowest}");
    }
    let (code, message) = refused(&["--inspect", "first.eval", "stopped.eval", "--metric", "match"]);
    assert!(code == Some(65) && message.contains("another content"), "{code:?} {message}");
}

#[test]
fn inspects_epochs_are_one_item_and_the_better_model_is_seen() {
    let (code, json) = decide(&[&INSPECT[..], &["--metric", "match", "--alpha", "0.2"]].concat());
    assert_eq!((code, json["comparison"]["outcome"].as_str()), (Some(0), Some("better")), "{json}");
    assert_eq!(
        (json["comparison"]["items"].as_u64(), json["comparison"]["clusters"].as_u64()),
        (Some(12), Some(12))
    );
    let exchanged = ["--inspect", INSPECT[2], INSPECT[1], "--metric", "match", "--alpha", "0.2"];
    let (code, mirrored) = decide(&exchanged);
    assert_eq!((code, &mirrored["comparison"]["worse"]), (Some(5), &json["comparison"]["better"]));
    let lower = [&INSPECT[..], &["--metric", "match", "--alpha", "0.2", "--lower-is-better"]].concat();
    let (code, lower) = decide(&lower);
    assert_eq!((code, &lower["comparison"]["worse"]), (Some(5), &json["comparison"]["better"]));
    assert_eq!(lower["comparison"]["effect"], json["comparison"]["effect"]);
    assert_eq!(lower["comparison"]["settings"]["lower_is_better"], true);
    let (_, clustered) = decide(&[&INSPECT[..], &["--metric", "match", "--cluster", "text"]].concat());
    assert_eq!(clustered["comparison"]["clusters"].as_u64(), Some(3));
}

#[test]
fn what_cannot_be_compared_is_refused_with_a_remedy() {
    for (arguments, code, words) in [
        (INSPECT.to_vec(), 78, "choose scorer: `includes`, `match`"),
        (LM_EVAL.to_vec(), 78, "choose metric: `acc`, `acc_norm`"),
        ([&INSPECT[..], &["--metric", "rhyme"]].concat(), 78, "no scorer `rhyme`"),
        ([&INSPECT[..], &["--metric", "match", "--cluster", "page"]].concat(), 78, "no `page`"),
        (vec!["--inspect", "first.eval", LM_EVAL[1], "--metric", "match"], 65, "`.eval` file of Inspect"),
        (vec!["--lm-eval", "first.eval", "second.eval"], 65, "line: 1"),
        (vec!["--csv", "no-such-file.csv"], 66, "check the path"),
        (vec!["--harbor", "tests", "docs"], 66, "the folder of one job"),
        ([&INSPECT[..], &["--metric", "match", "--alpha", "2"]].concat(), 78, "alpha is 2"),
        ([&INSPECT[..], &["--metric", "match", "--range", "1", "0"]].concat(), 78, "from 1 to 0"),
        ([&INSPECT[..], &["--metric", "match", "--range", "0", "0.5"]].concat(), 65, "outside 0 to 0.5"),
        ([&INSPECT[..], &["--metric", "match", "--pool", "3"]].concat(), 78, "the pool has 3 clusters"),
    ] {
        let (found, message) = refused(&arguments);
        assert!(found == Some(code) && message.contains(words), "{arguments:?}: {found:?} {message}");
    }
}

#[test]
fn a_gate_spends_its_budget_and_asks_for_more_evidence() {
    let folder = tempfile::tempdir().expect("a folder");
    let budget = folder.path().join("gate.json");
    let budget = budget.to_str().expect("UTF-8");
    let gate = [&INSPECT[..], &["--metric", "match", "--alpha", "0.2", "--budget", budget]].concat();
    let (code, json) = decide(&gate);
    assert_eq!(
        (code, json["budget"]["runs"].as_u64()),
        (Some(4), Some(1)),
        "a share of 0.2 asks for more: {json}"
    );
    let (_, again) = decide(&gate);
    assert_eq!(again["budget"]["runs"].as_u64(), Some(1), "the same comparison is free");
    let other = [&INSPECT[..], &["--metric", "includes", "--budget", budget, "--seed", "1"]].concat();
    assert_eq!(decide(&other).1["budget"]["runs"].as_u64(), Some(2));
    let repeated = decide(&gate).1;
    let numbers = (repeated["budget"]["comparison"].as_u64(), repeated["budget"]["runs"].as_u64());
    assert_eq!(numbers, (Some(1), Some(2)), "the first comparison again");
    std::fs::write(budget, "{}").expect("a file");
    let (code, message) = refused(&gate);
    assert!(code == Some(65) && message.contains("begin a new budget"), "{code:?} {message}");
}

#[test]
fn duels_of_the_python_system_are_decided_again_as_tries_of_one_pair() {
    let folder = tempfile::tempdir().expect("a folder");
    // Two runs whose margins have opposite signs, as a system that decides by the margin has them.
    let run = |name: &str, better: fn(usize) -> bool, won: bool| {
        let scores = |row: usize| if better(row) { (0.4, 0.6) } else { (0.6, 0.4) };
        let lines: Vec<String> = (0..40)
            .map(|row| {
                let (king, challenger) = scores(row);
                let line = serde_json::json!({
                    "sample_id": format!("swe-hero/data/train-00000.parquet:{row}:4"), "scored": true,
                    "king_score": king, "challenger_score": challenger,
                });
                format!("{line}\n")
            })
            .collect();
        let mean = (0..40).map(|row| scores(row).1).sum::<f64>() / 40.0;
        let verdict = serde_json::json!({
            "eval_run_id": name, "score_challenger": mean, "total_turns": 40, "challenger_won": won,
        });
        let place = folder.path().join(name);
        std::fs::create_dir(&place).expect("a folder");
        std::fs::write(place.join("scoring-results.jsonl"), lines.concat()).expect("writes");
        std::fs::write(place.join("verdict.json"), verdict.to_string()).expect("writes");
        place.to_str().expect("UTF-8").to_owned()
    };
    let (first, second) = (run("one", |row| row < 22, true), run("two", |row| row >= 22, false));
    let (code, json) = decide(&["--python-duel", &first, &second]);
    assert_eq!((code, &json["comparison"]["outcome"]), (Some(4), &"not_shown".into()), "{json}");
    assert_eq!((&json["duels"][0]["accepted"], &json["duels"][1]["accepted"]), (&true.into(), &false.into()));
    assert_eq!(json["comparison"]["items"], 40);
    let output = albedo(["decide", "--python-duel", &first, &second]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("+2.00 (accepted), -2.00 points"), "{text}");
    // One of them alone is a comparison, too, and the same file twice is not.
    let (code, _) = decide(&["--python-duel", &format!("{first}/scoring-results.jsonl"), "--alpha", "0.01"]);
    assert_eq!(code, Some(4));
    let (code, said) = refused(&["--python-duel", &first, &first]);
    assert!(code == Some(78) || code == Some(65), "{code:?}");
    assert!(said.contains("named twice"), "{said}");
}
