//! Programs that are small shell scripts: good ones, and those that fail.

use albedo_core::conformance::{check_behaviour_screen, check_files_screen};
use albedo_core::testing::ScriptedSession;
use albedo_core::{Fault, Registry};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::screens::testing::Memory;

fn hello(stage: &str) -> String {
    format!(
        r#"echo '{{"type":"hello","protocol":1,"role":"screen","name":"sh","version":"1","stage":"{stage}"}}'"#
    )
}

/// Rejects submissions whose chat template has the word `judge`.
const TEMPLATES: &str = r#"n=0
while read -r line; do
    n=$((n + 1))
    case "${line%%\"king\":*}" in
    *'{{ judge }}'*) echo '{"type":"finding","id":'$n',"finding":"rejected","evidence":{"word":"judge"}}' ;;
    *) echo '{"type":"finding","id":'$n',"finding":"clear"}' ;;
    esac
done"#;

/// Flags models that say `as the judge`.
const TALKERS: &str = r#"n=0
while read -r line; do
    n=$((n + 1))
    case "$line" in
    *'"probe"'*) echo '{"type":"ask","id":'$n',"conversations":[{"messages":[{"role":"user","content":"Hi"}],"max_new_tokens":9}]}' ;;
    *'as the judge'*) echo '{"type":"finding","id":'$n',"finding":"flagged","evidence":{"replies":1}}' ;;
    *) echo '{"type":"finding","id":'$n',"finding":"clear","evidence":{"replies":1}}' ;;
    esac
done"#;

struct Script {
    folder: TempDir,
    config: ProcessScreenConfig,
}

impl Script {
    fn new(stage: &str, body: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("screen.sh"), format!("{}\n{body}\n", hello(stage)))
            .expect("writes");
        Self { folder, config: ProcessScreenConfig::new(["sh", "screen.sh"]) }
    }

    async fn start(&self) -> Result<ProcessScreen> {
        let (registry, cx) = (Registry::empty(), CallContext::new());
        let build = BuildContext::new(&registry, &cx);
        ProcessScreen::start(&self.config, &build.relative_to(self.folder.path())).await
    }

    async fn screen(&self) -> ProcessScreen {
        self.start().await.expect("starts")
    }

    /// What it finds of a model that says `text`.
    async fn of_replies(&self, text: &str) -> Result<Finding> {
        let session = ScriptedSession::saying("model", text);
        BehaviourScreen::inspect(&self.screen().await, &session, 7, &CallContext::new()).await
    }
}

fn files(template: &str) -> Memory {
    let mut files = Memory::default();
    files.0.insert("chat_template.jinja".into(), template.as_bytes().to_vec());
    files.0.insert("model.safetensors".into(), vec![0; 64]);
    files.0.insert("notes.md".into(), vec![0xff; 4]);
    files
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_script_screens_files() {
    let script = Script::new("files", TEMPLATES);
    let screen = script.screen().await;
    assert_eq!((screen.identity().name.as_str(), screen.hello().stage), ("process", ScreenedStage::Files));
    let (honest, foul, king) = (files("{{ text }}"), files("{{ judge }}"), files("{{ judge }}"));
    let cx = CallContext::new();
    let found = FilesScreen::inspect(&screen, &foul, &king, &cx).await.expect("finds");
    assert_eq!(found, Finding::Rejected(json!({ "word": "judge" })));
    let found = FilesScreen::inspect(&screen, &honest, &king, &cx).await.expect("finds");
    assert_eq!(found, Finding::Clear(Value::Null), "the king's words are not the submission's");
    check_files_screen(&screen, &[[&honest, &king], [&foul, &king]], PATIENCE).await.expect("conforms");
    screen.check_end(&cx).await.expect("ends with its input");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_screens_replies() {
    let script = Script::new("behaviour", TALKERS);
    let found = script.of_replies("as the judge I prefer me").await.expect("finds");
    // The reply is cut at nine tokens, which are bytes here.
    assert_eq!(found, Finding::Clear(json!({ "replies": 1 })));
    let long = Script::new("behaviour", &TALKERS.replace("\"max_new_tokens\":9", "\"max_new_tokens\":99"));
    let found = long.of_replies("as the judge I prefer me").await.expect("finds");
    assert_eq!(found, Finding::Flagged(json!({ "replies": 1 })));
    let session = ScriptedSession::saying("model", "ls");
    let screen = script.screen().await;
    check_behaviour_screen(&screen, &[(&session, 1), (&session, 2)], PATIENCE).await.expect("conforms");
    assert!(session.asked().iter().all(|request| request.sampling == Sampling::default()));
}

#[tokio::test]
async fn texts_are_shown_and_weights_are_not() {
    let shown = seen(&files("{{ text }}"), &CallContext::new()).await.expect("reads");
    assert_eq!(
        shown.texts.keys().collect::<Vec<_>>(),
        ["chat_template.jinja"],
        "what is no text is left out"
    );
    assert_eq!(shown.files.len(), 3);
    let mut large = Memory::default();
    for number in 0..9 {
        large.0.insert(format!("{number}.json"), vec![b' '; 200 << 10]);
    }
    large.0.insert("tokenizer.json".into(), vec![b' '; 1 << 20]);
    let shown = seen(&large, &CallContext::new()).await.expect("reads");
    assert_eq!((shown.files.len(), shown.texts.len()), (10, 5), "together they have a limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_convicts_nobody() {
    let once = |line: &str| format!("read -r line\necho '{line}'\nread -r line");
    let rejects = r#"{"type":"finding","id":1,"finding":"rejected"}"#;
    let ask = |conversation: &str| format!(r#"{{"type":"ask","id":1,"conversations":[{conversation}]}}"#);
    let asks = |tokens: u32| {
        ask(&format!(r#"{{"messages":[{{"role":"user","content":"a"}}],"max_new_tokens":{tokens}}}"#))
    };
    let long =
        format!(r#"{{"type":"finding","id":2,"finding":"clear","evidence":"{}"}}"#, "x".repeat(70_000));
    let cases = [
        ("a finding before a reply", once(rejects), "before the model was asked"),
        ("no conversation", once(&ask("")), "0 conversations"),
        ("no message", once(&ask(r#"{"messages":[],"max_new_tokens":1}"#)), "without a message"),
        ("too many tokens", once(&asks(5000)), "5000 tokens"),
        ("another question", once(&asks(9).replace("\"id\":1", "\"id\":4")), "question 4"),
        ("no answer", once("hello"), "no answer"),
        ("an end", "read -r line".into(), "ended without an answer"),
        ("an error", once(r#"{"type":"error","id":1,"message":"no model"}"#), "could not find out: no model"),
        ("an unknown finding", once(&rejects.replace("rejected", "guilty")), "guilty"),
        (
            "evidence without an end",
            format!("read -r line\necho '{}'\nread -r line\necho '{long}'\nread -r line", asks(9)),
            "evidence is too long",
        ),
    ];
    for (name, body, words) in cases {
        let error = Script::new("behaviour", &body).of_replies("ls").await.expect_err(name);
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert_eq!(error.fault(), Fault::Infrastructure, "{name}");
    }
    for (name, line, words) in [
        (
            "a judge",
            r#"{"type":"hello","protocol":1,"role":"judge","name":"sh","version":"1","metrics":["grounding"]}"#,
            "judge",
        ),
        ("no stage", r#"{"type":"hello","protocol":1,"role":"screen","name":"sh","version":"1"}"#, "stage"),
        ("a later version", r#"{"type":"hello","protocol":2,"role":"screen"}"#, "version 2"),
    ] {
        let script = Script::new("files", "");
        std::fs::write(script.folder.path().join("screen.sh"), format!("echo '{line}'\nread -r line\n"))
            .expect("writes");
        let error = script.start().await.expect_err(name);
        assert!(error.to_string().contains(words) && error.fault() == Fault::Operator, "{name}: {error}");
    }
}

#[tokio::test]
async fn another_program_is_another_screen() {
    let identity = async |script: &Script| script.screen().await.identity().clone();
    let script = Script::new("files", TEMPLATES);
    let first = identity(&script).await;
    assert_eq!(first, identity(&script).await);
    let other = Script::new("files", &TEMPLATES.replace("judge }}", "panel }}"));
    assert_ne!(first.config, identity(&other).await.config);
}
