//! Programs as judges: the example in Python before the demo duel, the schema of what is
//! written, and programs that fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{albedo, demo, error, root, stdout};

/// Whether there is a Python.
fn python() -> bool {
    Command::new("python3").arg("--version").output().is_ok()
}

fn example() -> PathBuf {
    root().join("examples/process-judge/judge.py")
}

/// A folder with programs and the configuration of a small duel before them.
struct Panel(TempDir);

impl Panel {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.0.path().join(name), text).expect("writes");
        self.path(name)
    }

    /// A configuration whose judges are `protocol` and the process with `settings`.
    fn config(&self, settings: &str, duel: &str) -> String {
        let models = demo().join("models");
        let text = format!(
            "king.path = {:?}\nchallenger.path = {:?}\ntasks = {{ name = \"parquet\", path = {:?} }}\n\
             backend = {{ name = \"burn\" }}\n[[judges]]\nname = \"process\"\n{settings}\n\
             [[judges]]\nname = \"protocol\"\n\
             [duel]\nrule = {{ name = \"margin\", win_margin = 50.0 }}\ngeneration.max_new_tokens = 32\n{duel}\n",
            models.join("king").display().to_string(),
            models.join("challenger").display().to_string(),
            demo().join("tasks").display().to_string(),
        );
        self.write("duel.toml", &text)
    }

    /// Runs the duel of `config`.
    fn duel(&self, config: &str, samples: &str) -> Output {
        let out = self.path("duel");
        albedo(["duel", "--config", config, "--samples", samples, "--out", &out, "--json"])
    }
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).expect("JSON")
}

#[test]
fn a_python_judge_judges_the_demo_duel() {
    if !python() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let panel = Panel::new();
    fs::copy(example(), panel.path("judge.py")).expect("copies");
    let settings = "label = \"grounded\"\ncommand = [\"python3\", \"judge.py\"]\nparallel = 2";
    let config = panel.config(settings, "");
    let verdict = json_of(&panel.duel(&config, "6"))["verdict"].clone();
    let judges = verdict["judges"].as_array().expect("judges");
    assert_eq!((judges.len(), &judges[0]["judge"], &verdict["missing"]), (2, &"grounded".into(), &0.into()));
    assert!(judges[0]["metrics"]["grounding"].is_number(), "{verdict}");

    // A verifier works the verdict out again without the program, which is gone.
    fs::remove_file(panel.path("judge.py")).expect("removes");
    let verified = json_of(&albedo(["record", "verify", &panel.path("duel"), "--json"]));
    assert_eq!(verified["schema"], 1);
    let refused = panel.duel(&config, "6");
    assert!(!refused.status.success(), "a program that is not there judges nothing");
}

#[test]
fn what_is_written_is_what_the_schema_says() {
    if !python() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let panel = Panel::new();
    fs::copy(example(), panel.path("judge.py")).expect("copies");
    let line = "tee asked.jsonl | python3 judge.py | tee answered.jsonl";
    let settings = format!("command = [\"sh\", \"-c\", {line:?}]\nfiles = [\"judge.py\"]\nenv = [\"PATH\"]");
    let verdict = json_of(&panel.duel(&panel.config(&settings, ""), "2"));
    assert_eq!(verdict["verdict"]["missing"], 0, "{verdict}");
    let schema = Schema::read("process-judge-1");
    let lines = |name: &str| {
        let text = fs::read_to_string(panel.path(name)).expect("written");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    };
    let (asked, answered) = (lines("asked.jsonl"), lines("answered.jsonl"));
    assert!(!asked.is_empty() && answered.len() == asked.len() + 1, "{} and {}", asked.len(), answered.len());
    for (line, kind) in asked.iter().map(|line| (line, "compare")).chain(
        answered.iter().enumerate().map(|(place, line)| (line, if place == 0 { "hello" } else { "scores" })),
    ) {
        assert_eq!(line["type"], kind);
        schema.check(line).expect(kind);
    }
    // The schema is not one that takes anything.
    let mut wrong = answered[1].clone();
    wrong["scores"]["grounding"] = json!(1.5);
    schema.check(&wrong).expect_err("a score above 1");
    let mut wrong = answered[1].clone();
    wrong["rational"] = json!("a typing error");
    schema.check(&wrong).expect_err("an unknown key");
    let mut wrong = asked[0].clone();
    wrong["first"] = json!("ls");
    schema.check(&wrong).expect_err("a reply that is a text");
    // Examples of the guide, of which albedo reads the same.
    let guide = fs::read_to_string(root().join("docs/process-judges.md")).expect("the guide");
    let examples: Vec<_> =
        guide.split("```json\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    assert_eq!(examples.len(), 5, "a hello, a question and three answers");
    for example in examples {
        schema.check(&serde_json::from_str(example).expect("JSON")).expect(example);
    }
}

/// As much of JSON Schema as the schemas of the protocols use.
struct Schema(Value);

impl Schema {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(root().join(format!("docs/{name}.schema.json"))).expect("the schema");
        Self(serde_json::from_str(&text).expect("JSON"))
    }

    fn check(&self, value: &Value) -> Result<(), String> {
        self.fits(&self.0, value)
    }

    fn fits(&self, schema: &Value, value: &Value) -> Result<(), String> {
        for (key, rule) in schema.as_object().expect("a schema") {
            let fits = match key.as_str() {
                "$ref" => {
                    let pointer =
                        rule.as_str().and_then(|to| to.strip_prefix('#')).expect("a local reference");
                    self.fits(self.0.pointer(pointer).expect("it points at something"), value)?;
                    true
                }
                "oneOf" => {
                    let choices = rule.as_array().expect("choices").iter();
                    choices.filter(|choice| self.fits(choice, value).is_ok()).count() == 1
                }
                "const" => value == rule,
                "enum" => rule.as_array().expect("values").contains(value),
                "type" => match rule {
                    Value::Array(kinds) => kinds.iter().any(|kind| is(value, kind)),
                    kind => is(value, kind),
                },
                "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().expect("a number")),
                "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().expect("a number")),
                "minLength" => {
                    value.as_str().is_none_or(|text| text.len() as u64 >= rule.as_u64().expect("a number"))
                }
                "minItems" => {
                    value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().expect("one"))
                }
                "required" => value.as_object().is_none_or(|object| {
                    rule.as_array()
                        .expect("names")
                        .iter()
                        .all(|name| object.contains_key(name.as_str().expect("one")))
                }),
                "properties" => {
                    for (name, schema) in rule.as_object().expect("properties") {
                        if let Some(value) = value.get(name) {
                            self.fits(schema, value)?;
                        }
                    }
                    true
                }
                "additionalProperties" => {
                    let known = schema["properties"].as_object().expect("properties");
                    value.as_object().is_none_or(|object| object.keys().all(|key| known.contains_key(key)))
                }
                "items" => {
                    for item in value.as_array().into_iter().flatten() {
                        self.fits(rule, item)?;
                    }
                    true
                }
                "$schema" | "title" | "description" | "$defs" => true,
                other => return Err(format!("the schema uses `{other}`, which this test does not know")),
            };
            if !fits {
                return Err(format!("`{key}` of {schema} does not hold of {value}"));
            }
        }
        Ok(())
    }
}

fn is(value: &Value, kind: &Value) -> bool {
    match kind.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => {
            assert_eq!(other, "null", "no other type is used");
            value.is_null()
        }
    }
}

/// A program in shell: a hello, and what it does with each question `n`.
fn shell(each: &str) -> String {
    format!(
        "echo '{{\"type\":\"hello\",\"protocol\":1,\"role\":\"judge\",\"name\":\"sh\",\"version\":\"1\",\
         \"metrics\":[\"progress\"]}}'\nn=0\nwhile read -r line; do n=$((n + 1))\n{each}\ndone\n"
    )
}

const TIE: &str = "echo '{\"type\":\"scores\",\"id\":'$n',\"scores\":{\"progress\":0.5}}'";

#[test]
fn a_question_without_an_answer_is_a_missing_cell() {
    // It is killed once, at a question that is not asked again: nobody wins by so much.
    let panel = Panel::new();
    panel.write("judge.sh", &shell(&format!("test -e killed || {{ : >killed; kill -9 $$; }}\n{TIE}")));
    let config = panel.config("command = [\"sh\", \"judge.sh\"]", "limits.call_tries = 1");
    let verdict = json_of(&panel.duel(&config, "8"))["verdict"].clone();
    assert_eq!((&verdict["missing"], &verdict["causes"]["outage"]), (&1.into(), &1.into()), "{verdict}");
    assert_eq!(verdict["judges"][0]["missing"], 1, "{verdict}");

    // With more tries nothing is missing.
    let panel = Panel::new();
    panel.write("judge.sh", &shell(&format!("test -e killed || {{ : >killed; kill -9 $$; }}\n{TIE}")));
    let config = panel.config("command = [\"sh\", \"judge.sh\"]", "");
    assert_eq!(json_of(&panel.duel(&config, "4"))["verdict"]["missing"], 0);
}

#[test]
fn a_program_that_fails_always_ends_the_duel_with_its_last_words() {
    for (each, code, words) in [
        ("echo no memory >&2; kill -9 $$", 69, "no memory"),
        ("exec sleep 1000", 75, "no answer within 3 s"),
        ("echo Judging...", 69, "Judging..."),
        ("exec tr '\\0' a </dev/zero", 69, "more than 1048576 bytes"),
        ("while :; do echo noise >&2; done", 75, "noise"),
    ] {
        let panel = Panel::new();
        panel.write("judge.sh", &shell(each));
        let settings = "command = [\"sh\", \"judge.sh\"]\ntimeout_secs = 3.0\nparallel = 16";
        let output = panel.duel(&panel.config(settings, ""), "12");
        assert_eq!(output.status.code(), Some(code), "{each}: {}", error(&output));
        assert!(error(&output).contains(words), "{each}: {}", error(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_program_that_is_no_judge_is_the_operators_mistake() {
    let panel = Panel::new();
    panel.write("judge.sh", "echo this is not it >&2; exit 2");
    let config = panel.config("command = [\"sh\", \"judge.sh\"]", "");
    // Checking a configuration starts nothing.
    stdout(&albedo(["config", "check", &config]));
    let output = panel.duel(&config, "2");
    assert_eq!(output.status.code(), Some(78), "{}", error(&output));
    for part in ["judges[0]", "it ended without a hello", "exit status: 2", "this is not it"] {
        assert!(error(&output).contains(part), "{part}: {}", error(&output));
    }
    assert!(!Path::new(&panel.path("duel")).join("record.jsonl").exists());
}

/// `albedo judge conform` with a program of Python.
fn conform(panel: &Panel, program: &str, options: &[&str]) -> Output {
    let path = panel.write("judge.py", program);
    albedo(["judge", "conform"].into_iter().chain(options.iter().copied()).chain(["python3", &path]))
}

#[test]
fn the_example_conforms_and_broken_promises_are_named() {
    if !python() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let (panel, example) = (Panel::new(), fs::read_to_string(example()).expect("reads"));
    let shown = stdout(&conform(&panel, &example, &[]));
    assert!(shown.starts_with("ok      starts with a hello: grounded 1, grounding\n"), "{shown}");
    assert_eq!((shown.matches("ok ").count(), shown.contains("failed")), (3, false), "{shown}");
    for (from, to, expected) in [
        ("\"protocol\": 1", "\"protocol\": 2", "it speaks version 2"),
        ("0.5 + (first - second) / 2", "first", "failed  scores are mirrored"),
        ("{\"grounding\": 0.5", "{\"progress\": 0.5", "other metrics than it was asked for"),
        ("\"id\": question[\"id\"]", "\"id\": 1", "it answered question 1 when it was asked"),
        ("    said = words", "    assert reply[\"text\"]\n    said = words", "AssertionError"),
        ("if said else 0.0", "", "ZeroDivisionError"),
        (", flush=True)\nfor", ")\nfor", "no hello within 5 s"),
    ] {
        let program = example.replace(from, to);
        assert_ne!(program, example, "{from}");
        let output = conform(&panel, &program, &["--timeout-secs", "5"]);
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(3), "{to}: {shown} {}", error(&output));
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&shown).contains(&words(expected)), "{to}: {shown}");
    }
    let stays = format!("{example}\nimport time\ntime.sleep(1000)\n");
    let output = conform(&panel, &stays, &["--timeout-secs", "5"]);
    assert_eq!(output.status.code(), Some(3));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("failed  ends when its standard input ends"), "{shown}");
    let output = albedo(["judge", "conform", "no-such-program-anywhere"]);
    assert_eq!(output.status.code(), Some(66), "{}", error(&output));
}

#[test]
fn a_python_screen_looks_at_the_demos_replies_as_its_schema_says() {
    if !python() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let panel = Panel::new();
    let example = root().join("examples/process-judge/screen.py");
    let text = fs::read_to_string(&example).expect("reads");
    panel.write("screen.py", &text.replace("256", "24"));
    let line = "tee asked.jsonl | python3 screen.py | tee answered.jsonl";
    let screens = format!(
        "[[screens]]\nname = \"process\"\nlabel = \"repeats\"\ncommand = [\"sh\", \"-c\", {line:?}]\n\
         files = [\"screen.py\"]\nenv = [\"PATH\"]\n"
    );
    let config = panel.config("command = [\"true\"]", "");
    let written = fs::read_to_string(&config).expect("reads");
    let config = panel.write("screens.toml", &written.replace("[duel]\n", &format!("{screens}[duel]\n")));
    let output = albedo(["screen", "--config", &config, "--probe", "7", "--json"]);
    let admission = json_of(&output);
    let found = &admission["findings"][0];
    assert_eq!(
        (&found["screen"]["name"], &found["finding"]),
        (&"repeats".into(), &"clear".into()),
        "{admission}"
    );
    assert_eq!(found["evidence"]["repeats"].as_array().map(Vec::len), Some(3), "{admission}");

    let schema = Schema::read("process-screen-1");
    let lines = |name: &str| {
        let text = fs::read_to_string(panel.path(name)).expect("written");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    };
    let kinds = |lines: &[Value]| -> Vec<String> {
        lines.iter().map(|line| line["type"].as_str().expect("a type").to_owned()).collect()
    };
    let (asked, answered) = (lines("asked.jsonl"), lines("answered.jsonl"));
    assert_eq!(
        (kinds(&asked), kinds(&answered)),
        (vec!["probe".into(), "replies".into()], vec!["hello".into(), "ask".into(), "finding".into()],)
    );
    for line in asked.iter().chain(&answered) {
        schema.check(line).expect("as the schema says");
    }
    let mut wrong = answered[2].clone();
    wrong["finding"] = json!("guilty");
    schema.check(&wrong).expect_err("no such finding");
    let guide = fs::read_to_string(root().join("docs/process-screens.md")).expect("the guide");
    let examples: Vec<_> =
        guide.split("```json\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    assert_eq!(examples.len(), 7);
    for example in examples {
        schema.check(&serde_json::from_str(example).expect("JSON")).expect(example);
    }
}

#[test]
fn the_example_screen_conforms_and_one_that_forgets_its_answer_does_not() {
    if !python() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let example = root().join("examples/process-judge/screen.py");
    let conform = |path: &str| albedo(["judge", "conform", "--screen", "python3", path]);
    let shown = stdout(&conform(&example.display().to_string()));
    assert!(shown.starts_with("ok      starts with a hello: repeats 1, looks at replies\n"), "{shown}");
    assert_eq!((shown.matches("ok ").count(), shown.contains("failed")), (3, false), "{shown}");
    let panel = Panel::new();
    let text = fs::read_to_string(example).expect("reads");
    let moody = text
        .replace("import json\n", "import json\nimport itertools\n\nMOOD = itertools.count()\n")
        .replace("\"clear\"\n", "\"clear\"\n    shares.append(next(MOOD))\n");
    assert_ne!(moody, text);
    let output = conform(&panel.write("moody.py", &moody));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{shown}");
    assert!(shown.contains("the same subject has the same finding"), "{shown}");
}
