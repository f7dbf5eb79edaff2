//! Distillations that go on after what befell them, and steps that are taken again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Place, failed, killed};
use crate::run::{albedo, command, demo, stdout};

/// The configuration of a run of `steps` steps with a checkpoint every so many.
fn plain(place: &Place, steps: u64, every: u64) -> String {
    let text = fs::read_to_string(place.plain()).expect("reads");
    let text = text.replace("steps = 5", &format!("steps = {steps}"));
    let text = text.replace("checkpoint_every = 2", &format!("checkpoint_every = {every}"));
    fs::write(place.path("steps.toml"), text).expect("writes");
    place.text("steps.toml")
}

/// The files of the checkpoints in `out`, the oldest first.
fn checkpoints(place: &Place, out: &str) -> Vec<PathBuf> {
    let folders = fs::read_dir(place.path(out).join("checkpoints")).expect("lists");
    let mut files: Vec<_> =
        folders.map(|folder| folder.expect("lists").path().join("training.safetensors")).collect();
    files.sort();
    files
}

/// Makes of `file` what a power cut can leave: the right length, with blocks of zeros.
fn zero(file: &Path) {
    let mut bytes = fs::read(file).expect("reads");
    let half = bytes.len() / 2;
    bytes[half..].fill(0);
    fs::write(file, bytes).expect("writes");
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_an_older_one_is_taken() {
    let place = Place::new();
    let config = plain(&place, 8, 2);
    stdout(&place.distil(&config, "whole"));
    killed(&place, &config, "cut", 5);
    let kept = checkpoints(&place, "cut");
    assert_eq!(kept.len(), 2);
    zero(&kept[1]);
    let (code, said) = failed(&albedo(["distil", "verify", &place.text("cut")]));
    assert!(code == 65 && said.contains("a checkpoint is not the recorded one"), "{code}: {said}");
    let resumed = place.distil(&config, "cut");
    stdout(&resumed);
    let said = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(said.contains("is damaged") && said.contains("going on after"), "{said}");
    assert_eq!(place.record("cut"), place.record("whole"));

    // None is whole: it says which folder to delete.
    killed(&place, &config, "lost", 5);
    for file in checkpoints(&place, "lost") {
        zero(&file);
    }
    let (code, said) = failed(&place.distil(&config, "lost"));
    let folder = place.path("lost/checkpoints");
    assert!(code == 65 && said.contains(&format!("delete the folder `{}`", folder.display())), "{said}");
    fs::remove_dir_all(folder).expect("removes");
    stdout(&place.distil(&config, "lost"));
    assert_eq!(place.record("lost"), place.record("whole"));
}

#[test]
fn an_interrupt_leaves_the_record_of_an_undisturbed_run() {
    let place = Place::new();
    let config = plain(&place, 8, 6);
    stdout(&place.distil(&config, "whole"));
    let mut command = command(["distil", "--config", &config, "--out", &place.text("cut")]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let written = || fs::read_to_string(place.path("cut/metrics.jsonl")).is_ok_and(|text| !text.is_empty());
    while !written() && child.try_wait().expect("waits").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("runs").success());
    let (code, said) = failed(&child.wait_with_output().expect("ends"));
    assert!(code == 130 && said.contains("goes on from the checkpoint"), "{code}: {said}");
    let stopped = place.record("cut")["checkpoints"][0]["step"].as_u64();
    assert!(stopped.is_some_and(|step| (1..6).contains(&step)), "a checkpoint of its own: {stopped:?}");
    stdout(&place.distil(&config, "cut"));
    assert_eq!(place.record("cut"), place.record("whole"));
    assert_eq!(checkpoints(&place, "cut").len(), checkpoints(&place, "whole").len());
}

#[test]
fn an_interrupt_while_replies_are_sampled_loses_no_step() {
    let place = Place::new();
    let teacher = demo().join("models/challenger");
    let stage = format!(
        "[[stage]]\nobjective = \"on-policy\"\nsteps = 3\nmax_new_tokens = 128\nteacher = {teacher:?}"
    );
    let config = place.config("own.toml", "gate = \"none\"", "tasks = [\"train.jsonl\"]", &stage, "");
    let text = fs::read_to_string(&config).expect("reads");
    let text = text.replace("max_tokens = 512", "max_tokens = 1024");
    fs::write(&config, text.replace("checkpoint_every = 2", "checkpoint_every = 100")).expect("writes");
    stdout(&place.distil(&config, "whole"));
    let mut command = command(["distil", "--config", &config, "--out", &place.text("cut")]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    // A step is taken, and the student answers the prompts of the next one.
    let is_sampling = || {
        fs::read_to_string(place.path("cut/metrics.jsonl")).is_ok_and(|text| !text.is_empty())
            && place.path("cut/sampling/model.safetensors").exists()
    };
    while !is_sampling() && child.try_wait().expect("waits").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("runs").success());
    let (code, said) = failed(&child.wait_with_output().expect("ends"));
    assert!(code == 130 && said.contains("goes on from the checkpoint"), "{code}: {said}");
    let stopped = place.record("cut")["checkpoints"][0]["step"].as_u64();
    assert!(stopped.is_some_and(|step| (1..3).contains(&step)), "a checkpoint of its own: {stopped:?}");
    stdout(&place.distil(&config, "cut"));
    assert_eq!(place.record("cut"), place.record("whole"));
}

#[test]
fn a_model_that_was_changed_is_another_and_one_that_was_moved_is_the_same() {
    let place = Place::new();
    let [student, teacher] = [("king", "student"), ("challenger", "teacher")]
        .map(|(model, name)| place.copied(&format!("models/{model}"), name));
    let stage = format!("[[stage]]\nobjective = \"kd\"\nteacher = {teacher:?}\nsteps = 4");
    let data = format!("tasks = [{:?}]", place.path("train.jsonl"));
    let config = place.config("kd.toml", "gate = \"none\"", &data, &stage, "");
    let text = fs::read_to_string(&config).expect("reads");
    let king = demo().join("models/king");
    fs::write(&config, text.replace(&king.display().to_string(), &student.display().to_string()))
        .expect("writes");
    killed(&place, &config, "out", 1);
    for (model, field) in [(&student, "student"), (&teacher, "stages")] {
        let path = model.join("config.json");
        let own = fs::read_to_string(&path).expect("reads");
        fs::write(&path, own.replace("\"rope_theta\": 1000000.0", "\"rope_theta\": 10000.0"))
            .expect("writes");
        let (code, said) = failed(&place.distil(&config, "out"));
        assert!(code == 78 && said.contains(&format!("differs in: {field}")), "{code}: {said}");
        fs::write(&path, own).expect("writes");
    }
    let moved = place.path("moved");
    fs::rename(&teacher, &moved).expect("renames");
    let text = fs::read_to_string(&config).expect("reads");
    fs::write(&config, text.replace(&format!("{teacher:?}"), &format!("{moved:?}"))).expect("writes");
    stdout(&place.distil(&config, "out"));
    let record = fs::read_to_string(place.path("out/distil.json")).expect("reads");
    assert!(!record.contains(&place.text("")), "a path of the machine: {record}");
}

#[test]
fn steps_are_taken_again_from_the_end_of_a_stage_and_over_it() {
    let place = Place::new();
    let stage = "[[stage]]\nobjective = \"sft\"\nsteps = 2\n";
    let config = place.config(
        "two.toml",
        "gate = \"none\"",
        "tasks = [\"train.jsonl\"]",
        &format!("{stage}{stage}"),
        "",
    );
    let text = fs::read_to_string(&config).expect("reads");
    fs::write(&config, text.replace("checkpoint_every = 2", "checkpoint_every = 100")).expect("writes");
    stdout(&place.distil(&config, "two"));
    let verify = |steps: &str| {
        albedo(["distil", "verify", &place.text("two"), "--config", &config, "--regenerate", steps])
    };
    let said = stdout(&verify("9"));
    assert!(said.contains("took 2 steps again after step 2"), "{said}");
    assert!(said.contains("the model has the recorded digest"), "{said}");
    assert!(said.contains("only 2 of 9 steps were compared"), "{said}");

    fs::remove_dir_all(place.path("two/checkpoints/000002")).expect("removes");
    let said = stdout(&verify("4"));
    assert!(said.contains("took 4 steps again after step 0") && !said.contains("only"), "{said}");
    assert!(said.contains("the checkpoint after step 2 has the recorded digest"), "{said}");
    assert!(said.contains("the model has the recorded digest"), "{said}");
}

#[test]
fn a_gate_goes_on_with_a_configuration_that_was_mended() {
    let place = Place::new();
    let king = demo().join("models/king");
    let duel = |judge: &str, more: &str| {
        format!(
            "[king]\npath = {king:?}\n[challenger]\npath = {king:?}\n[tasks]\nname = \"parquet\"\npath = {:?}\n\
             [[judges]]\nname = \"protocol\"\n{judge}\n[duel]\nsamples = 16\n\
             rule = {{ name = \"margin\", win_margin = 0 }}\ngeneration.max_new_tokens = 24\n{more}\n",
            demo().join("tasks")
        )
    };
    fs::write(place.path("held-out.toml"), duel("", "")).expect("writes");
    let stages =
        "[[stage]]\nobjective = \"sft\"\nsteps = 1\nrate = 0\n[gate]\nduel = \"held-out.toml\"\nscreens = []";
    let config = place.config("gated.toml", "", "tasks = [\"train.jsonl\"]", stages, "");
    let mut command = command(["distil", "--config", &config, "--out", &place.text("out")]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let lines =
        || fs::read_to_string(place.path("out/gate/journal.jsonl")).map_or(0, |text| text.lines().count());
    while lines() < 3 && child.try_wait().expect("waits").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().expect("ends");

    // Another question is another duel, and nobody has tampered with anything.
    fs::write(place.path("held-out.toml"), duel("required_parts = [\"ANSWER:\"]", "")).expect("writes");
    let (code, said) = failed(&place.distil(&config, "out"));
    assert!(code == 78 && said.contains("was changed since it began"), "{code}: {said}");
    assert!(
        said.contains("they differ in: ") && said.contains("judges") && said.contains("out/gate"),
        "{said}"
    );
    // What changes no plan can be mended.
    fs::write(place.path("held-out.toml"), duel("", "limits.samples_in_flight = 4")).expect("writes");
    assert!(stdout(&place.distil(&config, "out")).contains("passed: in 16 samples"));
    stdout(&albedo(["distil", "verify", &place.text("out")]));
}
