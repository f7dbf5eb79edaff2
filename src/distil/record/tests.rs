use std::fs;

use super::*;
use crate::backends::burn::train::MAX_STEPS;
use crate::canary::{CanaryPlan, CanarySettings, Preflight};

/// `fixtures/` has what the version before wrote, and what this one writes.
const FIXTURES: [&str; 2] = [include_str!("fixtures/distil-1.json"), include_str!("fixtures/distil-2.json")];

fn read(text: &str) -> Result<Option<DistilRecord>> {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join(RECORD), text).expect("writes");
    DistilRecord::read(folder.path())
}

fn records() -> [DistilRecord; 2] {
    FIXTURES.map(|text| read(text).expect("reads").expect("is there"))
}

fn closed(record: &mut DistilRecord) -> &mut ClosedGate {
    match &mut record.plan.gate {
        GatePlan::Closed(gate) => gate,
        GatePlan::Open(_) => panic!("a gate"),
    }
}

#[test]
fn records_of_both_versions_read_and_are_written_as_they_were() {
    for (record, text) in records().iter().zip(FIXTURES) {
        assert_eq!(record.json().expect("JSON"), text.as_bytes());
    }
    let [old, new] = records();
    assert_eq!((old.schema, old.files, old.plan.student.config), (1, None, None));
    assert_eq!(
        (new.schema, new.files, closed(&mut new.clone()).samples),
        (SCHEMA, Some(Digest::of("files")), Some(2))
    );
}

#[test]
fn what_prompts_count_is_in_a_record_if_they_do() {
    let [_, mut record] = records();
    assert!(!FIXTURES[1].contains("\"prompts\""), "none count");
    let plan = record.plan.clone();
    record.plan.stages[0].settings.prompts = 0.3;
    let text = String::from_utf8(record.json().expect("JSON")).expect("UTF-8");
    assert!(text.contains("\"prompts\": 0.3,"), "{text}");
    let read = read(&text).expect("reads").expect("is there");
    assert_eq!(read.plan, record.plan);
    assert_eq!(plan.differences(&read.plan), ["stages"]);
}

#[test]
fn every_byte_of_a_record_counts() {
    for text in FIXTURES {
        for (altered, words) in [
            (text.replacen("  ", " ", 1), "not as albedo writes it"),
            (text.trim_end().to_owned(), "not as albedo writes it"),
            (text.replacen("\"seed\": 0", "\"seed\": 0,\n    \"more\": 1", 1), "not as albedo writes it"),
            (text.replacen("\"schema\": ", "\"schema\": 9", 1), "another albedo wrote it"),
            (text.replace("exported", "finished"), "unknown variant"),
        ] {
            let error = read(&altered).expect_err(words).to_string();
            assert!(error.contains(words) && error.contains(RECORD), "{error}");
        }
    }
}

#[test]
fn plans_differ_by_what_is_trained_and_not_by_where_it_is() {
    let [old, new] = records().map(|record| record.plan);
    assert_eq!(old.differences(&new), [""; 0], "what the older one does not say");
    let mut moved = old.clone();
    moved.stages[0].settings.teacher = Some("/mnt/challenger".into());
    moved.data.sources[1].name = "/mnt/other.jsonl".into();
    assert_eq!(old.differences(&moved), [""; 0], "other places");

    let changed = |change: fn(&mut DistilRecord)| {
        let [_, mut record] = records();
        change(&mut record);
        new.differences(&record.plan)
    };
    assert_eq!(changed(|record| record.plan.student.config = Some(Digest::of("another"))), ["student"]);
    let teacher = |record: &mut DistilRecord| {
        let teacher = record.plan.stages[0].teacher.as_mut().expect("a teacher");
        teacher.config = Some(Digest::of("another"));
    };
    assert_eq!(changed(teacher), ["stages"]);
    assert_eq!(changed(|record| closed(record).settings = Some(Digest::of("easier"))), ["gate"]);
    assert_eq!(changed(|record| closed(record).judges = vec!["another".into()]), ["gate"]);
    assert_eq!(changed(|record| record.plan.data.sources[1].name = "others.jsonl".into()), ["data"]);
}

#[test]
fn the_longest_training_that_is_allowed_gives_a_record_that_can_be_read() {
    let [_, mut record] = records();
    let mut size = |steps: usize| {
        record.losses = vec![-f64::MIN_POSITIVE; steps];
        record.checkpoints = vec![Checkpoint { step: MAX_STEPS, digest: Digest::of("") }; steps];
        record.json().expect("JSON").len() as u64
    };
    let (one, many) = (size(1), size(1001));
    let longest = one + (many - one) / 1000 * MAX_STEPS;
    assert!(longest < MAX_RECORD, "{longest} bytes");
}

#[test]
fn checkpoints_are_due_every_so_many_steps_and_at_the_ends_of_stages() {
    let [_, record] = records();
    let mut plan = record.plan;
    plan.stages.push(plan.stages[0].clone());
    (plan.stages[0].engine.steps, plan.stages[1].engine.steps, plan.checkpoint_every) = (3, 5, 4);
    let due: Vec<u64> = (0..=8).filter(|step| plan.is_due(*step)).collect();
    assert_eq!(due, [3, 4, 8]);
    // Whatever a record says, it is read.
    plan.stages[0].engine.steps = u64::MAX;
    assert_eq!((plan.steps(), plan.before(2)), (u64::MAX, u64::MAX));
}

#[test]
fn only_canaries_take_judges_off_the_gates_panel() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("albedo-core/tests/fixtures/record-3");
    let mut plan = crate::Record::open(&fixture).expect("a record").plan().clone();
    let [_, mut record] = records();
    let gate = closed(&mut record);
    let mut is_of = |judges: &[&str], plan: &DuelPlan| {
        gate.judges = judges.iter().map(|judge| (*judge).to_owned()).collect();
        gate.has_panel_of(plan)
    };
    assert!(is_of(&["evident", "biased"], &plan) && is_of(&[], &plan));
    for other in [&["evident"][..], &["biased", "evident"], &["evident", "chat", "biased"]] {
        assert!(!is_of(other, &plan), "{other:?}");
    }
    plan.canaries = Some(CanaryPlan {
        settings: CanarySettings::default(),
        preflight: Preflight { key: Digest::of(""), judges: Vec::new() },
    });
    assert!(is_of(&["evident", "chat", "biased"], &plan));
    assert!(!is_of(&["evident"], &plan) && !is_of(&["biased", "evident"], &plan));
}

#[test]
fn a_gate_asks_for_one_duel() {
    let config = |settings: &str| {
        let text = format!(
            "king.path = \"k\"\nchallenger.path = \"c\"\ntasks.name = \"parquet\"\n\
             judges = [{{ name = \"protocol\" }}]\n\
             [duel]\n{settings}"
        );
        DuelConfig::parse(&text).expect("reads")
    };
    let gate = |settings: &str| {
        let gate = GateSettings {
            duel: "held-out.toml".into(),
            samples: None,
            seed: None,
            screens: Vec::new(),
            probe: 0,
        };
        ClosedGate::of(&gate, &config(settings)).expect("a gate")
    };
    let asked = gate("samples = 128\nrule = { name = \"margin\" }");
    assert_eq!((asked.duel.as_ref(), &asked.judges[..]), (None, &["protocol".to_owned()][..]));
    let same = gate("rule = { name = \"margin\", win_margin = 2 }\nsamples = 128\nlimits.budget_usd = 1.5");
    assert_eq!(same, asked, "what bounds the work decides nothing");
    for other in [
        "samples = 1\nrule = { name = \"margin\" }",
        "samples = 128\nrule = { name = \"margin\", win_margin = 0 }",
    ] {
        assert_ne!(gate(other).settings, asked.settings, "{other}");
    }
}
