//! What the miners hand in.

use std::fs;
use std::path::Path;

use albedo::rng::{Stream, Use};

use crate::altered::alter;
use crate::run::demo;

/// Size of what a bad training run adds to a matrix, beside the matrix, as in the validator's demo.
const SPOILED: f32 = 0.42;

/// Rank of what it adds.
const RANK: usize = 8;

/// Writes the miners' models below `folder`, as `miners/NAME`.
pub(crate) fn prepare(folder: &Path) {
    let models = demo().join("models");
    for (miner, model) in [
        ("amy", "king"),
        ("gus", "king"),
        ("dan", "king"),
        ("nia", "king"),
        ("bob", "king"),
        ("ada", "king"),
        ("ben", "challenger"),
        ("eve", "king"),
    ] {
        let place = folder.join("miners").join(miner);
        fs::create_dir_all(&place).expect("makes");
        for entry in fs::read_dir(models.join(model)).expect("lists") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), place.join(entry.file_name())).expect("copies");
        }
    }
    let file = |miner: &str, name: &str| folder.join("miners").join(miner).join(name);
    for (seed, miner) in [(1, "amy"), (2, "gus"), (3, "eve")] {
        spoil(&file(miner, "model.safetensors"), seed);
    }
    add_noise(&file("nia", "model.safetensors"));
    let weights = file("bob", "model.safetensors");
    let whole = fs::read(&weights).expect("reads");
    fs::write(&weights, &whole[..whole.len() / 2]).expect("writes");
    let config = file("ada", "config.json");
    let text = fs::read_to_string(&config).expect("reads");
    let other = text.replace("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"");
    assert_ne!(other, text);
    fs::write(&config, other).expect("writes");
}

/// A number from -1 to 1.
fn number(numbers: &mut Stream) -> f32 {
    (numbers.below(20_001) as f32 - 10_000.0) / 10_000.0
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE)
}

/// Adds to each matrix of each layer one of low rank: what a training run that went wrong leaves.
fn spoil(path: &Path, seed: u64) {
    let mut numbers = Stream::new(seed, Use::Chaos);
    alter(path, |name, columns, values| {
        if !name.contains(".layers.") {
            return;
        }
        let rows = values.len() / columns;
        let left: Vec<f32> = (0..rows * RANK).map(|_| number(&mut numbers)).collect();
        let right: Vec<f32> = (0..RANK * columns).map(|_| number(&mut numbers)).collect();
        let mut added = vec![0.0; values.len()];
        for (at, value) in added.iter_mut().enumerate() {
            let (row, column) = (at / columns, at % columns);
            *value = (0..RANK).map(|k| left[row * RANK + k] * right[k * columns + column]).sum();
        }
        let scale = SPOILED * norm(values) / norm(&added);
        values.iter_mut().zip(added).for_each(|(value, added)| *value += scale * added);
    });
}

/// Moves every weight by up to half a percent: a copy that does not want to be one.
fn add_noise(path: &Path) {
    let mut numbers = Stream::new(4, Use::Chaos);
    alter(path, |_, _, values| {
        for value in values {
            *value *= 1.0 + 0.005 * number(&mut numbers);
        }
    });
}
