//! The Qwen3 dense decoder, written once for every device.

use std::fmt::Debug;

use albedo_core::Result;

use super::config::Qwen3Config;
use super::ops::{Ops, Segment};
use super::weights::Weights;

/// Rows of a prompt that go through the layers together: enough for the
/// products to be fast, few enough that activations stay small. Cuts are at
/// multiples of it, so they depend on the prompt alone.
const PREFILL_ROWS: usize = 512;

/// A loaded model.
#[derive(Debug)]
pub(super) struct Qwen3<O: Ops> {
    ops: O,
    /// `[vocabulary, hidden]`.
    embedding: O::Matrix,
    layers: Vec<Layer<O>>,
    norm: O::Vector,
    /// `[hidden, vocabulary]`; of a tied model, the embedding turned round.
    head: O::Matrix,
    vocab_size: usize,
}

#[derive(Debug)]
struct Layer<O: Ops> {
    input_norm: O::Vector,
    /// `[hidden, q | k | v]`.
    qkv: O::Matrix,
    q_norm: O::Vector,
    k_norm: O::Vector,
    /// `[q, hidden]`.
    output: O::Matrix,
    mlp_norm: O::Vector,
    /// `[hidden, gate | up]`.
    gate_up: O::Matrix,
    /// `[intermediate, hidden]`.
    down: O::Matrix,
}

impl<O: Ops> Qwen3<O> {
    /// Takes every tensor of `weights`, checks it and puts it on the device of
    /// `ops`.
    ///
    /// # Errors
    /// A tensor that is missing, left over, of another shape or not finite;
    /// whatever `weights` meets, cancellation among it.
    pub(super) fn load(ops: O, config: &Qwen3Config, mut weights: Weights<'_>) -> Result<Self> {
        let (hidden, inter) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.query_width(), config.kv_width());
        const TABLE: &str = "model.embed_tokens.weight";
        const HEAD: &str = "lm_head.weight";
        let vocab = config.vocab_size;

        // Names and shapes first: cheap, and the commonest mistakes.
        let table = weights.take(TABLE, &[vocab, hidden])?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut take = |name: &str, shape: &[usize]| {
                weights.take(&format!("model.layers.{layer}.{name}.weight"), shape)
            };
            layers.push((
                [
                    take("input_layernorm", &[hidden])?,
                    take("self_attn.q_norm", &[config.head_dim])?,
                    take("self_attn.k_norm", &[config.head_dim])?,
                    take("post_attention_layernorm", &[hidden])?,
                ],
                [
                    take("self_attn.q_proj", &[q, hidden])?,
                    take("self_attn.k_proj", &[kv, hidden])?,
                    take("self_attn.v_proj", &[kv, hidden])?,
                ],
                take("self_attn.o_proj", &[hidden, q])?,
                [take("mlp.gate_proj", &[inter, hidden])?, take("mlp.up_proj", &[inter, hidden])?],
                take("mlp.down_proj", &[hidden, inter])?,
            ));
        }
        let norm = weights.take("model.norm.weight", &[hidden])?;
        let head = match config.tie_word_embeddings {
            false => Some(weights.take(HEAD, &[vocab, hidden])?),
            true if weights.contains(HEAD) => Some(weights.take(HEAD, &[vocab, hidden])?),
            true => None,
        };
        let weights = weights.finish()?;

        if let (true, Some(head)) = (config.tie_word_embeddings, &head) {
            weights.require_equal(&table, head)?;
        }
        let layers = layers
            .into_iter()
            .map(|([input_norm, q_norm, k_norm, mlp_norm], qkv, output, gate_up, down)| {
                Ok(Layer {
                    input_norm: ops.vector(weights.read(&input_norm)?),
                    qkv: ops.matrix(weights.read_transposed(&qkv)?, [hidden, q + 2 * kv]),
                    q_norm: ops.vector(weights.read(&q_norm)?),
                    k_norm: ops.vector(weights.read(&k_norm)?),
                    output: ops.matrix(weights.read_transposed(&[output])?, [q, hidden]),
                    mlp_norm: ops.vector(weights.read(&mlp_norm)?),
                    gate_up: ops.matrix(weights.read_transposed(&gate_up)?, [hidden, 2 * inter]),
                    down: ops.matrix(weights.read_transposed(&[down])?, [inter, hidden]),
                })
            })
            .collect::<Result<_>>()?;
        let embedding = ops.matrix(weights.read(&table)?, [vocab, hidden]);
        let head = weights.read_transposed(&[head.unwrap_or(table)])?;
        Ok(Self {
            embedding,
            layers,
            norm: ops.vector(weights.read(&norm)?),
            head: ops.matrix(head, [hidden, vocab]),
            vocab_size: vocab,
            ops,
        })
    }

    /// Number of logits.
    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// A cache for one sequence.
    pub(super) fn cache(&self) -> O::Cache {
        self.ops.cache()
    }

    /// Reads a prompt (at least one id, each below the vocabulary's size) into
    /// an empty cache and returns the logits of the token after it.
    ///
    /// # Errors
    /// Memory; a lost device; whatever `go_on`, asked before every chunk, answers.
    pub(super) fn prefill(
        &self,
        ids: &[u32],
        cache: &mut O::Cache,
        go_on: impl Fn() -> Result<()>,
    ) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        let mut start = 0;
        for chunk in ids.chunks(PREFILL_ROWS) {
            go_on()?;
            let end = start + chunk.len();
            logits = self.prefill_chunk(chunk, cache, start, end == ids.len())?;
            start = end;
        }
        Ok(logits)
    }

    /// The logits after the last row if this is the last chunk, else nothing.
    fn prefill_chunk(&self, ids: &[u32], cache: &mut O::Cache, start: usize, last: bool) -> Result<Vec<f32>> {
        let ops = &self.ops;
        let mut segments = [Segment { cache, start, rows: ids.len() }];
        let positions = ops.positions(&segments);
        let mut residual = ops.embed(&self.embedding, ids)?;
        let mut normed = ops.rms_norm(&residual, self.gain_before(0));
        let mut first = start;
        for (index, layer) in self.layers.iter().enumerate() {
            let mut queries = self.queries(index, normed, &positions, &mut segments)?;
            if index + 1 == self.layers.len() {
                // Of the last layer only keys, values and the last row are needed.
                if !last {
                    return Ok(Vec::new());
                }
                queries = ops.last_row(&queries);
                residual = ops.last_row(&residual);
                first = start + ids.len() - 1;
            }
            let mixed = ops.attend_prefill(&queries, index, segments[0].cache, first)?;
            normed = self.mix(layer, mixed, &mut residual, self.gain_before(index + 1))?;
        }
        ops.lm_head(normed, &self.head)
    }

    /// Adds tokens (each below the vocabulary's size) to the sequences of
    /// `segments`, and returns the logits after each: `[rows, vocabulary]`.
    ///
    /// # Errors
    /// Memory; a lost device.
    pub(super) fn extend(&self, ids: &[u32], segments: &mut [Segment<'_, O::Cache>]) -> Result<Vec<f32>> {
        let ops = &self.ops;
        let positions = ops.positions(segments);
        let mut residual = ops.embed(&self.embedding, ids)?;
        let mut normed = ops.rms_norm(&residual, self.gain_before(0));
        for (index, layer) in self.layers.iter().enumerate() {
            let queries = self.queries(index, normed, &positions, segments)?;
            let mixed = ops.attend_decode(&queries, index, segments);
            normed = self.mix(layer, mixed, &mut residual, self.gain_before(index + 1))?;
        }
        ops.lm_head(normed, &self.head)
    }

    /// The norm before layer `index`; after the last layer, before the head.
    fn gain_before(&self, index: usize) -> &O::Vector {
        self.layers.get(index).map_or(&self.norm, |layer| &layer.input_norm)
    }

    fn queries(
        &self,
        index: usize,
        normed: O::Rows,
        positions: &O::Positions,
        segments: &mut [Segment<'_, O::Cache>],
    ) -> Result<O::Rows> {
        let layer = &self.layers[index];
        let qkv = self.ops.linear(normed, &layer.qkv)?;
        self.ops.qk_norm_rope_write_kv(&qkv, [&layer.q_norm, &layer.k_norm], index, positions, segments)
    }

    /// What follows attention in a layer; returns the norm by `gain` of the
    /// new residual.
    fn mix(
        &self,
        layer: &Layer<O>,
        mixed: O::Rows,
        residual: &mut O::Rows,
        gain: &O::Vector,
    ) -> Result<O::Rows> {
        let ops = &self.ops;
        let mixed = ops.linear(mixed, &layer.output)?;
        let normed = ops.add_norm(residual, &mixed, &layer.mlp_norm);
        let activated = ops.silu_mul(&ops.linear(normed, &layer.gate_up)?);
        let output = ops.linear(activated, &layer.down)?;
        Ok(ops.add_norm(residual, &output, gain))
    }
}
