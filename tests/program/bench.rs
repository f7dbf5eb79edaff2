//! `albedo bench` as its users meet it.

use std::fs;

use serde_json::Value;

use crate::run::{albedo, error, stdout};

const KING: &str = "examples/demo/models/king";
const SMALL: [&str; 5] = ["bench", KING, "--rounds", "2", "--steps"];

fn bench(arguments: &[&str]) -> std::process::Output {
    albedo(SMALL.into_iter().chain(["4"]).chain(arguments.iter().copied()))
}

#[test]
fn cases_become_a_table_and_the_same_as_json() {
    let cases = ["--prefill", "3x40", "--decode", "2x60", "--run", "4x50+6"];
    let table = stdout(&bench(&cases));
    assert!(table.starts_with("Qwen3ForCausalLM of 3.4 million parameters in f32"), "{table}");
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).collect();
    assert_eq!(rows.len(), 4, "{table}");
    for (row, expected) in rows[1..].iter().zip(["prefill 3x40", "decode 2x60", "run 4x50+6"]) {
        assert!(row.starts_with(&format!("| {expected} | ")), "{row}");
    }

    let json: Value =
        serde_json::from_str(&stdout(&bench(&[&cases[..], &["--json"]].concat()))).expect("JSON");
    assert_eq!((&json["schema"], &json["backend"]["name"]), (&1.into(), &"burn".into()));
    assert!(json["load"]["first_token_seconds"].as_f64() > json["load"]["seconds"].as_f64());
    let cases = json["cases"].as_array().expect("cases");
    for (case, name, read, written) in [
        (&cases[0], "prefill", Some(120), 3),
        (&cases[1], "decode", Some(2 * 42), 8),
        (&cases[2], "run", None, 24),
    ] {
        assert_eq!((&case["case"], &case["tokens_written"]), (&name.into(), &written.into()));
        assert!(read.is_none_or(|read: u64| case["tokens_read"] == read), "{case}");
    }
    assert_eq!((&cases[0]["batch"], &cases[0]["prompt_tokens"]), (&3.into(), &40.into()));
    for case in cases {
        let rounds = case["seconds"]["rounds"].as_array().expect("rounds");
        assert_eq!(rounds.len(), 2);
        let number = |name: &str| case["seconds"][name].as_f64().expect("a number");
        assert!(number("low") <= number("median") && number("median") <= number("high"), "{case}");
    }
}

#[test]
fn the_prompts_can_be_had() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("prompts.jsonl");
    let path = path.to_str().expect("UTF-8");
    stdout(&bench(&["--prefill", "3x40", "--decode", "2x60", "--prompts", path]));
    let text = fs::read_to_string(path).expect("reads");
    let prompts: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(prompts.len(), (3 + 2) * 3);
    assert_eq!(prompts[0]["case"], "prefill 3x40");
    assert!(prompts.iter().all(|prompt| prompt["messages"][0]["content"].is_string()));

    // They are not written over, and nothing is measured for it.
    let again = albedo(["bench", "no/such/model", "--prompts", path]);
    assert_eq!(again.status.code(), Some(78), "{}", error(&again));
    assert!(error(&again).contains("the file is not empty"), "{}", error(&again));
    assert_eq!(fs::read_to_string(path).expect("reads"), text);
}

#[test]
fn a_case_that_fails_loses_no_other() {
    let output = bench(&["--prefill", "1x5000", "--prefill", "1x30", "--json"]);
    assert_eq!(output.status.code(), Some(78), "{}", error(&output));
    assert!(error(&output).contains("the model's context: 4096"), "{}", error(&output));
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["cases"][0]["error"]["kind"], "config_invalid");
    assert!(json["cases"][1]["seconds"]["median"].is_number());
}

#[test]
fn a_batch_is_as_large_as_its_case() {
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&stdout(&bench(&[arguments, &["--json"]].concat()))).expect("JSON")
    };
    assert_eq!(json(&["--prefill", "40x20"])["settings"]["max_batch"], 40);
    assert_eq!(json(&["--prefill", "4x20"])["settings"]["max_batch"], Value::Null);
    assert_eq!(json(&["--prefill", "40x20", "--set", "max_batch=8"])["settings"]["max_batch"], 8);
}

#[test]
fn what_is_wrong_from_the_start_is_said_in_one_line() {
    for (arguments, code, expected) in [
        (&["bench", "no/such/model"][..], 66, "no/such/model"),
        (&["bench", KING, "--set", "max_bach=3"], 78, "unknown key `max_bach`"),
        (&["bench", KING, "--backend", "brun"], 78, "did you mean `burn`?"),
    ] {
        let output = albedo(arguments.iter().copied());
        let line = error(&output);
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert!(line.contains(expected), "{line}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).trim_end(), line, "there is one line");
    }
    for arguments in [["--prefill", "8"], ["--rounds", "0"], ["--steps", "0"], ["--run", "1x2"]] {
        assert_eq!(albedo(["bench", KING].into_iter().chain(arguments)).status.code(), Some(2));
    }
}
