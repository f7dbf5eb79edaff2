//! How a configuration names its contestants: folders, served names, hubs.

use std::fs;
use std::path::Path;

use albedo::backends::openai::scripted::{Answer, ScriptedServer};
use serde_json::Value;

use crate::run::{albedo, command, demo, error, stdout};

const DIGITS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A duel over the demo's tasks, written into `folder`.
fn config(folder: &Path, contestants: &str, backend: &str) -> String {
    let text = format!(
        "{contestants}\n\
         backend = {backend}\n\
         tasks = {{ name = \"parquet\", path = {:?} }}\n\
         judges = [{{ name = \"protocol\" }}]\n\
         [duel]\nsamples = 4\nrule = {{ name = \"margin\" }}\n",
        demo().join("tasks").to_str().expect("UTF-8"),
    );
    let path = folder.join("duel.toml");
    fs::write(&path, text).expect("writes");
    path.to_str().expect("UTF-8").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_served_models_duel_from_a_configuration() {
    let server = ScriptedServer::start(|seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&["owner/keeps-the-form", "owner/chats"]);
        }
        match seen.body["model"].as_str() {
            Some("owner/keeps-the-form") => {
                Answer::reply("THOUGHT: I look at the files.\n\n```bash\nls -la\n```")
            }
            _ => Answer::reply("Sure! What would you like me to do?"),
        }
    });
    let (server, folder) = (server.await.expect("starts"), tempfile::tempdir().expect("a folder"));
    let contestants = "king.name = \"owner/chats\"\nchallenger.name = \"owner/keeps-the-form\"";
    let backend = format!("{{ name = \"openai\", base_url = {:?}, stream = false }}", server.base_url());
    let path = config(folder.path(), contestants, &backend);
    let out = folder.path().join("duel").to_str().expect("UTF-8").to_owned();
    let mut command = command(["duel", "--config", &path, "--out", &out, "--json"]);
    let output = tokio::task::spawn_blocking(move || command.output().expect("albedo starts")).await;
    let report: Value = serde_json::from_str(&stdout(&output.expect("ends"))).expect("JSON");
    assert!(report["verdict"]["margin"].as_f64().expect("a margin") > 0.0, "{report}");
    stdout(&albedo(["record", "verify", &out]));
}

#[test]
fn a_contestant_is_named_once_and_in_a_way_that_its_backend_loads() {
    let folder = tempfile::tempdir().expect("a folder");
    let openai = "{ name = \"openai\", base_url = \"http://127.0.0.1:9/v1\", check_model = false }";
    let burn = "{ name = \"burn\" }";
    let other = "challenger.path = \"models/challenger\"";
    for (king, backend, words) in [
        ("king = {}", burn, "nothing names the model (key: king); set one of `path`, `name`, `ref`"),
        ("king = { path = \"a\", name = \"b\" }", burn, "`path` and `name` both name the model"),
        ("king.ref = \"owner/model:latest\"", burn, "names no revision"),
        ("king.ref = \"hf:owner/model@main\"", burn, "can be moved"),
        ("king.ref = \"owner/../model@sha256:0\"", burn, "can be moved"),
        ("king.name = \"owner/model\"", burn, "given by a served name, but this backend loads folders"),
        ("king.path = \"models/king\"", openai, "name the model with `name`"),
    ] {
        let path = config(folder.path(), &format!("{king}\n{other}"), backend);
        let output = albedo(["duel", "--config", &path, "--out", "nowhere"]);
        assert_eq!(output.status.code(), Some(78), "{king}: {}", error(&output));
        assert!(error(&output).contains(words), "{king}: {}", error(&output));
    }
    let king = format!("king.ref = \"owner/model@sha256:{DIGITS}\"");
    let path = config(folder.path(), &format!("{king}\n{other}"), burn);
    let output = albedo(["config", "check", &path]);
    assert_eq!(output.status.code(), Some(78), "{}", error(&output));
    assert!(error(&output).contains("no hub named `oci` (key: king.ref"), "{}", error(&output));
}
