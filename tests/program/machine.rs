//! What programs read: every `--json` of every command has the documented keys, and
//! nothing but it is on standard output. Those about chains are in `tests/chain.rs`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use albedo::backends::hubs::scripted::{HuggingFace, Registry, Reply, Server};
use albedo::backends::openai::scripted::{Answer, ScriptedServer};
use albedo::testing::small_duel;
use albedo::{CallContext, Digest, DuelSettings, FileStore, Rule, Seed};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::log::key;
use crate::machine_guide::{Guide, commands_with_json};
use crate::question::Question;
use crate::run::{albedo, command, demo, root, stdout};

/// The program before the guide, in a folder of its own.
struct Machine {
    guide: Guide,
    place: TempDir,
}

impl Machine {
    /// `name` in the folder.
    fn path(&self, name: &str) -> String {
        text(&self.place.path().join(name))
    }

    fn write(&self, name: &str, content: &str) -> String {
        fs::write(self.place.path().join(name), content).expect("writes");
        self.path(name)
    }

    /// Runs `arguments` with `--json`, and compares the keys with the section `title`.
    #[track_caller]
    fn prints(&mut self, title: &str, arguments: &[&str]) -> Value {
        let mut command = command(arguments.iter().copied().chain(["--json"]));
        let output = command.env("XDG_CACHE_HOME", self.path("cache")).output().expect("albedo starts");
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(!printed.is_empty(), "{title}: {}", String::from_utf8_lossy(&output.stderr));
        self.guide.check(title, &printed)
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_prints_what_the_guide_documents() {
    let place = tempfile::tempdir().expect("a folder");
    let mut machine = Machine { guide: Guide::read(), place };
    let pages = machine.path("man");
    stdout(&albedo(["man", &pages]));
    // Another program reads `fingerprint --json`: its form is not albedo's.
    let mut commands = commands_with_json(Path::new(&pages));
    assert!(commands.remove("fingerprint"), "{commands:?}");
    let is_here = |command: &str| {
        !["chain", "wallet", "miner"].contains(&command.split(' ').next().unwrap_or_default())
    };
    commands.retain(|command| is_here(command));
    let mut documented = machine.guide.commands();
    documented.retain(|command| is_here(command));
    assert_eq!(commands, documented, "commands with `--json`, and those that docs/machine-output.md has");

    duels(&mut machine);
    judges(&mut machine).await;
    tasks(&mut machine).await;
    confirmations(&mut machine).await;
    decisions(&mut machine);
    logs(&mut machine);
    hubs(&mut machine).await;
    publishing(&mut machine).await;
    validators(&mut machine);
    #[cfg(feature = "distil")]
    distillations(&mut machine);
    assert_eq!(machine.guide.unchecked(is_here), [""; 0], "documented, and compared with nothing");
}

#[cfg(feature = "distil")]
fn distillations(machine: &mut Machine) {
    let config = format!(
        "gate = \"none\"\n[student]\npath = {:?}\n[data]\ntasks = [{:?}]\nheld_out_rows = 1\n[[stage]]\n\
         objective = \"sft\"\nsteps = 2\n[train]\naccumulate = 1\nmax_tokens = 256\n",
        text(&demo().join("models/king")),
        text(&demo().join("distil.jsonl.gz"))
    );
    let config = machine.write("distil.toml", &config);
    let out = machine.path("distil");
    let data = machine.prints("distil data", &["distil", "data", "--config", &config, "--out", &out]);
    let distilled = machine.prints("distil", &["distil", "--config", &config, "--out", &out]);
    assert_eq!((&data["plan"], distilled["steps"].as_u64()), (&distilled["plan"], Some(2)));
    let verified = machine.prints("distil verify", &["distil", "verify", &out]);
    assert_eq!(verified["parameters"], distilled["parameters"]);
    let page = machine.path("distil.html");
    let reported = machine.prints("distil report", &["distil", "report", &out, "--out", &page]);
    assert_eq!(reported["plan"], distilled["plan"]);

    let wheel = machine.path("wheel");
    let tasks = machine.path("training-tasks");
    let rows = text(&demo().join("distil.jsonl.gz"));
    stdout(&albedo(["tasks", "make", &rows, "--out", &tasks]));
    let duel = |tasks: &str| {
        format!(
            "[king]\npath = {:?}\n[challenger]\npath = {:?}\n[tasks]\nname = \"parquet\"\npath = {tasks:?}\n\
             [[judges]]\nname = \"protocol\"\n[duel]\nsamples = 2\n\
             rule = {{ name = \"margin\", win_margin = 2 }}\ngeneration.max_new_tokens = 8\n",
            text(&demo().join("models/king")),
            text(&demo().join("models/challenger"))
        )
    };
    let teaches = machine.write("teaches.toml", &duel(&tasks));
    let decides = machine.write("decides.toml", &duel(&text(&demo().join("tasks"))));
    let open = std::fs::read_to_string(&config).expect("reads");
    let gated = open.replace("gate = \"none\"\n", "");
    let gated = machine.write("gated.toml", &format!("{gated}[gate]\nduel = {decides:?}\nscreens = []\n"));
    let turn = ["flywheel", "--duel", &teaches, "--distil", &gated, "--out", &wheel];
    let turned = machine.prints("flywheel", &turn);
    let verified = machine.prints("flywheel verify", &["flywheel", "verify", &wheel]);
    assert_eq!(verified["rounds"], turned["rounds"]);
}

fn duels(machine: &mut Machine) {
    let duel = machine.path("duel");
    let small =
        ["duel", "--demo", "--rule", "margin", "--samples", "2", "--judge", "protocol", "--out", &duel];
    let verdict = machine.prints("duel", &small);
    let shown = machine.prints("record show", &["record", "show", &duel]);
    assert_eq!(shown["verdict"], verdict["verdict"]);
    let report = machine.path("report.html");
    let reported = machine.prints("record report", &["record", "report", &duel, "--out", &report]);
    assert_eq!(reported["records"][0]["digest"], shown["digest"]);
    let study = machine.path("study");
    let size = ["duel", "--demo", "--rule", "margin", "--size-for", "10", "--after", &duel];
    assert_eq!(machine.prints("duel --size-for", &size)["sd_from"], "earlier records");
    let again = ["record", "rejudge", &duel, "--judge", "reference-action", "--out", &study];
    let rejudged = machine.prints("record rejudge", &again);
    assert_eq!(rejudged["records"][0]["before"], shown["verdict"]);
    let sample = machine.prints("record show --sample N", &["record", "show", &duel, "--sample", "1"]);
    assert!(sample["items"].as_array().is_some_and(|lines| lines.len() > 3), "{sample}");
    let again = ["record", "verify", &duel, "--regenerate", "1", "--demo"];
    let verified = machine.prints("record verify", &again);
    assert_eq!(verified["regenerated"].as_array().map(Vec::len), Some(1), "{verified}");

    let out = machine.path("data");
    let exported = machine.prints("record export", &["record", "export", &duel, "--out", &out]);
    assert_eq!(exported["records"], 1, "{exported}");

    let models = demo().join("models");
    let [king, challenger] = ["king", "challenger"].map(|side| text(&models.join(side)));
    let calibration = text(&demo().join("audit/cpu-cpu-greedy.json"));
    let audit = ["--king", &king, "--challenger", &challenger, "--calibration", &calibration];
    machine.prints("record audit", &[&["record", "audit", &duel, "--replies", "2"][..], &audit].concat());
    let screened = machine.prints("screen", &["screen", &challenger, "--king", &king]);
    assert!(screened["findings"].as_array().is_some_and(|findings| !findings.is_empty()), "{screened}");

    let config = format!(
        "king.path = {king:?}\nchallenger.path = {king:?}\ntasks = {{ name = \"parquet\", path = {:?} }}\n\
         judges = [{{ name = \"protocol\" }}]\nscreens = [{{ name = \"digest\" }}]\n",
        text(&demo().join("tasks"))
    );
    let config = machine.write("copy.toml", &config);
    let forfeit = machine.path("forfeit");
    machine.prints("duel, not admitted", &["duel", "--config", &config, "--out", &forfeit]);
    let chain = machine.prints("record verify", &["record", "verify", &forfeit]);
    assert_eq!(chain["forfeits"].as_array().map(Vec::len), Some(1), "{chain}");

    let calibrate = ["calibrate", "--demo", "--duels", "2", "--samples", "2", "--temperature", "1"];
    machine.prints("calibrate", &calibrate);
    machine.prints("bench", &["bench", &king, "--prefill", "1x8", "--rounds", "1"]);
    let checked = machine.prints("config check", &["config", "check", &config]);
    assert_eq!(checked["doubts"].as_array().map(Vec::len), Some(1), "{checked}");
    let plugins = machine.prints("plugins", &["plugins"]);
    assert!(plugins["items"].as_array().is_some_and(|plugins| plugins.len() > 20), "{plugins}");
}

async fn judges(machine: &mut Machine) {
    let server = ScriptedServer::start(|seen| {
        if seen.path.ends_with("/models") {
            return Answer::models(&["m"]);
        }
        Answer::reply(&Question::read(seen).answer("first"))
    });
    let server = server.await.expect("starts");
    let config = format!(
        "king.path = \"a\"\nchallenger.path = \"b\"\ntasks = {{ name = \"parquet\", path = \"c\" }}\n\
         [[judges]]\nname = \"protocol\"\n[[judges]]\nname = \"chat\"\nlabel = \"asks\"\nmodel = \"m\"\n\
         backend = {{ name = \"openai\", base_url = {:?}, stream = false }}\n",
        server.base_url()
    );
    let config = machine.write("panel.toml", &config);
    let pair = [("question", "Which files are there?"), ("first", "ls"), ("second", "Sure!")];
    let [question, first, second] = pair.map(|(name, content)| machine.write(name, content));
    let mut tries = |more: &[&str]| {
        let pair = ["--conversation", &question, "--first", &first, "--second", &second];
        machine.prints("judge try", &[&["judge", "try", "--config", &config][..], &pair, more].concat())
    };
    let offline = tries(&[]);
    assert_eq!((&offline["judge"]["name"], &offline["prompt"]), (&"protocol".into(), &Value::Null));
    let chat = tries(&["--judge", "asks"]);
    assert_eq!(chat["assessment"]["outcome"], "scored", "{chat}");
    assert!(chat["prompt"].as_array().is_some_and(|prompt| prompt.len() == 2), "{chat}");
    let asked = server.seen().len();
    let dry = tries(&["--judge", "asks", "--dry-run"]);
    assert_eq!((&dry["assessment"], &dry["prompt"]), (&Value::Null, &chat["prompt"]));
    let questions = server.seen()[asked..].iter().filter(|seen| seen.path.ends_with("completions")).count();
    assert_eq!(questions, 0, "a dry run asks nothing");
    let pairs = root().join("examples/judge-eval/pairs.jsonl");
    let pairs = pairs.to_str().expect("UTF-8");
    let eval = ["judge", "eval", "--pairs", pairs, "--judge", "reference-action", "--judge", "protocol"];
    let evaluated = machine.prints("judge eval", &eval);
    assert_eq!((&evaluated["pairs"], &evaluated["judges"][1]["judge"]), (&8.into(), &"protocol".into()));
}

async fn tasks(machine: &mut Machine) {
    let line = r#"[{"role":"user","content":"Which?"},{"role":"assistant","content":"ls"}]"#;
    let (chats, made) = (machine.write("chats.jsonl", line), machine.path("made"));
    machine.prints("tasks make", &["tasks", "make", &chats, "--out", &made]);
    // A shard that is missing, and one that is damaged.
    let copy = machine.path("copy");
    let folder = demo().join("tasks/data");
    let shard = fs::read_dir(&folder).expect("lists").next().expect("a shard").expect("an entry");
    let (name, mut bytes) =
        (shard.file_name().into_string().expect("UTF-8"), fs::read(shard.path()).expect("reads"));
    fs::create_dir(&copy).expect("makes");
    let copied = Path::new(&copy).join(&name);
    let commit = "1cfa9a7208912126459214e8b04321603b3df60c";
    let hub = HuggingFace::new("datasets", "owner/tasks", commit).with(&name, bytes.clone(), true);
    let server = Server::start(0, move |request| hub.answer(request)).await.expect("listens");
    fs::write(&copied, &bytes).expect("writes");
    machine.prints("tasks manifest", &["tasks", "manifest", &copy]);
    bytes[100] ^= 1;
    fs::write(&copied, &bytes).expect("writes");
    let damaged = machine.prints("tasks verify", &["tasks", "verify", &copy]);
    assert_eq!(damaged["damaged"].as_array().map(Vec::len), Some(1), "{damaged}");
    fs::remove_file(&copied).expect("removes");
    let (from, url) = (format!("hf:datasets/owner/tasks@{commit}"), server.url());
    let fetched =
        machine.prints("tasks prefetch", &["tasks", "prefetch", &copy, "--from", &from, "--endpoint", &url]);
    assert_eq!(fetched["sound"], 1, "{fetched}");
}

async fn confirmations(machine: &mut Machine) {
    let rule = Rule::Sequential { win_margin: 2.0, null_margin: 0.0 };
    let mut previous = None;
    let folders = ["stage-1", "stage-2"].map(|name| machine.path(name));
    for (folder, seed) in folders.iter().zip(1..) {
        let settings = DuelSettings {
            samples: 8,
            rule: rule.clone(),
            seed: Seed::from(seed),
            previous,
            ..DuelSettings::default()
        };
        let (store, cx) = (FileStore::create(folder).expect("a store"), CallContext::new());
        let duel = small_duel().settings(settings).plan(&store, &cx).await.expect("plans");
        previous = duel.run(&store, &cx).await.expect("runs").record;
    }
    machine.prints("record confirm", &["record", "confirm", &folders[0], &folders[1]]);
}

fn decisions(machine: &mut Machine) {
    let rows = (0..12).map(|item| format!("{item},{},1\n", item % 2));
    let table = machine.write("scores.csv", &format!("item,first,second\n{}", rows.collect::<String>()));
    let decided = machine.prints("decide", &["decide", "--csv", &table]);
    assert_eq!(decided["comparison"]["items"], 12, "{decided}");
    let budget = machine.path("gate.json");
    let gated = machine.prints("decide", &["decide", "--csv", &table, "--budget", &budget]);
    assert_eq!(gated["budget"]["runs"], 1, "{gated}");
}

fn logs(machine: &mut Machine) {
    let (key, log) = (key(machine.place.path(), 0), machine.path("log"));
    let duel = machine.path("duel");
    let signed = machine.prints("record sign", &["record", "sign", &duel, "--key", &key]);
    let key_of = signed["key"].as_str().expect("a key").to_owned();
    let verified = machine.prints("record verify", &["record", "verify", &duel, "--signer", &key_of]);
    assert_eq!(verified["signed"][0]["keys"][0], key_of.as_str(), "{verified}");
    let append = ["log", "append", &log, &duel, "--key", &key, "--origin", "example.com/log"];
    let appended = machine.prints("log append", &append);
    assert_eq!(appended["appended"].as_array().map(Vec::len), Some(2), "{appended}");
    let [size, root] = ["size", "root"].map(|key| appended[key].to_string().replace('"', ""));
    let head = json!({"text": format!("albedo-log|1|{size}|{root}")});
    let anchor = json!({"hotkey": "5Own", "place": {"block": 7}, "content": head});
    let reveals = machine.write("reveals.json", &json!({"reveals": [anchor]}).to_string());
    let anchored = ["--reveals", &reveals, "--anchored-by", "5Own"];
    machine.prints("log verify", &[&["log", "verify", &log, "--key", &key_of][..], &anchored].concat());
    let proof = stdout(&albedo(["log", "prove", &log, "--entry", "1"]));
    let proof = machine.write("proof", &proof);
    machine.prints("log verify --proof FILE", &["log", "verify", "--proof", &proof]);
}

async fn hubs(machine: &mut Machine) {
    let registry = Arc::new(Registry::default());
    let server = Server::start(0, move |request| registry.answer(request)).await.expect("listens");
    let config =
        machine.write("hubs.toml", &format!("[[hubs]]\nname = \"oci\"\nregistry = {:?}\n", server.url()));
    let model = machine.path("model");
    fs::create_dir(&model).expect("makes");
    fs::write(Path::new(&model).join("config.json"), "{}").expect("writes");
    let pushed = machine.prints("hub push", &["hub", "push", &model, "owner/model", "--config", &config]);
    let reference = pushed["reference"].as_str().expect("a reference").to_owned();
    for (title, command) in [("hub ls", "ls"), ("hub pull", "pull"), ("hub verify", "verify")] {
        let printed = machine.prints(title, &["hub", command, &reference, "--config", &config]);
        if command != "verify" {
            assert_eq!(printed["files"][0]["sha256"], Digest::of("{}").to_string(), "{printed}");
        }
    }
    let listed = machine.prints("cache ls", &["cache", "ls"]);
    assert!(listed["models"].as_array().is_some_and(|models| !models.is_empty()), "{listed}");
    machine.prints("cache gc", &["cache", "gc"]);
    let verified = machine.prints("cache verify", &["cache", "verify"]);
    let sound = verified["sound"].as_array().expect("a list");
    assert!(sound.iter().any(|model| *model == reference.as_str()), "{verified}");
}

async fn publishing(machine: &mut Machine) {
    let (duels, site) = (machine.path("duels"), machine.path("site"));
    fs::create_dir(&duels).expect("makes");
    fs::rename(machine.path("duel"), Path::new(&duels).join("first")).expect("moves");
    let place = ["--to", &site];
    let pushed = machine.prints("publish push", &[&["publish", "push", &duels][..], &place].concat());
    assert_eq!(pushed["published"], 1, "{pushed}");
    let status = machine.prints("publish status", &["publish", "status", &duels]);
    machine.prints("publish retry", &[&["publish", "retry", &duels][..], &place].concat());

    let root = site.clone();
    let served = move |request: &albedo::backends::hubs::scripted::Request| match fs::read(
        Path::new(&root).join(request.path.trim_start_matches('/')),
    ) {
        Ok(bytes) => Reply::new(200, bytes),
        Err(_) => Reply::new(404, ""),
    };
    let server = Server::start(0, served).await.expect("listens");
    let record = status["queue"][0]["record"].as_str().expect("a digest");
    let (url, out) = (format!("{}/records/{record}", server.url()), machine.path("fetched"));
    let fetched = machine.prints("record fetch", &["record", "fetch", &url, "--out", &out]);
    assert_eq!(fetched["signers"].as_array().map(Vec::len), Some(1), "{fetched}");
}

fn validators(machine: &mut Machine) {
    let (folder, config) = crate::validator::folder("");
    crate::validator::ledger(folder.path());
    let config = ["--config", config.to_str().expect("UTF-8")];
    let mut prints = |title: &str| {
        let words: Vec<_> =
            title.split(' ').chain((title == "validator submission").then_some("1")).collect();
        machine.prints(title, &[&words[..], &config].concat())
    };
    let status = prints("validator status");
    assert_eq!((&status["king"]["id"], &status["duel"]["attempt"]), (&2.into(), &1.into()), "{status}");
    assert_eq!(prints("validator queue")["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(prints("validator history")["duels"].as_array().map(Vec::len), Some(3));
    let moves = prints("validator submission")["items"][0]["moves"].as_array().map(Vec::len);
    assert!(moves > Some(5), "{moves:?}");
    prints("validator doctor");
    let (follower, follows) = crate::validator::folder("");
    crate::validator::followers_ledger(follower.path());
    let follows = ["validator", "status", "--config", follows.to_str().expect("UTF-8")];
    let followed = machine.prints("validator status", &follows)["followed"].clone();
    assert_eq!((&followed["records"], &followed["unaudited"]), (&1.into(), &1.into()), "{followed}");
    drop(follower);
    let king = crate::run::demo().join("models/king");
    let genesis = ["validator", "genesis", king.to_str().expect("UTF-8")];
    let (empty, bare) = crate::validator::folder("");
    let bare = ["--config", bare.to_str().expect("UTF-8")];
    assert_eq!(machine.prints("validator genesis", &[&genesis[..], &bare].concat())["became"], "preview");
    let reset = ["validator", "reset", "v8", "--reason", "a larger model"];
    let python = tempfile::tempdir().expect("a folder");
    crate::import::state(python.path());
    let import = ["validator", "import", python.path().to_str().expect("UTF-8")];
    assert_eq!(machine.prints("validator import", &[&import[..], &bare].concat())["became"], "preview");
    drop(empty);
    assert_eq!(machine.prints("validator reset", &[&reset[..], &config].concat())["became"], "preview");
}

#[test]
fn an_error_leaves_standard_output_empty() {
    let output = albedo(["record", "show", "no-such-folder", "--json"]);
    assert!(output.stdout.is_empty());
    assert_eq!(output.status.code(), Some(66));
}

#[test]
fn every_command_writes_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("events.jsonl");
    let file = file.to_str().expect("UTF-8");
    let model = "examples/demo/models/king";
    stdout(&albedo(["generate", model, "--prompt", "x", "--max-new-tokens", "1", "--events", file]));
    let events = albedo::report::EventFile::read(std::path::Path::new(file)).expect("reads");
    assert!(events.iter().all(|event| event.version == 1));
    std::fs::write(file, "kept\n").expect("writes");
    let again = albedo(["plugins", "--events", file]);
    assert_eq!(again.status.code(), Some(78), "an events file is never written over");
    assert_eq!(std::fs::read_to_string(file).expect("reads"), "kept\n");
}

#[test]
fn the_version_names_commit_features_and_target() {
    let version = stdout(&albedo(["--version"]));
    for line in ["commit: ", "features: ", "target: "] {
        assert!(version.contains(&format!("\n{line}")), "{version}");
    }
    assert!(version.contains("cli, ") && version.starts_with("albedo 0."), "{version}");
    assert_eq!(stdout(&albedo(["-V"])).lines().count(), 1);
}
