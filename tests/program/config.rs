//! `albedo config`: mistakes are found before anything is built, at any depth.

use std::path::Path;

use serde_json::{Value, json};

use crate::run::{albedo, command, error, stdout};

/// A configuration without a mistake, three plugins deep.
const PANEL: &str = r#"
king.path = "no/king"
challenger.path = "no/challenger"
tasks = { name = "parquet", path = "no/tasks" }

[[judges]]
name = "chat"
model = "judge"

[judges.backend]
name = "routes"

[[judges.backend.order]]
name = "openai"
preset = "chutes"

[[judges.backend.order]]
name = "openai"
base_url = "http://localhost:8000/v1"

[[judges]]
name = "chat"
label = "lists"
model = "judge"
rubric = "checklist"
backend = { name = "openai", preset = "chutes" }
checklist.writer = { model = "writer", backend = { name = "openai", preset = "openrouter" } }

[[screens]]
name = "injection"
tasks = { name = "parquet", path = "no/tasks" }
judges = [{ model = "judge", backend = { name = "openai", preset = "chutes" } }]
"#;

fn check(folder: &Path, config: &str) -> std::process::Output {
    let file = folder.join("duel.toml");
    std::fs::write(&file, config).expect("writes");
    // No key is set: checking asks for none.
    command(["config", "check", file.to_str().expect("UTF-8")])
        .env_remove("CHUTES_API_KEY")
        .env_remove("OPENROUTER_API_KEY")
        .output()
        .expect("runs")
}

#[test]
fn the_reference_is_what_the_program_prints() {
    let printed = stdout(&crate::run::albedo(["config", "reference"]));
    let page = crate::run::root().join("docs/configuration-reference.md");
    let written = std::fs::read_to_string(page).expect("the page");
    assert!(
        printed == written,
        "run `albedo config reference >docs/configuration-reference.md`; it would be:\n{printed}"
    );
}

#[test]
fn a_mistake_is_refused_with_its_whole_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = check(folder.path(), PANEL);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout(&output).contains("is well-formed"));
    for (good, bad, expected) in [
        // A wrong key three plugins deep.
        (
            "base_url = \"http://localhost",
            "base_ulr = \"http://localhost",
            &["unknown key `base_ulr`", "judges[0].backend.order[1].base_ulr", "did you mean `base_url`?"][..],
        ),
        // A wrong value there.
        (
            "http://localhost:8000/v1",
            "localhost:8000/v1",
            &["does not begin with https://", "judges[0].backend.order[1].base_url"],
        ),
        // A route that does not exist.
        (
            "name = \"openai\"\npreset",
            "name = \"opnai\"\npreset",
            &["no backend named `opnai`", "judges[0].backend.order[0]", "did you mean `openai`?"],
        ),
        (
            "preset = \"openrouter\"",
            "preset = \"openruter\"",
            &["judges[1].checklist.writer.backend.preset", "did you mean `openrouter`?"],
        ),
        // A screen with a bad setting, and one in a plugin that it names.
        ("name = \"injection\"", "name = \"injection\"\nprobes = 0", &["probes is 0", "screens[0].probes"]),
        (
            "label = \"lists\"",
            "label = \"lists\"\nmax_answer_tokens = 0",
            &["`max_answer_tokens` is 0", "judges[1].max_answer_tokens"],
        ),
        (
            "judges = [{ model = \"judge\", backend = { name = \"openai\"",
            "judges = [{ model = \"judge\", backend = { name = \"openai\", stream = 1",
            &["screens[0].judges[0].backend.stream"],
        ),
        (
            "tasks = { name = \"parquet\", path = \"no/tasks\" }\njudges",
            "tasks = { name = \"parquet\", paht = \"no/tasks\" }\njudges",
            &["screens[0].tasks.paht", "did you mean `path`?"],
        ),
    ] {
        assert!(PANEL.contains(good), "{good}");
        let output = check(folder.path(), &PANEL.replacen(good, bad, 1));
        let line = error(&output);
        assert_eq!(output.status.code(), Some(78), "{line}");
        for expected in expected {
            assert!(line.contains(expected), "`{expected}` is not in: {line}");
        }
    }
}

#[test]
fn the_schema_knows_the_plugins_that_plugins_name() {
    let schema: Value = serde_json::from_str(&stdout(&albedo(["config", "schema"]))).expect("JSON");
    let definitions = schema["$defs"].as_object().expect("definitions");
    let reference = |role: &str| json!({ "$ref": format!("#/$defs/{role}") });
    assert_eq!(schema["properties"]["judges"]["items"], reference("judge"));
    assert_eq!(definitions["judge-chat"]["properties"]["backend"]["$ref"], "#/$defs/backend");
    assert_eq!(definitions["backend-routes"]["properties"]["order"]["items"], reference("backend"));
    let routes = definitions["backend"]["oneOf"].as_array().expect("a choice");
    assert!(routes.contains(&reference("backend-routes")) && routes.contains(&reference("backend-openai")));
    assert_eq!(definitions["backend-openai"]["properties"]["name"], json!({ "const": "openai" }));
    assert!(definitions.contains_key("screen-injection"));
    assert!(!definitions.contains_key("chain"), "no setting names a chain");
    points_into(&schema, &schema);
}

/// Every reference of `part` is to something in `schema`.
fn points_into(part: &Value, schema: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                assert!(schema.pointer(target.trim_start_matches('#')).is_some(), "{target}");
            }
            fields.values().for_each(|field| points_into(field, schema));
        }
        Value::Array(items) => items.iter().for_each(|item| points_into(item, schema)),
        _ => {}
    }
}
