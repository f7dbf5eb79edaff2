//! The first hour of somebody who has the program and nothing else: an empty folder,
//! no clone, and every step as the last one says.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use albedo::backends::openai::scripted::{Act, Answer, ScriptedServer};
use serde_json::Value;
use tempfile::TempDir;

use crate::panel::recorded;
use crate::question::Question;
use crate::run::{error, stdout};

/// A user with a home of his own, in an empty folder.
struct Newcomer(TempDir);

impl Newcomer {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir(home.0.path().join("work")).expect("creates");
        home
    }

    /// Where he works.
    fn folder(&self) -> PathBuf {
        self.0.path().join("work")
    }

    /// `albedo` as he types it.
    fn command(&self, line: &str) -> Command {
        let home = self.0.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_albedo"));
        command.current_dir(self.folder()).args(line.split(' '));
        command.env("HOME", home).env("XDG_CACHE_HOME", home.join("cache"));
        command.env("XDG_STATE_HOME", home.join("state"));
        for variable in ["ALBEDO_DEMO_DIR", "ALBEDO_LOG", "CHUTES_API_KEY", "OPENROUTER_API_KEY"] {
            command.env_remove(variable);
        }
        command
    }

    fn albedo(&self, line: &str) -> Output {
        self.command(line).output().expect("albedo starts")
    }

    /// The standard output of a step that succeeds.
    #[track_caller]
    fn does(&self, line: &str) -> String {
        stdout(&self.albedo(line))
    }

    /// The standard error of a step that succeeds.
    #[track_caller]
    fn says(&self, line: &str) -> String {
        let output = self.albedo(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder().join(name), text).expect("writes");
    }

    /// Presses Ctrl-C in `line`, which duels in `out`, once judges have answered.
    fn interrupt(&self, line: &str, out: &str) {
        let mut running = self.command(line);
        let mut running = running.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        let journal = self.folder().join(out).join("journal.jsonl");
        let answers = || fs::read_to_string(&journal).unwrap_or_default().matches("assessed\"").count();
        while answers() < 4 {
            assert_eq!(running.try_wait().expect("runs"), None, "it ended before it was interrupted");
            std::thread::yield_now();
        }
        let kill = Command::new("kill").args(["-INT", &running.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        let ended = running.wait_with_output().expect("ends");
        assert_eq!(ended.status.code(), Some(130), "{}", error(&ended));
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains("stopping; once more to stop at once"), "{said}");
        assert!(error(&ended).contains(&format!("go on with `albedo duel --resume {out}`")), "{said}");
    }
}

/// What follows every duel, as the program says it.
#[track_caller]
fn says_what_is_next(said: &str, commands: &[&str]) {
    let next: Vec<_> = said.lines().skip_while(|line| !line.starts_with("next: ")).collect();
    for command in commands {
        assert!(next.iter().any(|line| line.contains(command)), "`{command}` is not in: {said}");
    }
}

#[test]
#[cfg(unix)]
fn the_demo_runs_in_an_empty_folder() {
    let newcomer = Newcomer::new();
    let said = newcomer.says("init first --demo");
    says_what_is_next(
        &said,
        &["albedo config check first/duel.toml", "albedo duel --config first/duel.toml"],
    );
    let config = fs::read_to_string(newcomer.folder().join("first/duel.toml")).expect("is written");
    assert!(config.starts_with("#:schema ./duel.schema.json\n"));
    let schema = fs::read(newcomer.folder().join("first/duel.schema.json")).expect("is written");
    assert!(serde_json::from_slice::<Value>(&schema).expect("JSON")["properties"].get("judges").is_some());

    let checked = newcomer.does("config check first/duel.toml");
    assert!(checked.contains("is well-formed; judges: protocol, reference-action"), "{checked}");
    newcomer.interrupt("duel --config first/duel.toml --out run", "run");

    let undecided = newcomer.albedo("record show run");
    assert_eq!(undecided.status.code(), Some(66));
    let line = error(&undecided);
    assert!(line.contains("not decided") && line.contains("`albedo duel --resume run`"), "{line}");

    // A second process that looks into the same folder waits for the first.
    let journal = fs::File::open(newcomer.folder().join("run/journal.jsonl")).expect("opens");
    journal.lock().expect("locks");
    let second = newcomer.albedo("duel --resume run");
    assert_eq!(second.status.code(), Some(75), "{}", error(&second));
    assert!(error(&second).contains("another process has it open"), "{}", error(&second));
    drop(journal);

    let resumed = newcomer.albedo("duel --resume run");
    let shown = stdout(&resumed);
    assert!(shown.contains("The challenger is crowned") && shown.contains("+39.74"), "{shown}");
    let said = String::from_utf8_lossy(&resumed.stderr).into_owned();
    says_what_is_next(&said, &["albedo record show run --sample 0", "albedo record verify run"]);
    let said = newcomer.says("duel --resume run");
    assert!(said.contains("this duel was decided before"), "{said}");

    assert!(newcomer.does("record show run").contains("+39.74"));
    assert!(newcomer.does("record show run --sample 0").contains("recorded reply"));
    assert!(newcomer.does("record verify run").contains("16 samples"));

    newcomer.write("question", "Which files are there?");
    newcomer.write("a", "THOUGHT: I look.\n\n```bash\nls\n```");
    newcomer.write("b", "Files?");
    let tried =
        "judge try --config first/duel.toml --judge protocol --conversation question --first a --second b";
    assert!(newcomer.does(tried).contains("1.000 for the first"));
    let screened = newcomer.does("screen --config first/duel.toml --screen files --screen architecture");
    assert!(screened.contains("files") && screened.contains("architecture"), "{screened}");

    // What is there is never written over.
    let again = newcomer.albedo("init first --demo");
    assert_eq!(again.status.code(), Some(78), "{}", error(&again));
    assert!(error(&again).contains("there is a `duel.toml` already"), "{}", error(&again));
    let unsaid = newcomer.albedo("init elsewhere");
    assert_eq!(unsaid.status.code(), Some(2), "{}", error(&unsaid));
    assert!(error(&unsaid).contains("`--demo`, `--remote` or `--panel`"), "{}", error(&unsaid));
}

#[test]
fn the_demo_is_written_into_the_cache_and_duels_from_anywhere() {
    let newcomer = Newcomer::new();
    let said = newcomer.albedo("duel --demo --samples 5 --rule margin --judge protocol --out small");
    assert!(stdout(&said).contains("samples     5 of 5 planned"), "{}", stdout(&said));
    assert!(newcomer.0.path().join("cache/albedo/demo").is_dir());
    let lost = newcomer.command("duel --demo --out lost").env("ALBEDO_DEMO_DIR", "nowhere").output();
    let lost = lost.expect("starts");
    assert_eq!(lost.status.code(), Some(66));
    assert!(error(&lost).contains("ALBEDO_DEMO_DIR: nowhere"), "{}", error(&lost));
}

#[test]
fn a_task_set_of_ones_own_is_made_and_drawn_from() {
    let newcomer = Newcomer::new();
    let chat = |number: usize| {
        let said = |role: &str, text: String| serde_json::json!({ "role": role, "content": text });
        let messages = [
            said("user", format!("What is in folder {number}?")),
            said("assistant", format!("THOUGHT: I look.\n\n```bash\nls folder-{number}\n```")),
        ];
        serde_json::json!({ "instance_id": format!("chat-{number}"), "messages": messages }).to_string()
            + "\n"
    };
    newcomer.write("chats.jsonl", &(0..12).map(chat).collect::<String>());
    let made = newcomer.albedo("tasks make chats.jsonl");
    let shown = stdout(&made);
    assert!(shown.starts_with("tasks: conversations 12, instances 12, assistant's turns 12\n"), "{shown}");
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(said.contains("`samples` can be at most 12"), "{said}");
    says_what_is_next(&said, &["albedo duel --demo --tasks tasks"]);
    let output =
        newcomer.albedo("duel --demo --tasks tasks --samples 5 --rule margin --judge protocol --out own");
    assert!(stdout(&output).contains("5 of 12 tasks"), "{}", stdout(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("their pin `manifest` is dropped"), "{said}");
    assert!(newcomer.does("record verify own --tasks tasks").contains("compared with the tasks"));

    // What is said to come next after fewer tasks than the usual rule needs is a duel, too.
    newcomer.write("few.jsonl", &(0..3).map(chat).collect::<String>());
    let said = newcomer.says("tasks make few.jsonl --out few");
    assert!(said.contains("`sequential`, needs 5 samples"), "{said}");
    let few = "duel --demo --tasks few --rule margin --samples 3";
    says_what_is_next(&said, &[&format!("albedo {few} ")]);
    assert!(newcomer.does(&format!("{few} --out three")).contains("3 of 3 tasks"));

    newcomer
        .write("broken.jsonl", &(chat(1) + "{\"messages\": [{\"role\": \"bot\", \"content\": \"x\"}]}\n"));
    let refused = newcomer.albedo("tasks make broken.jsonl --out other");
    assert_eq!(refused.status.code(), Some(65), "{}", error(&refused));
    let line = error(&refused);
    assert!(line.contains("unknown role `bot`") && line.contains("file: broken.jsonl, line: 2"), "{line}");
    assert!(!newcomer.folder().join("other").exists());
}

/// The models that the panel's file names, and two contestants.
const SERVED: [&str; 6] = [
    "org/king",
    "org/challenger",
    "zai-org/GLM-5.2-TEE",
    "z-ai/glm-5.2",
    "deepseek-ai/DeepSeek-V3.2-TEE",
    "MiniMaxAI/MiniMax-M3",
];

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn two_served_models_duel_before_a_served_panel() {
    let (recorded, held) = (recorded().await, Arc::new(AtomicBool::new(true)));
    let (hold, answered) = (Arc::clone(&held), AtomicUsize::new(0));
    let server = ScriptedServer::start(move |seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&SERVED);
        }
        match seen.body["model"].as_str().expect("a model") {
            "org/king" => return Answer::reply("Sure."),
            "org/challenger" => return Answer::reply("THOUGHT: I look.\n\n```bash\nls -la\n```"),
            _ => {}
        }
        // Until Ctrl-C, the panel answers ten questions and no more.
        if hold.load(Ordering::SeqCst) && answered.fetch_add(1, Ordering::SeqCst) >= 10 {
            return Answer::events(&[]).act(Act::Hang);
        }
        let question = Question::read(seen);
        Answer::reply(&question.answer(question.informed(&recorded)))
    });
    let server = server.await.expect("starts");
    let url = server.base_url().clone();
    let steps = move || {
        let newcomer = Newcomer::new();
        newcomer.does("init . --panel");
        let config = fs::read_to_string(newcomer.folder().join("duel.toml")).expect("is written");
        let backend = format!(
            "base_url = {url:?}, stream = false, price = {{ prompt_usd = 0.0, completion_usd = 0.0 }}"
        );
        let mut edited = config.clone();
        for (from, to) in [
            ("path = \"models/king\"", "name = \"org/king\"".to_owned()),
            ("path = \"models/challenger\"", "name = \"org/challenger\"".to_owned()),
            ("name = \"burn\"", format!("name = \"openai\"\nbase_url = {url:?}\nstream = false")),
            ("preset = \"chutes\"", backend.clone()),
            ("preset = \"openrouter\"", backend),
            ("samples = 64", "samples = 8".to_owned()),
        ] {
            assert!(edited.contains(from), "{from}");
            edited = edited.replace(from, &to);
        }
        newcomer.write("duel.toml", &edited);
        let checked = newcomer.does("config check duel.toml");
        assert!(checked.contains("judges: glm (chat), deepseek (chat), minimax (chat)"), "{checked}");

        newcomer.interrupt("duel --config duel.toml --out run", "run");
        held.store(false, Ordering::SeqCst);
        let shown = newcomer.does("duel --resume run");
        assert!(shown.contains("The challenger is crowned"), "{shown}");
        assert!(newcomer.does("record show run").contains("deepseek"));
        assert!(newcomer.does("record verify run").contains("verified "));

        newcomer.write("question", "Which files are there?");
        newcomer.write("a", "I list the files.\n\n```bash\nls -la\n```");
        newcomer.write("b", "Files?");
        let tried = "judge try --config duel.toml --judge deepseek --set max_answer_tokens=99 --conversation question \
                     --first a --second b";
        let shown = newcomer.does(tried);
        assert!(shown.contains("correctness 1.000 for the first"), "{shown}");

        let screened = newcomer.albedo("screen --config duel.toml");
        assert_eq!(screened.status.code(), Some(78), "{}", error(&screened));
        let line = error(&screened);
        assert!(line.contains("the model is only served") && line.contains("`path` or `ref`"), "{line}");
    };
    tokio::task::spawn_blocking(steps).await.expect("every step");
    let limits = server.seen().into_iter().filter_map(|seen| seen.body["max_tokens"].as_u64());
    assert!(limits.collect::<Vec<_>>().contains(&99), "`--set` reaches the judge");
}
