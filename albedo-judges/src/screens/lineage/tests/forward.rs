//! Qwen3's forward pass as it is written, in `f64`: what a disguise must keep.

use super::disguise::Model;

/// The logits after the last of `tokens`.
pub(super) fn logits(model: &Model, tokens: &[usize]) -> Vec<f64> {
    let (heads, groups, d) =
        (model.size("num_attention_heads"), model.size("num_key_value_heads"), model.size("head_dim"));
    let get = |name: &str| &model.tensors[name];
    let rows = |name: &str, x: &[f64]| -> Vec<f64> {
        get(name)
            .values
            .chunks_exact(x.len())
            .map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum())
            .collect()
    };
    let norm = |gains: &[f32], x: &[f64]| -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let by = 1.0 / (mean + 1e-12).sqrt();
        x.iter().zip(gains).map(|(x, gain)| x * by * f64::from(*gain)).collect()
    };
    let turn = |x: &[f64], position: usize| -> Vec<f64> {
        let mut turned = vec![0.0; d];
        for plane in 0..d / 2 {
            let angle = position as f64 / 10_000_f64.powf(2.0 * plane as f64 / d as f64);
            let (a, b) = (x[plane], x[plane + d / 2]);
            turned[plane] = a * angle.cos() - b * angle.sin();
            turned[plane + d / 2] = b * angle.cos() + a * angle.sin();
        }
        turned
    };
    let embedding = get("model.embed_tokens.weight");
    let width = embedding.columns();
    let mut stream: Vec<Vec<f64>> = tokens
        .iter()
        .map(|&token| {
            embedding.values[token * width..][..width].iter().map(|&value| f64::from(value)).collect()
        })
        .collect();
    for layer in 0..model.size("num_hidden_layers") {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let mut keys: Vec<Vec<f64>> = Vec::new();
        let mut values: Vec<Vec<f64>> = Vec::new();
        for (position, x) in stream.iter_mut().enumerate() {
            let read = norm(&get(&name("input_layernorm")).values, x);
            let heads_of = |part: &str, gains: &str| -> Vec<f64> {
                rows(&name(part), &read)
                    .chunks_exact(d)
                    .flat_map(|head| turn(&norm(&get(&name(gains)).values, head), position))
                    .collect()
            };
            let query = heads_of("self_attn.q_proj", "self_attn.q_norm");
            keys.push(heads_of("self_attn.k_proj", "self_attn.k_norm"));
            values.push(rows(&name("self_attn.v_proj"), &read));
            let mut attended = vec![0.0; heads * d];
            for head in 0..heads {
                let group = head / (heads / groups);
                let part = |all: &Vec<f64>, at: usize| all[at * d..(at + 1) * d].to_vec();
                let own = part(&query, head);
                let scores: Vec<f64> = keys
                    .iter()
                    .map(|key| {
                        own.iter().zip(part(key, group)).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt()
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for (weight, value) in weights.iter().zip(&values) {
                    for (out, value) in attended[head * d..].iter_mut().zip(part(value, group)) {
                        *out += weight / sum * value;
                    }
                }
            }
            let written = rows(&name("self_attn.o_proj"), &attended);
            x.iter_mut().zip(written).for_each(|(x, written)| *x += written);
            let read = norm(&get(&name("post_attention_layernorm")).values, x);
            let gates = rows(&name("mlp.gate_proj"), &read);
            let ups = rows(&name("mlp.up_proj"), &read);
            let inner: Vec<f64> =
                gates.iter().zip(ups).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            let written = rows(&name("mlp.down_proj"), &inner);
            x.iter_mut().zip(written).for_each(|(x, written)| *x += written);
        }
    }
    let last = stream.last().map(|x| norm(&get("model.norm.weight").values, x)).unwrap_or_default();
    rows("model.embed_tokens.weight", &last)
}
