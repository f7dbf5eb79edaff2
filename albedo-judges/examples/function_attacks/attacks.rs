//! What a copyist does to a source: kinds of attack, each a change of a model's weights.

use albedo_core::safetensors::Dtype;

use super::disguise::{Dice, Model};

/// Whom a kind of attack copies, and how near the copy has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// The function stays, up to rounding.
    Kept,
    /// The function changes a little.
    Near,
    /// Another's work is a part of it; of rivals alone.
    Merge,
}

/// What an attack has at hand.
pub(crate) struct Scene<'a> {
    pub(crate) king: &'a Model,
    /// Somebody else's work.
    pub(crate) other: &'a Model,
    pub(crate) dice: Dice,
}

type Attack = fn(&mut Model, &mut Scene<'_>);

/// Every kind by name.
pub(crate) const ATTACKS: [(&str, Class, Attack); 52] = [
    ("neurons permuted", Class::Kept, |model, scene| model.permute_neurons(&mut scene.dice)),
    ("neurons rescaled", Class::Kept, |model, scene| model.rescale_neurons(&mut scene.dice)),
    ("heads permuted", Class::Kept, |model, scene| model.permute_heads(&mut scene.dice)),
    ("values rotated", Class::Kept, |model, scene| model.rotate_values(&mut scene.dice)),
    ("planes turned", Class::Kept, |model, scene| model.turn_planes(&mut scene.dice)),
    ("norms folded", Class::Kept, |model, scene| model.fold_norms(&mut scene.dice)),
    ("channels permuted", Class::Kept, |model, scene| model.permute_channels(&mut scene.dice)),
    ("stream × 1.7", Class::Kept, |model, _| model.scale_stream(1.7)),
    ("stream × 0.3", Class::Kept, |model, _| model.scale_stream(0.3)),
    ("stored as f16", Class::Kept, |model, _| model.dtype = Dtype::F16),
    ("neuron × 1e18", Class::Kept, |model, _| model.rescale_one_neuron(1e18)),
    ("neuron × 1e25", Class::Kept, |model, _| model.rescale_one_neuron(1e25)),
    ("one step of bf16 in one weight of each matrix", Class::Kept, |model, scene| touch(model, 0, scene)),
    ("one step of bf16 in 1 of 500 weights", Class::Kept, |model, scene| touch(model, 500, scene)),
    ("stream turned by 1°", Class::Kept, |model, scene| model.turn_stream(1.0, &mut scene.dice)),
    ("stream turned by 10°", Class::Kept, |model, scene| model.turn_stream(10.0, &mut scene.dice)),
    ("stream turned by 45°", Class::Kept, |model, scene| model.turn_stream(45.0, &mut scene.dice)),
    ("all of these", Class::Kept, |model, scene| {
        model.permute_neurons(&mut scene.dice);
        model.rescale_neurons(&mut scene.dice);
        model.permute_heads(&mut scene.dice);
        model.rotate_values(&mut scene.dice);
        model.turn_planes(&mut scene.dice);
        model.fold_norms(&mut scene.dice);
        model.permute_channels(&mut scene.dice);
        model.scale_stream(1.7);
    }),
    ("noise 0.05 %", Class::Near, |model, scene| model.add_noise(0.0005, &mut scene.dice)),
    ("noise 0.1 %", Class::Near, |model, scene| model.add_noise(0.001, &mut scene.dice)),
    ("noise 0.5 %", Class::Near, |model, scene| model.add_noise(0.005, &mut scene.dice)),
    ("noise 1 %", Class::Near, |model, scene| model.add_noise(0.01, &mut scene.dice)),
    ("noise 3 %", Class::Near, |model, scene| model.add_noise(0.03, &mut scene.dice)),
    ("channels permuted, noise 0.5 %", Class::Near, |model, scene| {
        model.permute_channels(&mut scene.dice);
        model.add_noise(0.005, &mut scene.dice);
    }),
    ("rank 8, 1 %", Class::Near, |model, scene| model.add_rank(8, 0.01, &mut scene.dice)),
    ("rank 64, 1 %", Class::Near, |model, scene| model.add_rank(64, 0.01, &mut scene.dice)),
    ("rank 192, 1 %", Class::Near, |model, scene| model.add_rank(192, 0.01, &mut scene.dice)),
    ("int8", Class::Near, |model, _| model.quantise(127.0)),
    ("int4", Class::Near, |model, _| model.quantise(7.0)),
    ("mantissa of 4 bits", Class::Near, |model, _| {
        each(model, |value| f32::from_bits((value.to_bits() + (1 << 18)) & !((1 << 19) - 1)));
    }),
    ("smallest 10 % of each row gone", Class::Near, |model, _| prune(model, 0.1)),
    ("smallest 30 % of each row gone", Class::Near, |model, _| prune(model, 0.3)),
    ("all weights × 1.003", Class::Near, |model, _| each(model, |value| value * 1.003)),
    ("rows × 1 ± 1 %", Class::Near, |model, scene| rows(model, 0.01, scene)),
    ("1 % of the weights by 10 %", Class::Near, |model, scene| sparse(model, 0.01, 0.1, scene)),
    ("temperature 1.02", Class::Near, |model, _| scale(model, "model.norm.weight", 1.0 / 1.02)),
    ("slow planes permuted", Class::Near, |model, scene| model.permute_slow_planes(4, &mut scene.dice)),
    ("one large weight", Class::Near, |model, _| {
        let tensor = model.tensors.get_mut("model.layers.1.self_attn.q_proj.weight").expect("there");
        tensor.values[7] = 30.0 * tensor.rms() as f32;
    }),
    ("an unused row × 10", Class::Near, |model, _| unused_row(model)),
    ("all of these, an unused row × 10", Class::Near, |model, scene| {
        model.permute_neurons(&mut scene.dice);
        model.fold_norms(&mut scene.dice);
        model.permute_channels(&mut scene.dice);
        unused_row(model);
    }),
    ("work × 0.5", Class::Merge, |model, scene| weigh(model, scene, 0.5, 0.0)),
    ("work × 0.75", Class::Merge, |model, scene| weigh(model, scene, 0.75, 0.0)),
    ("work × 1.25", Class::Merge, |model, scene| weigh(model, scene, 1.25, 0.0)),
    ("work × 1.5", Class::Merge, |model, scene| weigh(model, scene, 1.5, 0.0)),
    ("merge 90:10", Class::Merge, |model, scene| weigh(model, scene, 0.9, 0.1)),
    ("merge 50:50", Class::Merge, |model, scene| weigh(model, scene, 0.5, 0.5)),
    ("sum of both works", Class::Merge, |model, scene| weigh(model, scene, 1.0, 1.0)),
    ("work less half another's", Class::Merge, |model, scene| weigh(model, scene, 1.0, -0.5)),
    ("work where signs agree", Class::Merge, |model, scene| {
        combine(model, scene, |own, other, _| if own * other > 0.0 { 0.5 * (own + other) } else { 0.0 });
    }),
    ("half of the work, doubled", Class::Merge, |model, scene| drop_out(model, scene, 0.5)),
    ("a tenth of the work, tenfold", Class::Merge, |model, scene| drop_out(model, scene, 0.9)),
    ("layers in turn", Class::Merge, |model, scene| {
        for (name, tensor) in &mut model.tensors {
            let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
            if layer.and_then(|layer| layer.parse::<usize>().ok()).is_some_and(|layer| layer % 2 == 1) {
                tensor.clone_from(&scene.other.tensors[name]);
            }
        }
    }),
];

fn each(model: &mut Model, change: impl Fn(f32) -> f32) {
    for tensor in model.tensors.values_mut().filter(|tensor| tensor.shape.len() == 2) {
        tensor.values.iter_mut().for_each(|value| *value = change(*value));
    }
}

fn scale(model: &mut Model, name: &str, by: f32) {
    model.tensors.get_mut(name).expect("a tensor").values.iter_mut().for_each(|value| *value *= by);
}

/// One step of bf16 in 1 of `of` weights; in the first weight of each matrix if `of` is 0.
fn touch(model: &mut Model, of: usize, scene: &mut Scene<'_>) {
    for tensor in model.tensors.values_mut().filter(|tensor| tensor.shape.len() == 2) {
        let count = tensor.values.len().checked_div(of).unwrap_or(1);
        for _ in 0..count {
            let at = if of == 0 { 0 } else { (scene.dice.unit() * tensor.values.len() as f64) as usize };
            tensor.values[at] = f32::from_bits(tensor.values[at].to_bits() + (1 << 16));
        }
    }
}

fn prune(model: &mut Model, share: f64) {
    for tensor in model.tensors.values_mut().filter(|tensor| tensor.shape.len() == 2) {
        let columns = tensor.columns();
        for row in tensor.values.chunks_exact_mut(columns) {
            let mut sizes: Vec<f32> = row.iter().map(|value| value.abs()).collect();
            sizes.sort_by(f32::total_cmp);
            let least = sizes[(share * columns as f64) as usize];
            row.iter_mut().filter(|value| value.abs() < least).for_each(|value| *value = 0.0);
        }
    }
}

fn rows(model: &mut Model, by: f64, scene: &mut Scene<'_>) {
    for tensor in model.tensors.values_mut().filter(|tensor| tensor.shape.len() == 2) {
        let columns = tensor.columns();
        for row in tensor.values.chunks_exact_mut(columns) {
            let gain = (1.0 + by * scene.dice.normal()) as f32;
            for value in row {
                *value *= gain;
            }
        }
    }
}

fn sparse(model: &mut Model, share: f64, by: f64, scene: &mut Scene<'_>) {
    for tensor in model.tensors.values_mut().filter(|tensor| tensor.shape.len() == 2) {
        let size = by * tensor.rms();
        for value in &mut tensor.values {
            if scene.dice.unit() < share {
                *value += (size * scene.dice.normal()) as f32;
            }
        }
    }
}

/// The row of the last reserved token, which no text has.
fn unused_row(model: &mut Model) {
    let tensor = model.tensors.get_mut("model.embed_tokens.weight").expect("there");
    let start = tensor.values.len() - tensor.columns();
    tensor.values[start..].iter_mut().for_each(|value| *value *= 10.0);
}

/// King + `own` times the source's work + `others` times another's.
fn weigh(model: &mut Model, scene: &mut Scene<'_>, own: f32, others: f32) {
    combine(model, scene, |work, other, _| own * work + others * other);
}

/// Each difference to the king is dropped with the probability `share`, the rest made larger.
fn drop_out(model: &mut Model, scene: &mut Scene<'_>, share: f64) {
    let by = (1.0 / (1.0 - share)) as f32;
    combine(model, scene, |work, _, dice| if dice.unit() < share { 0.0 } else { by * work });
}

/// King + what `change` makes of the source's and another's work.
fn combine(model: &mut Model, scene: &mut Scene<'_>, change: impl Fn(f32, f32, &mut Dice) -> f32) {
    for (name, tensor) in &mut model.tensors {
        let (king, other) = (&scene.king.tensors[name].values, &scene.other.tensors[name].values);
        for ((value, king), other) in tensor.values.iter_mut().zip(king).zip(other) {
            *value = king + change(*value - king, other - king, &mut scene.dice);
        }
    }
}
