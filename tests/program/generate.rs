//! `albedo generate` as its users meet it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Output, Stdio};

use albedo::backends::openai::scripted::{Answer, ScriptedServer};
use serde_json::{Value, json};

use crate::run::{albedo, command, error, stdout};

const KING: &str = "examples/demo/models/king";

/// Runs `albedo generate` on the king with `input` as its standard input.
fn generate(input: &str, arguments: &[&str]) -> Output {
    let mut child = start(arguments);
    let mut stdin = child.stdin.take().expect("a pipe");
    // A program that ends early does not read it all.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("ends")
}

fn start(arguments: &[&str]) -> Child {
    let fixed = ["generate", KING, "--input", "-"];
    let mut command = command(fixed.into_iter().chain(arguments.iter().copied()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("albedo starts")
}

fn lines(output: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(output).expect("UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "whole lines: {text:?}");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn requests() -> String {
    let requests = [
        json!({ "id": "long", "prompt": "ballotbox: test_votes fails", "max_new_tokens": 60 }),
        json!({ "id": { "n": 2 }, "prompt": "Say something.", "max_new_tokens": 1 }),
        json!({ "messages": [
            { "role": "system", "content": "You repair small Python projects." },
            { "role": "user", "content": "spantime fails" },
        ], "sampling": { "temperature": 1.0 }, "seed": 5 }),
        json!({ "id": 4, "prompt": "again", "score_reply": "THOUGHT: I look." }),
    ];
    requests.map(|request| request.to_string()).join("\n")
}

#[test]
fn answers_come_in_the_order_of_their_requests_whatever_the_batch() {
    let output = generate(&requests(), &["--max-new-tokens", "20"]);
    let answers = lines(stdout(&output).as_bytes());
    let ids: Vec<_> = answers.iter().map(|answer| answer["id"].clone()).collect();
    assert_eq!(ids, [json!("long"), json!({ "n": 2 }), Value::Null, json!(4)]);
    for (answer, line) in answers.iter().zip(1..) {
        assert_eq!(answer["line"], line);
        assert!(answer["text"].is_string() && answer.get("error").is_none(), "{answer}");
        let tokens = answer["tokens"].as_array().expect("tokens").len() as u64;
        assert_eq!(answer["usage"]["completion_tokens"], tokens);
        let stopped = answer["finish"] == "stop";
        let most = [60, 1, 20, 20][line - 1];
        assert!(if stopped { tokens <= most } else { tokens == most }, "{answer}");
    }
    let scores = answers[3]["scores"]["log_probs"].as_array().expect("scores");
    assert!(scores.len() > 2 && scores.iter().all(|score| score.as_f64().is_some_and(|s| s <= 0.0)));
    assert!(answers[0].get("scores").is_none());
    let summary = error(&output);
    assert!(summary.starts_with("4 answered: ") && summary.ends_with(" a second"), "{summary}");

    let small = ["--max-new-tokens", "20", "--set", "max_batch=2", "--unordered"];
    let mut unordered = lines(stdout(&generate(&requests(), &small)).as_bytes());
    assert_ne!(unordered[0]["id"], "long", "a request of one token is done before one of sixty");
    unordered.sort_by_key(|answer| answer["line"].as_u64());
    assert_eq!(unordered, answers);
}

#[test]
fn a_prompt_is_answered_with_text_and_its_line_with_the_same() {
    let prompt = "ballotbox: test_votes fails";
    let arguments = ["--max-new-tokens", "24", "--temperature", "0.8", "--top-p", "0.9", "--top-k", "50"];
    let plain = ["generate", KING, "--prompt", prompt, "--seed", "3"].into_iter().chain(arguments);
    let text = stdout(&albedo(plain.clone()));
    let answer = &lines(stdout(&albedo(plain.chain(["--output", "-"]))).as_bytes())[0];
    assert_eq!(format!("{}\n", answer["text"].as_str().expect("text")), text);
    let line = json!({ "prompt": prompt, "seed": 3 }).to_string();
    assert_eq!(&lines(stdout(&generate(&line, &arguments)).as_bytes())[0], answer);
    let next = ["--seed", "2"].into_iter().chain(arguments);
    let both = format!("{{\"prompt\":\"x\"}}\n{}", json!({ "prompt": prompt }));
    let both = lines(stdout(&generate(&both, &next.collect::<Vec<_>>())).as_bytes());
    assert_eq!(both[1]["tokens"], answer["tokens"], "each line has the next seed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_has_the_reply_as_it_is_and_json_has_it_in_escapes() {
    const REPLY: &str = "a\r\n\u{1b}[2J\u{7f}\u{9b}b";
    let server = ScriptedServer::start(|seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&["m"]);
        }
        Answer::reply(REPLY)
    });
    let server = server.await.expect("starts");
    let url = format!("base_url={}", server.base_url());
    let run = move |more: &[&str]| {
        let fixed = ["generate", "name:m", "--prompt", "x", "--backend", "openai", "--set", "stream=false"];
        albedo(fixed.into_iter().chain(["--set", &url]).chain(more.iter().copied()))
    };
    let both = tokio::task::spawn_blocking(move || [run(&[]), run(&["--output", "-"])]);
    let [text, line] = both.await.expect("ends");
    assert_eq!(stdout(&text), format!("{REPLY}\n"));
    let line = stdout(&line);
    assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
    assert_eq!(lines(line.as_bytes())[0]["text"], REPLY);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_under_standard_output_has_its_own_exit_code() {
    for more in [&["--output", "-"][..], &[]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("opens");
        let fixed = ["generate", KING, "--prompt", "a", "--max-new-tokens", "1"];
        let mut command = command(fixed.into_iter().chain(more.iter().copied()));
        let output = command.stdout(full).output().expect("albedo starts");
        assert_eq!(output.status.code(), Some(74), "{more:?}: {}", error(&output));
    }
}

#[test]
fn a_bad_line_is_answered_with_its_mistake_and_loses_no_other() {
    let long = json!({ "id": "long", "prompt": "word ".repeat(5000) }).to_string();
    let input = [
        "{\"id\": 1, \"prompt\": \"a\"}",
        "not JSON",
        "",
        "{\"id\": 4, \"prompt\": \"a\", \"max_tokens\": 3}",
        &long,
        "{\"id\": 6, \"prompt\": \"a\", \"max_new_tokens\": 0}",
        "{\"id\": 7, \"prompt\": \"b\"}",
    ]
    .join("\n");
    let output = generate(&input, &["--max-new-tokens", "4"]);
    assert_eq!(output.status.code(), Some(65));
    let answers = lines(&output.stdout);
    let lines: Vec<_> = answers.iter().map(|answer| answer["line"].as_u64().expect("a number")).collect();
    assert_eq!(lines, [1, 2, 4, 5, 6, 7], "a blank line is no request");
    for (answer, id, expected) in [
        (1, json!(null), "not JSON: expected ident at line 1 column 2 (line: 2)"),
        (2, json!(4), "unknown field `max_tokens`"),
        (3, json!("long"), "do not fit in the context of 4096"),
        (4, json!(6), "`max_new_tokens` is 0"),
    ] {
        assert_eq!(answers[answer]["id"], id);
        let message = answers[answer]["error"]["message"].as_str().expect("a message");
        assert!(message.contains(expected), "{message}");
        assert!(answers[answer].get("text").is_none());
    }
    assert!(answers[0]["text"].is_string() && answers[5]["text"].is_string());
    let line = error(&output);
    assert!(line.contains("4 of 6 requests have an error") && line.contains("on line: 2"), "{line}");
}

#[test]
fn no_request_is_no_mistake() {
    for input in ["", "\n\n  \n"] {
        let output = generate(input, &[]);
        assert_eq!(stdout(&output), "");
        assert!(error(&output).starts_with("0 answered"), "{}", error(&output));
    }
}

#[test]
fn what_is_wrong_from_the_start_is_said_in_one_line() {
    let run = |arguments: &[&str]| albedo(["generate"].into_iter().chain(arguments.iter().copied()));
    let prompt = ["--prompt", "a"];
    for (arguments, code, expected) in [
        (&["no/such/model", "--prompt", "a"][..], 66, "no/such/model"),
        (&[KING, "--input", "no/such/file.jsonl"], 66, "no/such/file.jsonl"),
        (&[KING, "--input", "examples"], 65, "examples"),
        (&[KING, "--prompt", "a", "--output", "Cargo.toml"], 78, "the file is not empty"),
        (&[KING, "--prompt", "a", "--output", "no/such/folder/file"], 66, "no/such/folder/file"),
        (&[KING, "--prompt", "a", "--backend", "brun"], 78, "did you mean `burn`?"),
        (&[KING, "--prompt", "a", "--set", "max_bach=3"], 78, "unknown key `max_bach`"),
        (&[KING, "--prompt", "a", "--device", "abacus"], 78, "abacus"),
        (&[KING, "--prompt", "a", "--device", "cpu", "--set", "device=cpu"], 78, "`device` is set twice"),
        (&[KING, "--prompt", "a", "--temperature", "-1"], 78, "temperature is -1"),
        (&[KING, "--prompt", "a", "--top-p", "0"], 78, "top_p is 0"),
        (&[KING, "--prompt", "a", "--max-new-tokens", "0"], 78, "`--max-new-tokens` is 0"),
    ] {
        let output = run(arguments);
        let line = error(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {line}");
        assert!(line.contains(expected), "{line}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).trim_end(), line, "there is one line");
        assert!(output.stdout.is_empty());
    }
    assert!(fs::metadata("Cargo.toml").expect("still there").len() > 0);
    assert_eq!(run(&[KING]).status.code(), Some(2));
    assert_eq!(run(&[KING, "--input", "-", prompt[0], prompt[1]]).status.code(), Some(2));
    assert_eq!(run(&[KING, prompt[0], prompt[1], "--set", "3"]).status.code(), Some(2));
    let output = run(&[KING, "--prompt", "a", "--max-new-tokens", "9000"]);
    assert_eq!(output.status.code(), Some(65));
    assert!(error(&output).contains("do not fit in the context"), "{}", error(&output));
}

#[test]
fn answers_go_into_a_new_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("answers.jsonl");
    let path = path.to_str().expect("UTF-8");
    let output = generate(&requests(), &["--max-new-tokens", "3", "--output", path]);
    assert_eq!(stdout(&output), "");
    let written = fs::read(path).expect("reads");
    assert_eq!(lines(&written).len(), 4);
    let again = generate(&requests(), &["--output", path]);
    assert_eq!(again.status.code(), Some(78));
    assert_eq!(fs::read(path).expect("reads"), written, "answers are never written over");
}

/// A request that goes on for seconds, by a model that never stops.
fn endless() -> String {
    let sampling = json!({ "temperature": 50.0 });
    let request = json!({ "id": "endless", "prompt": "a", "max_new_tokens": 4000, "sampling": sampling });
    format!("{request}\n")
}

#[test]
#[cfg(unix)]
fn an_interrupt_keeps_what_was_written() {
    let mut child = start(&["--max-new-tokens", "4"]);
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"{\"id\": 1, \"prompt\": \"a\"}\n").expect("writes");
    let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut first = String::new();
    reader.read_line(&mut first).expect("reads");
    // The input stays open: nothing but the interrupt ends the program.
    stdin.write_all(endless().repeat(8).as_bytes()).expect("writes");
    let kill = format!("kill -INT {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().expect("runs").success());
    let mut rest = Vec::new();
    std::io::copy(&mut reader, &mut rest).expect("reads");
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("a pipe"), &mut errors).expect("reads");
    assert_eq!(child.wait().expect("ends").code(), Some(130), "{errors}");
    assert_eq!(lines(first.as_bytes())[0]["id"], 1);
    assert!(lines(&rest).iter().all(|answer| answer.get("error").is_none()));
    assert!(errors.contains("stopping") && errors.contains("are written"), "{errors}");
    drop(stdin);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let mut child = start(&["--max-new-tokens", "4", "--unordered"]);
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
    stdin.write_all(b"{\"prompt\": \"a\"}\n").expect("writes");
    let mut first = String::new();
    reader.read_line(&mut first).expect("reads");
    drop(reader);
    // Ends at the next answer, though the input stays open and more is asked.
    stdin.write_all(format!("{}{{\"prompt\": \"b\"}}\n", endless()).as_bytes()).expect("writes");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("error") && !errors.contains("panic"), "{errors}");
    assert_eq!(lines(first.as_bytes()).len(), 1);
    drop(stdin);
}

/// Splits the model in `folder` into three files with an index.
fn split(folder: &Path) {
    let whole = folder.join("model.safetensors");
    let bytes = fs::read(&whole).expect("reads");
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a header");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Value = serde_json::from_slice(header).expect("JSON");
    let mut tensors = header.as_object().expect("an object").clone();
    tensors.remove("__metadata__");
    let mut map = serde_json::Map::new();
    for shard in 0..3 {
        let name = format!("model-{:05}-of-00003.safetensors", shard + 1);
        let (mut part, mut values) = (serde_json::Map::new(), Vec::new());
        for (tensor, about) in tensors.iter().skip(shard).step_by(3) {
            let offset = |end: usize| about["data_offsets"][end].as_u64().expect("an offset") as usize;
            let start = values.len();
            values.extend_from_slice(&data[offset(0)..offset(1)]);
            let mut about = about.clone();
            about["data_offsets"] = json!([start, values.len()]);
            part.insert(tensor.clone(), about);
            map.insert(tensor.clone(), json!(name));
        }
        let header = Value::Object(part).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(&values);
        fs::write(folder.join(name), file).expect("writes");
    }
    let index = json!({ "metadata": { "total_size": data.len() }, "weight_map": map });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("writes");
    fs::remove_file(whole).expect("removes");
}

#[test]
fn a_model_in_shards_answers_as_the_whole_one() {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(crate::run::root().join(KING)).expect("lists") {
        let entry = entry.expect("lists");
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copies");
    }
    split(folder.path());
    let requests = folder.path().join("requests");
    fs::write(&requests, self::requests()).expect("writes");
    let run = |model: &str| {
        let requests = requests.to_str().expect("UTF-8");
        albedo(["generate", model, "--input", requests, "--max-new-tokens", "20"])
    };
    let shards = folder.path().to_str().expect("UTF-8");
    assert_eq!(stdout(&run(shards)), stdout(&run(KING)));

    let missing = "model-00002-of-00003.safetensors";
    fs::remove_file(folder.path().join(missing)).expect("removes");
    let output = run(shards);
    assert!(matches!(output.status.code(), Some(65 | 66)), "{}", error(&output));
    assert!(error(&output).contains(missing), "{}", error(&output));
}
