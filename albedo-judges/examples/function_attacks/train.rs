//! Honest fine-tunes, really trained: every recipe follows the gradient of the loss on given
//! texts (or a search by the loss alone), from the king.

use std::collections::BTreeMap;

use super::disguise::{Dice, Model};
use super::network::{Gradients, gradients, log_probs};

/// How a fine-tune is trained.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    method: Method,
    rate: f32,
    steps: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    Adam,
    /// Rounded to bf16 after each step.
    AdamInBf16,
    /// The mean of the weights over the last half of the steps.
    AdamAveraged,
    /// Exported through int8, one factor per row.
    AdamToInt8,
    /// Of the last third of the layers alone.
    AdamLast,
    Lora(usize),
    Sgd,
    SignSgd,
    Lion,
    Muon,
    /// Evolution strategies: a search without gradients.
    Evolution,
}

const fn recipe(name: &'static str, method: Method, rate: f32, steps: usize) -> Recipe {
    Recipe { name, method, rate, steps }
}

pub(crate) const RECIPES: [Recipe; 14] = [
    recipe("adamw 3e-4", Method::Adam, 3e-4, 8),
    recipe("adamw 1e-4", Method::Adam, 1e-4, 8),
    recipe("adamw 1e-3", Method::Adam, 1e-3, 8),
    recipe("adamw, long", Method::Adam, 2e-4, 24),
    recipe("adamw in bf16", Method::AdamInBf16, 5e-4, 8),
    recipe("adamw, averaged", Method::AdamAveraged, 5e-4, 8),
    recipe("adamw, int8 export", Method::AdamToInt8, 3e-4, 8),
    recipe("adamw, last layers", Method::AdamLast, 1e-3, 8),
    recipe("lora of rank 8", Method::Lora(8), 3e-3, 8),
    recipe("sgd", Method::Sgd, 0.1, 8),
    recipe("sign sgd", Method::SignSgd, 1e-4, 8),
    recipe("lion", Method::Lion, 1e-4, 8),
    recipe("muon", Method::Muon, 2e-3, 8),
    recipe("evolution", Method::Evolution, 2e-3, 6),
];

/// The king after `recipe` on `texts`, drawn with `seed`, and the loss before and after on
/// the first text.
pub(crate) fn train(king: &Model, recipe: &Recipe, texts: &[Vec<usize>], seed: u64) -> Model {
    let mut dice = Dice::new("train", seed);
    let mut model = king.clone();
    if let Method::Evolution = recipe.method {
        evolve(&mut model, recipe, texts, &mut dice);
        return model.rounded();
    }
    let mut optimiser =
        Optimiser { recipe: *recipe, step: 0, first: BTreeMap::new(), second: BTreeMap::new() };
    let mut lora = Lora::default();
    let mut averaged: Option<Model> = None;
    let layers = king.size("num_hidden_layers");
    for step in 0..recipe.steps {
        let mut gradients = batch(&model, texts, &mut dice);
        if recipe.method == Method::AdamLast {
            let last = |name: &String| {
                let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
                layer
                    .and_then(|layer| layer.parse::<usize>().ok())
                    .is_some_and(|layer| 3 * layer >= 2 * layers)
            };
            gradients.retain(|name, _| last(name));
        }
        optimiser.step += 1;
        if let Method::Lora(rank) = recipe.method {
            lora.step(&mut model, king, &gradients, rank, &mut optimiser, &mut dice);
            continue;
        }
        for (name, gradient) in &gradients {
            let tensor = model.tensors.get_mut(name).expect("a tensor");
            let columns = if tensor.shape.len() == 2 { tensor.columns() } else { 0 };
            let update = optimiser.update(name, gradient, columns);
            tensor.values.iter_mut().zip(update).for_each(|(value, update)| *value -= update);
        }
        if recipe.method == Method::AdamInBf16 {
            model = model.rounded();
        }
        if recipe.method == Method::AdamAveraged && 2 * step >= recipe.steps {
            let seen = (step - recipe.steps / 2) as f32;
            let mean = averaged.get_or_insert_with(|| model.clone());
            for (name, tensor) in &mut mean.tensors {
                let now = &model.tensors[name].values;
                tensor
                    .values
                    .iter_mut()
                    .zip(now)
                    .for_each(|(mean, now)| *mean += (now - *mean) / (seen + 1.0));
            }
        }
    }
    if recipe.method == Method::AdamToInt8 {
        model.quantise(127.0);
    }
    averaged.unwrap_or(model).rounded()
}

/// The mean gradient over two texts.
fn batch(model: &Model, texts: &[Vec<usize>], dice: &mut Dice) -> Gradients {
    let mut sum = Gradients::new();
    for _ in 0..2 {
        let (_, gradients) = gradients(model, &texts[pick(texts.len(), dice)]);
        for (name, gradient) in gradients {
            let sum = sum.entry(name).or_insert_with(|| vec![0.0; gradient.len()]);
            sum.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += 0.5 * value);
        }
    }
    sum
}

fn pick(count: usize, dice: &mut Dice) -> usize {
    ((dice.unit() * count as f64) as usize).min(count - 1)
}

struct Optimiser {
    recipe: Recipe,
    step: i32,
    first: BTreeMap<String, Vec<f32>>,
    second: BTreeMap<String, Vec<f32>>,
}

impl Optimiser {
    /// What is taken off the weights; `columns` is 0 for a vector.
    fn update(&mut self, name: &str, gradient: &[f32], columns: usize) -> Vec<f32> {
        let Recipe { method, rate, .. } = self.recipe;
        // The rate falls linearly.
        let rate = rate * (1.0 - (self.step - 1) as f32 / self.recipe.steps as f32);
        let zeros = || vec![0.0; gradient.len()];
        let first = self.first.entry(name.to_owned()).or_insert_with(zeros);
        let blend = |old: &mut [f32], by: f32, new: &dyn Fn(usize) -> f32| {
            old.iter_mut().enumerate().for_each(|(at, old)| *old += (new(at) - *old) * by);
        };
        match method {
            Method::Sgd => {
                first.iter_mut().zip(gradient).for_each(|(sum, value)| *sum = 0.9 * *sum + value);
                first.iter().map(|value| rate * value).collect()
            }
            Method::SignSgd => gradient.iter().map(|value| rate * sign(*value)).collect(),
            Method::Lion => {
                let update = first.iter().zip(gradient).map(|(old, new)| rate * sign(0.9 * old + 0.1 * new));
                let update = update.collect();
                blend(first, 0.01, &|at| gradient[at]);
                update
            }
            // Vectors and the embedding are Adam's, as Muon's author has it.
            Method::Muon if columns > 0 && !name.contains("embed") => {
                first.iter_mut().zip(gradient).for_each(|(sum, value)| *sum = 0.95 * *sum + value);
                let rows = gradient.len() / columns;
                let by = rate * (rows as f32 / columns as f32).sqrt().max(1.0);
                orthogonal(first, columns).into_iter().map(|value| by * value).collect()
            }
            _ => {
                let rate = if method == Method::Muon { 3e-4 } else { rate };
                blend(first, 0.1, &|at| gradient[at]);
                let second = self.second.entry(name.to_owned()).or_insert_with(zeros);
                blend(second, 0.01, &|at| gradient[at] * gradient[at]);
                let (one, two) = (1.0 - 0.9_f32.powi(self.step), 1.0 - 0.99_f32.powi(self.step));
                let pairs = first.iter().zip(second.iter());
                pairs.map(|(first, second)| rate * (first / one) / ((second / two).sqrt() + 1e-8)).collect()
            }
        }
    }
}

fn sign(value: f32) -> f32 {
    if value > 0.0 { 1.0 } else { -f32::from(u8::from(value < 0.0)) }
}

/// The matrix with all singular values near 1: five steps of the iteration of Newton and
/// Schulz with Muon's coefficients (Jordan and others, *Muon*, 2024).
fn orthogonal(matrix: &[f32], columns: usize) -> Vec<f32> {
    let norm = matrix.iter().map(|value| value * value).sum::<f32>().sqrt() + 1e-7;
    let mut x: Vec<f32> = matrix.iter().map(|value| value / norm).collect();
    let rows = x.len() / columns;
    let tall = rows > columns;
    let transpose = |x: &[f32], columns: usize| -> Vec<f32> {
        let rows = x.len() / columns;
        (0..x.len()).map(|at| x[at % rows * columns + at / rows]).collect()
    };
    if tall {
        x = transpose(&x, columns);
    }
    let (short, long) = (rows.min(columns), rows.max(columns));
    let times = |a: &[f32], b: &[f32], inner: usize, width: usize| -> Vec<f32> {
        let mut out = vec![0.0; a.len() / inner * width];
        for (a, out) in a.chunks_exact(inner).zip(out.chunks_exact_mut(width)) {
            for (&by, b) in a.iter().zip(b.chunks_exact(width)) {
                out.iter_mut().zip(b).for_each(|(sum, value)| *sum += by * value);
            }
        }
        out
    };
    for _ in 0..5 {
        let gram = times(&x, &transpose(&x, long), long, short);
        let square = times(&gram, &gram, short, short);
        let mix: Vec<f32> = gram.iter().zip(&square).map(|(a, b)| -4.775 * a + 2.0315 * b).collect();
        let moved = times(&mix, &x, short, long);
        x.iter_mut().zip(moved).for_each(|(x, moved)| *x = 3.4445 * *x + moved);
    }
    if tall { transpose(&x, long) } else { x }
}

/// Factors beside the attention's and the feed-forward part's matrices.
#[derive(Default)]
struct Lora(BTreeMap<String, [Vec<f32>; 2]>);

impl Lora {
    fn step(
        &mut self,
        model: &mut Model,
        king: &Model,
        gradients: &Gradients,
        rank: usize,
        optimiser: &mut Optimiser,
        dice: &mut Dice,
    ) {
        for (name, gradient) in gradients.iter().filter(|(name, _)| name.contains("_proj")) {
            let tensor = model.tensors.get_mut(name).expect("a tensor");
            let columns = tensor.columns();
            let rows = tensor.values.len() / columns;
            let factors = self.0.entry(name.clone()).or_insert_with(|| {
                let right = (0..rank * columns).map(|_| (dice.normal() / (columns as f64).sqrt()) as f32);
                [vec![0.0; rows * rank], right.collect()]
            });
            let [left, right] = &*factors;
            let (mut d_left, mut d_right) = (vec![0.0; left.len()], vec![0.0; right.len()]);
            for row in 0..rows {
                let gradient = &gradient[row * columns..][..columns];
                for k in 0..rank {
                    let right = &right[k * columns..][..columns];
                    d_left[row * rank + k] = gradient.iter().zip(right).map(|(a, b)| a * b).sum();
                    let by = left[row * rank + k];
                    let sums = d_right[k * columns..][..columns].iter_mut().zip(gradient);
                    sums.for_each(|(sum, value)| *sum += by * value);
                }
            }
            let updates = [
                optimiser.update(&format!("{name} left"), &d_left, 0),
                optimiser.update(&format!("{name} right"), &d_right, 0),
            ];
            for (factor, update) in factors.iter_mut().zip(updates) {
                factor.iter_mut().zip(update).for_each(|(value, update)| *value -= update);
            }
            let [left, right] = &*factors;
            tensor.values.clone_from(&king.tensors[name].values);
            for (row, values) in tensor.values.chunks_exact_mut(columns).enumerate() {
                for k in 0..rank {
                    let by = left[row * rank + k];
                    values
                        .iter_mut()
                        .zip(&right[k * columns..])
                        .for_each(|(value, right)| *value += by * right);
                }
            }
        }
    }
}

/// A search by the loss alone: pairs of opposite steps, weighed by how much better they are.
fn evolve(model: &mut Model, recipe: &Recipe, texts: &[Vec<usize>], dice: &mut Dice) {
    const PAIRS: u64 = 3;
    for _ in 0..recipe.steps {
        let text = &texts[pick(texts.len(), dice)];
        let start = model.clone();
        let seeds: Vec<u64> = (0..PAIRS).map(|_| (dice.unit() * 1e15) as u64).collect();
        let moved = |by: f64, seed: u64, model: &Model| {
            let mut moved = model.clone();
            moved.add_noise(by, &mut Dice::new("evolution", seed));
            moved
        };
        let loss = |model: &Model| -f64::from(log_probs(model, text, 1).iter().sum::<f32>());
        let gains: Vec<f64> = seeds
            .iter()
            .map(|&seed| {
                let [better, worse] =
                    [1.0, -1.0].map(|way| loss(&moved(way * f64::from(recipe.rate), seed, &start)));
                worse - better
            })
            .collect();
        let most = gains.iter().fold(1e-9_f64, |most, gain| most.max(gain.abs()));
        for (seed, gain) in seeds.into_iter().zip(gains) {
            *model = moved(f64::from(recipe.rate) * gain / most, seed, model);
        }
    }
}
