//! The attack table of the screens `digest`, `fingerprint-v2` and `lineage`:
//! honest fine-tunes beside copies of the king and of rivals under every
//! disguise, with fixed seeds.
//!
//! ```console
//! cargo run --release -p albedo-judges --example screen_attacks -- KING HONEST [--store FILE] [--json FILE]
//! cargo run --release -p albedo-judges --example screen_attacks -- --synthetic [--json FILE]
//! ```
//!
//! KING is a model folder, HONEST a folder of fine-tunes of it, as
//! `examples/demo/make/finetunes.py` writes them. `--synthetic` makes a larger
//! king and a rival (random weights, a low-rank delta) and needs no folder;
//! there are no honest models then. `docs/screens.md` says how to read it.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool that prints and may stop"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo_core::safetensors::Dtype;
use albedo_core::{CallContext, Finding};
use albedo_judges::screens::digest::{DigestConfig, DigestScreen};
use albedo_judges::screens::lineage::{Anchor, Delta, LineageConfig, LineageScreen};
use albedo_judges::screens::store::Store;
use albedo_judges::screens::{AlignTo, Measurement};
use serde_json::{Value, json};

#[expect(dead_code, reason = "the table of `function_attacks` uses the rest")]
mod disguise;
mod folder;

use disguise::{Dice, Model};
use folder::folder;

/// Rivals whose copies are made: at most this many, spread over the honest.
const RIVALS: usize = 16;

/// The Python system calls models duplicates from here on.
const PYTHON_THRESHOLD: f64 = 0.95;

/// What keeps the function: every copy under one of these has to be rejected.
const KEEPS: [&str; 13] = [
    "identical",
    "neurons permuted",
    "neurons rescaled",
    "heads permuted",
    "values rotated",
    "planes turned",
    "heads permuted, values rotated, planes turned",
    "norms folded",
    "channels permuted",
    "stream scaled",
    "extra tied head",
    "stored as f16",
    "all of these",
];

/// What changes it.
const CHANGES: [&str; 17] = [
    "noise 0.05 %",
    "noise 0.1 %",
    "noise 0.5 %",
    "noise 1 %",
    "noise 5 %",
    "all of these + noise 0.1 %",
    "all of these + noise 1 %",
    "rank 8, 1 %",
    "rank 64, 1 %",
    "delta × 0.5",
    "delta × 0.75",
    "delta × 1.25",
    "delta × 1.5",
    "merge with the king 50:50",
    "merge with another 50:50",
    "delta × 0.5 + noise 0.1 %",
    "all of these, delta × 0.75",
];

struct Bench {
    king: Model,
    anchor: Arc<Anchor>,
    king_measured: Measurement,
    digest: DigestScreen,
    lineage: LineageScreen,
    runtime: tokio::runtime::Runtime,
    /// The honest models, by name.
    store: Vec<(String, Measurement)>,
    scratch: PathBuf,
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.remove(at);
        Some(arguments.remove(at))
    };
    let (json_file, store_file) = (option("--json"), option("--store"));
    let scratch = std::env::temp_dir().join(format!("screen-attacks-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).expect("a scratch folder");
    let (king, honest) = match arguments.as_slice() {
        [flag] if flag == "--synthetic" => synthetic(&scratch),
        [king, honest] => (PathBuf::from(king), folders(Path::new(honest))),
        _ => panic!("give KING and HONEST, or --synthetic"),
    };
    let store_path = store_file.map_or_else(|| scratch.join("store.sqlite"), PathBuf::from);
    let report = run(&king, &honest, &store_path, &scratch);
    if let Some(path) = json_file {
        std::fs::write(path, report).expect("written");
    }
    std::fs::remove_dir_all(&scratch).expect("removed");
}

fn run(king: &Path, honest: &[PathBuf], store_path: &Path, scratch: &Path) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let take = |path: &Path, align: AlignTo| {
        runtime.block_on(Measurement::take(folder(path), align, &CallContext::new()))
    };
    let king_measured = take(king, AlignTo::Itself).expect("measured");
    let anchor = king_measured.anchor.clone().expect("an anchor");
    let measure = |path: &Path| take(path, AlignTo::Anchor(anchor.clone())).expect("measured");
    let measured: Vec<_> = honest.iter().map(|folder| (name(folder), measure(folder))).collect();
    let store = Arc::new(Store::open_or_create(store_path).expect("a store"));
    for (label, measured) in &measured {
        measured.remember(&store, label.clone(), String::new(), None).expect("added");
    }
    let bench = Bench {
        king: Model::read(king),
        king_measured,
        anchor,
        digest: DigestScreen::new(&DigestConfig::default(), Some(Arc::clone(&store))).expect("a screen"),
        lineage: LineageScreen::new(LineageConfig::default(), Some(store)).expect("a screen"),
        runtime,
        store: measured,
        scratch: scratch.to_owned(),
    };

    let mut rows = Vec::new();
    for (label, measured) in &bench.store {
        rows.push(bench.row("honest", label, measured));
    }
    for attack in
        KEEPS.iter().chain(&CHANGES).filter(|attack| !attack.contains("delta") && !attack.contains("merge"))
    {
        for seed in 0..3 {
            rows.push(bench.attack(attack, "the king", &bench.king, None, seed));
        }
    }
    let step = honest.len().div_ceil(RIVALS).max(1);
    for (index, folder) in honest.iter().enumerate().step_by(step) {
        let rival = Model::read(folder);
        let other = Model::read(&honest[(index + honest.len() / 2) % honest.len()]);
        for attack in KEEPS.iter().chain(&CHANGES) {
            rows.push(bench.attack(attack, &name(folder), &rival, Some(&other), index as u64));
        }
    }
    table(&rows);
    let lines = |values: Vec<Value>| values.iter().map(Value::to_string).collect::<Vec<_>>().join(",\n");
    format!(
        "{{\"rows\":[\n{}\n],\n\"honest\":{},\n\"honest_cosines\":[\n{}\n]}}\n",
        lines(rows),
        json!(honest.iter().map(|folder| name(folder)).collect::<Vec<_>>()),
        lines(bench.pairs())
    )
}

impl Bench {
    fn measure(&self, model: &Model, noisy: Option<&mut Dice>) -> Measurement {
        let path = self.scratch.join("attack");
        model.write(&path, noisy);
        let align = AlignTo::Anchor(self.anchor.clone());
        let cx = CallContext::new();
        self.runtime.block_on(Measurement::take(folder(&path), align, &cx)).expect("measured")
    }

    fn attack(&self, attack: &str, target: &str, source: &Model, other: Option<&Model>, seed: u64) -> Value {
        let mut dice = Dice::new(attack, seed);
        let mut model = source.clone();
        let noisy = disguised(&mut model, attack, &self.king, other, &mut dice);
        let measured = self.measure(&model, noisy.then_some(&mut dice));
        let mut row = self.row(attack, target, &measured);
        row["seed"] = json!(seed);
        row
    }

    /// What every detector says of a model.
    fn row(&self, attack: &str, target: &str, measured: &Measurement) -> Value {
        let king = self.anchor.own();
        // An honest model is in the store itself.
        let own = if attack == "honest" { vec![target.to_owned()] } else { Vec::new() };
        let digest = self.digest.judge(&measured.digests, &self.king_measured.digests, &own);
        let digest = digest.expect("a finding");
        let aligned = measured.aligned.as_ref().expect("taken");
        let lineage = self.lineage.judge(aligned, king, &own).expect("a finding");
        let prints = &measured.fingerprint;
        let others = self.store.iter().filter(|(label, _)| !own.contains(label)).map(|(_, other)| other);
        let similarity = others
            .chain([&self.king_measured])
            .map(|other| prints.similarity(&other.fingerprint))
            .fold(0.0, f64::max);
        let (word, evidence) = finding(&lineage);
        let shape = aligned.shape(king);
        let nearest = &evidence["nearest"][0];
        json!({
            "attack": attack,
            "target": target,
            "digest": finding(&digest).0,
            "lineage": word,
            "python": if similarity >= PYTHON_THRESHOLD { "duplicate" } else { "clear" },
            "python_similarity": rounded(similarity),
            "distance": rounded(shape.distance),
            "change": rounded(shape.change),
            "structure": rounded(shape.structure),
            "nearest": nearest["of"],
            "cosine": nearest["cosine"].as_f64().map(rounded),
        })
    }

    /// The cosine of every pair of honest models: a row for each model, with
    /// those before it.
    fn pairs(&self) -> Vec<Value> {
        let king = &self.anchor.own().sketch;
        let delta = |measured: &Measurement| {
            Delta::between(&measured.aligned.as_ref().expect("taken").sketch, king, king)
        };
        let deltas: Vec<_> = self.store.iter().map(|(_, measured)| delta(measured)).collect();
        let row = |(index, one): (usize, &Delta)| {
            let cosines = deltas[..index].iter().map(|two| rounded(one.explained_by(two).cosine));
            json!(cosines.collect::<Vec<_>>())
        };
        deltas.iter().enumerate().map(row).collect()
    }
}

/// Four digits behind the point, which is more than the scores are good for.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Disguises `model`; whether it is to be rounded at random.
fn disguised(model: &mut Model, attack: &str, king: &Model, other: Option<&Model>, dice: &mut Dice) -> bool {
    let start = model.clone();
    let mut delta = |factor: f32| {
        *model = king.clone();
        model.add_difference(factor, &start, king);
    };
    if let Some(factor) = attack.split("delta × ").nth(1) {
        delta(factor.split(' ').next().and_then(|number| number.parse().ok()).expect("a factor"));
    } else if attack.contains("with the king") {
        delta(0.5);
    } else if attack.contains("with another") {
        delta(0.5);
        model.add_difference(0.5, other.expect("another rival"), king);
    }
    let all = attack.contains("all of these");
    let does = |name: &str| all || attack.split(", ").any(|part| part == name);
    if does("neurons permuted") {
        model.permute_neurons(dice);
    }
    if does("neurons rescaled") {
        model.rescale_neurons(dice);
    }
    if does("heads permuted") {
        model.permute_heads(dice);
    }
    if does("values rotated") {
        model.rotate_values(dice);
    }
    if does("planes turned") {
        model.turn_planes(dice);
    }
    if does("norms folded") {
        model.fold_norms(dice);
    }
    if does("channels permuted") {
        model.permute_channels(dice);
    }
    if does("stream scaled") {
        model.scale_stream(1.7);
    }
    if does("extra tied head") {
        model.write_head();
    }
    if does("stored as f16") && !all {
        model.dtype = Dtype::F16;
    }
    if attack.starts_with("rank") {
        model.add_rank(if attack.starts_with("rank 8,") { 8 } else { 64 }, 0.01, dice);
    }
    let noise = attack.split("noise ").nth(1).and_then(|rest| rest.split(' ').next());
    if let Some(percent) = noise.and_then(|number| number.parse::<f64>().ok()) {
        model.add_noise(percent / 100.0, dice);
    }
    noise.is_some()
}

fn finding(finding: &Finding) -> (&'static str, &Value) {
    match finding {
        Finding::Clear(evidence) => ("clear", evidence),
        Finding::Flagged(evidence) => ("flagged", evidence),
        Finding::Rejected(evidence) => ("rejected", evidence),
        Finding::Unverified(evidence) => ("unverified", evidence),
    }
}

/// The table of `docs/screens.md`.
fn table(rows: &[Value]) {
    println!(
        "| attack | copies of the king: n, rejected / flagged / clear | structure | copies of rivals: n, rejected / \
         flagged / clear | cosine | Python system, of all |"
    );
    println!("|---|---|---|---|---|---|");
    for attack in ["honest"].iter().chain(&KEEPS).chain(&CHANGES) {
        let all: Vec<_> = rows.iter().filter(|row| row["attack"] == *attack).collect();
        let (kings, rivals): (Vec<_>, Vec<_>) = all.iter().partition(|row| row["target"] == "the king");
        let words = |rows: &[&&Value]| {
            let of = |word: &str| rows.iter().filter(|row| row["lineage"] == word).count();
            match rows.len() {
                0 => "—".to_owned(),
                n => format!("{n}: {} / {} / {}", of("rejected"), of("flagged"), of("clear")),
            }
        };
        let range = |rows: &[&&Value], key: &str| {
            let values = || rows.iter().filter_map(|row| row[key].as_f64());
            let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
            match (rows.len(), high) {
                (0, _) => "—".to_owned(),
                (_, 0.0) => "no change".to_owned(),
                _ => format!("{low:.3}–{high:.3}"),
            }
        };
        let (to_king, structure) = (words(&kings), range(&kings, "structure"));
        let (to_rivals, cosine) = (words(&rivals), range(&rivals, "cosine"));
        let python = all.iter().filter(|row| row["python"] == "duplicate").count();
        println!(
            "| {attack} | {to_king} | {structure} | {to_rivals} | {cosine} | {python} of {} |",
            all.len()
        );
    }
}

/// A king of 60 million parameters and a rival: the king with a delta of rank
/// 24 and heavy tails, 1 % of each matrix.
fn synthetic(scratch: &Path) -> (PathBuf, Vec<PathBuf>) {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 768, "num_hidden_layers": 8,
        "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 2048,
        "vocab_size": 8192, "tie_word_embeddings": true,
    });
    let king = Model::synthetic(config, 1).rounded();
    let mut folders = Vec::new();
    for seed in 0..2 {
        let mut rival = king.clone();
        rival.add_rank(24, 0.01, &mut Dice::new("rival", seed));
        let folder = scratch.join(format!("rival-{seed}"));
        rival.write(&folder, None);
        folders.push(folder);
    }
    king.write(&scratch.join("king"), None);
    (scratch.join("king"), folders)
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).expect("a folder of models");
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("model.safetensors").is_file() && !name(path).starts_with("inject"))
        .collect();
    folders.sort();
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
