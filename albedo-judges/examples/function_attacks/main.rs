//! The table of the screens `lineage` and `functional`: honest fine-tunes by many recipes,
//! and copies of kings and rivals by many kinds of attack, with exact intervals.
//!
//! ```console
//! cargo run --release -p albedo-judges --features screens --example function_attacks -- \
//!     [--only N] [--rivals N] [--seeds N] [--kinds N] [--questions N] [--threads N] [--json FILE]
//!     KING [KING…]
//! ```
//!
//! Each KING is a model folder with a tied head. Texts are the kings' own, sampled from the
//! token `--start` (4090 in the demo pack) on: no tokenizer is needed. Fine-tunes are trained
//! here, on texts of the next king where there are several: those of even seeds draw from one
//! pool, as published records are, those of odd seeds from a pool of their own. `--only` attacks
//! that king alone, counted from 0, so that several processes share the work; `--threads` of
//! each do (the table does not depend on how many). `docs/screens.md` says how to read it;
//! without arguments a small slice of the demo's king is run.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool that prints and may stop"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use albedo_core::CallContext;
use albedo_core::stats::exact_proportion;
use albedo_judges::screens::functional::{Difference, FunctionalConfig};
use albedo_judges::screens::lineage::{Anchor, LineageConfig, LineageScreen};
use albedo_judges::screens::store::Store;
use albedo_judges::screens::{AlignTo, Measurement};
use serde_json::{Value, json};

mod attacks;
#[path = "../screen_attacks/disguise.rs"]
#[expect(dead_code, reason = "the other table uses all of it")]
mod disguise;
#[path = "../screen_attacks/folder.rs"]
mod folder;
mod network;
mod train;

use attacks::{ATTACKS, Class, Scene};
use disguise::{Dice, Model};
use folder::folder;
use train::{RECIPES, train};

/// Tokens of a prompt, and of a prompt and its reply.
const PROMPT: usize = 48;
const WHOLE: usize = 112;
/// Texts that fine-tunes draw theirs from: each sees 16 to 48 of them, in an order of its own.
const TEXTS: usize = 128;
/// Texts of a fine-tune that has its own.
const OWN_TEXTS: usize = 48;

/// What a run takes.
struct Options {
    kings: Vec<PathBuf>,
    /// The only king to attack.
    only: Option<usize>,
    rivals: usize,
    seeds: u64,
    kinds: usize,
    questions: usize,
    threads: usize,
    start: usize,
    json: Option<PathBuf>,
}

fn main() {
    let options = options();
    let scratch = std::env::temp_dir().join(format!("function-attacks-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).expect("a scratch folder");
    let models: Vec<Model> = options.kings.iter().map(|path| Model::read(path)).collect();
    let mut rows = Vec::new();
    let wanted = |index: usize| options.only.is_none_or(|only| only == index);
    for (index, king) in models.iter().enumerate().filter(|(index, _)| wanted(*index)) {
        // A better model's texts, as a challenger is trained on.
        let teacher = &models[(index + 1) % models.len()];
        let began = Instant::now();
        let shared = texts(teacher, options.start, TEXTS, "training", index as u64);
        let questions = self::texts(king, options.start, options.questions, "questions", index as u64);
        println!("king {index}: texts in {:.0} s", began.elapsed().as_secs_f64());
        rows.extend(Bench::new([king, teacher], &shared, &questions, &options, &scratch).run(index));
    }
    report(&rows);
    if let Some(path) = &options.json {
        std::fs::write(path, json!(rows).to_string()).expect("written");
    }
    std::fs::remove_dir_all(&scratch).expect("removed");
}

fn options() -> Options {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.remove(at);
        Some(arguments.remove(at))
    };
    let mut number =
        |name: &str, otherwise: usize| option(name).map_or(otherwise, |text| text.parse().expect("a number"));
    let (rivals, seeds, kinds) = (number("--rivals", 2), number("--seeds", 1), number("--kinds", usize::MAX));
    let (questions, start) = (number("--questions", 16), number("--start", 4090));
    let threads = number("--threads", 1).max(1);
    let only = option("--only").map(|text| text.parse().expect("a number"));
    let json = option("--json").map(PathBuf::from);
    let mut kings: Vec<PathBuf> = arguments.into_iter().map(PathBuf::from).collect();
    if kings.is_empty() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/models");
        kings = vec![demo.join("king")];
    }
    Options { kings, only, rivals, seeds: seeds as u64, kinds, questions, threads, start, json }
}

/// `count` texts that `model` writes at temperature 1 from `start` on.
fn texts(model: &Model, start: usize, count: usize, domain: &str, seed: u64) -> Vec<Vec<usize>> {
    let mut dice = Dice::new(domain, seed);
    let mut texts = vec![vec![start]; count];
    for text in &mut texts {
        let mut reading = network::Reading::new(model);
        while text.len() < WHOLE {
            let logits = reading.next(text[text.len() - 1]);
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f64> = logits.iter().map(|logit| f64::from(logit - most).exp()).collect();
            let mut left = dice.unit() * weights.iter().sum::<f64>();
            let drawn = weights.iter().position(|weight| {
                left -= weight;
                left <= 0.0
            });
            text.push(drawn.unwrap_or(0));
        }
    }
    texts
}

struct Bench<'a> {
    king: &'a Model,
    /// Whose texts fine-tunes are trained on.
    teacher: &'a Model,
    /// Its texts that are everybody's.
    shared: &'a [Vec<usize>],
    questions: &'a [Vec<usize>],
    options: &'a Options,
    scratch: &'a Path,
    anchor: Arc<Anchor>,
    lineage: LineageScreen,
    store: Arc<Store>,
    kings: Vec<Vec<f32>>,
    thresholds: FunctionalConfig,
}

/// A model, and what it says otherwise than the king.
struct Known {
    name: String,
    model: Model,
    difference: Difference,
}

impl<'a> Bench<'a> {
    fn new(
        [king, teacher]: [&'a Model; 2],
        shared: &'a [Vec<usize>],
        questions: &'a [Vec<usize>],
        options: &'a Options,
        scratch: &'a Path,
    ) -> Self {
        let path = scratch.join("king");
        king.write(&path, None);
        let measured = measure(&path, AlignTo::Itself);
        let store_path = scratch.join("store");
        let _ = std::fs::remove_file(&store_path);
        let store = Arc::new(Store::create(&store_path).expect("a store"));
        let lineage = LineageScreen::new(LineageConfig::default(), Some(Arc::clone(&store)));
        let mut bench = Self {
            king,
            teacher,
            shared,
            questions,
            options,
            scratch,
            anchor: measured.anchor.expect("an anchor"),
            lineage: lineage.expect("a screen"),
            store,
            kings: Vec::new(),
            thresholds: FunctionalConfig::default(),
        };
        bench.kings = bench.answers(king);
        bench
    }

    fn answers(&self, model: &Model) -> Vec<Vec<f32>> {
        self.questions.iter().map(|text| network::log_probs(model, text, PROMPT)).collect()
    }

    fn difference(&self, model: &Model) -> Difference {
        Difference::between(&self.answers(model), &self.kings).expect("the same tokens")
    }

    /// The model as its file has it; `place` names the file, so that threads have their own.
    fn stored(&self, model: &Model, place: usize) -> (Model, Measurement) {
        let path = self.scratch.join(format!("model-{place}"));
        model.write(&path, None);
        let measured = measure(&path, AlignTo::Anchor(Arc::clone(&self.anchor)));
        let stored = Model::read(&path);
        std::fs::remove_dir_all(&path).expect("removed");
        (stored, measured)
    }

    fn run(&self, index: usize) -> Vec<Value> {
        let (mut rows, honest) = self.honest(index);
        rows.extend(self.attacks(index, &honest));
        for row in &mut rows {
            row["king"] = json!(index);
        }
        rows
    }

    /// Fine-tunes by every recipe; each is compared with those before it.
    fn honest(&self, index: usize) -> (Vec<Value>, Vec<Known>) {
        let trainings: Vec<_> = RECIPES
            .iter()
            .enumerate()
            .flat_map(|(place, recipe)| (0..self.options.seeds).map(move |seed| (place, recipe, seed)))
            .collect();
        let trained = in_parallel(self.options.threads, &trainings, |number, (place, recipe, seed)| {
            let began = Instant::now();
            let dice = seed + 100 * *place as u64 + 10_000 * index as u64;
            let own = (seed % 2 == 1)
                .then(|| texts(self.teacher, self.options.start, OWN_TEXTS, "own training", dice));
            let texts = own.as_deref().unwrap_or(self.shared);
            let (model, measured) = self.stored(&train(self.king, recipe, texts, dice), number);
            let difference = self.difference(&model);
            println!("  {} #{seed} of king {index}: {:.1} s", recipe.name, began.elapsed().as_secs_f64());
            (model, measured, difference)
        });
        let (mut rows, mut honest) = (Vec::new(), Vec::<Known>::new());
        for ((_, recipe, seed), (model, measured, difference)) in trainings.into_iter().zip(trained) {
            let name = format!("{} #{seed}", recipe.name);
            let of = if seed % 2 == 1 { "own texts" } else { "shared texts" };
            let mut row = self.row("honest", recipe.name, of, &measured, &difference, &honest);
            row["seed"] = json!(seed);
            println!("  {name} of king {index}: {}", brief(&row));
            measured.remember(&self.store, name.clone(), String::new(), None).expect("remembered");
            honest.push(Known { name, model, difference });
            rows.push(row);
        }
        (rows, honest)
    }

    /// Every kind of attack on the king and on some of the honest.
    fn attacks(&self, index: usize, honest: &[Known]) -> Vec<Value> {
        let step = (honest.len() / self.options.rivals.max(1)).max(1);
        let rivals: Vec<usize> = (0..honest.len()).step_by(step).take(self.options.rivals).collect();
        let mut copies = Vec::new();
        for (number, (kind, class, attack)) in ATTACKS.iter().take(self.options.kinds).enumerate() {
            if *class != Class::Merge {
                copies.push((number, *kind, *class, attack, "king", self.king, self.king));
            }
            for &rival in &rivals {
                let other = &honest[(rival + 1 + number) % honest.len()];
                let other = if other.name == honest[rival].name {
                    &honest[(rival + 1) % honest.len()]
                } else {
                    other
                };
                let source = &honest[rival];
                copies.push((number, *kind, *class, attack, &source.name, &source.model, &other.model));
            }
        }
        in_parallel(
            self.options.threads,
            &copies,
            |place, (number, kind, class, attack, of, source, other)| {
                let dice = Dice::new(kind, *number as u64 + 1000 * index as u64);
                let mut scene = Scene { king: self.king, other, dice };
                let mut model = (*source).clone();
                attack(&mut model, &mut scene);
                let (model, measured) = self.stored(&model, place);
                let answers = self.answers(&model);
                let difference = Difference::between(&answers, &self.kings).expect("the same tokens");
                let class = match class {
                    Class::Kept => "kept",
                    Class::Near => "near",
                    Class::Merge => "merge",
                };
                let mut row = self.row(class, kind, of, &measured, &difference, honest);
                let apart = Difference::between(&answers, &self.answers(source)).expect("the same tokens");
                row["from_source"] = json!(apart.divergence());
                println!("  {kind} of {of} of king {index}: {}", brief(&row));
                row
            },
        )
    }

    /// What both screens find of a model.
    fn row(
        &self,
        class: &str,
        kind: &str,
        of: &str,
        measured: &Measurement,
        difference: &Difference,
        known: &[Known],
    ) -> Value {
        let aligned = measured.aligned.as_ref().expect("aligned");
        let lineage = self.lineage.judge(aligned, self.anchor.own(), &[]).expect("a finding");
        let others: Vec<_> = known.iter().map(|known| (known.name.as_str(), &known.difference)).collect();
        let functional = self.thresholds.judge(difference, &others);
        let nearest = &functional.evidence()["nearest"][0];
        let evidence = lineage.evidence();
        json!({
            "class": class,
            "kind": kind,
            "of": of,
            "lineage": lineage.word(),
            "rules": evidence["rules"],
            "structure": evidence["to_king"]["structure"],
            "distance": evidence["to_king"]["distance"],
            "weights_cosine": evidence["nearest"][0]["cosine"],
            "functional": functional.word(),
            "divergence": difference.divergence(),
            "nearest": nearest["of"],
            "cosine": nearest["cosine"].as_f64().unwrap_or(0.0),
            "overall": nearest["overall"],
            "typical": nearest["typical"],
            "either": worse(lineage.word(), functional.word()),
        })
    }
}

/// `work` of each item, in the items' order, by `threads` threads.
fn in_parallel<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(usize, &T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(place) else { break };
                    let result = work(place, item);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((place, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

fn worse(one: &'static str, other: &'static str) -> &'static str {
    let rank = |word: &str| ["clear", "flagged", "rejected"].iter().position(|known| *known == word);
    if rank(one) > rank(other) { one } else { other }
}

fn measure(path: &Path, align: AlignTo) -> Measurement {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(Measurement::take(folder(path), align, &CallContext::new())).expect("measured")
}

fn brief(row: &Value) -> String {
    let number = |key: &str| row[key].as_f64().unwrap_or(0.0);
    format!(
        "lineage {} {}, functional {}, KL to the king {:.1e}, cosine {:.3} (all {:.3}, median {:.3}), structure {:.3}",
        row["lineage"].as_str().unwrap_or(""),
        row["rules"],
        row["functional"].as_str().unwrap_or(""),
        number("divergence"),
        number("cosine"),
        number("overall"),
        number("typical"),
        number("structure"),
    )
}

/// The tables of `docs/screens.md`.
fn report(rows: &[Value]) {
    println!("\n| what | of | n | rejected | flagged | clear | rejected, exact 95 % | rejected or flagged |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut groups: BTreeMap<(String, String), Vec<&Value>> = BTreeMap::new();
    for row in rows {
        let of = match (row["class"].as_str(), row["of"].as_str()) {
            (Some("honest"), Some(of)) => of,
            (_, Some("king")) => "king",
            _ => "rivals",
        };
        let key = (row["class"].as_str().unwrap_or_default().to_owned(), of.to_owned());
        groups.entry(key).or_default().push(row);
    }
    for ((class, of), rows) in &groups {
        for screen in ["lineage", "functional", "either"] {
            let count = |word: &str| rows.iter().filter(|row| row[screen] == word).count();
            let (n, rejected, flagged) = (rows.len(), count("rejected"), count("flagged"));
            let shown = |count: usize| {
                let share = exact_proportion(count as u64, n as u64, 0.95).expect("a group has rows");
                format!("{:.1}–{:.1} %", 100.0 * share.interval.low, 100.0 * share.interval.high)
            };
            println!(
                "| {class}: {screen} | {of} | {n} | {rejected} | {flagged} | {} | {} | {} |",
                n - rejected - flagged,
                shown(rejected),
                shown(rejected + flagged),
            );
        }
    }
    let honest: Vec<&Value> = rows.iter().filter(|row| row["class"] == "honest").collect();
    let most = |key: &str| honest.iter().filter_map(|row| row[key].as_f64()).fold(0.0, f64::max);
    let least = honest.iter().filter_map(|row| row["divergence"].as_f64()).fold(f64::INFINITY, f64::min);
    println!(
        "\nHonest: KL to the king at least {least:.1e}; cosine at most {:.3} over all tokens, {:.3} by the median.",
        most("overall"),
        most("typical"),
    );
    println!("\n| KL to the king | copies of the king: n, rejected / flagged / clear | honest: the same |");
    println!("|---|---|---|");
    for decade in -10..1 {
        let within = |row: &&&Value| {
            let divergence = row["divergence"].as_f64().unwrap_or(0.0).max(1e-10);
            (divergence.log10().floor() as i32).clamp(-10, 0) == decade
        };
        let words = |rows: Vec<&&Value>| {
            let of = |word: &str| rows.iter().filter(|row| row["either"] == word).count();
            format!("{}: {} / {} / {}", rows.len(), of("rejected"), of("flagged"), of("clear"))
        };
        let kings: Vec<&Value> = rows.iter().filter(|row| row["of"] == "king").collect();
        println!(
            "| 1e{decade} | {} | {} |",
            words(kings.iter().filter(within).collect()),
            words(honest.iter().filter(within).collect())
        );
    }
}
