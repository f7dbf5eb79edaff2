//! The network that a checkpoint is of: dimensions, and each tensor's part.

use albedo_core::checkpoint::Outline;
use albedo_core::pretrained::normal_config;
use albedo_core::{Error, ErrorKind, Result, Retry};
use serde::Deserialize;

const OPERATION: &str = "read the network's dimensions";

/// In radians: queries and keys of planes that turn less meet as if there were no positions,
/// so that such planes may be mixed with one another.
const SLOW_TURN: f64 = 0.1;

/// The tokens within which a plane turns: most prompts of a duel are shorter.
const SLOW_TOKENS: f64 = 2048.0;

/// Dimensions of a Qwen3 network, as `config.json` names them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Network {
    architectures: Vec<String>,
    #[serde(rename = "hidden_size")]
    pub(crate) hidden: usize,
    #[serde(rename = "num_hidden_layers")]
    pub(crate) layers: usize,
    #[serde(rename = "num_attention_heads")]
    pub(crate) heads: usize,
    #[serde(rename = "num_key_value_heads")]
    pub(crate) groups: usize,
    pub(crate) head_dim: usize,
    #[serde(rename = "intermediate_size")]
    pub(crate) neurons: usize,
    #[serde(rename = "vocab_size")]
    pub(crate) vocabulary: usize,
    #[serde(rename = "tie_word_embeddings", default)]
    pub(crate) tied: bool,
    #[serde(rename = "rope_parameters")]
    rotary: Rotary,
}

/// The rotary positions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Rotary {
    #[serde(rename = "rope_theta")]
    base: f64,
}

/// What a tensor is in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Embedding,
    Head,
    FinalNorm,
    AttentionNorm,
    FeedForwardNorm,
    QueryNorm,
    KeyNorm,
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// The tensors of a layer, below `model.layers.N.`.
const LAYER: [(Part, &str); 11] = [
    (Part::AttentionNorm, "input_layernorm.weight"),
    (Part::FeedForwardNorm, "post_attention_layernorm.weight"),
    (Part::QueryNorm, "self_attn.q_norm.weight"),
    (Part::KeyNorm, "self_attn.k_norm.weight"),
    (Part::Query, "self_attn.q_proj.weight"),
    (Part::Key, "self_attn.k_proj.weight"),
    (Part::Value, "self_attn.v_proj.weight"),
    (Part::Output, "self_attn.o_proj.weight"),
    (Part::Gate, "mlp.gate_proj.weight"),
    (Part::Up, "mlp.up_proj.weight"),
    (Part::Down, "mlp.down_proj.weight"),
];

impl Network {
    /// The network that `model`'s `config.json` describes.
    ///
    /// # Errors
    /// No such file; another architecture; dimensions that fit no network.
    pub(crate) fn of(model: &Outline) -> Result<Self> {
        let Some(config) = model.config() else {
            return Err(Error::new(
                ErrorKind::NotFound,
                OPERATION,
                "there is no config.json of a usual size",
            )
            .with_retry(Retry::Backoff)
            .with_hint("complete the download of the model"));
        };
        let unreadable = |error: serde_json::Error| {
            Error::new(ErrorKind::DataInvalid, OPERATION, error.to_string())
                .with("file", "config.json")
                .with_source(error)
        };
        let config = normal_config(serde_json::from_slice(config).map_err(unreadable)?)?;
        let network: Self = serde_json::from_value(config.into()).map_err(unreadable)?;
        network.check()?;
        Ok(network)
    }

    fn check(&self) -> Result<()> {
        if self.architectures != ["Qwen3ForCausalLM"] {
            return Err(Error::new(
                ErrorKind::Unsupported,
                OPERATION,
                format!("the architecture is {:?}, lineage reads Qwen3ForCausalLM", self.architectures),
            ));
        }
        let dimensions =
            [self.hidden, self.layers, self.heads, self.groups, self.head_dim, self.neurons, self.vocabulary];
        let fits = dimensions.iter().all(|&dimension| (1..=1 << 20).contains(&dimension))
            && self.layers <= 1 << 10
            && self.heads.is_multiple_of(self.groups)
            && self.head_dim.is_multiple_of(2)
            && self.head_dim <= 1 << 10
            && self.heads <= 1 << 10;
        if fits {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::DataInvalid,
            OPERATION,
            format!("the dimensions {dimensions:?} fit no network"),
        ))
    }

    /// The names of the tensors with their layer (0 for what is in none).
    pub(crate) fn tensors(&self) -> Vec<(String, usize, Part)> {
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), 0, Part::Embedding),
            ("model.norm.weight".to_owned(), 0, Part::FinalNorm),
        ];
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), 0, Part::Head));
        }
        for layer in 0..self.layers {
            tensors.extend(LAYER.map(|(part, name)| (format!("model.layers.{layer}.{name}"), layer, part)));
        }
        tensors
    }

    /// The first rotary plane of those that hardly turn: less than [`SLOW_TURN`] within
    /// [`SLOW_TOKENS`]. Plane `p` turns by `base^(−2p/d)` per token.
    pub(crate) fn first_slow_plane(&self) -> usize {
        let planes = self.head_dim / 2;
        let turn = |plane: usize| {
            let exponent = -2.0 * plane as f64 / self.head_dim as f64;
            SLOW_TOKENS * self.rotary.base.powf(exponent)
        };
        (0..planes).find(|&plane| turn(plane) < SLOW_TURN).unwrap_or(planes)
    }

    /// Rows and columns of `part`; vectors have one row.
    pub(crate) fn shape(&self, part: Part) -> [usize; 2] {
        let (queries, keys) = (self.heads * self.head_dim, self.groups * self.head_dim);
        match part {
            Part::Embedding | Part::Head => [self.vocabulary, self.hidden],
            Part::FinalNorm | Part::AttentionNorm | Part::FeedForwardNorm => [1, self.hidden],
            Part::QueryNorm | Part::KeyNorm => [1, self.head_dim],
            Part::Query => [queries, self.hidden],
            Part::Key | Part::Value => [keys, self.hidden],
            Part::Output => [self.hidden, queries],
            Part::Gate | Part::Up => [self.neurons, self.hidden],
            Part::Down => [self.hidden, self.neurons],
        }
    }

    /// Checks that `model` has every tensor in its shape.
    ///
    /// # Errors
    /// The first that is missing or of another shape.
    pub(crate) fn check_tensors(&self, model: &Outline) -> Result<()> {
        let found: std::collections::BTreeMap<_, _> = model.tensors().collect();
        for (name, _, part) in self.tensors() {
            let Some(info) = found.get(name.as_str()) else { return Err(model.missing(&name)) };
            let [rows, columns] = self.shape(part).map(|size| size as u64);
            let fits = info.shape == [rows, columns] || (rows == 1 && info.shape == [columns]);
            if !fits {
                return Err(Error::new(
                    ErrorKind::DataInvalid,
                    OPERATION,
                    format!("the shape is {:?}, config.json says {rows} × {columns}", info.shape),
                )
                .with("tensor", name));
            }
        }
        Ok(())
    }
}
