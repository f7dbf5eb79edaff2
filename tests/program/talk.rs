//! `albedo chat` as its users meet it: over a pipe, at a terminal, before a server.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};

use albedo::backends::openai::scripted::{Answer, ScriptedServer};
use serde_json::{Value, json};

use crate::run::{albedo, command, error, root, stdout};

const KING: &str = "examples/demo/models/king";

/// Holds a conversation of the lines `said`.
fn chat(arguments: &[&str], said: &str) -> Output {
    let mut command = command(["chat"].into_iter().chain(arguments.iter().copied()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().expect("albedo starts");
    // A program that ends early does not read it all.
    let _ = child.stdin.take().expect("a pipe").write_all(said.as_bytes());
    output(child)
}

fn output(child: &mut Child) -> Output {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.take().expect("a pipe").read_to_end(&mut stdout).expect("reads");
    child.stderr.take().expect("a pipe").read_to_end(&mut stderr).expect("reads");
    Output { status: child.wait().expect("ends"), stdout, stderr }
}

#[test]
fn a_message_a_line_has_the_reply_that_is_generated() {
    let prompt = "ballotbox: test_votes fails";
    let greedy = ["--temperature", "0", "--max-new-tokens", "24"];
    let generated = stdout(&albedo(["generate", KING, "--prompt", prompt].into_iter().chain(greedy)));
    let arguments: Vec<_> = [KING].into_iter().chain(greedy).collect();
    let said = format!("{prompt}\n\n/reset\n{prompt}\n\"\"\"\n/ two\n\nlines\n\"\"\"\n//quit\n");
    let replies = stdout(&chat(&arguments, &said));
    assert!(replies.starts_with(&generated.repeat(2)), "{replies}");
    let more = &replies[2 * generated.len()..];
    assert!(more.len() > 2 && more.ends_with('\n'), "two more replies: {more:?}");
    assert!(!replies.contains('\u{1b}') && !replies.contains("> "), "plain: {replies:?}");

    // What is sampled can be had again, and the second reply has another seed.
    let sampled = [KING, "--temperature", "1", "--top-p", "1", "--seed", "5", "--max-new-tokens", "24"];
    let once = stdout(&chat(&sampled, &format!("{prompt}\n/reset\n{prompt}\n")));
    assert_eq!(stdout(&chat(&sampled, &format!("{prompt}\n/reset\n{prompt}\n/quit\nnever read\n"))), once);
}

#[test]
fn a_conversation_is_saved_as_tasks_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let arguments = [KING, "--system", "You are terse.", "--max-new-tokens", "6"];
    let said = format!("one\n/system You repair projects.\ntwo\n/save {}\n", path("chat.jsonl"));
    let replies = stdout(&chat(&arguments, &said));
    let saved: Value =
        serde_json::from_str(&fs::read_to_string(path("chat.jsonl")).expect("reads")).expect("JSON");
    let messages = saved["messages"].as_array().expect("messages");
    let roles: Vec<_> = messages.iter().map(|message| message["role"].as_str().expect("a role")).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(
        (&messages[0]["content"], &messages[3]["content"]),
        (&json!("You repair projects."), &json!("two"))
    );
    let text = |at: usize| messages[at]["content"].as_str().expect("text");
    assert_eq!(format!("{}\n{}\n", text(2), text(4)), replies);
    let made = albedo(["tasks", "make", &path("chat.jsonl"), "--out", &path("tasks")]);
    assert!(stdout(&made).contains("conversations 1"), "{made:?}");

    let again = chat(&arguments, &format!("/save {}\n", path("chat.jsonl")));
    assert_eq!(again.status.code(), Some(78), "{}", error(&again));
    assert!(error(&again).contains("chat.jsonl"), "{}", error(&again));
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    for (arguments, said, code, words) in [
        (&[KING][..], "/rest\n", 78, "there is no `/rest`"),
        (&[KING, "--max-new-tokens", "5000"], "hello\n", 65, "do not fit in the context of 4096"),
        (&[KING, "--temperature", "-1"], "", 78, "temperature is -1"),
        (&["examples/nowhere"], "", 66, "examples/nowhere"),
        (&[], "", 2, "MODEL"),
        (&["m", "--server", "http://127.0.0.1:9"], "", 69, "127.0.0.1:9"),
        (&["m", "--key-env", "KEY"], "", 2, "--server"),
        (&["m", "--server", "http://127.0.0.1:9", "--device", "cpu"], "", 2, "--device"),
    ] {
        let output = chat(arguments, said);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_model_is_told_the_whole_conversation() {
    let server = ScriptedServer::start(|seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&["owner/model"]);
        }
        match seen.body["messages"].as_array().map(Vec::len) {
            Some(1) => Answer::stream(&["I ", "am ", "here."]),
            Some(3) => Answer::stream(&["Still\r", " here."]),
            _ => Answer::refuse(400, "too many messages"),
        }
    });
    let server = server.await.expect("starts");
    let url = server.base_url();
    let url = url.strip_suffix("/v1").unwrap_or(&url).to_owned();
    let talk = move |said: &'static str| {
        let mut command = command(["chat", "--server", &url, "--key-env", "TALK_KEY", "--seed", "3"]);
        command.env("TALK_KEY", "s3cret").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("albedo starts");
        child.stdin.take().expect("a pipe").write_all(said.as_bytes()).expect("writes");
        output(&mut child)
    };
    let (good, bad) = tokio::task::spawn_blocking(move || (talk("Hello?\nAnd now?\n"), talk("a\nb\nc\n")))
        .await
        .expect("ends");
    assert_eq!(stdout(&good), "I am here.\nStill\r here.\n", "over a pipe as it is");
    let asked: Vec<_> = server.seen().into_iter().filter(|seen| !seen.path.ends_with("/models")).collect();
    assert_eq!(asked[1].body["messages"][1], json!({ "role": "assistant", "content": "I am here." }));
    assert_eq!((&asked[0].body["seed"], &asked[1].body["seed"]), (&json!(3), &json!(4)));
    assert_eq!(asked[0].body["model"], "owner/model");

    assert_eq!(String::from_utf8_lossy(&bad.stdout), "I am here.\nStill\r here.\n", "what came before stays");
    assert!(!bad.status.success() && error(&bad).contains("too many messages"), "{}", error(&bad));
    assert!(!format!("{bad:?}{good:?}").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_served_models_one_has_to_be_named() {
    let server = ScriptedServer::start(|_| Answer::models(&["one", "two"])).await.expect("starts");
    let url = server.base_url();
    let output =
        tokio::task::spawn_blocking(move || chat(&["--server", &url], "hello\n")).await.expect("ends");
    assert_eq!(output.status.code(), Some(78));
    assert!(error(&output).contains("offers 2 models: one, two"), "{}", error(&output));
}

/// What a terminal shows, read until it shows something.
struct Terminal {
    child: Child,
    shown: String,
}

impl Terminal {
    /// A terminal with `albedo chat`, or `None` where there is no `script` to make one.
    fn open(arguments: &[&str]) -> Option<Self> {
        // `exec`, as some shells take an interrupt for themselves and end with it.
        let line = [&["exec", env!("CARGO_BIN_EXE_albedo"), "chat"], arguments].concat().join(" ");
        let child = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"])
            .current_dir(root())
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Some(Self { child: child.ok()?, shown: String::new() })
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).expect("writes");
    }

    /// Reads on until `is_there`, and returns what came.
    fn until(&mut self, is_there: impl Fn(&str) -> bool) -> String {
        let mut bytes = [0; 1024];
        while !is_there(&self.shown) {
            let count = self.child.stdout.as_mut().expect("a pipe").read(&mut bytes).expect("reads");
            assert!(count > 0, "it ended: {}", self.shown);
            self.shown += &String::from_utf8_lossy(&bytes[..count]);
        }
        std::mem::take(&mut self.shown)
    }
}

#[test]
fn an_interrupt_ends_a_reply_and_not_the_program() {
    // Almost any token, so that a reply does not end by itself.
    let endless = [KING, "--temperature", "50", "--top-p", "1", "--max-new-tokens", "3900", "--seed", SEED];
    let Some(mut terminal) = Terminal::open(&endless) else {
        println!("skipped: there is no `script` to make a terminal with");
        return;
    };
    terminal.until(|shown| shown.ends_with("> "));
    terminal.press("hello\n");
    let reply = terminal.until(|shown| shown.len() > 600);
    assert!(!reply.contains('\u{1b}'), "a model's control characters stay with it: {reply:?}");
    terminal.press("\u{3}");
    let end = terminal.until(|shown| shown.contains("(stopped)") || shown.contains("tokens, "));
    assert!(end.contains("(stopped)"), "{end}");
    terminal.press("\u{3}");
    terminal.until(|shown| shown.contains("ends the conversation"));
    terminal.press("/save\n");
    terminal.until(|shown| shown.contains("there is no `/save`"));
    terminal.press("/quit\n");
    assert!(terminal.child.wait().expect("ends").success());
}

/// Of a reply that has more than 3,000 tokens.
const SEED: &str = "0";
