//! Qwen3's forward and backward pass in `f32`, as they are written, over one sequence.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::disguise::Model;

/// Gradients by tensor.
pub(crate) type Gradients = BTreeMap<String, Vec<f32>>;

/// The dimensions of a network.
#[derive(Debug, Clone, Copy)]
struct Size {
    hidden: usize,
    layers: usize,
    heads: usize,
    groups: usize,
    d: usize,
    neurons: usize,
    base: f32,
}

/// What the backward pass needs of a layer.
struct Layer {
    x: Vec<f32>,
    read: Vec<f32>,
    raw: [Vec<f32>; 2],
    turned: [Vec<f32>; 2],
    values: Vec<f32>,
    /// Attention of each head: tokens × tokens.
    attention: Vec<Vec<f32>>,
    context: Vec<f32>,
    middle: Vec<f32>,
    second: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

/// A forward pass.
struct Pass {
    layers: Vec<Layer>,
    last: Vec<f32>,
    read: Vec<f32>,
}

const EPSILON: f32 = 1e-6;

impl Size {
    fn of(model: &Model) -> Self {
        let base = model.config["rope_theta"].as_f64().unwrap_or(10_000.0) as f32;
        Self {
            hidden: model.size("hidden_size"),
            layers: model.size("num_hidden_layers"),
            heads: model.size("num_attention_heads"),
            groups: model.size("num_key_value_heads"),
            d: model.size("head_dim"),
            neurons: model.size("intermediate_size"),
            base,
        }
    }
}

fn weights<'a>(model: &'a Model, layer: usize, part: &str) -> &'a [f32] {
    &model.tensors[&name(layer, part)].values
}

fn name(layer: usize, part: &str) -> String {
    format!("model.layers.{layer}.{part}.weight")
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const LAST: &str = "model.norm.weight";

/// The log-probability of each of `tokens` from the place `from` on, given those before it.
pub(crate) fn log_probs(model: &Model, tokens: &[usize], from: usize) -> Vec<f32> {
    let size = Size::of(model);
    let pass = forward(model, size, tokens);
    let head = &model.tensors.get("lm_head.weight").unwrap_or(&model.tensors[EMBEDDING]).values;
    let read = &pass.read[(from - 1) * size.hidden..(tokens.len() - 1) * size.hidden];
    let logits = product(read, head, size.hidden);
    let width = head.len() / size.hidden;
    let score = |(row, &token): (&[f32], &usize)| row[token] - log_sum(row);
    logits.chunks_exact(width).zip(&tokens[from..]).map(score).collect()
}

/// Reads one token after another, and keeps keys and values of those before.
pub(crate) struct Reading<'a> {
    model: &'a Model,
    size: Size,
    /// Of each layer: turned keys and values.
    kept: Vec<[Vec<f32>; 2]>,
    position: usize,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(model: &'a Model) -> Self {
        let size = Size::of(model);
        Self { model, size, kept: vec![[Vec::new(), Vec::new()]; size.layers], position: 0 }
    }

    /// The logits after `token`.
    pub(crate) fn next(&mut self, token: usize) -> Vec<f32> {
        let Size { hidden, heads, groups, d, neurons, .. } = self.size;
        let mut x = self.model.tensors[EMBEDDING].values[token * hidden..][..hidden].to_vec();
        for (index, [keys, values]) in self.kept.iter_mut().enumerate() {
            let part = |part: &str| weights(self.model, index, part);
            let read = normed(&x, part("input_layernorm"));
            let turned = |name: &str, gains: &str, heads: usize| {
                let raw = product(&read, part(name), hidden);
                let mut rows = vec![0.0; self.position * heads * d];
                rows.extend(normed(&raw, part(gains)));
                // Positions count from the first row.
                turn(&mut rows, self.size, heads, 1.0);
                rows.split_off(self.position * heads * d)
            };
            let query = turned("self_attn.q_proj", "self_attn.q_norm", heads);
            keys.extend(turned("self_attn.k_proj", "self_attn.k_norm", groups));
            values.extend(product(&read, part("self_attn.v_proj"), hidden));
            let mut context = vec![0.0; heads * d];
            for (head, out) in context.chunks_exact_mut(d).enumerate() {
                let group = head / (heads / groups);
                let place = |other: usize| (other * groups + group) * d;
                let scores: Vec<f32> = (0..=self.position)
                    .map(|other| {
                        inner(&query[head * d..][..d], &keys[place(other)..][..d]) / (d as f32).sqrt()
                    })
                    .collect();
                let sum = log_sum(&scores);
                for (other, score) in scores.iter().enumerate() {
                    add(out, &values[place(other)..][..d], (score - sum).exp());
                }
            }
            add(&mut x, &product(&context, part("self_attn.o_proj"), heads * d), 1.0);
            let read = normed(&x, part("post_attention_layernorm"));
            let (gate, up) =
                (product(&read, part("mlp.gate_proj"), hidden), product(&read, part("mlp.up_proj"), hidden));
            let inside: Vec<f32> =
                gate.iter().zip(&up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            add(&mut x, &product(&inside, part("mlp.down_proj"), neurons), 1.0);
        }
        self.position += 1;
        let head = &self.model.tensors.get("lm_head.weight").unwrap_or(&self.model.tensors[EMBEDDING]).values;
        product(&normed(&x, &self.model.tensors[LAST].values), head, hidden)
    }
}

fn log_sum(row: &[f32]) -> f32 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    most + row.iter().map(|value| (value - most).exp()).sum::<f32>().ln()
}

/// The mean loss over all tokens but the first, in nats, and its gradients. The head has to
/// be tied to the embedding.
pub(crate) fn gradients(model: &Model, tokens: &[usize]) -> (f64, Gradients) {
    let size = Size::of(model);
    let Size { hidden, .. } = size;
    let pass = forward(model, size, tokens);
    let embedding = &model.tensors[EMBEDDING].values;
    let count = tokens.len() - 1;
    let mut logits = product(&pass.read[..count * hidden], embedding, hidden);
    let width = embedding.len() / hidden;
    let mut loss = 0.0;
    for (row, &token) in logits.chunks_exact_mut(width).zip(&tokens[1..]) {
        let sum = log_sum(row);
        loss += f64::from(sum - row[token]);
        for value in row.iter_mut() {
            *value = (*value - sum).exp() / count as f32;
        }
        row[token] -= 1.0 / count as f32;
    }
    let mut gradients = Gradients::new();
    let mut to_embedding = transposed(&logits, width, &pass.read[..count * hidden], hidden);
    let mut d_read = back(&logits, embedding, width, hidden);
    d_read.resize(tokens.len() * hidden, 0.0);
    let (mut dx, d_gain) = norm_back(&pass.last, &model.tensors[LAST].values, &d_read);
    gradients.insert(LAST.into(), d_gain);
    for (index, layer) in pass.layers.iter().enumerate().rev() {
        dx = layer_back(model, size, index, layer, dx, &mut gradients);
    }
    for (row, &token) in dx.chunks_exact(hidden).zip(tokens) {
        to_embedding[token * hidden..][..hidden].iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    gradients.insert(EMBEDDING.into(), to_embedding);
    (loss / count as f64, gradients)
}

fn forward(model: &Model, size: Size, tokens: &[usize]) -> Pass {
    let Size { hidden, heads, groups, d, .. } = size;
    let embedding = &model.tensors[EMBEDDING].values;
    let mut x: Vec<f32> =
        tokens.iter().flat_map(|&token| &embedding[token * hidden..][..hidden]).copied().collect();
    let count = tokens.len();
    let mut layers = Vec::new();
    for index in 0..size.layers {
        let part = |part: &str| weights(model, index, part);
        let read = normed(&x, part("input_layernorm"));
        let raw = ["q_proj", "k_proj"].map(|name| product(&read, part(&format!("self_attn.{name}")), hidden));
        let values = product(&read, part("self_attn.v_proj"), hidden);
        let mut turned =
            [normed(&raw[0], part("self_attn.q_norm")), normed(&raw[1], part("self_attn.k_norm"))];
        turn(&mut turned[0], size, heads, 1.0);
        turn(&mut turned[1], size, groups, 1.0);
        let mut context = vec![0.0; count * heads * d];
        let attention: Vec<Vec<f32>> = (0..heads)
            .map(|head| {
                let group = head / (heads / groups);
                let mut rows = vec![0.0_f32; count * count];
                for at in 0..count {
                    let query = &turned[0][(at * heads + head) * d..][..d];
                    let row = &mut rows[at * count..][..=at];
                    for (other, score) in row.iter_mut().enumerate() {
                        let key = &turned[1][(other * groups + group) * d..][..d];
                        *score = inner(query, key) / (d as f32).sqrt();
                    }
                    let sum = log_sum(row);
                    for score in row.iter_mut() {
                        *score = (*score - sum).exp();
                    }
                    let out = &mut context[(at * heads + head) * d..][..d];
                    for (other, &weight) in row.iter().enumerate() {
                        add(out, &values[(other * groups + group) * d..][..d], weight);
                    }
                }
                rows
            })
            .collect();
        let mut middle = product(&context, part("self_attn.o_proj"), heads * d);
        add(&mut middle, &x, 1.0);
        let second = normed(&middle, part("post_attention_layernorm"));
        let gate = product(&second, part("mlp.gate_proj"), hidden);
        let up = product(&second, part("mlp.up_proj"), hidden);
        let inside: Vec<f32> =
            gate.iter().zip(&up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
        let mut out = product(&inside, part("mlp.down_proj"), size.neurons);
        add(&mut out, &middle, 1.0);
        let before = std::mem::replace(&mut x, out);
        layers.push(Layer {
            x: before,
            read,
            raw,
            turned,
            values,
            attention,
            context,
            middle,
            second,
            gate,
            up,
        });
    }
    let read = normed(&x, &model.tensors[LAST].values);
    Pass { layers, last: x, read }
}

/// The gradient of a layer's input, given that of its output.
fn layer_back(
    model: &Model,
    size: Size,
    index: usize,
    layer: &Layer,
    d_out: Vec<f32>,
    gradients: &mut Gradients,
) -> Vec<f32> {
    let Size { hidden, heads, groups, d, neurons, .. } = size;
    let part = |part: &str| weights(model, index, part);
    let count = layer.x.len() / hidden;
    let mut put = |part: &str, gradient: Vec<f32>| gradients.insert(name(index, part), gradient);

    let silu = |gate: f32| gate / (1.0 + (-gate).exp());
    let inside: Vec<f32> = layer.gate.iter().zip(&layer.up).map(|(&gate, up)| silu(gate) * up).collect();
    put("mlp.down_proj", transposed(&d_out, hidden, &inside, neurons));
    let d_inside = back(&d_out, part("mlp.down_proj"), hidden, neurons);
    let d_up: Vec<f32> = d_inside.iter().zip(&layer.gate).map(|(d, &gate)| d * silu(gate)).collect();
    let slope = |gate: f32| {
        let sigmoid = 1.0 / (1.0 + (-gate).exp());
        sigmoid * (1.0 + gate * (1.0 - sigmoid))
    };
    let gates = d_inside.iter().zip(&layer.up).zip(&layer.gate);
    let d_gate: Vec<f32> = gates.map(|((d, up), &gate)| d * up * slope(gate)).collect();
    put("mlp.up_proj", transposed(&d_up, neurons, &layer.second, hidden));
    put("mlp.gate_proj", transposed(&d_gate, neurons, &layer.second, hidden));
    let mut d_second = back(&d_up, part("mlp.up_proj"), neurons, hidden);
    add(&mut d_second, &back(&d_gate, part("mlp.gate_proj"), neurons, hidden), 1.0);
    let (d_norm, d_gain) = norm_back(&layer.middle, part("post_attention_layernorm"), &d_second);
    put("post_attention_layernorm", d_gain);
    let mut d_middle = d_out;
    add(&mut d_middle, &d_norm, 1.0);

    put("self_attn.o_proj", transposed(&d_middle, hidden, &layer.context, heads * d));
    let d_context = back(&d_middle, part("self_attn.o_proj"), hidden, heads * d);
    let [mut d_query, mut d_key] = [vec![0.0; count * heads * d], vec![0.0; count * groups * d]];
    let mut d_value = vec![0.0; count * groups * d];
    let scale = 1.0 / (d as f32).sqrt();
    for (head, attention) in layer.attention.iter().enumerate() {
        let group = head / (heads / groups);
        for at in 0..count {
            let own = (at * heads + head) * d;
            let d_out = &d_context[own..][..d];
            let row = &attention[at * count..][..=at];
            let place = |other: usize| (other * groups + group) * d;
            let d_row: Vec<f32> =
                (0..=at).map(|other| inner(d_out, &layer.values[place(other)..][..d])).collect();
            let mean: f32 = row.iter().zip(&d_row).map(|(weight, d)| weight * d).sum();
            for (other, (&weight, d_weight)) in row.iter().zip(&d_row).enumerate() {
                add(&mut d_value[place(other)..][..d], d_out, weight);
                let d_score = weight * (d_weight - mean) * scale;
                add(&mut d_query[own..][..d], &layer.turned[1][place(other)..][..d], d_score);
                add(&mut d_key[place(other)..][..d], &layer.turned[0][own..][..d], d_score);
            }
        }
    }
    turn(&mut d_query, size, heads, -1.0);
    turn(&mut d_key, size, groups, -1.0);
    let (d_query, d_gain) = norm_back(&layer.raw[0], part("self_attn.q_norm"), &d_query);
    put("self_attn.q_norm", d_gain);
    let (d_key, d_gain) = norm_back(&layer.raw[1], part("self_attn.k_norm"), &d_key);
    put("self_attn.k_norm", d_gain);
    let mut d_read = vec![0.0; count * hidden];
    for (part_name, gradient, rows) in [
        ("self_attn.q_proj", &d_query, heads * d),
        ("self_attn.k_proj", &d_key, groups * d),
        ("self_attn.v_proj", &d_value, groups * d),
    ] {
        put(part_name, transposed(gradient, rows, &layer.read, hidden));
        add(&mut d_read, &back(gradient, part(part_name), rows, hidden), 1.0);
    }
    let (d_norm, d_gain) = norm_back(&layer.x, part("input_layernorm"), &d_read);
    put("input_layernorm", d_gain);
    add(&mut d_middle, &d_norm, 1.0);
    d_middle
}

/// Rows of as many numbers as there are gains, each of norm √n, times the gains.
fn normed(x: &[f32], gains: &[f32]) -> Vec<f32> {
    let rows = x.chunks_exact(gains.len()).flat_map(|row| {
        let by = 1.0 / (inner(row, row) / gains.len() as f32 + EPSILON).sqrt();
        row.iter().zip(gains).map(move |(value, gain)| value * by * gain)
    });
    rows.collect()
}

fn norm_back(x: &[f32], gains: &[f32], d_out: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let n = gains.len() as f32;
    let (mut dx, mut d_gain) = (Vec::with_capacity(x.len()), vec![0.0; gains.len()]);
    for (row, d_out) in x.chunks_exact(gains.len()).zip(d_out.chunks_exact(gains.len())) {
        let by = 1.0 / (inner(row, row) / n + EPSILON).sqrt();
        let gained: Vec<f32> = d_out.iter().zip(gains).map(|(d, gain)| d * gain).collect();
        let along = inner(&gained, row) * by * by * by / n;
        dx.extend(gained.iter().zip(row).map(|(d, value)| by * d - along * value));
        let sums = d_gain.iter_mut().zip(d_out).zip(row);
        sums.for_each(|((sum, d), value)| *sum += d * value * by);
    }
    (dx, d_gain)
}

/// Turns rotary planes by their positions, or back.
fn turn(x: &mut [f32], size: Size, heads: usize, way: f32) {
    let d = size.d;
    let speeds: Vec<f32> = (0..d / 2).map(|plane| size.base.powf(-2.0 * plane as f32 / d as f32)).collect();
    for (position, row) in x.chunks_exact_mut(heads * d).enumerate() {
        let angles: Vec<(f32, f32)> =
            speeds.iter().map(|speed| (way * position as f32 * speed).sin_cos()).collect();
        for head in row.chunks_exact_mut(d) {
            for (plane, (sin, cos)) in angles.iter().enumerate() {
                let (a, b) = (head[plane], head[plane + d / 2]);
                (head[plane], head[plane + d / 2]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }
}

/// `x · weightsᵀ`, rows of `columns` numbers both.
fn product(x: &[f32], weights: &[f32], columns: usize) -> Vec<f32> {
    let rows = weights.len() / columns;
    let mut out = vec![0.0; x.len() / columns * rows];
    // Four tokens share each row of the weights while it is near.
    out.par_chunks_mut(4 * rows).zip(x.par_chunks(4 * columns)).for_each(|(out, x)| {
        for (at, weights) in weights.chunks_exact(columns).enumerate() {
            for (out, x) in out.chunks_exact_mut(rows).zip(x.chunks_exact(columns)) {
                out[at] = inner(x, weights);
            }
        }
    });
    out
}

/// `gradient · weights`: `rows` numbers per token become `columns`.
fn back(gradient: &[f32], weights: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; gradient.len() / rows * columns];
    out.par_chunks_exact_mut(columns).zip(gradient.par_chunks_exact(rows)).for_each(|(out, gradient)| {
        for (weights, &by) in weights.chunks_exact(columns).zip(gradient) {
            add(out, weights, by);
        }
    });
    out
}

/// `gradientᵀ · x`: the gradient of weights of `rows` × `columns`.
fn transposed(gradient: &[f32], rows: usize, x: &[f32], columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * columns];
    out.par_chunks_exact_mut(columns).enumerate().for_each(|(row, out)| {
        for (x, gradient) in x.chunks_exact(columns).zip(gradient.chunks_exact(rows)) {
            if gradient[row] != 0.0 {
                add(out, x, gradient[row]);
            }
        }
    });
    out
}

fn add(out: &mut [f32], values: &[f32], by: f32) {
    out.iter_mut().zip(values).for_each(|(sum, value)| *sum += by * value);
}

fn inner(one: &[f32], two: &[f32]) -> f32 {
    let (a, a_rest) = one.as_chunks::<16>();
    let (b, b_rest) = two.as_chunks::<16>();
    let mut sums = [0.0_f32; 16];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}
