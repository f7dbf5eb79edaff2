//! How a configuration names its contestants: folders, served names, hubs.

use std::fs;
use std::path::Path;

use albedo::backends::openai::scripted::{Answer, ScriptedServer};
use serde_json::Value;

use crate::question::Question;
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

    // The same replies before another judge: nobody is asked again.
    let asked = server.seen().len();
    let replay = format!("{{ name = \"replay\", record = {out:?} }}");
    let path = config(folder.path(), "king.name = \"king\"\nchallenger.name = \"challenger\"", &replay);
    let again = folder.path().join("again").to_str().expect("UTF-8").to_owned();
    let rejudged =
        albedo(["duel", "--config", &path, "--judge", "reference-action", "--out", &again, "--json"]);
    let report: Value = serde_json::from_str(&stdout(&rejudged)).expect("JSON");
    assert_eq!(report["verdict"]["judges"][0]["judge"], "reference-action");
    assert_eq!(server.seen().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_runs_here_duels_one_behind_a_server_and_either_is_measured() {
    let server = ScriptedServer::start(|seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&["owner/keeps-the-form"]);
        }
        Answer::reply("THOUGHT: I look at the files.\n\n```bash\nls -la\n```")
    });
    let (server, folder) = (server.await.expect("starts"), tempfile::tempdir().expect("a folder"));
    let openai = format!("{{ name = \"openai\", base_url = {:?}, stream = false }}", server.base_url());
    let models = demo().join("models/king");
    let contestants = format!(
        "king.path = {:?}\nchallenger = {{ name = \"owner/keeps-the-form\", backend = {openai} }}",
        models.to_str().expect("UTF-8"),
    );
    let path = config(folder.path(), &contestants, "{ name = \"burn\" }");
    let text = fs::read_to_string(&path).expect("reads") + "generation.max_new_tokens = 16\n";
    fs::write(&path, text).expect("writes");
    let out = folder.path().join("duel").to_str().expect("UTF-8").to_owned();
    let mut duel = command(["duel", "--config", &path, "--out", &out, "--json"]);
    let url = format!("base_url={}", server.base_url());
    let mut bench = command(["bench", "name:owner/keeps-the-form", "--backend", "openai", "--set", &url]);
    bench.args(["--set", "stream=false", "--run", "2x64+4", "--prefill", "1x64", "--rounds", "1", "--json"]);
    let run = move || [duel.output().expect("albedo starts"), bench.output().expect("albedo starts")];
    let [duel, bench] = tokio::task::spawn_blocking(run).await.expect("ends");
    let report: Value = serde_json::from_str(&stdout(&duel)).expect("JSON");
    assert_eq!(report["verdict"]["samples"], 4, "{report}");
    stdout(&albedo(["record", "verify", &out]));

    let figures: Value = serde_json::from_str(&stdout(&bench)).expect("JSON");
    // The server says that every prompt has seven tokens, and that a reply has one a word.
    assert_eq!(figures["cases"][0]["tokens_read"], 7, "{figures}");
    assert_eq!(figures["cases"][1]["tokens_read"], 14, "{figures}");
    assert!(figures["cases"][1]["seconds"]["median"].as_f64().is_some_and(|seconds| seconds > 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_judge_that_follows_the_order_and_a_model_that_duels_itself_are_named() {
    let server = ScriptedServer::start(|seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&["owner/model", "judge"]);
        }
        if seen.body["model"] == "judge" {
            return Answer::reply(&Question::read(seen).answer("first"));
        }
        // Another text every time, so that no pair is a tie without asking.
        Answer::reply(&format!("ls {}", seen.number))
    });
    let (server, folder) = (server.await.expect("starts"), tempfile::tempdir().expect("a folder"));
    let openai = format!("{{ name = \"openai\", base_url = {:?}, stream = false }}", server.base_url());
    let path =
        config(folder.path(), "king.name = \"owner/model\"\nchallenger.name = \"owner/model\"", &openai);
    let judge = format!("{{ name = \"chat\", label = \"biased\", model = \"judge\", backend = {openai} }}");
    let text = fs::read_to_string(&path).expect("reads");
    let text = text.replace("{ name = \"protocol\" }", &judge).replace("samples = 4", "samples = 8");
    fs::write(&path, text).expect("writes");
    let out = folder.path().join("duel").to_str().expect("UTF-8").to_owned();
    let mut duel = command(["duel", "--config", &path, "--out", &out]);
    let output =
        tokio::task::spawn_blocking(move || duel.output().expect("albedo starts")).await.expect("ends");
    stdout(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for words in [
        "warning: both sides are the same model",
        "warning: judge `biased` preferred another side in every pair",
    ] {
        assert_eq!(said.matches(words).count(), 1, "{said}");
    }
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
    stdout(&albedo(["config", "check", &path]));
    let king = format!("king.ref = \"other:owner/model@sha256:{DIGITS}\"");
    let path = config(folder.path(), &format!("{king}\n{other}"), burn);
    let output = albedo(["config", "check", &path]);
    assert_eq!(output.status.code(), Some(78), "{}", error(&output));
    assert!(error(&output).contains("no hub named `other` (key: king.ref"), "{}", error(&output));
}
