//! The flywheel: short rounds that make one chain, are killed, altered and refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::distil::{Place, failed};
use crate::run::{albedo, command, demo, error, stdout};

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// The folders of the demo's king and challenger.
fn models() -> [String; 2] {
    ["king", "challenger"].map(|side| text(&demo().join("models").join(side)))
}

/// The configuration of the distillation: a step on winners, a step with the teacher.
fn distil() -> String {
    let [king, challenger] = models();
    format!(
        "[student]\npath = {king:?}\n[data]\ntasks = [\"train.jsonl\"]\nheld_out_rows = 1\n\
         [[stage]]\nobjective = \"sft\"\nturns = \"winner\"\nweight = \"margin\"\nsteps = 1\n\
         [[stage]]\nobjective = \"kd\"\nteacher = {challenger:?}\nsteps = 2\n\
         [train]\naccumulate = 2\nmax_tokens = 1024\ncheckpoint_every = 1\nrate = 1e-5\n\
         [gate]\nduel = \"held-out.toml\"\nscreens = []\n"
    )
}

/// A place with the two files of a short flywheel.
struct Wheel(Place);

impl Wheel {
    /// `win_margin` is what the gate's duel asks for; its judge finds both replies alike.
    fn new(win_margin: u32) -> Self {
        let place = Place::new();
        let [king, challenger] = models();
        stdout(&albedo(["tasks", "make", &place.text("train.jsonl"), "--out", &place.text("tasks")]));
        let duel = |tasks: &str, judge: &str, samples: u32, tokens: u32, margin: u32| {
            format!(
                "[king]\npath = {king:?}\n[challenger]\npath = {challenger:?}\n[tasks]\nname = \"parquet\"\n\
                 path = {tasks:?}\n[[judges]]\nname = \"{judge}\"\n[duel]\nsamples = {samples}\n\
                 rule = {{ name = \"margin\", win_margin = {margin} }}\n\
                 generation.max_new_tokens = {tokens}\n"
            )
        };
        let teaches = duel(&place.text("tasks"), "reference-action", 8, 256, 2);
        fs::write(place.path("duel.toml"), teaches).expect("writes");
        let decides = duel(&text(&demo().join("tasks")), "protocol", 2, 24, win_margin);
        fs::write(place.path("held-out.toml"), decides).expect("writes");
        let wheel = Self(place);
        wheel.write("distil.toml", &distil());
        wheel
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path(name), text).expect("writes");
    }

    fn arguments(&self, out: &str, rounds: &str) -> Vec<String> {
        let [duel, distil, out] = ["duel.toml", "distil.toml", out].map(|name| self.0.text(name));
        ["flywheel", "--duel", &duel, "--distil", &distil, "--out", &out, "--rounds", rounds]
            .map(str::to_owned)
            .into()
    }

    fn turn(&self, out: &str, rounds: &str) -> Output {
        albedo(self.arguments(out, rounds).iter().map(String::as_str))
    }

    fn verify(&self, out: &str) -> Output {
        albedo(["flywheel", "verify", &self.0.text(out)])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn chain(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("flywheel.json")).expect("a chain");
        let chain: Value = serde_json::from_str(&text).expect("JSON");
        chain["rounds"].as_array().expect("rounds").clone()
    }
}

#[test]
fn a_child_that_wins_is_the_next_king_and_every_byte_of_the_chain_counts() {
    let wheel = Wheel::new(0);
    let said = stdout(&wheel.turn("wheel", "1"));
    assert!(said.contains("is king: in 2 samples against its start"), "{said}");
    let said = stdout(&wheel.turn("wheel", "2"));
    assert!(said.contains("Round 2") && !said.contains("Round 1"), "goes on: {said}");
    let rounds = wheel.chain("wheel");
    let [first, second] = &rounds[..] else { panic!("{} rounds", rounds.len()) };
    assert_eq!((&first["crowned"], &second["king"]), (&Value::Bool(true), &first["child"]));
    assert_ne!(first["child"], first["king"], "it has learnt something");
    assert_eq!(first["teacher"], second["teacher"], "the teacher stays");
    // The second distillation has read both duels.
    let record = fs::read_to_string(wheel.path("wheel/distil/2/distil.json")).expect("reads");
    let record: Value = serde_json::from_str(&record).expect("JSON");
    let sources = record["plan"]["data"]["sources"].as_array().expect("sources");
    let read: Vec<_> = sources.iter().map(|source| &source["digest"]).collect();
    assert!(read.contains(&&first["duel"]) && read.contains(&&second["duel"]), "{read:?}");
    for folder in ["duels/1", "duels/2", "distil/1/gate", "distil/2/gate"] {
        let folder = wheel.0.text(&format!("wheel/{folder}"));
        assert!(stdout(&albedo(["record", "verify", &folder])).contains("verified"));
    }
    let again = wheel.turn("wheel", "2");
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing was done"), "{again:?}");
    // Data are read for a round that is asked for.
    fs::rename(wheel.path("train.jsonl"), wheel.path("away.jsonl")).expect("moves");
    let again = wheel.turn("wheel", "2");
    assert!(again.status.success(), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing was done"), "{again:?}");
    let (code, said) = failed(&wheel.turn("wheel", "3"));
    assert!(code == 66 && said.contains("train.jsonl"), "{code}: {said}");
    assert!(!wheel.path("wheel/duels/3").exists(), "no duel is played: {said}");
    fs::rename(wheel.path("away.jsonl"), wheel.path("train.jsonl")).expect("moves back");
    assert!(stdout(&wheel.verify("wheel")).contains("the chain is whole: 2 rounds"));

    for (file, round) in [
        ("flywheel.json", ""),
        ("duels/1/record.jsonl", "round: 1"),
        ("duels/1/record.digest", "round: 1"),
        ("duels/2/record.jsonl", "round: 2"),
        ("distil/1/distil.json", "round: 1"),
        ("distil/1/model/model.safetensors", "round: 1"),
        ("distil/1/model/config.json", "round: 1"),
        ("distil/1/model/tokenizer.json", "round: 1"),
        ("distil/1/gate/record.jsonl", "round: 1"),
        ("distil/2/model/model.safetensors", "round: 2"),
    ] {
        let path = wheel.path("wheel").join(file);
        let whole = fs::read(&path).expect(file);
        let mut altered = whole.clone();
        // A character that counts, in the middle.
        let middle = altered.len() / 2;
        let place = (middle..altered.len()).find(|at| altered[*at].is_ascii_hexdigit()).expect("one");
        altered[place] = if altered[place] == b'1' { b'2' } else { b'1' };
        fs::write(&path, &altered).expect("writes");
        let (code, said) = failed(&wheel.verify("wheel"));
        assert!(code == 65 && said.starts_with("error: ") && said.contains(round), "{file}: {code}: {said}");
        // Nothing is added to a chain that is not whole.
        assert_eq!(failed(&wheel.turn("wheel", "3")).0, 65, "{file}");
        fs::write(&path, whole).expect("writes");
    }
    stdout(&wheel.verify("wheel"));
    assert_eq!(failed(&wheel.verify("nowhere")).0, 66);
    // What a system leaves in a folder is no file of the child.
    fs::write(wheel.path("wheel/distil/1/model/.DS_Store"), "").expect("writes");
    stdout(&wheel.verify("wheel"));

    // Nothing needs a checkpoint of a round that has ended: a damaged one holds up no other round.
    let checkpoint = wheel.path("wheel/distil/1/checkpoints/000003/training.safetensors");
    let whole = fs::read(&checkpoint).expect("is kept");
    fs::write(&checkpoint, &whole[..whole.len() / 2]).expect("writes");
    stdout(&wheel.verify("wheel"));
    stdout(&wheel.turn("wheel", "2"));
    let (code, said) = failed(&albedo(["distil", "verify", &wheel.0.text("wheel/distil/1")]));
    assert!(code == 65 && said.contains("a checkpoint is not the recorded one"), "{code}: {said}");
}

/// Starts the flywheel in `out` and kills it once `is_there`, if it lives that long.
fn killed(wheel: &Wheel, out: &str, is_there: impl Fn(&Path) -> bool) {
    let arguments = wheel.arguments(out, "1");
    let mut command = command(arguments.iter().map(String::as_str));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    while !is_there(&wheel.path(out)) && child.try_wait().expect("waits").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().expect("ends");
}

#[test]
fn killed_anywhere_it_goes_on_to_the_same_chain() {
    let wheel = Wheel::new(0);
    stdout(&wheel.turn("whole", "1"));
    let lines = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().lines().count();
    killed(&wheel, "cut", |out| out.join("lock").exists());
    killed(&wheel, "cut", |out| lines(out.join("duels/1/journal.jsonl")) > 12);
    killed(&wheel, "cut", |out| lines(out.join("distil/1/metrics.jsonl")) > 1);
    killed(&wheel, "cut", |out| lines(out.join("distil/1/gate/journal.jsonl")) > 2);
    stdout(&wheel.turn("cut", "1"));
    assert_eq!(wheel.chain("whole"), wheel.chain("cut"));
    stdout(&wheel.verify("cut"));
}

#[test]
fn a_child_that_does_not_win_is_explained_and_the_king_stays() {
    let wheel = Wheel::new(2);
    let output = wheel.turn("wheel", "2");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said} {}", error(&output));
    assert!(said.contains("is NOT king: in 2 samples against its start its margin was"), "{said}");
    assert!(said.contains("the king holds") && said.contains("the first king stays"), "{said}");
    let rounds = wheel.chain("wheel");
    let [first, second] = &rounds[..] else { panic!("{} rounds", rounds.len()) };
    assert_eq!((&first["crowned"], &second["king"]), (&Value::Bool(false), &first["king"]));
    assert_ne!((&first["duel"], &first["child"]), (&second["duel"], &second["child"]), "other seeds");
    assert!(stdout(&wheel.verify("wheel")).contains("the chain is whole: 2 rounds"));
}

#[test]
fn relative_paths_are_those_of_the_configurations_folder() {
    let wheel = Wheel::new(0);
    let place = &wheel.0;
    fs::create_dir(place.path("conf")).expect("makes");
    place.copied("models/king", "conf/king");
    place.copied("models/challenger", "conf/teacher");
    fs::copy(place.path("train.jsonl"), place.path("conf/train.jsonl")).expect("copies");
    let [king, challenger] = models();
    for name in ["duel.toml", "distil.toml", "held-out.toml"] {
        let text = fs::read_to_string(place.path(name)).expect("reads");
        let text = text.replace(&king, "king").replace(&challenger, "teacher");
        // Short replies can all be alike: nothing is learnt of who wins.
        let text = text.replace("max_new_tokens = 256", "max_new_tokens = 24");
        let text = text.replace("turns = \"winner\"\nweight = \"margin\"\n", "");
        fs::write(place.path("conf").join(name), text).expect("writes");
    }
    let files = ["--duel", "conf/duel.toml", "--distil", "conf/distil.toml", "--out", "wheel"];
    let turned = command([&["flywheel"][..], &files[..]].concat()).current_dir(place.path("")).output();
    assert!(stdout(&turned.expect("starts")).contains("is king"));
    stdout(&wheel.verify("wheel"));
}

#[test]
fn what_makes_no_flywheel_is_one_line_with_its_code_before_the_first_duel() {
    let wheel = Wheel::new(0);
    let distil = distil();
    let [king, challenger] = models().map(|folder| format!("{folder:?}"));
    let ungated = distil.split("[gate]").next().expect("a part");
    // The demo has 200 tasks for the gate.
    let gate = fs::read_to_string(wheel.path("held-out.toml")).expect("reads");
    wheel.write("many.toml", &gate.replace("samples = 2", "samples = 300"));
    wheel.write("long.toml", &gate.replace("max_new_tokens = 24", "max_new_tokens = 4096"));
    // The gate's tasks are those that teach.
    wheel.write("same.toml", &gate.replace(&text(&demo().join("tasks")), &wheel.0.text("tasks")));
    for (text, code, words) in [
        (format!("gate = \"none\"\n{ungated}"), 78, "every child would be king"),
        (distil.replace(&challenger, &king), 78, "another teacher than the duel's challenger"),
        (distil.replace(&challenger, "\"nowhere\""), 66, "key: stage[1].teacher"),
        (distil.replace("objective = \"kd\"", "objective = \"rl\""), 78, "known: sft, kd, on-policy, dpo"),
        (distil.replace("rate = 1e-5", "rate = -1.0"), 78, "key: train.rate"),
        (distil.replace("train.jsonl", "nowhere.jsonl"), 66, "nowhere.jsonl"),
        (distil.replace("held-out.toml", "many.toml"), 78, "fewer tasks than samples"),
        (distil.replace("held-out.toml", "long.toml"), 78, "no room for a prompt in the student's context"),
        (distil.replace("held-out.toml", "same.toml"), 78, "the tasks of the duel that teaches are held out"),
    ] {
        wheel.write("distil.toml", &text);
        let (found, said) = failed(&wheel.turn("bad", "1"));
        assert!(found == code && said.starts_with("error: ") && said.contains(words), "{found}: {said}");
        assert!(!wheel.path("bad/duels").exists(), "no duel is played: {said}");
    }
    for arguments in
        [&["flywheel"][..], &["flywheel", "--demo", "--rounds", "0"], &["flywheel", "--duel", "x"]]
    {
        assert_eq!(albedo(arguments.iter().copied()).status.code(), Some(2), "{arguments:?}");
    }
}
