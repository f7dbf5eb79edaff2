//! The mistakes of a first hour, each with the cause, the remedy and the exit code that
//! it is answered with. Nothing here runs a duel.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::run::{command, demo, error};

/// A mistake, the edits that make it, and what its message has to say.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

/// A folder with the demo's configuration, whose models and tasks are the repository's.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The demo's configuration with `edits`.
    fn config(edits: &[(&str, &str)]) -> String {
        let root = demo();
        let root = root.to_str().expect("UTF-8");
        let mut text = fs::read_to_string(demo().join("duel.toml")).expect("reads");
        for part in ["models/king", "models/challenger", "tasks"] {
            text = text.replace(&format!("path = \"{part}\""), &format!("path = \"{root}/{part}\""));
        }
        for (from, to) in edits {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, &to.replace("DEMO", root), 1);
        }
        text
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("writes");
    }

    /// `albedo`, in this folder, without anybody's keys.
    fn command(&self, line: &[&str]) -> Command {
        let mut command = command(line.iter().copied());
        command.current_dir(self.path());
        for key in ["CHUTES_API_KEY", "OPENROUTER_API_KEY"] {
            command.env_remove(key);
        }
        command
    }

    fn albedo(&self, line: &[&str]) -> Output {
        self.command(line).output().expect("albedo starts")
    }
}

#[track_caller]
fn answered(what: &str, output: &Output, code: i32, words: &[&str]) {
    let line = error(output);
    assert_eq!(output.status.code(), Some(code), "{what}: {line}");
    for word in words {
        assert!(line.contains(word), "{what}: `{word}` is not in: {line}");
    }
}

/// What a user writes into a file, and the words that answer: the cause, then what to do.
#[test]
fn mistakes_in_a_file_are_told_by_config_check_alone() {
    let folder = Folder::new();
    let first_judge = "[[judges]]\nname = \"protocol\"";
    let all_judges = "[[judges]]\nname = \"protocol\"\n\n[[judges]]\nname = \"reference-action\"\n\n[[judges]]\n\
                      name = \"reference-likelihood\"\n";
    let seed = "seed = 0";
    let cases: &[Case<'_>] = &[
        (
            "a typo in [duel]",
            &[("samples = 64", "sampels = 64")],
            &["unknown key `sampels` (key: duel.sampels, line: ", "did you mean `samples`?"],
        ),
        (
            "a typo in generation",
            &[("max_new_tokens", "max_new_token")],
            &["key: duel.generation.max_new_token", "did you mean `max_new_tokens`?"],
        ),
        (
            "a typo in limits",
            &[("samples_in_flight", "sample_in_flight")],
            &["key: duel.limits.sample_in_flight", "did you mean `samples_in_flight`?"],
        ),
        (
            "a typo in a section",
            &[("[challenger]", "[chalenger]")],
            &["`chalenger`", "did you mean `challenger`?"],
        ),
        (
            "a typo in a plugin's key",
            &[("max_batch", "max_bach")],
            &["key: backend.max_bach", "did you mean `max_batch`?"],
        ),
        (
            "an unknown judge",
            &[("\"protocol\"", "\"protocl\"")],
            &["key: judges[0]", "did you mean `protocol`?"],
        ),
        ("an unknown backend", &[("\"burn\"", "\"brun\"")], &["key: backend,", "did you mean `burn`?"]),
        (
            "an unknown rule",
            &[(seed, "rule = { name = \"margni\" }")],
            &["unknown value `margni` (key: duel.rule.name", "did you mean `margin`?"],
        ),
        (
            "a number in quotes",
            &[("samples = 64", "samples = \"64\"")],
            &[
                "the text \"64\" stands where a whole number from 0 to 4294967295 has to",
                "write `samples = 64`, without quotes",
            ],
        ),
        (
            "a negative number",
            &[("samples = 64", "samples = -1")],
            &["-1 stands where a whole number from 0 to 4294967295 has to (key: duel.samples"],
        ),
        (
            "a number that is too large",
            &[("samples = 64", "samples = 99999999999")],
            &["99999999999 stands where a whole number from 0 to 4294967295 has to"],
        ),
        (
            "a rule as a text",
            &[(seed, "rule = \"margin\"")],
            &["key: duel.rule,", "write `rule = { name = \"margin\" }`"],
        ),
        (
            "terms as a text",
            &[(seed, "terms = \"reign\"")],
            &["`reign` stands without its settings", "write `terms = { reign = { … } }`"],
        ),
        (
            "one bracket in place of two, before others",
            &[(first_judge, "[judges]\nname = \"protocol\"")],
            &["line: ", "write each table as `[[name]]`, with two brackets"],
        ),
        (
            "one bracket in place of two",
            &[(all_judges, "[judges]\nname = \"protocol\"\n")],
            &["a table stands where a list has to (key: judges", "write `[[judges]]`, with two brackets"],
        ),
        ("no judges", &[(all_judges, "")], &["`judges` is missing", "add a table `[[judges]]`"]),
        (
            "the same judge twice",
            &[("reference-action", "protocol")],
            &["judge `protocol` is on the panel twice (key: judges[1]", "remove one"],
        ),
        (
            "a chat judge without its settings",
            &[("name = \"protocol\"", "name = \"chat\"")],
            &["`backend` is missing (key: judges[0]", "add `backend`"],
        ),
        (
            "too few samples",
            &[("samples = 64", "samples = 4")],
            &["key: duel.samples", "raise `samples` to at least 5"],
        ),
        (
            "no samples",
            &[("samples = 64", "samples = 0")],
            &["`samples` is 0, it must be between 1 and 1,000,000"],
        ),
        ("a syntax error", &[(seed, "seed = ")], &["line: "]),
        // Ten more.
        (
            "a point in a whole number",
            &[("samples = 64", "samples = 64.0")],
            &["write `samples = 64`, without a point"],
        ),
        (
            "judges as texts",
            &[(all_judges, ""), ("[king]", "judges = [\"protocol\"]\n\n[king]")],
            &["(key: judges[0]", "write `{ name = \"protocol\" }`"],
        ),
        (
            "a backend as a text",
            &[("[backend]\nname = \"burn\"\nmax_batch = 32", ""), ("[king]", "backend = \"burn\"\n\n[king]")],
            &["write `backend = { name = \"burn\" }`"],
        ),
        (
            "a temperature as the sampling",
            &[(seed, "generation.sampling = 0.7")],
            &["0.7 stands where a table has to (key: duel.generation.sampling", "write `sampling = { … }`"],
        ),
        (
            "a setting of the duel outside its table",
            &[("[king]", "samples = 8\n\n[king]")],
            &["unknown key `samples`", "below the line `[duel]`, or as `duel.samples`"],
        ),
        (
            "a model that is named twice",
            &[("[challenger]", "name = \"a\"\n[challenger]")],
            &["`path` and `name` both name the model (key: king", "keep one"],
        ),
        (
            "a served name without a server",
            &[("path = \"DEMO/models/king\"", "name = \"qwen3:4b\"")],
            &[
                "the model is given by a served name, but this backend loads folders (model: qwen3:4b, key: king",
                "backend: burn",
                "name the model with `path`, or choose another backend",
            ],
        ),
        (
            "a folder before a server",
            &[("name = \"burn\"\nmax_batch = 32", "name = \"openai\"\npreset = \"chutes\"")],
            &["this backend asks a server", "key: king, backend: openai", "name the model with `name`"],
        ),
        (
            "a folder before a server, as the second route",
            &[(
                "name = \"burn\"\nmax_batch = 32",
                "name = \"routes\"\norder = [{ name = \"burn\" }, { name = \"openai\", preset = \"chutes\" }]",
            )],
            &["this backend asks a server", "route: openai 2, key: king, backend: routes"],
        ),
        (
            "a judge's folder before a server",
            &[(
                "name = \"protocol\"",
                "name = \"chat\"\npath = \"m\"\nbackend = { name = \"openai\", preset = \"chutes\" }",
            )],
            &["this backend asks a server", "key: judges[0].path", "with `model` in place of `path`"],
        ),
        (
            "a record's side that there is none of",
            &[
                ("name = \"burn\"\nmax_batch = 32", "name = \"replay\"\nrecord = \"duel\""),
                ("path = \"DEMO/models/king\"", "name = \"good\""),
            ],
            &["a record has no such side", "key: king", "write `name = \"king\"`"],
        ),
        (
            "a key in place of its variable's name",
            &[(
                "name = \"burn\"\nmax_batch = 32",
                "name = \"openai\"\npreset = \"chutes\"\nkey_env = \"cpk_a.b\"",
            )],
            &[
                "(key: backend.key_env",
                "names the environment variable that holds the key, never the key itself",
            ],
        ),
        (
            "a branch in place of a revision",
            &[("path = \"DEMO/models/king\"", "ref = \"hf:owner/model@main\"")],
            &["key: king.ref", "can be moved"],
        ),
        (
            "a probability that is none",
            &[(seed, "terms = { standalone = { alpha = 5 } }")],
            &["it must be between 0 and 0.5 (key: duel.terms"],
        ),
        (
            "a reducer that nobody knows",
            &[(seed, "panel.reducer = \"avg\"")],
            &["unknown value `avg` (key: duel.panel.reducer", "known: mean, median, trimmed"],
        ),
    ];
    for (what, edits, words) in cases {
        let root = demo();
        let root = root.to_str().expect("UTF-8");
        let edits: Vec<_> = edits.iter().map(|(from, to)| (from.replace("DEMO", root), *to)).collect();
        let edits: Vec<_> = edits.iter().map(|(from, to)| (from.as_str(), *to)).collect();
        folder.write("duel.toml", &Folder::config(&edits));
        let output = folder.albedo(&["config", "check", "duel.toml"]);
        answered(what, &output, 78, words);
        assert!(error(&output).contains("path: duel.toml"), "{what}: {}", error(&output));
        assert!(!error(&output).contains("cpk_a.b"), "a key is not repeated");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{what}");
    }
}

#[test]
fn what_is_well_formed_and_probably_not_meant_is_a_warning() {
    let folder = Folder::new();
    for (what, edits, words) in [
        (
            "exchanged sides",
            [
                ("models/king", "models/x"),
                ("models/challenger", "models/king"),
                ("models/x", "models/challenger"),
            ],
            "the sides look exchanged",
        ),
        (
            "the same model twice",
            [("models/challenger", "models/king"), ("seed = 0", "seed = 1"), ("seed = 1", "seed = 0")],
            "both sides are the same model",
        ),
    ] {
        folder.write("duel.toml", &Folder::config(&edits));
        let output = folder.albedo(&["config", "check", "duel.toml"]);
        assert_eq!(output.status.code(), Some(0), "{what}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("warning: ") && said.contains(words), "{what}: {said}");
    }
}

#[test]
fn mistakes_of_a_command_line_are_refused_before_anything_is_begun() {
    let folder = Folder::new();
    folder.write("duel.toml", &Folder::config(&[]));
    folder.write("broken.json", "[{\"role\": \"usr\", \"content\": \"x\"}]");
    folder.write("a", "A");
    let labelled = |label: &str| {
        format!(
            "[[judges]]\nname = \"chat\"\nlabel = \"{label}\"\nmodel = \"m\"\nbackend = {{ name = \"openai\", preset = \"chutes\" }}\n"
        )
    };
    let chat = Folder::config(&[("[[judges]]\nname = \"protocol\"", &(labelled("glm") + &labelled("kimi")))]);
    folder.write("chat.toml", &chat);
    let root = demo();
    let root = root.to_str().expect("UTF-8");
    let tasks = format!("{root}/tasks");
    let king = format!("{root}/models/king");
    fs::create_dir_all(folder.path().join("taken")).expect("creates");
    folder.write("taken/journal.jsonl", "kept");
    for name in ["empty", "records/one"] {
        fs::create_dir_all(folder.path().join(name)).expect("creates");
    }
    folder.write("records/one/record.digest", "");
    let cases: &[(&str, &[&str], i32, &[&str])] = &[
        (
            "an unknown judge",
            &["duel", "--demo", "--judge", "protocl"],
            78,
            &["`protocl`", "did you mean `protocol`?"],
        ),
        (
            "an unknown label",
            &["duel", "--config", "chat.toml", "--judge", "glmm"],
            78,
            &["did you mean `glm`?"],
        ),
        (
            "a plugin of two labelled judges",
            &["duel", "--config", "chat.toml", "--judge", "chat"],
            78,
            &["2 judges of the configuration are called `chat`", "`glm`, `kimi`"],
        ),
        (
            "a chat judge without its settings",
            &["duel", "--demo", "--judge", "chat"],
            78,
            &["`backend` is missing (key: judges[0]"],
        ),
        (
            "the same judge twice",
            &["duel", "--demo", "--judge", "protocol", "--judge", "protocol"],
            78,
            &["twice", "remove one"],
        ),
        ("an unknown rule", &["duel", "--demo", "--rule", "margni"], 78, &["did you mean `margin`?"]),
        (
            "a negative seed",
            &["duel", "--demo", "--seed", "-3"],
            2,
            &["`-3` is no seed", "a whole number from 0 up"],
        ),
        (
            "a negative budget",
            &["duel", "--demo", "--budget-usd", "-3"],
            78,
            &["must be 0 or more (key: duel.limits.budget_usd"],
        ),
        (
            "a budget that is no number",
            &["duel", "--demo", "--budget-usd", "nan"],
            78,
            &["must be 0 or more"],
        ),
        (
            "a negative temperature",
            &["calibrate", "--demo", "--temperature", "-1"],
            78,
            &["temperature", "key: duel.generation.sampling"],
        ),
        (
            "a model that is not there",
            &["duel", "--demo", "--king", "no/model"],
            66,
            &["side: king", "check the path"],
        ),
        (
            "a hub's name as a folder",
            &["duel", "--demo", "--king", "Qwen/Qwen3-4B"],
            66,
            &["Qwen/Qwen3-4B", "`name` names a model at a server, `ref` one in a hub"],
        ),
        (
            "a served name before a backend of folders",
            &["duel", "--demo", "--king", "name:qwen3:4b"],
            78,
            &["this backend loads folders", "model: qwen3:4b, key: king, backend: burn"],
        ),
        ("tasks as a model", &["duel", "--demo", "--king", &tasks], 66, &["tasks/config.json", "side: king"]),
        ("a model as tasks", &["duel", "--demo", "--tasks", &king], 66, &["manifest.json", "check the path"]),
        (
            "more samples than tasks",
            &["duel", "--demo", "--samples", "1000"],
            78,
            &["rows: 200", "lower `samples` or use more tasks"],
        ),
        ("too few samples", &["duel", "--demo", "--samples", "3"], 78, &["at least 5"]),
        (
            "a configuration that is not there",
            &["duel", "--config", "no.toml"],
            66,
            &["no.toml", "check the path"],
        ),
        (
            "a folder as a configuration",
            &["config", "check", "taken"],
            78,
            &["it is a folder", "for example `duel.toml`"],
        ),
        (
            "a folder that holds a duel",
            &["duel", "--demo", "--out", "taken"],
            78,
            &["already holds a duel", "choose another folder"],
        ),
        (
            "a folder that cannot be made",
            &["duel", "--demo", "--out", "a/duel"],
            65,
            &["a/duel", "check the path"],
        ),
        (
            "resuming nothing",
            &["duel", "--resume", "nothing"],
            66,
            &["name the folder of a duel that `albedo duel` began"],
        ),
        (
            "a missing key",
            &["duel", "--config", "chat.toml"],
            77,
            &["CHUTES_API_KEY", "key: judges[0].backend", "judge: glm", "set the environment variable"],
        ),
        (
            "a conversation that is no JSON",
            &[
                "judge",
                "try",
                "--config",
                "duel.toml",
                "--conversation",
                "broken.json",
                "--first",
                "a",
                "--second",
                "a",
            ],
            65,
            &["unknown variant `usr`", "broken.json", "give an array of messages"],
        ),
        (
            "a screen that is not run",
            &["screen", "a", "--king", &king, "--set", "linage.noise=2"],
            78,
            &["did you mean `lineage`?"],
        ),
        ("an option's typo", &["duel", "--demo", "--sample", "3"], 2, &[]),
        ("a command's typo", &["duell", "--demo"], 2, &[]),
        ("two sources", &["duel", "--demo", "--config", "duel.toml"], 2, &[]),
        ("a record that is not there", &["record", "show", "nothing"], 66, &["check the path"]),
        (
            "a folder of records",
            &["record", "show", "records"],
            66,
            &["the folder is no duel's", "name one of them, such as records/one"],
        ),
        ("a plugin's typo", &["plugins", "chatt"], 78, &["did you mean `chat`?"]),
        ("a role's typo", &["plugins", "--role", "juge"], 78, &["did you mean `judge`?"]),
        ("a folder without conversations", &["tasks", "make", "empty"], 65, &["one conversation per line"]),
        ("a digest that is none", &["record", "verify", "nothing", "--expect", "abc"], 2, &[]),
        (
            "a backend's unknown setting",
            &["generate", &king, "--prompt", "x", "--set", "max_bach=1"],
            78,
            &["did you mean `max_batch`?"],
        ),
        (
            "a served name without a server",
            &["generate", "name:m", "--prompt", "x"],
            78,
            &["this backend loads folders"],
        ),
        (
            "too few self-duels",
            &["calibrate", "--demo", "--temperature", "1", "--duels", "1"],
            78,
            &["it must be 2 to 10000"],
        ),
        ("tasks of nothing", &["tasks", "make", "no.jsonl"], 66, &["no.jsonl", "check the path"]),
        (
            "tasks of a text",
            &["tasks", "make", "a", "--out", "new"],
            65,
            &["file: a, line: 1", "an array of messages"],
        ),
    ];
    for (what, line, code, words) in cases {
        let begun = folder.path().join("duels");
        // The demo is found as in an empty folder: by its variable.
        let output = folder.command(line).env("ALBEDO_DEMO_DIR", root).output().expect("albedo starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(*code), "{what}: {said}");
        for word in *words {
            assert!(said.contains(word), "{what}: `{word}` is not in: {said}");
        }
        assert!(said.contains("error: "), "{what}: {said}");
        assert!(!begun.exists(), "{what}: a duel was begun");
    }
    assert_eq!(fs::read_to_string(folder.path().join("taken/journal.jsonl")).expect("reads"), "kept");
}
