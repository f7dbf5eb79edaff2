//! Programs that are small shell scripts: good ones, and those that fail in every way.

use std::path::{Path, PathBuf};

use albedo_core::conformance::{JudgeFixture, check_comparison};
use albedo_core::registry::{Resources, Secret, Secrets};
use albedo_core::{Fault, Reach, Registry};
use tempfile::TempDir;

use super::*;
use crate::testing::{SEARCH, TEST, comparison};

const HELLO: &str = r#"echo '{"type":"hello","protocol":1,"role":"judge","name":"sh","version":"1","metrics":["grounding"]}'"#;

/// Answers every question with a tie.
const TIES: &str = r#"n=0
while read -r line; do
    n=$((n + 1))
    echo '{"type":"scores","id":'$n',"scores":{"grounding":0.5}}'
done"#;

/// Answers one question with `line`, in which `$n` is its number.
fn once(line: &str) -> String {
    format!("read -r line\n{line}\nread -r line")
}

/// A script after its hello, in a folder of its own.
struct Script {
    folder: TempDir,
    config: ProcessConfig,
}

impl Script {
    fn new(body: &str) -> Self {
        Self::whole(&format!("{HELLO}\n{body}\n"))
    }

    fn whole(text: &str) -> Self {
        let script = Self {
            folder: tempfile::tempdir().expect("a folder"),
            config: ProcessConfig::new(["sh", "judge.sh"]),
        };
        script.write("judge.sh", text);
        script
    }

    fn limit(mut self, secs: f64) -> Self {
        self.config.timeout_secs = secs;
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("writes");
    }

    async fn start(&self) -> Result<ProcessJudge> {
        let (registry, cx) = (Registry::empty(), CallContext::new());
        ProcessJudge::start(&self.config, &BuildContext::new(&registry, &cx).relative_to(self.folder.path()))
            .await
    }

    async fn judge(&self) -> ProcessJudge {
        self.start().await.expect("starts")
    }

    async fn identity(&self) -> Identity {
        self.judge().await.identity().clone()
    }

    /// The error of one question.
    async fn error(&self) -> Error {
        ask(&self.judge().await).await.expect_err("no answer")
    }
}

async fn ask(judge: &ProcessJudge) -> Result<Assessment> {
    judge.compare(&comparison(SEARCH, SEARCH, TEST), &CallContext::new()).await
}

#[tokio::test]
async fn a_script_is_a_judge() {
    let judge = Script::new(TIES).judge().await;
    assert_eq!((judge.identity().name.as_str(), judge.hello().name.as_str()), ("process", "sh"));
    assert!(judge.profile().metrics.into_iter().eq([Metric::Grounding]));
    let fixture = JudgeFixture::new(Vec::new());
    check_comparison(&judge, &comparison(SEARCH, TEST, SEARCH), &fixture).await.expect("conforms");
    judge.check_end(&CallContext::new()).await.expect("ends with its input");
}

#[tokio::test]
async fn many_questions_at_once_wait_for_few_processes() {
    for parallel in [1, 3] {
        let mut script = Script::new(TIES);
        script.config.parallel = parallel;
        let judge = script.judge().await;
        let answers = futures::future::join_all((0..20).map(|_| ask(&judge))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Assessment::Scored { .. }))), "{answers:?}");
    }
}

#[tokio::test]
async fn an_abstention_an_error_and_words_of_its_own_are_handed_on() {
    let judge = Script::new(&once(r#"echo '{"type":"abstain","id":1,"reason":"no words"}'"#)).judge().await;
    assert_eq!(ask(&judge).await.expect("answers"), Assessment::Abstained { reason: "no words".into() });
    for (retry, again) in [("", false), (r#","retry":true"#, true)] {
        let line = format!(r#"echo '{{"type":"error","id":1,"message":"too busy"{retry}}}'"#);
        let error = Script::new(&once(&line)).error().await;
        assert!(error.to_string().contains("the program could not judge: too busy"), "{error}");
        assert_eq!((error.is_retryable(), error.fault()), (again, Fault::Infrastructure));
    }
    let line = r#"echo '{"type":"scores","id":1,"scores":{"grounding":1},"rationale":"why","usage":{"price_usd":0.5}}'"#;
    let answer = ask(&Script::new(&once(line)).judge().await).await.expect("answers");
    let Assessment::Scored { rationale: Some(why), usage: Some(usage), .. } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((why.as_str(), usage.price_usd), ("why", Some(0.5)));
}

#[tokio::test]
async fn a_program_that_ends_is_started_again_and_not_for_ever() {
    let script = Script::new("read -r line\necho out of cheese >&2\nexit 3");
    let judge = script.judge().await;
    for failure in 1..pool::FAILURES {
        let error = ask(&judge).await.expect_err("no answer");
        assert_eq!(
            (error.kind(), error.reach()),
            (ErrorKind::Unavailable, Reach::Call),
            "{failure}: {error}"
        );
        assert!(error.is_retryable() && error.fault() == Fault::Infrastructure);
        for part in ["ended without an answer", "exit status: 3", "out of cheese", "program: sh"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
    let error = ask(&judge).await.expect_err("no answer");
    assert_eq!((error.reach(), error.retry()), (Reach::Duel, Retry::Never), "{error}");
    assert!(error.to_string().contains("albedo judge conform"), "{error}");
}

#[tokio::test]
async fn an_answer_counts_as_a_recovery() {
    // Every other process answers its one question.
    let script = Script::new(
        "read -r line\nif test -e broken; then rm broken; else : >broken; exit 1; fi\n\
         echo '{\"type\":\"scores\",\"id\":1,\"scores\":{\"grounding\":0.5}}'\nread -r line\nexit 1",
    );
    let judge = script.judge().await;
    let mut answered = 0;
    for question in 0..4 * pool::FAILURES {
        match ask(&judge).await {
            Ok(_) => answered += 1,
            Err(error) => assert_eq!(error.reach(), Reach::Call, "{question}: {error}"),
        }
    }
    assert!(answered > 1, "{answered}");
}

#[tokio::test]
async fn a_process_that_ends_while_it_waits_loses_no_question() {
    let script =
        Script::new("read -r line\necho '{\"type\":\"scores\",\"id\":1,\"scores\":{\"grounding\":0.5}}'");
    let judge = script.judge().await;
    for _ in 0..3 {
        // It ends after each answer; whether albedo has seen it yet is a matter of time.
        match ask(&judge).await {
            Ok(answer) => assert!(matches!(answer, Assessment::Scored { .. }), "{answer:?}"),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_silent_program_is_out_of_time_whether_it_reads_or_not() {
    let long = "x".repeat(1 << 20);
    for body in ["read -r line\nexec sleep 1000", "exec sleep 1000", "exec sleep 1000 >/dev/null"] {
        // It stays until the end: a program that went is started again.
        let script = Script::new(body).limit(3.0);
        let judge = script.judge().await;
        let request = comparison(SEARCH, &long, TEST);
        let error = judge.compare(&request, &CallContext::new()).await.expect_err("no answer");
        let closed = body.contains("null");
        let kind = if closed { ErrorKind::Unavailable } else { ErrorKind::Timeout };
        assert_eq!((error.kind(), error.is_retryable()), (kind, true), "{error}");
        assert!(closed || error.to_string().contains("no answer within 3 s"), "{error}");
    }
}

#[tokio::test]
async fn a_program_that_never_stops_talking_is_stopped() {
    let noise = "while :; do echo noise >&2; done";
    let error = Script::new(noise).limit(3.0).error().await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("noise / noise"), "{error}");

    let endless = "read -r line\nexec tr '\\0' a </dev/zero";
    let error = Script::new(endless).error().await;
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert!(error.to_string().contains("more than 1048576 bytes"), "{error}");

    // More than a pipe holds, and then an answer.
    let chatty = "read -r line\ni=0\nwhile test $i -lt 20000; do i=$((i + 1)); echo noise $i >&2; done\n\
                  echo '{\"type\":\"abstain\",\"id\":1,\"reason\":\"done\"}'\nread -r line";
    let answer = ask(&Script::new(chatty).judge().await).await.expect("answers");
    assert_eq!(answer, Assessment::Abstained { reason: "done".into() });
}

#[tokio::test]
async fn what_nobody_asked_for_is_refused() {
    // It talks before it is asked, and so is caught before its answer could be mistaken.
    let early = Script::new("echo again\nread -r line").limit(30.0);
    let judge = early.judge().await;
    let error = loop {
        match ask(&judge).await {
            // The line came with the question: it is no answer.
            Ok(Assessment::Unreadable { .. }) => {}
            Ok(answer) => panic!("{answer:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");

    let other = Script::new(&once(r#"echo '{"type":"abstain","id":7,"reason":"x"}'"#)).error().await;
    assert_eq!(other.kind(), ErrorKind::Protocol);
    assert!(other.to_string().contains("it answered question 7 when it was asked question 1"), "{other}");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_kept_as_it_came() {
    for (line, why) in [
        ("echo not JSON", "expected ident"),
        (r#"echo '{"type":"scores","id":1,"scores":{"grounding":2}}'"#, "not between 0 and 1"),
        (r#"echo '{"type":"scores","id":1,"scores":{"progress":1}}'"#, "other metrics"),
        (r#"echo '{"type":"scores","id":1,"scores":{"grounding":1},"usage":{"price_usd":-1}}'"#, "its price"),
        ("printf '\\377\\n'", "expected value"),
        ("echo", "EOF"),
    ] {
        let script = Script::new(&once(line));
        let judge = script.judge().await;
        for _ in 0..2 {
            let answer = ask(&judge).await.expect("an answer");
            let Assessment::Unreadable { reason, evidence, .. } = &answer else { panic!("{answer:?}") };
            assert!(reason.contains(why), "{reason}");
            assert_eq!(evidence.answer.is_empty(), line == "echo");
        }
    }
}

#[tokio::test]
async fn a_program_that_says_no_hello_is_no_judge() {
    for (text, why) in [
        ("echo Loading", "its first line is no hello"),
        ("echo '{\"type\":\"hello\",\"protocol\":9}'", "it speaks version 9 of the protocol"),
        ("echo no module named torch >&2\nexit 1", "no module named torch"),
        ("printf '{\"type\"'", "it ended without a hello"),
        ("exec sleep 1000", "no hello within 3 s"),
    ] {
        let error = Script::whole(text).limit(3.0).start().await.expect_err("no judge");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!((error.fault(), error.reach()), (Fault::Operator, Reach::Duel), "{error}");
    }
    let mut script = Script::new(TIES);
    script.config.command = vec!["no-such-program-anywhere".into()];
    let error = script.start().await.expect_err("no program");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator));
    script.config.command = vec!["./judge.sh".into()];
    let error = script.start().await.expect_err("not executable");
    assert!(error.to_string().contains("it must be executable"), "{error}");
}

#[tokio::test]
async fn a_program_that_cannot_be_started_again_ends_the_duel() {
    let script = Script::whole(&format!("test -e gone && exit 1\n{HELLO}\ntouch gone\nread -r line\nexit 1"));
    let judge = script.judge().await;
    let reaches = [Reach::Call, Reach::Call, Reach::Call, Reach::Duel];
    for expected in reaches {
        let error = ask(&judge).await.expect_err("no answer");
        assert_eq!((error.reach(), error.is_retryable()), (expected, expected == Reach::Call), "{error}");
    }
    let other = HELLO.replace("\"sh\"", "\"another\"");
    let script =
        Script::whole(&format!("if test -e gone; then {other}; else {HELLO}; fi\ntouch gone\nexit 1"));
    let judge = script.judge().await;
    let errors = [ask(&judge).await, ask(&judge).await].map(|answer| answer.expect_err("no answer"));
    let other = errors.iter().find(|error| error.kind() == ErrorKind::Conflict).expect("another hello");
    assert_eq!((other.fault(), other.reach()), (Fault::Operator, Reach::Duel), "{other}");
}

#[tokio::test]
async fn the_identity_is_made_of_what_can_change_an_answer() {
    let script = Script::new(TIES);
    script.write("words.txt", "a");
    let first = script.identity().await;
    let mut same = Script::new(TIES);
    same.config.timeout_secs = 7.0;
    same.config.parallel = 2;
    same.config.metrics = Some(BTreeSet::from([Metric::Grounding]));
    assert_eq!(same.identity().await, first, "neither the folder nor how it is asked is part of it");
    let mut with_file = Script::new(TIES);
    with_file.config.files = vec!["words.txt".into()];
    with_file.write("words.txt", "a");
    let with_words = with_file.identity().await;
    with_file.write("words.txt", "b");
    let with_other_words = with_file.identity().await;
    let mut with_argument = Script::new(TIES);
    with_argument.config.command.push("--strict".into());
    let identities = [
        first,
        Script::new(&format!("{TIES}\n")).identity().await,
        with_words,
        with_other_words,
        with_argument.identity().await,
    ];
    for (place, identity) in identities.iter().enumerate() {
        assert!(identities[..place].iter().all(|other| other.config != identity.config), "{place}");
    }
}

#[tokio::test]
async fn a_program_whose_bytes_have_changed_is_not_started_again() {
    let script = Script::new("read -r line\nexit 1");
    let judge = script.judge().await;
    assert_eq!(ask(&judge).await.expect_err("no answer").kind(), ErrorKind::Unavailable);
    script.write("judge.sh", &format!("{HELLO}\n{TIES}"));
    let error = ask(&judge).await.expect_err("another program");
    assert_eq!(
        (error.kind(), error.fault(), error.reach()),
        (ErrorKind::DigestMismatch, Fault::Operator, Reach::Duel)
    );
    assert!(error.to_string().contains("file: judge.sh"), "{error}");
}

#[derive(Debug)]
struct OneSecret;

impl Secrets for OneSecret {
    fn get(&self, name: &str) -> Result<Secret> {
        match name {
            "API_KEY" => Ok(Secret::new("s3cret")),
            _ => Err(Error::new(ErrorKind::NotFound, "read a secret", "it is not set")),
        }
    }
}

#[tokio::test]
async fn a_program_gets_the_listed_variables_and_no_others() {
    let mut script = Script::new(&once(
        r#"echo '{"type":"abstain","id":1,"reason":"'"${API_KEY-none} ${HOME-none} ${CARGO_MANIFEST_DIR-none}"'"}'"#,
    ));
    script.config.env = BTreeSet::from(["API_KEY".into()]);
    let (registry, cx) = (Registry::empty(), CallContext::new());
    let cx = BuildContext::new(&registry, &cx)
        .with_resources(Resources::default().with_secrets(OneSecret))
        .relative_to(script.folder.path());
    let judge = ProcessJudge::start(&script.config, &cx).await.expect("starts");
    let answer = ask(&judge).await.expect("answers");
    assert_eq!(answer, Assessment::Abstained { reason: "s3cret none none".into() });
    script.config.env.insert("OTHER".into());
    let error = ProcessJudge::start(&script.config, &cx).await.expect_err("no such variable");
    assert!(error.to_string().contains("key: env"), "{error}");
}

#[tokio::test]
async fn settings_are_checked_without_starting_anything() {
    let registry = Registry::linked().expect("links");
    let check = |settings| registry.check::<dyn Judge>("process", settings);
    check(serde_json::json!({ "command": ["no-such-program"] })).expect("nothing is looked for");
    for (settings, key) in [
        (serde_json::json!({ "command": [] }), "command"),
        (serde_json::json!({ "command": ["a", "b\0"] }), "command"),
        (serde_json::json!({ "command": ["a"], "parallel": 0 }), "parallel"),
        (serde_json::json!({ "command": ["a"], "timeout_secs": 0 }), "timeout_secs"),
        (serde_json::json!({ "command": ["a"], "timeout_secs": 1e9 }), "timeout_secs"),
        (serde_json::json!({ "command": ["a"], "metrics": [] }), "metrics"),
        (serde_json::json!({ "command": ["a"], "env": ["A=b"] }), "env"),
        (serde_json::json!({ "command": ["a"], "label": " " }), "label"),
        (serde_json::json!({ "command": ["a"], "shell": true }), "shell"),
    ] {
        let error = check(settings).expect_err(key);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(key), "{error}");
    }
    assert!(!registry.is_offline::<dyn Judge>("process"), "no record starts a program");
    let mut script = Script::new(TIES);
    script.config.metrics = Some(BTreeSet::from([Metric::Progress]));
    let error = script.start().await.expect_err("the program cannot");
    assert!(error.to_string().contains("does not score `progress`"), "{error}");
}

/// Waits until process `pid` has ended, as whatever state of a zombie nobody reaps.
#[cfg(target_os = "linux")]
async fn ended(pid: &str) {
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    let gone = async {
        while runs() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), gone).await.expect("it is killed");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_is_killed_with_its_children_and_leaves_no_zombie() {
    let body = "sleep 1000 &\necho $! >child\necho $$ >own\nread -r line\nwait";
    let pids = |script: &Script| {
        ["own", "child"]
            .map(|name| std::fs::read_to_string(script.path(name)).expect("a pid").trim().to_owned())
    };
    let script = Script::new(body).limit(3.0);
    let judge = script.judge().await;
    assert_eq!(ask(&judge).await.expect_err("no answer").kind(), ErrorKind::Timeout);
    let [own, child] = pids(&script);
    assert!(!Path::new("/proc").join(own).exists(), "it was waited for");
    ended(&child).await;

    // The same when a call is given up, and when the judge is dropped.
    let script = Script::new(body);
    let judge = script.judge().await;
    let cx = CallContext::new();
    let request = comparison(SEARCH, SEARCH, TEST);
    let (answer, ()) = futures::future::join(judge.compare(&request, &cx), async {
        while !std::fs::read_to_string(script.path("own")).is_ok_and(|text| text.ends_with('\n')) {
            tokio::task::yield_now().await;
        }
        cx.cancel();
    })
    .await;
    assert_eq!(answer.expect_err("given up").kind(), ErrorKind::Cancelled);
    for pid in pids(&script) {
        ended(&pid).await;
    }
    let script = Script::new(&format!("sleep 1000 &\necho $! >child\necho $$ >own\n{TIES}"));
    let judge = script.judge().await;
    ask(&judge).await.expect("answers");
    drop(judge);
    for pid in pids(&script) {
        ended(&pid).await;
    }
}
