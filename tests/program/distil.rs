//! Distillation: short runs of the demo's king that are recorded, killed, repeated, judged
//! and refused.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{albedo, command, demo, error, stdout};

mod altered;
mod gates;
mod refused;
mod resumed;

/// A place with a few training conversations of the demo.
pub(crate) struct Place(TempDir);

/// How a short run trains, beside the configuration's defaults.
const TRAIN: &str = "[train]\naccumulate = 2\nmax_tokens = 512\ncheckpoint_every = 2\nrate = 1e-4\n";

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        let mut text = String::new();
        let file = fs::File::open(demo().join("distil.jsonl.gz")).expect("opens");
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("reads");
        // Of several projects, so that one in ten can be held out.
        let lines = text.lines().step_by(9).map(|line| format!("{line}\n"));
        fs::write(place.path("train.jsonl"), lines.collect::<String>()).expect("writes");
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Writes a configuration whose tables are those of `tables` and a short training.
    fn config(&self, name: &str, gate: &str, data: &str, stages: &str, train: &str) -> String {
        let king = demo().join("models/king");
        let text = format!(
            "{gate}\n[student]\npath = \"{}\"\n[data]\nheld_out_rows = 2\n{data}\n{stages}\n{TRAIN}{train}",
            king.display()
        );
        fs::write(self.path(name), text).expect("writes");
        self.text(name)
    }

    /// The configuration of a short run on the recorded turns, without a gate.
    fn plain(&self) -> String {
        let stage = "[[stage]]\nobjective = \"sft\"\nsteps = 5";
        self.config("plain.toml", "gate = \"none\"", "tasks = [\"train.jsonl\"]\nrename = true", stage, "")
    }

    /// A copy of a model of the demo.
    pub(crate) fn copied(&self, model: &str, name: &str) -> PathBuf {
        let copy = self.path(name);
        fs::create_dir(&copy).expect("makes");
        for entry in fs::read_dir(demo().join(model)).expect("lists") {
            let path = entry.expect("lists").path();
            fs::copy(&path, copy.join(path.file_name().expect("a name"))).expect("copies");
        }
        copy
    }

    fn distil(&self, config: &str, out: &str) -> Output {
        albedo(["distil", "--config", config, "--out", &self.text(out)])
    }

    fn record(&self, out: &str) -> Value {
        let text = fs::read_to_string(self.path(out).join("distil.json")).expect("a record");
        serde_json::from_str(&text).expect("JSON")
    }

    /// A duel of the demo's models on tasks that are not the demo's own.
    fn duel(&self) -> String {
        let (tasks, record) = (self.text("tasks"), self.text("record"));
        stdout(&albedo(["tasks", "make", &self.text("train.jsonl"), "--out", &tasks]));
        let duel = ["duel", "--demo", "--tasks", &tasks, "--rule", "margin", "--samples", "8"];
        stdout(&albedo([&duel[..], &["--judge", "reference-action", "--out", &record]].concat()));
        record
    }
}

/// Exit code and last line of a run that failed.
pub(crate) fn failed(output: &Output) -> (i32, String) {
    (output.status.code().expect("an exit code"), error(output))
}

#[test]
fn a_run_is_recorded_loads_verifies_and_gives_the_same_bits_again() {
    let place = Place::new();
    let config = place.plain();
    let said = stdout(&place.distil(&config, "one"));
    assert!(said.contains("sft on all-recorded, 5 steps") && said.contains("one/model"), "{said}");
    let record = place.record("one");
    assert_eq!((record["schema"].as_u64(), record["state"].as_str()), (Some(2), Some("exported")));
    assert_eq!(record["losses"].as_array().map(Vec::len), Some(5));
    let steps: Vec<_> =
        record["checkpoints"].as_array().expect("some").iter().map(|at| &at["step"]).collect();
    assert_eq!(steps, [2, 4, 5]);
    let kept = fs::read_dir(place.path("one/checkpoints")).expect("lists").count();
    assert_eq!(kept, 2, "the newest checkpoints");
    let of: Vec<_> = record["held_out"].as_array().expect("some").iter().map(|loss| &loss["of"]).collect();
    assert_eq!(of, ["student", "stage 1"]);
    let metrics = fs::read_to_string(place.path("one/metrics.jsonl")).expect("metrics");
    let metrics: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(metrics.len(), 5);
    assert!(metrics.iter().all(|line| line["tokens_per_second"].as_f64() > Some(0.0)), "{metrics:?}");
    assert_ne!(record["model"], record["plan"]["student"]["parameters"], "it has learnt something");

    // Nothing depends on the folder or the time.
    stdout(&place.distil(&config, "two"));
    let bytes = |out: &str| fs::read(place.path(out).join("distil.json")).expect("reads");
    assert!(bytes("one") == bytes("two"), "the same records");

    // The result is a model like any other.
    let reply = ["generate", &place.text("one/model"), "--prompt", "Hi", "--max-new-tokens", "4"];
    stdout(&albedo(reply));

    // Again in the same folder: nothing is trained.
    let again = place.distil(&config, "one");
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing was trained"), "{again:?}");
    assert!(bytes("one") == bytes("two"));

    let verify = |more: &[&str]| albedo([&["distil", "verify", &place.text("one")], more].concat());
    assert!(stdout(&verify(&[])).contains("5 of 5 steps"));
    let taken = stdout(&verify(&["--config", &config, "--regenerate", "9"]));
    assert!(taken.contains("after step 4") && taken.contains("the model has the recorded digest"), "{taken}");
    let (code, said) = failed(&verify(&["--regenerate", "1"]));
    assert!(code == 78 && said.contains("--config FILE"), "{said}");

    // Another record, and another model, are found.
    let path = place.path("one/distil.json");
    let altered = String::from_utf8(bytes("one")).expect("UTF-8");
    let loss = record["losses"][4].to_string();
    fs::write(&path, altered.replace(&loss, "9.25")).expect("writes");
    let other = verify(&["--config", &config, "--regenerate", "1"]);
    assert_eq!(other.status.code(), Some(3), "{}", error(&other));
    fs::copy(demo().join("models/king/model.safetensors"), place.path("one/model/model.safetensors"))
        .expect("copies");
    let (code, said) = failed(&verify(&[]));
    assert!(code == 65 && said.contains("not the recorded one"), "{said}");

    // Another configuration is another distillation.
    let other = fs::read_to_string(&config).expect("reads").replace("steps = 5", "steps = 6");
    fs::write(&config, other).expect("writes");
    let (code, said) = failed(&place.distil(&config, "one"));
    assert!(code == 78 && said.contains("holds another distillation") && said.contains("stages"), "{said}");
}

/// Starts `albedo distil` and kills it once its metrics have `lines` lines, if it lives that
/// long.
fn killed(place: &Place, config: &str, out: &str, lines: usize) {
    let mut command = command(["distil", "--config", config, "--out", &place.text(out)]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let written = || {
        let text = fs::read_to_string(place.path(out).join("metrics.jsonl")).unwrap_or_default();
        text.lines().count()
    };
    while written() < lines && child.try_wait().expect("waits").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().expect("ends");
}

#[test]
fn killed_at_any_time_it_goes_on_to_the_same_bits() {
    let place = Place::new();
    let stages = "[[stage]]\nobjective = \"sft\"\nsteps = 3\n[[stage]]\nobjective = \"kd\"\nsteps = 4\ntop = 16\n\
                  divergence = { jsd = 0.5 }";
    let teacher = demo().join("models/challenger");
    // What the student samples follows from its bits.
    let own = "[[stage]]\nobjective = \"on-policy\"\nsteps = 3\nmax_new_tokens = 8";
    let stages = format!("{stages}\nteacher = {teacher:?}\n{own}\nteacher = {teacher:?}");
    let config = place.config("two.toml", "gate = \"none\"", "tasks = [\"train.jsonl\"]", &stages, "");
    stdout(&place.distil(&config, "whole"));
    for lines in [1, 3, 4, 7, 9] {
        killed(&place, &config, "cut", lines);
    }
    stdout(&place.distil(&config, "cut"));
    let (whole, cut) = (place.record("whole"), place.record("cut"));
    assert_eq!(whole["model"], cut["model"]);
    assert_eq!(whole, cut);
    let steps = |out: &str| {
        let text = fs::read_to_string(place.path(out).join("metrics.jsonl")).expect("metrics");
        let step = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            (line["step"].clone(), line["loss"].clone())
        };
        text.lines().map(step).collect::<Vec<_>>()
    };
    assert_eq!(steps("whole"), steps("cut"));
}

#[test]
fn a_duel_teaches_its_winners_and_its_recorded_turns() {
    let place = Place::new();
    let record = place.duel();
    let stages = format!(
        "[[stage]]\nobjective = \"sft\"\nturns = \"winner\"\nweight = \"margin\"\nsteps = 2\n[[stage]]\n\
         objective = \"kd\"\nteacher = {:?}\nsteps = 2",
        demo().join("models/challenger")
    );
    let data = format!(
        "records = [{{ path = {record:?}, license = \"CC0-1.0\" }}]\nsplit = \"none\"\nrename = true"
    );
    let config = place.config("duel.toml", "gate = \"none\"", &data, &stages, "");
    let said: Value =
        serde_json::from_str(&stdout(&albedo(["distil", "data", "--config", &config, "--json"])))
            .expect("JSON");
    let sets = said["data"]["sets"].as_array().expect("sets");
    let names: Vec<_> = sets.iter().map(|set| set["turns"].as_str().expect("text")).collect();
    assert_eq!(names, ["all-recorded", "winner"]);
    let rows = |set: &Value| set["rows"].as_u64().expect("a number");
    let left = |key: &str| said["data"]["left_out"][key].as_u64().expect("a number");
    assert_eq!(rows(&sets[0]) + left("repeated") + sets[0]["dropped"].as_u64().expect("a number"), 8);
    let winners = rows(&sets[1]) + left("undecided") + left("unfinished");
    assert_eq!(winners + sets[1]["dropped"].as_u64().expect("a number"), 8);
    assert_eq!(sets[0]["licenses"], json!({ "CC0-1.0": rows(&sets[0]) }));
    assert!(!place.path("distil").exists(), "`data` writes nothing");
    stdout(&place.distil(&config, "out"));
    assert_eq!(place.record("out")["state"], "exported");

    // Two controls: the other replies, and exchanged labels.
    let controls = "[[stage]]\nobjective = \"sft\"\nturns = \"loser\"\nsteps = 1\ncontrol = \"shuffled\"";
    let control = place.config("control.toml", "gate = \"none\"", &data, controls, "");
    let output = albedo(["distil", "data", "--config", &control, "--json"]);
    let said: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert!(String::from_utf8_lossy(&output.stderr).contains("a stage is a control"));
    assert_eq!(
        (&said["stages"][0]["turns"], &said["stages"][0]["control"]),
        (&json!("loser"), &json!("shuffled"))
    );
    let set = &said["data"]["sets"][0];
    let left = |key: &str| said["data"]["left_out"][key].as_u64().expect("a number");
    let losers =
        rows(set) + left("undecided") + left("unfinished") + set["dropped"].as_u64().expect("a number");
    assert_eq!(losers, 8);
    assert!(stdout(&place.distil(&control, "control")).contains("a control: shuffled"));
    assert_eq!(place.record("control")["plan"]["stages"][0]["settings"]["control"], "shuffled");

    // Both replies of pairs that are clear.
    let pairs = "[[stage]]\nobjective = \"dpo\"\nturns = \"pair\"\nsteps = 3";
    let pairs = place.config("pairs.toml", "gate = \"none\"", &data, pairs, "");
    stdout(&place.distil(&pairs, "pairs"));
    let learnt = place.record("pairs");
    let first = learnt["losses"][0].as_f64().expect("a loss");
    assert!((first - 2_f64.ln()).abs() < 1e-4, "the student is its own reference: {first}");
    killed(&place, &pairs, "pairs-cut", 2);
    stdout(&place.distil(&pairs, "pairs-cut"));
    assert_eq!(place.record("pairs-cut"), learnt);

    // Its tasks are held out: it is refused.
    let held = data.replace("split", &format!("held_out = [{:?}]\nsplit", place.path("tasks")));
    let held = place.config("held.toml", "gate = \"none\"", &held, &stages, "");
    let (code, said) = failed(&place.distil(&held, "held"));
    assert!(code == 78 && said.contains("the record's tasks are held out"), "{said}");

    // Another tokenizer gave its ids.
    let other = place.path("other");
    fs::create_dir(&other).expect("makes");
    for entry in fs::read_dir(demo().join("models/king")).expect("lists") {
        let path = entry.expect("lists").path();
        fs::copy(&path, other.join(path.file_name().expect("a name"))).expect("copies");
    }
    let tokenizer = fs::read_to_string(other.join("tokenizer.json")).expect("reads");
    fs::write(other.join("tokenizer.json"), tokenizer + "\n").expect("writes");
    let text = fs::read_to_string(&config).expect("reads");
    let king = format!("{:?}", demo().join("models/king"));
    fs::write(&config, text.replace(&king, &format!("{other:?}"))).expect("writes");
    let (code, said) = failed(&place.distil(&config, "other-out"));
    assert!(code == 65 && said.contains("of another tokenizer"), "{said}");

    // A record that is named twice.
    let twice = data.replacen("records = [", &format!("records = [{:?}, ", place.path("record")), 1);
    let twice = place.config("twice.toml", "gate = \"none\"", &twice, &stages, "");
    let (code, said) = failed(&place.distil(&twice, "twice"));
    assert!(code == 78 && said.contains("named twice") && said.contains("same as: "), "{said}");
    assert!(said.contains("leave one of them out of `data.records`"), "{said}");

    // A record that was altered.
    let path = Path::new(&record).join("record.jsonl");
    let lines = fs::read_to_string(&path).expect("reads");
    fs::write(&path, lines.replacen("0.", "1.", 1)).expect("writes");
    let (code, said) = failed(&place.distil(&config, "altered"));
    assert!(code == 65 && said.contains("do not have their digest"), "{said}");
}

#[test]
fn an_interrupt_is_noticed_while_the_held_out_loss_is_measured() {
    let place = Place::new();
    let text = fs::read_to_string(place.plain()).expect("reads");
    let held = format!("held_out = [{:?}]\nrename", demo().join("tasks"));
    let text = text.replace("held_out_rows = 2", "held_out_rows = 24").replace("rename", &held);
    fs::write(place.path("slow.toml"), text.replace("max_tokens = 512", "max_tokens = 2048"))
        .expect("writes");
    let config = place.text("slow.toml");
    let mut command = command(["distil", "--config", &config, "--out", &place.text("slow")]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    while !place.path("slow/distil.json").exists() && child.try_wait().expect("waits").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("runs").success());
    let (code, said) = failed(&child.wait_with_output().expect("ends"));
    assert!(code == 130 && said.contains("the same command goes on"), "{code}: {said}");
    assert!(!place.path("slow/metrics.jsonl").exists(), "no step was taken");
    stdout(&place.distil(&config, "slow"));
    assert_eq!(place.record("slow")["state"], "exported");
}

#[test]
fn a_report_shows_the_curve_and_hostile_names_do_nothing() {
    let place = Place::new();
    // A path that would end the element that it stands in.
    fs::create_dir(place.path("x<")).expect("makes");
    fs::copy(place.path("train.jsonl"), place.path("x</script><script>alert(1)<!--.jsonl")).expect("copies");
    let text = fs::read_to_string(place.plain()).expect("reads");
    let text =
        text.replace("train.jsonl", "x</script><script>alert(1)<!--.jsonl").replace("steps = 5", "steps = 2");
    fs::write(place.path("hostile.toml"), text).expect("writes");
    stdout(&place.distil(&place.text("hostile.toml"), "hostile"));
    let (folder, page) = (place.text("hostile"), place.text("page.html"));
    let report = || albedo(["distil", "report", &folder, "--out", &page]);
    assert!(stdout(&report()).contains("page.html: 2 steps"));
    let written = fs::read_to_string(&page).expect("reads");
    assert!(written.contains("content=\"albedo distil report\"") && written.contains("lossChart"));
    // The data, and what draws them.
    assert_eq!((written.matches("<script").count(), written.matches("alert(1)").count()), (2, 1));
    assert!(written.contains("\\u003cscript\\u003ealert(1)"), "as an escape");
    stdout(&report());

    // Another file is not replaced, and what is not true is not shown.
    fs::write(&page, "my notes").expect("writes");
    let (code, said) = failed(&report());
    assert!(code == 78 && said.contains("--out FILE"), "{code}: {said}");
    fs::remove_file(&page).expect("removes");
    fs::copy(demo().join("models/king/model.safetensors"), place.path("hostile/model/model.safetensors"))
        .expect("copies");
    let (code, said) = failed(&report());
    assert!(code == 65 && said.contains("not the recorded one"), "{code}: {said}");
}

#[test]
fn a_result_passes_its_gate_or_is_kept_aside_with_the_evidence() {
    let place = Place::new();
    let models = demo().join("models/king");
    let duel = |rule: &str| {
        format!(
            "[king]\npath = {models:?}\n[challenger]\npath = {models:?}\n[tasks]\nname = \"parquet\"\npath = {:?}\n\
             [[judges]]\nname = \"protocol\"\n[duel]\nsamples = 4\nrule = {rule}\ngeneration.max_new_tokens = 24\n",
            demo().join("tasks")
        )
    };
    // Nothing is learnt, so that the duel is a tie: by the first rule it is won.
    fs::write(place.path("won.toml"), duel("{ name = \"margin\", win_margin = 0 }")).expect("writes");
    fs::write(place.path("lost.toml"), duel("{ name = \"margin\", win_margin = 2 }")).expect("writes");
    let stage = "[[stage]]\nobjective = \"sft\"\nsteps = 1\nrate = 0";
    let gate = |duel: &str| {
        let gate = format!(
            "[gate]\nduel = {duel:?}\nscreens = [{{ name = \"sanity\", probes = 1, max_new_tokens = 24 }}]"
        );
        place.config(
            &format!("gate-{duel}"),
            "",
            "tasks = [\"train.jsonl\"]",
            &format!("{stage}\n{gate}"),
            "",
        )
    };

    let (won, lost) = (gate("won.toml"), gate("lost.toml"));
    let said = stdout(&place.distil(&won, "won"));
    assert!(said.contains("passed: in 4 samples against its start"), "{said}");
    assert!(place.path("won/model/config.json").is_file() && !place.path("won/candidate").exists());
    let gate = &place.record("won")["gate"];
    assert_eq!(gate["duel"]["outcome"]["outcome"], "dethroned", "{gate}");
    assert!(stdout(&albedo(["record", "verify", &place.text("won/gate")])).contains("verified"));
    assert!(stdout(&albedo(["distil", "verify", &place.text("won")])).contains("1 of 1 steps"));

    let refused = place.distil(&lost, "lost");
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("NOT PASSED") && said.contains("the king holds"), "{said}");
    assert!(!place.path("lost/model").exists() && place.path("lost/candidate/config.json").is_file());
    assert!(place.path("lost/checkpoints/000001").is_dir(), "the checkpoint is kept");
    // The same command says the same, and does nothing.
    assert_eq!(place.distil(&lost, "lost").status.code(), Some(1));
    let verify = || albedo(["distil", "verify", &place.text("lost")]);
    assert!(stdout(&verify()).contains("1 of 1 steps"));
    // Nobody makes a final model of it by hand, or says otherwise what a gate found.
    altered::gates_are_compared(&place, "won", "lost");
    // A rule that is easier to win by is another gate.
    fs::write(place.path("lost.toml"), duel("{ name = \"margin\", win_margin = 1 }")).expect("writes");
    let (code, said) = failed(&place.distil(&lost, "lost"));
    assert!(code == 78 && said.contains("differs in: gate"), "{code}: {said}");

    // The duel's tasks are held out.
    let tasks = format!("tasks = [{:?}]", demo().join("tasks"));
    let overlap = fs::read_to_string(&won).expect("reads").replace("tasks = [\"train.jsonl\"]", &tasks);
    fs::write(place.path("overlap.toml"), overlap).expect("writes");
    let (code, said) = failed(&place.distil(&place.text("overlap.toml"), "overlap"));
    assert!(code == 78 && said.contains("the tasks are held out, too"), "{said}");
}

#[test]
fn bad_input_is_one_line_with_its_code() {
    let place = Place::new();
    let plain = fs::read_to_string(place.plain()).expect("reads");
    // A teacher whose ids mean other texts.
    let other = place.copied("models/challenger", "teacher");
    let text = fs::read_to_string(other.join("tokenizer.json")).expect("reads");
    let mut tokenizer: Value = serde_json::from_str(&text).expect("JSON");
    let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let [first, second] = ["a", "b"].map(|text| vocab[text].clone());
    vocab.insert("a".into(), second);
    vocab.insert("b".into(), first);
    fs::write(other.join("tokenizer.json"), tokenizer.to_string()).expect("writes");
    // One that reads shorter texts.
    let short = place.copied("models/challenger", "short");
    let text = fs::read_to_string(short.join("config.json")).expect("reads");
    let text = text.replace("\"max_position_embeddings\": 4096", "\"max_position_embeddings\": 256");
    fs::write(short.join("config.json"), text).expect("writes");

    let kd = |teacher: &Path| plain.replace("\"sft\"", &format!("\"kd\"\nteacher = {teacher:?}"));
    let king = format!("{:?}", demo().join("models/king"));
    for (text, code, words) in [
        (plain.replace("train.jsonl", "nowhere.jsonl"), 66, "nowhere.jsonl"),
        (plain.replace(&king, "\"nowhere\""), 66, "nowhere"),
        (plain.replace("tasks = [\"train.jsonl\"]", "records = [\"nowhere\"]"), 66, "nowhere"),
        (plain.replace("\"sft\"", "\"rl\""), 78, "known: sft, kd, on-policy, dpo"),
        (plain.replace("\"sft\"", "\"dpo\""), 78, "learns from pairs"),
        (plain.replace("rename", "renam"), 78, "did you mean `rename`"),
        (plain.replace("gate = \"none\"", ""), 78, "gate = \"none\""),
        (kd(&other), 65, "another vocabulary"),
        (kd(Path::new("nowhere")), 66, "nowhere"),
        (kd(&short), 78, "context: 256"),
        (plain.replace("max_tokens = 512", "max_tokens = 9999"), 78, "train.max_tokens"),
        (plain.replace("[train]", "[train]\npass_tokens = 0"), 78, "pass_tokens"),
        (plain.replace("rate = 1e-4", "rate = -1.0"), 78, "key: train.rate"),
    ] {
        fs::write(place.path("bad.toml"), &text).expect("writes");
        let output = place.distil(&place.text("bad.toml"), "bad");
        let (found, said) = failed(&output);
        assert!(found == code && said.contains(words) && said.starts_with("error: "), "{found}: {said}");
        let _ = fs::remove_dir_all(place.path("bad"));
    }
    // Weights that are cut short: once they are whole, the same folder is begun anew.
    let student = place.copied("models/king", "student");
    let weights = student.join("model.safetensors");
    let whole = fs::read(&weights).expect("reads");
    fs::write(&weights, &whole[..whole.len() / 2]).expect("writes");
    let config = plain.replace(&king, &format!("{student:?}")).replace("steps = 5", "steps = 1");
    fs::write(place.path("mended.toml"), config).expect("writes");
    let (_, said) = failed(&place.distil(&place.text("mended.toml"), "mended"));
    assert!(said.contains("fetch the file again"), "{said}");
    fs::write(&weights, whole).expect("writes");
    stdout(&place.distil(&place.text("mended.toml"), "mended"));

    // No number stays finite at such a rate.
    let wild = plain
        .replace("rate = 1e-4", "rate = 1e30\nwarmup = 0")
        .replace("checkpoint_every = 2", "checkpoint_every = 1");
    fs::write(place.path("wild.toml"), wild).expect("writes");
    let (code, said) = failed(&place.distil(&place.text("wild.toml"), "wild"));
    assert!(code == 65 && said.contains("step of all stages: "), "{said}");
    assert!(said.contains("not finite") && said.contains("train.rate"), "{said}");

    let tokens = albedo(["distil", "--config", &place.plain(), "--tokens", "9"]);
    let (code, said) = failed(&tokens);
    assert!(code == 78 && said.contains("no stage is measured in tokens"), "{said}");
    assert_eq!(albedo(["distil"]).status.code(), Some(2));
}

#[test]
fn the_demo_is_a_distillation_of_which_a_part_can_be_run() {
    let place = Place::new();
    let out = place.text("demo");
    let said = stdout(&albedo(["distil", "data", "--demo", "--out", &out]));
    for words in
        ["894 conversations of 45 repositories", "MIT OR Apache-2.0 894", "kd from", "names replaced"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("left out"), "{said}");
    let plan = |seed: &str| {
        let data = albedo(["distil", "data", "--demo", "--out", &out, "--seed", seed, "--json"]);
        serde_json::from_str::<Value>(&stdout(&data)).expect("JSON")["stages"][0]["order"].clone()
    };
    assert_ne!(plan("0"), plan("1"), "another order");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_the_last_checkpoint_and_the_training_goes_on() {
    /// Fails to write below `checkpoints/` once the file that `FULL` names is there.
    const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/uio.h>

static int is_full(int file) {
    char name[64], path[4096];
    const char *full = getenv("FULL");
    if (!full || access(full, F_OK)) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "/checkpoints/") != NULL;
}

ssize_t write(int file, const void *bytes, size_t count) {
    if (is_full(file)) { errno = ENOSPC; return -1; }
    return ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(file, bytes, count);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (is_full(file)) { errno = ENOSPC; return -1; }
    return ((ssize_t (*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev"))(file, parts, count);
}
"#;
    let place = Place::new();
    let config = place.plain();
    fs::write(place.path("full.c"), LIBRARY).expect("writes");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-o"])
        .arg(place.path("full.so"))
        .arg(place.path("full.c"))
        .arg("-ldl");
    assert!(compiler.status().expect("a C compiler, which the build needs too").success());

    killed(&place, &config, "disk", 3);
    assert!(place.path("disk/checkpoints/000002").is_dir());
    fs::write(place.path("full"), "").expect("writes");
    let mut full = command(["distil", "--config", &config, "--out", &place.text("disk")]);
    let full = full
        .env("LD_PRELOAD", place.path("full.so"))
        .env("FULL", place.path("full"))
        .output()
        .expect("starts");
    let (code, said) = failed(&full);
    assert!(
        code == 75 && said.contains("free some space") && said.contains("checkpoints/"),
        "{code}: {said}"
    );
    // There is space again.
    stdout(&place.distil(&config, "disk"));
    stdout(&place.distil(&config, "undisturbed"));
    assert_eq!(place.record("disk"), place.record("undisturbed"));
}
