//! Gates whose duel could not be planned are refused before the training.

use std::fs;

use super::{Place, failed};
use crate::run::{albedo, demo};

#[test]
fn a_gate_whose_duel_could_not_be_planned_is_refused_before_the_training() {
    let place = Place::new();
    let king = demo().join("models/king");
    let tasks = demo().join("tasks");
    let whole = format!(
        "judges = [{{ name = \"protocol\" }}]\n[king]\nname = \"replaced\"\n[challenger]\npath = {king:?}\n\
         [tasks]\nname = \"parquet\"\npath = {tasks:?}\n[duel]\nsamples = 4\n\
         rule = {{ name = \"margin\", win_margin = 0 }}\ngeneration.max_new_tokens = 24\n"
    );
    let stage = "[[stage]]\nobjective = \"sft\"\nsteps = 1\n[gate]\nduel = \"held-out.toml\"\nscreens = []";
    let config = place.config("gated.toml", "", "tasks = [\"train.jsonl\"]", stage, "");
    let said = |duel: &str| {
        fs::write(place.path("held-out.toml"), duel).expect("writes");
        place.distil(&config, "out")
    };
    for (from, to, words) in [
        // The demo has 200 tasks.
        ("samples = 4", "samples = 300", "fewer tasks than samples"),
        ("{ name = \"margin\", win_margin = 0 }", "{ name = \"sequential\" }", "the cap is too low"),
        ("max_new_tokens = 24", "max_new_tokens = 4096", "no room for a prompt in the student's context"),
        ("samples = 4", "samples = 4\ncontext_tokens = 5000", "longer than what the student can read"),
        ("[{ name = \"protocol\" }]", "[]", "there is no judge"),
        ("\"protocol\"", "\"protocoll\"", "protocoll"),
    ] {
        let (code, error) = failed(&said(&whole.replacen(from, to, 1)));
        assert!(code == 78 && error.contains(words) && error.contains("gate.duel"), "{to}: {code}: {error}");
        assert!(!place.path("out").exists(), "{to}: nothing is written");
    }
    // What is whole can be planned: the king is the student, whatever the file names.
    fs::write(place.path("held-out.toml"), &whole).expect("writes");
    let data = albedo(["distil", "data", "--config", &config]);
    assert!(data.status.success(), "{data:?}");
}
