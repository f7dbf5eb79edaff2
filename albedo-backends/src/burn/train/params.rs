//! The parameters of a student: `f32` values by the names of their files, and adapters
//! beside them.

use std::path::Path;

use albedo_core::rng::philox4x32;
use albedo_core::{CallContext, Error, Result};
use burn::tensor::Device;
use rayon::prelude::*;

use super::decoder::Decoder;
use super::kernels::add;
use super::matrix::{Values, product, product_at, product_bt, tensor};
use super::settings::Lora;
use crate::burn::config::Qwen3Config;
use crate::burn::weights::WeightFiles;

/// Parameters of a layer, in this order.
pub(super) const LAYER: [&str; 11] = [
    "input_layernorm",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "post_attention_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// What a parameter is, which decides who changes it and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The embedding table, or a head of its own.
    Table,
    /// The gain of a norm.
    Gain,
    /// A matrix of a layer.
    Matrix,
}

/// A parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Param {
    /// As in the model's files.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Rows and columns; one row of a gain.
    pub(super) shape: [usize; 2],
    pub(super) values: Vec<f32>,
}

/// A model's parameters: the table; of each layer those of [`LAYER`]; the last norm; a
/// head, if it is not the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Params {
    pub(super) list: Vec<Param>,
    /// Two thin matrices for each matrix of `list`, in their order, if only those are
    /// trained.
    pub(super) adapters: Option<Adapters>,
}

/// `weight + scale · b · a`, with `a` of `[rank, in]` and `b` of `[out, rank]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Adapters {
    scale: f32,
    /// `a` and `b` by turns.
    pub(super) list: Vec<Param>,
}

/// Where the table is.
pub(super) const TABLE: usize = 0;

/// What the head is called. The files of a model whose head is its table can have it, too.
pub(super) const HEAD: &str = "lm_head.weight";

/// Where parameter `which` of layer `layer` is, as [`LAYER`] counts.
pub(super) fn at(layer: usize, which: usize) -> usize {
    1 + layer * LAYER.len() + which
}

/// Where the last norm is.
pub(super) fn last_norm(config: &Qwen3Config) -> usize {
    at(config.num_hidden_layers, 0)
}

/// Where the head is.
pub(super) fn head(config: &Qwen3Config) -> usize {
    if config.tie_word_embeddings { TABLE } else { last_norm(config) + 1 }
}

impl Params {
    /// Reads the model in `folder`.
    ///
    /// # Errors
    /// Whatever reading its weights meets.
    pub(super) fn load(folder: &Path, config: &Qwen3Config) -> Result<Self> {
        let cx = CallContext::new();
        let files = WeightFiles::open(folder)?;
        let mut weights = files.weights(&cx)?;
        let mut taken = Vec::new();
        for (name, kind, shape) in layout(config) {
            let dims = if kind == Kind::Gain { &shape[1..] } else { &shape[..] };
            let tensor = weights.take(&name, dims)?;
            taken.push((name, kind, shape, tensor));
        }
        let repeated = if config.tie_word_embeddings && weights.contains(HEAD) {
            Some(weights.take(HEAD, &[config.vocab_size, config.hidden_size])?)
        } else {
            None
        };
        let weights = weights.finish()?;
        if let (Some(head), Some((_, _, _, table))) = (&repeated, taken.first()) {
            weights.require_equal(table, head)?;
        }
        let list = taken
            .into_iter()
            .map(|(name, kind, shape, tensor)| {
                Ok(Param { name, kind, shape, values: weights.read(&tensor)? })
            })
            .collect::<Result<_>>()?;
        Ok(Self { list, adapters: None })
    }

    /// Puts adapters beside all matrices; the model stays as it is, since `b` is 0.
    pub(super) fn adapt(&mut self, lora: Lora, seed: u64) {
        let rank = lora.rank;
        let mut list = Vec::new();
        for param in self.list.iter().filter(|param| param.kind == Kind::Matrix) {
            let [outputs, inputs] = param.shape;
            // Source: peft draws `a` as PyTorch does a linear layer's weight, uniformly
            // within the root of 1 / inputs.
            let bound = 1.0 / (inputs as f64).sqrt();
            let stream = list.len() as u32;
            let values = (0..(rank * inputs) as u32)
                .map(|index| {
                    let bits = philox4x32([seed as u32, (seed >> 32) as u32], [index, stream, 0, 0]);
                    let unit = f64::from(bits[0]) / f64::from(u32::MAX);
                    (bound * (2.0 * unit - 1.0)) as f32
                })
                .collect();
            let named = |what: &str, shape: [usize; 2], values| Param {
                name: format!("{}.{what}", param.name),
                kind: Kind::Matrix,
                shape,
                values,
            };
            list.push(named("lora_a", [rank, inputs], values));
            list.push(named("lora_b", [outputs, rank], vec![0.0; outputs * rank]));
        }
        let scale = (lora.alpha / rank as f64) as f32;
        self.adapters = Some(Adapters { scale, list });
    }

    /// The parameters that are trained.
    pub(super) fn trained(&self) -> &[Param] {
        self.adapters.as_ref().map_or(&self.list, |adapters| &adapters.list)
    }

    /// The parameters that are trained.
    pub(super) fn trained_mut(&mut self) -> &mut [Param] {
        match &mut self.adapters {
            Some(adapters) => &mut adapters.list,
            None => &mut self.list,
        }
    }

    /// The model's parameters with adapters merged.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn merged(&self, device: &Device) -> Result<Vec<Param>> {
        let mut list = self.list.clone();
        let Some(Adapters { scale, list: adapters, .. }) = &self.adapters else { return Ok(list) };
        let matrices = list.iter_mut().filter(|param| param.kind == Kind::Matrix);
        for (param, pair) in matrices.zip(adapters.chunks_exact(2)) {
            let [a, b] = matrices_of(pair, device)?;
            let change = Values::of(product(&b, &a))?;
            for (value, change) in param.values.iter_mut().zip(change.iter()) {
                *value += scale * change;
            }
        }
        Ok(list)
    }

    /// The model as it is computed.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn decoder(&self, config: &Qwen3Config, device: &Device) -> Result<Decoder> {
        match self.adapters {
            None => Ok(Decoder::new(config, &self.list, device)),
            Some(_) => Ok(Decoder::new(config, &self.merged(device)?, device)),
        }
    }

    /// What the gradients of the model's parameters mean for those that are trained.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn project(&self, gradients: Gradients, device: &Device) -> Result<Gradients> {
        let Some(Adapters { scale, list: adapters, .. }) = &self.adapters else { return Ok(gradients) };
        let matrices = self.list.iter().zip(gradients).filter(|(param, _)| param.kind == Kind::Matrix);
        let mut projected = Vec::with_capacity(adapters.len());
        for ((param, gradient), pair) in matrices.zip(adapters.chunks_exact(2)) {
            let [a, b] = matrices_of(pair, device)?;
            let gradient = tensor(gradient, param.shape[1], device);
            for product in [product_at(&b, &gradient), product_bt(&gradient, &a)] {
                projected.push(Values::of(product)?.iter().map(|value| scale * value).collect());
            }
        }
        Ok(projected)
    }

    /// Whether every trained value is finite.
    pub(super) fn is_finite(&self) -> bool {
        self.trained().par_iter().all(|param| param.values.iter().all(|value| value.is_finite()))
    }
}

fn matrices_of(pair: &[Param], device: &Device) -> Result<[Tensor; 2]> {
    match pair {
        [a, b] => Ok([a, b].map(|param| tensor(param.values.clone(), param.shape[1], device))),
        _ => Err(Error::bug(super::OPERATION, "an adapter is two matrices")),
    }
}

type Tensor = burn::tensor::Tensor<2>;

/// Names, kinds and shapes of a model's parameters.
pub(super) fn layout(config: &Qwen3Config) -> Vec<(String, Kind, [usize; 2])> {
    let (hidden, inter, dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (q, kv) = (config.query_width(), config.kv_width());
    let shapes = [
        [1, hidden],
        [1, dim],
        [1, dim],
        [1, hidden],
        [q, hidden],
        [kv, hidden],
        [kv, hidden],
        [hidden, q],
        [inter, hidden],
        [inter, hidden],
        [hidden, inter],
    ];
    let table = [config.vocab_size, hidden];
    let mut list = vec![("model.embed_tokens.weight".to_owned(), Kind::Table, table)];
    for layer in 0..config.num_hidden_layers {
        for (name, shape) in LAYER.iter().zip(shapes) {
            let kind = if name.ends_with("norm") { Kind::Gain } else { Kind::Matrix };
            list.push((format!("model.layers.{layer}.{name}.weight"), kind, shape));
        }
    }
    list.push(("model.norm.weight".to_owned(), Kind::Gain, [1, hidden]));
    if !config.tie_word_embeddings {
        list.push((HEAD.to_owned(), Kind::Table, table));
    }
    list
}

/// What a loss means for each parameter, in their order.
pub(super) type Gradients = Vec<Vec<f32>>;

/// No gradient yet.
pub(super) fn zeros(params: &[Param]) -> Gradients {
    params.iter().map(|param| vec![0.0; param.values.len()]).collect()
}

/// Adds `values`, which are those of several parameters joined, to their gradients.
pub(super) fn add_joined(gradients: &mut [Vec<f32>], mut values: &[f32]) {
    for gradient in gradients {
        let (own, rest) = values.split_at(gradient.len().min(values.len()));
        add(gradient, own);
        values = rest;
    }
}
