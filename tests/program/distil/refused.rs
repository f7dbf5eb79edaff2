//! What is refused before the training, so that no step is lost by it.

use std::fs;
use std::path::Path;

use super::{Place, failed};
use crate::run::{albedo, stdout};

#[test]
fn the_teacher_of_a_later_stage_is_checked_before_the_first_step() {
    let place = Place::new();
    let config = |teacher: &Path| {
        let stages = format!(
            "[[stage]]\nobjective = \"sft\"\nsteps = 1\n[[stage]]\nobjective = \"kd\"\nsteps = 1\nteacher = {teacher:?}"
        );
        place.config("later.toml", "gate = \"none\"", "tasks = [\"train.jsonl\"]", &stages, "")
    };
    let teacher = place.copied("models/challenger", "teacher");
    let path = teacher.join("config.json");
    let whole = fs::read_to_string(&path).expect("reads");
    for (from, to, code, words) in [
        // Its tokenizer is the student's; its table has more rows.
        ("\"vocab_size\": 4096", "\"vocab_size\": 4224", 78, "4224 tokens, the student has 4096"),
        ("Qwen3ForCausalLM", "LlamaForCausalLM", 65, "LlamaForCausalLM"),
    ] {
        assert!(whole.contains(from), "{from}: {whole}");
        fs::write(&path, whole.replace(from, to)).expect("writes");
        let (found, said) = failed(&place.distil(&config(&teacher), "out"));
        assert!(found == code && said.contains(words), "{found}: {said}");
        assert!(said.contains("key: stage[1].teacher"), "{said}");
        assert!(!place.path("out").exists(), "nothing is written");
    }
    fs::write(&path, whole).expect("writes");
    let data = albedo(["distil", "data", "--config", &config(&teacher)]);
    assert!(data.status.success(), "{data:?}");
}

#[test]
fn a_record_is_not_replaced_once_a_step_was_taken() {
    let place = Place::new();
    let text = fs::read_to_string(place.plain()).expect("reads");
    let config = |steps: u64| {
        let text = text.replace("steps = 5", &format!("steps = {steps}"));
        fs::write(place.path("moved.toml"), text).expect("writes");
        place.text("moved.toml")
    };
    stdout(&place.distil(&config(1), "out"));
    // Everything that the steps have left behind is elsewhere, except the record.
    fs::create_dir(place.path("elsewhere")).expect("makes");
    for name in ["model", "checkpoints", "metrics.jsonl"] {
        fs::rename(place.path("out").join(name), place.path("elsewhere").join(name)).expect("moves");
    }
    let record = fs::read(place.path("out/distil.json")).expect("reads");
    let (code, said) = failed(&place.distil(&config(2), "out"));
    assert!(code == 78 && said.contains("holds another distillation") && said.contains("stages"), "{said}");
    assert!(fs::read(place.path("out/distil.json")).expect("reads") == record, "the record stays");
}
