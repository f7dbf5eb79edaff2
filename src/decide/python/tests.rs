use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::decide::{Missing, PairedOutcome, PairedSettings, compare, pair};

fn jsonl(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat()
}

/// A folder with these files.
fn folder(files: &[(&str, String)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("writes");
    }
    folder
}

/// A later duel's line, of turn 3 of `row`.
fn sample(row: usize, king: f64, challenger: f64) -> Value {
    json!({
        "sample_id": format!("open-swe-traces/data/train-00004.parquet:{row}:3"), "scored": true,
        "king_score": king, "challenger_score": challenger, "scoring_mode": "binary",
        "questions": [{"id": "q1", "text": "Does it run the test?", "tag": "action"}],
        "judge_results": [
            {"side": "previous_king", "judge_model": "z-ai/glm-5.2", "answers": {"q1": 1}, "yes_rate": king,
             "parse_ok": true, "error": null},
            {"side": "challenger", "judge_model": "z-ai/glm-5.2", "answers": {"q1": 1}, "yes_rate": challenger,
             "parse_ok": true, "error": null},
        ],
    })
}

fn verdict(id: &str, challenger: f64, total: u64) -> String {
    json!({
        "type": "verdict", "eval_run_id": id, "state": "succeeded", "challenger_won": true,
        "score_challenger": challenger, "score_king": 0.5, "valid_turns": total, "total_turns": total,
        "required_win_margin": 0.025, "fault_class": null,
    })
    .to_string()
}

/// An earlier duel's line.
fn judged(index: u64, judge: &str, mean: Option<f64>) -> Value {
    json!({
        "date": "2026-06-09", "eval_id": "eval-000042", "challenger_hotkey": "5Chal", "king_hotkey": "5King",
        "judge_model": judge, "global_idx": index, "turn_idx": 2, "instance_id": format!("owner__repo-{index}"),
        "prompt_messages": [{"role": "user", "content": "Fix it."}], "king_reply": "a", "chal_reply": "b",
        "raw_verdict": "{}", "metric_scores": {}, "judge_mean": mean.unwrap_or(0.0), "parse_ok": mean.is_some(),
    })
}

fn refused(paths: &[&Path]) -> (ErrorKind, String) {
    let paths: Vec<_> = paths.iter().map(|path| path.to_path_buf()).collect();
    let error = PythonDuels::read(&paths).expect_err("is refused");
    (error.kind(), error.to_string())
}

#[test]
fn samples_of_a_later_duel_are_items_and_rows_are_clusters() {
    let mut lines: Vec<_> = (0..40).map(|row| sample(row, 0.25, 0.75)).collect();
    lines[0]["sample_id"] = json!("open-swe-traces/data/train-00004.parquet:1:9");
    let duel = folder(&[(SAMPLES, jsonl(&lines)), ("verdict.json", verdict("run-1", 0.75, 40))]);
    let read = PythonDuels::read(&[duel.path().to_owned()]).expect("reads");
    let expected =
        PythonDuel { name: "run-1".into(), scored: 40, unscored: 0, margin: 50.0, accepted: Some(true) };
    assert_eq!(read.duels, [expected]);
    let paired = pair(&read.king, &read.challenger, Missing::Refuse, 0.0).expect("pairs");
    let comparison = compare(&paired.items, &PairedSettings::default()).expect("compares");
    assert_eq!((comparison.items, comparison.clusters), (40, 39), "two turns of one trajectory");
    assert_eq!(comparison.outcome, PairedOutcome::Better);
    // The file by itself is the same duel, without its verdict.
    let alone = folder(&[("3e60-scoring-results.jsonl", jsonl(&lines))]);
    let read = PythonDuels::read(&[alone.path().join("3e60-scoring-results.jsonl")]).expect("reads");
    assert_eq!((read.duels[0].accepted, read.duels[0].margin), (None, 50.0));
}

#[test]
fn tries_of_one_pair_are_means_and_what_has_no_score_is_known() {
    let request = json!({
        "eval_run_id": "run-2", "challenger": {"model_uri": "a/b", "model_hash": "b"},
        "previous_king": {"model_uri": "c/d", "model_hash": "d", "king_version": 3},
        "dataset": {"sample_count": 3, "sample_ids": [
            "open-swe-traces/data/train-00004.parquet:0:3", "open-swe-traces/data/train-00004.parquet:1:3",
            "open-swe-traces/data/train-00004.parquet:2:3",
        ]},
    });
    let one = folder(&[
        (SAMPLES, jsonl(&[sample(0, 0.5, 1.0), sample(1, 0.5, 0.5)])),
        ("verdict.json", verdict("run-2", 0.75, 3)),
        ("request.json", request.to_string()),
    ]);
    let mut unscored = sample(2, 0.0, 0.0);
    unscored["scored"] = json!(false);
    let other = folder(&[
        (SAMPLES, jsonl(&[sample(0, 0.5, 0.0), sample(1, 0.5, 0.5), unscored])),
        ("verdict.json", verdict("run-3", 0.25, 4)),
    ]);
    let paths = [one.path().to_owned(), other.path().to_owned()];
    let read = PythonDuels::read(&paths).expect("reads");
    let counts: Vec<_> = read.duels.iter().map(|duel| (duel.scored, duel.unscored, duel.margin)).collect();
    assert_eq!(counts, [(2, 1, 25.0), (2, 2, -25.0)], "a sample of the last one is in no file");
    let error = pair(&read.king, &read.challenger, Missing::Refuse, 0.0).expect_err("lacks scores");
    assert!(error.to_string().contains("lack a score"), "{error}");
    let paired = pair(&read.king, &read.challenger, Missing::Drop, 0.0).expect("pairs");
    let scores: Vec<_> = paired.items.iter().map(|item| (item.first, item.second)).collect();
    assert_eq!(scores, [(0.5, 0.5), (0.5, 0.5)], "means of both tries");
    let lost: Vec<_> = paired.missing_second.iter().map(String::as_str).collect();
    assert_eq!(lost, ["open-swe-traces/data/train-00004.parquet:2:3", "run-3: sample without a score 1"]);
    let (kind, text) = refused(&[one.path(), one.path()]);
    assert!(kind == ErrorKind::Conflict && text.contains("run-2"), "{text}");
}

#[test]
fn an_earlier_duels_turns_are_read_as_the_python_system_counts_them() {
    let mut lines = Vec::new();
    for index in 0..30 {
        lines.push(judged(index, "minimax", Some(1.0)));
        lines.push(judged(index, "glm", Some(0.8)));
    }
    // A judge that could not be read, and was asked again; one that never answered.
    lines.push(judged(30, "minimax", None));
    lines.push(judged(30, "minimax", Some(0.5)));
    lines.push(judged(30, "glm", None));
    lines.push(judged(31, "glm", None));
    let scores = json!({
        "eval_id": "eval-000042", "accepted": true, "n_done": 32, "n_valid": 30, "vllm_errors": 1,
        "challenger_score": 100.0 * (30.5 / 31.0 + 0.8) / 2.0, "judge_models": ["minimax", "glm"],
    });
    let duel = folder(&[(TURNS, jsonl(&lines)), ("scores.json", scores.to_string())]);
    let read = PythonDuels::read(&[duel.path().to_owned()]).expect("reads");
    let found = &read.duels[0];
    assert_eq!((found.name.as_str(), found.scored, found.unscored), ("eval-000042", 31, 2));
    assert_eq!(found.accepted, Some(true));
    assert!((found.margin - 100.0 * 30.0 * 0.8 / 31.0).abs() < 1e-9, "{}", found.margin);
    let paired = pair(&read.king, &read.challenger, Missing::Drop, 0.0).expect("pairs");
    let last = paired.items.iter().find(|item| item.item == "owner__repo-30/2").expect("is there");
    assert_eq!((last.first, last.second, last.cluster.as_str()), (0.5, 0.5, "owner__repo-30"));
    assert!(paired.missing_first.contains(&"owner__repo-31/2".to_owned()), "{:?}", paired.missing_first);
}

#[test]
fn files_that_are_wrong_or_cut_off_are_refused_by_name() {
    let whole = jsonl(&[sample(0, 0.25, 0.75), sample(1, 0.25, 0.75)]);
    let at = |files: &[(&str, String)]| {
        let place = folder(files);
        refused(&[place.path()])
    };
    let cut = whole[..whole.len() - 20].to_owned();
    let mut none = sample(0, 0.0, 0.0);
    none.as_object_mut().expect("an object").remove("king_score");
    type Files = Vec<(&'static str, String)>;
    let cases: [(&str, Files, &[&str]); 12] = [
        ("nothing", vec![("notes.txt", String::new())], &["no duel of the Python system", TURNS]),
        ("an empty file", vec![(SAMPLES, String::new())], &["no line", SAMPLES]),
        ("a file that is cut off", vec![(SAMPLES, cut)], &["line: 2", "cut off", SAMPLES]),
        ("no JSON", vec![(SAMPLES, "<html>\n".into())], &["line: 1", SAMPLES]),
        ("another file", vec![(SAMPLES, "{\"a\": 1}\n".into())], &["sample_id", "line: 1"]),
        ("a score too high", vec![(SAMPLES, jsonl(&[sample(0, 0.5, 1.5)]))], &["between 0 and 1", ":0:3"]),
        ("no score", vec![(SAMPLES, jsonl(&[none]))], &["lacks a score"]),
        ("a sample twice", vec![(SAMPLES, jsonl(&[sample(0, 0.5, 0.5), sample(0, 0.5, 0.5)]))], &["twice"]),
        (
            "another duel's verdict",
            vec![(SAMPLES, whole.clone()), ("verdict.json", verdict("run-1", 0.7, 2))],
            &["70.0000 points in the verdict and 75.0000"],
        ),
        (
            "a verdict that is cut off",
            vec![(SAMPLES, whole.clone()), ("verdict.json", "{\"type\"".into())],
            &["verdict.json"],
        ),
        (
            "turns of two duels",
            vec![(
                TURNS,
                jsonl(&[judged(0, "glm", Some(1.0))])
                    + &jsonl(&[judged(1, "glm", Some(1.0))]).replace("42", "43"),
            )],
            &["another duel", "line: 2"],
        ),
        (
            "turns with one number",
            vec![(
                TURNS,
                jsonl(&[judged(0, "a", Some(1.0))])
                    + &jsonl(&[judged(0, "b", Some(1.0))]).replace("repo-0", "repo-7"),
            )],
            &["another turn"],
        ),
    ];
    for (name, files, words) in cases {
        let (_, text) = at(&files);
        for word in words {
            assert!(text.contains(word), "{name}: {text}");
        }
    }
    let (later, earlier) =
        (folder(&[(SAMPLES, whole)]), folder(&[(TURNS, jsonl(&[judged(0, "glm", Some(1.0))]))]));
    let (_, text) = refused(&[later.path(), earlier.path()]);
    assert!(text.contains("different ways"), "{text}");
    let rival = folder(&[(
        TURNS,
        jsonl(&[judged(0, "glm", Some(1.0))]).replace("5Chal", "5Other").replace("000042", "000043"),
    )]);
    let (_, text) = refused(&[earlier.path(), rival.path()]);
    assert!(text.contains("different models"), "{text}");
    let (kind, _) = refused(&[&later.path().join("none")]);
    assert_eq!(kind, ErrorKind::NotFound);
    let (kind, text) = refused(&[&later.path().join("notes.txt")]);
    assert!(kind == ErrorKind::NotFound && text.contains("notes.txt"), "{text}");
}

#[test]
fn duels_of_other_models_are_refused_though_the_first_one_names_none() {
    let of = |challenger: Option<&str>| {
        let mut files = vec![(SAMPLES, jsonl(&[sample(0, 0.5, 0.5)]))];
        if let Some(challenger) = challenger {
            let request = json!({
                "challenger": {"model_hash": challenger}, "previous_king": {"model_hash": "k"}, "dataset": {},
            });
            files.push(("request.json", request.to_string()));
        }
        folder(&files)
    };
    let (silent, first, same, other) = (of(None), of(Some("a")), of(Some("a")), of(Some("b")));
    let paths = [silent.path(), first.path(), same.path()].map(Path::to_owned);
    assert_eq!(PythonDuels::read(&paths).expect("one pair").duels.len(), 3);
    let (_, text) = refused(&[silent.path(), first.path(), other.path()]);
    assert!(text.contains("different models"), "{text}");
}
